//! The brake, second rung: whoever carries a mark is stopped at its next fork and its next exec.
//!
//! Called from the fork and exec programs. Emits `event::Braked`. Each new process gets one free
//! fork before it is stopped itself, which is why user space sweeps at the same time.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_send_signal},
};
use sensor_common::{
    ProcessKey,
    brake::{EXEMPT, Mark, holds},
    event,
    lineage::{COUNTED_ANCESTORS, Slot},
    loss::Reason,
};

use crate::maps::{BRAKE_UNTIL, EVENTS, MARKS, lose, node};

/// SIGSTOP on every architecture that Linux runs BPF on but MIPS and Alpha.
const SIGSTOP: u32 = 19;

/// pid 1 is nobody's to stop.
const INIT: u32 = 1;

/// Stops `current`, whose node is in `slot`, if it or an ancestor carries a mark. `child` is the
/// slot of what it has just forked, 0 at exec; the child inherits.
#[inline(always)]
pub fn check(slot: Slot, child: Slot) {
    let Some(until) = BRAKE_UNTIL.get_ptr(0) else { return };
    // SAFETY: a value of the array; user space writes it as one word.
    let until = unsafe { ptr::read_volatile(until) };
    // The clock costs 40 ns: not where there has never been a mark.
    if until == 0 {
        return;
    }
    // SAFETY: has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now < until {
        stop(slot, child, now);
    }
}

#[inline(never)]
fn stop(slot: Slot, child: Slot, now: u64) -> u32 {
    let Some(mark) = find(slot, now) else { return 0 };
    let Some(this) = node(slot) else { return 0 };
    // SAFETY: a value of the array.
    let key = unsafe { (*this).key };
    if key.tgid <= INIT {
        return 0;
    }
    let child_key = inherit(&mark, child);
    inherit(&mark, slot);
    // SAFETY: has no preconditions; refused for kernel threads and pid 1.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        lose(Reason::SignalRefused);
    }
    let Some(mut entry) = EVENTS.reserve::<event::Braked>(0) else {
        lose(Reason::RingFull);
        return 0;
    };
    entry.write(event::Braked {
        tag: event::BRAKED,
        number: mark.number,
        process: key,
        child: child_key,
        at_ns: now,
    });
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    0
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
            if mark.flags & EXEMPT != 0 && mark.start_ns == start_ns {
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

/// Gives a process the mark. Answers whose it is now.
#[inline(always)]
fn inherit(mark: &Mark, slot: Slot) -> ProcessKey {
    if slot == 0 {
        return ProcessKey::new(0, 0);
    }
    let (Some(heir), Some(place)) = (node(slot), MARKS.get_ptr_mut(slot)) else {
        return ProcessKey::new(0, 0);
    };
    // SAFETY: values of arrays; user space may write the same mark at the same time.
    unsafe {
        let key = (*heir).key;
        ptr::write(place, Mark { start_ns: key.start_ns, ..*mark });
        key
    }
}
