//! A hold: a tree may not fork for the moment in which it is judged. Nobody in it notices, and it ends
//! by itself.

use std::collections::{HashMap, HashSet};

use super::{Doing, Held, Responder, Target, View, Views, count, freeze, targets};
use crate::{
    lineage::{Forest, Node, ProcessKey},
    proto::{self, ActionKind},
};

impl Responder {
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
            self.release(&held, &target.by, "the brake did not take hold");
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
            let mut look = || matches!(self.view(forest, node.key, &mut views), View::Open(_));
            self.protection.of_place(node.key, None).is_none()
                && match forest.program(node.key) {
                    Some(program) => *open.entry((program, node.cgroup)).or_insert_with(look),
                    None => look(),
                }
        };
        let living = nodes.into_iter().filter(|node| node.alive);
        living.filter(|node| !may(node)).map(|node| node.key).collect()
    }
}
