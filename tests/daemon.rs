//! A daemon under test: its own directories, its scope one cage, its processes in a group of their
//! own, so that all of them can be found, measured and ended.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cage::{Cage, Limits},
    process,
    run::{Output, run, until, wait},
    target,
    watch::Watch,
};

/// Loading and checking the programs takes 1–2 s here, ten to twenty times that in an emulated machine, and that
/// three times where others work beside it.
const START_LIMIT: Duration = Duration::from_mins(3);

/// An orderly end: the log is written out, the processes are told.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One call of the command line; an act on a large tree is the longest.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Lines of the daemon's log that a failed test shows.
const SHOWN: usize = 60;

/// A running daemon.
#[derive(Debug)]
pub struct Sensor {
    // Dropped in this order: the core first, then whatever it left, then its directories.
    core: Child,
    group: Cage,
    base: TempDir,
    state: PathBuf,
    binary: PathBuf,
}

impl Sensor {
    /// Starts a daemon that looks at this cage only. `more` is configuration beyond directories and
    /// scope: tables, as TOML.
    pub fn start(cage: &Cage, more: &str) -> Result<Self> {
        Self::start_binary(&target::sensor()?, cage, more)
    }

    /// Starts a daemon that looks at the whole machine: for machines that are the test's own.
    pub fn of_the_host(more: &str) -> Result<Self> {
        Self::start_with(&target::sensor()?, None, None, Limits::NONE, more)
    }

    /// The same with this binary, for one cage.
    pub fn start_binary(binary: &Path, cage: &Cage, more: &str) -> Result<Self> {
        Self::start_with(binary, Some(cage), None, Limits::NONE, more)
    }

    /// The same with its log on another disk.
    pub fn start_on(state: &Path, cage: &Cage, more: &str) -> Result<Self> {
        Self::start_with(&target::sensor()?, Some(cage), Some(state), Limits::NONE, more)
    }

    /// The same with limits of its own; others may be put beside it.
    pub fn start_within(limits: Limits, cage: &Cage, more: &str) -> Result<Self> {
        Self::start_with(&target::sensor()?, Some(cage), None, limits, more)
    }

    fn start_with(
        binary: &Path,
        cage: Option<&Cage>,
        state: Option<&Path>,
        limits: Limits,
        more: &str,
    ) -> Result<Self> {
        let binary = binary.to_path_buf();
        let base = tempfile::Builder::new().prefix("sensor-test-").tempdir()?;
        // The socket decides who may talk to it, not the path to it.
        open_to_all(base.path())?;
        let state = state.map_or_else(|| base.path().join("state"), Path::to_path_buf);
        let config = format!(
            "state_dir = \"{state}\"\nruntime_dir = \"{base}/run\"\n\n\
             [scope]\ncgroup = {scope:?}\n\n{more}\n",
            state = state.display(),
            base = base.path().display(),
            scope = cage.map(Cage::path).as_slice(),
        );
        fs::write(base.path().join("sensor.toml"), config)?;
        let group = Cage::new(limits)?;
        let core = launch(&group, &binary, base.path())?;
        let mut sensor = Self { core, group, base, state, binary };
        sensor.wait_until_ready()?;
        Ok(sensor)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let ready = until(START_LIMIT, || {
            ended = self.core.try_wait().ok().flatten();
            // To ask is work, too: for a socket that is not there yet it would only hold up the start.
            ended.is_some()
                || self.socket().exists()
                    && self.call(&["status"]).is_ok_and(|said| said.status.success())
        });
        match ended {
            Some(status) => bail!("the daemon ended: {status}\n{}", self.log_tail()),
            None if ready => Ok(()),
            None => bail!("the daemon did not answer in {START_LIMIT:?}\n{}", self.log_tail()),
        }
    }

    /// Starts a new daemon on the same state, after the core was killed.
    pub fn restart(&mut self) -> Result<()> {
        if self.core.try_wait()?.is_none() {
            bail!("the core still runs: kill or stop it first");
        }
        self.core = launch(&self.group, &self.binary, self.base.path())?;
        self.wait_until_ready()
    }

    /// Pid of the core.
    pub fn pid(&self) -> u32 {
        self.core.id()
    }

    /// The group that it runs in.
    pub fn group(&self) -> &Cage {
        &self.group
    }

    /// All processes of the daemon.
    pub fn processes(&self) -> Vec<u32> {
        self.group.pids()
    }

    /// Those of them that run this hidden verb: guardian, serve or deliver.
    pub fn processes_of(&self, verb: &str) -> Vec<u32> {
        let runs = |pid: &u32| process::argv(*pid).get(1).is_some_and(|word| word == verb);
        self.processes().into_iter().filter(runs).collect()
    }

    /// CPU time that all processes of the daemon have used so far, from their group.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.group.cpu_time()
    }

    pub fn state_directory(&self) -> PathBuf {
        self.state.clone()
    }

    pub fn socket(&self) -> PathBuf {
        self.base.path().join("run/sensor.sock")
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A call of the command line against this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("SENSOR_SOCKET", self.socket());
        command
    }

    /// Runs it to its end.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        run(&mut self.command(arguments), CALL_LIMIT)
    }

    /// What it printed, if it ended well.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        self.call(arguments)?.success().with_context(|| format!("sensor {}", arguments.join(" ")))
    }

    /// What it printed, as JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.output(arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("sensor {} printed {text:?}", arguments.join(" ")))
    }

    pub fn status(&self) -> Result<Value> {
        self.json(&["status", "--json"])
    }

    /// How well a part of it works.
    pub fn part(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let mut parts = status["parts"].as_array().context("a status without parts")?.iter();
        let part = parts.find(|one| one["part"] == name);
        part.cloned().with_context(|| format!("no part {name} in {status}"))
    }

    /// All incidents, newest first.
    pub fn incidents(&self) -> Result<Vec<Value>> {
        match self.json(&["incidents", "--json"])? {
            Value::Array(incidents) => Ok(incidents),
            other => bail!("incidents --json is no array: {other}"),
        }
    }

    pub fn show(&self, id: &str) -> Result<Value> {
        self.json(&["show", id, "--json"])
    }

    /// Waits for an incident that is as wanted.
    pub fn wait_for(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Ok(Vec::new());
        let mut found = None;
        until(limit, || {
            last = self.incidents();
            found = last.as_ref().ok().and_then(|all| all.iter().find(|one| wanted(one)).cloned());
            found.is_some()
        });
        let brief = |one: &Value| {
            format!("{} {} {}: {}", one["id"], one["kind"], one["state"], one["summary"])
        };
        match (found, last) {
            (Some(incident), _) => Ok(incident),
            (None, Err(error)) => Err(error),
            (None, Ok(all)) => {
                let all: Vec<String> = all.iter().map(brief).collect();
                bail!("no such incident in {limit:?}, but {all:#?}")
            }
        }
    }

    /// Records from a sequence number on, as they come.
    pub fn watch(&self, from: u64) -> Result<Watch> {
        Watch::start(self.command(&["watch", "--json", "--from", &from.to_string()]))
    }

    /// Kills the core without warning; guardian and serve are left to themselves.
    pub fn kill_core(&mut self) -> Result<()> {
        self.core.kill()?;
        wait(&mut self.core, STOP_LIMIT)?;
        Ok(())
    }

    /// Ends the daemon in good order.
    pub fn stop(&mut self) -> Result<()> {
        if self.core.try_wait()?.is_none() {
            kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM)?;
        }
        let status = wait(&mut self.core, STOP_LIMIT)?;
        if !status.success() {
            bail!("the daemon ended with {status}\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The end of what the daemon said on standard error.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.base.path().join("stderr.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}\n---", self.log_tail());
        }
        if self.stop().is_err() {
            let _ = self.core.kill();
            let _ = self.core.wait();
        }
        // The group kills what is left, a guardian on its watch among them.
    }
}

fn launch(group: &Cage, binary: &Path, base: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(base.join("stderr.log"))?;
    group
        .command(binary)?
        .arg("run")
        .arg("--config")
        .arg(base.join("sensor.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))
}

/// Readable and enterable by everyone.
pub fn open_to_all(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open {} to all", directory.display()))
}
