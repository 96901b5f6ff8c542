//! Pids that are taken again while an action is on its way to who had them before. On a real kernel: it
//! needs root, and skips elsewhere.

use std::{fs, io};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use sensor_common::ProcessKey;

use super::{Gear, Lineage, LoadOptions, load::load};
use crate::{config::Config, core, respond::process::signal_all};

/// Decides which pid comes next in this pid namespace.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

const TRIES: u32 = 10_000;

/// A child that does nothing until it is ended.
struct Idle {
    pid: Pid,
    _stack: Box<[u8]>,
}

impl Idle {
    /// Shares memory and files with this program: nothing is copied, and no lock that another test holds
    /// at this moment lives on in the child.
    fn start() -> io::Result<Self> {
        const STACK: usize = 16 << 10;
        extern "C" fn idle(_: *mut libc::c_void) -> libc::c_int {
            loop {
                // SAFETY: it has no arguments, and returns only for a handled signal.
                unsafe { libc::pause() };
            }
        }
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
        let mut stack = vec![0_u8; STACK].into_boxed_slice();
        let top = stack.as_mut_ptr_range().end;
        // SAFETY: the child runs on its own stack, which is kept until the child is gone, and calls nothing
        // but pause(2).
        let pid = unsafe { libc::clone(idle, top.cast(), flags, std::ptr::null_mut()) };
        match u32::try_from(pid) {
            Ok(_) => Ok(Self { pid: Pid::from_raw(pid).unwrap(), _stack: stack }),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    fn tgid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn key(&self, lineage: &Lineage) -> ProcessKey {
        lineage.living(self.tgid()).unwrap().key
    }

    fn lives(&self) -> bool {
        waitpid(Some(self.pid), WaitOptions::NOHANG).unwrap().is_none()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

#[test]
fn nobody_else_is_hit_in_ten_thousand_tries() {
    if !rustix::process::geteuid().is_root() || fs::metadata(LAST_PID).is_err() {
        eprintln!("SKIP kernel::recycled: needs root and {LAST_PID}");
        return;
    }
    let options = LoadOptions { brake: Gear::Signals, ..core::load_options(&Config::default()) };
    // Held, or nothing is seen any more.
    let (_programs, lineage, _ring) = &load(&options).unwrap();
    let mut same_tick = 0;
    let mut tried = 0;
    while tried < TRIES {
        let target = Idle::start().unwrap();
        let key = target.key(lineage);
        let pid = target.tgid();
        drop(target);
        fs::write(LAST_PID, (pid - 1).to_string()).unwrap();
        let other = Idle::start().unwrap();
        // Somebody else on this host was quicker.
        if other.tgid() != pid {
            continue;
        }
        tried += 1;
        same_tick += signal_all([key], Signal::CONT, |_| true);
        assert_eq!(signal_all([key], Signal::KILL, |key| lineage.is_alive(key)), 0);
        assert!(other.lives(), "{key:?} was meant, {:?} was hit", other.key(lineage));
        assert_eq!(signal_all([other.key(lineage)], Signal::CONT, |key| lineage.is_alive(key)), 1);
    }
    assert!(same_tick > 0, "no pid was taken again within a tick: nothing was tried");
}
