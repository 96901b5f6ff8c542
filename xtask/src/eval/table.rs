//! The two tables: a line a workload, the sensor's numbers beside those of `pids.max` alone, and the
//! totals.

use ::tests::judge::{Alone, Split};

use super::{
    columns::{Cell, Column, Table, Tone},
    judged::{Judged, mib, seconds},
};
use crate::measure::{
    row::{Row, Verdict},
    stats::median,
};

/// How to read the first table, below it.
pub const LEGEND: &str = "\
set: rules may be tuned on tune, not on held (held-out). found: of the runs, those with an incident
of the label's kind (honest: with any); ?: some runs are unresolved. blame, facts: of those, with
the right culprit, and with a diagnosis that says all it should. s: seconds from the start, the
median. live, MiB: processes and memory of the tree at that moment, left: processes that ran 1 s
later, cap: forks that the cgroup's limit refused, because it was met first; the most of all runs.
pids.max alone: one run without the sensor, in a cgroup that limits its tasks, to the first fork
that is refused.";

const WORKLOADS: [Column; 16] = [
    Column::left("workload"),
    Column::left("label"),
    Column::left("set"),
    Column::right("found"),
    Column::right("blame"),
    Column::right("facts"),
    Column::right("s").of("incident"),
    Column::right("live"),
    Column::right("MiB"),
    Column::right("s").of("contained"),
    Column::right("left"),
    Column::right("cap"),
    Column::right("s").of("pids.max alone"),
    Column::right("live"),
    Column::right("MiB"),
    Column::right("left"),
];

/// A line a workload, malign ones first, and their sums.
pub fn workloads(all: &[Judged]) -> Table<'static> {
    let (malign, honest): (Vec<&Judged>, Vec<&Judged>) = all.iter().partition(|it| it.is_malign());
    let mut rows = Vec::new();
    for (group, name) in [(malign, "all malign"), (honest, "all honest")] {
        for workload in &group {
            rows.push(line(&workload.name, &label(workload), set(workload.split), &[workload]));
        }
        if group.len() > 1 {
            rows.push(line(name, "", "", &group));
        }
    }
    Table { columns: &WORKLOADS, rows }
}

fn label(workload: &Judged) -> String {
    workload.kind().unwrap_or("honest").to_owned()
}

/// Short, so that a line fits on a terminal.
fn set(split: Split) -> &'static str {
    match split {
        Split::Tune => "tune",
        Split::HeldOut => "held",
    }
}

fn line(name: &str, label: &str, set: &str, group: &[&Judged]) -> Vec<Cell> {
    let malign = group.iter().any(|it| it.is_malign());
    let runs = group.iter().flat_map(|it| it.seen()).count();
    let unresolved = group.iter().any(|it| it.unresolved() > 0);
    let seen = || group.iter().flat_map(|it| it.seen());
    let hits = || group.iter().flat_map(|it| it.hits());
    let found = if malign {
        hits().count()
    } else {
        seen().filter(|seen| !seen.incidents.is_empty()).count()
    };
    let of = |right: usize, of: usize| {
        let tone = if right == of { Tone::Good } else { Tone::Bad };
        if malign && of > 0 { Cell::toned(format!("{right}/{of}"), tone) } else { none() }
    };
    let doubt = if unresolved { "?" } else { "" };
    let as_it_should = !unresolved && found == if malign { runs } else { 0 };
    let tone = if as_it_should { Tone::Good } else { Tone::Bad };
    let shown: Vec<_> =
        if malign { hits().collect() } else { seen().flat_map(|seen| &seen.incidents).collect() };
    let left = seen().filter_map(|seen| seen.running_after).max();
    let left_tone = if left.is_some_and(|it| it > 0) { Tone::Bad } else { Tone::Plain };
    let refused = seen().map(|seen| seen.refused_forks).max();
    let refused_tone = if refused.is_some_and(|it| it > 0) { Tone::Bad } else { Tone::Plain };
    let capped: Vec<&Alone> = group
        .iter()
        .filter_map(|it| it.alone.as_ref().ok())
        .filter(|alone| alone.capped_after.is_some())
        .collect();
    vec![
        Cell::toned(name, if label.is_empty() { Tone::Strong } else { Tone::Plain }),
        label.into(),
        set.into(),
        Cell::toned(format!("{found}/{runs}{doubt}"), tone),
        of(hits().filter(|hit| hit.culprit_right).count(), found),
        of(hits().filter(|hit| hit.facts_missing.is_empty()).count(), found),
        middle(&seconds(shown.iter().map(|it| Some(it.opened_after)))),
        count(shown.iter().map(|it| it.processes).max()),
        count(shown.iter().map(|it| mib(it.bytes).round() as u64).max()),
        middle(&seconds(shown.iter().map(|it| it.contained_after))),
        Cell { tone: left_tone, ..count(left) },
        Cell { tone: refused_tone, ..count(refused) },
        middle(&seconds(capped.iter().map(|it| it.capped_after))),
        count(capped.iter().map(|it| it.capped_processes).max()),
        count(capped.iter().map(|it| mib(it.capped_bytes).round() as u64).max()),
        count(capped.iter().map(|it| it.running_after).max()),
    ]
}

fn none() -> Cell {
    "–".into()
}

fn count(number: Option<u64>) -> Cell {
    number.map_or_else(none, |it| it.to_string().into())
}

fn middle(times: &[f64]) -> Cell {
    if times.is_empty() { none() } else { three_digits(median(times)).into() }
}

/// `0.04`, `1.31`, `12.4`, `132`.
pub fn three_digits(number: f64) -> String {
    // The borders are where rounding would make a digit more.
    let decimals = match number {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}")
}

const TOTALS: [Column; 7] = [
    Column::left("result"),
    Column::right("value"),
    Column::left(""),
    Column::right("n"),
    Column::left("95 % interval"),
    Column::left("target"),
    Column::left(""),
];

/// A line a row; `n`: how often it was measured.
pub fn totals(rows: &[Row]) -> Table<'static> {
    let rows = rows
        .iter()
        .map(|row| {
            let interval = if row.has_interval() {
                format!("{} to {}", figure(row.low), figure(row.high))
            } else {
                String::new()
            };
            let tone = match (row.target, row.ok) {
                (Some(_), Verdict::True) => Tone::Good,
                (_, Verdict::False) => Tone::Bad,
                _ => Tone::Plain,
            };
            vec![
                row.name.clone().into(),
                figure(row.value).into(),
                row.unit.into(),
                row.samples.to_string().into(),
                interval.into(),
                row.target_text().into(),
                Cell::toned(row.verdict_text(), tone),
            ]
        })
        .collect();
    Table { columns: &TOTALS, rows }
}

/// A whole number as it is, anything else with 3 decimals, or fewer where they say nothing.
pub fn figure(number: f64) -> String {
    if number.fract() == 0.0 || number >= 1000.0 {
        format!("{number:.0}")
    } else {
        format!("{number:.3}")
    }
}

#[cfg(test)]
mod tests {
    use ::tests::judge::Outcome;

    use super::*;
    use crate::eval::{fixture, score};

    #[test]
    fn a_line_a_workload_and_two_sums_fit_on_a_hundred_columns() {
        let evaluation = fixture::evaluation();
        let text = workloads(&evaluation.workloads).text(100, false);
        assert_eq!(
            text,
            "                                                      incident      contained     pids.max alone\n\
             workload             label     set  found blame facts    s live MiB    s left cap    s live MiB left\n\
             npm-missing-manifest recursion tune   4/4   4/4   4/4 1.25   20 140 1.30    0   0 9.00  380 900  378\n\
             script-twice         recursion held   4/4   4/4   4/4 1.25   20 140 1.30    0   0 9.00  380 900  378\n\
             all malign                            8/8   8/8   8/8 1.25   20 140 1.30    0   0 9.00  380 900  378\n\
             builds               honest    tune   0/4     –     –    –    –   –    –    –   0    –    –   –    –\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        assert!(LEGEND.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn an_unresolved_run_is_in_no_denominator_and_shows() {
        let mut evaluation = fixture::evaluation();
        evaluation.workloads[0].trials[2] = Outcome::Unresolved("no npm".into());
        let text = workloads(&evaluation.workloads).text(100, false);
        assert!(text.contains("recursion tune  3/3?   3/3"), "{text}");
        assert!(text.contains("all malign                           7/7?"), "{text}");
    }

    #[test]
    fn totals_fit_too() {
        let text = totals(&score::rows(&fixture::evaluation())).text(100, false);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let recall = text.lines().find(|line| line.starts_with("recall ")).unwrap_or_default();
        let words: Vec<&str> = recall.split_whitespace().collect();
        assert_eq!(
            words,
            ["recall", "1", "share", "8", "0.688", "to", "1", "≥", "0.9", "unresolved"]
        );
    }

    #[test]
    fn times_take_four_columns() {
        for (number, text) in
            [(0.04, "0.04"), (1.306, "1.31"), (9.996, "10.0"), (12.44, "12.4"), (99.96, "100")]
        {
            assert_eq!(three_digits(number), text);
        }
    }
}
