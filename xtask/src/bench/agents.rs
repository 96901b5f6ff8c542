//! From an incident to the first thing that an agent has seen of it, for each agent that is installed: its
//! program in the page cache and not, beside busy ones, and short of memory. Its model answers at once.

use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Advice, fadvise};
use tests::{
    Cage, Limits, Sensor,
    agents::{self, Agent, good},
    run::until,
    watch::number,
    workloads::{script, stacks},
};

use super::{
    Effort,
    row::Row,
    stats::{bootstrap, median},
};

const AGENTS: [&str; 4] = ["claude", "codex", "gemini", "opencode"];

/// The slowest was seen to take 21 s; what takes longer is no row.
const LIMIT: Duration = Duration::from_mins(1);

/// Busy programs for each processor.
const BUSY: usize = 2;

/// Less than what most have of program and memory together, so that they read themselves again and again.
const SHORT_BYTES: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Warm,
    Cold,
    Busy,
    Short,
}

impl Host {
    const ALL: [Self; 4] = [Self::Warm, Self::Cold, Self::Busy, Self::Short];

    fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Busy => "warm, busy host",
            Self::Short => "cold, 256 MiB",
        }
    }

    /// Of a run's table.
    fn bounds(self) -> String {
        match self {
            Self::Short => format!("memory_min_bytes = 0\nmemory_max_bytes = {SHORT_BYTES}"),
            _ => String::new(),
        }
    }
}

/// Boot clock of the incident to that of a question to the model, s.
#[derive(Default)]
struct Times {
    /// The first: the agent is there.
    asks: Vec<f64>,
    /// The second, which brings what its first call of a tool gave.
    sees: Vec<f64>,
}

pub fn measure(binary: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    for name in AGENTS {
        let Some(program) = agents::find(name) else {
            eprintln!("xtask: no rows for {name}: it is not installed: cargo xtask setup");
            continue;
        };
        let mut times = Host::ALL.map(|_| Times::default());
        for _ in 0..effort.agents {
            for (host, times) in Host::ALL.into_iter().zip(&mut times) {
                let agent = Agent::new(name, &program, good())?;
                match run(binary, &agent, host) {
                    Ok((asks, sees)) => {
                        times.asks.push(asks);
                        times.sees.push(sees);
                    }
                    Err(error) => eprintln!("xtask: {name}, {}: {error:#}", host.name()),
                }
            }
        }
        for (host, Times { asks, sees }) in Host::ALL.into_iter().zip(&times) {
            // A median of those that got there would hide the others.
            if sees.len() < effort.agents as usize {
                let (of, host) = (effort.agents, host.name());
                eprintln!(
                    "xtask: no row for {name}, {host}: {} of {of} runs got there",
                    sees.len()
                );
                continue;
            }
            let row = |what: &str, times: &[f64]| {
                let name = format!("{name}: incident to {what}, {}", host.name());
                Row::new(&name, bootstrap(times, median), "s", None)
            };
            print(row("first question", asks));
            print(row("first tool call answered", sees));
        }
    }
    Ok(())
}

/// One incident of a daemon that has just come up: nothing is there from the run before.
fn run(binary: &Path, agent: &Agent, host: Host) -> Result<(f64, f64)> {
    let cage = Cage::new(Limits::default())?;
    let sensor = Sensor::start_binary(binary, &cage, &agent.config(agent.name, &host.bounds()))?;
    let mut watch = sensor.watch(0)?;
    let spinning = stacks::spinning()?;
    let busy = if host == Host::Busy { thread::available_parallelism()?.get() * BUSY } else { 0 };
    let _busy = (0..busy).map(|_| spinning.start(&cage)).collect::<Result<Vec<_>>>()?;
    if matches!(host, Host::Cold | Host::Short) {
        evict(&agents::directory())?;
    }
    let work = script::line(20)?;
    let _running = work.start(&cage)?;
    let opened = watch.find(LIMIT, |record| record["transition"]["to"] == "open")?.record;
    let opened = number(&opened["boot_ns"])?;
    if !until(LIMIT, || agent.model.asked().len() >= 2) {
        let asked = agent.model.asked().len();
        bail!("it has asked its model {asked} times in {} s", LIMIT.as_secs());
    }
    let asked = agent.model.asked();
    let seconds = |turn: usize| asked[turn].boot_ns.saturating_sub(opened) as f64 / 1e9;
    Ok((seconds(0), seconds(1)))
}

/// Takes all files below out of the page cache.
fn evict(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            evict(&entry.path())?;
        } else if kind.is_file() {
            let file = File::open(entry.path())?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
