//! Room on the disk of the log: what is kept free for incidents, and when only they may use it.
//!
//! The write-ahead log has blocks beyond its end that nobody else can take. As long as there is other
//! room they are not needed; when there is hardly any, bulk waits in memory, so that they are there for
//! the edges of incidents.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Blocks of the write-ahead log, bytes: half of it may be in use when the disk becomes full, and the
/// edges of some 200 incidents fit into the other half, at five pages of 4 KiB each.
const HEADROOM: u64 = 8 << 20;

/// A disk is nearly full when it has less room than this, bytes: a burst of bulk is 8 MiB at most.
const LOW: u64 = 8 << 20;

/// Of a small disk, neither takes more than this part.
const PART: u64 = 16;

/// A look costs 1 µs, and 100 ms of the fastest load are 2 MB.
const EVERY: Duration = Duration::from_millis(100);

/// Whether bulk has to wait. It is let in again only when twice as much room is there, so that it is not
/// in and out.
fn is_low(was: bool, available: u64, total: u64) -> bool {
    let low = LOW.min(total / PART);
    available < if was { 2 * low } else { low }
}

/// Bytes that are available to root, and of the whole disk.
fn measure(directory: &Path) -> io::Result<(u64, u64)> {
    let found = statvfs(directory)?;
    Ok((
        found.f_bfree.saturating_mul(found.f_frsize),
        found.f_blocks.saturating_mul(found.f_frsize),
    ))
}

/// What is known of the disk.
#[derive(Default)]
pub(super) struct Room {
    low: bool,
    looked: Option<Instant>,
}

impl Room {
    /// Looks, if it is time; a sentence when that changed something: `Err` when room became scarce.
    pub fn look(&mut self, directory: &Path) -> Option<Result<String, String>> {
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return None;
        }
        self.looked = Some(Instant::now());
        // A disk that does not answer fails in other ways as well.
        let (available, total) = measure(directory).ok()?;
        let low = is_low(self.low, available, total);
        if std::mem::replace(&mut self.low, low) == low {
            return None;
        }
        let (left, place) = (available >> 10, directory.display());
        Some(if low {
            Err(format!(
                "the disk of {place} is nearly full ({left} KiB left): incidents are still written, \
                 all else waits in memory; make room"
            ))
        } else {
            Ok(format!("the disk of {place} has room again ({left} KiB)"))
        })
    }

    pub fn is_low(&self) -> bool {
        self.low
    }
}

/// Sees that the write-ahead log has its blocks; where the file system cannot, there are none.
pub(super) fn keep_headroom(wal: &Path) {
    let keep = || -> io::Result<()> {
        let (_, total) = measure(wal)?;
        let bytes = HEADROOM.min(total / PART);
        // No lock of SQLite is on this file: closing it again takes none away.
        let file = OpenOptions::new().write(true).open(wal)?;
        Ok(fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes)?)
    };
    if let Err(error) = keep() {
        tracing::debug!("no headroom for {}: {error}", wal.display());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn bulk_waits_until_there_is_twice_the_room() {
        let total = 1 << 40;
        assert!(!is_low(false, LOW, total));
        assert!(is_low(false, LOW - 1, total));
        assert!(is_low(true, 2 * LOW - 1, total));
        assert!(!is_low(true, 2 * LOW, total));
        // A small disk is not full from the beginning.
        assert!(!is_low(false, 1 << 20, 4 << 20));
        assert!(is_low(false, (256 << 10) - 1, 4 << 20));
    }

    #[test]
    fn headroom_is_blocks_beyond_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        fs::write(&file, "x").unwrap();
        keep_headroom(&file);
        let found = fs::metadata(&file).unwrap();
        assert_eq!(found.len(), 1);
        let (_, total) = measure(directory.path()).unwrap();
        if found.blocks() <= 8 {
            println!("SKIP headroom_is_blocks_beyond_the_end: this file system cannot");
            return;
        }
        assert!(found.blocks() * 512 >= HEADROOM.min(total / PART), "{} blocks", found.blocks());
    }
}
