//! Medians, percentiles, and how sure they are.

/// Resamples for an interval: beyond 1,000 it moves by less than its own last digit.
const RESAMPLES: usize = 2000;

/// A number and where it lies with 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    pub samples: usize,
}

impl Interval {
    /// What was counted, in so many samples, is known.
    pub fn counted(value: f64, samples: usize) -> Self {
        Self { value, low: value, high: value, samples }
    }
}

/// The value below which this share of them lies, by the nearest rank; 0 of none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The middle one, or the mean of the two middle ones; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A statistic of the samples with its bootstrap interval (percentile method, Efron 1979). The
/// resampling is the same each time, so that equal samples give equal intervals.
pub fn bootstrap(samples: &[f64], statistic: impl Fn(&[f64]) -> f64) -> Interval {
    let value = statistic(samples);
    if samples.is_empty() {
        return Interval { value, low: value, high: value, samples: 0 };
    }
    let mut random = SplitMix(samples.len() as u64);
    let mut resample = vec![0.0; samples.len()];
    let estimates: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for slot in &mut resample {
                *slot = samples[(random.next() % samples.len() as u64) as usize];
            }
            statistic(&resample)
        })
        .collect();
    Interval {
        value,
        low: percentile(&estimates, 0.025),
        high: percentile(&estimates, 0.975),
        samples: samples.len(),
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): a few lines, and even enough to draw samples.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_rank() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.99).to_bits(), 99.0_f64.to_bits());
        assert_eq!(percentile(&[7.0], 0.5).to_bits(), 7.0_f64.to_bits());
        assert_eq!(percentile(&[], 0.5).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn an_interval_holds_the_middle_and_narrows() {
        let few: Vec<f64> = (0..20).map(f64::from).collect();
        let many: Vec<f64> = (0..2000).map(|n| f64::from(n) / 100.0).collect();
        let (wide, narrow) = (bootstrap(&few, median), bootstrap(&many, median));
        assert!(wide.low < wide.value && wide.value < wide.high, "{wide:?}");
        assert!(narrow.high - narrow.low < (wide.high - wide.low) / 3.0, "{wide:?} {narrow:?}");
        assert_eq!(bootstrap(&few, median), wide, "the same samples, the same interval");
    }

    #[test]
    fn nothing_measured_is_nothing_claimed() {
        assert_eq!(bootstrap(&[], median).samples, 0);
    }
}
