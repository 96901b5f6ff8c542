//! A machine whose memory is taken: whoever was to investigate makes way, and what happens is explained all the
//! same. In a guest only, with 1 GiB.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs,
    process::field,
    skip, test_name,
    workloads::{Running, script},
};

use crate::support::{CATCH, comes, emulated, id, opened};

const MIB: u64 = 1 << 20;

/// What the program needs to begin. It goes on with three quarters of it.
const NEEDS: u64 = 256 * MIB;

/// What is left when the machine is full: less than 5 %, which is critical.
const LEFT: u64 = 40 * MIB;

/// Takes so many bytes in a moment, and keeps them.
const FILL: &str = "import sys, time\n\
                    held = b'x' * int(sys.argv[1])\n\
                    while True: time.sleep(1)\n";

fn available() -> u64 {
    field("/proc/meminfo", "MemAvailable").unwrap() << 10
}

/// Its investigations, if there are any and all are over.
fn over(incident: &Value) -> Option<Vec<Value>> {
    let runs = incident["investigations"].as_array()?;
    let is_over = |run: &Value| run["state"] != "running" && run["state"] != "queued";
    (!runs.is_empty() && runs.iter().all(is_over)).then(|| runs.clone())
}

/// The playbook stood in for the program, which had no room.
fn is_stepped_down(incident: &Value) {
    let runs = over(incident).unwrap();
    let last = runs.last().unwrap();
    assert_eq!((&last["agent"], &last["state"]), (&"builtin".into(), &"done".into()), "{last:#}");
    let why = last["why"].as_str().unwrap();
    assert!(why.contains("builtin instead, for command: "), "{why}");
    assert!(!last["findings"].as_str().unwrap().is_empty(), "{last:#}");
}

/// A guest that is full, in which a program looked into an incident when that came.
struct Full {
    sensor: Sensor,
    /// The incident that it looked into.
    asked: String,
    filler: Child,
    _running: Running,
    _cage: Cage,
}

impl Full {
    fn new(ballast_bytes: u64) -> Self {
        let config = format!(
            "[respond]\nballast_bytes = {ballast_bytes}\n\
             [investigate]\nagent = \"command\"\nwhen = \"always\"\n\
             [investigate.command]\n\
             program = [\"/bin/sh\", \"-c\", \"echo it looks; exec sleep 86399\"]\n\
             memory_min_bytes = {NEEDS}\nmemory_max_bytes = {NEEDS}\n"
        );
        let before = available();
        let sensor = Sensor::of_the_host(&config).unwrap();
        comes("the ballast", CATCH, || available() + ballast_bytes <= before);
        let cage = Cage::new(Limits::NONE).unwrap();
        let (work, _) = script::ticker().unwrap();
        let running = work.start(&cage).unwrap();
        let asked = id(&opened(&sensor, running.pid())).to_owned();
        let looks =
            |one: &Value| one["id"] == asked && one["investigations"][0]["state"] == "running";
        sensor.wait_for(CATCH, looks).unwrap();

        let bytes = available().saturating_sub(LEFT);
        let mut filler = cage.command("python3").unwrap();
        filler.args(["-c", FILL, &bytes.to_string()]).stdin(Stdio::null());
        let filler = filler.spawn().unwrap();
        Self { sensor, asked, filler, _running: running, _cage: cage }
    }

    /// It is still as full, and nobody was ended.
    fn is_whole(&mut self) {
        assert_eq!(self.filler.try_wait().unwrap(), None, "nobody was to be ended");
        let killed = fs::read_to_string("/proc/vmstat").unwrap();
        assert!(killed.lines().any(|line| line == "oom_kill 0"), "the machine was more than full");
    }
}

#[test]
fn kernels_who_has_no_room_makes_way_and_the_incident_is_explained() {
    needs!("python3");
    if !emulated() {
        skip::note(test_name!(), "needs a machine that it may fill: a guest");
        return;
    }
    let mut full = Full::new(0);
    comes("a full machine", CATCH, || available() < 2 * LEFT);
    let Full { sensor, asked, .. } = &full;

    // What was under way.
    let made_way = |one: &Value| one["id"] == *asked && over(one).is_some_and(|all| all.len() == 2);
    let incident = sensor.wait_for(CATCH, made_way).unwrap();
    let error = &incident["investigations"][0]["error"];
    assert!(error.as_str().unwrap().contains("there is no room for it any more"), "{error}");
    is_stepped_down(&incident);
    // And what the full machine itself is about.
    let pressure = |one: &Value| one["kind"] == "memory_pressure" && over(one).is_some();
    let pressure = sensor.wait_for(CATCH, pressure).unwrap();
    assert_eq!(pressure["investigations"].as_array().unwrap().len(), 1, "{pressure:#}");
    is_stepped_down(&pressure);
    assert!(!pressure["diagnosis"].is_null(), "{pressure:#}");
    full.is_whole();
}

#[test]
fn kernels_ballast_is_the_room_in_which_an_investigation_goes_on() {
    needs!("python3");
    if !emulated() {
        skip::note(test_name!(), "needs a machine that it may fill: a guest");
        return;
    }
    let mut full = Full::new(NEEDS);
    let critical = |one: &Value| one["kind"] == "memory_pressure" && one["severity"] == "critical";
    let pressure = full.sensor.wait_for(CATCH, critical).unwrap();
    comes("the ballast, given back", CATCH, || available() > NEEDS);
    // Longer than four looks in a row.
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        assert!(available() > NEEDS / 2, "it is not taken again while the machine is full");
        thread::sleep(Duration::from_millis(100));
    }
    let asked = full.sensor.show(&full.asked).unwrap();
    let runs = asked["investigations"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["state"]), (1, &"running".into()), "{asked:#}");
    let pressure = full.sensor.show(id(&pressure)).unwrap();
    assert_eq!(pressure["investigations"][0]["state"], "queued", "{pressure:#}");
    full.is_whole();
}
