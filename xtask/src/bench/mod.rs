//! `cargo xtask bench`: the rows of the budget table that can be measured here, each with its
//! interval and its verdict. It prints what is, also where that misses the budget.

mod agents;
mod black_box;
mod brake;
mod counted;
mod idle;
mod latency;
mod make;
mod overhead;
mod programs;
mod recursion;
mod redaction;
mod sample;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tests::{run, skip, target};

use crate::{
    cargo,
    measure::{machine, row, stats},
    setup,
};
use row::{Row, Verdict};

#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// A few minutes instead of up to an hour: wide intervals, more `unresolved`
    #[arg(long)]
    quick: bool,
    /// Idle cost at 10,000 processes as well
    #[arg(long)]
    full: bool,
    /// Only the groups whose name contains this: overhead, make, latency, recursion, brake,
    /// `black_box`, redaction, agents, idle
    #[arg(long)]
    only: Option<String>,
    /// In a guest of this kernel, whose processor takes a nanosecond for an instruction: alike on every
    /// host, however busy. Only overhead and idle
    #[arg(long, value_name = "KERNEL", num_args = 0..=1, default_missing_value = counted::KERNEL, conflicts_with_all = ["full", "quick"])]
    counted: Option<String>,
    /// This is such a guest
    #[arg(long, hide = true)]
    inside: bool,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The overhead's pairs go on until its interval is narrow, or for so long in all.
    pub overhead: Duration,
    /// Pairs at least.
    pub pairs: usize,
    /// Scripts that cross a gate without being stopped.
    pub crossings: u32,
    /// Recursions that are contained.
    pub containments: u32,
    /// Recursive npm projects.
    pub projects: u32,
    /// Fork bombs that are contained, in each of the brake's gears.
    pub bombs: u32,
    /// Forks in a row of a parent whose forks are refused.
    pub attempts: u32,
    /// Forks beside the daemon, in the hope that they leave nothing behind.
    pub forks: u64,
    /// Logs that are filled and read.
    pub rounds: u32,
    /// Runs of each agent on each kind of host.
    pub agents: u32,
    /// Time to look at an idle daemon.
    pub idle: Duration,
    /// Sizes of the crowd beside an idle daemon.
    pub crowds: &'static [u32],
}

impl Effort {
    fn of(args: &Args) -> Self {
        let effort = match args {
            // Nothing comes by chance there, and to wait takes no time.
            Args { inside: true, .. } => Self {
                overhead: Duration::from_mins(2),
                pairs: 3,
                idle: Duration::from_mins(1),
                ..Self::QUICK
            },
            Args { quick: true, .. } => Self::QUICK,
            _ => Self::WHOLE,
        };
        let crowds: &[u32] = if args.full { &[1000, 10_000] } else { &[1000] };
        Self { crowds, ..effort }
    }

    const QUICK: Self = Self {
        overhead: Duration::from_mins(1),
        pairs: 5,
        crossings: 60,
        containments: 5,
        projects: 2,
        bombs: 3,
        attempts: 50,
        forks: 200_000,
        rounds: 3,
        agents: 3,
        idle: Duration::from_secs(10),
        crowds: &[],
    };

    const WHOLE: Self = Self {
        overhead: Duration::from_mins(20),
        pairs: 20,
        // A p99 needs some hundreds.
        crossings: 400,
        containments: 20,
        projects: 10,
        bombs: 10,
        attempts: 200,
        forks: 2_000_000,
        rounds: 20,
        agents: 10,
        idle: Duration::from_mins(1),
        crowds: &[],
    };
}

type Group = fn(&Path, Effort, &mut dyn FnMut(Row)) -> Result<()>;

const GROUPS: [(&str, Group); 9] = [
    ("overhead", overhead::measure),
    ("make", make::measure),
    ("latency", latency::measure),
    ("recursion", recursion::measure),
    ("brake", brake::measure),
    ("black_box", black_box::measure),
    ("redaction", redaction::measure),
    ("agents", agents::measure),
    ("idle", idle::measure),
];

/// Those that are of use in a guest.
const COUNTED: [&str; 2] = ["overhead", "idle"];

/// The groups that are asked for.
fn asked(args: &Args) -> impl Iterator<Item = (&'static str, Group)> {
    let counted = args.inside || args.counted.is_some();
    GROUPS.into_iter().filter(move |(name, _)| {
        let named = args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
        named && (!counted || COUNTED.contains(name))
    })
}

pub fn run(args: &Args) -> Result<()> {
    if asked(args).next().is_none() {
        let names = GROUPS.map(|(name, _)| name);
        let names = if args.counted.is_some() { &COUNTED[..] } else { &names[..] };
        bail!("--only names no group that can be measured so: choose from {}", names.join(", "));
    }
    if args.inside {
        return measure(args, Path::new(counted::SENSOR));
    }
    if let Some(reason) = skip::reason(&["cc"]) {
        bail!("the bench {reason}");
    }
    setup::ensure(&[setup::Need::Build])?;
    let sensor = cargo::sensor(true)?;
    let machine = machine::Machine::read();
    if args.json {
        println!("{}", serde_json::to_string(&machine)?);
    } else {
        let machine::Machine { processor, cores, kernel, commit, load, .. } = &machine;
        println!("{processor}, {cores} cores, Linux {kernel}, commit {commit}, load {load}");
    }
    match &args.counted {
        Some(kernel) => counted::run(kernel, &sensor, args),
        None => measure(args, &sensor),
    }
}

/// Prints the rows of the groups that are asked for.
fn measure(args: &Args, sensor: &Path) -> Result<()> {
    let mut missed = 0;
    let mut print = |mut row: Row| {
        if args.inside {
            row.name.insert_str(0, "counted: ");
        }
        missed += u32::from(row.ok == Verdict::False);
        if args.json {
            match serde_json::to_string(&row) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("xtask: {}: {error}", row.name),
            }
        } else {
            println!("{row}");
        }
    };
    for (_, group) in asked(args) {
        group(sensor, Effort::of(args), &mut print)?;
    }
    if missed > 0 {
        eprintln!("{missed} budgets are missed");
    }
    Ok(())
}

/// A C program, from its source.
fn compile((name, source): (&str, &str)) -> Result<PathBuf> {
    if let Some(program) = target::ready_made(name) {
        return Ok(program);
    }
    let program = target::kept("bench")?.join(name);
    let file = program.with_extension("c");
    fs::write(&file, source).with_context(|| format!("cannot write {}", file.display()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-static", "-o"]).arg(&program).arg(&file);
    let compiled = run::run(&mut compiler, Duration::from_mins(1))?.success();
    compiled.with_context(|| format!("cannot compile {name}.c"))?;
    Ok(program)
}
