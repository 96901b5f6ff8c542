//! From samples to findings.

mod growing;
mod piling;

use std::collections::BTreeMap;

use super::{
    Limits, Rule, TOLD_OF,
    claims::{Claim, Claims, Follows, Left, Now, Over, Whose},
    culprit::{Sight, key_of},
    fast::{OVER_NS, PAUSE_NS},
    measures,
    rings::Point,
    room::Room,
    series::{Ended, LENGTHS_NS, Series, Window},
    unattributed,
};
use crate::{
    detect::{Finding, group::Group},
    lineage::ProcessKey,
    proto::{GroupMemory, Kind, MemorySample, TreeMemory},
};

/// Trees that are followed at most; a sample tells of 256. About 5 KiB each.
const MOST_TREES: usize = 512;

/// Sums that are followed at most: 32 of each of four kinds, and as many that have just left the list.
const MOST_GROUPS: usize = 256;

/// Who is not told of for so long is forgotten, ns: the length of the shortest ring.
const FORGOTTEN_NS: u64 = 16 * LENGTHS_NS[0];

/// A forecast is over when so many buckets of its ring have not grown.
const PATIENCE_BUCKETS: u64 = 4;

/// What a sample leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Found(Box<Finding>, Whose),
    /// What was found is over.
    Over(Over),
}

/// Sums are followed by what they are sums of.
type GroupKey = (i32, String);

/// Follows the samples of one host.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    /// Which series of samples it is, and when the last one was taken.
    series_ns: u64,
    last_ns: u64,
    /// Time within the samples: what a host sleeps, and what nobody saw, is not in it.
    now_ns: u64,
    /// When somebody last looked at processes, on the boot clock and by that time; zeros: never.
    looked_ns: (u64, u64),
    /// Rings of which a bucket ended while nobody did.
    missed: Ended,
    /// When the sensor that takes them began to, by that time: what it counts it counts from there on.
    since_ns: u64,
    host: Series,
    trees: BTreeMap<ProcessKey, Series>,
    groups: BTreeMap<GroupKey, Series>,
    claims: Claims,
}

impl Watch {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            series_ns: 0,
            last_ns: 0,
            now_ns: 0,
            looked_ns: (0, 0),
            missed: Ended::default(),
            since_ns: 0,
            host: Series::new(),
            trees: BTreeMap::new(),
            groups: BTreeMap::new(),
            claims: Claims::default(),
        }
    }

    /// Takes a sample in; one that is not newer than the last changes nothing.
    pub fn see(&mut self, sample: &MemorySample) -> Vec<Told> {
        let restarted = sample.series_ns != self.series_ns;
        let begins = self.last_ns == 0
            // Another boot.
            || sample.at_ns.saturating_add(PAUSE_NS) < self.last_ns
            || restarted && sample.series_ns < self.last_ns;
        if begins {
            *self = Self::new(self.limits.clone());
            self.series_ns = sample.series_ns;
        } else if sample.at_ns <= self.last_ns {
            return Vec::new();
        } else {
            let since_ns = sample.at_ns - self.last_ns;
            // What is long enough is a pause by the clock as well, and no more.
            let most_ns = if since_ns > 2 * PAUSE_NS { PAUSE_NS + 1 } else { PAUSE_NS };
            self.now_ns += since_ns.min(most_ns);
            if restarted {
                self.restart(sample.series_ns);
            }
        }
        self.last_ns = sample.at_ns;

        let host = sample.host.unwrap_or_default();
        let mut ended = self.host.add(self.now_ns, unattributed::point(&host));
        if sample.trees_unknown {
            // Of whom nobody looked at nothing is known: neither that it grew nor that it is gone.
            self.missed = self.missed.or(ended);
        } else {
            ended = ended.or(std::mem::take(&mut self.missed));
            self.take_trees(sample);
            self.take_groups(sample);
            self.looked_ns = (sample.at_ns, self.now_ns);
            self.forget();
        }

        let sight = Sight::of(&sample.trees);
        let mut told: Vec<Told> = Vec::new();
        let over = self.over(sample);
        told.extend(over.into_iter().map(Told::Over));
        let mut found = self.growing(sample, &sight, ended);
        if self.limits.accumulation {
            found.extend(self.accumulating(sample, &sight, ended));
        }
        if self.limits.unreaped {
            found.extend(self.unreaping(sample, &sight));
        }
        told.extend(
            found.into_iter().map(|(finding, whose)| Told::Found(Box::new(finding), whose)),
        );
        told
    }

    /// Another sensor goes on with the same host. What processes hold it sees as the one before it did. What it
    /// counts (forks) it counts anew, and nobody whom it does not know is told of: each finding is told again.
    fn restart(&mut self, series_ns: u64) {
        self.series_ns = series_ns;
        self.since_ns = self.now_ns;
        self.claims = Claims::default();
        self.trees.values_mut().for_each(Series::restart);
    }

    fn room(&self, sample: &MemorySample, tree: &TreeMemory) -> Room {
        self.room_in(sample, tree.limit_bytes, tree.limit_used_bytes)
    }

    fn room_together(&self, sample: &MemorySample, group: &GroupMemory) -> Room {
        self.room_in(sample, group.limit_bytes, group.limit_used_bytes)
    }

    fn room_in(&self, sample: &MemorySample, limit: Option<u64>, used: Option<u64>) -> Room {
        let limit = limit.map(|limit| (limit, used.unwrap_or(0)));
        Room::of(&sample.host.unwrap_or_default(), limit, &self.limits)
    }

    fn take_trees(&mut self, sample: &MemorySample) {
        let now_ns = self.now_ns;
        let (before_ns, then) = self.looked_ns;
        for tree in &sample.trees {
            let Some(key) = tree.root.as_ref().map(key_of) else { continue };
            let room = self.room(sample, tree);
            let point = Point {
                bytes: tree.bytes,
                root_bytes: tree.root_bytes,
                limit_used: tree.limit_used_bytes.unwrap_or(0),
                live: tree.processes,
                alike: tree.alike,
                forks: tree.forks,
            };
            let series = self.trees.entry(key).or_insert_with(|| {
                let mut series = Series::new();
                // One that was not told of until now had less than it needs to be, or nothing.
                if before_ns > 0 {
                    let born = key.start_ns > before_ns;
                    let had = if born { 0 } else { tree.bytes.min(TOLD_OF) };
                    let root_bytes = tree.root_bytes.min(had);
                    let earlier = Point { bytes: had, root_bytes, ..point };
                    // What it took since was left then.
                    let then_room = room.before(tree.bytes - had);
                    series.fast.follow(then, earlier, &then_room, &self.limits);
                }
                series
            });
            series.seen_ns = now_ns;
            series.add(now_ns, point);
            series.fast.follow(now_ns, point, &room, &self.limits);
            series.zombies.follow(now_ns, tree.zombies);
        }
        if sample.omitted == 0 {
            // Who is missing is small now, or gone: whatever minimum it had, it has a smaller one.
            for series in self.trees.values_mut().filter(|series| series.seen_ns < now_ns) {
                let forks = series.latest.forks;
                series.add(now_ns, Point { forks, ..Point::default() });
                series.zombies.follow(now_ns, 0);
            }
        }
    }

    fn take_groups(&mut self, sample: &MemorySample) {
        let now_ns = self.now_ns;
        for (key, group) in followed(sample) {
            let room = self.room_together(sample, group);
            let point = Point {
                bytes: group.bytes,
                limit_used: group.limit_used_bytes.unwrap_or(0),
                live: group.processes,
                ..Point::default()
            };
            let series = self.groups.entry(key).or_insert_with(Series::new);
            series.seen_ns = now_ns;
            series.add(now_ns, point);
            series.fast.follow(now_ns, point, &room, &self.limits);
        }
    }

    /// Bounds what is kept: who was not told of for long goes, and if there are too many, who was not told
    /// of for longest.
    fn forget(&mut self) {
        fn bound<K: Ord + Clone>(kept: &mut BTreeMap<K, Series>, now_ns: u64, most: usize) {
            kept.retain(|_, series| now_ns.saturating_sub(series.seen_ns) < FORGOTTEN_NS);
            if kept.len() > most {
                let mut by_age: Vec<(u64, u64, K)> = kept
                    .iter()
                    .map(|(key, one)| (one.seen_ns, one.latest.bytes, key.clone()))
                    .collect();
                by_age.sort();
                for (_, _, key) in &by_age[..kept.len() - most] {
                    kept.remove(key);
                }
            }
        }
        bound(&mut self.trees, self.now_ns, MOST_TREES);
        bound(&mut self.groups, self.now_ns, MOST_GROUPS);
    }

    /// Findings that are over.
    fn over(&mut self, sample: &MemorySample) -> Vec<Over> {
        let (trees, host, now_ns) = (&self.trees, &self.host, self.now_ns);
        let complete = sample.omitted == 0 && !sample.trees_unknown;
        let most_left_out = most_left_out(sample);
        let value = |claim: &Claim| {
            let follows = claim.rule.follows();
            if follows == Follows::Host {
                return Some(Now::Is(unattributed::outside(&host.latest)));
            }
            let (mut sum, mut exact) = (0_u64, true);
            for key in &claim.members {
                // Who was not told of until it was forgotten is gone, or small, as well: no claim outlives its trees.
                let none = complete || !trees.contains_key(key);
                let value = held(trees, now_ns, follows, *key).or(none.then_some(0));
                exact &= value.is_some();
                let bound = most_left_out.filter(|_| follows == Follows::Bytes);
                sum = sum.saturating_add(value.or(bound)?);
            }
            Some(if exact { Now::Is(sum) } else { Now::AtMost(sum) })
        };
        let left = |claim: &Claim| {
            let seen = sample.trees.iter().filter(|tree| {
                tree.root.as_ref().is_some_and(|root| claim.members.contains(&key_of(root)))
            });
            let seen: Vec<bool> = seen.map(|tree| tree.alive).collect();
            match seen.as_slice() {
                // Who was left out may hold more than that.
                [] if complete => Left::Nothing,
                [] => Left::Some,
                alive if alive.contains(&true) => Left::Some,
                _ => Left::Orphans,
            }
        };
        self.claims.follow(now_ns, sample.at_ns, value, left)
    }

    /// Tells of what crossed unless something as urgent was told about the same growth.
    fn tell(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        crossing: Crossing,
    ) -> Option<(Finding, Whose)> {
        let Crossing { rule, mut culprit, mut group, base, value, carriers, .. } = crossing;
        let now_ns = self.now_ns;
        let follows = rule.follows();
        let members =
            group.as_ref().map_or_else(|| culprit.into_iter().collect(), |it| it.members.clone());
        let about = (culprit, &members[..]);
        let Some(claim) = self.claims.about(about, (follows, &carriers), sight) else {
            self.claims.put(Claim::new(
                rule,
                (culprit, members, group.clone()),
                (base, value),
                (now_ns, sample.at_ns),
                crossing.patience_ns,
            ));
            let (told, buckets) = (crossing.told, crossing.buckets);
            return Some((finding(sample, rule, (culprit, group), told, buckets), culprit));
        };
        if claim.rule >= rule {
            return None;
        }
        if carriers.contains(&claim.culprit) {
            // It was seen further up, and is what was told of.
            (culprit, group) = (claim.culprit, claim.group.clone());
        }
        // What was one tree of them is one of many now.
        let joined = group.as_ref().is_some_and(|group| claim.join(group));
        let held = claim.members.iter().filter_map(|key| held(&self.trees, now_ns, follows, *key));
        let value_now = held.fold(0, u64::saturating_add);
        let grown = value.saturating_sub(base);
        let times = (now_ns, sample.at_ns);
        claim.rise((rule, joined), (grown, value_now), times, crossing.patience_ns);
        let whose = claim.culprit;
        let (told, buckets) = (crossing.told, crossing.buckets);
        Some((finding(sample, rule, (culprit, group), told, buckets), whose))
    }
}

/// What crossed, and whose it is.
struct Crossing {
    rule: Rule,
    /// Of a group its eldest.
    culprit: Option<ProcessKey>,
    group: Option<Group>,
    /// What there was, and is, of what grows.
    base: u64,
    value: u64,
    told: Vec<crate::proto::Measure>,
    buckets: usize,
    /// How long without growth until it is over, ns.
    patience_ns: u64,
    /// What was told of before and carries it.
    carriers: Vec<Whose>,
}

/// The sums that are followed, once each whatever a log holds, in order of what says most: two of one name are
/// not told apart, and one without a name not from sample to sample.
fn followed(sample: &MemorySample) -> BTreeMap<GroupKey, &GroupMemory> {
    let mut followed = BTreeMap::new();
    for group in sample.groups.iter().filter(|group| !group.what.is_empty()) {
        followed.entry((group.by, group.what.clone())).or_insert(group);
    }
    followed
}

/// What a tree has at most that a sample leaves out, bytes: it tells of the largest. `None`: nobody knows, or it
/// leaves out none.
fn most_left_out(sample: &MemorySample) -> Option<u64> {
    let smallest = sample.trees.iter().map(|tree| tree.bytes).min()?;
    // A tree that is told of for its processes may have less than one that is not told of at all.
    (sample.omitted > 0).then_some(smallest.max(TOLD_OF))
}

/// What a tree has now of what is followed; `None`: the last sample does not tell of it.
fn held(
    trees: &BTreeMap<ProcessKey, Series>,
    now_ns: u64,
    follows: Follows,
    key: ProcessKey,
) -> Option<u64> {
    let series = trees.get(&key).filter(|series| series.seen_ns == now_ns)?;
    Some(match follows {
        Follows::Bytes | Follows::Host => series.latest.bytes,
        Follows::Processes => series.latest.live.into(),
        Follows::Zombies => series.zombies.count().into(),
    })
}

fn finding(
    sample: &MemorySample,
    rule: Rule,
    (culprit, group): (Option<ProcessKey>, Option<Group>),
    told: Vec<crate::proto::Measure>,
    buckets: usize,
) -> Finding {
    Finding {
        kind: Kind::MemoryGrowth,
        rule: rule.name(),
        culprit,
        group,
        leaf: None,
        // It is told once, when it is as sure as it gets: what follows is for the policy. Of what is in no
        // process nothing can be stopped.
        contain: culprit.is_some(),
        confidence: measures::confidence(rule, buckets),
        at_ns: sample.at_ns,
        measures: told,
    }
}

fn patience(window: Window) -> u64 {
    match window {
        Window::Ring(ring) => PATIENCE_BUCKETS * LENGTHS_NS[ring],
        Window::Fast => OVER_NS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn what_is_kept_has_its_bounds() {
        // All that is followed, at most: 768 series beside the host's, 4.5 MiB.
        let series = size_of::<Series>();
        assert!(series <= 6 << 10, "{series} bytes");
        let mut watch = Watch::new(Limits::default());
        for at in 0..50_u32 {
            let key = |pid| Some(proto::ProcessKey { pid: at * 1_000 + pid, start_ns: 1 });
            let tree = |pid| TreeMemory { root: key(pid), bytes: 1 << 30, ..TreeMemory::default() };
            let group =
                |pid| GroupMemory { by: 1, what: format!("{at} {pid}"), ..GroupMemory::default() };
            watch.see(&MemorySample {
                at_ns: u64::from(at + 1) * 1_000_000_000,
                trees: (0..256).map(tree).collect(),
                groups: (0..128).map(group).collect(),
                // Nobody of all those is known to have ended.
                omitted: 1,
                ..MemorySample::default()
            });
            assert!(watch.trees.len() <= MOST_TREES && watch.groups.len() <= MOST_GROUPS);
        }
        assert_eq!((watch.trees.len(), watch.groups.len()), (MOST_TREES, MOST_GROUPS));
    }
}
