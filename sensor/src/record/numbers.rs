//! The log's identity and its reserved numbers once more, outside of the database (`log.numbers`): when
//! the database loses its end (its write-ahead log was removed, an old copy was put back) or cannot be
//! read, numbers that readers have seen are still not used again.
//!
//! Two lines of text, a sector apart, written in turn and in place: one of them is whole whenever power
//! is lost, and a full disk does not hinder.

use std::{
    fs::{File, OpenOptions},
    hash::Hasher as _,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use siphasher::sip::SipHasher13;

/// Name of the file in the state directory.
const FILE: &str = "log.numbers";

/// Where the lines begin, bytes: a disk writes 512 or 4,096 at once.
const PLACES: [u64; 2] = [0, 4_096];

/// Length of a line: a UUID, a number of 20 digits, a checksum of 16, and what is between them.
const LINE: usize = 36 + 1 + 20 + 1 + 16 + 1;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Random UUID of the database.
    pub log_id: String,
    /// Numbers up to here may have been used.
    pub last: u64,
}

impl Reserved {
    pub(crate) fn line(&self) -> String {
        let text = format!("{:36} {:020} ", self.log_id, self.last);
        let sum = checksum(text.as_bytes());
        format!("{text}{sum:016x}\n")
    }

    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        // Padding counts characters: of others a line could not be written again.
        let text = str::from_utf8(line.get(..LINE)?).ok().filter(|text| text.is_ascii())?;
        let (said, sum) = text.split_at_checked(LINE - 17)?;
        if sum.strip_suffix('\n')? != format!("{:016x}", checksum(said.as_bytes())) {
            return None;
        }
        let (log_id, last) = said.split_at_checked(36)?;
        Some(Self { log_id: log_id.trim_end().to_owned(), last: last.trim().parse().ok()? })
    }
}

/// Finds damage, not forgery: who can write here can write the database as well.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The open file.
pub(super) struct Numbers {
    file: File,
    /// Which line is written next.
    turn: usize,
}

impl Numbers {
    pub fn open(directory: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join(FILE))?;
        let mut numbers = Self { file, turn: 0 };
        // The newer line stays until the other one is written.
        if numbers.at(0).map(|line| line.last) > numbers.at(1).map(|line| line.last) {
            numbers.turn = 1;
        }
        Ok(numbers)
    }

    fn at(&self, place: usize) -> Option<Reserved> {
        let mut line = [0; LINE];
        self.file.read_exact_at(&mut line, PLACES[place]).ok()?;
        Reserved::parse(&line)
    }

    /// What was written last, as far as it can be read: of two lines the one with the higher number.
    pub fn read(&self) -> Option<Reserved> {
        (0..PLACES.len()).filter_map(|place| self.at(place)).max_by_key(|line| line.last)
    }

    /// The newest number that may have been used in this log; 0: nothing is known of it.
    pub fn of(&self, log_id: &str) -> u64 {
        let lines = (0..PLACES.len()).filter_map(|place| self.at(place));
        lines.filter(|line| line.log_id == log_id).map(|line| line.last).max().unwrap_or(0)
    }

    /// Written and synced when this returns.
    pub fn write(&mut self, reserved: &Reserved) -> io::Result<()> {
        self.file.write_all_at(reserved.line().as_bytes(), PLACES[self.turn])?;
        self.file.sync_data()?;
        self.turn = (self.turn + 1) % PLACES.len();
        Ok(())
    }

    /// Written to both places: no older line stays.
    pub fn replace(&mut self, reserved: &Reserved) -> io::Result<()> {
        self.write(reserved)?;
        self.write(reserved)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn reserved(last: u64) -> Reserved {
        Reserved { log_id: "2f1d8a52-4b8e-4a27-9be4-52f4a1b0c3aa".into(), last }
    }

    #[test]
    fn the_newest_whole_line_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mut numbers = Numbers::open(directory.path()).unwrap();
        assert_eq!(numbers.read(), None);
        for last in [10, 20, 30] {
            numbers.write(&reserved(last)).unwrap();
        }
        let numbers = Numbers::open(directory.path()).unwrap();
        assert_eq!(numbers.read(), Some(reserved(30)));
        assert_eq!((numbers.of(&reserved(0).log_id), numbers.of("another")), (30, 0));

        // Torn as it was written: the one before it is there.
        let mut numbers = Numbers::open(directory.path()).unwrap();
        numbers.write(&reserved(40)).unwrap();
        let path = directory.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        let place = PLACES[(numbers.turn + 1) % 2] as usize;
        bytes[place + 40..place + LINE].fill(0);
        fs::write(&path, bytes).unwrap();
        assert_eq!(Numbers::open(directory.path()).unwrap().read(), Some(reserved(30)));
    }

    #[test]
    fn replacing_leaves_nothing_of_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let mut numbers = Numbers::open(directory.path()).unwrap();
        numbers.write(&reserved(1_000)).unwrap();
        numbers.replace(&Reserved { log_id: "new".into(), last: 5 }).unwrap();
        assert_eq!(numbers.of(&reserved(0).log_id), 0);
        assert_eq!(numbers.read(), Some(Reserved { log_id: "new".into(), last: 5 }));
    }

    #[test]
    fn a_line_that_would_grow_when_it_is_written_again_is_none() {
        let said = format!("{:35} {:020} ", "é", 7);
        let line = format!("{said}{:016x}\n", checksum(said.as_bytes()));
        assert_eq!((line.len(), Reserved::parse(line.as_bytes())), (LINE, None));
    }

    proptest! {
        #[test]
        fn any_line_is_an_answer(line: Vec<u8>, last: u64, flip in 0..LINE, bits in 1_u8..) {
            let _ = Reserved::parse(&line);
            let mut line = reserved(last).line().into_bytes();
            prop_assert_eq!(line.len(), LINE);
            prop_assert_eq!(Reserved::parse(&line), Some(reserved(last)));
            line[flip] ^= bits;
            prop_assert_eq!(Reserved::parse(&line), None);
        }
    }
}
