//! What the threads of a few processes of a tree were doing.
//!
//! - `sample`: what runs, by a clock of perf
//! - `standing`: what waits or was stopped, as it stands
//! - `python`: an interpreter's own frames, from its memory
//! - `maps`, `kallsyms`: whose code an address is in
//! - `compiled`: how runtimes name the functions that they compile
//! - `look`, `names`, `frames`: a process is looked at, its addresses are named, stacks are made of them
//!
//! Names of functions come from executables, libraries and perf maps, which the culprit may have written:
//! core opens them, and [`super::parse`] reads them, in a process that may do nothing else. What may hang
//! (memory that is locked, a file server) is asked by a thread beside.

pub(crate) mod compiled;
mod frames;
mod kallsyms;
mod look;
pub(crate) mod maps;
mod names;
mod python;
mod remote;
pub(crate) mod sample;
pub(crate) mod standing;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use self::{
    frames::Frames,
    look::{Look, Seen, look},
    names::Names,
    sample::Samples,
};
use super::{Redactor, parse::Parser, proc::Proc};
use crate::{lineage::ProcessKey, present::text::count, proto};

/// How long running threads are sampled: 60 samples of each CPU.
const SAMPLED: Duration = Duration::from_millis(300);
/// Processes of a tree among which the busiest are looked for.
const TREE: usize = 16_384;
/// Processes whose state is asked to find out whether any of them runs.
const STATES: usize = 256;
/// Processes that are shown: those that ran most, the root, the youngest.
const BUSY: usize = 4;
const SHOWN: usize = 6;
/// Stacks of the living among `processes`, roots first; and secrets that were replaced.
pub(super) fn of(
    proc: &Proc,
    parser: &Parser,
    processes: &[ProcessKey],
    redactor: &Redactor,
) -> Option<(proto::Stacks, u32)> {
    let mut stacks = proto::Stacks::default();
    let samples = sampled(proc, &processes[..processes.len().min(TREE)], &mut stacks);
    let chosen = chosen(processes, &samples);
    stacks.omitted = (processes.len() - chosen.len()) as u32;
    let mut seen: Vec<Seen> = Vec::new();
    for key in chosen {
        match look(proc, key, &samples) {
            Look::Seen(one) => seen.push(*one),
            // Died meanwhile.
            Look::Gone => stacks.omitted += 1,
            Look::Hangs => {
                stacks.omitted += 1;
                let pid = key.tgid;
                stacks.notes.push(format!("process {pid} did not answer: its memory is locked"));
            }
        }
    }
    let names = Names::ask(proc, parser, &mut seen, &mut stacks.notes);
    let kernel = kallsyms::resolve(
        seen.iter().flat_map(|one| &one.chains).flat_map(|(chain, _)| chain.kernel.iter().copied()),
    );
    let mut frames = Frames::new(redactor, kernel, names);
    for one in &seen {
        let process = frames.process(one);
        stacks.samples_omitted -= process.stacks.iter().map(|it| it.samples).sum::<u32>();
        stacks.processes.push(process);
    }
    let known = !stacks.processes.is_empty() || !stacks.notes.is_empty();
    known.then_some((stacks, frames.redactions()))
}

fn sampled(proc: &Proc, processes: &[ProcessKey], stacks: &mut proto::Stacks) -> Samples {
    let state = |key: &ProcessKey| proc.open(*key).map(|opened| opened.stat.state);
    let runs = |key| state(key).is_some_and(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'));
    if !processes.iter().take(STATES).any(runs) {
        stacks.notes.push("nothing of it runs: each thread is shown as it stands".to_owned());
        return Samples::default();
    }
    let wanted: HashSet<u32> = processes.iter().map(|key| key.tgid).collect();
    match sample::take(&wanted, SAMPLED) {
        Ok(samples) => {
            stacks.sampled_ms = SAMPLED.as_millis() as u32;
            stacks.samples = samples.taken;
            stacks.samples_omitted = samples.taken;
            if samples.lost > 0 {
                let lost =
                    count(samples.lost, "sample of the host was", "samples of the host were");
                stacks.notes.push(format!("{lost} lost"));
            }
            if samples.full > 0 {
                stacks.notes.push(format!("samples of {} CPUs did not all fit", samples.full));
            }
            if samples.unwatched > 0 {
                stacks.notes.push(format!("{} CPUs were not sampled", samples.unwatched));
            }
            samples
        }
        Err(error) => {
            stacks.notes.push(format!("running threads cannot be sampled: {error}"));
            Samples::default()
        }
    }
}

/// Those that ran most, the root, and the youngest of the deepest.
fn chosen(processes: &[ProcessKey], samples: &Samples) -> Vec<ProcessKey> {
    let mut ran: HashMap<u32, u32> = HashMap::new();
    for (chain, count) in &samples.chains {
        *ran.entry(chain.pid).or_default() += count;
    }
    let mut busy: Vec<(u32, u32)> = ran.into_iter().map(|(pid, count)| (count, pid)).collect();
    busy.sort_unstable_by(|a, b| b.cmp(a));
    let key = |pid: u32| processes.iter().copied().find(|key| key.tgid == pid);
    let busy = busy.into_iter().take(BUSY).filter_map(|(_, pid)| key(pid));
    let mut chosen = Vec::new();
    for key in busy.chain(processes.first().copied()).chain(processes.last().copied()) {
        if !chosen.contains(&key) && chosen.len() < SHOWN {
            chosen.push(key);
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
