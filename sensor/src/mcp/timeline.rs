//! `timeline`: the incident's records in order, a line each.

use sensor_proto::{
    json,
    v1::{Record, observation::Fact as Observed, record::Body},
};

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

pub(super) async fn show(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let kinds = [
        "observation",
        "transition",
        "evidence",
        "diagnosis",
        "action",
        "investigation",
        "transcript",
        "lost",
        "degraded",
    ];
    daemon
        .records(&kinds, arguments.cursor()?, |record| {
            if page.is_full() {
                page.goes_on_at(record.seq.to_string());
                return false;
            }
            let item = item(page, &record);
            page.push(&item);
            true
        })
        .await
}

fn item(page: &mut Page<'_>, record: &Record) -> Facts {
    let mut facts = Facts::new()
        .with("seq", Fact::Lasting(record.seq))
        .with("boot_ns", Fact::Lasting(record.boot_ns))
        .with("kind", Fact::word(record.kind()));
    if let Some(at) = record.at {
        facts.add("at", Fact::At(at));
    }
    let text = |page: &mut Page<'_>, facts: &mut Facts, kind, text: &[u8]| {
        facts.add("text", page.text(kind, text));
    };
    match &record.body {
        Some(Body::Observation(observation)) => match &observation.fact {
            Some(Observed::Alarm(alarm)) => {
                facts.add("name", Fact::word(&alarm.rule));
                facts.add("to", Fact::word(&alarm.level));
                facts.add("processes", Fact::Count(alarm.live.into()));
                let pid = alarm.process.as_ref().map_or(0, |process| process.pid);
                facts.add("pid", Fact::Count(pid.into()));
            }
            Some(Observed::Exec(exec)) => {
                let pid = exec.process.as_ref().map_or(0, |process| process.pid);
                facts.add("pid", Fact::Count(pid.into()));
                facts.add("text", page.argv(&exec.argv));
            }
            // Of whatever kind: its numbers, as JSON.
            _ => {
                let shown = serde_json::to_string(observation).unwrap_or_default();
                text(page, &mut facts, Kind::Output, shown.as_bytes());
            }
        },
        Some(Body::Transition(transition)) => {
            facts.add("from", Fact::word(&json::state::word(transition.from)));
            facts.add("to", Fact::word(&json::state::word(transition.to)));
            text(page, &mut facts, Kind::Prose, transition.why.as_bytes());
        }
        Some(Body::Evidence(piece)) => {
            facts.add("evidence", Fact::word(&piece.id));
            facts.add("name", Fact::word(&piece.name));
        }
        Some(Body::Diagnosis(diagnosis)) => {
            facts.add("name", Fact::word(&diagnosis.by));
            text(page, &mut facts, Kind::Prose, diagnosis.cause.as_bytes());
        }
        Some(Body::Action(action)) => {
            facts.add("name", Fact::word(&json::action_kind::word(action.kind)));
            facts.add("ok", Fact::Is(action.ok));
            facts.add("processes", Fact::Count(action.processes.into()));
            text(page, &mut facts, Kind::Prose, action.result.as_bytes());
        }
        Some(Body::Investigation(investigation)) => {
            facts.add("name", Fact::word(&investigation.agent));
            let state = json::investigation_state::word(investigation.state);
            facts.add("to", Fact::word(&state));
            text(page, &mut facts, Kind::Agent, investigation.findings.as_bytes());
        }
        Some(Body::Transcript(line)) => {
            facts.add("name", Fact::word(&line.stream));
            text(page, &mut facts, Kind::Agent, &line.text);
        }
        Some(Body::Lost(lost)) => facts.add("name", Fact::word(&lost.reason)),
        Some(Body::Degraded(degraded)) => {
            facts.add("name", Fact::word(&degraded.part));
            text(page, &mut facts, Kind::Prose, degraded.why.as_bytes());
        }
        Some(Body::Started(_) | Body::Stopped(_)) | None => {}
    }
    facts
}
