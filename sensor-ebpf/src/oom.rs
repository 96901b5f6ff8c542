//! OOM kills, and who sends SIGKILL.
//!
//! Hooks: `tp_btf/mark_victim`, which every victim of the OOM killer passes, also those of a group kill, and
//! `tp_btf/signal_generate`, of which anything but SIGKILL is left at the first comparison. The exit program
//! calls [`ended`] for who ends by SIGKILL. Emits `oom::Marked`, which wakes the reader, and `oom::Killed`,
//! which does not; keeps `KILLS`.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task,
        bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
    },
};
use sensor_common::{
    event,
    layout::ABSENT,
    lineage::{EXECUTED, Slot},
    loss::Reason,
    oom::{
        BY_KERNEL, BY_OOM, COUNTED, Comm, DYING, Doing, Kill, Killed, LEVELS, LIMITED, Layout,
        Limit, MATTERS_PAGES, MATTERS_PROCESSES, Marked, NODE, Pages, RECORD, SENDER_ENDS, SIGKILL,
        TOLD_A_SECOND, Told, inherited,
    },
};

use crate::{
    maps::{EVENTS, EXECS, HELD, KILLS, LIMIT, SENDERS, TOLD, lose, node, slot_of},
    memory::has_executed,
    task::{Address, Task, cgroup_id, read_at},
};

/// Where this kernel keeps what is read here; set before loading.
#[unsafe(no_mangle)]
static OOM: Layout = Layout::NONE;

/// One field of [`OOM`].
macro_rules! place {
    ($field:ident) => {
        // SAFETY: read-only data that user space replaces before loading, hence volatile.
        unsafe { ptr::read_volatile(&raw const OOM.$field) }
    };
}

/// What is at `base + offset`; zero where this kernel has no such field.
#[inline(always)]
fn field<T: Copy + Default>(base: Address, offset: u64) -> T {
    if offset == ABSENT { T::default() } else { read_at(base.wrapping_add(offset)) }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[inline(always)]
fn current() -> Task {
    // SAFETY: has no preconditions.
    Task(unsafe { bpf_get_current_task() })
}

#[inline(always)]
fn own_comm() -> Comm {
    let mut comm = Comm::default();
    // SAFETY: the room is ours and of that size. Where it fails it stays empty.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), size_of::<Comm>() as u32) };
    comm
}

#[inline(always)]
fn own_uid() -> u32 {
    // SAFETY: has no preconditions.
    (unsafe { bpf_get_current_uid_gid() }) as u32
}

#[inline(always)]
fn own_cgroup() -> u64 {
    // SAFETY: has no preconditions.
    unsafe { bpf_get_current_cgroup_id() }
}

#[inline(always)]
fn uid_of(task: Task) -> u32 {
    field(field::<Address>(task.0, place!(task_cred)), place!(cred_uid))
}

/// Pages of a process, by the counters of its address space. Since 6.2 those lag behind by a few dozen pages
/// for each CPU, as in /proc.
#[inline(always)]
fn pages_of(task: Task) -> Pages {
    let (first, step) = (place!(mm_rss), place!(rss_step));
    let counter = |number: u64| -> u64 {
        let at = first.wrapping_add(step.wrapping_mul(number));
        let count: i64 = read_at(task.memory().wrapping_add(at));
        // Negative, which a lagging counter may be, is none: without a branch, of which four make sixteen states.
        (count & !(count >> 63)) as u64
    };
    if first == ABSENT || step == ABSENT {
        return Pages::default();
    }
    Pages { file: counter(0), anon: counter(1), swap: counter(2), shmem: counter(3) }
}

/// SIGKILL was sent to `task`. `info`: a small number, or where more is said of it; `result`: 0 where the
/// target is going to see it, which it does once.
#[inline(always)]
pub fn sent(signal: u64, info: u64, task: Task, result: u64) -> i32 {
    if signal as u32 as u64 != SIGKILL || result as u32 != 0 {
        return 0;
    }
    remember(info, task.0);
    0
}

/// No global function to the verifier: those take no pointers of the kernel's.
#[inline(never)]
fn remember(info: u64, task: u64) -> u32 {
    /// `SEND_SIG_PRIV` of include/linux/sched/signal.h: from the kernel. 0 is `SEND_SIG_NOINFO`, from a user.
    const PRIVATE: u64 = 1;
    let task = Task(task);
    let mut by_kernel = u32::from(info == PRIVATE);
    if info > PRIVATE {
        // Above 0 are the kernel's reasons, as siginfo(2) has them.
        by_kernel = u32::from(field::<i32>(info, place!(siginfo_code)) > 0);
    }
    let sender_ends = u32::from(current().is_exiting());
    let target = task.key();
    let kill = Kill {
        target,
        sender: current().key(),
        at_ns: now(),
        sender_cgroup: own_cgroup(),
        task: task.0,
        pages: pages_of(task),
        sender_uid: own_uid(),
        flags: by_kernel * BY_KERNEL | sender_ends * SENDER_ENDS,
        sender_comm: own_comm(),
        slot: slot_of(target.tgid).unwrap_or(0),
        zero: 0,
    };
    // The least recently seen makes room; where that fails, its target ends by nobody's signal.
    let _ = KILLS.insert(kill.target.tgid, kill, u64::from(BPF_ANY));
    let pid = task.pid();
    if place!(by_pid) != 0 && pid != kill.target.tgid {
        // Where the first thread has ended the OOM killer names this one.
        let _ = KILLS.insert(pid, kill, u64::from(BPF_ANY));
    }
    0
}

/// `current` asked for memory, and the OOM killer took this one: a task, or on kernels that say no more its
/// pid.
#[inline(always)]
pub fn marked(victim: u64) -> i32 {
    if place!(by_pid) == 0 {
        tell(victim);
        return 0;
    }
    // It was sent its signal a moment ago, by the same hand.
    // SAFETY: the value is copied at once; an element of a preallocated map may be reused, not freed.
    let task = unsafe { KILLS.get(victim as u32) }.map_or(0, |kill| kill.task);
    if task == 0 || Task(task).pid() != victim as u32 {
        lose(Reason::VictimUnknown);
        return 0;
    }
    tell(task);
    0
}

/// No global function to the verifier: those take no pointers of the kernel's.
#[inline(never)]
fn tell(task: u64) -> u32 {
    let victim = Task(task);
    let key = victim.key();
    let trigger = current().key();
    let senders = SENDERS.get(0).is_some_and(|seen| *seen != 0);
    let kill = KILLS.get_ptr_mut(key.tgid);
    // By its kill, where there is one: whoever has come to its end is out of the index.
    // SAFETY: a value of the map, which is preallocated.
    let its = kill.filter(|kill| unsafe { (**kill).target.start_ns == key.start_ns });
    // SAFETY: as above.
    let slot = its.map(|kill| unsafe { (*kill).slot }).or_else(|| slot_of(key.tgid));
    let mut flags = 0;
    // SAFETY: a value of the map, which is preallocated.
    match Doing::of(unsafe { kill.map(|kill| &*kill) }, key, trigger, senders) {
        Doing::Known => return 0,
        Doing::Dying => flags = DYING,
        Doing::Kill => {
            if let Some(kill) = kill {
                // SAFETY: as above.
                unsafe { (*kill).flags |= BY_OOM };
            }
        }
    }
    let Some(mut entry) = EVENTS.reserve::<Marked>(0) else {
        lose(Reason::RingFull);
        return 0;
    };
    let sent = entry.as_mut_ptr();
    let pages = pages_of(victim);
    if pages != Pages::default() {
        flags |= COUNTED;
    }
    let oom_score_adj = i32::from(field::<i16>(victim.signal(), place!(signal_oom_score_adj)));
    let victim_comm = field(victim.leader().0, place!(task_comm));
    sensor_limit();
    let limit = LIMIT.get_ptr(0);
    // SAFETY: the entry is ours until it is submitted, and what is not written is flagged so; values of arrays
    // and of preallocated maps. No `write_bytes`: it becomes a loop over each byte.
    unsafe {
        (*sent).at_fork = 0;
        (*sent).tag = event::MARKED;
        (*sent).at_ns = now();
        (*sent).victim = key;
        (*sent).trigger = trigger;
        (*sent).victim_cgroup = victim.cgroup();
        (*sent).trigger_cgroup = own_cgroup();
        (*sent).pages = pages;
        (*sent).oom_score_adj = oom_score_adj;
        (*sent).victim_uid = uid_of(victim);
        (*sent).trigger_uid = own_uid();
        (*sent).victim_comm = victim_comm;
        (*sent).trigger_comm = own_comm();
        if let Some(limit) = limit {
            (*sent).limit = *limit;
            if (*limit).max != 0 {
                flags |= LIMITED;
            }
        }
        if let Some(slot) = slot
            && let Some(this) = node(slot)
            && (*this).key.start_ns == key.start_ns
        {
            (*sent).parent = (*this).parent;
            (*sent).image = (*this).image;
            flags |= NODE;
            let held = HELD.get(slot);
            let (whose, at_fork) = inherited(held, key, has_executed((*this).flags), &pages);
            (*sent).at_fork = at_fork;
            flags |= whose;
            if (*this).flags & EXECUTED != 0
                && let Some(record) = EXECS.get_ptr(slot)
            {
                ptr::copy_nonoverlapping(record, &raw mut (*sent).record, 1);
                flags |= RECORD;
            }
        }
        (*sent).flags = flags;
    }
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    0
}

/// Of the limits above `current` the one with the least room, into `LIMIT`; none: zeroes.
///
/// Exported, which makes it a global function to the verifier: see `storm::sensor_look`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_limit() -> u32 {
    /// `PAGE_COUNTER_MAX`: nobody has so many pages of 4 KiB.
    const NONE: u64 = (i64::MAX as u64) / 4096;
    let Some(found) = LIMIT.get_ptr_mut(0) else { return 0 };
    // SAFETY: a value of the array, of this CPU; at worst another one that asks for memory comes in between.
    unsafe { *found = Limit::default() };
    let (set, counter) = (place!(set_memory), place!(memcg_counter));
    if set == ABSENT || counter == ABSENT {
        return 0;
    }
    let state: Address = field(current().cgroups(), set);
    let mut level = state.wrapping_sub(place!(memcg_css)).wrapping_add(counter);
    let mut nearest: Address = 0;
    let mut least = u64::MAX;
    for _ in 0..LEVELS {
        let (max, used): (u64, u64) =
            (field(level, place!(counter_max)), field(level, place!(counter_usage)));
        let room = max.saturating_sub(used);
        // Zero: nothing could be read, or nothing may be used at all.
        if max != 0 && max < NONE && room < least {
            least = room;
            nearest = level;
        }
        level = field(level, place!(counter_parent));
        if level == 0 {
            break;
        }
    }
    if nearest != 0 {
        let css = nearest.wrapping_sub(counter).wrapping_add(place!(memcg_css));
        let met = Limit {
            max: field(nearest, place!(counter_max)),
            used: field(nearest, place!(counter_usage)),
            cgroup: cgroup_id(field(css, place!(css_cgroup))),
        };
        // SAFETY: as above.
        unsafe { *found = met };
    }
    0
}

/// The process in a slot ends, whose last thread is `task`, which is `current`. Whether it may be marked as the OOM
/// killer's victim yet, or is just then.
#[inline(always)]
pub fn ended(slot: Slot, task: Task) -> bool {
    const BY_SIGNAL: u32 = 0x7f;
    if u64::from(task.exit_code() & BY_SIGNAL) != SIGKILL {
        return false;
    }
    let yet = sensor_killed(slot) != 0;
    if !yet {
        // Otherwise it is kept for the mark, until another one needs the room.
        let _ = KILLS.remove(task.tgid());
    }
    yet
}

/// Answers 1 for who may be marked yet, or is just then.
///
/// Exported, which makes it a global function to the verifier: see `storm::sensor_look`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_killed(slot: Slot) -> u32 {
    let Some(this) = node(slot) else { return 0 };
    // SAFETY: a value of the array; the process is past its end and changes no more.
    let (key, parent, cgroup, live) =
        unsafe { ((*this).key, (*this).parent, (*this).cgroup, (*this).live().saturating_sub(1)) };
    let mut pages = 0;
    let mut known = 0;
    let mut yet = 0;
    // Kernels that say no more of a victim than its pid are older than that.
    let overtakes = place!(by_pid) == 0;
    let kill = KILLS.get_ptr(key.tgid);
    if let Some(kill) = kill {
        // SAFETY: a value of the map, which is preallocated.
        unsafe {
            if (*kill).target.start_ns == key.start_ns {
                if (*kill).flags & BY_OOM != 0 {
                    // Whoever marks it may be about to read its node.
                    return u32::from((*kill).sender != key);
                }
                known = 1;
                pages = (*kill).pages.anon + (*kill).pages.swap + (*kill).pages.shmem;
                yet = u32::from(overtakes && (*kill).may_be_marked());
            }
        }
    }
    let at_ns = now();
    let matters = live >= MATTERS_PROCESSES || pages >= MATTERS_PAGES;
    let Some(untold) = tells(matters, at_ns) else { return yet };
    let Some(mut entry) = EVENTS.reserve::<Killed>(0) else {
        lose(Reason::RingFull);
        return yet;
    };
    let sent = entry.as_mut_ptr();
    let comm = field(current().leader().0, place!(task_comm));
    // SAFETY: the entry is ours until it is submitted, and what is not written is flagged so; the kill is a
    // value of a preallocated map, which at worst another one's has replaced.
    unsafe {
        (*sent).tag = event::KILLED;
        (*sent).live = live;
        (*sent).at_ns = at_ns;
        (*sent).process = key;
        (*sent).parent = parent;
        (*sent).cgroup = cgroup;
        (*sent).comm = comm;
        (*sent).uid = own_uid();
        (*sent).known = known;
        (*sent).untold = untold;
        if let Some(kill) = kill {
            ptr::copy_nonoverlapping(kill, &raw mut (*sent).kill, 1);
        }
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    yet
}

/// Whether one more is told of: those that matter always, of the others some in each second. Answers how many
/// were not, since the last that was. Two CPUs at once may miscount one.
#[inline(always)]
fn tells(matters: bool, at_ns: u64) -> Option<u64> {
    const SECOND: u64 = 1_000_000_000;
    let told = TOLD.get_ptr_mut(0)?;
    // SAFETY: a value of the array.
    unsafe {
        let Told { mut since_ns, mut told_of, untold } = ptr::read_volatile(told);
        if at_ns.wrapping_sub(since_ns) >= SECOND {
            since_ns = at_ns;
            told_of = 0;
        }
        if !matters && told_of >= TOLD_A_SECOND {
            ptr::write_volatile(&raw mut (*told).untold, untold + 1);
            return None;
        }
        ptr::write_volatile(told, Told { since_ns, told_of: told_of + 1, untold: 0 });
        Some(untold)
    }
}
