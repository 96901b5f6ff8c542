//! What is stored and sent, as people and programs get to see it: nothing in it reaches a terminal.

use std::{fmt::Debug, path::Path};

use jiff::tz::TimeZone;
use prost::Message;
use prost_types::Timestamp;
use sensor_proto::json::RecordLine;
use serde::Serialize;

use super::text;
use crate::{
    cli::{
        evidence,
        out::View,
        show::{self, Source},
        watch,
    },
    config::Stage,
    investigate::{Dossier, Window, builtin, window},
    present::{style::Style, text::safe},
    proto::{
        Action, Actor, Alarm, Chain, Change, Changes, Culprit, Cycle, Degraded, DeletedFile,
        Diagnosis, Evidence, Exec, ExportStart, FileFact, Finding, FlightRecord, Frame, GitState,
        Group, GroupFacts, HeldKind, HeldPlace, Incident, Investigation, Killed, Link, Listener,
        LogLine, LogLines, Lost, Measure, Observation, OomKill, OpenFiles, Pressure, Process,
        ProcessKey, ProcessStacks, ProcessTree, Reading, Record, ResourceLimit, Setting, Stack,
        Stacks, StageRun, Step, Transcript, Transition, Tree, Vitals, VitalsSample, Witnessed,
        evidence::Content, observation::Fact, record::Body,
    },
    render::Marker,
};

pub fn view() -> View {
    View {
        style: Style { colour: false, width: Some(80) },
        zone: TimeZone::UTC,
        now: Timestamp { seconds: 1_000_240, nanos: 0 },
        now_ns: 340_000_000_000,
        boot_id: "b".into(),
    }
}

/// Lines that a terminal only shows.
pub fn harmless(page: &str) {
    for line in page.split('\n') {
        assert_eq!(safe(line), line);
    }
}

/// One document, on one line.
pub fn json(value: &impl Serialize) {
    let line = serde_json::to_string(value);
    assert!(line.as_ref().is_ok_and(|line| !line.bytes().any(|byte| byte < b' ')), "{line:?}");
    let read = line.map(|line| serde_json::from_str::<serde_json::Value>(&line));
    assert!(read.is_ok_and(|value| value.is_ok_and(|value| value.is_object())));
}

/// What is written is what was read. As text, because a NaN is not equal to itself; and a zero that is negative
/// is none that would be written.
fn same_again<M: Message + Default + Debug>(message: &M) {
    let text = |message: &M| format!("{message:?}").replace(": -0.0", ": 0.0");
    let again = M::decode(message.encode_to_vec().as_slice());
    assert_eq!(again.as_ref().map(text), Ok(text(message)));
}

/// A record as every verb shows it.
pub fn show(record: &Record) {
    let view = view();
    let line = watch::line(record, &view);
    assert!(!line.contains('\n'), "{line:?}");
    harmless(&line);
    json(&RecordLine::from(record));
    if let Some(Body::Evidence(item)) = &record.body {
        harmless(&evidence::section(item, &view));
    }
}

/// An incident as every verb shows it; of a file with its name and beginning.
pub fn tell(incident: &Incident, file: Option<(&Path, &ExportStart)>) {
    let source = file.map_or(Source::Daemon, |(name, start)| Source::File { name, start });
    harmless(&show::story(incident, &view(), source));
    json(incident);
}

pub fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    same_again(&record);
    show(&record);
}

pub fn records() -> Vec<Vec<u8>> {
    samples().iter().map(Message::encode_to_vec).collect()
}

/// An incident, and behind its length the evidence that an investigation gets with it.
pub fn incident(bytes: &[u8]) {
    let mut rest = bytes;
    let Ok(incident) = Incident::decode_length_delimited(&mut rest) else { return };
    same_again(&incident);
    tell(&incident, None);
    let mut evidence = Vec::new();
    while let Ok(item) = Evidence::decode_length_delimited(&mut rest)
        && item.content.is_some()
    {
        evidence.push(item);
    }
    let redactor = text::redactor();
    let budget = window::LEAST_TOKENS + evidence.len() * 100;
    let window = Window::fit(&incident, &evidence, &redactor, Marker::random(), budget);
    assert!(window.tokens() <= budget, "{} of {budget} tokens", window.tokens());
    let dossier = Dossier { incident, evidence, window: Some(window), stage: Stage::Diagnose };
    json(&dossier);
    let mut lines = 0;
    let end = builtin::run(&dossier, &|text| redactor.text(text).0, &mut |_| lines += 1);
    // A line for each piece that it can read, the diagnosis, and what was done.
    assert!((2..=dossier.evidence.len() + 2).contains(&lines));
    assert!(!end.findings.is_empty());
}

pub fn incidents() -> Vec<Vec<u8>> {
    let mut whole = sample().encode_length_delimited_to_vec();
    let short = Incident { id: "x".into(), ..Default::default() }.encode_length_delimited_to_vec();
    for content in contents() {
        whole.extend(piece(content).encode_length_delimited_to_vec());
    }
    vec![whole, short]
}

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, start_ns: 1 }
}

fn argv() -> Vec<Vec<u8>> {
    vec![b"npm".to_vec(), b"\x1b[2J".to_vec()]
}

/// One that has everything.
pub fn sample() -> Incident {
    Incident {
        id: "4k2mz9qw0a".into(),
        kind: 1,
        severity: 3,
        state: 2,
        opened_at: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        opened_ns: 100_000_000_000,
        host: "web-1".into(),
        boot_id: "b".into(),
        summary: "`npm test` (4121) runs itself".into(),
        culprit: Some(Culprit {
            pid: 4121,
            argv: argv(),
            cwd: b"/w".to_vec(),
            ..Default::default()
        }),
        group: Some(Group {
            by: 1,
            what: "/usr/bin/node".into(),
            members: vec![],
            ..Default::default()
        }),
        tree: Some(Tree { processes: 43, threads: 210, anon_bytes: 300 << 20, depth: 20 }),
        finding: Some(Finding {
            rule: "R1".into(),
            confidence: 0.99,
            measures: vec![Measure {
                name: "repetitions".into(),
                value: 3.0,
                threshold: Some(3.0),
                unit: "processes".into(),
            }],
        }),
        diagnosis: Some(Diagnosis {
            cause: "it runs itself.".into(),
            confidence: 0.95,
            evidence: vec!["e2".into()],
            by: "npm".into(),
            remedy: "Add a package.json.".into(),
            cycle: Some(Cycle {
                steps: vec![Step { argv: argv(), cwd: b"/w".to_vec() }],
                turns: 4,
                depth: 9,
                turns_per_second: 1.1,
                turns_back_at: 0,
            }),
        }),
        actions: vec![Action { kind: 1, by: "policy".into(), ok: true, ..Default::default() }],
        investigations: vec![Investigation {
            id: "i1".into(),
            findings: "a\nb".into(),
            stages: vec![StageRun { stage: 1, state: 2, outcome: 1, ..Default::default() }],
            ..Default::default()
        }],
        thaw_due_ns: 700_000_000_000,
        ..Default::default()
    }
}

fn contents() -> Vec<Content> {
    let process = |pid| Process {
        pid,
        start_ns: 1,
        parent: Some(key(pid - 1)),
        argv: argv(),
        ..Default::default()
    };
    let link =
        Link { process: Some(key(7)), alive: true, exec_ns: 9, argv: argv(), ..Default::default() };
    let file = FileFact {
        path: b"/w/package.json".to_vec(),
        state: 1,
        content: b"{\n}".to_vec(),
        ..Default::default()
    };
    let vitals = Vitals {
        cpu_some: Some(4.0),
        load: Some(1.5),
        available_bytes: Some(1 << 30),
        ..Default::default()
    };
    let sample = VitalsSample {
        seconds: 1,
        average: Some(vitals),
        most: Some(vitals),
        ..Default::default()
    };
    vec![
        Content::Tree(ProcessTree { processes: vec![process(5), process(6)], omitted: 1 }),
        Content::Chain(Chain { links: vec![link] }),
        Content::Text(b"MemTotal: 7 kB\nMemAvailable: 3 kB\n".to_vec()),
        Content::File(file),
        Content::Vitals(FlightRecord { samples: vec![sample] }),
        Content::Stacks(stacks()),
        Content::OpenFiles(open_files()),
        Content::Setting(setting()),
        Content::Changes(changes()),
        Content::Logs(logs()),
    ]
}

fn stacks() -> Stacks {
    let frame = |kind, function: &str| Frame {
        kind,
        function: function.into(),
        file: "/usr/bin/node".into(),
        line: 7,
        offset: 16,
    };
    let frames = vec![frame(1, "do_wait"), frame(2, "main"), frame(4, ""), frame(9, "x")];
    let thread = String::from("worker");
    let stack = Stack { samples: 3, tid: 8, thread, frames, truncated: true };
    let process = ProcessStacks {
        process: Some(key(7)),
        comm: "node".into(),
        stacks: vec![stack.clone(), Stack { samples: 0, tid: 0, ..stack }],
        omitted: 2,
        notes: vec!["no perf map".into()],
    };
    let notes = vec!["no samples".into()];
    let processes = vec![process];
    Stacks { processes, sampled_ms: 300, samples: 9, samples_omitted: 3, omitted: 1, notes }
}

fn open_files() -> OpenFiles {
    let place = |name: &[u8]| HeldPlace { name: name.to_vec(), count: 3 };
    OpenFiles {
        kinds: vec![HeldKind { kind: "socket".into(), count: 5 }],
        listeners: vec![Listener {
            process: Some(key(7)),
            protocol: "unix".into(),
            address: b"@a".to_vec(),
        }],
        peers: vec![place(b"127.0.0.1:80")],
        directories: vec![place(b"/var/lib")],
        deleted: vec![DeletedFile { process: None, path: b"/x (deleted)".to_vec(), bytes: 4096 }],
        processes: 2,
        omitted: 1,
        descriptors: 9,
        descriptors_omitted: 1,
    }
}

fn setting() -> Setting {
    let reading = |name: &str| Reading { name: name.into(), value: "max".into() };
    let limit =
        ResourceLimit { name: "stack".into(), soft: Some(8), hard: None, unit: "bytes".into() };
    Setting {
        process: Some(key(7)),
        unit: "a.service".into(),
        container: "c0ffee".into(),
        namespaces: vec![reading("pid")],
        limits: vec![limit],
        groups: vec![GroupFacts {
            path: b"/sys/fs/cgroup/a".to_vec(),
            hierarchy: "v2".into(),
            readings: vec![reading("memory.max")],
        }],
        ..Default::default()
    }
}

fn changes() -> Changes {
    let at = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let change =
        Change { kind: "package".into(), at, what: b"nodejs 20".to_vec(), how: "upgrade".into() };
    let git = GitState {
        top: b"/w".to_vec(),
        head: "c0ffee".into(),
        moved_at: at,
        moved_by: b"commit".to_vec(),
        modified: vec![b"a.js".to_vec()],
        modified_count: 1,
        amid: "rebase".into(),
        ..Default::default()
    };
    let (changes, notes) = (vec![change], vec!["no journal".into()]);
    Changes { changes, omitted: 1, window_s: 86_400, git: Some(git), notes }
}

fn logs() -> LogLines {
    let line = LogLine {
        repeats: 2,
        source: "journal".into(),
        writer: "app.service".into(),
        severity: Some(3),
        text: b"no such file".to_vec(),
        ..Default::default()
    };
    let (lines, notes) = (vec![line], vec!["cut".into()]);
    LogLines { lines, omitted: 7, repeated_lines: 1, window_s: 600, notes }
}

fn piece(content: Content) -> Evidence {
    Evidence {
        id: "e1".into(),
        name: "meminfo".into(),
        content: Some(content),
        ..Default::default()
    }
}

/// One of each kind that has a text of its own.
pub fn samples() -> Vec<Record> {
    let alarm =
        Alarm { rule: "R6".into(), process: Some(key(7)), top: Some(key(5)), ..Default::default() };
    let exec =
        Exec { process: Some(key(7)), parent: Some(key(5)), argv: argv(), ..Default::default() };
    let pressure = Pressure {
        cgroup: "/a\x1b".into(),
        total_bytes: Some(1 << 30),
        available_bytes: Some(100 << 20),
        some_percent: Some(34.5),
        falling_bytes_per_second: Some(10 << 20),
        falling_ns: 60_000_000_000,
        ..Default::default()
    };
    let fact = |fact| Body::Observation(Observation { fact: Some(fact) });
    let transition = Transition { to: 2, incident: Some(sample()), ..Default::default() };
    let mut bodies = vec![
        fact(Fact::Alarm(alarm)),
        fact(Fact::Exec(exec)),
        fact(Fact::OomKill(OomKill {
            victim: Some(Actor { argv: argv(), ..Actor::default() }),
            limit_bytes: Some(1),
            limit_used_bytes: Some(1),
            ..OomKill::default()
        })),
        fact(Fact::Killed(Killed {
            sender: Some(Actor { comm: "a\x1b".into(), ..Actor::default() }),
            ..Killed::default()
        })),
        fact(Fact::Killed(Killed {
            victim: Some(Actor { comm: "a\x1b".into(), ..Actor::default() }),
            ..Killed::default()
        })),
        fact(Fact::Pressure(pressure)),
        Body::Transition(transition),
        Body::Transcript(Transcript {
            text: b"a\x1b".to_vec(),
            witnessed: Some(Witnessed {
                process: Some(key(7)),
                name: b"a\x1b".to_vec(),
                argv: argv(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        Body::Lost(Lost { reason: "map_full".into(), count: 3 }),
        Body::Degraded(Degraded { part: "log".into(), ..Default::default() }),
    ];
    bodies.extend(contents().into_iter().map(|content| Body::Evidence(piece(content))));
    let record = |(seq, body)| Record { seq, body: Some(body), ..Default::default() };
    (1..).zip(bodies).map(record).collect()
}
