//! The brake: what a fork costs that is kept from happening, how many come past the mark, how long it
//! takes until the last process of a tree stands, and that millions of forks leave nothing behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, Workload, process,
    run::until,
    watch::number,
    workloads::{crowd, script},
};

use super::{
    Effort, compile,
    idle::Memory,
    overhead,
    row::Row,
    stats::{Interval, bootstrap, median},
};

/// Of the parent whose forks are refused.
const PARENT_MIB: &str = "512";

/// A stop takes microseconds; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(40);

/// `kernel.brake`, and how the status says it.
const GEARS: [(&str, &str); 4] = [
    ("task_alloc", "forks are paused in lsm/task_alloc"),
    ("kernel_clone", "forks are paused in fentry/kernel_clone"),
    ("sys_enter", "forks are paused at the system call"),
    ("signals", "signals after each fork and exec"),
];

/// Each shape: functions that call themselves, and many children of one parent or of none.
const BOMBS: [&str; 6] = [
    "shell-bomb",
    "python-fork-loop",
    "perl-fork-loop",
    "star-sleeps",
    "star-distinct",
    "star-orphans",
];

/// Processes of the trees that are stopped.
const TREES: [u32; 3] = [10, 100, 1000];

pub fn measure(sensor: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    refusals(sensor, effort, print)?;
    for gear in GEARS {
        past_the_mark(sensor, effort, gear, print)?;
    }
    for count in TREES {
        until_all_stand(sensor, effort, count, print)?;
    }
    many_forks(sensor, effort, print)
}

/// A fork that the brake keeps back, against one that `pids.max` refuses, and against one that happens.
fn refusals(binary: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    let program = compile(("refused", include_str!("refused.c")))?;
    let attempts = effort.attempts;
    let (mut happen, mut refused, mut paused, mut ratio) = (vec![], vec![], vec![], vec![]);
    for _ in 0..effort.pairs {
        let plain = Parent::start(&program, &Cage::new(Limits::default())?, attempts)?.tries(0)?;
        // Itself, and nobody else.
        let full = Cage::new(Limits { tasks: Some(1), memory_bytes: None })?;
        let limit = Parent::start(&program, &full, attempts)?.tries(attempts)?;
        let brake = held(binary, &program, attempts)?;
        happen.push(plain / 1e3);
        refused.push(limit / 1e3);
        paused.push(brake / 1e3);
        ratio.push(brake / limit);
    }
    let name = |what: &str| format!("CPU time of a fork of {PARENT_MIB} MiB that {what}");
    print(Row::new(&name("happens"), bootstrap(&happen, median), "µs", None));
    print(Row::new(&name("pids.max refuses"), bootstrap(&refused, median), "µs", None));
    print(Row::new(&name("the brake pauses"), bootstrap(&paused, median), "µs", None));
    let name = "the brake's pause against pids.max's refusal";
    print(Row::new(name, bootstrap(&ratio, median), "times", None));
    Ok(())
}

/// The program of `refused.c`, which waits for its line.
struct Parent {
    child: Child,
    line: ChildStdin,
    said: BufReader<ChildStdout>,
    attempts: u32,
}

impl Parent {
    fn start(program: &Path, cage: &Cage, attempts: u32) -> Result<Self> {
        let mut command = cage.command(program)?;
        command.args([PARENT_MIB, &attempts.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let line = child.stdin.take().context("no standard input")?;
        let mut said = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut ready = String::new();
        said.read_line(&mut ready)?;
        if ready != "ready\n" {
            bail!("it said {ready:?}");
        }
        Ok(Self { child, line, said, attempts })
    }

    fn go(&mut self) -> Result<()> {
        Ok(self.line.write_all(b"\n")?)
    }

    /// CPU time of one attempt, ns.
    fn tries(mut self, refused: u32) -> Result<f64> {
        self.go()?;
        let mut said = String::new();
        self.said.read_to_string(&mut said)?;
        let numbers: Vec<u64> = said.split_whitespace().flat_map(str::parse).collect();
        match numbers[..] {
            [counted, ns] if counted == u64::from(refused) => {
                Ok(ns as f64 / f64::from(self.attempts))
            }
            _ => bail!("{refused} of {} forks are to be refused: {said:?}", self.attempts),
        }
    }

    /// CPU time until now, ns: the first number of /proc/PID/schedstat.
    fn spent(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        text.split_whitespace().next().context("an empty schedstat")?.parse().map_err(Into::into)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn stands(&self) -> bool {
        process::state(self.child.id()) == Some('T')
    }

    /// Runs into the brake.
    fn wakes(&self) -> Result<()> {
        let before = self.spent()?;
        kill(self.pid(), Signal::SIGCONT)?;
        let again = || self.stands() && self.spent().is_ok_and(|now| now > before);
        if !until(LIMIT, again) {
            bail!("it is not paused");
        }
        Ok(())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of one attempt under the brake, with the stop and the wake-up, ns.
fn held(binary: &Path, program: &Path, attempts: u32) -> Result<f64> {
    let cage = Cage::new(Limits::default())?;
    let sensor = Sensor::start_binary(binary, &cage, "")?;
    // With a neighbour the tree does not have its cgroup to itself, and is stopped by signals.
    let (neighbour, _) = script::ticker()?;
    let _neighbour = neighbour.start(&cage)?;
    let mut parent = Parent::start(program, &cage, attempts)?;
    let pid = parent.child.id().to_string();
    let incident = sensor.json(&["trigger", "--pid", &pid, "--why", "a bench asks", "--json"])?;
    let id = incident["id"].as_str().context("an incident without id")?;
    sensor.output(&["freeze", id, "--yes"])?;
    parent.go()?;
    // The first time it also reads its line.
    parent.wakes()?;
    let before = parent.spent()?;
    for _ in 0..attempts {
        parent.wakes()?;
    }
    Ok((parent.spent()? - before) as f64 / f64::from(attempts))
}

/// Forks of each kind of bomb that had a child although the mark was set.
fn past_the_mark(
    binary: &Path,
    effort: Effort,
    gear: (&str, &str),
    print: &mut dyn FnMut(Row),
) -> Result<()> {
    for bomb in BOMBS {
        if !past_its_mark(binary, effort, gear, bomb, print)? {
            eprintln!("xtask: no rows for the brake's gear {}: this kernel has it not", gear.0);
            break;
        }
    }
    Ok(())
}

/// `false`: the kernel has not this gear.
fn past_its_mark(
    binary: &Path,
    effort: Effort,
    (gear, detail): (&str, &str),
    bomb: &str,
    print: &mut dyn FnMut(Row),
) -> Result<bool> {
    let (mut passed, mut refused) = (Vec::new(), 0);
    for _ in 0..effort.bombs {
        let cage = Cage::new(Limits::default())?;
        let config = format!("[kernel]\nbrake = \"{gear}\"");
        let sensor = Sensor::start_binary(binary, &cage, &config)?;
        if sensor.part("brake")?["detail"] != detail {
            return Ok(false);
        }
        let work = Workload::labelled(bomb)?;
        let _running = work.start(&cage)?;
        let incident = sensor.wait_for(LIMIT, |one| one["state"] == "contained")?;
        passed.push(number(&action(&incident, "brake")?["braked"]["passed"])? as f64);
        refused += cage.refused_forks()?;
    }
    let most = passed.iter().copied().fold(0.0, f64::max);
    let low = passed.iter().copied().fold(f64::MAX, f64::min);
    let seen = Interval { value: most, low, high: most, samples: passed.len() };
    let name = format!("{bomb}, {gear}: forks past the mark, most");
    print(Row::new(&name, seen, "forks", None));
    let name = format!("{bomb}, {gear}: refused by a cap of 400");
    print(Row::counted(&name, refused as f64, "forks", Some(0.0)));
    Ok(true)
}

fn action(incident: &Value, kind: &str) -> Result<Value> {
    let actions = incident["actions"].as_array().context("an incident without actions")?;
    let found = actions.iter().find(|one| one["kind"] == kind).cloned();
    found.with_context(|| format!("no {kind} in {actions:?}"))
}

/// From the crossing to the moment when the last process of a tree stands, in a group of its own, which
/// is frozen, and in one that others share, which is stopped by signals.
fn until_all_stand(
    binary: &Path,
    effort: Effort,
    count: u32,
    print: &mut dyn FnMut(Row),
) -> Result<()> {
    for (how, shared) in [("frozen", false), ("by signals", true)] {
        let mut times = Vec::new();
        for _ in 0..effort.containments {
            let many = crowd::of(count)?;
            let cage = Cage::new(crowd::limits(count))?;
            let sensor =
                Sensor::start_binary(binary, &cage, "[detect.explosion]\nenabled = false")?;
            let neighbour = script::ticker()?.0;
            let _neighbour = if shared { Some(neighbour.start(&cage)?) } else { None };
            let mut watch = sensor.watch(0)?;
            let work = script::line_after(50, &many.argv)?;
            let _running = work.start(&cage)?;
            let contained =
                watch.find(LIMIT, |record| record["transition"]["to"] == "contained")?.record;
            let incident = &contained["transition"]["incident"];
            let crossed = watch.seen().iter().find_map(|arrival| {
                let alarm = &arrival.record["observation"]["alarm"];
                (alarm["level"] == "contain").then(|| number(&alarm["crossed_ns"]))
            });
            let crossed = crossed.context("contained without an alarm")??;
            let stood = number(&action(incident, "freeze")?["ended_ns"])?;
            times.push(stood.saturating_sub(crossed) as f64 / 1e6);
        }
        // The end of the sweep by signals is that nothing new was seen for 50 ms.
        let name = format!("crossing to {count} processes stand, {how}");
        print(Row::new(&name, bootstrap(&times, median), "ms", None));
    }
    Ok(())
}

/// Memory and losses after many forks beside the daemon.
fn many_forks(binary: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    let program = compile(overhead::SPAWN)?;
    let cage = Cage::new(Limits::tasks(100))?;
    let sensor = Sensor::start_binary(binary, &cage, "")?;
    let block = |forks: &mut u64| -> Result<()> {
        *forks += overhead::block(&program, "vfork")?.0;
        Ok(())
    };
    let mut forks = 0;
    // What the first of them need is there from then on.
    while forks < effort.forks / 10 {
        block(&mut forks)?;
    }
    let before = Memory::read(&sensor)?.all();
    while forks < effort.forks {
        block(&mut forks)?;
    }
    let after = Memory::read(&sensor)?.all();
    let name = format!("memory after {forks} forks against after a tenth of them");
    print(Row::counted(&name, after / before, "times", Some(1.05)));
    let losses = sensor.status()?["losses"].clone();
    let losses = losses.as_array().context("a status without losses")?;
    let lost = losses.iter().map(|one| number(&one["count"])).sum::<Result<u64>>()?;
    print(Row::counted("of those forks, losses", lost as f64, "events", Some(0.0)));
    Ok(())
}
