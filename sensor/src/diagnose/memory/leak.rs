//! A process whose own memory grows: how fast, since when, and when there is none left.

use super::{Claim, Told};
use crate::detect::memory::measures::{self, HOLDS, LIMIT, OWN, ROSE, SOONEST};

/// The process itself has so many percent of its tree's growth.
pub(super) const OWN_AT_LEAST: f64 = 90.0;

/// Where less time is left than this, s, nobody takes two heap profiles.
const TIME_FOR_A_PROFILE_S: f64 = 600.0;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    if told.value(OWN)? < OWN_AT_LEAST || told.finding.rule == "M5" {
        return None;
    }
    let who = told.who();
    let course = match told.value(ROSE) {
        None => ", evenly".to_owned(),
        Some(rises) if measures::is_even(told.finding) => {
            format!(", evenly: in {rises:.0} samples, none of which stands out")
        }
        Some(_) => ", unevenly".to_owned(),
    };
    let cause = format!(
        "{who} itself grows and gives nothing back: {}{course}, and it holds {} now.{}",
        told.pace(),
        told.bytes(HOLDS),
        told.forecast()
    );
    let pid = told.pid();
    let soon = told.value(SOONEST).is_some_and(|s| s < TIME_FOR_A_PROFILE_S);
    let remedy = if told.held.ended {
        format!(
            "{} See what {who} allocates in a loop or never lets go of; where it is started again, take a heap profile \
             early.",
            told.restart()
        )
    } else if soon {
        let (room, bound) = match told.value(LIMIT) {
            Some(_) => (
                "some of its cgroup's limit is left",
                "a higher limit would only put off that the kernel ends it",
            ),
            None => (
                "there is memory",
                "a memory limit of its own would have it end alone, before others",
            ),
        };
        format!(
            "Freeze {who}{pid} while {room} (`sensor freeze`), and see what it allocates in a loop or never lets go \
             of; {bound}."
        )
    } else {
        format!(
            "Take a heap profile of {who}{pid} while it runs, twice some minutes apart, and compare what there is \
             more of. {}",
            told.restart()
        )
    };
    Some(Claim { by: "process_leak", cause, remedy, confidence: 0.7, evidence: Vec::new() })
}
