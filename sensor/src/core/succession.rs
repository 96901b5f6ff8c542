//! What an earlier run left behind: incidents in the log that are not settled, and perhaps a guardian that
//! still watches over what is frozen.

use std::path::Path;

use super::{
    containments::{Containment, GUARDIAN, POLICY},
    desk::Desk,
    growth,
    respawn::Looping,
    term::Term,
};
use crate::{
    clock,
    evidence::EvidenceLog,
    incident::{self, Incidents},
    proto::{ActionKind, Incident, Kind, State},
    record::{Opened, Reader},
    respond::{Held, Marks as _, guardian::Predecessor},
};

/// What is taken over.
pub struct Legacy<'a> {
    pub opened: Opened,
    /// Where the log is.
    pub state_dir: &'a Path,
    /// The guardian of a core that was killed.
    pub predecessor: Option<Predecessor>,
}

impl Desk {
    /// Takes it over: the new guardian is armed before the old one leaves, the new marks are set
    /// before the old programs go with it.
    pub fn succeed(&mut self, legacy: Legacy<'_>) {
        let Legacy { opened, state_dir, predecessor } = legacy;
        let elsewhen = |incident: &&Incident| incident.boot_id != self.host.boot_id;
        let elsewhen = opened.unsettled.iter().filter(elsewhen);
        let elsewhen: Vec<String> = elsewhen.map(|incident| incident.id.clone()).collect();
        self.incidents = Incidents::restore(opened.unsettled);
        // Before any is resolved: what looks into an incident may outlast it.
        self.find_cut_off();
        for id in elsewhen {
            self.resolve(&id, "the host was restarted");
        }
        if let Some(predecessor) = predecessor {
            for arm in predecessor.armed() {
                if let Some(held) = Held::of(arm) {
                    let (thaw_ns, release_ns) = (arm.thaw_ns, arm.release_ns);
                    let freeze_ns = self.times.freeze_ns;
                    self.adopt(held, Term { freeze_ns, thaw_ns, release_ns });
                }
            }
            if let Err(error) = predecessor.dismiss() {
                tracing::warn!("{error}");
            }
        }
        self.forget_shortages();
        self.recall_kills(state_dir);
        self.recall_spending(state_dir);
        self.recall_evidence(state_dir);
        let ids: Vec<String> = self.incidents.iter().map(|incident| incident.id.clone()).collect();
        for id in ids {
            self.take_up(&id);
        }
    }

    /// How many ids the evidence of what is not resolved has used: the next one goes on from there.
    fn recall_evidence(&mut self, state_dir: &Path) {
        let given = Reader::open(state_dir).and_then(|log| {
            let ids = self.incidents.iter().map(|incident| incident.id.clone());
            ids.map(|id| EvidenceLog::given_in(&log, &id).map(|given| (id, given))).collect()
        });
        match given {
            Ok(given) => self.given = given,
            Err(error) => tracing::warn!("evidence is numbered from 1 again: {error}"),
        }
    }

    fn adopt(&mut self, held: Held, term: Term) {
        let now = clock::boot_ns();
        let containment = self.containments.adopt(Containment {
            held,
            leaf: None,
            frozen: term.thaw_ns > now,
            term,
        });
        let held = &containment.held;
        // A root may be gone; those that live are marked one by one.
        let _ = self.reins.engage(&held.roots, held.mark, term.release_ns);
        for key in &held.processes {
            // Gone meanwhile: there is nothing to brake.
            let _ = self.lineage.mark(*key, held.mark, term.release_ns);
        }
        term.arm(&self.guardian, held);
    }

    /// An incident of an earlier run, as it stands now.
    fn take_up(&mut self, id: &str) {
        let of_loop = |incident: &Incident| incident.kind() == Kind::CrashLoop;
        let of_growth = |incident: &Incident| incident.kind() == Kind::MemoryGrowth;
        if self.incidents.get(id).is_some_and(|incident| incident::is_oom(incident.kind())) {
            self.take_up_oom(id);
        } else if self.incidents.get(id).is_some_and(of_loop) {
            self.loops.insert(id.to_owned(), Looping::unseen(clock::boot_ns()));
        } else if self.incidents.get(id).is_some_and(of_growth) {
            self.unseen.insert(id.to_owned(), clock::boot_ns() + growth::UNSEEN_NS);
        } else {
            self.containments.know(&self.incidents.roots(id), id);
        }
        let frozen = self.containments.of(id).is_some_and(|it| it.frozen);
        if self.incidents.get(id).is_some_and(was_let_run) {
            self.containments.let_run(id);
        }
        self.change(id, |incident| {
            if frozen || incident.state() != State::Contained {
                return "the daemon is back".to_owned();
            }
            incident.set_state(State::Open);
            incident.thaw_due_ns = 0;
            "the daemon is back; the guardian had let it run again".to_owned()
        });
    }

    /// Before a good end: nothing is left frozen that nobody watches. The guardian stays with what
    /// is, and thaws it in time.
    pub fn leave(&mut self) {
        for containment in self.containments.all() {
            if containment.frozen {
                tracing::info!(
                    "incident {} stays frozen; the guardian thaws it in time",
                    containment.held.incident
                );
            }
        }
        self.investigations.end();
    }
}

/// Whether a person had let it run, and nobody has stopped it since then: no automatic action follows
/// that.
fn was_let_run(incident: &Incident) -> bool {
    let since = incident.actions.iter().rev().filter(|action| action.ok);
    since.take_while(|action| action.kind() != ActionKind::Freeze).any(|action| {
        matches!(action.kind(), ActionKind::Thaw | ActionKind::Release)
            && action.by != POLICY
            && action.by != GUARDIAN
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Action;

    #[test]
    fn what_a_person_let_run_stays_so() {
        let incident = |actions: &[(ActionKind, &str, bool)]| Incident {
            actions: actions
                .iter()
                .map(|&(kind, by, ok)| Action {
                    kind: kind as i32,
                    by: by.into(),
                    ok,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let person = "user ada (uid 1000)";
        let (freeze, thaw, release) = (ActionKind::Freeze, ActionKind::Thaw, ActionKind::Release);
        let frozen = (freeze, POLICY, true);
        assert!(!was_let_run(&incident(&[])));
        assert!(!was_let_run(&incident(&[frozen])));
        assert!(!was_let_run(&incident(&[frozen, (thaw, GUARDIAN, true)])));
        assert!(!was_let_run(&incident(&[frozen, (thaw, person, false)])), "it still stands");
        let released = (release, person, true);
        assert!(was_let_run(&incident(&[frozen, released])));
        assert!(was_let_run(&incident(&[frozen, released, (release, POLICY, true)])));
        assert!(!was_let_run(&incident(&[frozen, released, (freeze, person, true)])));
        assert!(!was_let_run(&incident(&[frozen, (release, GUARDIAN, true)])));
    }
}
