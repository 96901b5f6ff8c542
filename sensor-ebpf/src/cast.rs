//! Leads and understudies: each tracepoint has a second program, which does what the first one missed.
//!
//! Since 7.0 a task may be interrupted in the middle of a tracing program, and until it goes on the
//! kernel skips that program on that CPU. The understudy is attached after the lead, and finds out
//! from the table whether the lead was there; mostly it was. Both miss the same event only where two
//! tasks stand interrupted on one CPU, one in each. Older kernels get no understudies: there is nothing
//! to be missed.

use sensor_common::{
    ProcessKey,
    lineage::{Slot, executed_flags},
};

use crate::{
    maps::{STOOD_IN, count, node, slot_of},
    task::Task,
};

/// Who plays: a number, which also functions of their own take.
pub type Cast = u32;
pub const LEAD: Cast = 0;
pub const UNDERSTUDY: Cast = 1;
pub const ALL: u32 = 2;

/// Whether this one has to play: the lead always, the understudy where the lead was missed. Counted
/// where it stands in.
#[inline(always)]
fn plays(cast: Cast, missed: impl FnOnce() -> bool) -> bool {
    if cast == LEAD {
        return true;
    }
    let missed = missed();
    if missed && let Some(counter) = STOOD_IN.get_ptr_mut(0) {
        count(counter);
    }
    missed
}

/// For a fork that made `child`.
#[inline(always)]
pub fn plays_fork(cast: Cast, child: ProcessKey) -> bool {
    let entered = || node(slot_of(child.tgid)?);
    // SAFETY: a value of the array.
    plays(cast, || entered().is_none_or(|node| unsafe { (*node).key.start_ns != child.start_ns }))
}

/// For an exec of `task`, whose node is in `slot`.
#[inline(always)]
pub fn plays_exec(cast: Cast, task: Task, slot: Slot) -> bool {
    let Some(node) = node(slot) else { return false };
    // SAFETY: a value of the array; flags are written by the process's own programs only.
    let flags = unsafe { (*node).flags };
    plays(cast, || flags != executed_flags(flags, task.execs()))
}

/// For the exit of a process whose node, if any, is in `slot`. Where there is none the lead has taken
/// it away, or has counted the loss.
#[inline(always)]
pub fn plays_exit(cast: Cast, slot: Option<Slot>) -> bool {
    plays(cast, || slot.is_some())
}
