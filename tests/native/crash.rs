//! The core is killed while something is contained.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use tests::{
    Cage, Limits, Sensor, needs, process,
    run::until,
    watch::{identity, number},
    workloads::script,
};

use crate::support::{CATCH, comes, contained, emulated, id, killed, plant, stands_still};

/// How long the guardian leaves a tree frozen here, s: long enough to look at it without the core.
fn freeze_s() -> u64 {
    if emulated() { 40 } else { 8 }
}

/// The guardian's timers are exact to milliseconds; the machine may be busy.
const LATE: Duration = Duration::from_secs(3);

#[test]
fn what_is_frozen_stays_and_is_thawed_in_time() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor =
        Sensor::start(&cage, &format!("[respond]\nfreeze_s = {}", freeze_s())).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    watch.find(CATCH, |record| record["transition"]["to"] == "contained").unwrap();
    let due = number(&incident["thaw_due_ns"]).unwrap();
    let left = Duration::from_nanos(due.saturating_sub(tests::process::boot_ns()));
    assert!(left <= Duration::from_secs(freeze_s()), "{left:?} to the thaw");

    sensor.kill_core().unwrap();
    let end = Instant::now() + left;
    let acknowledged = watch.kill();

    // No fork escapes while nobody is there but the guardian and the kernel side.
    assert!(!sensor.processes_of("guardian").is_empty(), "no guardian outlived the core");
    stands_still(&cage);
    let held = cage.pids();

    let still = || cage.is_frozen() || held.iter().all(|pid| process::stands(*pid));
    thread::sleep(end.saturating_duration_since(Instant::now()).saturating_sub(LATE));
    assert!(still(), "thawed too early");
    comes("the guardian's thaw", LATE * 2, || !still());
    assert_eq!(cage.refused_forks().unwrap(), 0);

    // What a reader had seen is in the log, with the same identity and the same content.
    sensor.restart().unwrap();
    let end = sensor.status().unwrap();
    let end = number(&end["last_seq"]).unwrap();
    let mut whole = sensor.watch(0).unwrap();
    whole.find(CATCH, |record| number(&record["seq"]).is_ok_and(|seq| seq >= end)).unwrap();
    let whole: BTreeMap<_, _> = whole
        .kill()
        .into_iter()
        .map(|arrival| (identity(&arrival.record).unwrap(), arrival.record))
        .collect();
    for arrival in acknowledged {
        let identity = identity(&arrival.record).unwrap();
        assert_eq!(whole.get(&identity), Some(&arrival.record), "{identity:?}");
    }

    // The new core knows the incident and can end it.
    assert_eq!(sensor.show(id(&incident)).unwrap()["culprit"], incident["culprit"]);
    killed(&sensor, &cage, &incident);
}

#[test]
fn a_core_that_dies_in_the_middle_of_a_containment() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor =
        Sensor::start(&cage, &format!("[respond]\nfreeze_s = {}", freeze_s())).unwrap();
    let work = script::line(10).unwrap();
    let _running = work.start(&cage).unwrap();
    // The first process that stands still says that the containment has begun.
    let begun =
        || cage.is_frozen() || cage.pids().into_iter().any(|pid| process::state(pid) == Some('T'));
    let end = Instant::now() + CATCH;
    while !begun() {
        assert!(Instant::now() < end, "nothing was contained");
        thread::yield_now();
    }
    sensor.kill_core().unwrap();
    let at_death = cage.count();

    // The mark is inherited, and the kernel side stops who forks: of the few that the core had not
    // reached, each may make one more child.
    let mut settled = 0;
    let quiet = until(Duration::from_secs(4), || {
        let now = cage.count();
        thread::sleep(Duration::from_millis(1500));
        settled = cage.count();
        settled == now
    });
    assert!(quiet, "it still grows: {at_death} at the core's death, {settled} now");
    assert!(settled <= 2 * at_death + 2, "{at_death} became {settled}");
    assert_eq!(cage.refused_forks().unwrap(), 0);
}
