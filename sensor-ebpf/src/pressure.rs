//! Pressure: who stands in reclaim, and for how long.
//!
//! Hooks: `tp_btf/mm_vmscan_direct_reclaim_begin`, `_end`, `tp_btf/mm_vmscan_memcg_reclaim_begin`, `_end`. Emits
//! nothing; keeps `STALLS` of the process and its nearest 32 ancestors, and `RECLAIMS` of the host.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
};
use sensor_common::{
    lineage::{COUNTED_ANCESTORS, Slot},
    pressure::Stall,
};

use crate::{
    lineage::current_tgid,
    maps::{RECLAIMING, RECLAIMS, STALLS, node, slot_of},
};

/// Why somebody looks for memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    /// The host has too little.
    Direct,
    /// A cgroup is at its limit.
    Group,
}

/// Adds to a counter that other CPUs change too.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: by the caller.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

#[inline(always)]
fn thread() -> u32 {
    // SAFETY: has no preconditions.
    unsafe { bpf_get_current_pid_tgid() as u32 }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[inline(always)]
pub fn begins(why: Reclaim) -> i32 {
    // Where it does not fit, this stall is not counted, and its beginning is.
    let _ = RECLAIMING.insert(thread(), now(), u64::from(BPF_ANY));
    if why == Reclaim::Direct
        && let Some(all) = RECLAIMS.get_ptr_mut(0)
    {
        // SAFETY: a value of the array.
        unsafe { add(&raw mut (*all).times, 1) };
    }
    0
}

#[inline(always)]
pub fn ends(why: Reclaim) -> i32 {
    let thread = thread();
    // SAFETY: the value is copied at once; an element of a preallocated map may be reused, not freed.
    let Some(began_ns) = (unsafe { RECLAIMING.get(thread).copied() }) else { return 0 };
    let _ = RECLAIMING.remove(thread);
    let ns = now().saturating_sub(began_ns);
    if why == Reclaim::Direct
        && let Some(all) = RECLAIMS.get_ptr_mut(0)
    {
        // SAFETY: a value of the array.
        unsafe { add(&raw mut (*all).ns, ns) };
    }
    // Kernel threads have no node.
    if let Some(slot) = slot_of(current_tgid()) {
        sensor_stalled(slot, ns);
    }
    0
}

/// Counts a stall for the process in a slot and for those above it.
///
/// Exported, which makes it a global function to the verifier: see `storm::sensor_look`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_stalled(slot: Slot, ns: u64) -> u32 {
    let mut slot = slot;
    for level in 0..=COUNTED_ANCESTORS {
        if slot == 0 {
            break;
        }
        let (Some(this), Some(stall)) = (node(slot), STALLS.get_ptr_mut(slot)) else { break };
        // SAFETY: values of the arrays. Two CPUs that find another one's count at once may lose a stall.
        unsafe {
            let start_ns = (*this).key.start_ns;
            if ptr::read_volatile(&raw const (*stall).start_ns) != start_ns {
                ptr::write(stall, Stall { start_ns, own_ns: 0, tree_ns: 0 });
            }
            // Nothing is added to the others': the compiler makes an atomic OR of an addition of 0, which
            // 5.10 does not have.
            if level == 0 {
                add(&raw mut (*stall).own_ns, ns);
            }
            add(&raw mut (*stall).tree_ns, ns);
            slot = (*this).parent_slot;
        }
    }
    0
}
