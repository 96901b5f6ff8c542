//! A labelled workload under a sensor that looks at its cage alone.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{AFTER, Label, Outcome, Seen, SeenIncident, Trial, suite::Labelled};
use crate::{
    cage::Cage,
    daemon::Sensor,
    process::{self, boot_ns},
    watch::{Watch, number},
    workloads::{Running, Workload},
};

/// Between two looks at records and processes.
const LOOK: Duration = Duration::from_millis(20);

/// Runs it in a cage of its own under this binary, which gets `more` as configuration beyond
/// directories and scope. Malign: until an incident about it is contained and explained, or only
/// explained where it is not to be contained; honest: to its end. What could not be set up, or was not what it says, is unresolved.
pub fn watched(labelled: &Labelled, sensor: &Path, more: &str) -> Trial {
    let outcome = match once(labelled, sensor, more) {
        Ok(seen) => Outcome::Seen(seen),
        Err(error) => Outcome::Unresolved(format!("{error:#}")),
    };
    Trial {
        workload: labelled.name.clone(),
        label: labelled.label.clone(),
        split: labelled.split,
        outcome,
    }
}

fn once(labelled: &Labelled, binary: &Path, more: &str) -> Result<Seen> {
    let work = Workload::of(labelled)?;
    let cage = Cage::new(labelled.limits())?;
    let sensor = Sensor::start_binary(binary, &cage, more)?;
    let watch = sensor.watch(0)?;
    let census = cage.census();
    let started_ns = boot_ns();
    let running = work.start(&cage)?;
    let command_start_ns = process::start_ns(running.pid());
    let mut run = Run {
        labelled,
        sensor: &sensor,
        cage: &cage,
        running,
        watch,
        started: Instant::now(),
        contained: None,
        running_after: None,
    };
    let end = run.end()?;
    let took = run.started.elapsed();
    // What happened at the end reaches the log in milliseconds.
    thread::sleep(AFTER);

    let incidents = sensor.incidents()?;
    let refused_forks = cage.refused_forks()?;
    let ended_well = end == End::Well && refused_forks == 0;
    let peak = census.peak() as u64;
    drop(census);
    let (pid, running_after) = (run.running.pid(), run.running_after);
    let records: Vec<Value> = run.watch.kill().into_iter().map(|arrival| arrival.record).collect();
    cage.clear()?;

    if incidents.is_empty() {
        match (&labelled.label, end) {
            (Label::Honest, End::Well) => {}
            (Label::Honest, End::Badly(status)) => {
                bail!("it ended with {status}: {}", work.last_words())
            }
            (Label::Honest, End::No) => {
                bail!("it did not end in {:?}: {}", labelled.time_limit(), work.last_words())
            }
            // A miss, if there was something to be missed.
            (Label::Malign(_), _) => {
                let least = labelled.work.live;
                if refused_forks == 0 && peak < least {
                    bail!(
                        "it is not what it says: {peak} alive at once, at least {least} expected; it said {:?}",
                        work.last_words()
                    );
                }
            }
        }
    }
    let expected = Expected { labelled, work: &work, pid, start_ns: command_start_ns, started_ns };
    let mut incidents = incidents
        .iter()
        .map(|incident| {
            let id = incident["id"].as_str().unwrap_or_default();
            let window = sensor.json(&["show", id, "--markdown", "--json"])?;
            expected.judge(incident, &records, &window)
        })
        .collect::<Result<Vec<_>>>()?;
    incidents.sort_by_key(|incident| incident.opened_after);
    Ok(Seen { took, incidents, refused_forks, running_after, ended_well })
}

/// How the command ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Badly(std::process::ExitStatus),
    /// It runs, or stands.
    No,
}

/// A run that is looked at.
struct Run<'a> {
    labelled: &'a Labelled,
    sensor: &'a Sensor,
    cage: &'a Cage,
    running: Running,
    watch: Watch,
    started: Instant,
    /// When the first containment was read of.
    contained: Option<Instant>,
    /// Members that ran 1 s later.
    running_after: Option<u64>,
}

impl Run<'_> {
    /// Waits until it is over, one way or another.
    fn end(&mut self) -> Result<End> {
        let limit = self.labelled.time_limit();
        loop {
            self.look();
            let end = match self.running.ended()? {
                None => End::No,
                Some(status) if status.success() => End::Well,
                Some(status) => End::Badly(status),
            };
            // Honest work that was stopped does not end by itself, a runaway neither.
            let judged = match self.labelled.label {
                Label::Honest => end != End::No || self.running_after.is_some(),
                Label::Malign(_) => {
                    let enough =
                        self.running_after.is_some() || !self.labelled.is_to_be_contained();
                    end != End::No && self.cage.count() == 0 || enough && self.explained()?
                }
            };
            let counted = self.contained.is_none() || self.running_after.is_some();
            if counted && (judged || self.started.elapsed() >= limit) {
                return Ok(end);
            }
            thread::sleep(LOOK);
        }
    }

    /// Reads the records that have come, and counts what runs 1 s after the first containment.
    fn look(&mut self) {
        while let Some(arrival) = self.watch.next(Duration::ZERO) {
            if self.contained.is_none() && arrival.record["transition"]["to"] == "contained" {
                self.contained = Some(Instant::now());
            }
        }
        if self.running_after.is_none() && self.contained.is_some_and(|at| at.elapsed() >= AFTER) {
            self.running_after = Some(self.cage.running() as u64);
        }
    }

    /// Whether an incident that is over, or as far as it is to come, has its diagnosis.
    fn explained(&self) -> Result<bool> {
        let told = !self.labelled.is_to_be_contained();
        let done = |one: &Value| {
            (told || one["state"] != "open")
                && !one["diagnosis"].is_null()
                && !self.labelled.is_beside(one["kind"].as_str().unwrap_or_default())
        };
        Ok(self.sensor.incidents()?.iter().any(done))
    }
}

/// What an incident is held against.
struct Expected<'a> {
    labelled: &'a Labelled,
    work: &'a Workload,
    /// The process that was started, and when, as /proc says it.
    pid: u32,
    start_ns: Option<u64>,
    /// Boot clock.
    started_ns: u64,
}

impl Expected<'_> {
    fn judge(&self, incident: &Value, records: &[Value], window: &Value) -> Result<SeenIncident> {
        let transition = |to: &str| {
            records.iter().find(|record| {
                record["incident"] == incident["id"] && record["transition"]["to"] == to
            })
        };
        let after = |ns: &Value| -> Result<Duration> {
            Ok(Duration::from_nanos(number(ns)?.saturating_sub(self.started_ns)))
        };
        let contained = transition("contained");
        // Nobody has looked at the tree when an incident opens: its processes are those that the
        // rule counted, its bytes the first that were.
        let states = || {
            let own = records.iter().filter(|record| record["incident"] == incident["id"]);
            own.map(|record| &record["transition"]["incident"]).chain([incident])
        };
        let count = |of: &Value, field: &str| number(&of["tree"][field]).unwrap_or_default();
        let first =
            |field: &str| states().map(|state| count(state, field)).find(|count| *count > 0);
        let measured = states().find_map(|state| {
            let measures = state["finding"]["measures"].as_array()?;
            let processes = measures.iter().find(|measure| measure["name"] == "processes")?;
            Some(processes["value"].as_f64()? as u64)
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&incident["kind"]);
        Ok(SeenIncident {
            kind_right: self.labelled.label == Label::Malign(kind.clone()),
            beside: self.labelled.is_beside(&kind),
            kind,
            rule: text(&incident["finding"]["rule"]),
            summary: text(&incident["summary"]),
            culprit_right: self.is_culprit(&incident["culprit"]),
            facts_missing: self.missing_from(&incident["diagnosis"]),
            window_missing: self.missing_from_window(window),
            opened_after: after(&incident["opened_ns"]).context("an incident's opened_ns")?,
            contained_after: contained
                .map(|record| after(&record["boot_ns"]))
                .transpose()
                .context("a record's boot_ns")?,
            processes: measured.or_else(|| first("processes")).unwrap_or_default(),
            bytes: first("anon_bytes").unwrap_or_default(),
            processes_contained: contained
                .map(|record| count(&record["transition"]["incident"], "processes")),
        })
    }

    fn is_culprit(&self, culprit: &Value) -> bool {
        if self.labelled.label == Label::Honest || culprit.is_null() {
            return false;
        }
        if self.work.culprit.is_empty() {
            let start = number(&culprit["start_ns"]).ok();
            culprit["pid"] == self.pid
                && start
                    .zip(self.start_ns)
                    .is_some_and(|(exact, proc)| process::same_start(exact, proc))
        } else {
            let argv = culprit["argv"].as_array().map(Vec::as_slice).unwrap_or_default();
            argv.ends_with(
                &self.work.culprit.iter().map(|word| word.as_str().into()).collect::<Vec<Value>>(),
            )
        }
    }

    fn missing_from(&self, diagnosis: &Value) -> Vec<String> {
        let said = ["cause", "remedy", "cycle"].map(|part| words(&diagnosis[part])).join(" ");
        let missing = self.work.names.iter().filter(|fact| !said.contains(fact.as_str())).cloned();
        let steps = diagnosis["cycle"]["steps"].as_array().map_or(0, Vec::len);
        let other = self.work.steps.filter(|wanted| *wanted != steps);
        missing
            .chain(other.map(|wanted| format!("a cycle of {wanted} commands, not {steps}")))
            .collect()
    }

    fn missing_from_window(&self, window: &Value) -> Vec<String> {
        let said = words(&window["texts"]);
        let missing = self.work.names.iter().filter(|fact| !said.contains(fact.as_str())).cloned();
        let tokens = window["tokens"].as_u64().unwrap_or(u64::MAX);
        let large = (tokens > WINDOW).then(|| format!("room: it takes {tokens} tokens"));
        missing.chain(large).collect()
    }
}

/// Tokens that an evidence window may take: the sensor's default.
const WINDOW: u64 = 12_000;

/// All texts in it, with a space between.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(words).collect::<Vec<_>>().join(" "),
        Value::Object(all) => all.values().map(words).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}
