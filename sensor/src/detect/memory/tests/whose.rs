//! Stories of growth beside other growth, and of whose it is.

use super::{
    agents, findings,
    host::{GIB, HOUR, Host, MIB, MINUTE, Process},
    like_python, service, short, value,
};
use crate::detect::memory::Told;

/// Whose growth each finding is part of.
fn whose(told: &[(u64, Told)]) -> Vec<Option<u32>> {
    let found = told.iter().filter_map(|(_, one)| match one {
        Told::Found(_, whose) => Some(whose.map(|key| key.tgid)),
        Told::Over(_) => None,
    });
    found.collect()
}

#[test]
fn what_was_not_there_yet_is_another_cause_than_what_grows_above_it() {
    let host = Host::of_gib(8, 10);
    let told = |born: Option<u64>| {
        host.watch(100 * MINUTE, |at| {
            let mut all = service(like_python(50 * 1024)(at.min(80 * MINUTE)), at);
            let leak = at.saturating_sub(90 * MINUTE) * 20 * MIB;
            let child = Process::new(40, 20 * MIB + leak).below(20);
            all.extend(match born {
                None => Some(child),
                Some(born) => (at >= born).then(|| child.born(born)),
            });
            all
        })
    };
    // Its service was told of long before.
    assert_eq!(short(&told(Some(89 * MINUTE))), [("M2", Some(20)), ("M1", Some(40))]);
    // Who was there when it was told of was part of it.
    let told = told(None);
    assert_eq!(short(&told), [("M2", Some(20)), ("M1", Some(40))]);
    assert_eq!(whose(&told), [Some(20), Some(20)]);
}

#[test]
fn who_only_started_beside_a_leak_is_no_part_of_it() {
    // A leak of 5 MiB a second and, 20 s after it, a program that takes 120 MiB within 10 s, by the same shell.
    let host = Host { total: GIB, free: 800 * MIB, limit: None, every: 1 };
    let course = |stays: bool| {
        host.watch(2 * MINUTE, |at| {
            let began = at.saturating_sub(20) * 12 * MIB;
            let began = if stays { began.min(120 * MIB) } else { began / 3 };
            vec![
                Process::new(10, 4 * MIB),
                Process::new(20, 10 * MIB + at * 5 * MIB).below(10).born(0),
                Process::new(30, began).below(10).born(20),
            ]
        })
    };
    let told = course(true);
    let (_, finding) = findings(&told)[0];
    assert_eq!((finding.rule, finding.culprit.map(|key| key.tgid)), ("M1", Some(20)), "{told:?}");
    assert!(value(finding, "own_share") >= 99.0, "{finding:?}");
    // Where both go on it is the shell's.
    assert_eq!(short(&course(false)), [("M1", Some(10))]);
}

#[test]
fn who_began_and_stands_is_not_who_grows() {
    // A leak of 5 MiB a second; some time after it began a program takes 700 MiB within ten seconds, and is most of what
    // went when the rest goes.
    for later in 10..40 {
        let host = Host { total: 1700 * MIB, free: 1600 * MIB, limit: None, every: 1 };
        let told = host.watch(3 * MINUTE, |at| {
            let began = at.saturating_sub(later).min(10) * 70 * MIB;
            vec![
                Process::new(10, 4 * MIB),
                Process::new(20, 10 * MIB + at * 5 * MIB).below(10).born(0),
                Process::new(30, began).below(10).born(later),
            ]
        });
        assert!(!told.is_empty(), "{later}: nothing was told of");
        assert!(short(&told).iter().all(|one| one.1 != Some(30)), "{later}: {told:?}");
    }
}

#[test]
fn one_of_a_group_that_rushes_is_named_itself() {
    // Seven agents; when all have been told of, one of them takes 30 MiB a second.
    let rush = 50 * MINUTE;
    let told = Host::of_gib(14, 5).watch(55 * MINUTE, |at| {
        let mut all = agents(at, 7);
        let one = all.iter_mut().find(|one| one.pid == 204);
        one.unwrap().own += at.saturating_sub(rush) * 30 * MIB;
        all
    });
    assert_eq!(short(&told), [("M2", Some(200)), ("M1", Some(204))], "{told:?}");
    assert!(findings(&told)[1].1.group.is_none());
    assert_eq!(whose(&told), [Some(200), Some(200)], "it is part of the same");
}

#[test]
fn more_than_what_was_told_of_is_another_cause() {
    // One worker of a master leaks for hours; then all eight hurry.
    let rush = 330 * MINUTE;
    let told = Host::of_gib(12, 20).watch(rush + 20 * MINUTE, |at| {
        let all = at.saturating_sub(rush) * 2 * MIB;
        let worker = |one: u32| {
            let leaks = if one == 0 { at / 4 * MIB } else { 0 };
            Process::new(200 + one, 100 * MIB + leaks + all).below(20).runs(5)
        };
        let mut tree = vec![Process::new(10, 4 * MIB), Process::new(20, 10 * MIB).below(10)];
        tree.extend((0..8).map(worker));
        tree
    });
    let first = short(&told)[0];
    assert_eq!((first.1, short(&told).last().unwrap()), (Some(200), &("M1", Some(20))), "{told:?}");
    assert_eq!(whose(&told).last(), Some(&Some(20)), "{told:?}");
}

#[test]
fn a_leak_that_was_told_of_slowly_may_rush_twice() {
    // It leaks, rushes, stands for ten minutes as who is frozen does, and rushes on.
    let (rush, stands) = (90 * MINUTE, 91 * MINUTE + 30);
    let told = Host::of_gib(12, 5).watch(110 * MINUTE, |at| {
        let hurry = |from: u64, to: u64| at.clamp(from, to) - from;
        let rushed = hurry(rush, stands) + hurry(stands + 10 * MINUTE, 110 * MINUTE);
        service(like_python(50 * 1024)(at.min(rush)) + rushed * 25 * MIB, at)
    });
    assert_eq!(short(&told), [("M2", Some(20)), ("M1", Some(20)), ("M1", Some(20))], "{told:?}");
}

#[test]
fn a_newborn_that_takes_most_at_once_is_told_of_in_time() {
    // Nobody above it is told of; most is taken when it is seen first, and two seconds later there is no more.
    let host = Host { total: 8 * GIB, free: 6 * GIB, limit: None, every: 1 };
    let told = host.watch(13, |at| {
        let mut all = vec![Process::new(30, 300 * MIB)];
        if at >= 10 {
            all.push(Process::new(40, 3600 * MIB + (at - 10) * 900 * MIB).born(9));
        }
        all
    });
    assert_eq!(short(&told), [("M1", Some(40))]);
}

#[test]
fn a_worker_that_alone_carries_a_growth_is_told_of_as_its_own() {
    // Its master is known for hours, the worker for 70 minutes.
    let born = 2 * HOUR;
    let told = Host::of_gib(8, 5).watch(born + 100 * MINUTE, |at| {
        let mut all = vec![Process::new(20, 80 * MIB), Process::new(30, 300 * MIB)];
        if at >= born {
            let leak = (at - born) * 40 * MIB / 60;
            all.push(Process::new(40, 20 * MIB + leak).below(20).born(born));
        }
        all
    });
    let (_, finding) = findings(&told)[0];
    assert_eq!(finding.culprit.map(|key| key.tgid), Some(40), "{told:?}");
    assert!(value(finding, "own_share") >= 95.0, "{finding:?}");
}

#[test]
fn a_group_without_its_eldest_is_the_same_group() {
    // Seven agents; the eldest ends after they were told of, and the others hurry.
    let (end, hurry) = (45 * MINUTE, 50 * MINUTE);
    let told = Host::of_gib(12, 10).watch(3 * HOUR, |at| {
        let mut all = agents(at.min(hurry), 7);
        if at >= end {
            all.retain(|one| one.pid != 200);
        }
        for agent in all.iter_mut().filter(|one| one.pid > 200) {
            agent.own += at.saturating_sub(hurry) * 2 * MIB;
            if at > hurry + 10 * MINUTE {
                agent.own = 100 * MIB;
            }
        }
        all
    });
    let found = findings(&told);
    assert_eq!(short(&told), [("M2", Some(200)), ("M1", Some(201))], "{told:?}");
    assert_eq!(whose(&told), [Some(200), Some(200)]);
    let members = |at: usize| {
        let group = found[at].1.group.as_ref().unwrap_or_else(|| panic!("{told:?}"));
        group.members.iter().map(|key| key.tgid).collect::<Vec<u32>>()
    };
    assert_eq!(members(0), [200, 201, 202, 203, 204, 205, 206]);
    assert_eq!(members(1), [201, 202, 203, 204, 205, 206]);
    // It ends as what it was told of first.
    let Some((at, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    assert_eq!((*at, over.culprit.map(|key| key.tgid)), (hurry + 10 * MINUTE + 10, Some(200)));
    assert_eq!(told.len(), 3, "{told:?}");
}
