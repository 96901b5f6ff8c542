//! PSI triggers: the kernel wakes us when tasks have waited for memory for a part of a window.
//!
//! <https://docs.kernel.org/accounting/psi.html>. Windows shorter than 2 s need `CAP_SYS_RESOURCE`, and no
//! window may be there at all: then the averages are looked at, which is later.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
};

/// Part of a window in which some task waits for memory that is worth a look, percent: 70 ms of a second,
/// with which Android's lmkd begins.
pub const SOME_PERCENT: f32 = 7.0;
/// The same of all tasks: nobody gets anything done for a third of the time.
pub const FULL_PERCENT: f32 = 35.0;

/// Windows, µs, the best first. Without `CAP_SYS_RESOURCE` only multiples of 2 s are taken:
/// <https://github.com/torvalds/linux/commit/d82caa273565>.
const WINDOWS_US: [u64; 2] = [1_000_000, 2_000_000];

/// What a trigger waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Some,
    Full,
}

impl Who {
    const fn word(self) -> &'static str {
        match self {
            Self::Some => "some",
            Self::Full => "full",
        }
    }

    const fn percent(self) -> f32 {
        match self {
            Self::Some => SOME_PERCENT,
            Self::Full => FULL_PERCENT,
        }
    }
}

/// A trigger that the kernel has taken; it is gone with this value.
pub struct Trigger {
    file: File,
    pub window_ns: u64,
}

impl Trigger {
    /// `file`: a `memory` or `memory.pressure` file. The error is that of the widest window.
    pub fn set(file: &Path, who: Who) -> io::Result<Self> {
        let mut refused = io::Error::from(io::ErrorKind::Unsupported);
        for window_us in WINDOWS_US {
            match set(file, &text(who, window_us)) {
                Ok(file) => return Ok(Self { file, window_ns: window_us * 1_000 }),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
impl Trigger {
    /// As one whose file the kernel has taken away: `POLLERR` at once, and for ever.
    pub fn dead() -> Self {
        let (_, writer) = io::pipe().unwrap();
        Self { file: File::from(std::os::fd::OwnedFd::from(writer)), window_ns: 1_000_000_000 }
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `some 70000 1000000`, with the zero byte that the kernel overwrites otherwise.
fn text(who: Who, window_us: u64) -> String {
    let stall_us = (window_us as f64 * f64::from(who.percent()) / 100.0).round() as u64;
    format!("{} {stall_us} {window_us}\0", who.word())
}

fn set(file: &Path, trigger: &str) -> io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    // One write is one trigger.
    file.write_all(trigger.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_as_the_kernel_takes_them() {
        assert_eq!(text(Who::Some, 1_000_000), "some 70000 1000000\0");
        assert_eq!(text(Who::Full, 2_000_000), "full 700000 2000000\0");
    }

    #[test]
    fn a_file_that_is_no_pressure_takes_none() {
        assert!(Trigger::set(Path::new("/proc/version"), Who::Some).is_err());
        assert!(Trigger::set(Path::new("/nowhere"), Who::Some).is_err());
    }
}
