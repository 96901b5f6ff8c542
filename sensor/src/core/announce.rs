//! What happens to an incident is recorded as it happens: its transitions, the actions on it, and its end.

use sensor_proto::json;

use super::{containments::POLICY, desk::Desk};
use crate::{
    clock,
    incident::Change,
    proto::{self, ActionKind, Incident, State, evidence::Content, record::Body},
    record::{Draft, Receipt},
};

/// An incident as it was just recorded, and the promise that the record becomes durable.
pub struct Announced {
    pub incident: Incident,
    pub receipt: Receipt,
}

impl Desk {
    /// Changes an incident and records the change. `None`: there is no such unresolved incident.
    pub fn change(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Incident) -> String,
    ) -> Option<Announced> {
        let change = self.incidents.change(id, clock::wall(), change)?;
        Some(self.announce(change))
    }

    /// The same of what is known of its investigations: it may be resolved while one goes on.
    pub fn amend(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Incident) -> String,
    ) -> Option<Announced> {
        let change = self.incidents.amend(id, clock::wall(), change)?;
        Some(self.announce(change))
    }

    pub fn announce(&mut self, change: Change) -> Announced {
        let (incident, opened) = (change.incident.clone(), change.opened);
        // Of one that was over already it is known what was before.
        let goes_on = change.from != State::Resolved;
        let state = json::state::word(incident.state);
        tracing::info!(
            "incident {} is {state}: {} ({})",
            incident.id,
            incident.summary,
            change.why
        );
        let receipt = self.log.append_durable(Draft::of(
            incident.id.clone(),
            Body::Transition(proto::Transition {
                from: change.from.into(),
                to: incident.state,
                why: change.why,
                incident: Some(change.incident),
            }),
        ));
        if goes_on {
            self.attach_vitals(&incident, opened);
        }
        Announced { incident, receipt }
    }

    /// Puts what the flight recorder has into an incident's evidence: what was before it as it opens,
    /// and what was since then as it ends.
    fn attach_vitals(&self, incident: &Incident, opened: bool) {
        let Some(recorder) = &self.recorder else { return };
        let (id, record) = if opened {
            ("v1", recorder.record())
        } else if incident.state() == State::Resolved && incident.boot_id == self.host.boot_id {
            ("v2", recorder.since(incident.opened_ns))
        } else {
            return;
        };
        self.log.append(Draft::of(
            incident.id.clone(),
            Body::Evidence(proto::Evidence {
                id: id.into(),
                name: "vitals".into(),
                source: "/proc/pressure, /proc/meminfo, /proc/loadavg, lineage".into(),
                at: Some(clock::wall()),
                truncated: false,
                redactions: 0,
                content: Some(Content::Vitals(record)),
            }),
        ));
    }

    /// Records an action and puts it into its incident.
    pub fn act(&mut self, id: &str, mut action: proto::Action) {
        // It may name a cgroup.
        action.result = self.gatherer.redactor().line(&action.result);
        self.log.append_durable(Draft::of(id, Body::Action(action.clone())));
        // The next transition carries it.
        self.incidents.change(id, clock::wall(), |incident| {
            incident.actions.push(action);
            String::new()
        });
    }

    pub fn resolve(&mut self, id: &str, why: &str) -> Option<Announced> {
        // A group stays frozen when its last member is gone, and would hold whoever comes next.
        if let Some(held) = self.containments.take(id)
            && held.held.cgroup.is_some()
        {
            let action = self.responder.release(&held.held, POLICY, "its incident is over");
            self.act(id, action);
        }
        let change = self.incidents.resolve(id, clock::boot_ns(), clock::wall(), why)?;
        self.guardian.disarm(id);
        self.containments.forget(id);
        self.matters.remove(id);
        self.sources.remove(id);
        if let Some(looping) = self.loops.get_mut(id) {
            looping.close();
        }
        self.shortages.close(id);
        Some(self.announce(change))
    }
}

/// What is recorded instead of an action that was not taken.
pub fn refusal(why: String) -> proto::Action {
    let now = clock::boot_ns();
    proto::Action {
        kind: ActionKind::Refuse.into(),
        at: Some(clock::wall()),
        by: POLICY.into(),
        why,
        result: "nothing was done".into(),
        started_ns: now,
        ended_ns: now,
        processes: 0,
        ok: true,
        braked: None,
    }
}
