//! Series that are made here, with the shapes that published ones have: machines of a cluster that are 80 to 95 % full
//! and breathe by tenths (Alibaba's cluster traces of 2018 and 2026), services that warm up and stand still, garbage
//! collectors, day and night, a new version now and then, and jobs that come and go. Sampled each 10 s, as those are.
//!
//! The same numbers each time: each draws from a generator of its own that begins at the series' number.

use std::f64::consts::TAU;

use super::Points;

const EVERY_S: u64 = 10;
const DAYS: u64 = 3;
const DAY_S: f64 = 86_400.0;

/// Series of each shape: with six shapes 864 days, of which nine with an alarm prove less than 0.02 a day.
const EACH: u64 = 48;

/// What a shape makes of the time, s, and of the draws that it keeps.
type Shape = fn(&mut Draws) -> Points;

const SHAPES: [(&str, Shape); 6] = [
    ("full machines", full_machine),
    ("warm services", warm_service),
    ("collectors", collector),
    ("day and night", day_and_night),
    ("new versions", new_versions),
    ("jobs", jobs),
];

pub fn all() -> Vec<(&'static str, Vec<Points>)> {
    let series = |(number, shape): (u64, Shape)| {
        (0..EACH).map(|one| shape(&mut Draws(number * EACH + one + 1))).collect()
    };
    (0..).zip(SHAPES).map(|(number, (name, shape))| (name, series((number, shape)))).collect()
}

/// `SplitMix64` (G. L. Steele, D. Lea and C. H. Flood, OOPSLA 2014).
struct Draws(u64);

impl Draws {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Evenly between two numbers.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        let part = (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        low + (high - low) * part
    }

    /// Of something that comes once in so many seconds: whether it comes between two samples.
    fn comes(&mut self, once_in_s: f64) -> bool {
        self.between(0.0, once_in_s) < EVERY_S as f64
    }
}

/// Of each sample's time, s, the part that is used.
fn sampled(mut part: impl FnMut(f64) -> f64) -> Points {
    (0..DAYS * 86_400)
        .step_by(EVERY_S as usize)
        .map(|at| (at as f64, part(at as f64).clamp(0.0, 0.97)))
        .collect()
}

/// Many programs together: a level that wanders and comes back, the day, and batch work.
fn full_machine(draws: &mut Draws) -> Points {
    let (level, day) = (draws.between(0.80, 0.90), draws.between(0.01, 0.04));
    let (mut wander, mut batch) = (0.0, Jobs::default());
    let phase = draws.between(0.0, TAU);
    sampled(|at| {
        wander += -wander / 300.0 + draws.between(-0.004, 0.004);
        let work = batch.part(draws, at, 2.0 * 3600.0, (0.01, 0.05), (300.0, 3_600.0));
        level + wander + day * (at / DAY_S * TAU + phase).sin() + work
    })
}

/// Fills its caches, ever slower, and stands.
fn warm_service(draws: &mut Draws) -> Points {
    let (first, more) = (draws.between(0.05, 0.2), draws.between(0.1, 0.5));
    let slow_s = draws.between(600.0, 14_400.0);
    sampled(|at| first + more * (1.0 - (-at / slow_s).exp()) + draws.between(-0.003, 0.003))
}

/// Lets garbage pile up, and collects it.
fn collector(draws: &mut Draws) -> Points {
    let (least, pile) = (draws.between(0.1, 0.5), draws.between(0.03, 0.25));
    let period_s = draws.between(40.0, 2_400.0);
    sampled(|at| least + pile * (at % period_s) / period_s + draws.between(-0.003, 0.003))
}

fn day_and_night(draws: &mut Draws) -> Points {
    let (level, day) = (draws.between(0.3, 0.6), draws.between(0.05, 0.2));
    let phase = draws.between(0.0, TAU);
    sampled(|at| level + day * (at / DAY_S * TAU + phase).sin() + draws.between(-0.01, 0.01))
}

/// Another level twice a day or less often.
fn new_versions(draws: &mut Draws) -> Points {
    let mut level = draws.between(0.3, 0.6);
    sampled(|_| {
        if draws.comes(0.75 * DAY_S) {
            level = draws.between(0.3, 0.7);
        }
        level + draws.between(-0.003, 0.003)
    })
}

/// Once in three hours a job that takes some within minutes and gives it back: of the containers nine of ten never
/// took more than 0.23 within 20 minutes.
fn jobs(draws: &mut Draws) -> Points {
    let level = draws.between(0.1, 0.7);
    let mut jobs = Jobs::default();
    sampled(|at| {
        let work = jobs.part(draws, at, 3.0 * 3600.0, (0.03, 0.23), (600.0, 5_400.0));
        level + work + draws.between(-0.003, 0.003)
    })
}

/// One job at a time.
#[derive(Default)]
struct Jobs {
    /// From when until when, s, and what it takes.
    now: Option<(f64, f64, f64)>,
}

impl Jobs {
    /// Starts one now and then; each takes what it needs within a fifth of its time.
    fn part(
        &mut self,
        draws: &mut Draws,
        at: f64,
        once_in_s: f64,
        (least, most): (f64, f64),
        (shortest, longest): (f64, f64),
    ) -> f64 {
        if self.now.is_some_and(|(_, until, _)| at >= until) {
            self.now = None;
        }
        if self.now.is_none() && draws.comes(once_in_s) {
            let lasts = draws.between(shortest, longest);
            self.now = Some((at, at + lasts, draws.between(least, most)));
        }
        let takes = |(from, until, takes): (f64, f64, f64)| {
            takes * ((at - from) / ((until - from) / 5.0)).min(1.0)
        };
        self.now.map_or(0.0, takes)
    }
}
