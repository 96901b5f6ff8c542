//! A bounded place to run workloads in: a cgroup with limits, whose members are killed and which is
//! removed when its owner is gone, even if the owner was killed.
//!
//! The group is a v2 one, because the sensor's scope names such. Its limits are v2 controllers where
//! the machine has them there, and v1 groups of the same name otherwise. A cage that cannot hold its
//! limits is not made: what runs in it may be a fork bomb.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    names, process,
    run::{until, wait},
};

/// Kills what is in the groups and removes them once its standard input ends.
///
/// $1: the v2 group. $2: the file that limits its processes, or nothing. Others: v1 groups.
/// `cgroup.kill` is there since 5.14; without it, no forks (0 processes) make a kill loop safe.
const KEEPER: &str = r#"
read -r end
v2=$1 limit=$2
shift 2
members() { find "$v2" -name cgroup.procs -exec cat {} + 2>/dev/null; }
[ -z "$limit" ] || echo 0 >"$limit"
tries=0
while [ -n "$(members)" ] && [ $tries -lt 300 ]; do
    echo 0 2>/dev/null >"$v2/cgroup.freeze"
    if [ -e "$v2/cgroup.kill" ]; then
        echo 1 >"$v2/cgroup.kill"
    else
        for pid in $(members); do kill -9 "$pid" 2>/dev/null; done
    fi
    sleep 0.05
    tries=$((tries + 1))
done
tries=0
while [ $tries -lt 100 ]; do
    for group in "$v2" "$@"; do find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null; done
    [ -d "$v2" ] || break
    sleep 0.05
    tries=$((tries + 1))
done
"#;

/// The keeper tries for at most 15 + 5 s; more means that the kernel is stuck.
const KEEPER_LIMIT: Duration = Duration::from_secs(30);

/// What a cage's members may use together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Processes and threads; none: as many as the machine bears.
    pub tasks: Option<u32>,
    /// Memory, bytes; none: as much as the machine has.
    pub memory_bytes: Option<u64>,
}

impl Limits {
    /// For what is trusted, and only has to be found again: the daemon under test.
    pub const NONE: Self = Self { tasks: None, memory_bytes: None };

    /// So many tasks, in 2 GiB.
    pub const fn tasks(tasks: u32) -> Self {
        Self { tasks: Some(tasks), memory_bytes: Some(2 << 30) }
    }
}

impl Default for Limits {
    /// 400 tasks, 2 GiB: a recursive npm reaches them in about 20 s, a shell bomb in 1 s.
    fn default() -> Self {
        Self::tasks(400)
    }
}

/// A cgroup of our own.
#[derive(Debug)]
pub struct Cage {
    name: String,
    /// The v2 group.
    directory: PathBuf,
    /// Where `pids.*` are, if tasks are limited.
    tasks: Option<PathBuf>,
    /// The file that counts what the OOM killer took, if memory is limited.
    kills: Option<PathBuf>,
    /// v1 groups that hold limits.
    others: Vec<PathBuf>,
    keeper: Option<(Child, ChildStdin)>,
}

impl Cage {
    pub fn new(limits: Limits) -> Result<Self> {
        let mounts = Mounts::read()?;
        let name = format!("sensor-test-{}", names::word());
        let directory = mounts.unified.join(&name);
        let mut cage =
            Self { name, directory, tasks: None, kills: None, others: Vec::new(), keeper: None };
        let held = cage.build(&mounts, limits).and_then(|()| cage.keep());
        if held.is_err() {
            for group in cage.others.iter().chain([&cage.directory]) {
                // Empty: nothing was started in it.
                let _ = fs::remove_dir(group);
            }
        }
        held.map(|()| cage)
    }

    fn build(&mut self, mounts: &Mounts, limits: Limits) -> Result<()> {
        make(&self.directory)?;
        let wanted = [
            ("pids", "pids.max", "pids.max", limits.tasks.map(u64::from)),
            ("memory", "memory.max", "memory.limit_in_bytes", limits.memory_bytes),
        ];
        for (controller, v2, v1, limit) in wanted {
            let Some(limit) = limit else { continue };
            let (group, file) = if mounts.unified_has(controller)? {
                (self.directory.clone(), v2)
            } else {
                let group = mounts.v1(controller)?.join(&self.name);
                make(&group)?;
                self.others.push(group.clone());
                (group, v1)
            };
            put(&group.join(file), &limit.to_string())?;
            match controller {
                "pids" => self.tasks = Some(group),
                _ if file == v2 => self.kills = Some(group.join("memory.events")),
                _ => self.kills = Some(group.join("memory.oom_control")),
            }
        }
        Ok(())
    }

    fn keep(&mut self) -> Result<()> {
        let limit = self.tasks.as_ref().map(|group| group.join("pids.max")).unwrap_or_default();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&self.directory, &limit])
            .args(&self.others)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of a terminal's Ctrl-C, which ends the owner.
            .process_group(0)
            .spawn()
            .context("cannot start the cage's keeper")?;
        let stdin = keeper.stdin.take().context("the keeper has no standard input")?;
        self.keeper = Some((keeper, stdin));
        Ok(())
    }

    /// Path of the group as in /proc/PID/cgroup: what a scope names.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// The group's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that will run in here from its first instruction on.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut doors = Vec::new();
        for group in self.others.iter().chain([&self.directory]) {
            let door = group.join("cgroup.procs");
            let open = OpenOptions::new().write(true).open(&door);
            doors.push(open.with_context(|| format!("cannot open {}", door.display()))?);
        }
        let mut command = Command::new(program);
        let enter = move || doors.iter().try_for_each(enter);
        // SAFETY: between fork and exec it only writes to files that are open already: write(2) is
        // async-signal-safe, and neither memory nor locks are touched.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Living members, those of groups below included.
    pub fn pids(&self) -> Vec<u32> {
        members(&self.directory)
    }

    pub fn count(&self) -> usize {
        self.pids().len()
    }

    /// Members that can run: neither dead nor stopped by a signal, and in no frozen group.
    pub fn running(&self) -> usize {
        running(&self.directory)
    }

    /// Whether its own group is frozen as a whole.
    pub fn is_frozen(&self) -> bool {
        is_frozen(&self.directory)
    }

    /// Anonymous memory of all members, bytes. A fork's copies that nobody wrote to count again.
    pub fn anon_bytes(&self) -> u64 {
        self.pids()
            .iter()
            .filter_map(|pid| process::field(format!("/proc/{pid}/status"), "RssAnon"))
            .map(|kib| kib << 10)
            .sum()
    }

    /// Forks that the limit refused: 0 says that what ran in here never met it.
    pub fn refused_forks(&self) -> Result<u64> {
        let events = self.tasks.as_ref().context("this cage limits no tasks")?.join("pids.events");
        let text = fs::read_to_string(&events)
            .with_context(|| format!("cannot read {}", events.display()))?;
        text.split_whitespace()
            .nth(1)
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("{} says {text:?}", events.display()))
    }

    /// Members that the OOM killer took: 0 says that what ran in here never met its limit of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        let file = self.kills.as_ref().context("this cage limits no memory")?;
        process::field(file, "oom_kill")
            .with_context(|| format!("{} has no oom_kill", file.display()))
    }

    /// How often members wanted more memory than the limit leaves: 0 says that they never met it.
    pub fn memory_short(&self) -> Result<u64> {
        let file = self.kills.as_ref().context("this cage limits no memory")?;
        let v1 = file.with_file_name("memory.failcnt");
        if let Ok(text) = fs::read_to_string(&v1) {
            return text.trim().parse().with_context(|| format!("{} says {text:?}", v1.display()));
        }
        process::field(file, "max").with_context(|| format!("{} has no max", file.display()))
    }

    /// CPU time that members, past ones included, have used.
    pub fn cpu_time(&self) -> Result<Duration> {
        let file = self.directory.join("cpu.stat");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let used = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        Ok(Duration::from_micros(
            used.with_context(|| format!("{} says {text:?}", file.display()))?,
        ))
    }

    /// Waits until nothing lives in here; whether it came so within `limit`.
    pub fn empties_within(&self, limit: Duration) -> bool {
        until(limit, || self.count() == 0)
    }

    /// Kills all members now and waits until they are gone.
    pub fn clear(&self) -> Result<()> {
        let gone = until(KEEPER_LIMIT, || {
            if put(&self.directory.join("cgroup.kill"), "1").is_err() {
                for pid in self.pids() {
                    // Gone meanwhile, or killed: either way it is not looked at again.
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid as i32),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
            self.count() == 0
        });
        if !gone {
            bail!("{} processes in {} cannot be killed", self.count(), self.path());
        }
        Ok(())
    }

    /// Counts members from now on, every few milliseconds.
    pub fn census(&self) -> Census {
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicUsize::new(0));
        let (group, stopped, highest) = (self.directory.clone(), stop.clone(), peak.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(members(&group).len(), Ordering::Relaxed);
                thread::sleep(Census::EVERY);
            }
        });
        Census { stop, peak, thread: Some(thread) }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Some((mut keeper, stdin)) = self.keeper.take() {
            drop(stdin);
            if let Err(error) = wait(&mut keeper, KEEPER_LIMIT) {
                eprintln!("the keeper of {} does not end: {error}", self.name);
            }
        }
    }
}

/// The highest number of members seen while it lives.
#[derive(Debug)]
pub struct Census {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Census {
    /// A recursive npm makes a process every 70 ms, a bomb 300 a second: few go unseen, and
    /// counting 50 members costs 0.1 ms.
    const EVERY: Duration = Duration::from_millis(5);

    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// "0" is whoever writes it.
fn enter(mut door: &File) -> io::Result<()> {
    door.write_all(b"0")
}

fn make(group: &Path) -> Result<()> {
    fs::create_dir(group)
        .with_context(|| format!("cannot make the cgroup {} (needs root)", group.display()))
}

fn put(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("cannot write {value} to {}", file.display()))
}

fn members(group: &Path) -> Vec<u32> {
    let mut pids = own_members(group);
    pids.extend(below(group).iter().flat_map(|group| members(group)));
    pids
}

fn own_members(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn running(group: &Path) -> usize {
    if is_frozen(group) {
        return 0;
    }
    let own = own_members(group).into_iter().filter(|pid| !process::stands(*pid)).count();
    own + below(group).iter().map(|group| running(group)).sum::<usize>()
}

/// A group that is frozen by itself or by one above it.
fn is_frozen(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}

/// Where the hierarchies are mounted.
struct Mounts {
    unified: PathBuf,
    /// Option (the controller among them) and mount point.
    v1: Vec<(String, PathBuf)>,
}

impl Mounts {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        let mut unified = None;
        let mut v1 = Vec::new();
        for line in text.lines() {
            let Some((mount, kind)) = line.split_once(" - ") else { continue };
            let point = mount.split(' ').nth(4).map(PathBuf::from);
            let mut kind = kind.split(' ');
            match (kind.next(), point) {
                (Some("cgroup2"), Some(point)) => unified = unified.or(Some(point)),
                (Some("cgroup"), Some(point)) => {
                    v1.push((kind.nth(1).unwrap_or_default().to_owned(), point));
                }
                _ => {}
            }
        }
        let unified = unified
            .context("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")?;
        Ok(Self { unified, v1 })
    }

    /// Whether groups below the v2 root have the controller; switches it on if it can be.
    fn unified_has(&self, controller: &str) -> Result<bool> {
        let there = |file: &str| -> Result<bool> {
            let path = self.unified.join(file);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.split_whitespace().any(|word| word == controller))
        };
        // The root of a container has no such file, and its groups what was given to it.
        if !there("cgroup.controllers")? {
            return Ok(false);
        }
        if !there("cgroup.subtree_control")? {
            put(&self.unified.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        Ok(true)
    }

    /// Our own group in the controller's v1 hierarchy, so that our limits hold for the cage too.
    fn v1(&self, controller: &str) -> Result<PathBuf> {
        let names = |options: &str| options.split(',').any(|option| option == controller);
        let (_, mount) = self.v1.iter().find(|(options, _)| names(options)).with_context(|| {
            format!("neither cgroup v2 nor v1 has the {controller} controller: nothing can be bounded here")
        })?;
        let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let path = own
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?, parts.next()?))
            })
            .find(|(controllers, _)| names(controllers))
            .map_or("/", |(_, path)| path);
        let nested = mount.join(path.trim_start_matches('/'));
        Ok(if nested.is_dir() { nested } else { mount.clone() })
    }
}
