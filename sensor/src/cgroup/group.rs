//! A group of our own with limits, for what we start: v2 where its controllers are enabled, else v1.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{CgroupError, Hierarchies, delegated, directory, make, write};

/// Bounds for all processes of a group together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    /// What the kernel does not take from it while anything else can be taken; v2 only, as far as the groups
    /// above allow it. 0: nothing.
    pub kept_bytes: u64,
    /// Tasks: processes and threads.
    pub pids: u64,
}

/// Which limits the kernel accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    pub memory: bool,
    pub pids: bool,
    /// Memory is kept for it, by all groups above it as well.
    pub kept: bool,
}

/// Half of what a group gets by default.
pub const CPU_WEIGHT: u32 = 50;

/// Whoever made a group takes it away when it is empty: systemd within some 10 ms.
const FOREIGN: Duration = Duration::from_secs(2);

/// A group that we made, or that was made for us. Dropping it leaves it in place; [`Group::end`] takes it away.
#[derive(Debug)]
pub struct Group {
    /// v2 directory first, then those of v1 controllers.
    dirs: Vec<PathBuf>,
    holds: Holds,
    /// Somebody else made it.
    foreign: bool,
}

/// A controller with its files: limit in v2, limit in v1.
const CONTROLLERS: [(&str, &str, &str); 2] =
    [("memory", "memory.max", "memory.limit_in_bytes"), ("pids", "pids.max", "pids.max")];

impl Group {
    /// Makes the group `name` below the v2 path `parent`. Limits that no controller can hold are
    /// not an error: ask [`Group::holds`].
    pub fn create(
        hierarchies: &Hierarchies,
        parent: &Path,
        name: &str,
        limits: &Limits,
    ) -> Result<Self, CgroupError> {
        let above = hierarchies.dir(parent).ok_or(CgroupError::NoUnified)?;
        for (controller, ..) in CONTROLLERS {
            // Refused where the parent lacks the controller or has processes of its own.
            let _ = write(&above.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let unified = above.join(name);
        make(&unified)?;
        let mut group =
            Self { dirs: vec![unified.clone()], holds: Holds::default(), foreign: false };
        for (controller, v2_file, v1_file) in CONTROLLERS {
            let limit = if controller == "memory" { limits.memory_bytes } else { limits.pids };
            let held = write(&unified.join(v2_file), limit).is_ok()
                || v1_dir(hierarchies, controller, parent, name)
                    .is_some_and(|dir| group.add_v1(dir, v1_file, limit));
            match controller {
                "memory" => group.holds.memory = held,
                _ => group.holds.pids = held,
            }
        }
        // Without these the limit still holds, only less well: swap counts on top of memory, and
        // the kernel picks single victims.
        let _ = write(&unified.join("memory.swap.max"), 0);
        group.dies_as_one();
        group.holds.kept = keep(hierarchies, parent, &unified, limits.kept_bytes);
        // It is to finish, not to win.
        let _ = write(&unified.join("cpu.weight"), CPU_WEIGHT);
        Ok(group)
    }

    /// One in v2 that somebody else made, and takes away when it is empty.
    pub fn adopt(dir: &Path) -> Self {
        Self { dirs: vec![dir.to_owned()], holds: Holds::default(), foreign: true }
    }

    /// Looks which of these limits it holds.
    pub fn look(&mut self, hierarchies: &Hierarchies, limits: &Limits) -> Holds {
        let dir = self.dir();
        let bounds = |file: &str, most| number(&dir.join(file)).is_some_and(|bound| bound <= most);
        self.holds = Holds {
            memory: bounds("memory.max", limits.memory_bytes),
            pids: bounds("pids.max", limits.pids),
            kept: keeps(hierarchies, dir, limits.kept_bytes),
        };
        self.holds
    }

    /// One that was made earlier, by whomever; its limits are not looked at.
    pub fn open(hierarchies: &Hierarchies, parent: &Path, name: &str) -> Result<Self, CgroupError> {
        let above = hierarchies.dir(parent).ok_or(CgroupError::NoUnified)?;
        let v1 = CONTROLLERS
            .iter()
            .filter_map(|(controller, ..)| v1_dir(hierarchies, controller, parent, name));
        let dirs = [above.join(name)].into_iter().chain(v1.filter(|dir| dir.exists()));
        Ok(Self { dirs: dirs.collect(), holds: Holds::default(), foreign: false })
    }

    /// Who meets its limit of memory takes all others with it.
    pub fn dies_as_one(&self) {
        let _ = write(&self.dir().join("memory.oom.group"), 1);
    }

    fn add_v1(&mut self, dir: PathBuf, file: &str, limit: u64) -> bool {
        if make(&dir).is_err() {
            return false;
        }
        let held = write(&dir.join(file), limit).is_ok();
        if held {
            self.dirs.push(dir);
        } else {
            let _ = directory::remove(&dir, Duration::ZERO);
        }
        held
    }

    pub fn holds(&self) -> Holds {
        self.holds
    }

    /// Its v2 directory.
    pub fn dir(&self) -> &Path {
        &self.dirs[0]
    }

    /// The name of the unit that it is of somebody else's; `None`: it is our own.
    pub fn unit(&self) -> Option<Cow<'_, str>> {
        let name = self.foreign.then(|| self.dir().file_name())??;
        Some(name.to_string_lossy())
    }

    /// All its directories: v2 first, then those of v1 controllers.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Its `cgroup.procs` files, opened: a child that writes `0` to each, before it becomes another
    /// user, is in.
    pub fn entrances(&self) -> Result<Vec<File>, CgroupError> {
        self.dirs
            .iter()
            .map(|dir| {
                let file = dir.join("cgroup.procs");
                OpenOptions::new().write(true).open(&file).map_err(CgroupError::io("open", &file))
            })
            .collect()
    }

    /// Moves a process into it.
    pub fn attach(&self, pid: u32) -> Result<(), CgroupError> {
        self.dirs.iter().try_for_each(|dir| write(&dir.join("cgroup.procs"), pid))
    }

    /// Times that a member met the memory limit fatally, and that a fork met the pids limit.
    pub fn casualties(&self) -> (u64, u64) {
        let count = |file: &str, key: &str| -> u64 {
            self.dirs
                .iter()
                .filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok())
                .filter_map(|text| {
                    let line =
                        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
                    line.and_then(|value| value.parse::<u64>().ok())
                })
                .sum()
        };
        let memory = count("memory.events", "oom_kill") + count("memory.oom_control", "oom_kill");
        (memory, count("pids.events", "max"))
    }

    /// Kills what lives in it, descendants that have left their session included.
    pub fn kill(&self, patience: Duration) -> Result<(), CgroupError> {
        let kill = |dir: &PathBuf| match directory::kill(dir, patience) {
            // Nothing lives in what is not there: whoever made it has taken it away by itself.
            Err(_) if self.foreign && !dir.exists() => Ok(()),
            done => done,
        };
        self.dirs.iter().try_for_each(kill)
    }

    /// Kills what lives in it and takes it away.
    pub fn end(&self, patience: Duration) -> Result<(), CgroupError> {
        self.kill(patience)?;
        if self.foreign {
            let end = Instant::now() + FOREIGN;
            while self.dir().exists() && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.dirs.iter().try_for_each(|dir| directory::remove(dir, patience))
    }
}

/// Keeps memory for a group of ours below `parent`; whether that has any effect.
fn keep(hierarchies: &Hierarchies, parent: &Path, dir: &Path, bytes: u64) -> bool {
    if bytes == 0 || write(&dir.join("memory.min"), bytes).is_err() {
        return false;
    }
    // A group keeps nothing of which the one above it keeps nothing. That one is ours as well if nobody gave it to us:
    // a unit's own files are systemd's.
    if let Some(above) = hierarchies.dir(parent)
        && !delegated(&above)
        && kept(&above).is_some_and(|kept| kept < bytes)
    {
        let _ = write(&above.join("memory.min"), bytes);
    }
    keeps(hierarchies, dir, bytes)
}

/// Whether so much is kept for a group, by itself and by all above it that can be seen.
fn keeps(hierarchies: &Hierarchies, dir: &Path, bytes: u64) -> bool {
    let top = hierarchies.unified();
    let mut groups = dir.ancestors().take_while(|dir| Some(*dir) != top);
    bytes > 0 && groups.all(|dir| kept(dir).is_some_and(|kept| kept >= bytes))
}

/// Bytes of a group's memory that the kernel leaves it; `None`: memory is none of its matters.
pub fn kept(dir: &Path) -> Option<u64> {
    number(&dir.join("memory.min"))
}

/// `None`: there is no such file, or no number in it, as for no bound at all.
fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Below our own group there, so that whatever bounds us bounds it as well; named after the whole v2
/// path.
fn v1_dir(
    hierarchies: &Hierarchies,
    controller: &str,
    parent: &Path,
    name: &str,
) -> Option<PathBuf> {
    let above = parent.to_string_lossy().replace('/', "-");
    hierarchies.v1_home(controller).map(|home| home.join(format!("sensor{above}-{name}")))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::cgroup;

    const SOON: Duration = Duration::from_secs(5);

    /// A group of this test's own below the v2 root.
    fn group(name: &str, limits: &Limits) -> Option<(Hierarchies, Group)> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP cgroup::{name}: needs root");
            return None;
        }
        let host = Hierarchies::discover().unwrap();
        if host.unified().is_none() {
            eprintln!("SKIP cgroup::{name}: no cgroup v2 is mounted");
            return None;
        }
        let name = format!("sensor-test-{name}-{}", std::process::id());
        let made = Group::create(&host, Path::new("/"), &name, limits).unwrap();
        Some((host, made))
    }

    #[test]
    fn freezes_thaws_and_kills_a_real_group() {
        let limits = Limits { memory_bytes: 64 << 20, kept_bytes: 0, pids: 8 };
        let Some((host, group)) = group("freeze", &limits) else { return };
        let mut child = Command::new("sh")
            .args(["-c", "read go; sleep 60 & sleep 60"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        group.attach(child.id()).unwrap();
        let path = host.path_of(child.id()).unwrap();
        assert_eq!(host.dir(&path).unwrap(), group.dir());
        drop(child.stdin.take());
        while cgroup::members(group.dir(), 100).unwrap().unwrap().len() < 3 {
            std::thread::yield_now();
        }

        cgroup::freeze(group.dir(), SOON).unwrap();
        assert!(cgroup::frozen(group.dir()));
        cgroup::thaw(group.dir(), SOON).unwrap();
        assert!(!cgroup::frozen(group.dir()));
        cgroup::freeze(group.dir(), SOON).unwrap();

        // Killed though frozen, and the child that left for a session of its own as well.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        group.end(SOON).unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(!group.dir().exists());
    }

    #[test]
    fn holds_the_limits_it_says_it_holds() {
        let limits = Limits { memory_bytes: 64 << 20, kept_bytes: 0, pids: 4 };
        let Some((_, group)) = group("limits", &limits) else { return };
        let holds = group.holds();
        let mut child = Command::new("sh")
            .args(["-c", "read go; for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        group.attach(child.id()).unwrap();
        drop(child.stdin.take());
        if holds.pids {
            while group.casualties().1 == 0 {
                std::thread::yield_now();
            }
            assert!(cgroup::members(group.dir(), 100).unwrap().unwrap().len() <= 4);
        } else {
            eprintln!("SKIP cgroup::limits: no pids controller holds here");
        }
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        group.end(SOON).unwrap();
        reaper.join().unwrap();
    }
}
