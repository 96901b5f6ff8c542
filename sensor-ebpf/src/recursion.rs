//! Recursion: a command among its own living ancestors.
//!
//! Hook: `tp_btf/sched_process_exec`. Emits `event::Alarm` when a gate is crossed (R1, R1b, R1c)
//! and `event::Exec` for execs below a crossing; keeps `EXECS` and every node's image.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_probe_read_user,
    },
};
use sensor_common::{
    ProcessKey, event,
    gate::Level,
    layout::Field,
    lineage::{ARGV_KEPT, ARGV_SIGNED, ExecRecord, Image, Slot, executed_flags},
    loss::Reason,
    recursion::{Limits, Verdict, gate, repeat, search, seconds, span_ns},
    signature::{self, ARGV_WORDS},
};

use crate::{
    cast::Cast,
    lifecycle,
    lineage::NO_IMAGE,
    maps::{EVENTS, EXECS, SCRATCH, Scratch, Table, lose, node},
    task::{Task, exe, read},
};

/// Thresholds; set before loading.
#[unsafe(no_mangle)]
static LIMITS: Limits = Limits::DEFAULT;

/// `current`, whose node is in `slot`, executed a program.
///
/// Exported, as `sensor_search`. So the program itself has next to no stack, and what else it calls may
/// have more: a chain of calls has 512 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_executed(slot: Slot, cast: Cast) -> u32 {
    // SAFETY: has no preconditions.
    executed(Task(unsafe { bpf_get_current_task() }), slot, cast);
    0
}

#[inline(always)]
fn executed(task: Task, slot: Slot, cast: Cast) {
    let Some(scratch) = SCRATCH.get_ptr_mut(cast) else { return };
    // SAFETY: a per-CPU value; a tracing program does not run inside itself on one CPU.
    let scratch = unsafe { &mut *scratch };
    capture(task, scratch);

    let record = &scratch.record;
    let exe = signature::exe(record.exe);
    let loose = signature::loose(exe, sign(&scratch.words, record.argv_bytes));
    let strict = signature::strict(loose, record.cwd);
    let argv_bytes = record.argv_bytes;
    if EXECS.insert(slot, record, u64::from(BPF_ANY)).is_err() {
        lose(Reason::ExecFull);
        // What it executed before is not what it executes now.
        let _ = EXECS.remove(slot);
    }

    let Some(this) = node(slot) else { return };
    // SAFETY: a value of the array; a process's image is written by its own exec only.
    let (key, parent, parent_slot) = unsafe { ((*this).key, (*this).parent, (*this).parent_slot) };
    // SAFETY: has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let image = Image {
        strict,
        loose,
        exe,
        generations: [now, 0, 0, 0],
        argv_bytes,
        top: slot,
        ..NO_IMAGE
    };
    scratch.image = image;
    sensor_search(parent_slot, cast);
    let found = scratch.found;
    let image = repeat(&Table, &found, image);
    // SAFETY: has no preconditions; `current` is the task.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: as above.
    unsafe {
        ptr::write(&raw mut (*this).image, image);
        (*this).cgroup = cgroup;
        (*this).flags = executed_flags((*this).flags, task.execs());
    }
    let asked = ask(key, &image, cgroup, now);
    if lifecycle::recorded() {
        lifecycle::executed(record, key, parent, cgroup, &image, asked);
        return;
    }
    let crossed = asked.is_some_and(|(_, verdict)| !matches!(verdict.level, Level::Calm));
    if crossed || found.suspects != 0 {
        report(record, key, parent, cgroup, now);
    }
}

/// [`search`] from `parent` up for those like the scratch's image; what is found is left there.
///
/// Exported, which makes it a global function to the verifier: what comes after it is verified once
/// and not again for each of the 64 ways out of its loop. 6.1 refused the recorder after a million
/// instructions without.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sensor_search(parent: Slot, cast: Cast) -> u32 {
    if let Some(scratch) = SCRATCH.get_ptr_mut(cast) {
        // SAFETY: as above.
        let scratch = unsafe { &mut *scratch };
        scratch.found = search(&Table, parent, &scratch.image);
    }
    0
}

/// Reads what is executed into the scratch.
#[inline(always)]
fn capture(task: Task, scratch: &mut Scratch) {
    let memory = task.memory();
    let start: u64 = read(memory, Field::MmArgStart);
    let end: u64 = read(memory, Field::MmArgEnd);
    let argv_bytes = end.wrapping_sub(start);
    let mut kept = argv_bytes;
    if kept > ARGV_KEPT as u64 {
        kept = ARGV_KEPT as u64;
    }
    let record = &mut scratch.record;
    record.exe = exe(memory);
    record.cwd = task.cwd();
    record.argv_bytes = argv_bytes as u32;
    record.kept = kept as u32;
    for word in &mut scratch.words {
        *word = 0;
    }
    let mut signed = kept;
    if signed > ARGV_SIGNED as u64 {
        signed = ARGV_SIGNED as u64;
    }
    // SAFETY: both lengths are bounded by their destinations; the helper checks the source, which
    // exec has just written and which is therefore in memory.
    unsafe {
        let _ =
            bpf_probe_read_user(record.argv.as_mut_ptr().cast(), kept as u32, start as *const _);
        let _ = bpf_probe_read_user(
            scratch.words.as_mut_ptr().cast(),
            signed as u32,
            start as *const _,
        );
    }
}

#[inline(never)]
fn sign(words: &[u64; ARGV_WORDS], argv_bytes: u32) -> u64 {
    signature::argv(words, argv_bytes)
}

/// Asks the gates, and reports what is news.
#[inline(always)]
fn ask(key: ProcessKey, image: &Image, cgroup: u64, now: u64) -> Option<(ProcessKey, Verdict)> {
    let top = node(image.top)?;
    // SAFETY: read-only data that user space replaced before loading.
    let limits = unsafe { ptr::read_volatile(&raw const LIMITS) };
    // SAFETY: a value of the array.
    let (top_key, verdict) = unsafe { ((*top).key, gate(image, &*top, now, &limits)) };
    if verdict.report {
        // SAFETY: a value of the array. Two CPUs at once may both report: user space merges.
        unsafe {
            (*top).image.reported = verdict.level as u16;
            (*top).image.reported_s = seconds(now);
            (*top).suspect = 1;
        }
        alarm(event::Alarm {
            tag: event::ALARM,
            level: verdict.level as u16,
            rule: verdict.rule as u16,
            process: key,
            top: top_key,
            crossed_ns: now,
            span_ns: span_ns(image),
            cgroup,
            repetitions: u32::from(verdict.repetitions),
            live: verdict.live,
            grown: 0,
            forks: 0,
            exits: 0,
            zero: 0,
        });
    }
    Some((top_key, verdict))
}

#[inline(always)]
fn alarm(alarm: event::Alarm) {
    let Some(mut entry) = EVENTS.reserve::<event::Alarm>(0) else {
        lose(Reason::RingFull);
        return;
    };
    entry.write(alarm);
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
}

/// Sends an exec below a crossing; drained on a timer, nobody is woken for it.
#[inline(always)]
fn report(record: &ExecRecord, key: ProcessKey, parent: ProcessKey, cgroup: u64, now: u64) {
    let Some(mut entry) = EVENTS.reserve::<event::Exec>(0) else {
        lose(Reason::RingFull);
        return;
    };
    let sent = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and every field is written.
    unsafe {
        (*sent).tag = event::EXEC;
        (*sent).argv_bytes = record.argv_bytes;
        (*sent).process = key;
        (*sent).parent = parent;
        (*sent).exec_ns = now;
        (*sent).cgroup = cgroup;
        (*sent).kept = record.kept;
        (*sent).zero = 0;
        ptr::copy_nonoverlapping(record.argv.as_ptr(), (&raw mut (*sent).argv).cast(), ARGV_KEPT);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
