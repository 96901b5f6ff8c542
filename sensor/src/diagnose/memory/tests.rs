use super::*;
use crate::{
    detect::{
        group::{By, Group},
        memory::measures::{GROWN, HOLDS, MORE, OWN, PROCESSES, WORKERS, measure},
    },
    lineage::ProcessKey,
};

const MIB: f64 = (1 << 20) as f64;

fn finding(rule: &'static str, told: &[(&str, f64)]) -> Finding {
    Finding {
        kind: proto::Kind::MemoryGrowth,
        rule,
        culprit: Some(ProcessKey::new(20, 1)),
        group: None,
        leaf: None,
        contain: false,
        confidence: 0.8,
        at_ns: 0,
        measures: told.iter().map(|(name, value)| measure(name, *value, None, "")).collect(),
    }
}

fn grows(own: f64) -> Vec<(&'static str, f64)> {
    vec![
        (GROWN, 4096.0 * MIB),
        (OVER, 4800.0),
        (SLOPE, 0.85 * MIB),
        (SOONEST, 5400.0),
        (LATEST, 6600.0),
        (LEFT, 5120.0 * MIB),
        (HOLDS, 4200.0 * MIB),
        (PROCESSES, 3.0),
        (OWN, own),
    ]
}

fn argv(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn said(finding: &Finding, held: &Held) -> proto::Diagnosis {
    let program = Link { argv: argv("node server.js"), ..Link::default() };
    diagnose(&Case {
        finding,
        program: &program,
        held,
        cited: &["e1".to_owned(), "e2".to_owned()],
        redactor: &Redactor::with_random_key(),
    })
}

#[test]
fn a_leak_is_told_with_slope_and_end() {
    let said = said(&finding("M2", &grows(99.0)), &Held::default());
    assert_eq!((said.by.as_str(), said.evidence.len()), ("process_leak", 2));
    assert_eq!(
        said.cause,
        "`node server.js` itself grows and gives nothing back: 4.0 GiB in 80 min, 51.0 MiB a minute, evenly, and it \
         holds 4.1 GiB now. If it goes on like that, the host is used up in 90 min to 110 min; 5.0 GiB are left."
    );
    assert!(said.remedy.contains("process 20"));
}

#[test]
fn workers_are_told_with_who_what_and_how_often() {
    let tree = proto::ProcessTree {
        processes: (0..96)
            .map(|at| proto::Process {
                pid: 100 + at,
                ppid: 1,
                parent: Some(proto::ProcessKey { pid: 20, start_ns: 1 }),
                argv: argv("node css-worker.js --token=abcdefgh12345678"),
                anon_bytes: 20 << 20,
                ..Default::default()
            })
            .collect(),
        omitted: 0,
    };
    let held = Held::of(&tree, &[ProcessKey::new(20, 1)]);
    let counted = [
        (MORE, 96.0),
        (WORKERS, 96.0),
        (OVER, 480.0),
        (measures::BORN, 96.0),
        (HOLDS, 1980.0 * MIB),
    ];
    let said = said(&finding("R4", &counted), &held);
    assert_eq!(said.by, "worker_leak");
    for part in [
        "`node server.js` starts processes that stay: 96 more in 8 min (12.0 a minute)",
        "None of those that were started ended",
        "96 of its processes are `node css-worker.js",
        "all of them orphans",
        "they hold 1.9 GiB",
    ] {
        assert!(said.cause.contains(part), "{part}: {}", said.cause);
    }
}

#[test]
fn each_kind_of_growth_has_its_rule() {
    let with = |more: &[(&'static str, f64)]| [grows(99.0).as_slice(), more].concat();
    let by = |rule, told: &[(&'static str, f64)]| said(&finding(rule, told), &Held::default()).by;
    let short =
        with(&[]).into_iter().map(|(name, it)| (name, if name == OVER { 30.0 } else { it }));
    let short: Vec<_> = short.collect();
    assert_eq!(by("M1", &short), "memory_spike");
    assert_eq!(by("M1", &with(&[])), "process_leak");
    assert_eq!(by("M5", &with(&[])), "memory_bloat");
    assert_eq!(by("M3", &grows(40.0)), "tree_growth");
    let workers = [grows(10.0), vec![(MORE, 40.0), (WORKERS, 38.0)]].concat();
    assert_eq!(by("M2", &workers), "worker_leak");
    assert_eq!(
        by("R5", &[(measures::ZOMBIES, 70.0), (measures::MORE_ZOMBIES, 60.0), (OVER, 61.0)]),
        "zombies"
    );
    let caged: Vec<(&str, f64)> = with(&[(LIMIT, 300.0 * MIB)])
        .into_iter()
        .map(|(name, it)| match name {
            GROWN => (name, 80.0 * MIB),
            HOLDS => (name, 250.0 * MIB),
            _ => (name, it),
        })
        .collect();
    assert_eq!(by("M2", &caged), "limit_too_low");
}

#[test]
fn a_fast_leak_is_told_apart_from_a_spike() {
    let of = |rose: f64, fastest: f64| {
        let changed = |(name, it)| match name {
            OVER => (name, 17.0),
            SLOPE => (name, 25.0 * MIB),
            GROWN => (name, 425.0 * MIB),
            SOONEST => (name, 6.0),
            _ => (name, it),
        };
        let course = [(measures::ROSE, rose), (measures::UNEVENNESS, fastest)];
        let told: Vec<_> = grows(99.0).into_iter().map(changed).chain(course).collect();
        said(&finding("M1", &told), &Held::default())
    };
    let leak = of(14.0, 1.4);
    assert_eq!(leak.by, "process_leak");
    assert!(
        leak.cause.starts_with(
            "`node server.js` itself grows and gives nothing back: 425 MiB in 17.0 s, 25.0 MiB a second, evenly: \
             in 14 samples, none of which stands out, and it holds"
        ),
        "{}",
        leak.cause
    );
    // Nobody takes two profiles some minutes apart of what is at its end in six seconds.
    assert!(leak.remedy.contains("sensor freeze"), "{}", leak.remedy);
    assert!(leak.remedy.contains("while there is memory"), "{}", leak.remedy);
    for (rose, fastest) in [(3.0, 1.1), (14.0, 6.0)] {
        assert_eq!(of(rose, fastest).by, "memory_spike", "{rose} {fastest}");
    }
}

#[test]
fn advice_is_about_what_lives_and_what_bounds_it() {
    let of = |more: &[(&'static str, f64)], ended| {
        let soon = grows(99.0).into_iter().map(|(name, it)| match name {
            SOONEST => (name, 60.0),
            _ => (name, it),
        });
        let told: Vec<_> = soon.chain(more.iter().copied()).collect();
        said(&finding("M2", &told), &Held { ended, ..Held::default() }).remedy
    };
    let caged = of(&[(LIMIT, 10_240.0 * MIB)], false);
    assert!(caged.contains("while some of its cgroup's limit is left"), "{caged}");
    assert!(!caged.contains("limit of its own"), "{caged}");
    let ended = of(&[], true);
    assert!(
        ended.starts_with("It has ended meanwhile, and what it held is free again."),
        "{ended}"
    );
    assert!(!ended.contains("freeze") && !ended.contains("restart of"), "{ended}");
    // Nobody was listed of a tree that is nobody's any more.
    assert!(Held::of(&proto::ProcessTree::default(), &[]).ended);
    assert!(!Held::of(&proto::ProcessTree { omitted: 1, ..Default::default() }, &[]).ended);
}

#[test]
fn many_and_nobody_are_said_plainly() {
    let members: Vec<ProcessKey> = (0..7).map(|at| ProcessKey::new(200 + at, 1)).collect();
    let group = Group {
        by: By::Executable,
        shared: 3,
        user: Some(1000),
        alike: false,
        ancestor: members[0],
        since_ns: 0,
        starters: Vec::new(),
        members,
    };
    let crowd = Finding { group: Some(group), ..finding("M2", &grows(0.0)) };
    let said_of = said(&crowd, &Held { roots: vec![9 << 20, 7 << 20], ..Held::default() });
    assert_eq!(said_of.by, "many_trees");
    assert!(
        said_of.cause.starts_with("7 × `node server.js` of user 1000 hold 4.1 GiB"),
        "{}",
        said_of.cause
    );
    assert!(said_of.cause.contains("between 7.0 MiB and 9.0 MiB"), "{}", said_of.cause);
    assert!(said_of.cause.contains("too many for this host"), "{}", said_of.cause);
    assert!(said_of.remedy.starts_with("Run fewer of them at a time, or give each a limit"));
    let measures = [grows(0.0), vec![(LIMIT, 10_240.0 * MIB)]].concat();
    let caged = Finding { group: crowd.group.clone(), ..finding("M2", &measures) };
    let said_of = said(&caged, &Held::default());
    for part in
        ["too many for the limit that they share", "the limit of their cgroup, 10.0 GiB, is"]
    {
        assert!(said_of.cause.contains(part), "{}", said_of.cause);
    }
    assert!(said_of.remedy.contains("raise the limit of the cgroup that they share, or give each"));

    for (tmpfs, part) in [(4000.0, "tmpfs, shared memory"), (10.0, "the kernel or a driver")] {
        let told =
            [grows(0.0), vec![(measures::TMPFS, tmpfs * MIB), (measures::ANON, MIB)]].concat();
        let host = Finding { culprit: None, ..finding("M6", &told) };
        let said = said(&host, &Held::default());
        assert_eq!(said.by, "host_memory");
        assert!(said.cause.contains(part), "{}", said.cause);
    }
}
