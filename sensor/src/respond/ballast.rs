//! Ballast: memory that the daemon holds while all is well, and gives back when the host's is exhausted, so that
//! evidence can be gathered then, and whoever investigates has room.

use std::{io, ptr, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

/// Of the host's memory, what stays above the level at which it is watched once the ballast is taken, percent:
/// else it would be given back at once, and taken again, for ever.
const SPARE_PERCENT: f64 = 5.0;

/// It is there, or was given back.
#[derive(Debug)]
pub struct Ballast {
    bytes: usize,
    held: Option<Pages>,
    /// The kernel refused it, which was told.
    refused: bool,
}

impl Ballast {
    /// Of so many bytes, not taken yet.
    pub fn new(bytes: u64) -> Self {
        Self { bytes: usize::try_from(bytes).unwrap_or(0), held: None, refused: false }
    }

    /// It is not there, and should be.
    pub const fn is_missing(&self) -> bool {
        self.held.is_none() && self.bytes > 0
    }

    /// Takes it, where the host would still have plenty: clearly more than `watch_percent` of `total` bytes.
    pub fn tend(&mut self, total: u64, available: u64, watch_percent: f64) {
        let left = available.saturating_sub(self.bytes as u64);
        let plenty = total as f64 * (watch_percent + SPARE_PERCENT) / 100.0;
        if !self.is_missing() || (left as f64) < plenty {
            return;
        }
        match Pages::new(self.bytes) {
            Ok(pages) => (self.held, self.refused) = (Some(pages), false),
            Err(error) if self.refused => tracing::debug!("there is still no ballast: {error}"),
            Err(error) => {
                tracing::warn!("there is no ballast, until the kernel gives it: {error}");
                self.refused = true;
            }
        }
    }

    /// Gives it back to the host; how much that was, bytes.
    pub fn release(&mut self) -> u64 {
        self.held.take().map_or(0, |pages| pages.length as u64)
    }
}

/// Pages of our own that nothing uses.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: nobody reads or writes it, and it is given back once.
unsafe impl Send for Pages {}

impl Pages {
    fn new(length: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Filled at once: what was never touched could not be given back.
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, access, flags)? };
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| io::Error::other("the kernel mapped it at address 0"))?;
        let pages = Self { start, length };
        // Where nothing may be locked it may be paged out, and is of less use then.
        // SAFETY: the mapping is ours and of that length.
        let _ = unsafe { mlock(pages.start.as_ptr().cast(), length) };
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing borrows from it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 20;
    const TOTAL: u64 = 1 << 30;

    fn tend(ballast: &mut Ballast, left_percent: u64) {
        ballast.tend(TOTAL, BYTES + TOTAL / 100 * left_percent, 20.0);
    }

    #[test]
    fn it_is_given_back_once_and_taken_again() {
        let mut ballast = Ballast::new(BYTES);
        assert_eq!(ballast.release(), 0);
        tend(&mut ballast, 30);
        assert_eq!([ballast.release(), ballast.release()], [BYTES, 0]);
        tend(&mut ballast, 30);
        tend(&mut ballast, 30);
        assert_eq!(ballast.release(), BYTES);
        let mut none = Ballast::new(0);
        tend(&mut none, 30);
        assert_eq!((none.is_missing(), none.release()), (false, 0));
    }

    #[test]
    fn it_is_not_taken_where_it_would_have_to_be_given_back_at_once() {
        let mut ballast = Ballast::new(BYTES);
        tend(&mut ballast, 24);
        assert!(ballast.is_missing());
        tend(&mut ballast, 26);
        assert!(!ballast.is_missing());
        tend(&mut ballast, 0);
        assert!(!ballast.is_missing(), "who is short of memory says so to release");
    }
}
