//! One tree grew until there was nothing left.

use super::{Case, Claim, Words, culprit, size, span, spike::SUDDEN_NS};

pub(super) fn explain(case: &Case<'_>, _: &Words<'_>) -> Option<Claim> {
    let (holder, who) = culprit(case)?;
    if holder.grown_bytes == 0 || holder.grown_ns <= SUDDEN_NS {
        return None;
    }
    let seconds = holder.grown_ns as f64 / 1e9;
    let pace = holder.grown_bytes as f64 / 1_048_576.0 / seconds;
    let pace = if pace >= 1.0 {
        format!("{pace:.0} MiB a second")
    } else {
        format!("{:.1} MiB a minute", pace * 60.0)
    };
    let with = match holder.processes {
        0 | 1 => String::new(),
        count => format!(", with its {} descendants,", count - 1),
    };
    let is_victim = case
        .oom
        .victims
        .iter()
        .any(|kill| kill.victim.as_ref().is_some_and(|victim| victim.process == holder.root));
    let spared = if is_victim { "" } else { " It was not the one that was killed." };
    Some(Claim {
        by: "oom_growth",
        cause: format!(
            " {who}{with} had grown by {} to {} in the {} before, {pace}.{spared}",
            size(holder.grown_bytes),
            size(holder.bytes),
            span(holder.grown_ns),
        ),
        remedy: format!(
            "Find out what {who} keeps: it grew steadily, as a leak does. A memory limit of its own would have \
             it end alone, before others."
        ),
        confidence: 0.85,
        evidence: Vec::new(),
    })
}
