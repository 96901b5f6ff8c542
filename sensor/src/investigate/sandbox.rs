//! Where a foreign program runs: as an unprivileged user, in a session, a cgroup and a scratch
//! directory of its own, with limits, a clean environment and no descriptor of ours. Nothing of it
//! is left when it is over.

mod enter;
mod home;
mod inmate;
mod leftovers;
mod unit;
mod walls;

use std::{
    fs::{self, OpenOptions},
    io::{self, Seek as _, SeekFrom},
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::unistd::User;
use rustix::process::{Gid, Resource, Uid};

pub use self::{
    inmate::Inmate,
    leftovers::{clear_leftovers, tidy, unread},
    unit::Manager,
};
use self::{
    inmate::{Place, forget},
    unit::Anchor,
};
use crate::{
    cgroup::{self, CgroupError, Group, Hierarchies, Limits},
    feed::runs::{Door, Doors, Guest, Run, SOCKET},
    kernel::{Watched, Witness},
    lineage::ProcessKey,
    respond::process::key_of,
};

/// Name of an agent's group: this, core's pid and start, and the investigation's id.
const PREFIX: &str = "investigation";

/// Where programs are looked for; what the administrator installed comes first.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The largest file that it may write: its scratch directory may be in memory.
const LARGEST_FILE: u64 = 64 << 20;

/// A group that nobody is in and that owns nothing: the last of those that systemd gives to users that come and go,
/// which takes them by chance and looks whether they are in use.
const STRANGERS: u32 = 65_519;

/// Killing and removing a group of 128 tasks takes some 20 ms; a host in trouble needs longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The usual soft limit.
const OPEN_FILES: u64 = 1024;

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("there is no user {0}: create one, or name another in the configuration")]
    NoUser(String),
    #[error("an investigation does not run as root: name another user than {0}")]
    Root(String),
    #[error("the command is empty")]
    NoCommand,
    #[error("cannot make the scratch directory {path}: {source}", path = .path.display())]
    Scratch { path: PathBuf, source: io::Error },
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
}

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    Named(String),
    /// The culprit's user, with its own group and no other.
    Uid(u32),
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Uid(uid) => write!(f, "uid {uid}"),
        }
    }
}

/// The bounds of a foreign program.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Not root. Ignored where the daemon itself is not root: then the program is as powerless.
    pub user: Whom,
    /// For all its processes together.
    pub memory_bytes: u64,
    /// Of that, what the kernel leaves it when memory is short, where it can.
    pub kept_bytes: u64,
    /// Processes and threads together.
    pub pids: u64,
    pub hierarchies: Hierarchies,
    /// v2 path below which its group is made: [`Hierarchies::home`].
    pub home: PathBuf,
    /// Who makes its group instead, as a unit; `None`: another init than systemd.
    pub manager: Option<Manager>,
    /// Directory of scratch directories; made if need be.
    pub scratch: PathBuf,
    /// The group that may read the log, which is no program's of ours to be in.
    pub log_gid: Option<u32>,
    /// By which it may ask this sensor about its incident; `None`: it may not.
    pub doors: Option<Doors>,
    /// Who hears what it executes; `None`: nobody.
    pub witness: Option<Arc<Witness>>,
}

/// What is started in it.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    pub argv: &'a [String],
    /// On top of what every program gets.
    pub env: &'a [(String, String)],
    /// Files in its home, by relative path.
    pub files: &'a [(PathBuf, Vec<u8>)],
}

impl Sandbox {
    /// Starts a program: input and errors are pipes, and its output is a file. Only the thread that starts
    /// it may wait for it: the program dies with that thread.
    pub fn start(
        &self,
        id: &str,
        incident: &str,
        start: &Program<'_>,
    ) -> Result<Inmate, SandboxError> {
        let (program, arguments) = start.argv.split_first().ok_or(SandboxError::NoCommand)?;
        let identity = self.identity()?;
        let mut place = Place {
            scratch: self.make_scratch(id)?,
            output: self.output(id),
            kept: false,
            group: None,
            door: None,
        };
        home::furnish(&place.scratch, start.files, identity)
            .map_err(|(path, source)| SandboxError::Scratch { path, source })?;
        let (output, tail) = self.make_output(id)?;
        // Until the program is in.
        let mut anchor = None;
        let mut no_unit = None;
        let entered = self.make_group(id, incident, &mut no_unit).and_then(|(group, held)| {
            let entrances = group.entrances();
            // Taken away again whichever it is.
            (place.group, anchor) = (Some(group), held);
            entrances
        });
        let (entrances, without) = match entered {
            Ok(entrances) => (entrances, None),
            Err(error) => {
                drop(place.group.take().map(|group| group.end(PATIENCE)));
                (Vec::new(), Some(error.to_string()))
            }
        };
        let rlimits = self.rlimits(place.group.as_ref());
        let mut bounds = self.describe(place.group.as_ref(), without);
        if let Some(no_unit) = no_unit {
            bounds = format!("{bounds}; no unit of its own: {no_unit}");
        }
        // Before its program is in it. A shell that holds a unit was there before, and is not told of.
        let watched = match self.watch(place.group.as_ref()) {
            Ok(watched) => watched,
            Err(why) => {
                bounds = format!("{bounds}; what it executes is not recorded: {why}");
                None
            }
        };
        let closed = identity.and_then(|identity| closed_to(&place.scratch, identity));
        if let Some(closed) = closed {
            let closed = closed.display();
            bounds = format!("{bounds}; its home is behind {closed}, where it may not pass");
        }
        // What it starts in is open to it by any other name.
        let socket = if closed.is_some() { SOCKET.into() } else { place.scratch.join(SOCKET) };
        // An earlier life's.
        let _ = fs::remove_file(place.scratch.join(SOCKET));
        match self.open_door(id, incident, &place, identity) {
            Ok(door) => place.door = Some(door),
            Err(why) => bounds = format!("{bounds}; it cannot ask the sensor: {why}"),
        }

        home::give(&place.scratch, identity)
            .map_err(|source| SandboxError::Scratch { path: place.scratch.clone(), source })?;

        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("HOME", &place.scratch)
            .env("TMPDIR", &place.scratch)
            .env("LANG", "C.UTF-8")
            .env("SENSOR_INCIDENT", incident)
            .envs(start.env.iter().map(|(name, value)| (name, value)))
            .envs(place.door.is_some().then_some(("SENSOR_SOCKET", socket)))
            .envs(std::env::current_exe().ok().map(|sensor| ("SENSOR_PROGRAM", sensor)))
            .current_dir(&place.scratch)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::piped());
        let walls = match walls::around(&place.scratch) {
            Ok(walls) => Some(walls),
            Err(why) => {
                bounds = format!("{bounds}; it may write wherever its user may: {why}");
                None
            }
        };
        // SAFETY: between fork and exec `enter` makes system calls only and allocates nothing.
        unsafe {
            command.pre_exec(move || enter::enter(&entrances, identity, &rlimits, walls.as_ref()));
        }
        let child = command
            .spawn()
            .map_err(|source| SandboxError::Start { program: program.clone(), source })?;
        drop(anchor);
        Ok(Inmate { child, output: tail, bounds, watched, place, reaped: None })
    }

    /// Has the kernel tell what is executed in its group.
    fn watch(&self, group: Option<&Group>) -> Result<Option<Watched>, String> {
        let Some(witness) = &self.witness else { return Ok(None) };
        let group = group.ok_or("it has no cgroup by which it is known")?;
        let watched = cgroup::id(group.dir()).and_then(|id| witness.watch(id));
        watched.map(Some).map_err(|error| error.to_string())
    }

    /// `None`: we are nobody ourselves.
    fn identity(&self) -> Result<Option<(Uid, Gid)>, SandboxError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let user = match &self.user {
            Whom::Named(name) => User::from_name(name),
            Whom::Uid(uid) => User::from_uid(nix::unistd::Uid::from_raw(*uid)),
        };
        let user = user.ok().flatten();
        let user = user.ok_or_else(|| SandboxError::NoUser(self.user.to_string()))?;
        if user.uid.is_root() || user.gid.as_raw() == 0 {
            return Err(SandboxError::Root(self.user.to_string()));
        }
        // By the group of the feed's user it would read all records.
        let gid = Some(user.gid.as_raw()).filter(|gid| Some(*gid) != self.log_gid);
        let (uid, gid) = (user.uid.as_raw(), gid.unwrap_or(STRANGERS));
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    /// Its home, which is ours until it is given away.
    fn make_scratch(&self, id: &str) -> Result<PathBuf, SandboxError> {
        let path = self.scratch.join(id);
        let make = || {
            // Others pass through it, and list nothing.
            fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.scratch)?;
            home::seal(&path)
        };
        make().map_err(|source| SandboxError::Scratch { path: path.clone(), source })?;
        Ok(path)
    }

    /// The file that its output goes to, for it and for us. Ours alone: it outlives both.
    fn make_output(&self, id: &str) -> Result<(fs::File, fs::File), SandboxError> {
        let path = self.output(id);
        let make = || {
            let mut options = OpenOptions::new();
            let theirs = options.append(true).create(true).mode(0o600).open(&path)?;
            let mut ours = fs::File::open(&path)?;
            // Of an earlier life all was read.
            ours.seek(SeekFrom::End(0))?;
            Ok((theirs, ours))
        };
        make().map_err(|source| SandboxError::Scratch { path: path.clone(), source })
    }

    /// Takes away the home of a run that has no more lives.
    pub fn forget(&self, id: &str) {
        forget(&self.home_of(id), &self.output(id));
    }

    /// Home of a run.
    pub fn home_of(&self, id: &str) -> PathBuf {
        self.scratch.join(id)
    }

    /// What a run has written to its standard output, in all of its lives.
    pub fn output(&self, id: &str) -> PathBuf {
        self.scratch.join(format!("{id}.out"))
    }

    /// Where it comes in when it asks the sensor.
    fn open_door(
        &self,
        id: &str,
        incident: &str,
        place: &Place,
        identity: Option<(Uid, Gid)>,
    ) -> Result<Door, String> {
        let doors = self.doors.as_ref().ok_or("nobody answers it here")?;
        let group = place.group.as_ref().ok_or("it has no cgroup by which it is known")?;
        let group = self.hierarchies.path(group.dir()).ok_or("its cgroup is out of sight")?;
        let (uid, gid) =
            identity.unwrap_or_else(|| (rustix::process::geteuid(), rustix::process::getegid()));
        let run = Run { investigation: id.to_owned(), incident: incident.to_owned() };
        let guest = Guest { run, uid: uid.as_raw(), gid: gid.as_raw(), group };
        doors
            .open(&place.scratch, guest, self.hierarchies.clone())
            .map_err(|error| format!("its socket cannot be made: {error}"))
    }

    /// Its group, and what holds it until it is in if it is a unit; why it is none, where it should be one.
    fn make_group(
        &self,
        id: &str,
        incident: &str,
        no_unit: &mut Option<String>,
    ) -> Result<(Group, Option<Anchor>), CgroupError> {
        let limits = Limits {
            memory_bytes: self.memory_bytes,
            kept_bytes: self.kept_bytes,
            pids: self.pids,
        };
        let own = key_of(std::process::id()).unwrap_or_default();
        let name = format!("{PREFIX}-{}-{}-{id}", own.tgid, own.start_ns);
        if let Some(manager) = &self.manager {
            match manager.unit(&self.hierarchies, &name, incident, &limits) {
                Ok((group, anchor)) => return Ok((group, Some(anchor))),
                Err(error) => *no_unit = Some(error.to_string()),
            }
        }
        let group = Group::create(&self.hierarchies, &self.home, &name, &limits)?;
        Ok((group, None))
    }

    /// What holds for each process by itself: always a few, and stand-ins for limits that no cgroup
    /// holds.
    fn rlimits(&self, group: Option<&Group>) -> Vec<(Resource, u64)> {
        let holds = group.map(Group::holds).unwrap_or_default();
        let mut limits = vec![
            (Resource::Core, 0),
            (Resource::Fsize, LARGEST_FILE),
            (Resource::Nofile, OPEN_FILES),
        ];
        if !holds.memory {
            // Not the address space: runtimes reserve far more than they use.
            limits.push((Resource::Data, self.memory_bytes));
        }
        if !holds.pids {
            // Counts everything of this user on the host.
            limits.push((Resource::Nproc, self.pids));
        }
        limits
    }

    fn describe(&self, group: Option<&Group>, without: Option<String>) -> String {
        let holds = group.map(Group::holds).unwrap_or_default();
        let by = |held| if held { "by cgroup" } else { "by rlimit, each process by itself" };
        let mut text = format!(
            "runs as {} with {} MiB of memory ({}) and {} tasks ({})",
            if rustix::process::geteuid().is_root() {
                self.user.to_string()
            } else {
                "the daemon's user".to_owned()
            },
            self.memory_bytes >> 20,
            by(holds.memory),
            self.pids,
            by(holds.pids),
        );
        if let Some(unit) = group.and_then(Group::unit) {
            text = format!("{text}, as {unit}");
        }
        if holds.kept {
            text = format!("{text}; {} MiB are kept for it", self.kept_bytes >> 20);
        } else if self.kept_bytes > 0 {
            text = format!("{text}; none is kept for it");
        }
        if let Some(without) = without {
            text = format!("{text}; no cgroup of its own: {without}");
        }
        text
    }
}

/// The directory above `path` that this user may not pass through, if there is one. What the
/// program has as its current directory it can use all the same, but not by its name.
fn closed_to(path: &Path, (uid, gid): (Uid, Gid)) -> Option<&Path> {
    path.ancestors().skip(1).find(|above| {
        fs::metadata(above).is_ok_and(|meta| {
            let execute = if meta.uid() == uid.as_raw() {
                0o100
            } else if meta.gid() == gid.as_raw() {
                0o010
            } else {
                0o001
            };
            meta.mode() & execute == 0
        })
    })
}

/// Whether a v2 path is that of one of our agents, of this daemon or another one.
pub fn is_agent(home: &Path, cgroup: &Path) -> bool {
    let below = |above: &Path| {
        let name = cgroup.strip_prefix(above).ok()?.components().next()?;
        Some(name.as_os_str().to_string_lossy().into_owned())
    };
    let unit = below(Path::new(unit::SLICE));
    below(home).is_some_and(|name| parse(&name).is_some())
        || unit.is_some_and(|name| unit::inside(&name).and_then(parse).is_some())
}

/// Core's identity and the investigation's id from a group's name.
pub(crate) fn parse(name: &str) -> Option<(ProcessKey, &str)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.splitn(3, '-');
    let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((ProcessKey::new(pid, start), parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_our_agents_by_their_group() {
        let home = Path::new("/sensor");
        let is = |path: &str| is_agent(home, Path::new(path));
        assert!(is("/sensor/investigation-12-3400-ab-1"));
        assert!(is("/sensor/investigation-12-3400-ab-1/deeper"));
        for other in ["/sensor", "/sensor/core", "/sensor/investigation-x-1-ab", "/a", ""] {
            assert!(!is(other), "{other}");
        }
        assert!(is("/sensor.slice/sensor-investigation-12-3400-ab-1.scope/deeper"));
        assert!(!is("/sensor.slice/session-3.scope") && !is("/sensor.slice"));
        assert!(!is("/user.slice/investigation-12-3400-ab"), "anybody may call a group so");
        assert!(!is("/user.slice/sensor.slice/sensor-investigation-12-3400-ab.scope"));
        let parsed = parse("investigation-12-3400-ab-1");
        assert_eq!(parsed, Some((ProcessKey::new(12, 3400), "ab-1")));
    }
}
