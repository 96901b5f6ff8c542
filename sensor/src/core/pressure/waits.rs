//! Who waits for memory just now. The kernel side adds up what a process has stood in reclaim since it is known, and
//! that never falls: so what it was some time ago is kept, and the difference is told. Pure.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use sensor_common::lineage::Slot;

use crate::lineage::ProcessKey;

/// Between two looks that are kept, ns. Compared is with the one before the last: one to two minutes, which is long
/// enough for the wait that made an incident to be in it.
const EVERY_NS: u64 = 60_000_000_000;

/// Processes that wait most, of which an incident tells.
const TOLD: usize = 3;

/// A process that has stood in reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    pub process: ProcessKey,
    pub slot: Slot,
    /// v2 id.
    pub cgroup: u64,
    /// Its threads together, ns.
    pub ns: u64,
}

/// Totals of the processes that had any.
#[derive(Debug, Default)]
struct Look {
    at_ns: u64,
    totals: HashMap<ProcessKey, u64>,
}

/// The two last looks.
#[derive(Debug, Default)]
pub struct Waits {
    before: Look,
    last: Look,
}

impl Waits {
    /// Nobody has waited before that moment (boot clock, ns), as far as is known.
    pub fn since(at_ns: u64) -> Self {
        let look = || Look { at_ns, ..Look::default() };
        Self { before: look(), last: look() }
    }

    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last.at_ns) >= EVERY_NS
    }

    /// Keeps a look: the totals of all who have stood in reclaim.
    pub fn see(&mut self, now_ns: u64, totals: impl Iterator<Item = Stalled>) {
        let totals = totals.map(|one| (one.process, one.ns)).collect();
        self.before = std::mem::replace(&mut self.last, Look { at_ns: now_ns, totals });
    }

    /// What is compared with was so long ago, ns.
    pub fn span_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.before.at_ns)
    }

    /// Who has waited longest since then, of totals as they are now. `inside`: only who is in one of these cgroups.
    pub fn longest(
        &self,
        totals: impl Iterator<Item = Stalled>,
        inside: Option<&HashSet<u64>>,
    ) -> Vec<Stalled> {
        let since = |one: Stalled| {
            // Who is not in that look had not waited yet.
            let before = self.before.totals.get(&one.process).copied().unwrap_or_default();
            Stalled { ns: one.ns.saturating_sub(before), ..one }
        };
        let here = |one: &Stalled| {
            inside.is_none_or(|cgroups| cgroups.contains(&one.cgroup)) && one.ns > 0
        };
        let mut waited: Vec<Stalled> = totals.map(since).filter(here).collect();
        waited.sort_unstable_by_key(|one| Reverse(one.ns));
        waited.truncate(TOLD);
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn of(pid: u32, cgroup: u64, seconds: u64) -> Stalled {
        let process = ProcessKey::new(pid, u64::from(pid));
        Stalled { process, slot: pid, cgroup, ns: seconds * S }
    }

    fn told(waits: &Waits, now: &[Stalled], inside: Option<&HashSet<u64>>) -> Vec<(u32, u64)> {
        let longest = waits.longest(now.iter().copied(), inside);
        longest.iter().map(|one| (one.process.tgid, one.ns / S)).collect()
    }

    #[test]
    fn who_waited_last_week_does_not_wait_now() {
        let mut waits = Waits::since(S);
        assert_eq!(told(&waits, &[of(1, 1, 500)], None), [(1, 500)], "since the sensor began");
        assert!(!waits.is_due(60 * S) && waits.is_due(61 * S));
        for minute in 1..=3 {
            waits.see(minute * 61 * S, [of(1, 1, 500)].into_iter());
        }
        let now = [of(1, 1, 500), of(2, 1, 3), of(3, 1, 4)];
        assert_eq!(told(&waits, &now, None), [(3, 4), (2, 3)]);
        assert_eq!(waits.span_ns(200 * S), 78 * S);
        // What is compared with is more than a minute old, however short ago the last look was.
        waits.see(244 * S, now.into_iter());
        let now = [of(1, 1, 500), of(2, 1, 3), of(3, 1, 5)];
        assert_eq!(told(&waits, &now, None), [(3, 5), (2, 3)]);
        let other = Stalled { process: ProcessKey::new(1, 99), ..of(1, 1, 2) };
        assert_eq!(told(&waits, &[other], None), [(1, 2)], "another one has the pid now");
    }

    #[test]
    fn of_a_cgroup_only_who_is_in_it() {
        let waits = Waits::since(0);
        let now = [of(1, 7, 9), of(2, 8, 1), of(3, 9, 2), of(4, 8, 0)];
        assert_eq!(told(&waits, &now, Some(&HashSet::from([8, 9]))), [(3, 2), (2, 1)]);
        assert_eq!(told(&waits, &now, Some(&HashSet::new())), []);
        assert_eq!(told(&waits, &[1, 2, 3, 4, 5].map(|pid| of(pid, 7, 1)), None).len(), 3);
    }
}
