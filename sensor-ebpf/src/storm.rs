//! Storms: trees that grow without completing anything.
//!
//! Called from the fork program for each counted ancestor. Emits `event::Alarm` when a gate is crossed
//! (R2, R3); keeps every node's windows.

use core::ptr;

use aya_ebpf::{bindings::BPF_RB_FORCE_WAKEUP, helpers::generated::bpf_get_current_cgroup_id};
use sensor_common::{
    ProcessKey, event,
    lineage::{Node, Slot},
    loss::Reason,
    storm::{self, Limits, Window, judge},
};

use crate::maps::{EVENTS, lose, node};

/// Thresholds; set before loading.
#[unsafe(no_mangle)]
static STORMS: Limits = Limits::DEFAULT;

/// [`storm::mask`] with the thresholds of this load.
#[inline(always)]
pub fn mask(chain: u32) -> u32 {
    // SAFETY: read-only data that user space replaced before loading.
    storm::mask(chain, unsafe { ptr::read_volatile(&raw const STORMS.chain) })
}

/// Looks at how the tree of the node in a slot has grown. `chain`: as `storm::judge` takes it. The
/// child's start is the clock: reading it again would cost 40 ns.
///
/// Exported, which makes it a global function to the verifier: it is verified once, by itself, and
/// not again with all its paths for each of the 32 ancestors (a million instructions since 6.12).
/// See <https://github.com/torvalds/linux/commit/51c39bb1d5d1>.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_look(slot: Slot, tgid: u32, start_ns: u64, chain: u32) -> u32 {
    let Some(ancestor) = node(slot) else { return 0 };
    // SAFETY: a value of the array, and read-only data that user space replaced before loading. Two
    // CPUs that look at once may both report: user space merges.
    let (top, crossed) = unsafe {
        let limits = ptr::read_volatile(&raw const STORMS);
        let windows = ptr::read_volatile(&raw const (*ancestor).windows);
        let forks = ptr::read_volatile(&raw const (*ancestor).forks);
        let exits = ptr::read_volatile(&raw const (*ancestor).exits);
        let top = (*ancestor).key;
        let (crossed, windows) =
            judge(windows, start_ns, top.start_ns, chain, forks, exits, &limits);
        ptr::write_volatile(&raw mut (*ancestor).windows, windows);
        (top, crossed)
    };
    let Some(crossed) = crossed else { return 0 };
    let Some(mut entry) = EVENTS.reserve::<event::Alarm>(0) else {
        lose(Reason::RingFull);
        return 0;
    };
    // SAFETY: has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    entry.write(storm::alarm(crossed, ProcessKey::new(tgid, start_ns), top, chain, cgroup));
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    0
}

/// A tree that was there before us was put below an ancestor: that is no growth.
///
/// # Safety
/// `ancestor` points into `NODES`.
#[inline(always)]
pub unsafe fn shift(ancestor: *mut Node, forks: u32, exits: u32) {
    // SAFETY: by the caller. A fork that looks at the same time may see half of it: then the window
    // begins again.
    unsafe {
        let [short, long] = ptr::read_volatile(&raw const (*ancestor).windows);
        let windows: [Window; 2] = [short.shifted(forks, exits), long.shifted(forks, exits)];
        ptr::write_volatile(&raw mut (*ancestor).windows, windows);
    }
}
