//! `cargo xtask eval`: labelled workloads, honest and malign, run for real, and what the sensor made
//! of them: what it found, how soon, whom it blamed, and whom it wrongly stopped.

mod check;
pub mod columns;
#[cfg(test)]
mod fixture;
mod judged;
mod page;
mod plot;
pub mod quick;
mod rounds;
mod score;
mod series;
mod table;
mod traces;

use std::{
    fs,
    io::{IsTerminal as _, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::tests::{
    judge::{
        Split,
        suite::{self, Labelled},
    },
    skip,
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use self::{
    check::Fault,
    columns::{Tone, paint},
    judged::Evaluation,
};
use crate::{
    cargo,
    measure::{machine::Machine, row::Row},
    place, setup,
};

/// Runs of each workload: with 8 malign ones 32, all of which have to be right for a lower bound
/// above 0.9.
const RUNS: u32 = 4;

/// Columns of the tables on stdout: what a terminal has at least.
const COLUMNS: usize = 100;

#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line: the machine, then the rows
    #[arg(long)]
    json: bool,
    /// Exit with 1 if anything was missed, wrong, unresolved, or off its target
    #[arg(long)]
    check: bool,
    /// A few of the workloads, once each: minutes
    #[arg(long, conflicts_with = "runs")]
    quick: bool,
    /// Only workloads whose name contains this; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only those that rules may be tuned on, or only the others
    #[arg(long)]
    split: Option<SplitArg>,
    /// Runs of each workload under the sensor
    #[arg(long, default_value_t = RUNS, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Write docs/evaluation.md and its picture from this run, which has to be of all workloads
    #[arg(long, conflicts_with_all = ["quick", "only", "split"])]
    page: bool,
    /// No workloads: series of memory, recorded elsewhere, through the detectors of growth. Of each directory below this
    /// one all `*.csv` with lines of `seconds,part that is used` (0 to 1). Writes the tables in docs/growth.md
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["json", "quick", "only", "split", "runs", "page"])]
    series: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SplitArg {
    Tune,
    HeldOut,
}

impl SplitArg {
    fn split(self) -> Split {
        match self {
            Self::Tune => Split::Tune,
            Self::HeldOut => Split::HeldOut,
        }
    }
}

impl Args {
    fn takes(&self, workload: &Labelled) -> bool {
        let named = self.only.is_empty()
            || self.only.iter().any(|part| workload.name.contains(part.as_str()));
        named
            && (!self.quick || workload.quick)
            && self.split.is_none_or(|split| split.split() == workload.split)
    }

    /// Everything is run, often enough.
    fn is_full(&self) -> bool {
        !self.quick && self.only.is_empty() && self.split.is_none() && self.runs >= RUNS
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(directory) = &args.series {
        setup::ensure(&[setup::Need::Build])?;
        return series::run(directory, args.check);
    }
    ensure!(
        !args.page || args.is_full(),
        "--page publishes what --runs {RUNS} or more have shown, not {}",
        args.runs
    );
    if !place::is_root() {
        bail!(
            "the eval needs root: it loads programs into the kernel and runs each workload in a cgroup of its \
             own. Run `cargo xtask eval` as root, for instance in `sudo -s`"
        );
    }
    let all = suite::load()?;
    let names: Vec<String> = all.iter().map(|it| it.name.clone()).collect();
    let selected: Vec<Labelled> = all.into_iter().filter(|it| args.takes(it)).collect();
    ensure!(!selected.is_empty(), "none of the workloads is selected: {}", names.join(", "));
    setup::ensure(&[setup::Need::Build])?;
    provide(&selected)?;
    let sensor = cargo::sensor(true)?;
    let machine = Machine::read();
    let runs = if args.quick { 1 } else { args.runs };
    let evaluation = evaluate(&selected, runs, &sensor, args.is_full())?;
    let rows = score::rows(&evaluation);
    let faults = check::faults(&evaluation, &rows);
    if args.json {
        println!("{}", json(&machine, &rows)?);
    } else {
        show(&evaluation, &rows, &machine);
    }
    tell(&faults);
    if args.page {
        write_page(&evaluation, &rows, &faults, &machine, runs)?;
    }
    Ok(if args.check && !faults.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The workloads, and the long traces and series where nothing is left out.
fn evaluate(
    selected: &[Labelled],
    runs: u32,
    sensor: &Path,
    with_traces: bool,
) -> Result<Evaluation> {
    let (mut traces, mut observed, mut series) = (Vec::new(), Vec::new(), None);
    if with_traces {
        traces = traces::replay_all(sensor)?;
        observed = traces::judge_observed(sensor)?;
        series = Some(series::made().map_err(|error| format!("{error:#}")));
    }
    Ok(Evaluation { workloads: rounds::run(selected, runs, sensor), traces, observed, series })
}

/// Installs what the workloads need and this machine lacks.
fn provide(selected: &[Labelled]) -> Result<()> {
    let lacks = |workload: &&Labelled| workload.needs.iter().any(|it| skip::find(it).is_none());
    let packages = selected.iter().filter(lacks).flat_map(|it| &it.packages);
    setup::packages(packages, "a workload needs it")?;
    for workload in selected {
        if let Some(program) = workload.needs.iter().find(|it| skip::find(it).is_none()) {
            bail!(
                "{} needs {program}, which is not in PATH and in none of the packages {:?}: install it, \
                 or leave the workload out with --only",
                workload.name,
                workload.packages
            );
        }
    }
    Ok(())
}

fn json(machine: &Machine, rows: &[Row]) -> Result<String> {
    let mut lines = vec![serde_json::to_string(machine)?];
    for row in rows {
        lines.push(serde_json::to_string(row)?);
    }
    Ok(lines.join("\n"))
}

fn show(evaluation: &Evaluation, rows: &[Row], machine: &Machine) {
    let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let Machine { processor, cores, kernel, commit, load, .. } = machine;
    println!("{processor}, {cores} cores, Linux {kernel}, commit {commit}, load {load}\n");
    println!("{}", table::workloads(&evaluation.workloads).text(COLUMNS, colour));
    println!("{}\n", paint(table::LEGEND, Tone::Plain, colour));
    println!("{}", table::totals(rows).text(COLUMNS, colour));
}

/// On stderr, like progress: stdout may be read by a program.
fn tell(faults: &[Fault]) {
    if faults.is_empty() {
        eprintln!("nothing went wrong");
        return;
    }
    eprintln!("what went wrong:");
    for fault in faults {
        eprintln!("  {fault}");
    }
}

fn write_page(
    evaluation: &Evaluation,
    rows: &[Row],
    faults: &[Fault],
    machine: &Machine,
    runs: u32,
) -> Result<()> {
    let docs = place::workspace().join("docs");
    let page = page::markdown(evaluation, rows, faults, machine, runs);
    for (name, text) in
        [("evaluation.md", page), ("evaluation.svg", plot::svg(&evaluation.workloads)?)]
    {
        let file = docs.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("written: {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(words: &[&str]) -> Result<Args, clap::Error> {
        Command::try_parse_from([&["eval"], words].concat()).map(|command| command.args)
    }

    #[test]
    fn a_page_is_of_a_full_run() {
        assert!(parsed(&["--page"]).unwrap().is_full());
        assert!(parsed(&["--page", "--runs", "9"]).unwrap().is_full());
        for part in [["--only", "npm"].as_slice(), &["--split", "held-out"], &["--quick"]] {
            assert!(parsed(&[&["--page"], part].concat()).is_err(), "{part:?}");
            assert!(!parsed(part).unwrap().is_full(), "{part:?}");
        }
        let few = parsed(&["--page", "--runs", "3"]).unwrap();
        assert!(!few.is_full());
        assert!(run(&few).unwrap_err().to_string().contains("--runs 4"));
        assert!(parsed(&["--runs", "0"]).is_err());
    }

    #[test]
    fn the_same_run_makes_the_same_lines_and_each_has_all_fields() {
        let machine = Machine::read();
        let lines = || {
            let rows = score::rows(&fixture::evaluation());
            json(&machine, &rows).unwrap()
        };
        assert_eq!(lines(), lines());
        for (at, line) in lines().lines().enumerate() {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields: &[&str] = if at == 0 {
                &["processor", "cores", "memory_bytes", "kernel", "commit", "at_unix", "load"]
            } else {
                &["name", "value", "unit", "low", "high", "target", "side", "ok", "samples"]
            };
            for field in fields {
                assert!(object.get(field).is_some(), "{field} is not in {line}");
            }
            if at > 0 {
                assert!(object["value"].is_number(), "{line}");
            }
        }
    }
}
