use super::{holders::*, *};
use crate::proto::{Actor, MemorySample, TreeMemory};

const MIB: u64 = 1 << 20;

fn process(pid: u32) -> proto::ProcessKey {
    proto::ProcessKey { pid, start_ns: u64::from(pid) * 10 }
}

/// A victim in `group`, whose limit of 100 MiB is met.
fn kill(pid: u32, seconds: u64, group: &str, signature: u64) -> OomKill {
    OomKill {
        at_ns: seconds * SECOND,
        victim: Some(Actor {
            process: Some(process(pid)),
            cgroup: group.into(),
            signature,
            ..Actor::default()
        }),
        anon_bytes: Some(90 * MIB),
        file_bytes: Some(5 * MIB),
        limit_bytes: Some(100 * MIB),
        limit_used_bytes: Some(100 * MIB),
        limit_cgroup: group.into(),
        ..OomKill::default()
    }
}

/// The same where no limit was met.
fn of_host(kill: OomKill) -> OomKill {
    OomKill { limit_bytes: None, limit_used_bytes: None, limit_cgroup: String::new(), ..kill }
}

#[test]
fn three_victims_are_one_kill() {
    let mut kills = Kills::default();
    for (pid, wanted) in [(5, Step::First), (6, Step::Victim), (7, Step::Victim)] {
        let (step, case) = kills.took(&kill(pid, 100, "/a", 1));
        assert_eq!((step, case.number), (wanted, 1));
    }
    let case = kills.case(1).unwrap();
    assert_eq!((case.oom.kills, case.oom.killed, case.oom.victims.len()), (1, 3, 3));
    assert_eq!((case.oom.limit_bytes, case.oom.scope()), (Some(100 * MIB), OomScope::Cgroup));
    let finding = case.finding(None);
    assert_eq!((finding.kind, finding.rule), (Kind::OomKill, "oom_kill"));
    let told: Vec<(&str, f64)> =
        finding.measures.iter().map(|one| (one.name.as_str(), one.value)).collect();
    assert_eq!(told, [("victims", 3.0), ("held", 270.0), ("used", 100.0)]);
}

#[test]
fn kills_that_come_back_in_a_group_are_a_loop() {
    let mut kills = Kills::default();
    kills.took(&kill(5, 100, "/a", 1));
    // Another group is another cause, also at the same moment.
    assert_eq!(kills.took(&kill(50, 100, "/b", 9)).0, Step::First);
    let (step, case) = kills.took(&kill(6, 130, "/a", 2));
    assert_eq!((step, case.looping, case.number), (Step::Again, true, 1));
    assert_eq!((case.oom.kills, case.oom.killed, case.oom.period_ns), (2, 2, 30 * SECOND));
    assert_eq!(case.oom.victims.len(), 1, "of the newest");
    for seconds in [160, 190, 220] {
        assert_eq!(kills.took(&kill(7, seconds, "/a", 2)).0, Step::Again);
    }
    let case = kills.case(1).unwrap();
    assert_eq!((case.oom.kills, case.spread()), (5, Some(0.0)));
    assert_eq!(case.finding(None).kind, Kind::OomLoop);
    // After ten minutes it is forgotten there.
    assert_eq!(kills.took(&kill(8, 220 + 601, "/a", 3)).0, Step::First);
}

#[test]
fn a_command_that_is_killed_wherever_it_runs_is_a_loop_at_the_third_time() {
    let mut kills = Kills::default();
    let looping = |kills: &mut Kills, seconds: u64, group: &str| {
        let (_, case) = kills.took(&kill(5, seconds, group, 7));
        (case.number, case.looping)
    };
    assert_eq!(looping(&mut kills, 0, "/pod-1"), (1, false));
    assert_eq!(looping(&mut kills, 900, "/pod-2"), (1, false));
    assert_eq!(looping(&mut kills, 1800, "/pod-3"), (1, true));
    // Of a host that is full each is somebody else.
    let mut kills = Kills::default();
    let (first, second) = (of_host(kill(5, 0, "/", 1)), of_host(kill(6, 60, "/", 2)));
    assert_eq!(kills.took(&first).0, Step::First);
    let (step, case) = kills.took(&second);
    assert_eq!((step, case.number, case.oom.scope()), (Step::First, 2, OomScope::Unspecified));
}

#[test]
fn who_was_born_after_a_kill_is_the_next_one() {
    let mut kills = Kills::default();
    kills.took(&kill(5, 100, "/a", 1));
    let mut next = kill(6, 100, "/a", 1);
    next.at_ns += SECOND / 2;
    next.victim.as_mut().unwrap().process.as_mut().unwrap().start_ns = 100 * SECOND + 1;
    let (step, case) = kills.took(&next);
    assert_eq!((step, case.looping, case.oom.period_ns), (Step::Again, true, SECOND / 2));
}

#[test]
fn below_one_parent_it_is_a_loop_too() {
    let mut kills = Kills::default();
    let child = |pid, seconds| {
        let mut kill = of_host(kill(pid, seconds, "/", pid.into()));
        kill.victim.as_mut().unwrap().parent = Some(process(3));
        kill
    };
    assert_eq!(kills.took(&child(5, 0)).0, Step::First);
    let (step, case) = kills.took(&child(6, 60));
    assert_eq!((step, case.looping), (Step::Again, true));
}

#[test]
fn a_group_that_dies_with_the_groups_below_it_is_one_kill() {
    let mut kills = Kills::default();
    let asked_by = |kill: OomKill, pid: u32| OomKill {
        trigger: Some(Actor { process: Some(process(pid)), ..Actor::default() }),
        ..kill
    };
    // Once the first is gone the limit is met no more: each is in a group of its own.
    assert_eq!(kills.took(&asked_by(kill(5, 100, "/a", 1), 9)).0, Step::First);
    let (step, case) = kills.took(&asked_by(of_host(kill(6, 100, "/a/b", 2)), 9));
    assert_eq!((step, case.number), (Step::Victim, 1));
    let (step, case) = kills.took(&asked_by(of_host(kill(7, 100, "/a/c", 3)), 9));
    assert_eq!((step, case.oom.kills, case.oom.killed), (Step::Victim, 1, 3));
    assert_eq!((case.oom.scope(), case.oom.cgroup.as_str()), (OomScope::Cgroup, "/a"));
    // Somebody else's need at the same moment is another cause, and so is the same one's later on.
    assert_eq!(kills.took(&asked_by(kill(8, 100, "/d", 4), 8)).0, Step::First);
    assert_eq!(kills.took(&asked_by(kill(4, 102, "/e", 5), 9)).0, Step::First);
}

#[test]
fn what_is_remembered_has_bounds() {
    let mut kills = Kills::default();
    for number in 0..1000 {
        kills.took(&kill(number, number.into(), &format!("/{number}"), number.into()));
        for _ in 0..3 {
            kills.took(&kill(number, number.into(), &format!("/{number}"), number.into()));
        }
    }
    assert_eq!(kills.cases.len(), CASES);
    let mut kills = Kills::default();
    for number in 0..100 {
        kills.took(&kill(number, 5, "/a", 1));
    }
    let case = kills.case(1).unwrap();
    assert_eq!((case.oom.victims.len(), case.oom.killed), (VICTIMS, 100));
}

fn tree(pid: u32, processes: u32, bytes: u64) -> TreeMemory {
    TreeMemory {
        root: Some(process(pid)),
        processes,
        bytes,
        root_bytes: bytes,
        cgroup: 4,
        ..TreeMemory::default()
    }
}

fn sample(seconds: u64, trees: Vec<TreeMemory>) -> MemorySample {
    MemorySample { at_ns: seconds * SECOND, trees, ..MemorySample::default() }
}

/// 20 holds much and does nothing; 30, below 10, grows from 40 to 640 MiB in a minute; 40 is killed.
fn minute() -> Vec<MemorySample> {
    let trees = |seconds: u64| {
        let leak = (40 + 10 * seconds) * MIB;
        vec![tree(10, 3, leak + 20 * MIB), tree(20, 1, 2000 * MIB), tree(30, 1, leak)]
    };
    (0..=60).map(|seconds| sample(seconds, trees(seconds))).collect()
}

#[test]
fn the_one_that_grew_is_to_blame_and_not_the_victim() {
    let samples = minute();
    let samples: Vec<&MemorySample> = samples.iter().collect();
    let victims = [of_host(OomKill { anon_bytes: Some(100 * MIB), ..kill(40, 61, "/", 1) })];
    let found = holders(&samples, &victims, &[], None);
    let told: Vec<(u32, u64)> =
        found.iter().map(|one| (one.root.unwrap().pid, one.grown_bytes / MIB)).collect();
    // Of equal growth the one that holds more; the victim is known to have had under 64 MiB a second ago.
    assert_eq!(told, [(10, 600), (30, 600), (40, 100), (20, 0)]);
    assert_eq!(found[1].grown_ns, 55 * SECOND);
    let culprit = culprit(&found, &victims, 2048 * MIB);
    assert_eq!(culprit.map(|key| key.tgid), Some(30));
}

#[test]
fn of_a_limit_only_those_that_it_limits() {
    let mut samples = minute();
    for sample in &mut samples {
        sample.trees[1].cgroup = 9;
        sample.trees[2].cgroup = 9;
        sample.trees[2].limit_bytes = Some(700 * MIB);
    }
    let samples: Vec<&MemorySample> = samples.iter().collect();
    let victims = [OomKill { anon_bytes: Some(690 * MIB), ..kill(30, 61, "/a", 1) }];
    let found = holders(&samples, &victims, &[], Some(700 * MIB));
    assert_eq!(found.len(), 1);
    // The victim's own end is the last that is known of it.
    assert_eq!((found[0].bytes / MIB, found[0].grown_bytes / MIB), (690, 650));
}

#[test]
fn without_samples_the_one_that_holds_the_better_half() {
    let young = kill(5, 1, "/a", 1);
    let small = OomKill { anon_bytes: Some(10 * MIB), ..kill(6, 1, "/a", 1) };
    let short = 100 * MIB;
    let old = |victims: &[OomKill]| {
        let none: [&MemorySample; 0] = [];
        let found = holders(&none, victims, &[], Some(short));
        culprit(&found, victims, short).map(|key| key.tgid)
    };
    assert_eq!(old(&[small.clone(), young]), Some(5));
    assert_eq!(old(&[small]), None);
    assert_eq!(old(&[]), None);
}
