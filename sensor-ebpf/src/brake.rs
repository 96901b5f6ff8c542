//! The brake: nobody who carries a mark forks any more.
//!
//! Hooks: `lsm/task_alloc`, `fentry/kernel_clone` or `tp_btf/sys_enter`, whichever user space found
//! to work, pause a fork before there is a child: SIGSTOP, and the kernel restarts the call once the
//! process goes on. The fork and exec programs stop what came past it, or everything where there is
//! no pause: then each new process has one free fork before it is stopped itself, which is why user
//! space sweeps at the same time. Emits `event::Braked`, counts in `TALLIES`.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_user, bpf_send_signal},
};
use sensor_common::{
    ProcessKey,
    brake::{DRY, Deed, Mark, TOLD_EVERY_NS, holds, spares, tally_index},
    event,
    lineage::{COUNTED_ANCESTORS, Slot},
    loss::Reason,
};

use crate::{
    lineage::{current_tgid, sensor_recover},
    maps::{BRAKE_UNTIL, EVENTS, MARKS, TALLIES, lose, node, slot_of},
    task::{Address, read_at},
};

/// SIGSTOP on every architecture that Linux runs BPF on but MIPS and Alpha.
const SIGSTOP: u32 = 19;

/// pid 1 is nobody's to stop.
const INIT: u32 = 1;

/// A thread is no process: what is stopped is the whole process anyway.
pub const CLONE_THREAD: u64 = 0x0001_0000;

/// Numbers of `clone`, `clone3`, `fork` and `vfork` on this architecture, -1 where there is none; set
/// before loading.
#[unsafe(no_mangle)]
static CALLS: [i64; 4] = [-1; 4];

/// Where `struct pt_regs` has a call's first argument; set before loading.
#[unsafe(no_mangle)]
static ARGUMENT: u64 = 0;

/// What became of a fork before it began.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    Free = 0,
    /// `current` stands, or is about to.
    Paused = 1,
    /// It should stand, but the signal could not be sent.
    Unheard = 2,
}

/// The time, if any mark may hold now.
#[inline(always)]
fn braking() -> Option<u64> {
    // SAFETY: a value of the array; user space writes it as one word.
    let until = unsafe { ptr::read_volatile(BRAKE_UNTIL.get_ptr(0)?) };
    // The clock costs 40 ns: not where there has never been a mark.
    if until == 0 {
        return None;
    }
    // SAFETY: has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    (now < until).then_some(now)
}

/// `current` is about to make a process. Whether it is kept from it.
#[inline(always)]
pub fn before_fork() -> Fork {
    let Some(now) = braking() else { return Fork::Free };
    match pause(now) {
        1 => Fork::Paused,
        2 => Fork::Unheard,
        _ => Fork::Free,
    }
}

/// [`before_fork`] as a number: a program's functions answer nothing else.
#[inline(never)]
fn pause(now: u64) -> u32 {
    // Whose birth was lost is below the mark all the same.
    let slot = match slot_of(current_tgid()) {
        Some(slot) => slot,
        None => sensor_recover(),
    };
    let Some((mark, key)) = held(slot, now) else { return Fork::Free as u32 };
    inherit(&mark, slot);
    if mark.flags & DRY != 0 {
        count(&mark, key, now, Deed::Paused);
        return Fork::Free as u32;
    }
    // SAFETY: has no preconditions; refused for kernel threads and pid 1.
    let sent = unsafe { bpf_send_signal(SIGSTOP) } == 0;
    count(&mark, key, now, if sent { Deed::Paused } else { Deed::Refused });
    if sent { Fork::Paused as u32 } else { Fork::Unheard as u32 }
}

/// Whether a system call makes a process.
#[inline(always)]
pub fn begins_a_process(registers: Address, call: i64) -> bool {
    // SAFETY: read-only data that user space replaced before loading.
    let ([clone, clone3, fork, vfork], argument) =
        unsafe { (ptr::read_volatile(&raw const CALLS), ptr::read_volatile(&raw const ARGUMENT)) };
    if call == fork || call == vfork {
        return true;
    }
    if call != clone && call != clone3 {
        return false;
    }
    let first: u64 = read_at(registers.wrapping_add(argument));
    let mut flags = first;
    if call == clone3 {
        // The first word of `struct clone_args`. What cannot be read fails in the kernel as well.
        // SAFETY: the destination is ours; the helper checks the source.
        unsafe { bpf_probe_read_user((&raw mut flags).cast(), 8, first as *const _) };
    }
    flags & CLONE_THREAD == 0
}

/// Stops `current`, whose node is in `slot`, if it or an ancestor carries a mark. `child` is the
/// slot of what it has just forked, 0 at exec; the child inherits.
#[inline(always)]
pub fn check(slot: Slot, child: Slot) {
    if let Some(now) = braking() {
        stop(slot, child, now);
    }
}

#[inline(never)]
fn stop(slot: Slot, child: Slot, now: u64) -> u32 {
    let Some((mark, key)) = held(slot, now) else { return 0 };
    inherit(&mark, child);
    inherit(&mark, slot);
    // SAFETY: as above.
    if mark.flags & DRY == 0 && unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        lose(Reason::SignalRefused);
    }
    count(&mark, key, now, if child == 0 { Deed::Executed } else { Deed::Passed });
    0
}

/// The mark that holds for the process in a slot, and who that is.
#[inline(always)]
fn held(slot: Slot, now: u64) -> Option<(Mark, ProcessKey)> {
    let mark = find(slot, now)?;
    // SAFETY: a value of the array.
    let key = unsafe { (*node(slot)?).key };
    (key.tgid > INIT).then_some((mark, key))
}

/// The mark of a process, or of the nearest ancestor that has one. Nothing is inherited through an
/// exempt process.
#[inline(always)]
fn find(slot: Slot, now: u64) -> Option<Mark> {
    let mut slot = slot;
    for _ in 0..COUNTED_ANCESTORS {
        if slot == 0 {
            return None;
        }
        let holder = node(slot)?;
        let mark = MARKS.get_ptr(slot)?;
        // SAFETY: values of arrays. A mark that user space is just writing may be torn: then its
        // start does not match yet, and the next fork finds it.
        unsafe {
            let start_ns = (*holder).key.start_ns;
            let mark = ptr::read(mark);
            if spares(&mark, start_ns, now) {
                return None;
            }
            if holds(&mark, start_ns, now) {
                return Some(mark);
            }
            slot = (*holder).parent_slot;
        }
    }
    None
}

/// Gives a process the mark.
#[inline(always)]
fn inherit(mark: &Mark, slot: Slot) {
    if slot == 0 {
        return;
    }
    let (Some(heir), Some(place)) = (node(slot), MARKS.get_ptr_mut(slot)) else { return };
    // SAFETY: values of arrays; user space may write the same mark at the same time.
    unsafe { ptr::write(place, Mark { start_ns: (*heir).key.start_ns, ..*mark }) };
}

/// Counts what was done to a process, and tells user space if it has not just been told.
#[inline(always)]
fn count(mark: &Mark, process: ProcessKey, now: u64, deed: Deed) {
    let Some(tally) = TALLIES.get_ptr_mut(tally_index(mark.number)) else { return };
    // SAFETY: a value of the array; its counters are changed atomically. Two CPUs may both tell.
    unsafe {
        let counter = (&raw mut (*tally).deeds).cast::<u32>().add(deed as usize);
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, 1);
        if now.wrapping_sub(ptr::read_volatile(&raw const (*tally).told_ns)) < TOLD_EVERY_NS {
            return;
        }
        ptr::write_volatile(&raw mut (*tally).told_ns, now);
    }
    let Some(mut entry) = EVENTS.reserve::<event::Braked>(0) else {
        lose(Reason::RingFull);
        return;
    };
    entry.write(event::Braked { tag: event::BRAKED, number: mark.number, process, at_ns: now });
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
}
