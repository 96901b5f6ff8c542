//! Protected processes above, below and beside a culprit: whatever the tree looks like, nobody stops,
//! brakes or freezes them, nor those who only stand beside it; and the rest stands, or the refusal says
//! why not.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs, process,
    run::until,
    takes_its_time,
    workloads::planted::{Places, Planted, recursion},
};

use crate::support::{CATCH, EFFECT, STILL, id, length};

/// Deterministic, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    /// 0 to `sides` - 1, by xorshift64 (Marsaglia 2003).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn places(seed: u64) -> Places {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    // The first throws of neighbouring seeds are alike.
    for _ in 0..8 {
        dice.roll(2);
    }
    Places {
        above: dice.roll(2) == 0,
        between: dice.roll(3) as usize,
        beside: dice.roll(3) as usize,
        below: (1..=8).filter(|_| dice.roll(5) == 0).collect(),
        bystanders: dice.roll(3) as usize,
    }
}

/// A tree is looked at so often for somebody who stands that may not.
const LOOK: Duration = Duration::from_millis(2);

/// Whoever nobody may touch.
fn is_free(pid: u32, planted: &Planted) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == planted.guard)
        || process::argv(pid) == ["sleep", &planted.bystander]
}

/// Ends the look also where what is looked at fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who executes a protected program just as its tree is being stopped stands until the sweep has come
/// to its end.
const SWEEP: Duration = Duration::from_millis(200);

/// Does something while somebody looks who of the free ones stands; those who did for longer than a sweep.
fn stopped_meanwhile(cage: &Cage, planted: &Planted, act: impl FnOnce()) -> Vec<u32> {
    let (over, stopped) = (AtomicBool::new(false), Mutex::new(HashMap::new()));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let free = cage.pids().into_iter().filter(|pid| is_free(*pid, planted));
                let standing = |pid: &u32| process::state(*pid) == Some('T');
                let now = Instant::now();
                for pid in free.filter(standing) {
                    let mut stopped = stopped.lock().unwrap();
                    let (_, last) = stopped.entry(pid).or_insert((now, now));
                    *last = now;
                }
                assert!(!cage.is_frozen(), "the whole group was frozen");
                thread::sleep(LOOK);
            }
        });
        let _ends = Ends(&over);
        act();
    });
    let stopped = stopped.into_inner().unwrap().into_iter();
    stopped.filter(|(_, (first, last))| *last - *first > SWEEP).map(|(pid, _)| pid).collect()
}

/// Those of the protected processes that have begun; a recursion may stand before it starts another.
fn begun(planted: &Planted) -> Vec<&Path> {
    planted.ticks.iter().map(PathBuf::as_path).filter(|file| length(file) > 0).collect()
}

fn lives_on(cage: &Cage, files: &[&Path]) {
    for file in files {
        let before = length(file);
        if !until(EFFECT, || length(file) > before) {
            for pid in cage.pids() {
                let (state, parent) = (process::state(pid), process::parent(pid));
                eprintln!("{pid} of {parent:?}: {state:?} {:?}", process::argv(pid));
            }
            panic!("{} does not go on", file.display());
        }
    }
}

/// The refusal of a containment, if there is one.
fn refused(incident: &Value) -> Option<&str> {
    let actions = incident["actions"].as_array().unwrap();
    actions.iter().find(|one| one["kind"] == "refuse")?["result"].as_str()
}

fn spared(seed: u64) {
    let places = places(seed);
    eprintln!("seed {seed}: {places:?}");
    let planted = recursion(&places).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let protect = format!("[respond.protect]\nexecutables = [{:?}]", planted.guard);
    let sensor = Sensor::start(&cage, &protect).unwrap();
    let recursing = |pid: &u32| {
        let script = planted.recursion.to_str().unwrap();
        process::argv(*pid).get(1).is_some_and(|word| word == script) && !is_free(*pid, &planted)
    };
    let stopped = stopped_meanwhile(&cage, &planted, || {
        let _running = planted.work.start(&cage).unwrap();
        let incident = sensor
            .wait_for(CATCH, |one| {
                one["kind"] == "recursion"
                    && (one["state"] == "contained" || refused(one).is_some())
                    && !one["diagnosis"].is_null()
            })
            .unwrap();
        let begun = begun(&planted);
        assert!(begun.len() >= places.beside, "{begun:?} of {places:?} have begun");
        if let Some(why) = refused(&incident) {
            assert!(why.contains("protected"), "{incident:#}");
        } else {
            let standing = cage.pids().into_iter().filter(recursing).collect::<Vec<_>>();
            thread::sleep(STILL);
            let after = cage.pids().into_iter().filter(recursing).collect::<Vec<_>>();
            assert_eq!(standing, after, "it still grows: {incident:#}");
            eprintln!("{:#}", incident["actions"]);
            lives_on(&cage, &begun);
            // Somebody protected may stand in the way of the rest by now: then it says so.
            let killed = sensor.call(&["kill", id(&incident), "--yes"]).unwrap();
            assert!(killed.status.success() || killed.stderr.contains("protected"), "{killed:?}");
        }
        lives_on(&cage, &begun);
        let free = cage.pids().into_iter().filter(|pid| is_free(*pid, &planted)).count();
        let wanted = places.bystanders + begun.len();
        assert!(free >= wanted, "{free} of {wanted} are left");
    });
    assert_eq!(stopped, [0; 0], "stopped, though nobody may: {:?}", sensor.incidents());
}

#[test]
fn nobody_who_is_protected_is_touched_in_twenty_trees() {
    needs!();
    takes_its_time!();
    for seed in 0..20 {
        spared(seed);
    }
}
