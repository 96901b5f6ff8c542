use proptest::prelude::*;

use super::*;
use crate::{
    proto::{
        Lost, ProcessKey as Key, RespawnVerdict, StormVerdict, TraceEnd, TraceExit, TraceFork,
        TraceGroup,
    },
    trace::proto_limits,
};

const SECOND: u64 = 1_000_000_000;

fn key(pid: u32) -> Key {
    Key { pid, start_ns: u64::from(pid) * SECOND }
}

fn start(config: &Config) -> TraceStart {
    let limits = Some(proto_limits(
        &config.detect.limits(),
        &config.detect.storms(2),
        &config.detect.respawns(),
    ));
    TraceStart { cpus: 2, limits, ..TraceStart::default() }
}

fn fork(child: u32, parent: u32) -> Entry {
    Entry::Fork(TraceFork {
        child: Some(key(child)),
        parent: Some(key(parent)),
        cgroup: 1,
        storms: Vec::new(),
    })
}

fn exec(pid: u32, at_ns: u64, signature: u64, argv_bytes: u32) -> TraceExec {
    TraceExec {
        process: Some(key(pid)),
        exec_ns: at_ns,
        cgroup: 1,
        signatures: Some(TraceSignatures { strict: signature, loose: signature, exe: signature }),
        argv: vec![b"again".to_vec()],
        argv_bytes,
        ..TraceExec::default()
    }
}

/// A straight line of one command, a generation a second, from pid 10 on; above it pid 1.
fn line(generations: u32) -> Vec<Entry> {
    let mut entries = vec![Entry::Group(TraceGroup { id: 1, path: b"/work/a".to_vec() })];
    for pid in 10..10 + generations {
        entries.push(fork(pid, if pid == 10 { 1 } else { pid - 1 }));
        entries.push(Entry::Exec(exec(pid, u64::from(pid) * SECOND, 77, 6)));
    }
    entries
}

fn replayed(entries: Vec<Entry>, config: &Config, scope: Option<&str>) -> Report {
    let start = start(config);
    let mut config = config.clone();
    config.scope.cgroup.extend(scope.map(str::to_owned));
    let mut replay = Replay::new(&start, &config);
    for entry in entries {
        replay.apply(entry);
    }
    replay.report(None)
}

#[test]
fn a_recursion_is_found_with_its_culprit() {
    let report = replayed(line(14), &Config::default(), None);
    // The fifth repetition opens it, narrow as it is; the twelfth living process contains it.
    let levels: Vec<bool> = report.findings.iter().map(|found| found.contain).collect();
    assert_eq!(levels, [false, true]);
    assert_eq!((report.incidents, report.containments), (1, 1));
    let found = &report.findings[1];
    assert_eq!((found.culprit.pid, found.rule, found.kind.as_str()), (10, "R1", "recursion"));
    assert_eq!(found.culprit.cgroup.as_deref(), Some("/work/a"));
    assert_eq!((report.trace.forks, report.trace.execs), (14, 14));
    assert_eq!(report.trace.peak_live, 14);
}

#[test]
fn other_thresholds_find_something_else() {
    let mut never = Config::default();
    never.detect.recursion.enabled = false;
    never.detect.recursion_argv.enabled = false;
    let recorded = start(&Config::default());
    let mut replay = Replay::new(&recorded, &never);
    for entry in line(40) {
        replay.apply(entry);
    }
    let report = replay.report(None);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(!report.agreement.comparable, "the kernel judged by other thresholds");
    assert_eq!((report.agreement.agree, report.agreement.differ), (0, 0));
}

#[test]
fn policy_decides_what_would_be_contained() {
    let mut config = Config::default();
    config.respond.rules.r1 = Mode::Suggest;
    let report = replayed(line(14), &config, None);
    assert_eq!((report.incidents, report.containments), (1, 0));
}

#[test]
fn a_scope_leaves_the_rest_out() {
    assert_eq!(replayed(line(14), &Config::default(), Some("/work")).incidents, 1);
    let other = replayed(line(14), &Config::default(), Some("/other"));
    assert_eq!((other.incidents, other.trace.execs, other.trace.peak_live), (0, 0, 0));
    assert_eq!(replayed(line(14), &Config::default(), Some("/wo")).incidents, 0, "no such group");
    let mut several = Config::default();
    several.scope.cgroup = vec!["/other".into(), "/work".into()];
    assert_eq!(replayed(line(14), &several, None).incidents, 1);
}

#[test]
fn verdicts_of_the_kernel_are_compared() {
    let mut entries = line(1);
    let verdict = GateVerdict { top: Some(key(10)), live: 1, ..GateVerdict::default() };
    let said =
        |verdict| Entry::Exec(TraceExec { verdict: Some(verdict), ..exec(10, 20 * SECOND, 5, 6) });
    // As it was; with an exit under way on the other CPU; with one repetition too many; with more
    // living ones than could be under way.
    entries.push(said(verdict));
    entries.push(said(GateVerdict { live: 2, ..verdict }));
    entries.push(said(GateVerdict { strict_repetitions: 1, ..verdict }));
    entries.push(said(GateVerdict { live: 9, ..verdict }));
    entries.push(Entry::Lost(Lost { reason: "kernel".into(), count: 3 }));
    let report = replayed(entries, &Config::default(), None);
    // The first exec of the line has no verdict at all.
    assert_eq!((report.agreement.agree, report.agreement.differ), (2, 3));
    assert_eq!(report.agreement.in_flight, 1);
    assert_eq!(report.agreement.differences.len(), 3);
    assert_eq!(report.trace.lost, 3);
}

/// The third generation of a command, by itself: it is on watch, which is news.
fn third(pid: u32, at_ns: u64, reported: bool) -> Entry {
    let verdict = GateVerdict {
        level: 1,
        strict_repetitions: 2,
        loose_repetitions: 2,
        exe_repetitions: 2,
        top: Some(key(10)),
        live: 4,
        reported,
        ..GateVerdict::default()
    };
    Entry::Exec(TraceExec { verdict: Some(verdict), ..exec(pid, at_ns, 77, 6) })
}

#[test]
fn of_two_crossings_at_once_either_may_be_reported() {
    let siblings = |second_ns: u64, reported: [bool; 2]| {
        let mut entries = line(2);
        entries.extend([fork(20, 11), fork(21, 11)]);
        entries.push(third(20, 30 * SECOND, reported[0]));
        entries.push(third(21, second_ns, reported[1]));
        let agreement = replayed(entries, &Config::default(), None).agreement;
        // The two execs of the line have no verdict at all.
        (agreement.agree, agreement.differ - 2, agreement.in_flight)
    };
    let at_once = 30 * SECOND + 50_000;
    assert_eq!(siblings(at_once, [true, false]), (2, 0, 0));
    assert_eq!(siblings(at_once, [false, true]), (2, 0, 2), "the other one came first");
    assert_eq!(siblings(at_once, [true, true]), (2, 0, 1), "neither saw the other");
    assert_eq!(siblings(at_once, [false, false]), (1, 1, 0), "nobody told");
    assert_eq!(siblings(31 * SECOND, [false, true]), (0, 2, 0), "too late to be the same");
}

#[test]
fn a_parent_may_come_after_its_child() {
    let before = |pid, parent, strict| {
        Entry::Process(TraceProcess {
            process: Some(key(pid)),
            parent: Some(key(parent)),
            signatures: Some(TraceSignatures { strict, loose: strict, exe: strict }),
            ..TraceProcess::default()
        })
    };
    // Pids began anew between the two.
    let mut entries = vec![before(9, 31_000, 5), before(31_000, 1, 77)];
    entries.push(fork(12, 9));
    let verdict = GateVerdict {
        strict_repetitions: 1,
        loose_repetitions: 1,
        exe_repetitions: 1,
        growing: 1,
        top: Some(key(31_000)),
        live: 3,
        ..GateVerdict::default()
    };
    let exec = exec(12, 40 * SECOND, 77, 6);
    entries.push(Entry::Exec(TraceExec { verdict: Some(verdict), ..exec }));
    let agreement = replayed(entries, &Config::default(), None).agreement;
    assert_eq!((agreement.agree, agreement.differ), (1, 0), "{:?}", agreement.differences);
}

/// Anything that a file may hold, of few processes, so that they meet.
fn anything() -> impl Strategy<Value = Entry> {
    let process = || (0_u32..6, 0_u64..3).prop_map(|(pid, start_ns)| Some(Key { pid, start_ns }));
    prop_oneof![
        (process(), process(), 0_u64..3).prop_map(|(child, parent, cgroup)| Entry::Fork(
            TraceFork { child, parent, cgroup, storms: Vec::new() }
        )),
        (process(), any::<u64>(), 0_u64..3, any::<u32>()).prop_map(
            |(process, at, signature, bytes)| {
                Entry::Exec(TraceExec { process, ..exec(1, at, signature, bytes) })
            }
        ),
        (process(), any::<u64>()).prop_map(|(process, exit_ns)| Entry::Exit(TraceExit {
            process,
            exit_ns,
            code: 0,
            respawn: None,
        })),
        (process(), process()).prop_map(|(process, parent)| {
            Entry::Process(TraceProcess { process, parent, ..TraceProcess::default() })
        }),
        (0_u64..3).prop_map(|id| Entry::Group(TraceGroup { id, path: b"/a/\xff".to_vec() })),
        Just(Entry::Start(TraceStart::default())),
        any::<u64>().prop_map(|boot_ns| Entry::End(TraceEnd { boot_ns })),
    ]
}

/// A star below pid 9: a child every 2 ms. The kernel reported it with the 256th, or never.
fn star(children: u32, reported: bool) -> Vec<Entry> {
    let key = |pid: u32| Key { pid, start_ns: 100 * SECOND + u64::from(pid) * 2_000_000 };
    let group = Entry::Group(TraceGroup { id: 1, path: b"/work/a".to_vec() });
    let born = |pid: u32, parent: u32| TraceFork {
        child: Some(key(pid)),
        parent: Some(key(parent)),
        cgroup: 1,
        storms: Vec::new(),
    };
    let mut entries =
        vec![group, Entry::Fork(born(9, 8)), Entry::Exec(exec(9, 101 * SECOND, 7, 9))];
    let Some(Entry::Exec(shell)) = entries.last_mut() else { unreachable!() };
    shell.process = Some(key(9));
    for pid in 10..10 + children {
        let mut fork = born(pid, 9);
        if reported && pid == 10 + 255 {
            fork.storms.push(StormVerdict {
                rule: 4,
                top: Some(key(9)),
                ..StormVerdict::default()
            });
        }
        entries.push(Entry::Fork(fork));
    }
    entries
}

#[test]
fn a_star_is_found_and_agrees_with_what_the_kernel_said() {
    let config = Config::default();
    let report = |entries: Vec<Entry>| {
        let mut replay = Replay::new(&start(&config), &config);
        for entry in entries {
            replay.apply(entry);
        }
        replay.report(None)
    };
    let found = report(star(300, true));
    assert_eq!(found.findings.len(), 1, "{found:?}");
    assert_eq!((found.findings[0].rule, found.findings[0].contain), ("R3", false));
    assert_eq!(found.findings[0].culprit.pid, 9);
    assert_eq!((found.incidents, found.watched, found.containments), (0, 1, 0));
    // Its parent, which was there before, crosses eight forks later.
    let agreement = &found.agreement;
    assert_eq!((agreement.storms_agree, agreement.storms_differ), (1, 1), "{agreement:?}");

    // Two CPUs that look at once both tell of it.
    let said = |to: usize| {
        let mut entries = star(300, true);
        let storms = entries.iter().find_map(|entry| match entry {
            Entry::Fork(fork) if !fork.storms.is_empty() => Some(fork.storms.clone()),
            _ => None,
        });
        let Entry::Fork(fork) = &mut entries[to] else { unreachable!() };
        fork.storms = storms.unwrap();
        report(entries).agreement
    };
    let (beside, before) = (said(3 + 256), said(3 + 200));
    assert_eq!((beside.storms_agree, beside.storms_differ), (1, 1), "{beside:?}");
    assert_eq!((before.storms_agree, before.storms_differ), (1, 2), "{before:?}");

    let silent = report(star(300, false)).agreement;
    assert_eq!((silent.storms_agree, silent.storms_differ), (0, 2));
    let small = report(star(200, true)).agreement;
    assert_eq!((small.storms_agree, small.storms_differ), (0, 0));
}

/// Pid 9 restarts a command each second, which ends like this after 5 ms. The kernel told of it when two
/// minutes were over, or never.
fn restarts(seconds: u64, code: u32, reported: bool) -> Vec<Entry> {
    let shell = Key { pid: 9, start_ns: 100 * SECOND };
    let mut entries = vec![
        Entry::Fork(TraceFork { child: Some(shell), parent: Some(key(8)), ..TraceFork::default() }),
        Entry::Exec(TraceExec { process: Some(shell), ..exec(9, 100 * SECOND, 7, 9) }),
    ];
    for second in 0..seconds {
        let start_ns = (101 + second) * SECOND;
        let child = Some(Key { pid: 10, start_ns });
        let fork = TraceFork { child, parent: Some(shell), ..TraceFork::default() };
        let ran = TraceExec { process: child, ..exec(10, start_ns + 1000, 77, 6) };
        let respawn = (reported && second == 120)
            .then(|| RespawnVerdict { parent: Some(shell), ..RespawnVerdict::default() });
        let exit_ns = start_ns + 5_000_000;
        let exit = TraceExit { process: child, exit_ns, code, respawn };
        entries.extend([Entry::Fork(fork), Entry::Exec(ran), Entry::Exit(exit)]);
    }
    entries
}

#[test]
fn a_respawn_loop_is_found_once_and_agrees_with_what_the_kernel_said() {
    let config = Config::default();
    let found = replayed(restarts(150, 127 << 8, true), &config, None);
    assert_eq!(found.findings.len(), 1, "{found:?}");
    let finding = &found.findings[0];
    assert_eq!((finding.rule, finding.kind.as_str(), finding.contain), ("R6", "crash_loop", false));
    assert_eq!((finding.culprit.pid, finding.restarts.as_slice()), (9, &[b"again".to_vec()][..]));
    assert_eq!((found.incidents, found.containments), (1, 0));
    let agreement = &found.agreement;
    assert_eq!((agreement.storms_agree, agreement.storms_differ), (1, 0), "{agreement:?}");

    let silent = replayed(restarts(150, 127 << 8, false), &config, None).agreement;
    assert_eq!((silent.storms_agree, silent.storms_differ), (0, 1));
    for (seconds, code) in [(110, 127 << 8), (150, 0)] {
        let calm = replayed(restarts(seconds, code, false), &config, None);
        assert!(calm.findings.is_empty(), "{calm:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_trace_says_it_ends(
        entries in proptest::collection::vec(anything(), 0..200), scoped in any::<bool>(),
    ) {
        let count = entries.len() as u64;
        let report = replayed(entries, &Config::default(), scoped.then_some("/a"));
        prop_assert!(report.trace.seconds >= 0.0);
        prop_assert!(report.trace.peak_live <= count && report.incidents as u64 <= count);
    }
}
