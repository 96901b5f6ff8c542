//! A hold: a tree may not fork for the moment in which it is judged. Nobody in it notices, and it ends
//! by itself.

use std::collections::HashMap;

use super::{Doing, Held, Responder, Target, View, Views, count, freeze, targets};
use crate::{
    lineage::{Forest, ProcessKey},
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
        if !self.may_hold(target.root, forest) {
            return None;
        }
        let held = Held {
            incident: target.incident.clone(),
            mark: target.mark,
            root: target.root,
            cgroup: None,
            processes: targets(forest, target.root, target.mark),
        };
        armed(&held);
        let holding = Doing::now(ActionKind::Brake, &target.by, &target.why);
        if let Err(error) = self.marks.engage(target.root, target.mark, target.brake_until_ns) {
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

    fn may_hold(&self, root: ProcessKey, forest: &Forest) -> bool {
        let mut views = Views::default();
        let mut open: HashMap<(u64, u64), bool> = HashMap::new();
        forest.tree(root).into_iter().filter(|(node, _)| node.alive).all(|(node, _)| {
            let mut look = || matches!(self.view(forest, node.key, &mut views), View::Open(_));
            self.protection.of_place(node.key, None).is_none()
                && match forest.program(node.key) {
                    Some(program) => *open.entry((program, node.cgroup)).or_insert_with(look),
                    None => look(),
                }
        })
    }
}
