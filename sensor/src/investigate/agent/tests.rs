//! Contracts: what is launched, word for word, and what recorded streams of the real programs say.
//!
//! - `told`: recorded streams
//! - `launched`: command lines, variables, files
//! - `anything`: whatever an event is, it is read

mod anything;
mod launched;
mod told;

use super::*;
use crate::config::Agent as Name;

const KEY: &str = "sk-0123456789";

const NAMES: [Name; 4] = [Name::Claude, Name::Codex, Name::Gemini, Name::Opencode];

/// A recorded stream, by its name and whose it is.
macro_rules! recorded {
    ($($name:ident $which:literal)*) => {
        &[$((Name::$name, $which, include_str!(concat!("streams/", $which, ".jsonl")))),*]
    };
}

const RECORDED: &[(Name, &str, &str)] = recorded! {
    Claude "claude-api-500"
    Claude "claude-bad-resume"
    Claude "claude-denied"
    Claude "claude-max-budget"
    Claude "claude-max-turns"
    Claude "claude-resume"
    Claude "claude-success"
    Claude "claude-tools"
    Codex "codex-after-kill"
    Codex "codex-resume"
    Codex "codex-success"
    Codex "codex-tools"
    Codex "codex-turn-failed"
    Gemini "gemini-api-401"
    Gemini "gemini-max-turns"
    Gemini "gemini-success"
    Gemini "gemini-tools"
    Opencode "opencode-api-401"
    Opencode "opencode-success"
    Opencode "opencode-tools"
};

fn agent(name: Name) -> Box<dyn Agent> {
    of(name).unwrap()
}

/// What a stream says, as supervision hears it.
fn said(name: Name, stream: &[u8]) -> Vec<Said> {
    let mut agent = agent(name);
    let events = stream
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok().filter(Value::is_object));
    events.flat_map(|event| agent.read(&event)).collect()
}

fn recorded(which: &str) -> Vec<Said> {
    let (name, _, stream) = RECORDED.iter().find(|(_, name, _)| *name == which).unwrap();
    said(*name, stream.as_bytes())
}

fn usage(input: u64, cached: u64, output: u64, micro_usd: impl Into<Option<u64>>) -> Usage {
    Usage { input, cached, output, micro_usd: micro_usd.into() }
}

fn session(name: &str) -> Said {
    Said::Session(name.to_owned())
}

fn tool(name: &str) -> Said {
    Said::Tool(name.to_owned())
}

fn prose(text: &str) -> Said {
    Said::Text(text.to_owned())
}

fn trouble(text: &str) -> Said {
    Said::Trouble(text.to_owned())
}

fn failed(why: &str) -> Said {
    Said::End(Err(why.to_owned()))
}

/// As Claude tells each of the recorded answers: 1,000 tokens read, and the first of those written.
fn answer() -> [Said; 2] {
    [Said::Turn, Said::Spent(usage(1000, 0, 1, None))]
}

fn all<const N: usize>(parts: [&[Said]; N]) -> Vec<Said> {
    parts.concat()
}
