//! Who is to blame for what was short: who grew, by the samples before a kill and by what is known of slower
//! growth; else who holds most of it.

use super::{
    held,
    holders::{holders, within},
    is_own, key,
    short::Short,
};
use crate::{
    detect::memory::measures::{GROWN, OVER, SLOPE},
    lineage::ProcessKey,
    proto::{HostMemory, Measure, MemorySample, Oom, OomHolder},
};

/// A tree whose growth is this share of the largest one's carries it, %: of nested trees the lowest such is
/// to blame.
const CARRIES: u64 = 90;

/// Who took a part like this of what was short, a quarter of the limit or of all memory, within the time that is
/// looked at, is to blame whatever else went on.
const SHARE: u64 = 4;

/// Who took less is so only for half of what was lost in that time: what leaks slowly has taken the most of it
/// before.
pub const HALF: u64 = 2;

/// And for this at least, bytes: 2 MiB a minute programs take and give back all the time.
const LEAST: u64 = 32 << 20;

/// What is known of somebody's growth from longer ago: an incident that is open.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    pub incident: String,
    /// Whose it is; several of a group.
    pub roots: Vec<ProcessKey>,
    /// When it began, boot clock, ns.
    pub since_ns: u64,
    /// When it was told, boot clock, ns; by how much it had grown until then, bytes, and how fast, bytes a second.
    told_ns: u64,
    bytes: u64,
    pub slope: f64,
}

impl Growth {
    /// By the measures of its finding; `None` where it is not about bytes of processes.
    pub fn of(
        incident: &str,
        roots: Vec<ProcessKey>,
        told_ns: u64,
        measures: &[Measure],
    ) -> Option<Self> {
        let value = |name| measures.iter().find(|one| one.name == name).map(|one| one.value);
        let over_ns = (value(OVER)? * 1e9) as u64;
        (!roots.is_empty()).then_some(Self {
            incident: incident.to_owned(),
            roots,
            since_ns: told_ns.saturating_sub(over_ns),
            told_ns,
            bytes: value(GROWN)? as u64,
            slope: value(SLOPE)?,
        })
    }

    /// By how much it has grown, bytes, if it went on as it was told.
    pub fn until(&self, at_ns: u64) -> u64 {
        let since = at_ns.saturating_sub(self.told_ns) as f64 / 1e9;
        self.bytes.saturating_add((self.slope * since).max(0.0) as u64)
    }
}

/// What a kill came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blame {
    pub holders: Vec<OomHolder>,
    pub culprit: Option<ProcessKey>,
    /// What was known of the culprit's growth before.
    pub growth: Option<Growth>,
}

/// Who had what was short, and who is to blame.
pub fn blame(oom: &Oom, samples: &[&MemorySample], growths: &[Growth]) -> Blame {
    let Some(at_ns) = oom.victims.first().map(|kill| kill.at_ns) else { return Blame::default() };
    let before = within(samples, at_ns);
    let short = Short::of(oom);
    let holders = holders(&before, &oom.victims, &short);
    let all = short.all(&before);
    let most = holders.iter().map(|holder| holder.grown_bytes).max().unwrap_or_default();
    let quick = all.is_some_and(|all| most >= all / SHARE);
    let slow = || most >= LEAST && short.fallen(&before).is_some_and(|lost| most >= lost / HALF);
    let grew = most > 0 && (quick || slow());
    let older = |growth: &&Growth| !grew || !is_sampled(growth, &before);
    let known = known(&holders, growths.iter().filter(older), at_ns)
        .filter(|(_, bytes, _)| !grew || *bytes > most);
    let culprit = if let Some((culprit, ..)) = known {
        Some(culprit)
    } else if grew {
        let carries = |holder: &&OomHolder| holder.grown_bytes >= most / 100 * CARRIES;
        let lowest = holders.iter().filter(carries).min_by_key(|one| (one.processes, one.bytes));
        lowest.and_then(|holder| holder.root).map(key)
    } else {
        holds_most(&holders, oom, all)
    };
    let growth = culprit.and_then(|culprit| growths.iter().find(|it| it.roots.contains(&culprit)));
    Blame { growth: growth.cloned(), culprit, holders }
}

/// Whether the samples show all of a growth: then they know better than its forecast, and which of nested trees carries it.
fn is_sampled(growth: &Growth, before: &[&MemorySample]) -> bool {
    /// Measures are told in seconds.
    const SLACK_NS: u64 = 1_000_000_000;
    before.first().is_some_and(|first| first.at_ns <= growth.since_ns.saturating_add(SLACK_NS))
}

/// Of those that are known to grow the one that has grown most, among the holders: who, by how much, and when that
/// was told, the latest first.
fn known<'a>(
    holders: &[OomHolder],
    growths: impl Iterator<Item = &'a Growth>,
    at_ns: u64,
) -> Option<(ProcessKey, u64, std::cmp::Reverse<u64>)> {
    let of = |growth: &Growth| {
        let theirs = |holder: &&OomHolder| {
            holder.root.map(key).is_some_and(|root| growth.roots.contains(&root))
        };
        let holder =
            holders.iter().filter(theirs).max_by_key(|one| (one.grown_bytes, one.bytes))?;
        let bytes = growth.until(at_ns).min(holder.bytes).max(holder.grown_bytes);
        Some((holder.root.map(key)?, bytes, std::cmp::Reverse(growth.told_ns)))
    };
    growths.filter_map(of).max_by_key(|(root, bytes, told)| (*bytes, *told, *root))
}

/// Who has the better half of all that there is.
fn holds_most(holders: &[OomHolder], oom: &Oom, all: Option<u64>) -> Option<ProcessKey> {
    let half = |bytes: u64| all.is_some_and(|all| bytes > all / 2);
    let holder = holders.iter().filter(|one| half(one.bytes)).min_by_key(|one| one.processes);
    let victim = oom.victims.iter().find(|kill| is_own(kill) && half(held(kill)));
    let victim = victim.and_then(|kill| kill.victim.as_ref()?.process);
    holder.and_then(|holder| holder.root).or(victim).map(key)
}

/// What a host lost from one moment to another, bytes: what programs could get, and free swap.
pub fn lost(before: &HostMemory, after: &HostMemory) -> Option<u64> {
    let left = |host: &HostMemory| {
        Some(host.available_bytes?.saturating_add(host.swap_free_bytes.unwrap_or_default()))
    };
    Some(left(before)?.saturating_sub(left(after)?))
}
