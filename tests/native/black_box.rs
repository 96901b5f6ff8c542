//! The last record of what was going on: the minutes before an incident, the whole of it in one file, and
//! a log that goes on whatever happened to it.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::Value;
use tests::{Cage, Limits, Sensor, needs, watch::number, workloads::script};

use crate::support::{EFFECT, comes, contained, id, killed};

/// Long enough for a few seconds of the flight recorder.
const BEFORE: Duration = Duration::from_secs(4);

fn vitals(evidence: &Value) -> Vec<Value> {
    let item = evidence.as_array().unwrap().iter().find(|item| item["id"] == "v1").unwrap();
    assert_eq!(item["name"], "vitals");
    item["vitals"]["samples"].as_array().unwrap().clone()
}

#[test]
fn an_incident_has_the_seconds_before_it_and_leaves_the_host() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor = Sensor::start(&cage, "").unwrap();
    thread::sleep(BEFORE);
    let work = script::line(20).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    let opened = number(&incident["opened_ns"]).unwrap();

    let evidence = sensor.json(&["evidence", id(&incident), "--json"]).unwrap();
    let samples = vitals(&evidence);
    let before = samples.iter().filter(|it| number(&it["boot_ns"]).unwrap() <= opened).count();
    assert!(before >= 3, "{samples:#?}");
    for sample in &samples[1..] {
        let free = sample["average"]["available_bytes"].as_u64().unwrap();
        assert!(free > 1 << 20, "{sample:#}");
        assert!(sample["average"]["processes"].as_u64().unwrap() > 1, "{sample:#}");
    }

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("x.incident");
    let file = file.to_str().unwrap();
    sensor.output(&["export", id(&incident), file]).unwrap();
    let shown = sensor.show(id(&incident)).unwrap();
    // Where there is no daemon.
    let elsewhere = |arguments: &[&str]| -> Value {
        let mut command = Command::new(sensor.binary());
        command.args(arguments).env("SENSOR_SOCKET", home.path().join("none"));
        let said = command.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).unwrap()
    };
    assert_eq!(elsewhere(&["show", "--file", file, "--json"]), shown);
    assert_eq!(vitals(&elsewhere(&["evidence", "--file", file, "--json"])), samples);
    killed(&sensor, &cage, &incident);

    // The recorder goes on where a killed one was cut off.
    let last = samples.last().unwrap();
    sensor.kill_core().unwrap();
    sensor.restart().unwrap();
    let again = sensor.json(&["trigger", "--why", "look", "--json"]).unwrap();
    let mut samples = Vec::new();
    tests::run::until(BEFORE, || {
        let evidence = sensor.json(&["evidence", id(&again), "--json"]).unwrap();
        let there = evidence.as_array().unwrap().iter().any(|item| item["id"] == "v1");
        if there {
            samples = vitals(&evidence);
        }
        there
    });
    assert!(samples.contains(last), "{samples:#?}");
}

#[test]
fn a_damaged_log_is_read_out_and_watched_over_again() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor = Sensor::start(&cage, "").unwrap();
    let told = sensor.json(&["trigger", "--why", "before the damage", "--json"]).unwrap();
    let log = sensor.status().unwrap()["log_id"].clone();
    sensor.stop().unwrap();
    let path = sensor.state_directory().join("log.db");
    let mut copy = fs::read(&path).unwrap();
    // Two pages, heads and all: what is wrong within a record alone, SQLite cannot know.
    let end = copy.len();
    copy[end - 2 * 4_096..].fill(0x5a);
    fs::write(&path, copy).unwrap();
    sensor.restart().unwrap();
    let aside = || {
        let all = fs::read_dir(sensor.state_directory()).unwrap().flatten();
        all.filter(|it| it.file_name().to_string_lossy().contains("corrupt")).count()
    };
    comes("that the damage is found, and what was damaged kept", EFFECT, || aside() > 0);
    comes("that it is written again", EFFECT, || sensor.part("record").unwrap()["ok"] == true);
    assert_eq!(sensor.status().unwrap()["log_id"], log, "it is the same log to its readers");
    assert!(sensor.incidents().unwrap().iter().any(|one| one["id"] == told["id"]));
    let work = script::line(20).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    killed(&sensor, &cage, &incident);
}
