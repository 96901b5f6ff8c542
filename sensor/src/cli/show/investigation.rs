//! An investigation in the story of its incident.

use std::fmt::Write as _;

use sensor_proto::{
    json,
    v1::{Cost, Investigation, InvestigationState, Outcome, StageRun},
};

use super::title;
use crate::{
    cli::{describe::paragraph, report, style::Style, text, time},
    investigate::meter,
};

/// How it went, what it cost and what it found.
pub(super) fn section(page: &mut String, investigation: &Investigation, style: &Style) {
    let mut aside = json::investigation_state::word(investigation.state);
    if investigation.outcome() == Outcome::Incomplete {
        aside.push_str(", incomplete");
    }
    if investigation.lives > 1 {
        let _ = write!(
            aside,
            ", taken up again {}",
            text::count(investigation.lives - 1, "time", "times")
        );
    }
    if let Some(cost) = &investigation.cost {
        aside.push_str(&spent(cost));
    }
    if investigation.programs > 0 {
        let programs = text::count(investigation.programs, "program", "programs");
        let _ = write!(aside, ", executed {programs}");
    }
    let name = format!(
        "Investigation {} by {}",
        text::safe(&investigation.id),
        text::safe(&investigation.agent)
    );
    title(page, &name, &aside, style);
    if !investigation.why.is_empty() {
        paragraph(page, &format!("why: {}", investigation.why), 2, style);
    }
    if let Some(found) = &investigation.report {
        report::show(page, found, style);
    }
    paragraph(page, &investigation.findings, 2, style);
    if !investigation.error.is_empty() {
        let label = match investigation.state() {
            InvestigationState::Suppressed => "suppressed",
            InvestigationState::Queued => "waits",
            InvestigationState::Done => "incomplete",
            _ => "failed",
        };
        paragraph(page, &format!("{label}: {}", investigation.error), 2, style);
    }
    // The first one is what stands above.
    for stage in investigation.stages.iter().skip(1) {
        paragraph(page, &stage_of(stage), 2, style);
        paragraph(page, &stage.findings, 2, style);
    }
}

/// A further stage, and what it has come to.
fn stage_of(stage: &StageRun) -> String {
    let said = match (stage.state(), stage.outcome()) {
        (InvestigationState::Running, _) => "goes on".to_owned(),
        (InvestigationState::Suppressed, _) => format!("not begun: {}", stage.error),
        (_, Outcome::Complete) => "complete".to_owned(),
        (InvestigationState::Done, _) => format!("incomplete: {}", stage.error),
        _ => format!("failed: {}", stage.error),
    };
    format!("stage {}: {said}", json::stage::word(stage.stage))
}

/// What it took, each part behind a comma.
fn spent(cost: &Cost) -> String {
    let mut text = format!(", {}", time::duration(cost.wall_ns));
    for (number, one, many) in
        [(cost.turns, "turn", "turns"), (cost.tool_calls, "tool call", "tool calls")]
    {
        if number > 0 {
            let _ = write!(text, ", {}", text::count(number, one, many));
        }
    }
    if cost.tokens > 0 {
        let _ = write!(text, ", {} tokens", text::grouped(cost.tokens));
    }
    if cost.usd > 0.0 {
        let _ = write!(text, ", {}", text::dollars(meter::micro(cost.usd)));
    }
    text
}
