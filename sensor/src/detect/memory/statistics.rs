//! Robust statistics of a short series: none of them is moved by a single wild value.
//!
//! Only sums, products, quotients and comparisons, so that the same series gives the same numbers, bit for
//! bit, wherever it is replayed.

/// Mann and Kendall's S: of all pairs, those that rise less those that fall. Of n values n·(n−1)/2 at
/// most (Mann 1945, Kendall 1975).
pub fn mann_kendall(values: &[f64]) -> i32 {
    let pairs = values.iter().enumerate().flat_map(|(at, one)| {
        values[at + 1..].iter().map(move |later| match later.partial_cmp(one) {
            Some(std::cmp::Ordering::Greater) => 1,
            Some(std::cmp::Ordering::Less) => -1,
            _ => 0,
        })
    });
    pairs.sum()
}

/// The largest S that so many values can have.
pub fn most(values: usize) -> i32 {
    (values * values.saturating_sub(1) / 2) as i32
}

/// Slopes between all pairs of points (Theil 1950, Sen 1968): their quartiles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slopes {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl Slopes {
    /// Of points (time, value) in order of time; pairs at one time have no slope. Zero where there is
    /// no pair.
    pub fn of(points: &[(f64, f64)]) -> Self {
        let mut slopes: Vec<f64> = points
            .iter()
            .enumerate()
            .flat_map(|(at, one)| {
                points[at + 1..]
                    .iter()
                    .filter(|later| later.0 > one.0)
                    .map(|later| (later.1 - one.1) / (later.0 - one.0))
            })
            .collect();
        slopes.sort_unstable_by(f64::total_cmp);
        Self {
            lower: quantile(&slopes, 1),
            median: quantile(&slopes, 2),
            upper: quantile(&slopes, 3),
        }
    }
}

/// A quartile (1 to 3) of sorted values, linear between two of them.
fn quantile(sorted: &[f64], quartile: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let (below, rest) = (last * quartile / 4, last * quartile % 4);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * rest as f64 / 4.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbered(values: &[f64]) -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect()
    }

    /// Reference values: `original_test` of pymannkendall 1.4.3 (S, slope), and numpy's `percentile` of all
    /// slopes (25, 75).
    #[test]
    fn they_agree_with_the_reference() {
        let noisy = [
            64.0, 71.0, 69.0, 80.0, 92.0, 90.0, 101.0, 115.0, 113.0, 128.0, 131.0, 140.0, 152.0,
            149.0, 163.0, 170.0,
        ];
        let flat = [
            512.0, 500.0, 530.0, 498.0, 540.0, 505.0, 560.0, 515.0, 533.0, 521.0, 509.0, 555.0,
            528.0, 519.0, 537.0, 511.0,
        ];
        let ties = [100.0, 100.0, 100.0, 120.0, 120.0, 90.0, 140.0, 140.0, 160.0, 150.0];
        let falling = [
            900.0, 850.0, 870.0, 810.0, 790.0, 805.0, 760.0, 700.0, 720.0, 650.0, 640.0, 600.0,
            610.0, 580.0, 555.0, 500.0,
        ];
        let expected: [(&[f64], i32, [f64; 3]); 4] = [
            (&noisy, 112, [6.5, 7.236_363_636_363_636, 8.0]),
            (&flat, 20, [-2.677_272_727_272_727_2, 0.9, 3.931_818_181_818_181_8]),
            (&ties, 28, [3.333_333_333_333_333_5, 6.666_666_666_666_667, 10.0]),
            (&falling, -112, [-28.489_010_989_010_99, -25.0, -21.116_071_428_571_43]),
        ];
        for (values, s, [lower, median, upper]) in expected {
            let slopes = Slopes::of(&numbered(values));
            assert_eq!(mann_kendall(values), s);
            for (ours, theirs) in
                [(slopes.lower, lower), (slopes.median, median), (slopes.upper, upper)]
            {
                assert!((ours - theirs).abs() < 1e-12, "{ours} instead of {theirs}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_line_has_its_slope_whatever_a_single_value_does(
            slope in -1e6_f64..1e6,
            start in -1e9_f64..1e9,
            wild in -1e12_f64..1e12,
            at in 0_usize..16,
        ) {
            let mut points: Vec<(f64, f64)> =
                (0..16).map(|x| (f64::from(x), slope.mul_add(f64::from(x), start))).collect();
            points[at].1 = wild;
            let found = Slopes::of(&points);
            // 105 of 120 pairs are on the line.
            let near = |one: f64| (one - slope).abs() <= 1e-6 * (start.abs() + slope.abs() + 1.0);
            prop_assert!(near(found.median) && near(found.lower) && near(found.upper), "{found:?}");
        }

        #[test]
        fn s_is_bounded_and_turns_with_the_series(
            values in proptest::collection::vec(-1e9_f64..1e9, 0..17),
        ) {
            let s = mann_kendall(&values);
            prop_assert!(s.abs() <= most(values.len()));
            let backwards: Vec<f64> = values.iter().rev().copied().collect();
            prop_assert_eq!(mann_kendall(&backwards), -s);
        }

        #[test]
        fn quartiles_are_in_order(values in proptest::collection::vec(-1e9_f64..1e9, 0..17)) {
            let slopes = Slopes::of(&numbered(&values));
            prop_assert!(slopes.lower <= slopes.median && slopes.median <= slopes.upper);
        }
    }
}
