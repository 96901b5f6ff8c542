//! Memory: who holds how much.
//!
//! Hooks: none of its own for a look at the table, run when user space wants to know; `iter/task` for one at all tasks,
//! which finds those as well that are only to be waited for; `tp_btf/sched_process_fork` and `_exit`, to note who is in
//! which slot and what a child shares with its parent. Emits nothing; keeps `HELD`.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_loop};
use sensor_common::{
    layout::{ABSENT, Field},
    lineage::{ADOPTED, EXECUTED, Slot},
    memory::{ANON, Held, Layout, NOBODY, OWN, SHARES, SHMEM, SLOTS_AT_ONCE, SWAP},
};

use crate::{
    maps::{HELD, node, slot_of},
    task::{Address, Task, read, read_at},
};

/// Where the counters are; set before loading.
#[unsafe(no_mangle)]
static MEMORY: Layout = Layout {
    counters: 0,
    stride: 0,
    cred: 0,
    uid: 0,
    session: 0,
    number: 0,
    threads: 0,
    thread: 0,
    owner: 0,
};

/// One of these.
macro_rules! layout {
    ($field:ident) => {
        // SAFETY: read-only data that user space replaced before loading.
        unsafe { ptr::read_volatile(&raw const MEMORY.$field) }
    };
}

/// Each so many looks everything is read of everyone, who has not changed included; a power of 2.
const COMPLETE: u32 = 8;

/// Threads that are asked for the memory of a process whose first one has ended: most of them have it.
const ASKED: u32 = 8;

/// What an address space's counters say, pages.
struct Counts {
    anon: u32,
    swap: u32,
    shmem: u32,
}

impl Counts {
    /// Whether they are others than at the last look.
    ///
    /// # Safety
    /// `held` points into the map.
    #[inline(always)]
    unsafe fn differ(&self, held: *const Held) -> bool {
        // SAFETY: by the caller.
        let Held { anon, swap, shmem, .. } = unsafe { *held };
        (self.anon, self.swap, self.shmem) != (anon, swap, shmem)
    }
}

/// Words from the first of the three counters to the last, where each is a `percpu_counter` (40 bytes, since 6.2). In a
/// kernel that checks its locks they are larger.
const WORDS: u64 = 11;

/// Reads them in one go, if they are no further from each other: a call of the kernel's reader costs more than the words
/// between.
#[inline(always)]
fn counts(memory: Address) -> Counts {
    let stride = layout!(stride);
    let first = memory.wrapping_add(layout!(counters)).wrapping_add(stride * ANON);
    let words = stride / 8;
    if words * (SHMEM - ANON) < WORDS {
        let all: [i64; WORDS as usize] = read_at(first);
        let count = |index| all.get(((index - ANON) * words) as usize).map_or(0, |it| whole(*it));
        Counts { anon: count(ANON), swap: count(SWAP), shmem: count(SHMEM) }
    } else {
        let count = |index| whole(read_at(first.wrapping_add(stride * (index - ANON))));
        Counts { anon: count(ANON), swap: count(SWAP), shmem: count(SHMEM) }
    }
}

/// Its anonymous memory and swap, pages.
#[inline(always)]
fn private(memory: Address) -> u32 {
    let Counts { anon, swap, .. } = counts(memory);
    anon.saturating_add(swap)
}

/// Since 6.2 each CPU adds to a counter with a delay, so that it may be negative for a moment.
#[inline(always)]
fn whole(count: i64) -> u32 {
    if count < 0 {
        0
    } else if count > i64::from(u32::MAX) {
        u32::MAX
    } else {
        count as u32
    }
}

/// Notes who is in a slot. `leader`: its first thread.
#[inline(always)]
pub fn entered(slot: Slot, leader: Task) {
    if let Some(held) = HELD.get_ptr_mut(slot) {
        // SAFETY: a value of the array, in the slot of a process that nobody else knows yet.
        unsafe { ptr::write(held, Held { task: leader.0, ..NOTHING }) };
    }
}

/// Notes that it has executed something: it has other memory than before, and its first thread is whichever asked for
/// it.
#[inline(always)]
pub fn executed(slot: Slot, leader: Task) {
    if let Some(held) = HELD.get_ptr_mut(slot) {
        // SAFETY: a value of the array.
        unsafe {
            (*held).task = leader.0;
            (*held).memory = 0;
        }
    }
}

/// Notes that nobody is.
#[inline(always)]
pub fn left(slot: Slot) {
    if let Some(held) = HELD.get_ptr_mut(slot) {
        // SAFETY: a value of the array.
        unsafe { (*held).task = NOBODY };
    }
}

/// Notes what a child, whose memory this is, has that its parent has as well. `current` is the parent.
///
/// Exported, which makes it a global function to the verifier: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_shared_at_fork(memory: Address, slot: Slot, start_ns: u64) -> u32 {
    if layout!(stride) == 0 {
        return 0;
    }
    let Some(held) = HELD.get_ptr_mut(slot) else { return 0 };
    // SAFETY: has no preconditions.
    let shares = memory == Task(unsafe { bpf_get_current_task() }).memory();
    // SAFETY: a value of the array, in the slot of a process that nobody else knows yet.
    unsafe {
        (*held).at_fork = if shares { SHARES } else { at_most(private(memory), SHARES - 1) };
        (*held).start_ns = start_ns;
    }
    0
}

const NOTHING: Held = Held {
    task: 0,
    memory: 0,
    start_ns: 0,
    anon: 0,
    swap: 0,
    shmem: 0,
    at_fork: OWN,
    threads: 0,
    uid: 0,
    session: 0,
    zombies: 0,
    zombies_look: 0,
    look: 0,
};

#[inline(always)]
fn at_most(value: u32, limit: u32) -> u32 {
    if value < limit { value } else { limit }
}

/// The number of this look.
#[inline(always)]
fn number() -> u32 {
    // SAFETY: a value of the array.
    HELD.get_ptr(0).map_or(0, |first| unsafe { ptr::read_volatile(&raw const (*first).look) })
}

/// What goes from slot to slot.
#[repr(C)]
struct Round {
    first: Slot,
    look: u32,
}

/// Looks at whoever is in [`SLOTS_AT_ONCE`] slots from `first` on. Answers at how many: fewer, where it came to
/// one that was never used.
///
/// The kernel runs it as a reader of RCU: whoever is in a slot may end meanwhile, but the task is not freed.
#[inline(always)]
pub fn look_at_table(first: Slot) -> i32 {
    let mut round = Round { first, look: number() };
    let step: unsafe extern "C" fn(u64, *mut Round) -> i64 = look_at_slot;
    // SAFETY: the function takes what is handed to it here, and nothing else.
    let done = unsafe { bpf_loop(SLOTS_AT_ONCE, step as *mut c_void, (&raw mut round).cast(), 0) };
    done as i32
}

/// # Safety
/// `round` is what [`look_at_table`] hands over.
unsafe extern "C" fn look_at_slot(index: u64, round: *mut Round) -> i64 {
    // SAFETY: by the caller.
    let (slot, look) = unsafe { ((*round).first.wrapping_add(index as u32), (*round).look) };
    let Some(held) = HELD.get_ptr_mut(slot) else { return 1 };
    // SAFETY: a value of the array.
    let (task, mut memory) = unsafe { (Task((*held).task), (*held).memory) };
    if task.0 == 0 {
        // One may be taken and not filled yet; the one after it is then, if anybody has come since.
        // SAFETY: as above.
        let next = HELD.get_ptr(slot.wrapping_add(1)).map_or(0, |next| unsafe { (*next).task });
        return i64::from(next == 0);
    }
    if task.0 == NOBODY {
        return 0;
    }
    // SAFETY: as above.
    if unsafe { rests(memory, slot, held, look) } {
        seen(task, held, look);
        return 0;
    }
    if !is_owned(memory, task) {
        memory = find(task, slot);
        // SAFETY: as above.
        unsafe { (*held).memory = memory };
    }
    if memory != 0 {
        measure(task, memory, slot, held, look);
    }
    0
}

/// Whether a process holds what it held when it was looked at last: nearly all do, and of those nothing else is read.
/// Memory that somebody else has by now, for an exec or exit was missed, has other counters as a rule, and each eighth
/// look asks whose it is.
///
/// # Safety
/// `held` points into the map.
#[inline(always)]
unsafe fn rests(memory: Address, slot: Slot, held: *const Held, look: u32) -> bool {
    // SAFETY: by the caller.
    let Held { start_ns, at_fork, look: last, .. } = unsafe { *held };
    let known = memory != 0 && start_ns != 0 && at_fork != SHARES && last != 0;
    // SAFETY: by the caller.
    known && !is_complete(slot, look) && !unsafe { counts(memory).differ(held) }
}

/// Whether everything is read of this one now.
#[inline(always)]
fn is_complete(slot: Slot, look: u32) -> bool {
    look.wrapping_add(slot) % COMPLETE == 0
}

/// Notes that it was there.
#[inline(always)]
fn seen(task: Task, held: *mut Held, look: u32) {
    // Who looks may be interrupted, and find the slot somebody else's.
    // SAFETY: a value of the array; there is one look at a time.
    unsafe {
        if (*held).task == task.0 {
            (*held).look = look;
        }
    }
}

/// Whether a process's memory still is what it was: so its task need not be read, which is cold in the processor's
/// caches. The kernel names another owner, or none, when a process lets go of its memory.
#[inline(always)]
fn is_owned(memory: Address, task: Task) -> bool {
    let owner = layout!(owner);
    owner != ABSENT && memory != 0 && read_at::<Address>(memory.wrapping_add(owner)) == task.0
}

/// Where whoever is in a slot has its memory. Where an exit was missed, the task may be somebody else's by now, or
/// none.
#[inline(always)]
fn find(task: Task, slot: Slot) -> Address {
    let Some(entered) = node(slot) else { return 0 };
    // SAFETY: a value of the array.
    let is_same = task.tgid() == unsafe { (*entered).key.tgid };
    if is_same { memory_of(task) } else { 0 }
}

/// Looks at one task. Called for every task of the host, threads included.
#[inline(always)]
pub fn look(task: Task) {
    let (pid, tgid) = task.pid_tgid();
    if pid != tgid {
        return;
    }
    let memory = memory_of(task);
    if memory != 0 {
        if let Some(slot) = slot_of(tgid)
            && let Some(entered) = node(slot)
            && let Some(held) = HELD.get_ptr_mut(slot)
        {
            // Who looks may be interrupted, and find the slot somebody else's.
            // SAFETY: values of the arrays. Of an exec that was missed, too, first thread and memory are known from now on.
            unsafe {
                if (*entered).key.start_ns != task.start_ns() {
                    return;
                }
                (*held).task = task.0;
                (*held).memory = memory;
            }
            measure(task, memory, slot, held, number());
        }
    } else if task.is_zombie() && task.living_threads() == 0 {
        await_burial(task);
    }
}

/// Where a process has its memory; 0: it has none. It may go on without its first thread, which is this one, and does
/// with the others' memory.
#[inline(always)]
fn memory_of(task: Task) -> Address {
    /// The second word of `struct list_head`: of a list's head, its last element; of an element, the one before.
    const PREV: u64 = 8;
    let memory = task.memory();
    if memory != 0 || !task.is_zombie() || task.living_threads() == 0 {
        return memory;
    }
    let head = task.signal().wrapping_add(layout!(threads));
    let mut entry: Address = read_at(head.wrapping_add(PREV));
    for _ in 0..ASKED {
        if entry == head {
            break;
        }
        let memory = Task(entry.wrapping_sub(layout!(thread))).memory();
        if memory != 0 {
            return memory;
        }
        entry = read_at(entry.wrapping_add(PREV));
    }
    0
}

/// Counts an ended process for whoever should wait for it.
#[inline(always)]
fn await_burial(task: Task) {
    let Some(slot) = slot_of(task.real_parent().tgid()) else { return };
    let Some(held) = HELD.get_ptr_mut(slot) else { return };
    let look = number();
    // SAFETY: a value of the array; there is one look at a time.
    unsafe {
        if (*held).zombies_look != look {
            (*held).zombies_look = look;
            (*held).zombies = 0;
        }
        (*held).zombies = (*held).zombies.wrapping_add(1);
    }
}

/// Notes what a process holds. `task`: its first thread.
///
/// What is cold in the processor's cache costs most: so what seldom changes is read of who has changed, and of
/// everyone only now and then.
#[inline(always)]
fn measure(task: Task, memory: Address, slot: Slot, held: *mut Held, look: u32) {
    let now = counts(memory);
    // SAFETY: a value of the array; there is one look at a time, and the fork's note was before it.
    unsafe {
        let first = (*held).look == 0;
        // The kernel's own threads borrow memory now and then.
        if first && task.is_kernel_thread() {
            return;
        }
        if first || now.differ(held) || is_complete(slot, look) {
            identify(task, held);
        }
        (*held).anon = now.anon;
        (*held).swap = now.swap;
        (*held).shmem = now.shmem;
        if (*held).start_ns == 0 || (*held).at_fork != OWN {
            settle(task, memory, slot, held);
        }
    }
    seen(task, held, look);
}

/// How many threads it has, whose it is, and its session.
///
/// # Safety
/// `held` points into the map.
#[inline(always)]
unsafe fn identify(task: Task, held: *mut Held) {
    let signal = task.signal();
    let session: Address = read_at(signal.wrapping_add(layout!(session)));
    let cred: Address = read_at(task.0.wrapping_add(layout!(cred)));
    let (number, uid) = (layout!(number), layout!(uid));
    // SAFETY: by the caller.
    unsafe {
        (*held).threads = read(signal, Field::SignalThreads);
        (*held).session = read_at(session.wrapping_add(number));
        (*held).uid = read_at(cred.wrapping_add(uid));
    }
}

/// Finds out how much of it is its own.
///
/// # Safety
/// `held` points into the map.
#[inline(always)]
unsafe fn settle(task: Task, memory: Address, slot: Slot, held: *mut Held) {
    let Some(entered) = node(slot) else { return };
    // SAFETY: values of the arrays.
    unsafe {
        let fresh = (*held).start_ns == 0;
        if has_executed((*entered).flags) {
            (*held).at_fork = OWN;
        } else if fresh {
            share(task, memory, held);
        } else if (*held).at_fork == SHARES && task.real_parent().memory() != memory {
            // Whose memory it was is gone.
            (*held).at_fork = OWN;
        }
        if fresh {
            // The last that is written: who reads takes it for nobody's until then.
            ptr::write_volatile(&raw mut (*held).start_ns, (*entered).key.start_ns);
        }
    }
}

/// Whether it was seen to execute something. What was there before the sensor counts no execs.
#[inline(always)]
pub fn has_executed(flags: u32) -> bool {
    flags & EXECUTED != 0 && (flags & ADOPTED == 0 || flags >> 16 != 0)
}

/// Finds out what somebody shares with its parent whose fork was not seen. Who executed a program has its
/// arguments at a random place; who only forked has them where its parent has them.
///
/// # Safety
/// `held` points into the map.
#[inline(always)]
unsafe fn share(task: Task, memory: Address, held: *mut Held) {
    let parent = task.real_parent().memory();
    if parent == 0 {
        return;
    }
    // SAFETY: by the caller.
    unsafe {
        if parent == memory {
            (*held).at_fork = SHARES;
            return;
        }
        let arguments: u64 = read(memory, Field::MmArgStart);
        if arguments == read::<u64>(parent, Field::MmArgStart) && arguments != 0 {
            let here = at_most((*held).anon.saturating_add((*held).swap), SHARES - 1);
            (*held).at_fork = at_most(here, private(parent));
        }
    }
}
