//! The numbers of a finding, and how bad they are.

use super::{
    Rule,
    fast::{EVEN_PACE, EVEN_SAMPLES},
    room::Room,
    series::Growth,
    workers::Accumulation,
    zombies::{RISING_NS, Unreaped},
};
use crate::{
    detect::Finding,
    present::{text, time},
    proto::{Measure, Severity},
};

/// Names of measures, which severity and diagnosis know.
pub const GROWN: &str = "grown";
pub const OVER: &str = "over";
pub const HOLDS: &str = "holds";
pub const SLOPE: &str = "slope";
pub const SOONEST: &str = "full_in_at_least";
pub const LATEST: &str = "full_in_at_most";
pub const LEFT: &str = "left";
pub const LIMIT: &str = "limit";
pub const SHARE: &str = "share_of_growth";
pub const OWN: &str = "own_share";
pub const RISES: &str = "rises_less_falls";
pub const ROSE: &str = "rose_in";
pub const UNEVENNESS: &str = "fastest_to_mean";
pub const PROCESSES: &str = "processes";
pub const MORE: &str = "more_processes";
pub const WORKERS: &str = "more_workers";
pub const BORN: &str = "born";
pub const RECORDS: &str = "record_highs";
pub const ZOMBIES: &str = "zombies";
pub const MORE_ZOMBIES: &str = "more_zombies";
pub const TMPFS: &str = "tmpfs_grown";
pub const ANON: &str = "processes_grown";
pub const SWAP: &str = "swap_used";

/// A forecast beyond this says nothing any more, s: a year.
const FARTHEST_S: f64 = 365.0 * 86_400.0;

/// Less than this until the end is critical, s: it is what an administrator needs to get to the host.
const CRITICAL_S: f64 = 30.0 * 60.0;

/// Workers that hold so much together are worth a warning, bytes.
const HEAVY: f64 = (1_u64 << 30) as f64;

/// Zombies that are worth a warning: with some ten of that kind a host with the usual 32,768 pids is at its end.
const MANY_ZOMBIES: f64 = 1_000.0;

pub fn measure(name: &str, value: f64, threshold: Option<f64>, unit: &str) -> Measure {
    Measure { name: name.into(), value, threshold, unit: unit.into() }
}

/// Seconds with a tenth.
pub fn seconds(ns: u64) -> f64 {
    (ns / 100_000_000) as f64 / 10.0
}

/// What growth in bytes is told by. `share`: percent of what host or cgroup grew by; `own`: percent that
/// the root has itself; `horizon_s`: until when it has to be full to be told.
pub fn of_growth(
    growth: &Growth,
    room: &Room,
    (least, horizon_s): (u64, Option<f64>),
    (share, share_needed): (u64, u32),
    own: u64,
) -> Vec<Measure> {
    let mut told = vec![
        measure(GROWN, growth.grown as f64, Some(least as f64), "bytes"),
        measure(OVER, seconds(growth.over_ns), None, "s"),
        measure(SLOPE, growth.slopes.median.round(), None, "bytes/s"),
    ];
    let until = |slope: f64| {
        let s = if slope > 0.0 { room.left as f64 / slope } else { FARTHEST_S };
        s.min(FARTHEST_S).round()
    };
    told.push(measure(SOONEST, until(growth.slopes.upper), horizon_s, "s"));
    told.push(measure(LATEST, until(growth.slopes.lower), None, "s"));
    told.push(measure(LEFT, room.left as f64, None, "bytes"));
    if room.limited {
        told.push(measure(LIMIT, room.all as f64, None, "bytes"));
    }
    told.push(measure(SHARE, share as f64, Some(share_needed.into()), "%"));
    told.push(measure(OWN, own as f64, None, "%"));
    if let Some((s, needed)) = growth.s {
        told.push(measure(RISES, s.into(), Some(needed.into()), "pairs"));
    }
    if let Some((rises, unevenness)) = growth.course {
        told.push(measure(ROSE, rises.into(), Some(EVEN_SAMPLES.into()), "samples"));
        let tenths = (unevenness * 10.0).round() / 10.0;
        told.push(measure(UNEVENNESS, tenths, Some(EVEN_PACE), "times"));
    }
    told
}

pub fn of_workers(found: &Accumulation) -> Vec<Measure> {
    vec![
        measure(MORE, found.live.into(), Some(found.threshold.into()), "processes"),
        measure(WORKERS, found.alike.into(), None, "processes"),
        measure(OVER, seconds(found.over_ns), None, "s"),
        measure(RECORDS, found.records as f64, Some(found.records_needed as f64), "buckets"),
        measure(BORN, found.forks.into(), None, "processes"),
    ]
}

pub fn of_zombies(found: &Unreaped, threshold: u32) -> Vec<Measure> {
    vec![
        measure(ZOMBIES, found.count.into(), Some(threshold.into()), "processes"),
        measure(MORE_ZOMBIES, found.more.into(), None, "processes"),
        measure(OVER, seconds(found.over_ns), Some(seconds(RISING_NS)), "s"),
    ]
}

/// A measure of a finding.
pub fn value(finding: &Finding, name: &str) -> Option<f64> {
    finding.measures.iter().find(|measure| measure.name == name).map(|measure| measure.value)
}

/// How sure each rule is: what it measured is true, that it is wrong is not known.
pub fn confidence(rule: Rule, buckets: usize) -> f64 {
    let full = buckets >= super::rings::BUCKETS;
    match rule {
        Rule::R5 => 0.9,
        Rule::R4 => 0.8,
        Rule::M2 | Rule::M3 | Rule::M4 if full => 0.8,
        Rule::M1 | Rule::M2 | Rule::M3 | Rule::M4 => 0.7,
        Rule::M5 | Rule::M6 => 0.6,
    }
}

/// It grew evenly, in many samples; only of a short growth is that looked at.
pub fn is_even(finding: &Finding) -> bool {
    value(finding, ROSE).is_some_and(|rises| rises >= EVEN_SAMPLES.into())
        && value(finding, UNEVENNESS).is_some_and(|times| times <= EVEN_PACE)
}

/// One line about it. `who`: the culprit in words; `many`: a group.
pub fn summary(who: &str, many: bool, finding: &Finding) -> String {
    let count = |name| value(finding, name).unwrap_or(0.0) as u64;
    let lasted = time::duration((value(finding, OVER).unwrap_or(0.0) * 1e9) as u64);
    let grown = text::bytes(count(GROWN));
    match finding.rule {
        "R4" => format!("{who} starts processes that stay: {} more in {lasted}", count(MORE)),
        "R5" => format!("{who} does not wait for its children: {} have ended", count(ZOMBIES)),
        "M6" => format!("memory of {who} goes, and into no process: {grown} in {lasted}"),
        "M5" => {
            format!("{who} {} {grown} in {lasted}", if many { "grew by" } else { "has grown by" })
        }
        _ => {
            let soonest = time::duration((value(finding, SOONEST).unwrap_or(0.0) * 1e9) as u64);
            let grows = if many { "grow" } else { "grows" };
            format!("{who} {grows}: {grown} in {lasted}, and all is used up in {soonest} or later")
        }
    }
}

/// By forecast and bytes.
pub fn severity(finding: &Finding) -> Severity {
    let of = |name| value(finding, name);
    let soon = of(SOONEST).is_some_and(|s| s < CRITICAL_S);
    match finding.rule {
        "M1" => Severity::Critical,
        "M2" | "M3" | "M4" if soon => Severity::Critical,
        "R4" if of(HOLDS).unwrap_or(0.0) < HEAVY => Severity::Info,
        "R5" if of(ZOMBIES).unwrap_or(0.0) < MANY_ZOMBIES => Severity::Info,
        _ => Severity::Warning,
    }
}
