//! Leaks: minima that rise, go on rising, and would use up what is left (M2, M3, M4), and growth that
//! wastes much though it uses nothing up (M5).

use super::{
    Limits,
    rings::{BUCKETS, Bucket, Ring},
    room::Room,
    statistics::{Slopes, mann_kendall, most},
};

/// Fewer buckets say nothing; so many do if each is higher than all before it (S = 28, z = 3.3), ...
const FEWEST: usize = 8;

/// ... and if there is no time to wait for the others: all is used up before one and a half times that is over. A
/// database that fills its buffer within an hour is done before it has sixteen.
const WAITS: f64 = 1.5;

/// Of 120 pairs so many more rise than fall, in the shortest ring: what there is little time for may be a
/// little less even.
pub const URGENT_S: i32 = 90;

/// The same of the longer rings: on six days of 109 production machines S ≥ 100 over 8 h was never a false
/// alarm, S ≥ 90 was.
pub const SLOW_S: i32 = 100;

/// The later half has to rise at least so much of what the earlier one does: a cache that warms up does
/// not, its later half rises by a fifth to a third.
const GOES_ON: f64 = 0.5;

/// The last quarter at least so much of the whole: what has come to its end does not go on.
const GOES_ON_NOW: f64 = 0.25;

/// Before it is said that all will be used up, one part of so many of the growth has to be above everything that was
/// before the window: what only comes back to where it was ends there. Where being above it was enough, machines that
/// are always almost full made 55 alarms in 1,000 days, and make 17.
const NEW: u64 = 2;

/// Who has given back one part of so many of its growth since the last bucket, grows no more.
const GIVEN_BACK: u64 = 4;

/// What a ring says about growth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Mann and Kendall's S of the buckets.
    pub s: i32,
    /// Bytes a second.
    pub slopes: Slopes,
    /// Smallest of the last quarter of the buckets less that of the first, bytes.
    pub grown: u64,
    /// From the first bucket's beginning to the last one's end, ns of the clock.
    pub over_ns: u64,
    /// Number of the first bucket.
    pub since: u64,
    pub buckets: usize,
    bucket_s: f64,
    /// The later half goes on like the earlier one.
    goes_on: bool,
    /// By how much the last bucket is above everything that was before the ring's window, bytes.
    above: u64,
}

impl Trend {
    /// Of what a ring holds, and of what there is now; `None`: too little, or it is given back.
    pub fn of(ring: &Ring, now_bytes: u64) -> Option<Self> {
        let buckets = ring.buckets();
        let (first, last) = (buckets.first()?, buckets.last()?);
        if buckets.len() < FEWEST {
            return None;
        }
        let grown = grown(buckets, |bucket| bucket.least.bytes);
        if now_bytes < last.least.bytes.saturating_sub(grown / GIVEN_BACK) {
            return None;
        }
        let bucket_s = ring.length_ns() as f64 / 1e9;
        let points: Vec<(f64, f64)> = buckets
            .iter()
            .map(|it| ((it.index - first.index) as f64 * bucket_s, it.least.bytes as f64))
            .collect();
        let values: Vec<f64> = points.iter().map(|point| point.1).collect();
        let (early, late) = points.split_at(points.len() / 2);
        let slopes = Slopes::of(&points);
        let now =
            Slopes::of(points.get(points.len() - points.len() / 4..).unwrap_or_default()).median;
        let (early, late) = (Slopes::of(early).median, Slopes::of(late).median);
        Some(Self {
            s: mann_kendall(&values),
            slopes,
            grown,
            over_ns: (last.index - first.index + 1) * ring.length_ns(),
            since: first.index,
            buckets: buckets.len(),
            bucket_s,
            goes_on: late >= GOES_ON * early.max(GOES_ON * slopes.median)
                && now >= GOES_ON_NOW * slopes.median,
            above: last.least.bytes.saturating_sub(ring.peak().bytes),
        })
    }

    /// It rises, evenly enough (of 16 buckets S ≥ `s`, of fewer all pairs), by enough, and goes on.
    fn rises(&self, s: i32, room: &Room, limits: &Limits) -> bool {
        let least = if self.buckets == BUCKETS { s } else { most(self.buckets) };
        self.s >= least
            && self.slopes.lower > 0.0
            && self.grown >= room.notable(limits)
            && self.goes_on
            && self.above > 0
    }

    /// It rises and uses up what is left within `horizon_s`.
    pub fn exhausts(&self, s: i32, horizon_s: u64, room: &Room, limits: &Limits) -> bool {
        let missing = BUCKETS.saturating_sub(self.buckets) as f64;
        let horizon_s = match self.buckets {
            BUCKETS => horizon_s as f64,
            _ => (missing * self.bucket_s * WAITS).min(horizon_s as f64),
        };
        self.rises(s, room, limits)
            && self.above > self.grown / NEW
            && room.left as f64 / self.slopes.median < horizon_s
    }

    /// It rises and has wasted much already, over all of a ring.
    pub fn bloats(&self, room: &Room, limits: &Limits) -> bool {
        self.buckets == BUCKETS
            && self.rises(SLOW_S, room, limits)
            && self.grown >= room.wasted(limits)
    }
}

/// The smallest of the last quarter of some buckets less the smallest of the first.
pub fn grown(buckets: &[Bucket], of: impl Fn(&Bucket) -> u64) -> u64 {
    let quarter = (buckets.len() / 4).max(1);
    let least = |buckets: &[Bucket]| buckets.iter().map(&of).min().unwrap_or(0);
    let (first, last) =
        (buckets.get(..quarter), buckets.get(buckets.len().saturating_sub(quarter)..));
    least(last.unwrap_or_default()).saturating_sub(least(first.unwrap_or_default()))
}
