//! Observations become findings. Pure: no I/O, no globals, time comes in.

pub mod group;
pub mod memory;
pub mod oom;
pub mod pressure;
pub mod recursion;
pub mod respawn;
pub mod storm;
pub mod usage;

use self::group::Group;
use crate::{lineage::ProcessKey, proto};

/// A detector's claim about a culprit.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: proto::Kind,
    /// R1, R1b, R1c, R2, R3, R4, R5, R6, M1 to M6, `oom_kill`, `oom_loop`, manual.
    pub rule: &'static str,
    /// What to stop; `None` for host-wide kinds. Of a group the eldest member.
    pub culprit: Option<ProcessKey>,
    /// The culprit is one of many trees, which are it together.
    pub group: Option<Group>,
    /// The process that crossed the gate: the deep end of a recursion.
    pub leaf: Option<ProcessKey>,
    /// Strong enough that policy may contain.
    pub contain: bool,
    /// 0 to 1.
    pub confidence: f64,
    /// Boot clock of the crossing, ns.
    pub at_ns: u64,
    pub measures: Vec<proto::Measure>,
}

impl Finding {
    /// The roots of what to stop: the members of a group, or the culprit.
    pub fn roots(&self) -> Vec<ProcessKey> {
        match &self.group {
            Some(group) => group.members.clone(),
            None => self.culprit.into_iter().collect(),
        }
    }
}
