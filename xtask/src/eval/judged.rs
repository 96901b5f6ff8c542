//! What was seen of each workload, and which of its incidents is the one that the label asks for.

use std::time::Duration;

use ::tests::judge::{Alone, Label, Outcome, Seen, SeenIncident, Split, corpus};

use super::series;

/// Everything that an evaluation saw.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    pub workloads: Vec<Judged>,
    /// Long recordings of honest work, replayed.
    pub traces: Vec<Replayed>,
    /// Observations of memory, replayed.
    pub observed: Vec<Observed>,
    /// Series of memory that are made; none: left out. An error: why nothing is known.
    pub series: Option<Result<series::Seen, String>>,
}

/// A workload: once alone, and some times under the sensor.
#[derive(Clone, Debug)]
pub struct Judged {
    pub name: String,
    pub about: String,
    pub label: Label,
    pub split: Split,
    /// Whether it is to be contained; false as well for what is only to be told of.
    pub contained: bool,
    /// Why it is unresolved, where it is.
    pub alone: Result<Alone, String>,
    pub trials: Vec<Outcome>,
}

/// Observations that went through the detectors of memory.
#[derive(Clone, Debug)]
pub struct Observed {
    pub name: String,
    /// Sentences about what is wrong; none: all is right. An error: why nothing is known.
    pub faults: Result<Vec<String>, String>,
}

/// A recorded trace that went through the sensor's gates and detectors.
#[derive(Clone, Debug)]
pub struct Replayed {
    pub name: String,
    pub result: Result<corpus::Replay, String>,
}

impl Judged {
    /// The incident kind that it has to become; none: honest.
    pub fn kind(&self) -> Option<&str> {
        match &self.label {
            Label::Honest => None,
            Label::Malign(kind) => Some(kind),
        }
    }

    pub fn is_malign(&self) -> bool {
        self.kind().is_some()
    }

    /// The runs under the sensor that are resolved.
    pub fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.trials.iter().filter_map(|trial| match trial {
            Outcome::Seen(seen) => Some(seen),
            Outcome::Unresolved(_) => None,
        })
    }

    /// Runs that are not, the one alone included.
    pub fn unresolved(&self) -> usize {
        self.trials.len() - self.seen().count() + usize::from(self.alone.is_err())
    }

    /// The incident that this run had to become, the best one where there are several: one cause is
    /// one incident, and the others are too many.
    pub fn hit<'a>(&self, seen: &'a Seen) -> Option<&'a SeenIncident> {
        if !self.is_malign() {
            return None;
        }
        seen.incidents
            .iter()
            .filter(|incident| incident.kind_right)
            .min_by_key(|incident| (!incident.culprit_right, incident.facts_missing.len()))
    }

    /// All but that one, and but those that may stand beside it.
    pub fn extra<'a>(&self, seen: &'a Seen) -> impl Iterator<Item = &'a SeenIncident> {
        let hit = self.hit(seen);
        seen.incidents
            .iter()
            .filter(move |incident| !hit.is_some_and(|hit| std::ptr::eq(hit, *incident)))
            .filter(|incident| !incident.beside)
    }

    pub fn hits(&self) -> impl Iterator<Item = &SeenIncident> {
        self.seen().filter_map(|seen| self.hit(seen))
    }
}

/// `tune`, `held-out`.
pub fn split_word(split: Split) -> &'static str {
    match split {
        Split::Tune => "tune",
        Split::HeldOut => "held-out",
    }
}

/// Seconds of each that there is.
pub fn seconds(times: impl Iterator<Item = Option<Duration>>) -> Vec<f64> {
    times.flatten().map(|time| time.as_secs_f64()).collect()
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
