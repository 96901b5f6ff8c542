//! What several tests ask of a daemon.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, setgid, setgroups, setuid},
};
use serde_json::{Value, json};
use tests::{
    Cage, Sensor, Workload,
    run::until,
    workloads::{Running, script},
};

/// From a workload's start to a contained incident with its explanation: npm needs 2–4 s on two idle
/// cores, an emulated machine ten times that, and several times as much beside others: it may start as
/// few as four processes a second then.
pub const CATCH: Duration = Duration::from_mins(2);

/// From an order to its effect on processes.
pub const EFFECT: Duration = Duration::from_secs(10);

/// Long enough that the slowest recursion would have made a dozen processes.
pub const STILL: Duration = Duration::from_secs(1);

/// Whoever is user `nobody` on every host.
pub const NOBODY: u32 = 65_534;

/// Whether this machine is an emulated one, many times slower than a real one.
pub fn emulated() -> bool {
    std::env::var_os("SENSOR_VM").is_some()
}

/// An emulated processor may start as few as 40 processes a second, where a real one starts thousands:
/// what is an explosion there needs a longer window.
pub fn explosions() -> &'static str {
    if emulated() { "[detect.explosion]\nspan_ms = 60000\n" } else { "" }
}

pub fn id(incident: &Value) -> &str {
    incident["id"].as_str().unwrap()
}

/// Groups of all runs of agents: the sensor's own, and units of systemd.
pub fn runs() -> Vec<PathBuf> {
    let above = ["sensor", "sensor.slice"].map(|name| Path::new("/sys/fs/cgroup").join(name));
    let groups = above.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let paths = groups.map(|group| group.path());
    paths.filter(|path| path.to_string_lossy().contains("investigation-")).collect()
}

/// A contained recursion of this process, with its explanation.
pub fn contained(sensor: &Sensor, pid: u32) -> Value {
    sensor
        .wait_for(CATCH, |one| {
            one["kind"] == "recursion"
                && one["state"] == "contained"
                && one["culprit"]["pid"] == pid
                && !one["diagnosis"].is_null()
        })
        .unwrap()
}

/// Nothing is born and nothing runs in the cage for a while.
pub fn stands_still(cage: &Cage) {
    let before: BTreeSet<u32> = cage.pids().into_iter().collect();
    std::thread::sleep(STILL);
    let after: BTreeSet<u32> = cage.pids().into_iter().collect();
    assert_eq!(before, after, "processes came or went in a tree that should stand still");
    assert_eq!(cage.running(), 0, "of {after:?}");
}

/// `sensor kill`: nothing survives, and the incident is over.
pub fn killed(sensor: &Sensor, cage: &Cage, incident: &Value) {
    sensor.output(&["kill", id(incident), "--yes"]).unwrap();
    assert!(cage.empties_within(EFFECT), "{} processes survive", cage.count());
    resolved(sensor, incident);
}

pub fn resolved(sensor: &Sensor, incident: &Value) {
    sensor
        .wait_for(EFFECT, |one| one["id"] == incident["id"] && one["state"] == "resolved")
        .unwrap();
}

/// Plants a recursion among whatever else is in the cage. 20 processes a second are far slower than
/// any shell loop, and take 0.6 s to the twelve that a containment asks for.
pub fn plant(cage: &Cage) -> (Workload, Running) {
    let work = script::line(20).unwrap();
    let running = work.start(cage).unwrap();
    (work, running)
}

/// The daemon is awake: it catches a planted recursion. The cage is empty before and after.
pub fn catches_a_planted_recursion(sensor: &Sensor, cage: &Cage) {
    let (_work, running) = plant(cage);
    let incident = contained(sensor, running.pid());
    assert_eq!(cage.refused_forks().unwrap(), 0);
    killed(sensor, cage, &incident);
}

/// Everything that the incident's evidence consists of, as JSON objects.
pub fn evidence(sensor: &Sensor, incident: &Value) -> Vec<Value> {
    match sensor.json(&["evidence", id(incident), "--json"]).unwrap() {
        Value::Array(all) => all,
        other => panic!("evidence --json is no array: {other}"),
    }
}

/// The explanation names what the workload is known by, and every evidence that it cites exists.
pub fn explained(sensor: &Sensor, work: &Workload, incident: &Value) {
    let diagnosis = &incident["diagnosis"];
    let said = format!("{} {}", diagnosis["cause"], diagnosis["remedy"]);
    for name in &work.names {
        assert!(said.contains(name.as_str()), "{name:?} is not in {diagnosis:#}");
    }
    let known = evidence(sensor, incident);
    let cited = diagnosis["evidence"].as_array().unwrap();
    assert!(!cited.is_empty(), "a cause without evidence: {diagnosis:#}");
    for one in cited {
        let there = |evidence: &Value| evidence["id"] == *one || evidence["evidence"]["id"] == *one;
        assert!(known.iter().any(there), "{one} is cited, but no evidence of {}", id(incident));
    }
    let text = sensor.output(&["show", id(incident)]).unwrap();
    eprintln!("{text}");
    assert!(text.contains(id(incident)) && !text.contains('\x1b'), "{text}");
}

/// Waits for something that comes by itself.
pub fn comes(what: &str, limit: Duration, so: impl FnMut() -> bool) {
    assert!(until(limit, so), "not within {limit:?}: {what}");
}

/// Bytes in a file that somebody makes longer; 0: it is not there yet.
pub fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

/// The brake's gears, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gear {
    TaskAlloc,
    KernelClone,
    SysEnter,
    Signals,
}

impl Gear {
    pub const ALL: [Self; 4] = [Self::TaskAlloc, Self::KernelClone, Self::SysEnter, Self::Signals];
    pub const PAUSES: [Self; 3] = [Self::TaskAlloc, Self::KernelClone, Self::SysEnter];

    /// A daemon that tries no better gear.
    pub fn start(self, cage: &Cage) -> anyhow::Result<Sensor> {
        let brake = self.words().0;
        Sensor::start(cage, &format!("[kernel]\nbrake = \"{brake}\"\n{}", explosions()))
    }

    /// In the configuration, and in the status.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::TaskAlloc => ("task_alloc", "forks are paused in lsm/task_alloc"),
            Self::KernelClone => ("kernel_clone", "forks are paused in fentry/kernel_clone"),
            Self::SysEnter => ("sys_enter", "forks are paused at the system call"),
            Self::Signals => ("signals", "signals after each fork and exec"),
        }
    }
}

/// The gear that a daemon found to work.
pub fn gear_of(sensor: &Sensor) -> Gear {
    let brake = sensor.part("brake").unwrap();
    Gear::ALL.into_iter().find(|gear| brake["detail"] == gear.words().1).unwrap()
}

/// Wakes everybody in the cage but one, as a stranger might.
pub fn wake_all(cage: &Cage, but: u32) {
    for pid in cage.pids().into_iter().filter(|pid| *pid != but) {
        // Gone meanwhile, or one of the cage itself.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGCONT);
    }
}

/// A process of this user's that does nothing there.
pub fn idler(cage: &Cage, directory: &Path, uid: u32, gid: u32) -> Child {
    idler_with(CloneFlags::empty(), cage, directory, uid, gid)
}

/// The same in namespaces of its own, as in a container.
pub fn idler_with(
    namespaces: CloneFlags,
    cage: &Cage,
    directory: &Path,
    uid: u32,
    gid: u32,
) -> Child {
    let mut command = cage.command("sleep").unwrap();
    command.arg("1000").current_dir(directory);
    let become_them = move || {
        unshare(namespaces)?;
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
        Ok(())
    };
    // SAFETY: between fork and exec, four system calls.
    unsafe { command.pre_exec(become_them) };
    command.spawn().unwrap()
}

/// An incident about a process, opened by hand.
pub fn opened(sensor: &Sensor, pid: u32) -> Value {
    let pid = pid.to_string();
    sensor.json(&["trigger", "--pid", &pid, "--why", "what does it do", "--json"]).unwrap()
}

/// What a client of the MCP server says first.
pub fn hello() -> String {
    let hello = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    });
    format!("{hello}\n{}\n", json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
}

pub fn call(id: usize, tool: &str, arguments: &Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    format!("{call}\n")
}

/// Calls of a tool, one after the other, by hand; the result of each.
pub fn asked(sensor: &Sensor, incident: &str, tool: &str, arguments: &[Value]) -> Vec<Value> {
    let mut server = sensor
        .command(&["mcp", "--incident", incident])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = server.stdin.take().unwrap();
    stdin.write_all(hello().as_bytes()).unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let one = |(id, arguments): (usize, &Value)| {
        stdin.write_all(call(id, tool, arguments).as_bytes()).unwrap();
        let mut answers =
            lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let mut answer = answers.find(|answer| answer["id"] == id).unwrap();
        answer["result"].take()
    };
    let results = (2..).zip(arguments).map(one).collect();
    drop(stdin);
    assert!(server.wait().unwrap().success());
    results
}
