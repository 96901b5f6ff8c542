//! Whole stories on a clock that is set by hand.

mod host;
mod piling;
mod whose;

use host::{DAY, GIB, HOUR, Host, MIB, MINUTE, Process, noise};

use super::{Told, measures, severity};
use crate::{
    detect::Finding,
    proto::{Severity, TreeMemory},
};

/// The findings, each with its second, and no ends.
fn findings(told: &[(u64, Told)]) -> Vec<(u64, &Finding)> {
    told.iter()
        .filter_map(|(at, one)| match one {
            Told::Found(finding, _) => Some((*at, &**finding)),
            Told::Over(_) => None,
        })
        .collect()
}

/// In short, for comparison: rule and culprit.
fn short(told: &[(u64, Told)]) -> Vec<(&'static str, Option<u32>)> {
    findings(told).iter().map(|(_, one)| (one.rule, one.culprit.map(|key| key.tgid))).collect()
}

fn value(finding: &Finding, name: &str) -> f64 {
    measures::value(finding, name).unwrap_or_else(|| panic!("no {name} in {finding:?}"))
}

/// A service below its supervisor, beside others that are busy.
fn service(bytes: u64, at: u64) -> Vec<Process> {
    vec![
        Process::new(10, 4 * MIB),
        Process::new(20, bytes).below(10),
        Process::new(30, 300 * MIB + noise(at, 30, 200) * MIB).below(10),
    ]
}

/// Arenas of 1 MiB that are never given back, as Python has them.
fn like_python(rate_kib: u64) -> impl Fn(u64) -> u64 {
    move |at| 80 * MIB + (at * rate_kib / 60 / 1024) * MIB + noise(at, 1, 512) * 1024
}

/// What is left after a collection grows, and what is allocated in between comes on top, as V8 does.
fn like_node(rate_kib: u64) -> impl Fn(u64) -> u64 {
    move |at| 100 * MIB + at * rate_kib / 60 * 1024 + (at % 47) * 2 * MIB
}

#[test]
fn leaks_are_found_in_time_with_their_slope_and_their_end() {
    // KiB a minute, GiB, the rule, at the latest after, s. The host is full after 70 h, 14 h, 1 h.
    for (rate, gib, rule, latest) in [
        (512, 4, "M4", 50 * HOUR),
        (5 * 1024, 6, "M3", 9 * HOUR),
        (50 * 1024, 8, "M2", 82 * MINUTE),
    ] {
        let (python, node) = (like_python(rate), like_node(rate));
        for bytes in [&python as &dyn Fn(u64) -> u64, &node] {
            let host = Host::of_gib(gib, if rate < 10_000 { 60 } else { 10 });
            let told = host.watch(latest + HOUR, |at| service(bytes(at), at));
            assert_eq!(short(&told)[0], (rule, Some(20)), "{rate}: {told:?}");
            let (at, finding) = findings(&told)[0];
            assert!(at <= latest, "{rate} KiB/min found after {at} s");
            let slope = value(finding, "slope") * 60.0 / 1024.0;
            assert!((slope / rate as f64 - 1.0).abs() < 0.1, "{slope} instead of {rate} KiB/min");
            assert!(value(finding, "own_share") >= 90.0);
            let left = host.free - service(bytes(at), at).iter().map(|one| one.own).sum::<u64>();
            let left = left - host.total / 100 * 5;
            let full = left as f64 / (rate as f64 * 1024.0 / 60.0);
            let (soonest, last) =
                (value(finding, "full_in_at_least"), value(finding, "full_in_at_most"));
            assert!(soonest <= full * 1.05 && full <= last * 1.05, "{soonest} {full} {last}");
        }
    }
}

#[test]
fn a_spike_to_the_limit_is_told_before_it_is_there() {
    let host = Host { limit: Some(2 * GIB), ..Host::of_gib(16, 1) };
    let told = host.watch(60, |at| {
        let spike = if at >= 30 { (at - 30) * 60 * MIB } else { 0 };
        vec![Process::new(10, 4 * MIB), Process::new(20, 100 * MIB + spike).below(10)]
    });
    assert_eq!(short(&told), [("M1", Some(20))]);
    let (at, finding) = findings(&told)[0];
    // Full after 30 + 32 s; two thirds are gone after 30 + 20.
    assert!((48..=53).contains(&at), "after {at} s");
    assert_eq!(value(finding, "limit") as u64, 2 * GIB);
    assert_eq!(severity(finding), Severity::Critical);
    // All of what went is its own, of which a quarter would have been enough.
    let share = finding.measures.iter().find(|one| one.name == measures::SHARE).unwrap();
    assert_eq!((share.value, share.threshold), (100.0, Some(25.0)));
}

#[test]
fn a_spike_is_told_with_its_part_of_what_went() {
    // Half as much as it takes goes into files in memory.
    let mut watch = super::Watch::new(super::Limits::default());
    let (host, mut forks) = (Host::of_gib(16, 1), host::Forks::default());
    let mut told = Vec::new();
    for at in 0..60 {
        let own = Process::new(20, 100 * MIB + at * 120 * MIB);
        let mut sample = host.sample(at, &[own], &mut forks);
        let seen = sample.host.as_mut().unwrap();
        seen.available_bytes = seen.available_bytes.map(|left| left - at * 60 * MIB);
        told.extend(watch.see(&sample).into_iter().map(|told| (at, told)));
    }
    let found = findings(&told);
    let (_, finding) = found.iter().find(|one| one.1.rule == "M1").unwrap();
    assert_eq!(finding.culprit.map(|key| key.tgid), Some(20));
    let share = finding.measures.iter().find(|one| one.name == measures::SHARE).unwrap();
    assert_eq!((share.value, share.threshold), (66.0, Some(25.0)));
}

/// As `watch` of a host, but from a second on nobody looks at processes for so many seconds.
fn watch_unseen(
    host: &Host,
    seconds: u64,
    unseen: std::ops::Range<u64>,
    at: impl Fn(u64) -> Vec<Process>,
) -> Vec<(u64, Told)> {
    let mut watch = super::Watch::new(super::Limits::default());
    let mut forks = host::Forks::default();
    let mut found = Vec::new();
    for now in (0..seconds).step_by(host.every as usize) {
        let mut sample = host.sample(now, &at(now), &mut forks);
        if unseen.contains(&now) {
            sample.trees_unknown = true;
            sample.trees.clear();
            sample.groups.clear();
            sample.processes = 0;
        }
        found.extend(watch.see(&sample).into_iter().map(|told| (now, told)));
    }
    found
}

#[test]
fn growth_does_not_end_because_nobody_looks() {
    let leak = |at: u64| service(like_python(50 * 1024)(at), at);
    let host = Host::of_gib(9, 5);
    // Told of after 80 minutes; then memory is exhausted for ten minutes, across the end of a bucket.
    let (until, unseen) = (107 * MINUTE, 92 * MINUTE..102 * MINUTE);
    let told = watch_unseen(&host, until, unseen, leak);
    assert_eq!(told, host.watch(until, leak), "as if somebody had looked");
    // Nobody looks just when the ring is full: it is told of by the first look after it.
    let (at, _) = findings(&told)[0];
    let later = watch_unseen(&host, until, at..at + 60, leak);
    assert_eq!(short(&later), short(&told));
    assert_eq!(findings(&later)[0].0, at + 60);
    // What is gone by then has ended.
    let gone = |at: u64| if at < 95 * MINUTE { leak(at) } else { service(0, at)[2..].to_vec() };
    let told = watch_unseen(&host, until, 92 * MINUTE..102 * MINUTE, gone);
    let Some((at, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    assert_eq!((*at, over.culprit.map(|key| key.tgid)), (102 * MINUTE, Some(20)));
}

#[test]
fn who_came_while_nobody_looked_has_grown_since_the_last_look() {
    let host = Host::of_gib(16, 5);
    let told = watch_unseen(&host, 3 * MINUTE, 5..45, |at| {
        let mut all = service(50 * MIB, at);
        if at >= 10 {
            all.push(Process::new(40, (at - 10) * 30 * MIB).born(10));
        }
        all
    });
    assert_eq!(short(&told), [("M1", Some(40))]);
    let (at, finding) = findings(&told)[0];
    // The last look was at 0 s; that nobody looked 40 s later is no look at which it was not there.
    assert_eq!(value(finding, measures::OVER) as u64, at);
}

#[test]
fn a_rise_that_nobody_saw_is_no_rush() {
    // For ten minutes there is no sensor, and meanwhile a database takes what it needs.
    let (host, mut forks) = (Host::of_gib(8, 5), host::Forks::default());
    let mut watch = super::Watch::new(super::Limits::default());
    let before = (0..10 * MINUTE).step_by(5);
    for now in before.chain((20 * MINUTE..40 * MINUTE).step_by(5)) {
        let bytes = if now < 15 * MINUTE { GIB } else { 4 * GIB + GIB / 2 };
        let told = watch.see(&host.sample(now, &service(bytes, now), &mut forks));
        assert_eq!(told, [], "{now}");
    }
}

/// As `watch` of a host on which there are always more trees than a sample tells of.
fn watch_cut(host: &Host, seconds: u64, at: impl Fn(u64) -> Vec<Process>) -> Vec<(u64, Told)> {
    let mut watch = super::Watch::new(super::Limits::default());
    let mut forks = host::Forks::default();
    let mut found = Vec::new();
    for now in (0..seconds).step_by(host.every as usize) {
        let mut sample = host.sample(now, &at(now), &mut forks);
        sample.omitted = 3;
        found.extend(watch.see(&sample).into_iter().map(|told| (now, told)));
    }
    found
}

#[test]
fn who_is_never_told_of_again_has_ended() {
    // How many zombies one of those has that are left out nobody knows.
    let told = watch_cut(&Host::of_gib(9, 5), 4 * HOUR, |at| {
        let mut all = service(100 * MIB, at);
        all[1].zombies = (at / 2) as u32;
        if at >= 100 * MINUTE {
            all.remove(1);
        }
        all
    });
    assert_eq!(short(&told), [("R5", Some(20))]);
    let Some((at, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    // It was last told of five seconds before it was gone.
    assert_eq!((*at, over.culprit.map(|key| key.tgid)), (100 * MINUTE - 5 + 80 * MINUTE, Some(20)));
}

#[test]
fn who_is_left_out_among_many_holds_no_more_than_who_is_not() {
    // Leaks, gives all back and is left out of the list for it, leaks again.
    let course = |seconds: u64, other: u64| {
        let host = Host { total: 8 * GIB, free: 2700 * MIB + other, limit: None, every: 1 };
        watch_cut(&host, seconds, move |at| {
            let leaks = |since: u64| at.saturating_sub(since) * 80 * MIB;
            let mut all = vec![Process::new(30, other)];
            match at {
                0..35 => all.push(Process::new(20, 100 * MIB + leaks(5))),
                35..180 => {}
                _ => all.push(Process::new(20, GIB + leaks(180))),
            }
            all
        })
    };
    let told = course(4 * MINUTE, 300 * MIB);
    assert_eq!(short(&told), [("M1", Some(20)), ("M1", Some(20))], "the second is one more");
    let ends: Vec<u64> =
        told.iter().filter(|(_, one)| matches!(one, Told::Over(_))).map(|(at, _)| *at).collect();
    assert_eq!(ends, [35]);
    // Where whoever is told of has more than it ever had, it may still have all: that is no end.
    let told = course(3 * MINUTE, 3 * GIB);
    assert_eq!(short(&told), [("M1", Some(20))]);
    assert_eq!(told.len(), 1);
}

/// Agents in shells of their own, in a terminal multiplexer.
fn agents(at: u64, count: u32) -> Vec<Process> {
    let mut all = vec![Process::new(10, 20 * MIB).runs(1), Process::new(30, 300 * MIB)];
    for one in 0..count {
        let work = noise(at, one.into(), 40) * MIB;
        let own = 400 * MIB + at * (40 + u64::from(one)) * 1024 / 60 * 1024 / 4 + work;
        all.push(Process::new(100 + one, 5 * MIB).below(10).runs(2));
        all.push(Process::new(200 + one, own).below(100 + one).runs(3));
    }
    all
}

#[test]
fn seven_honest_agents_are_a_group() {
    let told = Host::of_gib(12, 10).watch(4 * HOUR, |at| agents(at, 7));
    let found = findings(&told);
    assert!(!found.is_empty());
    let group = found[0].1.group.as_ref().unwrap_or_else(|| panic!("{told:?}"));
    let pids: Vec<u32> = group.members.iter().map(|key| key.tgid).collect();
    assert_eq!(pids, [200, 201, 202, 203, 204, 205, 206]);
    assert_eq!(group.by, crate::detect::group::By::Executable);
    assert!(found.iter().all(|one| one.1.culprit.map(|key| key.tgid) == Some(200)), "{told:?}");
}

#[test]
fn a_sum_is_followed_once_however_often_a_sample_has_it() {
    // Agents that will soon have taken all of a limit; each sample tells of their sum, and of smaller ones by the same
    // name and by none.
    let told = |doubled: bool| {
        let host = Host::of_gib(16, 1);
        let (mut watch, mut forks) =
            (super::Watch::new(super::Limits::default()), host::Forks::default());
        let mut found = Vec::new();
        for at in 0..2 * MINUTE {
            let each = 100 * MIB + at.saturating_sub(30) * 20 * MIB;
            let all: Vec<Process> =
                (0..8).map(|one| Process::new(200 + one, each).runs(3)).collect();
            let mut sample = host.sample(at, &all, &mut forks);
            sample.trees.iter_mut().for_each(|tree| tree.parent = None);
            if doubled {
                let group = sample.groups[0].clone();
                let bytes = 64 * MIB;
                let less =
                    |what: String| crate::proto::GroupMemory { what, bytes, ..group.clone() };
                sample.groups.extend([less(group.what.clone()), less(String::new())]);
                sample.groups.push(less(String::new()));
            }
            found.extend(watch.see(&sample).into_iter().map(|told| (at, told)));
        }
        found
    };
    let once = told(false);
    let (_, finding) = findings(&once)[0];
    assert_eq!((finding.rule, finding.group.as_ref().map(|it| it.members.len())), ("M1", Some(8)));
    assert_eq!(told(true), once);
}

#[test]
fn a_limit_that_all_of_a_group_share_is_theirs() {
    // The host has hours and more; the slice of the user that all agents are below has 6 GiB.
    let host = Host::of_gib(64, 10);
    let told = |limit: Option<u64>| {
        let (mut watch, mut forks) =
            (super::Watch::new(super::Limits::default()), host::Forks::default());
        let mut found = Vec::new();
        for at in (0..4 * HOUR).step_by(10) {
            let all = agents(at, 7);
            let mut sample = host.sample(at, &all, &mut forks);
            for group in &mut sample.groups {
                let used = all.iter().filter(|one| one.pid != 30).map(|one| one.own).sum();
                (group.limit_bytes, group.limit_used_bytes) = (limit, limit.map(|_| used));
            }
            found.extend(watch.see(&sample).into_iter().map(|told| (at, told)));
        }
        found
    };
    assert_eq!(short(&told(None)), []);
    let caged = told(Some(6 * GIB));
    let found = findings(&caged);
    let (_, finding) = found.first().unwrap_or_else(|| panic!("nothing"));
    assert_eq!(finding.group.as_ref().map(|group| group.members.len()), Some(7), "{caged:?}");
    assert_eq!(value(finding, "limit") as u64, 6 * GIB);
    assert!(value(finding, "left") < 6.0 * GIB as f64);
}

#[test]
fn memory_that_goes_into_no_process_has_no_culprit() {
    let host = Host::of_gib(8, 5);
    let mut watch = super::Watch::new(super::Limits::default());
    let mut forks = host::Forks::default();
    let mut found = Vec::new();
    for at in (0..2 * HOUR).step_by(5) {
        let mut sample = host.sample(at, &service(100 * MIB, at), &mut forks);
        let files = at * 700 * 1024;
        let seen = sample.host.as_mut().unwrap();
        seen.shmem_bytes = Some(files);
        seen.available_bytes = seen.available_bytes.map(|left| left - files);
        found.extend(watch.see(&sample).into_iter().map(|told| (at, told)));
    }
    assert_eq!(short(&found), [("M6", None)]);
    let finding = findings(&found)[0].1;
    assert!(value(finding, "tmpfs_grown") >= value(finding, "grown") * 0.9);
}

#[test]
fn what_is_in_no_process_is_not_over_because_a_process_ends() {
    // Files in memory, until somebody removes them after 100 minutes; a process ends after 90.
    let host = Host::of_gib(16, 5);
    let mut watch = super::Watch::new(super::Limits::default());
    let mut forks = host::Forks::default();
    let mut found = Vec::new();
    for at in (0..110 * MINUTE).step_by(5) {
        let held = if at < 90 * MINUTE { 5 * GIB } else { 100 * MIB };
        let mut sample = host.sample(at, &service(held, at), &mut forks);
        let files = if at < 100 * MINUTE { at * 1000 * 1024 } else { 0 };
        let seen = sample.host.as_mut().unwrap();
        seen.shmem_bytes = Some(files);
        seen.available_bytes = seen.available_bytes.map(|left| left.saturating_sub(files));
        found.extend(watch.see(&sample).into_iter().map(|told| (at, told)));
    }
    assert_eq!(short(&found), [("M6", None)]);
    let Some((at, Told::Over(over))) = found.last() else { panic!("{found:?}") };
    assert_eq!((*at, over.culprit), (100 * MINUTE, None));
}

#[test]
fn what_is_over_is_told() {
    // Grows for 100 minutes, then is restarted.
    let told = Host::of_gib(9, 5).watch(3 * HOUR, |at| {
        let bytes = if at < 100 * MINUTE { like_python(50 * 1024)(at) } else { 90 * MIB };
        service(bytes, at)
    });
    assert_eq!(short(&told), [("M2", Some(20))]);
    let Some((at, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    assert_eq!((*at, over.culprit.map(|key| key.tgid)), (100 * MINUTE, Some(20)));
    assert_eq!(over.why, "half of what it grew by, or more, is given back");
    // Ends, as where the OOM killer takes it.
    let told = Host::of_gib(9, 5).watch(3 * HOUR, |at| {
        let mut all = service(like_python(50 * 1024)(at), at);
        all.truncate(if at < 100 * MINUTE { 2 } else { 1 });
        all
    });
    let Some((at, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    assert_eq!(
        (*at, over.why.as_str()),
        (100 * MINUTE, "it has ended, or holds less than 64 MiB by now")
    );
    // Ends, while one that it started stays.
    let told = Host::of_gib(9, 5).watch(3 * HOUR, |at| {
        let mut all = service(like_python(50 * 1024)(at), at);
        all.push(Process::new(40, 70 * MIB).below(20));
        let grower = all.remove(1);
        all.push(if at < 100 * MINUTE { grower } else { grower.dead() });
        all
    });
    let Some((_, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    let why = "it has ended, and what it started holds less than half of what it grew by";
    assert_eq!(over.why, why);
    // Stays where it is.
    let told = Host::of_gib(9, 5)
        .watch(4 * HOUR, |at| service(like_python(50 * 1024)(at.min(100 * MINUTE)), at));
    let Some((_, Told::Over(over))) = told.last() else { panic!("{told:?}") };
    assert_eq!(over.why, "it has not grown for 20 min");
}

#[test]
fn what_is_told_of_last_is_what_has_to_end() {
    // Nobody waits for its children, then it leaks; then they are waited for, and the leak goes on.
    let told = Host::of_gib(9, 5).watch(100 * MINUTE, |at| {
        let mut all = service(like_python(50 * 1024)(at), at);
        all[1].zombies = if at < 90 * MINUTE { (at / 2) as u32 } else { 0 };
        all
    });
    assert_eq!(short(&told), [("R5", Some(20)), ("M2", Some(20))]);
    let ends: Vec<_> = told.iter().filter(|(_, one)| matches!(one, Told::Over(_))).collect();
    assert!(ends.is_empty(), "{ends:?}");
}

#[test]
fn honest_work_is_silent() {
    let silent = |name: &str, host: Host, seconds: u64, at: &dyn Fn(u64) -> Vec<Process>| {
        let told = host.watch(seconds, at);
        assert_eq!(told, [], "{name}");
    };
    // A garbage collector that lets 2 GiB pile up in between, every 40 s and every 25 min.
    for period in [40, 25 * MINUTE] {
        silent("sawtooth", Host::of_gib(8, 5), 4 * HOUR, &|at| {
            service(GIB / 2 + 2 * GIB * (at % period) / period, at)
        });
    }
    // A cache that warms up to 4 GiB, ever slower.
    silent("cache", Host::of_gib(16, 30), 3 * DAY, &|at| {
        let warm = ((1 + at / 600) as f64).ln() / (1.0 + (3 * DAY / 600) as f64).ln();
        service(200 * MIB + (warm * (4 * GIB) as f64) as u64, at)
    });
    // By day 2.5 GiB, by night 1 GiB.
    silent("day and night", Host::of_gib(16, 60), 7 * DAY, &|at| {
        let turn = (at as f64 / DAY as f64 * std::f64::consts::TAU).sin();
        service((GIB as f64 * (1.75 + 0.75 * turn)) as u64 + noise(at, 5, 50) * MIB, at)
    });
    // By day 5 GiB, by night 1 GiB, first seen by night: on and on it would fill the host by the next one.
    silent("a first day", Host::of_gib(16, 60), 3 * DAY, &|at| {
        let turn = (at as f64 / DAY as f64 * std::f64::consts::TAU).cos();
        service((GIB as f64 * (3.0 - 2.0 * turn)) as u64 + noise(at, 5, 50) * MIB, at)
    });
    // A database takes its buffer of 6 GiB at once, or within an hour, and keeps it.
    for (seconds, every) in [(6, 1), (HOUR, 10)] {
        silent("database", Host::of_gib(16, every), 2 * HOUR, &|at| {
            let since = at.saturating_sub(20);
            service(100 * MIB + (6 * GIB * since / seconds).min(6 * GIB), at)
        });
    }
    // Builds: each minute a tree that takes up to 3 GiB and gives it back, in many processes.
    silent("builds", Host::of_gib(16, 1), 15 * MINUTE, &|at| {
        let (build, into) = (at / 60, at % 60);
        let mut all = service(50 * MIB, at);
        let make = 1000 * (build as u32 + 1);
        all.push(Process::new(make, 10 * MIB).below(10).born(build * 60));
        let count = if into < 50 { into.min(16) as u32 } else { 0 };
        for job in 1..=count {
            let own = (into * 4).min(190) * MIB;
            all.push(Process::new(make + job, own).below(make).runs(7).born(build * 60));
        }
        all[3].done = (into * 8) as u32;
        all
    });
    // 24 children of a server, each with a little of its own.
    silent("server", Host::of_gib(8, 1), 20 * MINUTE, &|at| {
        let mut all = vec![Process::new(20, 80 * MIB)];
        let count = if at > 10 { 24 } else { 0 };
        for child in 0..count {
            let own = 2 * MIB + noise(at, child, 8) * MIB;
            all.push(Process::new(100 + child as u32, own).below(20).runs(20).born(10));
        }
        all
    });
}

#[test]
fn whatever_a_sample_says_it_is_an_answer() {
    // Circles, the same root twice, numbers at their ends, time that goes back.
    let key = |pid| Some(crate::proto::ProcessKey { pid, start_ns: u64::MAX });
    let tree = |pid, parent| TreeMemory {
        root: key(pid),
        parent: key(parent),
        alive: true,
        bytes: u64::MAX,
        root_bytes: u64::MAX,
        processes: u32::MAX,
        forks: u32::MAX,
        zombies: u32::MAX,
        limit_bytes: Some(u64::MAX),
        limit_used_bytes: Some(u64::MAX),
        program: 1,
        ..Default::default()
    };
    let mut watch = super::Watch::new(super::Limits::default());
    for at in [0, 5, u64::MAX / 2, u64::MAX, 3, u64::MAX - 1, 7] {
        let sample = crate::proto::MemorySample {
            at_ns: at,
            trees: vec![tree(1, 2), tree(2, 3), tree(3, 1), tree(3, 3), TreeMemory::default()],
            groups: vec![crate::proto::GroupMemory {
                by: 1,
                bytes: u64::MAX,
                eldest: key(1),
                ..Default::default()
            }],
            ..Default::default()
        };
        watch.see(&sample);
    }
}

#[test]
fn a_restart_of_the_sensor_loses_no_growth() {
    let told = |until: u64, restarted: Option<u64>, at: &dyn Fn(u64) -> Vec<Process>| {
        let mut watch = super::Watch::new(super::Limits::default());
        let (host, mut forks) = (Host::of_gib(9, 5), host::Forks::default());
        let mut found = Vec::new();
        for now in (0..until).step_by(5) {
            if restarted == Some(now) {
                forks = host::Forks::default();
            }
            let mut sample = host.sample(now, &at(now), &mut forks);
            if let Some(restarted) = restarted.filter(|restarted| *restarted <= now) {
                // It takes its time to begin.
                if now == restarted {
                    continue;
                }
                sample.series_ns += restarted * 1_000_000_000;
            }
            found.extend(watch.see(&sample).into_iter().map(|told| (now, told)));
        }
        found
    };
    let leak = |at: u64| service(like_python(50 * 1024)(at), at);
    // All is used up some 20 minutes later.
    let until = 107 * MINUTE;
    let (whole, cut) = (told(until, None, &leak), told(until, Some(50 * MINUTE), &leak));
    assert_eq!(short(&whole), [("M2", Some(20))]);
    assert_eq!(short(&cut), [("M2", Some(20))]);
    assert_eq!(findings(&cut)[0].0, findings(&whole)[0].0, "as if there had been none");
    // What was told before is told once more by the one that did not tell it.
    let late = told(until, Some(100 * MINUTE), &leak);
    assert_eq!(short(&late), [("M2", Some(20)), ("M2", Some(20))]);
    // Who has had its workers for long has not more of them because somebody else counts.
    let busy = |at: u64| {
        let mut all = service(50 * MIB, at);
        all.extend((0..40).map(|one| Process::new(100 + one, 2 * MIB).below(20).runs(2)));
        all[1].done = at as u32;
        all
    };
    assert_eq!(short(&told(3 * HOUR, Some(50 * MINUTE), &busy)), []);
}
