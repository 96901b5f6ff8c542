//! Samples of what runs on each CPU, by a clock of perf: for a fraction of a second, at a rate that is no
//! multiple of what programs do. Works from Linux 5.8 on with `CAP_PERFMON`, with or without a counter in
//! hardware.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering, fence},
    thread,
    time::Duration,
};

use aya_obj::generated::{perf_event_attr, perf_event_mmap_page};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Samples a second and CPU.
const RATE: u64 = 199;
/// Pages of a ring: 0.3 s are 60 samples of 0.6 KiB at most. A power of two.
const PAGES: usize = 16;
/// CPUs that are sampled: 68 KiB each.
const CPUS: usize = 128;
/// Frames of a sample; the kernel's own limit is 127 unless somebody lowered it.
const DEPTH: u16 = 64;
/// Longest record, bytes: what stands before the frames, the frames, and marks between them.
const RECORD: usize = 24 + 8 * (DEPTH as usize + 8);
/// Different stacks that are kept.
const STACKS: usize = 2048;

const TYPE_SOFTWARE: u32 = 1;
const CPU_CLOCK: u64 = 0;
const WITH_TID: u64 = 1 << 1;
const WITH_CALLCHAIN: u64 = 1 << 5;
/// `PERF_FLAG_FD_CLOEXEC`
const FD_CLOEXEC: u64 = 1 << 3;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;
/// In a chain, words from here on are marks of what follows: the kernel's, the user's frames.
const MARKS: u64 = u64::MAX - 4095;
const MARK_KERNEL: u64 = -128_i64 as u64;
const MARK_USER: u64 = -512_i64 as u64;

/// What one thread of interest did at one moment, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    pub pid: u32,
    pub tid: u32,
    pub kernel: Vec<u64>,
    pub user: Vec<u64>,
}

/// What was seen of the processes of interest.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub chains: HashMap<Chain, u32>,
    /// Samples among them.
    pub taken: u32,
    /// Samples of any process that did not fit.
    pub lost: u64,
    /// CPUs whose ring became full: of what came later nobody knows how much it was.
    pub full: usize,
    /// CPUs that were not sampled.
    pub unwatched: usize,
}

/// Samples all CPUs for so long, and keeps what `wanted` were doing.
pub(super) fn take(wanted: &HashSet<u32>, span: Duration) -> io::Result<Samples> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let cpus = cpus(&online);
    let mut samples = Samples { unwatched: cpus.len().saturating_sub(CPUS), ..Samples::default() };
    let rings = cpus.iter().take(CPUS).filter_map(|cpu| match Ring::open(*cpu) {
        // Taken offline meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => None,
        ring => Some(ring),
    });
    let rings: Vec<Ring> = rings.collect::<io::Result<_>>()?;
    thread::sleep(span);
    for ring in rings {
        samples.full += usize::from(ring.read(&mut |record| samples.add(record, wanted)));
    }
    Ok(samples)
}

/// Whether CPUs can be sampled here, for the doctor.
pub(crate) fn probe() -> io::Result<()> {
    Ring::open(0).map(drop)
}

/// Why a test of samples cannot run: nobody may here, or the kernel has no such thing. Any other error is one.
#[cfg(test)]
pub(super) fn forbidden() -> Option<String> {
    let error = probe().err()?;
    let denied = [libc::EACCES, libc::EPERM, libc::ENOSYS, libc::ENOENT, libc::EOPNOTSUPP];
    assert!(denied.into_iter().any(|it| error.raw_os_error() == Some(it)), "{error}");
    Some(format!("perf events are not allowed here ({error})"))
}

impl Samples {
    /// One record of a ring, with its header.
    pub(crate) fn add(&mut self, record: &[u8], wanted: &HashSet<u32>) {
        let word = |at: usize| Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
        match half(0) {
            Some(RECORD_LOST) => self.lost += word(16).unwrap_or(0).min(1 << 32),
            Some(RECORD_SAMPLE) => {
                let (Some(pid), Some(tid), Some(count)) = (half(8), half(12), word(16)) else {
                    return;
                };
                if !wanted.contains(&pid) {
                    return;
                }
                let mut chain = Chain { pid, tid, ..Chain::default() };
                let mut user = false;
                for at in 0..count.min(u64::from(DEPTH) + 8) as usize {
                    match word(24 + 8 * at) {
                        None => break,
                        Some(MARK_KERNEL) => user = false,
                        Some(MARK_USER) => user = true,
                        Some(0 | MARKS..) => {}
                        Some(address) if user => chain.user.push(address),
                        Some(address) => chain.kernel.push(address),
                    }
                }
                self.taken += 1;
                if self.chains.len() < STACKS || self.chains.contains_key(&chain) {
                    *self.chains.entry(chain).or_default() += 1;
                }
            }
            _ => {}
        }
    }
}

/// `0-3,8`
fn cpus(list: &str) -> Vec<i32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<i32>().ok()?..=last.parse::<i32>().ok()?.min(1 << 16))
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// The samples of one CPU.
struct Ring {
    at: *mut core::ffi::c_void,
    len: usize,
    page: usize,
    /// Keeps the event alive.
    _event: OwnedFd,
}

impl Ring {
    fn open(cpu: i32) -> io::Result<Self> {
        // SAFETY: numbers and unions of numbers, for all of which zero is valid.
        let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
        attributes.type_ = TYPE_SOFTWARE;
        attributes.size = size_of::<perf_event_attr>() as u32;
        attributes.config = CPU_CLOCK;
        attributes.__bindgen_anon_1.sample_freq = RATE;
        attributes.set_freq(1);
        attributes.sample_type = WITH_TID | WITH_CALLCHAIN;
        attributes.sample_max_stack = DEPTH;
        let open = |attributes: &perf_event_attr| {
            let flags = FD_CLOEXEC;
            // SAFETY: reads a structure of the size that stands in it, and returns a new descriptor.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_perf_event_open,
                    ptr::from_ref(attributes),
                    -1,
                    cpu,
                    -1,
                    flags,
                )
            };
            // SAFETY: it is new and ours.
            if fd < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
            }
        };
        let event = match open(&attributes) {
            // Somebody has set the kernel's limit lower.
            Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => {
                attributes.sample_max_stack = 0;
                open(&attributes)?
            }
            event => event?,
        };
        let page = rustix::param::page_size();
        let len = (1 + PAGES) * page;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, &event, 0) }?;
        debug_assert!(event.as_raw_fd() >= 0);
        Ok(Self { at, len, page, _event: event })
    }

    /// All records so far; answers whether there is no room for one more. What the kernel writes meanwhile goes
    /// behind them.
    fn read(&self, each: &mut impl FnMut(&[u8])) -> bool {
        let head = self.at.cast::<perf_event_mmap_page>();
        // SAFETY: within our mapping; the kernel changes it at any time, so as an atomic.
        let end =
            unsafe { AtomicU64::from_ptr(&raw mut (*head).data_head) }.load(Ordering::Acquire);
        fence(Ordering::Acquire);
        let size = (PAGES * self.page) as u64;
        // Not overwritten: without a reader that goes on, the kernel stops where the ring is full.
        let end = end.min(size) as usize;
        let full = size as usize - end < RECORD;
        let mut data = vec![0; end];
        // SAFETY: the pages behind the first are the ring, and `end` is at most their size.
        unsafe {
            ptr::copy_nonoverlapping(self.at.cast::<u8>().add(self.page), data.as_mut_ptr(), end);
        }
        let mut rest = data.as_slice();
        // Header: type (4 bytes), flags (2), size with the header (2).
        while let Some(size) = rest.get(6..8) {
            let size = usize::from(u16::from_ne_bytes([size[0], size[1]]));
            if size < 8 || size > rest.len() {
                break;
            }
            each(&rest[..size]);
            rest = &rest[size..];
        }
        full
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing refers to it any more. It cannot fail for what was mapped so.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(words: &[u64]) -> Vec<u8> {
        let size = (16 + 8 * words.len()) as u16;
        let mut bytes = RECORD_SAMPLE.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(size.to_ne_bytes());
        for half in [7_u32, 8] {
            bytes.extend(half.to_ne_bytes());
        }
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_chain_has_two_parts() {
        let mut samples = Samples::default();
        let bytes = record(&[5, MARK_KERNEL, 0xffff_0001, MARK_USER, 0x1000, 0x2000]);
        samples.add(&bytes, &HashSet::from([7]));
        samples.add(&bytes, &HashSet::from([7]));
        samples.add(&bytes, &HashSet::from([9]));
        let chain = Chain { pid: 7, tid: 8, kernel: vec![0xffff_0001], user: vec![0x1000, 0x2000] };
        assert_eq!((samples.chains, samples.taken), (HashMap::from([(chain, 2)]), 2));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(cpus("0"), [0]);
        assert!(cpus("x-").is_empty());
    }

    #[test]
    fn this_process_is_seen() {
        if let Some(reason) = forbidden() {
            return crate::skip::note(crate::test_name!(), &reason);
        }
        let own = std::process::id();
        let spin = thread::spawn(|| {
            let until = std::time::Instant::now() + Duration::from_secs(10);
            while std::time::Instant::now() < until && !thread::panicking() {
                std::hint::spin_loop();
                if DONE.load(Ordering::Relaxed) == 1 {
                    return;
                }
            }
        });
        // The machine may be busy with others.
        let seen = (0..20).any(|_| {
            let samples = take(&HashSet::from([own]), Duration::from_millis(200)).unwrap();
            samples.chains.keys().any(|chain| chain.pid == own && !chain.user.is_empty())
        });
        DONE.store(1, Ordering::Relaxed);
        spin.join().unwrap();
        assert!(seen);
    }

    static DONE: AtomicU64 = AtomicU64::new(0);

    proptest! {
        #[test]
        fn any_record(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u32..12) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            }
            let pid = bytes.get(8..12).map_or(0, |it| u32::from_ne_bytes(it.try_into().unwrap()));
            Samples::default().add(&bytes, &HashSet::from([pid]));
        }
    }
}
