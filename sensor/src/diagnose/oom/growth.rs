//! One tree grew until there was nothing left.

use super::{Case, Claim, Words, culprit, size, span, spike::SUDDEN_NS};
use crate::{present::text::count, proto::OomScope};

pub(super) fn explain(case: &Case<'_>, _: &Words<'_>) -> Option<Claim> {
    let (holder, who) = culprit(case)?;
    let is_seen = holder.grown_bytes > 0 && holder.grown_ns > SUDDEN_NS;
    if !is_seen && case.growth.is_none() {
        return None;
    }
    let with = match holder.processes {
        0 | 1 => String::new(),
        all => format!(", with its {},", count(all - 1, "descendant", "descendants")),
    };
    let is_victim = case
        .oom
        .victims
        .iter()
        .any(|kill| kill.victim.as_ref().is_some_and(|victim| victim.process == holder.root));
    let spared = if is_victim { "" } else { " It was not the one that was killed." };
    let now = if is_seen {
        let pace = pace(holder.grown_bytes as f64 / (holder.grown_ns as f64 / 1e9));
        format!(
            " {who}{with} had grown by {} to {} in the {} before, {pace}.",
            size(holder.grown_bytes),
            size(holder.bytes),
            span(holder.grown_ns),
        )
    } else {
        format!(" {who}{with} held {}.", size(holder.bytes))
    };
    let at_ns = case.oom.victims.first().map_or(0, |kill| kill.at_ns);
    let before = case.growth.map_or(String::new(), |growth| {
        format!(
            " It has been growing for {} at least, by {}, as incident {} says.",
            span(at_ns.saturating_sub(growth.since_ns)),
            pace(growth.slope),
            growth.incident,
        )
    });
    // Who met a limit has one.
    let bound = match case.oom.limit_bytes.filter(|_| case.oom.scope() == OomScope::Cgroup) {
        Some(limit) => {
            let whose = if case.oom.cgroup.is_empty() { "its group" } else { &case.oom.cgroup };
            format!("More than {} for {whose} would only put it off.", size(limit))
        }
        None => "A memory limit of its own would have it end alone, before others.".to_owned(),
    };
    Some(Claim {
        by: "oom_growth",
        cause: format!("{now}{before}{spared}"),
        remedy: format!("Find out what {who} keeps: it grew steadily, as a leak does. {bound}"),
        confidence: 0.85,
        evidence: Vec::new(),
    })
}

/// Bytes a second for people.
fn pace(bytes: f64) -> String {
    let mib = bytes / 1_048_576.0;
    if mib >= 1.0 {
        format!("{mib:.0} MiB a second")
    } else {
        format!("{:.1} MiB a minute", mib * 60.0)
    }
}
