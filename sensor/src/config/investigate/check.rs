//! What `[investigate]` may say.

use std::{collections::HashSet, path::Path};

use super::{Agent, Bounds, Cli, Command, Day, Investigate, Price, Usd};
use crate::config::{
    MIB,
    check::{Checked, absolute, few, name, not_above, problem, range},
    webhook,
};

/// Vendors have a dozen models each; more is a mistake.
const PRICES_MAX: usize = 64;

/// A model's name: the longest that vendors and gateways have are half as long.
const MODEL_MAX: usize = 128;

pub(in crate::config) fn check(investigate: &Investigate) -> Checked {
    range("investigate.max_per_hour", investigate.max_per_hour, 1..=1_000)?;
    // What was spent and when is known for a day.
    range("investigate.cooldown_s", investigate.cooldown_s, 0..=86_400)?;
    // Below that not even what happened fits; models take no more than that.
    range("investigate.window_tokens", investigate.window_tokens, 2_000..=1_000_000)?;
    command(&investigate.command)?;
    bounds(&investigate.run)?;
    // The window is the least that a model is given, and each of its answers is one more reading.
    not_above(
        ("investigate.window_tokens", investigate.window_tokens.into()),
        ("investigate.run.tokens", investigate.run.tokens),
    )?;
    day(&investigate.day, &investigate.run)?;
    for (agent, cli) in [
        ("claude", &investigate.claude),
        ("codex", &investigate.codex),
        ("gemini", &investigate.gemini),
        ("opencode", &investigate.opencode),
        ("api", &investigate.api),
    ] {
        self::cli(agent, cli)?;
    }
    prices(&investigate.prices)?;
    match investigate.agent {
        Agent::Command if investigate.command.program.is_empty() => problem(
            "investigate.agent",
            "\"command\" needs a program in [investigate.command]".into(),
        ),
        Agent::Api if investigate.api.model.is_empty() => {
            problem("investigate.agent", "\"api\" needs a model in [investigate.api]".into())
        }
        _ => Ok(()),
    }
}

fn command(command: &Command) -> Checked {
    few("investigate.command.program", command.program.len())?;
    if let Some(program) = command.program.first() {
        absolute("investigate.command.program", Path::new(program))?;
    }
    if command.program.iter().any(|argument| argument.contains('\0')) {
        return problem("investigate.command.program", "an argument contains a NUL".into());
    }
    range("investigate.command.deadline_s", command.deadline_s, 1..=86_400)?;
    let memory = (command.memory_min_bytes, command.memory_max_bytes);
    confined("investigate.command", &command.user, memory, command.pids_max)
}

/// Of whatever is started. `memory`: least and most, bytes.
fn confined(table: &str, user: &str, memory: (u64, u64), pids_max: u32) -> Checked {
    name(&format!("{table}.user"), user)?;
    if user == "root" {
        let what = "an investigation does not run as root: name somebody who owns nothing";
        return problem(&format!("{table}.user"), what.into());
    }
    // Below that hardly any interpreter starts.
    range(&format!("{table}.memory_max_bytes"), memory.1, 16 * MIB..=1 << 40)?;
    not_above((&format!("{table}.memory_min_bytes"), memory.0), ("memory_max_bytes", memory.1))?;
    range(&format!("{table}.pids_max"), pids_max, 1..=32_768)
}

fn bounds(run: &Bounds) -> Checked {
    let memory = (run.memory_min_bytes, run.memory_max_bytes);
    confined("investigate.run", &run.user, memory, run.pids_max)?;
    range("investigate.run.deadline_s", run.deadline_s, 1..=86_400)?;
    for (key, seconds) in [
        ("investigate.run.first_event_s", run.first_event_s),
        ("investigate.run.silence_s", run.silence_s),
        ("investigate.run.linger_s", run.linger_s),
    ] {
        range(key, seconds, 1..=86_400)?;
        // It would never be looked at.
        not_above((key, seconds), ("deadline_s", run.deadline_s))?;
    }
    range("investigate.run.turns", run.turns, 1..=10_000)?;
    // Without one nothing can be submitted.
    range("investigate.run.tool_calls", run.tool_calls, 1..=100_000)?;
    // No answer is below it; all that a vendor sells one customer in a day is above.
    range("investigate.run.tokens", run.tokens, 2_000..=1_000_000_000)?;
    // A cent is a short look of a cheap model.
    if !(Usd(10_000)..=Usd(1_000_000_000)).contains(&run.usd) {
        let what = format!("{} is not within 0.01 to 1000 US dollars", run.usd.dollars());
        return problem("investigate.run.usd", what);
    }
    // Each life is a bill of its own.
    range("investigate.run.resumes", run.resumes, 0..=10)
}

fn day(day: &Day, run: &Bounds) -> Checked {
    range("investigate.day.critical_percent", day.critical_percent, 0..=100)?;
    // 0: no bound.
    range("investigate.day.runs", day.runs, 0..=10_000)?;
    range("investigate.day.tokens", day.tokens, 0..=100_000_000_000)?;
    if day.tokens > 0 {
        not_above(("investigate.run.tokens", run.tokens), ("investigate.day.tokens", day.tokens))?;
    }
    if day.usd > Usd(0) && run.usd > day.usd {
        let (run, day) = (run.usd.dollars(), day.usd.dollars());
        let what = format!("{run} is above investigate.day.usd ({day})");
        return problem("investigate.run.usd", what);
    }
    Ok(())
}

fn cli(agent: &str, cli: &Cli) -> Checked {
    let key = |key: &str| format!("investigate.{agent}.{key}");
    for (name, path) in [("program", &cli.program), ("key_file", &cli.key_file)] {
        if !path.as_os_str().is_empty() {
            absolute(&key(name), path)?;
        }
    }
    if agent == "api" && !cli.program.as_os_str().is_empty() {
        return problem(&key("program"), "\"api\" starts no program: leave it out".into());
    }
    if !cli.model.is_empty() {
        model(&key("model"), &cli.model)?;
    }
    if cli.endpoint.is_empty() || webhook::is_private(&key("endpoint"), &cli.endpoint)? {
        return Ok(());
    }
    let what = "http shows everybody on the way the key and what runs here: use https";
    problem(&key("endpoint"), what.into())
}

/// It becomes an argument, a part of a path and a word in records.
fn model(key: &str, model: &str) -> Checked {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/@[]+".contains(&byte);
    let begins = model.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if begins && model.len() <= MODEL_MAX && model.bytes().all(legal) {
        return Ok(());
    }
    let what = format!(
        "{model:?} is no model: up to {MODEL_MAX} letters, digits and -._:/@[]+, the first a letter or digit"
    );
    problem(key, what)
}

fn prices(prices: &[Price]) -> Checked {
    if prices.len() > PRICES_MAX {
        let what = format!("{} are more than {PRICES_MAX}", prices.len());
        return problem("investigate.prices", what);
    }
    let mut known = HashSet::new();
    for (index, price) in prices.iter().enumerate() {
        let key = |key: &str| format!("investigate.prices[{index}].{key}");
        model(&key("model"), &price.model)?;
        if !known.insert(&price.model) {
            let what = format!("another is for {:?}, too", price.model);
            return problem(&key("model"), what);
        }
        let cached = price.cached_usd.unwrap_or_default();
        for (name, usd) in [
            ("input_usd", price.input_usd),
            ("output_usd", price.output_usd),
            ("cached_usd", cached),
        ] {
            // The dearest that was ever sold was 600.
            if usd > Usd(10_000_000_000) {
                let what = format!("{} is not within 0 to 10000 US dollars", usd.dollars());
                return problem(&key(name), what);
            }
        }
    }
    Ok(())
}
