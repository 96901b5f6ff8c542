//! Children that ended and that nobody waits for.

use super::{Claim, Told};
use crate::detect::memory::measures::{MORE_ZOMBIES, OVER, ZOMBIES};
use crate::present::time::seconds;

pub(super) fn explain(told: &Told<'_>) -> Option<Claim> {
    if told.finding.rule != "R5" {
        return None;
    }
    let count = told.value(ZOMBIES)?;
    let (more, over) = (told.value(MORE_ZOMBIES)?, told.value(OVER)?);
    let pace = if over > 0.0 {
        let (lasted, a_minute) = (seconds(over), more / over * 60.0);
        format!(", {more:.0} more in {lasted} ({a_minute:.1} a minute)")
    } else {
        // So many at the first look that nobody waits for a second one.
        String::new()
    };
    let who = told.who();
    let cause = format!(
        "{who} does not wait for its children: {count:.0} have ended and are still there{pace}. They hold no \
         memory, but each of them a pid; when there are none left, nothing can be started any more.",
    );
    let remedy = format!(
        "Let it wait for its children (wait, waitpid, a handler for SIGCHLD, or SIGCHLD ignored); pid 1 of \
         a container has to do that for all orphans (tini, `docker run --init`). Until then a restart of {who}{} \
         removes them.",
        told.pid()
    );
    Some(Claim { by: "zombies", cause, remedy, confidence: 0.9, evidence: Vec::new() })
}
