//! `sensor watch`: records while they happen, resumed without a gap, and not for everyone.

use std::{
    collections::BTreeMap, os::unix::process::CommandExt as _, process::Command, time::Duration,
};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs,
    run::{copy_program, run},
    skip, target, test_name,
    watch::{Arrival, identity, number},
};

use crate::support::{CATCH, contained, id, killed, plant};

/// `nobody` where no such user is known.
const OVERFLOW_ID: u32 = 65534;

type Identity = (String, u64);

fn by_identity(arrivals: &[Arrival]) -> BTreeMap<Identity, Value> {
    let all: BTreeMap<_, _> = arrivals
        .iter()
        .map(|arrival| (identity(&arrival.record).unwrap(), arrival.record.clone()))
        .collect();
    assert_eq!(all.len(), arrivals.len(), "a record came twice");
    all
}

fn in_order(arrivals: &[Arrival]) {
    let sequence: Vec<u64> =
        arrivals.iter().map(|arrival| number(&arrival.record["seq"]).unwrap()).collect();
    assert!(sequence.is_sorted_by(|one, next| one < next), "not in order: {sequence:?}");
}

#[test]
fn records_come_while_they_happen() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut watch = sensor.watch(0).unwrap();
    watch.find(CATCH, |record| record["kind"] == "started").unwrap();
    let (_work, running) = plant(&cage);
    let stopped = watch
        .find(CATCH, |record| {
            record["kind"] == "transition" && record["transition"]["to"] == "contained"
        })
        .unwrap();
    let incident = stopped.record["incident"].as_str().unwrap();
    // It came while it happened: the process is still there, and waits for a decision.
    assert_eq!(stopped.record["transition"]["incident"]["culprit"]["pid"], running.pid());
    assert!(cage.count() > 0);
    let made = number(&stopped.record["boot_ns"]).unwrap();
    let late = Duration::from_nanos(stopped.read_ns.saturating_sub(made));
    assert!(late < Duration::from_secs(10), "the record was {late:?} on its way");
    for field in ["log_id", "seq", "at", "incident", "kind"] {
        assert!(!stopped.record[field].is_null(), "no {field} in {}", stopped.record);
    }
    sensor.output(&["kill", incident, "--yes"]).unwrap();
    watch
        .find(CATCH, |record| {
            record["incident"] == incident && record["transition"]["to"] == "resolved"
        })
        .unwrap();
    in_order(watch.seen());
}

#[test]
fn a_killed_reader_resumes_without_a_gap() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut first = sensor.watch(0).unwrap();
    let (_work, running) = plant(&cage);
    first.find(CATCH, |record| record["kind"] == "transition").unwrap();
    let first = first.kill();
    let last = number(&first.last().unwrap().record["seq"]).unwrap();

    // Much happens while nobody reads.
    let incident = contained(&sensor, running.pid());
    killed(&sensor, &cage, &incident);

    let mut second = sensor.watch(last + 1).unwrap();
    second
        .find(CATCH, |record| {
            record["incident"] == id(&incident) && record["transition"]["to"] == "resolved"
        })
        .unwrap();
    let second = second.kill();
    let end = number(&second.last().unwrap().record["seq"]).unwrap();

    let mut whole = sensor.watch(0).unwrap();
    whole.find(CATCH, |record| number(&record["seq"]).is_ok_and(|seq| seq >= end)).unwrap();
    let whole: Vec<Arrival> = whole
        .kill()
        .into_iter()
        .filter(|arrival| number(&arrival.record["seq"]).unwrap() <= end)
        .collect();

    let pieces: Vec<Arrival> = first.into_iter().chain(second).collect();
    in_order(&pieces);
    assert_eq!(by_identity(&pieces), by_identity(&whole));
}

#[test]
fn another_user_is_refused() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap();
    let (uid, gid) =
        nobody.map_or((OVERFLOW_ID, OVERFLOW_ID), |user| (user.uid.as_raw(), user.gid.as_raw()));
    // Where it was built, others may not look.
    let place = tempfile::tempdir().unwrap();
    tests::daemon::open_to_all(place.path()).unwrap();
    let binary = place.path().join("sensor");
    copy_program(sensor.binary(), &binary).unwrap();

    let pid = std::process::id().to_string();
    let calls: [&[&str]; 6] = [
        &["watch", "--json"],
        &["status"],
        &["incidents"],
        &["top"],
        &["top", "--json"],
        &["trigger", "--pid", &pid, "--why", "not allowed"],
    ];
    for arguments in calls {
        let mut command = std::process::Command::new(&binary);
        // std drops the other groups with the user.
        command.args(arguments).env("SENSOR_SOCKET", sensor.socket()).uid(uid).gid(gid);
        command.current_dir("/");
        let said = run(&mut command, CATCH).unwrap();
        assert_eq!(said.status.code(), Some(1), "{arguments:?}: {said:?}");
        assert_eq!(said.stdout, "", "{arguments:?}");
        assert_eq!(said.stderr.trim().lines().count(), 1, "one line that says why: {said:?}");
        assert!(said.stderr.contains("group"), "it says what would help: {said:?}");
    }
    assert!(sensor.incidents().unwrap().is_empty());
}

/// A client that knows nothing but what the service says about itself.
#[test]
fn a_generic_client_finds_and_calls_the_service() {
    let buf = target::directory().join("tools/buf/node_modules/.bin/buf");
    if let Some(reason) = skip::reason(&[buf.to_str().unwrap()]) {
        return skip::note(test_name!(), &reason);
    }
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let opened = sensor.json(&["trigger", "--why", "look", "--json"]).unwrap();
    let curl = |more: &[&str]| {
        let mut command = Command::new(&buf);
        // It wants a place for what it keeps.
        command.env("HOME", sensor.state_directory());
        command.args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket"]);
        let output = command.arg(sensor.socket()).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let service = "sensor.v1.SensorService";
    let services = curl(&["--list-services", "http://sensor"]);
    assert!(services.lines().any(|line| line == service), "{services}");
    let methods = curl(&["--list-methods", "http://sensor"]);
    assert!(methods.contains(&format!("{service}/ListIncidents")), "{methods}");
    let url = format!("http://sensor/{service}");
    let call = |method: &str, request: &str| curl(&["-d", request, &format!("{url}/{method}")]);
    let listed: Value = serde_json::from_str(&call("ListIncidents", "{}")).unwrap();
    assert_eq!(listed["incidents"][0]["id"], opened["id"], "{listed}");
    let request = format!("{{\"incident\": {}}}", opened["id"]);
    let streamed = call("StreamRecords", &request);
    assert!(streamed.contains("\"transition\""), "{streamed}");
}
