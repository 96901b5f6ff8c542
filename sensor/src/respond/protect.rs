//! Who is never stopped: the host's lifelines, ourselves and our ancestors, and what the
//! configuration adds. Identity counts (pid and start, root-owned file, unit), never a name that a
//! process can give itself.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::process::{Executable, Stat, key_of};
use crate::lineage::{Forest, Node, ProcessKey};

/// Programs that a host is lost without, or that hold up what others run: the ways in, init and its
/// parts, the message bus, container runtimes.
const PROGRAMS: [&str; 30] = [
    "sshd",
    "sshd-session",
    "sshd-auth",
    "dropbear",
    "agetty",
    "login",
    "systemd",
    "systemd-executor",
    "systemd-journald",
    "systemd-logind",
    "systemd-udevd",
    "systemd-networkd",
    "systemd-resolved",
    "systemd-oomd",
    "init",
    "dbus-daemon",
    "dbus-broker",
    "dbus-broker-launch",
    "dockerd",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "crio",
    "conmon",
    "conmonrs",
    "kubelet",
    "k3s",
    "lxcfs",
    "rsyslogd",
];

/// Where distributions put them.
const DIRECTORIES: [&str; 14] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/lib/systemd",
    "/lib/systemd",
    "/usr/lib/openssh",
    "/usr/lib/ssh",
    "/usr/libexec",
    "/usr/libexec/openssh",
    "/usr/libexec/podman",
    "/usr/lib/podman",
];

/// Programs of everyday work. A file that is one of them as well (busybox is `login` and `sh` at once)
/// says nothing about what a process does: to protect it would protect every shell.
const EVERYDAY: [&str; 4] = ["/bin/sh", "/bin/sleep", "/bin/cat", "/usr/bin/env"];

/// The same by unit, for programs that stand elsewhere.
const UNITS: [&str; 14] = [
    "ssh.service",
    "sshd.service",
    "systemd-journald.service",
    "systemd-logind.service",
    "systemd-udevd.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "NetworkManager.service",
    "dbus.service",
    "dbus-broker.service",
    "docker.service",
    "containerd.service",
    "crio.service",
    "kubelet.service",
];

/// Units that the host's administrator runs. A user names units below `user.slice` at will, so a
/// name protects nothing there.
const SYSTEM_SLICE: &str = "/system.slice";

/// Why a process is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Init,
    KernelThread,
    /// One of ours, or above us; which.
    Ours(String),
    Program(PathBuf),
    Unit(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init => write!(out, "pid 1"),
            Self::KernelThread => write!(out, "a kernel thread"),
            Self::Ours(what) => write!(out, "{what}"),
            Self::Program(path) => write!(out, "a process of {}", path.display()),
            Self::Unit(unit) => write!(out, "a process of {unit}"),
        }
    }
}

/// What the configuration adds.
#[derive(Clone, Debug, Default)]
pub struct Additions {
    /// Absolute paths; root-owned files that nobody else may write to.
    pub executables: Vec<PathBuf>,
    /// Names of system units, with `.service`.
    pub units: Vec<String>,
}

/// What is known about a process when the question is asked.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    pub key: ProcessKey,
    pub kernel_thread: bool,
    /// `None`: it has none, or is gone.
    pub executable: Option<Executable>,
    /// v2 path.
    pub cgroup: Option<&'a Path>,
}

/// The protected set.
#[derive(Debug)]
pub struct Protection {
    /// Every place where a protected program may stand.
    places: HashSet<PathBuf>,
    units: HashSet<String>,
    /// (device, inode) of protected files, those that an update unlinked included: the daemon that
    /// still runs one stays protected.
    files: Mutex<HashMap<(u64, u64), PathBuf>>,
    own: Mutex<Vec<(ProcessKey, String)>>,
}

impl Protection {
    /// Looks up the programs, and ourselves with our ancestors. Second: executables from the
    /// configuration that cannot be protected, each with the reason as a sentence.
    pub fn new(additions: &Additions) -> (Self, Vec<String>) {
        let mut places: HashSet<PathBuf> = DIRECTORIES
            .iter()
            .flat_map(|dir| PROGRAMS.iter().map(move |name| Path::new(dir).join(name)))
            .collect();
        let mut refused = Vec::new();
        for path in &additions.executables {
            match Executable::at(path) {
                Ok(file) if is_everyday(&file) => refused.push(format!(
                    "{} is not protected: the same file is an everyday program such as the shell",
                    path.display()
                )),
                Ok(file) if file.trusted => {
                    places.insert(path.clone());
                }
                Ok(_) => refused.push(format!(
                    "{} is not protected: its owner must be root, and nobody else may write to it",
                    path.display()
                )),
                Err(error) => {
                    refused.push(format!("{} is not protected: {error}", path.display()));
                }
            }
        }
        let units = UNITS.iter().map(ToString::to_string).chain(additions.units.iter().cloned());
        let protection =
            Self { files: Mutex::default(), own: Mutex::default(), units: units.collect(), places };
        for place in &protection.places {
            protection.learn(place);
        }
        protection.add_ancestry();
        (protection, refused)
    }

    /// Adds one of our own processes, `what` for people; those that are gone are forgotten.
    pub fn add_own(&self, pid: u32, what: &str) {
        let Ok(key) = key_of(pid) else { return };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|(other, _)| Stat::read(other.tgid).is_ok_and(|stat| stat.is(*other)));
        own.push((key, what.to_owned()));
    }

    fn add_ancestry(&self) {
        let mut pid = std::process::id();
        self.add_own(pid, "the sensor itself");
        while let Ok(stat) = Stat::read(pid)
            && stat.ppid > 1
            && stat.ppid != pid
        {
            pid = stat.ppid;
            self.add_own(pid, "a process that the sensor was started by");
        }
    }

    /// Looks at a process now; `cgroup` is its v2 path where that is known.
    pub fn of(&self, key: ProcessKey, cgroup: Option<&Path>) -> Option<Reason> {
        let executable = Executable::of(key.tgid).ok();
        // Only what has no executable can be a kernel thread: spares a read for all others.
        let kernel_thread =
            executable.is_none() && Stat::read(key.tgid).is_ok_and(|stat| stat.kernel_thread);
        let subject = Subject { key, kernel_thread, executable, cgroup };
        let mut reason = self.judge(&subject);
        if let (Some(Reason::Program(path)), Some(file)) = (&reason, &subject.executable)
            && !file.unlinked
            && Executable::at(path).ok().as_ref() != Some(file)
        {
            // An update freed the inode, and another file has it now.
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.remove(&(file.dev, file.ino));
            drop(files);
            reason = self.judge(&subject);
        }
        reason.or_else(|| self.of_updated(key.tgid))
    }

    /// What does not depend on its program: whose it is, and where it stands.
    pub fn of_place(&self, key: ProcessKey, cgroup: Option<&Path>) -> Option<Reason> {
        self.judge(&Subject { key, kernel_thread: false, executable: None, cgroup })
    }

    /// The rule itself.
    pub fn judge(&self, subject: &Subject<'_>) -> Option<Reason> {
        if subject.key.tgid == 1 {
            return Some(Reason::Init);
        }
        if subject.kernel_thread {
            return Some(Reason::KernelThread);
        }
        if let Some(what) = self.own(subject.key) {
            return Some(Reason::Ours(what));
        }
        if let Some(file) = &subject.executable
            && file.trusted
        {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(path) = files.get(&(file.dev, file.ino)) {
                return Some(Reason::Program(path.clone()));
            }
        }
        let unit =
            subject.cgroup?.strip_prefix(SYSTEM_SLICE).ok()?.components().find_map(|part| {
                part.as_os_str().to_str().filter(|part| self.units.contains(*part))
            })?;
        Some(Reason::Unit(unit.to_owned()))
    }

    fn own(&self, key: ProcessKey) -> Option<String> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // To the tick: /proc and the kernel side tell a start with different precision.
        let tick = |key: ProcessKey| (key.tgid, key.start_ns / 10_000_000);
        own.iter().find(|(one, _)| tick(*one) == tick(key)).map(|(_, what)| what.clone())
    }

    /// A program that was installed or updated since we looked: its path says what it may be, the
    /// file at that path in our own view, or the unlinked file, whether it is.
    fn of_updated(&self, pid: u32) -> Option<Reason> {
        let link = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let text = link.to_str()?;
        let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
        if !self.places.contains(path) {
            return None;
        }
        let running = Executable::of(pid).ok().filter(|file| file.trusted)?;
        self.learn(path);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = (running.dev, running.ino);
        if running.unlinked {
            files.insert(identity, path.to_owned());
        }
        files.get(&identity).map(|path| Reason::Program(path.clone()))
    }

    fn learn(&self, path: &Path) {
        if let Ok(file) = Executable::at(path)
            && file.trusted
            && !is_everyday(&file)
        {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.insert((file.dev, file.ino), path.to_owned());
        }
    }
}

/// Whether the file is also a program of everyday work, by device and inode.
fn is_everyday(file: &Executable) -> bool {
    EVERYDAY
        .iter()
        .filter_map(|path| Executable::at(Path::new(path)).ok())
        .any(|everyday| (everyday.dev, everyday.ino) == (file.dev, file.ino))
}

/// What may be contained of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// Roots of what may be contained.
    pub roots: Vec<ProcessKey>,
    /// Why it is less than was asked for, one sentence.
    pub because: Option<String>,
}

/// The largest subtree on the way from `root` to `leaf` that holds no protected process; the whole
/// tree where it holds none. An error is the reason for a refusal, one sentence. Pure.
pub fn narrow(
    forest: &Forest,
    root: ProcessKey,
    leaf: Option<ProcessKey>,
    mut protected: impl FnMut(&Node) -> Option<Reason>,
) -> Result<Narrowed, String> {
    // What has a protected process in or below it.
    let mut barred: HashSet<ProcessKey> = HashSet::new();
    let mut first = None;
    for (node, _) in forest.tree(root) {
        if !node.alive {
            continue;
        }
        if let Some(reason) = protected(node) {
            first.get_or_insert((node.key.tgid, reason));
            barred.extend(forest.ancestry(node.key).iter().map(|above| above.key));
        }
    }
    let Some((pid, reason)) = first else {
        return Ok(Narrowed { roots: vec![root], because: None });
    };
    let chain = leaf.and_then(|leaf| forest.chain(root, leaf)).unwrap_or_default();
    match chain.iter().find(|node| !barred.contains(&node.key)) {
        Some(node) => Ok(Narrowed {
            roots: vec![node.key],
            because: Some(format!(
                "narrowed to the tree of pid {}: above it is pid {pid}, {reason}, which is protected",
                node.key.tgid
            )),
        }),
        None => Err(format!("its tree holds pid {pid}, {reason}, which is protected")),
    }
}

/// The same of trees that stand beside each other: those of them that hold no protected process, whole.
pub fn narrow_group(
    forest: &Forest,
    roots: &[ProcessKey],
    mut protected: impl FnMut(&Node) -> Option<Reason>,
) -> Result<Narrowed, String> {
    let mut first = None;
    let mut free = |root: &&ProcessKey| {
        forest.tree(**root).into_iter().filter(|(node, _)| node.alive).all(|(node, _)| {
            let Some(reason) = protected(node) else { return true };
            first.get_or_insert_with(|| {
                format!("pid {}, {reason}, which is protected", node.key.tgid)
            });
            false
        })
    };
    let kept: Vec<ProcessKey> = roots.iter().filter(&mut free).copied().collect();
    let left = roots.len() - kept.len();
    match first {
        Some(first) if kept.is_empty() => Err(format!("each of its trees holds such as {first}")),
        Some(first) => Ok(Narrowed {
            roots: kept,
            because: Some(format!("{left} of its trees are left alone: they hold such as {first}")),
        }),
        None => Ok(Narrowed { roots: kept, because: None }),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_that_is_the_shell_as_well_is_not_protected() {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let additions = Additions { executables: vec![shell], units: Vec::new() };
        let (protection, refused) = Protection::new(&additions);
        assert!(refused.len() == 1 && refused[0].contains("the shell"), "{refused:?}");
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read x"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(protection.of(key_of(child.id()).unwrap(), None), None);
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    use super::*;

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey::new(tgid, u64::from(tgid) * 1_000_000_000)
    }

    /// (pid, parent); parent 0: none.
    fn forest(links: &[(u32, u32)]) -> Forest {
        Forest::new(links.iter().map(|&(pid, parent)| Node {
            key: key(pid),
            parent: (parent != 0).then(|| key(parent)),
            alive: true,
            ..Node::default()
        }))
    }

    fn only(pids: &'static [u32]) -> impl FnMut(&Node) -> Option<Reason> {
        move |node| pids.contains(&node.key.tgid).then(|| Reason::Unit("ssh.service".to_owned()))
    }

    /// sshd 10 → sshd 11 → bash 12 → npm 13 → sh 14 → npm 15, and beside npm 13 an editor 20.
    const LOGIN: [(u32, u32); 7] =
        [(10, 0), (11, 10), (12, 11), (13, 12), (14, 13), (15, 14), (20, 12)];

    #[test]
    fn a_tree_without_protected_processes_stays_whole() {
        let whole = narrow(&forest(&LOGIN), key(12), Some(key(15)), only(&[10, 11])).unwrap();
        assert_eq!(whole, Narrowed { roots: vec![key(12)], because: None });
    }

    #[test]
    fn narrowed_to_below_the_session_process() {
        let less = narrow(&forest(&LOGIN), key(10), Some(key(15)), only(&[10, 11])).unwrap();
        assert_eq!(less.roots, [key(12)], "the shell below is not protected");
        assert!(less.because.unwrap().contains("pid 10, a process of ssh.service"));
    }

    #[test]
    fn narrowed_past_a_protected_side_branch() {
        let less = narrow(&forest(&LOGIN), key(12), Some(key(15)), only(&[20])).unwrap();
        assert_eq!(less.roots, [key(13)]);
    }

    #[test]
    fn refused_where_nothing_is_left() {
        let leaf = narrow(&forest(&LOGIN), key(10), Some(key(15)), only(&[15]));
        assert!(leaf.unwrap_err().contains("pid 15"));
        let no_leaf = narrow(&forest(&LOGIN), key(10), None, only(&[11]));
        assert!(no_leaf.unwrap_err().contains("pid 11"));
        let elsewhere = narrow(&forest(&LOGIN), key(13), Some(key(20)), only(&[15]));
        assert!(elsewhere.is_err(), "the leaf is not in the tree");
    }

    #[test]
    fn of_a_group_the_trees_with_protected_processes_are_left_alone() {
        let forest = forest(&LOGIN);
        let less = narrow_group(&forest, &[key(13), key(20)], only(&[14])).unwrap();
        assert_eq!(less.roots, [key(20)]);
        assert!(less.because.unwrap().starts_with("1 of its trees are left alone"));
        let whole = narrow_group(&forest, &[key(13), key(20)], only(&[10, 11])).unwrap();
        assert_eq!(whole, Narrowed { roots: vec![key(13), key(20)], because: None });
        let none = narrow_group(&forest, &[key(13), key(20)], only(&[15, 20]));
        assert!(none.unwrap_err().contains("pid 15"));
    }

    #[test]
    fn the_dead_are_not_protected() {
        let mut nodes: Vec<Node> = forest(&LOGIN).nodes().cloned().collect();
        for node in &mut nodes {
            node.alive = node.key.tgid != 20;
        }
        let whole = narrow(&Forest::new(nodes), key(12), Some(key(15)), only(&[20])).unwrap();
        assert_eq!(whole.roots, [key(12)]);
    }

    fn subject(pid: u32) -> Subject<'static> {
        Subject { key: key(pid), kernel_thread: false, executable: None, cgroup: None }
    }

    #[test]
    fn judges_by_identity() {
        let (protection, refused) = Protection::new(&Additions {
            executables: vec!["/nonexistent/tool".into()],
            units: vec!["base.service".into()],
        });
        assert_eq!(refused.len(), 1);
        assert_eq!(protection.judge(&subject(1)), Some(Reason::Init));
        assert_eq!(protection.judge(&subject(400_001)), None);
        let kernel = Subject { kernel_thread: true, ..subject(400_001) };
        assert_eq!(protection.judge(&kernel), Some(Reason::KernelThread));
        let within = |path: &'static str| {
            protection.judge(&Subject { cgroup: Some(Path::new(path)), ..subject(400_001) })
        };
        for unit in ["ssh.service", "base.service"] {
            let path = format!("/system.slice/{unit}");
            let found =
                protection.judge(&Subject { cgroup: Some(Path::new(&path)), ..subject(400_001) });
            assert_eq!(found, Some(Reason::Unit(unit.to_owned())));
        }
        assert!(within("/system.slice/x.slice/docker.service/part").is_some());
        // A user may call a unit so.
        assert_eq!(within("/user.slice/user-1000.slice/user@1000.service/ssh.service"), None);
        assert_eq!(within("/system.slice/ssh.service.d"), None);
    }

    #[test]
    fn a_protected_program_needs_a_trusted_file() {
        let (protection, _) = Protection::new(&Additions::default());
        let file = |ino, trusted| Executable { dev: u64::MAX, ino, trusted, unlinked: false };
        let path = PathBuf::from("/usr/sbin/sshd");
        protection.files.lock().unwrap().insert((u64::MAX, 7), path.clone());
        let judge = |executable| {
            protection.judge(&Subject { executable: Some(executable), ..subject(400_001) })
        };
        assert_eq!(judge(file(7, true)), Some(Reason::Program(path)));
        assert_eq!(judge(file(7, false)), None);
        assert_eq!(judge(file(8, true)), None);
    }

    #[test]
    fn protects_us_our_ancestors_and_what_is_added() {
        let (protection, _) = Protection::new(&Additions::default());
        let own = key_of(std::process::id()).unwrap();
        assert!(matches!(protection.of(own, None), Some(Reason::Ours(_))));
        let parent = Stat::read(own.tgid).unwrap().ppid;
        assert!(protection.of(key_of(parent).unwrap(), None).is_some());

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let key = key_of(child.id()).unwrap();
        assert_eq!(protection.of(key, None), None);
        protection.add_own(child.id(), "the guardian");
        assert_eq!(protection.of(key, None), Some(Reason::Ours("the guardian".to_owned())));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_installed_later_is_recognised_and_an_impostor_is_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP respond::protect: needs root to own a file");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        std::fs::copy("/bin/sleep", &tool).unwrap();
        let (protection, refused) =
            Protection::new(&Additions { executables: vec![tool.clone()], units: Vec::new() });
        assert_eq!(refused, Vec::<String>::new());
        // An update replaces the file by another one, twice.
        for _ in 0..2 {
            let fresh = dir.path().join("fresh");
            std::fs::copy("/bin/sleep", &fresh).unwrap();
            std::fs::rename(&fresh, &tool).unwrap();
            let mut child = std::process::Command::new(&tool).arg("60").spawn().unwrap();
            let key = key_of(child.id()).unwrap();
            assert_eq!(protection.of(key, None), Some(Reason::Program(tool.clone())));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // An entry whose inode has passed to another file protects nobody.
        let other = dir.path().join("other");
        std::fs::copy("/bin/sleep", &other).unwrap();
        let file = Executable::at(&other).unwrap();
        protection.files.lock().unwrap().insert((file.dev, file.ino), tool);
        let mut child = std::process::Command::new(&other).arg("60").spawn().unwrap();
        assert_eq!(protection.of(key_of(child.id()).unwrap(), None), None);
        child.kill().unwrap();
        child.wait().unwrap();
        // The same bytes under another path are another program.
        let copy = dir.path().join("sshd");
        std::fs::copy("/bin/sleep", &copy).unwrap();
        let mut child = std::process::Command::new(&copy).arg("60").spawn().unwrap();
        assert_eq!(protection.of(key_of(child.id()).unwrap(), None), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
