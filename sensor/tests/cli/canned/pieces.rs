//! Evidence of every kind.

use super::*;

fn evidence(id: &str, content: evidence::Content) -> Evidence {
    Evidence {
        id: id.into(),
        name: nasty(),
        source: nasty(),
        at: at(0),
        truncated: true,
        redactions: 1,
        content: Some(content),
    }
}

pub fn file() -> Evidence {
    let fact = FileFact {
        path: NASTY.to_vec(),
        state: file_fact::State::Refused.into(),
        content: NASTY.to_vec(),
        size: 10,
        why: nasty(),
    };
    evidence("e4", evidence::Content::File(fact))
}

fn vitals() -> Evidence {
    let signs = Vitals {
        cpu_some: Some(12.5),
        memory_some: Some(0.0),
        memory_full: None,
        io_some: Some(f32::MAX),
        io_full: None,
        load: Some(4.25),
        available_bytes: Some(8 << 30),
        swapped_bytes: Some(0),
        processes: Some(321),
        threads: Some(u32::MAX),
        disk_free_bytes: Some(u64::MAX),
    };
    let second = VitalsSample {
        at: at(-1),
        boot_ns: u64::MAX,
        seconds: 1,
        average: Some(signs),
        least: None,
        most: None,
        trees: vec![TopTree {
            pid: 4121,
            start_ns: u64::MAX,
            comm: nasty(),
            processes: 43,
            forks: 120,
            bytes: 1 << 30,
            bytes_per_second: 4096.5,
            threads: u32::MAX,
            stalled_ns: u64::MAX,
            exhausted_in_s: Some(17.5),
        }],
    };
    let minute =
        VitalsSample { seconds: 60, least: Some(signs), most: Some(signs), ..second.clone() };
    evidence("v1", evidence::Content::Vitals(FlightRecord { samples: vec![minute, second] }))
}

pub fn all_evidence() -> Vec<Evidence> {
    let process = Process {
        pid: 4121,
        start_ns: 1,
        parent: key(1),
        ppid: 1,
        comm: nasty(),
        argv: argv(),
        cwd: NASTY.to_vec(),
        exe: NASTY.to_vec(),
        state: nasty(),
        threads: 1,
        rss_bytes: 1,
        anon_bytes: 1,
        cgroup: nasty(),
        uid: 0,
        fds: 3,
        open_files: argv(),
        depth: 0,
        ..Default::default()
    };
    let nameless = Process { argv: vec![], parent: None, pid: 5, ..process.clone() };
    let tree = ProcessTree { processes: vec![process, nameless], omitted: 3 };
    let link = Link {
        process: key(4121),
        alive: false,
        exec_ns: 7,
        argv: argv(),
        argv_bytes: 131_072,
        cwd: NASTY.to_vec(),
        exe: NASTY.to_vec(),
    };
    vec![
        evidence("e1", evidence::Content::Tree(tree)),
        evidence("e2", evidence::Content::Chain(Chain { links: vec![link.clone(), link] })),
        evidence("e3", evidence::Content::Text(NASTY.to_vec())),
        vitals(),
        file(),
        evidence("e5", evidence::Content::Text(Vec::new())),
        evidence("e6", evidence::Content::Text(PLAIN.into())),
        evidence("e7", evidence::Content::Stacks(stacks())),
        evidence("e8", evidence::Content::OpenFiles(open_files())),
        evidence("e9", evidence::Content::Setting(setting())),
        evidence("e10", evidence::Content::Changes(changes())),
        evidence("e11", evidence::Content::Logs(logs())),
    ]
}

fn stacks() -> Stacks {
    let frame = |kind| Frame { kind, function: nasty(), file: nasty(), line: 7, offset: 16 };
    let stack = Stack {
        samples: 3,
        tid: 8,
        thread: nasty(),
        frames: vec![frame(1), frame(2), frame(3), frame(4)],
        truncated: true,
    };
    let process = ProcessStacks {
        process: key(7),
        comm: nasty(),
        stacks: vec![stack.clone(), Stack { samples: 0, tid: 0, ..stack }],
        omitted: 2,
        notes: vec![nasty()],
    };
    Stacks {
        processes: vec![process],
        sampled_ms: 300,
        samples: 9,
        samples_omitted: 3,
        omitted: 1,
        notes: vec![nasty()],
    }
}

fn open_files() -> OpenFiles {
    let place = HeldPlace { name: NASTY.to_vec(), count: 3 };
    OpenFiles {
        kinds: vec![HeldKind { kind: nasty(), count: 5 }],
        listeners: vec![Listener {
            process: key(7),
            protocol: "unix".into(),
            address: NASTY.to_vec(),
        }],
        peers: vec![place.clone()],
        directories: vec![place],
        deleted: vec![DeletedFile { process: None, path: NASTY.to_vec(), bytes: 4096 }],
        processes: 2,
        omitted: 1,
        descriptors: 9,
        descriptors_omitted: 1,
    }
}

fn setting() -> Setting {
    let reading = || Reading { name: nasty(), value: nasty() };
    Setting {
        process: key(7),
        unit: nasty(),
        slice: nasty(),
        runtime: "docker".into(),
        container: nasty(),
        pod: nasty(),
        namespaces: vec![reading()],
        limits: vec![ResourceLimit {
            name: "stack".into(),
            soft: Some(8),
            hard: None,
            unit: "bytes".into(),
        }],
        groups: vec![GroupFacts {
            path: NASTY.to_vec(),
            hierarchy: "v2".into(),
            readings: vec![reading()],
        }],
    }
}

fn changes() -> Changes {
    let at = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let git = GitState {
        top: NASTY.to_vec(),
        branch: NASTY.to_vec(),
        head: nasty(),
        moved_at: at,
        moved_by: NASTY.to_vec(),
        modified: argv(),
        modified_count: 1,
        files: 2,
        looked_at: 2,
        amid: nasty(),
    };
    Changes {
        changes: vec![Change { kind: nasty(), at, what: NASTY.to_vec(), how: nasty() }],
        omitted: 1,
        window_s: 86_400,
        git: Some(git),
        notes: vec![nasty()],
    }
}

fn logs() -> LogLines {
    let line = LogLine {
        at: None,
        until: None,
        repeats: 2,
        source: nasty(),
        writer: nasty(),
        severity: Some(3),
        text: NASTY.to_vec(),
    };
    let later = LogLine {
        at: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        severity: None,
        ..line.clone()
    };
    LogLines {
        lines: vec![line, later],
        omitted: 7,
        repeated_lines: 1,
        window_s: 600,
        notes: vec![nasty()],
    }
}
