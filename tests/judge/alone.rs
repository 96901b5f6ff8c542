//! A labelled workload without a sensor: it is what its definition says, and what `pids.max` or the OOM killer
//! alone does about it is the baseline. Beside it `sensor record --lifecycle` writes a trace, which
//! `sensor replay` tells about.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

use super::{AFTER, Alone, Label, Trace, suite::Labelled};
use crate::{
    cage::{Cage, Limits},
    run::{run, until, wait},
    workloads::{Running, Workload},
};

/// Loading its programs takes 1–2 s, ten times that in an emulated machine.
const RECORD_LIMIT: Duration = Duration::from_mins(1);

/// A trace of a few thousand events needs milliseconds.
const REPLAY_LIMIT: Duration = Duration::from_mins(1);

/// The recorder's and the replay's configuration, which says nothing.
const DEFAULTS: &str = "sensor.toml";

/// What still lives when the command has ended is on its way out.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Runs it in a cage of its own. Malign: until 1 s after the cage's first refusal, or until the OOM killer has
/// taken one of it, or as long as its bounds say. The error says what could not be set up, or was not as the definition says.
pub fn alone(labelled: &Labelled, sensor: &Path) -> Result<Alone, String> {
    once(labelled, sensor).map_err(|error| format!("{error:#}"))
}

fn once(labelled: &Labelled, sensor: &Path) -> Result<Alone> {
    let work = Workload::of(labelled)?;
    let cage = Cage::new(labelled.limits())?;
    let recorder = Recorder::start(sensor)?;
    let started = Instant::now();
    let mut running = work.start(&cage)?;
    let seen = match labelled.label {
        Label::Honest => ends_well(labelled, &work, &cage, &mut running)?,
        Label::Malign(_) => meets_its_cage(labelled, &cage, started),
    };
    let took = started.elapsed();
    cage.clear()?;
    let trace = recorder.stop(sensor, &cage)?;
    enough(labelled, &trace, &work)?;
    Ok(Alone { took, peak: trace.peak_live, trace, ..seen })
}

fn ends_well(
    labelled: &Labelled,
    work: &Workload,
    cage: &Cage,
    running: &mut Running,
) -> Result<Alone> {
    let said = || work.last_words();
    let status =
        running.wait(labelled.time_limit()).with_context(|| format!("it said {:?}", said()))?;
    ensure!(status.success(), "it ended with {status}: {}", said());
    ensure!(cage.empties_within(LEAVE_LIMIT), "it left {} processes", cage.count());
    let refused = cage.refused_forks()?;
    ensure!(refused == 0, "its bounds are too narrow for it: {refused} refused forks");
    Ok(Alone { ended_well: true, ..Alone::default() })
}

fn meets_its_cage(labelled: &Labelled, cage: &Cage, started: Instant) -> Alone {
    let mut seen = Alone::default();
    let refused = || cage.refused_forks().is_ok_and(|forks| forks > 0);
    let killed = || cage.oom_kills().is_ok_and(|kills| kills > 0);
    let met = until(labelled.time_limit(), || refused() || killed());
    if met && killed() {
        seen.oom_after = Some(started.elapsed());
    } else if met {
        seen.capped_after = Some(started.elapsed());
        seen.capped_processes = cage.count() as u64;
        seen.capped_bytes = cage.anon_bytes();
        thread::sleep(AFTER);
    }
    seen.running_after = cage.running() as u64;
    seen
}

/// A run that did less than its definition says is none of it.
fn enough(labelled: &Labelled, trace: &Trace, work: &Workload) -> Result<()> {
    let least = &labelled.work;
    for (what, least, done) in
        [("forks", least.forks, trace.forks), ("alive at once", least.live, trace.peak_live)]
    {
        ensure!(
            done >= least,
            "it is not what it says: {done} {what}, at least {least} expected; it said {:?}",
            work.last_words()
        );
    }
    Ok(())
}

/// A running `sensor record`, killed when dropped.
#[derive(Debug)]
struct Recorder {
    // Dropped in this order: the program, whatever it left, its files.
    child: Child,
    _group: Cage,
    /// With the trace, what the recorder said, and an empty configuration: the defaults are judged,
    /// not what this host has configured.
    place: tempfile::TempDir,
}

impl Recorder {
    /// Starts one and waits until it sees every process.
    fn start(sensor: &Path) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("trace-").tempdir()?;
        let group = Cage::new(Limits::NONE)?;
        let log = File::create(place.path().join("stderr.log"))?;
        File::create(place.path().join(DEFAULTS))?;
        let child = group
            .command(sensor)?
            .args(["record", "--lifecycle"])
            .arg(place.path().join("trace"))
            .arg("--config")
            .arg(place.path().join(DEFAULTS))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", sensor.display()))?;
        let mut recorder = Self { child, _group: group, place };
        let mut ended = None;
        let ready = until(RECORD_LIMIT, || {
            ended = recorder.child.try_wait().ok().flatten();
            ended.is_some() || recorder.said().contains("recording")
        });
        match ended {
            Some(status) => bail!("sensor record ended with {status}: {}", recorder.said()),
            None if ready => Ok(recorder),
            None => bail!("sensor record is not ready in {RECORD_LIMIT:?}: {}", recorder.said()),
        }
    }

    /// Ends it in good order, and replays what it wrote about this cage.
    fn stop(mut self, sensor: &Path, cage: &Cage) -> Result<Trace> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        let status =
            wait(&mut self.child, RECORD_LIMIT).with_context(|| "sensor record".to_owned())?;
        ensure!(status.success(), "sensor record ended with {status}: {}", self.said());
        let mut replay = Command::new(sensor);
        replay.arg("replay").arg(self.file()).args(["--json", "--cgroup", &cage.path()]);
        replay.arg("--config").arg(self.place.path().join(DEFAULTS));
        let said = run(&mut replay, REPLAY_LIMIT)?.success().context("sensor replay")?;
        let replayed: Replayed = serde_json::from_str(&said)
            .with_context(|| format!("sensor replay --json printed {said:?}"))?;
        replayed.trace()
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("trace")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.path().join("stderr.log")).unwrap_or_default()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `sensor replay --json` prints, as far as it is judged here.
#[derive(Debug, Deserialize)]
struct Replayed {
    trace: Traced,
    agreement: Agreement,
    incidents: u64,
    containments: u64,
    watched: u64,
}

#[derive(Debug, Deserialize)]
struct Traced {
    seconds: f64,
    forks: u64,
    execs: u64,
    exits: u64,
    peak_live: u64,
    lost: u64,
    complete: bool,
}

#[derive(Debug, Deserialize)]
struct Agreement {
    agree: u64,
    differ: u64,
    storms_agree: u64,
    storms_differ: u64,
    differences: Vec<String>,
}

impl Replayed {
    fn trace(self) -> Result<Trace> {
        let Self { trace, agreement, incidents, containments, watched } = self;
        ensure!(
            trace.complete,
            "the trace is not complete: {} events were lost, and {} forks were not",
            trace.lost,
            trace.forks
        );
        Ok(Trace {
            seconds: trace.seconds,
            forks: trace.forks,
            execs: trace.execs,
            exits: trace.exits,
            peak_live: trace.peak_live,
            lost: trace.lost,
            gates_agree: agreement.agree,
            gates_differ: agreement.differ,
            storms_agree: agreement.storms_agree,
            storms_differ: agreement.storms_differ,
            differences: agreement.differences,
            incidents,
            containments,
            watched,
        })
    }
}
