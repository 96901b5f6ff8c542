//! A hold: a tree may not fork for the moment in which it is judged, or in which each of its processes is
//! looked at. Nobody in it notices, and it ends by itself.

use std::collections::{HashMap, HashSet};

use super::{
    Doing, Held, Responder, Target, View, Views, brake::unmark_all, count, freeze, targets,
};
use crate::{
    clock,
    lineage::{Forest, Node, ProcessKey},
    proto::{self, ActionKind},
};

/// A tree that is held goes on after this by itself: to look at all of it takes a tenth.
pub const LONGEST_NS: u64 = 2_000_000_000;

impl Responder {
    /// Holds a tree that is about to be contained. `None`: it is held already, or may not be held as a
    /// whole, or cannot be.
    pub(super) fn hold_first(
        &self,
        target: &Target,
        forest: &Forest,
        armed: &mut dyn FnMut(&Held),
    ) -> Option<(Held, proto::Action)> {
        // A brake that is on has its own expiry, and somebody else counts what it does.
        if forest.nodes().any(|node| node.mark == target.mark) {
            return None;
        }
        let until_ns = target.brake_until_ns.min(clock::boot_ns() + LONGEST_NS);
        self.hold(&Target { brake_until_ns: until_ns, ..target.clone() }, forest, armed)
    }

    /// Ends a hold of which no containment came. Only who carries its mark runs again: whoever stands for
    /// another reason was not stopped by it.
    pub fn let_go(&self, held: &Held, by: &str, why: &str) -> proto::Action {
        let doing = Doing::now(ActionKind::Release, by, why);
        let carriers = unmark_all(self.marks.as_ref(), held.mark);
        let freed = carriers.len() as u32;
        let braked = Some(self.braked(held.mark));
        let woken = self.wake(carriers.clone());
        self.wake_late(held.mark, carriers);
        let result = format!("{} may fork again, {woken} run", count(freed));
        proto::Action { braked, ..doing.done(true, woken, result) }
    }

    /// Holds the target's tree, if nothing in it is protected or out of the scope; what was done.
    ///
    /// To look at every process takes as long as a storm may
    /// have left, so one is looked at of those who run the same program in the same group, by what the
    /// kernel saw when they forked or executed it. `armed` is called before anything is held.
    pub fn hold(
        &self,
        target: &Target,
        forest: &Forest,
        armed: &mut dyn FnMut(&Held),
    ) -> Option<(Held, proto::Action)> {
        let trees = target.roots.iter().flat_map(|root| forest.tree(*root));
        if !self.barred(forest, trees.map(|(node, _)| node)).is_empty() {
            return None;
        }
        let held = Held {
            incident: target.incident.clone(),
            mark: target.mark,
            roots: target.roots.clone(),
            cgroup: None,
            processes: targets(forest, &target.roots, target.mark),
        };
        armed(&held);
        let holding = Doing::now(ActionKind::Brake, &target.by, &target.why);
        if let Err(error) = self.marks.engage(&target.roots, target.mark, target.brake_until_ns) {
            tracing::warn!("nothing is held: {error}");
            // The mark may hold by itself, and may have stopped somebody.
            self.wake(unmark_all(self.marks.as_ref(), target.mark));
            return None;
        }
        let processes = held.processes.len() as u32;
        let result = format!("{} may not fork for the moment", count(processes));
        Some((held, holding.done(true, processes, result)))
    }

    /// What was done under a mark.
    pub fn braked(&self, mark: u32) -> proto::Braked {
        freeze::braked(&self.marks.tally(mark))
    }

    /// Those of the living among these that nobody may stop: protected, or out of the scope. One is looked
    /// at of those who run the same program in the same group; a containment looks at each once more.
    pub fn barred<'f>(
        &self,
        forest: &Forest,
        nodes: impl IntoIterator<Item = &'f Node>,
    ) -> HashSet<ProcessKey> {
        let mut views = Views::default();
        let mut open: HashMap<(u64, u64), bool> = HashMap::new();
        let mut may = |node: &Node| {
            if self.protection.of_place(node.key, None).is_some() {
                return false;
            }
            let kind = forest.program(node.key).map(|program| (program, node.cgroup));
            if let Some(known) = kind.and_then(|kind| open.get(&kind)) {
                return *known;
            }
            let is_open = matches!(self.view(forest, node.key, &mut views), View::Open(_));
            // What was seen of one that is gone says nothing about the others.
            if let Some(kind) = kind
                && self.marks.lives(node.key)
            {
                open.insert(kind, is_open);
            }
            is_open
        };
        let living = nodes.into_iter().filter(|node| node.alive);
        living.filter(|node| !may(node)).map(|node| node.key).collect()
    }
}
