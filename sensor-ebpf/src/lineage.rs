//! Lineage: who begat whom.
//!
//! Hooks: `tp_btf/sched_process_fork`, `tp_btf/sched_process_exit`, `iter/task` (baseline).
//! Emits nothing itself; keeps `NODES`, `INDEX` and the counters of the nearest 32 ancestors, and has
//! [`storm`] look at them.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task,
        bpf_ktime_get_boot_ns,
    },
};
use sensor_common::{
    ProcessKey,
    lineage::{
        ADOPTED, BURIED_AT_ONCE, COUNTED_ANCESTORS, DEAD, EXECUTED, FREED, FREED_AT_ONCE, Image,
        Node, Slot,
    },
    loss::Reason,
    storm::{Window, chain_below},
};

use crate::{
    lifecycle,
    maps::{CLAIMS, ENTERED, EXECS, FREE, GONE, INDEX, KNOWN, UNFREED, lose, node, slot_of},
    memory, storm,
    task::Task,
};

/// Adds to a counter that other CPUs change too. The result is not used: kernels before 5.12 know
/// no atomic that returns one.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
unsafe fn add(counter: *mut u32, value: u32) {
    // SAFETY: by the caller.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Walks up from `slot`, 32 nodes in all, and does `each` with the level, from 1 on, and the node and
/// its slot.
#[inline(always)]
fn climb(slot: Slot, mut each: impl FnMut(u32, Slot, *mut Node)) {
    let mut slot = slot;
    for level in 1..=COUNTED_ANCESTORS {
        if slot == 0 {
            break;
        }
        let Some(ancestor) = node(slot) else { break };
        each(level, slot, ancestor);
        // SAFETY: a value of the array.
        slot = unsafe { (*ancestor).parent_slot };
    }
}

/// Counts a birth for the parent and those above, and has a look at those whose turn it is.
#[inline(always)]
fn count_birth(parent: Slot, child: ProcessKey, chain: u32) {
    let mask = storm::mask(chain);
    climb(parent, |level, slot, ancestor| {
        // SAFETY: a value of the array; the counters are only ever changed atomically.
        unsafe {
            add(&raw mut (*ancestor).forks, 1);
            // Another CPU may have counted on meanwhile: then it is its turn, or that of the next.
            if ptr::read_volatile(&raw const (*ancestor).forks) & mask == 0 {
                storm::sensor_look(slot, child.tgid, child.start_ns, chain_below(chain, level));
            }
        }
    });
}

/// Counts an exit for the process itself and those above.
#[inline(always)]
fn count_exit(slot: Slot) {
    // SAFETY: as above.
    climb(slot, |_, _, ancestor| unsafe { add(&raw mut (*ancestor).exits, 1) });
}

/// Counts a tree that was there before us for those above it.
#[inline(always)]
fn count_tree(parent: Slot, forks: u32, exits: u32) {
    // SAFETY: as above.
    climb(parent, |_, _, ancestor| unsafe {
        add(&raw mut (*ancestor).forks, forks);
        add(&raw mut (*ancestor).exits, exits);
        storm::shift(ancestor, forks, exits);
    });
}

/// Makes the node of a process and enters it into the index. `None` when the table is full.
#[inline(always)]
fn create(
    leader: Task,
    key: ProcessKey,
    parent_slot: Slot,
    cgroup: u64,
    flags: u32,
) -> Option<Slot> {
    let Ok(Some(slot)) = FREE.pop() else {
        lose(Reason::TableFull);
        return None;
    };
    let fresh = node(slot)?;
    let mut fork_chain = 0;
    let mut parent_key = ProcessKey::new(0, 0);
    if parent_slot != 0
        && let Some(parent) = node(parent_slot)
    {
        // SAFETY: values of the array; the parent holds its own node while it forks.
        unsafe {
            parent_key = (*parent).key;
            fork_chain = (*parent).image.fork_chain.wrapping_add(1);
            add(&raw mut (*parent).references, 1);
        }
    }
    // SAFETY: the slot was free, so nobody else writes here.
    unsafe {
        ptr::write(
            fresh,
            Node {
                key,
                parent: parent_key,
                image: Image { fork_chain, ..NO_IMAGE },
                cgroup,
                parent_slot,
                references: 1,
                forks: 0,
                exits: 0,
                flags,
                suspect: 0,
                windows: [Window::NEW; 2],
            },
        );
    }
    memory::entered(slot, leader);
    if INDEX.insert(key.tgid, slot, u64::from(BPF_NOEXIST)).is_err() {
        // Its predecessor's exit was missed, or the index is full.
        exited(key.tgid);
        if INDEX.insert(key.tgid, slot, u64::from(BPF_ANY)).is_err() {
            lose(Reason::IndexFull);
            memory::left(slot);
            release(slot);
            return None;
        }
    }
    Some(slot)
}

pub const NO_IMAGE: Image = Image {
    strict: 0,
    loose: 0,
    exe: 0,
    generations: [0; 4],
    argv_bytes: 0,
    top: 0,
    strict_repetitions: 0,
    loose_repetitions: 0,
    exe_repetitions: 0,
    growing: 0,
    fork_chain: 0,
    reported: 0,
    reported_s: 0,
};

/// The node of a process that exists, made if its birth was not seen. 0 for kernel threads, whose
/// children have no lineage worth following, and when the table is full. Its parent is not asked for:
/// the baseline links those that were there before us.
#[inline(never)]
fn ensure(task: u64) -> Slot {
    let task = Task(task);
    if let Some(slot) = slot_of(task.tgid()) {
        return slot;
    }
    if task.is_kernel_thread() || was_counted() {
        return 0;
    }
    create(task.leader(), task.key(), 0, task.cgroup(), ADOPTED).unwrap_or(0)
}

/// Whether the table is full, and whoever is not in it was counted as lost before: at its birth, or when
/// those from before the start were entered. Once is enough.
#[inline(always)]
fn was_counted() -> bool {
    // SAFETY: a value of the array; user space writes it once.
    let entered =
        ENTERED.get_ptr(0).is_some_and(|entered| unsafe { ptr::read_volatile(entered) != 0 });
    entered && !matches!(FREE.peek(), Ok(Some(_)))
}

/// The same for `current`, which forks or executes something, with its parent: its birth may have been lost a moment
/// ago. The kernel does not run a program on a CPU on which another task stands in the middle of it,
/// which happens where it may be interrupted there (since 7.0).
///
/// Exported, which makes it a global function to the verifier: verified once, by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_recover() -> Slot {
    // SAFETY: has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let slot = ensure(task);
    if let Some(entered) = node(slot) {
        // SAFETY: a value of the array, and a helper without preconditions.
        let age_ns = unsafe { bpf_ktime_get_boot_ns().wrapping_sub((*entered).key.start_ns) };
        link(Task(task), slot, entered, age_ns < RECENT_NS);
    }
    slot
}

/// Who is no older was born while everybody was known.
const RECENT_NS: u64 = 1_000_000_000;

/// tgid of `current`, without reading its task.
#[inline(always)]
pub fn current_tgid() -> u32 {
    // SAFETY: has no preconditions.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Forks since the last exec on the way to a process.
#[inline(always)]
fn chain_of(slot: Slot) -> u32 {
    // SAFETY: a value of the array.
    node(slot).map_or(0, |node| unsafe { u32::from((*node).image.fork_chain) })
}

/// `current` made a process, of which `task` is the first thread. Answers (slot of the parent, slot of the child), 0 for none.
#[inline(always)]
pub fn forked(task: Task, child: ProcessKey) -> (Slot, Slot) {
    let parent_slot = match slot_of(current_tgid()) {
        Some(slot) => slot,
        None => sensor_recover(),
    };
    // The kernel's own threads have no node until they execute something.
    if parent_slot == 0 && task.is_kernel_thread() {
        return (0, 0);
    }
    // SAFETY: has no preconditions. Right for the child as well, unless clone3 put it elsewhere.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let Some(slot) = create(task, child, parent_slot, cgroup, 0) else {
        return (parent_slot, 0);
    };
    count_birth(parent_slot, child, chain_of(slot));
    lifecycle::forked(parent_slot, slot, cgroup);
    (parent_slot, slot)
}

/// A process is gone, and nobody knows how it ended.
#[inline(always)]
fn exited(tgid: u32) {
    if let Some(slot) = slot_of(tgid)
        && take(tgid)
    {
        leave(slot, false);
    }
}

/// Takes a process out of the index, for good. Two threads may both believe to be its last: true for one of them, to whom
/// the node belongs until it leaves.
#[inline(always)]
pub fn take(tgid: u32) -> bool {
    INDEX.remove(tgid).is_ok()
}

/// Whoever was taken out is dead, and its node goes when nobody needs it. `lingers`: who is told of only now may
/// need it until somebody else leaves.
#[inline(never)]
pub fn leave(slot: Slot, lingers: bool) -> u32 {
    if let Some(gone) = node(slot) {
        // SAFETY: a value of the array; flags belong to this process, which is past its end.
        unsafe { (*gone).flags |= DEAD };
    }
    memory::left(slot);
    count_exit(slot);
    if let Ok(Some(left)) = UNFREED.pop() {
        free_upwards(left);
    }
    if !lingers {
        return release(slot);
    }
    if let_go(slot) && UNFREED.push(slot, u64::from(BPF_ANY)).is_err() {
        free_upwards(slot);
    }
    0
}

/// Lets go of a node: the process itself at its exit, or a child whose node is freed.
#[inline(never)]
fn release(slot: Slot) -> u32 {
    if let_go(slot) {
        free_upwards(slot);
    }
    0
}

/// What an atomic addition needs to take one away.
const MINUS_ONE: u32 = u32::MAX;

/// Takes one reference away; true for the one who took the last.
#[inline(always)]
fn let_go(slot: Slot) -> bool {
    let Some(held) = node(slot) else { return false };
    // SAFETY: a value of the array; `references` is changed atomically or by its last holder.
    unsafe {
        let claim = (*held).key.start_ns;
        if ptr::read_volatile(&raw const (*held).references) == 1 {
            // Ours is the last: nobody else can come or go. It stays 1: whoever let go a moment ago may still have to
            // read it, and is not to see 0.
            return true;
        }
        add(&raw mut (*held).references, MINUS_ONE);
        // Two who let go at once may both see 0 here; the claim decides.
        ptr::read_volatile(&raw const (*held).references) == 0
            && CLAIMS.insert(claim, slot, u64::from(BPF_NOEXIST)).is_ok()
    }
}

/// Frees a node that nobody holds, then its ancestors that nobody else holds.
#[inline(never)]
fn free_upwards(slot: Slot) -> u32 {
    let mut slot = slot;
    for _ in 0..FREED_AT_ONCE {
        let Some(freed) = node(slot) else { return 0 };
        // SAFETY: a value of the array that nobody else holds any more.
        let (parent, flags) = unsafe {
            (*freed).flags |= FREED;
            ((*freed).parent_slot, (*freed).flags)
        };
        if flags & EXECUTED != 0 {
            let _ = EXECS.remove(slot);
        }
        if FREE.push(slot, u64::from(BPF_ANY)).is_err() {
            lose(Reason::Unfreed);
        }
        if parent == 0 || !let_go(parent) {
            return 0;
        }
        slot = parent;
    }
    if UNFREED.push(slot, u64::from(BPF_ANY)).is_err() {
        lose(Reason::Unfreed);
    }
    0
}

/// Takes out who is gone though its exit was not seen, as user space has found it. Called once in a
/// visit.
///
/// Exported as [`sensor_recover`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_bury() -> u32 {
    for _ in 0..BURIED_AT_ONCE {
        let Ok(Some(gone)) = GONE.pop() else { return 0 };
        sensor_bury_one(gone.tgid, gone.start_ns);
    }
    0
}

/// The same for one process, if it is the one that has its pid in the table.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_bury_one(tgid: u32, start_ns: u64) -> u32 {
    let entered = slot_of(tgid).and_then(node);
    // SAFETY: a value of the array.
    if entered.is_some_and(|node| unsafe { (*node).key.start_ns == start_ns }) {
        exited(tgid);
    }
    0
}

/// Enters a process that was there before us, or whose birth was missed; takes out one whose exit was.
/// Called for every task, at the start twice: parents need not come before their children.
#[inline(always)]
pub fn baseline(task: Task) {
    let tgid = task.tgid();
    if task.pid() != tgid || task.is_kernel_thread() {
        return;
    }
    if task.living_threads() == 0 {
        if task.is_zombie() {
            sensor_bury_one(tgid, task.start_ns());
        }
        return;
    }
    if task.memory() == 0 {
        return;
    }
    let slot = ensure(task.0);
    if slot == 0 {
        return;
    }
    if task.living_threads() == 0 {
        // It exited while we entered it; its exit may have come before.
        exited(tgid);
        return;
    }
    let Some(entered) = node(slot) else { return };
    // SAFETY: the value is copied; the map is only written by user space before the baseline.
    if let Some(known) = unsafe { KNOWN.get(tgid).copied() } {
        // SAFETY: a value of the array. The process may execute something right now and write its
        // own image; the signature that it then had a moment ago costs at most one repetition.
        unsafe {
            if (*entered).flags & EXECUTED == 0 && (*entered).key.start_ns == known.start_ns {
                (*entered).image.strict = known.strict;
                (*entered).image.loose = known.loose;
                (*entered).image.exe = known.exe;
                (*entered).image.argv_bytes = known.argv_bytes;
                (*entered).image.fork_chain = 0;
                (*entered).flags |= EXECUTED;
            }
        }
    }
    link(task, slot, entered, false);
}

/// Puts an adopted node below its parent's, and its tree into the counters above. `fresh`: it was born
/// just now, and that counts as growth.
#[inline(always)]
fn link(task: Task, slot: Slot, entered: *mut Node, fresh: bool) {
    // SAFETY: a value of the array.
    let start_ns = unsafe {
        if (*entered).parent_slot != 0 || (*entered).flags & ADOPTED == 0 {
            return;
        }
        (*entered).key.start_ns
    };
    let parent = task.real_parent();
    let Some(parent_slot) = slot_of(parent.tgid()) else { return };
    if parent_slot == slot {
        return;
    }
    let Some(above) = node(parent_slot) else { return };
    // The baseline and a recovery may come to it at once. Who frees it claims the start itself.
    if CLAIMS.insert(!start_ns, slot, u64::from(BPF_NOEXIST)).is_err() {
        return;
    }
    // SAFETY: values of the array; whoever has the claim links.
    let (forks, exits, chain) = unsafe {
        add(&raw mut (*above).references, 1);
        (*entered).parent = (*above).key;
        (*entered).parent_slot = parent_slot;
        let chain = (*above).image.fork_chain.wrapping_add(1);
        if fresh && (*entered).flags & EXECUTED == 0 {
            (*entered).image.fork_chain = chain;
        }
        ((*entered).forks, (*entered).exits, chain)
    };
    if fresh {
        let child = ProcessKey::new(task.tgid(), start_ns);
        count_birth(parent_slot, child, u32::from(chain));
    } else {
        // Its own birth counts as a fork of its ancestors.
        count_tree(parent_slot, forks.wrapping_add(1), exits);
    }
}
