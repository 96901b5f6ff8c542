//! One look at the host.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::fstatvfs;

use super::parse::{self, Stalls};
use crate::proto::Vitals;

/// The longest of the files is `/proc/meminfo`, 1.5 KiB.
const BUFFER: usize = 4096;

/// Files that stay open: a look costs no more than reading them, 50 µs once a second.
pub(super) struct Probe {
    cpu: Stalling,
    memory: Stalling,
    io: Stalling,
    load: Option<File>,
    meminfo: Option<File>,
    disk: Option<File>,
    proc: PathBuf,
    /// Directories of /proc that are no processes.
    others: Option<u64>,
    last_ns: u64,
    buffer: Box<[u8; BUFFER]>,
}

/// One resource that tasks wait for.
struct Stalling {
    file: Option<File>,
    last: Stalls,
}

impl Stalling {
    fn open(path: PathBuf) -> Self {
        Self { file: File::open(path).ok(), last: Stalls::default() }
    }

    /// Parts of the time since the last look, percent.
    fn read(&mut self, span_ns: u64, buffer: &mut [u8]) -> (Option<f32>, Option<f32>) {
        let now = read(self.file.as_ref(), buffer).map(parse::stalls).unwrap_or_default();
        let last = std::mem::replace(&mut self.last, now);
        (percent(last.some, now.some, span_ns), percent(last.full, now.full, span_ns))
    }
}

/// Accumulated µs at two moments, as a part of the time between them. The kernel adds up a little later
/// than it happens: no more than all of it.
pub(super) fn percent(before_us: Option<u64>, now_us: Option<u64>, span_ns: u64) -> Option<f32> {
    let stalled_ns = now_us?.saturating_sub(before_us?) as f64 * 1_000.0;
    (span_ns > 0).then(|| (stalled_ns / span_ns as f64 * 100.0).min(100.0) as f32)
}

pub(super) fn read<'a>(file: Option<&File>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = file?.read_at(buffer, 0).ok()?;
    Some(&buffer[..length])
}

impl Probe {
    /// `disk`: a directory on the disk whose room is looked at.
    pub fn open(proc: &Path, disk: &Path) -> Self {
        let pressure = proc.join("pressure");
        Self {
            cpu: Stalling::open(pressure.join("cpu")),
            memory: Stalling::open(pressure.join("memory")),
            io: Stalling::open(pressure.join("io")),
            load: File::open(proc.join("loadavg")).ok(),
            meminfo: File::open(proc.join("meminfo")).ok(),
            disk: File::open(disk).ok(),
            proc: proc.to_owned(),
            others: other_directories(proc),
            last_ns: 0,
            buffer: Box::new([0; BUFFER]),
        }
    }

    /// `now_ns`: boot clock. The first look has no stalls: they are differences.
    pub fn read(&mut self, now_ns: u64) -> Vitals {
        let span_ns = now_ns.saturating_sub(std::mem::replace(&mut self.last_ns, now_ns));
        let buffer = self.buffer.as_mut_slice();
        let (cpu_some, _) = self.cpu.read(span_ns, buffer);
        let (memory_some, memory_full) = self.memory.read(span_ns, buffer);
        let (io_some, io_full) = self.io.read(span_ns, buffer);
        let (load, threads) = read(self.load.as_ref(), buffer).map(parse::load).unwrap_or_default();
        let memory = read(self.meminfo.as_ref(), buffer).map(parse::memory).unwrap_or_default();
        let disk = self.disk.as_ref().and_then(|disk| fstatvfs(disk).ok());
        // The kernel adds the number of processes to the links of /proc (proc_root_getattr).
        let links = fs::metadata(&self.proc).ok().map(|found| found.nlink());
        let processes = links.zip(self.others).map(|(links, others)| links.saturating_sub(others));
        Vitals {
            cpu_some,
            memory_some,
            memory_full,
            io_some,
            io_full,
            load,
            available_bytes: memory.available,
            swapped_bytes: memory.swapped(),
            processes: processes.map(|count| count as u32),
            threads,
            disk_free_bytes: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        }
    }
}

/// What the links of /proc count beside the processes: once, by counting those.
fn other_directories(proc: &Path) -> Option<u64> {
    let count = || -> Option<u64> {
        let names = fs::read_dir(proc).ok()?.flatten().map(|entry| entry.file_name());
        let is_process =
            |name: &std::ffi::OsString| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        Some(names.filter(is_process).count() as u64)
    };
    // Processes come and go meanwhile: what is found twice is right to one or two.
    fs::metadata(proc).ok()?.nlink().checked_sub(count()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn this_host_has_vital_signs() {
        let directory = tempfile::tempdir().unwrap();
        let mut probe = Probe::open(Path::new("/proc"), directory.path());
        let first = probe.read(clock::boot_ns());
        assert_eq!(first.cpu_some, None, "there is nothing to compare with yet");
        std::thread::sleep(Duration::from_millis(50));
        let second = probe.read(clock::boot_ns());
        if Path::new("/proc/pressure/cpu").exists() {
            assert!((0.0..=100.0).contains(&second.cpu_some.unwrap()), "{second:?}");
        }
        assert!(second.available_bytes.unwrap() > 1 << 20, "{second:?}");
        assert!(second.disk_free_bytes.is_some() && second.load.is_some(), "{second:?}");
        let processes = second.processes.unwrap();
        assert!(processes > 0 && processes <= second.threads.unwrap(), "{second:?}");
    }

    #[test]
    fn stalls_are_parts_of_the_time() {
        assert_eq!(percent(Some(1_000), Some(251_000), 1_000_000_000), Some(25.0));
        assert_eq!(percent(Some(0), Some(2_000_000), 1_000_000_000), Some(100.0));
        assert_eq!(percent(Some(5), Some(3), 1_000_000_000), Some(0.0));
        assert_eq!(percent(None, Some(3), 1), None);
        assert_eq!(percent(Some(1), Some(3), 0), None);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let nothing = tempfile::tempdir().unwrap();
        let mut probe = Probe::open(&nothing.path().join("no"), &nothing.path().join("no"));
        assert_eq!(probe.read(1), Vitals::default());
    }
}
