//! Recursions of every family: the right kind, the right culprit, contained early, explained, and
//! gone when told so.

use anyhow::Result;
use serde_json::Value;
use tests::{Cage, Limits, Sensor, Workload, needs, workloads::script};

use crate::support::{contained, explained, killed, stands_still};

/// The budget for a recursive npm: processes of the tree alive when contained.
const NPM_ALIVE: u64 = 50;

/// For what makes 300 processes a second: a fifth of what its cage holds.
const FAST_ALIVE: u64 = 80;

/// What was seen of a recursion that was caught, for more questions.
struct Caught {
    incident: Value,
    directory: String,
}

fn caught(work: Result<Workload>, alive: u64) -> Caught {
    let work = work.unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let census = cage.census();
    let running = work.start(&cage).unwrap();

    let incident = contained(&sensor, running.pid());
    stands_still(&cage);
    assert_eq!(cage.refused_forks().unwrap(), 0, "the cage stopped it, not the sensor");
    let processes = incident["tree"]["processes"].as_u64().unwrap();
    assert!(processes <= alive, "{processes} alive when contained");
    assert!(census.peak() as u64 <= alive, "{} alive at the peak", census.peak());
    let others: Vec<Value> =
        sensor.incidents().unwrap().into_iter().filter(|one| one["id"] != incident["id"]).collect();
    assert!(others.is_empty(), "one cause, one incident; also: {others:?}");
    assert!(
        incident["actions"].as_array().unwrap().iter().any(|action| action["kind"] == "freeze")
    );

    explained(&sensor, &work, &incident);
    has_its_cycle(&work, &incident);
    killed(&sensor, &cage, &incident);
    Caught { incident, directory: work.directory.path().to_string_lossy().into_owned() }
}

/// The explanation has the steps of the cycle.
fn has_its_cycle(work: &Workload, incident: &Value) {
    let diagnosis = &incident["diagnosis"];
    let steps = diagnosis["cycle"]["steps"].as_array().unwrap();
    assert!(!steps.is_empty(), "a recursion without a cycle: {diagnosis:#}");
    if let Some(wanted) = work.steps {
        assert_eq!(steps.len(), wanted, "{diagnosis:#}");
    }
}

#[test]
fn npm_without_a_manifest() {
    needs!("npm", "node");
    let caught = caught(Workload::labelled("npm-missing-manifest"), NPM_ALIVE);
    let cycle = &caught.incident["diagnosis"]["cycle"];
    let first = cycle["steps"][0]["argv"].as_array().unwrap();
    assert_eq!(first.last().unwrap(), "test", "the cycle begins with npm test: {cycle:#}");
    assert!(cycle["turns"].as_u64().unwrap() >= 3, "{cycle:#}");
    assert_eq!(
        caught.incident["culprit"]["cwd"].as_str().unwrap(),
        format!("{}/project", caught.directory)
    );
}

#[test]
fn npm_two_scripts() {
    needs!("npm", "node");
    caught(Workload::labelled("npm-two-scripts"), NPM_ALIVE);
}

#[test]
fn npm_one_script() {
    needs!("npm", "node");
    caught(Workload::labelled("npm-linear"), NPM_ALIVE);
}

#[test]
fn npm_prepare_link() {
    needs!("npm", "node");
    caught(Workload::labelled("npm-prepare-link"), NPM_ALIVE);
}

#[test]
fn make_itself() {
    needs!("make");
    caught(Workload::labelled("make-itself"), FAST_ALIVE);
}

#[test]
fn script_twice() {
    needs!();
    caught(Workload::labelled("script-twice"), FAST_ALIVE);
}

#[test]
fn script_line() {
    needs!();
    caught(script::line(10), FAST_ALIVE);
}

#[test]
fn launcher_with_growing_argv() {
    needs!();
    let caught = caught(Workload::labelled("growing-launcher"), FAST_ALIVE);
    assert_eq!(caught.incident["finding"]["rule"], "R1c");
}

#[test]
fn git_hook_that_commits() {
    needs!("git");
    caught(Workload::labelled("git-hook"), FAST_ALIVE);
}
