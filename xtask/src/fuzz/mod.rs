//! `cargo xtask fuzz`: libFuzzer over every decoder of foreign bytes (`sensor/src/fuzz/`), several at
//! once, one table.

mod build;
mod stats;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Mutex,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{build::Fuzzer, stats::Stats};
use crate::{
    eval::columns::{Cell, Column, Table, Tone},
    place,
    setup::{self, Need},
    step,
};

/// One input may take this long, s: the slowest honest one, a log that is salvaged, takes 10 s at most.
const SLOWEST: u32 = 25;
/// Memory of one target, MiB: an export may unpack to 256 MiB, and instrumentation doubles that.
const MEMORY: u32 = 2048;
/// How often a line says what is still running.
const STILL: Duration = Duration::from_mins(1);

const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                           every target for ten minutes
  cargo xtask fuzz --minutes 0.5 export log  two of them for half a minute
  cargo xtask fuzz --list                    what there is";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Targets; all if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Targets that run at once; as many as there are cores if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// List the targets and what they decode
    #[arg(long)]
    list: bool,
}

/// A target as the fuzzer lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    /// Longest input, bytes.
    max_len: u32,
    about: String,
}

/// How a target fared.
struct Run {
    target: Target,
    took: Duration,
    stats: Stats,
    /// It ended otherwise than well.
    failed: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.minutes.is_finite() && args.minutes > 0.0, "--minutes must be above 0");
    setup::ensure(&[Need::Build, Need::Fuzz])?;
    let fuzzer = build::build()?;
    let all = fuzzer.targets()?;
    if args.list {
        for target in &all {
            println!("{:16} {}", target.name, target.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = chosen(all, &args.targets)?;
    let jobs = args.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let runs = run_all(&fuzzer, wanted, Duration::from_secs_f64(args.minutes * 60.0), jobs)?;
    print!("{}", table(&runs).text(usize::MAX, false));
    for run in runs.iter().filter(|run| run.failed) {
        println!("\n{}: {}", run.target.name, run.stats.summary);
        println!("  all it said: {}", log(&run.target.name).display());
        if let Some(crash) = &run.stats.artifact {
            let (name, fuzzer) = (&run.target.name, fuzzer.path.display());
            println!("  again: FUZZ_TARGET={name} {fuzzer} {}", crash.display());
        }
    }
    Ok(if runs.iter().any(|run| run.failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn chosen(all: Vec<Target>, names: &[String]) -> Result<Vec<Target>> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|it| it.name != **name)) {
        bail!("there is no target {unknown}: see `cargo xtask fuzz --list`");
    }
    Ok(all.into_iter().filter(|it| names.is_empty() || names.contains(&it.name)).collect())
}

/// What fuzzing leaves: corpora, crashes, logs.
fn home() -> PathBuf {
    place::target().join("fuzz")
}

fn log(name: &str) -> PathBuf {
    home().join("logs").join(format!("{name}.log"))
}

fn run_all(fuzzer: &Fuzzer, targets: Vec<Target>, time: Duration, jobs: usize) -> Result<Vec<Run>> {
    fs::create_dir_all(home().join("logs"))?;
    // Targets that write files write them there: in memory, where there is such a place.
    let scratch = tempfile::Builder::new()
        .prefix("sensor-fuzz-")
        .tempdir_in(if Path::new("/dev/shm").is_dir() {
            "/dev/shm".into()
        } else {
            env::temp_dir()
        })
        .context("cannot make a directory for what the targets write")?;
    let (total, jobs) = (targets.len(), jobs.clamp(1, targets.len().max(1)));
    let expected = step::seconds(time * total.div_ceil(jobs) as u32);
    eprintln!("{total} targets, {} each, {jobs} at once: {expected}", step::seconds(time));
    let started = Instant::now();
    let waiting = Mutex::new(targets.into_iter());
    let (sender, ended) = channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, waiting, scratch) = (sender.clone(), &waiting, scratch.path());
            scope.spawn(move || {
                while let Some(target) = next(waiting) {
                    if sender.send(run_one(fuzzer, target, time, scratch)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut runs = Vec::new();
        loop {
            match ended.recv_timeout(STILL) {
                Ok(run) => {
                    let run: Run = run?;
                    let how = if run.failed { "FAILED" } else { "ok" };
                    eprintln!(
                        "{}: {how} after {}, {} runs ({} of {total})",
                        run.target.name,
                        step::seconds(run.took),
                        run.stats.runs,
                        runs.len() + 1,
                    );
                    runs.push(run);
                }
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("{} of {total} … {}", runs.len(), step::seconds(started.elapsed()));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(runs),
            }
        }
    })
}

fn next(waiting: &Mutex<impl Iterator<Item = Target>>) -> Option<Target> {
    waiting.lock().ok()?.next()
}

fn run_one(fuzzer: &Fuzzer, target: Target, time: Duration, scratch: &Path) -> Result<Run> {
    let (corpus, crashes) = (home().join("corpus"), home().join("crashes"));
    let (corpus, crashes) = (corpus.join(&target.name), crashes.join(&target.name));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&crashes)?;
    fuzzer.write_seeds(&target.name, &corpus)?;
    let said = fs::File::create(log(&target.name))?;
    let started = Instant::now();
    let status = Command::new(&fuzzer.path)
        .env("FUZZ_TARGET", &target.name)
        .env("TMPDIR", scratch)
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-max_len={}", target.max_len))
        .arg(format!("-timeout={SLOWEST}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .status()
        .with_context(|| format!("cannot start {}", fuzzer.path.display()))?;
    let stats = Stats::read(&String::from_utf8_lossy(&fs::read(log(&target.name))?));
    Ok(Run { target, took: started.elapsed(), stats, failed: !status.success() })
}

const COLUMNS: [Column; 7] = [
    Column::left("target"),
    Column::right("s"),
    Column::right("runs"),
    Column::right("coverage"),
    Column::right("new"),
    Column::right("features"),
    Column::left("result"),
];

/// A line a target. Coverage: edges that were reached, and how many of them the corpus did not reach before;
/// features: the same with how often.
fn table(runs: &[Run]) -> Table<'static> {
    let row = |run: &Run| {
        let stats = &run.stats;
        vec![
            run.target.name.as_str().into(),
            run.took.as_secs().to_string().into(),
            stats.runs.to_string().into(),
            stats.coverage.to_string().into(),
            stats.coverage.saturating_sub(stats.before).to_string().into(),
            stats.features.to_string().into(),
            if run.failed {
                Cell::toned(stats.summary.clone(), Tone::Bad)
            } else {
                Cell::toned("ok", Tone::Good)
            },
        ]
    };
    Table { columns: &COLUMNS, rows: runs.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target { name: name.into(), max_len: 1, about: String::new() }
    }

    #[test]
    fn targets_are_chosen_by_name() {
        let all = || vec![target("a"), target("b")];
        assert_eq!(chosen(all(), &[]).unwrap(), all());
        assert_eq!(chosen(all(), &["b".into()]).unwrap(), [target("b")]);
        assert!(chosen(all(), &["c".into()]).unwrap_err().to_string().contains("--list"));
    }
}
