//! A limit that is too low for what runs below it: each run comes to it.

use super::{Case, Claim, Words, size, span};
use crate::proto::OomScope;

/// A run that is over so soon had no time to leak, ns.
const YOUNG_NS: u64 = 60_000_000_000;

/// Who had so much of the limit is the one that it is too low for, %.
const MOST: u64 = 80;

/// Kills this regular come from the work itself: the spread of the times between them by their mean.
const REGULAR: f64 = 0.5;

pub(super) fn explain(case: &Case<'_>, _: &Words<'_>) -> Option<Claim> {
    let oom = case.oom;
    let limit = oom.limit_bytes.filter(|_| oom.scope() == OomScope::Cgroup)?;
    let newest = oom.victims.first()?;
    let victim = newest.victim.as_ref()?;
    let ran_ns = newest.at_ns.saturating_sub(victim.process?.start_ns);
    let who = format!("`{}`", victim.comm);
    let whose = if oom.cgroup.is_empty() { "its group" } else { &oom.cgroup };
    if oom.kills > 1 {
        let regular = case.spread.is_some_and(|spread| spread < REGULAR);
        let peak = oom.peak_bytes.map_or(String::new(), |peak| format!(", at {} used", size(peak)));
        let how = if regular { "as regular as a clock" } else { "again and again" };
        return Some(Claim {
            by: "oom_limit",
            cause: format!(
                " This is a loop, {how}: {} kills, one every {} on average{peak}, the last one {} after its \
                 process began. Each new run takes the same way to the same limit.",
                oom.kills,
                span(oom.period_ns),
                span(ran_ns),
            ),
            remedy: format!(
                "Give {whose} more than {} if {who} needs it, or find out what it needs so much for; until then \
                 every restart ends the same way.",
                size(limit)
            ),
            confidence: if regular { 0.9 } else { 0.8 },
            evidence: Vec::new(),
        });
    }
    let held: u64 = oom.victims.iter().map(super::held).sum();
    (ran_ns <= YOUNG_NS && held >= limit / 100 * MOST).then(|| Claim {
        by: "oom_limit",
        cause: format!(
            " It came to that limit within {} of its start: it needs more than it may have, or takes too much at \
             once.",
            span(ran_ns)
        ),
        remedy: format!(
            "Give {whose} more than {} if {who} needs it, or have it do its work in smaller parts.",
            size(limit)
        ),
        confidence: 0.65,
        evidence: Vec::new(),
    })
}
