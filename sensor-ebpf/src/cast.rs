//! Leads and understudies: each tracepoint has a second program, which does what the first one missed.
//!
//! Since 7.0 a task may be interrupted in the middle of a tracing program, and until it goes on the
//! kernel skips that program on that CPU. The understudy is a classic program, which perf runs after
//! the lead and with preemption off: nobody can stand interrupted in it. From the table it finds out
//! whether the lead was there; mostly it was. Older kernels get no understudies: there is nothing to
//! be missed.

use sensor_common::{
    ProcessKey,
    lineage::{Slot, executed_flags},
};

use crate::{
    maps::{FREE, STOOD_IN, count, node, slot_of},
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

/// For a fork that made `child`. It may be an older child of a process that made a thread, and dead by
/// now. In a full table there is nothing to stand in for: the lead has counted the loss.
#[inline(always)]
pub fn plays_fork(cast: Cast, task: Task, child: ProcessKey) -> bool {
    plays(cast, || {
        !is_entered(child) && task.living_threads() != 0 && matches!(FREE.peek(), Ok(Some(_)))
    })
}

#[inline(always)]
fn is_entered(key: ProcessKey) -> bool {
    let entered = slot_of(key.tgid).and_then(node);
    // SAFETY: a value of the array.
    entered.is_some_and(|node| unsafe { (*node).key.start_ns == key.start_ns })
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
