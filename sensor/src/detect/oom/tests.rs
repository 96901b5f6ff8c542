use super::{
    culprit::{Blame, Growth, blame},
    *,
};
use crate::proto::{Actor, HostMemory, Measure, MemorySample, OomHolder, TreeMemory};

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
fn services_of_one_manager_are_a_loop_each() {
    let service = |pid, seconds, group: &str, signature, limit_mib: u64| {
        let limit = Some(limit_mib * MIB);
        let mut kill = kill(pid, seconds, group, signature);
        kill.victim.as_mut().unwrap().parent = Some(process(3));
        OomKill { limit_bytes: limit, limit_used_bytes: limit, ..kill }
    };
    let mut kills = Kills::default();
    let mut took = |kill: OomKill| {
        let (step, case) = kills.took(&kill);
        (step, case.number, case.looping)
    };
    assert_eq!(took(service(5, 0, "/a", 1, 100)), (Step::First, 1, false));
    assert_eq!(took(service(6, 60, "/b", 2, 100)), (Step::First, 2, false), "another command");
    assert_eq!(took(service(7, 120, "/c", 1, 200)), (Step::First, 3, false), "another limit");
    // As a supervisor of containers starts one again.
    assert_eq!(took(service(8, 180, "/d", 1, 100)), (Step::Again, 1, true));
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

/// Everybody was born within the first microsecond.
fn sample(seconds: u64, trees: Vec<TreeMemory>) -> MemorySample {
    MemorySample { at_ns: (seconds * SECOND).max(1_000), trees, ..MemorySample::default() }
}

/// 20 holds much and does nothing; 30, below 10, grows from 40 to 640 MiB in a minute; 40 is killed.
fn minute() -> Vec<MemorySample> {
    let trees = |seconds: u64| {
        let leak = (40 + 10 * seconds) * MIB;
        vec![tree(10, 3, leak + 20 * MIB), tree(20, 1, 2000 * MIB), tree(30, 1, leak)]
    };
    (0..=60).map(|seconds| sample(seconds, trees(seconds))).collect()
}

/// As a host of 2 GiB has it, of which so much is available at each second.
fn on_host(mut samples: Vec<MemorySample>, available: impl Fn(u64) -> u64) -> Vec<MemorySample> {
    for sample in &mut samples {
        sample.host = Some(HostMemory {
            total_bytes: Some(2048 * MIB),
            available_bytes: Some(available(sample.at_ns / SECOND)),
            ..HostMemory::default()
        });
    }
    samples
}

fn blamed(samples: &[MemorySample], oom: &Oom, growths: &[Growth]) -> Blame {
    let samples: Vec<&MemorySample> = samples.iter().collect();
    blame(oom, &samples, growths)
}

fn whom(blame: &Blame) -> Option<u32> {
    blame.culprit.map(|key| key.tgid)
}

fn pids(holders: &[OomHolder]) -> Vec<u32> {
    holders.iter().map(|one| one.root.unwrap().pid).collect()
}

/// What a kill of this one alone came to, on a host or at its limit.
fn one(kill: OomKill) -> Oom {
    let mut kills = Kills::default();
    kills.took(&kill).1.oom.clone()
}

#[test]
fn the_one_that_grew_is_to_blame_and_not_the_victim() {
    let samples = on_host(minute(), |_| 0);
    let victim = of_host(OomKill { anon_bytes: Some(100 * MIB), ..kill(40, 61, "/", 1) });
    let found = blamed(&samples, &one(victim), &[]);
    let told: Vec<(u32, u64)> =
        found.holders.iter().map(|one| (one.root.unwrap().pid, one.grown_bytes / MIB)).collect();
    // Of equal growth the one that holds more; the victim is known to have had under 64 MiB a second ago.
    assert_eq!(told, [(10, 600), (30, 600), (40, 100), (20, 0)]);
    assert_eq!(found.holders[1].grown_ns, 55 * SECOND);
    assert_eq!(whom(&found), Some(30));
}

/// 30, below 10, is born after half a minute, and takes 50 MiB a second. The first samples do not list it.
fn young(omitted: u32) -> (Vec<MemorySample>, OomKill) {
    let born = proto::ProcessKey { pid: 30, start_ns: 30 * SECOND };
    let samples = (0..=44).map(|at: u64| {
        let took = 50 * MIB * at.saturating_sub(30);
        let mut trees = vec![tree(10, 2, 80 * MIB + took), tree(20, 1, 900 * MIB)];
        trees.extend((at >= 34).then(|| TreeMemory { root: Some(born), ..tree(30, 1, took) }));
        MemorySample { omitted, ..sample(at, trees) }
    });
    let mut kill = of_host(OomKill { anon_bytes: Some(720 * MIB), ..kill(30, 45, "/", 1) });
    kill.victim.as_mut().unwrap().process = Some(born);
    (on_host(samples.collect(), |at| (1000 - 20 * at) * MIB), kill)
}

#[test]
fn who_was_not_there_or_not_listed_before_has_grown_since() {
    for omitted in [0, 1] {
        let (samples, kill) = young(omitted);
        let found = blamed(&samples, &one(kill.clone()), &[]);
        let of_it = found.holders.iter().find(|one| one.root.unwrap().pid == 30).unwrap();
        assert_eq!((of_it.grown_bytes / MIB, of_it.grown_ns / SECOND), (720, 15));
        assert_eq!(whom(&found), Some(30));
        // Who is above it is known to grow, and its forecast says by more.
        let measure =
            |name: &str, value: f64| Measure { name: name.into(), value, ..Measure::default() };
        let measures = [
            measure("grown", (500 * MIB) as f64),
            measure("over", 30.0),
            measure("slope", (60 * MIB) as f64),
        ];
        let above = Growth::of("i1", vec![key(process(10))], 40 * SECOND, &measures).unwrap();
        let found = blamed(&samples, &one(kill), &[above]);
        assert_eq!(whom(&found), Some(30));
    }
    // There long before, and too small to be listed; where others were left out, nobody knows what it had.
    for (omitted, mib) in [(0, 656), (1, 520)] {
        let (mut samples, mut kill) = young(omitted);
        let before = Some(process(30));
        for tree in samples.iter_mut().filter_map(|sample| sample.trees.get_mut(2)) {
            tree.root = before;
        }
        kill.victim.as_mut().unwrap().process = before;
        let found = blamed(&samples, &one(kill), &[]);
        let of_it = found.holders.iter().find(|one| one.root == before).unwrap();
        assert_eq!(of_it.grown_bytes / MIB, mib);
    }
}

#[test]
fn of_a_limit_only_those_that_it_limits() {
    let mut samples = minute();
    for sample in &mut samples {
        sample.trees[2].limit_bytes = Some(700 * MIB);
    }
    let victim = OomKill {
        anon_bytes: Some(690 * MIB),
        limit_bytes: Some(700 * MIB),
        limit_used_bytes: Some(700 * MIB),
        ..kill(30, 61, "/a", 1)
    };
    let found = blamed(&samples, &one(victim), &[]);
    assert_eq!(pids(&found.holders), [30]);
    // The victim's own end is the last that is known of it.
    assert_eq!(found.holders[0].bytes / MIB, 690);
    assert_eq!(found.holders[0].grown_bytes / MIB, 650);
}

/// Two of a pod's replicas have limits of 100 MiB: 30 fills its own, and 40 grows faster below another one.
fn replicas() -> Vec<MemorySample> {
    let of = |pid: u32, group: u64, bytes: u64| TreeMemory {
        cgroup: group,
        limit_bytes: Some(100 * MIB),
        limit_used_bytes: Some(bytes),
        limit_cgroup_id: group,
        ..tree(pid, 1, bytes)
    };
    let trees = |seconds: u64| vec![of(30, 7, (50 + seconds) * MIB), of(40, 8, seconds * 2 * MIB)];
    (0..=40).map(|seconds| sample(seconds, trees(seconds))).collect()
}

#[test]
fn an_equal_limit_of_somebody_else_is_another_limit() {
    let victim =
        OomKill { limit_cgroup_id: 7, victim_cgroup_id: 7, ..kill(30, 41, "/pods/seven", 1) };
    let found = blamed(&replicas(), &one(victim.clone()), &[]);
    assert_eq!(pids(&found.holders), [30]);
    assert_eq!(whom(&found), Some(30));
    // As the kernel's log tells the path, also out of a namespace.
    let mut oom = one(victim.clone());
    oom.cgroup = "/docker/1/pods/seven".into();
    assert_eq!(pids(&blamed(&replicas(), &oom, &[]).holders), [30]);
    // Where nobody knows whose limit it was, the number has to do.
    let unknown = OomKill { limit_cgroup_id: 0, victim_cgroup_id: 1, ..victim };
    assert_eq!(pids(&blamed(&replicas(), &one(unknown), &[]).holders), [40, 30]);
}

#[test]
fn what_the_kernels_log_says_decides_who_is_looked_at() {
    // By the counters a limit was met, but it was the host that was full.
    let victim =
        OomKill { limit_cgroup_id: 7, victim_cgroup_id: 7, ..kill(30, 41, "/pods/seven", 1) };
    let mut oom = one(victim);
    oom.set_scope(OomScope::Host);
    (oom.limit_bytes, oom.cgroup) = (None, String::new());
    let found = blamed(&on_host(replicas(), |at| (90 - 2 * at) * MIB), &oom, &[]);
    assert_eq!((pids(&found.holders), whom(&found)), (vec![40, 30], Some(40)));
}

/// 20 holds 1200 of 2048 MiB and does nothing; 30 grows by 5 MiB a minute, for a quarter of an hour.
fn slow() -> Vec<MemorySample> {
    let trees = |at: u64| vec![tree(20, 1, 1200 * MIB), tree(30, 1, 600 * MIB + at * 5 * MIB / 60)];
    (0..=180).map(|step| sample(step * 5, trees(step * 5))).collect()
}

fn killed_after_slow() -> Oom {
    one(of_host(OomKill { anon_bytes: Some(4 * MIB), ..kill(40, 901, "/", 1) }))
}

#[test]
fn who_took_half_of_what_was_lost_is_to_blame() {
    let lost = |each_minute: u64| {
        let samples = on_host(slow(), |at| 400 * MIB - at * each_minute * MIB / 60);
        whom(&blamed(&samples, &killed_after_slow(), &[]))
    };
    // 75 MiB of 75, and of 150; of 225 it is a third, and then the one that holds most is.
    assert_eq!((lost(5), lost(10), lost(15)), (Some(30), Some(30), Some(20)));
    // A quarter of an hour of little says nothing.
    let samples = on_host(slow(), |at| 400 * MIB - at * 5 * MIB / 60);
    let brief: Vec<MemorySample> = samples.into_iter().skip(120).collect();
    assert_eq!(whom(&blamed(&brief, &killed_after_slow(), &[])), Some(20));
}

#[test]
fn free_swap_is_lost_as_well() {
    let mut samples = on_host(slow(), |_| 20 * MIB);
    for sample in &mut samples {
        let at = sample.at_ns / SECOND;
        let host = sample.host.as_mut().unwrap();
        host.swap_free_bytes = Some(1000 * MIB - at * MIB);
    }
    assert_eq!(whom(&blamed(&samples, &killed_after_slow(), &[])), Some(20), "75 of 900 MiB");
}

/// An incident about these, told `told` seconds after boot: 400 MiB in 80 minutes.
fn growth(incident: &str, pid: u32, told: u64) -> Growth {
    let measure =
        |name: &str, value: f64| Measure { name: name.into(), value, ..Measure::default() };
    let measures = [
        measure("grown", (400 * MIB) as f64),
        measure("over", 4800.0),
        measure("slope", (5 * MIB / 60) as f64),
    ];
    Growth::of(incident, vec![key(process(pid))], told * SECOND, &measures).unwrap()
}

#[test]
fn who_is_known_to_leak_is_to_blame() {
    // Half a MiB a minute would say nothing by itself.
    let mut samples = on_host(slow(), |_| 30 * MIB);
    for sample in &mut samples {
        let at = sample.at_ns / SECOND;
        sample.trees[1] = tree(30, 1, 600 * MIB + at * MIB / 120);
    }
    let found = blamed(&samples, &killed_after_slow(), &[]);
    assert_eq!((whom(&found), found.growth), (Some(20), None), "it holds the better half");
    let known = [growth("i1", 30, 800)];
    let found = blamed(&samples, &killed_after_slow(), &known);
    assert_eq!((whom(&found), found.growth.as_ref()), (Some(30), known.first()));
    // One of somebody who is gone, or has no bytes, says nothing.
    let gone = [growth("i2", 99, 800)];
    assert_eq!(whom(&blamed(&samples, &killed_after_slow(), &gone)), Some(20));
    assert_eq!(Growth::of("i3", vec![key(process(30))], 0, &[]), None);
    assert_eq!(Growth::of("i4", Vec::new(), 0, &growth_measures()), None);
}

/// 10, a shell, starts 20, which takes 180 MiB within two seconds and no more, and 30, which leaks 4 MiB a second: so at
/// each second, in a group of 300 MiB.
fn beside_a_leak() -> Vec<MemorySample> {
    let at = |seconds: u64| {
        let (steady, leak) = (90 * MIB * seconds.min(2), 4 * MIB * seconds);
        let below = |tree: TreeMemory| TreeMemory { parent: Some(process(10)), ..tree };
        let trees = [
            tree(10, 3, 2 * MIB + steady + leak),
            below(tree(20, 1, steady)),
            below(tree(30, 1, leak)),
        ];
        let limited = |tree| TreeMemory { limit_bytes: Some(300 * MIB), ..tree };
        sample(seconds, trees.map(limited).to_vec())
    };
    (0..=29).map(at).collect()
}

fn killed_beside_a_leak() -> Oom {
    let limit = Some(300 * MIB);
    let sizes = OomKill { anon_bytes: Some(180 * MIB), file_bytes: None, ..kill(20, 30, "/a", 1) };
    one(OomKill { limit_bytes: limit, limit_used_bytes: limit, ..sizes })
}

/// An incident about one of them, as it was told after 20 s: a leak of so many seconds.
fn told_of(pid: u32, seconds: u64) -> Growth {
    let measure =
        |name: &str, value: f64| Measure { name: name.into(), value, ..Measure::default() };
    let measures = [
        measure("grown", (seconds * 4 * MIB) as f64),
        measure("over", seconds as f64),
        measure("slope", (4 * MIB) as f64),
    ];
    Growth::of("i1", vec![key(process(pid))], 20 * SECOND, &measures).unwrap()
}

#[test]
fn who_started_the_one_that_leaks_has_not_grown_by_as_much() {
    let (samples, oom) = (beside_a_leak(), killed_beside_a_leak());
    let found = blamed(&samples, &oom, &[told_of(30, 15)]);
    assert_eq!((whom(&found), found.growth.is_some()), (Some(30), true));
    // Also where the shell's tree is known to grow.
    let found = blamed(&samples, &oom, &[told_of(10, 18), told_of(30, 15)]);
    assert_eq!(whom(&found), Some(30));
    // Nothing is known but that the shell's tree grew: 20 has 61 % of it.
    assert_eq!(whom(&blamed(&samples, &oom, &[])), Some(10));
    // It began with 20, which took more since.
    assert_eq!(whom(&blamed(&samples, &oom, &[told_of(30, 20)])), Some(10));
    // 36 MiB are no quarter of the limit, and no half of what was lost.
    let small: Vec<MemorySample> = beside_a_leak()
        .into_iter()
        .map(|mut sample| {
            sample.trees[2].bytes /= 4;
            sample
        })
        .collect();
    assert_eq!(whom(&blamed(&small, &oom, &[told_of(30, 15)])), Some(10));
}

#[test]
fn who_started_a_leak_of_hours_has_not_grown_by_as_much() {
    // 30 leaks 75 MiB in a quarter of an hour, and 20 beside it takes 345: less than 400.
    let mut samples = on_host(slow(), |at| 450 * MIB - at * MIB / 2);
    for sample in &mut samples {
        let at = sample.at_ns / SECOND;
        let other = 20 * MIB + at * 345 * MIB / 900;
        let leak = sample.trees[1].bytes;
        let below = |tree: TreeMemory| TreeMemory { parent: Some(process(10)), ..tree };
        sample.trees =
            vec![tree(10, 3, other + leak), below(tree(20, 1, other)), below(tree(30, 1, leak))];
    }
    let found = blamed(&samples, &killed_after_slow(), &[growth("i1", 30, 800)]);
    assert_eq!((whom(&found), found.growth.is_some()), (Some(30), true));
    // 20 has 82 % of it, and of what grew lately no more.
    assert_eq!(whom(&blamed(&samples, &killed_after_slow(), &[])), Some(10));
}

#[test]
fn who_grew_lately_and_most_is_to_blame_and_not_who_started_it() {
    // 20 takes 100 MiB within its first seconds, 30 beside it 10 MiB a second.
    let trees = |seconds: u64, parent: Option<proto::ProcessKey>| {
        let (steady, leak) = (50 * MIB * seconds.min(2), 10 * MIB * seconds);
        let below = |tree: TreeMemory| TreeMemory { parent, ..tree };
        vec![
            tree(10, 3, 80 * MIB + steady + leak),
            below(tree(20, 1, steady)),
            below(tree(30, 1, leak)),
        ]
    };
    let of = |last: u64, parent: Option<proto::ProcessKey>| {
        let samples: Vec<MemorySample> =
            (0..=last).map(|at| sample(at, trees(at, parent))).collect();
        let samples = on_host(samples, |at| (900 - 10 * at) * MIB);
        let victim = of_host(OomKill { anon_bytes: Some(MIB), ..kill(40, last + 1, "/", 1) });
        whom(&blamed(&samples, &one(victim), &[]))
    };
    let shell = Some(process(10));
    assert_eq!(of(60, shell), Some(30), "600 of 700 MiB");
    assert_eq!(of(15, shell), Some(10), "150 of 250 MiB");
    assert_eq!(of(60, None), Some(10), "nobody knows that it is below");
}

#[test]
fn who_only_stands_above_what_holds_the_memory_is_not_told_of() {
    let mut samples = minute();
    let above = |samples: &mut Vec<MemorySample>| {
        for sample in samples {
            sample.trees[2].parent = Some(process(10));
        }
    };
    above(&mut samples);
    let victim = of_host(OomKill { anon_bytes: Some(100 * MIB), ..kill(40, 61, "/", 1) });
    let found = blamed(&on_host(samples, |_| 0), &one(victim), &[]);
    assert_eq!((pids(&found.holders), whom(&found)), (vec![30, 40, 20], Some(30)));
    // Beside what 30 has there is what 20 has.
    let found = blamed(&beside_a_leak(), &killed_beside_a_leak(), &[]);
    assert_eq!(pids(&found.holders), [10, 20, 30]);
}

#[test]
fn a_record_by_which_somebody_is_above_itself_ends_no_walk() {
    let mut samples = minute();
    for sample in &mut samples {
        sample.trees[0].parent = Some(process(30));
        sample.trees[2].parent = Some(process(10));
    }
    let victim = of_host(OomKill { anon_bytes: Some(100 * MIB), ..kill(40, 61, "/", 1) });
    assert!(whom(&blamed(&on_host(samples, |_| 0), &one(victim), &[])).is_some());
}

fn growth_measures() -> [Measure; 3] {
    ["grown", "over", "slope"].map(|name| Measure {
        name: name.into(),
        value: 1.0,
        ..Measure::default()
    })
}

#[test]
fn who_took_more_at_once_than_a_leak_in_hours_is_to_blame() {
    // 30 took 600 MiB of 2048 in a minute; 20 is known to leak.
    let samples = on_host(minute(), |at| (700 - 10 * at) * MIB);
    let victim = of_host(OomKill { anon_bytes: Some(100 * MIB), ..kill(40, 61, "/", 1) });
    let of = |told| whom(&blamed(&samples, &one(victim.clone()), &[growth("i1", 20, told)]));
    assert_eq!(of(60), Some(30), "400 MiB");
    let long =
        Oom { victims: vec![OomKill { at_ns: 10_061 * SECOND, ..victim.clone() }], ..one(victim) };
    let mut later = samples;
    for sample in &mut later {
        sample.at_ns += 10_000 * SECOND;
    }
    let found = blamed(&later, &long, &[growth("i1", 20, 60)]);
    assert_eq!(whom(&found), Some(20), "1.2 GiB by now");
}

#[test]
fn without_samples_the_one_that_holds_the_better_half() {
    let young = kill(5, 1, "/a", 1);
    let small = OomKill { anon_bytes: Some(10 * MIB), ..kill(6, 1, "/a", 1) };
    let old = |victims: &[OomKill]| {
        let mut oom = one(small.clone());
        oom.victims = victims.to_vec();
        whom(&blamed(&[], &oom, &[]))
    };
    assert_eq!(old(&[small.clone(), young]), Some(5));
    assert_eq!(old(std::slice::from_ref(&small)), None);
    assert_eq!(old(&[]), None);
    // Nobody knows how much the host has.
    assert_eq!(whom(&blamed(&[], &one(of_host(small)), &[])), None);
}

const GIB: u64 = 1 << 30;

/// A server of 16 GiB: 10 has 4 GiB that all its children share and 1 GiB of its own, of which child 11 has all since its
/// fork and some more; 20 leaks 4 GiB in five minutes.
fn server() -> Vec<MemorySample> {
    let child = |pid: u32, bytes: u64, root_bytes: u64| TreeMemory {
        parent: Some(process(10)),
        alive: true,
        root_bytes,
        ..tree(pid, 1, bytes)
    };
    let trees = |at: u64| {
        // 12 came in the last minute, and has touched all of the buffers since.
        let touched = 4 * GIB * at.saturating_sub(240) / 60;
        vec![
            TreeMemory { alive: true, root_bytes: 5 * GIB, ..tree(10, 3, 5 * GIB + 60 * MIB) },
            child(11, 4 * GIB + 30 * MIB, 30 * MIB),
            child(12, touched + 30 * MIB, 30 * MIB),
            TreeMemory { alive: true, ..tree(20, 1, 6 * GIB + at * 4 * GIB / 300) },
        ]
    };
    let mut samples: Vec<MemorySample> =
        (0..=60).map(|step| sample(step * 5, trees(step * 5))).collect();
    for sample in &mut samples {
        let host = HostMemory { total_bytes: Some(16 * GIB), ..HostMemory::default() };
        sample.host = Some(host);
    }
    samples
}

/// One of the server's children is killed, which has 1 GiB and 30 MiB, and has touched 4 GiB.
fn forked(pid: u32, shared_bytes: Option<u64>) -> OomKill {
    of_host(OomKill {
        anon_bytes: Some(GIB + 30 * MIB),
        shmem_bytes: Some(4 * GIB),
        shared_bytes,
        ..kill(pid, 301, "/", 0)
    })
}

#[test]
fn what_a_victim_shares_it_has_not_taken() {
    let told = |kill: OomKill| {
        let found = blamed(&server(), &one(kill), &[]);
        let grown = |one: &OomHolder| (one.root.unwrap().pid, one.grown_bytes / MIB);
        let told: Vec<(u32, u64)> = found.holders.iter().map(grown).collect();
        (whom(&found), told)
    };
    let wanted = vec![(20, 4096), (10, 0), (11, 0), (12, 0)];
    // 11 is known to share it; of what only forked nobody knows, and then the samples have to do; and 12 likewise.
    for victim in
        [forked(11, Some(5 * GIB)), forked(11, None), forked(12, Some(5 * GIB)), forked(12, None)]
    {
        assert_eq!(told(victim), (Some(20), wanted.clone()));
    }
    // A child that no sample has: it has written to 30 MiB.
    let (culprit, grown) = told(forked(13, Some(5 * GIB)));
    assert_eq!((culprit, grown[1]), (Some(20), (13, 30)));
    let (culprit, grown) = told(forked(13, None));
    assert_eq!((culprit, grown.contains(&(13, 0))), (Some(20), true));
    // What it has taken since its fork counts as it does of anybody.
    let eats = OomKill { anon_bytes: Some(6 * GIB), ..forked(13, Some(5 * GIB)) };
    assert_eq!((told(eats.clone()).0, held(&eats)), (Some(13), 5 * GIB));
}

#[test]
fn what_all_of_them_share_counts_once_in_what_was_held() {
    let mut kills = Kills::default();
    for pid in 11..15 {
        kills.took(&forked(pid, Some(5 * GIB)));
    }
    let measures = kills.case(1).unwrap().finding(None).measures;
    let held = measures.iter().find(|one| one.name == "held").map(|one| one.value);
    assert_eq!(held, Some(120.0), "30 MiB each");
}

#[test]
fn who_holds_most_is_not_who_shares_it() {
    // In a container of 8 GiB the server's buffers are the better half: the server has them, and no child.
    let samples = on_host(server(), |_| GIB);
    let before: Vec<MemorySample> = samples
        .into_iter()
        .map(|mut sample| {
            sample.trees.truncate(2);
            sample.host.as_mut().unwrap().total_bytes = Some(8 * GIB);
            sample
        })
        .collect();
    for shared in [Some(5 * GIB), None] {
        assert_eq!(whom(&blamed(&before, &one(forked(11, shared)), &[])), Some(10));
        assert_eq!(whom(&blamed(&[], &one(forked(11, shared)), &[])), None);
    }
}
