//! An investigation that was cut off picks up where it left off, and nothing of its first life survives.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    names, needs, process,
    workloads::{Running, script},
};

use crate::support::{CATCH, comes, id};

/// Of a program that sleeps until somebody ends it.
const SLEEP: &str = "86399";

/// A program that says a word, tells whom it has started and sleeps in its first life, and finds something once
/// there is a file `second`. It can write nowhere itself.
fn forgetful(place: &Path, word: &str, finding: &str) -> PathBuf {
    let program = place.join(names::word());
    let script = format!(
        "#!/bin/sh\n\
         cat >/dev/null\n\
         if [ -e {second} ]; then echo {word}; echo '{{\"findings\":\"{finding}\"}}'; exit 0; fi\n\
         setsid sleep {SLEEP} &\n\
         echo {word} $! $$\n\
         wait\n",
        second = place.join("second").display(),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// An incident whose investigation sleeps in its first life.
struct Begun {
    incident: String,
    /// All of that life.
    pids: Vec<u32>,
    _running: Running,
}

fn begun(sensor: &Sensor, cage: &Cage, place: &Path, word: &str) -> Begun {
    let mut watch = sensor.watch(0).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(cage).unwrap();
    let pid = running.pid().to_string();
    let incident =
        sensor.json(&["trigger", "--pid", &pid, "--why", "a test asks", "--json"]).unwrap();
    let said = |record: &Value| {
        let text = record["transcript"]["text"].as_str().unwrap_or_default().to_owned();
        text.starts_with(word).then_some(text)
    };
    let line = watch.find(CATCH, |record| said(record).is_some()).unwrap();
    let pids: Vec<u32> =
        said(&line.record).unwrap().split(' ').filter_map(|pid| pid.parse().ok()).collect();
    assert_eq!(pids.len(), 2);
    fs::write(place.join("second"), "").unwrap();
    Begun { incident: id(&incident).to_owned(), pids, _running: running }
}

/// Nobody may have waited for it yet.
fn is_gone(pid: u32) -> bool {
    process::state(pid).is_none_or(|state| state == 'Z')
}

fn ended(sensor: &Sensor, incident: &str) -> Value {
    let mut run = Value::Null;
    comes("the end of the second life", CATCH, || {
        let shown = sensor.show(incident).unwrap();
        run = shown["investigations"][0].clone();
        run["state"] == "done"
    });
    run
}

/// Both lives' lines, numbered without a gap.
fn transcript(sensor: &Sensor, run: &Value) -> Vec<String> {
    let mut watch = sensor.watch(0).unwrap();
    let of_run = |record: &Value| record["transcript"]["investigation"] == run["id"];
    watch
        .find(CATCH, |record| {
            of_run(record)
                && record["transcript"]["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("findings"))
        })
        .unwrap();
    let lines: Vec<Value> = watch
        .kill()
        .into_iter()
        .filter(|arrival| of_run(&arrival.record))
        .map(|arrival| arrival.record["transcript"].clone())
        .collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["line"], index as u64 + 1, "{lines:#?}");
    }
    lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

/// A sensor whose investigator sleeps in its first life.
struct Scene {
    sensor: Sensor,
    begun: Begun,
    word: String,
    finding: String,
    _cage: Cage,
    _place: tempfile::TempDir,
}

fn scene() -> Scene {
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let (word, finding) = (names::word(), names::word());
    let program = forgetful(place.path(), &word, &finding);
    let config = format!(
        "[investigate]\nagent = \"command\"\n[investigate.command]\nprogram = [{program:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();
    let begun = begun(&sensor, &cage, place.path(), &word);
    Scene { sensor, begun, word, finding, _cage: cage, _place: place }
}

#[test]
fn a_killed_core_takes_up_what_ran_and_nothing_of_its_first_life_survives() {
    needs!();
    let mut scene = scene();
    let Scene { sensor, begun, word, finding, .. } = &mut scene;
    sensor.kill_core().unwrap();
    sensor.restart().unwrap();

    let run = ended(sensor, &begun.incident);
    for pid in &begun.pids {
        assert!(is_gone(*pid), "process {pid} of the first life lives");
    }
    assert_eq!((&run["lives"], &run["outcome"]), (&2.into(), &"complete".into()), "{run:#}");
    assert!(run["findings"].as_str().unwrap().contains(finding.as_str()), "{run:#}");
    let lines = transcript(sensor, &run);
    assert_eq!(
        lines.iter().filter(|line| line.starts_with(word.as_str())).count(),
        2,
        "{lines:#?}"
    );
}

#[test]
fn a_daemon_that_was_stopped_in_good_order_takes_it_up_as_well() {
    needs!();
    let mut scene = scene();
    let Scene { sensor, begun, word, .. } = &mut scene;
    sensor.stop().unwrap();
    comes("the end of the first life", CATCH, || begun.pids.iter().all(|pid| is_gone(*pid)));
    sensor.restart().unwrap();
    let run = ended(sensor, &begun.incident);
    assert_eq!((&run["lives"], &run["outcome"]), (&2.into(), &"complete".into()), "{run:#}");
    assert_eq!(
        transcript(sensor, &run).iter().filter(|line| line.starts_with(word.as_str())).count(),
        2
    );
}
