//! From what was seen to rows: how much is found, how much of what is found is true, how soon, and
//! what it costs those who did nothing.

use super::judged::{Evaluation, Judged, mib, seconds, split_word};
use crate::measure::{
    bounds,
    row::Row,
    stats::{Interval, bootstrap, median},
};
use ::tests::judge::{Seen, Split, Trace};

/// Of recall, precision, culprits and facts, by their lower bounds: 30 runs, all right, just reach it.
const RIGHT: f64 = 0.9;
/// False containments in 1,000 hours of honest work: the worst bug that this program can have.
const FALSE_CONTAINMENTS: f64 = 1.0;
/// The recursive npm of the first story, and how many of its processes may be alive at its
/// containment: the budget table. Its later goal is 32. A tree that doubles has no such budget.
const STORY: &str = "npm-missing-manifest";
const STORY_PROCESSES: f64 = 50.0;
/// What stands still or differs has no tolerance.
const NONE: f64 = 0.0;
/// Hours of the rates: few false alarms need long times to be told apart.
const HOURS: f64 = 1000.0;

/// All rows, in the order in which they are shown.
pub fn rows(evaluation: &Evaluation) -> Vec<Row> {
    let mut rows = right(&evaluation.workloads);
    rows.extend(speed(&evaluation.workloads));
    rows.extend(without(&evaluation.workloads));
    rows.extend(honest(evaluation));
    if let Some(Ok(seen)) = &evaluation.series {
        rows.extend(seen.made_rows());
    }
    rows.extend(trust(evaluation));
    rows
}

/// Which runs and incidents are counted together.
#[derive(Clone, Copy)]
enum Group<'a> {
    All,
    /// Runs that have to become this kind, incidents that are of it.
    Kind(&'a str),
    Split(Split),
}

impl Group<'_> {
    fn name(self, what: &str) -> String {
        match self {
            Self::All => what.to_owned(),
            Self::Kind(kind) => format!("{what}: {kind}"),
            Self::Split(split) => format!("{what}: {}", split_word(split)),
        }
    }

    fn has_run(self, workload: &Judged) -> bool {
        match self {
            Self::All => true,
            Self::Kind(kind) => workload.kind() == Some(kind),
            Self::Split(split) => workload.split == split,
        }
    }

    fn has_incident(self, workload: &Judged, kind: &str) -> bool {
        match self {
            Self::Kind(wanted) => kind == wanted,
            Self::All | Self::Split(_) => self.has_run(workload),
        }
    }
}

/// Recall, precision, culprits and facts: in all, of each kind, and of what no rule was tuned on.
fn right(workloads: &[Judged]) -> Vec<Row> {
    let mut kinds: Vec<&str> = workloads.iter().filter_map(Judged::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut rows = Vec::new();
    for group in [Group::All]
        .into_iter()
        .chain(kinds.into_iter().map(Group::Kind))
        .chain([Group::Split(Split::HeldOut)])
    {
        // The parts inform: each has fewer runs than the target needs.
        let target = matches!(group, Group::All).then_some(RIGHT);
        let malign = || workloads.iter().filter(|it| it.is_malign() && group.has_run(it));
        let runs = malign().flat_map(Judged::seen).count();
        let found = malign().flat_map(Judged::hits).count();
        let incidents = workloads
            .iter()
            .flat_map(|workload| {
                workload.seen().flat_map(|seen| &seen.incidents).map(move |it| (workload, it))
            })
            .filter(|(workload, incident)| {
                !incident.beside && group.has_incident(workload, &incident.kind)
            })
            .count();
        let culprits = malign().flat_map(Judged::hits).filter(|hit| hit.culprit_right).count();
        let facts = malign().flat_map(Judged::hits).filter(|hit| hit.facts_missing.is_empty());
        let windows = malign().flat_map(Judged::hits).filter(|hit| hit.window_missing.is_empty());
        for (what, right, of) in [
            ("recall", found, runs),
            ("precision", found, incidents),
            ("culprit right", culprits, found),
            ("facts right", facts.count(), found),
            ("facts in the evidence window", windows.count(), found),
        ] {
            // Of nothing, nothing is claimed.
            if of > 0 {
                let interval = bounds::share(right, of);
                rows.push(Row::at_least(&group.name(what), interval, "share", target));
            }
        }
    }
    rows
}

/// How soon, and how large it had become.
fn speed(workloads: &[Judged]) -> Vec<Row> {
    let hits = || workloads.iter().flat_map(Judged::hits);
    let malign = || workloads.iter().filter(|it| it.is_malign()).flat_map(Judged::seen);
    let mut rows = Vec::new();
    spread(&mut rows, "start to incident", "s", &seconds(hits().map(|it| Some(it.opened_after))));
    spread(&mut rows, "start to containment", "s", &seconds(hits().map(|it| it.contained_after)));
    let processes: Vec<f64> = hits().map(|it| it.processes as f64).collect();
    spread(&mut rows, "processes at the incident", "processes", &processes);
    let bytes: Vec<f64> = hits().map(|it| mib(it.bytes)).collect();
    spread(&mut rows, "memory at the incident", "MiB", &bytes);
    let processes = |of: &mut dyn Iterator<Item = &Judged>| -> Vec<f64> {
        of.flat_map(Judged::hits)
            .filter_map(|it| it.processes_contained)
            .map(|it| it as f64)
            .collect()
    };
    let contained = processes(&mut workloads.iter());
    spread(&mut rows, "processes at containment", "processes", &contained);
    let story = processes(&mut workloads.iter().filter(|it| it.name == STORY));
    let named = format!("{STORY}: at containment");
    rows.extend(most(&named, "processes", &story, Some(STORY_PROCESSES)));
    let after: Vec<f64> =
        malign().filter_map(|seen| seen.running_after).map(|it| it as f64).collect();
    rows.extend(most("running 1 s after containment", "processes", &after, Some(NONE)));
    // 0: the sensor was there before the cap.
    let refused: Vec<f64> = malign().map(|seen| seen.refused_forks as f64).collect();
    rows.extend(most("forks that the cage refused", "forks", &refused, None));
    rows
}

/// The same runaways without a sensor, where `pids.max` or the OOM killer alone ends them.
fn without(workloads: &[Judged]) -> Vec<Row> {
    let capped: Vec<_> = workloads
        .iter()
        .filter(|it| it.is_malign())
        .filter_map(|it| it.alone.as_ref().ok())
        .filter(|alone| alone.capped_after.is_some())
        .collect();
    let mut rows = Vec::new();
    let times = seconds(capped.iter().map(|it| it.capped_after));
    spread(&mut rows, "pids.max: start to cap", "s", &times);
    for (name, unit, values) in [
        (
            "pids.max: processes at the cap",
            "processes",
            capped.iter().map(|it| it.capped_processes as f64).collect::<Vec<_>>(),
        ),
        (
            "pids.max: memory at the cap",
            "MiB",
            capped.iter().map(|it| mib(it.capped_bytes)).collect(),
        ),
        (
            "pids.max: running 1 s later",
            "processes",
            capped.iter().map(|it| it.running_after as f64).collect(),
        ),
    ] {
        spread(&mut rows, name, unit, &values);
    }
    let killed = workloads.iter().filter_map(|it| it.alone.as_ref().ok());
    let killed = seconds(killed.map(|alone| alone.oom_after));
    spread(&mut rows, "the OOM killer: start to its first kill", "s", &killed);
    rows
}

/// What honest work had to suffer.
fn honest(evaluation: &Evaluation) -> Vec<Row> {
    let workloads = || evaluation.workloads.iter().filter(|it| !it.is_malign());
    let live = || workloads().flat_map(Judged::seen);
    let mut rows = Vec::new();

    let incidents = live().map(|seen| seen.incidents.len() as u64).sum();
    let contained = |seen: &Seen| {
        seen.incidents.iter().filter(|it| it.contained_after.is_some()).count() as u64
    };
    let containments = live().map(contained).sum();
    let times: Vec<f64> = live().map(|seen| seen.took.as_secs_f64()).collect();
    alarms(&mut rows, "live", incidents, containments, &times);
    if !times.is_empty() {
        let disturbed = live().filter(|seen| !seen.ended_well).count();
        let disturbed = Interval::counted(disturbed as f64, times.len());
        rows.push(Row::new("honest work that did not end well", disturbed, "runs", Some(NONE)));
    }

    let (mut incidents, mut containments, mut times) = (0, 0, Vec::new());
    for trace in workloads().filter_map(|it| it.alone.as_ref().ok()).map(|alone| &alone.trace) {
        incidents += trace.incidents;
        containments += trace.containments;
        times.push(trace.seconds);
    }
    for replay in evaluation.traces.iter().filter_map(|it| it.result.as_ref().ok()) {
        incidents += replay.incidents;
        containments += replay.containments;
        times.push(replay.seconds);
    }
    alarms(&mut rows, "replayed", incidents, containments, &times);
    rows
}

/// Counts and rates of what was wrongly claimed in runs that took so many seconds each.
fn alarms(rows: &mut Vec<Row>, how: &str, incidents: u64, containments: u64, times: &[f64]) {
    let hours = times.iter().sum::<f64>() / 3600.0;
    let counted = |value: f64| Interval::counted(value, times.len());
    // In no time at all no rate can be told.
    let (Some(of_incidents), Some(of_containments)) =
        (bounds::rate(incidents, hours / HOURS), bounds::rate(containments, hours / HOURS))
    else {
        return;
    };
    rows.push(Row::new(&format!("honest work, {how}"), counted(hours), "h", None));
    for (what, count, rate, target) in [
        ("incidents", incidents, of_incidents, None),
        ("containments", containments, of_containments, Some(FALSE_CONTAINMENTS)),
    ] {
        let name = format!("false {what}, {how}");
        rows.push(Row::new(&name, counted(count as f64), "", None));
        let rate = Interval { samples: times.len(), ..rate };
        rows.push(Row::new(&format!("{name}: rate"), rate, "in 1,000 h", target));
    }
}

/// Whether the numbers above can be believed.
fn trust(evaluation: &Evaluation) -> Vec<Row> {
    let traces =
        || evaluation.workloads.iter().filter_map(|it| Some(&it.alone.as_ref().ok()?.trace));
    let long = || evaluation.traces.iter().filter_map(|it| it.result.as_ref().ok());
    let sum = |of_trace: fn(&Trace) -> u64| traces().map(of_trace).sum::<u64>() as f64;
    let replays = traces().count();
    let unresolved = evaluation.workloads.iter().map(Judged::unresolved).sum::<usize>()
        + evaluation.traces.iter().filter(|it| it.result.is_err()).count();
    let runs = evaluation.workloads.iter().map(|it| 1 + it.trials.len()).sum::<usize>()
        + evaluation.traces.len();
    // Not of the recordings: the kernel's verdicts in them are those of the rules of their day.
    let (agree, differ) = (sum(|it| it.gates_agree), sum(|it| it.gates_differ));
    let lost = sum(|it| it.lost) + long().map(|it| it.lost as f64).sum::<f64>();
    [
        ("verdicts that kernel and replay agree on", agree, replays, "", None),
        ("verdicts that they differ on", differ, replays, "", Some(NONE)),
        ("events that did not reach a trace", lost, replays + long().count(), "", None),
        ("unresolved runs", unresolved as f64, runs, "runs", Some(NONE)),
    ]
    .into_iter()
    .map(|(name, value, of, unit, target)| {
        Row::new(name, Interval::counted(value, of), unit, target)
    })
    .collect()
}

/// The median with its interval, and the largest; nothing of nothing.
fn spread(rows: &mut Vec<Row>, name: &str, unit: &'static str, values: &[f64]) {
    if !values.is_empty() {
        let middle = bootstrap(values, median);
        rows.push(Row::new(&format!("{name}, median"), middle, unit, None));
        rows.extend(most(name, unit, values, None));
    }
}

/// The largest: what was seen is its interval, for the worst run counts.
fn most(name: &str, unit: &'static str, values: &[f64], target: Option<f64>) -> Option<Row> {
    let value = values.iter().copied().reduce(f64::max)?;
    let seen = Interval::counted(value, values.len());
    Some(Row::new(&format!("{name}, most"), seen, unit, target))
}

#[cfg(test)]
mod tests {
    use ::tests::judge::{Outcome, corpus::Replay};

    use super::*;
    use crate::{
        eval::{fixture, judged::Replayed},
        measure::row::Verdict,
    };

    #[track_caller]
    fn row(evaluation: &Evaluation, name: &str) -> Row {
        let rows = rows(evaluation);
        let found = rows.iter().find(|row| row.name == name);
        found.unwrap_or_else(|| panic!("no row {name:?} in {rows:#?}")).clone()
    }

    #[track_caller]
    fn is(evaluation: &Evaluation, name: &str, value: f64, low: f64, high: f64) -> Row {
        let row = row(evaluation, name);
        for (found, expected) in [(row.value, value), (row.low, low), (row.high, high)] {
            assert!((found - expected).abs() < 5e-4, "{expected} is not in {row:?}");
        }
        row
    }

    #[test]
    fn thirty_of_thirty_prove_no_more_than_0_905() {
        let evaluation = fixture::with_runs(30);
        for name in ["recall", "precision", "culprit right", "facts right"] {
            let row = is(&evaluation, name, 1.0, 0.905, 1.0);
            assert_eq!((row.ok, row.samples), (Verdict::True, 30));
        }
        // One less is not enough for the target, and so not known.
        assert_eq!(row(&fixture::with_runs(28), "recall").ok, Verdict::Unresolved);
    }

    #[test]
    fn a_miss_lowers_recall_alone() {
        let mut evaluation = fixture::with_runs(30);
        evaluation.workloads[0].trials[7] = Outcome::Seen(fixture::seen(Vec::new()));
        is(&evaluation, "recall", 0.9667, 0.8278, 0.9992);
        is(&evaluation, "precision", 1.0, 0.05_f64.powf(1.0 / 29.0), 1.0);
    }

    #[test]
    fn a_second_incident_about_one_cause_lowers_precision() {
        let mut evaluation = fixture::with_runs(30);
        let mut second = fixture::incident(0.5);
        second.culprit_right = false;
        evaluation.workloads[0].trials[7] =
            Outcome::Seen(fixture::seen(vec![second, fixture::incident(1.25)]));
        is(&evaluation, "recall", 1.0, 0.905, 1.0);
        assert_eq!(row(&evaluation, "precision").samples, 31);
        is(&evaluation, "precision", 30.0 / 31.0, 0.8330, 0.9992);
        // The better one of the two is the hit.
        is(&evaluation, "culprit right", 1.0, 0.905, 1.0);
    }

    #[test]
    fn an_unresolved_run_is_in_no_share() {
        let mut evaluation = fixture::with_runs(31);
        evaluation.workloads[0].trials[0] = Outcome::Unresolved("no npm".into());
        assert_eq!(row(&evaluation, "recall").samples, 30);
        assert_eq!(row(&evaluation, "unresolved runs").ok, Verdict::False);
    }

    #[test]
    fn a_false_incident_counts_for_its_own_kind() {
        let mut evaluation = fixture::evaluation();
        let mut storm = fixture::incident(1.0);
        (storm.kind, storm.kind_right) = ("fork_storm".into(), false);
        evaluation.workloads[2].trials[0] = Outcome::Seen(fixture::seen(vec![storm]));
        assert_eq!(row(&evaluation, "precision").samples, 9);
        assert_eq!(row(&evaluation, "precision: recursion").samples, 8);
    }

    #[test]
    fn what_is_held_out_has_rows_of_its_own() {
        let row = row(&fixture::evaluation(), "recall: held-out");
        assert_eq!((row.samples, row.target), (4, None));
    }

    #[test]
    fn honest_hours_bound_the_rate_of_false_alarms() {
        let mut evaluation = fixture::evaluation();
        // Four runs of 6 s.
        let hours = 24.0 / 3600.0;
        let live = row(&evaluation, "false containments, live: rate");
        assert!((live.high - 2.995_732 / hours * 1000.0).abs() < 1.0, "{live:?}");
        assert_eq!(live.ok, Verdict::Unresolved);
        // 36 s of its own, and 3,000 h from a long trace: 3.0/h × 1,000 is just within the target.
        let replay = Replay { seconds: 3000.0 * 3600.0, ..Replay::default() };
        evaluation.traces = vec![Replayed { name: "long.trace".into(), result: Ok(replay) }];
        let replayed = is(&evaluation, "false containments, replayed: rate", 0.0, 0.0, 0.9986);
        assert_eq!(replayed.ok, Verdict::True);
    }

    #[test]
    fn the_cap_stands_beside_the_sensor() {
        let evaluation = fixture::evaluation();
        is(&evaluation, "start to containment, median", 1.3, 1.3, 1.3);
        is(&evaluation, "npm-missing-manifest: at containment, most", 21.0, 21.0, 21.0);
        is(&evaluation, "pids.max: start to cap, median", 9.0, 9.0, 9.0);
        is(&evaluation, "pids.max: memory at the cap, most", 900.0, 900.0, 900.0);
        is(&evaluation, "pids.max: running 1 s later, most", 378.0, 378.0, 378.0);
    }

    #[test]
    fn equal_runs_make_equal_rows() {
        assert_eq!(rows(&fixture::evaluation()), rows(&fixture::evaluation()));
    }
}
