//! What is kept of one tree, of one sum over processes, or of the host.

use super::{
    fast::Fast,
    rings::{Point, Ring},
    statistics::Slopes,
    trend::{Trend, grown},
    zombies::Zombies,
};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// Buckets of five minutes, half an hour and three hours: 80 minutes, 8 hours and 48 hours in 16 of them. The
/// first tells a leak that takes a host within two hours, the last one that takes a week.
pub const LENGTHS_NS: [u64; 3] = [5 * MINUTE_NS, 30 * MINUTE_NS, 180 * MINUTE_NS];

/// Where growth was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// In one of the three rings.
    Ring(usize),
    /// Since it began a short while ago.
    Fast,
}

/// Rings and forecast; about 5 KiB, and a test holds it below six.
#[derive(Clone, Debug)]
pub struct Series {
    pub rings: [Ring; 3],
    pub fast: Fast,
    pub seconds: Ring,
    pub minutes: Ring,
    pub zombies: Zombies,
    /// Clock of the last sample that told of it, ns.
    pub seen_ns: u64,
    /// Its last value.
    pub latest: Point,
}

/// Which rings a sample has brought to the end of a bucket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    pub rings: [bool; 3],
    pub second: bool,
    pub minute: bool,
}

impl Ended {
    /// Those of both.
    pub fn or(self, other: Self) -> Self {
        Self {
            rings: std::array::from_fn(|at| self.rings[at] || other.rings[at]),
            second: self.second || other.second,
            minute: self.minute || other.minute,
        }
    }
}

impl Series {
    pub fn new() -> Self {
        Self {
            rings: LENGTHS_NS.map(Ring::new),
            fast: Fast::default(),
            seconds: Ring::new(SECOND_NS),
            minutes: Ring::new(MINUTE_NS),
            zombies: Zombies::default(),
            seen_ns: 0,
            latest: Point::default(),
        }
    }

    /// What is counted begins anew.
    pub fn restart(&mut self) {
        self.seconds = Ring::new(SECOND_NS);
        self.minutes = Ring::new(MINUTE_NS);
        self.zombies = Zombies::default();
    }

    /// Enters a value into all rings.
    pub fn add(&mut self, now_ns: u64, point: Point) -> Ended {
        self.latest = point;
        let mut ended = Ended {
            second: self.seconds.add(now_ns, point),
            minute: self.minutes.add(now_ns, point),
            ..Ended::default()
        };
        for (ring, ended) in self.rings.iter_mut().zip(&mut ended.rings) {
            *ended = ring.add(now_ns, point);
        }
        ended
    }

    /// How long it was watched, in whole buckets of the longest ring, of which there are 48 hours at most.
    pub fn watched_ns(&self) -> u64 {
        self.rings.last().map_or(0, |ring| ring.buckets().len() as u64 * ring.length_ns())
    }

    /// Growth of something within a window.
    pub fn grown(&self, window: Window, of: impl Fn(&Point) -> u64) -> u64 {
        match window {
            Window::Ring(ring) => grown(self.rings[ring].buckets(), |bucket| of(&bucket.least)),
            Window::Fast => {
                let (base, latest) = self.fast.ends();
                of(&latest).saturating_sub(of(&base))
            }
        }
    }

    /// The same, of a ring from one of its buckets on.
    pub fn grown_since(&self, ring: usize, since: u64, of: impl Fn(&Point) -> u64) -> u64 {
        let buckets = self.rings[ring].buckets();
        let from = buckets.partition_point(|bucket| bucket.index < since);
        grown(&buckets[from..], |bucket| of(&bucket.least))
    }
}

/// Growth that crossed a threshold, as it is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    pub window: Window,
    pub grown: u64,
    /// ns of the clock.
    pub over_ns: u64,
    /// Bytes a second.
    pub slopes: Slopes,
    /// Mann and Kendall's S, and what it has to be.
    pub s: Option<(i32, i32)>,
    /// Of a short one: samples in which it rose, and its fastest pace as a multiple of the mean.
    pub course: Option<(u32, f64)>,
    /// Of a short one: how much of what went of the room meanwhile it has, percent.
    pub share: Option<u64>,
    pub buckets: usize,
}

impl Growth {
    pub fn of_trend(ring: usize, trend: &Trend, s: i32) -> Self {
        Self {
            window: Window::Ring(ring),
            grown: trend.grown,
            over_ns: trend.over_ns,
            slopes: trend.slopes,
            s: Some((trend.s, s)),
            course: None,
            share: None,
            buckets: trend.buckets,
        }
    }
}
