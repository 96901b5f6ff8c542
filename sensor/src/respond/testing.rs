//! Real processes for tests, in a group that bounds them and is ended whatever happens; and a
//! kernel side made of `/proc`.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sensor_common::brake::Tally;

use super::{
    Marks, Options, Target,
    process::{Handle, Stat},
};
use crate::{
    cgroup::{self, Group, Hierarchies, Limits},
    clock,
    lineage::{Forest, Node, ProcessKey},
};

pub const SOON: Duration = Duration::from_secs(10);

/// A bounded place for the processes of one test.
pub struct Cage {
    pub host: Hierarchies,
    group: Group,
    path: PathBuf,
    children: Vec<Child>,
}

impl Cage {
    /// `None`, with the reason printed, where this cannot be.
    pub fn new(test: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP {test}: needs root");
            return None;
        }
        let host = Hierarchies::discover().unwrap();
        if host.unified().is_none() {
            eprintln!("SKIP {test}: no cgroup v2 is mounted");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sensor-test-{}-{number}", std::process::id());
        let limits = Limits { memory_bytes: 512 << 20, kept_bytes: 0, pids: 120 };
        let group = Group::create(&host, Path::new("/"), &name, &limits).unwrap();
        let path = Path::new("/").join(name);
        let cage = Self { host, group, path, children: Vec::new() };
        if !cage.group.holds().pids {
            eprintln!("SKIP {test}: no pids controller to bound it");
            return None;
        }
        Some(cage)
    }

    pub fn dir(&self) -> &Path {
        self.group.dir()
    }

    /// A group below this one.
    pub fn inner(&self, name: &str) -> PathBuf {
        let dir = self.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    pub fn enter(dir: &Path, pid: u32) {
        std::fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Runs a shell script in it (in `inner` of it), from its first command on.
    pub fn run(&mut self, inner: Option<&Path>, script: &str) -> ProcessKey {
        let mut child = Command::new("bash")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.group.attach(child.id()).unwrap();
        if let Some(dir) = inner {
            Self::enter(dir, child.id());
        }
        let key = super::process::key_of(child.id()).unwrap();
        drop(child.stdin.take());
        self.children.push(child);
        key
    }

    pub fn pids(&self) -> Vec<u32> {
        cgroup::members(self.dir(), 10_000).unwrap().unwrap()
    }

    /// Waits until so many processes live in it.
    pub fn wait_for(&self, processes: usize) {
        wait(|| self.pids().len() >= processes, "processes have appeared");
    }

    /// Options that confine a responder to it.
    pub fn options(&self) -> Options {
        Options { scope: vec![self.path.clone()], ..Options::default() }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Killed first, reaped, then removed: a zombie child holds nothing, but should not stay.
        let _ = self.group.kill(SOON);
        for child in &mut self.children {
            let _ = child.wait();
        }
        if let Err(error) = self.group.end(SOON) {
            eprintln!("a test leaves its group behind: {error}");
        }
    }
}

/// Waits for a condition, with a deadline.
pub fn wait(condition: impl Fn() -> bool, what: &str) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn state(pid: u32) -> Option<char> {
    Stat::read(pid).ok().map(|stat| char::from(stat.state))
}

/// A target without a leaf.
pub fn target(root: ProcessKey, mark: u32) -> Target {
    Target {
        incident: "abcdefghij".to_owned(),
        mark,
        roots: vec![root],
        leaf: None,
        brake_until_ns: clock::boot_ns() + 60_000_000_000,
        by: "policy".to_owned(),
        why: "a test".to_owned(),
    }
}

/// Lineage and marks as the kernel side keeps them, from `/proc`: parents are remembered as they
/// were first seen, children inherit marks. Signals nobody.
#[derive(Default)]
pub struct ProcMarks {
    known: Mutex<HashMap<ProcessKey, Node>>,
}

impl ProcMarks {
    pub fn mark_of(&self, key: ProcessKey) -> Option<u32> {
        self.known.lock().unwrap().get(&key).map(|node| node.mark)
    }
}

impl Marks for ProcMarks {
    fn forest(&self) -> Forest {
        let mut known = self.known.lock().unwrap();
        let mut now: Vec<(ProcessKey, u32)> = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Ok(stat) = Stat::read(pid)
                && stat.lives()
            {
                now.push((ProcessKey::new(pid, stat.start_ns()), stat.ppid));
            }
        }
        // Parents first, as far as a start in ticks can tell.
        now.sort_by_key(|(key, _)| (key.start_ns, key.tgid));
        let living: HashMap<u32, ProcessKey> =
            now.iter().map(|(key, _)| (key.tgid, *key)).collect();
        for node in known.values_mut() {
            node.alive = living.get(&node.key.tgid) == Some(&node.key);
        }
        for (key, ppid) in now {
            let parent = living.get(&ppid).copied();
            let mark = parent.and_then(|parent| known.get(&parent)).map_or(0, |node| node.mark);
            known.entry(key).or_insert(Node { key, parent, alive: true, mark, ..Node::default() });
        }
        Forest::new(known.values().cloned())
    }

    fn mark(&self, key: ProcessKey, number: u32, _until_ns: u64) -> io::Result<()> {
        Handle::open(key)?;
        let mut known = self.known.lock().unwrap();
        known.get_mut(&key).ok_or(io::ErrorKind::NotFound)?.mark = number;
        Ok(())
    }

    fn lives(&self, key: ProcessKey) -> bool {
        Handle::open(key).is_ok()
    }

    fn complete(&self) {}

    fn engage(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()> {
        roots.iter().try_for_each(|root| self.mark(*root, number, until_ns))
    }

    fn rehearse(&self, _roots: &[ProcessKey], _number: u32, _until_ns: u64) -> io::Result<()> {
        Ok(())
    }

    // Nobody inherits from an ancestor here but at birth.
    fn spare(&self, _key: ProcessKey, _number: u32, _until_ns: u64) -> io::Result<()> {
        Ok(())
    }

    fn unmark(&self, key: ProcessKey) -> io::Result<()> {
        self.mark(key, 0, 0)
    }

    fn tally(&self, _number: u32) -> Tally {
        Tally::default()
    }

    fn disengage(&self) {}
}
