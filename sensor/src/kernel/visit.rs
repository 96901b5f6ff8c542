//! Calls the baseline program for every task: who is not known is entered, and linked to its parent;
//! whose exit was missed is taken out. About 0.5 µs a task.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd};

use super::lineage::Lineage;

/// The loaded `iter/task` program. aya's own way to run one needs the whole object for itself.
pub struct Visitor {
    program: OwnedFd,
    /// One visit at a time.
    turn: Mutex<()>,
}

impl Visitor {
    pub(super) const fn new(program: OwnedFd) -> Self {
        Self { program, turn: Mutex::new(()) }
    }

    /// Makes the table what the kernel's own list of tasks says.
    pub fn complete(&self, lineage: &Lineage) -> io::Result<()> {
        lineage.mourn();
        self.visit()
    }

    pub(super) fn visit(&self) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a union of integers and pointers: all zero is valid, and what the commands ask for.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.link_create.__bindgen_anon_1.prog_fd = self.program.as_raw_fd().unsigned_abs();
        attributes.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
        let link = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes)?;

        // SAFETY: as above.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.iter_create.link_fd = link.as_raw_fd().unsigned_abs();
        let iteration = bpf(bpf_cmd::BPF_ITER_CREATE, &mut attributes)?;
        // Reading drives it; the program prints nothing.
        io::copy(&mut File::from(iteration), &mut io::sink()).map(|_| ())
    }
}

/// A bpf(2) command that answers with a descriptor.
pub(super) fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are those of the command and of that size.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<bpf_attr>())
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}
