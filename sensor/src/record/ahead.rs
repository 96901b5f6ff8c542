//! SQLite's write-ahead log, read without SQLite: the commits in it that are whole. Pure.
//!
//! <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>

use super::mend::PAGE;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Its last bit says how checksums are made: big endian where it is set.
const MAGIC: u32 = 0x377f_0682;

/// What one commit wrote.
pub(super) struct Commit<'a> {
    /// Numbers of pages, from 1 on, and what stands on them.
    pub frames: Vec<(u32, &'a [u8])>,
    /// Pages of the database since then.
    pub pages: u32,
}

/// Up to the first frame that is none of this log, or not whole.
pub(super) fn commits(bytes: &[u8]) -> Vec<Commit<'_>> {
    let (mut found, mut frames) = (Vec::new(), Vec::new());
    let Some((header, mut rest)) = bytes.split_at_checked(HEADER) else { return found };
    let magic = number(header, 0);
    if magic & !1 != MAGIC || number(header, 8) as usize != PAGE {
        return found;
    }
    let big = magic & 1 == 1;
    let mut sum = add((0, 0), &header[..24], big);
    if sum != (number(header, 24), number(header, 28)) {
        return found;
    }
    while let Some((frame, others)) = rest.split_at_checked(FRAME_HEADER + PAGE) {
        rest = others;
        let (head, page) = frame.split_at(FRAME_HEADER);
        sum = add(add(sum, &head[..8], big), page, big);
        if head[8..16] != header[16..24] || sum != (number(head, 16), number(head, 20)) {
            break;
        }
        frames.push((number(head, 0), page));
        let pages = number(head, 4);
        if pages > 0 {
            found.push(Commit { frames: std::mem::take(&mut frames), pages });
        }
    }
    found
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_be_bytes)
}

/// Goes on with a checksum over these bytes, eight at a time.
fn add((mut first, mut second): (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    let word = |four: &[u8]| {
        let four = four.try_into().unwrap_or_default();
        if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    for eight in bytes.chunks_exact(8) {
        first = first.wrapping_add(word(&eight[..4])).wrapping_add(second);
        second = second.wrapping_add(word(&eight[4..])).wrapping_add(first);
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    /// Three commits of SQLite's own that are not in the database yet.
    fn written() -> (Vec<u8>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        for x in 0..2 {
            connection.execute("INSERT INTO t VALUES (zeroblob(?1))", [20_000 * x]).unwrap();
        }
        (std::fs::read(directory.path().join("db-wal")).unwrap(), directory)
    }

    #[test]
    fn finds_what_was_committed() {
        let (bytes, _directory) = written();
        let commits = commits(&bytes);
        assert_eq!(commits.len(), 3);
        // The table's definition, and its root.
        assert!(
            commits[0]
                .frames
                .iter()
                .any(|(number, page)| *number == 1 && page.starts_with(b"SQLite"))
        );
        assert!(commits[2].pages > commits[0].pages + 3, "20,000 bytes are four pages and a bit");
    }

    #[test]
    fn what_is_cut_or_damaged_ends_it() {
        let (bytes, _directory) = written();
        assert_eq!(commits(&bytes[..bytes.len() - 1]).len(), 2);
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(commits(&damaged).len(), 2);
        damaged[HEADER + FRAME_HEADER + 9] ^= 1;
        assert_eq!(commits(&damaged).len(), 0);
        assert_eq!(commits(b"").len(), 0);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(commits(&bytes).is_empty());
        }
    }
}
