//! The rings: ten minutes of seconds, a day of minutes.

use std::collections::VecDeque;

use prost_types::Timestamp;

use super::top;
use crate::proto::{TopTree, Vitals, VitalsSample};

/// What a sample covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Second,
    Minute,
}

impl Span {
    pub const ALL: [Self; 2] = [Self::Second, Self::Minute];

    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }

    /// Samples that are kept: ten minutes, from calm to catastrophe in all incidents that were recorded;
    /// a day, so that what happens every day at this time shows.
    pub const fn kept(self) -> usize {
        match self {
            Self::Second => 600,
            Self::Minute => 1_440,
        }
    }
}

/// Both rings, and the minute that is under way.
#[derive(Debug, Default)]
pub struct Rings {
    seconds: VecDeque<VitalsSample>,
    minutes: VecDeque<VitalsSample>,
    under_way: Vec<Vitals>,
    /// What stood out in it.
    trees: Vec<TopTree>,
}

impl Rings {
    /// With what was there before, oldest first.
    pub fn of(before: Vec<VitalsSample>) -> Self {
        let mut rings = Self::default();
        for sample in before {
            match Span::ALL.iter().find(|span| span.seconds() == sample.seconds) {
                Some(Span::Second) => rings.seconds.push_back(sample),
                Some(Span::Minute) => rings.minutes.push_back(sample),
                None => {}
            }
            rings.trim();
        }
        rings
    }

    /// Adds a reading; the samples that it makes: its own, and after the last of a minute that one's.
    pub fn add(
        &mut self,
        at: Timestamp,
        boot_ns: u64,
        vitals: Vitals,
        trees: Vec<TopTree>,
    ) -> Vec<VitalsSample> {
        let sample = |span: Span, average, least, most, trees| VitalsSample {
            at: Some(at),
            boot_ns,
            seconds: span.seconds(),
            average: Some(average),
            least,
            most,
            trees,
        };
        self.trees.extend(trees.iter().cloned());
        let second = sample(Span::Second, vitals, None, None, trees);
        self.seconds.push_back(second.clone());
        let mut made = vec![second];
        self.under_way.push(vitals);
        if self.under_way.len() as u32 >= Span::Minute.seconds() {
            let all = std::mem::take(&mut self.under_way);
            let minute = sample(
                Span::Minute,
                average(&all),
                Some(fold(&all, Pick::Least)),
                Some(fold(&all, Pick::Most)),
                top::of_minute(std::mem::take(&mut self.trees)),
            );
            self.minutes.push_back(minute.clone());
            made.push(minute);
        }
        self.trim();
        made
    }

    fn trim(&mut self) {
        for (ring, span) in [(&mut self.seconds, Span::Second), (&mut self.minutes, Span::Minute)] {
            while ring.len() > span.kept() {
                ring.pop_front();
            }
        }
    }

    /// Minutes, then seconds, each oldest first.
    pub fn samples(&self) -> Vec<VitalsSample> {
        self.minutes.iter().chain(&self.seconds).cloned().collect()
    }

    /// The same from a moment of this boot on, whose seconds are the newest there are (boot clock, ns).
    pub fn since(&self, from_ns: u64) -> Vec<VitalsSample> {
        let mut newest = self.seconds.back().map_or(0, |sample| sample.boot_ns);
        // From the newest back, the boot clock only falls: where it is ahead again another boot ends.
        let begins = |ring: &VecDeque<VitalsSample>, newest: &mut u64| {
            let behind = ring.iter().rev().take_while(|sample| {
                let is_behind = (from_ns..=*newest).contains(&sample.boot_ns);
                *newest = sample.boot_ns;
                is_behind
            });
            ring.len() - behind.count()
        };
        let minutes = begins(&self.minutes, &mut newest.clone());
        let seconds = begins(&self.seconds, &mut newest);
        self.minutes.range(minutes..).chain(self.seconds.range(seconds..)).cloned().collect()
    }
}

#[derive(Clone, Copy)]
enum Pick {
    Least,
    Most,
}

/// Each number on its own, of the readings that have it.
fn fold(all: &[Vitals], pick: Pick) -> Vitals {
    let float = |of: fn(&Vitals) -> Option<f32>| {
        let values = all.iter().filter_map(of);
        match pick {
            Pick::Least => values.reduce(f32::min),
            Pick::Most => values.reduce(f32::max),
        }
    };
    let count = |of: fn(&Vitals) -> Option<u64>| {
        let values = all.iter().filter_map(of);
        match pick {
            Pick::Least => values.min(),
            Pick::Most => values.max(),
        }
    };
    combine(float, count)
}

fn average(all: &[Vitals]) -> Vitals {
    let float = |of: fn(&Vitals) -> Option<f32>| {
        let values: Vec<f64> = all.iter().filter_map(of).map(f64::from).collect();
        (!values.is_empty()).then(|| (values.iter().sum::<f64>() / values.len() as f64) as f32)
    };
    let count = |of: fn(&Vitals) -> Option<u64>| {
        let values: Vec<u64> = all.iter().filter_map(of).collect();
        // Sixty numbers of 64 bits.
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        (!values.is_empty()).then(|| (sum / values.len() as u128) as u64)
    };
    combine(float, count)
}

/// The signs, each as what is given makes of it. Taken apart by name: a new one does not compile until it
/// is here.
fn combine(
    float: impl Fn(fn(&Vitals) -> Option<f32>) -> Option<f32>,
    count: impl Fn(fn(&Vitals) -> Option<u64>) -> Option<u64>,
) -> Vitals {
    Vitals {
        cpu_some: float(|it| it.cpu_some),
        memory_some: float(|it| it.memory_some),
        memory_full: float(|it| it.memory_full),
        io_some: float(|it| it.io_some),
        io_full: float(|it| it.io_full),
        load: float(|it| it.load),
        available_bytes: count(|it| it.available_bytes),
        swapped_bytes: count(|it| it.swapped_bytes),
        processes: count(|it| it.processes.map(u64::from)).map(|it| it as u32),
        threads: count(|it| it.threads.map(u64::from)).map(|it| it as u32),
        disk_free_bytes: count(|it| it.disk_free_bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::{proto::FlightRecord, record::MAX_RECORD_BYTES};

    fn reading(n: u64) -> Vitals {
        Vitals { load: Some(n as f32), available_bytes: Some(n), ..Vitals::default() }
    }

    fn tree(n: u64) -> TopTree {
        TopTree {
            pid: 7,
            start_ns: 7,
            comm: "make".into(),
            processes: (n % 9) as u32,
            forks: 2,
            ..TopTree::default()
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp { seconds: seconds as i64, nanos: 0 }
    }

    #[test]
    fn what_came_since_is_of_this_boot() {
        let mut rings = Rings::default();
        for n in 1_000..=1_120 {
            rings.add(at(n), n * 1_000_000_000, reading(n), Vec::new());
        }
        // The host was started anew.
        for n in 1..=70 {
            rings.add(at(2_000 + n), n * 1_000_000_000, reading(n), Vec::new());
        }
        let since = |second: u64| -> Vec<u64> {
            rings
                .since(second * 1_000_000_000)
                .iter()
                .map(|it| it.at.unwrap().seconds as u64)
                .collect()
        };
        assert_eq!(since(69), [2_069, 2_070]);
        let all = since(0);
        assert_eq!(all.len(), 1 + 70, "one minute and its seconds");
        assert!(all.iter().all(|second| *second > 2_000));
        assert_eq!(rings.samples().len(), 3 + 191);
    }

    #[test]
    fn ten_minutes_of_seconds_and_a_day_of_minutes() {
        let mut rings = Rings::default();
        let mut made = Vec::new();
        let two_days = 2 * 86_400;
        for n in 1..=two_days {
            made.extend(rings.add(at(n), n * 1_000_000_000, reading(n), vec![tree(n)]));
        }
        assert_eq!(made.len() as u64, two_days + two_days / 60);
        let samples = rings.samples();
        assert_eq!(samples.len(), 1_440 + 600);
        let (minutes, seconds) = samples.split_at(1_440);
        assert!(
            minutes.iter().all(|it| it.seconds == 60) && seconds.iter().all(|it| it.seconds == 1)
        );
        assert!(
            minutes.is_sorted_by_key(|it| it.boot_ns) && seconds.is_sorted_by_key(|it| it.boot_ns)
        );
        let last = minutes.last().unwrap();
        assert_eq!(last.least.unwrap().available_bytes, Some(two_days - 59));
        assert_eq!(last.most.unwrap().available_bytes, Some(two_days));
        assert_eq!(last.average.unwrap().available_bytes, Some((2 * two_days - 59) / 2));
        assert_eq!(last.average.unwrap().cpu_some, None, "what was never read is absent");
        assert_eq!(last.trees, [TopTree { processes: 8, forks: 120, ..tree(0) }]);
        assert_eq!(rings.since((two_days - 9) * 1_000_000_000).len(), 10 + 1);
        // What is kept elsewhere and given back is the same.
        assert_eq!(Rings::of(samples.clone()).samples(), samples);
    }

    #[test]
    fn a_full_record_with_the_longest_of_everything_is_half_of_the_largest() {
        let tree = TopTree {
            pid: u32::MAX,
            start_ns: u64::MAX,
            comm: "\\xff".repeat(15),
            processes: u32::MAX,
            forks: u32::MAX,
            bytes: u64::MAX,
            bytes_per_second: f64::MAX,
            threads: u32::MAX,
            stalled_ns: u64::MAX,
            exhausted_in_s: Some(f64::MAX),
        };
        let signs = combine(|_| Some(f32::MAX), |_| Some(u64::MAX));
        let sample = |span: Span, trees: usize| VitalsSample {
            at: Some(Timestamp { seconds: i64::MAX, nanos: 999_999_999 }),
            boot_ns: u64::MAX,
            seconds: span.seconds(),
            average: Some(signs),
            least: Some(signs),
            most: Some(signs),
            trees: vec![tree.clone(); trees],
        };
        let samples = [(Span::Minute, 3), (Span::Second, 7)]
            .map(|(span, trees)| vec![sample(span, trees); span.kept()])
            .concat();
        let bytes = FlightRecord { samples }.encoded_len();
        assert!(bytes <= MAX_RECORD_BYTES / 2, "{bytes} bytes");
    }

    proptest! {
        #[test]
        fn an_average_lies_between(values in proptest::collection::vec(any::<u64>(), 1..60)) {
            let all: Vec<Vitals> = values.iter().map(|value| reading(*value)).collect();
            let (least, mean, most) = (fold(&all, Pick::Least), average(&all), fold(&all, Pick::Most));
            prop_assert!(least.available_bytes <= mean.available_bytes);
            prop_assert!(mean.available_bytes <= most.available_bytes);
        }
    }
}
