//! One group's directory: its members, and freezing, killing and removing all that is in it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{CgroupError, write};

/// Groups below one group that are looked into. A user can nest them at will.
const MOST_GROUPS: usize = 4096;

/// Between two rounds of killing one by one: a dying process needs about as long.
const KILL_ROUND: Duration = Duration::from_millis(5);

/// Pids in `dir` and below, in order of the groups; `None` when there are more than `most`.
pub fn members(dir: &Path, most: usize) -> io::Result<Option<Vec<u32>>> {
    let mut pids = Vec::new();
    for group in below(dir)? {
        let text = match fs::read_to_string(group.join("cgroup.procs")) {
            Ok(text) => text,
            // Removed meanwhile.
            Err(error) if group != *dir && gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for pid in text.lines() {
            if pids.len() == most {
                return Ok(None);
            }
            pids.push(pid.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?);
        }
    }
    Ok(Some(pids))
}

/// The kernel's ids of `dir` and of the groups below it.
pub fn ids(dir: &Path) -> io::Result<HashSet<u64>> {
    // Removed meanwhile: nobody is in it.
    Ok(below(dir)?.iter().filter_map(|group| super::id(group).ok()).collect())
}

/// Directory of the group with this id, below `mount`.
pub fn by_id(mount: &Path, id: u64) -> io::Result<PathBuf> {
    /// As `open_by_handle_at`(2) takes it, of a kernfs file.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        /// `FILEID_KERNFS` of include/linux/exportfs.h.
        kind: i32,
        id: u64,
    }
    let mount = File::open(mount)?;
    let mut handle = Handle { bytes: size_of::<u64>() as u32, kind: 0xfe, id };
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle lives and says how long it is; what comes back is a descriptor or an error.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has it.
    let group = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let path = fs::read_link(format!("/proc/self/fd/{}", group.as_raw_fd()))?;
    // Of a removed one the kernel says so behind its name.
    if path.exists() { Ok(path) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// `dir` and the groups below it, parents first, so many at most. What is gone meanwhile is left out.
pub fn below_within(dir: &Path, most: usize) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(group) = found.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
            if found.len() >= most {
                return found;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// `dir` and the groups below it, parents first.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(group) = found.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if group != *dir && gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
            if found.len() > MOST_GROUPS {
                return Err(io::Error::other("more than 4096 groups below it"));
            }
        }
    }
    Ok(found)
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Whether the group itself was told to freeze (not one above it).
pub fn frozen(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
}

/// Whether a process lives in it or below.
pub fn populated(dir: &Path) -> bool {
    event(dir, "populated") != Some(false)
}

/// Freezes all that is in it and below, and waits until it stands still. Where that takes longer
/// than `patience` (`TooSlow`), the freeze stays ordered and goes on.
pub fn freeze(dir: &Path, patience: Duration) -> Result<(), CgroupError> {
    spare_ourselves(dir)?;
    write(&dir.join("cgroup.freeze"), 1)?;
    wait(dir, "frozen", true, patience)
}

/// Lets it run again.
pub fn thaw(dir: &Path, patience: Duration) -> Result<(), CgroupError> {
    write(&dir.join("cgroup.freeze"), 0)?;
    wait(dir, "frozen", false, patience)
}

/// Kills all that is in it and below, frozen or not, and waits until nothing lives. With
/// `cgroup.kill` (Linux 5.14) nothing can escape by forking; without, it is frozen first.
pub fn kill(dir: &Path, patience: Duration) -> Result<(), CgroupError> {
    spare_ourselves(dir)?;
    let file = dir.join("cgroup.kill");
    if file.exists() {
        write(&file, 1)?;
        return wait(dir, "populated", false, patience);
    }
    let end = Instant::now() + patience;
    // v1 groups have no cgroup.freeze; there the rounds alone must win.
    let _ = write(&dir.join("cgroup.freeze"), 1);
    loop {
        let pids =
            members(dir, usize::MAX).map_err(CgroupError::io("list", dir))?.unwrap_or_default();
        if pids.is_empty() {
            let _ = write(&dir.join("cgroup.freeze"), 0);
            return Ok(());
        }
        for pid in pids {
            kill_member(dir, pid);
        }
        if Instant::now() > end {
            let path = dir.to_owned();
            return Err(CgroupError::TooSlow { what: "empty", path, waited: patience });
        }
        std::thread::sleep(KILL_ROUND);
    }
}

/// SIGKILL to a member. The pid is held before the membership is asked for again: what has been
/// reused by then belongs to another group.
fn kill_member(dir: &Path, pid: u32) {
    let Some(handle) =
        Pid::from_raw(pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return;
    };
    let still =
        members(dir, usize::MAX).is_ok_and(|pids| pids.is_some_and(|all| all.contains(&pid)));
    if still {
        let _ = pidfd_send_signal(&handle, Signal::KILL);
    }
}

/// Removes it and the empty groups below; the last members may need a moment to be reaped.
pub fn remove(dir: &Path, patience: Duration) -> Result<(), CgroupError> {
    let end = Instant::now() + patience;
    loop {
        let result = below(dir).and_then(|groups| {
            groups.iter().rev().try_for_each(|group| match fs::remove_dir(group) {
                Err(error) if !gone(&error) => Err(error),
                _ => Ok(()),
            })
        });
        match result {
            Ok(()) => return Ok(()),
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(CgroupError::io("remove", dir)(error));
            }
            Err(_) => std::thread::sleep(KILL_ROUND),
        }
    }
}

/// A daemon that freezes its own group never wakes up to thaw it.
fn spare_ourselves(dir: &Path) -> Result<(), CgroupError> {
    let own = std::process::id();
    let pids = members(dir, usize::MAX).map_err(CgroupError::io("list", dir))?.unwrap_or_default();
    if pids.contains(&own) {
        return Err(CgroupError::Ourselves { path: dir.to_owned() });
    }
    Ok(())
}

fn event(dir: &Path, name: &str) -> Option<bool> {
    let text = fs::read_to_string(dir.join("cgroup.events")).ok()?;
    flag(&text, name)
}

pub(crate) fn flag(text: &str, name: &str) -> Option<bool> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(|value| value == "1")
}

fn wait(dir: &Path, name: &str, wanted: bool, patience: Duration) -> Result<(), CgroupError> {
    let path = dir.join("cgroup.events");
    let end = Instant::now() + patience;
    let file = fs::File::open(&path).map_err(CgroupError::io("open", &path))?;
    loop {
        // Each read re-arms the notification.
        let mut buffer = [0_u8; 256];
        let length = std::os::unix::fs::FileExt::read_at(&file, &mut buffer, 0)
            .map_err(CgroupError::io("read", &path))?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        if flag(&text, name) == Some(wanted) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let what = match (name, wanted) {
                ("frozen", true) => "frozen",
                ("frozen", false) => "thawed",
                _ => "empty",
            };
            return Err(CgroupError::TooSlow { what, path: dir.to_owned(), waited: patience });
        }
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        let timeout = left.try_into().unwrap_or_default();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(CgroupError::io("watch", &path)(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_freezes_or_kills_itself() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.procs"), format!("1\n{}\n", std::process::id())).unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "0\n").unwrap();
        let patience = Duration::ZERO;
        for done in [freeze(dir.path(), patience), kill(dir.path(), patience)] {
            assert!(matches!(done, Err(CgroupError::Ourselves { .. })));
        }
        assert!(!frozen(dir.path()));
    }

    #[test]
    fn reads_flags() {
        let text = "populated 1\nfrozen 0\n";
        assert_eq!(flag(text, "populated"), Some(true));
        assert_eq!(flag(text, "frozen"), Some(false));
        assert_eq!(flag(text, "froz"), None);
        assert_eq!(flag("", "frozen"), None);
    }
}
