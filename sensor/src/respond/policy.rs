//! What may be done about a finding, and how often. Pure.

use std::collections::BTreeMap;

use sensor_common::gate::Rule;
use serde::Deserialize;

/// How far automatic action may go for one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Record only.
    Observe,
    /// Record, and say what would help.
    #[default]
    Suggest,
    /// Prepared, and done once a person says so.
    Approve,
    /// Done at once.
    Auto,
}

/// What to do about a finding; each with the reason as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Brake, then freeze.
    Contain {
        why: String,
    },
    /// What containing it would do is counted, and not done.
    Rehearse {
        why: String,
    },
    Suggest {
        why: String,
    },
    Observe {
        why: String,
    },
}

impl Decision {
    /// Why nothing is done, where that is worth a word. `strong`: the finding is good enough for containment.
    pub fn why_not(&self, strong: bool) -> Option<&str> {
        match self {
            Self::Rehearse { why } | Self::Suggest { why } => Some(why),
            Self::Observe { why } => Some(why.as_str()).filter(|_| strong),
            Self::Contain { .. } => None,
        }
    }
}

/// A respawn loop has two processes at most: stopping it saves nothing, and the service that is
/// restarted may work the next time.
const TOLD_ONLY: Rule = Rule::R6;

/// A mode for each rule; rules without one are only suggested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    modes: BTreeMap<String, Mode>,
    dry_run: bool,
}

impl Default for Policy {
    /// The rules of recursions and storms act by themselves: in the labelled runs no honest work
    /// reached their `contain` level, and both fill a host in seconds, sooner than a person can answer.
    fn default() -> Self {
        let mode = |rule: Rule| if rule == TOLD_ONLY { Mode::Suggest } else { Mode::Auto };
        let modes = Rule::ALL.map(|rule| (rule.name().to_owned(), mode(rule))).into();
        Self { modes, dry_run: false }
    }
}

impl Policy {
    /// The defaults, with `modes` over them.
    pub fn with(modes: impl IntoIterator<Item = (String, Mode)>) -> Self {
        let mut policy = Self::default();
        policy.modes.extend(modes);
        policy
    }

    /// The same policy, but nothing is done by itself; what would be is counted.
    #[must_use]
    pub fn dry(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    pub fn mode(&self, rule: &str) -> Mode {
        self.modes.get(rule).copied().unwrap_or_default()
    }

    /// `strong`: the finding is good enough for containment (`Finding::contain`).
    /// `paused`: all automatic action was switched off.
    pub fn decide(&self, rule: &str, strong: bool, paused: bool) -> Decision {
        match self.mode(rule) {
            Mode::Observe => Decision::Observe { why: format!("policy only observes {rule}") },
            _ if rule == TOLD_ONLY.name() => Decision::Suggest {
                why: format!(
                    "{rule} is never stopped by itself: `sensor kill` ends what restarts it"
                ),
            },
            _ if !strong => {
                Decision::Observe { why: format!("{rule} is not yet sure enough to act on") }
            }
            Mode::Suggest => Decision::Suggest { why: format!("policy only suggests for {rule}") },
            Mode::Approve => {
                Decision::Suggest { why: format!("policy asks a person before it acts on {rule}") }
            }
            Mode::Auto if paused => Decision::Suggest {
                why: "automatic action is paused: `sensor resume` switches it on".to_owned(),
            },
            Mode::Auto if self.dry_run => {
                Decision::Rehearse { why: format!("a dry run: policy would act at once on {rule}") }
            }
            Mode::Auto => Decision::Contain { why: format!("policy acts at once on {rule}") },
        }
    }
}

/// How many containments may begin: a bug of ours must not stop the whole host. A token bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_minute: u32,
    /// In thousandths of a token, so that a slow refill is not rounded away.
    filled: u64,
    at_ns: u64,
}

/// A host with more runaway trees than this has a fault that freezing them does not mend.
pub const CONTAINMENTS_PER_MINUTE: u32 = 10;

const TOKEN: u64 = 1000;
const MINUTE_NS: u64 = 60_000_000_000;

impl Bucket {
    pub fn new(per_minute: u32, now_ns: u64) -> Self {
        Self { per_minute, filled: u64::from(per_minute) * TOKEN, at_ns: now_ns }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let full = u64::from(self.per_minute) * TOKEN;
        // A minute fills it whatever was in it.
        let passed = now_ns.saturating_sub(self.at_ns).min(MINUTE_NS);
        let gained = passed * full / MINUTE_NS;
        self.filled = (self.filled + gained).min(full);
        // Time that has not made a whole thousandth yet counts the next time.
        if let Some(unused) = (gained * MINUTE_NS).checked_div(full) {
            self.at_ns = now_ns.saturating_sub(passed - unused);
        }
        let has = self.filled >= TOKEN;
        if has {
            self.filled -= TOKEN;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recursions_and_storms_are_contained_and_the_rest_suggested() {
        let policy = Policy::default();
        for rule in ["R1", "R1b", "R1c", "R2", "R3"] {
            assert!(matches!(policy.decide(rule, true, false), Decision::Contain { .. }));
        }
        for rule in ["manual", "R4", "R5", "R6", "M1", "M2", "M3", "M4", "M5", "M6", ""] {
            assert!(matches!(policy.decide(rule, true, false), Decision::Suggest { .. }));
        }
    }

    #[test]
    fn nothing_is_contained_while_weak_or_paused() {
        let policy = Policy::default();
        assert!(matches!(policy.decide("R1", false, false), Decision::Observe { .. }));
        assert!(matches!(policy.decide("R1", true, true), Decision::Suggest { .. }));
    }

    #[test]
    fn a_dry_run_contains_nothing() {
        let dry = Policy::default().dry(true);
        assert!(matches!(dry.decide("R1", true, false), Decision::Rehearse { .. }));
        assert!(matches!(dry.decide("R1", true, true), Decision::Suggest { .. }));
        assert!(matches!(dry.decide("R1", false, false), Decision::Observe { .. }));
        assert!(matches!(dry.decide("R6", true, false), Decision::Suggest { .. }));
    }

    #[test]
    fn a_respawn_loop_is_told_of_and_never_contained() {
        for mode in [Mode::Suggest, Mode::Approve, Mode::Auto] {
            let policy = Policy::with([("R6".to_owned(), mode)]);
            for strong in [false, true] {
                let decision = policy.decide("R6", strong, false);
                assert!(matches!(decision, Decision::Suggest { .. }), "{mode:?}: {decision:?}");
            }
        }
        let silent = Policy::with([("R6".to_owned(), Mode::Observe)]);
        assert!(matches!(silent.decide("R6", false, false), Decision::Observe { .. }));
    }

    #[test]
    fn configuration_wins() {
        let policy =
            Policy::with([("R1".to_owned(), Mode::Observe), ("manual".to_owned(), Mode::Auto)]);
        assert!(matches!(policy.decide("R1", true, false), Decision::Observe { .. }));
        assert!(matches!(policy.decide("R1b", true, false), Decision::Contain { .. }));
        assert!(matches!(policy.decide("manual", true, false), Decision::Contain { .. }));
        let approve = Policy::with([("R1".to_owned(), Mode::Approve)]);
        assert!(matches!(approve.decide("R1", true, false), Decision::Suggest { .. }));
    }

    #[test]
    fn the_bucket_refills_evenly_and_never_overflows() {
        let second = 1_000_000_000;
        let mut bucket = Bucket::new(10, 0);
        assert_eq!((0..20).filter(|_| bucket.take(0)).count(), 10);
        assert!(!bucket.take(5 * second), "a token takes 6 s");
        assert!(bucket.take(6 * second));
        assert!(!bucket.take(6 * second));
        // A week later there are ten again, not more.
        let later = 7 * 86_400 * second;
        assert_eq!((0..20).filter(|_| bucket.take(later)).count(), 10);
        assert!(!Bucket::new(0, 0).take(u64::MAX), "none at all");
    }

    #[test]
    fn frequent_asking_does_not_starve_the_refill() {
        let mut bucket = Bucket::new(10, 0);
        while bucket.take(0) {}
        // Every 100 µs for 60 s and a little: ten tokens come.
        let taken = (1..=600_010_u64).filter(|tick| bucket.take(tick * 100_000)).count();
        assert_eq!(taken, 10);
    }
}
