//! The configuration: what the operator may choose, its defaults, and how a file becomes it.
//!
//! Every key has a default and no file is needed. What a file says is checked as a whole before
//! anything starts: an unknown key, a wrong type or an impossible value is an error that names
//! file, line and key. The reasons for the defaults stand in `default.toml`, which
//! `sensor config default` prints.

mod check;
mod error;
pub mod webhook;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use sensor_common::{recursion::Limits, respawn, storm};
use serde::{Deserialize, Serialize};

pub use self::{error::ConfigError, webhook::Webhook};
use crate::{
    detect::{memory, pressure, usage},
    kernel::Gear,
};

/// Where the configuration is looked for when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/sensor/sensor.toml";

/// The commented default configuration.
pub const DEFAULT_TEXT: &str = include_str!("default.toml");

/// A configuration is a few KiB; what is larger is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

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
    /// Whom the process runs as; `nobody` when there is no such user.
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

/// Who looks into an incident.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Investigate {
    pub agent: Agent,
    pub max_per_hour: u32,
    pub window_tokens: u32,
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// Nobody.
    None,
    /// The playbook of this program: no model, no network.
    Builtin,
    /// The program of `[investigate.command]`.
    Command,
}

/// A program of the operator's that investigates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Command {
    /// Absolute path and arguments.
    pub program: Vec<String>,
    pub user: String,
    pub deadline_s: u32,
    pub memory_max_bytes: u64,
    pub pids_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/sensor".into(),
            runtime_dir: "/run/sensor".into(),
            scope: Scope::default(),
            kernel: Kernel::default(),
            detect: Detect::default(),
            vitals: Vitals::default(),
            respond: Respond::default(),
            evidence: Evidence::default(),
            record: Record::default(),
            feed: Feed::default(),
            investigate: Investigate::default(),
            webhooks: Vec::new(),
        }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            max_processes: 32_768,
            ring_bytes: MIB as u32,
            realtime: true,
            brake: Gear::TaskAlloc,
        }
    }
}

impl Default for Recursion {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            watch_repetitions: limits.watch,
            contain_repetitions: limits.contain,
            open_repetitions: limits.open,
            open_slow_repetitions: limits.open_slow,
            contain_span_ms: (limits.contain_span_ns / NS_PER_MS) as u32,
            contain_live: limits.contain_live,
        }
    }
}

impl Default for RecursionArgv {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            open_repetitions: limits.loose_open,
            contain_repetitions: limits.loose_contain,
        }
    }
}

impl Default for RecursionGrowth {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            repetitions: limits.growth_repetitions,
            growing: limits.growth_growing,
        }
    }
}

impl Default for ForkBomb {
    fn default() -> Self {
        let limits = storm::Limits::default();
        Self {
            enabled: true,
            chain: limits.chain,
            growth: limits.chain_growth,
            span_ms: limits.chain_ms,
        }
    }
}

impl Default for Explosion {
    fn default() -> Self {
        let limits = storm::Limits::default();
        Self {
            enabled: true,
            growth: limits.growth,
            growth_per_cpu: storm::Limits::GROWTH_PER_CPU,
            span_ms: limits.growth_ms,
            completed_percent: limits.completed_percent,
        }
    }
}

impl Default for Respawn {
    fn default() -> Self {
        let limits = respawn::Limits::default();
        Self {
            enabled: true,
            runs: limits.runs,
            window_s: limits.window_ms / MS_PER_S,
            windows: limits.windows,
            life_ms: limits.life_ms,
            failed_percent: limits.failed_percent,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            enabled: true,
            growth_mib: 256,
            growth_percent: 6,
            reserve_percent: 5,
            share_percent: 50,
            fast_s: 60,
            soon_s: 600,
            fast_share_percent: 25,
            urgent_h: 2,
            medium_h: 24,
            slow_h: 168,
            bloat_mib: 2048,
            bloat_percent: 10,
        }
    }
}

impl Default for Pressure {
    fn default() -> Self {
        let limits = pressure::Limits::default();
        Self {
            enabled: true,
            watch_percent: limits.watch_percent as u32,
            warning_percent: limits.warning_percent as u32,
            critical_percent: limits.critical_percent as u32,
            warning_s: limits.warning_s as u32,
            critical_s: limits.critical_s as u32,
        }
    }
}

impl Default for Accumulation {
    fn default() -> Self {
        Self { enabled: true, in_seconds: 32, in_minutes: 16, in_hours: 8 }
    }
}

impl Default for Zombies {
    fn default() -> Self {
        Self { enabled: true, count: 64, many: 3277 }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory_percent: 0,
            disk_percent: 0,
            cpu_percent: 0,
            disk: "/".into(),
            polling_interval_ms: 10_000,
        }
    }
}

impl Default for Respond {
    fn default() -> Self {
        Self {
            freeze_s: 600,
            brake_extra_s: 60,
            max_containments_per_minute: 10,
            dry_run: false,
            ballast_bytes: 2 * MIB,
            rules: Rules::default(),
            protect: Protect::default(),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            r1: Mode::Auto,
            r1b: Mode::Auto,
            r1c: Mode::Auto,
            r2: Mode::Auto,
            r3: Mode::Auto,
            r4: Mode::Suggest,
            r5: Mode::Suggest,
            r6: Mode::Suggest,
            m1: Mode::Suggest,
            m2: Mode::Suggest,
            m3: Mode::Suggest,
            m4: Mode::Suggest,
            m5: Mode::Suggest,
            m6: Mode::Suggest,
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self { max_processes: 512, files: Vec::new(), deploy_markers: Vec::new() }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { max_bytes: 1024 * MIB }
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self { user: "sensor".into(), tcp: Tcp::default() }
    }
}

impl Default for Tcp {
    fn default() -> Self {
        let file = |name: &str| Path::new("/etc/sensor/tls").join(name);
        Self {
            listen: String::new(),
            certificate: file("server.pem"),
            key: file("server.key"),
            client_ca: file("ca.pem"),
            readers: Vec::new(),
            operators: Vec::new(),
        }
    }
}

impl Default for Investigate {
    fn default() -> Self {
        Self {
            agent: Agent::Builtin,
            max_per_hour: 12,
            window_tokens: 12_000,
            command: Command::default(),
        }
    }
}

impl Default for Command {
    fn default() -> Self {
        Self {
            program: Vec::new(),
            user: "nobody".into(),
            deadline_s: 300,
            memory_max_bytes: 1024 * MIB,
            pids_max: 128,
        }
    }
}

const NS_PER_MS: u64 = 1_000_000;

const MS_PER_S: u32 = 1000;

/// A count that nothing reaches: chains and repetitions have 16 bits, and no kernel so many processes.
const NEVER: u32 = u32::MAX;

impl Detect {
    /// The thresholds as the gates in the kernel take them.
    pub fn limits(&self) -> Limits {
        let or_never = |enabled: bool, count: u32| if enabled { count } else { NEVER };
        let (strict, argv, growth) =
            (&self.recursion, &self.recursion_argv, &self.recursion_growth);
        Limits {
            watch: or_never(strict.enabled, strict.watch_repetitions),
            contain: or_never(strict.enabled, strict.contain_repetitions),
            open: or_never(strict.enabled, strict.open_repetitions),
            open_slow: or_never(strict.enabled, strict.open_slow_repetitions),
            loose_open: or_never(argv.enabled, argv.open_repetitions),
            loose_contain: or_never(argv.enabled, argv.contain_repetitions),
            growth_repetitions: or_never(growth.enabled, growth.repetitions),
            growth_growing: or_never(growth.enabled, growth.growing),
            contain_live: strict.contain_live,
            zero: 0,
            contain_span_ns: u64::from(strict.contain_span_ms) * NS_PER_MS,
        }
    }

    /// The same for the storm gates, on a host with so many CPUs.
    pub fn storms(&self, cpus: u32) -> storm::Limits {
        let (bomb, explosion) = (&self.fork_bomb, &self.explosion);
        let growth = explosion.growth.max(explosion.growth_per_cpu.saturating_mul(cpus));
        storm::Limits {
            chain: if bomb.enabled { bomb.chain } else { NEVER },
            chain_growth: bomb.growth,
            chain_ms: bomb.span_ms,
            growth: if explosion.enabled { growth } else { NEVER },
            growth_ms: explosion.span_ms,
            completed_percent: explosion.completed_percent,
        }
    }

    /// The same for the respawn gate.
    pub fn respawns(&self) -> respawn::Limits {
        let respawn = &self.respawn;
        respawn::Limits {
            runs: if respawn.enabled { respawn.runs } else { respawn::Limits::NEVER },
            window_ms: respawn.window_s.saturating_mul(MS_PER_S),
            windows: respawn.windows,
            life_ms: respawn.life_ms,
            failed_percent: respawn.failed_percent,
        }
    }

    /// The same for the detectors of memory.
    pub fn memory(&self) -> memory::Limits {
        let hours = |hours: u32| u64::from(hours) * 3600;
        let Memory { enabled, growth_mib, growth_percent, reserve_percent, .. } = self.memory;
        let Memory { share_percent, fast_s, soon_s, fast_share_percent, .. } = self.memory;
        let Memory { urgent_h, medium_h, slow_h, bloat_mib, bloat_percent, .. } = self.memory;
        let Accumulation { enabled: accumulation, in_seconds, in_minutes, in_hours } =
            self.accumulation;
        memory::Limits {
            growth: enabled,
            growth_mib,
            growth_percent,
            reserve_percent,
            share_percent,
            fast_s,
            soon_s,
            fast_share_percent,
            urgent_s: hours(urgent_h),
            medium_s: hours(medium_h),
            slow_s: hours(slow_h),
            bloat_mib,
            bloat_percent,
            accumulation,
            second_workers: in_seconds,
            minute_workers: in_minutes,
            slow_workers: in_hours,
            unreaped: self.zombies.enabled,
            zombies: self.zombies.count,
            many_zombies: self.zombies.many,
        }
    }
}

impl Detect {
    /// The same for pressure on memory; `None`: nobody watches for it.
    pub fn pressure(&self) -> Option<pressure::Limits> {
        let pressure = &self.pressure;
        pressure.enabled.then(|| pressure::Limits {
            watch_percent: pressure.watch_percent.into(),
            warning_percent: pressure.warning_percent.into(),
            critical_percent: pressure.critical_percent.into(),
            warning_s: pressure.warning_s.into(),
            critical_s: pressure.critical_s.into(),
        })
    }
}

impl Thresholds {
    /// As the detector takes them.
    pub fn limits(&self) -> usage::Thresholds {
        let or_none = |percent: u32| Some(percent).filter(|percent| *percent > 0);
        usage::Thresholds {
            memory: or_none(self.memory_percent),
            disk: or_none(self.disk_percent),
            cpu: or_none(self.cpu_percent),
        }
    }
}

impl Rules {
    /// The mode of a rule by its name in findings; what no key governs is only suggested.
    pub fn mode(&self, rule: &str) -> Mode {
        match rule {
            "R1" => self.r1,
            "R1b" => self.r1b,
            "R1c" => self.r1c,
            "R2" => self.r2,
            "R3" => self.r3,
            "R4" => self.r4,
            "R5" => self.r5,
            "R6" => self.r6,
            "M1" => self.m1,
            "M2" => self.m2,
            "M3" => self.m3,
            "M4" => self.m4,
            "M5" => self.m5,
            "M6" => self.m6,
            _ => Mode::Suggest,
        }
    }
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
