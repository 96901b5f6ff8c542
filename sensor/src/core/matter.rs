//! What an incident is about, and how far it has been looked at: a look runs beside the desk ([`study`]), and what
//! it finds comes back here.

use std::sync::Arc;

use tonic::Code;

use super::{
    desk::{Desk, Done},
    investigations::Asked,
    requests,
    study::{self, Study, Subject},
};
use crate::{
    detect::Finding,
    diagnose::pressure::Shortage,
    evidence::gather::Restarted,
    feed::link::Reply,
    incident::headline,
    investigate::{By, Driver},
    proto::{self, record::Body},
    record::Draft,
};

/// What an incident is about, and how far it has been looked at.
pub struct Matter {
    pub subject: Subject,
    /// It is being looked at just now.
    studying: bool,
    /// Once more when that is done: much has changed.
    again: bool,
    pub(super) studied: bool,
    /// What the look that goes on has found so far.
    evidence: Vec<proto::Evidence>,
    /// Investigations that people wait for.
    asked: Vec<(Driver, Reply)>,
}

impl Matter {
    pub fn new(incident: &str, finding: Finding) -> Self {
        let incident = incident.to_owned();
        let subject =
            Subject { incident, finding, restarted: None, killing: None, shortage: None, given: 0 };
        Self {
            subject,
            studying: false,
            again: false,
            studied: false,
            evidence: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// The same of a shortage.
    pub fn short(incident: &str, finding: Finding, shortage: Shortage) -> Self {
        let mut matter = Self::new(incident, finding);
        matter.subject.shortage = Some(shortage);
        matter
    }

    /// The same of a respawn loop.
    pub fn restarting(incident: &str, finding: Finding, restarted: Restarted) -> Self {
        let mut matter = Self::new(incident, finding);
        matter.subject.restarted = Some(restarted);
        matter
    }
}

impl Desk {
    pub fn study(&mut self, incident: &str) {
        let Some(matter) = self.matters.get_mut(incident) else { return };
        if matter.studying {
            matter.again = true;
            return;
        }
        matter.studying = true;
        matter.studied = true;
        if let Some(given) = self.given.remove(incident) {
            matter.subject.given = given;
        }
        let subject = matter.subject.clone();
        let (lineage, gatherer, done) =
            (Arc::clone(&self.lineage), Arc::clone(&self.gatherer), self.done.clone());
        tokio::task::spawn_blocking(move || {
            study::study(&subject, &lineage, &gatherer, |study| {
                // The desk is gone only when the daemon ends.
                let _ = done.send(Done::Studied(study.into()));
            });
        });
    }

    pub(super) fn studied(&mut self, study: Study) {
        let id = study.incident.as_str();
        let mut evidence = study.evidence.clone();
        let again = self.matters.get_mut(id).is_some_and(|matter| {
            matter.subject.given = study.given;
            // One of a later kill is not explained by this one.
            if let (Some(known), Some(seen)) = (&mut matter.subject.killing, &study.killing)
                && seen.is_of(known)
            {
                known.clone_from(seen);
                seen.claim(&mut matter.subject.finding);
            }
            matter.studying = study.more;
            matter.evidence.append(&mut evidence);
            if study.more {
                return false;
            }
            // All of this look.
            evidence = std::mem::take(&mut matter.evidence);
            std::mem::take(&mut matter.again)
        });
        for item in study.evidence {
            self.log.append(Draft::of(id, Body::Evidence(item)));
        }
        if let Some(diagnosis) = &study.diagnosis {
            self.log.append(Draft::of(id, Body::Diagnosis(diagnosis.clone())));
        }
        if let Some(parsed) = study.parsed {
            self.files_parsed(id, parsed);
        }
        let (tree, diagnosis, killing) = (study.tree, study.diagnosis, study.killing);
        if !study.more && tree.is_none() && diagnosis.is_none() && killing.is_none() {
            return self.studied_all(id, again, evidence);
        }
        let culprit = killing.as_ref().and_then(|killing| self.blamed(id, killing));
        let of_group = self.matters.get(id).is_some_and(|it| it.subject.finding.group.is_some());
        self.change(id, |incident| {
            let is_present = killing.is_none_or(|it| Self::oom_studied(incident, &it, culprit));
            if !is_present && incident.diagnosis.is_some() {
                return "evidence of an earlier kill was gathered".to_owned();
            }
            if let Some(tree) = tree {
                // One of them alone may be told of later.
                if let Some(group) = incident.group.as_mut().filter(|_| of_group) {
                    group.processes = tree.processes;
                    group.anon_bytes = tree.anon_bytes;
                }
                incident.tree = Some(tree);
            }
            if let Some(diagnosis) = diagnosis {
                if let Some(line) = headline(&diagnosis.cause) {
                    incident.summary = line;
                }
                incident.diagnosis = Some(diagnosis);
            }
            "evidence was gathered and explained".to_owned()
        });
        if !study.more {
            self.studied_all(id, again, evidence);
        }
    }

    /// An explanation stands without what its files say, or the first one again with it.
    fn files_parsed(&mut self, id: &str, parsed: Result<(), String>) {
        let recovered = parsed.is_ok();
        let why = match parsed {
            Ok(()) if !self.unread => return,
            Ok(()) => format!("the files of incident {id} were read"),
            Err(why) => format!("incident {id} is explained without what its files say: {why}"),
        };
        self.unread = !recovered;
        tracing::warn!("{why}");
        let degraded = proto::Degraded { part: "parse".into(), why, recovered };
        self.log.append(Draft::of(id, Body::Degraded(degraded)));
    }

    /// A look came to its end, with all this evidence.
    fn studied_all(&mut self, id: &str, again: bool, evidence: Vec<proto::Evidence>) {
        if again {
            return self.study(id);
        }
        let asked = self.matters.get_mut(id).map(|matter| std::mem::take(&mut matter.asked));
        for (driver, reply) in asked.unwrap_or_default() {
            let asked =
                Asked { driver, why: "a person asked for it".into(), by: By::Hand, past: None };
            let begun = self.investigate(id, asked, evidence.clone());
            requests::begun(begun, reply);
        }
        // One investigation an incident: a person may ask for more.
        if let Some(incident) = self.incidents.get(id).filter(|it| it.investigations.is_empty())
            && let Some(asked) = self.investigations.chosen(incident, self.incidents.returns(id))
        {
            self.investigate(id, asked, evidence);
        }
    }

    /// Has an incident looked at again, and an investigation begun after that.
    pub fn ask_investigation(&mut self, id: &str, driver: Driver, reply: Reply) {
        match self.matters.get_mut(id) {
            None => {
                reply.refuse(Code::FailedPrecondition, "nothing more is known of this incident");
            }
            Some(matter) => {
                matter.asked.push((driver, reply));
                self.study(id);
            }
        }
    }
}
