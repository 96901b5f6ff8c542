//! The brake's gears: a fork that is paused is made later, and nobody can tell from what the program
//! does; and what a tree can still do once it is marked, counted.

use std::{
    env,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    Bomb, Cage, Limits, Sensor, Workload, needs, process, skip, takes_its_time, test_name,
    workloads::forking::{self, Forking},
};

use crate::support::{CATCH, Gear, emulated, gear_of, id, stands_still, wake_all};

/// How long each pause is, seconds; more than this is for a patient person.
const PAUSE_S: &str = "SENSOR_PAUSE_S";
/// Pauses of each program.
const PAUSES: u32 = 3;
/// Steps to begin with.
const FEW: u32 = 100;
/// How long a program runs before each of them: long enough to be in its loop, also emulated.
const RUNS: Duration = Duration::from_millis(400);
/// A program that takes longer than this by itself is mostly still there for the third pause: it runs on
/// while a person's order is under way, which takes 1 s in an emulated machine. Long pauses are for
/// somebody who can wait: the machine may be busier when the length is tried than when it counts.
fn long_enough() -> Duration {
    let patient = env::var_os(PAUSE_S).is_some();
    Duration::from_millis(if emulated() || patient { 12_000 } else { 6000 })
}

fn pause() -> Duration {
    Duration::from_secs(env::var(PAUSE_S).ok().and_then(|text| text.parse().ok()).unwrap_or(1))
}

/// Until a program whose last fork is made has ended.
const AT_ITS_END: Duration = Duration::from_secs(5);

/// A whole run, pauses included, emulated.
const RUN_LIMIT: Duration = Duration::from_mins(4);

/// What a program printed.
fn printed(forking: &Forking) -> Vec<String> {
    let output = forking.work.output();
    let mut lines: Vec<String> = output
        .lines()
        // The test harness tells the time, and a shell that a job of its stands.
        .filter(|line| !line.starts_with("test ") && !line.contains("  Stopped  "))
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if !forking.ordered {
        lines.sort_unstable();
    }
    lines
}

fn action<'a>(incident: &'a Value, kind: &str) -> &'a Value {
    let actions = incident["actions"].as_array().unwrap();
    actions.iter().rev().find(|one| one["kind"] == kind).unwrap()
}

/// Runs it alone, then with pauses in the middle of its forks, in the best gear of this kernel: the
/// same.
fn transparent(make: impl Fn(u32) -> Result<Forking>) {
    let Some(gear) = best_that_pauses() else { return };
    goes_on(gear, &mut alone(FEW, &make), &make);
}

/// As many steps as all pauses take: the machine may have been busier when it ran alone.
fn goes_on(gear: Gear, known: &mut Alone, make: impl Fn(u32) -> Result<Forking>) {
    loop {
        let forking = make(known.steps).unwrap();
        let (ended, pauses) = paused(&forking, gear, PAUSES);
        assert!(ended.success(), "{gear:?}: {ended}: {}", forking.work.last_words());
        same(&printed(&forking), &known.printed);
        if pauses == PAUSES {
            return;
        }
        *known = alone(2 * known.steps, &make);
    }
}

/// No step was lost, repeated or done in another order. Says where it begins to differ: a run has
/// thousands of lines.
fn same(paused: &[String], alone: &[String]) {
    assert_eq!(paused.len(), alone.len());
    for (paused, alone) in paused.iter().zip(alone) {
        assert_eq!(paused, alone);
    }
}

/// None, and the test skips, where nothing pauses forks, and where it would take minutes.
fn best_that_pauses() -> Option<Gear> {
    if emulated() {
        skip::note(
            test_name!(),
            "takes minutes in an emulated machine; one shell goes on there in each gear",
        );
        return None;
    }
    let cage = Cage::new(Limits::default()).unwrap();
    let best = gear_of(&Sensor::start(&cage, "").unwrap());
    if best == Gear::Signals {
        skip::note(test_name!(), "nothing pauses forks on this kernel");
        return None;
    }
    Some(best)
}

/// What a program prints by itself.
struct Alone {
    steps: u32,
    printed: Vec<String>,
}

/// With so many steps, or as many more as take long enough.
fn alone(mut steps: u32, make: impl Fn(u32) -> Result<Forking>) -> Alone {
    loop {
        let forking = make(steps).unwrap();
        let cage = Cage::new(Limits::default()).unwrap();
        let began = Instant::now();
        let ended = forking.work.start(&cage).unwrap().wait(RUN_LIMIT).unwrap();
        assert!(ended.success(), "alone: {ended}: {}", forking.work.last_words());
        // On a busy machine it waits for its turn as well; it may be alone on it when it counts.
        let works = cage.cpu_time().unwrap() > long_enough() / 2;
        if works && began.elapsed() > long_enough() {
            return Alone { steps, printed: printed(&forking) };
        }
        steps *= 2;
    }
}

/// Some times: frozen, woken under the brake so that each process runs into its next fork, held
/// there, let go. How it ended, and how many pauses it was there for.
fn paused(forking: &Forking, gear: Gear, times: u32) -> (ExitStatus, u32) {
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = gear.start(&cage).unwrap();
    // With a neighbour the tree does not have its cgroup to itself, and is stopped by signals.
    let mut neighbour = cage.command("sleep").unwrap().arg("600").spawn().unwrap();
    let mut running = forking.work.start(&cage).unwrap();
    let mut pauses = 0;
    while pauses < times {
        thread::sleep(RUNS);
        let culprit = forking.culprit.as_ref().and_then(|argv| first(&cage, argv));
        let culprit = culprit.unwrap_or(running.pid());
        if let Err(error) = pause_once(&sensor, &cage, gear, culprit, neighbour.id()) {
            let ended = running.wait(AT_ITS_END);
            assert!(ended.is_ok(), "{gear:?}, pause {pauses}: {error:#}");
            break;
        }
        pauses += 1;
    }
    let ended = running.wait(RUN_LIMIT).unwrap();
    assert_eq!(cage.refused_forks().unwrap(), 0);
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    (ended, pauses)
}

/// An error also where the program comes to its end meanwhile.
fn pause_once(
    sensor: &Sensor,
    cage: &Cage,
    gear: Gear,
    culprit: u32,
    neighbour: u32,
) -> Result<()> {
    let culprit = culprit.to_string();
    let incident =
        sensor.json(&["trigger", "--pid", &culprit, "--why", "a test asks", "--json"])?;
    sensor.output(&["freeze", id(&incident), "--yes"])?;
    // Each has to come as far as its next fork, also on a machine that is busy with something else.
    for _ in 0..100 {
        wake_all(cage, neighbour);
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(pause());
    sensor.output(&["thaw", id(&incident)])?;
    let shown = sensor.show(id(&incident))?;
    let braked = &action(&shown, "release")["braked"];
    ensure!(braked["paused"].as_u64() > Some(0), "{gear:?} paused nothing: {shown:#}");
    assert_eq!(braked["refused"], 0, "{gear:?}: {shown:#}");
    few_passed(sensor, braked, &shown);
    sensor.output(&["resolve", id(&incident)])?;
    Ok(())
}

/// Who runs these arguments and was not forked by another who does: a shell's subshells have its own.
fn first(cage: &Cage, argv: &[String]) -> Option<u32> {
    let is_it = |pid: u32| process::argv(pid) == argv;
    let is_first = |pid: &u32| is_it(*pid) && !process::parent(*pid).is_some_and(is_it);
    cage.pids().into_iter().find(is_first)
}

/// A fork that is under way when the mark is set comes to its end. That is one for each CPU where the
/// kernel does not interrupt a fork for other work, and one for each process at most where it does. A
/// kernel that skips a program says so.
fn few_passed(sensor: &Sensor, braked: &Value, incident: &Value) {
    let passed = braked["passed"].as_u64().unwrap();
    let processes = action(incident, "brake")["processes"].as_u64().unwrap();
    let losses = sensor.status().unwrap()["losses"].clone();
    let losses = losses.as_array().unwrap();
    let skipped = losses.iter().find(|one| one["reason"] == "recursion_guard");
    let skipped = skipped.map_or(0, |one| one["count"].as_u64().unwrap());
    assert!(
        passed <= processes + skipped,
        "{passed} forks of {processes} processes came past the brake: {incident:#}"
    );
}

#[test]
fn bash_goes_on() {
    needs!("bash");
    transparent(|steps| forking::shell(&["bash"], steps));
}

#[test]
fn dash_goes_on() {
    needs!("dash");
    transparent(|steps| forking::shell(&["dash"], steps));
}

#[test]
fn ash_goes_on() {
    needs!("busybox");
    transparent(|steps| forking::shell(&["busybox", "ash"], steps));
}

#[test]
fn make_goes_on() {
    needs!("make");
    transparent(forking::make);
}

#[test]
fn python_subprocesses_go_on() {
    needs!("python3");
    transparent(forking::python_subprocess);
}

#[test]
fn python_workers_go_on() {
    needs!("python3");
    transparent(forking::python_multiprocessing);
}

#[test]
fn node_goes_on() {
    needs!("node");
    transparent(forking::node);
}

#[test]
fn go_goes_on() {
    needs!("go");
    let compiled = forking::compiled_go().unwrap();
    transparent(|steps| forking::go(&compiled, steps));
}

const STEPS: &str = "SENSOR_TEST_STEPS";

#[test]
fn rust_threads_go_on() {
    needs!();
    transparent(|steps| forking::rust("pause::threads_that_fork", STEPS, steps));
}

/// What [`rust_threads_go_on`] runs.
#[test]
fn threads_that_fork() {
    let Some(steps) = env::var(STEPS).ok().and_then(|text| text.parse::<u32>().ok()) else {
        skip::note(test_name!(), "no test but a process that other tests start");
        return;
    };
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                for step in 0..steps {
                    let said = Command::new("echo").arg(format!("{number} {step}")).output();
                    println!("{}", String::from_utf8_lossy(&said.unwrap().stdout).trim());
                }
            });
        }
    });
}

#[test]
fn a_containers_first_process_goes_on() {
    needs!("unshare");
    transparent(forking::container);
}

#[test]
fn a_traced_shell_goes_on() {
    needs!("strace");
    transparent(forking::traced);
}

#[test]
fn a_job_on_a_terminal_goes_on() {
    needs!("script", "bash");
    transparent(forking::job);
}

/// A timer of the program's own goes on: it runs out when it would have without a pause.
#[test]
fn a_timeout_fires_after_the_pause() {
    needs!("timeout");
    let Some(gear) = best_that_pauses() else { return };
    let forking = forking::timeout(4 + pause().as_secs()).unwrap();
    let (status, pauses) = paused(&forking, gear, 1);
    assert_eq!(status.code(), Some(124), "{gear:?}: {}", forking.work.last_words());
    assert_eq!(pauses, 1, "{gear:?}");
    assert_eq!(printed(&forking), Vec::<String>::new(), "{gear:?}");
}

/// On each kernel, in each gear that works there.
#[test]
fn kernels_a_shell_goes_on_in_each_gear() {
    needs!("dash");
    takes_its_time!();
    let make = |steps| forking::shell(&["dash"], steps);
    let mut known = alone(FEW, make);
    for gear in Gear::PAUSES {
        let cage = Cage::new(Limits::default()).unwrap();
        if gear_of(&gear.start(&cage).unwrap()) == gear {
            goes_on(gear, &mut known, make);
        }
    }
}

/// A function bomb in each gear, and bombs of other shapes in the best: how many forks come past a
/// brake that is on is counted, and with a pause a function bomb never meets its cap.
#[test]
fn kernels_a_bomb_meets_the_brake_in_each_gear() {
    needs!("bash");
    let shapes = ["shell-bomb", "star-sleeps", "star-distinct"];
    let mut best = true;
    for gear in Gear::ALL {
        for shape in &shapes[..if best { shapes.len() } else { 1 }] {
            let cage = Cage::new(Limits::default()).unwrap();
            let sensor = gear.start(&cage).unwrap();
            if gear_of(&sensor) != gear {
                continue;
            }
            let work = Workload::labelled(shape).unwrap();
            let _running = work.start(&cage).unwrap();
            let incident = sensor
                .wait_for(CATCH, |one| one["kind"] == "fork_storm" && one["state"] == "contained")
                .unwrap();
            stands_still(&cage);
            let braked = &action(&incident, "brake")["braked"];
            let bomb = Bomb::of(shape, &sensor, &cage, &incident).unwrap();
            bomb.note().unwrap();
            if gear != Gear::Signals {
                few_passed(&sensor, braked, &incident);
            }
            // An explosion is watched before it is contained, on a busy host until its cap.
            if gear != Gear::Signals && bomb.rule == "R2" {
                assert_eq!(bomb.refused, 0, "{gear:?}, {shape}");
            }
            cage.clear().unwrap();
            best = false;
        }
    }
}
