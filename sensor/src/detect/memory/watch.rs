//! From samples to findings.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Limits, Rule,
    claims::{Claim, Claims, Follows, Over},
    culprit::{CARRIES, Sight, key_of},
    fast::{PAUSE_NS, Rush},
    measures::{self, measure},
    rings::{BUCKETS, Point},
    room::Room,
    series::{Ended, Growth, LENGTHS_NS, Series, Window},
    statistics::Slopes,
    trend::{SLOW_S, Trend, URGENT_S},
    unattributed,
    workers::{self, Accumulation},
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

/// A forecast of the fast kind is over when nothing has grown for so long, ns.
const FAST_PATIENCE_NS: u64 = 5 * 60 * 1_000_000_000;

/// The others, when so many buckets of their ring have not.
const PATIENCE_BUCKETS: u64 = 4;

/// A tree below this is not told of (unless it has many processes), bytes.
const TOLD_OF: u64 = 64 << 20;

/// What a sample leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Found(Box<Finding>),
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
    /// When the sensor that takes them began to, by that time: what it counts it counts from there on.
    since_ns: u64,
    host: Series,
    trees: BTreeMap<ProcessKey, Series>,
    groups: BTreeMap<GroupKey, Series>,
    claims: Claims,
}

/// What crossed, before it is known whose it is.
#[derive(Clone, Copy, Debug)]
struct Crossed {
    rule: Rule,
    growth: Growth,
    /// Until when all has to be used up to be told.
    horizon_s: Option<f64>,
}

impl Watch {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            series_ns: 0,
            last_ns: 0,
            now_ns: 0,
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
            self.now_ns += (sample.at_ns - self.last_ns).min(PAUSE_NS);
            if restarted {
                self.restart(sample.series_ns);
            }
        }
        let before_ns = if begins { 0 } else { self.last_ns };
        self.last_ns = sample.at_ns;

        let host = sample.host.unwrap_or_default();
        let host_room = Room::of(&host, None, &self.limits);
        let ended = self.host.add(self.now_ns, unattributed::point(&host));
        self.take_trees(sample, before_ns);
        self.take_groups(sample, &host_room);
        self.forget();

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
        told.extend(found.into_iter().map(|finding| Told::Found(Box::new(finding))));
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
        let limit = tree.limit_bytes.map(|limit| (limit, tree.limit_used_bytes.unwrap_or(0)));
        Room::of(&sample.host.unwrap_or_default(), limit, &self.limits)
    }

    fn take_trees(&mut self, sample: &MemorySample, before_ns: u64) {
        let now_ns = self.now_ns;
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
                    let then = now_ns.saturating_sub((sample.at_ns - before_ns).min(PAUSE_NS));
                    let root_bytes = tree.root_bytes.min(had);
                    let earlier = Point { bytes: had, root_bytes, ..point };
                    series.fast.follow(then, earlier, &room, &self.limits);
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
            }
        }
    }

    fn take_groups(&mut self, sample: &MemorySample, room: &Room) {
        let now_ns = self.now_ns;
        for group in &sample.groups {
            let key = (group.by, group.what.clone());
            let point = Point { bytes: group.bytes, live: group.processes, ..Point::default() };
            let series = self.groups.entry(key).or_insert_with(Series::new);
            series.seen_ns = now_ns;
            series.add(now_ns, point);
            series.fast.follow(now_ns, point, room, &self.limits);
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
        let complete = sample.omitted == 0;
        self.claims.follow(now_ns, sample.at_ns, |claim| {
            let of_tree = |key: &ProcessKey| {
                held(trees, now_ns, claim.follows, *key).or(complete.then_some(0))
            };
            if claim.follows == Follows::Host {
                return Some(host.latest.bytes);
            }
            claim.members.iter().try_fold(0_u64, |sum, key| Some(sum.saturating_add(of_tree(key)?)))
        })
    }

    /// What of a series crossed, the most urgent first.
    fn crossed(&self, series: &Series, room: &Room, age_ns: u64, ended: Ended) -> Option<Crossed> {
        let limits = &self.limits;
        if let Some(rush) = series.fast.rush(room, limits) {
            let horizon_s = Some(f64::from(if rush.quick { limits.fast_s } else { limits.soon_s }));
            return Some(Crossed { rule: Rule::M1, growth: of_rush(&rush), horizon_s });
        }
        let rings = [
            (Rule::M2, URGENT_S, limits.urgent_s),
            (Rule::M3, SLOW_S, limits.medium_s),
            (Rule::M4, SLOW_S, limits.slow_s),
        ];
        let mut bloat = None;
        for (at, (rule, s, horizon_s)) in rings.into_iter().enumerate() {
            let Some(trend) = Some(at)
                .filter(|at| ended.rings[*at])
                .and_then(|at| Trend::of(&series.rings[at], series.latest.bytes))
            else {
                continue;
            };
            let growth = Growth::of_trend(at, &trend, s);
            if trend.exhausts(s, horizon_s, room, limits) {
                return Some(Crossed { rule, growth, horizon_s: Some(horizon_s as f64) });
            }
            // Whoever is younger than the ring of eight hours is still becoming what it is.
            if at > 0 && age_ns > 16 * LENGTHS_NS[1] && trend.bloats(room, limits) {
                bloat = bloat.or(Some(Crossed { rule: Rule::M5, growth, horizon_s: None }));
            }
        }
        bloat
    }

    /// M1 to M6.
    fn growing(&mut self, sample: &MemorySample, sight: &Sight<'_>, ended: Ended) -> Vec<Finding> {
        let mut found = Vec::new();
        if !self.limits.growth {
            return found;
        }
        let mut crossed: BTreeMap<ProcessKey, Crossed> = BTreeMap::new();
        for tree in &sample.trees {
            let Some(key) = tree.root.as_ref().map(key_of) else { continue };
            let Some(series) = self.trees.get(&key) else { continue };
            let room = self.room(sample, tree);
            let age_ns = sample.at_ns.saturating_sub(key.start_ns);
            if let Some(what) = self.crossed(series, &room, age_ns, ended)
                && self.share(series, &what.growth, &room) >= u64::from(self.limits.share_percent)
            {
                crossed.insert(key, what);
            }
        }
        let mut rules: Vec<Rule> = crossed.values().map(|one| one.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        for rule in rules.into_iter().rev() {
            let keys: BTreeSet<ProcessKey> =
                crossed.iter().filter(|(_, one)| one.rule == rule).map(|(key, _)| *key).collect();
            let mut open = sight.topmost(&keys);
            while let Some(top) = open.pop() {
                let Some(what) = crossed.get(&top) else { continue };
                let grown = |key: ProcessKey| self.grown(key, &what.growth, sample.at_ns);
                let lowest = sight.lowest(top, grown);
                // Several that each cross are several causes.
                let below: BTreeSet<ProcessKey> = keys
                    .iter()
                    .copied()
                    .filter(|key| *key != lowest && sight.line(*key).any(|one| one == lowest))
                    .collect();
                let below = sight.topmost(&below);
                let theirs = below.iter().fold(0_u64, |sum, key| sum.saturating_add(grown(*key)));
                if !below.is_empty()
                    && u128::from(theirs) * 100 >= u128::from(grown(lowest)) * u128::from(CARRIES)
                {
                    open.extend(below);
                    continue;
                }
                let crowd = sight.crowd_below(lowest, grown);
                // Lower down the growth itself may look a little different, and is told as it is there.
                let told = crossed.get(&lowest).filter(|one| one.rule == rule).unwrap_or(what);
                found.extend(self.claim_growth(sample, sight, lowest, crowd, *told));
            }
        }
        found.extend(self.growing_together(sample, sight, ended));
        found.extend(self.growing_unattributed(sample, ended));
        found
    }

    /// Growth of a tree within the window in which something crossed. Whose root was born in it had nothing when
    /// it began, however late the tree became large enough to be told of.
    fn grown(&self, key: ProcessKey, growth: &Growth, at_ns: u64) -> u64 {
        let series = self.trees.get(&key).filter(|one| one.seen_ns == self.now_ns);
        series.map_or(0, |series| {
            if key.start_ns >= at_ns.saturating_sub(growth.over_ns) {
                series.latest.bytes
            } else {
                series.grown(growth.window, |point| point.bytes)
            }
        })
    }

    /// How much of the growth of what is around it a series has, percent.
    fn share(&self, series: &Series, growth: &Growth, room: &Room) -> u64 {
        let around = match growth.window {
            Window::Ring(ring) => {
                let since = series.rings[ring].buckets().first().map_or(0, |first| first.index);
                if room.limited {
                    series.grown_since(ring, since, |point| point.limit_used)
                } else {
                    self.host.grown_since(ring, since, unattributed::in_processes)
                }
            }
            // Who rushes was already compared with what is left.
            Window::Fast => return 100,
        };
        (u128::from(growth.grown) * 100 / u128::from(around.max(1))).min(100) as u64
    }

    fn claim_growth(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        culprit: ProcessKey,
        crowd: Option<Group>,
        Crossed { rule, growth, horizon_s }: Crossed,
    ) -> Option<Finding> {
        let tree = sight.tree(culprit)?;
        let series = self.trees.get(&culprit)?;
        let room = self.room(sample, tree);
        let own = series.grown(growth.window, |point| point.root_bytes);
        let own = (u128::from(own) * 100 / u128::from(growth.grown.max(1))).min(100) as u64;
        let share = (self.share(series, &growth, &room), self.limits.share_percent);
        let least = match rule {
            Rule::M5 => room.wasted(&self.limits),
            _ => room.notable(&self.limits),
        };
        let mut told = measures::of_growth(&growth, &room, (least, horizon_s), share, own);
        told.push(measure(measures::HOLDS, tree.bytes as f64, None, "bytes"));
        told.push(measure(measures::PROCESSES, tree.processes.into(), None, "processes"));
        let more = |of: fn(&Point) -> u32| series.grown(growth.window, |point| of(point).into());
        let (live, alike) = (more(|point| point.live), more(|point| point.alike));
        if live > 0 {
            told.push(measure(measures::MORE, live as f64, None, "processes"));
            told.push(measure(measures::WORKERS, alike as f64, None, "processes"));
        }
        let members = crowd.as_ref().map_or_else(|| vec![culprit], |crowd| crowd.members.clone());
        let held = members.iter().filter_map(|key| sight.tree(*key)).map(|tree| tree.bytes);
        let value = held.fold(0_u64, u64::saturating_add);
        let who = (members.first().copied(), members);
        let value = (value.saturating_sub(growth.grown), value);
        self.tell(sample, sight, rule, (who, crowd), (Follows::Bytes, value), told, growth.buckets)
    }

    /// Sums over processes that have something in common: growth that no single tree carries.
    fn growing_together(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        ended: Ended,
    ) -> Vec<Finding> {
        let room = Room::of(&sample.host.unwrap_or_default(), None, &self.limits);
        // What says most first.
        let mut groups: Vec<&GroupMemory> = sample.groups.iter().collect();
        groups.sort_by(|one, other| (one.by, &one.what).cmp(&(other.by, &other.what)));
        let mut found = Vec::new();
        for group in groups {
            let Some(series) = self.groups.get(&(group.by, group.what.clone())) else { continue };
            let eldest = group.eldest.as_ref().map_or(sample.at_ns, |eldest| eldest.start_ns);
            let age_ns = sample.at_ns.saturating_sub(eldest);
            let Some(crossed) = self.crossed(series, &room, age_ns, ended) else { continue };
            let Crossed { rule, growth, horizon_s } = crossed;
            // Builds beside each other take gigabytes within minutes, and give them back.
            if rule == Rule::M1 && horizon_s != Some(f64::from(self.limits.fast_s)) {
                continue;
            }
            let share = self.share(series, &growth, &room);
            if share < u64::from(self.limits.share_percent) {
                continue;
            }
            let grown = |key| self.grown(key, &growth, sample.at_ns);
            let crowd = sight.crowd_of(group, growth.grown, grown);
            let Some(crowd) = crowd else { continue };
            let least = room.notable(&self.limits);
            let share = (share, self.limits.share_percent);
            let mut told = measures::of_growth(&growth, &room, (least, horizon_s), share, 0);
            told.push(measure(measures::HOLDS, group.bytes as f64, None, "bytes"));
            told.push(measure(measures::PROCESSES, group.processes.into(), None, "processes"));
            let held = crowd.members.iter().filter_map(|key| sight.tree(*key));
            let value = held.fold(0_u64, |sum, tree| sum.saturating_add(tree.bytes));
            let value = (value.saturating_sub(growth.grown), value);
            let who = (crowd.members.first().copied(), crowd.members.clone());
            found.extend(self.tell(
                sample,
                sight,
                rule,
                (who, Some(crowd)),
                (Follows::Bytes, value),
                told,
                growth.buckets,
            ));
        }
        found
    }

    /// M6.
    fn growing_unattributed(&mut self, sample: &MemorySample, ended: Ended) -> Option<Finding> {
        let host = sample.host.unwrap_or_default();
        host.available_bytes?;
        let room = Room::of(&host, None, &self.limits);
        let growth = self.crossed(&self.host, &room, 0, ended)?.growth;
        let told = unattributed::found(&self.host, &growth, &room, &host, &self.limits)?;
        if self.claims.of_host().is_some() {
            return None;
        }
        let value = self.host.latest.bytes;
        self.claims.put(Claim::new(
            Rule::M6,
            (None, Vec::new()),
            Follows::Host,
            (value.saturating_sub(growth.grown), value),
            self.now_ns,
            patience(growth.window),
        ));
        Some(finding(sample, Rule::M6, (None, None), told, growth.buckets))
    }

    /// R4.
    fn accumulating(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        ended: Ended,
    ) -> Vec<Finding> {
        let limits = &self.limits;
        let mut crossed: BTreeMap<ProcessKey, Accumulation> = BTreeMap::new();
        for tree in &sample.trees {
            let Some(key) = tree.root.as_ref().map(key_of) else { continue };
            let Some(series) = self.trees.get(&key) else { continue };
            let age_ns = sample.at_ns.saturating_sub(key.start_ns);
            let second =
                ended.second.then(|| workers::quick(&series.seconds, limits.second_workers));
            let minute =
                ended.minute.then(|| workers::quick(&series.minutes, limits.minute_workers));
            // Of those that were born before the sensor was there nobody knows how many ended.
            let counted = self.now_ns - self.since_ns >= BUCKETS as u64 * LENGTHS_NS[1];
            let slow = (ended.rings[1] && counted)
                .then(|| workers::slow(&series.rings[1], age_ns, limits));
            if let Some(one) = [second, minute, slow].into_iter().flatten().flatten().next() {
                crossed.insert(key, one);
            }
        }
        let keys: BTreeSet<ProcessKey> = crossed.keys().copied().collect();
        let mut found = Vec::new();
        for top in sight.topmost(&keys) {
            let grown = |key: ProcessKey| crossed.get(&key).map_or(0, |one| u64::from(one.live));
            let lowest = sight.lowest(top, grown);
            let (Some(one), Some(tree)) = (crossed.get(&lowest), sight.tree(lowest)) else {
                continue;
            };
            let mut told = measures::of_workers(one);
            told.push(measure(measures::PROCESSES, tree.processes.into(), None, "processes"));
            told.push(measure(measures::HOLDS, tree.bytes as f64, None, "bytes"));
            let value = u64::from(tree.processes);
            let base = value.saturating_sub(one.live.into());
            let follows = (Follows::Processes, (base, value));
            let who = (Some(lowest), vec![lowest]);
            let told = self.tell(sample, sight, Rule::R4, (who, None), follows, told, 0);
            if let (Some(claim), Some(_)) = (self.claims.about(&[lowest], sight), &told) {
                claim.patience_ns = one.patience_ns;
            }
            found.extend(told);
        }
        found
    }

    /// R5.
    fn unreaping(&mut self, sample: &MemorySample, sight: &Sight<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        for tree in &sample.trees {
            let Some(key) = tree.root.as_ref().map(key_of).filter(|_| tree.alive) else { continue };
            let unreaped = self
                .trees
                .get(&key)
                .and_then(|series| series.zombies.unreaped(self.now_ns, &self.limits));
            let Some(unreaped) = unreaped else { continue };
            let told = measures::of_zombies(&unreaped, self.limits.zombies);
            let follows = (Follows::Zombies, (0, unreaped.count.into()));
            let who = (Some(key), vec![key]);
            found.extend(self.tell(sample, sight, Rule::R5, (who, None), follows, told, 0));
        }
        found
    }

    /// Tells of a finding unless something as urgent was told about the same tree, or one above or below it.
    /// What was told before keeps its culprit.
    #[expect(clippy::too_many_arguments, reason = "the parts of one finding")]
    fn tell(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        rule: Rule,
        ((culprit, members), group): ((Option<ProcessKey>, Vec<ProcessKey>), Option<Group>),
        (follows, (base, value)): (Follows, (u64, u64)),
        told: Vec<crate::proto::Measure>,
        buckets: usize,
    ) -> Option<Finding> {
        let window = match rule {
            Rule::M1 | Rule::R5 => Window::Fast,
            Rule::M2 | Rule::M6 | Rule::R4 => Window::Ring(0),
            Rule::M3 => Window::Ring(1),
            Rule::M4 | Rule::M5 => Window::Ring(2),
        };
        let now_ns = self.now_ns;
        if let Some(claim) = self.claims.about(&members, sight) {
            if claim.rule >= rule {
                return None;
            }
            let same = claim.culprit == culprit || group.is_some();
            let culprit = if same { culprit } else { claim.culprit };
            let group = group.filter(|_| same);
            let held =
                claim.members.iter().filter_map(|key| held(&self.trees, now_ns, follows, *key));
            let value_now = held.fold(0, u64::saturating_add);
            let grown = value.saturating_sub(base);
            claim.rise(rule, follows, (grown, value_now), now_ns, patience(window));
            return Some(finding(sample, rule, (culprit, group), told, buckets));
        }
        self.claims.put(Claim::new(
            rule,
            (culprit, members),
            follows,
            (base, value),
            now_ns,
            patience(window),
        ));
        Some(finding(sample, rule, (culprit, group), told, buckets))
    }
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
        Window::Fast => FAST_PATIENCE_NS,
    }
}

/// The quicker estimate gives the nearer end of the forecast.
fn of_rush(rush: &Rush) -> Growth {
    let (low, high) = if rush.quick_slope < rush.slope {
        (rush.quick_slope, rush.slope)
    } else {
        (rush.slope, rush.quick_slope)
    };
    let slopes = Slopes {
        lower: low,
        median: if rush.quick { rush.quick_slope } else { rush.slope },
        upper: high,
    };
    Growth {
        window: Window::Fast,
        grown: rush.grown,
        over_ns: rush.over_ns,
        slopes,
        s: None,
        buckets: 0,
    }
}
