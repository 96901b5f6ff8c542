//! Watchdogs of a run: an agent that says nothing, does not end, or goes on for ever is ended. Pure: time
//! comes in.
//!
//! Hangs are normal. Agents were seen to hang before their first event when memory was short, to fall
//! silent in the middle of an answer, and to stay after their result.

use std::time::{Duration, Instant};

/// How long a run may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From its begin to its end.
    pub deadline: Duration,
    /// From its begin to its first event; `None`: it need not say anything.
    pub first_event: Option<Duration>,
    /// Between two events.
    pub silence: Option<Duration>,
    /// Between its last event and its end.
    pub linger: Option<Duration>,
}

impl Patience {
    /// Only the wall clock counts.
    pub const fn of(deadline: Duration) -> Self {
        Self { deadline, first_event: None, silence: None, linger: None }
    }
}

/// What a run has done for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bark {
    Deadline(Duration),
    NoEvent(Duration),
    Silent(Duration),
    /// It has told its result, and does not go.
    Lingers(Duration),
}

/// One life of a run, watched.
#[derive(Debug)]
pub struct Watch {
    patience: Patience,
    began: Instant,
    last: Option<Instant>,
    ended: bool,
}

impl Watch {
    pub fn new(patience: Patience, now: Instant) -> Self {
        Self { patience, began: now, last: None, ended: false }
    }

    /// It has said something; `last`: that it is done.
    pub fn heard(&mut self, now: Instant, last: bool) {
        self.ended |= last;
        self.last = Some(now);
    }

    /// It has told its result.
    pub fn is_over(&self) -> bool {
        self.ended
    }

    /// When it barks next, and what for.
    pub fn next(&self) -> (Instant, Bark) {
        let patience = &self.patience;
        let soonest = match (self.last, self.ended) {
            (None, _) => patience.first_event.map(|time| (self.began + time, Bark::NoEvent(time))),
            (Some(last), false) => patience.silence.map(|time| (last + time, Bark::Silent(time))),
            (Some(last), true) => patience.linger.map(|time| (last + time, Bark::Lingers(time))),
        };
        let deadline = (self.began + patience.deadline, Bark::Deadline(patience.deadline));
        soonest.filter(|(at, _)| *at < deadline.0).unwrap_or(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const AGENT: Patience = Patience {
        deadline: s(900),
        first_event: Some(s(60)),
        silence: Some(s(180)),
        linger: Some(s(10)),
    };

    #[test]
    fn each_has_its_time() {
        let began = Instant::now();
        let mut watch = Watch::new(AGENT, began);
        assert_eq!(watch.next(), (began + s(60), Bark::NoEvent(s(60))));
        watch.heard(began + s(50), false);
        assert_eq!(watch.next(), (began + s(230), Bark::Silent(s(180))));
        watch.heard(began + s(100), false);
        assert_eq!(watch.next(), (began + s(280), Bark::Silent(s(180))));
        watch.heard(began + s(101), true);
        assert_eq!(watch.next(), (began + s(111), Bark::Lingers(s(10))));
    }

    #[test]
    fn whoever_trickles_meets_the_deadline() {
        let began = Instant::now();
        let mut watch = Watch::new(AGENT, began);
        for second in (0..890).step_by(100) {
            watch.heard(began + s(second), false);
        }
        assert_eq!(watch.next(), (began + s(900), Bark::Deadline(s(900))));
        // After its result as well.
        watch.heard(began + s(895), true);
        assert_eq!(watch.next(), (began + s(900), Bark::Deadline(s(900))));
    }

    #[test]
    fn a_program_of_ones_own_need_not_say_anything() {
        let began = Instant::now();
        let mut watch = Watch::new(Patience::of(s(300)), began);
        assert_eq!(watch.next().0, began + s(300));
        watch.heard(began, false);
        assert_eq!(watch.next(), (began + s(300), Bark::Deadline(s(300))));
    }
}
