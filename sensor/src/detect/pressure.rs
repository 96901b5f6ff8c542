//! Pressure: memory gets short, on the host or in a cgroup at its limit.
//!
//! Three levels. At `watch` it is recorded how things go on; at `warning` an incident opens, at `critical` it
//! is so. What is left counts, how fast it falls, and how long tasks wait for it; each sign has its own
//! thresholds, and the highest level that one of them has reached is the level. A level holds for a while
//! after its signs are gone, and they have to be gone clearly. Pure: the same observations make the same
//! findings.

use std::collections::BTreeMap;

use super::Finding;
use crate::proto::{self, Pressure};

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    #[default]
    Calm,
    /// Worth writing down.
    Watch,
    /// Work suffers, or will within a minute.
    Warning,
    /// The kernel may begin to kill at any moment.
    Critical,
}

impl Level {
    const RISEN: [Self; 3] = [Self::Watch, Self::Warning, Self::Critical];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Watch => "watch",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Available memory below these parts of all, percent.
    pub watch_percent: f64,
    pub warning_percent: f64,
    /// Only where swap is used up as well, or there is none.
    pub critical_percent: f64,
    /// Nothing is left within so long, at the pace of the last seconds, s.
    pub warning_s: f64,
    pub critical_s: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            watch_percent: 20.0,
            warning_percent: 10.0,
            critical_percent: 5.0,
            warning_s: 60.0,
            critical_s: 10.0,
        }
    }
}

/// What swap has to have left to be of use, percent of it. earlyoom waits for the same.
const SWAP_PERCENT: f64 = 10.0;

/// A fall is taken for the future once it has lasted for this part of what would be left to live at its pace,
/// and no longer than this, s: a program that starts takes its memory at once and then no more.
const LASTED_PART: f64 = 0.5;
const LASTED_S: f64 = 10.0;
/// And only where no more than this part of the memory is available: on a host that has plenty, any burst
/// would end all of it, if it went on.
const PROJECTED_BELOW: f64 = 1.0 / 3.0;

/// Some task waits for memory for this part of a window: what lmkd takes for the beginning of pressure.
const SOME_PERCENT: f64 = 7.0;
/// The same on average over 10 s: a tenth of all work stands still.
const SOME_AVG10: f64 = 10.0;
/// Everybody waits for a third of the time, in two windows one after the other: one alone is a burst.
const FULL_WINDOWS: f64 = 2.0;
/// systemd-oomd kills at 60 for 30 s; here nothing is killed, and hosts were seen to livelock at 23.
const FULL_AVG10: f64 = 20.0;
/// Time in direct reclaim of all tasks together, percent of the time that passed on all CPUs.
const RECLAIM_PERCENT: f64 = 5.0;
/// All of the page cache was read again within 10 s: what runs is thrown out and fetched, over and over.
pub const REFAULTED_PERCENT: f64 = 100.0;

/// A level holds for so long after its last sign, ns: the kernel's averages go back to a tenth in 23 s.
const HOLD_NS: u64 = 30_000_000_000;

/// What has raised a level goes on to hold it until it is clearly over: by a fifth.
const EASE: f64 = 1.2;

/// Places that are kept in mind; the watcher has fewer.
const PLACES: usize = 64;

/// One sign: a number and the thresholds at which each level begins.
#[derive(Clone, Copy, Debug)]
struct Sign {
    name: &'static str,
    unit: &'static str,
    value: Option<f64>,
    /// Less is worse.
    falls: bool,
    /// Of watch, warning and critical.
    thresholds: [Option<f64>; 3],
}

impl Sign {
    const fn rising(
        name: &'static str,
        unit: &'static str,
        value: Option<f64>,
        thresholds: [Option<f64>; 3],
    ) -> Self {
        Self { name, unit, value, falls: false, thresholds }
    }

    const fn falling(
        name: &'static str,
        unit: &'static str,
        value: Option<f64>,
        thresholds: [Option<f64>; 3],
    ) -> Self {
        Self { name, unit, value, falls: true, thresholds }
    }

    /// The level that it speaks for, while this one is held.
    fn level(&self, held: Level) -> Level {
        let Some(value) = self.value else { return Level::Calm };
        let reached = |(level, threshold): &(Level, Option<f64>)| {
            let ease = if held >= *level { EASE } else { 1.0 };
            threshold.is_some_and(|threshold| {
                if self.falls { value < threshold * ease } else { value >= threshold / ease }
            })
        };
        let levels = Level::RISEN.into_iter().zip(self.thresholds);
        levels.filter(reached).map(|(level, _)| level).max().unwrap_or_default()
    }

    /// The threshold of a level, or the nearest below it that there is.
    fn threshold(&self, level: Level) -> Option<f64> {
        let below = Level::RISEN.into_iter().zip(self.thresholds).filter(|(at, _)| *at <= level);
        below.filter_map(|(_, threshold)| threshold).next_back()
    }
}

const SIGNS: usize = 9;

fn signs(pressure: &Pressure, limits: &Limits) -> [Sign; SIGNS] {
    let float = |value: Option<f32>| value.map(f64::from);
    let left = percent(pressure.available_bytes, pressure.total_bytes);
    let swap = percent(pressure.swap_free_bytes, pressure.swap_total_bytes);
    // Where nobody knows of swap there is none to hope for.
    let swapless = swap.is_none_or(|free| free < SWAP_PERCENT);
    let critical = swapless.then_some(limits.critical_percent);
    [
        Sign::falling(
            "available",
            "%",
            left,
            [Some(limits.watch_percent), Some(limits.warning_percent), critical],
        ),
        Sign::falling(
            "exhausted_in",
            "s",
            projected_s(pressure),
            [None, Some(limits.warning_s), Some(limits.critical_s)],
        ),
        Sign::rising(
            "some_waits",
            "%",
            float(pressure.some_percent),
            [Some(SOME_PERCENT), None, None],
        ),
        Sign::rising(
            "some_waits_avg10",
            "%",
            float(pressure.some_avg10),
            [None, Some(SOME_AVG10), None],
        ),
        Sign::rising(
            "all_wait",
            "windows in a row",
            Some(f64::from(pressure.full_windows)),
            [None, None, Some(FULL_WINDOWS)],
        ),
        Sign::rising(
            "all_wait_avg10",
            "%",
            float(pressure.full_avg10),
            [None, None, Some(FULL_AVG10)],
        ),
        Sign::rising(
            "direct_reclaims",
            "times",
            pressure.reclaims.map(f64::from),
            [Some(1.0), None, None],
        ),
        Sign::rising(
            "direct_reclaim",
            "% of the time",
            float(pressure.reclaim_percent),
            [None, Some(RECLAIM_PERCENT), None],
        ),
        Sign::rising(
            "page_cache_read_again",
            "%",
            read_again(pressure),
            [None, None, Some(REFAULTED_PERCENT)],
        ),
    ]
}

fn percent(part: Option<u64>, of: Option<u64>) -> Option<f64> {
    let of = of.filter(|of| *of > 0)?;
    Some(part? as f64 * 100.0 / of as f64)
}

/// Page cache that was read again while all tasks waited, percent of what there is.
pub fn read_again(pressure: &Pressure) -> Option<f64> {
    let thrashes = pressure.full_percent.is_some_and(|full| full > 5.0);
    pressure.refaulted_percent.map(f64::from).filter(|_| thrashes)
}

/// When nothing is left, if the fall goes on that has lasted long enough to be believed, s.
pub fn projected_s(pressure: &Pressure) -> Option<f64> {
    let left = pressure.available_bytes? as f64;
    let pace = pressure.falling_bytes_per_second.filter(|pace| *pace > 0)?;
    let seconds = left / pace as f64;
    let lasted_s = pressure.falling_ns as f64 / 1e9;
    let lasted = lasted_s >= (seconds * LASTED_PART).min(LASTED_S);
    let scarce = left < pressure.total_bytes? as f64 * PROJECTED_BELOW;
    (lasted && scarce).then_some(seconds)
}

/// The level that one observation speaks for, while `held` is. Asks for no memory.
pub fn level(pressure: &Pressure, held: Level, limits: &Limits) -> Level {
    signs(pressure, limits).iter().map(|sign| sign.level(held)).max().unwrap_or_default()
}

/// The level of one place, which holds for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// When each of watch, warning and critical had its last sign, boot clock, ns.
    seen: [Option<u64>; 3],
    /// The level after the last observation, and when that was.
    last: Level,
    at_ns: u64,
}

impl Gauge {
    /// The level that is held at a moment.
    pub fn held(&self, at_ns: u64) -> Level {
        let holds = |seen: &Option<u64>| seen.is_some_and(|at| at_ns.saturating_sub(at) < HOLD_NS);
        let levels = Level::RISEN.into_iter().zip(&self.seen);
        levels.filter(|(_, seen)| holds(seen)).map(|(level, _)| level).max().unwrap_or_default()
    }

    /// Takes an observation; the level after the one before, and the level now.
    pub fn observe(&mut self, pressure: &Pressure, limits: &Limits) -> (Level, Level) {
        let at_ns = pressure.at_ns;
        let now = level(pressure, self.held(at_ns), limits);
        self.at_ns = at_ns;
        for (level, seen) in Level::RISEN.into_iter().zip(&mut self.seen) {
            if now >= level {
                *seen = Some(at_ns);
            }
        }
        let held = self.held(at_ns);
        (std::mem::replace(&mut self.last, held), held)
    }
}

/// Which looks are worth a record: each rise at once, a fall not at once, and a few until all is calm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Teller {
    gauge: Gauge,
    /// When the last one was told of, and the level that it spoke for.
    told: Option<(u64, Level)>,
    held: Level,
}

/// Between two records, ns: while it is only watched, and from a warning on.
const WATCHED_NS: u64 = 10_000_000_000;
const WARNED_NS: u64 = 2_000_000_000;
/// Without any record for so long, a place that is calm by the clock has had its last one, ns: one comes every 10 s
/// until it is calm, and the desk may be late.
const SILENT_NS: u64 = 2 * WATCHED_NS;
/// A fall is told of after so long, ns: signs come and go with each look.
const FALLEN_NS: u64 = 1_000_000_000;

impl Teller {
    /// Whether this look is to be recorded. What is not recorded changes nothing: so whoever reads the
    /// records later comes to the same levels.
    pub fn tells(&mut self, pressure: &Pressure, limits: &Limits) -> bool {
        let now = level(pressure, self.gauge.held(pressure.at_ns), limits);
        let tells = match self.told {
            None => now > Level::Calm,
            Some((at_ns, told)) => {
                let since_ns = pressure.at_ns.saturating_sub(at_ns);
                let every_ns = if self.held >= Level::Warning { WARNED_NS } else { WATCHED_NS };
                now > told || now < told && since_ns >= FALLEN_NS || since_ns >= every_ns
            }
        };
        if tells {
            (_, self.held) = self.gauge.observe(pressure, limits);
            let over = self.held == Level::Calm && now == Level::Calm;
            self.told = (!over).then_some((pressure.at_ns, now));
        }
        tells
    }

    /// The level that is held by what was told.
    pub fn held(&self) -> Level {
        self.held
    }
}

/// What an observation changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A place got worse, to `warning` or `critical`.
    Risen { cgroup: String, level: Level, finding: Box<Finding> },
    /// A place of which something was said is calm again, or gone.
    Calm { cgroup: String, why: &'static str },
}

const ENOUGH: &str = "there is enough memory again, and nobody waits for it";
const GONE: &str = "the cgroup is gone, and what was short in it";

/// All places.
#[derive(Clone, Debug)]
pub struct Detector {
    limits: Limits,
    places: BTreeMap<String, Gauge>,
}

impl Detector {
    pub fn new(limits: Limits) -> Self {
        Self { limits, places: BTreeMap::new() }
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn observe(&mut self, pressure: &Pressure) -> Vec<Said> {
        let cgroup = pressure.cgroup.clone();
        // However many cgroups there are, the host is judged.
        let full = self.places.len() >= PLACES && !cgroup.is_empty();
        if full && !self.places.contains_key(&cgroup) {
            return Vec::new();
        }
        let gauge = self.places.entry(cgroup.clone()).or_default();
        let (before, now) = if pressure.gone {
            (gauge.last, Level::Calm)
        } else {
            gauge.observe(pressure, &self.limits)
        };
        if now == Level::Calm {
            self.places.remove(&cgroup);
        }
        if now > before && now >= Level::Warning {
            let finding = Box::new(finding(pressure, now, &self.limits));
            vec![Said::Risen { cgroup, level: now, finding }]
        } else if before >= Level::Warning && now < Level::Warning {
            vec![Said::Calm { cgroup, why: if pressure.gone { GONE } else { ENOUGH } }]
        } else {
            Vec::new()
        }
    }

    /// Places that have not been looked at since they became calm: that record was lost, or nobody looks any more.
    /// A look at which nothing is known ends them, here and in a replay.
    pub fn silent(&self, now_ns: u64) -> Vec<String> {
        let silent = |gauge: &Gauge| {
            gauge.held(now_ns) == Level::Calm && now_ns.saturating_sub(gauge.at_ns) >= SILENT_NS
        };
        let places = self.places.iter().filter(|(_, gauge)| silent(gauge));
        places.map(|(cgroup, _)| cgroup.clone()).collect()
    }

    /// The level of a place at a moment; empty: the host.
    pub fn held(&self, cgroup: &str, at_ns: u64) -> Level {
        self.places.get(cgroup).map(|gauge| gauge.held(at_ns)).unwrap_or_default()
    }
}

pub const RULE: &str = "pressure";

/// The measure by which [`is_critical`] knows.
const LEVEL: &str = "level";

/// That memory is short is measured; how bad that is for whom is not.
const CONFIDENCE: f64 = 0.8;
const CONFIDENCE_CRITICAL: f64 = 0.95;

fn finding(pressure: &Pressure, level: Level, limits: &Limits) -> Finding {
    let signs = signs(pressure, limits);
    // What has crossed first.
    let mut told: Vec<&Sign> = signs.iter().filter(|sign| sign.value.is_some()).collect();
    told.sort_by_key(|sign| std::cmp::Reverse(sign.level(Level::Calm)));
    let mut measures = vec![measure(LEVEL, f64::from(level as u8), None, "of 3")];
    measures.extend(told.into_iter().map(|sign| {
        let value = (sign.value.unwrap_or_default() * 10.0).round() / 10.0;
        measure(sign.name, value, sign.threshold(level), sign.unit)
    }));
    let critical = level == Level::Critical;
    Finding {
        kind: proto::Kind::MemoryPressure,
        rule: RULE,
        culprit: None,
        group: None,
        leaf: None,
        contain: false,
        confidence: if critical { CONFIDENCE_CRITICAL } else { CONFIDENCE },
        at_ns: pressure.at_ns,
        measures,
    }
}

fn measure(name: &str, value: f64, threshold: Option<f64>, unit: &str) -> proto::Measure {
    proto::Measure { name: name.into(), value, threshold, unit: unit.into() }
}

/// Whether a finding speaks of the highest level.
pub fn is_critical(finding: &Finding) -> bool {
    finding.rule == RULE
        && finding
            .measures
            .iter()
            .any(|it| it.name == LEVEL && it.value >= f64::from(Level::Critical as u8))
}

#[cfg(test)]
mod tests;
