//! One cause that was found twice. A storm may be blamed on a process of its own first, because that had
//! its turn, and a moment later on one further up, whose tree is all of it. Each is contained at once, for
//! nobody waits to see whether more comes. When the wider one stands, it takes over what the other held,
//! and that incident is over.

use super::{
    containments::{Containments, POLICY},
    desk::Desk,
};
use crate::{
    kernel::Detail,
    lineage::{Forest, ProcessKey},
    proto::{ActionKind, Incident},
    respond::Held,
};

impl Desk {
    /// `wider` has just been contained as `held`: incidents of the same kind within it are part of it.
    pub fn absorb(&mut self, wider: &str, held: &Held) {
        let Some(kind) = self.incidents.get(wider).map(Incident::kind) else { return };
        let forest = self.lineage.forest(Detail::Links);
        let parts: Vec<String> = self
            .incidents
            .iter()
            .filter(|one| one.id != wider && one.kind() == kind && is_automatic(one))
            .filter(|one| !self.acting.contains(&one.id))
            .filter(|one| is_below(&forest, &self.incidents.roots(&one.id), &held.roots))
            .filter(|one| is_covered(&self.containments, &forest, &one.id, held))
            .map(|one| one.id.clone())
            .collect();
        for part in parts {
            // Whoever it held carries the other's mark by now, and stands by its signals or its freezer.
            if let Some(narrow) = self.containments.take(&part) {
                self.responder.hand_over(&narrow.held);
            }
            self.resolve(
                &part,
                &format!("it is a part of incident {wider}, which stands as a whole"),
            );
        }
    }
}

/// Whether nobody but policy has acted on it.
fn is_automatic(incident: &Incident) -> bool {
    incident.actions.iter().all(|action| {
        action.by == POLICY
            && matches!(action.kind(), ActionKind::Brake | ActionKind::Freeze | ActionKind::Refuse)
    })
}

fn is_below(forest: &Forest, roots: &[ProcessKey], above: &[ProcessKey]) -> bool {
    let below = |root: &ProcessKey| {
        forest.ancestry(*root).iter().skip(1).any(|node| above.contains(&node.key))
    };
    !roots.is_empty() && roots.iter().all(below)
}

/// Whether everybody who lives of what an incident holds is held by the other as well. Of one that is
/// just being contained nobody knows.
fn is_covered(book: &Containments, forest: &Forest, incident: &str, held: &Held) -> bool {
    if book.is_busy(incident) {
        return false;
    }
    let lives = |key: &&ProcessKey| forest.get(**key).is_some_and(|node| node.alive);
    book.of(incident).is_none_or(|narrow| {
        narrow.held.processes.iter().filter(lives).all(|key| held.processes.contains(key))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            containments::{Containment, Turn},
            term::Term,
        },
        *,
    };
    use crate::{lineage::Node, proto::Action};

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey::new(tgid, u64::from(tgid))
    }

    /// 1 has 2 and 3; 2 has 4.
    fn forest() -> Forest {
        let node = |tgid: u32, parent: u32| Node {
            key: key(tgid),
            parent: (parent != 0).then(|| key(parent)),
            alive: true,
            ..Node::default()
        };
        Forest::new([node(1, 0), node(2, 1), node(3, 1), node(4, 2)])
    }

    #[test]
    fn who_is_in_a_tree_is_below_its_root() {
        let forest = forest();
        assert!(is_below(&forest, &[key(4)], &[key(1)]));
        assert!(is_below(&forest, &[key(2), key(3)], &[key(1)]));
        assert!(!is_below(&forest, &[key(2), key(3)], &[key(2)]), "one of them is beside it");
        assert!(!is_below(&forest, &[key(2)], &[key(2)]), "the same");
        assert!(!is_below(&forest, &[], &[key(1)]));
    }

    #[test]
    fn what_a_person_has_decided_about_stays_an_incident_of_its_own() {
        let incident = |actions: &[(ActionKind, &str)]| Incident {
            actions: actions
                .iter()
                .map(|&(kind, by)| Action {
                    kind: kind.into(),
                    by: by.into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let person = "user ada (uid 1000)";
        assert!(is_automatic(&incident(&[])));
        assert!(is_automatic(&incident(&[
            (ActionKind::Brake, POLICY),
            (ActionKind::Freeze, POLICY)
        ])));
        assert!(!is_automatic(&incident(&[(ActionKind::Freeze, person)])));
        assert!(!is_automatic(&incident(&[
            (ActionKind::Freeze, POLICY),
            (ActionKind::Thaw, POLICY)
        ])));
    }

    #[test]
    fn only_who_is_held_by_both_can_be_handed_over() {
        let held = |incident: &str, mark: u32, processes: &[u32]| Held {
            incident: incident.into(),
            mark,
            roots: vec![key(processes[0])],
            cgroup: None,
            processes: processes.iter().map(|tgid| key(*tgid)).collect(),
        };
        let book = Containments::default();
        let narrow = held("a", 1, &[2, 4, 99]);
        let Turn::Contain { .. } = book.claim(&[key(2)], &[]) else { panic!("refused") };
        book.know(&[key(2)], "a");
        let wide = held("b", 2, &[1, 2, 3, 4]);
        assert!(is_covered(&book, &forest(), "a", &wide), "nothing is held");
        book.settle(
            1,
            Some(Containment {
                held: narrow,
                leaf: None,
                frozen: true,
                term: Term { freeze_ns: 10, thaw_ns: 10, release_ns: 20 },
            }),
        );
        assert!(is_covered(&book, &forest(), "a", &wide), "99 is gone");
        assert!(!is_covered(&book, &forest(), "a", &held("b", 2, &[1, 3])));
    }
}
