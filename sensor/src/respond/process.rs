//! One process as `/proc` and pidfds have it. What is signalled is the process that was meant: the
//! pid is held first, its start compared afterwards.

use std::{io, os::fd::OwnedFd, path::PathBuf};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, StatxFlags},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::lineage::ProcessKey;

/// Clock ticks per second in `/proc/PID/stat`: `USER_HZ`, part of the ABI and 100 on every
/// architecture that has eBPF.
const TICKS_PER_SECOND: u64 = 100;

const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// `PF_KTHREAD` of include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// What `/proc/PID/stat` says that is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// R, S, D, T, Z, …
    pub state: u8,
    pub ppid: u32,
    /// Start on the boot clock, ticks.
    start_ticks: u64,
    pub kernel_thread: bool,
}

impl Stat {
    /// An error of kind `NotFound`: no such process.
    pub fn read(pid: u32) -> io::Result<Self> {
        // Measured: a stat line has up to 350 bytes; comm is bounded by the kernel.
        let mut buffer = [0_u8; 1024];
        let length = read_proc(pid, "stat", &mut buffer)?;
        Self::parse(&buffer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// comm stands in parentheses and may hold anything, parentheses and newlines included.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let mut fields = text.split_ascii_whitespace();
        // Fields are counted from 3 here: proc_pid_stat(5).
        let state = *fields.next()?.as_bytes().first()?;
        let ppid = fields.next()?.parse().ok()?;
        let flags: u32 = fields.nth(4)?.parse().ok()?;
        let start_ticks = fields.nth(12)?.parse().ok()?;
        Some(Self { state, ppid, start_ticks, kernel_thread: flags & KERNEL_THREAD != 0 })
    }

    /// Neither a zombie nor dead.
    pub fn lives(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Whether a process with this stat can be the one that is meant.
    pub fn is(&self, key: ProcessKey) -> bool {
        self.start_ticks == key.start_ns / NS_PER_TICK
    }

    /// The start as far as ticks tell it, ns.
    pub fn start_ns(&self) -> u64 {
        self.start_ticks.saturating_mul(NS_PER_TICK)
    }
}

/// A process that cannot turn into another one while this exists.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
}

impl Handle {
    /// An error of kind `NotFound`: it is gone, whoever has its pid now.
    pub fn open(key: ProcessKey) -> io::Result<Self> {
        let pid =
            i32::try_from(key.tgid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(gone)?;
        // After the pid is held: what is compared is what will be signalled.
        let stat = Stat::read(key.tgid)?;
        if !stat.is(key) || !stat.lives() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { fd })
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        pidfd_send_signal(&self.fd, signal).map_err(gone)
    }
}

/// Sends `signal` to each that still lives; how many it reached. `/proc` tells a start to 10 ms, so that
/// a pid that was taken again within that time looks the same: `lives` is asked while the pid is held,
/// and knows the start to the ns.
pub fn signal_all(
    keys: impl IntoIterator<Item = ProcessKey>,
    signal: Signal,
    lives: impl Fn(ProcessKey) -> bool,
) -> u32 {
    let reached = |key: &ProcessKey| {
        Handle::open(*key).is_ok_and(|handle| lives(*key) && handle.signal(signal).is_ok())
    };
    keys.into_iter().filter(reached).count() as u32
}

/// Identity of a process that runs now, as exact as `/proc` tells it.
pub fn key_of(pid: u32) -> io::Result<ProcessKey> {
    Ok(ProcessKey::new(pid, Stat::read(pid)?.start_ns()))
}

/// What a process executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    pub dev: u64,
    pub ino: u64,
    /// Owned by root, and nobody else may write to it.
    pub trusted: bool,
    /// No name leads to it any more: it was replaced by an update, say.
    pub unlinked: bool,
}

impl Executable {
    /// Of a file; links are followed, and no file server is asked, which may not answer.
    pub fn at(path: &std::path::Path) -> io::Result<Self> {
        let held = rustix::fs::statx(
            rustix::fs::CWD,
            path,
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::BASIC_STATS,
        )?;
        let mode = held.stx_mode.into();
        let is_file = FileType::from_raw_mode(mode) == FileType::RegularFile;
        Ok(Self {
            dev: rustix::fs::makedev(held.stx_dev_major, held.stx_dev_minor),
            ino: held.stx_ino,
            trusted: is_file && held.stx_uid == 0 && mode & 0o022 == 0,
            unlinked: held.stx_nlink == 0,
        })
    }

    /// Of a process; an error for kernel threads, which have none.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(&PathBuf::from(format!("/proc/{pid}/exe")))
    }
}

/// Reads a small file of a process without allocating.
fn read_proc(pid: u32, name: &str, buffer: &mut [u8]) -> io::Result<usize> {
    let mut path = [0_u8; 48];
    let mut cursor = io::Cursor::new(&mut path[..]);
    io::Write::write_fmt(&mut cursor, format_args!("/proc/{pid}/{name}"))?;
    let length = cursor.position() as usize;
    let file = rustix::fs::open(&path[..length], OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(gone)?;
    let mut filled = 0;
    loop {
        match rustix::io::read(&file, &mut buffer[filled..]).map_err(gone)? {
            0 => return Ok(filled),
            more => filled += more,
        }
    }
}

/// A process that is just going away answers ESRCH.
fn gone(error: rustix::io::Errno) -> io::Error {
    if error == rustix::io::Errno::SRCH { io::ErrorKind::NotFound.into() } else { error.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_a_stat_line_whatever_its_name_is() {
        let line = b"42 (a) R 1 (b\n) S 7 42 42 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = Stat::parse(line).unwrap();
        let wanted = Stat { state: b'S', ppid: 7, start_ticks: 4711, kernel_thread: true };
        assert_eq!(stat, wanted);
        assert!(stat.is(ProcessKey::new(42, 47_110_000_000)));
        assert!(stat.is(ProcessKey::new(42, 47_119_999_999)));
        assert!(!stat.is(ProcessKey::new(42, 47_120_000_000)));
    }

    #[test]
    fn a_pid_with_another_start_is_another_process() {
        let own = key_of(std::process::id()).unwrap();
        assert!(Handle::open(own).is_ok());
        for start in [own.start_ns - NS_PER_TICK, own.start_ns + NS_PER_TICK, 0] {
            let other = Handle::open(ProcessKey::new(own.tgid, start)).unwrap_err();
            assert_eq!(other.kind(), io::ErrorKind::NotFound);
        }
        for pid in [0, u32::MAX] {
            let none = Handle::open(ProcessKey::new(pid, own.start_ns)).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_zombie_is_nobody() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let key = key_of(child.id()).unwrap();
        while Stat::read(key.tgid).unwrap().lives() {
            std::thread::yield_now();
        }
        assert!(Handle::open(key).is_err());
        child.wait().unwrap();
        assert_eq!(Stat::read(key.tgid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_executable_is_trusted_by_owner_and_mode() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        fs::write(&file, "").unwrap();
        let root = rustix::process::geteuid().is_root();
        for (mode, wanted) in [(0o755, root), (0o775, false), (0o757, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Executable::at(&file).unwrap().trusted, wanted, "{mode:o}");
        }
        assert!(!Executable::at(dir.path()).unwrap().trusted, "a directory");
    }

    proptest! {
        #[test]
        fn foreign_stat_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Stat::parse(&line);
        }

        #[test]
        fn any_start_is_a_time(ticks: u64) {
            let line = format!("7 (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {ticks} 0 0");
            let start_ns = Stat::parse(line.as_bytes()).unwrap().start_ns();
            prop_assert_eq!(start_ns, ticks.saturating_mul(NS_PER_TICK));
        }
    }
}
