//! `top_growth`: whose trees gained processes, and who gained or holds memory.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use sensor_proto::v1::{Evidence, Process, evidence::Content};

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

/// A tree as the flight recorder has it, from its first second to its last.
#[derive(Debug, Default, PartialEq)]
struct Grown {
    comm: String,
    before: u32,
    last: u32,
    most: u32,
    forks: u32,
}

/// pid and start of a tree's root or of a process.
type Key = (u32, u64);

enum Item<'a> {
    Tree(Key, Grown),
    /// With what it had before, and the piece that says so.
    Process(&'a str, &'a Process, Option<u64>),
}

pub(super) async fn top(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let evidence = daemon.evidence().await?;
    let (trees, span) = trees(&evidence);
    let processes = processes(&evidence);
    if trees.is_empty() && processes.is_empty() {
        page.note =
            Some("There is neither a flight record nor a tree of processes in this incident.");
    }
    if let Some((from, to)) = span {
        page.facts = Facts::new().with("from", Fact::At(from)).with("to", Fact::At(to));
    }
    let mut sorted: Vec<_> = trees.into_iter().collect();
    sorted.sort_by_key(|(_, grown)| {
        (i64::from(grown.before) - i64::from(grown.last), -i64::from(grown.most))
    });
    let items = sorted
        .into_iter()
        .map(|(key, grown)| Item::Tree(key, grown))
        .chain(processes.into_iter().map(|(id, process, was)| Item::Process(id, process, was)));
    page.list(arguments.skip()?, items, |page, item| match item {
        Item::Tree((pid, start_ns), grown) => Facts::new()
            .with("what", Fact::word("tree"))
            .with("pid", Fact::Count(pid.into()))
            .with("start_ns", Fact::Lasting(start_ns))
            .with("comm", page.text(Kind::Comm, grown.comm.as_bytes()))
            .with("processes_before", Fact::Count(grown.before.into()))
            .with("processes", Fact::Count(grown.last.into()))
            .with("processes_most", Fact::Count(grown.most.into()))
            .with("growth", Fact::Number(f64::from(grown.last) - f64::from(grown.before)))
            .with("forks", Fact::Count(grown.forks.into())),
        Item::Process(id, process, was) => {
            let facts = Facts::new()
                .with("what", Fact::word("process"))
                .with("evidence", Fact::word(id))
                .with("pid", Fact::Count(process.pid.into()))
                .with("start_ns", Fact::Lasting(process.start_ns))
                .with("comm", page.text(Kind::Comm, process.comm.as_bytes()))
                .with("anon_bytes", Fact::Bytes(process.anon_bytes));
            match was {
                Some(was) => {
                    let growth = process.anon_bytes as f64 - was as f64;
                    facts.with("anon_growth_bytes", Fact::Number(growth))
                }
                None => facts,
            }
        }
    });
    Ok(())
}

/// Trees of the flight records' seconds, and the time that those cover.
fn trees(evidence: &[Evidence]) -> (BTreeMap<Key, Grown>, Option<(Timestamp, Timestamp)>) {
    let mut trees: BTreeMap<Key, Grown> = BTreeMap::new();
    let mut span: Option<(Timestamp, Timestamp)> = None;
    for piece in evidence {
        let Some(Content::Vitals(record)) = &piece.content else { continue };
        for sample in record.samples.iter().filter(|sample| sample.seconds == 1) {
            if let Some(at) = sample.at {
                span = Some((span.map_or(at, |(from, _)| from), at));
            }
            for tree in &sample.trees {
                let first =
                    Grown { comm: tree.comm.clone(), before: tree.processes, ..Grown::default() };
                let grown = trees.entry((tree.pid, tree.start_ns)).or_insert(first);
                grown.last = tree.processes;
                grown.most = grown.most.max(tree.processes);
                grown.forks = grown.forks.saturating_add(tree.forks);
            }
        }
    }
    (trees, span)
}

/// Processes of the newest tree, those first that gained most anonymous memory since the oldest (or, with
/// one tree only, hold most), each with what it had then, and the piece that says so.
fn processes(evidence: &[Evidence]) -> Vec<(&str, &Process, Option<u64>)> {
    let trees: Vec<_> = evidence
        .iter()
        .filter_map(|piece| match &piece.content {
            Some(Content::Tree(tree)) => Some((piece.id.as_str(), tree)),
            _ => None,
        })
        .collect();
    let [first, .., last] = &trees[..] else {
        let of = trees.first().into_iter();
        let mut all: Vec<_> =
            of.flat_map(|(id, tree)| tree.processes.iter().map(|it| (*id, it, None))).collect();
        all.sort_by_key(|(_, process, _)| std::cmp::Reverse(process.anon_bytes));
        return all;
    };
    let was: BTreeMap<Key, u64> =
        first.1.processes.iter().map(|it| ((it.pid, it.start_ns), it.anon_bytes)).collect();
    let mut all: Vec<_> = last
        .1
        .processes
        .iter()
        .map(|it| (last.0, it, was.get(&(it.pid, it.start_ns)).copied()))
        .collect();
    all.sort_by_key(|(_, process, was)| {
        std::cmp::Reverse(i128::from(process.anon_bytes) - i128::from(was.unwrap_or(0)))
    });
    all
}
