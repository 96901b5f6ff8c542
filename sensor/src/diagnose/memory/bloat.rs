//! Growth that does not fill the host, and wastes much of it.

use super::{Claim, Told};
use crate::detect::memory::measures::{HOLDS, OWN};

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    if told.finding.rule != "M5" {
        return None;
    }
    let who = told.who();
    let itself = if told.value(OWN)? >= super::leak::OWN_AT_LEAST {
        "itself"
    } else {
        "with what it started"
    };
    let cause = format!(
        "{who} {itself} has grown for hours and gives nothing back: {}. It holds {} now. There is enough left; \
         a leak and a cache that is never full look the same so far.",
        told.pace(),
        told.bytes(HOLDS),
    );
    let remedy = format!(
        "Give the caches of {who} a bound; if it has none, it leaks: take two heap profiles some hours apart. {}",
        told.restart()
    );
    Some(Claim { by: "memory_bloat", cause, remedy, confidence: 0.5, evidence: Vec::new() })
}
