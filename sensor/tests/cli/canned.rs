//! One incident and one record of each kind, every field set, with text that a culprit might choose.

#![expect(clippy::unnecessary_wraps, reason = "the schema's fields are options")]

mod pieces;

use prost_types::Timestamp;
use sensor_proto::v1::*;

pub use self::pieces::{all_evidence, file};

pub const ID: &str = "4k2mz9qw0a";

/// What a program may want as it is.
pub const PLAIN: &str = "MemTotal:\t7 kB\n";

/// An escape sequence, a newline, a mark that turns the direction of text, bytes that are no text.
const NASTY: &[u8] = b"\x1b[2J\x1b]0;x\x07\n\xe2\x80\xae\xff";

fn nasty() -> String {
    "\x1b[31m\r\n\u{202e}done".to_owned()
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_795_000_000 + seconds, nanos: 0 })
}

fn argv() -> Vec<Vec<u8>> {
    vec![b"npm".to_vec(), b"test".to_vec(), NASTY.to_vec()]
}

fn key(pid: u32) -> Option<ProcessKey> {
    Some(ProcessKey { pid, start_ns: u64::MAX })
}

pub fn incident() -> Incident {
    Incident {
        oom: Some(oom()),
        id: ID.into(),
        kind: Kind::Recursion.into(),
        severity: Severity::Critical.into(),
        state: State::Contained.into(),
        opened_at: at(0),
        opened_ns: 5_000_000_000,
        host: nasty(),
        boot_id: "b".into(),
        summary: nasty(),
        culprit: Some(Culprit {
            pid: 4121,
            start_ns: 4_000_000_000,
            comm: nasty(),
            argv: argv(),
            cwd: NASTY.to_vec(),
            cgroup: nasty(),
            exe: NASTY.to_vec(),
            uid: 1000,
        }),
        tree: Some(Tree { processes: 43, threads: 210, anon_bytes: 1 << 30, depth: 20 }),
        finding: Some(Finding {
            rule: "R1".into(),
            confidence: 0.99,
            measures: vec![
                Measure {
                    name: nasty(),
                    value: 3.0,
                    threshold: Some(3.0),
                    unit: "processes".into(),
                },
                Measure { name: "live".into(), value: 43.0, threshold: None, unit: nasty() },
            ],
        }),
        diagnosis: Some(diagnosis()),
        actions: vec![action(true)],
        investigations: vec![investigation()],
        fingerprint: "f".into(),
        occurrences: 2,
        updated_at: at(1),
        resolved_at: None,
        thaw_due_ns: 605_000_000_000,
        group: Some(Group {
            by: GroupBy::Executable.into(),
            what: nasty(),
            members: [4121, 4122].into_iter().filter_map(key).collect(),
            processes: 43,
            anon_bytes: 1 << 30,
            uid: Some(1000),
            ancestor: key(1),
        }),
    }
}

fn diagnosis() -> Diagnosis {
    let step = || Step { argv: argv(), cwd: NASTY.to_vec() };
    Diagnosis {
        cause: nasty(),
        confidence: 0.9,
        evidence: vec!["e1".into(), nasty()],
        by: "npm".into(),
        remedy: nasty(),
        cycle: Some(Cycle {
            steps: vec![step(), step(), step()],
            turns: 5,
            depth: 16,
            turns_per_second: 1.5,
            turns_back_at: 2,
        }),
    }
}

pub fn action(ok: bool) -> Action {
    Action {
        kind: ActionKind::Kill.into(),
        at: at(0),
        by: nasty(),
        why: nasty(),
        result: if ok { nasty() } else { "nobody was left".into() },
        started_ns: 5_000_000_000,
        ended_ns: 5_002_000_000,
        processes: 43,
        ok,
        braked: ok.then_some(Braked { paused: 14, passed: 2, executed: 1, refused: 0 }),
    }
}

fn investigation() -> Investigation {
    Investigation {
        id: "i1".into(),
        agent: nasty(),
        state: InvestigationState::Failed.into(),
        started_at: at(0),
        ended_at: None,
        findings: nasty(),
        cost: Some(Cost {
            usd: 0.01,
            tokens: 12,
            wall_ns: 1_000_000,
            input_tokens: 8,
            cached_tokens: 2,
            output_tokens: 2,
            turns: 1,
            tool_calls: 1,
            estimated_usd: 0.02,
        }),
        outcome: Outcome::Complete.into(),
        why: "its diagnosis is not sure: 0.40".into(),
        lives: 1,
        session: "5b0e".into(),
        stage: Stage::Locate.into(),
        error: nasty(),
        report: Some(report()),
        stages: vec![
            stage(Stage::Diagnose, InvestigationState::Done),
            stage(Stage::Locate, InvestigationState::Failed),
        ],
        programs: 1512,
    }
}

fn stage(stage: Stage, state: InvestigationState) -> StageRun {
    StageRun {
        stage: stage.into(),
        state: state.into(),
        outcome: Outcome::Incomplete.into(),
        started_at: at(0),
        ended_at: at(1),
        error: nasty(),
        findings: nasty(),
    }
}

fn witnessed() -> Witnessed {
    Witnessed {
        process: key(7),
        parent: key(6),
        at_ns: 5_000_000_000,
        name: NASTY.to_vec(),
        argv: argv(),
        argv_bytes: 900,
        exe_dev: 8 << 20 | 1,
        exe_ino: 17,
        ended: true,
        code: 9,
        ran_ns: 12_000_000,
    }
}

fn report() -> Findings {
    let claim = || Some(Claim { text: nasty(), evidence: vec!["e1".into(), nasty()] });
    Findings {
        verdict: Verdict::Extends.into(),
        confidence: 0.4,
        cause: claim(),
        mechanism: claim(),
        culprit: Some(AccusedProcess { pid: 7, text: nasty(), evidence: vec!["e1".into()] }),
        remedy: claim(),
        prevention: None,
        fix_location: Some(FixLocation { path: nasty(), line: 3, evidence: vec!["e2".into()] }),
        refutation: None,
        dropped: 1,
        dropped_why: vec![nasty()],
        at: at(2),
    }
}

pub fn status(paused: bool) -> GetStatusResponse {
    GetStatusResponse {
        version: "1".into(),
        host: nasty(),
        boot_id: "b".into(),
        kernel: nasty(),
        started_at: at(0),
        log_id: "l".into(),
        last_seq: 9,
        paused,
        scope: vec![nasty()],
        incidents_open: 1,
        incidents_contained: 1,
        processes: 200,
        parts: vec![PartStatus { part: "kernel".into(), ok: false, detail: nasty() }],
        losses: vec![LossCount { reason: nasty(), count: 3 }],
        map_bytes: 1 << 20,
        log_bytes: 1 << 20,
        memory_sampling: Some(SamplingStatus {
            by: "proc".into(),
            why: nasty(),
            took_ns: 1_700_000,
            walk_took_ns: 0,
            cpu_percent: 0.25,
            every_ms: 5_000,
            processes: 200,
        }),
        degradations: vec![nasty()],
    }
}

pub fn trees() -> TreeList {
    let tree = LiveTree {
        root: key(4121),
        alive: true,
        comm: nasty(),
        argv: argv(),
        cgroup: nasty(),
        uid: Some(1000),
        processes: 43,
        forks: 4711,
        forks_per_second: 12.5,
        growth: -3,
        age_ns: u64::MAX,
        threads: Some(210),
        anon_bytes: Some(1 << 30),
        incident: ID.into(),
        contained: true,
        bytes: Some(1 << 30),
        bytes_per_second: Some(-4096.5),
        exhausted_in_s: Some(1e300),
        stalled_ns: u64::MAX,
    };
    let gone = LiveTree {
        alive: false,
        argv: Vec::new(),
        cgroup: String::new(),
        uid: None,
        threads: None,
        anon_bytes: None,
        bytes: None,
        bytes_per_second: None,
        exhausted_in_s: None,
        incident: String::new(),
        contained: false,
        ..tree.clone()
    };
    TreeList {
        at: at(0),
        boot_ns: u64::MAX,
        span_ns: 1_000_000_000,
        trees: vec![tree, gone],
        omitted: 2,
        processes: 321,
        forks: 13,
    }
}

fn memory_sample() -> MemorySample {
    let tree = TreeMemory {
        root: key(4121),
        parent: key(7),
        alive: true,
        comm: nasty(),
        program: u64::MAX,
        signature: u64::MAX,
        cgroup: 77,
        uid: 1000,
        session: 4000,
        processes: 43,
        threads: 210,
        bytes: 1 << 30,
        root_bytes: 1 << 20,
        forks: 50,
        exits: 7,
        zombies: 2,
        alike: 40,
        alike_program: u64::MAX,
        stalled_ns: u64::MAX,
        limit_bytes: Some(2 << 30),
        limit_used_bytes: Some(1 << 30),
        limit_cgroup_id: 78,
    };
    let adopted =
        TreeMemory { parent: None, limit_bytes: None, limit_used_bytes: None, ..tree.clone() };
    MemorySample {
        at_ns: u64::MAX,
        took_ns: 300_000,
        host: Some(HostMemory { total_bytes: Some(16 << 30), ..HostMemory::default() }),
        trees: vec![tree, adopted],
        groups: vec![GroupMemory {
            by: GroupBy::Executable.into(),
            what: nasty(),
            processes: 7,
            bytes: 11 << 30,
            eldest: key(4121),
            limit_bytes: Some(12 << 30),
            limit_used_bytes: None,
        }],
        omitted: 1,
        processes: 321,
        series_ns: 5,
        trees_unknown: true,
    }
}

fn actor() -> Actor {
    Actor {
        process: key(7),
        parent: key(4121),
        comm: nasty(),
        argv: argv(),
        uid: 1000,
        cgroup: nasty(),
        signature: 9,
    }
}

fn oom_kill() -> OomKill {
    OomKill {
        at_ns: 5,
        victim: Some(actor()),
        trigger: Some(actor()),
        anon_bytes: Some(1 << 20),
        file_bytes: Some(2 << 20),
        shmem_bytes: Some(3 << 20),
        swap_bytes: None,
        oom_score_adj: -17,
        dying: false,
        limit_bytes: Some(7 << 20),
        limit_used_bytes: Some(6 << 20),
        limit_cgroup: nasty(),
        limit_cgroup_id: 78,
        victim_cgroup_id: 77,
        shared_bytes: Some(1 << 20),
    }
}

fn oom() -> Oom {
    let holder = OomHolder {
        root: key(7),
        comm: nasty(),
        processes: 3,
        bytes: 4 << 20,
        grown_bytes: 3 << 20,
        grown_ns: 5_000_000_000,
    };
    Oom {
        scope: OomScope::Cgroup.into(),
        cgroup: nasty(),
        limit_bytes: Some(7 << 20),
        peak_bytes: Some(6 << 20),
        victims: vec![oom_kill()],
        kills: 2,
        killed: 3,
        period_ns: 12_000_000_000,
        holders: vec![holder],
    }
}

/// Sequence numbers with gaps, as in a real log.
pub fn records() -> Vec<Record> {
    use record::Body;

    let alarm = Alarm {
        rule: "R1".into(),
        level: "contain".into(),
        process: key(7),
        top: key(4121),
        repetitions: 3,
        span_ns: 2_000_000_000,
        live: 43,
        crossed_ns: 5,
        grown: 0,
        forks: 0,
        exits: 0,
        code: 0,
    };
    let respawned = Alarm {
        rule: "R6".into(),
        level: "open".into(),
        repetitions: 59,
        span_ns: 60_000_000_000,
        exits: 60,
        code: 127 << 8,
        ..alarm.clone()
    };
    let exec =
        Exec { process: key(7), parent: key(4121), exec_ns: 4, argv: argv(), argv_bytes: 10 };
    let pressure = Pressure {
        at_ns: 6,
        cgroup: nasty(),
        total_bytes: Some(1 << 30),
        available_bytes: Some(100 << 20),
        window_ns: 2_000_000_000,
        some_percent: Some(34.5),
        full_windows: 2,
        falling_bytes_per_second: Some(10 << 20),
        falling_ns: 60_000_000_000,
        ..Pressure::default()
    };
    let usage = Usage { at_ns: 7, cpu_percent: Some(99), ..Usage::default() };
    let fact = |fact| Body::Observation(Observation { fact: Some(fact) });
    let mut bodies = vec![
        Body::Started(Started {
            version: "1".into(),
            kernel: nasty(),
            degradations: vec![nasty()],
            map_bytes: 1,
            baseline_processes: 100,
        }),
        fact(observation::Fact::Alarm(alarm)),
        fact(observation::Fact::Exec(exec)),
        fact(observation::Fact::Memory(memory_sample())),
        fact(observation::Fact::Alarm(respawned)),
        fact(observation::Fact::OomKill(oom_kill())),
        fact(observation::Fact::Killed(Killed {
            at_ns: 6,
            process: Some(actor()),
            sender: Some(actor()),
            by_kernel: false,
            sent_ns: 5,
            bytes: 1 << 20,
            processes: 9,
            untold: 1,
            victim: Some(actor()),
        })),
        fact(observation::Fact::Pressure(pressure)),
        fact(observation::Fact::Usage(usage)),
        Body::Transition(Transition {
            from: State::Unspecified.into(),
            to: State::Open.into(),
            why: nasty(),
            incident: Some(incident()),
        }),
    ];
    bodies.extend(all_evidence().into_iter().map(Body::Evidence));
    bodies.extend([
        Body::Diagnosis(diagnosis()),
        Body::Action(action(true)),
        Body::Investigation(investigation()),
        Body::Transcript(Transcript {
            investigation: "i1".into(),
            line: 1,
            stream: nasty(),
            text: NASTY.to_vec(),
            witnessed: Some(witnessed()),
        }),
        Body::Lost(Lost { reason: nasty(), count: 3 }),
        Body::Degraded(Degraded { part: nasty(), why: nasty(), recovered: false }),
        Body::Stopped(Stopped { why: nasty() }),
    ]);
    let record = |(index, body): (usize, Body)| Record {
        log_id: "l".into(),
        seq: 10 + 3 * index as u64,
        at: at(index as i64),
        boot_ns: 5,
        boot_id: "b".into(),
        host: nasty(),
        incident: ID.into(),
        priority: Priority::Incident.into(),
        body: Some(body),
    };
    bodies.into_iter().enumerate().map(record).collect()
}
