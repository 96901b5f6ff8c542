//! What lets the daemon live through what it watches: memory that is not paged out, and a place at the
//! end of the OOM killer's list. Both may be refused, and are done without then.

use std::{fs, io};

use rustix::thread::{CapabilitySet, capabilities};

/// Of -1000 (never) to 1000. Not never: a leak of our own must have an end, too.
const OOM_SCORE: i32 = -900;

const OOM_FILE: &str = "/proc/self/oom_score_adj";

/// Keeps every page that was touched once in memory: a page fault that has to wait for a full disk
/// would hold up a reaction for seconds. Pages that were never touched cost nothing.
pub fn lock_memory() -> io::Result<()> {
    // Without it a later allocation could fail at RLIMIT_MEMLOCK, which is worse than a page fault.
    if !capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK) {
        return Err(io::Error::other("this needs CAP_IPC_LOCK"));
    }
    // SAFETY: changes how the kernel keeps our pages, nothing that a program could notice.
    let locked =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if locked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves this process, and what it starts, to the end of the OOM killer's list.
pub fn outlive() -> io::Result<()> {
    fs::write(OOM_FILE, OOM_SCORE.to_string())
}

/// Takes this process back to where every other stands.
pub fn be_ordinary() -> io::Result<()> {
    fs::write(OOM_FILE, "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_locked_where_that_is_allowed() {
        let locked_kib = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            line.trim_end_matches("kB").trim().parse::<u64>().unwrap()
        };
        match lock_memory() {
            Ok(()) => {
                assert!(locked_kib() > 0);
                // SAFETY: as for locking.
                assert_eq!(unsafe { libc::munlockall() }, 0);
            }
            Err(error) => {
                assert_eq!(locked_kib(), 0);
                eprintln!("not allowed here: {error}");
            }
        }
    }
}
