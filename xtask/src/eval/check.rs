//! What went wrong, in sentences. Every one of them fails `--check`.

use std::fmt;

use ::tests::judge::{Outcome, Seen, Trace};

use super::{
    judged::{Evaluation, Judged, Observed},
    table,
};
use crate::measure::row::{Row, Verdict};

/// Characters of a reason: a compiler's first error fits, its last hundred lines do not.
const WHY: usize = 400;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The workload or trace; none: the result as a whole.
    pub about: Option<String>,
    /// Where it was, and what.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.about {
            Some(about) => write!(out, "{about}, {}", self.what),
            None => out.write_str(&self.what),
        }
    }
}

/// All faults: of the single runs first, then of the rows that miss their targets. A row that is
/// unresolved had too few runs to tell, which is no fault of theirs.
pub fn faults(evaluation: &Evaluation, rows: &[Row]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for workload in &evaluation.workloads {
        faults.extend(of_workload(workload));
    }
    for trace in &evaluation.traces {
        let mut add = |what: String| faults.push(Fault { about: Some(trace.name.clone()), what });
        match &trace.result {
            Err(why) => add(format!("replayed: unresolved: {}", one_line(why))),
            // What was only told of is counted in the rows: a day of somebody's work may hold
            // something worth a word. A workload that is labelled honest may not.
            Ok(replay) if replay.containments > 0 => {
                replayed_honest(replay.incidents, replay.containments, &mut add);
            }
            Ok(_) => {}
        }
    }
    for observed in &evaluation.observed {
        for what in of_observed(observed) {
            faults.push(Fault { about: Some(observed.name.clone()), what });
        }
    }
    if let Some(Err(why)) = &evaluation.series {
        let what = format!("unresolved: {}", one_line(why));
        faults.push(Fault { about: Some("series of memory".into()), what });
    }
    for row in rows.iter().filter(|row| row.ok == Verdict::False) {
        let what =
            format!("{}: {}, target {}", row.name, table::figure(row.value), row.target_text());
        faults.push(Fault { about: None, what });
    }
    faults
}

/// What is wrong about observations that were replayed.
pub fn of_observed(observed: &Observed) -> Vec<String> {
    match &observed.faults {
        Err(why) => vec![format!("replayed: unresolved: {}", one_line(why))],
        Ok(faults) => faults.iter().map(|fault| format!("replayed: {fault}")).collect(),
    }
}

/// The faults of one workload.
pub fn of_workload(workload: &Judged) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |what: String| faults.push(Fault { about: Some(workload.name.clone()), what });
    match &workload.alone {
        Err(why) => add(format!("alone: unresolved: {}", one_line(why))),
        Ok(alone) => {
            gates(&alone.trace, &mut add);
            if !workload.is_malign() {
                replayed_honest(alone.trace.incidents, alone.trace.containments, &mut add);
                if !alone.ended_well {
                    add("alone: honest work did not end well".into());
                }
            }
        }
    }
    for (number, trial) in (1..).zip(&workload.trials) {
        let mut add = |what: String| add(format!("run {number}: {what}"));
        match trial {
            Outcome::Unresolved(why) => add(format!("unresolved: {}", one_line(why))),
            Outcome::Seen(seen) if workload.is_malign() => malign(workload, seen, &mut add),
            Outcome::Seen(seen) => honest(seen, &mut add),
        }
    }
    faults
}

/// What programs said when they failed, as a part of a sentence.
pub fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= WHY {
        return line;
    }
    line.chars().take(WHY).chain(['…']).collect()
}

fn malign(workload: &Judged, seen: &Seen, add: &mut dyn FnMut(String)) {
    match workload.hit(seen) {
        None => add(format!("missed: no {} incident", workload.kind().unwrap_or_default())),
        Some(hit) => {
            if !hit.culprit_right {
                add(format!("the culprit is wrong: {}", hit.summary));
            }
            if !hit.facts_missing.is_empty() {
                add(format!("the diagnosis does not say {}", hit.facts_missing.join(", ")));
            }
            if !hit.window_missing.is_empty() {
                let missing = hit.window_missing.join(", ");
                add(format!("the evidence window has not got {missing}"));
            }
        }
    }
    for it in seen.incidents.iter().filter(|it| !workload.contained && it.contained_after.is_some())
    {
        add(format!(
            "contained, and only to be told of: {} by {}: {}",
            it.kind, it.rule, it.summary
        ));
    }
    for extra in workload.extra(seen) {
        add(format!("an incident too many: {} by {}: {}", extra.kind, extra.rule, extra.summary));
    }
    if let Some(running @ 1..) = seen.running_after {
        add(format!("processes that ran 1 s after the containment: {running}"));
    }
}

fn honest(seen: &Seen, add: &mut dyn FnMut(String)) {
    for incident in &seen.incidents {
        let what = if incident.contained_after.is_some() { "containment" } else { "incident" };
        add(format!("false {what}: {} by {}: {}", incident.kind, incident.rule, incident.summary));
    }
    if !seen.ended_well {
        add("honest work did not end well, as it does alone".into());
    }
}

fn replayed_honest(incidents: u64, containments: u64, add: &mut dyn FnMut(String)) {
    if incidents > 0 {
        add(format!("replayed: false incidents: {incidents}, worth a containment: {containments}"));
    }
}

fn gates(trace: &Trace, add: &mut dyn FnMut(String)) {
    let differ = trace.gates_differ;
    if differ > 0 {
        let first = trace.differences.first().map(|it| format!(", first {}", one_line(it)));
        let first = first.unwrap_or_default();
        add(format!("replayed: kernel and replay differ on {differ} verdicts{first}"));
    }
}

#[cfg(test)]
mod tests {
    use ::tests::judge::{Alone, corpus::Replay};

    use super::*;
    use crate::eval::{fixture, judged::Replayed, score, series};

    /// What is said after this change to the fixture.
    fn said(change: impl FnOnce(&mut Evaluation)) -> Vec<String> {
        let mut evaluation = fixture::evaluation();
        change(&mut evaluation);
        let rows = score::rows(&evaluation);
        faults(&evaluation, &rows).iter().map(ToString::to_string).collect()
    }

    fn seen(evaluation: &mut Evaluation, workload: usize, trial: usize) -> &mut Seen {
        match &mut evaluation.workloads[workload].trials[trial] {
            Outcome::Seen(seen) => seen,
            Outcome::Unresolved(why) => panic!("{why}"),
        }
    }

    #[test]
    fn nothing_is_wrong_where_all_is_right() {
        assert_eq!(said(|_| {}), [""; 0]);
    }

    #[test]
    fn a_missed_run() {
        let said = said(|it| seen(it, 0, 1).incidents.clear());
        assert_eq!(said, ["npm-missing-manifest, run 2: missed: no recursion incident"]);
    }

    #[test]
    fn an_incident_of_another_kind_is_a_miss_and_one_too_many() {
        let said = said(|it| {
            let incident = &mut seen(it, 0, 1).incidents[0];
            incident.kind = "fork_storm".into();
            incident.kind_right = false;
        });
        assert_eq!(
            said,
            [
                "npm-missing-manifest, run 2: missed: no recursion incident",
                "npm-missing-manifest, run 2: an incident too many: fork_storm by R1: `npm run a` runs itself",
            ]
        );
    }

    #[test]
    fn a_wrong_culprit() {
        let said = said(|it| seen(it, 1, 3).incidents[0].culprit_right = false);
        assert_eq!(said, ["script-twice, run 4: the culprit is wrong: `npm run a` runs itself"]);
    }

    #[test]
    fn a_missing_fact() {
        let said = said(|it| {
            seen(it, 0, 0).incidents[0].facts_missing = vec!["package.json".into(), "qhx".into()];
        });
        assert_eq!(
            said,
            ["npm-missing-manifest, run 1: the diagnosis does not say package.json, qhx"]
        );
    }

    #[test]
    fn a_containment_of_what_is_only_to_be_told_of() {
        let said = said(|it| {
            it.workloads[0].contained = false;
            for trial in [1, 2, 3] {
                seen(it, 0, trial).incidents[0].contained_after = None;
            }
        });
        assert_eq!(
            said,
            [
                "npm-missing-manifest, run 1: contained, and only to be told of: recursion by R1: `npm run a` runs itself"
            ]
        );
    }

    #[test]
    fn an_extra_incident() {
        let said = said(|it| seen(it, 0, 0).incidents.push(fixture::incident(3.0)));
        assert_eq!(
            said,
            [
                "npm-missing-manifest, run 1: an incident too many: recursion by R1: `npm run a` runs itself"
            ]
        );
    }

    #[test]
    fn a_contained_honest_run() {
        let said = said(|it| {
            *seen(it, 2, 0) = fixture::seen(vec![fixture::incident(2.0)]);
        });
        assert_eq!(
            said,
            [
                "builds, run 1: false containment: recursion by R1: `npm run a` runs itself",
                "builds, run 1: honest work did not end well, as it does alone",
                // 1 in 24 s; even the lower bound is far beyond the target.
                "false containments, live: rate: 150000, target ≤ 1",
                "honest work that did not end well: 1, target ≤ 0",
            ]
        );
    }

    #[test]
    fn an_honest_run_with_an_incident_that_stops_nothing() {
        let said = said(|it| {
            let seen = seen(it, 2, 3);
            seen.incidents = vec![fixture::incident(2.0)];
            seen.incidents[0].contained_after = None;
        });
        let expected = "builds, run 4: false incident: recursion by R1: `npm run a` runs itself";
        assert_eq!(said, [expected]);
    }

    #[test]
    fn an_unresolved_run() {
        let said = said(|it| {
            it.workloads[0].trials[0] = Outcome::Unresolved("no npm".into());
            it.workloads[2].alone = Err("it left 3 processes".into());
        });
        assert_eq!(
            said,
            [
                "npm-missing-manifest, run 1: unresolved: no npm",
                "builds, alone: unresolved: it left 3 processes",
                "unresolved runs: 2, target ≤ 0",
            ]
        );
    }

    #[test]
    fn a_reason_is_one_line_however_much_was_said() {
        let said = said(|it| {
            it.workloads[0].trials[0] = Outcome::Unresolved("npm warn\n\nadded 35 ".repeat(99));
        });
        let why = said[0].strip_prefix("npm-missing-manifest, run 1: unresolved: ").unwrap();
        assert!(why.starts_with("npm warn added 35 npm warn") && why.ends_with('…'), "{why}");
        assert_eq!(why.chars().count(), WHY + 1);
    }

    #[test]
    fn gates_that_differ() {
        let said = said(|it| {
            it.workloads[0].alone = Ok(Alone { trace: differing(2), ..fixture::alone() });
        });
        assert_eq!(
            said,
            [
                "npm-missing-manifest, replayed: kernel and replay differ on 2 verdicts",
                "verdicts that they differ on: 2, target ≤ 0",
            ]
        );
    }

    fn differing(verdicts: u64) -> Trace {
        Trace { gates_differ: verdicts, ..fixture::alone().trace }
    }

    #[test]
    fn processes_that_run_on() {
        let said = said(|it| seen(it, 1, 0).running_after = Some(3));
        assert_eq!(
            said,
            [
                "script-twice, run 1: processes that ran 1 s after the containment: 3",
                "running 1 s after containment, most: 3, target ≤ 0",
            ]
        );
    }

    #[test]
    fn too_many_npm_processes() {
        let said = said(|it| seen(it, 0, 0).incidents[0].processes_contained = Some(51));
        assert_eq!(said, ["npm-missing-manifest: at containment, most: 51, target ≤ 50"]);
    }

    #[test]
    fn observations_of_which_something_else_was_said() {
        let said = said(|it| {
            let observed = |name: &str, faults| Observed { name: name.into(), faults };
            it.observed = vec![
                observed("leak", Ok(Vec::new())),
                observed("cache", Ok(vec!["a false finding: memory_growth by M3".into()])),
                observed("gone", Err("there is no such file".into())),
            ];
        });
        assert_eq!(
            said,
            [
                "cache, replayed: a false finding: memory_growth by M3",
                "gone, replayed: unresolved: there is no such file",
            ]
        );
    }

    #[test]
    fn series_of_memory_with_too_many_alarms_or_that_cannot_be_made() {
        let told = said(|it| it.series = Some(Ok(series::tests::seen())));
        // Of what is made no half was ever looked at to choose something.
        let expected = ["false alarms in made series: M2: 0.067, target ≤ 0.02"];
        assert_eq!(told, expected);
        let told = said(|it| it.series = Some(Err("no cargo".into())));
        assert_eq!(told, ["series of memory, unresolved: no cargo"]);
    }

    #[test]
    fn a_long_trace_with_a_false_alarm_or_that_cannot_be_replayed() {
        let trace = |name: &str, result| Replayed { name: name.into(), result };
        let said = said(|it| {
            let told = Replay { seconds: 3.6e7, incidents: 1, ..Replay::default() };
            it.traces = vec![
                trace("calm.trace", Ok(told)),
                trace("day.trace", Ok(Replay { containments: 1, ..told })),
                trace("cut.trace", Err("it is cut off".into())),
            ];
        });
        assert_eq!(
            said,
            [
                "day.trace, replayed: false incidents: 1, worth a containment: 1",
                "cut.trace, replayed: unresolved: it is cut off",
                "unresolved runs: 1, target ≤ 0",
            ]
        );
    }
}
