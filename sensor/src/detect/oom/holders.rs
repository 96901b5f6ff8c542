//! Who had the memory when the OOM killer acted, and since when: from the samples before it, because nobody
//! looks at all processes while there is no memory.

use super::{held, key};
use crate::{
    lineage::ProcessKey,
    proto::{MemorySample, OomHolder, OomKill, TreeMemory},
};

/// Holders that are told of.
const TOLD: usize = 16;

/// How far back is looked, ns: what grew longer ago was there all the time.
pub const BEFORE_NS: u64 = 900 * 1_000_000_000;

/// A tree whose growth is this share of the largest one's carries it, %: of nested trees the lowest such is
/// to blame.
const CARRIES: u64 = 90;

/// Who grew is to blame only for a part like this of what was short: a quarter of the limit, or of all memory.
const SHARE: u64 = 4;

/// Trees by how much they had grown before a kill. `limit`: only those that it limits, where one was met.
/// `cgroups`: v2 ids of the victims' groups.
pub fn holders(
    samples: &[&MemorySample],
    victims: &[OomKill],
    cgroups: &[u64],
    limit: Option<u64>,
) -> Vec<OomHolder> {
    let Some(at_ns) = victims.first().map(|kill| kill.at_ns) else { return Vec::new() };
    let before: Vec<&MemorySample> = samples
        .iter()
        .copied()
        .filter(|one| one.at_ns <= at_ns && at_ns - one.at_ns <= BEFORE_NS)
        .collect();
    let affected = |tree: &TreeMemory| {
        limit.is_none() || tree.limit_bytes == limit || cgroups.contains(&tree.cgroup)
    };
    let mut holders: Vec<OomHolder> = Vec::new();
    if let Some(last) = before.last() {
        let trees = last.trees.iter().filter(|tree| tree.root.is_some() && affected(tree));
        holders.extend(trees.map(|tree| grown(tree, &before, victims, at_ns)));
    }
    // Who came after the last sample, or was too small for it, had nothing before.
    for kill in victims {
        let root = kill.victim.as_ref().and_then(|victim| victim.process);
        let known = holders.iter().any(|holder| holder.root == root);
        let Some(root) = root.filter(|_| !known && held(kill) > 0) else { continue };
        // Samples that do not list it say that it held little: 64 MiB is where a tree is listed.
        let since = before.last().map_or(0, |last| last.at_ns).max(root.start_ns);
        let seen = !before.is_empty() || at_ns.saturating_sub(root.start_ns) <= BEFORE_NS;
        holders.push(OomHolder {
            root: Some(root),
            comm: kill.victim.as_ref().map(|victim| victim.comm.clone()).unwrap_or_default(),
            processes: 1,
            bytes: held(kill),
            grown_bytes: if seen { held(kill) } else { 0 },
            grown_ns: if seen { at_ns.saturating_sub(since) } else { 0 },
        });
    }
    holders.sort_by_key(|holder| {
        std::cmp::Reverse((holder.grown_bytes, holder.bytes, std::cmp::Reverse(holder.processes)))
    });
    holders.truncate(TOLD);
    holders
}

/// How a tree came to what it has.
fn grown(
    tree: &TreeMemory,
    before: &[&MemorySample],
    victims: &[OomKill],
    at_ns: u64,
) -> OomHolder {
    let of = |sample: &MemorySample| {
        let same = sample.trees.iter().find(|one| one.root == tree.root);
        same.map(|one| (sample.at_ns, one.bytes))
    };
    let mut course: Vec<(u64, u64)> = before.iter().filter_map(|sample| of(sample)).collect();
    // Of a victim it is known what it held at the very end.
    let own = |kill: &&OomKill| kill.victim.as_ref().is_some_and(|one| one.process == tree.root);
    if let Some(kill) = victims.iter().find(own) {
        let others = tree.bytes.saturating_sub(tree.root_bytes);
        course.push((at_ns, others + held(kill)));
    }
    let bytes = course.last().map_or(tree.bytes, |(_, bytes)| *bytes);
    let least = course.iter().map(|(_, bytes)| *bytes).min().unwrap_or(bytes);
    let grown_bytes = bytes.saturating_sub(least);
    // It began to grow where it last had no more than a tenth of that.
    let low = least + grown_bytes / 10;
    let began = course.iter().rev().find(|(_, bytes)| *bytes <= low);
    OomHolder {
        root: tree.root,
        comm: tree.comm.clone(),
        processes: tree.processes,
        bytes,
        grown_bytes,
        grown_ns: began.filter(|_| grown_bytes > 0).map_or(0, |(at, _)| at_ns.saturating_sub(*at)),
    }
}

/// Who is to blame: the lowest tree that carries the growth, where that is a good part of what was short;
/// else who holds the better half of it. `short`: the limit, or all memory, bytes; 0: not known.
pub fn culprit(holders: &[OomHolder], victims: &[OomKill], short: u64) -> Option<ProcessKey> {
    let most = holders.iter().map(|holder| holder.grown_bytes).max().unwrap_or_default();
    if most > 0 && most >= short / SHARE {
        let carries = |holder: &&OomHolder| holder.grown_bytes >= most / 100 * CARRIES;
        let lowest = holders.iter().filter(carries).min_by_key(|one| (one.processes, one.bytes));
        return lowest.and_then(|holder| holder.root).map(key);
    }
    let all = short.max(1);
    let half = |bytes: u64| short > 0 && bytes > all / 2;
    let holder = holders.iter().filter(|one| half(one.bytes)).min_by_key(|one| one.processes);
    let victim = victims.iter().find(|kill| half(held(kill)));
    let victim = victim.and_then(|kill| kill.victim.as_ref()?.process);
    holder.and_then(|holder| holder.root).or(victim).map(key)
}
