//! A spike: so much within a moment that it is no leak but one piece of work.

use super::{Claim, Told, leak::OWN_AT_LEAST};
use crate::detect::memory::measures::{HOLDS, OVER, OWN};

/// Longer than this, s, it is no moment.
const MOMENT_S: f64 = 120.0;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    let over = told.value(OVER)?;
    if told.finding.rule != "M1" || over > MOMENT_S || told.value(OWN)? < OWN_AT_LEAST {
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
