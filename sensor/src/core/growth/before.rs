//! Samples that an earlier run of the daemon took, as the log has them: the rings of hours and days need not begin
//! anew with each restart.

use std::path::{Path, PathBuf};

use crate::{
    proto::{MemorySample, Record},
    record::{Filter, ReadError, Reader},
    trace::observed,
};

/// The longest ring, ns: 16 times three hours. What is older is in none.
const LONGEST_NS: u64 = 48 * 3600 * 1_000_000_000;

/// Records of a page.
const PAGE: u32 = 1000;

/// Where they are, and of which boot.
#[derive(Clone, Debug)]
pub struct Before {
    state_dir: PathBuf,
    boot_id: String,
}

impl Before {
    pub fn new(state_dir: &Path, boot_id: &str) -> Self {
        Self { state_dir: state_dir.to_owned(), boot_id: boot_id.to_owned() }
    }

    /// Calls with each sample of this boot that is within reach of a ring and older than `now_ns` (boot clock),
    /// oldest first; how many there were.
    pub fn each(&self, now_ns: u64, mut see: impl FnMut(MemorySample)) -> Result<u64, ReadError> {
        let log = Reader::open(&self.state_dir)?;
        let filter = Filter::new("", &["observation"])?;
        let (mut next, mut seen) = (self.first(&log, now_ns.saturating_sub(LONGEST_NS))?, 0);
        loop {
            let page = log.records(next, &filter, PAGE)?;
            for record in page.records.iter().filter(|record| record.boot_id == self.boot_id) {
                let sample = observed::sample_of(record);
                if let Some(sample) = sample.filter(|sample| sample.at_ns < now_ns) {
                    seen += 1;
                    see(sample.clone());
                }
            }
            next = page.next_seq;
            if page.end {
                return Ok(seen);
            }
        }
    }

    /// Number of the first record of this boot from a moment on, or of one before it.
    fn first(&self, log: &Reader, from_ns: u64) -> Result<u64, ReadError> {
        let is_within =
            |record: &Record| record.boot_id == self.boot_id && record.boot_ns >= from_ns;
        let all = Filter::default();
        let (mut before, mut within) = (log.oldest_seq()?, log.last_seq()?);
        // Boots follow each other, and within one time does.
        while before < within {
            let middle = before + (within - before) / 2;
            let page = log.records(middle, &all, 1)?;
            match page.records.first() {
                Some(record) if !is_within(record) => before = record.seq.max(middle) + 1,
                _ => within = middle,
            }
        }
        Ok(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        host::Host,
        proto::{Observation, observation::Fact, record::Body},
        record::{Draft, Log, LogOptions},
    };

    /// Appends samples with these times, s, as a daemon of this boot would.
    fn write(state_dir: &Path, boot_id: &str, seconds: std::ops::Range<u64>) {
        let host = Host { name: "box".into(), boot_id: boot_id.into(), kernel: String::new() };
        let options = LogOptions { max_bytes: 64 << 20, reader_gid: None };
        let (log, _) = Log::open(state_dir, &host, options).unwrap();
        for at in seconds {
            let sample = MemorySample { at_ns: at * 1_000_000_000, ..MemorySample::default() };
            let fact = Some(Fact::Memory(sample));
            log.append(Draft::bulk(Body::Observation(Observation { fact })));
        }
        log.close("end of a test").unwrap();
    }

    #[test]
    fn samples_of_this_boot_come_back_in_order() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "before", 5_000..5_100);
        write(place.path(), "now", 10..1_200);
        write(place.path(), "now", 1_300..1_310);
        let before = Before::new(place.path(), "now");
        let mut seen = Vec::new();
        let end = 1_305 * 1_000_000_000;
        let count = before.each(end, |sample| seen.push(sample.at_ns / 1_000_000_000)).unwrap();
        assert!(seen.iter().copied().eq((10..1_200).chain(1_300..1_305)), "{seen:?}");
        assert_eq!(count, seen.len() as u64);
        assert!(Before::new(&place.path().join("none"), "now").each(end, |_| {}).is_err());
    }

    #[test]
    fn a_search_finds_where_to_begin() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "before", 0..700);
        let middle_ns = clock::boot_ns();
        write(place.path(), "now", 0..700);
        let log = Reader::open(place.path()).unwrap();
        let first = Before::new(place.path(), "now").first(&log, middle_ns).unwrap();
        let all = log.records(first, &Filter::default(), 1).unwrap();
        assert_eq!(all.records[0].boot_id, "now");
        let earlier = log.records(first - 1, &Filter::default(), 1).unwrap();
        assert_eq!(earlier.records[0].boot_id, "before");
        // Nothing of it: nothing is read.
        let none = Before::new(place.path(), "later").first(&log, 0).unwrap();
        assert!(none >= log.last_seq().unwrap());
    }
}
