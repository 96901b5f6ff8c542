//! Growth of memory: from a sample to an incident, and to its end.

use std::{path::Path, sync::Arc};

use super::{
    desk::{Desk, Matter},
    reactor::{Notice, Reactor},
};
use crate::{
    clock,
    detect::{
        Finding,
        memory::{Limits, Over, Told, Watch},
    },
    incident,
    kernel::Detail,
    lineage::{Node, ProcessKey},
    proto::{Kind, MemorySample, State},
};

/// An incident of an earlier run of which this one has not seen any growth for so long is over, ns: the rings of
/// 80 minutes and of 8 hours would have told of it.
const UNSEEN_NS: u64 = 9 * 3600 * 1_000_000_000;

/// Growth was found.
#[derive(Debug)]
pub struct Grown {
    pub finding: Finding,
    /// The culprit's, itself first; empty where there is none.
    pub ancestry: Vec<Node>,
}

/// Follows the samples, on the thread that takes them.
pub struct Growth {
    watch: Watch,
    reactor: Arc<Reactor>,
}

impl Growth {
    pub fn new(limits: Limits, reactor: Arc<Reactor>) -> Self {
        Self { watch: Watch::new(limits), reactor }
    }

    pub fn see(&mut self, sample: &MemorySample) {
        for told in self.watch.see(sample) {
            match told {
                Told::Found(finding) if self.is_in_scope(&finding) => {
                    let culprit = finding.culprit;
                    let ancestry = culprit.map(|key| self.reactor.lineage.ancestry(key));
                    self.reactor.tell(Notice::Grown(Box::new(Grown {
                        finding: *finding,
                        ancestry: ancestry.unwrap_or_default(),
                    })));
                }
                Told::Found(_) => {}
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
        let Grown { finding, ancestry } = grown;
        let mut scene = self.scene(finding.culprit, finding.at_ns, &ancestry);
        if let Some(group) = &finding.group {
            scene.identity = super::desk::identity_of(group, scene.identity);
        }
        // What multiplies grows, too: that is one cause.
        let id = self.multiplying(&ancestry).unwrap_or_else(incident::new_id);
        let change = self.incidents.report(&finding, scene, id);
        let (id, opened) = (change.incident.id.clone(), change.opened);
        let is_growth = change.incident.kind() == Kind::MemoryGrowth;
        self.unseen.remove(&id);
        self.announce(change);
        if !is_growth {
            return;
        }
        let matter =
            self.matters.entry(id.clone()).or_insert_with(|| Matter::new(&id, finding.clone()));
        if !opened {
            // More urgent than what was told before.
            matter.subject.finding = finding;
        }
        self.study(&id);
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

    /// A growth is over. What stands because somebody froze it is not.
    pub fn shrunk(&mut self, over: &Over) {
        let theirs = |roots: &[ProcessKey]| match over.culprit {
            Some(culprit) => roots.contains(&culprit),
            None => roots.is_empty(),
        };
        let ended: Vec<String> = self
            .incidents
            .iter()
            .filter(|incident| incident.kind() == Kind::MemoryGrowth)
            .filter(|incident| incident.state() != State::Contained)
            .filter(|incident| !self.acting.contains(&incident.id))
            .filter(|incident| theirs(&self.incidents.roots(&incident.id)))
            .map(|incident| incident.id.clone())
            .collect();
        for id in ended {
            self.resolve(&id, &over.why);
        }
    }

    /// Incidents of an earlier run that this one knows nothing of.
    pub fn resolve_unseen_growth(&mut self) {
        let now_ns = clock::boot_ns();
        let incidents = &self.incidents;
        let stands = |id: &str| incidents.get(id).is_some_and(|it| it.state() == State::Contained);
        let mut ended = Vec::new();
        self.unseen.retain(|id, since_ns| {
            let over = now_ns.saturating_sub(*since_ns) >= UNSEEN_NS && !stands(id);
            if over {
                ended.push(id.clone());
            }
            !over
        });
        for id in ended {
            self.resolve(&id, "it was not seen to grow since the sensor was started again");
        }
    }
}
