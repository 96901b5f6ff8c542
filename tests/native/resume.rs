//! An investigation that was cut off picks up where it left off, and nothing of its first life survives.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    names, needs, process,
    run::write_program,
    workloads::{Running, script},
};

use crate::support::{CATCH, call, comes, hello, id, opened};

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
    write_program(&program, script).unwrap();
    program
}

/// An incident whose investigation sleeps in its first life.
struct Begun {
    incident: String,
    /// All of that life.
    pids: Vec<u32>,
    _running: Running,
}

fn begun(sensor: &Sensor, cage: &Cage, word: &str) -> Begun {
    let mut watch = sensor.watch(0).unwrap();
    let (incident, running) = incident(sensor, cage);
    let said = |record: &Value| {
        let text = record["transcript"]["text"].as_str().unwrap_or_default().to_owned();
        text.starts_with(word).then_some(text)
    };
    let line = watch.find(CATCH, |record| said(record).is_some()).unwrap();
    let pids: Vec<u32> =
        said(&line.record).unwrap().split(' ').filter_map(|pid| pid.parse().ok()).collect();
    assert_eq!(pids.len(), 2);
    Begun { incident, pids, _running: running }
}

fn incident(sensor: &Sensor, cage: &Cage) -> (String, Running) {
    let (work, _) = script::ticker().unwrap();
    let running = work.start(cage).unwrap();
    (id(&opened(sensor, running.pid())).to_owned(), running)
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

/// A sensor whose investigator has begun, and goes on where there is a file `second`.
struct Scene {
    sensor: Sensor,
    begun: Begun,
    word: String,
    finding: String,
    cage: Cage,
    place: tempfile::TempDir,
}

impl Scene {
    fn goes_on(&self) {
        fs::write(self.place.path().join("second"), "").unwrap();
    }
}

/// `program` makes one that says this word and finds that.
fn scene(program: impl Fn(&Path, &str, &str) -> PathBuf) -> Scene {
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let (word, finding) = (names::word(), names::word());
    let program = program(place.path(), &word, &finding);
    let config = format!(
        "[investigate]\nagent = \"command\"\n[investigate.command]\nprogram = [{program:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();
    let begun = begun(&sensor, &cage, &word);
    Scene { sensor, begun, word, finding, cage, place }
}

#[test]
fn a_killed_core_takes_up_what_ran_and_nothing_of_its_first_life_survives() {
    needs!();
    let mut scene = scene(forgetful);
    scene.goes_on();
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

/// As after two reboots: the first resolves the incident.
#[test]
fn a_run_is_taken_up_whose_incident_was_resolved_meanwhile() {
    needs!();
    let mut scene = scene(forgetful);
    scene.goes_on();
    let Scene { sensor, begun, .. } = &mut scene;
    sensor.output(&["resolve", &begun.incident]).unwrap();
    assert_eq!(sensor.show(&begun.incident).unwrap()["state"], "resolved");
    sensor.kill_core().unwrap();
    sensor.restart().unwrap();
    let run = ended(sensor, &begun.incident);
    assert_eq!((&run["lives"], &run["outcome"]), (&2.into(), &"complete".into()), "{run:#}");
}

#[test]
fn a_daemon_that_was_stopped_in_good_order_takes_it_up_as_well() {
    needs!();
    let mut scene = scene(forgetful);
    scene.goes_on();
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

/// A program that asks the sensor about its incident, waits for a file `second`, and goes on asking until it is
/// answered. What it has seen it says, and the last that it says is what it found.
fn asks_twice(place: &Path, word: &str, finding: &str) -> PathBuf {
    fs::write(place.join("hello"), hello()).unwrap();
    fs::write(place.join("call"), call(2, "incident_get", &json!({}))).unwrap();
    let program = place.join(names::word());
    let script = format!(
        "#!/bin/sh\n\
         cat >/dev/null\n\
         mkfifo asked answered\n\
         \"$SENSOR_PROGRAM\" mcp <asked >answered &\n\
         exec 3>asked 4<answered\n\
         cat {place}/hello >&3; read -r answer <&4\n\
         ask() {{ cat {place}/call >&3; read -r answer <&4; case $answer in *culprit_pid*) ;; *) return 1;; esac; }}\n\
         ask && echo {word} $$ $!\n\
         while [ ! -e {place}/second ]; do echo waits; sleep 0.1; done\n\
         until ask; do echo \"$answer\"; sleep 0.2; done\n\
         echo '{{\"findings\":\"{finding}\"}}'\n",
        place = place.display(),
    );
    write_program(&program, script).unwrap();
    program
}

#[test]
fn a_run_goes_on_when_serve_is_killed_and_its_questions_reach_the_next_one() {
    needs!();
    let scene = scene(asks_twice);
    let Scene { sensor, begun, word, finding, .. } = &scene;
    let [serve] = sensor.processes_of("serve")[..] else { panic!("one serve") };
    kill(Pid::from_raw(serve as i32), Signal::SIGKILL).unwrap();
    comes("another serve", CATCH, || {
        sensor.processes_of("serve").iter().any(|pid| *pid != serve) && sensor.status().is_ok()
    });
    scene.goes_on();

    let run = ended(sensor, &begun.incident);
    assert_eq!((&run["lives"], &run["outcome"]), (&1.into(), &"complete".into()), "{run:#}");
    assert!(run["findings"].as_str().unwrap().contains(finding.as_str()), "{run:#}");
    // Nothing of what was said meanwhile is missing.
    let lines = transcript(sensor, &run);
    assert_eq!(lines.iter().filter(|line| line.starts_with(word.as_str())).count(), 1);
    assert!(lines.iter().any(|line| line == "waits"), "{lines:#?}");
}

#[test]
fn what_waited_for_its_turn_has_it_after_the_core_was_killed() {
    needs!();
    let mut scene = scene(forgetful);
    let (second, _running) = incident(&scene.sensor, &scene.cage);
    comes("a second one that waits", CATCH, || {
        scene.sensor.show(&second).unwrap()["investigations"][0]["state"] == "queued"
    });
    scene.goes_on();
    let Scene { sensor, begun, word, .. } = &mut scene;
    sensor.kill_core().unwrap();
    sensor.restart().unwrap();

    for (incident, lives, said) in [(&begun.incident, 2, 2), (&second, 1, 1)] {
        let run = ended(sensor, incident);
        assert_eq!((&run["lives"], &run["outcome"]), (&lives.into(), &"complete".into()));
        let lines = transcript(sensor, &run);
        let said_it = lines.iter().filter(|line| line.starts_with(word.as_str()));
        assert_eq!(said_it.count(), said, "{lines:#?}");
    }
}
