//! Whole series of memory through the detectors of growth: false alarms a day for each of them, and leaks that are
//! added. Made ones are a part of each evaluation; recorded ones, which are no part of this project, make the tables of
//! docs/growth.md.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::table;
use crate::{
    cargo, marked,
    measure::{
        bounds,
        machine::Machine,
        row::{Row, Verdict},
        stats::Interval,
    },
    step,
};

/// Of each detector, in a day of one series: an operator of fifty hosts is told wrongly of once a day.
const ALARMS_A_DAY: f64 = 0.02;

/// 400 series of some days take a quarter of a minute.
const LIMIT: Duration = Duration::from_mins(20);

const PAGE: &str = "docs/growth.md";

/// What came of some series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub alarms: Vec<Alarms>,
    pub leaks: Vec<Leaks>,
}

/// Alarms in series to which nothing was added, by detector: false ones, and those whose forecast came true.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Alarms {
    series: String,
    split: String,
    scale: f64,
    count: usize,
    days: f64,
    by: BTreeMap<String, u64>,
    came_true: BTreeMap<String, u64>,
}

/// What became of a leak in each of some series.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Leaks {
    series: String,
    split: String,
    scale: f64,
    percent_an_hour: f64,
    count: usize,
    full: usize,
    found: usize,
    after_h: Option<f64>,
    before_full_h: Option<f64>,
    by: BTreeMap<String, u64>,
}

/// A line of the example `series`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Alarms(Alarms),
    Leaks(Leaks),
}

/// Series that are made, with the shapes of recorded ones.
pub fn made() -> Result<Seen> {
    seen(&[])
}

/// Of each directory below this one, the series in it: makes the tables.
pub fn run(directory: &Path, check: bool) -> Result<ExitCode> {
    let mut sets: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    sets.sort();
    ensure!(
        !sets.is_empty(),
        "{} has no directory of series: each is a file of lines `seconds,part of the memory that is used`",
        directory.display()
    );
    let seen = seen(&sets)?;
    let rows = seen.rows("recorded", &Alarms::is_judged);
    for row in &rows {
        println!("{row}");
    }
    let Machine { commit, .. } = Machine::read();
    let tables = format!("At commit {commit}.\n\n{}", seen.markdown());
    println!("\n{tables}");
    marked::write(PAGE, "cargo xtask eval --series DIRECTORY", &tables)?;
    let missed = rows.iter().any(|row| row.ok == Verdict::False);
    Ok(if check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn seen(directories: &[PathBuf]) -> Result<Seen> {
    let built = cargo::build("build", &["-p", "sensor", "--example", "series", "--release"])?;
    let program = built.into_iter().find(|it| it.target == "series");
    let program = program.context("cargo built the example and names no executable")?.path;
    let output = step::run("series", Command::new(program).args(directories), LIMIT)?;
    ensure!(output.success(), "the example `series` failed: {}", output.stderr.trim());
    parse(&output.stdout)
}

fn parse(said: &str) -> Result<Seen> {
    let mut seen = Seen::default();
    for line in said.lines() {
        match serde_json::from_str(line).with_context(|| format!("cannot read {line:?}"))? {
            Line::Alarms(alarms) => seen.alarms.push(alarms),
            Line::Leaks(leaks) => seen.leaks.push(leaks),
        }
    }
    ensure!(!seen.alarms.is_empty(), "the example `series` says nothing");
    Ok(seen)
}

impl Alarms {
    /// Nothing was chosen on them.
    fn is_judged(&self) -> bool {
        self.split != "tune"
    }
}

impl Seen {
    /// Rows of what was made.
    pub fn made_rows(&self) -> Vec<Row> {
        self.rows("made", &|_| true)
    }

    /// False alarms of each detector, and leaks that were found, of all series together.
    fn rows(&self, kind: &str, judged: &dyn Fn(&Alarms) -> bool) -> Vec<Row> {
        let alarms = || self.alarms.iter().filter(|it| judged(it));
        let days = alarms().map(|it| it.days).sum();
        let mut by: BTreeMap<&str, u64> = BTreeMap::new();
        for (rule, count) in alarms().flat_map(|it| &it.by) {
            *by.entry(rule).or_default() += count;
        }
        let series = alarms().map(|it| it.count).sum();
        let mut rows = Vec::new();
        for (rule, count) in by {
            let name = format!("false alarms in {kind} series: {rule}");
            let rate = bounds::rate(count, days).map(|it| Interval { samples: series, ..it });
            rows.extend(rate.map(|rate| Row::new(&name, rate, "a day", Some(ALARMS_A_DAY))));
        }
        let mut rates: Vec<f64> = self.leaks.iter().map(|it| it.percent_an_hour).collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        for rate in rates.into_iter().rev() {
            let of_rate =
                || self.leaks.iter().filter(|it| it.percent_an_hour.total_cmp(&rate).is_eq());
            let (found, count) =
                (of_rate().map(|it| it.found).sum(), of_rate().map(|it| it.count).sum());
            let name = format!("leaks of {rate} % an hour found in {kind} series");
            rows.push(Row::at_least(&name, bounds::share(found, count), "share", None));
        }
        rows
    }

    fn markdown(&self) -> String {
        let rules: Vec<&str> = self
            .alarms
            .first()
            .map(|it| it.by.keys().map(String::as_str).collect())
            .unwrap_or_default();
        // Writing to a String cannot fail.
        let mut text = format!(
            "| series | split | count | days | {} | all | came true |\n|---|---|---|---|{}---|---|\n",
            rules.join(" | "),
            "---|".repeat(rules.len())
        );
        let rate = |count: u64, days: f64| match count {
            0 => "0".to_owned(),
            count => format!("{:.3}", count as f64 / days),
        };
        for it in &self.alarms {
            let each: Vec<String> = it.by.values().map(|count| rate(*count, it.days)).collect();
            let all = rate(it.by.values().sum(), it.days);
            let came_true: Vec<String> = it
                .came_true
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(rule, count)| format!("{count} {rule}"))
                .collect();
            let _ = writeln!(
                text,
                "| {} × {} | {} | {} | {:.1} | {} | {all} | {} |",
                it.series,
                it.scale,
                it.split,
                it.count,
                it.days,
                each.join(" | "),
                came_true.join(", ")
            );
        }
        text.push_str(
            "\n| series | split | leak, % an hour | count | full | found | after, h (median) | before full, h (median) | by |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let hours = |hours: Option<f64>| hours.map_or_else(|| "–".to_owned(), table::three_digits);
        for it in &self.leaks {
            let by: Vec<String> =
                it.by.iter().map(|(rule, count)| format!("{count} {rule}")).collect();
            let _ = writeln!(
                text,
                "| {} × {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                it.series,
                it.scale,
                it.split,
                it.percent_an_hour,
                it.count,
                it.full,
                it.found,
                hours(it.after_h),
                hours(it.before_full_h),
                by.join(", ")
            );
        }
        text
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const SAID: &str = r#"
{"alarms":{"series":"pods","split":"tune","scale":0.5,"count":9,"days":100.0,"by":{"M1":7,"M2":0},"came_true":{"M1":0,"M2":3}}}
{"alarms":{"series":"pods","split":"held out","scale":0.5,"count":12,"days":200.0,"by":{"M1":0,"M2":20},"came_true":{"M1":0,"M2":0}}}
{"leaks":{"series":"pods","split":"held out","scale":0.5,"percent_an_hour":8.0,"count":12,"full":11,"found":12,"after_h":3.7,"before_full_h":null,"by":{"M1":2,"M3":10}}}
"#;

    pub fn seen() -> Seen {
        parse(SAID.trim()).unwrap()
    }

    #[test]
    fn what_nothing_was_chosen_on_is_judged() {
        let rows = seen().rows("recorded", &Alarms::is_judged);
        let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
        // None in 200 days is no more than 3.0 in them.
        let calm = row("false alarms in recorded series: M1");
        assert_eq!((calm.ok, calm.samples), (Verdict::True, 12));
        assert!((calm.high - 0.015).abs() < 1e-4, "{calm:?}");
        assert_eq!(row("false alarms in recorded series: M2").ok, Verdict::False);
        let leaks = row("leaks of 8 % an hour found in recorded series");
        assert!((leaks.value - 1.0).abs() < 1e-9 && leaks.samples == 12, "{leaks:?}");
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn each_line_becomes_one_of_a_table() {
        let text = seen().markdown();
        for line in [
            "| series | split | count | days | M1 | M2 | all | came true |",
            "| pods × 0.5 | tune | 9 | 100.0 | 0.070 | 0 | 0.070 | 3 M2 |",
            "| pods × 0.5 | held out | 12 | 200.0 | 0 | 0.100 | 0.100 |  |",
            "| pods × 0.5 | held out | 8 | 12 | 11 | 12 | 3.70 | – | 2 M1, 10 M3 |",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_program_that_says_something_else_is_not_believed() {
        for said in ["", "{}", "| series |", &SAID.trim().replace("days", "weeks")] {
            assert!(parse(said).is_err(), "{said}");
        }
    }
}
