//! OOM kills: what was short, who had it, since when, and what followed.
//!
//! One rule a file, as everywhere; the surest speaks, after what the kernel itself says. Whom the kernel killed
//! is a fact and no verdict: the one that grew is often another.

mod cascade;
mod growth;
mod limit;
mod spike;
mod unattributed;

use std::fmt::Write as _;

use super::{Claim, words::Words};
use crate::{
    detect::oom::{culprit::Growth, held},
    evidence::{Redactor, oom_report::Report},
    lineage::ProcessKey,
    proto::{self, Actor, HostMemory, Oom, OomHolder, OomScope},
};

/// What an explanation may look at.
pub struct Case<'a> {
    /// Who is to blame, as far as that is known, and what was known of that one's growth before.
    pub culprit: Option<ProcessKey>,
    pub growth: Option<&'a Growth>,
    pub oom: &'a Oom,
    /// The kernel's own report of the newest kill.
    pub report: Option<&'a Report>,
    /// Memory of the host some minutes before and just before, and the time between, ns.
    pub host: Option<(HostMemory, HostMemory, u64)>,
    pub after: After,
    /// The spread of the times between kills, by their mean.
    pub spread: Option<f64>,
    /// Evidence ids.
    pub cited: &'a [String],
    pub redactor: &'a Redactor,
}

/// What was seen after the kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct After {
    /// How long after it, ns; 0: nobody has looked yet.
    pub span_ns: u64,
    /// Processes beside the victims that have ended since.
    pub ended: u32,
    /// The victim's command runs again.
    pub restarted: bool,
}

type Rule = fn(&Case<'_>, &Words<'_>) -> Option<Claim>;

const RULES: [Rule; 4] = [limit::explain, spike::explain, growth::explain, unattributed::explain];

/// What the kernel did, then why, as the surest rule has it, then what followed.
pub fn diagnose(case: &Case<'_>) -> proto::Diagnosis {
    let words = Words { redactor: case.redactor };
    let mut best: Option<Claim> = None;
    for rule in RULES {
        if let Some(claim) = rule(case, &words)
            && best.as_ref().is_none_or(|best| claim.confidence > best.confidence)
        {
            best = Some(claim);
        }
    }
    let mut best = best.unwrap_or_else(|| Claim {
        by: "oom",
        cause: String::new(),
        remedy:
            "Start the sensor before the next time: what was held before a kill is known only from \
                 then on."
                .into(),
        confidence: 0.4,
        evidence: Vec::new(),
    });
    best.cause = format!("{}{}{}", kill(case, &words), best.cause, cascade::told(&case.after));
    let mut diagnosis = super::told(best, case.cited.first().map_or("", String::as_str));
    for more in case.cited.iter().skip(1).filter(|id| !id.is_empty()) {
        diagnosis.evidence.push(more.clone());
    }
    diagnosis
}

/// What happened, as the kernel says it.
fn kill(case: &Case<'_>, words: &Words<'_>) -> String {
    let victims = &case.oom.victims;
    let Some(first) = victims.first() else { return "The kernel's OOM killer acted.".into() };
    let bytes: u64 = victims.iter().map(held).sum();
    let holding = if bytes > 0 { format!(", which held {}", size(bytes)) } else { String::new() };
    let victim = first.victim.clone().unwrap_or_default();
    let who = match victims.len() {
        1 => actor(&victim, words),
        count => format!("{count} processes at once, {} among them", actor(&victim, words)),
    };
    let mut text = format!("The kernel's OOM killer ended {who}{holding}: {}.", short(case));
    if let Some(trigger) = &first.trigger
        && trigger.process != victim.process
    {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " The memory was asked for by {}, which need not be to blame.",
            actor(trigger, words)
        );
    }
    text
}

/// What was short.
fn short(case: &Case<'_>) -> String {
    let oom = case.oom;
    match (oom.scope(), oom.limit_bytes) {
        (OomScope::Cgroup, Some(limit)) => {
            let whose = if oom.cgroup.is_empty() { "its group" } else { &oom.cgroup };
            format!("{whose} had reached its limit of {}", size(limit))
        }
        (OomScope::Cgroup, None) => "a group had reached its limit".into(),
        (OomScope::Nodes, _) => "the memory of the nodes that it may use was exhausted".into(),
        (OomScope::Host, _) => "the host had no memory left".into(),
        (OomScope::Unspecified, _) => "there was no memory left".into(),
    }
}

/// A process in a few words.
fn actor(actor: &Actor, words: &Words<'_>) -> String {
    let pid = actor.process.unwrap_or_default().pid;
    match actor.argv.as_slice() {
        [] => format!("`{}` ({pid})", actor.comm),
        argv => format!("{} ({pid})", words.command(argv)),
    }
}

/// The culprit among those that held memory, and how it is called.
fn culprit(case: &Case<'_>) -> Option<(OomHolder, String)> {
    let culprit = case.culprit?;
    let is = |key: Option<proto::ProcessKey>| {
        key.is_some_and(|key| key.pid == culprit.tgid && key.start_ns == culprit.start_ns)
    };
    let holder = case.oom.holders.iter().find(|holder| is(holder.root))?.clone();
    // The victim's command stands in the sentence before.
    let name = format!("`{}` ({})", holder.comm, culprit.tgid);
    Some((holder, name))
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / 1_048_576.0;
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

/// A time for people.
fn span(ns: u64) -> String {
    let seconds = ns as f64 / 1e9;
    match seconds {
        _ if seconds >= 7200.0 => format!("{:.1} h", seconds / 3600.0),
        _ if seconds >= 120.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds >= 10.0 => format!("{seconds:.0} s"),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests;
