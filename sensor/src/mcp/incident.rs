//! `incident_get`: the incident in numbers, and which evidence there is.

use sensor_proto::{
    json,
    v1::{Action, Evidence, Incident, Investigation, Measure},
};

use super::{Daemon, Failed, page::Page, tools::Arguments};
use crate::render::{Fact, Facts, Kind};

enum Item<'a> {
    Measure(&'a Measure),
    Evidence(&'a Evidence),
    Action(&'a Action),
    Investigation(&'a Investigation),
}

pub(super) async fn get(
    daemon: &mut Daemon,
    page: &mut Page<'_>,
    arguments: &Arguments,
) -> Result<(), Failed> {
    let incident = daemon.incident().await?;
    let evidence = daemon.evidence().await?;
    if arguments.cursor()? == 0 {
        page.facts = facts(page, &incident);
    }
    let measures = incident.finding.iter().flat_map(|finding| &finding.measures);
    let items = measures
        .map(Item::Measure)
        .chain(evidence.iter().map(Item::Evidence))
        .chain(incident.actions.iter().map(Item::Action))
        .chain(incident.investigations.iter().map(Item::Investigation));
    page.list(arguments.skip()?, items, item);
    Ok(())
}

fn facts(page: &mut Page<'_>, incident: &Incident) -> Facts {
    let mut facts = Facts::new()
        .with("id", Fact::word(&incident.id))
        .with("kind", Fact::word(&json::kind::word(incident.kind)))
        .with("severity", Fact::word(&json::severity::word(incident.severity)))
        .with("state", Fact::word(&json::state::word(incident.state)))
        .with("opened_ns", Fact::Lasting(incident.opened_ns))
        .with("thaw_due_ns", Fact::Lasting(incident.thaw_due_ns))
        .with("occurrences", Fact::Count(incident.occurrences.into()))
        .with("summary", page.text(Kind::Prose, incident.summary.as_bytes()))
        .with("host", page.text(Kind::Name, incident.host.as_bytes()));
    if let Some(at) = incident.opened_at {
        facts.add("opened_at", Fact::At(at));
    }
    if let Some(at) = incident.resolved_at {
        facts.add("resolved_at", Fact::At(at));
    }
    if let Some(finding) = &incident.finding {
        facts.add("rule", Fact::word(&finding.rule));
        facts.add("confidence", Fact::Number(finding.confidence));
    }
    if let Some(culprit) = &incident.culprit {
        facts.add("culprit_pid", Fact::Count(culprit.pid.into()));
        facts.add("culprit_start_ns", Fact::Lasting(culprit.start_ns));
        facts.add("culprit_uid", Fact::Count(culprit.uid.into()));
        facts.add("culprit_comm", page.text(Kind::Comm, culprit.comm.as_bytes()));
        facts.add("culprit_argv", page.argv(&culprit.argv));
        facts.add("culprit_cwd", page.text(Kind::Cwd, &culprit.cwd));
        facts.add("culprit_exe", page.text(Kind::Exe, &culprit.exe));
        facts.add("culprit_cgroup", page.text(Kind::Cgroup, culprit.cgroup.as_bytes()));
    }
    if let Some(group) = &incident.group {
        facts.add("group_by", Fact::word(&json::group_by::word(group.by)));
        facts.add("group_trees", Fact::Count(group.members.len() as u64));
        facts.add("group_what", page.text(Kind::Name, group.what.as_bytes()));
    }
    if let Some(tree) = &incident.tree {
        facts.add("tree_processes", Fact::Count(tree.processes.into()));
        facts.add("tree_threads", Fact::Count(tree.threads.into()));
        facts.add("tree_anon_bytes", Fact::Bytes(tree.anon_bytes));
        facts.add("tree_depth", Fact::Count(tree.depth.into()));
    }
    if let Some(diagnosis) = &incident.diagnosis {
        facts.add("diagnosis_by", Fact::word(&diagnosis.by));
        facts.add("diagnosis_confidence", Fact::Number(diagnosis.confidence));
        let cited = diagnosis.evidence.iter().map(|id| Fact::word(id)).collect();
        facts.add("diagnosis_evidence", Fact::Many(cited));
        facts.add("diagnosis_cause", page.text(Kind::Prose, diagnosis.cause.as_bytes()));
        facts.add("diagnosis_remedy", page.text(Kind::Prose, diagnosis.remedy.as_bytes()));
    }
    facts
}

fn item(page: &mut Page<'_>, item: Item<'_>) -> Facts {
    let mut facts = Facts::new();
    match item {
        Item::Measure(measure) => {
            facts.add("what", Fact::word("measure"));
            facts.add("name", Fact::word(&measure.name));
            facts.add("value", Fact::Number(measure.value));
            if let Some(threshold) = measure.threshold {
                facts.add("threshold", Fact::Number(threshold));
            }
            facts.add("unit", Fact::word(&measure.unit));
        }
        Item::Evidence(piece) => {
            facts.add("what", Fact::word("evidence"));
            facts.add("id", Fact::word(&piece.id));
            facts.add("name", Fact::word(&piece.name));
            facts.add("truncated", Fact::Is(piece.truncated));
            facts.add("redactions", Fact::Count(piece.redactions.into()));
            facts.add("source", page.text(Kind::Path, piece.source.as_bytes()));
            if let Some(at) = piece.at {
                facts.add("at", Fact::At(at));
            }
        }
        Item::Action(action) => {
            facts.add("what", Fact::word("action"));
            facts.add("name", Fact::word(&json::action_kind::word(action.kind)));
            facts.add("ok", Fact::Is(action.ok));
            facts.add("processes", Fact::Count(action.processes.into()));
            facts.add("by", page.text(Kind::Name, action.by.as_bytes()));
            facts.add("why", page.text(Kind::Prose, action.why.as_bytes()));
            facts.add("result", page.text(Kind::Prose, action.result.as_bytes()));
            if let Some(at) = action.at {
                facts.add("at", Fact::At(at));
            }
        }
        Item::Investigation(investigation) => {
            facts.add("what", Fact::word("investigation"));
            facts.add("id", Fact::word(&investigation.id));
            facts.add("agent", Fact::word(&investigation.agent));
            let state = json::investigation_state::word(investigation.state);
            facts.add("state", Fact::word(&state));
            facts.add("findings", page.text(Kind::Agent, investigation.findings.as_bytes()));
            if let Some(report) = &investigation.report {
                facts.add("verdict", Fact::word(&json::verdict::word(report.verdict)));
            }
        }
    }
    facts
}
