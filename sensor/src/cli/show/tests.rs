use jiff::tz::TimeZone;
use proptest::prelude::*;
use prost_types::Timestamp;
use sensor_proto::v1::{
    ActionKind, Actor, Cost, Investigation, InvestigationState, Kind, Measure, Oom, OomHolder,
    OomKill, ProcessKey, Severity, Tree,
};

use super::*;

const SECOND: u64 = 1_000_000_000;

/// 2026-11-21 03:12:40.
const OPENED_S: i64 = 1_795_230_760;

fn view() -> View {
    View {
        style: Style::PLAIN,
        zone: TimeZone::UTC,
        now: Timestamp { seconds: OPENED_S + 240, nanos: 0 },
        now_ns: 340 * SECOND,
        boot_id: "b".into(),
    }
}

fn argv(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn step(words: &[&str], cwd: &str) -> Step {
    Step { argv: argv(words), cwd: cwd.into() }
}

fn measure(name: &str, value: f64, threshold: f64, unit: &str) -> Measure {
    Measure { name: name.into(), value, threshold: Some(threshold), unit: unit.into() }
}

fn incident() -> Incident {
    Incident {
        id: "4k2mz9qw0a".into(),
        kind: Kind::Recursion.into(),
        severity: Severity::Critical.into(),
        state: State::Contained.into(),
        opened_at: Some(Timestamp { seconds: OPENED_S, nanos: 0 }),
        opened_ns: 100 * SECOND,
        host: "web-1".into(),
        boot_id: "b".into(),
        summary: "`npm test` (4121) runs itself again and again".into(),
        culprit: Some(Culprit {
            pid: 4121,
            argv: argv(&["npm", "test"]),
            cwd: b"/home/ann/shop".to_vec(),
            exe: b"/usr/bin/node".to_vec(),
            cgroup: "/user.slice/shop".into(),
            uid: 1000,
            ..Default::default()
        }),
        tree: Some(Tree { processes: 43, threads: 210, anon_bytes: 300 << 20, depth: 20 }),
        finding: Some(Finding {
            rule: "R1".into(),
            confidence: 0.95,
            measures: vec![
                measure("repetitions", 3.0, 3.0, "ancestors"),
                measure("processes", 43.0, 12.0, "processes"),
                measure("three_generations", 1.13, 10.0, "s"),
            ],
        }),
        diagnosis: Some(Diagnosis {
            cause: "`npm test` runs itself: web has no package.json.".into(),
            confidence: 0.95,
            evidence: vec!["e2".into(), "e5".into()],
            by: "npm".into(),
            remedy: "Add a package.json to web.".into(),
            cycle: Some(Cycle {
                steps: vec![
                    step(&["npm", "test"], "/home/ann/shop"),
                    step(&["sh", "-c", "cd web && npm test"], "/home/ann/shop"),
                ],
                turns: 4,
                depth: 9,
                turns_per_second: 1.1,
                turns_back_at: 1,
            }),
        }),
        actions: vec![Action {
            kind: ActionKind::Freeze.into(),
            by: "policy".into(),
            why: "R1 was crossed".into(),
            result: "43 processes frozen with cgroup /sys/fs/cgroup/user.slice/shop".into(),
            started_ns: 100 * SECOND + 2_000_000,
            ok: true,
            ..Default::default()
        }],
        investigations: vec![Investigation {
            id: "4k2mz9qw0a-1".into(),
            agent: "command".into(),
            state: InvestigationState::Done.into(),
            findings: "It recurses.\nFix the script.".into(),
            cost: Some(Cost { wall_ns: 2_000_000, ..Default::default() }),
            ..Default::default()
        }],
        occurrences: 1,
        thaw_due_ns: 700 * SECOND,
        ..Default::default()
    }
}

#[test]
fn the_story_of_a_recursion() {
    let documented = include_str!("../../../../docs/incidents.md").split("```\n").nth(1).unwrap();
    assert_eq!(story(&incident(), &view(), Source::Daemon), documented);
}

#[test]
fn one_step_turns_back_to_itself() {
    let mut page = String::new();
    let found = Cycle {
        steps: vec![step(&["./again"], "")],
        turns: 3,
        depth: 4,
        turns_per_second: 0.0,
        turns_back_at: 0,
    };
    cycle(&mut page, &found, &Style::PLAIN);
    assert_eq!(
        page,
        "\nThe cycle  3 turns, 0 a second, 4 processes deep\n  ┌─▶  1  ./again\n  └──\n"
    );
}

#[test]
fn another_boot_has_another_clock() {
    let mut told = incident();
    told.boot_id = "before".into();
    told.actions[0].started_ns = SECOND;
    told.actions[0].at = Some(Timestamp { seconds: 60, nanos: 0 });
    told.opened_ns = 9_000 * SECOND;
    let page = story(&told, &view(), Source::Daemon);
    assert!(page.contains("was frozen when that host last booted"), "{page}");
    assert!(page.contains("00:01:00.000  freeze"), "{page}");
}

#[test]
fn a_group_is_shown_before_its_eldest() {
    let key = |pid| ProcessKey { pid, start_ns: 1 };
    let mut of_group = incident();
    of_group.group = Some(Group {
        by: GroupBy::Executable.into(),
        what: "/usr/bin/node".into(),
        members: (4101..4121).map(key).collect(),
        processes: 520,
        anon_bytes: 1434 << 20,
        uid: Some(1000),
        ancestor: Some(key(812)),
    });
    if let Some(culprit) = &mut of_group.culprit {
        culprit.pid = 4101;
        culprit.argv = argv(&["node", "server.js"]);
    }
    let page = story(&of_group, &view(), Source::Daemon);
    let documents = include_str!("../../../../docs/incidents.md");
    let documented = documents.split("```").nth(3).unwrap();
    assert!(documented.contains("the eldest of them:"), "{documented}");
    assert!(page.contains(documented), "{documented} is not in {page}");
    assert!(page.contains("the culprit's trees stand still; they are thawed at"), "{page}");
    assert!(page.contains("end all of their trees"), "{page}");
}

#[test]
fn numbers_have_words_and_units() {
    let mut told = incident();
    let finding = told.finding.as_mut().unwrap();
    finding.measures = vec![
        measure("full_in_at_least", 5400.0, 3600.0, "s"),
        measure("own_share", 99.0, 90.0, "%"),
        measure("victims", 1.0, 2.0, "processes"),
        measure("of_another_version", 2.0, 1.0, "s"),
    ];
    let page = story(&told, &view(), Source::Daemon);
    for line in [
        "\n  used up at the soonest in  90 min     threshold 60 min\n",
        "\n  of it the process itself   99 %       threshold 90\n",
        "\n  killed                     1 process  threshold 2\n",
        "\n  of another version         2 s        threshold 1 s\n",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[test]
fn what_was_found_at_an_earlier_kill_is_told_as_that() {
    let actor = |pid| {
        let process = Some(ProcessKey { pid, start_ns: 0 });
        Some(Actor { process, ..Default::default() })
    };
    let mut told = incident();
    told.set_state(State::Open);
    let kill = |pid| OomKill { victim: actor(pid), ..Default::default() };
    told.oom = Some(Oom { kills: 5, victims: vec![kill(4121)], ..Default::default() });
    // Taken: nobody is left to stop, and all is of one kill.
    let page = story(&told, &view(), Source::Daemon);
    assert!(!page.contains("sensor freeze") && !page.contains(EARLIER), "{page}");
    assert!(page.contains("processes of the tree"), "{page}");
    told.oom.as_mut().unwrap().victims = vec![kill(5000)];
    let page = story(&told, &view(), Source::Daemon);
    assert!(page.contains(&format!("\nCulprit  {EARLIER}\n")), "{page}");
    assert!(page.contains(&format!("evidence e2 e5, {EARLIER}\n")), "{page}");
    assert!(!page.contains("processes of the tree") && !page.contains("sensor freeze"), "{page}");
    // Spared, and still the one that holds the memory.
    let root = Some(ProcessKey { pid: 4121, start_ns: 0 });
    told.oom.as_mut().unwrap().holders = vec![OomHolder { root, ..Default::default() }];
    let page = story(&told, &view(), Source::Daemon);
    assert!(page.contains("sensor freeze") && !page.contains(EARLIER), "{page}");
}

#[test]
fn a_host_wide_incident_has_nobody_to_stop() {
    let told = Incident { state: State::Open.into(), id: "x".into(), ..Default::default() };
    let page = story(&told, &view(), Source::Daemon);
    assert!(page.contains("sensor resolve x"), "{page}");
    assert!(!page.contains("sensor freeze"), "{page}");
}

#[test]
fn a_file_tells_of_another_time_and_place() {
    let start = ExportStart {
        version: "1.2".into(),
        at: Some(Timestamp { seconds: OPENED_S + 100, nanos: 0 }),
        incident: None,
    };
    let source = Source::File { name: Path::new("a b"), start: &start };
    let page = story(&incident(), &view(), source);
    assert!(
        page.contains("\nas it was when sensor 1.2 exported it, 2026-11-21 03:14:20\n"),
        "{page}"
    );
    assert!(page.contains("\n  sensor evidence --file 'a b'  "), "{page}");
    // Neither what is now, nor what could be done about it.
    assert!(!page.contains("stands still;") && !page.contains("sensor kill"), "{page}");
}

proptest! {
    #[test]
    fn nothing_in_an_incident_reaches_the_terminal(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        text in "(?s).{0,60}",
        turns_back_at: u32, ns: u64, value: f64, seconds: i64,
    ) {
        let mut told = incident();
        for field in [&mut told.id, &mut told.summary, &mut told.host] {
            field.clone_from(&text);
        }
        told.opened_ns = ns;
        told.thaw_due_ns = ns;
        told.opened_at = Some(Timestamp { seconds, nanos: 0 });
        let culprit = told.culprit.as_mut().unwrap();
        culprit.argv = vec![bytes.clone()];
        culprit.cwd.clone_from(&bytes);
        culprit.cgroup.clone_from(&text);
        let diagnosis = told.diagnosis.as_mut().unwrap();
        diagnosis.cause.clone_from(&text);
        diagnosis.evidence = vec![text.clone()];
        let found = diagnosis.cycle.as_mut().unwrap();
        found.turns_back_at = turns_back_at;
        found.steps[1] = Step { argv: vec![bytes.clone(), bytes.clone()], cwd: bytes };
        told.finding.as_mut().unwrap().measures[0].value = value;
        told.actions[0].result.clone_from(&text);
        told.investigations[0].findings = text;

        let page = story(&told, &view(), Source::Daemon);
        prop_assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{page:?}");
    }
}
