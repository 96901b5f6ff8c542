//! Whether an explosion (R3) is to be contained: what the kernel cannot know. Pure.
//!
//! A false freeze is the worst bug, and a tree that grows by hundreds of processes may be just what
//! somebody asked for (`xargs -P300`, a server that starts its workers). So it is watched: honest
//! work stops growing at its number, a storm goes on until something is used up.

use std::collections::VecDeque;

/// A tree older than this has done its work so far; what it does now is for a person to judge.
pub const YOUNG_NS: u64 = 10 * 60 * SECOND_NS;

/// Growth that goes on for so long after the crossing, at half its pace or more, is a storm: what was
/// asked for comes within a second (`xargs -P300` takes 0.3 s).
pub const GOES_ON_NS: u64 = 3 * SECOND_NS;

/// A pace that has fallen to such a part is none.
const STOPPED: f64 = 10.0;

/// What has neither stopped nor gone on by then counts as stopped; the kernel reports it again when
/// it still grows.
pub const WATCHED_NS: u64 = 55 * SECOND_NS;

/// Only what would use something up within this time is worth a freeze without asking.
const EXHAUSTED_WITHIN_S: f64 = 120.0;

/// With so little time left there is no more to wait for. The brake takes below 50 ms from the
/// decision; the rest is for a thread that waits its turn on a busy host.
const LAST_MOMENT_S: f64 = 0.2;

/// The same for memory: from here on everything stalls, and the brake with it.
const LAST_MEMORY_S: f64 = 2.0;

/// Available memory moves by itself; less time than this says nothing about its fall.
const MEMORY_MEASURED_NS: u64 = 500_000_000;

/// The pace of now is taken over so long.
const PACE_NS: u64 = 250_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// A limit of processes that the tree would reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tasks {
    /// What says so, e.g. `pids.max of /build.slice`.
    pub limit: String,
    pub most: u64,
    pub left: u64,
}

/// What was seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Boot clock.
    pub at_ns: u64,
    /// Living processes of the tree.
    pub live: u32,
    /// The limit that is reached first; `None`: none could be read.
    pub tasks: Option<Tasks>,
    pub memory: Option<Memory>,
}

/// Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of what, e.g. `memory.max of build.slice`: what is used up first.
    pub limit: String,
    /// That is left.
    pub available: u64,
    /// That the tree has, about: shared pages count for each who shares them.
    pub taken: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Look again soon.
    Wait,
    /// It is to be contained, for this reason.
    Contain(String),
    /// The same, and there is no time left for another look.
    ContainNow(String),
    /// It goes on, and is left alone for this reason.
    Leave(String),
    /// It has stopped growing, as what somebody asked for does: nobody needs to hear of it.
    Stopped(String),
}

/// An explosion that is being watched.
#[derive(Debug)]
pub struct Surge {
    /// Processes a second when it crossed.
    pace: f64,
    crossed_ns: u64,
    /// The first sample with memory in it.
    first_memory: Option<Sample>,
    /// The last four seconds.
    recent: VecDeque<Sample>,
}

impl Surge {
    pub fn new(crossed_ns: u64, pace: f64) -> Self {
        Self { pace, crossed_ns, first_memory: None, recent: VecDeque::new() }
    }

    /// Judges what is seen now. Samples come in order.
    pub fn judge(&mut self, now: Sample) -> Verdict {
        let too_old = |old: &Sample| now.at_ns - old.at_ns > GOES_ON_NS + SECOND_NS;
        while self.recent.front().is_some_and(too_old) {
            self.recent.pop_front();
        }
        let since = |ns: u64| self.recent.iter().rev().find(|old| now.at_ns - old.at_ns >= ns);
        // Until there is anything to compare with, what the kernel measured counts.
        let before = since(PACE_NS).or_else(|| since(PACE_NS / 5));
        let pace = before.map_or(self.pace, |before| pace(before, &now));
        let average = since(GOES_ON_NS).map(|before| self::pace(before, &now));
        let watched_ns = now.at_ns.saturating_sub(self.crossed_ns);
        self.recent.push_back(now.clone());

        // Near the end it is enough that it has not stopped.
        let goes_on = pace >= self.pace / STOPPED;
        let tasks = now.tasks.as_ref().map(|tasks| (tasks, tasks.left as f64 / pace.max(0.001)));
        // A shell that has a CPU to itself for a moment forks ten times as fast as on average, so that
        // time alone is no margin.
        if let Some((tasks, seconds)) = &tasks
            && goes_on
            && (*seconds <= LAST_MOMENT_S || tasks.left < u64::from(now.live))
        {
            return Verdict::ContainNow(format!("it {}", uses_up(tasks, pace, *seconds)));
        }
        let limit = |sample: &Sample| sample.memory.as_ref().map(|memory| memory.limit.clone());
        // What is left of another limit says nothing about the fall of this one.
        if now.memory.is_some() && self.first_memory.as_ref().and_then(limit) != limit(&now) {
            self.first_memory = Some(now.clone());
        }
        let memory = self.first_memory.as_ref().and_then(|first| memory(first, &now));
        let of = now.memory.as_ref().map_or("all memory", |memory| &memory.limit);
        if let Some((seconds, fall)) = memory
            && goes_on
            && seconds <= LAST_MEMORY_S
        {
            return Verdict::ContainNow(format!("it {}", takes_all(of, fall, seconds)));
        }
        let Some(average) = average else { return Verdict::Wait };
        if average < self.pace / 2.0 {
            // A busy host slows a storm down, too: it may come back to its pace.
            let stopped = average < self.pace / STOPPED;
            return if stopped || watched_ns >= WATCHED_NS {
                Verdict::Stopped(format!(
                    "its growth slowed down from {:.0} to {:.0} processes a second",
                    self.pace,
                    average.max(0.0)
                ))
            } else {
                Verdict::Wait
            };
        }
        let tasks = tasks.map(|(tasks, _)| (tasks, tasks.left as f64 / average));
        if let Some((tasks, seconds)) = tasks.filter(|(_, seconds)| *seconds <= EXHAUSTED_WITHIN_S)
        {
            let end = uses_up(tasks, average, seconds);
            return Verdict::Contain(format!("it has gone on growing for 3 s and {end}"));
        }
        if let Some((seconds, fall)) = memory.filter(|(seconds, _)| *seconds <= EXHAUSTED_WITHIN_S)
        {
            let end = takes_all(of, fall, seconds);
            return Verdict::Contain(format!("it has gone on growing for 3 s and {end}"));
        }
        Verdict::Leave(match tasks {
            Some((tasks, seconds)) => format!(
                "at {average:.0} processes a second it would take {:.0} minutes to use up {} ({})",
                seconds / 60.0,
                tasks.limit,
                tasks.most
            ),
            None => "no limit of processes could be read".to_owned(),
        })
    }
}

fn uses_up(tasks: &Tasks, pace: f64, seconds: f64) -> String {
    format!(
        "would use up {} ({}, of which {} are left) in {seconds:.1} s at {pace:.0} a second",
        tasks.limit, tasks.most, tasks.left
    )
}

fn takes_all(limit: &str, fall: f64, seconds: f64) -> String {
    let mib = fall / f64::from(1 << 20);
    format!("would use up {limit} in {seconds:.0} s at {mib:.0} MiB a second")
}

fn pace(before: &Sample, now: &Sample) -> f64 {
    let ns = now.at_ns.saturating_sub(before.at_ns).max(1);
    (f64::from(now.live) - f64::from(before.live)) * SECOND_NS as f64 / ns as f64
}

/// Seconds until no memory is available, and how much goes in one, bytes; `None` where it does not
/// fall, or not for long enough to say. Only what the tree has taken in the same time counts: what
/// is available falls for other reasons too, and what a fork shares with its parent takes nothing.
fn memory(first: &Sample, now: &Sample) -> Option<(f64, f64)> {
    let ns = now.at_ns - first.at_ns;
    if ns < MEMORY_MEASURED_NS {
        return None;
    }
    let (before, now) = (first.memory.as_ref()?, now.memory.as_ref()?);
    let fall = before.available.saturating_sub(now.available);
    let fall = fall.min(now.taken.saturating_sub(before.taken)) as f64 / (ns as f64 / 1e9);
    (fall > 0.0).then(|| (now.available as f64 / fall, fall))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const CROSSED: u64 = 100 * SECOND_NS;

    fn sample(ms: u64, live: u32, most: u64) -> Sample {
        let left = most.saturating_sub(live.into());
        let tasks = Some(Tasks { limit: "pids.max of /a".into(), most, left });
        Sample { at_ns: CROSSED + ms * MS, live, tasks, memory: None }
    }

    /// Looks every 20 ms at a tree that has `size(ms)` processes; when it was decided, and what.
    fn watch(pace: f64, most: u64, size: impl Fn(u64) -> u32) -> (u64, Verdict) {
        let mut surge = Surge::new(CROSSED, pace);
        for ms in (0..).step_by(20) {
            let verdict = surge.judge(sample(ms, size(ms), most));
            if verdict != Verdict::Wait {
                return (ms, verdict);
            }
        }
        unreachable!()
    }

    #[test]
    fn a_star_in_a_small_cage_is_contained_at_once() {
        // 256 of 400: there is no room for as many again.
        let (ms, verdict) = watch(300.0, 400, |ms| 256 + (ms * 3 / 10) as u32);
        assert_eq!(ms, 0);
        assert_eq!(
            verdict,
            Verdict::ContainNow(
                "it would use up pids.max of /a (400, of which 144 are left) in 0.5 s at 300 a second"
                    .into()
            )
        );
    }

    #[test]
    fn a_star_in_a_larger_cage_is_contained_when_it_could_not_double_any_more() {
        // 501 of 1,000 after 820 ms.
        assert_eq!(watch(300.0, 1000, |ms| 256 + (ms * 3 / 10) as u32).0, 820);
        // 16,456 of 32,768.
        assert_eq!(watch(30_000.0, 32_768, |ms| 256 + ms as u32 * 30).0, 540);
    }

    #[test]
    fn what_somebody_asked_for_is_left_alone() {
        // xargs -P300 in 1,000: it stops at 301.
        let (ms, verdict) = watch(1000.0, 1000, |ms| (256 + ms as u32).min(301));
        assert_eq!(ms, 3000);
        assert_eq!(
            verdict,
            Verdict::Stopped("its growth slowed down from 1000 to 15 processes a second".into())
        );
    }

    #[test]
    fn a_storm_on_a_large_host_is_contained_after_three_seconds() {
        let (ms, verdict) = watch(400.0, 32_768, |ms| 256 + (ms * 4 / 10) as u32);
        assert_eq!(ms, 3000);
        assert_eq!(
            verdict,
            Verdict::Contain(
                "it has gone on growing for 3 s and would use up pids.max of /a (32768, of which \
                 31312 are left) in 78.3 s at 400 a second"
                    .into()
            )
        );
    }

    #[test]
    fn what_is_slowed_down_is_watched_until_it_stops_or_goes_on() {
        // A third of its pace for 10 s, then all of it: 3 s, of which half the time is enough.
        let size =
            |ms: u64| 256 + if ms < 10_000 { ms / 30 } else { 333 + (ms - 10_000) / 10 } as u32;
        let (ms, verdict) = watch(100.0, 5_000, size);
        assert_eq!(ms, 10_760);
        assert!(matches!(verdict, Verdict::Contain(_)), "{verdict:?}");
        let (ms, verdict) = watch(100.0, 10_000, |ms| 256 + (ms / 30) as u32);
        assert_eq!(ms, 55_000);
        assert!(matches!(verdict, Verdict::Stopped(_)), "{verdict:?}");
    }

    #[test]
    fn what_has_time_is_left_to_a_person() {
        let (ms, verdict) = watch(60.0, 32_768, |ms| 256 + (ms * 6 / 100) as u32);
        assert_eq!(ms, 3000);
        let why =
            "at 60 processes a second it would take 9 minutes to use up pids.max of /a (32768)";
        assert_eq!(verdict, Verdict::Leave(why.into()));
    }

    #[test]
    fn memory_counts_once_its_fall_is_known() {
        let mut surge = Surge::new(CROSSED, 100.0);
        let at = |ms: u64, available: u64, taken: u64| Sample {
            memory: Some(Memory {
                limit: "memory.max of a".into(),
                available: available << 30,
                taken: taken << 30,
            }),
            tasks: None,
            ..sample(ms, 256 + ms as u32 / 10, 0)
        };
        assert_eq!(surge.judge(Sample { memory: None, ..at(0, 0, 0) }), Verdict::Wait);
        assert_eq!(surge.judge(at(0, 16, 1)), Verdict::Wait);
        assert_eq!(surge.judge(at(100, 12, 5)), Verdict::Wait, "too short to say");
        assert_eq!(surge.judge(at(700, 8, 1)), Verdict::Wait, "somebody else takes it");
        // 8 GiB in 0.8 s: the other 8 last as long.
        let contain = "it would use up memory.max of a in 1 s at 10240 MiB a second";
        assert_eq!(surge.judge(at(800, 8, 9)), Verdict::ContainNow(contain.into()));
        let host = Sample {
            memory: at(900, 7, 10).memory.map(|it| Memory { limit: "the host's".into(), ..it }),
            ..at(900, 7, 10)
        };
        assert_eq!(surge.judge(host), Verdict::Wait, "another limit, whose fall nobody knows");
    }

    #[test]
    fn without_a_limit_that_can_be_read_nothing_is_done() {
        let mut surge = Surge::new(CROSSED, 100.0);
        let at = |ms: u64| Sample { tasks: None, ..sample(ms, 256 + ms as u32 / 10, 0) };
        assert_eq!(surge.judge(at(0)), Verdict::Wait);
        let why = "no limit of processes could be read";
        assert_eq!(surge.judge(at(3000)), Verdict::Leave(why.into()));
    }
}
