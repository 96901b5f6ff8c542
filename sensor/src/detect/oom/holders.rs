//! Who had the memory when the OOM killer acted, and since when: from the samples before it, because nobody
//! looks at all processes while there is no memory.

use super::{descent::Descent, held, is_own, key, short::Short};
use crate::{
    detect::memory::{CARRIES, TOLD_OF, is_part},
    lineage::ProcessKey,
    proto::{MemorySample, OomHolder, OomKill, TreeMemory},
};

/// Holders that are told of.
const TOLD: usize = 16;

/// How far back is looked, ns: what grew longer ago was there all the time.
pub const BEFORE_NS: u64 = 900 * 1_000_000_000;

/// Samples up to a kill that are looked at.
pub(super) fn within<'a>(samples: &[&'a MemorySample], at_ns: u64) -> Vec<&'a MemorySample> {
    let near = |one: &&MemorySample| one.at_ns <= at_ns && at_ns - one.at_ns <= BEFORE_NS;
    samples.iter().copied().filter(near).collect()
}

/// Trees that took of what was short, by how much they had grown before a kill.
pub(super) fn holders(
    before: &[&MemorySample],
    victims: &[OomKill],
    short: &Short,
) -> Vec<OomHolder> {
    let Some(at_ns) = victims.first().map(|kill| kill.at_ns) else { return Vec::new() };
    let mut holders: Vec<OomHolder> = Vec::new();
    if let Some(last) = before.last() {
        let trees = last.trees.iter().filter(|tree| tree.root.is_some() && short.affects(tree));
        holders.extend(trees.map(|tree| grown(tree, last, before, victims, at_ns)));
    }
    // Who came after the last sample, or was too small for it, had nothing before.
    for kill in victims {
        let root = kill.victim.as_ref().and_then(|victim| victim.process);
        let known = holders.iter().any(|holder| holder.root == root);
        let Some(root) = root.filter(|_| !known && held(kill) > 0) else { continue };
        // Samples that do not list it say that it held little: 64 MiB is where a tree is listed.
        let since = before.last().map_or(0, |last| last.at_ns).max(root.start_ns);
        let seen = is_own(kill)
            && (!before.is_empty() || at_ns.saturating_sub(root.start_ns) <= BEFORE_NS);
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

/// How a tree came to what it has. `last`: the sample that it is in.
fn grown(
    tree: &TreeMemory,
    last: &MemorySample,
    before: &[&MemorySample],
    victims: &[OomKill],
    at_ns: u64,
) -> OomHolder {
    let own = own(tree, last);
    let of = |sample: &MemorySample| {
        let same = sample.trees.iter().find(|one| one.root == tree.root);
        same.map(|one| (sample.at_ns, own(one)))
    };
    let mut course: Vec<(u64, u64)> = before.iter().filter_map(|sample| of(sample)).collect();
    if let Some(start) = course.first().and_then(|first| unlisted(tree, before, *first)) {
        course.insert(0, start);
    }
    // Of a victim it is known what it held at the very end.
    let is = |kill: &&OomKill| kill.victim.as_ref().is_some_and(|one| one.process == tree.root);
    if let Some(kill) = victims.iter().filter(|kill| is_own(kill)).find(is) {
        let others = own(tree).saturating_sub(tree.root_bytes);
        course.push((at_ns, others + held(kill)));
    }
    let bytes = course.last().map_or(own(tree), |(_, bytes)| *bytes);
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

/// By how much of that a holder has grown since then, bytes.
pub(super) fn grown_since(holder: &OomHolder, before: &[&MemorySample], since_ns: u64) -> u64 {
    let Some(last) = before.last() else { return holder.grown_bytes };
    let then = before.iter().find(|sample| sample.at_ns >= since_ns).unwrap_or(last);
    let had = find(holder, last).zip(find(holder, then));
    let had = had.map_or(0, |(tree, then)| own(tree, last)(then));
    holder.grown_bytes.min(holder.bytes.saturating_sub(had))
}

fn find<'a>(holder: &OomHolder, sample: &'a MemorySample) -> Option<&'a TreeMemory> {
    sample.trees.iter().find(|tree| tree.root == holder.root)
}

/// Holders as they are told: who only stands above one that holds and has taken the same, as a shell above what it
/// started, is left out.
pub(super) fn told(
    holders: &[OomHolder],
    descent: &Descent,
    culprit: Option<ProcessKey>,
) -> Vec<OomHolder> {
    let is_same = |one: &OomHolder, below: &OomHolder| {
        let roots = one.root.zip(below.root);
        roots.is_some_and(|(one, below)| descent.is_above(key(one), key(below)))
            && is_part(below.bytes, one.bytes, CARRIES)
            && is_part(below.grown_bytes, one.grown_bytes, CARRIES)
    };
    let is_told = |one: &&OomHolder| {
        one.root.map(key) == culprit || !holders.iter().any(|below| is_same(one, below))
    };
    holders.iter().filter(is_told).cloned().collect()
}

/// What of a tree counts, bytes. `last`: the sample that it is in.
fn own(tree: &TreeMemory, last: &MemorySample) -> impl Fn(&TreeMemory) -> u64 + use<> {
    let alone = is_alone(tree, last);
    move |tree| if alone { tree.root_bytes } else { tree.bytes }
}

/// What a tree had, and when, before the first sample that lists it: nothing when it was born, and if that was before all
/// samples, less than is listed.
fn unlisted(
    tree: &TreeMemory,
    before: &[&MemorySample],
    (listed_ns, bytes): (u64, u64),
) -> Option<(u64, u64)> {
    let born_ns = tree.root.as_ref()?.start_ns;
    if before.first()?.at_ns < born_ns {
        return Some((born_ns, 0));
    }
    let last = before.iter().rev().find(|sample| sample.at_ns < listed_ns)?;
    let all = !last.trees_unknown && last.omitted == 0;
    all.then(|| (last.at_ns, bytes.min(TOLD_OF)))
}

/// Whether a tree is one process with a living parent. Then all that it has beside its own part is shared memory that is
/// its parent's as well: a backend that has touched all of its server's buffers has taken none of them.
fn is_alone(tree: &TreeMemory, last: &MemorySample) -> bool {
    let lives_on = |parent| last.trees.iter().any(|one| one.root == parent && one.alive);
    tree.alive
        && tree.processes == 1
        && tree.bytes > tree.root_bytes
        && tree.parent.is_some()
        && lives_on(tree.parent)
}
