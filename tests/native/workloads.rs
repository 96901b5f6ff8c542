//! The workloads are what they are labelled, without any sensor: a runaway grows until its cage
//! stops it, so that a test that sees it stopped early has seen the sensor; honest work ends well.

use std::{fs, time::Duration};

use tests::{
    Cage, Limits, Workload, needs,
    run::until,
    takes_its_time,
    workloads::{crowd, script},
};

/// More processes than the sensor lets any of them have.
const MANY: usize = 60;

/// npm makes 14 processes a second on an idle machine, and was seen to make 2 on one that was slow and busy.
const RUNAWAY_LIMIT: Duration = Duration::from_mins(1);

fn runs_away(workload: anyhow::Result<Workload>) {
    let workload = workload.unwrap();
    // A recursive npm has five tasks a process.
    let cage = Cage::new(Limits::default()).unwrap();
    let _running = workload.start(&cage).unwrap();
    let grew = until(RUNAWAY_LIMIT, || cage.count() >= MANY);
    assert!(
        grew,
        "{:?} has {} processes after {RUNAWAY_LIMIT:?}: {}",
        workload.argv,
        cage.count(),
        workload.output()
    );
    cage.clear().unwrap();
    assert_eq!(cage.count(), 0);
}

fn ends_well(workload: anyhow::Result<Workload>) {
    let workload = workload.unwrap();
    let cage = Cage::new(Limits::tasks(1000)).unwrap();
    let mut running = workload.start(&cage).unwrap();
    let status = running.wait(Duration::from_mins(2)).unwrap();
    assert!(status.success(), "{:?}: {status}: {}", workload.argv, workload.output());
    assert!(cage.empties_within(Duration::from_secs(5)), "{:?} left something", workload.argv);
    assert_eq!(cage.refused_forks().unwrap(), 0, "{:?} met the cage's limit", workload.argv);
}

#[test]
fn npm_without_a_manifest_runs_away() {
    needs!("npm", "node");
    runs_away(Workload::labelled("npm-missing-manifest"));
}

#[test]
fn npm_two_scripts_run_away() {
    needs!("npm", "node");
    runs_away(Workload::labelled("npm-two-scripts"));
}

#[test]
fn npm_one_script_runs_away() {
    needs!("npm", "node");
    runs_away(Workload::labelled("npm-linear"));
}

#[test]
fn npm_prepare_link_runs_away() {
    needs!("npm", "node");
    runs_away(Workload::labelled("npm-prepare-link"));
}

#[test]
fn make_itself_runs_away() {
    needs!("make");
    runs_away(Workload::labelled("make-itself"));
}

#[test]
fn script_twice_runs_away() {
    needs!();
    runs_away(Workload::labelled("script-twice"));
}

#[test]
fn script_line_runs_away() {
    needs!();
    runs_away(script::line(10));
}

#[test]
fn launcher_runs_away() {
    needs!();
    runs_away(Workload::labelled("growing-launcher"));
}

#[test]
fn git_hook_runs_away() {
    needs!("git");
    runs_away(Workload::labelled("git-hook"));
}

#[test]
fn function_bomb_runs_away() {
    needs!("bash");
    runs_away(script::function_bomb());
}

#[test]
fn wrapper_ends() {
    needs!();
    ends_well(script::wrapper(4));
}

#[test]
fn recursive_make_ends() {
    needs!("make");
    ends_well(Workload::labelled("recursive-make"));
}

#[test]
fn shell_loops_end() {
    needs!();
    takes_its_time!();
    ends_well(Workload::labelled("shell-loops"));
}

#[test]
fn builds_by_make_and_cargo_end() {
    needs!("make", "cc", "cargo");
    ends_well(Workload::labelled("builds"));
}

#[test]
fn npm_ci_ends() {
    needs!("npm", "node");
    ends_well(Workload::labelled("package-installs"));
}

#[test]
fn a_crowd_comes_and_goes_with_its_cage() {
    needs!("cc");
    let count = 2000;
    let work = crowd::of(count).unwrap();
    let cage = Cage::new(crowd::limits(count)).unwrap();
    let _running = crowd::start(&work, &cage).unwrap();
    assert_eq!(cage.count(), count as usize + 1, "its members, and the one that made them");
    let directory = cage.directory().to_path_buf();
    drop(cage);
    assert!(!directory.exists(), "the cage is still there");
}

#[test]
fn a_cage_ends_with_its_owner() {
    needs!();
    let cage = Cage::new(Limits::tasks(30)).unwrap();
    let (work, file) = script::ticker().unwrap();
    let mut running = work.start(&cage).unwrap();
    let ticks = || fs::metadata(&file).map_or(0, |file| file.len());
    assert!(until(Duration::from_secs(5), || ticks() > 3), "{}", work.output());
    // It is killed even where it stands still.
    fs::write(cage.directory().join("cgroup.freeze"), "1").unwrap();
    drop(cage);
    running.wait(Duration::from_secs(5)).unwrap();
    let end = ticks();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(ticks(), end, "it still writes");
}
