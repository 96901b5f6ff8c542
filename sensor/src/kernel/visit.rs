//! Calls the baseline program for every task: who is not known is entered, and linked to its parent;
//! whose exit was missed is taken out. About 0.5 µs a task.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    sync::{Mutex, PoisonError},
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_info};

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

/// Runs a loaded program that is attached to nothing, of a raw tracepoint, with one argument. What it answers. Since
/// 5.10.
pub(super) fn run(program: BorrowedFd<'_>, argument: u64) -> io::Result<u32> {
    // SAFETY: a union of integers and pointers: all zero is valid, and what the command asks for.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    attributes.test.prog_fd = program.as_raw_fd().unsigned_abs();
    attributes.test.ctx_in = std::ptr::from_ref(&argument) as u64;
    attributes.test.ctx_size_in = size_of_val(&argument) as u32;
    command(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes)?;
    // SAFETY: the command has written it.
    Ok(unsafe { attributes.test.retval })
}

/// How often the kernel did not run a loaded program, as it was running already; 0 before 5.12, which does not count.
pub(super) fn skipped(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: unions and structures of integers: all zero is valid, and what the command asks for.
    let (mut info, mut attributes): (bpf_prog_info, bpf_attr) = unsafe { std::mem::zeroed() };
    attributes.info.bpf_fd = program.as_raw_fd().unsigned_abs();
    attributes.info.info_len = size_of_val(&info) as u32;
    attributes.info.info = std::ptr::from_mut(&mut info) as u64;
    command(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info.recursion_misses)
}

/// A bpf(2) command that answers with a descriptor.
pub(super) fn bpf(name: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = command(name, attributes)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

fn command(name: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the attributes are those of the command and of that size.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, name, std::ptr::from_mut(attributes), size_of::<bpf_attr>())
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(answer).map_err(io::Error::other)
}
