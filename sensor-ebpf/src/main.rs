//! The kernel side: one file per concern. The programs here only take their arguments apart.

#![no_std]
#![no_main]
#![allow(internal_features, reason = "atomic_xadd: the target has no atomic types")]
#![feature(core_intrinsics)]

mod brake;
mod cast;
mod lifecycle;
mod lineage;
mod maps;
mod memory;
mod oom;
mod pressure;
mod recursion;
mod respawn;
mod storm;
mod task;
mod witness;

use aya_ebpf::{
    helpers::generated::bpf_get_current_task,
    macros::{btf_tracepoint, fentry, lsm, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, LsmContext, TracePointContext},
};
use brake::Fork;
use cast::Cast;
use maps::EARLY;
use pressure::Reclaim;
use sensor_common::{ProcessKey, layout::Field, loss::Reason};
use task::Task;

/// Raw tracepoint arguments: (parent, child). Runs in the parent, before the child does.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sensor_fork(ctx: BtfTracePointContext) -> i32 {
    fork(Task(ctx.arg(1)), cast::LEAD)
}

/// Classic tracepoints hand over numbers and names, and no tasks. The child is its parent's youngest.
#[tracepoint(category = "sched", name = "sched_process_fork")]
pub fn sensor_fork_too(_: TracePointContext) -> u32 {
    if let Some(child) = current().youngest_child() {
        fork(child, cast::UNDERSTUDY);
    }
    0
}

#[inline(always)]
fn fork(task: Task, cast: Cast) -> i32 {
    let (pid, tgid) = task.pid_tgid();
    if pid != tgid {
        return 0;
    }
    let key = ProcessKey::new(tgid, task.start_ns());
    if cast::plays_fork(cast, task, key) {
        let (slot, child) = lineage::forked(task, key);
        if child != 0 {
            memory::sensor_shared_at_fork(task.memory(), child, key.start_ns);
        }
        brake::check(slot, child);
    }
    0
}

/// Raw tracepoint arguments: (task, old pid, bprm). Runs in the task, as its new self.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sensor_exec(ctx: BtfTracePointContext) -> i32 {
    exec(Task(ctx.arg(0)), cast::LEAD)
}

#[tracepoint(category = "sched", name = "sched_process_exec")]
pub fn sensor_exec_too(_: TracePointContext) -> u32 {
    exec(current(), cast::UNDERSTUDY);
    0
}

#[inline(always)]
fn exec(task: Task, cast: Cast) -> i32 {
    let slot = match maps::slot_of(lineage::current_tgid()) {
        Some(slot) => slot,
        None => lineage::sensor_recover(),
    };
    if slot != 0 && cast::plays_exec(cast, task, slot) {
        recursion::sensor_executed(slot, cast);
        // After its node: a look finds out by that what is its own, and asks again only eight looks later.
        memory::executed(slot, task);
        witness::sensor_ran(slot);
        brake::check(slot, 0);
    }
    0
}

/// Raw tracepoint arguments: (task). Runs for every thread; the last one ends the process.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sensor_exit(ctx: BtfTracePointContext) -> i32 {
    exit(Task(ctx.arg(0)), cast::LEAD)
}

#[tracepoint(category = "sched", name = "sched_process_exit")]
pub fn sensor_exit_too(_: TracePointContext) -> u32 {
    exit(current(), cast::UNDERSTUDY);
    0
}

#[inline(always)]
fn exit(task: Task, cast: Cast) -> i32 {
    if task.living_threads() != 0 {
        return 0;
    }
    let tgid = lineage::current_tgid();
    let slot = maps::slot_of(tgid);
    // Kernel threads have no node. Of two threads that end a process together, the other one has
    // taken the node away.
    if slot.is_none() && (task.is_kernel_thread() || task.unreleased_threads() > 1) {
        return 0;
    }
    if !cast::plays_exit(cast, slot) {
        return 0;
    }
    let Some(slot) = slot else {
        // Before 6.16 a thread does not count as living any more long before it comes here: the one that is thought to
        // be the last may come first.
        if EARLY.remove(task.key()).is_err() {
            maps::lose(Reason::UnknownExit);
        }
        return 0;
    };
    if !lineage::take(tgid) {
        return 0;
    }
    if task.pid() != tgid {
        // What does not fit is told as lost when that thread comes.
        let _ = EARLY.insert(task.key(), slot, 0);
    }
    // Before the node is gone.
    let marked_yet = oom::ended(slot, task);
    witness::ended(slot);
    let key = lifecycle::key_of(slot);
    let at_ns = lifecycle::now();
    respawn::sensor_ended(slot, at_ns);
    lineage::leave(slot, marked_yet);
    lifecycle::exited(key, task.exit_code(), at_ns);
    0
}

/// Raw tracepoint arguments: (signal, siginfo, task, whole group, result). Runs in whoever sends it.
#[btf_tracepoint(function = "signal_generate")]
pub fn sensor_signal(ctx: BtfTracePointContext) -> i32 {
    oom::sent(ctx.arg(0), ctx.arg(1), Task(ctx.arg(2)), ctx.arg(4))
}

/// Raw tracepoint arguments: (pid), or since 6.8 and in later 6.1 (task, uid). Runs in whoever asked for memory.
#[btf_tracepoint(function = "mark_victim")]
pub fn sensor_victim(ctx: BtfTracePointContext) -> i32 {
    oom::marked(ctx.arg(0))
}

/// Direct reclaim: the host has too little memory, and whoever wants some looks for it. The arguments do
/// not matter: it is `current`.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
pub fn sensor_reclaim_begin(_: BtfTracePointContext) -> i32 {
    pressure::begins(Reclaim::Direct)
}

#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
pub fn sensor_reclaim_end(_: BtfTracePointContext) -> i32 {
    pressure::ends(Reclaim::Direct)
}

/// The same where a cgroup is at its limit.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
pub fn sensor_group_reclaim_begin(_: BtfTracePointContext) -> i32 {
    pressure::begins(Reclaim::Group)
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
pub fn sensor_group_reclaim_end(_: BtfTracePointContext) -> i32 {
    pressure::ends(Reclaim::Group)
}

#[inline(always)]
fn current() -> Task {
    // SAFETY: has no preconditions.
    Task(unsafe { bpf_get_current_task() })
}

/// The brake's best gear. LSM hook arguments: (child, clone flags). Runs in the parent, before any of
/// its memory is copied. io_uring makes its workers here as well, and takes no pause: they are threads.
#[lsm(hook = "task_alloc")]
pub fn sensor_pause_task_alloc(ctx: LsmContext) -> i32 {
    /// ERESTARTNOINTR of include/linux/errno.h: the call begins again once the signal is handled.
    const RESTART: i32 = -513;
    const EAGAIN: i32 = -11;
    if ctx.arg::<u64>(1) & brake::CLONE_THREAD != 0 {
        return 0;
    }
    match brake::before_fork() {
        Fork::Free => 0,
        Fork::Paused => RESTART,
        Fork::Unheard => EAGAIN,
    }
}

/// The second gear. Arguments: (struct kernel_clone_args *). With a signal pending the kernel does not
/// begin a fork but restarts the call: <https://github.com/torvalds/linux/commit/c3ad2c3b02e9>.
#[fentry(function = "kernel_clone")]
pub fn sensor_pause_clone(ctx: FEntryContext) -> i32 {
    let flags: u64 = task::read(ctx.arg::<u64>(0), Field::CloneFlags);
    if flags & brake::CLONE_THREAD == 0 {
        brake::before_fork();
    }
    0
}

/// The third gear, attached only while there are marks: it runs at every system call of the host.
/// Raw tracepoint arguments: (struct pt_regs *, number).
#[btf_tracepoint(function = "sys_enter")]
pub fn sensor_pause_syscall(ctx: BtfTracePointContext) -> i32 {
    if brake::begins_a_process(ctx.arg::<u64>(0), ctx.arg::<i64>(1)) {
        brake::before_fork();
    }
    0
}

/// Context of a `iter/task` program, as `struct bpf_iter__task`.
#[repr(C)]
pub struct IterTask {
    meta: u64,
    task: u64,
}

/// The baseline: one call per task, and a last one with none.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn sensor_baseline(ctx: *mut IterTask) -> i32 {
    // SAFETY: the kernel hands over this structure.
    let task = unsafe { (*ctx).task };
    if task == 0 {
        lineage::sensor_bury();
    } else {
        lineage::baseline(Task(task));
    }
    0
}

/// A look at who holds memory, from the table; attached to nothing, but run when user space asks. Arguments: (the
/// first slot).
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub extern "C" fn sensor_held(ctx: *mut u64) -> i32 {
    // SAFETY: the kernel hands over an array of arguments.
    memory::look_at_table(unsafe { *ctx } as u32)
}

/// The same of all tasks: one call per task, and a last one with none.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn sensor_memory(ctx: *mut IterTask) -> i32 {
    // SAFETY: the kernel hands over this structure.
    let task = unsafe { (*ctx).task };
    if task != 0 {
        memory::look(Task(task));
    }
    0
}

/// GPL-only helpers (`bpf_send_signal`, `bpf_probe_read_*`) need it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing here panics; the verifier would refuse a loop.
    unsafe { core::hint::unreachable_unchecked() }
}
