//! What investigations may cost together: one at a time, one cause once, and so much a day.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    names, needs,
    run::write_program,
    workloads::{Running, Workload, script},
};

use crate::support::{CATCH, comes, contained, id, plant};

/// Incidents about one cause.
const ALERTS: usize = 12;

/// A program that finds something once there is a file `go`, and the configuration that names it.
fn patient(place: &Path, more: &str) -> (PathBuf, String) {
    let (program, go) = (place.join(names::word()), place.join("go"));
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\nwhile [ ! -e {} ]; do sleep 0.1; done\necho '{{\"findings\":\"found\"}}'\n",
        go.display()
    );
    write_program(&program, script).unwrap();
    let config = format!(
        "[investigate]\nagent = \"command\"\n{more}\n[investigate.command]\nprogram = [{program:?}]\n"
    );
    (go, config)
}

/// An incident about another process of this work.
fn incident(sensor: &Sensor, cage: &Cage, work: &Workload) -> (String, Running) {
    let running = work.start(cage).unwrap();
    let pid = running.pid().to_string();
    let incident =
        sensor.json(&["trigger", "--pid", &pid, "--why", "a test asks", "--json"]).unwrap();
    (id(&incident).to_owned(), running)
}

/// Its first investigation, once that is in this state.
fn run_in(sensor: &Sensor, incident: &str, state: &str) -> Value {
    let mut run = Value::Null;
    comes(&format!("an investigation that is {state}"), CATCH, || {
        run = sensor.show(incident).unwrap()["investigations"][0].clone();
        run["state"] == state
    });
    run
}

fn why(run: &Value) -> &str {
    run["error"].as_str().unwrap_or_default()
}

#[test]
fn many_alerts_for_one_cause_are_one_investigation() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let (go, config) = patient(place.path(), "");
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();
    let (work, _) = script::ticker().unwrap();
    let (first, _running) = incident(&sensor, &cage, &work);
    run_in(&sensor, &first, "running");

    let mut others: Vec<_> = (2..ALERTS).map(|_| incident(&sensor, &cage, &work)).collect();
    for (other, _) in &others {
        let run = run_in(&sensor, other, "suppressed");
        let said = format!("the same cause is being investigated for incident {first}");
        assert_eq!((why(&run), &run["outcome"]), (said.as_str(), &"suppressed".into()), "{run:#}");
        assert!(run["cost"].is_null(), "{run:#}");
    }
    fs::write(&go, "").unwrap();
    assert_eq!(run_in(&sensor, &first, "done")["outcome"], "complete");
    others.push(incident(&sensor, &cage, &work));
    let run = run_in(&sensor, &others.last().unwrap().0, "suppressed");
    let before = "the same cause was investigated ";
    assert!(why(&run).starts_with(before) && why(&run).contains(&first), "{run:#}");
    // A person may.
    let said = sensor.output(&["investigate", &others[0].0]).unwrap();
    assert!(said.contains("by command has begun"), "{said}");
}

#[test]
fn no_agent_is_asked_about_what_is_known_for_sure_and_one_about_what_is_not() {
    needs!();
    let config = "[investigate]\nagent = \"api\"\n[investigate.api]\nmodel = \"a-model\"\n\
                  endpoint = \"http://127.0.0.1:1\"\n";
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, config).unwrap();
    let (work, _) = script::ticker().unwrap();
    let (manual, _ticks) = incident(&sensor, &cage, &work);
    // Nobody listens there: whether that is found before it begins or after, this is why it was asked.
    let mut why = String::new();
    comes("an investigation", CATCH, || {
        let shown = sensor.show(&manual).unwrap();
        why = shown["investigations"][0]["why"].as_str().unwrap_or_default().to_owned();
        !why.is_empty()
    });
    assert!(
        why.starts_with("an agent is asked: no rule explains incidents of kind manual"),
        "{why}"
    );

    let (_work, running) = plant(&cage);
    let known = contained(&sensor, running.pid());
    let run = run_in(&sensor, id(&known), "done");
    assert_eq!(run["agent"], "builtin", "{run:#}");
    let why = run["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("no agent is needed: the built-in diagnosis ("), "{run:#}");
}

#[test]
fn one_at_a_time_and_a_day_that_is_used_up_says_so_also_after_a_restart() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let (go, config) = patient(place.path(), "day = { runs = 2, critical_percent = 0 }");
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor = Sensor::start(&cage, &config).unwrap();
    let works: Vec<Workload> = (0..4).map(|_| script::ticker().unwrap().0).collect();
    let (first, _one) = incident(&sensor, &cage, &works[0]);
    run_in(&sensor, &first, "running");
    let (second, _two) = incident(&sensor, &cage, &works[1]);
    assert_eq!(run_in(&sensor, &second, "queued")["lives"], 0);
    let said = sensor.output(&["investigate", &second, "--agent", "command"]).unwrap();
    assert!(said.contains("by command waits for its turn: another one runs; "), "{said}");
    run_in(&sensor, &first, "running");

    fs::write(&go, "").unwrap();
    for done in [&first, &second] {
        let run = run_in(&sensor, done, "done");
        assert_eq!((&run["outcome"], &run["lives"]), (&"complete".into(), &1.into()), "{run:#}");
    }
    let said =
        "2 of 2 runs of the last 24 hours are used (investigate.day.runs): it may begin in 24 h";
    let (third, _three) = incident(&sensor, &cage, &works[2]);
    assert_eq!(why(&run_in(&sensor, &third, "suppressed")), said);
    // Persons are told at once.
    let refused = sensor.call(&["investigate", &third]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains(&format!("it was not begun: {said}")), "{}", refused.stderr);

    sensor.stop().unwrap();
    sensor.restart().unwrap();
    let (fourth, _four) = incident(&sensor, &cage, &works[3]);
    assert_eq!(why(&run_in(&sensor, &fourth, "suppressed")), said);
}
