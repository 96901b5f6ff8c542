//! Core or guardian are killed in every state of a containment, or core is told to end in the middle of it: nothing
//! escapes while the brake holds, nothing stands longer than it was to, and the log tells one story.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs, process,
    run::until,
    takes_its_time,
    watch::number,
    workloads::{Running, Workload, script},
};

use crate::support::{CATCH, EFFECT, comes, contained, id};

const FREEZE: Duration = Duration::from_secs(5);
const BRAKE_EXTRA: Duration = Duration::from_secs(1);

/// A timer on a busy machine.
const LATE: Duration = Duration::from_secs(3);

/// After the beginning of the state: at once, and in the middle of what takes some ms.
const MOMENTS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(7)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has acted yet.
    Growing,
    /// The first one stands.
    Stopping,
    Contained,
    /// A person has let it go.
    Thawing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Core,
    Guardian,
}

/// Twelve are contained.
const NEARLY: usize = 9;

struct Scene {
    cage: Cage,
    sensor: Sensor,
    running: Running,
}

impl Scene {
    /// `more`: of the configuration.
    fn start(work: &Workload, more: &str) -> Self {
        let cage = Cage::new(Limits::default()).unwrap();
        let sensor = Sensor::start(&cage, more).unwrap();
        let running = work.start(&cage).unwrap();
        Self { cage, sensor, running }
    }

    fn stands(&self) -> bool {
        let stopped = |pid: u32| process::state(pid) == Some('T');
        self.cage.is_frozen() || self.cage.pids().into_iter().any(stopped)
    }

    fn reach(&self, state: State) {
        let spin = |what: &str, so: &dyn Fn() -> bool| {
            let end = Instant::now() + CATCH;
            while !so() {
                assert!(Instant::now() < end, "it never came to this: {what}");
                thread::yield_now();
            }
        };
        match state {
            State::Growing => spin("growth", &|| self.cage.count() >= NEARLY),
            State::Stopping => spin("the first stop", &|| self.stands()),
            State::Contained | State::Thawing => {
                let incident = contained(&self.sensor, self.running.pid());
                if state == State::Thawing {
                    self.sensor.command(&["thaw", id(&incident)]).spawn().unwrap().wait().unwrap();
                }
            }
        }
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Core => self.sensor.kill_core().unwrap(),
            Victim::Guardian => {
                let guardians = self.sensor.processes_of("guardian");
                assert!(!guardians.is_empty());
                for pid in guardians {
                    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
                }
            }
        }
    }
}

/// What is stopped by itself is stopped within this.
const EFFECT_AT_MOST: Duration = Duration::from_secs(1);

/// No sequence number twice, and each incident's states one after the other.
fn log_is_consistent(sensor: &Sensor) {
    let last = number(&sensor.status().unwrap()["last_seq"]).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    watch.find(CATCH, |record| number(&record["seq"]).is_ok_and(|seq| seq >= last)).unwrap();
    let records: Vec<Value> = watch.kill().into_iter().map(|arrival| arrival.record).collect();
    let numbers: Vec<u64> = records.iter().map(|one| number(&one["seq"]).unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] > pair[0]), "{numbers:?}");
    for incident in sensor.incidents().unwrap() {
        let of_it = |one: &&Value| one["transition"]["incident"]["id"] == incident["id"];
        let last = records.iter().rfind(of_it).unwrap();
        assert_eq!(last["transition"]["to"], incident["state"], "{incident:#}");
    }
}

fn outlived(victim: Victim, state: State) {
    for moment in MOMENTS {
        eprintln!("{victim:?} is killed {moment:?} after {state:?}");
        let times = format!(
            "[respond]\nfreeze_s = {}\nbrake_extra_s = {}\n",
            FREEZE.as_secs(),
            BRAKE_EXTRA.as_secs()
        );
        let work = script::line(20).unwrap();
        let mut scene = Scene::start(&work, &times);
        scene.reach(state);
        thread::sleep(moment);
        scene.kill(victim);
        let (killed, alive) = (Instant::now(), scene.cage.count());

        match (victim, state) {
            // It is contained all the same, and watched over by another guardian.
            (Victim::Guardian, State::Growing | State::Stopping | State::Contained) => {
                contained(&scene.sensor, scene.running.pid());
                let guards = || scene.sensor.part("guardian").unwrap()["ok"] == true;
                comes("another guardian", EFFECT, guards);
                scene.sensor.kill_core().unwrap();
            }
            (Victim::Guardian, State::Thawing) => scene.sensor.kill_core().unwrap(),
            // Each of those that the core had not reached may have made one more.
            (Victim::Core, State::Stopping | State::Contained) => {
                thread::sleep(FREEZE.saturating_sub(LATE / 2).saturating_sub(killed.elapsed()));
                let now = scene.cage.count();
                assert!(now <= 2 * alive + 2, "{alive} became {now}");
            }
            (Victim::Core, State::Growing | State::Thawing) => {}
        }
        // The guardian's timers, counted from the last that the core did.
        let longest = FREEZE + BRAKE_EXTRA + LATE;
        assert!(until(longest, || !scene.stands()), "it stands for longer than it was to");
        let before = scene.cage.count();
        comes("that it grows again", longest, || scene.cage.count() > before);
        // One more may be of a fork that the brake had met under way.
        thread::sleep(BRAKE_EXTRA);
        let free = until(LATE, || !scene.stands());
        assert!(free, "the brake holds for longer than it was to");

        scene.sensor.restart().unwrap();
        // Whoever a person let run is not stopped again by itself; all others are.
        if state == State::Thawing {
            thread::sleep(EFFECT_AT_MOST);
            assert!(!scene.stands(), "a person had let it run");
        } else {
            contained(&scene.sensor, scene.running.pid());
        }
        log_is_consistent(&scene.sensor);
    }
}

/// The daemon is told to end while a freeze goes on: that is in the log, with what it did, before the daemon has ended.
/// `by_whom`: who freezes.
fn ends_with_the_freeze_recorded(scene: &mut Scene, by_whom: impl Fn(&Value) -> bool) {
    scene.sensor.stop().unwrap();
    assert!(scene.stands());
    scene.sensor.restart().unwrap();
    let mut watch = scene.sensor.watch(0).unwrap();
    watch.find(CATCH, |record| record["kind"] == "stopped").unwrap();
    let froze = |one: &Value| one["kind"] == "freeze" && one["ok"] == true && by_whom(&one["by"]);
    let tells = |record: &Value| {
        let actions = record["transition"]["incident"]["actions"].as_array();
        actions.is_some_and(|all| all.iter().any(froze))
    };
    assert!(watch.seen().iter().any(|arrival| tells(&arrival.record)));
}

#[test]
fn what_policy_does_as_the_daemon_ends_is_recorded() {
    needs!();
    let work = script::line(20).unwrap();
    let mut scene = Scene::start(&work, "");
    scene.reach(State::Stopping);
    ends_with_the_freeze_recorded(&mut scene, |by| by == "policy");
}

#[test]
fn what_a_person_does_as_the_daemon_ends_is_recorded() {
    needs!();
    let work = script::line(20).unwrap();
    let mut scene = Scene::start(&work, "");
    let incident = contained(&scene.sensor, scene.running.pid());
    scene.sensor.output(&["thaw", id(&incident)]).unwrap();
    comes("that nothing stands", EFFECT, || !scene.stands());
    let mut freezing = scene.sensor.command(&["freeze", id(&incident), "--yes"]).spawn().unwrap();
    scene.reach(State::Stopping);
    ends_with_the_freeze_recorded(&mut scene, |by| by != "policy");
    freezing.wait().unwrap();
}

macro_rules! killed {
    ($($test:ident $victim:ident $state:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            needs!();
            takes_its_time!();
            outlived(Victim::$victim, State::$state);
        })*
    };
}

killed! {
    the_core_before_the_brake Core Growing,
    the_core_while_it_stops Core Stopping,
    the_core_while_it_stands Core Contained,
    the_core_while_it_is_let_go Core Thawing,
    the_guardian_before_the_brake Guardian Growing,
    the_guardian_while_it_stops Guardian Stopping,
    the_guardian_while_it_stands Guardian Contained,
    the_guardian_while_it_is_let_go Guardian Thawing,
}
