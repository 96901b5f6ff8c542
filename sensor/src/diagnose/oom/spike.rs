//! Too much at once: nobody had the time to see it grow.

use super::{Case, Claim, Words, culprit, size, span};

/// What is over within this is no leak but a piece of work, ns: a large file, a query without a limit.
pub(super) const SUDDEN_NS: u64 = 10_000_000_000;

pub(super) fn explain(case: &Case<'_>, _: &Words<'_>) -> Option<Claim> {
    let (holder, who) = culprit(case)?;
    if holder.grown_bytes == 0 || holder.grown_ns > SUDDEN_NS {
        return None;
    }
    Some(Claim {
        by: "oom_spike",
        cause: format!(
            " {who} took {} within {} at most: a spike, and no leak.",
            size(holder.grown_bytes),
            span(holder.grown_ns.max(100_000_000)),
        ),
        remedy: format!(
            "See what {who} began to work on just then: a large input, or a query without a limit. Bound what \
             it takes at once."
        ),
        confidence: 0.75,
        evidence: Vec::new(),
    })
}
