//! The configuration: what the operator may choose, its defaults, and how a file becomes it.
//!
//! Every key has a default and no file is needed. What a file says is checked as a whole before
//! anything starts: an unknown key, a wrong type or an impossible value is an error that names
//! file, line and key. The reasons for the defaults stand in `default.toml`, which
//! `sensor config default` prints.
//!
//! - `defaults`: the values where a file says nothing
//! - `check`: what a value may be
//! - `error`: how a mistake is told of
//! - `investigate`: who looks into an incident, and what that may cost
//! - `limits`: what of it gates and detectors take

mod check;
mod defaults;
mod error;
mod investigate;
mod limits;
pub mod webhook;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::{
    error::ConfigError,
    investigate::{Access, Agent, Bounds, Cli, Command, Day, Investigate, Price, Stage, Usd, When},
    webhook::Webhook,
};
use crate::kernel::Gear;

/// Where the configuration is looked for when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/sensor/sensor.toml";

/// The commented default configuration.
pub const DEFAULT_TEXT: &str = include_str!("default.toml");

/// A configuration is a few KiB; what is larger is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

const NS_PER_MS: u64 = 1_000_000;

const MS_PER_S: u32 = 1000;

/// A count that nothing reaches: chains and repetitions have 16 bits, and no kernel so many processes.
const NEVER: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the log is kept.
    pub state_dir: PathBuf,
    /// Where the socket is.
    pub runtime_dir: PathBuf,
    pub scope: Scope,
    pub kernel: Kernel,
    pub detect: Detect,
    pub vitals: Vitals,
    pub respond: Respond,
    pub evidence: Evidence,
    pub record: Record,
    pub feed: Feed,
    pub investigate: Investigate,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
}

/// Where incidents open and actions reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// cgroup v2 paths as in /proc/PID/cgroup, or directories below the mount; empty: the whole host.
    pub cgroup: Vec<String>,
}

/// The kernel side's size and the urgency of its reader.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Nodes in the lineage table, living processes and dead ancestors: 1,024 to 1,048,576.
    pub max_processes: u32,
    /// Size of the event ring, bytes: a power of two, 64 KiB to 64 MiB.
    pub ring_bytes: u32,
    /// Runs the thread that reacts as `SCHED_FIFO`, with its memory locked.
    pub realtime: bool,
    /// The best gear of the brake that is tried; the first that works is used.
    pub brake: Gear,
}

/// Thresholds of the detectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    pub recursion: Recursion,
    pub recursion_argv: RecursionArgv,
    pub recursion_growth: RecursionGrowth,
    pub fork_bomb: ForkBomb,
    pub explosion: Explosion,
    pub respawn: Respawn,
    pub memory: Memory,
    pub accumulation: Accumulation,
    pub zombies: Zombies,
    pub pressure: Pressure,
}

/// R1: same executable, argv and cwd among the living ancestors. The last two hold for R1b and
/// R1c as well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recursion {
    pub enabled: bool,
    pub watch_repetitions: u32,
    pub contain_repetitions: u32,
    /// With the last three generations within `contain_span_ms`.
    pub open_repetitions: u32,
    /// At any pace.
    pub open_slow_repetitions: u32,
    /// Time that the last three generations may take together, ms.
    pub contain_span_ms: u32,
    /// Living processes that the tree must have.
    pub contain_live: u32,
}

/// R1b: same executable and argv, in ever new directories.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecursionArgv {
    pub enabled: bool,
    pub open_repetitions: u32,
    pub contain_repetitions: u32,
}

/// R1c: same executable, its argv longer from generation to generation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecursionGrowth {
    pub enabled: bool,
    /// Generations of one executable.
    pub repetitions: u32,
    /// Of those, in a row, with a longer argv each.
    pub growing: u32,
}

/// R2: a tree that grows by processes that fork and never execute anything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForkBomb {
    pub enabled: bool,
    /// Forks since the last exec on the way to the newest process.
    pub chain: u32,
    /// Growth of the tree within `span_ms`, processes.
    pub growth: u32,
    pub span_ms: u32,
}

/// R3: a tree that grows and nothing in it ends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Explosion {
    pub enabled: bool,
    /// Growth of the tree within `span_ms`, processes; the larger of this and `growth_per_cpu` for
    /// each CPU counts.
    pub growth: u32,
    pub growth_per_cpu: u32,
    pub span_ms: u32,
    /// Where so many or more in a hundred of those born meanwhile have ended, it is work.
    pub completed_percent: u32,
}

/// R6: a command that the same parent starts again and again, and that fails at once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Respawn {
    pub enabled: bool,
    /// Runs of the command that end within `window_s`.
    pub runs: u32,
    pub window_s: u32,
    /// Such windows in a row.
    pub windows: u32,
    /// What fails before it has run so long, ms, has failed at once.
    pub life_ms: u32,
    /// Of a hundred runs so many fail at once.
    pub failed_percent: u32,
}

/// M1 to M6: memory that grows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    pub enabled: bool,
    /// Growth that is worth a word: the larger of both, the part is of the host's memory.
    pub growth_mib: u32,
    pub growth_percent: u32,
    /// What is never counted as left, of the host's memory or of a limit.
    pub reserve_percent: u32,
    /// Of what host or cgroup grew by.
    pub share_percent: u32,
    /// M1: what is left is used up within this, at once, and for a minute.
    pub fast_s: u32,
    pub soon_s: u32,
    /// M1: of what went meanwhile.
    pub fast_share_percent: u32,
    /// M2, M3, M4: what is left is used up within this.
    pub urgent_h: u32,
    pub medium_h: u32,
    pub slow_h: u32,
    /// M5: growth that is a waste by itself: the larger of both.
    pub bloat_mib: u32,
    pub bloat_percent: u32,
}

/// R4: processes that pile up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accumulation {
    pub enabled: bool,
    /// More processes within 10 samples or s, within 10 min, within 8 h.
    pub in_seconds: u32,
    pub in_minutes: u32,
    pub in_hours: u32,
}

/// R5: children that ended and that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Zombies {
    pub enabled: bool,
    /// So many, and more and more.
    pub count: u32,
    /// So many say enough by themselves.
    pub many: u32,
}

/// Memory gets short, on the host or in a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pressure {
    pub enabled: bool,
    /// Available memory below these parts of all, percent.
    pub watch_percent: u32,
    pub warning_percent: u32,
    pub critical_percent: u32,
    /// Nothing is left within so long at the present pace, s.
    pub warning_s: u32,
    pub critical_s: u32,
}

/// What is looked at in percent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vitals {
    pub thresholds: Thresholds,
}

/// Percentages that open an incident by themselves; 0: none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    pub memory_percent: u32,
    pub disk_percent: u32,
    pub cpu_percent: u32,
    /// A directory on the disk that is meant.
    pub disk: PathBuf,
    /// Between two looks, ms.
    pub polling_interval_ms: u32,
}

/// What is done about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Respond {
    /// Dead-man's timer of a freeze, s.
    pub freeze_s: u32,
    /// How long the brake outlasts the freeze, s.
    pub brake_extra_s: u32,
    pub max_containments_per_minute: u32,
    /// Nothing is stopped by itself; what would be is counted.
    pub dry_run: bool,
    /// Memory that is held, and given back when the host's is exhausted, bytes.
    pub ballast_bytes: u64,
    pub rules: Rules,
    pub protect: Protect,
}

/// What is done about a finding, by the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    #[serde(rename = "R1")]
    pub r1: Mode,
    #[serde(rename = "R1b")]
    pub r1b: Mode,
    #[serde(rename = "R1c")]
    pub r1c: Mode,
    #[serde(rename = "R2")]
    pub r2: Mode,
    #[serde(rename = "R3")]
    pub r3: Mode,
    #[serde(rename = "R4")]
    pub r4: Mode,
    #[serde(rename = "R5")]
    pub r5: Mode,
    /// `Observe` or `Suggest`.
    #[serde(rename = "R6")]
    pub r6: Mode,
    #[serde(rename = "M1")]
    pub m1: Mode,
    #[serde(rename = "M2")]
    pub m2: Mode,
    #[serde(rename = "M3")]
    pub m3: Mode,
    #[serde(rename = "M4")]
    pub m4: Mode,
    #[serde(rename = "M5")]
    pub m5: Mode,
    /// `Observe` or `Suggest`: nobody has it.
    #[serde(rename = "M6")]
    pub m6: Mode,
}

/// How far the sensor may go by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Records the incident.
    Observe,
    /// And says what it would do.
    Suggest,
    /// And waits for a person to do it.
    Approve,
    /// And does it.
    Auto,
}

/// What is never stopped, beyond what is always protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protect {
    /// Absolute paths of executables.
    pub executables: Vec<PathBuf>,
    /// systemd units, e.g. `backup.service`.
    pub units: Vec<String>,
}

/// Bounds of what is gathered about one incident.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// Processes of a tree that are described one by one; the others are counted.
    pub max_processes: u32,
    /// Logs whose lines are evidence; absolute paths without symbolic links.
    pub files: Vec<PathBuf>,
    /// Files that each deploy writes; absolute paths without symbolic links.
    pub deploy_markers: Vec<PathBuf>,
}

/// The black box.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// Size on disk from which old records are removed, bytes.
    pub max_bytes: u64,
}

/// The process that answers clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Feed {
    /// Whom the process runs as; `nobody`, in a group of its own, when there is no such user.
    pub user: String,
    pub tcp: Tcp,
}

/// Clients on other hosts, over mutual TLS only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tcp {
    /// IP address and port; empty: nobody from elsewhere.
    pub listen: String,
    /// PEM files.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
    /// Names in clients' certificates that may read.
    pub readers: Vec<String>,
    /// … and those that may act as well.
    pub operators: Vec<String>,
}

impl Config {
    /// The configuration of `file`; without one that of [`DEFAULT_FILE`], or the defaults where
    /// that is absent.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match read(path) {
            Ok(bytes) => Self::parse(&bytes, path),
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Unreadable { file: path.into(), source }),
        }
    }

    /// The configuration that a file's bytes say, checked; `path` is for the message.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ConfigError> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let line = error::line_of(bytes, error.valid_up_to());
            ConfigError::invalid(path, line, None, "is not UTF-8")
        })?;
        let config: Self =
            toml::from_str(text).map_err(|error| error::of_toml(&error, text, path))?;
        match check::check(&config) {
            Ok(()) => Ok(config),
            Err(problem) => Err(error::of_check(&problem, text, path)),
        }
    }

    /// Where clients find the daemon.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("sensor.sock")
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB, so it is no configuration"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
