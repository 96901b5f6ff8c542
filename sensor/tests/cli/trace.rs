//! `sensor replay` on files, and what `sensor record` says where it cannot.

use std::path::{Path, PathBuf};

use sensor::{record::Exporter, trace::Writer};
use sensor_proto::v1::{
    HostMemory, MemorySample, Observation, ProcessKey, Record, TraceEnd, TraceExec, TraceFork,
    TraceGroup, TraceSignatures, TraceStart, TreeMemory, observation::Fact, record::Body,
    trace_entry::Entry,
};

use crate::{json, program::Sensor, schema};

fn sensor(args: &[&str]) -> Sensor {
    Sensor::new(args, Path::new("/nowhere"))
}

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, start_ns: u64::from(pid) * 1_000_000_000 }
}

/// A script that runs itself, twenty deep, a generation a second.
fn recursion(directory: &Path) -> PathBuf {
    let file = directory.join("a.trace");
    let mut trace = Writer::create(&file).unwrap();
    let start = TraceStart { host: "box".into(), kernel: "6.1".into(), ..TraceStart::default() };
    trace.write(Entry::Start(start)).unwrap();
    trace.write(Entry::Group(TraceGroup { id: 4, path: b"/a".to_vec() })).unwrap();
    for pid in 100..120 {
        let fork = TraceFork {
            child: Some(key(pid)),
            parent: Some(key(pid - 1)),
            cgroup: 4,
            storms: Vec::new(),
        };
        let exec = TraceExec {
            process: Some(key(pid)),
            exec_ns: u64::from(pid) * 1_000_000_000 + 1,
            cgroup: 4,
            signatures: Some(TraceSignatures { strict: 3, loose: 5, exe: 7 }),
            argv: vec![b"./again".to_vec(), b"\x1b[2J".to_vec()],
            argv_bytes: 13,
            ..TraceExec::default()
        };
        trace.write(Entry::Fork(fork)).unwrap();
        trace.write(Entry::Exec(exec)).unwrap();
    }
    trace.write(Entry::End(TraceEnd { boot_ns: 121_000_000_000 })).unwrap();
    trace.finish().unwrap();
    file
}

#[test]
fn a_replay_fits_its_schema_and_is_told_to_people() {
    let directory = tempfile::tempdir().unwrap();
    let file = recursion(directory.path());
    let file = file.to_str().unwrap();
    let report = json(&sensor(&["replay", file, "--json"]).run().done());
    schema::check("replay", &report);
    assert_eq!((&report["incidents"], &report["containments"]), (&1.into(), &1.into()));
    assert_eq!(report["findings"][0]["culprit"]["pid"], 100);

    let page = sensor(&["replay", file]).run().done();
    for said in
        ["box, Linux 6.1", "20 forks, 20 execs", "R1    contain 6.0 s later  100", "1 containment"]
    {
        assert!(page.contains(said), "{said:?} is not in {page}");
    }
    assert!(!page.contains('\x1b'), "{page:?}");
    let elsewhere = sensor(&["replay", file, "--cgroup", "/b"]).run().done();
    assert!(elsewhere.contains("no findings"), "{elsewhere}");
}

#[test]
fn a_replay_looks_where_the_configuration_does() {
    let directory = tempfile::tempdir().unwrap();
    let file = recursion(directory.path());
    let config = directory.path().join("sensor.toml");
    let (file, config) = (file.to_str().unwrap(), config.to_str().unwrap());
    let found = |scope: &str, more: &[&str]| {
        std::fs::write(config, format!("[scope]\ncgroup = [{scope}]\n")).unwrap();
        let args = [&["replay", file, "--json", "--config", config], more].concat();
        let report = json(&sensor(&args).run().done());
        schema::check("replay", &report);
        (report["trace"]["forks"].as_u64().unwrap(), report["scope"].clone())
    };
    assert_eq!(found("", &[]), (20, serde_json::json!([])));
    assert_eq!(found("\"/b\"", &[]), (0, serde_json::json!(["/b"])));
    assert_eq!(found("\"/b\", \"/a\"", &[]), (20, serde_json::json!(["/b", "/a"])));
    assert_eq!(found("\"/b\"", &["--cgroup", "/a"]), (20, serde_json::json!(["/a"])));
}

/// Each of two files, cut off or damaged: what of it can be read, then exit code 1 and where that ends.
#[test]
fn a_part_of_a_file_is_replayed_and_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces");
    for (of, name, part, counted) in [
        ("development-1.trace", "replay", "entry", "forks"),
        ("leak.observations", "replay-log", "record", "samples"),
    ] {
        let whole = std::fs::read(recorded.join(of)).unwrap();
        let file = directory.path().join("part");
        let told = |bytes: &[u8], args: &[&str]| {
            std::fs::write(&file, bytes).unwrap();
            sensor(&[&["replay", file.to_str().unwrap()], args].concat()).run()
        };
        let mut damaged = whole.clone();
        damaged[whole.len() / 2..][..8].fill(0xff);
        for (bytes, how) in [
            (&whole[..whole.len() / 2], "cut off behind "),
            (&whole[..whole.len() - 1], "cut off behind "),
            (&damaged, "damaged behind "),
        ] {
            let where_to = format!("is {how}{part} ");
            let said = told(bytes, &["--json"]);
            assert_eq!((said.code, said.stderr.lines().count()), (1, 1), "{said:?}");
            assert!(said.stderr.contains(&where_to), "{}", said.stderr);
            let report = json(&said.stdout);
            schema::check(name, &report);
            let about = if name == "replay" { &report["trace"] } else { &report["log"] };
            assert!(about[counted].as_u64() > Some(0), "{report:#}");
            assert!(about["damage"].as_str().unwrap().starts_with(how), "{report:#}");
            let page = told(bytes, &[]);
            assert!(
                page.code == 1 && page.stdout.contains(&format!("  it {where_to}")),
                "{page:?}"
            );
        }
        for nothing in [&whole[..0], &whole[..3], &whole[..14]] {
            let said = told(nothing, &[]);
            assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
            assert!(said.stderr.contains("it ends before anything in it can be read"), "{said:?}");
        }
    }
}

/// Observations of a process that leaks 50 MiB a minute for a bit more than 80 minutes, one in 10 s.
fn leak(directory: &Path) -> PathBuf {
    let file = directory.join("leak.observations");
    let mut kept = Exporter::create_records(&file).unwrap();
    for at in 1..=500_u64 {
        let bytes = (80 << 20) + at * 10 * (50 << 20) / 60;
        let tree = TreeMemory {
            root: Some(key(20)),
            alive: true,
            comm: "leak\x1b[2J".into(),
            bytes,
            root_bytes: bytes,
            processes: 1,
            ..TreeMemory::default()
        };
        let fact = Some(Fact::Memory(MemorySample {
            at_ns: at * 10_000_000_000,
            host: Some(HostMemory {
                total_bytes: Some(8 << 30),
                available_bytes: Some((6 << 30) - bytes),
                anon_bytes: Some((1 << 30) + bytes),
                ..HostMemory::default()
            }),
            trees: vec![tree],
            ..MemorySample::default()
        }));
        let body = Some(Body::Observation(Observation { fact }));
        kept.record(Record { seq: at, host: "box".into(), body, ..Record::default() }).unwrap();
    }
    kept.finish().unwrap();
    file
}

#[test]
fn a_log_replays_without_its_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let file = leak(directory.path());
    let file = file.to_str().unwrap();
    let report = json(&sensor(&["replay", file, "--json"]).run().done());
    schema::check("replay-log", &report);
    assert_eq!(report["log"]["samples"], 500);
    let found = &report["findings"][0];
    assert_eq!((&found["rule"], &found["culprit"]["pid"]), (&"M2".into(), &20.into()));

    let page = sensor(&["replay", file]).run().done();
    for said in ["box, from ", "500 samples of memory", "M2", "(20)", "1 finding"] {
        assert!(page.contains(said), "{said:?} is not in {page}");
    }
    assert!(!page.contains('\x1b'), "{page:?}");

    let kept = directory.path().join("kept");
    let kept = kept.to_str().unwrap();
    sensor(&["replay", file, "--keep", kept]).run().done();
    let again = json(&sensor(&["replay", kept, "--json"]).run().done());
    assert_eq!(again["findings"], report["findings"]);
    // Neither is overwritten, nor is it an incident.
    assert_eq!(sensor(&["replay", file, "--keep", kept]).run().code, 1);
    assert_eq!(sensor(&["show", "--file", kept]).run().code, 1);
    assert_eq!(sensor(&["replay", file, "--cgroup", "/a"]).run().code, 2);
    let trace = recursion(directory.path());
    assert_eq!(sensor(&["replay", trace.to_str().unwrap(), "--keep", "/x"]).run().code, 2);
    let empty = sensor(&["replay", directory.path().to_str().unwrap()]).run();
    assert_eq!(empty.code, 1);
    assert!(empty.stderr.contains("there is no log at"), "{}", empty.stderr);
}

/// What a sensor recorded of a real leak: docs in `tests/traces/README.md`.
#[test]
fn a_recorded_leak_is_found() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces/leak.observations");
    let report = json(&sensor(&["replay", file.to_str().unwrap(), "--json"]).run().done());
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{report:#}");
    let value = |name: &str| {
        let measures = findings[0]["measures"].as_array().unwrap();
        measures.iter().find(|it| it["name"] == name).unwrap()["value"].as_f64().unwrap()
    };
    assert_eq!(
        (&findings[0]["rule"], &findings[0]["culprit"]["comm"]),
        (&"M2".into(), &"python3".into())
    );
    // What was asked of it: 880 objects of 1 KiB each 10 s, and what Python adds.
    let slope = value("slope") * 60.0 / f64::from(1 << 20);
    assert!((5.0..6.0).contains(&slope), "{slope} MiB a minute");
    assert!(value("own_share") >= 99.0 && value("share_of_growth") >= 90.0, "{report:#}");
}

#[test]
fn a_trace_is_for_its_owner_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let file = recursion(directory.path());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&file).unwrap();
    let error = Writer::create(&file).err().unwrap().to_string();
    assert!(error.contains("a.trace exists already"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn what_is_no_trace_is_said_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("x");
    std::fs::write(&other, "[1, 2, 3]").unwrap();
    for (file, why) in
        [(other.to_str().unwrap(), "is no trace"), ("/nowhere/x", "cannot open /nowhere/x")]
    {
        let said = sensor(&["replay", file]).run();
        assert_eq!((said.code, said.stdout.as_str()), (1, ""));
        assert!(said.stderr.contains(why), "{}", said.stderr);
        assert_eq!(said.stderr.lines().count(), 1);
    }
    let said = sensor(&["record"]).run();
    assert_eq!(said.code, 2, "{}", said.stderr);
}
