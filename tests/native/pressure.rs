//! Pressure: thresholds in percent, a cgroup at its limit, and who waits there.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::Value;
use tests::{Cage, Limits, Sensor, needs, run::until, skip, test_name, watch::number};

use crate::support::{CATCH, emulated, id};

/// Memory of a machine that runs a test is never used to less than this, percent.
const THRESHOLD: &str = "[vitals.thresholds]\nmemory_percent = 1\npolling_interval_ms = 200\n";

#[test]
fn a_threshold_opens_what_it_is_set_for() {
    needs!();
    let cage = Cage::new(Limits::NONE).unwrap();
    let sensor = Sensor::start(&cage, THRESHOLD).unwrap();
    let incident = sensor
        .wait_for(CATCH, |one| one["kind"] == "memory_pressure" && !one["diagnosis"].is_null())
        .unwrap();
    assert_eq!(incident["finding"]["rule"], "threshold", "{incident:#}");
    let measure = &incident["finding"]["measures"][0];
    assert_eq!((&measure["name"], &measure["threshold"]), (&"memory".into(), &1.0.into()));
    assert_eq!((&incident["culprit"], &incident["severity"]), (&Value::Null, &"warning".into()));
    let mut watch = sensor.watch(0).unwrap();
    let usage =
        watch.find(CATCH, |record| !record["observation"]["usage"].is_null()).unwrap().record;
    assert_eq!(usage["incident"], incident["id"]);
    assert!(number(&usage["observation"]["usage"]["memory_percent"]).unwrap() > 1);
    // A person may close it, and is left in peace while it stays so.
    sensor.output(&["resolve", id(&incident), "--yes"]).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(sensor.incidents().unwrap().len(), 1);
}

/// Takes memory until its cgroup uses so many bytes, and keeps it.
const HOLD: &str = r#"
import sys, time
held = []
while int(open(sys.argv[1]).read()) < int(sys.argv[2]):
    held.append(b"x" * 500000)
time.sleep(3600)
"#;

const LIMIT: u64 = 64 << 20;

/// A cage of which somebody takes nearly all memory, who watches it, and the incident about it. `None`: there are no
/// such limits here.
fn short(test: &str) -> Option<(Cage, Sensor, Child, Value)> {
    if !emulated() {
        skip::note(test, "needs memory.max in cgroup v2: in a guest");
        return None;
    }
    let cage = Cage::new(Limits { tasks: None, memory_bytes: Some(LIMIT) }).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    // 7 % are left, and nothing of it is page cache.
    let used = LIMIT / 100 * 93;
    let running = cage
        .command("python3")
        .unwrap()
        .args(["-c", HOLD])
        .arg(cage.directory().join("memory.current"))
        .arg(used.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let incident = sensor.wait_for(CATCH, |one| one["kind"] == "memory_pressure").unwrap();
    assert!(incident["summary"].as_str().unwrap().contains(&cage.path()), "{incident:#}");
    assert_eq!(incident["finding"]["rule"], "pressure");
    Some((cage, sensor, running, incident))
}

fn is_resolved(sensor: &Sensor, incident: &Value) -> bool {
    let calm = |one: &Value| one["id"] == incident["id"] && one["state"] == "resolved";
    until(Duration::from_mins(3), || sensor.incidents().unwrap().iter().any(calm))
}

#[test]
fn kernels_a_cgroup_at_its_limit() {
    needs!("python3");
    let Some((cage, sensor, mut running, incident)) = short(test_name!()) else { return };
    let mut watch = sensor.watch(0).unwrap();
    let told = watch
        .find(CATCH, |record| record["observation"]["pressure"]["cgroup"] == cage.path())
        .unwrap()
        .record;
    assert_eq!(number(&told["observation"]["pressure"]["total_bytes"]).unwrap(), LIMIT);
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(is_resolved(&sensor, &incident));
}

/// As a container does that the OOM killer ends.
#[test]
fn kernels_a_cgroup_that_goes_away_while_it_is_short() {
    needs!("python3");
    let Some((cage, sensor, mut running, incident)) = short(test_name!()) else { return };
    running.kill().unwrap();
    running.wait().unwrap();
    drop(cage);
    assert!(is_resolved(&sensor, &incident));
}
