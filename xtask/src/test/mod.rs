//! `cargo xtask test`: every check and test that can run here, one table, one line of counts.

mod eval;
mod independence;
pub mod results;
pub mod skips;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;

use self::{
    results::{Case, Counts, Outcome, Suite},
    skips::{Place, SkipList},
};
use crate::{
    cargo::{self, Executable},
    place,
    setup::{self, Need},
    step, vm,
};

/// The crates that are built for the host. The kernel side is built by the sensor's build script.
const CRATES: [&str; 10] =
    ["-p", "sensor-common", "-p", "sensor-proto", "-p", "sensor", "-p", "tests", "-p", "xtask"];
/// A unit test program takes seconds.
const UNIT_LIMIT: Duration = Duration::from_mins(10);
/// End-to-end tests that mostly wait, each for a tree of its own, and take no times: they run beside
/// each other, so many at once.
const PATIENT: [&str; 18] = [
    "acting::",
    "agents::",
    "api::",
    "black_box::",
    "costs::",
    "group::",
    "hostile::",
    "investigation::",
    "killed::",
    "pause::",
    "protected::",
    "remote::",
    "respawn::",
    "resume::",
    "rogue::",
    "trees::",
    "watching::",
    "webhooks::",
];
const PATIENT_AT_ONCE: &str = "--test-threads=3";
/// Those that take no times either, but judge what their common parent starts: one at a time.
const SOLITARY: [&str; 1] = ["agreement::"];
const ONE_AT_A_TIME: &str = "--test-threads=1";
/// All native tests.
const NATIVE_LIMIT: Duration = Duration::from_mins(25);
/// A cold clippy compiles all dependencies.
const LINT_LIMIT: Duration = Duration::from_mins(25);

#[derive(clap::Args)]
pub struct Args {
    /// Run only this part; may be given more than once
    #[arg(long)]
    only: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Format, clippy, the schema's rules, and that the judge is independent of what it judges
    Lint,
    /// The crates' own tests
    Unit,
    /// End to end on this host, as root
    Native,
    /// The quick ones of the labelled workloads, as root
    Eval,
    /// End to end on other kernels
    Vm,
}

pub fn run(args: &Args) -> ExitCode {
    let suites = suites(args).unwrap_or_else(|error| vec![broken("set-up", &error)]);
    report(&suites)
}

fn suites(args: &Args) -> Result<Vec<Suite>> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut needs = vec![Need::Build, Need::Test];
    needs.extend((wanted(Part::Native) && place::is_root()).then_some(Need::Agents));
    needs.extend(wanted(Part::Vm).then_some(Need::Vm));
    setup::ensure(&needs)?;
    let skips = SkipList::load(&place::workspace().join("tests/skips.toml"))?;
    fs::create_dir_all(logs())?;
    if args.only == [Part::Lint] {
        return Ok(vec![lint()?]);
    }
    let built = match Built::all() {
        Ok(built) => built,
        Err(error) => return Ok(vec![broken("build of the tests", &error)]),
    };

    let mut suites = Vec::new();
    // A guest takes one processor for a quarter of an hour: what takes no times runs beside it.
    let guests = thread::scope(|scope| -> Result<Vec<Suite>> {
        let guests = wanted(Part::Vm).then(|| scope.spawn(|| guests(&built, &skips)));
        if wanted(Part::Lint) {
            suites.push(lint()?);
        }
        if wanted(Part::Unit) {
            for program in &built.unit {
                suites.push(unit_suite(program, &skips)?);
            }
            suites.push(documentation(&skips)?);
        }
        if wanted(Part::Native) && place::is_root() {
            suites.push(native_part("patient", &PATIENT, PATIENT_AT_ONCE, &built, &skips)?);
            suites.push(native_part("solitary", &SOLITARY, ONE_AT_A_TIME, &built, &skips)?);
        }
        let guests = guests.map(thread::ScopedJoinHandle::join);
        guests.unwrap_or(Ok(Vec::new())).map_err(|_| anyhow!("the guests' part panicked"))
    })?;
    if wanted(Part::Native) {
        suites.push(native_suite(&built, &skips)?);
    }
    if wanted(Part::Eval) {
        let suite = eval::suite(&built.sensor, &skips);
        suites.push(suite.unwrap_or_else(|error| broken(eval::NAME, &error)));
    }
    suites.extend(guests);
    Ok(suites)
}

fn guests(built: &Built, skips: &SkipList) -> Vec<Suite> {
    step::go_first();
    let suite = |kernel: &str| {
        let suite = vm::suite(kernel, built, skips);
        suite.unwrap_or_else(|error| broken(&format!("vm {kernel}"), &error))
    };
    vm::DEFAULT.into_iter().map(suite).collect()
}

/// The tests of all crates, and the sensor that they test.
pub struct Built {
    pub sensor: PathBuf,
    pub end_to_end: Executable,
    unit: Vec<Executable>,
}

impl Built {
    /// Builds them, all at once: a selection of crates of its own would have others' features, and be
    /// compiled once more.
    pub fn all() -> Result<Self> {
        let mut args = vec!["--no-run"];
        args.extend(CRATES);
        let built = cargo::build("test", &args)?;
        let is_sensor = |it: &&Executable| it.target == "sensor" && it.kind == "bin" && !it.test;
        let sensor = built.iter().find(is_sensor).context("cargo built no sensor")?.path.clone();
        let (mut native, unit): (Vec<_>, Vec<_>) =
            built.into_iter().filter(|program| program.test).partition(is_end_to_end);
        let end_to_end = native.pop().context("cargo built no end-to-end tests")?;
        Ok(Self { sensor, end_to_end, unit })
    }
}

/// The end-to-end tests are integration tests of the crate `tests`.
fn is_end_to_end(program: &Executable) -> bool {
    program.kind == "test" && program.crate_dir == place::workspace().join("tests")
}

/// Where what the tests said is kept.
fn logs() -> PathBuf {
    place::target().join("test")
}

fn lint() -> Result<Suite> {
    let started = Instant::now();
    let mut cases = Vec::new();
    let mut check = |name: &str, command: &mut Command| -> Result<()> {
        let output = step::run(name, command, LINT_LIMIT)?;
        if !output.success() {
            println!("{name}:\n{}{}", output.stdout, output.stderr);
        }
        cases.push(Case {
            name: name.to_owned(),
            outcome: if output.success() { Outcome::Passed } else { Outcome::Failed },
        });
        Ok(())
    };
    check("cargo fmt", cargo::command("fmt").args(["--all", "--check"]))?;
    let mut clippy = cargo::command("clippy");
    clippy.args(CRATES);
    clippy.args(["--quiet", "--all-targets", "--keep-going", "--", "-D", "warnings"]);
    check("cargo clippy", &mut clippy)?;
    let mut buf = Command::new(setup::buf::path());
    check("buf lint", buf.arg("lint").current_dir(place::workspace().join("proto")))?;
    cases.extend(independence::cases());
    Ok(Suite { name: "lint".into(), cases, took: started.elapsed() })
}

fn unit_suite(program: &Executable, skips: &SkipList) -> Result<Suite> {
    let name = match program.kind.as_str() {
        "lib" => format!("unit {}", program.target),
        kind => format!("unit {kind} {}", program.target),
    };
    let mut command = Command::new(&program.path);
    command.current_dir(&program.crate_dir).env("CARGO_MANIFEST_DIR", &program.crate_dir);
    suite(name, command, UNIT_LIMIT, &Place::Unit, skips)
}

fn documentation(skips: &SkipList) -> Result<Suite> {
    let mut command = cargo::command("test");
    command.args(["--doc", "-p", "sensor-common", "-p", "sensor", "-p", "sensor-proto"]);
    suite("documentation".into(), command, UNIT_LIMIT, &Place::Unit, skips)
}

fn end_to_end(built: &Built) -> Command {
    let program = &built.end_to_end;
    let mut command = Command::new(&program.path);
    command
        .current_dir(&program.crate_dir)
        .env("CARGO_MANIFEST_DIR", &program.crate_dir)
        .env("SENSOR_BIN", &built.sensor);
    command
}

/// The native tests with these prefixes.
fn native_part(
    name: &str,
    prefixes: &[&str],
    at_once: &str,
    built: &Built,
    skips: &SkipList,
) -> Result<Suite> {
    let mut command = end_to_end(built);
    command.args(prefixes).arg(at_once);
    suite(format!("native, {name}"), command, NATIVE_LIMIT, &Place::Native, skips)
}

fn native_suite(built: &Built, skips: &SkipList) -> Result<Suite> {
    let (name, mut command) = (built.end_to_end.target.clone(), end_to_end(built));
    if !place::is_root() {
        return unprivileged(name, &mut command, skips);
    }
    // One at a time: each runs a daemon on the one kernel that they share.
    let elsewhere = PATIENT.iter().chain(&SOLITARY);
    command.args(elsewhere.flat_map(|prefix| ["--skip", prefix])).arg(ONE_AT_A_TIME);
    suite(name, command, NATIVE_LIMIT, &Place::Native, skips)
}

/// Without root no end-to-end test can run: each is a skip, so that the counts tell.
fn unprivileged(name: String, command: &mut Command, skips: &SkipList) -> Result<Suite> {
    let output = step::run(&name, command.args(["--list", "--format", "terse"]), UNIT_LIMIT)?;
    let mut cases: Vec<Case> = output
        .stdout
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(|test| Case {
            name: test.to_owned(),
            outcome: Outcome::Skipped("needs root".to_owned()),
        })
        .collect();
    skips.judge(&mut cases, &Place::Unprivileged);
    Ok(Suite { name, cases, took: output.took })
}

/// Runs a test program and judges what it says.
fn suite(
    name: String,
    mut command: Command,
    limit: Duration,
    place: &Place,
    skips: &SkipList,
) -> Result<Suite> {
    let log = logs().join(format!("{}.log", name.replace(", ", "-").replace(' ', "-")));
    let skipped = log.with_extension("skips");
    if let Err(error) = fs::remove_file(&skipped)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", skipped.display()));
    }
    let output = step::run(&name, command.env("SENSOR_SKIP_FILE", &skipped), limit)?;
    fs::write(&log, [&output.stdout, "\n", &output.stderr, "\n"].concat())
        .with_context(|| format!("cannot write {}", log.display()))?;
    let skip_lines = fs::read_to_string(&skipped).unwrap_or_default();
    let mut cases = judged(&output.stdout, &skip_lines, place, skips);
    if output.timed_out {
        cases.push(Case::failed(format!("(stopped after {})", step::seconds(limit))));
    }
    let suite = Suite { name, cases, took: output.took };
    if suite.counts().failed > 0 {
        println!("{}: what it said, all of it in {}:", suite.name, log.display());
        println!("{}", output.tail());
    }
    Ok(suite)
}

/// The cases of a test program that printed `output` and left `skip_lines`.
pub fn judged(output: &str, skip_lines: &str, place: &Place, skips: &SkipList) -> Vec<Case> {
    let mut cases = results::parse(output);
    results::apply_skips(&mut cases, skip_lines);
    skips.judge(&mut cases, place);
    results::explain(&mut cases, output);
    cases
}

/// A suite that could not run.
pub fn broken(name: &str, error: &anyhow::Error) -> Suite {
    println!("{name}: {error:#}");
    Suite { name: name.to_owned(), cases: vec![Case::failed(name)], took: Duration::ZERO }
}

/// Prints what failed and was skipped, the table, and the counts as the last line.
pub fn report(suites: &[Suite]) -> ExitCode {
    for suite in suites {
        for case in &suite.cases {
            match &case.outcome {
                Outcome::Passed => {}
                Outcome::Failed => println!("FAILED   {}: {}", suite.name, case.name),
                Outcome::Skipped(why) => println!("skipped  {}: {}: {why}", suite.name, case.name),
            }
        }
    }
    let mut total = Counts::default();
    println!("\n{:<24} {:>7} {:>7} {:>7}  time", "", "passed", "failed", "skipped");
    for suite in suites {
        let Counts { passed, failed, skipped } = suite.counts();
        let time = step::seconds(suite.took);
        println!("{:<24} {passed:>7} {failed:>7} {skipped:>7}  {time}", suite.name);
        total += suite.counts();
    }
    let Counts { passed, failed, skipped } = total;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
