//! Memory: who holds how much.
//!
//! Hooks: `iter/task`, when user space wants to know; `tp_btf/sched_process_fork`, to note what a child
//! shares with its parent. Emits nothing; keeps `HELD`.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_get_current_task;
use sensor_common::{
    layout::Field,
    lineage::{ADOPTED, EXECUTED, Slot},
    memory::{ANON, BARE, FORKED, Held, Layout, OWN, SHARES, SHMEM, SWAP},
};

use crate::{
    maps::{HELD, node, slot_of},
    task::{Address, KERNEL_THREAD, Task, load, load_at, read, read_at},
};

/// Where the counters are; set before loading.
#[unsafe(no_mangle)]
static MEMORY: Layout = Layout { counters: 0, stride: 0, cred: 0, uid: 0, session: 0, number: 0 };

#[inline(always)]
fn layout() -> Layout {
    // SAFETY: read-only data that user space replaced before loading.
    unsafe { ptr::read_volatile(&raw const MEMORY) }
}

/// Where one of an address space's counters is.
#[inline(always)]
fn counter(memory: Address, index: u64) -> Address {
    let layout = layout();
    memory.wrapping_add(layout.counters).wrapping_add(layout.stride * index)
}

/// What a counter says. Since 6.2 each CPU adds to it with a delay, so that it may be negative for a moment.
#[inline(always)]
fn pages(count: i64) -> u32 {
    if count < 0 {
        0
    } else if count > i64::from(u32::MAX) {
        u32::MAX
    } else {
        count as u32
    }
}

/// Reads a counter of a memory whose type the verifier knows. Up to 6.1 the counters are an array of a
/// typedef, through which it does not look: one branch is dead on each kernel, and it drops that one.
#[inline(always)]
fn load_pages(memory: Address, index: u64) -> u32 {
    let at = counter(memory, index);
    pages(if layout().stride == BARE { read_at(at) } else { load_at(at) })
}

/// Anonymous memory and swap, whatever the verifier knows of the pointer.
#[inline(always)]
fn private(memory: Address) -> u32 {
    let pages = |index| pages(read_at(counter(memory, index)));
    pages(ANON).saturating_add(pages(SWAP))
}

/// Notes what a child, whose memory this is, has that its parent has as well. `current` is the parent.
///
/// Exported, which makes it a global function to the verifier: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_shared_at_fork(memory: Address, slot: Slot, start_ns: u64) -> u32 {
    if layout().stride == 0 {
        return 0;
    }
    let Some(held) = HELD.get_ptr_mut(slot) else { return 0 };
    // SAFETY: has no preconditions.
    let shares = memory == Task(unsafe { bpf_get_current_task() }).memory();
    let (state, at_fork) = if shares { (SHARES, 0) } else { (FORKED, private(memory)) };
    // SAFETY: a value of the array, in the slot of a process that nobody else knows yet.
    unsafe { ptr::write(held, Held { start_ns, state, at_fork, ..NOTHING }) };
    0
}

const NOTHING: Held = Held {
    start_ns: 0,
    anon: 0,
    swap: 0,
    shmem: 0,
    at_fork: 0,
    threads: 0,
    uid: 0,
    session: 0,
    zombies: 0,
    zombies_look: 0,
    look: 0,
    state: OWN,
    zero: 0,
};

/// Looks at one task. Called for every task of the host, threads included: what is read for each is loaded.
#[inline(always)]
pub fn look(task: Task) {
    let (pid, tgid): (u32, u32) = (load(task.0, Field::TaskPid), load(task.0, Field::TaskTgid));
    let memory: Address = load(task.0, Field::TaskMm);
    if pid != tgid {
        // A process may go on without its first thread, and does with the others' memory.
        if memory != 0 && task.leader().memory() == 0 {
            measure(task, tgid, memory);
        }
    } else if memory != 0 {
        measure(task, tgid, memory);
    } else if task.is_zombie() && task.living_threads() == 0 {
        await_burial(task);
    }
}

/// The number of this look.
#[inline(always)]
fn number() -> u32 {
    // SAFETY: a value of the array.
    HELD.get_ptr(0).map_or(0, |first| unsafe { ptr::read_volatile(&raw const (*first).look) })
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

#[inline(always)]
fn measure(task: Task, tgid: u32, memory: Address) {
    // The kernel's own threads borrow memory now and then.
    if load::<u32>(task.0, Field::TaskFlags) & KERNEL_THREAD != 0 {
        return;
    }
    let Some(slot) = slot_of(tgid) else { return };
    let (Some(entered), Some(held)) = (node(slot), HELD.get_ptr_mut(slot)) else { return };
    let layout = layout();
    // SAFETY: a value of the array.
    let (start_ns, flags) = unsafe { ((*entered).key.start_ns, (*entered).flags) };
    // SAFETY: a value of the array; there is one look at a time, and the fork's note was before it.
    unsafe {
        let (anon, swap) = (load_pages(memory, ANON), load_pages(memory, SWAP));
        let known = (*held).start_ns == start_ns;
        (*held).anon = anon;
        (*held).swap = swap;
        (*held).shmem = load_pages(memory, SHMEM);
        let signal: Address = load(task.0, Field::TaskSignal);
        (*held).threads = load(signal, Field::SignalThreads);
        let session: Address = load_at(signal.wrapping_add(layout.session));
        (*held).session = load_at(session.wrapping_add(layout.number));
        // Where a kernel's types say that RCU protects it, the verifier wants to see it compared with null.
        let cred: Address = read_at(task.0.wrapping_add(layout.cred));
        (*held).uid = read_at(cred.wrapping_add(layout.uid));
        if has_executed(flags) {
            (*held).state = OWN;
        } else if !known {
            (*held).state = OWN;
            share(task, memory, anon.saturating_add(swap), held);
        } else if (*held).state == SHARES && task.real_parent().memory() != memory {
            // Whose memory it was is gone.
            (*held).state = OWN;
        }
        if !known {
            // The last that is written: who reads takes it for nobody's until then.
            ptr::write_volatile(&raw mut (*held).start_ns, start_ns);
        }
        (*held).look = number();
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
unsafe fn share(task: Task, memory: Address, private_pages: u32, held: *mut Held) {
    let parent = task.real_parent().memory();
    if parent == 0 {
        return;
    }
    // SAFETY: by the caller.
    unsafe {
        if parent == memory {
            (*held).state = SHARES;
            return;
        }
        let arguments: u64 = read(memory, Field::MmArgStart);
        if arguments == read::<u64>(parent, Field::MmArgStart) && arguments != 0 {
            let at_parent = private(parent);
            (*held).state = FORKED;
            (*held).at_fork = if private_pages < at_parent { private_pages } else { at_parent };
        }
    }
}
