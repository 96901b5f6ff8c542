//! Whether an investigation may start. Pure: time comes in.

use std::collections::VecDeque;

const HOUR_NS: u64 = 3_600_000_000_000;

/// Bounds over all investigations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub at_once: u32,
    pub per_hour: u32,
}

impl Default for Limits {
    /// One at a time: it runs on the host that is in trouble. Twelve an hour: a fault that comes
    /// back every five minutes is one fault.
    fn default() -> Self {
        Self { at_once: 1, per_hour: 12 }
    }
}

/// Why an investigation does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the culprit is an investigation of our own: it is not investigated")]
    Ourselves,
    #[error("{0} at once are allowed, and as many run")]
    Busy(u32),
    #[error("{0} an hour are allowed, and as many have begun")]
    Spent(u32),
}

#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    running: u32,
    /// Begin of each in the last hour, boot clock, ns.
    begun: VecDeque<u64>,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, running: 0, begun: VecDeque::new() }
    }

    /// Counts one as begun, or says why it may not. `ours`: the culprit is one of our agents.
    pub fn begin(&mut self, now_ns: u64, ours: bool) -> Result<(), Denied> {
        while self.begun.front().is_some_and(|begun| now_ns.saturating_sub(*begun) >= HOUR_NS) {
            self.begun.pop_front();
        }
        if ours {
            return Err(Denied::Ourselves);
        }
        if self.running >= self.limits.at_once {
            return Err(Denied::Busy(self.limits.at_once));
        }
        if self.begun.len() >= self.limits.per_hour as usize {
            return Err(Denied::Spent(self.limits.per_hour));
        }
        self.running += 1;
        self.begun.push_back(now_ns);
        Ok(())
    }

    /// One has ended.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let mut budget = Budget::new(Limits::default());
        assert_eq!(budget.begin(0, false), Ok(()));
        assert_eq!(budget.begin(1, false), Err(Denied::Busy(1)));
        budget.end();
        assert_eq!(budget.begin(2, false), Ok(()));
    }

    #[test]
    fn so_many_an_hour() {
        let mut budget = Budget::new(Limits { at_once: 1, per_hour: 2 });
        for now in [0, 10] {
            assert_eq!(budget.begin(now, false), Ok(()));
            budget.end();
        }
        assert_eq!(budget.begin(HOUR_NS - 1, false), Err(Denied::Spent(2)));
        assert_eq!(budget.begin(HOUR_NS, false), Ok(()), "the first is an hour ago");
        budget.end();
        assert_eq!(budget.begin(HOUR_NS + 1, false), Err(Denied::Spent(2)));
    }

    #[test]
    fn never_about_ourselves_and_that_costs_nothing() {
        let mut budget = Budget::new(Limits { at_once: 1, per_hour: 1 });
        assert_eq!(budget.begin(0, true), Err(Denied::Ourselves));
        assert_eq!(budget.begin(0, false), Ok(()));
    }
}
