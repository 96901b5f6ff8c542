//! Witness: what is executed in groups that are watched, and how it ends.
//!
//! Called from the exec and the exit program. Emits `witness::Ran` and `witness::Left`, which wake the reader
//! where it has nothing else to read: there are not many. Keeps the counters in `WATCHED`.

use core::ptr;

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_task, bpf_ktime_get_boot_ns,
};
use sensor_common::{
    event,
    lineage::{Slot, WITNESSED},
    loss::Reason,
    oom::Comm,
    witness::{Left, Ran, TOLD},
};

use crate::{
    maps::{EVENTS, EXECS, WATCHED, count, lose, node},
    task::Task,
};

/// The process in a slot, which is `current`, has executed a program: its image and its record are there.
///
/// Exported, which makes it a global function to the verifier: see `storm::sensor_look`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_ran(slot: Slot) -> u32 {
    let Some(this) = node(slot) else { return 0 };
    // SAFETY: a value of the array; what a process's exec writes there is written by itself.
    let (key, parent, cgroup, at_ns) =
        unsafe { ((*this).key, (*this).parent, (*this).cgroup, (*this).image.generations[0]) };
    let Some(watch) = WATCHED.get_ptr_mut(cgroup) else { return 0 };
    // SAFETY: a value of the map, which is preallocated; the counters are changed atomically.
    let executed = unsafe {
        count(&raw mut (*watch).executed);
        ptr::read_volatile(&raw const (*watch).executed)
    };
    if executed > TOLD {
        return 0;
    }
    // One that did not fit was counted at its exec.
    let Some(record) = EXECS.get_ptr(slot) else { return 0 };
    let mut comm = Comm::default();
    // SAFETY: the room is ours and of that size. Where it fails it stays empty.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), size_of::<Comm>() as u32) };
    let Some(mut entry) = EVENTS.reserve::<Ran>(0) else {
        lose(Reason::RingFull);
        return 0;
    };
    let sent = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and every field is written; the record belongs to
    // `current`.
    unsafe {
        (*sent).tag = event::RAN;
        (*sent).zero = 0;
        (*sent).process = key;
        (*sent).parent = parent;
        (*sent).at_ns = at_ns;
        (*sent).cgroup = cgroup;
        (*sent).comm = comm;
        ptr::copy_nonoverlapping(record, &raw mut (*sent).record, 1);
    }
    entry.submit(0);
    // SAFETY: as above; flags belong to this process.
    unsafe {
        count(&raw mut (*watch).told);
        (*this).flags |= WITNESSED;
    }
    0
}

/// The process in a slot ends, whose last thread is `current`.
#[inline(always)]
pub fn ended(slot: Slot) {
    // SAFETY: a value of the array.
    if node(slot).is_some_and(|this| unsafe { (*this).flags & WITNESSED != 0 }) {
        sensor_left(slot);
    }
}

/// Exported as [`sensor_ran`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_left(slot: Slot) -> u32 {
    let Some(this) = node(slot) else { return 0 };
    // SAFETY: a value of the array; the process is past its end.
    let (key, cgroup) = unsafe { ((*this).key, (*this).cgroup) };
    // Nobody asks any more.
    let Some(watch) = WATCHED.get_ptr_mut(cgroup) else { return 0 };
    // SAFETY: have no preconditions.
    let (at_ns, code) =
        unsafe { (bpf_ktime_get_boot_ns(), Task(bpf_get_current_task()).exit_code()) };
    let Some(mut entry) = EVENTS.reserve::<Left>(0) else {
        lose(Reason::RingFull);
        return 0;
    };
    entry.write(Left { tag: event::LEFT, code, process: key, at_ns, cgroup });
    entry.submit(0);
    // SAFETY: as above.
    unsafe { count(&raw mut (*watch).left) };
    0
}
