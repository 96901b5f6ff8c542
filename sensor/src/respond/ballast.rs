//! Ballast: memory that the daemon holds while all is well, and gives back when the host's is exhausted, so that
//! evidence can be gathered then.

use std::{io, ptr, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

/// It is there, or was given back.
#[derive(Debug)]
pub struct Ballast {
    bytes: usize,
    held: Option<Pages>,
}

impl Ballast {
    /// Holds so much; less than a page is nothing.
    pub fn new(bytes: u64) -> Self {
        let mut ballast = Self { bytes: usize::try_from(bytes).unwrap_or(0), held: None };
        ballast.hold();
        ballast
    }

    /// Takes it, where it is not there.
    pub fn hold(&mut self) {
        if self.held.is_some() || self.bytes == 0 {
            return;
        }
        match Pages::new(self.bytes) {
            Ok(pages) => self.held = Some(pages),
            Err(error) => tracing::warn!("there is no ballast: {error}"),
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

    #[test]
    fn it_is_given_back_once_and_taken_again() {
        const BYTES: u64 = 1 << 20;
        let mut ballast = Ballast::new(BYTES);
        assert_eq!([ballast.release(), ballast.release()], [BYTES, 0]);
        ballast.hold();
        ballast.hold();
        assert_eq!(ballast.release(), BYTES);
        assert_eq!(Ballast::new(0).release(), 0);
    }
}
