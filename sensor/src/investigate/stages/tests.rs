use super::*;
use crate::proto::{Claim, Culprit, Diagnosis, FileFact, FixLocation};

const NOW: Timestamp = Timestamp { seconds: 7, nanos: 0 };

fn run() -> Investigation {
    let mut run =
        Investigation { agent: "claude".into(), stage: Stage::Locate.into(), ..Default::default() };
    run.set_state(InvestigationState::Running);
    begin(&mut run, Stage::Diagnose, NOW);
    run
}

fn ended(state: InvestigationState, error: &str) -> End {
    End { state, error: error.into(), findings: format!("words, {error}"), ..End::default() }
}

fn place(path: &str) -> FixLocation {
    FixLocation { path: path.into(), line: 3, evidence: vec!["s1".into()] }
}

/// What each stage has come to.
fn outcomes(run: &Investigation) -> Vec<(Stage, InvestigationState, Outcome, &str)> {
    let of = |it: &StageRun| (it.stage(), it.state(), it.outcome());
    run.stages
        .iter()
        .map(|it| (of(it), it.error.as_str()))
        .map(|((a, b, c), d)| (a, b, c, d))
        .collect()
}

use InvestigationState::{Done, Failed, Interrupted, Running, Suppressed};
use Outcome::{Complete, Incomplete, Unspecified};
use Stage::{Diagnose, Locate};

#[test]
fn the_cause_stands_whatever_becomes_of_the_place() {
    for (place, state, error, came_to) in [
        (Some(place("/w/run")), Done, "", (Locate, Done, Complete, "")),
        (None, Done, "", (Locate, Done, Incomplete, "it ended without a place")),
        (None, Failed, "it fell over", (Locate, Failed, Incomplete, "it fell over")),
    ] {
        let mut run = run();
        assert!(!locates(&run));
        end(&mut run, ended(Done, ""), NOW);
        run.report = Some(Findings::default());
        judge(&mut run);
        assert_eq!(outcomes(&run), [(Diagnose, Done, Complete, "")]);
        begin(&mut run, Locate, NOW);
        assert!(locates(&run));
        judge(&mut run);
        assert_eq!(outcomes(&run)[1], (Locate, Running, Unspecified, ""));
        run.report = Some(Findings { fix_location: place, ..Findings::default() });
        end(&mut run, ended(state, error), NOW);
        close(&mut run, state, NOW);
        judge(&mut run);
        assert_eq!(outcomes(&run), [(Diagnose, Done, Complete, ""), came_to]);
        assert_eq!((run.state(), run.error.as_str(), run.findings.as_str()), (Done, "", "words, "));
        assert_eq!(run.stages[1].findings, format!("words, {error}"));
        assert_eq!(run.ended_at, Some(NOW));
    }
}

#[test]
fn without_a_cause_there_is_no_second_stage() {
    let mut run = run();
    end(&mut run, ended(Done, ""), NOW);
    close(&mut run, Done, NOW);
    judge(&mut run);
    let nothing = "it ended without findings";
    assert_eq!(outcomes(&run), [(Diagnose, Done, Incomplete, nothing)]);
    assert_eq!((run.state(), run.error.as_str()), (Done, nothing));
    // What a program of the operator's prints is what it has found.
    run.agent = "command".into();
    judge(&mut run);
    assert_eq!(run.stages[0].outcome(), Complete);
}

#[test]
fn a_stage_that_is_not_begun_says_why() {
    let mut run = run();
    end(&mut run, ended(Done, ""), NOW);
    run.report = Some(Findings::default());
    skip(&mut run, "no room".into());
    assert_eq!(current(&run), Diagnose);
    close(&mut run, Done, NOW);
    judge(&mut run);
    let not = (Locate, Suppressed, Outcome::Suppressed, "no room");
    assert_eq!(outcomes(&run), [(Diagnose, Done, Complete, ""), not]);
    assert_eq!(run.state(), Done);
}

#[test]
fn a_life_that_is_taken_up_again_is_in_the_stage_that_it_was_in() {
    let mut run = run();
    end(&mut run, ended(Done, ""), NOW);
    begin(&mut run, Locate, NOW);
    let stage = current(&run);
    begin(&mut run, stage, NOW);
    assert_eq!((stage, run.stages.len()), (Locate, 2));
    // Nobody does: the cause is known all the same.
    interrupt(&mut run, "too often", NOW);
    run.report = Some(Findings::default());
    judge(&mut run);
    assert_eq!(
        outcomes(&run),
        [(Diagnose, Done, Complete, ""), (Locate, Interrupted, Incomplete, "too often")]
    );
    assert_eq!((run.state(), run.error.as_str()), (Done, ""));
}

#[test]
fn what_is_interrupted_in_its_only_stage_is_interrupted() {
    let mut run = run();
    interrupt(&mut run, "too often", NOW);
    assert_eq!((run.state(), run.error.as_str()), (Interrupted, "too often"));
    // Of an older version's record.
    let mut old = Investigation::default();
    interrupt(&mut old, "too often", NOW);
    assert_eq!((old.state(), old.error.as_str()), (Interrupted, "too often"));
    assert_eq!(current(&old), Diagnose);
}

#[test]
fn a_place_that_is_known_is_not_looked_for() {
    let mut incident = Incident {
        culprit: Some(Culprit::default()),
        diagnosis: Some(Diagnosis {
            cause: "`run` starts itself.".into(),
            remedy: "Change line 3 of /w/run.".into(),
            evidence: vec!["e1".into(), "e2".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let file = |state: file_fact::State| {
        let fact = FileFact { path: b"/w/run".to_vec(), state: state.into(), ..Default::default() };
        vec![Evidence { id: "e2".into(), content: Some(Content::File(fact)), ..Default::default() }]
    };
    let read = file(file_fact::State::Present);
    let report = |verdict: Verdict| Findings {
        verdict: verdict.into(),
        cause: Some(Claim::default()),
        ..Findings::default()
    };
    let extends = report(Verdict::Extends);
    assert_eq!(
        why_not(&incident, Some(&extends), &read).unwrap(),
        "not needed: the built-in diagnosis names a line of /w/run"
    );
    // Whoever says that it is wrong has another place in mind.
    assert_eq!(why_not(&incident, Some(&report(Verdict::Refutes)), &read), None);
    // A line of a file that nobody could read.
    assert_eq!(why_not(&incident, Some(&extends), &file(file_fact::State::Absent)), None);
    incident.diagnosis.as_mut().unwrap().remedy = "Stop the line of workers.".into();
    assert_eq!(why_not(&incident, Some(&extends), &read), None);
    let abstains = why_not(&incident, Some(&report(Verdict::Abstains)), &read).unwrap();
    assert!(abstains.contains("it abstained"), "{abstains}");
    let named = Findings { fix_location: Some(place("/w/other")), ..extends.clone() };
    assert_eq!(
        why_not(&incident, Some(&named), &read).unwrap(),
        "not needed: the findings name /w/other, line 3 already"
    );
    incident.culprit = None;
    assert!(why_not(&incident, Some(&extends), &read).unwrap().contains("no culprit"));
}

#[test]
fn a_place_is_added_and_nothing_else_changes() {
    let claim = |text: &str| Some(Claim { text: text.into(), evidence: vec!["e1".into()] });
    let found = Findings {
        cause: claim("it leaks"),
        dropped: 1,
        dropped_why: vec!["remedy: it cites no evidence".into()],
        ..Findings::default()
    };
    let refused = Findings {
        cause: claim("another"),
        dropped_why: vec!["fix_location: no".into(), "cause: no".into()],
        ..Findings::default()
    };
    let sum = add_place(&found, &refused);
    assert_eq!((sum.cause.as_ref(), sum.dropped), (found.cause.as_ref(), 2));
    assert_eq!(sum.dropped_why, ["remedy: it cites no evidence", "fix_location: no"]);
    let sum =
        add_place(&sum, &Findings { fix_location: Some(place("/w/run")), ..Findings::default() });
    assert_eq!((sum.fix_location.clone(), sum.dropped), (Some(place("/w/run")), 1));
    // One that says no more takes nothing away.
    assert_eq!(add_place(&sum, &Findings::default()).fix_location, Some(place("/w/run")));
}
