//! A transient unit of systemd around a foreign program, where systemd is the init: its tools show the run by name, it
//! leaves the group alone, and the slice that the unit is in keeps memory for it, which the daemon's own unit cannot.
//!
//! A scope is made around a process that exists: a shell that waits until the program has come in. `systemd-run`
//! asks for it, by the manager's own socket, so that no message bus is needed. The scope is delegated, for its
//! group is ours to enter (<https://systemd.io/CGROUP_DELEGATION>), and systemd takes it away once nobody is in it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::cgroup::{self, CPU_WEIGHT, Group, Hierarchies, Limits};

/// v2 path of the slice. It is below the root, so that nobody above it withholds memory from it.
pub(super) const SLICE: &str = "/sensor.slice";

/// What stands around a group's name in a unit's.
const BEFORE: &str = "sensor-";
const BEHIND: &str = ".scope";

/// `sd_booted`(3).
const BOOTED: &str = "/run/systemd/system";

/// Where systemd's programs are; the last is NixOS's.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/run/current-system/sw/bin"];

/// systemd makes a scope in some 20 ms. One that is stuck is not waited for: the program starts without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says that it is in, and stays until its standard input ends.
const ANCHOR: [&str; 3] = ["/bin/sh", "-c", "echo; read -r end"];

/// Of what systemd says when it refuses, bytes.
const MOST_SAID: u64 = 512;

/// Why there is no unit.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnitError {
    #[error("systemd-run is not installed")]
    Missing,
    #[error("memory and tasks are not bounded by cgroup v2 here")]
    Legacy,
    #[error("systemd-run cannot be started: {0}")]
    Start(std::io::Error),
    #[error("systemd did not answer within {PATIENCE:?}")]
    Late,
    #[error("systemd refused: {0}")]
    Refused(String),
    #[error("systemd put it elsewhere, in {0}")]
    Elsewhere(String),
    #[error("systemd did not set its limits")]
    Limits,
}

/// systemd, as the init of this host.
#[derive(Clone, Debug)]
pub struct Manager {
    /// `systemd-run` and `systemctl`; `None`: not installed.
    run: Option<PathBuf>,
    control: Option<PathBuf>,
}

impl Manager {
    /// `None`: another init, or one of another pid namespace, for which our pids are others.
    pub fn find() -> Option<Self> {
        let is_init = fs::read("/proc/1/comm").is_ok_and(|comm| comm == b"systemd\n");
        let find = |program| {
            let mut places = DIRECTORIES.iter().map(|dir| Path::new(dir).join(program));
            places.find(|path| path.is_file())
        };
        let is_here = is_init && Path::new(BOOTED).is_dir();
        is_here.then(|| Self { run: find("systemd-run"), control: find("systemctl") })
    }

    /// Makes a unit with these limits; `group` is what the program's group is called without it.
    pub(super) fn unit(
        &self,
        hierarchies: &Hierarchies,
        group: &str,
        incident: &str,
        limits: &Limits,
    ) -> Result<(Group, Anchor), UnitError> {
        if !is_unified(hierarchies) {
            return Err(UnitError::Legacy);
        }
        let name = format!("{BEFORE}{group}{BEHIND}");
        let mut command = Command::new(self.run.as_ref().ok_or(UnitError::Missing)?);
        command
            .args(["--scope", "--quiet", "--collect", "--no-ask-password"])
            .arg(format!("--unit={name}"))
            .arg(format!("--slice={}", SLICE.trim_start_matches('/')))
            .arg(format!("--description=sensor: an agent looks into incident {incident}"))
            .args(properties(limits, own_unit(hierarchies).as_deref()))
            .arg("--")
            .args(ANCHOR);
        let mut anchor = Anchor(start(&mut command).map_err(UnitError::Start)?);
        anchor.wait()?;

        let path = hierarchies.path_of(anchor.0.id()).unwrap_or_default();
        let elsewhere = || UnitError::Elsewhere(path.display().to_string());
        if path != Path::new(SLICE).join(&name) {
            return Err(elsewhere());
        }
        let dir = hierarchies.dir(&path).ok_or_else(elsewhere)?;
        if limits.kept_bytes > 0 {
            self.keep(hierarchies, limits.kept_bytes);
        }
        let mut group = Group::adopt(&dir);
        let holds = group.look(hierarchies, limits);
        if !holds.memory || !holds.pids {
            return Err(UnitError::Limits);
        }
        group.dies_as_one();
        Ok((group, anchor))
    }

    /// Lets the slice keep so much for those in it: what nothing is kept for above keeps nothing below. An
    /// administrator may have given it more.
    fn keep(&self, hierarchies: &Hierarchies, bytes: u64) {
        let kept = hierarchies.dir(Path::new(SLICE)).and_then(|slice| cgroup::kept(&slice));
        let Some(program) = self.control.as_ref().filter(|_| kept.is_none_or(|kept| kept < bytes))
        else {
            return;
        };
        let mut command = Command::new(program);
        command.args(["set-property", "--runtime", "--no-ask-password", "sensor.slice"]);
        let Ok(mut child) = start(command.arg(format!("MemoryMin={bytes}"))) else { return };
        let end = Instant::now() + PATIENCE;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A process in a unit that nobody else is in yet; the unit is gone with it if nobody has come by then.
#[derive(Debug)]
pub(super) struct Anchor(Child);

impl Anchor {
    /// Until it is in.
    fn wait(&mut self) -> Result<(), UnitError> {
        let end = Instant::now() + PATIENCE;
        let Some(stdout) = &mut self.0.stdout else { return Err(UnitError::Late) };
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(stdout, PollFlags::IN)];
            match poll(&mut fds, Some(&left.try_into().unwrap_or_default())) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(1..) => break,
                Ok(0) | Err(_) => return Err(UnitError::Late),
            }
        }
        match stdout.read(&mut [0]) {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(UnitError::Refused(self.said())),
        }
    }

    /// The first line of what it has said, once it is over.
    fn said(&mut self) -> String {
        let _ = self.0.kill();
        let mut said = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            let _ = stderr.take(MOST_SAID).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().next().unwrap_or("it said nothing");
        line.chars().filter(|letter| !letter.is_control()).collect()
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The name of the group in a unit of ours.
pub(super) fn inside(unit: &str) -> Option<&str> {
    unit.strip_prefix(BEFORE)?.strip_suffix(BEHIND)
}

/// What systemd is to do with the unit.
fn properties(limits: &Limits, own: Option<&str>) -> Vec<String> {
    let mut properties = vec![
        "Delegate=yes".to_owned(),
        format!("MemoryMax={}", limits.memory_bytes),
        "MemorySwapMax=0".to_owned(),
        format!("MemoryMin={}", limits.kept_bytes),
        format!("TasksMax={}", limits.pids),
        format!("CPUWeight={CPU_WEIGHT}"),
        // Who stops the unit wants the end of it. We ask its program before.
        "KillSignal=SIGKILL".to_owned(),
    ];
    // It ends with the unit that we are in, however that ends; after it, for we end it in good order.
    properties.extend(
        own.into_iter()
            .flat_map(|own| ["BindsTo", "Before"].map(|dependency| format!("{dependency}={own}"))),
    );
    properties.iter().map(|property| format!("--property={property}")).collect()
}

/// The unit that we run in: the first below all slices.
fn own_unit(hierarchies: &Hierarchies) -> Option<String> {
    unit_of(&hierarchies.path_of(std::process::id()).ok()?)
}

fn unit_of(path: &Path) -> Option<String> {
    let mut names = path.components().skip(1).filter_map(|part| part.as_os_str().to_str());
    let kind = |name: &str| name.rsplit_once('.').map(|(_, kind)| kind.to_owned());
    let name = names.find(|name| kind(name).as_deref() != Some("slice"))?;
    // An escaped one would be read as another.
    let is_plain = name.chars().all(|one| one.is_ascii_alphanumeric() || ":-.@".contains(one));
    let is_unit = matches!(kind(name).as_deref(), Some("service" | "scope"));
    (is_plain && is_unit).then(|| name.to_owned())
}

fn is_unified(hierarchies: &Hierarchies) -> bool {
    let file = hierarchies.unified().map(|mount| mount.join("cgroup.controllers"));
    let has = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    ["memory", "pids"].iter().all(|name| has.split_whitespace().any(|one| one == *name))
}

fn start(command: &mut Command) -> std::io::Result<Child> {
    command.env_clear().env("LANG", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_that_a_path_is_in() {
        for (path, unit) in [
            ("/system.slice/sensor.service", Some("sensor.service")),
            ("/system.slice/sensor.service/core", Some("sensor.service")),
            ("/system.slice/system-a.slice/a@b.service", Some("a@b.service")),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/user.slice/user-0.slice/user@0.service/app.slice/x.service", Some("user@0.service")),
            ("/system.slice/a\\x2db.service", None),
            ("/system.slice/a b.service", None),
            ("/sensor-test-x", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(unit_of(Path::new(path)).as_deref(), unit, "{path}");
        }
    }

    #[test]
    fn what_is_asked_for() {
        let limits = Limits { memory_bytes: 1 << 30, kept_bytes: 1 << 20, pids: 48 };
        let said = properties(&limits, Some("sensor.service")).join(" ");
        for part in [
            "--property=MemoryMax=1073741824",
            "--property=MemoryMin=1048576",
            "--property=TasksMax=48",
            "--property=BindsTo=sensor.service",
            "--property=Before=sensor.service",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!properties(&limits, None).join(" ").contains("BindsTo"));
    }

    #[test]
    fn a_group_is_found_in_its_units_name() {
        let name = "investigation-12-3400-ab-1";
        assert_eq!(inside(&format!("sensor-{name}.scope")), Some(name));
        assert_eq!(inside(name), None);
        assert_eq!(inside("session-3.scope"), None);
    }

    /// A program that stands for systemd-run; whether it was taken for one that has made a unit.
    fn anchored(script: &str) -> Result<(), UnitError> {
        Anchor(start(Command::new("/bin/sh").args(["-c", script])).unwrap()).wait()
    }

    #[test]
    fn who_refuses_is_quoted_and_who_answers_is_believed() {
        anchored("echo; read -r end").unwrap();
        let refused = anchored("printf 'Failed\\033[1m: no\\nmore\\n' >&2; exit 1").unwrap_err();
        assert_eq!(refused.to_string(), "systemd refused: Failed[1m: no");
        let silent = anchored("exit 1").unwrap_err();
        assert_eq!(silent.to_string(), "systemd refused: it said nothing");
        // Standard output closed, and no end.
        let stuck = anchored("exec >&-; sleep 60").unwrap_err();
        assert!(matches!(stuck, UnitError::Refused(_)));
    }
}
