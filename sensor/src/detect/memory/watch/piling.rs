//! Processes that pile up: workers that stay (R4), and children that nobody waits for (R5).

use std::collections::{BTreeMap, BTreeSet};

use super::{Crossing, Watch, patience};
use crate::{
    detect::{
        Finding,
        memory::{
            Rule, Whose,
            culprit::{Grown, MOSTLY, Sight, key_of},
            measures::{self, measure},
            rings::BUCKETS,
            series::{Ended, LENGTHS_NS, Window},
            workers::{self, Accumulation},
        },
    },
    lineage::ProcessKey,
    proto::MemorySample,
};

impl Watch {
    /// R4.
    pub(super) fn accumulating(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
        ended: Ended,
    ) -> Vec<(Finding, Whose)> {
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
            let lowest = sight.lowest(top, MOSTLY, |key| Grown { all: grown(key), lately: 0 });
            let (Some(one), Some(tree)) = (crossed.get(&lowest), sight.tree(lowest)) else {
                continue;
            };
            if self.claims.piled_up(lowest, sight) {
                continue;
            }
            let mut told = measures::of_workers(one);
            told.push(measure(measures::PROCESSES, tree.processes.into(), None, "processes"));
            told.push(measure(measures::HOLDS, tree.bytes as f64, None, "bytes"));
            let value = u64::from(tree.processes);
            let base = value.saturating_sub(one.live.into());
            found.extend(self.tell(
                sample,
                sight,
                Crossing {
                    rule: Rule::R4,
                    culprit: Some(lowest),
                    group: None,
                    base,
                    value,
                    told,
                    buckets: 0,
                    patience_ns: one.patience_ns,
                    carriers: Vec::new(),
                },
            ));
        }
        found
    }

    /// R5.
    pub(super) fn unreaping(
        &mut self,
        sample: &MemorySample,
        sight: &Sight<'_>,
    ) -> Vec<(Finding, Whose)> {
        let mut found = Vec::new();
        for tree in &sample.trees {
            let Some(key) = tree.root.as_ref().map(key_of).filter(|_| tree.alive) else { continue };
            let unreaped = self
                .trees
                .get(&key)
                .and_then(|series| series.zombies.unreaped(self.now_ns, &self.limits));
            let Some(unreaped) = unreaped else { continue };
            let told = measures::of_zombies(&unreaped, self.limits.zombies);
            found.extend(self.tell(
                sample,
                sight,
                Crossing {
                    rule: Rule::R5,
                    culprit: Some(key),
                    group: None,
                    base: 0,
                    value: unreaped.count.into(),
                    told,
                    buckets: 0,
                    patience_ns: patience(Window::Fast),
                    carriers: Vec::new(),
                },
            ));
        }
        found
    }
}
