//! The tables that user space shares with the programs.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf, Stack},
};
use sensor_common::{
    ProcessKey,
    brake::{Mark, TALLIES as NUMBERS, Tally},
    lineage::{self, ExecRecord, Image, Known, Node, Slot},
    loss::{Losses, Reason},
    memory::Held,
    oom::{self, Kill, Limit, Told},
    pressure::{RECLAIMING as THREADS, Reclaims, Stall},
    recursion::{Found, Nodes},
    respawn::{self, Loop, Window},
    signature::ARGV_WORDS,
    witness::{self, Watch},
};

use crate::cast;

/// Entries until user space sets the configured number at load.
const TABLE: u32 = 32_768;

/// Nodes by slot. An array and not a hash: looking a slot up costs a bounds check, which is what
/// makes 32 ancestors at every fork affordable. User space maps it and reads without system calls.
#[map]
pub static NODES: Array<Node> = Array::with_max_entries(TABLE, BPF_F_MMAPABLE);

/// What each process holds, by slot.
#[map]
pub static HELD: Array<Held> = Array::with_max_entries(TABLE, BPF_F_MMAPABLE);

/// Marks by slot, written by user space and copied to children here.
#[map]
pub static MARKS: Array<Mark> = Array::with_max_entries(TABLE, BPF_F_MMAPABLE);

/// What the brake did, by `brake::tally_index`.
#[map]
pub static TALLIES: Array<Tally> = Array::with_max_entries(NUMBERS, BPF_F_MMAPABLE);

/// Boot clock until which any mark may hold, ns: while it is past, nobody looks for marks.
#[map]
pub static BRAKE_UNTIL: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Slot of the living process with a tgid. Preallocated: it must not fail when memory is short.
#[map]
pub static INDEX: HashMap<u32, Slot> = HashMap::with_max_entries(TABLE, 0);

/// Slots without a node; user space fills it at load, lowest on top.
#[map]
pub static FREE: Stack<Slot> = Stack::with_max_entries(TABLE, 0);

/// Dead processes that an exit left over for the next one: ancestors, and who may be marked yet.
#[map]
pub static UNFREED: Queue<Slot> = Queue::with_max_entries(4096, 0);

/// Processes that are gone though their exit was not seen, for the next visit to bury; user space
/// fills it.
#[map]
pub static GONE: Queue<ProcessKey> = Queue::with_max_entries(lineage::BURIED_AT_ONCE, 0);

/// Who may free a node when two processes let go of it at once: the first to insert its start
/// time. Old entries fall out by themselves.
#[map]
pub static CLAIMS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(2048, 0);

/// Processes that were taken out of the index while their first thread was still on its way out. Old entries fall
/// out by themselves: mostly that thread has gone before.
#[map]
pub static EARLY: LruHashMap<ProcessKey, u32> = LruHashMap::with_max_entries(512, 0);

/// What was executed, by slot.
#[map]
pub static EXECS: HashMap<Slot, ExecRecord> = HashMap::with_max_entries(TABLE, BPF_F_NO_PREALLOC);

/// What user space knows of the processes before us, by tgid; empty after the baseline.
#[map]
pub static KNOWN: HashMap<u32, Known> = HashMap::with_max_entries(TABLE, BPF_F_NO_PREALLOC);

/// Not 0: everybody from before the start was entered, or counted as one who did not fit.
#[map]
pub static ENTERED: Array<u32> = Array::with_max_entries(1, 0);

/// Commands that failed at once, by who starts them.
#[map]
pub static LOOPS: LruHashMap<Loop, Window> = LruHashMap::with_max_entries(respawn::LOOPS, 0);

/// Who sent SIGKILL, by the target's tgid, until that has ended; longer where a mark may follow.
#[map]
pub static KILLS: LruHashMap<u32, Kill> = LruHashMap::with_max_entries(oom::KILLS, 0);

/// 1: what sees who sends SIGKILL is attached, which user space enters.
#[map]
pub static SENDERS: Array<u32> = Array::with_max_entries(1, 0);

/// The memory limit that a victim's trigger met: room for what one function of the verifier's answers another.
#[map]
pub static LIMIT: PerCpuArray<Limit> = PerCpuArray::with_max_entries(1, 0);

/// Ends by SIGKILL that were told of.
#[map]
pub static TOLD: Array<Told> = Array::with_max_entries(1, 0);

/// Groups in which execs are told of, by cgroup v2 id; user space enters them.
#[map]
pub static WATCHED: HashMap<u64, Watch> = HashMap::with_max_entries(witness::GROUPS, 0);

/// What processes stood in reclaim, by slot. User space maps it.
#[map]
pub static STALLS: Array<Stall> = Array::with_max_entries(TABLE, BPF_F_MMAPABLE);

/// The same of the whole host.
#[map]
pub static RECLAIMS: Array<Reclaims> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// When a thread began to look for memory, boot clock, ns. Preallocated, and old ones fall out: where
/// an end was missed, the thread's next beginning takes its place.
#[map]
pub static RECLAIMING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(THREADS, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Losses by `Reason`.
#[map]
pub static LOSSES: PerCpuArray<Losses> = PerCpuArray::with_max_entries(1, 0);

/// Events that an understudy took over.
#[map]
pub static STOOD_IN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Room to put an exec record together, more than the stack holds: for the lead and for its understudy.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(cast::ALL, 0);

#[repr(C)]
pub struct Scratch {
    pub record: ExecRecord,
    /// The signed part of argv, zero-padded.
    pub words: [u64; ARGV_WORDS],
    pub image: Image,
    pub found: Found,
}

/// Counts a loss.
#[inline(always)]
pub fn lose(reason: Reason) {
    if let Some(losses) = LOSSES.get_ptr_mut(0) {
        // SAFETY: a value of the array, which has a counter for each reason.
        count(unsafe { losses.cast::<u64>().add(reason as usize) });
    }
}

/// Adds to a per-CPU counter. Another program of ours may come in between where the kernel interrupts
/// them.
#[inline(always)]
pub fn count(counter: *mut u64) {
    // SAFETY: all callers have it from a map.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}

/// The node in a slot.
#[inline(always)]
pub fn node(slot: Slot) -> Option<*mut Node> {
    NODES.get_ptr_mut(slot)
}

/// [`NODES`] for the gates.
pub struct Table;

impl Nodes for Table {
    #[inline(always)]
    fn node(&self, slot: Slot) -> Option<&Node> {
        // SAFETY: the array lives as long as the program. A torn read of a signature only misses one
        // repetition.
        NODES.get_ptr(slot).map(|node| unsafe { &*node })
    }
}

/// Slot of the living process with this tgid.
#[inline(always)]
pub fn slot_of(tgid: u32) -> Option<Slot> {
    // SAFETY: the value is copied at once; an element of a preallocated map may be reused, not freed.
    unsafe { INDEX.get(tgid).copied() }
}
