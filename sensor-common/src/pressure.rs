//! Pressure: the time that processes stand in reclaim, looking for memory instead of working.
//!
//! Counted for each process and for each of the nearest ancestors, so that a tree's stall outlives those
//! of its processes that ended. Only the kernel side writes.

/// What a process stood in reclaim, in the slot of its node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Whose it is: the start of the process that has the slot. Another one's counts as nothing.
    pub start_ns: u64,
    /// Its own threads together, ns.
    pub own_ns: u64,
    /// The same of its tree, those that ended included, ns.
    pub tree_ns: u64,
}

/// Of the whole host, since the programs were attached: what its own shortage made processes do. Those of a
/// cgroup at its limit are not in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaims {
    /// Times that somebody began to look for memory himself.
    pub times: u64,
    /// Time that this took, all of them together, ns.
    pub ns: u64,
}

/// Threads that may stand in reclaim at once and be counted: an emulated host of one GiB has some tens.
pub const RECLAIMING: u32 = 1024;

const _: () = assert!(size_of::<Stall>() == 24);
const _: () = assert!(size_of::<Reclaims>() == 16);
