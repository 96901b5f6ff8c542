//! What /proc says about processes of a test.

use std::{fs, path::Path};

/// State letter as in /proc/PID/stat: R, S, D, T, Z, …; none when the process is gone.
pub fn state(pid: u32) -> Option<char> {
    stat(pid)?.split_whitespace().next()?.chars().next()
}

/// Parent as it is now.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split_whitespace().nth(1)?.parse().ok()
}

/// Start on the boot clock, ns, to the 10 ms of /proc: see [`same_start`].
pub fn start_ns(pid: u32) -> Option<u64> {
    let ticks: u64 = stat(pid)?.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks * TICK_NS)
}

/// Whether an exact start may be the one that /proc says: it cuts off what is no full tick.
pub fn same_start(exact_ns: u64, from_proc_ns: u64) -> bool {
    exact_ns / TICK_NS * TICK_NS == from_proc_ns
}

/// /proc counts in 1/100 s, whatever the kernel's own clock (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// Stopped by a signal, or dead.
pub fn stands(pid: u32) -> bool {
    matches!(state(pid), None | Some('T' | 'Z' | 'X'))
}

/// The fields of /proc/PID/stat behind the name, which may hold anything.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.to_owned())
}

/// Arguments as they are now; empty when the process is gone.
pub fn argv(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// A number from a file such as `/proc/PID/smaps_rollup`, in the unit that stands there.
pub fn field(path: impl AsRef<Path>, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split([':', ' ']).next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `CLOCK_BOOTTIME` in ns: the clock of the records.
pub fn boot_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs())
}
