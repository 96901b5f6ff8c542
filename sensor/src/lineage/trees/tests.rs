use proptest::prelude::*;

use super::*;

fn key(tgid: u32) -> ProcessKey {
    ProcessKey::new(tgid, u64::from(tgid) * 1_000)
}

/// A living process in the slot of its pid. Parent 0: not known.
fn process(tgid: u32, parent: u32, cgroup: u64) -> Counted {
    let parent_key = if parent == 0 { ProcessKey::new(0, 0) } else { key(parent) };
    Counted {
        slot: tgid,
        key: key(tgid),
        parent_slot: parent,
        parent: parent_key,
        alive: true,
        cgroup,
        ..Counted::default()
    }
}

fn pids(trees: &[Tree]) -> Vec<(u32, u32)> {
    trees.iter().map(|tree| (tree.root.tgid, tree.live)).collect()
}

/// init, a login with a shell in which make runs with so many jobs, and an editor in another login.
fn desktop(jobs: u32) -> Vec<Counted> {
    let mut all = vec![
        process(1, 0, 1),
        process(2, 0, 1),
        process(3, 2, 1),
        process(10, 1, 2),
        // Logins are moved into groups of their own.
        process(11, 10, 2),
        process(12, 11, 3),
        process(13, 12, 3),
        process(21, 10, 2),
        process(22, 21, 4),
        process(23, 22, 4),
    ];
    all.extend((100..100 + jobs).map(|pid| process(pid, 13, 3)));
    all
}

#[test]
fn who_makes_them_is_listed_and_not_who_waits_for_that() {
    let census = Census::new(desktop(40).iter().copied(), 0, None);
    let (trees, omitted) = census.trees(TreeOrder::Processes, 10);
    // 12, the shell, waits for 13; 10, sshd, and its helpers have started others only.
    assert_eq!(pids(&trees), [(13, 41), (22, 2)]);
    assert_eq!(omitted, 0);
    // The kernel's own are nobody's.
    assert_eq!(census.living(), 48);
    let (trees, omitted) = census.trees(TreeOrder::Processes, 1);
    assert_eq!((pids(&trees), omitted), (vec![(13, 41)], 1));
    assert_eq!(census.living_of(&trees[0]).count(), 41);
    let places = census.find(&[100, 12, 22, 999].map(key));
    assert_eq!(places.iter().filter(|place| census.is_of(&trees[0], **place)).count(), 2);
    assert_eq!(places.len(), 3, "all that are there");
}

#[test]
fn a_loop_that_keeps_nothing_is_first_by_forks() {
    let mut all = desktop(40);
    let before = Census::new(all.iter().copied(), 1_000_000, None);
    assert_eq!((before.span_ns, before.forked()), (0, 0));
    // 23 starts one command after the other; one of them lives just now.
    for process in all.iter_mut().filter(|it| [1, 10, 21, 22, 23].contains(&it.key.tgid)) {
        process.forks += 500;
    }
    all.push(Counted { key: ProcessKey::new(900, 1_500_000), ..process(900, 23, 4) });
    let now = Census::new(all.iter().copied(), 2_000_000, Some(&before));
    assert_eq!((now.span_ns, now.forked()), (1_000_000, 500));
    let (trees, _) = now.trees(TreeOrder::Forks, 2);
    assert_eq!((trees[0].root, trees[0].forked, trees[0].grown), (key(23), 500, 1));
    // What does nothing comes behind it by its size.
    assert_eq!(trees[1].root, key(13));
    let (trees, _) = now.trees(TreeOrder::Growth, 1);
    assert_eq!((trees[0].root.tgid, trees[0].grown), (900, 1));
    let outstanding = now.outstanding(|_| None);
    assert_eq!(pids(&outstanding), [(23, 2), (900, 1), (13, 41), (22, 3)]);
    assert_eq!(pids(&before.outstanding(|_| None)), [(13, 41), (22, 2)]);
}

#[test]
fn one_process_with_all_the_memory_stands_out() {
    let mut all = desktop(40);
    // Two services beside the desktop: one holds 9 GiB, the other one grows by 40 MiB a second.
    all.extend([process(300, 1, 7), process(301, 300, 7), process(400, 1, 8)]);
    let (gib, mib) = (1_u64 << 30, 1_u64 << 20);
    let held = |root: ProcessKey| match root.tgid {
        300 => Some((9 * gib, mib)),
        301 => Some((9 * gib - mib, mib)),
        400 => Some((gib, 40 * mib)),
        13 => Some((2 * gib, 0)),
        _ => None,
    };
    let census = Census::new(all.iter().copied(), 0, None);
    // Of 300 and 301 the lower one, who carries it; make is there for its processes already.
    assert_eq!(pids(&census.outstanding(held)), [(13, 41), (22, 2), (301, 1), (400, 1)]);
}

#[test]
fn a_dead_root_stands_for_what_it_left() {
    let mut all: Vec<Counted> =
        (0..5).map(|n| process(30 + n, if n == 0 { 1 } else { 30 }, 1)).collect();
    all[0].alive = false;
    all.push(process(1, 0, 1));
    let (trees, _) = Census::new(all.iter().copied(), 0, None).trees(TreeOrder::Processes, 9);
    assert_eq!(pids(&trees), [(30, 4)]);
    assert!(!trees[0].alive);
}

#[test]
fn nobody_stands_above_the_first_process() {
    // As a torn snapshot has it: 5 carries nobody but pid 1, which is no tree.
    let torn = [process(5, 0, 1), process(1, 5, 1)];
    for order in [TreeOrder::Processes, TreeOrder::Growth] {
        assert_eq!(pids(&Census::new(torn.iter().copied(), 0, None).trees(order, 9).0), [(5, 1)]);
    }
}

#[test]
fn a_slot_that_somebody_else_has_is_not_compared() {
    let before = Census::new([Counted { forks: 90, ..process(5, 0, 1) }].into_iter(), 10_000, None);
    let reused = Counted { key: ProcessKey::new(5, 20_000), forks: 7, ..process(5, 0, 1) };
    let unseen = Counted { forks: 30, ..process(8, 0, 1) };
    let now = Census::new([reused, unseen].into_iter(), 30_000, Some(&before));
    let (trees, _) = now.trees(TreeOrder::Forks, 9);
    let changes: Vec<_> = trees.iter().map(|it| (it.root.tgid, it.forked, it.grown)).collect();
    assert_eq!(changes, [(5, 7, 1), (8, 0, 0)]);
}

#[test]
fn a_scope_has_its_own_trees() {
    let before = Census::new(desktop(3).iter().copied(), 1, None);
    let now = Census::new(desktop(9).iter().copied(), 2, Some(&before));
    let within = now.within(&HashSet::from([3]));
    assert_eq!((within.living(), within.span_ns), (11, 1));
    let (trees, _) = within.trees(TreeOrder::Processes, 9);
    assert_eq!(pids(&trees), [(13, 10)]);
    assert_eq!(within.trees(TreeOrder::Processes, 0).1, 1);
    assert_eq!(now.within(&HashSet::new()).living(), 0);
}

/// Processes with parents among those before them, some dead, in a few cgroups, perhaps torn.
fn anything() -> impl Strategy<Value = Vec<Counted>> {
    let one = (any::<u32>(), any::<bool>(), 0_u64..4, 0_u32..50, 0..20);
    proptest::collection::vec(one, 0..80).prop_map(|all| {
        let count = all.len() as u32;
        let each =
            all.into_iter().enumerate().map(|(index, (parent, alive, cgroup, forks, torn))| {
                let tgid = index as u32 + 1;
                let below = if torn == 0 { count } else { index as u32 };
                let parent = if below == 0 { 0 } else { parent % (below + 1) };
                Counted { alive, forks, ..process(tgid, parent, cgroup) }
            });
        each.collect()
    })
}

proptest! {
    #[test]
    fn no_two_trees_share_a_process_and_only_who_stands_above_one_is_in_none(
        then in anything(), now in anything(), order in 0..4, limit in 0_usize..20,
    ) {
        let order = TreeOrder::try_from(order).unwrap();
        let before = Census::new(then.iter().copied(), 500, None);
        let census = Census::new(now.iter().copied(), 1_000_000, Some(&before));
        let (all, omitted) = census.trees(order, usize::MAX);
        prop_assert_eq!(omitted, 0);
        let mut seen = HashSet::new();
        for tree in &all {
            let living: Vec<ProcessKey> = census.living_of(tree).collect();
            prop_assert!(tree.live > 0 && living.len() == tree.live as usize);
            prop_assert!(living.iter().all(|key| seen.insert(*key)), "twice");
        }
        let above = |key: ProcessKey| {
            let place = census.find(&[key])[0];
            !seen.contains(&key) && all.iter().any(|tree| census.is_of(tree, place))
        };
        let in_none = census.members.iter().map(|it| it.counted).filter(|it| it.alive && !seen.contains(&it.key));
        // pid 1 alone stands aside for nobody.
        prop_assert!(in_none.clone().all(|it| above(it.key) || it.key.tgid == INIT));
        prop_assert_eq!(census.living() as usize, seen.len() + in_none.count());

        let (some, omitted) = census.trees(order, limit);
        prop_assert_eq!(some.len() + omitted, all.len());
        prop_assert_eq!(&some[..], &all[..some.len()], "the limit changes nothing but the end");
        let held = |key: ProcessKey| Some((u64::from(key.tgid % 3), u64::from(key.tgid % 7)));
        prop_assert!(census.outstanding(held).len() <= 7);
    }

    #[test]
    fn where_nothing_has_changed_it_is_as_if_it_were_counted_anew(
        earlier in anything(), then in anything(),
        changed in proptest::option::of((any::<prop::sample::Index>(), 0..5)),
    ) {
        let before = Census::new(then.iter().copied(), 500, Some(&Census::new(earlier.iter().copied(), 100, None)));
        let mut now = then;
        if let Some((index, what)) = changed.filter(|_| !now.is_empty()) {
            let at = index.index(now.len());
            match what {
                0 => drop(now.remove(at)),
                1 => now[at].alive = !now[at].alive,
                2 => now[at].forks += 1,
                3 => now[at].cgroup += 1,
                _ => now[at].signature += 1,
            }
        }
        let mut anew = Census { at_ns: 900, span_ns: 400, ..Census::default() };
        anew.enter(&now);
        anew.add_up();
        anew.compare(&before);
        let census = Census::new(now.iter().copied(), 900, Some(&before));
        prop_assert_eq!((census.at_ns, census.span_ns), (anew.at_ns, anew.span_ns));
        prop_assert_eq!(format!("{:?}", census.members), format!("{:?}", anew.members));
        prop_assert!(now.iter().all(|it| census.place(it.slot) == anew.place(it.slot)));

        let rests = Census::new(now.iter().copied(), 1_000, Some(&census));
        prop_assert!(!rests.has_only(now.iter().copied()) || rests.forked() == 0);
        let still = Census::new(now.iter().copied(), 1_100, Some(&rests));
        prop_assert_eq!(still.rests_since(&rests), rests.has_only(now.iter().copied()));
        prop_assert_eq!((still.at_ns, still.span_ns), (1_100, 100));
    }
}
