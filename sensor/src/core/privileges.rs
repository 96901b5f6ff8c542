//! What core gives up as it starts: of root's capabilities it keeps those that it acts with, and no
//! process that it starts gets the others back.

use std::io;

use rustix::{
    io::Errno,
    thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities},
};

/// What is needed for good, because programs are attached, the task list is visited and processes are
/// stopped as long as the daemon runs.
const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    // Programs and iterators before 5.8, and cgroups that are somebody else's.
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::KILL)
    // What /proc tells of other users' processes, and their files, opened with their rights.
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    // The log's and the socket's group.
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    // Real-time threads, locked memory, a place behind all others for the OOM killer.
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_RESOURCE)
    // The kernel's log, as evidence.
    .union(CapabilitySet::SYSLOG)
    // To give up more.
    .union(CapabilitySet::SETPCAP);

/// Gives the rest up, for this thread and all that it starts: to be called before there is another.
pub fn keep_what_is_needed() -> io::Result<()> {
    for one in CapabilitySet::all().difference(KEPT).iter() {
        match remove_capability_from_bounding_set(one) {
            // Newer than this kernel.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut sets = capabilities(None)?;
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        *set &= KEPT;
    }
    Ok(set_capabilities(None, sets)?)
}
