//! The response on real processes. The kernel side is made of `/proc`, so it stops nobody: the
//! sweep alone must win, as on a kernel where the brake has missed a fork.

use super::{
    testing::{Cage, ProcMarks, SOON, state, target, wait},
    *,
};
use crate::{cgroup, lineage::Node};

/// Five processes: a shell, two below it, and one below each of those.
const TREE: &str = "(sleep 300 & wait) & (sleep 300 & wait) & wait";

fn responder(cage: &Cage, marks: &Arc<ProcMarks>) -> Responder {
    Responder::new(marks.clone(), cage.host.clone(), &cage.options()).0
}

fn no_guardian(_: &Held) {}

/// [`TREE`], running.
struct Family {
    cage: Cage,
    marks: Arc<ProcMarks>,
    responder: Responder,
    forest: Forest,
    root: ProcessKey,
    /// Between root and leaf.
    middle: ProcessKey,
    leaf: ProcessKey,
}

impl Family {
    fn new(test: &str) -> Option<Self> {
        let mut cage = Cage::new(test)?;
        let root = cage.run(None, TREE);
        cage.wait_for(5);
        let marks = Arc::<ProcMarks>::default();
        let responder = responder(&cage, &marks);
        let forest = marks.forest();
        let leaf = forest.tree(root).iter().max_by_key(|(_, level)| *level).unwrap().0.key;
        let middle = forest.get(leaf).unwrap().parent.unwrap();
        Some(Self { cage, marks, responder, forest, root, middle, leaf })
    }
}

#[test]
fn a_tree_that_shares_its_cgroup_is_stopped_by_signal() {
    let Some(mut cage) = Cage::new("respond::signal") else { return };
    let bystander = cage.run(None, "sleep 300");
    let root = cage.run(None, TREE);
    cage.wait_for(6);
    let marks = Arc::<ProcMarks>::default();
    let responder = responder(&cage, &marks);
    let mut told: Vec<Held> = Vec::new();
    let contained = responder.contain(&target(root, 7), &mut |held| told.push(held.clone()));
    let held = contained.held.unwrap();
    assert_eq!(held.cgroup, None);
    assert_eq!((held.roots.as_slice(), held.processes.len()), (&[root][..], 5));
    let [brake, freeze] = contained.actions.as_slice() else { panic!("brake and freeze") };
    assert_eq!((brake.kind(), brake.processes, brake.ok), (ActionKind::Brake, 5, true));
    assert_eq!((freeze.kind(), freeze.processes, freeze.ok), (ActionKind::Freeze, 5, true));
    assert!(brake.started_ns <= freeze.started_ns && freeze.started_ns < freeze.ended_ns);
    for key in &held.processes {
        assert_eq!(state(key.tgid), Some('T'));
        assert_eq!(marks.mark_of(*key), Some(7));
    }
    assert_ne!(state(bystander.tgid), Some('T'));
    // The guardian could undo it before the first process was stopped.
    assert_eq!(told.first().unwrap().processes.len(), 5);
    assert_eq!(told.last().unwrap(), &held);

    let thaw = responder.thaw(&held, "user root (uid 0)", "enough");
    assert_eq!((thaw.kind(), thaw.processes, thaw.ok), (ActionKind::Thaw, 5, true));
    wait(|| held.processes.iter().all(|key| state(key.tgid) == Some('S')), "all run");
    assert_eq!(marks.mark_of(root), Some(7), "the brake stays on");

    let release = responder.release(&held, "policy", "over");
    assert_eq!((release.kind(), release.processes, release.ok), (ActionKind::Release, 5, true));
    assert!(held.processes.iter().all(|key| marks.mark_of(*key) == Some(0)));

    let kill = responder.kill(&target(root, 7));
    assert_eq!((kill.kind(), kill.processes, kill.ok), (ActionKind::Kill, 5, true));
    assert_eq!(cage.pids(), [bystander.tgid], "the neighbour lives");
}

#[test]
fn a_tree_that_owns_its_cgroup_is_frozen_with_it() {
    let Some(mut cage) = Cage::new("respond::freezer") else { return };
    let own = cage.inner("own");
    let bystander = cage.run(None, "sleep 300");
    let root = cage.run(Some(&own), TREE);
    cage.wait_for(6);
    // A part of the tree lives in a group further down.
    let inner = own.join("part");
    std::fs::create_dir(&inner).unwrap();
    let part = cgroup::members(&own, 10).unwrap().unwrap().into_iter().max().unwrap();
    Cage::enter(&inner, part);
    let marks = Arc::<ProcMarks>::default();
    let responder = responder(&cage, &marks);
    let mut told: Vec<Held> = Vec::new();
    let contained = responder.contain(&target(root, 8), &mut |held| {
        // Whenever it is told, nothing is frozen of which it was not told before.
        assert!(held.cgroup.is_some() || !cgroup::frozen(&own));
        told.push(held.clone());
    });
    let held = contained.held.unwrap();
    assert_eq!(held.cgroup.as_deref(), Some(own.as_path()));
    assert!(cgroup::frozen(&own));
    assert_eq!((contained.actions[1].processes, contained.actions[1].ok), (5, true));
    assert!(held.processes.iter().all(|key| state(key.tgid) != Some('T')), "no signal was sent");
    assert!(!cgroup::frozen(cage.dir()), "the group of the neighbour is not touched");
    assert_ne!(state(bystander.tgid), Some('T'));

    let restored = Held::of(&held.arm(1, 2)).unwrap();
    assert_eq!(restored, held, "as a later core hears of it");
    assert!(responder.thaw(&restored, "policy", "test").ok);
    assert!(!cgroup::frozen(&own));

    let kill = responder.kill(&target(root, 8));
    assert_eq!((kill.processes, kill.ok), (5, true));
    assert!(kill.result.contains("with cgroup"), "{}", kill.result);
    assert_eq!(cage.pids(), [bystander.tgid]);
}

#[test]
fn a_group_that_was_frozen_by_somebody_else_stays_theirs() {
    let Some(mut cage) = Cage::new("respond::frozen") else { return };
    let own = cage.inner("own");
    let root = cage.run(Some(&own), TREE);
    cage.wait_for(5);
    cgroup::freeze(&own, SOON).unwrap();
    let marks = Arc::<ProcMarks>::default();
    let contained = responder(&cage, &marks).contain(&target(root, 1), &mut no_guardian);
    assert_eq!(contained.held.unwrap().cgroup, None);
    assert!(cgroup::frozen(&own));
}

#[test]
fn a_runaway_tree_is_caught_by_the_sweep_alone() {
    let Some(mut cage) = Cage::new("respond::runaway") else { return };
    let bystander = cage.run(None, "sleep 300");
    // Every process forks two more until the limit of the cage; those that fail try again.
    let root = cage.run(None, "f() { f & f & wait; f; }; f");
    cage.wait_for(40);
    let marks = Arc::<ProcMarks>::default();
    let responder = responder(&cage, &marks);
    let contained = responder.contain(&target(root, 9), &mut no_guardian);
    assert!(contained.actions[1].ok, "{:?}", contained.actions);
    let still = || {
        let mut pids = cage.pids();
        pids.retain(|pid| *pid != bystander.tgid);
        pids.sort_unstable();
        pids
    };
    let before = still();
    assert!(before.len() >= 40);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(still(), before, "nothing is born and nothing dies");
    // Where the limit refused a fork, a shell is about to try again; it stands as well.
    assert!(before.iter().all(|pid| matches!(state(*pid), Some('T' | 'Z'))));
    let kill = responder.kill(&target(root, 9));
    assert!(kill.ok, "{}", kill.result);
    assert_eq!(cage.pids(), [bystander.tgid]);
}

#[test]
fn orphans_of_the_tree_are_found_by_lineage() {
    let Some(mut cage) = Cage::new("respond::orphans") else { return };
    let bystander = cage.run(None, "sleep 300");
    // The middle process ends once its child runs in a session of its own.
    let root = cage.run(None, "(setsid sleep 300 & sleep 0.5) & wait; sleep 300");
    let marks = Arc::<ProcMarks>::default();
    wait(
        || {
            let forest = marks.forest();
            let parent = |node: &Node| node.parent.and_then(|parent| forest.get(parent));
            let tree = forest.tree(root);
            tree.iter().any(|(node, _)| {
                node.alive && node.key != root && parent(node).is_some_and(|above| !above.alive)
            })
        },
        "the middle has ended",
    );
    let responder = responder(&cage, &marks);
    let held = responder.contain(&target(root, 3), &mut no_guardian).held.unwrap();
    let mut reached: Vec<u32> = held.processes.iter().map(|key| key.tgid).collect();
    reached.push(bystander.tgid);
    reached.sort_unstable();
    let mut all = cage.pids();
    all.sort_unstable();
    assert_eq!(reached, all);
    assert!(held.processes.iter().all(|key| state(key.tgid) == Some('T')));
    assert!(responder.kill(&target(root, 3)).ok);
    assert_eq!(cage.pids(), [bystander.tgid]);
}

#[test]
fn outside_of_the_scope_nothing_is_touched() {
    let Some(mut cage) = Cage::new("respond::scope") else { return };
    let scope = cage.inner("scope");
    let outside = cage.run(None, "sleep 300 & wait");
    let root = cage.run(Some(&scope), TREE);
    cage.wait_for(7);
    let marks = Arc::<ProcMarks>::default();
    let path = cage.host.path(&scope).unwrap();
    let options = Options { scope: vec![path], ..Options::default() };
    let (responder, _) = Responder::new(marks.clone(), cage.host.clone(), &options);

    let refused = responder.contain(&target(outside, 1), &mut no_guardian);
    assert_eq!(refused.held, None);
    assert_eq!(refused.actions[0].kind(), ActionKind::Refuse);
    assert!(refused.actions[0].result.contains("scope.cgroup"));
    let refused = responder.kill(&target(outside, 1));
    assert_eq!((refused.kind(), refused.ok), (ActionKind::Refuse, false));

    // One of the tree has moved out.
    let pids = cgroup::members(&scope, 10).unwrap().unwrap();
    let mover = *pids.iter().max().unwrap();
    Cage::enter(cage.dir(), mover);
    let contained = responder.contain(&target(root, 2), &mut no_guardian);
    assert_eq!(contained.held.unwrap().processes.len(), 4);
    assert!(contained.actions[1].result.contains("1 process left alone"));
    assert_ne!(state(mover), Some('T'));
    assert_eq!(marks.mark_of(process::key_of(mover).unwrap()), Some(0));
    assert_ne!(state(outside.tgid), Some('T'));
}

#[test]
fn protected_processes_are_narrowed_past_or_refused() {
    let Some(family) = Family::new("respond::protected") else { return };
    let Family { cage, responder, root, middle, leaf, .. } = family;
    responder.protection().add_own(root.tgid, "the guardian");

    let refused = responder.contain(&target(root, 4), &mut no_guardian);
    assert!(refused.actions[0].result.contains("the guardian, which is protected"));
    assert!(cage.pids().iter().all(|pid| state(*pid) != Some('T')));

    let narrowed = Target { leaf: Some(leaf), ..target(root, 4) };
    let contained = responder.contain(&narrowed, &mut no_guardian);
    assert_eq!(contained.held.unwrap().roots, [middle]);
    assert!(contained.actions[0].result.contains("narrowed to the tree of pid"));
    assert_eq!((state(middle.tgid), state(leaf.tgid)), (Some('T'), Some('T')));
    assert_ne!(state(root.tgid), Some('T'));
}

#[test]
fn a_hold_ends_and_wakes_only_whom_it_stopped() {
    let Some(family) = Family::new("respond::hold") else { return };
    let Family { marks, responder, forest, root, leaf, cage: _cage, .. } = family;
    let mut told: Vec<Held> = Vec::new();
    let target = target(root, 7);
    let (held, brake) =
        responder.hold_first(&target, &forest, &mut |held| told.push(held.clone())).unwrap();
    assert_eq!((brake.kind(), brake.processes, brake.ok), (ActionKind::Brake, 5, true));
    assert_eq!((told.as_slice(), held.processes.len()), (&[held.clone()][..], 5));
    assert_eq!(marks.mark_of(root), Some(7));
    let again = responder.hold_first(&target, &marks.forest(), &mut no_guardian);
    assert!(again.is_none(), "it is held");
    // Its user stopped one, which has not forked since: it is the user's.
    assert_eq!(process::signal_all([leaf], rustix::process::Signal::STOP, |_| true), 1);
    wait(|| state(leaf.tgid) == Some('T'), "it stands");
    let let_go = responder.let_go(&held, "policy", "it is not contained");
    assert_eq!((let_go.kind(), let_go.ok), (ActionKind::Release, true));
    assert!(held.processes.iter().all(|key| marks.mark_of(*key) == Some(0)));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!((state(leaf.tgid), state(root.tgid)), (Some('T'), Some('S')));
}

#[test]
fn a_tree_with_somebody_protected_is_not_held() {
    let Some(family) = Family::new("respond::not_held") else { return };
    let Family { marks, responder, forest, root, leaf, cage: _cage, .. } = family;
    responder.protection().add_own(leaf.tgid, "the guardian");
    let armed = &mut |_: &Held| panic!("there is nothing to undo");
    assert!(responder.hold_first(&target(root, 7), &forest, armed).is_none());
    assert!(forest.tree(root).iter().all(|(node, _)| marks.mark_of(node.key) == Some(0)));
}

#[test]
fn of_what_was_held_only_the_rest_is_contained() {
    let Some(family) = Family::new("respond::held_and_narrowed") else { return };
    let Family { marks, responder, forest, root, middle, leaf, cage: _cage } = family;
    let target = Target { leaf: Some(leaf), ..target(root, 4) };
    let hold = responder.hold_first(&target, &forest, &mut no_guardian);
    assert!(hold.is_some() && marks.mark_of(root) == Some(4));
    // It turns out while they are looked at.
    responder.protection().add_own(root.tgid, "the guardian");
    let contained = responder.contain(&target, &mut no_guardian);
    let held = contained.held.unwrap();
    assert_eq!((held.roots.as_slice(), held.processes.len()), (&[middle][..], 2));
    assert_eq!((marks.mark_of(root), marks.mark_of(middle)), (Some(0), Some(4)));
    assert_ne!(state(root.tgid), Some('T'));
}

#[test]
fn another_process_with_the_same_pid_is_never_hit() {
    let Some(mut cage) = Cage::new("respond::reuse") else { return };
    let root = cage.run(None, "sleep 300");
    cage.wait_for(1);
    let marks = Arc::<ProcMarks>::default();
    let responder = responder(&cage, &marks);
    let earlier = ProcessKey::new(root.tgid, root.start_ns - 20_000_000);
    let gone = responder.contain(&target(earlier, 5), &mut no_guardian);
    assert!(gone.actions[0].result.contains("no process of its tree lives"));
    // Even a containment that lists it, as a guardian may after a long time.
    let held = Held {
        incident: String::new(),
        mark: 5,
        roots: vec![earlier],
        cgroup: None,
        processes: vec![earlier],
    };
    assert_eq!(responder.thaw(&held, "policy", "test").processes, 0);
    assert_eq!(process::signal_all([earlier], rustix::process::Signal::KILL, |_| true), 0);
    assert_ne!(state(root.tgid), Some('Z'));
}

#[test]
fn too_many_containments_are_refused() {
    let Some(mut cage) = Cage::new("respond::rate") else { return };
    let root = cage.run(None, "sleep 300");
    cage.wait_for(1);
    let marks = Arc::<ProcMarks>::default();
    let options = Options { per_minute: 2, ..cage.options() };
    let (responder, _) = Responder::new(marks.clone(), cage.host.clone(), &options);
    let kinds: Vec<ActionKind> = (0..3)
        .map(|_| responder.contain(&target(root, 6), &mut no_guardian).actions[0].kind())
        .collect();
    assert_eq!(kinds, [ActionKind::Brake, ActionKind::Brake, ActionKind::Refuse]);
}

#[test]
fn an_order_to_the_guardian_stays_small() {
    let keys = (0..20_000).map(|pid| ProcessKey::new(pid + 2, 1)).collect();
    let held = Held {
        incident: "a".to_owned(),
        mark: 1,
        roots: vec![ProcessKey::new(2, 1)],
        cgroup: None,
        processes: keys,
    };
    assert_eq!(held.arm(1, 2).processes.len(), MOST_LISTED);
    assert_eq!(Held::of(&Arm::default()), None);
}

#[test]
fn a_group_is_contained_and_let_go_as_one() {
    let Some(mut cage) = Cage::new("respond::group") else { return };
    let bystander = cage.run(None, "sleep 300");
    let roots = vec![cage.run(None, TREE), cage.run(None, TREE)];
    cage.wait_for(11);
    let marks = Arc::<ProcMarks>::default();
    let responder = responder(&cage, &marks);
    let group = Target { roots: roots.clone(), ..target(bystander, 9) };
    let mut told: Vec<Held> = Vec::new();
    let contained = responder.contain(&group, &mut |held| told.push(held.clone()));
    let held = contained.held.unwrap();
    assert_eq!((held.roots.as_slice(), held.processes.len()), (roots.as_slice(), 10));
    assert!(held.processes.iter().all(|key| state(key.tgid) == Some('T')));
    assert_ne!(state(bystander.tgid), Some('T'));
    assert_eq!(told.first().unwrap().processes.len(), 10, "the guardian knows all of them");
    // What a guardian hands over knows its trees again.
    assert_eq!(Held::of(&held.arm(1, 2)).unwrap(), held);
    assert_eq!(responder.release(&held, "policy", "over").processes, 10);
    wait(|| held.processes.iter().all(|key| state(key.tgid) == Some('S')), "all run");
    assert_eq!(responder.kill(&group).processes, 10);
    assert_eq!(cage.pids(), [bystander.tgid], "the neighbour lives");
}
