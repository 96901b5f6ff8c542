//! Memory: who holds how much. What one look at all processes leaves for user space, by slot.
//!
//! Only the kernel side writes it, all but the number of the look.

/// [`Held::at_fork`] of who executed a program: all that it holds is its own.
pub const OWN: u32 = u32::MAX;
/// Of who has no memory of its own but uses its parent's, as after vfork.
pub const SHARES: u32 = u32::MAX - 1;

/// Indices of the kernel's counters (`MM_ANONPAGES` and so on of `include/linux/mm_types_task.h`),
/// unchanged since 4.5.
pub const ANON: u64 = 1;
pub const SWAP: u64 = 2;
pub const SHMEM: u64 = 3;

/// [`Held::task`] of a slot whose process has ended. 0: the slot was never used, nor was any above it.
pub const NOBODY: u64 = 1;

/// Slots that one call looks at: some ms, in which nothing else runs on that CPU where the kernel is not
/// preemptible.
pub const SLOTS_AT_ONCE: u32 = 4096;

/// What a process holds, in pages. 64 bytes, a line of the processor's cache.
///
/// In slot 0, where there is no process, user space puts the number of the look that begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Where the kernel has its first thread; or [`NOBODY`].
    pub task: u64,
    /// Where that had its memory when it was looked at last.
    pub memory: u64,
    /// Whose it is; 0: nobody's yet.
    pub start_ns: u64,
    pub anon: u32,
    pub swap: u32,
    /// Shared memory, as far as it has touched it.
    pub shmem: u32,
    /// Anonymous memory and swap that it had at its fork, which is its parent's as well; or [`OWN`] or [`SHARES`].
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
}

impl Held {
    /// What of `private` pages, which it holds now, its parent has as well; `None`: nothing, it has executed a
    /// program.
    #[inline]
    pub fn inherited(&self, private: u32) -> Option<u32> {
        match self.at_fork {
            OWN => None,
            SHARES => Some(private),
            at_fork => Some(at_fork),
        }
    }
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
    /// `signal_struct.thread_head`, the list of a process's threads, and `task_struct.thread_node`, by which each
    /// is in it.
    pub threads: u64,
    pub thread: u64,
    /// `mm_struct.owner`, one of the threads that use it; [`ABSENT`](crate::layout::ABSENT) in a kernel that does not keep it.
    pub owner: u64,
}

const _: () = assert!(size_of::<Held>() == 64);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers without padding (the assert above counts every byte); any bit pattern is valid.
    unsafe impl aya::Pod for super::Held {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Layout {}
}
