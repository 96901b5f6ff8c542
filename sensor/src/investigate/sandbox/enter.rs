//! The child between fork and exec: system calls only, nothing is allocated.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    process::{
        Gid, Resource, Rlimit, Signal, Uid, set_parent_process_death_signal, setrlimit, setsid,
    },
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{OPEN_FILES, walls};
use crate::core::survival;

/// The child between fork and exec. Order matters: what needs root comes before root is given up.
pub fn enter(
    entrances: &[fs::File],
    identity: Option<(Uid, Gid)>,
    rlimits: &[(Resource, u64)],
    walls: Option<&OwnedFd>,
) -> io::Result<()> {
    for entrance in entrances {
        // 0: the process that writes.
        rustix::io::write(entrance.as_fd(), b"0")?;
    }
    setsid()?;
    forget_descriptors();
    // The daemon may be spared by the OOM killer; what it starts is not. Raising it needs no right.
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    if let Ok(file) =
        rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty())
    {
        let _ = rustix::io::write(&file, b"0");
    }
    // The daemon has it otherwise for itself.
    let _ = survival::take_former_pages();
    for (resource, limit) in rlimits {
        setrlimit(*resource, Rlimit { current: Some(*limit), maximum: Some(*limit) })?;
    }
    if let Some((uid, gid)) = identity {
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    set_no_new_privs(true)?;
    // After the change of user, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    walls.map_or(Ok(()), walls::close)
}

/// Closes at exec whatever this process has open beyond the standard streams.
fn forget_descriptors() {
    let (first, last) = (3_u32, u32::MAX);
    // SAFETY: a flag change on descriptors, by number; no memory is passed.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if done != 0 {
        // Before Linux 5.11. Ours are opened close-on-exec one by one; this is for a library's.
        for fd in 3..OPEN_FILES as i32 {
            // SAFETY: on a number that is no descriptor it fails and does nothing.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}
