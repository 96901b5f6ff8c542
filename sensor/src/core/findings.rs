//! What investigators ask for and bring: a file of the culprit's project, and what they found.
//!
//! Whether a claim rests on evidence was settled by `serve`, which reads the log; here it is looked
//! at who brings it, and it becomes part of the record.

use sensor_proto::internal::v1::{Run, tell::What};
use tonic::Code;

use super::{
    desk::{Desk, Done},
    requests::{send_durable, when_durable},
};
use crate::{
    clock,
    feed::link::Reply,
    incident::headline,
    investigate::stages,
    kernel::Detail,
    lineage::ProcessKey,
    proto::{self, Claim, Findings, Investigation, InvestigationState, Verdict, record::Body},
    record::Draft,
};

/// Files that are read for one incident: more than anybody needs to find a cause. With 128 KiB each it is
/// 8 MiB of the log at most.
const SOURCES: u32 = 64;

/// Investigations of one incident, persons' own included: each is in all its records.
const INVESTIGATIONS: usize = 32;

/// What stands at a path that an investigator asked for, and who waits for it.
#[derive(Debug)]
pub struct SourceRead {
    incident: String,
    evidence: proto::Evidence,
    reply: Reply,
}

impl Desk {
    pub fn source_asked(
        &mut self,
        request: proto::ReadSourceRequest,
        run: Option<&Run>,
        reply: Reply,
    ) {
        let id = match self.unresolved_for(&request.incident, run) {
            Ok(id) => id,
            Err((code, why)) => return reply.refuse(code, why),
        };
        let refuse = |why: &str| (Code::FailedPrecondition, why.to_owned());
        let look = || {
            let incident = self.incidents.get(&id).ok_or_else(|| refuse("it was resolved"))?;
            let culprit = incident.culprit.as_ref();
            let culprit = culprit.ok_or_else(|| refuse("this incident has no culprit"))?;
            Ok((culprit.cwd.clone(), self.incidents.roots(&id)))
        };
        let (cwd, roots) = match look() {
            Ok(found) => found,
            Err((code, why)) => return reply.refuse(code, why),
        };
        if !self.matters.contains_key(&id) && !self.sources.contains_key(&id) {
            let why = "nothing more is known of this incident: the daemon was restarted meanwhile";
            return reply.refuse(Code::FailedPrecondition, why);
        }
        let sources = self.sources.entry(id.clone()).or_default();
        if *sources >= SOURCES {
            let why = format!("{SOURCES} files were read for this incident already");
            return reply.refuse(Code::ResourceExhausted, why);
        }
        *sources += 1;
        let number = *sources;
        let (lineage, gatherer, done) =
            (self.lineage.clone(), self.gatherer.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let forest = lineage.forest(Detail::Links);
            // Of a culprit that has gone, its children run in the same place.
            let below = roots.iter().flat_map(|root| forest.tree(*root));
            let processes: Vec<ProcessKey> =
                roots.iter().copied().chain(below.map(|(node, _)| node.key)).collect();
            let evidence = proto::Evidence {
                id: format!("s{number}"),
                at: Some(clock::wall()),
                ..gatherer.read_source(&processes, &cwd, &request.path)
            };
            // The desk is gone only when the daemon ends.
            let _ = done.send(Done::Source(Box::new(SourceRead { incident: id, evidence, reply })));
        });
    }

    /// Of an incident of an earlier run: files that were read for it then, of which the log tells.
    pub(super) fn recall_sources(&mut self, incident: &str, evidence: &[proto::Evidence]) {
        let read = evidence.iter().filter_map(|piece| piece.id.strip_prefix('s')?.parse().ok());
        let read: u32 = read.max().unwrap_or_default();
        let sources = self.sources.entry(incident.to_owned()).or_default();
        *sources = read.max(*sources);
    }

    /// What somebody was shown can be cited: it is durable before it is answered.
    pub fn source_read(&mut self, read: SourceRead) {
        let SourceRead { incident, evidence, reply } = read;
        let body = Body::Evidence(evidence.clone());
        let receipt = self.log.append_durable(Draft::of(incident, body));
        let what = What::ReadSource(proto::ReadSourceResponse { evidence: Some(evidence) });
        tokio::spawn(send_durable(receipt, reply, what));
    }

    pub fn submitted(
        &mut self,
        request: proto::SubmitFindingsRequest,
        run: Option<&Run>,
        by: &str,
        reply: Reply,
    ) {
        let id = match self.unresolved_for(&request.incident, run) {
            Ok(id) => id,
            Err((code, why)) => return reply.refuse(code, why),
        };
        let report = self.redacted(request.findings.unwrap_or_default());
        let known = self.incidents.get_looked_into(&id).map(|it| it.investigations.as_slice());
        let known = known.unwrap_or_default();
        let of_run = run.and_then(|run| known.iter().find(|it| it.id == run.investigation));
        let mut investigation = match of_run {
            Some(running) => running.clone(),
            None if known.len() >= INVESTIGATIONS => {
                let why = format!("{INVESTIGATIONS} investigations of this incident are kept");
                return reply.refuse(Code::ResourceExhausted, why);
            }
            None => Investigation {
                id: format!("{id}-{}", known.len() + 1),
                agent: "mcp".to_owned(),
                state: InvestigationState::Done.into(),
                started_at: Some(clock::wall()),
                ended_at: Some(clock::wall()),
                findings: format!("submitted by {by}"),
                ..Default::default()
            },
        };
        let found = investigation.report.take().filter(|_| stages::locates(&investigation));
        // What was found stands while its place is looked for.
        let (report, diagnosis) = if let Some(found) = found {
            (stages::add_place(&found, &report), None)
        } else {
            let diagnosis = diagnosis(&report, &investigation.agent);
            (report, diagnosis)
        };
        investigation.report = Some(report);
        self.log.append(Draft::of(id.clone(), Body::Investigation(investigation.clone())));
        if let Some(diagnosis) = &diagnosis {
            self.log.append(Draft::of(id.clone(), Body::Diagnosis(diagnosis.clone())));
        }
        let answer = investigation.clone();
        let announced = self.amend(&id, |incident| {
            let why = format!("findings of {} were taken", investigation.agent);
            incident.investigations.retain(|known| known.id != investigation.id);
            incident.investigations.push(investigation);
            if let Some(diagnosis) = diagnosis {
                if let Some(line) = headline(&diagnosis.cause) {
                    incident.summary = line;
                }
                incident.diagnosis = Some(diagnosis);
            }
            why
        });
        when_durable(announced, reply, move |_| {
            What::Findings(proto::SubmitFindingsResponse { investigation: Some(answer) })
        });
    }

    /// What an investigation has submitted so far.
    pub fn report_of(&self, incident: &str, investigation: &str) -> Option<Findings> {
        let known = &self.incidents.get_looked_into(incident)?.investigations;
        known.iter().find(|known| known.id == investigation)?.report.clone()
    }

    /// The incident, where it is unresolved and, of a run, the run still goes on.
    fn unresolved_for(&self, id: &str, run: Option<&Run>) -> Result<String, (Code, String)> {
        // A run goes on when its incident is resolved meanwhile.
        let looked_into = run.filter(|run| {
            run.incident.starts_with(id) && self.incidents.get_looked_into(&run.incident).is_some()
        });
        let id = match looked_into {
            Some(run) => run.incident.clone(),
            None => self.unresolved(id)?,
        };
        let goes_on = |run: &Run| {
            let incident = self.incidents.get_looked_into(&id).filter(|_| run.incident == id);
            incident.is_some_and(|incident| {
                incident.investigations.iter().any(|known| {
                    known.id == run.investigation && known.state() == InvestigationState::Running
                })
            })
        };
        if run.is_none_or(goes_on) {
            Ok(id)
        } else {
            Err((Code::FailedPrecondition, "this investigation is over".to_owned()))
        }
    }

    /// Nothing that an agent says becomes a record as it is.
    fn redacted(&self, mut report: Findings) -> Findings {
        let redact = |text: &mut String| {
            let (redacted, _) = self.gatherer.redactor().text(text.as_bytes());
            *text = String::from_utf8_lossy(&redacted).into_owned();
        };
        for claim in [
            &mut report.cause,
            &mut report.mechanism,
            &mut report.remedy,
            &mut report.prevention,
            &mut report.refutation,
        ]
        .into_iter()
        .flatten()
        {
            redact(&mut claim.text);
        }
        if let Some(culprit) = &mut report.culprit {
            redact(&mut culprit.text);
        }
        if let Some(place) = &mut report.fix_location {
            redact(&mut place.path);
        }
        report.at = Some(clock::wall());
        report
    }
}

/// What stands in the place of the built-in diagnosis; none: that stands.
fn diagnosis(report: &Findings, agent: &str) -> Option<proto::Diagnosis> {
    let (Verdict::Refutes, Some(cause)) = (report.verdict(), &report.cause) else { return None };
    let text = |claim: &Option<Claim>| claim.as_ref().map(|it| it.text.clone()).unwrap_or_default();
    Some(proto::Diagnosis {
        cause: cause.text.clone(),
        confidence: report.confidence,
        evidence: cause.evidence.clone(),
        by: agent.to_owned(),
        remedy: text(&report.remedy),
        cycle: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_diagnosis_stands_unless_it_is_refuted() {
        let claim = |text: &str| Some(Claim { text: text.into(), evidence: vec!["e1".into()] });
        let report = |verdict: Verdict, cause| Findings {
            verdict: verdict.into(),
            confidence: 0.7,
            cause,
            remedy: claim("stop it"),
            ..Default::default()
        };
        let stands = [
            Verdict::Confirms,
            Verdict::Extends,
            Verdict::Abstains,
            Verdict::Unsupported,
            Verdict::Unspecified,
        ];
        for verdict in stands {
            assert_eq!(diagnosis(&report(verdict, claim("it leaks")), "command"), None);
        }
        assert_eq!(diagnosis(&report(Verdict::Refutes, None), "command"), None);
        let now = diagnosis(&report(Verdict::Refutes, claim("it leaks")), "command").unwrap();
        assert_eq!((now.cause.as_str(), now.by.as_str()), ("it leaks", "command"));
        assert_eq!(
            (now.remedy.as_str(), now.evidence.as_slice()),
            ("stop it", &["e1".to_owned()][..])
        );
    }
}
