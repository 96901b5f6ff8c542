//! Lineage: who begat whom. The node that stands for a process, in a table indexed by slot.
//!
//! A node outlives its process while a descendant's node exists, so a chain never breaks where a
//! parent died, and until the next exit where the OOM killer may say something of it yet. Only the
//! kernel side writes nodes; user space reads them.

use crate::{FileId, ProcessKey, storm::Window};

/// A node's place in the table. 0 is no place: the first node has slot 1.
pub type Slot = u32;

/// Ancestors whose counters a fork or an exit updates.
pub const COUNTED_ANCESTORS: u32 = 32;

/// Ancestors that are searched for the same signature at exec: one period of a cycle, not its depth.
pub const SEARCHED_ANCESTORS: u32 = 64;

/// Dead nodes that one exit frees on its way up; what remains is freed by later exits.
pub const FREED_AT_ONCE: u32 = 16;

/// Processes whose missed exit one visit makes up for.
pub const BURIED_AT_ONCE: u32 = 1024;

/// Generations whose exec times a node remembers, its own included.
pub const GENERATIONS: usize = 4;

/// The birth was not seen: it was running before the sensor, or its birth was lost.
pub const ADOPTED: u32 = 1 << 0;
/// Executed a program since it was forked.
pub const EXECUTED: u32 = 1 << 1;
/// Runs no more.
pub const DEAD: u32 = 1 << 2;
/// What it executed was told of, and so its end will be (see `witness`).
pub const WITNESSED: u32 = 1 << 3;
/// Its node is free for another one.
pub const FREED: u32 = 1 << 4;

/// One process, living or dead. 176 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub key: ProcessKey,
    /// By fork. Its `start_ns` is 0 where the parent was never known.
    pub parent: ProcessKey,
    pub image: Image,
    /// cgroup v2 id of the process at fork, and again at exec.
    pub cgroup: u64,
    pub parent_slot: Slot,
    /// 1 for the process while it lives, and 1 for every node whose parent this is.
    pub references: u32,
    /// Forks in the tree, by itself and its descendants.
    pub forks: u32,
    /// Exits in the tree, its own included.
    pub exits: u32,
    /// Written by the process's own programs, and at last by whoever frees the node.
    pub flags: u32,
    /// Not 0: a gate was crossed with this node on top; execs in its tree are worth a record.
    pub suspect: u32,
    /// How the tree grows: R2's window and R3's.
    pub windows: [Window; 2],
}

impl Node {
    /// Whether it is anybody's.
    pub const fn is_used(&self) -> bool {
        self.references != 0 && self.flags & FREED == 0
    }

    /// Living processes of the tree, itself included: who was born less who is gone.
    #[inline(always)]
    pub const fn live(&self) -> u32 {
        live(self.forks, self.exits)
    }
}

/// [`Node::live`], of its counters.
#[inline(always)]
pub const fn live(forks: u32, exits: u32) -> u32 {
    // The two are read one after the other: an exit in between must not make it negative.
    forks.wrapping_add(1).saturating_sub(exits)
}

/// A node's flags after an exec, which the kernel counts: the upper half says which one its image is of.
#[inline(always)]
pub const fn executed_flags(flags: u32, counted: u32) -> u32 {
    flags & 0xffff | EXECUTED | counted << 16
}

/// What a process runs, and how often its living ancestors run the same. Zero until the first exec.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Hash of executable, argv and cwd.
    pub strict: u64,
    /// Hash of executable and argv.
    pub loose: u64,
    /// Hash of the executable.
    pub exe: u64,
    /// Boot clock of the exec, and of those of the nearest ancestors with the same `strict`
    /// signature, ns; 0 where there is none.
    pub generations: [u64; GENERATIONS],
    /// Bytes of the argument area.
    pub argv_bytes: u32,
    /// Topmost node of the repetition.
    pub top: Slot,
    /// Living ancestors with the same `strict`, `loose` and `exe` signature.
    pub strict_repetitions: u16,
    pub loose_repetitions: u16,
    pub exe_repetitions: u16,
    /// Generations in a row, up from this one, each with a longer argv than its ancestor.
    pub growing: u16,
    /// Forks since the last exec on the way to this process.
    pub fork_chain: u16,
    /// Highest gate level that was reported with this node on top (see `gate::Level`).
    pub reported: u16,
    /// When that was, boot clock, s.
    pub reported_s: u32,
}

/// A level that was reported is reported again after this, s: what was let go may grow again.
pub const REPORTED_FOR_S: u32 = 60;

/// Bytes of the argument area that an exec record keeps.
pub const ARGV_KEPT: usize = 512;

/// Bytes of the argument area that the signature covers (its whole length is covered as well).
pub const ARGV_SIGNED: usize = 256;

/// What was executed, kept while the node exists.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExecRecord {
    pub exe: FileId,
    pub cwd: FileId,
    /// Bytes of the argument area.
    pub argv_bytes: u32,
    /// Bytes of it in `argv`.
    pub kept: u32,
    pub argv: [u8; ARGV_KEPT],
}

/// What user space knows about a process that was there before the sensor; the baseline takes it
/// over if the process has not executed anything since.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub start_ns: u64,
    pub strict: u64,
    pub loose: u64,
    pub exe: u64,
    pub argv_bytes: u32,
    pub zero: u32,
}

const _: () = assert!(size_of::<Image>() == 80);
const _: () = assert!(size_of::<Node>() == 176);
const _: () = assert!(size_of::<ExecRecord>() == 552);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers without padding (the asserts above count every byte); any bit pattern is valid.
    unsafe impl aya::Pod for super::Node {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ExecRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Known {}
}
