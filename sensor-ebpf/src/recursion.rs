//! Recursion: a command among its own living ancestors.
//!
//! Hook: `tp_btf/sched_process_exec`. Emits `event::Alarm` when a gate is crossed (R1, R1b, R1c)
//! and `event::Exec` for execs below a crossing; keeps `EXECS` and every node's image.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns, bpf_probe_read_user},
};
use sensor_common::{
    ProcessKey, event,
    layout::Field,
    lineage::{
        ARGV_KEPT, ARGV_SIGNED, DEAD, EXECUTED, ExecRecord, GENERATIONS, Image, REPORTED_FOR_S,
        SEARCHED_ANCESTORS, Slot, live,
    },
    loss::Reason,
    recursion::{Level, Limits, Rule, judge, span_ns},
    signature::{self, ARGV_WORDS},
};

use crate::{
    maps::{EVENTS, EXECS, SCRATCH, Scratch, lose, node},
    task::{Task, exe, opaque, read},
};

/// Thresholds; set before loading.
#[unsafe(no_mangle)]
static LIMITS: Limits = Limits::DEFAULT;

/// A process executed a program.
#[inline(always)]
pub fn executed(task: Task, slot: Slot) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: a per-CPU value; tracing programs do not nest on one CPU.
    let scratch = unsafe { &mut *scratch };
    capture(task, scratch);

    let record = &scratch.record;
    let exe = signature::exe(record.exe);
    let loose = signature::loose(exe, sign(&scratch.words, record.argv_bytes));
    let strict = signature::strict(loose, record.cwd);
    let argv_bytes = record.argv_bytes;
    if EXECS.insert(slot, record, u64::from(BPF_ANY)).is_err() {
        lose(Reason::ExecFull);
    }

    let Some(this) = node(slot) else { return };
    // SAFETY: a value of the array; a process's image is written by its own exec only.
    let (key, parent, parent_slot) = unsafe { ((*this).key, (*this).parent, (*this).parent_slot) };
    // SAFETY: has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let found = search(parent_slot, strict, loose, exe);
    let image = repeat(
        &found,
        Image {
            strict,
            loose,
            exe,
            generations: [now, 0, 0, 0],
            argv_bytes,
            top: slot,
            strict_repetitions: 0,
            loose_repetitions: 0,
            exe_repetitions: 0,
            growing: 0,
            fork_chain: 0,
            reported: 0,
            reported_s: 0,
        },
    );
    // SAFETY: has no preconditions; `current` is the task.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: as above.
    unsafe {
        ptr::write(&raw mut (*this).image, image);
        (*this).cgroup = cgroup;
        (*this).flags |= EXECUTED;
    }
    let crossed = gate(key, &image, cgroup, now);
    if crossed || found.suspects != 0 {
        report(record, key, parent, cgroup, now);
    }
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

/// Nearest living ancestors with the same signature, 0 for none.
struct Found {
    strict: Slot,
    loose: Slot,
    exe: Slot,
    /// Ancestors below which execs are recorded.
    suspects: u32,
}

/// 1 where `value` is 0, else 0; without a branch.
#[inline(always)]
fn is_zero(value: u64) -> u64 {
    let value = opaque(value);
    ((value | value.wrapping_neg()) >> 63) ^ 1
}

/// Looks through up to 64 ancestors. The nearest with the same signature knows how often it was
/// itself preceded, so one period of a cycle is enough.
///
/// Free of branches on what is found: a branch in this loop costs the verifier its limit on some
/// kernels (`if equal {..}` was refused after a million instructions on 6.18).
#[inline(always)]
fn search(parent: Slot, strict: u64, loose: u64, exe: u64) -> Found {
    let mut slot = parent;
    let mut found = [0u64; 3];
    let mut suspects = 0u32;
    for _ in 0..SEARCHED_ANCESTORS {
        if slot == 0 {
            break;
        }
        let Some(ancestor) = node(slot) else { break };
        // SAFETY: a value of the array; torn reads of a signature only miss one repetition.
        unsafe {
            let image = &raw const (*ancestor).image;
            let living = u64::from(slot) * is_zero(u64::from((*ancestor).flags & DEAD));
            found[0] += living * is_zero((*image).strict ^ strict) * is_zero(found[0]);
            found[1] += living * is_zero((*image).loose ^ loose) * is_zero(found[1]);
            found[2] += living * is_zero((*image).exe ^ exe) * is_zero(found[2]);
            suspects |= (*ancestor).suspect;
            slot = (*ancestor).parent_slot;
        }
    }
    Found { strict: found[0] as Slot, loose: found[1] as Slot, exe: found[2] as Slot, suspects }
}

/// Completes an image by what its nearest likes know.
#[inline(always)]
fn repeat(found: &Found, mut image: Image) -> Image {
    let mut generation = false;
    if found.strict != 0
        && let Some(like) = node(found.strict)
    {
        // SAFETY: a value of the array.
        let like = unsafe { &(*like).image };
        image.strict_repetitions = like.strict_repetitions.saturating_add(1);
        image.top = above(like.strict_repetitions, like, found.strict);
        follow(&mut image, like);
        generation = true;
    }
    if found.loose != 0
        && let Some(like) = node(found.loose)
    {
        // SAFETY: a value of the array.
        let like = unsafe { &(*like).image };
        image.loose_repetitions = like.loose_repetitions.saturating_add(1);
        if !generation {
            image.top = above(like.loose_repetitions, like, found.loose);
            follow(&mut image, like);
            generation = true;
        }
    }
    if found.exe != 0
        && let Some(like) = node(found.exe)
    {
        // SAFETY: a value of the array.
        let like = unsafe { &(*like).image };
        image.exe_repetitions = like.exe_repetitions.saturating_add(1);
        if image.argv_bytes > like.argv_bytes {
            image.growing = like.growing.saturating_add(1);
        }
        if !generation {
            image.top = above(like.growing, like, found.exe);
            follow(&mut image, like);
        }
    }
    image
}

/// The top of a repetition that `like` continues, or begins.
#[inline(always)]
fn above(repetitions: u16, like: &Image, slot: Slot) -> Slot {
    if repetitions > 0 && like.top != 0 { like.top } else { slot }
}

/// Takes over the exec times of the generations above.
#[inline(always)]
fn follow(image: &mut Image, like: &Image) {
    const { assert!(GENERATIONS == 4) };
    image.generations[1] = like.generations[0];
    image.generations[2] = like.generations[1];
    image.generations[3] = like.generations[2];
}

/// Asks the gate, and reports a level that the repetition's top has not yet had.
#[inline(always)]
fn gate(key: ProcessKey, image: &Image, cgroup: u64, now: u64) -> bool {
    let Some(top) = node(image.top) else { return false };
    // SAFETY: a value of the array.
    let (top_key, live) = unsafe { ((*top).key, live((*top).forks, (*top).exits)) };
    // SAFETY: as above.
    let (reported, reported_s) = unsafe { ((*top).image.reported, (*top).image.reported_s) };
    // SAFETY: read-only data that user space replaced before loading.
    let limits = unsafe { ptr::read_volatile(&raw const LIMITS) };
    let (level, rule) = judge(image, live, &limits);
    if level == Level::Calm {
        return false;
    }
    let now_s = (now / 1_000_000_000) as u32;
    if level as u16 <= reported && now_s.wrapping_sub(reported_s) < REPORTED_FOR_S {
        return true;
    }
    // SAFETY: a value of the array. Two CPUs at once may both report: user space merges.
    unsafe {
        (*top).image.reported = level as u16;
        (*top).image.reported_s = now_s;
        (*top).suspect = 1;
    }
    let Some(mut entry) = EVENTS.reserve::<event::Alarm>(0) else {
        lose(Reason::RingFull);
        return true;
    };
    let repetitions = match rule {
        Rule::R1 => image.strict_repetitions,
        Rule::R1b => image.loose_repetitions,
        Rule::R1c => image.exe_repetitions,
    };
    entry.write(event::Alarm {
        tag: event::ALARM,
        level: level as u16,
        rule: rule as u16,
        process: key,
        top: top_key,
        crossed_ns: now,
        span_ns: span_ns(image),
        cgroup,
        repetitions: u32::from(repetitions),
        live,
    });
    entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    true
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
