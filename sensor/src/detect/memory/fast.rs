//! Fast growth (M1): two forecasts by Holt's exponential smoothing, of which one follows at once and the
//! other does not trust a burst.

use super::{Limits, rings::Point, room::Room};

/// Time constants of level and slope, s. The quick one has to follow a leak that takes a small host within
/// seconds, sampled once a second; the steady one is α = 0.3, β = 0.05 at a sample every 5 s, which had no
/// false alarm on six days of 109 production machines.
const QUICK: (f64, f64) = (2.0, 3.0);
const STEADY: (f64, f64) = (11.67, 95.0);

/// A forecast that stands for so many samples is believed, s and samples: three when less than a minute is
/// left, two when there is no time for a third.
const QUICK_SAMPLES: u32 = 3;
const HURRY_S: f64 = 10.0;
const HURRY_SAMPLES: u32 = 2;

/// The steady one: for so many samples and so long, since compilers and tests grow for half a minute.
const STEADY_SAMPLES: u32 = 12;
const STEADY_NS: u64 = 60_000_000_000;

/// A burst is none of our business until it has taken so many percent of what it could: two thirds when the
/// forecast is quick (a database takes its buffer at once, and leaves more than that), a quarter when it is
/// steady.
const QUICK_TAKES: u64 = 66;
const STEADY_TAKES: u64 = 25;

/// A forecast remembers a burst for minutes after its end: the growth has to have gone on within this, ns.
const RECENT_NS: u64 = 30_000_000_000;

/// Growth that began longer ago than this is the rings' to judge, ns.
const LONGEST_NS: u64 = 80 * 60 * 1_000_000_000;

/// Who gives back so much of its peak (one part of this) has ended its growth and begins anew.
const GIVEN_BACK: u64 = 10;

/// So has who has taken no more for so long, ns: what a tree once stood at without using all up, it may come back
/// to. With this, and as what was before counts whatever ended it, 1,292 false alarms in 1,000 days of whole machines
/// became 145.
pub const OVER_NS: u64 = 5 * 60 * 1_000_000_000;

/// Less than one part of so many of the growth is nothing more.
pub const MORE: u64 = 64;

/// Growth by less than one part of so many of what there is by then is how a tree breathes that is as large as its
/// host: of the 145 one was left, and of leaks that a pod is full by within 20 minutes 75 of 78 were still told of.
const BREATH: u64 = 7;

/// One part of so many of the growth has to be above the most that there was before: jobs of one size that come and go
/// are each a hair above the last.
const NEW: u64 = 8;

/// A growth is even if it rose in so many samples, a second or more each: what is one piece of work is done within
/// two or three; ...
pub const EVEN_SAMPLES: u32 = 6;

/// ... and was between no two of them faster than so many times the mean: a sample is late now and then.
pub const EVEN_PACE: f64 = 3.0;

/// After a longer pause than this between two samples a slope says nothing, ns.
pub const PAUSE_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Holt {
    level: f64,
    slope: f64,
}

impl Holt {
    fn follow(&mut self, value: f64, dt: f64, (level_s, slope_s): (f64, f64)) {
        let expected = self.level + self.slope * dt;
        let level = expected + dt / (level_s + dt) * (value - expected);
        let slope = (level - self.level) / dt;
        self.slope += dt / (slope_s + dt) * (slope - self.slope);
        self.level = level;
    }
}

/// The growth of one tree or group as it is going on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fast {
    /// Clock of the last sample, ns.
    at_ns: u64,
    samples: u32,
    quick: Holt,
    steady: Holt,
    /// Where and when the growth began: what there was, what was left of the room then, ns of the clock.
    base: Point,
    base_left: u64,
    since_ns: u64,
    latest: Point,
    /// Most that there was before the growth began, bytes.
    before: u64,
    peak: u64,
    /// When it last took more, ns of the clock, and what there was then.
    more_ns: u64,
    more: u64,
    /// Samples in which it rose, and the fastest pace between two of them, bytes a second.
    rises: u32,
    fastest: f64,
    /// Samples in a row for which each forecast has stood.
    quick_row: u32,
    steady_row: u32,
    /// Since when the steady one has, ns of the clock.
    steady_since_ns: u64,
    /// Two earlier moments (ns of the clock, bytes): the first samples of the last two spans of [`RECENT_NS`], which
    /// are the same for all; or its own first one.
    recent: [(u64, u64); 2],
}

/// Growth that will soon be at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rush {
    /// Bytes a second: the steadier estimate, and the quicker one.
    pub slope: f64,
    pub quick_slope: f64,
    pub grown: u64,
    /// ns of the clock.
    pub over_ns: u64,
    /// Growth as a part of what went of the room since it began, percent.
    pub share: u64,
    /// The shorter of both forecasts counted, not the longer one.
    pub quick: bool,
    /// Samples in which it rose, and its fastest pace as a multiple of the mean.
    pub rises: u32,
    pub unevenness: f64,
}

impl Fast {
    /// Bytes since the growth that goes on began.
    pub fn grown(&self) -> u64 {
        self.peak.saturating_sub(self.base.bytes)
    }

    /// What there was when the growth began, and what there is.
    pub fn ends(&self) -> (Point, Point) {
        (self.base, self.latest)
    }

    /// Follows a sample. `room`: as it is now.
    pub fn follow(&mut self, now_ns: u64, point: Point, room: &Room, limits: &Limits) {
        let bytes = point.bytes;
        let dt_ns = now_ns.saturating_sub(self.at_ns);
        if self.samples == 0 || dt_ns > PAUSE_NS || dt_ns == 0 {
            *self = Self {
                at_ns: now_ns,
                samples: 1,
                quick: Holt { level: bytes as f64, slope: 0.0 },
                steady: Holt { level: bytes as f64, slope: 0.0 },
                base: point,
                base_left: room.left,
                since_ns: now_ns,
                latest: point,
                peak: bytes,
                more_ns: now_ns,
                more: bytes,
                before: self.before.max(self.peak),
                recent: [(now_ns, bytes); 2],
                ..Self::default()
            };
            return;
        }
        let (dt, value) = (dt_ns as f64 / 1e9, bytes as f64);
        if self.samples == 1 {
            // The first two are all that is known: half of the hosts that fall have no time for more.
            let slope = (value - self.quick.level) / dt;
            self.quick = Holt { level: value, slope };
        } else {
            self.quick.follow(value, dt, QUICK);
        }
        self.steady.follow(value, dt, STEADY);
        if now_ns / RECENT_NS != self.recent[1].0 / RECENT_NS {
            self.recent = [self.recent[1], (now_ns, bytes)];
        }
        if let Some(rise) = bytes.checked_sub(self.latest.bytes).filter(|rise| *rise > 0) {
            self.rises = self.rises.saturating_add(1);
            self.fastest = self.fastest.max(rise as f64 / dt);
        }
        self.at_ns = now_ns;
        self.latest = point;
        self.samples = self.samples.saturating_add(1);
        self.peak = self.peak.max(bytes);
        if bytes > self.more.saturating_add(self.grown() / MORE) {
            (self.more, self.more_ns) = (bytes, now_ns);
        }
        let ended = bytes < self.peak - self.peak / GIVEN_BACK
            || bytes < self.base.bytes
            // Others gave back more than it took, as where the OOM killer spared it: it takes of that from now on.
            || room.left > self.base_left
            || now_ns.saturating_sub(self.more_ns) > OVER_NS
            || now_ns.saturating_sub(self.since_ns) > LONGEST_NS;
        if ended {
            self.before = self.before.max(self.peak);
            (self.base, self.base_left, self.since_ns, self.peak) =
                (point, room.left, now_ns, bytes);
            (self.more, self.more_ns, self.rises, self.fastest) = (bytes, now_ns, 0, 0.0);
        }
        let stands = |slope: f64, within_s: u32| {
            slope > 0.0 && room.left as f64 / slope < f64::from(within_s)
        };
        let quick = stands(self.quick.slope, limits.fast_s);
        self.quick_row = if quick { self.quick_row.saturating_add(1) } else { 0 };
        if stands(self.steady.slope, limits.soon_s) {
            if self.steady_row == 0 {
                self.steady_since_ns = now_ns;
            }
            self.steady_row = self.steady_row.saturating_add(1);
        } else {
            self.steady_row = 0;
        }
    }

    /// Bytes by which it grew within the last half minute to minute, or since it is there.
    pub fn grown_lately(&self) -> u64 {
        self.latest.bytes.saturating_sub(self.recent[0].1)
    }

    /// The same, a second.
    fn recent_slope(&self) -> f64 {
        let dt = self.at_ns.saturating_sub(self.recent[0].0) as f64 / 1e9;
        if dt > 0.0 { self.grown_lately() as f64 / dt } else { 0.0 }
    }

    /// Whether what is left will soon be used up, and by this tree.
    pub fn rush(&self, room: &Room, limits: &Limits) -> Option<Rush> {
        let grown = self.grown();
        let could = u128::from(grown) + u128::from(room.left);
        let takes = |percent: u64| u128::from(grown) * 100 >= could * u128::from(percent);
        let drop = self.base_left.saturating_sub(room.left);
        let share = (u128::from(grown) * 100 / u128::from(drop.max(1))).min(100) as u64;
        let carries = share >= u64::from(limits.fast_share_percent);
        // What it takes is missing in the room, and it never had so much: on a host that is always almost
        // full every breath would be the last.
        let missing = drop.saturating_mul(2) >= grown;
        let breathes = grown < self.latest.bytes / BREATH
            || self.latest.bytes <= self.before.saturating_add(grown / NEW);
        if grown < room.notable(limits) || !carries || !missing || breathes {
            return None;
        }
        let needed = if room.left as f64 / self.quick.slope < HURRY_S {
            HURRY_SAMPLES
        } else {
            QUICK_SAMPLES
        };
        let quick = self.quick_row >= needed && takes(QUICK_TAKES);
        let stood_ns = self.at_ns.saturating_sub(self.steady_since_ns);
        let steady = self.steady_row >= STEADY_SAMPLES
            && stood_ns >= STEADY_NS
            && takes(STEADY_TAKES)
            && room.left as f64 / self.recent_slope() < f64::from(limits.soon_s);
        let over_ns = self.at_ns.saturating_sub(self.since_ns);
        let mean = grown as f64 / (over_ns.max(1) as f64 / 1e9);
        (quick || steady).then(|| Rush {
            slope: self.steady.slope,
            quick_slope: self.quick.slope,
            grown,
            over_ns,
            share,
            quick,
            rises: self.rises,
            unevenness: self.fastest / mean.max(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto;

    const MIB: u64 = 1 << 20;
    const S: u64 = 1_000_000_000;

    /// Lead before nothing is left, s; bytes over time, sampled every `every` s, on a host with so
    /// many MiB of which 800 of 1,024 are available.
    fn lead(total_mib: u64, every: u64, bytes: impl Fn(u64) -> u64) -> Option<(u64, bool)> {
        let limits = Limits::default();
        let available = total_mib * MIB / 1024 * 800;
        let mut fast = Fast::default();
        let mut alarm = None;
        for at in (0..4000).step_by(every as usize) {
            let used = bytes(at);
            if used >= available {
                return alarm.map(|(then, quick)| (at - then, quick));
            }
            let host = proto::HostMemory {
                total_bytes: Some(total_mib * MIB),
                available_bytes: Some(available - used),
                ..Default::default()
            };
            let room = Room::of(&host, None, &limits);
            let point = Point { bytes: used, ..Point::default() };
            fast.follow((at + 1) * S, point, &room, &limits);
            if let (None, Some(rush)) = (alarm, fast.rush(&room, &limits)) {
                alarm = Some((at, rush.quick));
            }
        }
        alarm.map(|(_, quick)| (0, quick))
    }

    #[test]
    fn there_is_time_before_the_end() {
        // Times are exact on this clock: what the constants give, at a sample a second.
        let (slow, quick) = lead(1024, 1, |at| at * 5 * MIB).unwrap();
        assert!(!quick && slow >= 60, "5 MB/s: {slow} s");
        let (middle, quick) = lead(1024, 1, |at| at * 50 * MIB).unwrap();
        assert!(quick && middle >= 5, "50 MB/s: {middle} s");
        let (fast, _) = lead(1024, 1, |at| at * 200 * MIB).unwrap();
        assert!(fast >= 1, "200 MB/s: {fast} s");
    }

    #[test]
    fn what_takes_its_share_and_stays_is_silent() {
        let gib = |at: u64, rate: u64, most: u64| (at * rate * MIB).min(most * 1024 * MIB);
        // A database's buffer at 1 GiB a second, a build at 100 MiB a second for 40 s.
        assert_eq!(lead(24 * 1024, 1, |at| gib(at, 1024, 8)), None);
        assert_eq!(lead(24 * 1024, 1, |at| gib(at % 60, 100, 4)), None);
        assert_eq!(lead(24 * 1024, 5, |at| gib(at, 1024, 8)), None);
    }

    #[test]
    fn who_had_as_much_before_is_silent_on_a_host_that_is_almost_full() {
        let limits = Limits::default();
        let mut fast = Fast::default();
        let mut alarms = 0;
        for at in 0..600 {
            // Between 70 and 97 % every three minutes, on a host that has 2 % for others.
            let part = 70 + at % 20 * 27 / 19;
            let total = 16 * 1024 * MIB;
            let bytes = total / 100 * part;
            let host = proto::HostMemory {
                total_bytes: Some(total),
                available_bytes: Some(total / 100 * (98 - part)),
                ..Default::default()
            };
            let room = Room::of(&host, None, &limits);
            fast.follow((at + 1) * 10 * S, Point { bytes, ..Point::default() }, &room, &limits);
            // What is told once is told; here each sample would tell it again.
            alarms += u32::from(at > 20 && fast.rush(&room, &limits).is_some());
        }
        assert_eq!(alarms, 0);
    }

    /// Samples in which a tree that has these parts of a host, percent, one a minute, is told of. Others have 2 %.
    fn told(percent: &[u64]) -> Vec<usize> {
        told_each(60, percent)
    }

    /// The same of one in so many seconds.
    fn told_each(seconds: u64, percent: &[u64]) -> Vec<usize> {
        let limits = Limits::default();
        let mut fast = Fast::default();
        let total = 16 * 1024 * MIB;
        let mut told = Vec::new();
        for (at, part) in percent.iter().enumerate() {
            let bytes = total / 100 * part;
            let host = proto::HostMemory {
                total_bytes: Some(total),
                available_bytes: Some(total / 100 * 98_u64.saturating_sub(*part)),
                ..Default::default()
            };
            let room = Room::of(&host, None, &limits);
            fast.follow(
                (at as u64 + 1) * seconds * S,
                Point { bytes, ..Point::default() },
                &room,
                &limits,
            );
            if fast.rush(&room, &limits).is_some() {
                told.push(at);
            }
        }
        told
    }

    #[test]
    fn who_is_spared_by_the_oom_killer_and_goes_on_is_told_of() {
        // Of 1,000 MiB a large one has 600, and another one takes 3 a second of what is left. At the end the large one
        // is killed, and after as long again nothing is left of what it had.
        let limits = Limits::default();
        let mut fast = Fast::default();
        let (mut told, mut others) = (Vec::new(), 600);
        for at in 0_u64.. {
            let used = 20 + 3 * at;
            if used + others >= 1000 {
                if others == 0 {
                    break;
                }
                others = 0;
            }
            let host = proto::HostMemory {
                total_bytes: Some(1000 * MIB),
                available_bytes: Some((1000 - used - others) * MIB),
                ..Default::default()
            };
            let room = Room::of(&host, None, &limits);
            let point = Point { bytes: used * MIB, ..Point::default() };
            fast.follow((at + 1) * S, point, &room, &limits);
            told.extend(fast.rush(&room, &limits).map(|_| (others, at)));
        }
        assert!(told.first().is_some_and(|(others, _)| *others == 600), "{told:?}");
        let again = told.iter().find(|(others, _)| *others == 0);
        assert!(again.is_some_and(|(_, at)| *at < 250), "a minute before its end: {told:?}");
    }

    #[test]
    fn what_a_tree_once_stood_at_is_no_growth() {
        // It grows from 40 to 96 % and stays there: it was told of, and a while later no more.
        let rise = [vec![40; 10], (40..=96).step_by(7).collect(), vec![96; 4]].concat();
        assert!(!told(&rise).is_empty());
        let stays = [rise.clone(), vec![96; 20]].concat();
        assert!(told(&stays).iter().all(|at| *at < rise.len() + 5), "{:?}", told(&stays));
        // Nor when it comes back there from a little below, which is no end of a growth by what it gave back.
        let again = [stays.clone(), vec![88; 30], vec![88, 90, 93, 95, 96, 96, 96]].concat();
        assert_eq!(told(&again), told(&stays));
    }

    #[test]
    fn jobs_of_one_size_are_told_of_once_at_most() {
        // From 60 % up within ten minutes, and back after as long; then the same again, a little higher each time.
        let job = |top: u64| {
            let rises = (60..=top).flat_map(|part| [part; 2]).collect();
            [vec![60; 60], rises, vec![top; 60], vec![60; 60]].concat()
        };
        let told = |percent: &[u64]| told_each(10, percent);
        let one = job(85);
        assert!(!told(&one).is_empty(), "nobody knows yet that it comes to an end");
        let again = [one.clone(), job(86), job(86), job(87)].concat();
        assert_eq!(told(&again), told(&one));
        // One that goes on where the others stopped.
        let leak = [again.clone(), (60..=97).flat_map(|part| [part; 2]).collect()].concat();
        assert!(told(&leak).iter().any(|at| *at > again.len()), "{:?}", told(&leak));
    }

    #[test]
    fn whoever_is_as_large_as_its_host_may_breathe() {
        let breath = [vec![86; 30], (86..=96).collect(), vec![96; 3]].concat();
        assert_eq!(told(&breath), [0; 0]);
        // A growth by a seventh of it is one.
        let growth = [vec![76; 30], (76..=96).step_by(4).collect(), vec![97; 3]].concat();
        assert!(!told(&growth).is_empty());
    }

    #[test]
    fn what_grows_evenly_is_told_apart_from_what_comes_at_once() {
        let limits = Limits::default();
        let course = |bytes: &dyn Fn(u64) -> u64| {
            let (mut fast, total) = (Fast::default(), 1024 * MIB);
            (0..60).find_map(|at| {
                let used = bytes(at);
                let host = proto::HostMemory {
                    total_bytes: Some(total),
                    available_bytes: Some((800 * MIB).saturating_sub(used)),
                    ..Default::default()
                };
                let room = Room::of(&host, None, &limits);
                let point = Point { bytes: used, ..Point::default() };
                fast.follow((at + 1) * S, point, &room, &limits);
                fast.rush(&room, &limits).map(|rush| (rush.rises, rush.unevenness))
            })
        };
        let (rises, unevenness) = course(&|at| at * 40 * MIB).unwrap();
        assert!(rises >= EVEN_SAMPLES && unevenness <= 1.01, "{rises} {unevenness}");
        // 700 MiB within three samples, after a while with nearly none.
        let (rises, unevenness) =
            course(&|at| (at + at.saturating_sub(20) * 250).min(740) * MIB).unwrap();
        assert!(rises < EVEN_SAMPLES || unevenness > EVEN_PACE, "{rises} {unevenness}");
    }

    proptest! {
        #[test]
        fn whoever_does_not_grow_is_silent(
            level in 64_u64..10_000,
            noise in proptest::collection::vec(0_u64..64, 10..100),
        ) {
            let at = |at: u64| (level + noise[at as usize % noise.len()]) * MIB;
            prop_assert_eq!(lead(24 * 1024, 1, at), None);
        }
    }
}
