//! A program while it runs in its sandbox, and what has to be taken away after it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::PATIENCE;
use crate::{
    cgroup::{self, Group},
    feed::runs::Door,
    kernel::Watched,
    respond::process::Stat,
};

/// Processes of a program that are looked at: more than any configuration allows.
const MOST_TASKS: usize = 1 << 16;

/// Rounds in which a session without a cgroup is killed. What forks faster than a look through
/// `/proc` is bounded by its rlimits.
const SESSION_ROUNDS: u32 = 50;

/// What has to be taken away again, whatever happens.
#[derive(Debug)]
pub(super) struct Place {
    pub scratch: PathBuf,
    pub output: PathBuf,
    /// Its home is of use to a later life.
    pub kept: bool,
    pub group: Option<Group>,
    pub door: Option<Door>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody comes in any more.
        self.door = None;
        if let Some(group) = &self.group
            && let Err(error) = group.end(PATIENCE)
        {
            tracing::error!(%error, "an investigation's cgroup stays behind");
        }
        if !self.kept {
            forget(&self.scratch, &self.output);
        }
    }
}

pub(super) fn forget(home: &Path, output: &Path) {
    if let Err(error) = fs::remove_dir_all(home)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(%error, path = %home.display(), "a scratch directory stays behind");
    }
    let _ = fs::remove_file(output);
}

/// A program in its sandbox. Dropping it kills and removes all of it.
#[derive(Debug)]
pub struct Inmate {
    pub child: Child,
    /// What it writes to its standard output, from the beginning of this life on.
    pub output: fs::File,
    /// Which bounds hold, one sentence.
    pub bounds: String,
    /// By which it is known what it executes.
    pub watched: Option<Watched>,
    pub(super) place: Place,
    pub(super) reaped: Option<ExitStatus>,
}

impl Inmate {
    /// Its home stays when it is gone, for a later life of the same run: [`Sandbox::forget`].
    pub fn keep_home(&mut self) {
        self.place.kept = true;
    }

    /// Directories of its group; none where it has none.
    pub fn groups(&self) -> &[PathBuf] {
        self.place.group.as_ref().map_or(&[], Group::dirs)
    }

    /// All that lives in its group, or it alone.
    pub fn processes(&self) -> Vec<u32> {
        let members = self.groups().first().and_then(|dir| cgroup::members(dir, MOST_TASKS).ok());
        members.flatten().unwrap_or_else(|| vec![self.child.id()])
    }

    /// Asks it to end.
    pub fn ask(&self, signal: Signal) {
        let _ = kill_process_group(self.session(), signal);
    }

    /// Kills all that is left of it, and reaps it.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.reaped {
            return Ok(status);
        }
        // Before it is reaped: until then nobody else can have its session's number.
        match &self.place.group {
            Some(group) => {
                if let Err(error) = group.kill(PATIENCE) {
                    tracing::error!(%error, "an investigation is not dead yet");
                }
            }
            None => kill_session(self.session()),
        }
        let _ = kill_process_group(self.session(), Signal::KILL);
        let status = self.child.wait()?;
        self.reaped = Some(status);
        Ok(status)
    }

    /// Limits that it has met, as sentences.
    pub fn casualties(&self) -> Vec<&'static str> {
        let (memory, pids) = self.place.group.as_ref().map(Group::casualties).unwrap_or_default();
        let mut met = Vec::new();
        if memory > 0 {
            met.push("it reached its memory limit");
        }
        if pids > 0 {
            met.push("it reached its limit of tasks");
        }
        met
    }

    /// It leads its session, and its process group.
    fn session(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Inmate {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Kills every process of a session; those that left it for one of their own are not found.
fn kill_session(session: Pid) {
    for _ in 0..SESSION_ROUNDS {
        let mut found = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
            // Held before it is asked for its session: what answers is what is killed.
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let lives =
                Stat::read(pid.as_raw_nonzero().get() as u32).is_ok_and(|stat| stat.lives());
            // Not rustix's, which takes the 0 of kernel threads for impossible.
            let asked = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
            let its = nix::unistd::getsid(Some(asked)).map(nix::unistd::Pid::as_raw);
            if lives && its == Ok(session.as_raw_nonzero().get()) {
                found = true;
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
