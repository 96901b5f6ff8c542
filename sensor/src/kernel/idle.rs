//! Processes for tests of the kernel side, which begin and end at once.

use std::io;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};
use sensor_common::ProcessKey;

use super::Lineage;

/// A child that does nothing until it is ended.
pub struct Idle {
    pid: Pid,
    _stack: Box<[u8]>,
}

impl Idle {
    /// Shares memory and files with this program: nothing is copied, and no lock that another test holds
    /// at this moment lives on in the child.
    pub fn start() -> io::Result<Self> {
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

    pub fn tgid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end, and leaves it to be waited for.
    pub fn ends(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid), options).unwrap();
    }

    pub fn key(&self, lineage: &Lineage) -> ProcessKey {
        lineage.living(self.tgid()).unwrap().key
    }

    pub fn lives(&self) -> bool {
        waitpid(Some(self.pid), WaitOptions::NOHANG).unwrap().is_none()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}
