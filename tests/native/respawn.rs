//! Respawn loops: told of, blamed on whoever restarts, explained, never stopped, over when the loop is;
//! and commands that fail once each, or end well, are left alone.
//!
//! Two minutes are long: here a window takes 1 or 2 s and 5 runs are enough.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, Workload, needs,
    run::run,
    takes_its_time, target,
    workloads::{Running, respawn},
};

use crate::support::{
    CATCH, catches_a_planted_recursion, comes, evidence, explained, id, resolved,
};

const QUICK: &str = "[detect.respawn]\nruns = 5\nwindow_s = 2\nwindows = 2\n";

/// Stricter, for what has to be left alone.
const STRICT: &str = "[detect.respawn]\nruns = 5\nwindow_s = 1\nwindows = 2\n";
const TWO_WINDOWS: Duration = Duration::from_secs(2);

/// A loop that goes on is told of each 2 s; of one that is over nobody has told for five windows.
const GOES_ON: Duration = Duration::from_secs(5);
const OVER: Duration = Duration::from_secs(20);

fn starts(cage: &Cage, work: &Workload) -> (Sensor, Running) {
    let sensor = Sensor::start(cage, QUICK).unwrap();
    let running = work.start(cage).unwrap();
    (sensor, running)
}

/// An open crash loop with its explanation.
fn found(sensor: &Sensor, running: &Running) -> Value {
    sensor
        .wait_for(CATCH, |one| {
            one["kind"] == "crash_loop"
                && one["culprit"]["pid"] == running.pid()
                && !one["diagnosis"].is_null()
        })
        .unwrap()
}

fn measured(incident: &Value, name: &str) -> Option<f64> {
    let measures = incident["finding"]["measures"].as_array().unwrap();
    measures.iter().find(|one| one["name"] == name)?["value"].as_f64()
}

/// The evidence of the explanation says which command fails where, and how.
fn tells_the_command(sensor: &Sensor, work: &Workload, incident: &Value) {
    explained(sensor, work, incident);
    let known = evidence(sensor, incident);
    let told = known.iter().map(ToString::to_string).collect::<String>();
    let (command, cwd) = (&work.names[1], work.cwd.display().to_string());
    assert!(told.contains(command) && told.contains(&cwd), "{known:#?}");
    assert!(told.contains("failed_at_once"), "how the runs ended: {known:#?}");
}

/// Nobody has stopped anything: what is recorded as done is that nothing was.
fn left_running(sensor: &Sensor, cage: &Cage, incident: &Value) {
    let incident = sensor.show(id(incident)).unwrap();
    assert_eq!(incident["state"], "open", "{incident:#}");
    let actions = incident["actions"].as_array().unwrap();
    assert_eq!(actions.len(), 1, "why nothing was done: {incident:#}");
    assert_eq!(actions[0]["kind"], "refuse", "{incident:#}");
    assert!(cage.running() > 0, "its loop stands still");
}

#[test]
fn respawn_loop_with_an_exit_code() {
    needs!();
    let (work, go) = respawn::restarts("exit 3").unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let (sensor, mut running) = starts(&cage, &work);
    let incident = found(&sensor, &running);
    assert_eq!(incident["severity"], "info", "{incident:#}");
    assert_eq!(incident["finding"]["rule"], "R6");
    assert_eq!(measured(&incident, "exit_code"), Some(3.0));
    assert_eq!(measured(&incident, "failed"), Some(100.0));
    assert!(measured(&incident, "runs") >= Some(5.0), "{incident:#}");
    tells_the_command(&sensor, &work, &incident);

    // It goes on, and stays one incident about one cause.
    thread::sleep(GOES_ON);
    assert_eq!(sensor.incidents().unwrap().len(), 1);
    left_running(&sensor, &cage, &incident);

    // Whoever restarted lives on; the loop is over, and so is the incident.
    fs::remove_file(go).unwrap();
    sensor.wait_for(OVER, |one| one["id"] == incident["id"] && one["state"] == "resolved").unwrap();
    assert!(running.ended().unwrap().is_none(), "the script is gone");
    cage.clear().unwrap();
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn respawn_loop_of_crashes_is_a_warning() {
    needs!();
    takes_its_time!();
    // No core file of ours is left anywhere.
    let (work, _go) = respawn::restarts("ulimit -c 0\nkill -SEGV $$").unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let (sensor, running) = starts(&cage, &work);
    let incident = found(&sensor, &running);
    assert_eq!(incident["severity"], "warning", "{incident:#}");
    assert_eq!(measured(&incident, "signal"), Some(11.0));
    assert_eq!(measured(&incident, "by_signal"), measured(&incident, "runs"));
    assert!(incident["diagnosis"]["cause"].as_str().unwrap().contains("SIGSEGV"), "{incident:#}");
    tells_the_command(&sensor, &work, &incident);
    left_running(&sensor, &cage, &incident);
    // Nobody is left to restart anything.
    cage.clear().unwrap();
    resolved(&sensor, &incident);
}

#[test]
fn respawn_loop_of_kills_names_who_sends_them() {
    needs!();
    let (work, killer) = respawn::killed().unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let (sensor, running) = starts(&cage, &work);
    let incident = found(&sensor, &running);
    assert_eq!(measured(&incident, "signal"), Some(9.0));
    // The kernel keeps 15 bytes of a name.
    let name: String = killer.chars().take(15).collect();
    let cause = incident["diagnosis"]["cause"].as_str().unwrap();
    assert!(cause.contains(&format!("It is killed: by `{name}` (")), "{cause}");
    assert!(cause.contains("of uid 0, and not for want of memory"), "{cause}");
    tells_the_command(&sensor, &work, &incident);
    left_running(&sensor, &cage, &incident);
    let of_oom = |one: &Value| one["kind"] == "oom_kill" || one["kind"] == "oom_loop";
    assert!(!sensor.incidents().unwrap().iter().any(of_oom), "an OOM kill was claimed");
}

#[test]
fn respawn_loop_of_a_script_that_waits() {
    needs!();
    takes_its_time!();
    let work = respawn::waits(8).unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let (sensor, mut running) = starts(&cage, &work);
    let incident = found(&sensor, &running);
    assert_eq!(incident["severity"], "info", "{incident:#}");
    let cause = incident["diagnosis"]["cause"].as_str().unwrap();
    assert!(cause.ends_with("may be meant so."), "{cause}");
    // Nobody keeps it from coming to its end.
    let status = running.wait(CATCH).unwrap();
    assert!(status.success(), "{status}: {}", work.output());
    resolved(&sensor, &incident);
}

#[test]
fn a_person_may_end_a_respawn_loop() {
    needs!();
    takes_its_time!();
    let (work, _go) = respawn::restarts("exit 3").unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let (sensor, running) = starts(&cage, &work);
    let incident = found(&sensor, &running);
    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    comes("a loop that stands", CATCH, || cage.running() == 0);
    // What stands is told of no more, and is not over all the same.
    thread::sleep(OVER);
    assert_eq!(sensor.show(id(&incident)).unwrap()["state"], "contained");
    crate::support::killed(&sensor, &cage, &incident);
}

#[test]
fn a_respawn_loop_that_a_person_closes_is_not_told_of_again() {
    needs!();
    takes_its_time!();
    let (work, _go) = respawn::restarts("exit 3").unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let (sensor, running) = starts(&cage, &work);
    let incident = found(&sensor, &running);
    sensor.output(&["resolve", id(&incident), "--yes"]).unwrap();
    resolved(&sensor, &incident);
    thread::sleep(GOES_ON);
    assert_eq!(sensor.incidents().unwrap().len(), 1);
    assert!(cage.running() > 0, "it goes on");
}

/// Runs it to its end: no incident, and the daemon is awake.
fn left_alone(work: Result<Workload>) {
    let work = work.unwrap();
    let cage = Cage::new(Limits::tasks(400)).unwrap();
    let sensor = Sensor::start(&cage, STRICT).unwrap();
    let began = Instant::now();
    let mut running = work.start(&cage).unwrap();
    let status = running.wait(Duration::from_mins(3)).unwrap();
    assert!(status.success(), "{:?}: {status}: {}", work.argv, work.output());
    assert!(began.elapsed() > TWO_WINDOWS, "too short to be taken for a loop");
    let incidents = sensor.incidents().unwrap();
    assert!(incidents.is_empty(), "incidents about honest work: {incidents:#?}");
    let (looping, _go) = respawn::restarts("exit 3").unwrap();
    let running = looping.start(&cage).unwrap();
    found(&sensor, &running);
}

#[test]
fn left_alone_failing_jobs_of_make() {
    needs!("make");
    takes_its_time!();
    left_alone(respawn::failing_jobs(100));
}

#[test]
fn left_alone_failing_commands_of_xargs() {
    needs!("xargs", "seq");
    takes_its_time!();
    left_alone(respawn::failing_arguments(400));
}

#[test]
fn left_alone_a_loop_of_successes() {
    needs!();
    takes_its_time!();
    left_alone(respawn::successes(4000));
}

/// Of what a recorder has seen of a loop, kernel and replay say the same.
#[test]
fn respawn_loop_replays_alike() {
    needs!();
    takes_its_time!();
    let place = tempfile::tempdir().unwrap();
    let [config, trace] = ["sensor.toml", "trace"].map(|name| place.path().join(name));
    fs::write(&config, QUICK).unwrap();
    let binary = target::sensor().unwrap();
    let (work, _go) = respawn::restarts("exit 3").unwrap();
    let cage = Cage::new(Limits::tasks(50)).unwrap();
    let running = work.start(&cage).unwrap();
    let mut record = Command::new(&binary);
    record.args(["record", "--for", "8s", "--config"]).arg(&config).arg("--lifecycle").arg(&trace);
    run(&mut record, Duration::from_mins(2)).unwrap().success().unwrap();
    let scope = cage.path();
    cage.clear().unwrap();

    let mut replay = Command::new(&binary);
    replay.arg("replay").arg(&trace).args(["--json", "--cgroup", &scope, "--config"]).arg(&config);
    let said = run(&mut replay, CATCH).unwrap().success().unwrap();
    let report: Value = serde_json::from_str(&said).unwrap();
    let agreement = &report["agreement"];
    assert!(agreement["storms_agree"].as_u64() >= Some(1), "{report:#}");
    // Only these: of an exec while the recorder took its baseline the two may know different things.
    assert_eq!(agreement["storms_differ"], 0, "{report:#}");
    let [finding] = report["findings"].as_array().unwrap().as_slice() else {
        panic!("one finding, not {report:#}")
    };
    assert_eq!((&finding["rule"], &finding["contain"]), (&"R6".into(), &false.into()));
    assert_eq!(finding["culprit"]["pid"], running.pid());
    let restarts = finding["restarts"].as_array().unwrap();
    assert!(restarts.contains(&work.names[2].as_str().into()), "{restarts:?}");
}
