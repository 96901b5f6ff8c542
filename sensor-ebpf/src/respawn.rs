//! Respawn loops: a command that the same parent starts again and again, and that fails at once.
//!
//! Called from the exit program for each process. Emits
//! `event::Respawned` when the gate is crossed (R6); keeps `LOOPS`.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_FORCE_WAKEUP},
    helpers::generated::{bpf_get_current_task, bpf_ktime_get_boot_ns},
};
use sensor_common::{
    event,
    lineage::Slot,
    loss::Reason,
    respawn::{self, End, Limits, Loop, Window},
};

use crate::{
    maps::{EVENTS, EXECS, LOOPS, lose, node},
    task::Task,
};

/// Thresholds; set before loading.
#[unsafe(no_mangle)]
static RESPAWNS: Limits = Limits::DEFAULT;

/// The process in a slot ends, whose last thread is `current`. `at_ns`: the boot clock where it has
/// been read already, else 0.
///
/// A command that ends well and has not failed before costs a lookup: 1,200 of them end each second
/// in a shell loop.
///
/// Exported, which makes it a global function to the verifier: see `storm::sensor_look`. Only the exit
/// program may reach it: its stack is too large for the others.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_ended(slot: Slot, at_ns: u64) -> u32 {
    // SAFETY: read-only data that user space replaced before loading.
    let limits = unsafe { ptr::read_volatile(&raw const RESPAWNS) };
    if limits.runs == Limits::NEVER {
        return 0;
    }
    let Some(this) = node(slot) else { return 0 };
    // SAFETY: a value of the array; the process is past its end and changes no more.
    let (parent, strict, began_ns) =
        unsafe { ((*this).parent, (*this).image.strict, (*this).image.generations[0]) };
    // Who was there before us began at a time that nobody knows; who only forked ran nothing.
    if began_ns == 0 || parent.start_ns == 0 {
        return 0;
    }
    // SAFETY: has no preconditions.
    let code = Task(unsafe { bpf_get_current_task() }).exit_code();
    let key = Loop { parent, strict };
    let known = LOOPS.get_ptr_mut(key);
    if known.is_none() && code == 0 {
        return 0;
    }
    let mut now = at_ns;
    if now == 0 {
        // SAFETY: has no preconditions.
        now = unsafe { bpf_ktime_get_boot_ns() };
    }
    let end = End { at_ns: now, ran_ns: now.saturating_sub(began_ns), code };
    let Some(window) = known else {
        if end.failed_at_once(&limits) {
            // Where it fails, another CPU was quicker or memory is short: the next one begins it.
            let _ = LOOPS.insert(key, Window::begin(&end, &limits), u64::from(BPF_ANY));
        }
        return 0;
    };
    // SAFETY: a value of the map, which is preallocated: an element that is reused meanwhile spoils one
    // window, and two CPUs at once lose a count.
    let crossed = unsafe {
        let (crossed, next) = ptr::read_volatile(window).judge(&end, &limits);
        ptr::write_volatile(window, next);
        crossed
    };
    if let Some(crossed) = crossed {
        report(slot, &crossed, now, &limits);
    }
    0
}

#[inline(always)]
fn report(slot: Slot, window: &Window, now: u64, limits: &Limits) {
    let Some(this) = node(slot) else { return };
    // One that did not fit was counted at its exec.
    let Some(record) = EXECS.get_ptr(slot) else { return };
    // SAFETY: a value of the array.
    let (key, parent, parent_slot, cgroup) =
        unsafe { ((*this).key, (*this).parent, (*this).parent_slot, (*this).cgroup) };
    // SAFETY: as above.
    let live = node(parent_slot).map_or(0, |parent| unsafe { (*parent).live() });
    let Some(mut entry) = EVENTS.reserve::<event::Respawned>(0) else {
        lose(Reason::RingFull);
        return;
    };
    let sent = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and every field is written; the record belongs to
    // a process whose node is still held.
    unsafe {
        (*sent).alarm = respawn::alarm(window, key, parent, live, now, cgroup, limits);
        (*sent).window = *window;
        (*sent).image = (*this).image;
        ptr::copy_nonoverlapping(record, &raw mut (*sent).record, 1);
    }
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
}
