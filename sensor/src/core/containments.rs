//! Which culprits are known, and which trees are held: shared by the thread that reacts and the
//! desk. Locked for moments only, never across I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sensor_common::{gate::Rule, lineage::REPORTED_FOR_S};

use super::term::Term;
use crate::{
    incident,
    lineage::ProcessKey,
    respond::{Held, Target},
};

/// A tree that is, or was, frozen, with its brake still on.
#[derive(Clone, Debug)]
pub struct Containment {
    pub held: Held,
    pub leaf: Option<ProcessKey>,
    /// It stands; otherwise it was thawed with the brake kept.
    pub frozen: bool,
    pub term: Term,
}

#[derive(Default)]
struct State {
    /// Unresolved incidents by their culprit.
    incidents: HashMap<ProcessKey, String>,
    /// Those of them that are not open: their culprits are watched, and whatever else is found in
    /// their trees meanwhile opens them.
    reserved: HashSet<String>,
    held: BTreeMap<u32, Containment>,
    /// Incidents that are just being contained, by mark.
    busy: HashMap<u32, String>,
    /// Incidents whose tree is held while it is judged, or tried in a dry run, with the mark.
    holds: HashMap<String, u32>,
    /// Incidents whose culprit a person let run: no automatic action any more.
    let_run: HashSet<String>,
    last_mark: u32,
    /// Storms that were told of lately, and when, boot clock, ns.
    storms: HashMap<(ProcessKey, u16), u64>,
}

/// Other ancestors of a storm cross within so long after the first. The kernel reports each of them
/// once a minute; that must end later than this.
const FRESH_NS: u64 = (REPORTED_FOR_S as u64 - 1) * 1_000_000_000;

impl State {
    fn known(&self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> Option<String> {
        let mut line = roots.iter().chain(ancestors);
        line.find_map(|key| self.incidents.get(key).cloned())
    }

    /// Known from now on, so that the next crossing of the same tree belongs to it as well.
    fn incident_of(&mut self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> String {
        if let Some(known) = self.known(roots, ancestors) {
            self.reserved.remove(&known);
            // Each member of a group; one culprit alone may be below that of its incident.
            if roots.len() > 1 {
                self.know(roots, &known);
            }
            return known;
        }
        let fresh = incident::new_id();
        self.know(roots, &fresh);
        fresh
    }

    fn know(&mut self, roots: &[ProcessKey], incident: &str) {
        self.incidents.extend(roots.iter().map(|root| (*root, incident.to_owned())));
    }

    /// It is held, or being held, or a person let it run.
    fn is_settled(&self, incident: &str) -> bool {
        self.held.values().any(|it| it.held.incident == incident && it.frozen)
            || self.busy.values().any(|it| *it == incident)
            || self.let_run.contains(incident)
    }

    /// A containment that was thawed, or a tree that is held, is taken up under its old mark: its
    /// processes carry it.
    fn mark_for(&mut self, incident: &str) -> u32 {
        let contained = self.held.iter().find(|(_, it)| it.held.incident == incident);
        let held = || self.holds.get(incident).copied();
        contained.map(|(mark, _)| *mark).or_else(held).unwrap_or_else(|| {
            self.last_mark += 1;
            self.last_mark
        })
    }
}

#[derive(Default)]
pub struct Containments(Mutex<State>);

/// What the thread that reacts may do about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Contain under this mark, for this incident.
    Contain { incident: String, mark: u32 },
    /// It is held, or being held, or a person let it run.
    Leave { incident: String },
}

/// How far the containment of a group is.
#[derive(Debug)]
pub enum Standing {
    /// It is just being contained.
    Busy,
    Contained(Containment),
    /// It was refused, thawed or ended.
    Over,
}

impl Containments {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a single call on one map: a panic in between leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The incident that a finding about a culprit (or the members of a group) belongs to: a known one of
    /// its own or of an ancestor, or a new one.
    pub fn incident_of(&self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> String {
        self.state().incident_of(roots, ancestors)
    }

    /// The same for a culprit that is only watched: no incident yet. `None`: it belongs to a known one.
    pub fn reserve(&self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> Option<String> {
        let mut state = self.state();
        if state.known(roots, ancestors).is_some() {
            return None;
        }
        let fresh = state.incident_of(roots, ancestors);
        state.reserved.insert(fresh.clone());
        Some(fresh)
    }

    /// Nothing came of watching a culprit: unless somebody found more, there is no incident.
    pub fn release(&self, incident: &str) {
        let mut state = self.state();
        if state.reserved.remove(incident) {
            state.incidents.retain(|_, known| known != incident);
        }
    }

    /// Whether nobody has told of a storm with this culprit (or one of a group) yet, by this rule; from
    /// now on somebody has.
    pub fn is_news(&self, roots: &[ProcessKey], rule: Rule, now_ns: u64) -> bool {
        let mut state = self.state();
        state.storms.retain(|_, told_ns| now_ns.saturating_sub(*told_ns) < FRESH_NS);
        let mut told =
            |root: &&ProcessKey| state.storms.insert((**root, rule as u16), now_ns).is_some();
        // All of them are asked: each is told of from now on.
        roots.iter().filter(&mut told).count() == 0
    }

    /// Whether a storm of one of these was told of lately, by this rule.
    pub fn is_told(&self, line: &[ProcessKey], rule: Rule, now_ns: u64) -> bool {
        let state = self.state();
        let told = |key: &ProcessKey| state.storms.get(&(*key, rule as u16));
        line.iter().filter_map(told).any(|told_ns| now_ns.saturating_sub(*told_ns) < FRESH_NS)
    }

    /// Whether there is nothing left to decide about a finding: the incident that it would belong to
    /// is settled.
    pub fn is_settled_above(&self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> bool {
        let state = self.state();
        state.known(roots, ancestors).is_some_and(|incident| state.is_settled(&incident))
    }

    /// Claims a culprit for a hold or a dry run: its incident and the mark. `None`: it is held, contained
    /// or just being contained, or a person let it run.
    pub fn hold(&self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> Option<(String, u32)> {
        let mut state = self.state();
        let incident = state.known(roots, ancestors)?;
        if state.holds.contains_key(&incident)
            || state.is_settled(&incident)
            || state.held.values().any(|it| it.held.incident == incident)
        {
            return None;
        }
        let mark = state.mark_for(&incident);
        state.holds.insert(incident.clone(), mark);
        Some((incident, mark))
    }

    /// The hold is over: whatever came of it is in the book.
    pub fn end_hold(&self, incident: &str) {
        self.state().holds.remove(incident);
    }

    /// Claims a culprit for containment.
    pub fn claim(&self, roots: &[ProcessKey], ancestors: &[ProcessKey]) -> Turn {
        let mut state = self.state();
        let incident = state.incident_of(roots, ancestors);
        if state.is_settled(&incident) {
            return Turn::Leave { incident };
        }
        let mark = state.mark_for(&incident);
        state.busy.insert(mark, incident.clone());
        Turn::Contain { incident, mark }
    }

    /// Claims a thawed containment that shows life again; twice the time that it had.
    pub fn claim_again(&self, mark: u32) -> Option<Containment> {
        let mut state = self.state();
        let known = state.held.get(&mark).filter(|it| !it.frozen)?.clone();
        if state.let_run.contains(&known.held.incident) || state.busy.contains_key(&mark) {
            return None;
        }
        state.busy.insert(mark, known.held.incident.clone());
        let term = Term { freeze_ns: known.term.freeze_ns.saturating_mul(2), ..known.term };
        Some(Containment { term, ..known })
    }

    /// Claims the standing containment of a group, for trees that have joined it. `None`: nothing of the
    /// incident stands, or somebody acts on it just now.
    pub fn claim_more(&self, incident: &str) -> Option<Containment> {
        let mut state = self.state();
        let standing = |it: &&Containment| it.held.incident == incident && it.frozen;
        let known = state.held.values().find(standing)?.clone();
        if state.let_run.contains(incident) || state.busy.contains_key(&known.held.mark) {
            return None;
        }
        state.busy.insert(known.held.mark, incident.to_owned());
        Some(known)
    }

    /// How an incident stands that one of these belongs to.
    pub fn standing(&self, roots: &[ProcessKey]) -> Standing {
        let state = self.state();
        let Some(incident) = state.known(roots, &[]) else { return Standing::Over };
        if state.busy.values().any(|busy| *busy == incident) {
            return Standing::Busy;
        }
        let mut held = state.held.values();
        match held.find(|it| it.held.incident == incident && it.frozen) {
            Some(it) if !state.let_run.contains(&incident) => Standing::Contained(it.clone()),
            _ => Standing::Over,
        }
    }

    /// Whether it is just being contained.
    pub fn is_busy(&self, incident: &str) -> bool {
        self.state().busy.values().any(|busy| busy == incident)
    }

    /// Whether any is.
    pub fn are_busy(&self) -> bool {
        !self.state().busy.is_empty()
    }

    /// Whether a person let it run.
    pub fn is_let_run(&self, incident: &str) -> bool {
        self.state().let_run.contains(incident)
    }

    /// The mark of an incident's containment, or a new one.
    pub fn mark_for(&self, incident: &str) -> u32 {
        self.state().mark_for(incident)
    }

    /// What came of a claim.
    pub fn settle(&self, mark: u32, containment: Option<Containment>) {
        let mut state = self.state();
        state.busy.remove(&mark);
        if let Some(containment) = containment {
            state.held.insert(mark, containment);
        }
    }

    /// Does something while nothing is contained, nor begins to be.
    pub fn if_none(&self, act: impl FnOnce()) {
        let state = self.state();
        if state.held.is_empty() && state.busy.is_empty() && state.holds.is_empty() {
            act();
        }
    }

    /// Takes up a containment of an earlier run under a new mark.
    pub fn adopt(&self, mut containment: Containment) -> Containment {
        let mut state = self.state();
        let mark = state.mark_for(&containment.held.incident);
        containment.held.mark = mark;
        state.held.insert(mark, containment.clone());
        containment
    }

    /// The guardian let it run again; the brake is still on.
    pub fn thawed(&self, incident: &str) {
        for containment in self.state().held.values_mut() {
            if containment.held.incident == incident {
                containment.frozen = false;
            }
        }
    }

    /// Takes an incident's containment out of the book.
    pub fn take(&self, incident: &str) -> Option<Containment> {
        let mut state = self.state();
        let mark = *state.held.iter().find(|(_, it)| it.held.incident == incident)?.0;
        state.held.remove(&mark)
    }

    pub fn of(&self, incident: &str) -> Option<Containment> {
        self.state().held.values().find(|it| it.held.incident == incident).cloned()
    }

    pub fn all(&self) -> Vec<Containment> {
        self.state().held.values().cloned().collect()
    }

    /// An incident and its culprit, or the members of a group, are known.
    pub fn know(&self, roots: &[ProcessKey], incident: &str) {
        self.state().know(roots, incident);
    }

    /// No automatic action about this incident any more.
    pub fn let_run(&self, incident: &str) {
        self.state().let_run.insert(incident.to_owned());
    }

    /// The incident is over.
    pub fn forget(&self, incident: &str) {
        let mut state = self.state();
        state.incidents.retain(|_, known| known != incident);
        state.held.retain(|_, it| it.held.incident != incident);
        state.let_run.remove(incident);
    }
}

impl Containment {
    /// The target for freezing it again.
    pub fn target(&self, why: &str) -> Target {
        Target {
            incident: self.held.incident.clone(),
            mark: self.held.mark,
            roots: self.held.roots.clone(),
            leaf: self.leaf,
            brake_until_ns: self.term.release_ns,
            by: POLICY.into(),
            why: why.into(),
        }
    }
}

/// Who acts when nobody asked.
pub const POLICY: &str = "policy";
/// The same of the guardian, whose timer was over.
pub const GUARDIAN: &str = "guardian";

#[cfg(test)]
mod tests {
    use super::*;

    const CULPRIT: ProcessKey = ProcessKey::new(7, 70);
    const CHILD: ProcessKey = ProcessKey::new(8, 80);

    fn contained(incident: &str, mark: u32, frozen: bool) -> Containment {
        Containment {
            held: Held {
                incident: incident.into(),
                mark,
                roots: vec![CULPRIT],
                cgroup: None,
                processes: vec![CULPRIT],
            },
            leaf: None,
            frozen,
            term: Term { freeze_ns: 10, thaw_ns: 10, release_ns: 20 },
        }
    }

    #[test]
    fn one_tree_is_claimed_once() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(&[CULPRIT], &[]) else {
            panic!("refused")
        };
        assert_eq!(mark, 1);
        // Another step of the same cycle crosses while the first is being contained.
        assert_eq!(book.claim(&[CULPRIT], &[]), Turn::Leave { incident: incident.clone() });
        book.settle(mark, Some(contained(&incident, mark, true)));
        assert!(book.is_settled_above(&[CHILD], &[CULPRIT]));
        assert!(!book.is_settled_above(&[CHILD], &[]), "a neighbour");
        assert_eq!(book.claim(&[CHILD], &[CULPRIT]), Turn::Leave { incident });
    }

    #[test]
    fn what_is_found_in_a_watched_tree_is_its_incident() {
        let book = Containments::default();
        let watched = book.reserve(&[CULPRIT], &[]).unwrap();
        let Turn::Contain { incident, .. } = book.claim(&[CHILD], &[CULPRIT]) else {
            panic!("refused")
        };
        book.release(&watched);
        assert_eq!(book.incident_of(&[CULPRIT], &[]), incident, "it is open");

        let book = Containments::default();
        let watched = book.reserve(&[CULPRIT], &[]).unwrap();
        book.release(&watched);
        let alone = book.incident_of(&[CHILD], &[]);
        assert_ne!(book.incident_of(&[CULPRIT], &[]), alone);
        let watched = book.reserve(&[CHILD], &[]);
        assert_eq!(watched, None);
        assert_eq!(book.incident_of(&[CHILD], &[]), alone, "it was open before");
    }

    #[test]
    fn a_group_is_known_by_each_of_its_members() {
        let other = ProcessKey::new(9, 90);
        let book = Containments::default();
        let watched = book.reserve(&[CULPRIT, CHILD], &[]).unwrap();
        assert!(book.is_news(&[CULPRIT, CHILD], Rule::R3, 1));
        assert!(!book.is_news(&[CHILD, other], Rule::R3, 2), "one of them was told of");
        book.release(&watched);
        assert!(matches!(book.standing(&[CULPRIT]), Standing::Over), "forgotten with all of them");

        let Turn::Contain { incident, mark } = book.claim(&[CULPRIT, CHILD], &[]) else {
            panic!("refused")
        };
        assert!(matches!(book.standing(&[CHILD]), Standing::Busy));
        assert!(book.claim_more(&incident).is_none(), "not yet");
        book.settle(mark, Some(contained(&incident, mark, true)));
        assert_eq!(book.claim(&[CHILD], &[]), Turn::Leave { incident: incident.clone() });
        assert!(matches!(book.standing(&[CHILD]), Standing::Contained(_)));
        let more = book.claim_more(&incident).unwrap();
        assert_eq!((more.held.mark, more.term.freeze_ns), (mark, 10), "as long as the others");
        assert!(book.claim_more(&incident).is_none(), "somebody is at it");
        book.settle(mark, Some(more));
        // Who joins is a member as well.
        assert_eq!(book.incident_of(&[CHILD, other], &[]), incident);
        assert_eq!(book.incident_of(&[other], &[]), incident);
        book.let_run(&incident);
        assert!(book.claim_more(&incident).is_none());
        assert!(matches!(book.standing(&[other]), Standing::Over));
    }

    #[test]
    fn what_was_refused_may_be_tried_again() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(&[CULPRIT], &[]) else {
            panic!("refused")
        };
        book.settle(mark, None);
        assert_eq!(book.claim(&[CULPRIT], &[]), Turn::Contain { incident, mark: mark + 1 });
    }

    #[test]
    fn regrowth_is_frozen_for_twice_as_long_under_the_same_mark() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(&[CULPRIT], &[]) else {
            panic!("refused")
        };
        book.settle(mark, Some(contained(&incident, mark, true)));
        assert!(book.claim_again(mark).is_none(), "it stands");
        book.thawed(&incident);
        let again = book.claim_again(mark).unwrap();
        assert_eq!((again.term.freeze_ns, again.held.mark), (20, mark));
        assert!(book.claim_again(mark).is_none(), "it is being frozen");
    }

    #[test]
    fn a_storm_is_news_once_a_minute() {
        let book = Containments::default();
        let second = 1_000_000_000;
        assert!(book.is_news(&[CULPRIT], Rule::R3, second));
        assert!(book.is_news(&[CULPRIT], Rule::R2, second), "another rule");
        assert!(!book.is_news(&[CULPRIT], Rule::R3, 2 * second), "another ancestor crossed");
        assert!(book.is_told(&[CHILD, CULPRIT], Rule::R3, 2 * second), "a step of it");
        assert!(!book.is_told(&[CHILD], Rule::R3, 2 * second));
        assert!(book.is_news(&[CHILD], Rule::R3, 3 * second), "another culprit");
        assert!(book.is_news(&[CULPRIT], Rule::R3, 62 * second));
    }

    #[test]
    fn a_person_who_lets_it_run_is_obeyed() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(&[CULPRIT], &[]) else {
            panic!("refused")
        };
        book.settle(mark, Some(contained(&incident, mark, true)));
        book.let_run(&incident);
        book.take(&incident);
        assert_eq!(book.claim(&[CULPRIT], &[]), Turn::Leave { incident: incident.clone() });
        book.forget(&incident);
        assert!(matches!(book.claim(&[CULPRIT], &[]), Turn::Contain { .. }));
    }
}
