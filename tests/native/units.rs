//! Where systemd is the init, a run is a unit of its own: with its limits, known to systemd's tools, and gone with
//! all that was in it when the run ends or the daemon's own unit does. In a guest: `cargo xtask vm KERNEL --systemd`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    names, needs, process,
    run::{run, write_program},
    skip, target, test_name,
    workloads::{Running, Workload, script},
};

use crate::support::{CATCH, comes, id, opened, runs};

/// Of a run's unit.
const MEMORY_MAX: u64 = 256 << 20;
const MEMORY_MIN: u64 = 64 << 20;
const TASKS: u64 = 40;

/// One call of systemd's tools, or of our own.
const CALL: Duration = Duration::from_secs(30);

/// Where units stand that nobody installed.
const UNITS: &str = "/run/systemd/system";

/// Returns from the test where another init runs.
macro_rules! needs_systemd {
    () => {
        needs!();
        if !Path::new(UNITS).is_dir() {
            skip::note(test_name!(), "needs systemd as the init of its machine");
            return;
        }
    };
}

/// A program of an agent that leaves its session in every way, and goes on until there is a file `end`.
fn rogue(place: &Path) -> PathBuf {
    let program = place.join(names::word());
    let script = format!(
        "#!/bin/sh\n\
         cat >/dev/null\n\
         for one in 1 2 3 4 5; do\n\
         \x20   setsid sh -c '(trap \"\" TERM INT HUP; while :; do sleep 1; done) & exec sleep 86399' &\n\
         done\n\
         while [ ! -e {end} ]; do sleep 0.1; done\n\
         echo '{{\"findings\":\"it ends\"}}'\n",
        end = place.join("end").display(),
    );
    write_program(&program, script).unwrap();
    program
}

/// It, its five children, and of each of these two more.
const ROGUES: usize = 11;

fn config(program: &Path) -> String {
    format!(
        "[investigate]\nagent = \"command\"\nwhen = \"always\"\n\
         [investigate.command]\nprogram = [{program:?}]\n\
         memory_min_bytes = {MEMORY_MIN}\nmemory_max_bytes = {MEMORY_MAX}\npids_max = {TASKS}\n"
    )
}

fn systemctl(arguments: &[&str]) -> String {
    let said = run(Command::new("systemctl").args(arguments), CALL).unwrap();
    said.success().unwrap()
}

/// A property of a unit, as systemd tells it.
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit]).trim().to_owned()
}

/// Runs that systemd knows of.
fn units() -> Vec<String> {
    let listed =
        systemctl(&["list-units", "--all", "--plain", "--no-legend", "sensor-investigation-*"]);
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn members(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// The only run, its unit, and its processes once all are there.
fn at_work() -> (PathBuf, String, Vec<u32>) {
    comes("a rogue at work", CATCH, || {
        runs().first().is_some_and(|group| members(group).len() >= ROGUES)
    });
    let [group] = &runs()[..] else { panic!("one run") };
    let unit = group.file_name().unwrap().to_str().unwrap().to_owned();
    (group.clone(), unit, members(group))
}

fn all_gone(pids: &[u32]) -> bool {
    pids.iter().all(|pid| process::state(*pid).is_none_or(|state| state == 'Z'))
}

#[test]
fn a_run_is_a_unit_with_its_limits_and_a_rogue_is_gone_with_it() {
    needs_systemd!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let program = rogue(place.path());
    let sensor = Sensor::start(&cage, &config(&program)).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let incident = id(&opened(&sensor, running.pid())).to_owned();

    let (group, unit, pids) = at_work();
    assert_eq!(units(), [unit.as_str()]);
    let file = |name: &str| fs::read_to_string(group.join(name)).unwrap().trim().to_owned();
    for (name, wanted) in [
        ("memory.max", MEMORY_MAX),
        ("memory.min", MEMORY_MIN),
        ("memory.oom.group", 1),
        ("pids.max", TASKS),
        ("cpu.weight", 50),
    ] {
        assert_eq!(file(name), wanted.to_string(), "{name}");
    }
    // What is kept for nobody above it is kept for nobody in it.
    let slice = fs::read_to_string(group.with_file_name("memory.min")).unwrap();
    assert!(slice.trim().parse::<u64>().unwrap() >= MEMORY_MIN, "{slice}");
    for (name, wanted) in [
        ("ActiveState", "active"),
        ("Slice", "sensor.slice"),
        ("MemoryMax", &MEMORY_MAX.to_string()),
        ("TasksMax", &TASKS.to_string()),
        ("CollectMode", "inactive-or-failed"),
        ("Delegate", "yes"),
    ] {
        assert_eq!(property(&unit, name), wanted, "{name}");
    }
    assert!(property(&unit, "Description").contains(&incident));
    let tree = run(Command::new("systemd-cgls").arg("--no-pager"), CALL).unwrap();
    assert!(tree.success().unwrap().contains(&unit));
    let told = watch.find(CATCH, |record| record["transcript"]["line"] == 1).unwrap().record;
    let told = told["transcript"]["text"].as_str().unwrap().to_owned();
    assert!(told.contains(&format!(", as {unit}; 64 MiB are kept for it")), "{told}");
    // The kernel tells of what is executed in the unit: first of its program, not of the shell that held the unit.
    let first = watch.find(CATCH, |record| record["transcript"]["stream"] == "kernel").unwrap();
    let first = first.record["transcript"]["text"].as_str().unwrap().to_owned();
    assert!(first.contains(program.to_str().unwrap()), "{first}");
    watch.kill();

    fs::write(place.path().join("end"), "").unwrap();
    comes("the end of its unit", CATCH, || units().is_empty());
    assert!(all_gone(&pids), "of {pids:?}");
    comes("what it found", CATCH, || {
        sensor.show(&incident).unwrap()["investigations"][0]["findings"] == "it ends"
    });
    assert!(!group.exists());
}

/// A daemon that is a unit of systemd.
struct Service {
    name: String,
    base: TempDir,
    binary: PathBuf,
}

impl Service {
    fn start(cage: &Cage, more: &str) -> Self {
        let base = tempfile::tempdir().unwrap();
        open_to_all(base.path()).unwrap();
        let binary = target::sensor().unwrap();
        let at = base.path().display();
        let config = format!(
            "state_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\n\n\
             [scope]\ncgroup = [{:?}]\n\n{more}\n",
            cage.path()
        );
        fs::write(base.path().join("sensor.toml"), config).unwrap();
        let name = format!("sensor-{}.service", names::word());
        let unit = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart={} run --config {at}/sensor.toml\nDelegate=yes\n\
             OOMScoreAdjust=-900\nStandardOutput=null\nStandardError=file:{at}/log\n",
            binary.display()
        );
        let service = Self { name, base, binary };
        fs::write(service.file(), unit).unwrap();
        systemctl(&["daemon-reload"]);
        systemctl(&["start", &service.name]);
        service.is_ready();
        service
    }

    fn file(&self) -> PathBuf {
        Path::new(UNITS).join(&self.name)
    }

    fn is_ready(&self) {
        comes("a daemon that answers", CATCH, || self.call(&["status"]).is_some());
    }

    fn call(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("SENSOR_SOCKET", self.base.path().join("run/sensor.sock"));
        run(&mut command, CALL).unwrap().success().ok()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.call(arguments).unwrap()).unwrap()
    }

    /// An incident, and whom it is about.
    fn incident(&self, cage: &Cage) -> (String, (Workload, Running)) {
        let (work, _) = script::ticker().unwrap();
        let running = work.start(cage).unwrap();
        let pid = running.pid().to_string();
        let opened = self.json(&["trigger", "--pid", &pid, "--why", "what does it do", "--json"]);
        (id(&opened).to_owned(), (work, running))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.base.path().join("log")).unwrap_or_default();
            eprintln!("--- the daemon's log ---\n{log}\n---");
        }
        let _ = run(Command::new("systemctl").args(["stop", &self.name]), CALL);
        let _ = fs::remove_file(self.file());
    }
}

/// A service, and an incident of its that a rogue looks into.
struct Scene {
    incident: String,
    _running: (Workload, Running),
    service: Service,
    _cage: Cage,
    place: TempDir,
}

impl Scene {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        open_to_all(place.path()).unwrap();
        let cage = Cage::new(Limits::default()).unwrap();
        let service = Service::start(&cage, &config(&rogue(place.path())));
        let (incident, running) = service.incident(&cage);
        Self { incident, _running: running, service, _cage: cage, place }
    }
}

#[test]
fn a_restarted_service_takes_its_run_up_and_leaves_nothing_of_its_first_life() {
    needs_systemd!();
    let Scene { service, incident, place, .. } = &Scene::new();
    let (_, unit, pids) = at_work();
    assert_eq!(property(&unit, "BindsTo"), service.name);

    systemctl(&["restart", &service.name]);
    assert!(all_gone(&pids), "of {pids:?}");
    service.is_ready();
    let (_, second, next) = at_work();
    assert_ne!(unit, second);
    let run = || service.json(&["show", incident, "--json"])["investigations"][0].clone();
    assert_eq!((&run()["lives"], &run()["state"]), (&2.into(), &"running".into()));

    fs::write(place.path().join("end"), "").unwrap();
    comes("the end of the second life", CATCH, || run()["state"] == "done");
    assert_eq!(run()["outcome"], "complete", "{:#}", run());
    comes("the end of its unit", CATCH, || units().is_empty());
    assert!(all_gone(&next), "of {next:?}");
}

#[test]
fn what_is_left_of_a_service_that_was_killed_goes_with_it() {
    needs_systemd!();
    let Scene { service, incident, .. } = &Scene::new();
    let (_, _, pids) = at_work();
    // All of its own processes at once, so that none of them can do anything about the run.
    systemctl(&["kill", "--signal=KILL", &service.name]);
    comes("the end of its run", CATCH, || all_gone(&pids) && units().is_empty());

    systemctl(&["start", &service.name]);
    service.is_ready();
    let (_, _, next) = at_work();
    let run = service.json(&["show", incident, "--json"])["investigations"][0].clone();
    assert_eq!((&run["lives"], &run["state"]), (&2.into(), &"running".into()));
    // In good order it leaves nothing either.
    systemctl(&["stop", &service.name]);
    assert!(all_gone(&next), "of {next:?}");
    comes("the end of its unit", CATCH, || units().is_empty());
}

/// One that does not answer, and one that refuses.
#[test]
fn a_run_begins_without_a_unit_where_systemd_makes_none() {
    needs_systemd!();
    let socket = Path::new("/run/systemd/private");
    let aside = socket.with_extension("aside");
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config(&rogue(place.path()))).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    fs::rename(socket, &aside).unwrap();
    opened(&sensor, running.pid());
    let told = watch.find(CATCH, |record| record["transcript"]["line"] == 1);
    fs::rename(&aside, socket).unwrap();
    let told = told.unwrap().record["transcript"]["text"].as_str().unwrap().to_owned();
    assert!(told.contains("no unit of its own: systemd refused: "), "{told}");
    assert!(told.contains("64 MiB are kept for it"), "{told}");
    watch.kill();
    let (group, name, pids) = at_work();
    assert!(name.starts_with("investigation-"), "{name}");
    fs::write(place.path().join("end"), "").unwrap();
    comes("the end of its group", CATCH, || !group.exists());
    assert!(all_gone(&pids), "of {pids:?}");
}
