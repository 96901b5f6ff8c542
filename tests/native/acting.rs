//! What the command line does to processes.

use std::{path::PathBuf, thread, time::Duration};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs, process,
    run::until,
    takes_its_time,
    workloads::{Running, script},
};

use crate::support::{
    CATCH, EFFECT, STILL, catches_a_planted_recursion, comes, contained, id, killed, length, plant,
    resolved, stands_still, wake_all,
};

/// A small tree that shows that it runs: one of it writes ten times a second.
struct Ticker {
    _work: tests::Workload,
    running: Running,
    file: PathBuf,
}

impl Ticker {
    fn start(cage: &Cage) -> Self {
        let (work, file) = script::ticker().unwrap();
        let running = work.start(cage).unwrap();
        let ticker = Self { _work: work, running, file };
        comes("the first tick", EFFECT, || ticker.ticks() > 0);
        ticker
    }

    fn ticks(&self) -> u64 {
        length(&self.file)
    }

    fn runs(&self) -> bool {
        let before = self.ticks();
        until(EFFECT, || self.ticks() > before + 3)
    }

    fn stands(&self) -> bool {
        // A write that had begun may come to its end.
        thread::sleep(Duration::from_millis(100));
        let before = self.ticks();
        thread::sleep(Duration::from_secs(1));
        self.ticks() == before
    }
}

fn trigger(sensor: &Sensor, pid: u32) -> Value {
    let pid = pid.to_string();
    sensor.json(&["trigger", "--pid", &pid, "--why", "a test asks", "--json"]).unwrap()
}

fn state(sensor: &Sensor, incident: &Value) -> String {
    sensor.show(id(incident)).unwrap()["state"].as_str().unwrap().to_owned()
}

fn acts_on(cage: &Cage, ticker: &Ticker) {
    let sensor = Sensor::start(cage, "").unwrap();
    let incident = trigger(&sensor, ticker.running.pid());
    assert_eq!(incident["kind"], "manual");
    assert_eq!(incident["culprit"]["pid"], ticker.running.pid());
    assert!(ticker.runs(), "a manual incident stops nothing by itself");

    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    assert!(ticker.stands(), "it runs after a freeze");
    assert_eq!(state(&sensor, &incident), "contained");

    sensor.output(&["thaw", id(&incident)]).unwrap();
    assert!(ticker.runs(), "it stands after a thaw");
    assert_eq!(state(&sensor, &incident), "open");

    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    assert!(ticker.stands(), "it runs after a second freeze");
    sensor.output(&["kill", id(&incident), "--yes"]).unwrap();
    let gone = || matches!(process::state(ticker.running.pid()), None | Some('Z'));
    comes("the end of what was killed", EFFECT, gone);
    resolved(&sensor, &incident);

    let actions = sensor.show(id(&incident)).unwrap()["actions"].clone();
    let kinds: Vec<&str> =
        actions.as_array().unwrap().iter().filter_map(|one| one["kind"].as_str()).collect();
    for kind in ["freeze", "thaw", "kill"] {
        assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
    }
    let by = actions[0]["by"].as_str().unwrap();
    assert!(by.contains("root"), "by whom: {by}");
}

#[test]
fn freeze_thaw_kill_a_tree_that_has_its_cgroup() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let ticker = Ticker::start(&cage);
    acts_on(&cage, &ticker);
    assert!(cage.empties_within(EFFECT));
}

#[test]
fn freeze_thaw_kill_a_tree_beside_others() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let ticker = Ticker::start(&cage);
    let neighbour = Ticker::start(&cage);
    acts_on(&cage, &ticker);
    assert!(neighbour.runs(), "the neighbour was met");
}

#[test]
fn resolve_lets_go() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let ticker = Ticker::start(&cage);
    let incident = trigger(&sensor, ticker.running.pid());
    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    assert!(ticker.stands());
    sensor.output(&["resolve", id(&incident)]).unwrap();
    resolved(&sensor, &incident);
    assert!(ticker.runs(), "what was resolved stands still");
}

#[test]
fn a_question_needs_a_terminal() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let ticker = Ticker::start(&cage);
    let incident = trigger(&sensor, ticker.running.pid());
    for verb in ["freeze", "kill"] {
        let said = sensor.call(&[verb, id(&incident)]).unwrap();
        assert!(!said.status.success() && said.stderr.contains("--yes"), "{verb}: {said:?}");
    }
    assert!(ticker.runs());
    let said = sensor.call(&["show", "nosuchincident"]).unwrap();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(said.stderr.trim().lines().count(), 1, "{said:?}");
}

#[test]
fn nothing_outside_of_the_scope_is_met() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let elsewhere = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let ticker = Ticker::start(&elsewhere);
    let pid = ticker.running.pid().to_string();
    let said = sensor.call(&["trigger", "--pid", &pid, "--why", "a test asks", "--json"]).unwrap();
    if said.status.success() {
        let incident: Value = serde_json::from_str(&said.stdout).unwrap();
        let said = sensor.call(&["freeze", id(&incident), "--yes"]).unwrap();
        assert!(!said.status.success(), "{said:?}");
    }
    assert!(ticker.runs(), "a process outside of the scope was stopped");

    let recursion = script::line(20).unwrap();
    let running = recursion.start(&elsewhere).unwrap();
    comes("a recursion elsewhere", CATCH, || elsewhere.count() > 40);
    let about = |one: &Value| one["culprit"]["pid"] == running.pid();
    assert!(!sensor.incidents().unwrap().iter().any(about));
    elsewhere.clear().unwrap();
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn pause_means_hands_off_until_resume() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor = Sensor::start(&cage, "").unwrap();
    sensor.output(&["pause"]).unwrap();
    sensor.stop().unwrap();
    sensor.restart().unwrap();
    assert_eq!(sensor.status().unwrap()["paused"], true, "a restart forgot the pause");

    let (_work, running) = plant(&cage);
    let incident = sensor
        .wait_for(CATCH, |one| one["kind"] == "recursion" && one["culprit"]["pid"] == running.pid())
        .unwrap();
    // It goes on: twice the processes that a containment asks for.
    comes("growth", CATCH, || cage.count() >= 24);
    assert_eq!(state(&sensor, &incident), "open");
    // A person may still act.
    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    stands_still(&cage);
    killed(&sensor, &cage, &incident);

    sensor.output(&["resume"]).unwrap();
    assert_eq!(sensor.status().unwrap()["paused"], false);
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn a_contained_tree_that_a_person_thaws_is_let_run() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    stands_still(&cage);
    let stood = cage.count();
    sensor.output(&["thaw", id(&incident)]).unwrap();
    // It was a runaway and still is one, and nobody but the person may stop it now.
    comes("growth", CATCH, || cage.count() >= stood + 12);
    assert_eq!(state(&sensor, &incident), "open");
    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    stands_still(&cage);
    assert_eq!(cage.refused_forks().unwrap(), 0);
    killed(&sensor, &cage, &incident);
}

/// Nobody stops this recursion but its limit.
#[test]
fn a_dry_run_counts_and_stops_nothing() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "[respond]\ndry_run = true").unwrap();
    let (_work, running) = plant(&cage);
    let stopped = |pid: u32| process::state(pid) == Some('T');
    let said = |one: &Value, kind: &str| {
        let actions = one["actions"].as_array().unwrap();
        actions.iter().find(|action| action["kind"] == kind).cloned()
    };
    let incident = sensor
        .wait_for(CATCH, |one| {
            let stood = cage.pids().into_iter().find(|pid| stopped(*pid));
            assert_eq!(stood, None, "somebody was stopped");
            one["culprit"]["pid"] == running.pid() && said(one, "brake").is_some()
        })
        .unwrap();
    assert_eq!(incident["state"], "open", "{incident:#}");
    let refused = said(&incident, "refuse").unwrap();
    assert!(refused["why"].as_str().unwrap().contains("dry run"), "{incident:#}");
    let brake = said(&incident, "brake").unwrap();
    assert_eq!(brake["ok"], false, "{incident:#}");
    assert!(brake["processes"].as_u64().unwrap() >= 12, "{incident:#}");
    // Twenty levels a second, of two forks each, for 10 s.
    let forks =
        brake["braked"]["paused"].as_u64().unwrap() + brake["braked"]["passed"].as_u64().unwrap();
    assert!(forks >= 20, "{incident:#}");
    let before = cage.count();
    comes("that it goes on", EFFECT, || cage.count() > before);
}

/// What is tried is over after 10 s; what a person has stopped meanwhile is not.
#[test]
fn a_dry_run_ends_no_containment() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "[respond]\ndry_run = true").unwrap();
    let (_work, running) = plant(&cage);
    let tried = |one: &Value| {
        let mut actions = one["actions"].as_array().unwrap().iter();
        one["culprit"]["pid"] == running.pid() && actions.any(|action| action["kind"] == "refuse")
    };
    let incident = sensor.wait_for(CATCH, tried).unwrap();
    // With a neighbour the tree does not have its cgroup to itself, and is stopped by signals.
    let mut neighbour = cage.command("sleep").unwrap().arg("600").spawn().unwrap();
    sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    thread::sleep(Duration::from_secs(12));
    let held = cage.count();
    // The brake is still on: whoever is woken stands at its next fork.
    wake_all(&cage, neighbour.id());
    thread::sleep(STILL);
    // A `sleep` that was woken may have ended.
    assert!(cage.count() <= held, "it grows again: {:#}", sensor.show(id(&incident)).unwrap());
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    killed(&sensor, &cage, &incident);
}
