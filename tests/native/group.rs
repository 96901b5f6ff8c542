//! A culprit that is many trees: a manager that nobody may stop runs many workers, each of which grows
//! a little. They are one incident, all of them stand, and nobody else does.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs, process,
    run::until,
    skip, takes_its_time, test_name,
    workloads::{
        Running,
        managed::{Managed, PAUSE, Worker, manager},
    },
};

use crate::support::{CATCH, EFFECT, STILL, comes, emulated, explosions, id, length, resolved};

/// Each worker grows by 16 processes a second.
const WORKERS: u32 = 20;

/// As many as they would be in 3 s.
const ROOM: u32 = 1000;

/// For what is slow to start.
const WIDE: u32 = 3000;

/// An alarm reaches the log in milliseconds, an explosion is judged for 3 s.
const SETTLE: Duration = Duration::from_secs(4);

/// A timer on a busy machine.
const LATE: Duration = Duration::from_secs(3);

/// Returns from a test whose times are those of a real machine.
macro_rules! real_time {
    () => {
        if emulated() {
            skip::note(test_name!(), "an emulated machine is too slow for its times");
            return;
        }
    };
}

struct Scene {
    cage: Cage,
    sensor: Sensor,
    managed: Managed,
    running: Running,
}

impl Scene {
    fn new(respond: &str) -> Self {
        Self::of(respond, WORKERS, Worker::Endless)
    }

    fn of(respond: &str, workers: u32, kind: Worker) -> Self {
        let managed = manager(workers, kind).unwrap();
        let room = if kind == Worker::Listening { WIDE } else { ROOM };
        let cage = Cage::new(Limits::tasks(room)).unwrap();
        let config = format!(
            "{}{respond}\n[respond.protect]\nexecutables = [{:?}]",
            explosions(),
            managed.guard
        );
        let sensor = Sensor::start(&cage, &config).unwrap();
        let running = managed.work.start(&cage).unwrap();
        Self { cage, sensor, managed, running }
    }

    /// All processes of the cage whose command line is so.
    fn those(&self, so: impl Fn(&[String]) -> bool) -> BTreeSet<u32> {
        self.cage.pids().into_iter().filter(|pid| so(&process::argv(*pid))).collect()
    }

    /// Those that the manager has started.
    fn workers(&self) -> BTreeSet<u32> {
        let mut workers = self.those(|argv| self.is_worker(argv));
        workers.retain(|pid| process::parent(*pid) == Some(self.running.pid()));
        workers
    }

    /// A child that has not executed its own program yet looks like its parent.
    fn is_worker(&self, argv: &[String]) -> bool {
        argv.get(1).is_some_and(|word| word == self.managed.worker.to_str().unwrap())
    }

    /// Workers and what they started.
    fn crowd(&self) -> BTreeSet<u32> {
        let sleeps = [self.managed.nap.as_str(), PAUSE];
        self.those(|argv| {
            self.is_worker(argv)
                || matches!(argv, [sleep, time] if sleep == "sleep" && sleeps.contains(&time.as_str()))
        })
    }

    /// A contained group of so many trees, with its explanation.
    fn contained(&self, trees: usize) -> Value {
        self.sensor
            .wait_for(CATCH, |one| {
                one["kind"] == "fork_storm"
                    && one["state"] == "contained"
                    && one["group"]["members"].as_array().is_some_and(|all| all.len() == trees)
                    && !one["diagnosis"].is_null()
            })
            .unwrap()
    }

    fn crowd_stands(&self) {
        let before = self.crowd();
        std::thread::sleep(STILL);
        let after = self.crowd();
        assert_eq!(before, after, "workers still start processes");
        let running: Vec<u32> = after.into_iter().filter(|pid| !stands(*pid)).collect();
        for pid in &running {
            let (state, parent) = (process::state(*pid), process::parent(*pid));
            eprintln!("{pid} of {parent:?}: {state:?} {:?}", process::argv(*pid));
        }
        let incidents = self.sensor.incidents();
        assert_eq!(running, [0; 0], "not all of them stand: {incidents:#?}");
    }

    /// The manager and all neighbours go on.
    fn others_go_on(&self) {
        for file in &self.managed.ticks {
            let before = length(file);
            assert!(until(EFFECT, || length(file) > before), "{} does not go on", file.display());
        }
        let bystanders = self.those(|argv| argv == ["sleep", &self.managed.bystander]);
        assert_eq!(bystanders.len(), 2, "bystanders are gone");
        for pid in bystanders {
            assert_eq!(process::state(pid), Some('S'), "a bystander does not run");
        }
        assert!(!self.cage.is_frozen(), "the whole cage was frozen");
    }
}

/// Stopped, or waiting for a child that is: dash forks as `vfork` does.
fn stands(pid: u32) -> bool {
    process::stands(pid) || process::state(pid) == Some('D')
}

fn members(incident: &Value) -> BTreeSet<u32> {
    let all = incident["group"]["members"].as_array().unwrap();
    all.iter().map(|one| one["pid"].as_u64().unwrap() as u32).collect()
}

#[test]
fn group_of_workers_below_a_protected_manager() {
    needs!();
    real_time!();
    let mut scene = Scene::new("");
    let incident = scene.contained(WORKERS as usize);
    assert_eq!(scene.cage.refused_forks().unwrap(), 0, "the cage stopped it, not the sensor");
    let group = &incident["group"];
    assert_eq!((&group["by"], &group["uid"]), (&"executable".into(), &0.into()), "{incident:#}");
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    assert_eq!(group["what"], shell.to_str().unwrap());
    assert_eq!(group["ancestor"]["pid"], scene.running.pid());
    assert_eq!(members(&incident), scene.workers());
    assert_eq!(incident["culprit"]["pid"], group["members"][0]["pid"], "the eldest stands for all");
    assert_eq!(group["processes"].as_u64().unwrap() as usize, scene.crowd().len());
    assert!(group["anon_bytes"].as_u64().unwrap() > 0, "{incident:#}");
    scene.crowd_stands();
    scene.others_go_on();
    let all = scene.sensor.incidents().unwrap();
    assert_eq!(all.len(), 1, "one cause, one incident: {all:#?}");

    let cause = incident["diagnosis"]["cause"].as_str().unwrap();
    let worker = scene.managed.worker.to_str().unwrap();
    let nap = format!("sleep {}", scene.managed.nap);
    for part in [&format!("{WORKERS} × "), worker, nap.as_str(), "user 0", "side by side"] {
        assert!(cause.contains(part), "{part:?} is not in {cause:?}");
    }
    let name = format!("{WORKERS} × `{}` of user 0", shell.file_name().unwrap().to_str().unwrap());
    let story = scene.sensor.output(&["show", id(&incident)]).unwrap();
    eprintln!("{story}");
    assert!(story.contains(&name), "{story}");
    assert!(scene.sensor.output(&["incidents"]).unwrap().contains(&name));

    // Who restarts one of them is left alone; a manager that starts them by the dozen is not.
    scene.managed.start_more(1).unwrap();
    comes("another worker", EFFECT, || scene.workers().len() == WORKERS as usize + 1);
    std::thread::sleep(STILL);
    let new: Vec<u32> = scene.workers().difference(&members(&incident)).copied().collect();
    assert!(new.iter().all(|pid| !process::stands(*pid)), "a single worker was stopped");
    scene.managed.start_more(11).unwrap();
    let grown = scene.contained(WORKERS as usize + 12);
    assert_eq!(members(&grown), scene.workers());
    scene.crowd_stands();
    scene.others_go_on();

    // Whoever comes after a core that was killed knows all of them.
    scene.sensor.kill_core().unwrap();
    scene.sensor.restart().unwrap();
    let known = scene.contained(WORKERS as usize + 12);
    assert_eq!((id(&known), members(&known)), (id(&incident), scene.workers()));
    scene.crowd_stands();
    let killed = scene.sensor.output(&["kill", id(&incident), "--yes"]).unwrap();
    eprintln!("{killed}");
    assert_eq!(scene.crowd(), BTreeSet::new(), "somebody survives");
    resolved(&scene.sensor, &incident);
    scene.others_go_on();
    assert_eq!(scene.sensor.incidents().unwrap().len(), 1);
    assert!(scene.running.ended().unwrap().is_none(), "the manager has ended");
}

#[test]
fn group_is_let_go_by_a_person() {
    needs!();
    takes_its_time!();
    let scene = Scene::new("");
    let incident = scene.contained(WORKERS as usize);
    let workers = scene.workers();
    scene.sensor.output(&["thaw", id(&incident)]).unwrap();
    let goes_on = || workers.iter().all(|pid| !process::stands(*pid));
    comes("all of them go on", EFFECT, goes_on);
    // Until they meet the cage's limit nobody stops them again.
    comes("more of them", EFFECT, || scene.cage.refused_forks().unwrap() > 0);
    let open = scene.sensor.show(id(&incident)).unwrap();
    assert_eq!(open["state"], "open", "{open:#}");
}

#[test]
fn group_is_let_go_by_the_guardian_when_core_is_dead() {
    needs!();
    real_time!();
    let mut scene = Scene::new("[respond]\nfreeze_s = 15\nbrake_extra_s = 1\n");
    scene.contained(WORKERS as usize);
    let workers = scene.workers();
    scene.sensor.kill_core().unwrap();
    assert!(workers.iter().all(|pid| stands(*pid)), "let go with the core");
    let goes_on = || workers.iter().all(|pid| !process::stands(*pid));
    comes("all of them go on", Duration::from_secs(16) + LATE, goes_on);
    scene.others_go_on();
}

#[test]
fn group_that_stops_growing_is_nobodys_trouble() {
    needs!();
    real_time!();
    let workers = 40;
    let scene = Scene::of("", workers, Worker::Bounded);
    // A worker and its eight children: 360 processes within a moment.
    comes("all of them", CATCH, || scene.crowd().len() == 9 * workers as usize);
    std::thread::sleep(SETTLE);
    let incidents = scene.sensor.incidents().unwrap();
    assert!(incidents.is_empty(), "incidents about honest work: {incidents:#?}");
    scene.others_go_on();
}

#[test]
fn group_of_servers_is_told_of_and_left_alone() {
    needs!("python3");
    real_time!();
    let scene = Scene::of("", WORKERS, Worker::Listening);
    let incident = scene
        .sensor
        .wait_for(CATCH, |one| one["kind"] == "fork_storm" && !one["diagnosis"].is_null())
        .unwrap();
    assert_eq!(members(&incident), scene.workers(), "{incident:#}");
    let actions = incident["actions"].as_array().unwrap();
    let last = actions.last().unwrap();
    let why = last["why"].as_str().unwrap();
    assert!(why.contains("listens on a socket"), "{why}");
    assert_eq!((&incident["state"], &last["kind"]), (&"open".into(), &"refuse".into()));
    // It may have been held while it was judged.
    let free = || scene.crowd().iter().all(|pid| process::state(*pid) != Some('T'));
    comes("all of them run", EFFECT, free);
    scene.others_go_on();
    // A person decides otherwise.
    scene.sensor.output(&["freeze", id(&incident), "--yes"]).unwrap();
    assert!(scene.workers().iter().all(|pid| stands(*pid)), "some were not stopped");
    scene.others_go_on();
}
