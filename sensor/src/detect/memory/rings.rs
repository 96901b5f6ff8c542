//! Rings of bucket minima. A minimum is what is left after a garbage collection or a burst: neither a
//! sawtooth nor a peak is growth.

/// Buckets of a ring: enough for a rank test, and few enough that all pairs are 120.
pub const BUCKETS: usize = 16;

/// What is known of a tree, a group or the host at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    pub bytes: u64,
    /// The part of it that the tree's root has itself.
    pub root_bytes: u64,
    /// What is used of the limit that the tree is under; 0: none.
    pub limit_used: u64,
    /// Living processes.
    pub live: u32,
    /// Living children of the root that run the commonest program among them.
    pub alike: u32,
    /// Processes born in the tree so far.
    pub forks: u32,
}

/// The smallest values within a bucket. What only grows (forks) is as it was at the bucket's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Number of the bucket since the clock's zero.
    pub index: u64,
    pub least: Point,
}

/// The last 16 buckets that are over, and the one that is not.
#[derive(Clone, Debug)]
pub struct Ring {
    length_ns: u64,
    over: [Bucket; BUCKETS],
    count: usize,
    open: Option<Bucket>,
    /// Largest minima among the buckets that are no longer here.
    peak: Point,
}

impl Ring {
    pub fn new(length_ns: u64) -> Self {
        Self {
            length_ns,
            over: [Bucket::default(); BUCKETS],
            count: 0,
            open: None,
            peak: Point::default(),
        }
    }

    pub fn length_ns(&self) -> u64 {
        self.length_ns
    }

    /// Enters a value; time does not go back. Answers whether a bucket came to its end by it.
    pub fn add(&mut self, now_ns: u64, point: Point) -> bool {
        let index = now_ns / self.length_ns;
        match &mut self.open {
            Some(open) if open.index >= index => {
                open.least = smaller(open.least, point);
                false
            }
            open => {
                let ended = open.replace(Bucket { index, least: point });
                if let Some(ended) = ended {
                    self.push(ended);
                }
                ended.is_some()
            }
        }
    }

    fn push(&mut self, bucket: Bucket) {
        if self.count == BUCKETS {
            let gone = self.over[0].least;
            self.peak.bytes = self.peak.bytes.max(gone.bytes);
            self.peak.live = self.peak.live.max(gone.live);
            self.peak.alike = self.peak.alike.max(gone.alike);
            self.over.copy_within(1.., 0);
            self.count -= 1;
        }
        self.over[self.count] = bucket;
        self.count += 1;
    }

    /// The buckets that are over, eldest first.
    pub fn buckets(&self) -> &[Bucket] {
        &self.over[..self.count]
    }

    /// The largest minima from before [`Ring::buckets`]; zeros where there were none.
    pub fn peak(&self) -> Point {
        self.peak
    }

    /// Of the last `window` buckets, how many are higher than all before them, and by how much the last is
    /// higher than the first. `of`: what is looked at.
    pub fn records(&self, window: usize, of: impl Fn(&Point) -> u32) -> (usize, u32) {
        let (before, window) = self.buckets().split_at(self.count.saturating_sub(window));
        let (Some(first), Some(last)) = (window.first(), window.last()) else { return (0, 0) };
        let peak = before.iter().map(|bucket| of(&bucket.least)).max();
        let mut highest = of(&self.peak).max(peak.unwrap_or(of(&first.least)));
        let mut records = 0;
        for bucket in window {
            if of(&bucket.least) > highest {
                highest = of(&bucket.least);
                records += 1;
            }
        }
        (records, of(&last.least).saturating_sub(of(&first.least)))
    }
}

fn smaller(one: Point, other: Point) -> Point {
    Point {
        bytes: one.bytes.min(other.bytes),
        root_bytes: one.root_bytes.min(other.root_bytes),
        limit_used: one.limit_used.min(other.limit_used),
        live: one.live.min(other.live),
        alike: one.alike.min(other.alike),
        forks: one.forks.min(other.forks),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(bytes: u64) -> Point {
        Point { bytes, live: bytes as u32, ..Point::default() }
    }

    #[test]
    fn it_keeps_the_smallest_of_each_bucket() {
        let mut ring = Ring::new(10);
        for (at, value, ended) in
            [(0, 5, false), (4, 3, false), (9, 8, false), (10, 7, true), (35, 6, true)]
        {
            assert_eq!(ring.add(at, bytes(value)), ended, "at {at}");
        }
        let kept: Vec<(u64, u64)> =
            ring.buckets().iter().map(|it| (it.index, it.least.bytes)).collect();
        assert_eq!(
            kept,
            [(0, 3), (1, 7)],
            "nothing is made up for buckets in which nothing was seen"
        );
    }

    #[test]
    fn what_is_gone_is_remembered_by_its_peak() {
        let mut ring = Ring::new(1);
        ring.add(0, bytes(90));
        for at in 1..=17 {
            ring.add(at, bytes(at));
        }
        assert_eq!((ring.buckets().len(), ring.peak().bytes), (BUCKETS, 90));
        let live = |point: &Point| point.live;
        assert_eq!(ring.records(16, live), (0, 15), "none is higher than the peak");
        let mut fresh = Ring::new(1);
        for at in 0..=16 {
            fresh.add(at, bytes(at));
        }
        assert_eq!(fresh.records(16, live), (15, 15));
        assert_eq!(fresh.records(10, live), (10, 9));
    }

    proptest! {
        #[test]
        fn no_minimum_is_above_a_value_of_its_bucket(
            values in proptest::collection::vec((0_u64..50, 0_u64..1000), 1..400),
        ) {
            let mut ring = Ring::new(100);
            let mut now = 0;
            let mut least = std::collections::BTreeMap::new();
            for (after, value) in values {
                now += after;
                ring.add(now, bytes(value));
                let known = least.entry(now / 100).or_insert(value);
                *known = value.min(*known);
            }
            prop_assert!(ring.buckets().len() <= BUCKETS);
            for bucket in ring.buckets() {
                prop_assert_eq!(Some(&bucket.least.bytes), least.get(&bucket.index));
            }
        }
    }
}
