//! Lifecycle: every fork, exec and exit, for a trace.
//!
//! Called from the three programs. Emits `event::Forked`, `event::Executed` and `event::Exited`, and
//! only where user space asked for it at load: a daemon never does, and then the verifier takes
//! these calls out. Nobody is woken; the recorder drains the ring on a timer.

use core::ptr;

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::generated::bpf_ktime_get_boot_ns};
use sensor_common::{
    ProcessKey, event,
    gate::{Level, Rule},
    lineage::{ExecRecord, Image, Slot},
    loss::Reason,
    recursion::Verdict,
};

use crate::maps::{EVENTS, lose, node};

/// 1: everything is recorded; set before loading.
#[unsafe(no_mangle)]
static LIFECYCLE: u32 = 0;

#[inline(always)]
pub fn recorded() -> bool {
    // SAFETY: volatile because user space replaces the content before loading.
    unsafe { ptr::read_volatile(&raw const LIFECYCLE) != 0 }
}

/// The boot clock, where the lifecycle is recorded: it costs 40 ns, and everything that is made of one
/// exit has to have the same time. 0 where it is not.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: has no preconditions.
    if recorded() { unsafe { bpf_ktime_get_boot_ns() } } else { 0 }
}

/// Whose node is in a slot, where the lifecycle is recorded; zero for nobody.
#[inline(always)]
pub fn key_of(slot: Slot) -> ProcessKey {
    if slot == 0 || !recorded() {
        return ProcessKey::new(0, 0);
    }
    // SAFETY: a value of the array.
    node(slot).map_or(ProcessKey::new(0, 0), |node| unsafe { (*node).key })
}

/// A process was entered into the table.
#[inline(always)]
pub fn forked(parent: Slot, child: Slot, cgroup: u64) {
    if !recorded() || child == 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<event::Forked>(0) else {
        lose(Reason::RingFull);
        return;
    };
    entry.write(event::Forked {
        tag: event::FORKED,
        zero: 0,
        child: key_of(child),
        parent: key_of(parent),
        cgroup,
    });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// A program was executed.
#[inline(always)]
pub fn executed(
    record: &ExecRecord,
    process: ProcessKey,
    parent: ProcessKey,
    cgroup: u64,
    image: &Image,
    asked: Option<(ProcessKey, Verdict)>,
) {
    let Some(mut entry) = EVENTS.reserve::<event::Executed>(0) else {
        lose(Reason::RingFull);
        return;
    };
    let calm =
        Verdict { level: Level::Calm, rule: Rule::R1, live: 0, repetitions: 0, report: false };
    let (top, verdict) = asked.unwrap_or((ProcessKey::new(0, 0), calm));
    let sent = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and every field is written.
    unsafe {
        (*sent).tag = event::EXECUTED;
        (*sent).level = verdict.level as u16;
        (*sent).rule = verdict.rule as u16;
        (*sent).process = process;
        (*sent).parent = parent;
        (*sent).top = top;
        (*sent).cgroup = cgroup;
        (*sent).live = verdict.live;
        (*sent).reported = u32::from(verdict.report);
        (*sent).image = *image;
        ptr::copy_nonoverlapping(ptr::from_ref(record), &raw mut (*sent).record, 1);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// A process ended that was in the table.
#[inline(always)]
pub fn exited(process: ProcessKey, code: u32, at_ns: u64) {
    if !recorded() || process.tgid == 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<event::Exited>(0) else {
        lose(Reason::RingFull);
        return;
    };
    entry.write(event::Exited { tag: event::EXITED, code, process, at_ns });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
