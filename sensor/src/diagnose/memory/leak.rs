//! A process whose own memory grows: how fast, since when, and when there is none left.

use super::{Claim, Told};
use crate::detect::memory::measures::{HOLDS, OWN};

/// The process itself has so many percent of its tree's growth.
pub(super) const OWN_AT_LEAST: f64 = 90.0;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    if told.value(OWN)? < OWN_AT_LEAST || told.finding.rule == "M5" {
        return None;
    }
    let who = told.who();
    let cause = format!(
        "{who} itself grows and gives nothing back: {}, evenly, and it holds {} now.{}",
        told.pace(),
        told.bytes(HOLDS),
        told.forecast()
    );
    let remedy = format!(
        "Take a heap profile of {who}{} while it runs, twice some minutes apart, and compare what there is more \
         of; a restart gives the memory back until then.",
        told.pid()
    );
    Some(Claim { by: "process_leak", cause, remedy, confidence: 0.7, evidence: Vec::new() })
}
