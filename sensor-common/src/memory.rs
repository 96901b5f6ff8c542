//! Memory: who holds how much. What one look at all processes leaves for user space, by slot.
//!
//! Only the kernel side writes it, all but the number of the look.

/// The program that a process executed is its own: all that it holds is counted.
pub const OWN: u32 = 0;
/// It only forked: what it had at that moment is its parent's as well.
pub const FORKED: u32 = 1;
/// It has no memory of its own but uses its parent's, as after vfork.
pub const SHARES: u32 = 2;

/// Indices of the kernel's counters (`MM_ANONPAGES` and so on of `include/linux/mm_types_task.h`),
/// unchanged since 4.5.
pub const ANON: u64 = 1;
pub const SWAP: u64 = 2;
pub const SHMEM: u64 = 3;

/// [`Layout::stride`] of counters that are nothing but a number, as they are up to 6.1.
pub const BARE: u64 = 8;

/// What a process holds, in pages. 56 bytes.
///
/// In slot 0, where there is no process, user space puts the number of the look that begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whose it is; another start than the node's: somebody's who was in the slot before.
    pub start_ns: u64,
    pub anon: u32,
    pub swap: u32,
    /// Shared memory, as far as it has touched it.
    pub shmem: u32,
    /// Anonymous memory and swap that it had at its fork, where `state` is [`FORKED`].
    pub at_fork: u32,
    /// Threads that the kernel has not let go of.
    pub threads: u32,
    pub uid: u32,
    pub session: u32,
    /// Children that ended and for which it has not waited, as of the look `zombies_look`.
    pub zombies: u32,
    pub zombies_look: u32,
    /// When it was seen last; 0: never.
    pub look: u32,
    /// [`OWN`], [`FORKED`] or [`SHARES`].
    pub state: u32,
    pub zero: u32,
}

/// Where the kernel keeps it, bytes; resolved from BTF, apart from what is needed to know processes
/// at all. `stride` 0: that is not known, and nothing is read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// From the start of `mm_struct` to the first counter's value.
    pub counters: u64,
    /// From counter to counter.
    pub stride: u64,
    /// `task_struct.cred`, and in that the uid.
    pub cred: u64,
    pub uid: u64,
    /// From the start of `signal_struct` to the pointer to the session's `pid`, and in that to its number.
    pub session: u64,
    pub number: u64,
}

const _: () = assert!(size_of::<Held>() == 56);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers without padding (the assert above counts every byte); any bit pattern is valid.
    unsafe impl aya::Pod for super::Held {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Layout {}
}
