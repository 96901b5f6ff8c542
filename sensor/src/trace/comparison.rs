//! The kernel's verdicts beside those of a replay: the same, or the same but for what happened on
//! two processors at once, or different.
//!
//! An event reaches the ring a moment after it has changed the table. So the kernel may have judged an
//! exec with a fork or an exit that stands behind it in the trace, or without one that stands before.

use std::collections::VecDeque;

use sensor_common::ProcessKey;
use serde::Serialize;

use crate::proto::GateVerdict;

/// How far apart two events may be that happened at once, ns: a processor takes microseconds, a
/// virtual one may be taken away in between.
const AT_ONCE_NS: u64 = 100_000_000;

/// Differences that are told one by one; the others are only counted.
pub const TOLD: usize = 20;

/// The verdicts of the kernel beside those of the replay, one for each exec.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Agreement {
    /// False where other thresholds are in force than when it was recorded: nothing is compared.
    pub comparable: bool,
    pub agree: u64,
    pub differ: u64,
    /// Of those that agree: something was just under way on another CPU (a fork or an exit that the
    /// kernel counted already, the same crossing, an ancestor's death), and its word was taken.
    pub in_flight: u64,
    /// Alarms of storms and respawn loops, kernel's and replay's: the same rule and ancestor within a
    /// second. They count what several CPUs change at once, so that no two are the same to the last
    /// process.
    pub storms_agree: u64,
    pub storms_differ: u64,
    /// The first differences, in words.
    pub differences: Vec<String>,
}

/// One exec as the kernel and as the replay judged it.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Boot clock.
    pub now_ns: u64,
    pub said: GateVerdict,
    pub ours: GateVerdict,
    /// The kernel's number of living processes was taken.
    pub in_flight: bool,
    /// The process and its ancestors, where the two differ.
    pub chain: Vec<ProcessKey>,
}

/// A comparison under way.
#[derive(Debug, Default)]
pub struct Comparison {
    agreement: Agreement,
    /// Those that differ, until everything that could have happened at the same time is known.
    open: VecDeque<Compared>,
    /// What was reported lately by either.
    reported: VecDeque<Compared>,
    /// Who died lately.
    deaths: VecDeque<(u64, ProcessKey)>,
}

impl Comparison {
    pub fn add(&mut self, compared: Compared) {
        self.settle(compared.now_ns);
        if compared.said.reported || compared.ours.reported {
            self.reported.push_back(Compared { chain: Vec::new(), ..compared });
        }
        if compared.said == compared.ours {
            self.agreement.count(&compared, true);
        } else {
            self.open.push_back(compared);
        }
    }

    pub fn died(&mut self, key: ProcessKey, at_ns: u64) {
        self.settle(at_ns);
        self.deaths.push_back((at_ns, key));
    }

    /// What it came to.
    pub fn end(&mut self) -> Agreement {
        self.settle(u64::MAX);
        std::mem::take(&mut self.agreement)
    }

    /// Decides about what is older than anything that can still come.
    fn settle(&mut self, now_ns: u64) {
        let over = |then: &mut Compared| now_ns.saturating_sub(then.now_ns) > AT_ONCE_NS;
        while let Some(mut open) = self.open.pop_front_if(over) {
            let explained = self.was_reported_elsewhere(&open) || self.lost_an_ancestor(&open);
            open.in_flight |= explained;
            self.agreement.count(&open, explained);
        }
        // One that is settled next may be as old as this, and what explains it twice.
        let past = |at_ns: u64| now_ns.saturating_sub(at_ns) > 3 * AT_ONCE_NS;
        while self.reported.pop_front_if(|it| past(it.now_ns)).is_some() {}
        while self.deaths.pop_front_if(|it| past(it.0)).is_some() {}
    }

    /// Of two crossings at once either may have come first, or both have been reported.
    fn was_reported_elsewhere(&self, open: &Compared) -> bool {
        let (said, ours) = (&open.said, &open.ours);
        let only_that = *said == GateVerdict { reported: said.reported, ..*ours };
        only_that
            && self.reported.iter().any(|it| {
                let other = if said.reported { &it.ours } else { &it.said };
                other.reported
                    && (other.top, other.level) == (said.top, said.level)
                    && it.now_ns.abs_diff(open.now_ns) <= AT_ONCE_NS
            })
    }

    /// Only the living count, and an ancestor was just dying.
    fn lost_an_ancestor(&self, open: &Compared) -> bool {
        self.deaths.iter().any(|(at_ns, key)| {
            at_ns.abs_diff(open.now_ns) <= AT_ONCE_NS && open.chain.contains(key)
        })
    }
}

impl Agreement {
    fn count(&mut self, compared: &Compared, same: bool) {
        let Compared { said, ours, in_flight, chain, .. } = compared;
        if same {
            self.agree += 1;
            self.in_flight += u64::from(*in_flight);
            return;
        }
        self.differ += 1;
        if self.differences.len() < TOLD {
            let pid = chain.first().map_or(0, |key| key.tgid);
            self.differences
                .push(format!("pid {pid}: the kernel said {said:?}, the replay {ours:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;
    const PARENT: ProcessKey = ProcessKey::new(1, 5);
    const PROCESS: ProcessKey = ProcessKey::new(2, 6);

    /// The replay still saw an ancestor with the same executable, which `dead` was.
    fn differing(dead: &[(ProcessKey, u64)]) -> (u64, u64, u64) {
        let mut comparison = Comparison::default();
        let (before, after): (Vec<_>, Vec<_>) = dead.iter().copied().partition(|it| it.1 < NOW);
        for (key, at_ns) in before {
            comparison.died(key, at_ns);
        }
        comparison.add(Compared {
            now_ns: NOW,
            said: GateVerdict::default(),
            ours: GateVerdict { exe_repetitions: 1, ..GateVerdict::default() },
            in_flight: false,
            chain: vec![PROCESS, PARENT],
        });
        for (key, at_ns) in after {
            comparison.died(key, at_ns);
        }
        let Agreement { agree, differ, in_flight, .. } = comparison.end();
        (agree, differ, in_flight)
    }

    #[test]
    fn an_ancestor_that_dies_at_that_moment_explains_a_difference() {
        assert_eq!(differing(&[(PARENT, NOW + 2000)]), (1, 0, 1));
        assert_eq!(differing(&[(PARENT, NOW - 2000)]), (1, 0, 1));
    }

    #[test]
    fn other_deaths_and_other_times_explain_nothing() {
        let stranger = ProcessKey::new(3, 7);
        assert_eq!(differing(&[]), (0, 1, 0));
        assert_eq!(differing(&[(stranger, NOW + 2000)]), (0, 1, 0));
        assert_eq!(differing(&[(PARENT, NOW + 2 * AT_ONCE_NS)]), (0, 1, 0));
        assert_eq!(differing(&[(PARENT, NOW - 2 * AT_ONCE_NS)]), (0, 1, 0));
    }
}
