//! Stories of growth beside other growth, and of whose it is.

use super::{
    agents, findings,
    host::{Forks, GIB, HOUR, Host, MIB, MINUTE, Process},
    like_python, service, short, value,
};
use crate::detect::memory::{Limits, Told, Watch};

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
    // Who was there when it was told of may have been meant.
    assert_eq!(short(&told(None)), [("M2", Some(20)), ("M1", Some(20))]);
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
fn a_group_keeps_whom_it_was_told_of_first() {
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
    let rules: Vec<&str> = found.iter().map(|one| one.1.rule).collect();
    assert_eq!(rules, ["M2", "M1"], "{told:?}");
    assert!(found.iter().all(|one| one.1.culprit.map(|key| key.tgid) == Some(200)), "{told:?}");
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
