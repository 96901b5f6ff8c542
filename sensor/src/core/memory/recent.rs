//! The last quarter of an hour, kept beforehand: when the kernel kills, nothing is to be scanned any more.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prost::Message as _;

use crate::proto::MemorySample;

/// What grows fast enough to be explained by it grows for no longer.
const KEPT_NS: u64 = 15 * 60 * SECOND_NS;

/// Older than this, one sample in five seconds is enough: 240 samples in all, 0.7 MiB on a host with 30
/// trees that are told of, 7 MiB on one with 256.
const FINE_NS: u64 = 60 * SECOND_NS;
const COARSE_NS: u64 = 5 * SECOND_NS;

/// A second, less what a timer is late.
const SECOND_NS: u64 = 1_000_000_000;
const LATE_NS: u64 = SECOND_NS / 2;

/// Samples, oldest first, as they are recorded; only those for which somebody looked at processes, so that the last one
/// says who held what before memory was exhausted.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<(u64, Vec<u8>)>>);

impl Recent {
    pub(crate) fn add(&self, sample: &MemorySample) {
        if sample.trees_unknown {
            return;
        }
        let mut kept = self.lock();
        kept.push_back((sample.at_ns, sample.encode_to_vec()));
        while kept.front().is_some_and(|(at, _)| sample.at_ns.saturating_sub(*at) > KEPT_NS) {
            kept.pop_front();
        }
        // One at a time becomes too old to be kept beside its neighbours.
        let fine = |at: u64| sample.at_ns.saturating_sub(at) <= FINE_NS;
        let index = kept.partition_point(|(at, _)| !fine(*at));
        if index >= 2 && kept[index - 1].0.saturating_sub(kept[index - 2].0) < COARSE_NS - LATE_NS {
            kept.remove(index - 1);
        }
    }

    /// Those from a moment of this boot on, oldest first, boot clock, ns.
    pub fn since(&self, boot_ns: u64) -> Vec<MemorySample> {
        let kept: Vec<Vec<u8>> = {
            let kept = self.lock();
            let from = kept.partition_point(|(at, _)| *at < boot_ns);
            kept.range(from..).map(|(_, bytes)| bytes.clone()).collect()
        };
        kept.iter().filter_map(|bytes| MemorySample::decode(bytes.as_slice()).ok()).collect()
    }

    /// The first from a moment of this boot on, boot clock, ns, and the newest: what lies between them is
    /// not unpacked.
    pub fn ends(&self, boot_ns: u64) -> Option<(MemorySample, MemorySample)> {
        let (first, last) = {
            let kept = self.lock();
            let from = kept.partition_point(|(at, _)| *at < boot_ns);
            (kept.get(from)?.1.clone(), kept.back()?.1.clone())
        };
        let sample = |bytes: Vec<u8>| MemorySample::decode(bytes.as_slice()).ok();
        Some((sample(first)?, sample(last)?))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Vec<u8>)>> {
        // Nothing under the lock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_seconds_and_fourteen_of_every_fifth() {
        let recent = Recent::default();
        for second in 0..3_600_u64 {
            let sample = MemorySample { at_ns: second * SECOND_NS, ..MemorySample::default() };
            recent.add(&sample);
        }
        let kept: Vec<u64> =
            recent.since(0).iter().map(|sample| sample.at_ns / SECOND_NS).collect();
        assert_eq!(kept.last(), Some(&3_599));
        assert!(kept[0] >= 3_599 - 900 && kept[0] <= 3_599 - 895, "{}", kept[0]);
        let fine = kept.iter().filter(|at| **at >= 3_599 - 60).count();
        assert_eq!(fine, 61);
        let coarse = kept.len() - fine;
        assert!((165..=170).contains(&coarse), "{coarse}");
        assert!(kept.windows(2).all(|two| two[1] - two[0] <= 5), "{kept:?}");
        assert_eq!(recent.since(3_590 * SECOND_NS).len(), 10);
        let ends = recent.ends(3_590 * SECOND_NS).unwrap();
        assert_eq!((ends.0.at_ns, ends.1.at_ns), (3_590 * SECOND_NS, 3_599 * SECOND_NS));
        assert!(recent.ends(3_600 * SECOND_NS).is_none());
    }

    #[test]
    fn a_sample_without_a_look_at_processes_is_no_last_look() {
        let recent = Recent::default();
        let sample =
            |at_ns, trees_unknown| MemorySample { at_ns, trees_unknown, ..MemorySample::default() };
        for at in 1..=100 {
            recent.add(&sample(at * 5 * SECOND_NS, at > 98));
        }
        let last = 98 * 5 * SECOND_NS;
        assert_eq!(recent.since(0).last().unwrap().at_ns, last);
        assert_eq!(recent.ends(0).unwrap().1.at_ns, last);
    }

    #[test]
    fn what_comes_every_five_seconds_is_kept_as_it_is() {
        let recent = Recent::default();
        for tick in 0..720_u64 {
            // A timer is some milliseconds late now and then.
            let late = tick % 3 * 20_000_000;
            let at_ns = tick * 5 * SECOND_NS + late;
            recent.add(&MemorySample { at_ns, ..MemorySample::default() });
        }
        assert_eq!(recent.since(0).len(), 181);
    }
}
