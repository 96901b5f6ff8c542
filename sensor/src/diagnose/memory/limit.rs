//! A limit that is too low: what grows is little compared with the host, and only its cgroup ends it.

use super::{Claim, Told};
use crate::{
    detect::memory::measures::{GROWN, HOLDS, LIMIT},
    present::text,
};

/// A limit below this is met by programs that are well, bytes: an interpreter with its libraries takes a
/// few hundred MiB.
const LOW: f64 = (512 << 20) as f64;

/// Who has doubled is no longer what it was made for.
const GROWN_AT_MOST: f64 = 0.5;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    let (limit, holds, grown) = (told.value(LIMIT)?, told.value(HOLDS)?, told.value(GROWN)?);
    if limit > LOW || grown > holds * GROWN_AT_MOST {
        return None;
    }
    let who = told.who();
    let cause = format!(
        "{who} needs more than it may have: it holds {} of {} that its cgroup is allowed, and has only grown \
         by {} ({}).{}",
        told.bytes(HOLDS),
        text::bytes(limit as u64),
        told.bytes(GROWN),
        told.pace(),
        told.forecast()
    );
    let remedy = format!(
        "Raise the limit of its cgroup (memory.max, MemoryMax=, the container's memory limit) above {}, or tell \
         {who} how much it may use.",
        text::bytes(limit as u64)
    );
    Some(Claim { by: "limit_too_low", cause, remedy, confidence: 0.5, evidence: Vec::new() })
}
