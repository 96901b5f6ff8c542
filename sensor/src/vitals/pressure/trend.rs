//! How fast what is available falls: Holt's linear smoothing over samples that come at any pace.

/// The level follows a sample within so long, s: `MemAvailable` jumps by some MiB between two looks, because
/// the kernel counts pages per CPU in batches.
const LEVEL_S: f64 = 0.5;

/// The slope follows within so long, s: of a process that takes all of 1 GiB within 5 s, two thirds of its
/// pace are seen while more than half is left.
const SLOPE_S: f64 = 2.0;

/// A fall that would last longer than this is none: everything falls a little, now and then.
const LONGEST_S: f64 = 600.0;

/// Between two samples; after a longer pause nothing is known.
const GAP_NS: u64 = 10_000_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Trend {
    last_ns: u64,
    /// Bytes.
    level: f64,
    /// Bytes a second.
    slope: f64,
    falling_since: Option<u64>,
}

/// A fall that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fall {
    pub bytes_per_second: u64,
    /// For how long, ns.
    pub for_ns: u64,
}

impl Trend {
    /// Takes a sample; the fall that it is part of, if any.
    pub fn see(&mut self, at_ns: u64, bytes: u64) -> Option<Fall> {
        let value = bytes as f64;
        let gap_ns = at_ns.saturating_sub(self.last_ns);
        if self.last_ns == 0 || gap_ns > GAP_NS {
            *self = Self { last_ns: at_ns, level: value, ..Self::default() };
            return None;
        }
        let gap_s = gap_ns as f64 / 1e9;
        if gap_s > 0.0 {
            let expected = self.level + self.slope * gap_s;
            let level = expected + follow(gap_s, LEVEL_S) * (value - expected);
            let slope = (level - self.level) / gap_s;
            self.slope += follow(gap_s, SLOPE_S) * (slope - self.slope);
            self.level = level;
            self.last_ns = at_ns;
        }
        let falls = self.slope < 0.0 && value < -self.slope * LONGEST_S;
        if !falls {
            self.falling_since = None;
            return None;
        }
        let since = *self.falling_since.get_or_insert(at_ns);
        Some(Fall { bytes_per_second: (-self.slope) as u64, for_ns: at_ns.saturating_sub(since) })
    }
}

/// How much of a difference is made up for after a time.
fn follow(gap_s: f64, constant_s: f64) -> f64 {
    1.0 - (-gap_s / constant_s).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;
    const MB: u64 = 1_000_000;

    #[test]
    fn a_steady_fall_is_seen_at_its_pace() {
        for (pace, every_ns) in [(5 * MB, S / 10), (200 * MB, S / 20), (50 * MB, S)] {
            let mut trend = Trend::default();
            let mut last = None;
            for look in 0..200 {
                let at = S + look * every_ns;
                let gone = look * every_ns / 1_000 * pace / MB;
                last = trend.see(at, 100_000 * MB / 1_000 * 1_000 - gone.min(90_000 * MB)).or(last);
            }
            // 100 GB fall by 5 MB/s for 5 hours: that is none.
            let Some(fall) = last else {
                assert!(100_000 * MB / pace > 600);
                continue;
            };
            assert!(fall.bytes_per_second.abs_diff(pace) < pace / 20, "{pace}: {fall:?}");
        }
    }

    #[test]
    fn a_fall_begins_anew_after_a_rise() {
        let mut trend = Trend::default();
        let mut bytes = 1000 * MB;
        for look in 0..50 {
            trend.see(S + look * S / 10, bytes);
            bytes -= 5 * MB;
        }
        let fall = trend.see(6 * S, bytes).unwrap();
        assert!((4 * S..=5 * S).contains(&fall.for_ns), "{fall:?}");
        for look in 1..50 {
            bytes += 5 * MB;
            trend.see(6 * S + look * S / 10, bytes);
        }
        assert_eq!(trend.see(11 * S, bytes), None);
        assert_eq!(trend.see(40 * S, bytes / 2), None, "nobody has looked for half a minute");
    }

    proptest! {
        #[test]
        fn any_samples_have_an_answer(samples in prop::collection::vec((any::<u64>(), any::<u64>()), 0..40)) {
            let mut trend = Trend::default();
            for (at, bytes) in samples {
                if let Some(fall) = trend.see(at, bytes) {
                    prop_assert!(fall.for_ns <= at);
                }
                prop_assert!(trend.slope.is_finite() && trend.level.is_finite());
            }
        }
    }
}
