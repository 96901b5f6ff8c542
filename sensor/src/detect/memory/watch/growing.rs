//! Bytes that grow (M1 to M6): what crossed, whose it is, and how much of what is around it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Crossing, Watch, finding, followed, patience};
use crate::{
    detect::{
        Finding,
        group::Group,
        memory::{
            Rule, Whose,
            claims::Claim,
            culprit::{CARRIES, Grown, MOSTLY, RUSHES, Sight, key_of},
            fast::Rush,
            measures::{self, measure},
            rings::Point,
            room::Room,
            series::{Ended, Growth, LENGTHS_NS, Series, Window},
            statistics::Slopes,
            trend::{SLOW_S, Trend, URGENT_S},
            unattributed,
        },
    },
    lineage::ProcessKey,
    proto::MemorySample,
};

const DAY_NS: u64 = 86_400_000_000_000;

/// Whoever was not yet watched for a day may rise as the day does: M3 tells of it only if all will be used up within as
/// long as it has seen it rise, s.
const UNKNOWN_DAY_S: u64 = 8 * 3600;

/// What crossed, before it is known whose it is.
#[derive(Clone, Copy, Debug)]
struct Crossed {
    rule: Rule,
    growth: Growth,
    /// Until when all has to be used up to be told.
    horizon_s: Option<f64>,
}

impl Watch {
    /// What of a series crossed, the most urgent first.
    fn crossed(&self, series: &Series, room: &Room, age_ns: u64, ended: Ended) -> Option<Crossed> {
        let limits = &self.limits;
        if let Some(rush) = series.fast.rush(room, limits) {
            let horizon_s = Some(f64::from(if rush.quick { limits.fast_s } else { limits.soon_s }));
            return Some(Crossed { rule: Rule::M1, growth: of_rush(&rush), horizon_s });
        }
        let medium_s = match series.watched_ns() {
            DAY_NS.. => limits.medium_s,
            _ => limits.medium_s.min(UNKNOWN_DAY_S),
        };
        let rings = [
            (Rule::M2, URGENT_S, limits.urgent_s),
            (Rule::M3, SLOW_S, medium_s),
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
            // Whoever is young, or was not watched for a day, is still becoming what it is.
            let settled = age_ns > 16 * LENGTHS_NS[1] && series.watched_ns() >= DAY_NS;
            if at > 0 && settled && trend.bloats(room, limits) {
                bloat = bloat.or(Some(Crossed { rule: Rule::M5, growth, horizon_s: None }));
            }
        }
        bloat
    }

    /// M1 to M6.
    pub(super) fn growing(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        ended: Ended,
    ) -> Vec<(Finding, Whose)> {
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
            if let Some(what) = self.crossed(series, &room, age_ns, ended) {
                let (share, needed) = self.share(series, &what.growth, &room);
                if share >= u64::from(needed) {
                    crossed.insert(key, what);
                }
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
                let least = if what.growth.window == Window::Fast { RUSHES } else { MOSTLY };
                let lowest = sight.lowest(top, least, |key| Grown {
                    all: grown(key),
                    lately: self.grown_lately(key, what.growth.window, top),
                });
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
                // What piles up below a process are its workers, however they were started.
                let piles_up = self.claims.piles_up(lowest);
                let crowd = (!piles_up).then(|| sight.crowd_below(lowest, grown)).flatten();
                // Lower down the growth itself may look a little different, and is told as it is there.
                let told = crossed.get(&lowest).filter(|one| one.rule == rule).copied();
                let told = told.unwrap_or_else(|| {
                    let growth = Growth { grown: grown(lowest), ..what.growth };
                    Crossed { growth, ..*what }
                });
                found.extend(self.claim_growth(sample, sight, lowest, crowd, told));
            }
        }
        found.extend(self.growing_together(sample, sight, ended));
        found.extend(self.growing_unattributed(sample, ended));
        found
    }

    /// Growth of a tree within the window in which something crossed.
    fn grown(&self, key: ProcessKey, growth: &Growth, at_ns: u64) -> u64 {
        self.grown_of(key, growth, at_ns, |point| point.bytes)
    }

    /// The same of something else than its bytes. Whose root was born in it had nothing when it began, however late the
    /// tree became large enough to be told of.
    fn grown_of(&self, key: ProcessKey, growth: &Growth, at_ns: u64, of: fn(&Point) -> u64) -> u64 {
        let series = self.trees.get(&key).filter(|one| one.seen_ns == self.now_ns);
        series.map_or(0, |series| {
            if key.start_ns >= at_ns.saturating_sub(growth.over_ns) {
                of(&series.latest)
            } else {
                series.grown(growth.window, of)
            }
        })
    }

    /// The same lately: in the later half of a ring as `top` has it, or since half a minute to a minute ago.
    fn grown_lately(&self, key: ProcessKey, window: Window, top: ProcessKey) -> u64 {
        let series = |key| self.trees.get(&key).filter(|one| one.seen_ns == self.now_ns);
        let (Some(series), Some(top)) = (series(key), series(top)) else { return 0 };
        match window {
            Window::Ring(ring) => {
                let buckets = top.rings[ring].buckets();
                let Some(since) = buckets.get(buckets.len() / 2).map(|it| it.index) else {
                    return 0;
                };
                match series.rings[ring].buckets().first() {
                    Some(first) if first.index <= since => {
                        series.grown_since(ring, since, |point| point.bytes)
                    }
                    _ => series.latest.bytes,
                }
            }
            Window::Fast => series.fast.grown_lately(),
        }
    }

    /// How much of the growth of what is around it a series has, and has to have, percent.
    fn share(&self, series: &Series, growth: &Growth, room: &Room) -> (u64, u32) {
        let around = match growth.window {
            Window::Ring(ring) => {
                let since = series.rings[ring].buckets().first().map_or(0, |first| first.index);
                if room.limited {
                    series.grown_since(ring, since, |point| point.limit_used)
                } else {
                    self.host.grown_since(ring, since, unattributed::in_processes)
                }
            }
            // Who rushes was compared with what went of its room.
            Window::Fast => return (growth.share.unwrap_or(100), self.limits.fast_share_percent),
        };
        let share = (u128::from(growth.grown) * 100 / u128::from(around.max(1))).min(100);
        (share as u64, self.limits.share_percent)
    }

    fn claim_growth(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        culprit: ProcessKey,
        crowd: Option<Group>,
        Crossed { rule, growth, horizon_s }: Crossed,
    ) -> Option<(Finding, Whose)> {
        let tree = sight.tree(culprit)?;
        let series = self.trees.get(&culprit)?;
        let room = self.room(sample, tree);
        let own = self.grown_of(culprit, &growth, sample.at_ns, |point| point.root_bytes);
        let own = (u128::from(own) * 100 / u128::from(growth.grown.max(1))).min(100) as u64;
        let share = self.share(series, &growth, &room);
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
        let lately = |key| self.grown_lately(key, growth.window, culprit);
        let crossing = Crossing {
            rule,
            culprit: members.first().copied(),
            carriers: self.claims.carriers(&members, (rule, growth.grown), sight, lately),
            group: crowd,
            base: value.saturating_sub(growth.grown),
            value,
            told,
            buckets: growth.buckets,
            patience_ns: patience_of(rule, &growth),
        };
        self.tell(sample, sight, crossing)
    }

    /// Sums over processes that have something in common: growth that no single tree carries.
    fn growing_together(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        ended: Ended,
    ) -> Vec<(Finding, Whose)> {
        let mut found = Vec::new();
        for (key, group) in followed(sample) {
            let Some(series) = self.groups.get(&key) else { continue };
            let room = self.room_together(sample, group);
            let eldest = group.eldest.as_ref().map_or(sample.at_ns, |eldest| eldest.start_ns);
            let age_ns = sample.at_ns.saturating_sub(eldest);
            let Some(crossed) = self.crossed(series, &room, age_ns, ended) else { continue };
            let Crossed { rule, growth, horizon_s } = crossed;
            // Builds beside each other take gigabytes within minutes, and give them back.
            if rule == Rule::M1 && horizon_s != Some(f64::from(self.limits.fast_s)) {
                continue;
            }
            let share = self.share(series, &growth, &room);
            if share.0 < u64::from(share.1) {
                continue;
            }
            let grown = |key| self.grown(key, &growth, sample.at_ns);
            let crowd = sight.crowd_of(group, growth.grown, grown);
            let Some(crowd) = crowd else { continue };
            let least = room.notable(&self.limits);
            let mut told = measures::of_growth(&growth, &room, (least, horizon_s), share, 0);
            told.push(measure(measures::HOLDS, group.bytes as f64, None, "bytes"));
            told.push(measure(measures::PROCESSES, group.processes.into(), None, "processes"));
            let held = crowd.members.iter().filter_map(|key| sight.tree(*key));
            let value = held.fold(0_u64, |sum, tree| sum.saturating_add(tree.bytes));
            let Some(eldest) = crowd.members.first().copied() else { continue };
            let lately = |key| self.grown_lately(key, growth.window, eldest);
            let crossing = Crossing {
                rule,
                culprit: Some(eldest),
                carriers: self.claims.carriers(&crowd.members, (rule, growth.grown), sight, lately),
                group: Some(crowd),
                base: value.saturating_sub(growth.grown),
                value,
                told,
                buckets: growth.buckets,
                patience_ns: patience_of(rule, &growth),
            };
            found.extend(self.tell(sample, sight, crossing));
        }
        found
    }

    /// M6.
    fn growing_unattributed(
        &mut self,
        sample: &MemorySample,
        ended: Ended,
    ) -> Option<(Finding, Whose)> {
        let host = sample.host.unwrap_or_default();
        host.available_bytes?;
        let room = Room::of(&host, None, &self.limits);
        let growth = self.crossed(&self.host, &room, 0, ended)?.growth;
        let told = unattributed::found(&self.host, &growth, &room, &host, &self.limits)?;
        if self.claims.of_host().is_some() {
            return None;
        }
        let value = unattributed::outside(&self.host.latest);
        let grown = self.host.grown(growth.window, unattributed::outside);
        self.claims.put(Claim::new(
            Rule::M6,
            (None, Vec::new(), None),
            (value.saturating_sub(grown), value),
            (self.now_ns, sample.at_ns),
            patience(growth.window),
        ));
        Some((finding(sample, Rule::M6, (None, None), told, growth.buckets), None))
    }
}

/// What uses nothing up is followed as the longest ring is, whichever has seen it.
fn patience_of(rule: Rule, growth: &Growth) -> u64 {
    patience(if rule == Rule::M5 { Window::Ring(LENGTHS_NS.len() - 1) } else { growth.window })
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
        course: Some((rush.rises, rush.unevenness)),
        share: Some(rush.share),
        buckets: 0,
    }
}
