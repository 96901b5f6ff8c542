//! Accumulation (R4): a tree has more and more processes, and what is added stays. It tells of leaked
//! workers long before their bytes do.

use super::{
    Limits,
    rings::{BUCKETS, Point, Ring},
};

/// Seconds and minutes are judged over so many buckets, of which [`RECORDS`] have to be record highs.
const WINDOW: usize = 10;
const RECORDS: usize = 8;

/// At a sample every five seconds ten of them are 45 s; what is longer is no hurry.
const SECONDS_AT_MOST: u64 = 60;

/// The slow one: record highs among 16 buckets of half an hour.
const SLOW_RECORDS: usize = 8;

/// A tree has to be older than this before its slow growth says anything, ns.
const SLOW_AGE_NS: u64 = 3_600_000_000_000;

/// Of those that were born in the window one of so many has to be among those that stay. Work that
/// completes keeps none (a build: 1 %); a worker that is started through a shell and an intermediate
/// that ends at once is one of three.
const KEPT: u32 = 4;

/// Of the growth so many percent are children of the root that run one program: then they are kept,
/// whatever else is born there and ends.
const ALIKE_PERCENT: u32 = 90;

/// A tree that accumulates processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accumulation {
    /// Processes more than at the window's beginning, and of them children of the root that run the
    /// commonest program.
    pub live: u32,
    pub alike: u32,
    pub forks: u32,
    pub records: usize,
    pub records_needed: usize,
    pub threshold: u32,
    /// Length of the window, ns of the clock.
    pub over_ns: u64,
    /// How long without a new one until it is over, ns.
    pub patience_ns: u64,
}

/// What a ring of seconds or minutes says.
pub fn quick(ring: &Ring, threshold: u32) -> Option<Accumulation> {
    let buckets = ring.buckets();
    let window = buckets.get(buckets.len().checked_sub(WINDOW)?..)?;
    let spanned = window.last()?.index - window.first()?.index;
    let second = 1_000_000_000;
    if ring.length_ns() == second && spanned > SECONDS_AT_MOST {
        return None;
    }
    // Leaks of a minute or less are none of a shorter ring's if they pause.
    let patience_ns = (ring.length_ns() * WINDOW as u64).max(60 * second);
    judge(ring, WINDOW, RECORDS, threshold, patience_ns)
}

/// What the ring of half hours says. `age_ns`: of the tree's root.
pub fn slow(ring: &Ring, age_ns: u64, limits: &Limits) -> Option<Accumulation> {
    if age_ns < SLOW_AGE_NS {
        return None;
    }
    judge(ring, BUCKETS, SLOW_RECORDS, limits.slow_workers, ring.length_ns() * 8)
}

fn judge(
    ring: &Ring,
    window: usize,
    needed: usize,
    threshold: u32,
    patience_ns: u64,
) -> Option<Accumulation> {
    let (records, live) = ring.records(window, |point| point.live);
    if records < needed || live < threshold {
        return None;
    }
    let buckets = ring.buckets();
    let buckets = &buckets[buckets.len().saturating_sub(window)..];
    let (first, last) = (buckets.first()?, buckets.last()?);
    let rise = |of: fn(&Point) -> u32| of(&last.least).saturating_sub(of(&first.least));
    let (alike, forks) = (rise(|point| point.alike), rise(|point| point.forks));
    let stays = u64::from(live) * u64::from(KEPT) >= u64::from(forks);
    let same = u64::from(alike) * 100 >= u64::from(live) * u64::from(ALIKE_PERCENT);
    (stays || same).then(|| Accumulation {
        live,
        alike,
        forks,
        records,
        records_needed: needed,
        threshold,
        over_ns: (last.index - first.index + 1) * ring.length_ns(),
        patience_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    /// A ring of minutes: living processes and births after each.
    fn minutes(points: impl IntoIterator<Item = (u32, u32)>) -> Ring {
        let mut ring = Ring::new(MINUTE);
        for (at, (live, forks)) in points.into_iter().enumerate() {
            ring.add(at as u64 * MINUTE, Point { live, forks, ..Point::default() });
        }
        ring
    }

    #[test]
    fn workers_that_stay_are_told_from_work() {
        let leak = minutes((0..11).map(|at| (3 + 12 * at, 12 * at)));
        let found = quick(&leak, 16).unwrap();
        assert_eq!((found.live, found.forks, found.records), (108, 108, 9));
        // Each worker through a shell and an intermediate: two of three end.
        assert!(quick(&minutes((0..11).map(|at| (3 + 12 * at, 36 * at))), 16).is_some());
        // A build that happens to get wider, a pool that has its size, too few.
        assert!(quick(&minutes((0..11).map(|at| (3 + 2 * at, 600 * at))), 16).is_none());
        assert!(quick(&minutes((0..11).map(|at| (if at > 0 { 64 } else { 1 }, 64))), 16).is_none());
        assert!(quick(&minutes((0..11).map(|at| (3 + at, at))), 16).is_none());
    }

    #[test]
    fn the_slow_ones_need_age_and_one_program_is_enough() {
        let mut ring = Ring::new(30 * MINUTE);
        for at in 0..17_u32 {
            // Beside the worker of each half hour a thousand commands that end.
            let point = Point { live: 5 + at, alike: at, forks: 1000 * at, ..Point::default() };
            ring.add(u64::from(at) * 30 * MINUTE, point);
        }
        let limits = Limits::default();
        assert_eq!(slow(&ring, MINUTE, &limits), None);
        assert_eq!(slow(&ring, 500 * MINUTE, &limits).map(|it| it.alike), Some(15));
    }
}
