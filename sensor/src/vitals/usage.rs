//! How full the host is in percent, every few seconds, where an operator has set thresholds: a thread of its
//! own, which is not there where none is set.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::{StatVfs, fstatvfs};

use super::{parse, reading::read};
use crate::{
    clock,
    detect::usage::{Detector, Thresholds},
    proto::Usage,
};

/// `/proc/stat` has the sum of all CPUs in its first line; `/proc/meminfo` is 1.5 KiB.
const BUFFER: usize = 4096;

#[derive(Clone, Debug)]
pub struct Options {
    pub proc: PathBuf,
    /// A directory on the disk that is meant.
    pub disk: PathBuf,
    pub every: Duration,
    pub thresholds: Thresholds,
}

/// The thread; ends with this value.
pub struct Poller {
    thread: Option<JoinHandle<()>>,
    stop: Option<mpsc::Sender<()>>,
}

impl Poller {
    /// `tell` gets the looks that are worth a record.
    pub fn start(options: Options, tell: impl Fn(Usage) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("usage".into()).spawn(move || {
            let mut probe = Probe::open(&options.proc, &options.disk);
            let mut detector = Detector::new(options.thresholds);
            loop {
                let usage = probe.read(clock::boot_ns());
                if detector.tells(&usage) {
                    // What this one makes of it is whoever gets it to find out once more.
                    detector.observe(&usage);
                    tell(usage);
                }
                match stopped.recv_timeout(options.every) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { thread: Some(thread), stop: Some(stop) })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panicked: then there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

struct Probe {
    meminfo: Option<File>,
    stat: Option<File>,
    disk: Option<File>,
    /// Ticks of all CPUs at the last look, and of those the idle ones.
    last: Option<(u64, u64)>,
    buffer: Box<[u8; BUFFER]>,
}

impl Probe {
    fn open(proc: &Path, disk: &Path) -> Self {
        Self {
            meminfo: File::open(proc.join("meminfo")).ok(),
            stat: File::open(proc.join("stat")).ok(),
            disk: File::open(disk).ok(),
            last: None,
            buffer: Box::new([0; BUFFER]),
        }
    }

    /// The first look has no CPU: that is a difference.
    fn read(&mut self, at_ns: u64) -> Usage {
        let buffer = self.buffer.as_mut_slice();
        let memory = read(self.meminfo.as_ref(), buffer).map(parse::memory).unwrap_or_default();
        let memory_percent = memory.total.zip(memory.available);
        let now = read(self.stat.as_ref(), buffer).and_then(parse::cpus);
        let last = std::mem::replace(&mut self.last, now);
        let cpu_percent = now.zip(last).and_then(|((all, idle), (all_before, idle_before))| {
            let all = all.checked_sub(all_before).filter(|all| *all > 0)?;
            percent(all.saturating_sub(idle.saturating_sub(idle_before)), all)
        });
        let disk = self.disk.as_ref().and_then(|disk| fstatvfs(disk).ok());
        Usage {
            at_ns,
            memory_percent: memory_percent
                .and_then(|(total, available)| percent(total.saturating_sub(available), total)),
            disk_percent: disk.as_ref().and_then(used),
            cpu_percent,
        }
    }
}

/// As df(1) has it: what only root may use is no part of the whole.
fn used(disk: &StatVfs) -> Option<u32> {
    let used = disk.f_blocks.checked_sub(disk.f_bfree)?;
    percent(used, used.checked_add(disk.f_bavail)?)
}

/// Rounded.
fn percent(part: u64, of: u64) -> Option<u32> {
    (of > 0).then(|| (part.min(of) as f64 * 100.0 / of as f64).round() as u32)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn percentages_as_a_person_reads_them() {
        let proc = tempfile::tempdir().unwrap();
        fs::write(proc.path().join("meminfo"), "MemTotal: 1000 kB\nMemAvailable: 96 kB\n").unwrap();
        fs::write(proc.path().join("stat"), "cpu 10 0 10 70 10 0 0 0 0 0\n").unwrap();
        let mut probe = Probe::open(proc.path(), proc.path());
        let first = probe.read(1);
        assert_eq!((first.memory_percent, first.cpu_percent), (Some(90), None));
        assert!(first.disk_percent.unwrap() <= 100);
        fs::write(proc.path().join("stat"), "cpu 70 0 10 110 10 0 0 0 0 0\n").unwrap();
        assert_eq!(probe.read(2).cpu_percent, Some(60));
        assert_eq!(probe.read(3).cpu_percent, None, "no time has passed");
        let mut nothing = Probe::open(&proc.path().join("no"), &proc.path().join("no"));
        assert_eq!(nothing.read(1), Usage { at_ns: 1, ..Usage::default() });
    }

    #[test]
    fn it_tells_while_something_is_above() {
        let proc = tempfile::tempdir().unwrap();
        let available = |kib: u32| {
            let text = format!("MemTotal: 1000 kB\nMemAvailable: {kib} kB\n");
            fs::write(proc.path().join("meminfo"), text).unwrap();
        };
        available(500);
        let (told, tellings) = mpsc::channel();
        let options = Options {
            proc: proc.path().to_owned(),
            disk: proc.path().to_owned(),
            every: Duration::from_millis(5),
            thresholds: Thresholds { memory: Some(80), ..Thresholds::default() },
        };
        let poller = Poller::start(options, move |usage| {
            let _ = told.send(usage);
        })
        .unwrap();
        assert!(tellings.recv_timeout(Duration::from_millis(50)).is_err(), "nothing is above");
        available(100);
        let first = tellings.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(first.memory_percent, Some(90));
        available(500);
        drop(poller);
    }
}
