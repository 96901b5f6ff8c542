//! What the kernel side sends through the ring. One ring, so that order holds across CPUs.

use crate::{
    ProcessKey,
    lineage::{ARGV_KEPT, ExecRecord, Image},
    respawn::Window,
};

/// First word of every event.
pub const ALARM: u32 = 1;
pub const EXEC: u32 = 2;
pub const BRAKED: u32 = 3;
/// These three only where the lifecycle is recorded, and then one for each fork, exec and exit.
pub const FORKED: u32 = 4;
pub const EXECUTED: u32 = 5;
pub const EXITED: u32 = 6;
pub const RESPAWNED: u32 = 7;
/// `oom::Marked` and `oom::Killed`.
pub const MARKED: u32 = 8;
pub const KILLED: u32 = 9;
/// `witness::Ran` and `witness::Left`.
pub const RAN: u32 = 10;
pub const LEFT: u32 = 11;

/// A gate was crossed. Wakes the reader at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub tag: u32,
    /// `gate::Level`
    pub level: u16,
    /// `gate::Rule`
    pub rule: u16,
    /// Who executed something, was born, or ended.
    pub process: ProcessKey,
    /// Of a respawn loop: the parent.
    pub top: ProcessKey,
    /// Boot clock of the crossing, ns.
    pub crossed_ns: u64,
    /// Of a recursion: time of the last three generations, ns; 0: fewer. Of a storm: time in which
    /// the tree grew. Of a respawn loop: the window's length.
    pub span_ns: u64,
    /// cgroup v2 id of the process.
    pub cgroup: u64,
    /// Of a recursion: living ancestors with the same signature, by the rule that crossed. Of a
    /// storm: forks since the last exec on the way to the process. Of a respawn loop: runs that failed
    /// at once.
    pub repetitions: u32,
    /// Living processes in the tree of `top`.
    pub live: u32,
    /// Of a storm: how many more live than `span_ns` ago, and who was born and ended meanwhile. Of a
    /// respawn loop: the runs that ended.
    pub grown: u32,
    pub forks: u32,
    pub exits: u32,
    pub zero: u32,
}

/// A command was restarted and failed at once, again and again. Wakes the reader at once; comes before
/// the node of the process is gone, which is when nobody else can say what it ran.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Respawned {
    /// Its tag is [`RESPAWNED`].
    pub alarm: Alarm,
    pub window: Window,
    pub image: Image,
    pub record: ExecRecord,
}

/// A program was executed in a suspect tree.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    pub tag: u32,
    pub argv_bytes: u32,
    pub process: ProcessKey,
    pub parent: ProcessKey,
    pub exec_ns: u64,
    pub cgroup: u64,
    /// Bytes of the argument area in `argv`.
    pub kept: u32,
    pub zero: u32,
    pub argv: [u8; ARGV_KEPT],
}

/// The brake stopped a process at a fork or an exec. Not one for each: see `brake::Tally`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Braked {
    pub tag: u32,
    /// Number of the mark.
    pub number: u32,
    pub process: ProcessKey,
    pub at_ns: u64,
}

/// A process was born. Its `start_ns` is when.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forked {
    pub tag: u32,
    pub zero: u32,
    pub child: ProcessKey,
    /// Zero where it has no lineage: kernel threads.
    pub parent: ProcessKey,
    pub cgroup: u64,
}

/// A program was executed, and this is what the gates made of it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Executed {
    pub tag: u32,
    /// `gate::Level`
    pub level: u16,
    /// `gate::Rule`
    pub rule: u16,
    pub process: ProcessKey,
    pub parent: ProcessKey,
    /// Topmost process of the repetition.
    pub top: ProcessKey,
    pub cgroup: u64,
    /// Living processes in the tree of `top`.
    pub live: u32,
    /// 1: an alarm was sent.
    pub reported: u32,
    pub image: Image,
    pub record: ExecRecord,
}

/// A process ended: its last thread did.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    pub tag: u32,
    /// As wait(2) reports it.
    pub code: u32,
    pub process: ProcessKey,
    pub at_ns: u64,
}

const _: () = assert!(size_of::<Forked>() == 48);
const _: () = assert!(size_of::<Executed>() == 704);
const _: () = assert!(size_of::<Exited>() == 32);
const _: () = assert!(size_of::<Alarm>() == 88);
const _: () = assert!(size_of::<Respawned>() == 768);
const _: () = assert!(size_of::<Exec>() == 576);
const _: () = assert!(size_of::<Braked>() == 32);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers without padding (the asserts above count every byte); any bit pattern is valid.
    unsafe impl aya::Pod for super::Alarm {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Respawned {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Exec {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Braked {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Forked {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Executed {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Exited {}
}
