//! The judge: labelled workloads ([`suite`]), each run for real in a cage of its own, once alone
//! and then under a sensor, and what was seen of that; and recordings of honest work ([`corpus`]).
//!
//! Nothing here knows a rule or a threshold: labels say what a workload is, not how it is found.

pub mod alone;
pub mod corpus;
pub mod suite;
pub mod watched;

pub use alone::alone;
pub use watched::watched;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// From a containment, or the cage's first refusal, to the count of what still runs.
const AFTER: Duration = Duration::from_secs(1);

/// What a workload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Label {
    /// Work that somebody wants done: any incident about it is false.
    Honest,
    /// A runaway, by the word of the incident kind that it has to become.
    Malign(String),
}

/// Which workloads rules may be tuned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Tune,
    /// Looked at only to judge.
    HeldOut,
}

/// A workload without a sensor, bounded by its cage alone: what `pids.max` or the OOM killer does about it, and
/// what the kernel's gates and their replay say about its trace.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Alone {
    /// From the start to its end, or to where it was ended.
    pub took: Duration,
    /// Most processes alive at once.
    pub peak: u64,
    /// From the start to the first fork that the cage refused.
    pub capped_after: Option<Duration>,
    /// Processes and bytes at that moment.
    pub capped_processes: u64,
    pub capped_bytes: u64,
    /// Processes that still ran 1 s after it.
    pub running_after: u64,
    /// From the start to the first process that the OOM killer took, where memory ended first.
    pub oom_after: Option<Duration>,
    /// Honest work: it ended, and well.
    pub ended_well: bool,
    pub trace: Trace,
}

/// What `sensor replay --json` says about a trace, as far as it is judged here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trace {
    /// Length, s.
    pub seconds: f64,
    pub forks: u64,
    pub execs: u64,
    pub exits: u64,
    pub peak_live: u64,
    /// Events that did not reach the trace.
    pub lost: u64,
    /// Crossings by kernel and replay alike, and those by one of them alone.
    pub gates_agree: u64,
    pub gates_differ: u64,
    /// Alarms of storms by kernel and replay alike, and those by one of them alone.
    pub storms_agree: u64,
    pub storms_differ: u64,
    /// The first of those that differ, in words.
    pub differences: Vec<String>,
    /// Different culprits that the replayed detectors name, and those of them worth a containment.
    pub incidents: u64,
    pub containments: u64,
    /// Culprits that a daemon would watch before it says anything.
    pub watched: u64,
}

/// One run under a sensor.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub workload: String,
    pub label: Label,
    pub split: Split,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It could not be set up, or was not what it says it is: never a pass.
    Unresolved(String),
    Seen(Seen),
}

/// What was seen of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub took: Duration,
    pub incidents: Vec<SeenIncident>,
    /// Forks that the cage refused: 0 when the sensor was first.
    pub refused_forks: u64,
    /// Processes of the cage that ran 1 s after the first containment; none: nothing was contained.
    pub running_after: Option<u64>,
    /// Honest work: it ended, and well, as it does alone.
    pub ended_well: bool,
}

/// An incident that was opened during a run.
#[derive(Clone, Debug, Serialize)]
pub struct SeenIncident {
    pub kind: String,
    /// By the detector, for the table only.
    pub rule: String,
    pub summary: String,
    /// It is of the kind that the label asks for.
    pub kind_right: bool,
    /// It is of a kind that may stand beside that.
    pub beside: bool,
    pub culprit_right: bool,
    /// Facts that the diagnosis should have stated and did not.
    pub facts_missing: Vec<String>,
    /// Facts that its evidence window should have had and did not; or that it was larger than it may be.
    pub window_missing: Vec<String>,
    /// From the workload's start.
    pub opened_after: Duration,
    pub contained_after: Option<Duration>,
    /// Of the culprit's tree when the incident was opened, and when it was contained.
    pub processes: u64,
    pub bytes: u64,
    pub processes_contained: Option<u64>,
}

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        match word.as_str() {
            "" => Err("a label is \"honest\" or an incident kind".into()),
            "honest" => Ok(Self::Honest),
            _ => Ok(Self::Malign(word)),
        }
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        match label {
            Label::Honest => "honest".into(),
            Label::Malign(kind) => kind,
        }
    }
}
