//! The programs that stand in for skipped ones: see `cast` of the kernel side.
//!
//! They are classic tracepoint programs, run by perf, which switches preemption off around them:
//! nobody is interrupted in one, so it is never skipped itself.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya::{Ebpf, programs::TracePoint};
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, perf_event_attr, perf_type_id};
use rustix::{
    fs::{Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{load::reason, visit::bpf};

/// The first release that interrupts a tracing program.
const INTERRUPTS: u32 = 7;

/// In the order in which they are attached: exit first, as the leads.
const PROGRAMS: [(&str, &str); 3] = [
    ("sensor_exit_too", "sched_process_exit"),
    ("sensor_exec_too", "sched_process_exec"),
    ("sensor_fork_too", "sched_process_fork"),
];

/// Attaches them where the kernel needs them; to be called after the leads are attached, so that they
/// come second. An error says why there are none.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Vec<OwnedFd>, String> {
    if !interrupts() {
        return Ok(Vec::new());
    }
    let tracefs = tracefs().map_err(|error| format!("tracefs cannot be opened: {error}"))?;
    let each = |(name, tracepoint): (&str, &str)| {
        let program = ebpf.program_mut(name).ok_or_else(|| format!("no {name} in the object"))?;
        let program: &mut TracePoint = program.try_into().map_err(|error| reason(&error))?;
        program.load().map_err(|error| reason(&error))?;
        let loaded = program.fd().map_err(|error| reason(&error))?.as_fd();
        attach_one(loaded, &tracefs, tracepoint).map_err(|error| format!("{tracepoint}: {error}"))
    };
    PROGRAMS.into_iter().map(each).collect()
}

/// Whether this kernel lets a task be interrupted within a tracing program.
fn interrupts() -> bool {
    let uname = rustix::system::uname();
    let major = uname.release().to_bytes().split(|byte| *byte == b'.').next();
    let major = major.and_then(|digits| str::from_utf8(digits).ok()?.parse::<u32>().ok());
    // Where it cannot be told: an understudy that is not needed only costs its look.
    major.is_none_or(|major| major >= INTERRUPTS)
}

/// The root of a tracefs of our own, mounted nowhere: the host need not have mounted it.
fn tracefs() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(context.as_fd(), flags, attributes)?)
}

/// The link's descriptor, which keeps the program attached.
fn attach_one(program: BorrowedFd<'_>, tracefs: &OwnedFd, tracepoint: &str) -> io::Result<OwnedFd> {
    let path = format!("events/sched/{tracepoint}/id");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut id = String::new();
    File::from(rustix::fs::openat(tracefs, path, flags, Mode::empty())?).read_to_string(&mut id)?;
    let event = perf_event(id.trim().parse().map_err(io::Error::other)?)?;

    // SAFETY: a union of integers and pointers: all zero is valid, and what the command asks for.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    attributes.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().unsigned_abs();
    attributes.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd().unsigned_abs();
    attributes.link_create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    // The link holds the event.
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes)
}

/// An event for a tracepoint. It counts on one CPU and samples nothing; its program runs on all.
fn perf_event(tracepoint: u64) -> io::Result<OwnedFd> {
    const EVERYBODY: libc::pid_t = -1;
    const NO_GROUP: libc::c_int = -1;
    const FIRST_CPU: libc::c_int = 0;
    /// `PERF_FLAG_FD_CLOEXEC` of `include/uapi/linux/perf_event.h`.
    const CLOEXEC: libc::c_ulong = 1 << 3;
    // SAFETY: integers and unions of them: all zero is valid, and the default.
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.type_ = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
    attributes.config = tracepoint;
    // SAFETY: the attributes are of the size that they say.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_mut(&mut attributes),
            EVERYBODY,
            FIRST_CPU,
            NO_GROUP,
            CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
