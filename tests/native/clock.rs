//! Somebody sets the clock: what is due comes by the time since boot, and what is written stays in order.
//! In a guest only: a real machine's clock is its users'.

use std::time::{Duration, Instant};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};
use serde_json::Value;
use tests::{Cage, Limits, Sensor, needs, process, skip, test_name, watch::number};

use crate::support::{CATCH, EFFECT, comes, contained, emulated, id, killed, plant};

const DAY: i64 = 24 * 60 * 60;

/// The dead-man's timer.
const FREEZE: Duration = Duration::from_secs(5);

fn step(seconds: i64) {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
    let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
    clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
}

#[test]
fn kernels_whose_clock_is_set() {
    needs!();
    if !emulated() {
        skip::note(test_name!(), "sets the machine's clock: in a guest");
        return;
    }
    let cage = Cage::new(Limits::default()).unwrap();
    let config = format!("[respond]\nfreeze_s = {}\nbrake_extra_s = 60\n", FREEZE.as_secs());
    let sensor = Sensor::start(&cage, &config).unwrap();
    let mut incidents = Vec::new();
    for seconds in [0, 30 * DAY, -60 * DAY] {
        step(seconds);
        let (_work, running) = plant(&cage);
        let incident = contained(&sensor, running.pid());
        // Neither a month too early nor a month too late.
        let since = Instant::now();
        step(seconds);
        let goes_on = || cage.pids().iter().all(|pid| !process::stands(*pid));
        comes("the timer", CATCH, goes_on);
        let took = since.elapsed();
        assert!(took < FREEZE + EFFECT, "it was let go after {took:?}");
        killed(&sensor, &cage, &incident);
        incidents.push(id(&incident).to_owned());
    }
    // In the order in which they were, whatever the clock said.
    let last = number(&sensor.status().unwrap()["last_seq"]).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    watch.find(EFFECT, |record| number(&record["seq"]).is_ok_and(|seq| seq >= last)).unwrap();
    let all: Vec<Value> = watch.kill().into_iter().map(|arrival| arrival.record).collect();
    let boot: Vec<u64> = all.iter().map(|one| number(&one["boot_ns"]).unwrap()).collect();
    // Each is made by its own thread before it gets its number.
    let in_order = |pair: &[u64]| pair[0] < pair[1] + 1_000_000_000;
    assert!(boot.windows(2).all(in_order), "records are not in order: {boot:?}");
    let mut opened = all.iter().filter(|one| one["transition"]["to"] == "open");
    let mut known: Vec<&str> = opened.by_ref().filter_map(|one| one["incident"].as_str()).collect();
    known.dedup();
    assert_eq!(known, incidents);
    assert_eq!(sensor.incidents().unwrap().len(), incidents.len());
    assert_eq!(sensor.part("record").unwrap()["ok"], true);
}
