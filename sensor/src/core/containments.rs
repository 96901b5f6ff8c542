//! Which culprits are known, and which trees are held: shared by the thread that reacts and the
//! desk. Locked for moments only, never across I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sensor_common::{gate::Rule, lineage::REPORTED_FOR_S};

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
    /// How long this freeze lasts, ns; the next one lasts twice as long.
    pub freeze_ns: u64,
    /// When the guardian thaws and when it releases, boot clock, ns.
    pub thaw_ns: u64,
    pub release_ns: u64,
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
    fn known(&self, culprit: ProcessKey, ancestors: &[ProcessKey]) -> Option<String> {
        let mut line = std::iter::once(&culprit).chain(ancestors);
        line.find_map(|key| self.incidents.get(key).cloned())
    }

    /// Known from now on, so that the next crossing of the same tree belongs to it as well.
    fn incident_of(&mut self, culprit: ProcessKey, ancestors: &[ProcessKey]) -> String {
        if let Some(known) = self.known(culprit, ancestors) {
            self.reserved.remove(&known);
            return known;
        }
        let fresh = incident::new_id();
        self.incidents.insert(culprit, fresh.clone());
        fresh
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

impl Containments {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a single call on one map: a panic in between leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The incident that a finding about `culprit` belongs to: a known one of its own or of an
    /// ancestor, or a new one.
    pub fn incident_of(&self, culprit: ProcessKey, ancestors: &[ProcessKey]) -> String {
        self.state().incident_of(culprit, ancestors)
    }

    /// The same for a culprit that is only watched: no incident yet.
    pub fn reserve(&self, culprit: ProcessKey, ancestors: &[ProcessKey]) {
        let mut state = self.state();
        if state.known(culprit, ancestors).is_none() {
            let fresh = state.incident_of(culprit, ancestors);
            state.reserved.insert(fresh);
        }
    }

    /// Nothing came of watching this culprit: unless somebody found more, there is no incident.
    pub fn release(&self, culprit: ProcessKey) {
        let mut state = self.state();
        if let Some(id) = state.incidents.get(&culprit).cloned()
            && state.reserved.remove(&id)
        {
            state.incidents.remove(&culprit);
        }
    }

    /// Whether nobody has told of a storm with this culprit yet, by this rule; from now on somebody
    /// has.
    pub fn is_news(&self, culprit: ProcessKey, rule: Rule, now_ns: u64) -> bool {
        let mut state = self.state();
        state.storms.retain(|_, told_ns| now_ns.saturating_sub(*told_ns) < FRESH_NS);
        state.storms.insert((culprit, rule as u16), now_ns).is_none()
    }

    /// Whether a storm of one of these was told of lately, by this rule.
    pub fn is_told(&self, line: &[ProcessKey], rule: Rule, now_ns: u64) -> bool {
        let state = self.state();
        let told = |key: &ProcessKey| state.storms.get(&(*key, rule as u16));
        line.iter().filter_map(told).any(|told_ns| now_ns.saturating_sub(*told_ns) < FRESH_NS)
    }

    /// Whether there is nothing left to decide about a finding: the incident that it would belong to
    /// is settled.
    pub fn is_settled_above(&self, culprit: ProcessKey, ancestors: &[ProcessKey]) -> bool {
        let state = self.state();
        state.known(culprit, ancestors).is_some_and(|incident| state.is_settled(&incident))
    }

    /// Claims a culprit for a hold or a dry run: its incident and the mark. `None`: it is held, contained
    /// or just being contained, or a person let it run.
    pub fn hold(&self, culprit: ProcessKey, ancestors: &[ProcessKey]) -> Option<(String, u32)> {
        let mut state = self.state();
        let incident = state.known(culprit, ancestors)?;
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
    pub fn claim(&self, culprit: ProcessKey, ancestors: &[ProcessKey]) -> Turn {
        let mut state = self.state();
        let incident = state.incident_of(culprit, ancestors);
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
        Some(Containment { freeze_ns: known.freeze_ns.saturating_mul(2), ..known })
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

    /// An incident and its culprit are known.
    pub fn know(&self, culprit: ProcessKey, incident: &str) {
        self.state().incidents.insert(culprit, incident.to_owned());
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
            root: self.held.root,
            leaf: self.leaf,
            brake_until_ns: self.release_ns,
            by: POLICY.into(),
            why: why.into(),
        }
    }
}

/// Who acts when nobody asked.
pub const POLICY: &str = "policy";

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
                root: CULPRIT,
                cgroup: None,
                processes: vec![CULPRIT],
            },
            leaf: None,
            frozen,
            freeze_ns: 10,
            thaw_ns: 10,
            release_ns: 20,
        }
    }

    #[test]
    fn one_tree_is_claimed_once() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(CULPRIT, &[]) else { panic!("refused") };
        assert_eq!(mark, 1);
        // Another step of the same cycle crosses while the first is being contained.
        assert_eq!(book.claim(CULPRIT, &[]), Turn::Leave { incident: incident.clone() });
        book.settle(mark, Some(contained(&incident, mark, true)));
        assert!(book.is_settled_above(CHILD, &[CULPRIT]));
        assert!(!book.is_settled_above(CHILD, &[]), "a neighbour");
        assert_eq!(book.claim(CHILD, &[CULPRIT]), Turn::Leave { incident });
    }

    #[test]
    fn what_is_found_in_a_watched_tree_is_its_incident() {
        let book = Containments::default();
        book.reserve(CULPRIT, &[]);
        let Turn::Contain { incident, .. } = book.claim(CHILD, &[CULPRIT]) else {
            panic!("refused")
        };
        book.release(CULPRIT);
        assert_eq!(book.incident_of(CULPRIT, &[]), incident, "it is open");

        let book = Containments::default();
        book.reserve(CULPRIT, &[]);
        book.release(CULPRIT);
        let alone = book.incident_of(CHILD, &[]);
        assert_ne!(book.incident_of(CULPRIT, &[]), alone);
        book.reserve(CHILD, &[]);
        book.release(CHILD);
        assert_eq!(book.incident_of(CHILD, &[]), alone, "it was open before");
    }

    #[test]
    fn what_was_refused_may_be_tried_again() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(CULPRIT, &[]) else { panic!("refused") };
        book.settle(mark, None);
        assert_eq!(book.claim(CULPRIT, &[]), Turn::Contain { incident, mark: mark + 1 });
    }

    #[test]
    fn regrowth_is_frozen_for_twice_as_long_under_the_same_mark() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(CULPRIT, &[]) else { panic!("refused") };
        book.settle(mark, Some(contained(&incident, mark, true)));
        assert!(book.claim_again(mark).is_none(), "it stands");
        book.thawed(&incident);
        let again = book.claim_again(mark).unwrap();
        assert_eq!((again.freeze_ns, again.held.mark), (20, mark));
        assert!(book.claim_again(mark).is_none(), "it is being frozen");
    }

    #[test]
    fn a_storm_is_news_once_a_minute() {
        let book = Containments::default();
        let second = 1_000_000_000;
        assert!(book.is_news(CULPRIT, Rule::R3, second));
        assert!(book.is_news(CULPRIT, Rule::R2, second), "another rule");
        assert!(!book.is_news(CULPRIT, Rule::R3, 2 * second), "another ancestor crossed");
        assert!(book.is_told(&[CHILD, CULPRIT], Rule::R3, 2 * second), "a step of it");
        assert!(!book.is_told(&[CHILD], Rule::R3, 2 * second));
        assert!(book.is_news(CHILD, Rule::R3, 3 * second), "another culprit");
        assert!(book.is_news(CULPRIT, Rule::R3, 62 * second));
    }

    #[test]
    fn a_person_who_lets_it_run_is_obeyed() {
        let book = Containments::default();
        let Turn::Contain { incident, mark } = book.claim(CULPRIT, &[]) else { panic!("refused") };
        book.settle(mark, Some(contained(&incident, mark, true)));
        book.let_run(&incident);
        book.take(&incident);
        assert_eq!(book.claim(CULPRIT, &[]), Turn::Leave { incident: incident.clone() });
        book.forget(&incident);
        assert!(matches!(book.claim(CULPRIT, &[]), Turn::Contain { .. }));
    }
}
