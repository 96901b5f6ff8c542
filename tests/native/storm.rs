//! Fork storms: the right kind, the right culprit, contained before their limit, explained; and what
//! starts as many processes on purpose is left to its work.

use std::{thread, time::Duration};

use anyhow::Result;
use serde_json::Value;
use tests::{Bomb, Cage, Limits, Sensor, Workload, needs, takes_its_time, workloads::storm};

use crate::support::{
    CATCH, catches_a_planted_recursion, explained, explosions, killed, stands_still,
};

/// A limit that a storm reaches in a second. An explosion is known by 256 processes.
const ROOM: u32 = 400;

/// For what is to be left alone.
const WIDE: u32 = 2000;

/// An alarm reaches the log in milliseconds, an explosion is judged for 3 s.
const SETTLE: Duration = Duration::from_secs(4);

/// The labelled storm of this name is contained before it meets its limit, by one of these rules.
fn caught(name: &str, tasks: u32, rules: &[&str]) -> Value {
    let work = Workload::labelled(name).unwrap();
    let cage = Cage::new(Limits::tasks(tasks)).unwrap();
    let sensor = Sensor::start(&cage, explosions()).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = sensor
        .wait_for(CATCH, |one| {
            one["kind"] == "fork_storm"
                && one["state"] == "contained"
                && !one["diagnosis"].is_null()
        })
        .unwrap();
    let rule = incident["finding"]["rule"].as_str().unwrap();
    let bomb = Bomb::of(name, &sensor, &cage, &incident).unwrap();
    bomb.note().unwrap();
    for action in incident["actions"].as_array().unwrap() {
        let ms = (ns(&action["ended_ns"]) - ns(&incident["opened_ns"])) / 1_000_000;
        eprintln!("    {} done {ms} ms after the incident opened", action["kind"]);
    }
    assert_eq!(bomb.refused, 0, "the cage stopped it, not the sensor");
    assert_eq!(incident["culprit"]["pid"], running.pid(), "{incident:#}");
    assert!(rules.contains(&rule), "{incident:#}");
    stands_still(&cage);
    let all = sensor.incidents().unwrap();
    assert_eq!(all.len(), 1, "one cause, one incident: {all:#?}");
    // Each rule counts once, however many ancestors crossed.
    assert!(incident["occurrences"].as_u64().unwrap() <= rules.len() as u64, "{incident:#}");

    explained(&sensor, &work, &incident);
    killed(&sensor, &cage, &incident);
    incident
}

fn ns(value: &Value) -> i64 {
    value.as_str().unwrap().parse().unwrap()
}

/// Runs it to its end, under a daemon that is awake and has nothing to say about it.
fn left_alone(work: Result<Workload>) {
    let work = work.unwrap();
    let cage = Cage::new(Limits::tasks(1000)).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut running = work.start(&cage).unwrap();
    let status = running.wait(Duration::from_mins(2)).unwrap();
    assert!(status.success(), "{:?}: {status}: {}", work.argv, work.output());
    thread::sleep(SETTLE);
    let incidents = sensor.incidents().unwrap();
    assert!(incidents.is_empty(), "incidents about honest work: {incidents:#?}");
    assert_eq!(cage.refused_forks().unwrap(), 0, "the cage was too small for it");
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn storm_shell_function() {
    needs!("bash");
    caught("shell-bomb", ROOM, &["R2"]);
}

#[test]
fn storm_python() {
    needs!("python3");
    // A tree of forks is as deep as the logarithm of its size: it may explode before it is deep.
    caught("python-fork-loop", ROOM, &["R2", "R3"]);
}

#[test]
fn storm_perl() {
    needs!("perl");
    caught("perl-fork-loop", ROOM, &["R2", "R3"]);
}

#[test]
fn storm_star() {
    needs!();
    caught("star-sleeps", ROOM, &["R3"]);
}

#[test]
fn storm_star_of_distinct_commands() {
    needs!();
    caught("star-distinct", ROOM, &["R3"]);
}

#[test]
fn storm_orphans() {
    needs!("setsid");
    caught("star-orphans", ROOM, &["R3"]);
}

#[test]
fn left_alone_bursts_of_short_forks() {
    needs!();
    left_alone(storm::bursts(6000));
}

#[test]
fn left_alone_64_at_once() {
    needs!("xargs");
    left_alone(storm::parallel(512, 64, "0.5"));
}

#[test]
fn left_alone_300_at_once() {
    needs!("xargs");
    left_alone(storm::parallel(300, 300, "3"));
}

#[test]
fn left_alone_a_server_with_300_workers() {
    needs!("python3");
    takes_its_time!();
    left_alone(storm::server(300, None, 5));
}

/// A script that is no newcomer lets one bomb loose, which is blamed alone, and then another beside it:
/// now it is the script's, and what was contained first is a part of that.
#[test]
fn two_halves_are_one_incident() {
    needs!("bash");
    takes_its_time!();
    let work = storm::halves().unwrap();
    let cage = Cage::new(Limits::tasks(WIDE)).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let running = work.start(&cage).unwrap();
    let contained = |one: &Value| one["state"] == "contained" && !one["diagnosis"].is_null();
    let half = sensor.wait_for(CATCH, contained).unwrap();
    assert_ne!(half["culprit"]["pid"], running.pid(), "{half:#}");
    let is_whole = |one: &Value| contained(one) && one["culprit"]["pid"] == running.pid();
    let whole = sensor.wait_for(CATCH, is_whole).unwrap();
    let part = |one: &Value| one["id"] == half["id"] && one["state"] == "resolved";
    sensor.wait_for(CATCH, part).unwrap();
    let left = sensor.incidents().unwrap();
    let left = left.iter().filter(|one| one["state"] != "resolved").count();
    assert_eq!(left, 1, "one cause, one incident: {:#?}", sensor.incidents());
    stands_still(&cage);
    killed(&sensor, &cage, &whole);
}

/// What goes on is told of, even where it is not to be stopped: when it crossed, and why it runs.
#[test]
fn told_of_a_server_that_goes_on() {
    needs!("python3");
    takes_its_time!();
    let work = storm::server(900, Some(150), 2).unwrap();
    let cage = Cage::new(Limits::tasks(WIDE)).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut running = work.start(&cage).unwrap();
    let status = running.wait(Duration::from_mins(2)).unwrap();
    assert!(status.success(), "{:?}: {status}: {}", work.argv, work.output());
    let incidents = sensor.incidents().unwrap();
    assert_eq!(incidents.len(), 1, "{incidents:#?}");
    let [incident] = &incidents[..] else { unreachable!() };
    assert_eq!(
        (&incident["culprit"]["pid"], &incident["occurrences"]),
        (&running.pid().into(), &1.into())
    );
    let actions = incident["actions"].as_array().unwrap();
    assert_eq!(actions.len(), 1, "{incident:#}");
    assert_eq!(actions[0]["kind"], "refuse");
    let why = actions[0]["why"].as_str().unwrap();
    assert!(why.contains("listens on a socket") && why.contains("gone on growing"), "{why}");
    let measures = incident["finding"]["measures"].as_array().unwrap();
    let watched = measures.iter().find(|one| one["name"] == "watched").unwrap();
    let seconds = watched["value"].as_f64().unwrap();
    assert!((3.0..10.0).contains(&seconds), "opened with the verdict: {incident:#}");
}
