//! How fast trees grow just now, and when what is left to them is used up. Pure.

use std::collections::VecDeque;

use foldhash::HashMap;

use crate::proto::{MemorySample, ProcessKey};

/// Growth is what happened in this time: shorter, and what a program takes and gives back as it works looks
/// like growth.
const OVER_NS: u64 = 60_000_000_000;

/// What grows for less than this long is not followed further into the future.
const LEAST_NS: u64 = 4_000_000_000;

/// Less than this in all is no growth, bytes.
const LEAST_BYTES: u64 = 8 << 20;

/// Later than this is never, s: a week.
const NEVER_S: f64 = 7.0 * 86_400.0;

/// Of one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Growth {
    pub bytes: u64,
    pub threads: u32,
    /// Bytes a second over the last minute, or as long as it is known; negative: less.
    pub per_second: f64,
    /// Until nothing is left to it, s, if it goes on like that; `None`: nothing is foreseen.
    pub exhausted_in_s: Option<f64>,
}

/// The last minute of all trees that are told of.
#[derive(Debug, Default)]
pub struct Outlook {
    /// Of the last sample that was taken in.
    sampled_ns: u64,
    before: HashMap<ProcessKey, VecDeque<(u64, u64)>>,
    growth: HashMap<ProcessKey, Growth>,
}

impl Outlook {
    /// Takes a sample in. Who is not told of any more is forgotten; where nobody looked, all stays as it was.
    pub fn see(&mut self, sample: &MemorySample) {
        if sample.trees_unknown {
            return;
        }
        self.sampled_ns = sample.at_ns;
        let mut known = std::mem::take(&mut self.before);
        self.growth.clear();
        let available = sample.host.and_then(|host| host.available_bytes).unwrap_or(u64::MAX);
        for tree in &sample.trees {
            let Some(root) = tree.root else { continue };
            let mut seen = known.remove(&root).unwrap_or_default();
            seen.push_back((sample.at_ns, tree.bytes));
            while seen.len() > 2 && sample.at_ns.saturating_sub(seen[1].0) >= OVER_NS {
                seen.pop_front();
            }
            let used = tree.limit_used_bytes.unwrap_or(0);
            let room = tree.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(used));
            let growth = growth(&seen, available.min(room));
            self.growth.insert(root, Growth { threads: tree.threads, ..growth });
            self.before.insert(root, seen);
        }
    }

    /// When the last sample was taken in, boot clock; 0: none was.
    pub fn sampled_ns(&self) -> u64 {
        self.sampled_ns
    }

    pub fn of(&self, root: ProcessKey) -> Option<Growth> {
        self.growth.get(&root).copied()
    }
}

fn growth(seen: &VecDeque<(u64, u64)>, left: u64) -> Growth {
    let (Some((first_ns, first)), Some((last_ns, bytes))) = (seen.front(), seen.back()) else {
        return Growth::default();
    };
    let (span_ns, bytes) = (last_ns.saturating_sub(*first_ns), *bytes);
    if span_ns == 0 {
        return Growth { bytes, ..Growth::default() };
    }
    let per_second = (bytes as f64 - *first as f64) * 1e9 / span_ns as f64;
    let grows = span_ns >= LEAST_NS && bytes.saturating_sub(*first) >= LEAST_BYTES;
    let in_s = left as f64 / per_second;
    let exhausted_in_s = (grows && in_s < NEVER_S).then_some(in_s);
    Growth { bytes, per_second, exhausted_in_s, ..Growth::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{HostMemory, TreeMemory};

    const MIB: u64 = 1 << 20;
    const ROOT: ProcessKey = ProcessKey { pid: 7, start_ns: 1 };

    fn sample(at_s: u64, held: u64, limit: Option<u64>) -> MemorySample {
        MemorySample {
            at_ns: at_s * 1_000_000_000,
            host: Some(HostMemory { available_bytes: Some(1_000 * MIB), ..HostMemory::default() }),
            trees: vec![TreeMemory {
                root: Some(ROOT),
                bytes: held * MIB,
                limit_bytes: limit.map(|limit| limit * MIB),
                limit_used_bytes: limit.map(|_| held * MIB),
                ..TreeMemory::default()
            }],
            ..MemorySample::default()
        }
    }

    fn seen(samples: &[MemorySample]) -> Growth {
        after(samples).of(ROOT).unwrap()
    }

    fn after(samples: &[MemorySample]) -> Outlook {
        let mut outlook = Outlook::default();
        for sample in samples {
            outlook.see(sample);
        }
        outlook
    }

    /// MiB a second, as whole ones.
    fn pace(growth: Growth) -> i64 {
        (growth.per_second / MIB as f64) as i64
    }

    #[test]
    fn what_is_left_is_used_up_at_this_rate() {
        let first = sample(100, 200, None);
        assert_eq!(seen(std::slice::from_ref(&first)).exhausted_in_s, None);
        let growth = seen(&[first.clone(), sample(105, 250, None)]);
        assert_eq!(pace(growth), 10);
        assert_eq!(growth.exhausted_in_s, Some(100.0));
        // The limit is nearer.
        let growth = seen(&[first.clone(), sample(105, 250, Some(300))]);
        assert_eq!(growth.exhausted_in_s, Some(5.0));
        // A second, or a few MiB, say nothing.
        assert_eq!(seen(&[first.clone(), sample(101, 250, None)]).exhausted_in_s, None);
        assert_eq!(seen(&[first.clone(), sample(110, 207, None)]).exhausted_in_s, None);
        let growth = seen(&[first, sample(110, 100, None)]);
        assert_eq!((pace(growth), growth.exhausted_in_s), (-10, None));
    }

    #[test]
    fn only_the_last_minute_counts() {
        let samples: Vec<MemorySample> = (0..100)
            .map(|tick| sample(5 * tick, if tick < 50 { 100 } else { 1_000 }, None))
            .collect();
        assert_eq!(pace(seen(&samples)), 0);
        let mut outlook = after(&samples);
        assert!(outlook.before[&ROOT].len() <= 14);
        let before = outlook.of(ROOT);
        outlook.see(&MemorySample { at_ns: 1, trees_unknown: true, ..MemorySample::default() });
        assert_eq!(outlook.of(ROOT), before, "nobody looked");
        outlook.see(&MemorySample { at_ns: 1, ..MemorySample::default() });
        assert_eq!(outlook.of(ROOT), None);
    }
}
