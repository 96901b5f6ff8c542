//! Who is to blame for what was short: who grew, by the samples before a kill and by what is known of slower
//! growth; else who holds most of it.

use super::{
    descent::Descent,
    held,
    holders::{grown_since, holders, told, within},
    is_own, key,
    short::Short,
};
use crate::{
    detect::memory::{
        CARRIES, MOSTLY, is_part,
        measures::{GROWN, OVER, SLOPE},
    },
    lineage::ProcessKey,
    proto::{HostMemory, Measure, MemorySample, Oom, OomHolder},
};

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
    let descent = Descent::of(&before, &oom.victims);
    let all = short.all(&before);
    let lost = short.fallen(&before);
    let is_much = |bytes: u64| {
        let quick = all.is_some_and(|all| bytes >= all / SHARE);
        bytes > 0 && (quick || bytes >= LEAST && lost.is_some_and(|lost| bytes >= lost / HALF))
    };
    let seen = Seen { holders: &holders, descent: &descent, before: &before, at_ns };
    let grew = holders.first().is_some_and(|most| is_much(most.grown_bytes));
    let (sampled, older): (Vec<_>, Vec<_>) =
        growths.iter().partition(|growth| grew && is_sampled(growth, &before));
    let known = known(&holders, older.into_iter(), at_ns)
        .filter(|(root, bytes, _)| !grew || *bytes > seen.most_beside(*root));
    let culprit = if let Some((culprit, ..)) = known {
        Some(culprit)
    } else if grew {
        seen.carrier(&sampled, is_much).and_then(|holder| holder.root).map(key)
    } else {
        holds_most(&holders, oom, all)
    };
    let growth = culprit.and_then(|culprit| growths.iter().find(|it| it.roots.contains(&culprit)));
    Blame { growth: growth.cloned(), culprit, holders: told(&holders, &descent, culprit) }
}

/// What is seen of a kill: who held what, those first that had grown most, and the samples before it.
struct Seen<'a> {
    holders: &'a [OomHolder],
    descent: &'a Descent,
    before: &'a [&'a MemorySample],
    at_ns: u64,
}

impl<'a> Seen<'a> {
    /// The most that a tree has grown by, bytes; of those above this one without what is its growth.
    fn most_beside(&self, root: ProcessKey) -> u64 {
        let own = self.holders.iter().find(|one| one.root.map(key) == Some(root));
        let own = own.map_or(0, |one| one.grown_bytes);
        let beside = |one: &OomHolder| {
            let above = one.root.is_some_and(|it| self.descent.is_above(key(it), root));
            one.grown_bytes.saturating_sub(if above { own } else { 0 })
        };
        self.holders.iter().map(beside).max().unwrap_or_default()
    }

    /// The lowest tree that carries the growth: that of one that is known to grow, where the samples show all of it,
    /// else the largest.
    fn carrier(&self, growths: &[&Growth], is_much: impl Fn(u64) -> bool) -> Option<&'a OomHolder> {
        let growing = self.growing(growths, is_much);
        let top = growing.or(self.holders.first())?;
        let among =
            |one: &&OomHolder| growing.is_none() || one.root == top.root || self.is_below(one, top);
        let carries = |one: &&OomHolder| {
            is_part(one.grown_bytes, top.grown_bytes, CARRIES)
                || self.is_below(one, top) && self.mostly(top, one)
        };
        let carriers = self.holders.iter().filter(among).filter(carries);
        carriers.min_by_key(|one| (one.processes, one.bytes))
    }

    /// Of those that are known to grow the one that has grown most since that began: by much, and more than whoever is
    /// beside it. Of nested ones the lowest.
    fn growing(&self, growths: &[&Growth], is_much: impl Fn(u64) -> bool) -> Option<&'a OomHolder> {
        let of = |growth: &&Growth| {
            let theirs =
                |one: &&OomHolder| one.root.is_some_and(|root| growth.roots.contains(&key(root)));
            let since = |one: &OomHolder| grown_since(one, self.before, growth.since_ns);
            let top = self.holders.iter().filter(theirs).max_by_key(|one| since(one))?;
            let own = since(top);
            let beside = |one: &OomHolder| {
                let contained = if self.is_below(top, one) { own } else { 0 };
                since(one).saturating_sub(contained)
            };
            let mut others =
                self.holders.iter().filter(|one| one.root != top.root && !self.is_below(one, top));
            (is_much(own) && others.all(|one| beside(one) < own)).then_some((own, top))
        };
        let found: Vec<(u64, &OomHolder)> = growths.iter().filter_map(of).collect();
        let is_lowest = |top: &OomHolder| !found.iter().any(|(_, one)| self.is_below(one, top));
        let lowest = found.iter().filter(|(_, top)| is_lowest(top));
        lowest.max_by_key(|(own, _)| *own).map(|(_, top)| *top)
    }

    /// Whether it carries what grew lately, in the second half of that time, and most of the rest.
    fn mostly(&self, top: &OomHolder, one: &OomHolder) -> bool {
        let half_ns = self.at_ns.saturating_sub(top.grown_ns / 2);
        let lately = |one: &OomHolder| grown_since(one, self.before, half_ns);
        is_part(one.grown_bytes, top.grown_bytes, MOSTLY)
            && lately(top) > 0
            && is_part(lately(one), lately(top), CARRIES)
    }

    fn is_below(&self, one: &OomHolder, above: &OomHolder) -> bool {
        let roots = one.root.zip(above.root);
        roots.is_some_and(|(one, above)| self.descent.is_above(key(above), key(one)))
    }
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
