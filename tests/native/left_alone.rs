//! Honest work that looks a little like a runaway: no incident, no action. Each run ends with a
//! planted recursion that the same daemon has to catch, so that silence is not sleep.

use std::{io::Write as _, process::Stdio, thread, time::Duration};

use anyhow::Result;
use tests::{
    Cage, Limits, Sensor, Workload, names, needs, run::wait, takes_its_time, workloads::script,
};

use crate::support::{catches_a_planted_recursion, comes};

/// Between two shells: slower than the 10 s for three generations that a containment asks for, and
/// still quick for a person.
const PACE: Duration = Duration::from_millis(3600);

/// An alarm reaches the log in milliseconds; this is a thousand times that.
const SETTLE: Duration = Duration::from_secs(1);

fn nothing_happened(sensor: &Sensor, cage: &Cage) {
    thread::sleep(SETTLE);
    let incidents = sensor.incidents().unwrap();
    assert!(incidents.is_empty(), "incidents about honest work: {incidents:#?}");
    assert_eq!(cage.refused_forks().unwrap(), 0, "the cage was too small for it");
}

fn left_alone(work: Result<Workload>) {
    let work = work.unwrap();
    let cage = Cage::new(Limits::tasks(1000)).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut running = work.start(&cage).unwrap();
    let status = running.wait(Duration::from_mins(3)).unwrap();
    assert!(status.success(), "{:?}: {status}: {}", work.argv, work.output());
    nothing_happened(&sensor, &cage);
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn a_shell_in_a_shell_six_deep() {
    needs!("bash");
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = script::shell().unwrap();
    let mut shell = work.command(&cage).unwrap().stdin(Stdio::piped()).spawn().unwrap();
    let mut keyboard = shell.stdin.take().unwrap();
    for depth in 1..=6 {
        comes("the next shell", Duration::from_secs(5), || cage.count() == depth);
        thread::sleep(PACE);
        if depth < 6 {
            writeln!(keyboard, "bash -i").unwrap();
        }
    }
    // The innermost is alive: it answers.
    let word = names::word();
    writeln!(keyboard, "echo {word}").unwrap();
    comes("an answer", Duration::from_secs(5), || work.output().contains(&word));
    nothing_happened(&sensor, &cage);
    drop(keyboard);
    wait(&mut shell, Duration::from_secs(10)).unwrap();
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn a_wrapper_that_runs_itself_four_times() {
    needs!();
    left_alone(script::wrapper(4));
}

#[test]
fn a_recursive_make_seven_deep() {
    needs!("make");
    left_alone(Workload::labelled("recursive-make"));
}

#[test]
fn loops_of_short_commands() {
    needs!();
    takes_its_time!();
    left_alone(Workload::labelled("shell-loops"));
}

#[test]
fn builds_by_make_with_64_jobs_and_cargo() {
    needs!("make", "cc", "cargo");
    left_alone(Workload::labelled("builds"));
}

#[test]
fn an_npm_ci() {
    needs!("npm", "node");
    left_alone(Workload::labelled("package-installs"));
}
