//! Observations become findings. Pure: no I/O, no globals, time comes in.

pub mod recursion;
pub mod respawn;
pub mod storm;

use crate::{lineage::ProcessKey, proto};

/// A detector's claim about a culprit.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: proto::Kind,
    /// R1, R1b, R1c, R2, R3, R6, manual.
    pub rule: &'static str,
    /// What to stop; `None` for host-wide kinds.
    pub culprit: Option<ProcessKey>,
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
