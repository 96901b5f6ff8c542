//! Growth of memory: from a sample to an incident, and to its end. What an earlier run of the daemon saw of the
//! same boot is read from the log once, before the first sample.

mod before;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

pub use self::before::Before;
use super::{
    containments::POLICY,
    desk::{Desk, Done, identity_of},
    matter::Matter,
    reactor::{Notice, Reactor},
    requests::Froze,
};
use crate::{
    clock,
    detect::{
        Finding,
        memory::{Limits, Over, Told, Watch, Whose},
    },
    incident,
    kernel::Detail,
    lineage::{Node, ProcessKey},
    proto::{Kind, MemorySample, State},
    respond::policy::Decision,
};

/// An incident of an earlier run of which this one has not seen any growth for so long is over, ns: the rings of
/// 80 minutes and of 8 hours would have told of it.
pub const UNSEEN_NS: u64 = 9 * 3600 * 1_000_000_000;

/// Why it is over then.
pub const UNSEEN: &str = "it was not seen to grow any more";

/// One that was frozen has so long to grow on once it runs again, ns: the rule of minutes takes a growth for over after
/// as long.
const THAWED_NS: u64 = 20 * 60 * 1_000_000_000;

/// Growth was found, and what is to be done about it was decided.
#[derive(Debug)]
pub struct Grown {
    pub finding: Finding,
    /// Whose growth it is part of.
    pub whose: Whose,
    pub decision: Decision,
    /// The culprit's, itself first; empty where there is none.
    pub ancestry: Vec<Node>,
}

/// What became of an incident's tree that policy had stopped.
#[derive(Debug)]
pub struct Stopped {
    incident: String,
    froze: Froze,
}

/// Follows the samples, on the thread that takes them.
pub struct Growth {
    watch: Watch,
    reactor: Arc<Reactor>,
    /// What the log has; taken with the first sample.
    before: Option<Before>,
}

impl Growth {
    pub fn new(limits: Limits, reactor: Arc<Reactor>, before: Before) -> Self {
        Self { watch: Watch::new(limits), reactor, before: Some(before) }
    }

    pub fn see(&mut self, sample: &MemorySample) {
        if let Some(before) = self.before.take() {
            // What there was to be told was told.
            let seen = before.each(sample.at_ns, |sample| drop(self.watch.see(&sample)));
            match seen {
                Ok(seen) => tracing::debug!("{seen} earlier samples of memory are followed"),
                Err(error) => tracing::warn!("earlier growth of memory is not known: {error}"),
            }
        }
        for told in self.watch.see(sample) {
            match told {
                Told::Found(finding, whose) if self.is_in_scope(&finding) => {
                    let culprit = finding.culprit;
                    let ancestry = culprit.map(|key| self.reactor.lineage.ancestry(key));
                    let paused = self.reactor.paused.load(Ordering::Relaxed);
                    let policy = &self.reactor.policy;
                    self.reactor.tell(Notice::Grown(Box::new(Grown {
                        decision: policy.decide(finding.rule, finding.contain, paused),
                        finding: *finding,
                        whose,
                        ancestry: ancestry.unwrap_or_default(),
                    })));
                }
                Told::Found(..) => {}
                Told::Over(over) => self.reactor.tell(Notice::Shrunk(over)),
            }
        }
    }

    /// Of a dead culprit the living of its tree say where it is; the host is in scope only as a whole.
    fn is_in_scope(&self, finding: &Finding) -> bool {
        if self.reactor.responder.in_scope(Path::new("/")) {
            return true;
        }
        let roots = finding.roots();
        roots.iter().any(|root| self.reactor.in_scope(root.tgid)) || {
            let forest = self.reactor.lineage.forest(Detail::Links);
            let lives = |root: &ProcessKey| {
                let tree = forest.tree(*root).into_iter().find(|(node, _)| node.alive);
                tree.is_some_and(|(node, _)| self.reactor.in_scope(node.key.tgid))
            };
            roots.iter().any(lives)
        }
    }
}

impl Desk {
    pub fn grown(&mut self, grown: Grown) {
        let Grown { finding, whose, decision, ancestry } = grown;
        let mut scene = self.scene(finding.culprit, finding.at_ns, &ancestry);
        if let Some(group) = &finding.group {
            scene.identity = identity_of(group, scene.identity);
        }
        // What multiplies grows, too: that is one cause.
        let id = self.multiplying(&ancestry).unwrap_or_else(incident::new_id);
        let change = self.incidents.report(&finding, scene, id);
        let (id, opened) = (change.incident.id.clone(), change.opened);
        let is_growth = change.incident.kind() == Kind::MemoryGrowth;
        self.unseen.remove(&id);
        self.incidents.grows(&id, whose);
        self.announce(change);
        if !is_growth {
            return;
        }
        let matter =
            self.matters.entry(id.clone()).or_insert_with(|| Matter::new(&id, finding.clone()));
        if !opened {
            // More urgent than what was told before.
            matter.subject.finding = finding.clone();
        }
        if matches!(decision, Decision::Contain { .. }) {
            self.stop(&id, finding.roots(), &format!("{} was crossed", finding.rule));
        } else {
            self.tell_why_not(&id, &decision, finding.contain);
        }
        self.study(&id);
    }

    /// Freezes whoever grows, as a person could: not all that an incident is about. What stands already stays as it is,
    /// and whom a person let run runs.
    fn stop(&mut self, id: &str, roots: Vec<ProcessKey>, why: &str) {
        let containments = &self.containments;
        let settled = containments.is_let_run(id)
            || containments.is_busy(id)
            || containments.of(id).is_some_and(|it| it.frozen)
            || self.acting.contains(id);
        if settled || roots.is_empty() {
            return;
        }
        let (work, done) = (self.freeze(id, roots, None, POLICY, why), self.done.clone());
        let incident = id.to_owned();
        self.acting.insert(incident.clone());
        tokio::spawn(async move {
            let finished = match tokio::task::spawn_blocking(work).await {
                Ok(froze) => Done::Stopped(Box::new(Stopped { incident, froze })),
                Err(_) => Done::Abandoned(incident),
            };
            // The desk is gone only when the daemon ends.
            let _ = done.send(finished);
        });
    }

    pub fn stopped(&mut self, stopped: Stopped) {
        self.acting.remove(&stopped.incident);
        self.froze(&stopped.incident, stopped.froze);
    }

    /// The unresolved incident of processes that multiply which somebody in this line belongs to.
    fn multiplying(&self, ancestry: &[Node]) -> Option<String> {
        self.incidents
            .iter()
            .filter(|incident| matches!(incident.kind(), Kind::Recursion | Kind::ForkStorm))
            .find(|incident| {
                let roots = self.incidents.roots(&incident.id);
                ancestry.iter().any(|node| roots.contains(&node.key))
            })
            .map(|incident| incident.id.clone())
    }

    /// A growth is over. Of what stands because somebody froze it that is not known: it is looked at again once it runs.
    pub fn shrunk(&mut self, over: &Over) {
        for (id, state) in self.incidents.shrinks(over.culprit) {
            if state == State::Contained || self.acting.contains(&id) {
                self.unseen.insert(id, clock::boot_ns() + THAWED_NS);
            } else {
                self.resolve(&id, &over.why);
            }
        }
    }

    /// Incidents that nobody has seen grow since an earlier run, or since they were frozen.
    pub fn resolve_unseen_growth(&mut self) {
        let now_ns = clock::boot_ns();
        let incidents = &self.incidents;
        let stands = |id: &str| incidents.get(id).is_some_and(|it| it.state() == State::Contained);
        let mut ended = Vec::new();
        self.unseen.retain(|id, until_ns| {
            if stands(id) {
                *until_ns = (*until_ns).max(now_ns + THAWED_NS);
            }
            let over = now_ns >= *until_ns;
            if over {
                ended.push(id.clone());
            }
            !over
        });
        for id in ended {
            self.resolve(&id, UNSEEN);
        }
    }
}
