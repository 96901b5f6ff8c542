//! What stands in the files that the recorder reads. Whatever they hold, it is an answer; what is not there
//! is absent.

use crate::proto::HostMemory;

/// Accumulated stall times of one resource, µs, as in `/proc/pressure/*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    pub some: Option<u64>,
    pub full: Option<u64>,
}

/// <https://docs.kernel.org/accounting/psi.html>: `some avg10=… avg60=… avg300=… total=µs`.
pub fn stalls(text: &[u8]) -> Stalls {
    let mut stalls = Stalls::default();
    for line in lines(text) {
        let total = words(line).find_map(|word| word.strip_prefix(b"total=")).and_then(number);
        match words(line).next() {
            Some(b"some") => stalls.some = total,
            Some(b"full") => stalls.full = total,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub available: Option<u64>,
    pub swapped: Option<u64>,
}

pub fn memory(text: &[u8]) -> Memory {
    let (mut available, mut total, mut free) = (None, None, None);
    for line in lines(text) {
        let mut words = words(line);
        let place = match words.next() {
            Some(b"MemAvailable:") => &mut available,
            Some(b"SwapTotal:") => &mut total,
            Some(b"SwapFree:") => &mut free,
            _ => continue,
        };
        *place = words.next().and_then(number).and_then(|kib| kib.checked_mul(1024));
    }
    let swapped = total.zip(free).map(|(total, free): (u64, u64)| total.saturating_sub(free));
    Memory { available, swapped }
}

/// Of `/proc/meminfo`, all that a memory sample tells.
pub fn host(text: &[u8]) -> HostMemory {
    let mut host = HostMemory::default();
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
            _ => continue,
        };
        *place = words.next().and_then(number).and_then(|kib| kib.checked_mul(1024));
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_files_as_kernels_write_them() {
        let pressure = b"some avg10=7.84 avg60=30.06 avg300=29.35 total=4686632056\n\
                         full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(stalls(pressure), Stalls { some: Some(4_686_632_056), full: Some(12) });
        // Before 5.13 the CPU has no `full`.
        let pressure = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(stalls(pressure), Stalls { some: Some(3), full: None });
        assert_eq!(load(b"4.86 9.68 10.02 2/99 8980\n"), (Some(4.86), Some(99)));
        let meminfo = b"MemTotal:       24684092 kB\nMemAvailable:   1000 kB\n\
                        SwapTotal:  2048 kB\nSwapFree:  2000 kB\n";
        let expected = Memory { available: Some(1_024_000), swapped: Some(48 * 1_024) };
        assert_eq!(memory(meminfo), expected);
        assert_eq!(memory(b""), Memory::default());
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
            line in "(some|full|MemAvailable:|SwapFree:|SwapTotal:) (total=)?[0-9./-]{0,30}( kB)?\n?",
        ) {
            for text in [noise.as_slice(), line.as_bytes()] {
                let _ = (stalls(text), memory(text), host(text));
                let (load, _) = load(text);
                prop_assert!(load.is_none_or(f32::is_finite));
            }
        }

        #[test]
        fn numbers_are_read_as_they_were_written(some: u64, full: u64, kib in 0_u64..1 << 50, tasks: u32) {
            let text = format!("some avg10=1 total={some}\nfull avg10=1 total={full}\n");
            let expected = Stalls { some: Some(some), full: Some(full) };
            prop_assert_eq!(stalls(text.as_bytes()), expected);
            let text = format!("MemAvailable: {kib} kB\n");
            prop_assert_eq!(memory(text.as_bytes()).available, Some(kib * 1024));
            prop_assert_eq!(load(format!("0.5 0 0 1/{tasks} 7").as_bytes()), (Some(0.5), Some(tasks)));
        }
    }
}
