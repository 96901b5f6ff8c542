//! What people ask for over the feed: status, actions on incidents, incidents by hand, pause.
//!
//! Who may ask was decided by `feed`; whether it makes sense is decided here. An action is answered
//! when what it did is durable.

use std::{path::Path, sync::atomic::Ordering};

use sensor_proto::internal::v1::{Ask, Incidents, ask, tell::What};
use tonic::Code;

use super::{
    announce::Announced,
    containments::Containment,
    desk::{Desk, Done},
    reactor::Containing,
    vigil::GONE,
};
use crate::{
    clock,
    detect::Finding,
    feed::link::{Question, Reply},
    incident,
    lineage::ProcessKey,
    proto::{self, ActionKind, Incident, Kind, State, Verb},
    record::{Draft, Receipt},
    respond::{Contained, Target},
};

/// A person's action that was carried out, and who waits for the answer.
#[derive(Debug)]
pub struct Acted {
    incident: String,
    verb: Verb,
    by: String,
    why: String,
    outcome: Outcome,
    reply: Reply,
}

/// What a freeze came to.
#[derive(Debug)]
pub struct Froze {
    contained: Contained,
    containment: Option<Containment>,
}

#[derive(Debug)]
enum Outcome {
    Froze(Box<Froze>),
    Did(Vec<proto::Action>),
}

/// Longest reason that is recorded, characters.
const WHY_MAX: usize = 500;

impl Desk {
    pub fn answer(&mut self, question: Question) {
        let Question { ask, reply } = question;
        let by = person(&ask);
        match ask.what {
            Some(ask::What::Status(_)) => reply.send(What::Status(self.status())),
            Some(ask::What::Act(request)) => self.requested(request, by, reply),
            Some(ask::What::Trigger(request)) => self.triggered(request, &by, reply),
            Some(ask::What::SetPaused(request)) => self.set_paused(request, &by, reply),
            Some(ask::What::Incidents(_)) => {
                let incidents = self.incidents.iter().cloned().collect();
                reply.send(What::Incidents(Incidents { incidents }));
            }
            Some(ask::What::Investigate(request)) => self.investigation_asked(&request, reply),
            Some(ask::What::Damage(_)) => self.log.look_for_damage(),
            Some(ask::What::Trees(request)) => self.trees_asked(request, reply),
            Some(ask::What::ReadSource(request)) => {
                self.source_asked(request, ask.run.as_ref(), reply);
            }
            Some(ask::What::Findings(request)) => {
                self.submitted(request, ask.run.as_ref(), &by, reply);
            }
            None => reply.refuse(Code::InvalidArgument, "the request asks for nothing"),
        }
    }

    fn investigation_asked(&mut self, request: &proto::InvestigateRequest, reply: Reply) {
        let incident = match self.unresolved(&request.id) {
            Ok(id) => id,
            Err((code, why)) => return reply.refuse(code, why),
        };
        match self.investigations.named(&request.agent) {
            Ok(driver) => self.ask_investigation(&incident, driver, reply),
            Err(why) => reply.refuse(Code::FailedPrecondition, why),
        }
    }

    /// The unresolved incident whose id begins so.
    pub(super) fn unresolved(&self, id: &str) -> Result<String, (Code, String)> {
        self.incidents.find(id).map_err(|error| {
            let code = match error {
                incident::FindError::Unknown(_) => Code::NotFound,
                incident::FindError::Ambiguous(_) => Code::InvalidArgument,
            };
            (code, error.to_string())
        })
    }

    fn requested(&mut self, request: proto::ActRequest, by: String, reply: Reply) {
        let incident = match self.unresolved(&request.id) {
            Ok(id) => id,
            Err((code, why)) => return reply.refuse(code, why),
        };
        let why = self.reason(&request.why);
        let verb = request.verb();
        let held = self.containments.of(&incident);
        let roots = self.incidents.roots(&incident);
        let leaf = self.matters.get(&incident).and_then(|matter| matter.subject.finding.leaf);
        let begun = match verb {
            Verb::Freeze | Verb::Kill if roots.is_empty() => {
                Err(format!("incident {incident} has no culprit to act on"))
            }
            Verb::Freeze => match &held {
                Some(held) if held.frozen => Err(format!("incident {incident} is frozen already")),
                _ => {
                    let freeze = self.freeze(&incident, roots, leaf, &by, &why);
                    let work: Work = Box::new(move || Outcome::Froze(Box::new(freeze())));
                    Ok(work)
                }
            },
            Verb::Kill => Ok(self.kill(&incident, roots, leaf, &by, &why)),
            Verb::Thaw => match held {
                Some(held) => Ok(self.let_go(held, &by, &why)),
                None => Err(format!("nothing of incident {incident} is frozen")),
            },
            Verb::Resolve => Ok(match held {
                Some(held) => self.let_go(held, &by, &why),
                None => Box::new(|| Outcome::Did(Vec::new())),
            }),
            Verb::Unspecified => {
                return reply.refuse(Code::InvalidArgument, "the request names no action");
            }
        };
        let work = match begun {
            Ok(work) => work,
            Err(why) => return reply.refuse(Code::FailedPrecondition, why),
        };
        self.acting.insert(incident.clone());
        let done = self.done.clone();
        tokio::spawn(async move {
            let finished = match tokio::task::spawn_blocking(work).await {
                Ok(outcome) => {
                    Done::Acted(Box::new(Acted { incident, verb, by, why, outcome, reply }))
                }
                // It panicked; the asker is told that there is no answer when `reply` is dropped.
                Err(_) => Done::Abandoned(incident),
            };
            // The desk is gone only when the daemon ends.
            let _ = done.send(finished);
        });
    }

    /// The work of freezing trees, to be done beside the desk.
    pub(super) fn freeze(
        &self,
        incident: &str,
        roots: Vec<ProcessKey>,
        leaf: Option<ProcessKey>,
        by: &str,
        why: &str,
    ) -> impl FnOnce() -> Froze + Send + use<> {
        let term = self.times.term(self.times.freeze_ns);
        let mark = self.containments.mark_for(incident);
        let target = Target {
            incident: incident.to_owned(),
            mark,
            roots,
            leaf,
            brake_until_ns: term.release_ns,
            by: by.to_owned(),
            why: why.to_owned(),
        };
        let (responder, guardian) = (self.responder.clone(), self.guardian.clone());
        move || {
            let contained = responder.contain(&target, &mut |held| term.arm(&guardian, held));
            let containment = term.entry(&contained, &target.incident, leaf, &guardian);
            Froze { contained, containment }
        }
    }

    /// What a freeze came to is in the book and in the incident.
    pub(super) fn froze(&mut self, incident: &str, froze: Froze) {
        let Froze { contained, containment } = froze;
        let thaw_ns = containment.as_ref().map_or(0, |it| it.term.thaw_ns);
        if let Some(containment) = containment {
            self.containments.settle(containment.held.mark, Some(containment));
        }
        self.contained(incident, contained, thaw_ns, Containing::First);
    }

    fn kill(
        &self,
        incident: &str,
        roots: Vec<ProcessKey>,
        leaf: Option<ProcessKey>,
        by: &str,
        why: &str,
    ) -> Work {
        let target = Target {
            incident: incident.to_owned(),
            mark: self.containments.mark_for(incident),
            roots,
            leaf,
            // Long enough for the killing, which is bounded.
            brake_until_ns: clock::boot_ns() + self.times.brake_extra_ns,
            by: by.to_owned(),
            why: why.to_owned(),
        };
        let responder = self.responder.clone();
        Box::new(move || Outcome::Did(vec![responder.kill(&target)]))
    }

    /// Thaws and takes the brake off: a person wants it to run.
    fn let_go(&self, held: Containment, by: &str, why: &str) -> Work {
        let responder = self.responder.clone();
        let (by, why) = (by.to_owned(), why.to_owned());
        Box::new(move || {
            let mut actions = Vec::new();
            if held.frozen {
                actions.push(responder.thaw(&held.held, &by, &why));
            }
            actions.push(responder.release(&held.held, &by, &why));
            Outcome::Did(actions)
        })
    }

    pub fn acted(&mut self, acted: Acted) {
        let Acted { incident, verb, by, why, outcome, reply } = acted;
        self.acting.remove(&incident);
        let mut last = None;
        match outcome {
            Outcome::Froze(froze) => {
                last = froze.contained.actions.last().cloned();
                self.froze(&incident, *froze);
            }
            Outcome::Did(actions) => {
                for action in actions {
                    last = Some(action.clone());
                    self.act(&incident, action);
                }
            }
        }
        let announced = match verb {
            Verb::Thaw => {
                self.guardian.disarm(&incident);
                self.containments.take(&incident);
                self.containments.let_run(&incident);
                self.change(&incident, |incident| {
                    incident.set_state(State::Open);
                    incident.thaw_due_ns = 0;
                    format!("{by} let it run again")
                })
            }
            Verb::Kill => {
                let kind = self.incidents.get(&incident).map(Incident::kind).unwrap_or_default();
                let killed = last.as_ref().is_some_and(|it| it.kind() == ActionKind::Kill);
                match end(kind, killed, self.is_gone(&incident), &by) {
                    Some(why) => self.resolve(&incident, &why),
                    None => self.change(&incident, |_| format!("{by} tried to kill it")),
                }
            }
            Verb::Resolve => {
                let resolved = deed(ActionKind::Resolve, &by, &why, "resolved");
                self.act(&incident, resolved.clone());
                last = Some(resolved);
                self.resolve(&incident, &format!("{by}: {why}"))
            }
            Verb::Freeze | Verb::Unspecified => self.change(&incident, |_| format!("{by}: {why}")),
        };
        when_durable(announced, reply, move |incident| {
            What::Act(proto::ActResponse { action: last, incident })
        });
    }

    fn triggered(&mut self, request: proto::TriggerRequest, by: &str, reply: Reply) {
        let ancestry = match request.pid {
            0 => Vec::new(),
            pid => match self.lineage.living(pid) {
                Some(node) => self.lineage.ancestry(node.key),
                None => {
                    return reply.refuse(Code::NotFound, unknown(pid));
                }
            },
        };
        let culprit = ancestry.first().map(|node| node.key);
        let finding = Finding {
            kind: Kind::Manual,
            rule: "manual",
            culprit,
            group: None,
            leaf: None,
            contain: false,
            confidence: 1.0,
            at_ns: clock::boot_ns(),
            measures: Vec::new(),
        };
        let why = self.reason(&request.why);
        let report = deed(ActionKind::Report, by, &why, "reported by hand");
        let announced = self.opened_by_hand(finding, &ancestry, report);
        when_durable(Some(announced), reply, |incident| {
            What::Trigger(proto::TriggerResponse { incident })
        });
    }

    /// Why a person did something, as it is recorded: it may quote a secret.
    fn reason(&self, why: &str) -> String {
        let why: String = why.chars().take(WHY_MAX).collect();
        if why.trim().is_empty() {
            return "no reason given".into();
        }
        self.gatherer.redactor().line(&why)
    }

    fn set_paused(&mut self, request: proto::SetPausedRequest, by: &str, reply: Reply) {
        self.paused.store(request.paused, Ordering::Relaxed);
        let kind = if request.paused { ActionKind::Pause } else { ActionKind::Resume };
        let result =
            if request.paused { "no automatic action" } else { "automatic action as configured" };
        let switched = deed(kind, by, &self.reason(&request.why), result);
        self.log.append(Draft::of("", proto::record::Body::Action(switched)));
        let receipt = self.log.set_paused(request.paused);
        tokio::spawn(async move {
            let what = What::SetPaused(proto::SetPausedResponse { paused: request.paused });
            send_durable(receipt, reply, what).await;
        });
    }
}

/// Answers who waits for an investigation; `None`: it could not be begun.
pub fn begun(begun: Option<(Announced, proto::Investigation)>, reply: Reply) {
    let Some((announced, investigation)) = begun else {
        return reply.refuse(Code::FailedPrecondition, "the incident was resolved meanwhile");
    };
    when_durable(Some(announced), reply, move |_| {
        What::Investigate(proto::InvestigateResponse { investigation: Some(investigation) })
    });
}

type Work = Box<dyn FnOnce() -> Outcome + Send>;

/// Answers once what was announced is on disk; `None`: the incident was resolved meanwhile.
pub(super) fn when_durable(
    announced: Option<Announced>,
    reply: Reply,
    what: impl FnOnce(Option<Incident>) -> What + Send + 'static,
) {
    let Some(Announced { incident, receipt }) = announced else { return reply.send(what(None)) };
    tokio::spawn(async move { send_durable(receipt, reply, what(Some(incident))).await });
}

/// When the log fails the answer says so: it was done, but whether its record survives is not known.
pub(super) async fn send_durable(receipt: Receipt, reply: Reply, what: What) {
    match receipt.await {
        Ok(_) => reply.send(what),
        Err(error) => {
            reply.refuse(Code::DataLoss, format!("it was done, but not recorded yet: {error}"));
        }
    }
}

/// Why an incident is over after somebody wanted its tree killed; `None`: it goes on. `killed`: it was not refused.
/// An OOM kill is not over because its culprit, who may be the victim, is gone.
fn end(kind: Kind, killed: bool, gone: bool, by: &str) -> Option<String> {
    match (gone, killed) {
        (true, true) => Some(format!("{by} killed it")),
        (true, false) if !incident::is_oom(kind) => Some(GONE.to_owned()),
        _ => None,
    }
}

/// Who asks, as it is recorded.
fn person(ask: &Ask) -> String {
    if let Some(run) = &ask.run {
        return format!("investigation {}", run.investigation);
    }
    // All of them: any may be the one that is allowed to.
    if !ask.names.is_empty() {
        return format!("{} (by its certificate)", ask.names.join(", "));
    }
    let uid = nix::unistd::Uid::from_raw(ask.uid);
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => format!("user {} (uid {uid})", user.name),
        _ => format!("uid {uid}"),
    }
}

/// What a person did that stops or starts no process.
fn deed(kind: ActionKind, by: &str, why: &str, result: &str) -> proto::Action {
    let now = clock::boot_ns();
    proto::Action {
        kind: kind.into(),
        at: Some(clock::wall()),
        by: by.to_owned(),
        why: why.to_owned(),
        result: result.to_owned(),
        started_ns: now,
        ended_ns: now,
        processes: 0,
        ok: true,
        braked: None,
    }
}

/// Why nothing is known of a process.
fn unknown(pid: u32) -> String {
    if Path::new("/proc").join(pid.to_string()).exists() {
        format!(
            "process {pid} is in no tree that is watched: it is a thread, the kernel's own, or not known yet"
        )
    } else {
        format!("there is no process {pid}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_was_refused_ends_no_oom_kill_and_killed_nobody() {
        let end = |kind, killed, gone| end(kind, killed, gone, "user ann (uid 7)");
        for kind in [Kind::OomKill, Kind::OomLoop] {
            assert_eq!(end(kind, false, true), None);
        }
        let told = Some("the culprit and its tree are gone".to_owned());
        assert_eq!(end(Kind::ForkStorm, false, true), told);
        for kind in [Kind::OomKill, Kind::ForkStorm] {
            assert_eq!(end(kind, true, true), Some("user ann (uid 7) killed it".into()));
            assert_eq!(end(kind, true, false), None, "some of it lives");
            assert_eq!(end(kind, false, false), None, "protected");
        }
    }
}
