//! `cargo xtask demo`: the recursive npm project, for real, in a bounded cgroup, under a running
//! sensor that looks at that cgroup alone.

use std::{
    fs,
    io::{IsTerminal as _, stdin, stdout},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    Cage, Limits, Sensor, Watch, Workload, daemon::open_to_all, process::boot_ns, skip,
    watch::number, workloads::Running,
};

use crate::{cargo, setup};

/// Processes of the tree alive when contained: the design's budget.
const ALIVE: u64 = 50;

/// npm needs 2–4 s here to the third repetition; ten times that on a busy machine.
const CONTAIN_LIMIT: Duration = Duration::from_secs(40);

/// The program below counts words.
const INVESTIGATE_LIMIT: Duration = Duration::from_secs(30);

/// From the kill to the last process gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// An investigator for everyone: it gets the evidence as JSON, and each line that it prints is
/// recorded. A coding agent would stand in its place.
const INVESTIGATOR: &str = r#"#!/bin/sh
evidence=$(cat)
echo "I am $(id -un), and got $(printf %s "$evidence" | wc -c) bytes about incident $SENSOR_INCIDENT"
names=$(printf %s "$evidence" | tr '{,}' '\n' | sed -n 's/^ *"comm": *"\([^"]*\)".*/\1/p' | sort | uniq -c | sort -rn)
printf '%s\n' "$names" | while read -r count name; do echo "$count x $name"; done
most=$(printf '%s\n' "$names" | sed -n '1s/^ *//p')
echo "{\"findings\": \"the tree repeats itself: $most lead the list\"}"
"#;

#[derive(clap::Args)]
pub struct Args {
    /// Do it so many times, print a table, and fail if any of them went wrong
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Leave the tree frozen and the sensor running until Enter is pressed, to look around
    #[arg(long)]
    keep: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(reason) = skip::reason(&["npm", "node"]) {
        bail!("the demo {reason} (on Debian: apt-get install nodejs npm)");
    }
    setup::ensure(&[setup::Need::Build])?;
    let sensor = cargo::sensor(true)?;
    if args.runs == 1 {
        let outcome = once(&sensor, Told::All, args.keep)?;
        println!("\n{}\n{}", bold(HEADER), outcome.row(1));
        return outcome.judge();
    }
    println!("{}", bold(HEADER));
    let mut wrong = Vec::new();
    for number in 1..=args.runs {
        let outcome = once(&sensor, Told::Result, args.keep)?;
        println!("{}", outcome.row(number));
        if let Err(error) = outcome.judge() {
            wrong.push(format!("run {number}: {error}"));
        }
    }
    if !wrong.is_empty() {
        bail!("{} of {} runs went wrong\n{}", wrong.len(), args.runs, wrong.join("\n"));
    }
    Ok(())
}

/// How much of a run is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    Result,
}

const HEADER: &str = " RUN  CONTAINED AFTER  ALIVE  CULPRIT  DIAGNOSIS  INVESTIGATED  SURVIVORS";

/// What is asked of a run.
struct Outcome {
    kind: String,
    /// From the start of `npm test` to the record that says contained.
    after: Duration,
    /// Processes of the tree when contained.
    alive: u64,
    /// The first `npm test` is the culprit.
    culprit: bool,
    /// The diagnosis has the six steps, and names the directory without package.json.
    diagnosis: bool,
    /// State of the investigation.
    investigated: String,
    survivors: usize,
}

impl Outcome {
    fn row(&self, number: u32) -> String {
        let right = |so: bool| if so { "right" } else { "WRONG" };
        format!(
            "{number:4}  {:13.2} s  {:5}  {:7}  {:9}  {:12}  {:9}",
            self.after.as_secs_f64(),
            self.alive,
            right(self.culprit),
            right(self.diagnosis),
            self.investigated,
            self.survivors
        )
    }

    fn judge(&self) -> Result<()> {
        if self.kind != "recursion" {
            bail!("its kind is {}, not recursion", self.kind);
        }
        if self.alive > ALIVE {
            bail!("{} processes alive when contained, more than {ALIVE}", self.alive);
        }
        if !(self.culprit && self.diagnosis) {
            bail!("the culprit or the diagnosis is wrong");
        }
        if self.investigated != "done" {
            bail!("the investigation is {}, not done", self.investigated);
        }
        if self.survivors > 0 {
            bail!("{} processes survived the kill", self.survivors);
        }
        Ok(())
    }
}

fn once(binary: &Path, told: Told, keep: bool) -> Result<Outcome> {
    let work = Workload::labelled("npm-missing-manifest")?;
    let cage = Cage::new(Limits::default())?;
    let investigator = investigator()?;
    let more = format!(
        "[investigate]\nagent = \"command\"\n\n[investigate.command]\nprogram = [\"{}\"]\n",
        investigator.path().join("investigate").display()
    );
    let sensor = Sensor::start_binary(binary, &cage, &more)?;
    let mut watch = sensor.watch(0)?;
    let mut shown = None;
    if told == Told::All {
        introduce(&work, &cage)?;
        // For people, as they would call it; stdout is theirs, and so are the colours.
        let mut command = sensor.command(&["watch"]);
        shown = Some(Shown(command.spawn().context("cannot start sensor watch")?));
        println!("\n{}", bold("$ npm test     # and beside it: sensor watch"));
    }

    let started = boot_ns();
    let running = work.start(&cage)?;
    let (contained, id) = wait_for_containment(&mut watch)?;
    watch.find(INVESTIGATE_LIMIT, |record| {
        record["investigation"]["agent"] == "command"
            && record["investigation"]["state"] != "running"
    })?;
    drop(shown);
    if told == Told::All {
        println!("\n{}", bold(&format!("$ sensor show {id}")));
        passed_on(&mut sensor.command(&["show", &id]))?;
    }
    let incident = sensor.show(&id)?;
    if keep {
        wait_for_enter(&sensor, &id)?;
    }
    if told == Told::All {
        println!("\n{}", bold(&format!("$ sensor kill {id} --yes")));
        passed_on(&mut sensor.command(&["kill", &id, "--yes"]))?;
    } else {
        sensor.output(&["kill", &id, "--yes"])?;
    }
    cage.empties_within(GONE_LIMIT);
    outcome(&work, &running, &cage, &contained, &incident, started)
}

fn outcome(
    work: &Workload,
    running: &Running,
    cage: &Cage,
    contained: &Value,
    incident: &Value,
    started: u64,
) -> Result<Outcome> {
    let at = &contained["transition"]["incident"];
    let diagnosis = &incident["diagnosis"];
    let cause = format!("{} {}", diagnosis["cause"], diagnosis["remedy"]);
    let steps = diagnosis["cycle"]["steps"].as_array().map(Vec::len);
    let run = incident["investigations"]
        .as_array()
        .and_then(|runs| runs.iter().find(|run| run["agent"] == "command"))
        .context("no investigation by the command")?;
    Ok(Outcome {
        kind: incident["kind"].as_str().unwrap_or_default().to_owned(),
        after: Duration::from_nanos(number(&contained["boot_ns"])?.saturating_sub(started)),
        alive: number(&at["tree"]["processes"])?,
        culprit: incident["culprit"]["pid"] == running.pid(),
        diagnosis: steps == work.steps && work.names.iter().all(|name| cause.contains(name)),
        investigated: run["state"].as_str().unwrap_or_default().to_owned(),
        survivors: cage.count(),
    })
}

fn wait_for_containment(watch: &mut Watch) -> Result<(Value, String)> {
    let contained = watch
        .find(CONTAIN_LIMIT, |record| record["transition"]["to"] == "contained")
        .context("nothing was contained")?;
    let id = contained.record["incident"].as_str().context("a transition without incident")?;
    Ok((contained.record.clone(), id.to_owned()))
}

/// The investigator's directory; others may run what is in it.
fn investigator() -> Result<TempDir> {
    let place = tempfile::tempdir()?;
    open_to_all(place.path())?;
    let program = place.path().join("investigate");
    fs::write(&program, INVESTIGATOR)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(place)
}

fn introduce(work: &Workload, cage: &Cage) -> Result<()> {
    let manifest = work.cwd.join("package.json");
    println!("{}", bold(&format!("$ cat {}", manifest.display())));
    print!("{}", fs::read_to_string(&manifest)?);
    println!(
        "\n{}/ has no package.json: npm walks up, finds this one, and runs its `test` again.\n\
         It runs in the cgroup {}, which may have 400 tasks and 2 GiB; the sensor looks at nothing else.",
        work.cwd.join(work.names.first().context("a workload without names")?).display(),
        cage.path()
    );
    Ok(())
}

fn wait_for_enter(sensor: &Sensor, id: &str) -> Result<()> {
    println!(
        "\nThe tree stands still and the sensor runs. In another terminal, as root:\n  \
         export SENSOR_SOCKET={}\n  {} show {id}\nEnter ends it.",
        sensor.socket().display(),
        sensor.binary().display()
    );
    stdin().read_line(&mut String::new()).context("cannot read from the terminal")?;
    Ok(())
}

/// Runs it with our terminal as its own.
fn passed_on(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start sensor")?;
    if !status.success() {
        bail!("sensor: {status}");
    }
    Ok(())
}

fn bold(text: &str) -> String {
    if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// A client whose output is shown while it lives.
struct Shown(std::process::Child);

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
