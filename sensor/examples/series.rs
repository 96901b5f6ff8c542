//! The detectors of memory growth over recorded series of production: false alarms a day, and what they make of a
//! leak that is added.
//!
//! `series DIRECTORY…`: of each directory all `*.csv` with lines of `seconds,part of the memory that is used` (0 to
//! 1). Each is one tree on a host of its own, which is the hardest case: all growth is its own. Prints a table.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sensor::{
    config::Detect,
    detect::memory::{Told, Watch},
    proto::{HostMemory, MemorySample, ProcessKey, TreeMemory},
};

/// The host of each series, bytes.
const TOTAL: f64 = (16_u64 << 30) as f64;

/// What is not the series' own: the kernel and others.
const OTHERS: f64 = 0.02;

/// Where a leak is added, as part of the series.
const LEAK_FROM: f64 = 0.3;

/// Leaks, percent of the memory an hour.
const LEAKS: [f64; 3] = [8.0, 2.0, 0.5];

const RULES: [&str; 5] = ["M1", "M2", "M3", "M4", "M5"];

struct Series {
    /// Of the half that may be looked at while something is changed.
    tune: bool,
    /// Seconds and part used.
    points: Vec<(f64, f64)>,
}

/// Each finding with its second.
fn found(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, &'static str)> {
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
            if let Told::Found(finding) = told {
                found.push((at, finding.rule));
            }
        }
    }
    found
}

fn load(directory: &Path) -> Result<Vec<Series>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "csv"))
        .collect();
    files.sort();
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    files
        .iter()
        .map(|file| {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let points = text
                .lines()
                .filter_map(|line| {
                    let (at, used) = line.split_once(',')?;
                    Some((at.parse().ok()?, used.parse().ok()?))
                })
                .collect();
            let name = file.file_name().unwrap_or_default();
            Ok(Series { tune: hasher.hash_one(name).is_multiple_of(2), points })
        })
        .collect()
}

fn median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn days(series: &[&Series]) -> f64 {
    series.iter().filter_map(|one| Some(one.points.last()?.0 - one.points.first()?.0)).sum::<f64>()
        / 86_400.0
}

fn table(name: &str, split: &str, series: &[&Series], scale: f64) {
    let days = days(series);
    let mut alarms: BTreeMap<&str, usize> = BTreeMap::new();
    for one in series {
        for (_, rule) in found(one.points.iter().map(|(at, used)| (*at, used * scale))) {
            *alarms.entry(rule).or_default() += 1;
        }
    }
    let all: usize = alarms.values().sum();
    let each: Vec<String> = RULES
        .iter()
        .map(|rule| format!("{:.3}", alarms.get(rule).copied().unwrap_or(0) as f64 / days))
        .collect();
    println!(
        "| {name} × {scale} | {split} | {} | {days:.1} | {} | {:.3} |",
        series.len(),
        each.join(" | "),
        all as f64 / days
    );
}

fn leaks(name: &str, split: &str, series: &[&Series], scale: f64) {
    for rate in LEAKS {
        let (mut full, mut seen) = (0, 0);
        let (mut lags, mut leads) = (Vec::new(), Vec::new());
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        for one in series {
            let Some(last) = one.points.last() else { continue };
            let from = last.0 * LEAK_FROM;
            let leaking: Vec<(f64, f64)> = one
                .points
                .iter()
                .map(|(at, used)| {
                    (*at, used * scale + (at - from).max(0.0) / 3600.0 * rate / 100.0)
                })
                .collect();
            let end = leaking.iter().find(|(_, used)| *used >= 1.0 - OTHERS).map(|it| it.0);
            let alarm =
                found(leaking.iter().copied().filter(|it| end.is_none_or(|end| it.0 <= end)))
                    .into_iter()
                    .find(|(at, _)| *at > from);
            full += usize::from(end.is_some());
            if let Some((at, rule)) = alarm {
                seen += 1;
                *first.entry(rule).or_default() += 1;
                lags.push((at - from) / 3600.0);
                leads.extend(end.map(|end| (end - at) / 3600.0));
            }
        }
        let by: Vec<String> = first.iter().map(|(rule, count)| format!("{count} {rule}")).collect();
        println!(
            "| {name} × {scale} | {split} | {rate} | {} | {full} | {seen} | {} | {} | {} |",
            series.len(),
            median(lags),
            median(leads),
            by.join(", ")
        );
    }
}

fn main() -> Result<()> {
    let mut sets = Vec::new();
    for directory in std::env::args_os().skip(1).map(PathBuf::from) {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sets.push((name, load(&directory)?));
    }
    println!("| series | split | count | days | {} | all |", RULES.join(" | "));
    println!("|---|---|---|---|{}---|", "---|".repeat(RULES.len()));
    let split = |series: &'_ Vec<Series>, tune: bool| -> Vec<usize> {
        (0..series.len()).filter(|at| series[*at].tune == tune).collect()
    };
    for (name, series) in &sets {
        for (word, tune) in [("tune", true), ("held out", false)] {
            let part: Vec<&Series> =
                split(series, tune).into_iter().map(|at| &series[at]).collect();
            table(name, word, &part, 0.5);
            table(name, word, &part, 1.0);
        }
    }
    println!();
    println!(
        "| series | split | leak, % an hour | count | full | found | after, h (median) | before full, h (median) | by |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, series) in &sets {
        let part: Vec<&Series> = split(series, false).into_iter().map(|at| &series[at]).collect();
        leaks(name, "held out", &part, 0.5);
    }
    Ok(())
}
