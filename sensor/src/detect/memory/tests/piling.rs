//! Stories of processes that pile up, living or ended, and of whose cause that is.

use super::{
    findings,
    host::{GIB, HOUR, Host, MIB, MINUTE, Process},
    service, short, value,
};
use crate::{
    detect::memory::{Told, severity},
    proto::Severity,
};

/// A tool that starts a worker every five seconds and waits for none.
fn workers(at: u64, orphans: bool) -> Vec<Process> {
    let mut all = vec![
        Process::new(10, 4 * MIB),
        Process::new(20, 60 * MIB).below(10).runs(1),
        Process::new(30, 300 * MIB).below(10),
    ];
    for count in 0..at / 5 {
        let pid = 1000 + 2 * count as u32;
        let born = count * 5;
        if orphans {
            all.push(Process::new(pid, 0).below(20).runs(1).born(born).dead());
            all.push(Process::new(pid + 1, 20 * MIB).below(pid).runs(2).born(born));
        } else {
            all.push(Process::new(pid, 20 * MIB).below(20).runs(2).born(born));
        }
    }
    all
}

#[test]
fn workers_that_pile_up_are_their_spawners() {
    for orphans in [false, true] {
        let told = Host::of_gib(16, 5).watch(25 * MINUTE, |at| workers(at, orphans));
        let found = findings(&told);
        assert_eq!(short(&told)[0], ("R4", Some(20)), "{told:?}");
        assert!(found[0].0 <= 10 * MINUTE + 5, "after {} s", found[0].0);
        assert!(value(found[0].1, "more_processes") >= 80.0);
        assert_eq!(severity(found[0].1), Severity::Warning);
        // The rest is the same cause, more urgent.
        assert!(short(&told).iter().all(|one| one.1 == Some(20)), "{told:?}");
    }
}

#[test]
fn workers_that_pile_up_over_half_hours() {
    // One every twenty minutes, beside commands that end.
    let told = Host::of_gib(16, 60).watch(14 * HOUR, |at| {
        let tool =
            Process { done: (at / 2) as u32, ..Process::new(20, 60 * MIB).below(10).runs(1) };
        let worker = |count: u64| {
            Process::new(1000 + count as u32, 20 * MIB).below(20).runs(2).born(count * 20 * MINUTE)
        };
        let mut all = vec![Process::new(10, 4 * MIB), tool];
        all.extend((1..=at / (20 * MINUTE)).map(worker));
        all
    });
    assert_eq!(short(&told), [("R4", Some(20))], "{told:?}");
    let (at, found) = findings(&told)[0];
    assert!((8 * HOUR..10 * HOUR).contains(&at), "after {at} s");
    assert!(value(found, "more_processes") >= 16.0, "{found:?}");
}

#[test]
fn large_workers_that_others_started_are_one_cause_with_their_spawner() {
    // Each is told of by itself, and none carries the growth.
    let told = |host: Host, mib: u64, seconds: u64| {
        host.watch(seconds, |at| {
            let mut all = workers(at, true);
            all.iter_mut().filter(|one| one.own == 20 * MIB).for_each(|one| one.own = mib * MIB);
            all
        })
    };
    // They pile up long before there is too little for them.
    let spawner = told(Host::of_gib(64, 5), 160, 18 * MINUTE);
    assert_eq!(short(&spawner), [("R4", Some(20)), ("M1", Some(20))]);
    assert!(findings(&spawner).iter().all(|(_, one)| one.group.is_none()));
    // There is too little before they are known to pile up.
    let group = told(Host::of_gib(16, 5), 80, 11 * MINUTE);
    assert!(!group.is_empty());
    for (_, finding) in findings(&group) {
        assert_eq!((finding.rule, finding.group.is_some()), ("M1", true), "{finding:?}");
    }
}

#[test]
fn who_leaks_below_a_supervisor_that_waits_for_no_child_is_told_of_itself() {
    let host = Host { limit: Some(2 * GIB), ..Host::of_gib(16, 1) };
    let told = host.watch(5 * MINUTE, |at| {
        let leak = at.saturating_sub(4 * MINUTE) * 60 * MIB;
        let mut all = vec![
            Process::new(10, 4 * MIB),
            Process::new(20, 100 * MIB + leak).below(10),
            Process::new(30, 200 * MIB).below(10),
        ];
        all[0].zombies = at as u32;
        all
    });
    // The supervisor's zombies still become more when one of its services goes to the end.
    assert_eq!(short(&told), [("R5", Some(10)), ("M1", Some(20))]);
    let (_, leak) = findings(&told)[1];
    assert!(value(leak, "own_share") >= 100.0);
    assert!(told.iter().all(|(_, one)| matches!(one, Told::Found(..))), "both go on: {told:?}");
}

#[test]
fn children_that_nobody_waits_for() {
    let told = Host::of_gib(4, 1).watch(20 * MINUTE, |at| {
        let mut all = service(50 * MIB, at);
        all[1].zombies = (at / 2) as u32;
        all
    });
    assert_eq!(short(&told), [("R5", Some(20))]);
    assert_eq!(findings(&told)[0].0, 128);
}

#[test]
fn children_that_were_waited_for_are_no_part_of_later_ones() {
    // Seventy that all end at once, and are waited for; five minutes later 75.
    let told = Host::of_gib(16, 5).watch(10 * MINUTE, |at| {
        let zombies = match at {
            0..60 => 70,
            60..360 => 0,
            _ => 75,
        };
        vec![Process { zombies, ..Process::new(20, 50 * MIB) }]
    });
    assert_eq!(short(&told), []);
}
