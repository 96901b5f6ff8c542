//! The stages of an investigation: the cause, and then the place in the sources that is to be mended. What the first
//! one has come to stands, whatever becomes of the second. Pure: what there is of one is in its record.

use prost_types::Timestamp;
use sensor_proto::json;

use super::End;
use crate::proto::{
    Evidence, Findings, Incident, Investigation, InvestigationState, Outcome, Stage, StageRun,
    Verdict, evidence::Content, file_fact,
};

/// The one that it is in; an older record's is the first.
pub fn current(run: &Investigation) -> Stage {
    let begun = run.stages.iter().rev().find(|it| it.state() != InvestigationState::Suppressed);
    begun.map_or(Stage::Diagnose, StageRun::stage)
}

/// It is looking for the place: what it hands in adds to what it has found.
pub fn locates(run: &Investigation) -> bool {
    current(run) == Stage::Locate && run.state() == InvestigationState::Running
}

/// It begins, or is taken up again in the stage that it was in.
pub fn begin(run: &mut Investigation, stage: Stage, now: Timestamp) {
    if run.stages.last().is_some_and(|last| last.stage() == stage) {
        return;
    }
    run.stages.push(StageRun {
        stage: stage.into(),
        state: InvestigationState::Running.into(),
        started_at: Some(now),
        ..StageRun::default()
    });
}

/// None of its stages goes on: what was left to do was to say so.
pub fn are_over(run: &Investigation) -> bool {
    run.stages.last().is_some_and(|last| last.state() != InvestigationState::Running)
}

/// The stage that it is in has ended.
pub fn end(run: &mut Investigation, end: End, now: Timestamp) {
    let is_first = current(run) == Stage::Diagnose;
    if is_first {
        run.findings.clone_from(&end.findings);
        run.error.clone_from(&end.error);
    }
    let Some(stage) = run.stages.last_mut() else { return };
    stage.set_state(end.state);
    stage.ended_at = Some(now);
    stage.error = end.error;
    if !is_first {
        stage.findings = end.findings;
    }
}

/// It goes no further. A stage that is not begun is named with the reason.
pub fn skip(run: &mut Investigation, why: String) {
    run.stages.push(StageRun {
        stage: Stage::Locate.into(),
        state: InvestigationState::Suppressed.into(),
        outcome: Outcome::Suppressed.into(),
        error: why,
        ..StageRun::default()
    });
}

/// The whole of it is over: it has come to what its first stage has come to. `state`: where it has no stages.
pub fn close(run: &mut Investigation, state: InvestigationState, now: Timestamp) {
    run.set_state(run.stages.first().map_or(state, StageRun::state));
    if let Some(first) = run.stages.first() {
        run.error.clone_from(&first.error);
    }
    run.ended_at = Some(now);
}

/// Nobody takes it up again: that is the end of the stage that it was in.
pub fn interrupt(run: &mut Investigation, why: &str, now: Timestamp) {
    let interrupted = InvestigationState::Interrupted;
    let runs = |it: &&mut StageRun| it.state() == InvestigationState::Running;
    if let Some(stage) = run.stages.last_mut().filter(runs) {
        stage.set_state(interrupted);
        stage.ended_at = Some(now);
        why.clone_into(&mut stage.error);
    }
    if run.stages.is_empty() {
        why.clone_into(&mut run.error);
    }
    let ended_at = run.ended_at.unwrap_or(now);
    close(run, interrupted, ended_at);
}

/// What the stage that has ended last has come to: complete is one that ended well, and that has handed in what it
/// was there for. A program of the operator's may print it instead.
pub fn judge(run: &mut Investigation) {
    let printed = run.agent == "command";
    let report = run.report.as_ref();
    let found = [
        report.is_some() || printed && !run.findings.is_empty(),
        report.is_some_and(|report| report.fix_location.is_some()),
    ];
    for (number, stage) in run.stages.iter_mut().enumerate() {
        let is_first = stage.stage() == Stage::Diagnose;
        let found =
            if is_first { found[0] } else { found[1] || printed && !stage.findings.is_empty() };
        let (outcome, lacks) = match stage.state() {
            InvestigationState::Running => (Outcome::Unspecified, None),
            InvestigationState::Suppressed => (Outcome::Suppressed, None),
            InvestigationState::Done if found => (Outcome::Complete, None),
            InvestigationState::Done if is_first => {
                (Outcome::Incomplete, Some("it ended without findings"))
            }
            InvestigationState::Done => (Outcome::Incomplete, Some("it ended without a place")),
            _ => (Outcome::Incomplete, None),
        };
        stage.set_outcome(outcome);
        if let Some(lacks) = lacks {
            lacks.clone_into(&mut stage.error);
            if number == 0 {
                lacks.clone_into(&mut run.error);
            }
        }
    }
}

/// Whether there is anything to look for, once the cause is found; else why not. `evidence`: what the built-in
/// diagnosis can cite.
pub fn why_not(
    incident: &Incident,
    report: Option<&Findings>,
    evidence: &[Evidence],
) -> Option<String> {
    let verdict = report.map(Findings::verdict);
    if let Some(place) = report.and_then(|report| report.fix_location.as_ref()) {
        let line = if place.line > 0 { format!(", line {}", place.line) } else { String::new() };
        return Some(format!("not needed: the findings name {}{line} already", place.path));
    }
    if verdict == Some(Verdict::Abstains) {
        return Some("there is no cause whose place could be looked for: it abstained".to_owned());
    }
    if incident.culprit.is_none() {
        return Some("the incident has no culprit whose files it could be in".to_owned());
    }
    let refuted = verdict == Some(Verdict::Refutes);
    let place = (!refuted).then(|| built_in(incident, evidence)).flatten();
    place.map(|place| format!("not needed: the built-in diagnosis names a line of {place}"))
}

/// The file whose line the built-in diagnosis names: one that it cites, and that was read.
fn built_in(incident: &Incident, evidence: &[Evidence]) -> Option<String> {
    let diagnosis = incident.diagnosis.as_ref()?;
    if ![&diagnosis.cause, &diagnosis.remedy].into_iter().any(|said| names_a_line(said)) {
        return None;
    }
    let cited = evidence.iter().filter(|piece| diagnosis.evidence.contains(&piece.id));
    cited.rev().find_map(|piece| match &piece.content {
        Some(Content::File(file)) if file.state() == file_fact::State::Present => {
            Some(json::escape(&file.path))
        }
        _ => None,
    })
}

/// `line 12`, as the rules say it.
fn names_a_line(text: &str) -> bool {
    text.match_indices("line ").any(|(at, word)| {
        text[at + word.len()..].starts_with(|character: char| character.is_ascii_digit())
    })
}

/// What the place that was looked for adds to the findings: nothing else of them changes.
pub fn add_place(found: &Findings, second: &Findings) -> Findings {
    let mut sum = found.clone();
    if second.fix_location.is_some() {
        sum.fix_location.clone_from(&second.fix_location);
    }
    // Of each submission anew; the last one counts.
    let is_place = |why: &String| why.starts_with("fix_location: ");
    sum.dropped_why.retain(|why| !is_place(why));
    sum.dropped_why.extend(second.dropped_why.iter().filter(|why| is_place(why)).cloned());
    sum.dropped = sum.dropped_why.len() as u32;
    sum.at = second.at;
    sum
}

#[cfg(test)]
mod tests;
