//! Witness: what is executed in groups that are watched, and how it ends. What somebody in them says of it is not asked.

use crate::{ProcessKey, lineage::ExecRecord, oom::Comm};

/// Groups that are watched at a time: one for each run of an agent, of which there is one, and those that are
/// being taken down.
pub const GROUPS: u32 = 16;

/// Programs of a group that are told of one by one, and their ends; the rest is counted. An agent executes some
/// dozens; so many take a third of the ring, however slowly it is read.
pub const TOLD: u64 = 512;

/// A group that is watched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Programs that were executed in it.
    pub executed: u64,
    /// Of these, those that were told of.
    pub told: u64,
    /// Ends of processes that were told of.
    pub left: u64,
}

/// A program was executed in a group that is watched.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    pub tag: u32,
    pub zero: u32,
    pub process: ProcessKey,
    pub parent: ProcessKey,
    /// Boot clock, ns.
    pub at_ns: u64,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Beginning of the file's name: arguments may say anything.
    pub comm: Comm,
    pub record: ExecRecord,
}

/// A process that was told of has ended: its last thread did.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub tag: u32,
    /// As wait(2) reports it.
    pub code: u32,
    pub process: ProcessKey,
    /// Boot clock, ns.
    pub at_ns: u64,
    /// cgroup v2 id.
    pub cgroup: u64,
}

const _: () = assert!(size_of::<Watch>() == 24);
const _: () = assert!(size_of::<Ran>() == 624);
const _: () = assert!(size_of::<Left>() == 40);
/// Ends and the ring's own headers included.
const _: () =
    assert!(TOLD as usize * (size_of::<Ran>() + size_of::<Left>() + 16) < (1 << 20) * 2 / 5);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers without padding (the asserts above count every byte); any bit pattern is valid.
    unsafe impl aya::Pod for super::Watch {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Ran {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Left {}
}
