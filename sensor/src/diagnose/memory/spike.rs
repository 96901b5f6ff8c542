//! A spike: so much within a moment, or in so few steps, that it is no leak but one piece of work.

use super::{Claim, Told, leak::OWN_AT_LEAST};
use crate::detect::memory::measures::{self, HOLDS, OVER, OWN};

/// Longer than this, s, it is no moment.
const MOMENT_S: f64 = 120.0;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    let over = told.value(OVER)?;
    let sudden = over <= MOMENT_S && !measures::is_even(told.finding);
    if told.finding.rule != "M1" || !sudden || told.value(OWN)? < OWN_AT_LEAST {
        return None;
    }
    let who = told.who();
    let cause = format!(
        "{who} takes {}: one large piece of work, or a loop that allocates. It holds {} now.{}",
        told.pace(),
        told.bytes(HOLDS),
        told.forecast()
    );
    let remedy = format!(
        "See what {who}{} was given to do at that moment (a file, a request, a query), and bound it: read in \
         pieces, limit sizes and how many run at once.",
        told.pid()
    );
    Some(Claim { by: "memory_spike", cause, remedy, confidence: 0.6, evidence: Vec::new() })
}
