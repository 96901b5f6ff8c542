//! More processes than usual, and more than there is room for.

use std::time::Duration;

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs, process,
    run::until,
    skip,
    watch::number,
    workloads::{crowd, script},
};

use crate::support::{EFFECT, catches_a_planted_recursion, contained, id, resolved};

/// Of the design's idle budget at 10,000 processes (80 MiB), twice, for twice as many.
const MEMORY_LIMIT_KIB: u64 = 160 << 10;

/// Room in the smallest table that the configuration allows.
const ROOM: u32 = 1024;

/// Two looks at memory, of which one at most walks over all tasks, at a sample every five seconds.
const LOOKS: Duration = Duration::from_mins(1);

#[test]
fn twenty_thousand_processes() {
    needs!("cc");
    let count = 20_000;
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    if most.trim().parse::<u32>().unwrap() < count + 5000 {
        skip::note(tests::test_name!(), "the kernel has no room for 20,000 processes");
        return;
    }
    let crowded = Cage::new(crowd::limits(count)).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    // Half of what is there is known from the start, half is seen to come.
    let (before, after) = (crowd::of(count / 2).unwrap(), crowd::of(count / 2).unwrap());
    let _first = crowd::start(&before, &crowded).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let _second = crowd::start(&after, &crowded).unwrap();

    let status = sensor.status().unwrap();
    let known = status["processes"].as_u64().unwrap();
    assert!(known >= u64::from(count), "{known} processes known: {status:#}");
    all_are_looked_at(&sensor, count);
    catches_a_planted_recursion(&sensor, &cage);
    let used: u64 = sensor
        .processes()
        .iter()
        .filter_map(|pid| process::field(format!("/proc/{pid}/smaps_rollup"), "Pss_Anon"))
        .sum();
    assert!(used <= MEMORY_LIMIT_KIB, "the daemon uses {used} KiB");
    assert!(sensor.incidents().unwrap().iter().all(|one| one["kind"] == "recursion"));
}

/// Whose memory it is, is seen of everybody, also where no walk over all tasks is made: by several calls, then.
fn all_are_looked_at(sensor: &Sensor, count: u32) {
    let mut last = Value::Null;
    let seen = until(LOOKS, || {
        last = sensor.status().unwrap()["memory_sampling"].take();
        let by_table = last["by"] != "table" || last["took_ns"] != last["walk_took_ns"];
        by_table && last["processes"].as_u64() >= Some(count.into())
    });
    assert!(seen, "{last:#}");
}

#[test]
fn a_crowd_inside_the_tree_that_is_contained() {
    needs!("cc");
    let count = 3000;
    let many = crowd::of(count).unwrap();
    let cage = Cage::new(crowd::limits(count)).unwrap();
    // A crowd that comes at once is an explosion as well, and might be stopped while it comes.
    let sensor = Sensor::start(&cage, "[detect.explosion]\nenabled = false").unwrap();
    // The recursion's own script starts the crowd first.
    let work = script::line_after(20, &many.argv).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    let processes = incident["tree"]["processes"].as_u64().unwrap();
    assert!(processes >= u64::from(count), "{processes} processes in the tree");
    sensor.output(&["kill", id(&incident), "--yes"]).unwrap();
    assert!(cage.empties_within(EFFECT), "{} processes survive", cage.count());
    resolved(&sensor, &incident);
}

#[test]
fn a_full_table_is_counted_and_said() {
    needs!("cc");
    let count = 3 * ROOM;
    let work = crowd::of(count).unwrap();
    let cage = Cage::new(crowd::limits(count)).unwrap();
    // As above; and a containment looks for everybody who is missing, which counts them again.
    let config = format!("[kernel]\nmax_processes = {ROOM}\n[detect.explosion]\nenabled = false");
    let sensor = Sensor::start(&cage, &config).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let running = crowd::start(&work, &cage).unwrap();

    let lost = watch
        .find(Duration::from_secs(20), |record| {
            record["kind"] == "lost" && record["lost"]["reason"] == "table_full"
        })
        .unwrap();
    assert!(number(&lost.record["lost"]["count"]).unwrap() > 0);
    // Those that did not fit: all of the crowd but the room, and at most all of it. They are counted
    // while the crowd comes.
    let mut missing = 0;
    let all = until(Duration::from_secs(20), || {
        let status = sensor.status().unwrap();
        let mut losses = status["losses"].as_array().unwrap().iter();
        let full = losses.find(|loss| loss["reason"] == "table_full").unwrap();
        missing = number(&full["count"]).unwrap();
        missing >= u64::from(count - ROOM)
    });
    assert!(
        all && missing <= u64::from(count) + u64::from(ROOM),
        "{missing} of {count} did not fit into {ROOM}"
    );

    // With room again, it is as before.
    drop(running);
    cage.clear().unwrap();
    catches_a_planted_recursion(&sensor, &cage);
}
