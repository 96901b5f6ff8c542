use super::*;
use crate::detect::group::{By, Group};

const NOW: Timestamp = Timestamp { seconds: 1, nanos: 0 };

fn finding(tgid: u32, contain: bool) -> Finding {
    Finding {
        kind: proto::Kind::Recursion,
        rule: "R1",
        culprit: Some(ProcessKey::new(tgid, 1)),
        group: None,
        leaf: None,
        contain,
        confidence: if contain { 0.95 } else { 0.8 },
        at_ns: 0,
        measures: Vec::new(),
    }
}

/// `now_ns`: since all of them were born.
fn scene(now_ns: u64, ancestors: &[u32]) -> Scene {
    Scene {
        now_ns: now_ns + 1,
        now: NOW,
        host: "h".into(),
        boot_id: "b".into(),
        culprit: None,
        ancestors: ancestors.iter().map(|tgid| ProcessKey::new(*tgid, 1)).collect(),
        identity: [1, 2, 3],
    }
}

#[test]
fn one_cause_is_one_incident() {
    let mut incidents = Incidents::default();
    let first = incidents.report(&finding(7, false), scene(0, &[]), "a".into());
    assert!(first.opened);
    assert_eq!(first.incident.severity(), Severity::Warning);
    let again = incidents.report(&finding(7, true), scene(1, &[]), "b".into());
    assert!(!again.opened);
    assert_eq!((again.incident.id.as_str(), again.incident.occurrences), ("a", 2));
    assert_eq!(again.incident.severity(), Severity::Critical);
    let below = incidents.report(&finding(9, true), scene(2, &[8, 7]), "c".into());
    assert_eq!(below.incident.id, "a", "a descendant's finding is the same cause");
    let other = incidents.report(&finding(20, true), scene(3, &[6]), "d".into());
    assert!(other.opened, "another tree is another incident");
}

#[test]
fn who_is_pointed_at_is_meant_and_nobody_above() {
    let mut incidents = Incidents::default();
    let manual = |tgid| Finding { kind: proto::Kind::Manual, ..finding(tgid, false) };
    incidents.report(&manual(7), scene(0, &[]), "a".into());
    let below = incidents.report(&manual(9), scene(1, &[8, 7]), "b".into());
    assert!(below.opened);
    assert_eq!(incidents.roots("b"), [ProcessKey::new(9, 1)]);
    let again = incidents.report(&manual(9), scene(2, &[8, 7]), "c".into());
    assert_eq!(again.incident.id, "b");
}

fn of_group(members: &[u32]) -> Finding {
    let members: Vec<ProcessKey> = members.iter().map(|tgid| ProcessKey::new(*tgid, 1)).collect();
    let group = Group {
        by: By::Executable,
        shared: 9,
        user: Some(1000),
        alike: true,
        ancestor: ProcessKey::new(2, 1),
        since_ns: 0,
        starters: vec![ProcessKey::new(2, 1)],
        members,
    };
    Finding {
        kind: proto::Kind::ForkStorm,
        rule: "R3",
        culprit: group.members.first().copied(),
        group: Some(group),
        ..finding(0, true)
    }
}

fn pids(incident: &Incident) -> Vec<u32> {
    incident.group.iter().flat_map(|group| &group.members).map(|key| key.pid).collect()
}

#[test]
fn a_group_is_one_incident_whichever_member_is_found_again() {
    let mut incidents = Incidents::default();
    let culprit = proto::Culprit { exe: b"/usr/bin/node".to_vec(), ..Default::default() };
    let scene = |at| Scene { culprit: Some(culprit.clone()), ..scene(at, &[3, 2]) };
    let first = incidents.report(&of_group(&[10, 20, 30]), scene(0), "a".into());
    assert_eq!(
        first.incident.summary,
        "3 × `node` of user 1000 start processes without end, side by side"
    );
    assert_eq!(pids(&first.incident), [10, 20, 30]);
    let again = incidents.report(&of_group(&[20, 30, 40]), scene(1), "b".into());
    assert_eq!((again.opened, pids(&again.incident)), (false, vec![10, 20, 30, 40]));
    let storm = |tgid| Finding { kind: proto::Kind::ForkStorm, rule: "R3", ..finding(tgid, true) };
    let below = incidents.report(&storm(99), self::scene(2, &[40, 3]), "c".into());
    assert_eq!((below.opened, below.incident.id.as_str()), (false, "a"));
    let beside = incidents.report(&storm(50), self::scene(3, &[3, 2]), "d".into());
    assert!(beside.opened, "what is above the group is none of it");
    let other = incidents.report(&of_group(&[60, 70]), scene(4), "e".into());
    assert!(other.opened);

    let roots = incidents.roots("a");
    let mut restored = Incidents::restore([incidents.get("a").unwrap().clone()]);
    assert_eq!(restored.roots("a"), roots);
    assert!(!restored.report(&of_group(&[40, 80]), scene(5), "f".into()).opened);
}

#[test]
fn one_tree_of_a_group_becomes_the_group() {
    let mut incidents = Incidents::default();
    let alone = Finding { group: None, ..of_group(&[20]) };
    incidents.report(&alone, scene(0, &[]), "a".into());
    let many = incidents.report(&of_group(&[10, 20]), scene(1, &[]), "b".into());
    assert_eq!((many.opened, pids(&many.incident)), (false, vec![10, 20]));
}

#[test]
fn a_storm_joins_the_recursion_that_it_comes_from() {
    let mut incidents = Incidents::default();
    incidents.report(&finding(7, false), scene(0, &[]), "a".into());
    let storm = Finding { kind: proto::Kind::ForkStorm, rule: "R3", ..finding(7, false) };
    let same = incidents.report(&storm, scene(1, &[]), "a".into());
    assert!(!same.opened);
    assert_eq!(same.incident.kind(), proto::Kind::Recursion);
    assert_eq!(same.incident.finding.unwrap().rule, "R1", "of its own kind");
    let other = incidents.report(&storm, scene(2, &[]), "b".into());
    assert!(other.opened, "whoever reacted knew of none");
}

#[test]
fn growth_within_a_recursion_makes_it_worse_and_leaves_its_numbers() {
    let mut incidents = Incidents::default();
    let first = incidents.report(&finding(7, false), scene(0, &[]), "a".into());
    assert_eq!(first.incident.severity(), Severity::Warning);
    let growth = Finding { kind: proto::Kind::MemoryGrowth, rule: "M1", ..finding(9, true) };
    let joined = incidents.report(&growth, scene(1, &[7]), "a".into());
    assert!(!joined.opened);
    assert_eq!(joined.why, "M1 was crossed in the same tree");
    assert_eq!(joined.incident.severity(), Severity::Critical);
    assert_eq!(joined.incident.finding.unwrap().rule, "R1");
    // What is surer of the same kind still counts.
    let surer = Finding { rule: "R1b", ..finding(7, true) };
    let surer = incidents.report(&surer, scene(2, &[]), "a".into());
    assert_eq!(surer.incident.finding.unwrap().rule, "R1b");
}

#[test]
fn what_grows_below_who_waits_for_no_child_is_another_cause() {
    let growth =
        |rule, tgid| Finding { kind: proto::Kind::MemoryGrowth, rule, ..finding(tgid, true) };
    let culprit = |incidents: &Incidents, id| incidents.roots(id)[0].tgid;
    for piles in ["R5", "R4"] {
        // A supervisor, 7, and a service below it, 9.
        let mut incidents = Incidents::default();
        assert!(incidents.report(&growth(piles, 7), scene(0, &[]), "a".into()).opened);
        let leak = incidents.report(&growth("M1", 9), scene(1, &[7]), "b".into());
        assert!(leak.opened, "{piles}");
        assert_eq!((culprit(&incidents, "a"), culprit(&incidents, "b")), (7, 9));
        // Nor the other way round.
        let mut incidents = Incidents::default();
        incidents.report(&growth("M2", 7), scene(0, &[]), "a".into());
        assert!(incidents.report(&growth(piles, 9), scene(1, &[7]), "b".into()).opened);
        // What one process does is one cause, whichever comes first.
        let mut incidents = Incidents::default();
        incidents.report(&growth(piles, 7), scene(0, &[]), "a".into());
        assert!(!incidents.report(&growth("M2", 7), scene(1, &[]), "b".into()).opened);
        // By then it is known for its memory, and what grows below it is the same.
        assert!(!incidents.report(&growth("M1", 9), scene(2, &[7]), "c".into()).opened);
    }
}

#[test]
fn who_was_born_after_a_growth_was_told_of_is_another_cause() {
    let growth = |tgid, born| Finding {
        kind: proto::Kind::MemoryGrowth,
        rule: "M1",
        culprit: Some(ProcessKey::new(tgid, born)),
        ..finding(tgid, true)
    };
    let mut incidents = Incidents::default();
    assert!(incidents.report(&growth(7, 1), scene(10, &[]), "a".into()).opened);
    // It was there, and grew with it.
    assert!(!incidents.report(&growth(8, 5), scene(20, &[7]), "b".into()).opened);
    assert!(incidents.report(&growth(9, 30), scene(40, &[7]), "c".into()).opened);
    assert_eq!((incidents.roots("a")[0].tgid, incidents.roots("c")[0].tgid), (7, 9));
}

#[test]
fn an_incident_of_growth_ends_with_the_last_of_what_it_is_about() {
    let whose = |tgid| Some(ProcessKey::new(tgid, 1));
    let growth =
        |rule, tgid| Finding { kind: proto::Kind::MemoryGrowth, rule, ..finding(tgid, true) };
    let over = |incidents: &mut Incidents, tgid| {
        incidents.shrinks(whose(tgid)).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    // One of a group does not wait for its children: that ends by itself, and nothing else with it.
    let mut incidents = Incidents::default();
    let together =
        Finding { kind: proto::Kind::MemoryGrowth, rule: "M2", ..of_group(&[10, 20, 30]) };
    assert!(incidents.report(&together, scene(10, &[]), "a".into()).opened);
    incidents.grows("a", whose(10));
    assert!(incidents.report(&growth("R5", 20), scene(11, &[]), "b".into()).opened);
    incidents.grows("b", whose(20));
    assert_eq!(over(&mut incidents, 20), ["b"]);
    assert_eq!(over(&mut incidents, 10), ["a"]);
    // Two growths of one incident: it goes on with the other one.
    let mut incidents = Incidents::default();
    incidents.report(&growth("M3", 7), scene(10, &[]), "a".into());
    incidents.grows("a", whose(7));
    assert!(!incidents.report(&growth("M2", 9), scene(11, &[7]), "b".into()).opened);
    incidents.grows("a", whose(9));
    assert!(over(&mut incidents, 7).is_empty());
    assert_eq!(over(&mut incidents, 9), ["a"]);
    // One that is known from before a restart, and is told again by somebody below.
    let mut before = incidents.get("a").unwrap().clone();
    before.culprit = Some(proto::Culprit { pid: 7, start_ns: 1, ..Default::default() });
    let mut incidents = Incidents::restore([before]);
    assert!(over(&mut incidents, 7).is_empty(), "nobody told of it yet");
    assert!(!incidents.report(&growth("M2", 9), scene(11, &[7]), "b".into()).opened);
    incidents.grows("a", whose(9));
    assert_eq!(over(&mut incidents, 9), ["a"]);
}

#[test]
fn respawn_loops_are_one_incident_for_each_command_and_never_critical() {
    let restarting = Finding { kind: proto::Kind::CrashLoop, rule: "R6", ..finding(7, false) };
    let of = |loose: u64, above: &[u32]| Scene { identity: [1, loose, 3], ..scene(0, above) };
    let mut incidents = Incidents::default();
    assert!(incidents.report(&restarting, of(1, &[]), "a".into()).opened);
    assert!(incidents.report(&restarting, of(2, &[]), "b".into()).opened, "another command");
    assert!(!incidents.report(&restarting, of(1, &[]), "c".into()).opened);
    let below = Finding { culprit: Some(ProcessKey::new(9, 1)), ..restarting.clone() };
    assert!(incidents.report(&below, of(1, &[7]), "d".into()).opened, "another supervisor");
    let recursion = incidents.report(&finding(9, true), scene(1, &[7]), "e".into());
    assert!(recursion.opened, "what runs away below a supervisor is another cause");
    for round in 0..4 {
        incidents.resolve("a", round, NOW, "quiet").unwrap();
        let again = incidents.report(&restarting, of(1, &[]), "a".into());
        assert_eq!(again.incident.severity(), Severity::Info);
    }
    let measures =
        vec![proto::Measure { name: "by_signal".into(), value: 20.0, ..Default::default() }];
    let crashing = Finding { measures, ..restarting };
    let change = incidents.report(&crashing, of(1, &[]), "f".into());
    assert_eq!((change.opened, change.incident.severity()), (false, Severity::Warning));
}

#[test]
fn what_comes_back_counts_on_and_escalates() {
    let mut incidents = Incidents::default();
    for (round, id) in ["a", "b", "c"].into_iter().enumerate() {
        let change = incidents.report(&finding(round as u32 + 1, false), scene(0, &[]), id.into());
        assert_eq!(change.incident.occurrences, round as u32 + 1);
        let expected = if round == 2 { Severity::Critical } else { Severity::Warning };
        assert_eq!(change.incident.severity(), expected);
        incidents.resolve(id, 0, NOW, "done").unwrap();
    }
    let later = incidents.report(&finding(9, false), scene(RECURRENCE_NS, &[]), "d".into());
    assert_eq!(later.incident.occurrences, 1, "after ten minutes it is a new story");
}

#[test]
fn a_resolved_incident_changes_no_more() {
    let mut incidents = Incidents::default();
    incidents.report(&finding(7, true), scene(0, &[]), "ab".into());
    assert_eq!(incidents.find("a"), Ok("ab".into()));
    let change = incidents.resolve("ab", 5, NOW, "the culprit is gone").unwrap();
    assert_eq!((change.from, change.incident.state()), (State::Open, State::Resolved));
    assert!(incidents.resolve("ab", 6, NOW, "again").is_none());
    assert_eq!(incidents.find("a"), Err(FindError::Unknown("a".into())));
}

#[test]
fn a_resolved_incident_is_restored_while_somebody_looks_into_it() {
    let resolved = |id: &str, state: proto::InvestigationState| {
        let run = proto::Investigation { state: state.into(), ..Default::default() };
        let mut one = Incident { id: id.into(), investigations: vec![run], ..Default::default() };
        one.set_state(State::Resolved);
        one
    };
    let runs = resolved("a", proto::InvestigationState::Running);
    let over = resolved("b", proto::InvestigationState::Done);
    let restored = Incidents::restore([runs, over]);
    assert_eq!(restored.iter().count(), 0);
    let looked_into: Vec<&str> = restored.looked_into().map(|one| one.id.as_str()).collect();
    assert_eq!(looked_into, ["a"]);
    assert!(restored.get("a").is_none() && restored.get_looked_into("a").is_some());
}

#[test]
fn restored_incidents_merge_as_before() {
    let mut incidents = Incidents::default();
    let mut open = incidents.report(&finding(7, true), scene(0, &[]), "ab".into()).incident;
    open.culprit = Some(proto::Culprit { pid: 7, start_ns: 1, ..Default::default() });
    let mut restored = Incidents::restore([open]);
    assert!(!restored.report(&finding(7, true), scene(1, &[]), "x".into()).opened);
}

#[test]
fn a_cause_that_is_back_is_known_and_one_that_goes_on_is_none() {
    let mut incidents = Incidents::default();
    incidents.report(&finding(7, false), scene(0, &[]), "a".into());
    incidents.report(&finding(7, false), scene(1, &[]), "b".into());
    assert_eq!(incidents.returns("a"), 0, "it goes on");
    incidents.resolve("a", 2, NOW, "the culprit is gone");
    incidents.report(&finding(9, false), scene(3, &[]), "c".into());
    assert_eq!(incidents.returns("c"), 2, "both findings of the first");
    assert_eq!(incidents.returns("gone"), 0);
}

#[test]
fn ids_are_ten_plain_letters_and_differ() {
    let (one, two) = (new_id(), new_id());
    assert_eq!(one.len(), 10);
    assert!(one.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit()));
    assert_ne!(one, two);
}

#[test]
fn who_is_stopped_is_who_is_named() {
    let mut incidents = Incidents::default();
    let culprit = |pid| Some(proto::Culprit { pid, start_ns: 1, ..proto::Culprit::default() });
    let scene = Scene { culprit: culprit(7), ..scene(0, &[]) };
    incidents.report(&finding(7, false), scene, "a".into());
    incidents.change("a", NOW, |incident| {
        incident.culprit = culprit(8);
        String::new()
    });
    assert_eq!(incidents.roots("a"), [ProcessKey::new(8, 1)]);
    incidents.change("a", NOW, |incident| {
        incident.culprit = None;
        String::new()
    });
    assert_eq!(incidents.roots("a"), []);
}

#[test]
fn where_nobody_could_be_named_it_is_who_was_found() {
    let mut incidents = Incidents::default();
    incidents.report(&finding(7, false), scene(0, &[]), "a".into());
    incidents.change("a", NOW, |_| String::new());
    assert_eq!(incidents.roots("a"), [ProcessKey::new(7, 1)]);
}
