//! Identity of processes and files.

/// A process for good: pids are reused, (tgid, start) is not within one boot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Start of the thread group's leader on the boot clock, ns.
    pub start_ns: u64,
    /// Thread group id in the host's pid namespace.
    pub tgid: u32,
    /// Always 0, so that the bytes can be a map key.
    pub zero: u32,
}

impl ProcessKey {
    pub const fn new(tgid: u32, start_ns: u64) -> Self {
        Self { start_ns, tgid, zero: 0 }
    }
}

/// A file as (device, inode): survives renames, is the same through every path.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    pub ino: u64,
    /// As `super_block.s_dev`: major << 20 | minor.
    pub dev: u32,
    pub zero: u32,
}

#[cfg(feature = "user")]
// SAFETY: plain integers, 16 bytes without padding; any bit pattern is valid.
unsafe impl aya::Pod for ProcessKey {}

const _: () = assert!(size_of::<ProcessKey>() == 16);
