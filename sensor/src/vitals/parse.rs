//! What stands in the files that the recorder reads. Whatever they hold, it is an answer; what is not there
//! is absent.

use crate::proto::HostMemory;

/// Accumulated stall times of one resource, µs, as in `/proc/pressure/*`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stalls {
    pub some: Option<u64>,
    pub full: Option<u64>,
    /// The kernel's averages over 10 s, percent.
    pub some_avg10: Option<f32>,
    pub full_avg10: Option<f32>,
}

/// <https://docs.kernel.org/accounting/psi.html>: `some avg10=… avg60=… avg300=… total=µs`.
pub fn stalls(text: &[u8]) -> Stalls {
    let mut stalls = Stalls::default();
    for line in lines(text) {
        let value = |name| words(line).find_map(|word| word.strip_prefix(name));
        let total = value(&b"total="[..]).and_then(number);
        let average = value(&b"avg10="[..]).and_then(percent);
        match words(line).next() {
            Some(b"some") => (stalls.some, stalls.some_avg10) = (total, average),
            Some(b"full") => (stalls.full, stalls.full_avg10) = (total, average),
            _ => {}
        }
    }
    stalls
}

/// Of `/proc/loadavg`: the average over a minute, and how many tasks there are.
pub fn load(text: &[u8]) -> (Option<f32>, Option<u32>) {
    let mut words = words(text);
    let load = words.next().and_then(|word| str::from_utf8(word).ok()?.parse::<f32>().ok());
    let tasks = words.nth(2).and_then(|word| {
        let slash = word.iter().position(|byte| *byte == b'/')?;
        number(&word[slash + 1..])
    });
    (load.filter(|load| load.is_finite() && *load >= 0.0), tasks.and_then(|it| it.try_into().ok()))
}

/// Of `/proc/meminfo`, bytes.
///
/// The total is without what is set apart for hugepages: `MemTotal` has it, `MemAvailable` has not, so that a host which
/// has most of its memory there would be short for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: Option<u64>,
    pub available: Option<u64>,
    pub swap_total: Option<u64>,
    pub swap_free: Option<u64>,
    /// Page cache that can be given up.
    active_file: Option<u64>,
    inactive_file: Option<u64>,
    /// Hugepages of all sizes, used or not: <https://docs.kernel.org/admin-guide/mm/hugetlbpage.html>. Since 4.16.
    hugepages: Option<u64>,
}

impl Memory {
    pub fn swapped(&self) -> Option<u64> {
        let swap = self.swap_total.zip(self.swap_free);
        swap.map(|(total, free)| total.saturating_sub(free))
    }

    /// Page cache that can be given up, bytes.
    pub fn file(&self) -> Option<u64> {
        self.active_file?.checked_add(self.inactive_file?)
    }
}

pub fn memory(text: &[u8]) -> Memory {
    let mut memory = Memory::default();
    for line in lines(text) {
        let mut words = words(line);
        let place = match words.next() {
            Some(b"MemTotal:") => &mut memory.total,
            Some(b"MemAvailable:") => &mut memory.available,
            Some(b"SwapTotal:") => &mut memory.swap_total,
            Some(b"SwapFree:") => &mut memory.swap_free,
            Some(b"Active(file):") => &mut memory.active_file,
            Some(b"Inactive(file):") => &mut memory.inactive_file,
            Some(b"Hugetlb:") => &mut memory.hugepages,
            _ => continue,
        };
        *place = words.next().and_then(number).and_then(|kib| kib.checked_mul(1024));
    }
    let hugepages = memory.hugepages.unwrap_or_default();
    memory.total = memory.total.map(|total| total.saturating_sub(hugepages));
    memory
}

/// Of a cgroup's `memory.stat`: page cache that it can give up, bytes. Both lists: what was used twice goes a
/// little later, and goes all the same. v1 counts the groups below it with `total_` alone.
pub fn cache(text: &[u8]) -> Option<u64> {
    let list = |of_v1: &[u8], name: &[u8]| named(text, of_v1).or_else(|| named(text, name));
    list(b"total_active_file", b"active_file")?
        .checked_add(list(b"total_inactive_file", b"inactive_file")?)
}

/// What a cgroup holds without the page cache that it can give up, bytes: `used` as it counts itself, and its
/// `memory.stat`.
pub fn held(used: u64, stat: &[u8]) -> u64 {
    used.saturating_sub(cache(stat).unwrap_or_default())
}

/// What a cgroup may hold before it has to wait or to die: the lesser of its `memory.max` and `memory.high`.
pub fn limit(max: Option<u64>, high: Option<u64>) -> Option<u64> {
    [max, high].into_iter().flatten().filter(|limit| *limit > 0).min()
}

/// Of `/proc/vmstat` or a cgroup's `memory.stat`: file pages that had to be read again. One counter for all pages until 5.9:
/// <https://github.com/torvalds/linux/commit/170b04b7ae49>.
pub fn refaults(text: &[u8]) -> Option<u64> {
    named(text, b"workingset_refault_file").or_else(|| named(text, b"workingset_refault"))
}

/// Of a cgroup's `cpu.stat`: CPU time of all that has run in it, the ended included, µs. Only v2 has it.
pub fn cpu_usec(text: &[u8]) -> Option<u64> {
    named(text, b"usage_usec")
}

/// The number in the line that begins with this word.
fn named(text: &[u8], name: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| {
        let mut words = words(line);
        words.next().filter(|word| *word == name).and_then(|_| words.next()).and_then(number)
    })
}

/// A file that holds one number; `max` and whatever else is none.
pub fn single(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}

/// Of `/proc/stat`: time of all CPUs together, and the part of it in which they had nothing to do, ticks.
pub fn cpus(text: &[u8]) -> Option<(u64, u64)> {
    /// user, nice, system, idle, iowait, irq, softirq, steal; what follows is in the first two already.
    const COUNTED: usize = 8;
    let line = lines(text).find(|line| words(line).next() == Some(b"cpu"))?;
    let mut all = [0_u64; COUNTED];
    for (place, word) in all.iter_mut().zip(words(line).skip(1)) {
        *place = number(word)?;
    }
    let total = all.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks))?;
    Some((total, all[3].checked_add(all[4])?))
}

/// Of `/proc/meminfo`, all that a memory sample tells. What is set apart for hugepages nobody else gets: it is no part of
/// all memory.
pub fn host(text: &[u8]) -> HostMemory {
    let (mut host, mut hugepages) = (HostMemory::default(), None);
    for line in lines(text) {
        let mut words = words(line);
        let place = match words.next() {
            Some(b"MemTotal:") => &mut host.total_bytes,
            Some(b"MemAvailable:") => &mut host.available_bytes,
            Some(b"MemFree:") => &mut host.free_bytes,
            Some(b"AnonPages:") => &mut host.anon_bytes,
            Some(b"Shmem:") => &mut host.shmem_bytes,
            Some(b"Cached:") => &mut host.cached_bytes,
            Some(b"SUnreclaim:") => &mut host.unreclaimable_bytes,
            Some(b"SwapTotal:") => &mut host.swap_total_bytes,
            Some(b"SwapFree:") => &mut host.swap_free_bytes,
            Some(b"Hugetlb:") => &mut hugepages,
            _ => continue,
        };
        *place = words.next().and_then(number).and_then(|kib| kib.checked_mul(1024));
    }
    let hugepages = hugepages.unwrap_or_default();
    host.total_bytes = host.total_bytes.map(|total| total.saturating_sub(hugepages));
    host
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn number(word: &[u8]) -> Option<u64> {
    str::from_utf8(word).ok()?.parse().ok()
}

fn percent(word: &[u8]) -> Option<f32> {
    let value: f32 = str::from_utf8(word).ok()?.parse().ok()?;
    (0.0..=100.0).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_files_as_kernels_write_them() {
        let pressure = b"some avg10=7.84 avg60=30.06 avg300=29.35 total=4686632056\n\
                         full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        let expected = Stalls {
            some: Some(4_686_632_056),
            full: Some(12),
            some_avg10: Some(7.84),
            full_avg10: Some(0.0),
        };
        assert_eq!(stalls(pressure), expected);
        // Before 5.13 the CPU has no `full`.
        let pressure = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let expected = Stalls { some: Some(3), some_avg10: Some(0.0), ..Stalls::default() };
        assert_eq!(stalls(pressure), expected);
        assert_eq!(load(b"4.86 9.68 10.02 2/99 8980\n"), (Some(4.86), Some(99)));
        let meminfo = b"MemTotal:       24684092 kB\nMemAvailable:   1000 kB\n\
                        SwapTotal:  2048 kB\nSwapFree:  2000 kB\n";
        let read = memory(meminfo);
        assert_eq!((read.available, read.swapped()), (Some(1_024_000), Some(48 * 1_024)));
        assert_eq!((read.total, read.file()), (Some(24_684_092 * 1_024), None));
        assert_eq!(memory(b"Active(file): 3 kB\nInactive(file): 4 kB\n").file(), Some(7 * 1_024));
        assert_eq!(memory(b""), Memory::default());
        let huge =
            b"MemTotal: 1000 kB\nHugePages_Total: 5\nHugepagesize: 2048 kB\nHugetlb: 950 kB\n";
        assert_eq!(memory(huge).total, Some(50 * 1_024), "nobody else gets those");
        assert_eq!(memory(b"MemTotal: 1 kB\nHugetlb: 2 kB\n").total, Some(0));
        let stat = b"anon 5\nfile 9\ninactive_file 4096\nactive_file 8192\n";
        assert_eq!(cache(stat), Some(12_288));
        assert_eq!(cache(b"active_file 1\n"), None);
        let v1 = b"inactive_file 1\nactive_file 2\ntotal_inactive_file 30\ntotal_active_file 40\n";
        assert_eq!(cache(v1), Some(70), "with the groups below");
        assert_eq!((held(20_000, stat), held(9, stat), held(9, b"")), (7_712, 0, 9));
        assert_eq!((limit(Some(9), Some(7)), limit(Some(9), None)), (Some(7), Some(9)));
        assert_eq!((limit(None, Some(7)), limit(Some(0), None)), (Some(7), None));
        assert_eq!((single(b"1048576\n"), single(b"max\n")), (Some(1 << 20), None));
        let vmstat = b"workingset_refault_anon 7\nworkingset_refault_file 83127624\n";
        assert_eq!(refaults(vmstat), Some(83_127_624));
        assert_eq!(refaults(b"workingset_refault 9\n"), Some(9));
        let stat = b"cpu  100 5 50 800 20 1 2 22 9 0\ncpu0 1 1 1 1 1 1 1 1 1 0\nintr 5\n";
        assert_eq!(cpus(stat), Some((1000, 820)));
        assert_eq!((cpus(b"cpu x\n"), cpus(b"cpu0 1 2\n")), (None, None));
    }

    #[test]
    fn the_hosts_memory() {
        let meminfo = b"MemTotal:       24684092 kB\nMemFree:  5 kB\nMemAvailable:   1000 kB\n\
                        Cached:  6 kB\nSwapCached:  9 kB\nAnonPages:  7 kB\nShmem:  8 kB\n\
                        SUnreclaim:  3 kB\nSwapTotal:  2048 kB\nSwapFree:  2000 kB\nShmemHugePages: 1 kB\n";
        let expected = HostMemory {
            total_bytes: Some(24_684_092 << 10),
            available_bytes: Some(1_000 << 10),
            free_bytes: Some(5 << 10),
            anon_bytes: Some(7 << 10),
            shmem_bytes: Some(8 << 10),
            cached_bytes: Some(6 << 10),
            unreclaimable_bytes: Some(3 << 10),
            swap_total_bytes: Some(2_048 << 10),
            swap_free_bytes: Some(2_000 << 10),
        };
        assert_eq!(host(meminfo), expected);
        assert_eq!(host(b""), HostMemory::default());
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_an_answer(
            noise: Vec<u8>,
            line in "(some|full|MemAvailable:|SwapFree:|SwapTotal:|cpu|active_file|workingset_refault) \
                     (total=|avg10=)?[0-9./-]{0,30}( kB)?\n?",
        ) {
            for text in [noise.as_slice(), line.as_bytes()] {
                let _ = (memory(text).file(), memory(text).swapped(), cache(text), refaults(text));
                let stalls = stalls(text);
                for average in [stalls.some_avg10, stalls.full_avg10].into_iter().flatten() {
                    prop_assert!((0.0..=100.0).contains(&average));
                }
                let _ = single(text);
                prop_assert!(cpus(text).is_none_or(|(all, idle)| idle <= all));
                let _ = host(text);
                let (load, _) = load(text);
                prop_assert!(load.is_none_or(f32::is_finite));
            }
        }

        #[test]
        fn numbers_are_read_as_they_were_written(some: u64, full: u64, kib in 0_u64..1 << 50, tasks: u32) {
            let text = format!("some avg10=1 total={some}\nfull avg10=2 total={full}\n");
            let expected = Stalls {
                some: Some(some),
                full: Some(full),
                some_avg10: Some(1.0),
                full_avg10: Some(2.0),
            };
            prop_assert_eq!(stalls(text.as_bytes()), expected);
            let text = format!("MemAvailable: {kib} kB\n");
            prop_assert_eq!(memory(text.as_bytes()).available, Some(kib * 1024));
            prop_assert_eq!(load(format!("0.5 0 0 1/{tasks} 7").as_bytes()), (Some(0.5), Some(tasks)));
        }
    }
}
