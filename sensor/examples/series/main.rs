//! The detectors of memory growth over whole series: false alarms a day, and what they make of a leak that is added.
//! `cargo xtask eval` runs it and makes tables and rows of what it says.
//!
//! `series DIRECTORY…`: of each directory all `*.csv` with lines of `seconds,part of the memory that is used` (0 to
//! 1), recorded in production. Without one: series that are made here, with the shapes of such. Each is one tree on a
//! host of its own, which is the hardest case: all growth is its own. Says one JSON object a line.

mod shapes;

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sensor::{
    config::Detect,
    detect::memory::{Told, Watch},
    proto::{HostMemory, MemorySample, ProcessKey, TreeMemory},
};
use serde_json::json;

/// The host of each series, bytes.
const TOTAL: f64 = (16_u64 << 30) as f64;

/// What is not the series' own: the kernel and others.
const OTHERS: f64 = 0.02;

/// Where a leak is added, as part of the series.
const LEAK_FROM: f64 = 0.3;

/// Leaks, percent of the memory an hour: all of it within 20 minutes, within 80, 12 hours, 2 days, 8 days.
const LEAKS: [f64; 5] = [300.0, 75.0, 8.0, 2.0, 0.5];

/// Rules that judge what these series have.
const RULES: [&str; 5] = ["M1", "M2", "M3", "M4", "M5"];

/// Machines that always have 80 to 95 % in use are no trees: halved, and as they are.
const SCALES: [f64; 2] = [0.5, 1.0];

/// Seconds and part used.
type Points = Vec<(f64, f64)>;

/// Series that are counted together.
struct Set {
    name: String,
    split: &'static str,
    /// It may be looked at while something is changed.
    tune: bool,
    scale: f64,
    series: Vec<Points>,
}

/// Who was full so shortly before an alarm was not warned by it.
const SHORTLY_S: f64 = 300.0;

/// What was found.
struct Alarm {
    at: f64,
    rule: &'static str,
    /// It says that all will be used up within so many seconds; M5 does not.
    within: Option<f64>,
}

/// What is found in a series, in its order.
fn found(points: impl Iterator<Item = (f64, f64)>) -> Vec<Alarm> {
    let mut watch = Watch::new(Detect::default().memory());
    let mut found = Vec::new();
    for (at, used) in points {
        let bytes = (used.clamp(0.0, 1.0) * TOTAL) as u64;
        let others = (OTHERS * TOTAL) as u64;
        let sample = MemorySample {
            at_ns: ((1_000_000.0 + at) * 1e9) as u64,
            series_ns: 1,
            host: Some(HostMemory {
                total_bytes: Some(TOTAL as u64),
                available_bytes: Some((TOTAL as u64).saturating_sub(bytes + others)),
                anon_bytes: Some(bytes + others),
                ..HostMemory::default()
            }),
            trees: vec![TreeMemory {
                root: Some(ProcessKey { pid: 2, start_ns: 1_000_000_000 }),
                alive: true,
                bytes,
                root_bytes: bytes,
                processes: 1,
                program: 1,
                ..TreeMemory::default()
            }],
            ..MemorySample::default()
        };
        for told in watch.see(&sample) {
            if let Told::Found(finding, _) = told {
                let forecast = finding.measures.iter().find(|it| it.name == "full_in_at_least");
                let within = forecast.and_then(|forecast| forecast.threshold);
                found.push(Alarm { at, rule: finding.rule, within });
            }
        }
    }
    found
}

/// Both halves of a directory's series, as the names of their files have it.
fn load(directory: &Path) -> Result<Vec<Set>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "csv"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "{} has no *.csv", directory.display());
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let (mut tune, mut held_out) = (Vec::new(), Vec::new());
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let line = |line: &str| {
            let (at, used) = line.split_once(',')?;
            Some((at.parse().ok()?, used.parse().ok()?))
        };
        let mut points: Points = text.lines().filter_map(line).collect();
        ensure!(points.len() > 1, "{} has no lines of seconds,part", file.display());
        // Whatever its clock, it begins with its first line.
        let begin = points[0].0;
        for (at, _) in &mut points {
            *at -= begin;
        }
        let name = file.file_name().unwrap_or_default();
        let half = if hasher.hash_one(name).is_multiple_of(2) { &mut tune } else { &mut held_out };
        half.push(points);
    }
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut sets = Vec::new();
    for (split, tune, series) in [("tune", true, &tune), ("held out", false, &held_out)] {
        for scale in SCALES {
            sets.push(Set { name: name.clone(), split, tune, scale, series: series.clone() });
        }
    }
    Ok(sets)
}

/// What is made here: as it is, and no half of it was ever looked at to choose something.
fn made() -> Vec<Set> {
    let all = shapes::all().into_iter();
    let set = |(name, series): (&str, Vec<Points>)| Set {
        name: name.to_owned(),
        split: "made",
        tune: false,
        scale: 1.0,
        series,
    };
    all.map(set).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn alarms(set: &Set) {
    let span = |one: &Points| Some(one.last()?.0 - one.first()?.0);
    let days = set.series.iter().filter_map(span).sum::<f64>() / 86_400.0;
    let mut alarms: BTreeMap<&str, usize> = RULES.iter().map(|rule| (*rule, 0)).collect();
    let mut came_true = alarms.clone();
    for one in &set.series {
        let points: Points = one.iter().map(|(at, used)| (*at, used * set.scale)).collect();
        for alarm in found(points.iter().copied()) {
            let counts = if comes_true(&points, &alarm) { &mut came_true } else { &mut alarms };
            *counts.entry(alarm.rule).or_default() += 1;
        }
    }
    let Set { name, split, scale, series, .. } = set;
    let count = series.len();
    println!(
        "{}",
        json!({"alarms": {
            "series": name, "split": split, "scale": scale, "count": count, "days": days, "by": alarms,
            "came_true": came_true,
        }})
    );
}

/// Whether all that is not kept in reserve was used up when an alarm came, or after it within the time that it says.
/// Where it had been used up shortly before, that was no forecast.
fn comes_true(points: &[(f64, f64)], alarm: &Alarm) -> bool {
    let reserve = f64::from(Detect::default().memory().reserve_percent) / 100.0;
    let is_full = |point: &(f64, f64)| point.1 >= 1.0 - OTHERS - reserve;
    let since = |at: f64| points.get(points.partition_point(|it| it.0 < at)..).unwrap_or_default();
    let before = since(alarm.at - SHORTLY_S).iter().take_while(|point| point.0 < alarm.at);
    let was_full = { before }.any(is_full);
    let within = alarm.within.filter(|_| !was_full);
    within.is_some_and(|within| {
        since(alarm.at).iter().take_while(|point| point.0 <= alarm.at + within).any(is_full)
    })
}

fn leaks(set: &Set, rate: f64) {
    let (mut count, mut full, mut seen) = (0, 0, 0);
    let (mut lags, mut leads) = (Vec::new(), Vec::new());
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for one in &set.series {
        let Some(last) = one.last() else { continue };
        let from = last.0 * LEAK_FROM;
        let leaking: Points = one
            .iter()
            .map(|(at, used)| {
                (*at, used * set.scale + (at - from).max(0.0) / 3600.0 * rate / 100.0)
            })
            .collect();
        let end = leaking.iter().find(|(_, used)| *used >= 1.0 - OTHERS).map(|it| it.0);
        if end.is_some_and(|end| end <= from) {
            // It was full before.
            continue;
        }
        let alarm = found(leaking.iter().copied().filter(|it| end.is_none_or(|end| it.0 <= end)))
            .into_iter()
            .find(|alarm| alarm.at > from);
        count += 1;
        full += usize::from(end.is_some());
        if let Some(Alarm { at, rule, .. }) = alarm {
            seen += 1;
            *by.entry(rule).or_default() += 1;
            lags.push((at - from) / 3600.0);
            leads.extend(end.map(|end| (end - at) / 3600.0));
        }
    }
    let Set { name, split, scale, .. } = set;
    println!(
        "{}",
        json!({"leaks": {
            "series": name, "split": split, "scale": scale, "percent_an_hour": rate, "count": count, "full": full,
            "found": seen, "after_h": median(lags), "before_full_h": median(leads), "by": by,
        }})
    );
}

fn main() -> Result<()> {
    let mut sets = Vec::new();
    for directory in std::env::args_os().skip(1).map(PathBuf::from) {
        sets.extend(load(&directory)?);
    }
    if sets.is_empty() {
        sets = made();
    }
    for set in &sets {
        alarms(set);
    }
    for set in sets.iter().filter(|set| !set.tune) {
        for rate in LEAKS {
            leaks(set, rate);
        }
    }
    Ok(())
}
