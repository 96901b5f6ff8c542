//! What lets the daemon live through what it watches: memory that is not paged out, memory that is there
//! before it is needed, and a place at the end of the OOM killer's list. All of it may be refused, and is
//! done without then.

use std::{
    fs, hint, io, ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    mm::{Advice, madvise},
    thread::{CapabilitySet, capabilities},
};

/// Of -1000 (never) to 1000. Not never: a leak of our own must have an end, too.
const OOM_SCORE: i32 = -900;

const OOM_FILE: &str = "/proc/self/oom_score_adj";

/// Keeps every page that was touched once in memory: a page fault that has to wait for a full disk
/// would hold up a reaction for seconds. Pages that were never touched cost nothing.
pub fn lock_memory() -> io::Result<()> {
    // Without it a later allocation could fail at RLIMIT_MEMLOCK, which is worse than a page fault.
    if !capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK) {
        return Err(io::Error::other("this needs CAP_IPC_LOCK"));
    }
    // SAFETY: changes how the kernel keeps our pages, nothing that a program could notice.
    let locked =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if locked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whoever started this process wanted it to have small pages.
static SMALL_BEFORE: AtomicBool = AtomicBool::new(false);

/// Has the kernel give this process, and those that it starts, memory by small pages alone. Where it gives large ones
/// unasked, which is the default of Debian's kernels, heap and stacks took 7 MiB more, which cannot be given back.
pub fn take_small_pages() -> io::Result<()> {
    // SAFETY: asks, and changes nothing.
    let before = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) };
    SMALL_BEFORE.store(before > 0, Ordering::Relaxed);
    prefer_small_pages(true)
}

/// Takes that back. Allocates nothing: it may be called between fork and exec.
pub fn take_former_pages() -> io::Result<()> {
    prefer_small_pages(SMALL_BEFORE.load(Ordering::Relaxed))
}

fn prefer_small_pages(yes: bool) -> io::Result<()> {
    // SAFETY: changes what pages the kernel gives us, nothing that a program could notice.
    let done = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(yes), 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets go of the code that ran until now, which is for a start and for no reaction, so that it is not locked with the
/// rest. What runs again is in the page cache, or read from its file once more.
pub fn forget_text() -> io::Result<()> {
    for (start, length) in text(&fs::read_to_string("/proc/self/maps")?) {
        // SAFETY: pages of a file that are never written to: whoever touches one gets the same again.
        unsafe { madvise(ptr::with_exposed_provenance_mut(start), length, Advice::LinuxDontNeed)? };
    }
    Ok(())
}

/// Address and length of what is mapped from files to be executed, of the lines of `/proc/self/maps`.
fn text(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    maps.lines().filter_map(|line| {
        let (range, line) = line.split_once(' ')?;
        let is_text = line.starts_with("r-xp ") && line.contains(" /");
        let (start, end) = range.split_once('-').filter(|_| is_text)?;
        let address = |digits| usize::from_str_radix(digits, 16).ok();
        let start = address(start)?;
        Some((start, address(end)?.checked_sub(start)?))
    })
}

/// What a reaction may take from the heap without asking the kernel, bytes. A containment of 700
/// processes took 0.9 MiB.
const HEAP: usize = 3 << 19;
/// What it may take from the stack.
const STACK: usize = 128 << 10;

/// Gives back to the kernel what nothing uses any more. Of memory that is locked only the end of the heap.
pub fn trim() {
    // SAFETY: no pointer into what is given back is left.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Has the allocator keep what it was given back, and take large pieces from where it takes small ones:
/// by default these are asked of the kernel anew each time, and wait where it has none.
pub fn keep_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in
        [(libc::M_TRIM_THRESHOLD, 2 * HEAP), (libc::M_MMAP_THRESHOLD, 2 * HEAP)]
    {
        // SAFETY: changes how the allocator works, nothing that a program could notice.
        unsafe { libc::mallopt(parameter, bytes as libc::c_int) };
    }
}

/// Touches what the calling thread's reactions will need, and gives it back to the thread's own heap,
/// which keeps it.
pub fn warm_up() {
    const PIECE: usize = 64 << 10;
    let pieces: Vec<Vec<u8>> = (0..HEAP / PIECE).map(|_| vec![1; PIECE]).collect();
    hint::black_box(&pieces);
    touch_stack();
}

#[expect(clippy::large_stack_arrays, reason = "it is the stack that is meant")]
#[inline(never)]
fn touch_stack() {
    hint::black_box(&[1u8; STACK]);
}

/// Moves this process, and what it starts, to the end of the OOM killer's list.
pub fn outlive() -> io::Result<()> {
    fs::write(OOM_FILE, OOM_SCORE.to_string())
}

/// Takes this process back to where every other stands.
pub fn be_ordinary() -> io::Result<()> {
    fs::write(OOM_FILE, "0")
}

#[cfg(test)]
mod tests {
    use std::{mem::MaybeUninit, process::Command, thread};

    use super::*;

    /// Page faults of the calling thread that took a fresh page.
    fn faults() -> i64 {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: written by the call; all zero is valid.
        unsafe {
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()), 0);
            usage.assume_init().ru_minflt
        }
    }

    /// Half of what was prepared, in pieces of every size, a large one among them.
    fn react() -> i64 {
        let before = faults();
        let mut pieces: Vec<Vec<u8>> = (0..1000).map(|size| vec![1; size]).collect();
        pieces.push(vec![1; HEAP / 4]);
        hint::black_box(&pieces);
        touch_stack();
        faults() - before
    }

    const HELPER: &str = "SENSOR_TEST_WARM";

    #[test]
    #[ignore = "helper that another test starts as a process of its own"]
    fn warm() {
        if std::env::var_os(HELPER).is_none() {
            return;
        }
        keep_memory();
        let warm = thread::spawn(|| {
            warm_up();
            // Twice: what was given back is there again.
            [react(), react()]
        });
        let [first, second] = warm.join().unwrap();
        println!("\nfaults {first} {second}");
    }

    /// In a process of its own: whoever forks in this one takes all its pages away for a moment, the warm ones, too.
    #[test]
    fn a_thread_that_is_warm_asks_the_kernel_for_nothing() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "core::survival::tests::warm", "--ignored", "--nocapture"])
            .env(HELPER, "1")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("faults ")).unwrap();
        let faults: Vec<i64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [first, second] = faults[..] else { panic!("{said}") };
        // One that is cold takes some 250, unless its heap was that of another thread before.
        assert!(first < 20 && second < 20, "{first}, {second}");
    }

    #[test]
    fn text_is_what_is_executed_from_files() {
        let maps = "\
            55d0c0000000-55d0c0200000 r--p 00000000 fe:00 1234    /usr/bin/sensor\n\
            55d0c0200000-55d0c1400000 r-xp 00200000 fe:00 1234    /usr/bin/sensor\n\
            55d0c1400000-55d0c1500000 rw-p 01400000 fe:00 1234    /usr/bin/sensor\n\
            7f0000000000-7f0000001000 r-xp 00000000 00:00 0 \n\
            7f0000100000-7f0000180000 r-xp 00028000 fe:00 99      /usr/lib/a name - with/lib c.so.6 (deleted)\n\
            7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0       [vdso]\n\
            zz-7f r-xp 0 0 0 /\n\n";
        let found: Vec<_> = text(maps).collect();
        assert_eq!(found, [(0x55d0_c020_0000, 0x120_0000), (0x7f00_0010_0000, 0x8_0000)]);
        // This very function is in some of it, and goes on afterwards.
        let here = text_is_what_is_executed_from_files as fn() as usize;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(text(&maps).any(|(start, length)| (start..start + length).contains(&here)));
        forget_text().unwrap();
    }

    #[test]
    fn memory_is_locked_where_that_is_allowed() {
        let locked_kib = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            line.trim_end_matches("kB").trim().parse::<u64>().unwrap()
        };
        match lock_memory() {
            Ok(()) => {
                assert!(locked_kib() > 0);
                // SAFETY: as for locking.
                assert_eq!(unsafe { libc::munlockall() }, 0);
            }
            Err(error) => {
                assert_eq!(locked_kib(), 0);
                eprintln!("not allowed here: {error}");
            }
        }
    }
}
