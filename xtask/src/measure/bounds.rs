//! Exact bounds for what is counted, 95 % each.
//!
//! A share of runs: Clopper and Pearson (Biometrika 26, 1934), 2.5 % on either side. A rate of events
//! in time: Garwood (Biometrika 28, 1936), likewise. Where nothing or everything was seen there is no
//! other side, and all 5 % go to the one that there is: 30 of 30 prove no more than 0.905, and no
//! event in h hours no less than 3.0/h.

use statrs::distribution::{Beta, ContinuousCDF as _, Gamma};

use super::stats::Interval;

/// What the bounds may miss, in all.
const MISSED: f64 = 0.05;

/// `right` of `of` runs, as a share; everything is possible of none.
pub fn share(right: usize, of: usize) -> Interval {
    if of == 0 {
        return Interval { value: 0.0, low: 0.0, high: 1.0, samples: 0 };
    }
    let wrong = of.saturating_sub(right);
    let tail = if right == 0 || wrong == 0 { MISSED } else { MISSED / 2.0 };
    let (ok, ko) = (right as f64, wrong as f64);
    // Both parameters are at least 1 where they are used. A quantile that could not be had would be
    // the widest bound.
    let quantile = |a: f64, b: f64, p: f64| Beta::new(a, b).ok()?.try_inverse_cdf(p).ok();
    let low = if right == 0 { None } else { quantile(ok, ko + 1.0, tail) };
    let high = if wrong == 0 { None } else { quantile(ok + 1.0, ko, 1.0 - tail) };
    Interval {
        value: ok / of as f64,
        low: low.unwrap_or(0.0),
        high: high.unwrap_or(1.0),
        samples: of,
    }
}

/// `events` in `time`, per unit of that time. None in no time at all: no rate can be told.
pub fn rate(events: u64, time: f64) -> Option<Interval> {
    if time <= 0.0 {
        return None;
    }
    let seen = events as f64;
    let tail = if events == 0 { MISSED } else { MISSED / 2.0 };
    let quantile = |shape: f64, p: f64| Gamma::new(shape, 1.0).ok()?.try_inverse_cdf(p).ok();
    let low = if events == 0 { 0.0 } else { quantile(seen, tail)? };
    let high = quantile(seen + 1.0, 1.0 - tail)?;
    Some(Interval {
        value: seen / time,
        low: low / time,
        high: high / time,
        samples: events as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-7, "{found} is not {expected}");
    }

    /// R 4: `binom.test(29, 30)`, `(15, 30)`, `(1, 8)`, and `0.05^(1/n)`.
    #[test]
    fn shares_have_the_bounds_that_r_gives_them() {
        for (right, of, low, high) in [
            (30, 30, 0.904_966_1, 1.0),
            (8, 8, 0.687_656_0, 1.0),
            (0, 30, 0.0, 0.095_033_9),
            (29, 30, 0.827_830_5, 0.999_156_4),
            (15, 30, 0.312_970_3, 0.687_029_7),
            (1, 8, 0.003_159_7, 0.526_509_7),
        ] {
            let found = share(right, of);
            close(found.low, low);
            close(found.high, high);
            assert_eq!(found.samples, of);
        }
    }

    #[test]
    fn of_no_runs_everything_is_possible() {
        let Interval { low, high, samples, .. } = share(0, 0);
        assert_eq!((low.to_bits(), high.to_bits(), samples), (0_f64.to_bits(), 1_f64.to_bits(), 0));
    }

    /// R 4: `poisson.test(1)`, `(10)`, and `-log(0.05)`.
    #[test]
    fn rates_have_the_bounds_that_r_gives_them() {
        for (events, low, high) in
            [(0, 0.0, 2.995_732_3), (1, 0.025_317_8, 5.571_643_4), (10, 4.795_389, 18.390_356)]
        {
            let found = rate(events, 2.0).unwrap();
            close(found.low, low / 2.0);
            close(found.high, high / 2.0);
        }
        assert_eq!(rate(0, 0.0), None);
    }
}
