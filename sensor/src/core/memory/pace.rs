//! When the next sample is due: every five seconds, and every second while something grows fast or little is
//! left. Pure.

use std::{collections::HashMap, time::Duration};

use crate::{
    detect::memory::TOLD_OF,
    proto::{HostMemory, MemorySample, ProcessKey, TreeMemory},
};

/// Growth that fills a host within minutes is followed by this; a sample is recorded each time, so that a
/// replay sees what the detectors saw: 6 KiB with 70 trees that are told of, 100 MiB a day of a log that has
/// 1 GiB. Bulk goes first when that is full.
pub const CALM: Duration = Duration::from_secs(5);
pub const QUICK: Duration = Duration::from_secs(1);

/// Where /proc has to do, a look at 1,000 processes takes 20 ms: no more than half a percent of a CPU.
const BY_PROC: Duration = Duration::from_secs(5);

/// What would use up all that is left within this time is followed every second.
const EXHAUSTED_WITHIN_S: f64 = 600.0;

/// Less than this in one step is noise: what a program takes and gives back as it works. Where little is left, less is
/// more: one part of so many of it, but no less than what the kernel's counters lag behind by on eight CPUs.
const STEP_BYTES: u64 = 8 << 20;
const STEP_PART: u64 = 64;
const LEAST_STEP_BYTES: u64 = 1 << 20;

/// Less than this part of the host's memory is little, percent: where earlyoom begins to kill.
const LITTLE: u64 = 10;

/// So long after the last reason samples still come every second.
const AFTERWARDS_NS: u64 = 30_000_000_000;

/// What is remembered of the last sample.
pub struct Pace {
    by_kernel: bool,
    at_ns: u64,
    available: Option<u64>,
    bytes: HashMap<ProcessKey, u64>,
    quick_until_ns: u64,
}

impl Pace {
    /// `by_kernel`: a look costs little.
    pub fn new(by_kernel: bool) -> Self {
        let bytes = HashMap::new();
        Self { by_kernel, at_ns: 0, available: None, bytes, quick_until_ns: 0 }
    }

    /// Time until the next sample.
    pub fn after(&mut self, sample: &MemorySample) -> Duration {
        let host = sample.host.unwrap_or_default();
        if self.is_fast(sample, &host) || is_little(&host) {
            self.quick_until_ns = sample.at_ns + AFTERWARDS_NS;
        }
        self.at_ns = sample.at_ns;
        self.available = host.available_bytes;
        let known = sample.trees.iter().filter_map(|tree| Some((tree.root?, tree.bytes)));
        self.bytes = known.collect();
        if !self.by_kernel {
            BY_PROC
        } else if sample.at_ns < self.quick_until_ns {
            QUICK
        } else {
            CALM
        }
    }

    fn is_fast(&self, sample: &MemorySample, host: &HostMemory) -> bool {
        let span_s = sample.at_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        let is_fast = |grown: u64, left: u64| {
            let step = STEP_BYTES.min(left / STEP_PART).max(LEAST_STEP_BYTES);
            grown >= step && left as f64 / (grown as f64 / span_s) < EXHAUSTED_WITHIN_S
        };
        let available = host.available_bytes.unwrap_or(u64::MAX);
        let fallen = self.available.unwrap_or(0).saturating_sub(available);
        is_fast(fallen, available)
            || sample.trees.iter().any(|tree| {
                let before = tree.root.and_then(|root| self.bytes.get(&root));
                let before = before.copied().unwrap_or_else(|| self.unseen(tree));
                let limit = tree.limit_bytes.unwrap_or(u64::MAX);
                let room = limit.saturating_sub(tree.limit_used_bytes.unwrap_or(0));
                is_fast(tree.bytes.saturating_sub(before), available.min(room))
            })
    }

    /// What a tree had that was not in the last sample: it was not there, or had too little to be told of.
    fn unseen(&self, tree: &TreeMemory) -> u64 {
        let born = tree.root.is_some_and(|root| root.start_ns > self.at_ns);
        match (self.at_ns, born) {
            (0, _) => tree.bytes,
            (_, true) => 0,
            (_, false) => tree.bytes.min(TOLD_OF),
        }
    }
}

/// So little is left that nobody can tell what happens next.
fn is_little(host: &HostMemory) -> bool {
    match (host.available_bytes, host.total_bytes) {
        (Some(available), Some(total)) => available.saturating_mul(100) < total * LITTLE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn sample(at_s: u64, available: u64, held: u64, limit: Option<u64>) -> MemorySample {
        let tree = TreeMemory {
            root: Some(ProcessKey { pid: 7, start_ns: 1 }),
            bytes: held * MIB,
            limit_bytes: limit.map(|limit| limit * MIB),
            limit_used_bytes: limit.map(|_| held * MIB),
            ..TreeMemory::default()
        };
        MemorySample {
            at_ns: at_s * 1_000_000_000,
            host: Some(HostMemory {
                total_bytes: Some(16_384 * MIB),
                available_bytes: Some(available * MIB),
                ..HostMemory::default()
            }),
            trees: vec![tree],
            ..MemorySample::default()
        }
    }

    #[test]
    fn quick_while_something_grows_fast() {
        let mut pace = Pace::new(true);
        assert_eq!(pace.after(&sample(100, 12_000, 5_000, None)), CALM, "nothing to compare with");
        // 5 MiB in 5 s fill 12 GiB in hours, and are noise.
        assert_eq!(pace.after(&sample(105, 11_995, 5_005, None)), CALM);
        // 20 MiB a second fill 11.9 GiB in 595 s.
        assert_eq!(pace.after(&sample(110, 11_895, 5_105, None)), QUICK);
        assert_eq!(pace.after(&sample(111, 11_895, 5_105, None)), QUICK);
        assert_eq!(pace.after(&sample(141, 11_895, 5_105, None)), CALM, "it has stopped");
    }

    #[test]
    fn quick_before_a_limit_and_where_little_is_left() {
        let mut pace = Pace::new(true);
        pace.after(&sample(100, 12_000, 100, Some(400)));
        // 2 MiB a second: the host has hours, the group 145 s.
        assert_eq!(pace.after(&sample(105, 11_990, 110, Some(400))), QUICK);
        // 1 MiB a second into the last 100 MiB of a group: they are gone within 100 s.
        let mut pace = Pace::new(true);
        pace.after(&sample(100, 12_000, 300, Some(400)));
        assert_eq!(pace.after(&sample(105, 11_995, 305, Some(400))), QUICK);
        // What is below a MiB may be what the counters lag behind by.
        let mut pace = Pace::new(true);
        pace.after(&sample(100, 12_000, 390, Some(400)));
        let mut lags = sample(105, 12_000, 390, Some(400));
        lags.trees[0].bytes += MIB - 1;
        assert_eq!(pace.after(&lags), CALM);
        let mut pace = Pace::new(true);
        assert_eq!(pace.after(&sample(100, 1_638, 100, None)), QUICK);
        let mut pace = Pace::new(true);
        assert_eq!(pace.after(&sample(100, 1_639, 100, None)), CALM);
        let mut pace = Pace::new(false);
        assert_eq!(pace.after(&sample(100, 1_638, 100, None)), BY_PROC);
    }

    #[test]
    fn who_comes_back_to_the_list_has_not_grown_by_all_it_has() {
        let (mut pace, mut at_s) = (Pace::new(true), 100);
        let mut after = |held: Option<u64>, start_ns: u64| {
            at_s += 5;
            let mut sample = sample(at_s, 4_000, held.unwrap_or(0), None);
            sample.trees[0].root = Some(ProcessKey { pid: 7, start_ns });
            sample.trees.truncate(usize::from(held.is_some()));
            pace.after(&sample)
        };
        // Told of with 64 MiB, then with less not, then again: a hair more.
        for held in [Some(64), None, Some(65), None, Some(64)] {
            assert_eq!(after(held, 1), CALM);
        }
        assert_eq!(after(None, 1), CALM);
        // Whoever was there and had less than that, and has 50 MiB more now, fills the rest within 400 s; so does
        // who was not there at all.
        assert_eq!(after(Some(64 + 50), 1), QUICK);
        let calm = (0..10).map(|_| after(None, 1)).position(|pause| pause == CALM);
        assert_eq!(calm, Some(5), "30 s after the last reason");
        assert_eq!(after(Some(50), u64::MAX), QUICK);
    }
}
