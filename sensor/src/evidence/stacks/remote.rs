//! Another process' memory, read in small pieces. What stands in it is anybody's choice, and while it
//! runs it changes under us: every value is checked where it is used.

use std::{io::IoSliceMut, mem::size_of};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

/// A process by its id in our namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote(pub u32);

impl Remote {
    /// At most `len` bytes from there: what is mapped of them.
    pub fn bytes(self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let base = address as usize;
        // Whatever is not mapped ends it.
        let count = process_vm_readv(
            Pid::from_raw(self.0 as i32),
            &mut [IoSliceMut::new(&mut bytes)],
            &[RemoteIoVec { base, len }],
        );
        bytes.truncate(count.unwrap_or(0));
        bytes
    }

    pub fn word(self, address: u64) -> Option<u64> {
        let bytes = self.bytes(address, size_of::<u64>());
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    pub fn half(self, address: u64) -> Option<u32> {
        let bytes = self.bytes(address, size_of::<u32>());
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// Whole words from there on.
    pub fn words(self, address: u64, len: usize) -> Vec<u64> {
        let bytes = self.bytes(address, len);
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }
}
