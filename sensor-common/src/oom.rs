//! OOM kills, and who sends SIGKILL: what the kernel side knows about a process that is killed.

use crate::{
    ProcessKey,
    layout::ABSENT,
    lineage::{ExecRecord, Image, Slot},
    memory::Held,
};

/// Of SIGKILL.
pub const SIGKILL: u64 = 9;

/// Senders that are remembered until their target has ended, or longer where a mark may follow: more than that are
/// seldom on the way. The least recently seen are forgotten, whose targets then end by nobody's signal.
pub const KILLS: u32 = 1024;

/// Ends by SIGKILL in a second that are told of, besides those that matter: enough for a test suite
/// that kills what it started; a storm of kills must not fill the ring.
pub const TOLD_A_SECOND: u64 = 64;

/// How many ends were told of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// When the second began, boot clock, ns.
    pub since_ns: u64,
    pub told_of: u64,
    /// Since the last that was.
    pub untold: u64,
}

/// An end matters where it has so many living processes below it, or had so many pages (64 MiB).
pub const MATTERS_PROCESSES: u32 = 8;
pub const MATTERS_PAGES: u64 = 16_384;

/// Groups above a process that are asked for their memory limit: containers nest four deep or so.
pub const LEVELS: u32 = 12;

/// Flags of a [`Kill`] and of a [`Marked`].
///
/// The kernel itself sent the signal.
pub const BY_KERNEL: u32 = 1 << 0;
/// The OOM killer took it.
pub const BY_OOM: u32 = 1 << 1;
/// It was ending already.
pub const DYING: u32 = 1 << 2;
/// Its pages could be counted.
pub const COUNTED: u32 = 1 << 3;
/// Somebody above the trigger has a limit.
pub const LIMITED: u32 = 1 << 4;
/// `parent` and `image` are known, and `record`. Otherwise there is anything in them.
pub const NODE: u32 = 1 << 5;
pub const RECORD: u32 = 1 << 6;
/// All that it has is its own.
pub const OWNS: u32 = 1 << 7;
/// It only forked: `at_fork` and its shared memory are its parent's as well.
pub const INHERITS: u32 = 1 << 8;
/// Whoever the signal was sent by, or on behalf of, was ending itself: as where the first process of a pid namespace
/// takes all others of it along.
pub const SENDER_ENDS: u32 = 1 << 9;

/// Where this kernel keeps what is read here, bytes; [`ABSENT`]: nowhere, and what needs it stays
/// unknown.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 1: `mark_victim` hands over a pid. 0: a task.
    pub by_pid: u64,
    pub task_comm: u64,
    pub task_cred: u64,
    pub cred_uid: u64,
    /// Page counters of an address space: where the first is, and how far the next.
    pub mm_rss: u64,
    pub rss_step: u64,
    pub signal_oom_score_adj: u64,
    /// Of a `css_set`: the pointer to the memory controller's state.
    pub set_memory: u64,
    pub css_cgroup: u64,
    pub memcg_css: u64,
    pub memcg_counter: u64,
    pub counter_usage: u64,
    pub counter_max: u64,
    pub counter_parent: u64,
    pub siginfo_code: u64,
}

impl Layout {
    pub const NONE: Self = Self {
        by_pid: 0,
        task_comm: ABSENT,
        task_cred: ABSENT,
        cred_uid: ABSENT,
        mm_rss: ABSENT,
        rss_step: ABSENT,
        signal_oom_score_adj: ABSENT,
        set_memory: ABSENT,
        css_cgroup: ABSENT,
        memcg_css: ABSENT,
        memcg_counter: ABSENT,
        counter_usage: ABSENT,
        counter_max: ABSENT,
        counter_parent: ABSENT,
        siginfo_code: ABSENT,
    };
}

/// As in `task_struct.comm`.
pub type Comm = [u8; 16];

/// Pages of an address space, as `enum mm_counter` of the kernel orders them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    pub file: u64,
    pub anon: u64,
    pub swap: u64,
    pub shmem: u64,
}

/// A SIGKILL that was sent, by its target's tgid until that has ended, or longer where a mark may follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    pub target: ProcessKey,
    /// Whoever ran as it was sent: of a signal of the kernel's, on whose behalf.
    pub sender: ProcessKey,
    /// Boot clock, ns.
    pub at_ns: u64,
    /// cgroup v2 id of the sender.
    pub sender_cgroup: u64,
    /// The target as an address: for the mark that follows at once, where that knows a pid only.
    pub task: u64,
    pub pages: Pages,
    pub sender_uid: u32,
    pub flags: u32,
    pub sender_comm: Comm,
    /// Of the target's node, which may be out of the index before the mark comes; 0: it has none.
    pub slot: Slot,
    pub zero: u32,
}

impl Kill {
    /// Whether the mark of the OOM killer's that makes it one may be still to come. Both come from one hand, under a
    /// lock that holds up the victim's end; but since 6.16 that is told of (`sched_process_exit`) before it takes the
    /// lock, so that a victim on another CPU may overtake its mark.
    #[inline(always)]
    pub fn may_be_marked(&self) -> bool {
        self.flags & (BY_OOM | BY_KERNEL) == BY_KERNEL && self.sender != self.target
    }
}

/// Whose doing a mark of the OOM killer's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// The OOM killer ends it.
    Kill,
    /// It was ending already, by itself or by somebody else's signal.
    Dying,
    /// It is marked already: another one of its threads is.
    Known,
}

impl Doing {
    /// By the SIGKILL that was seen before the mark. The OOM killer sends one and marks at once, by the same hand
    /// (`__oom_kill_process` of `mm/oom_kill.c`). Whoever is ending it marks without any (`task_will_free_mem`), so
    /// that whatever signal there was is another one's: also the kernel's own, as where a pid namespace ends.
    /// `senders`: who sends is seen at all; without that the kernel is believed.
    #[inline(always)]
    pub fn of(kill: Option<&Kill>, victim: ProcessKey, trigger: ProcessKey, senders: bool) -> Self {
        match kill {
            Some(kill) if kill.target == victim => match kill.flags & (BY_OOM | BY_KERNEL) {
                BY_KERNEL if kill.sender == trigger => Self::Kill,
                0 | BY_KERNEL => Self::Dying,
                _ => Self::Known,
            },
            _ if senders => Self::Dying,
            _ => Self::Kill,
        }
    }
}

/// What a victim has from its parent: [`OWNS`], [`INHERITS`] or, where nobody knows, 0; and of its anonymous
/// memory and swap, in pages, what its parent has as well. `held`: what is in its slot, also somebody's who was
/// there before it; `executed`: it is known to have executed a program.
#[inline(always)]
pub fn inherited(
    held: Option<&Held>,
    victim: ProcessKey,
    executed: bool,
    pages: &Pages,
) -> (u32, u32) {
    match held {
        _ if executed => (OWNS, 0),
        Some(held) if held.start_ns == victim.start_ns => {
            match held.inherited(pages.anon.saturating_add(pages.swap) as u32) {
                Some(inherited) => (INHERITS, inherited),
                None => (OWNS, 0),
            }
        }
        _ => (0, 0),
    }
}

/// The memory limit that was nearest to being full.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Pages.
    pub max: u64,
    pub used: u64,
    /// Id of the group in the memory controller's hierarchy.
    pub cgroup: u64,
}

/// The OOM killer took a process. Wakes the reader at once; comes before the process is gone, or since 6.16 a moment
/// later.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Marked {
    /// `event::MARKED`
    pub tag: u32,
    pub flags: u32,
    /// Boot clock, ns.
    pub at_ns: u64,
    pub victim: ProcessKey,
    pub parent: ProcessKey,
    pub trigger: ProcessKey,
    /// cgroup v2 ids.
    pub victim_cgroup: u64,
    pub trigger_cgroup: u64,
    pub pages: Pages,
    pub limit: Limit,
    pub oom_score_adj: i32,
    pub victim_uid: u32,
    pub trigger_uid: u32,
    /// Pages, where it [`INHERITS`]; else anything.
    pub at_fork: u32,
    pub victim_comm: Comm,
    pub trigger_comm: Comm,
    pub image: Image,
    pub record: ExecRecord,
}

/// A process was ended by SIGKILL. Nobody is woken.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// `event::KILLED`
    pub tag: u32,
    /// Living processes below it.
    pub live: u32,
    /// Boot clock of the end, ns.
    pub at_ns: u64,
    pub process: ProcessKey,
    pub parent: ProcessKey,
    pub cgroup: u64,
    pub comm: Comm,
    pub uid: u32,
    /// 1: `kill` is known. 0: there is anything in it.
    pub known: u32,
    /// Ends like this one that were not told of, since the last that was.
    pub untold: u64,
    pub kill: Kill,
}

const _: () = assert!(size_of::<Layout>() == 15 * 8);
const _: () = assert!(size_of::<Kill>() == 120);
const _: () = assert!(size_of::<Marked>() == 816);
const _: () = assert!(size_of::<Killed>() == 208);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers without padding (the asserts above count every byte); any bit pattern is valid.
    unsafe impl aya::Pod for super::Layout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Kill {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Marked {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Killed {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    const VICTIM: ProcessKey = ProcessKey::new(7, 70);
    const TRIGGER: ProcessKey = ProcessKey::new(9, 90);

    fn sent(sender: ProcessKey, flags: u32) -> Kill {
        Kill {
            target: VICTIM,
            sender,
            at_ns: 100,
            sender_cgroup: 0,
            task: 0,
            pages: Pages::default(),
            sender_uid: 0,
            flags,
            sender_comm: Comm::default(),
            slot: 0,
            zero: 0,
        }
    }

    #[test]
    fn who_ends_may_be_marked_yet() {
        assert!(sent(TRIGGER, BY_KERNEL).may_be_marked());
        assert!(!sent(TRIGGER, BY_KERNEL | BY_OOM).may_be_marked(), "it is already");
        assert!(!sent(TRIGGER, 0).may_be_marked(), "a user's SIGKILL");
        assert!(!sent(VICTIM, BY_KERNEL).may_be_marked(), "its own thread has to end as well");
    }

    #[test]
    fn the_killers_own_signal_comes_right_before_its_mark() {
        let of = |kill: &Kill| Doing::of(Some(kill), VICTIM, TRIGGER, true);
        assert_eq!(of(&sent(TRIGGER, BY_KERNEL)), Doing::Kill);
        // A second thread of a victim, which may be marked by anybody.
        assert_eq!(of(&sent(TRIGGER, BY_KERNEL | BY_OOM)), Doing::Known);
        assert_eq!(of(&sent(VICTIM, BY_KERNEL | BY_OOM)), Doing::Known);
    }

    #[test]
    fn who_ends_already_is_no_kill() {
        let other = ProcessKey::new(1, 90);
        let of = |kill: &Kill| Doing::of(Some(kill), VICTIM, TRIGGER, true);
        assert_eq!(of(&sent(other, 0)), Doing::Dying, "a user's SIGKILL");
        assert_eq!(of(&sent(TRIGGER, 0)), Doing::Dying, "also one of the trigger's");
        assert_eq!(of(&sent(other, BY_KERNEL)), Doing::Dying, "its pid namespace ends");
        // By itself, by SIGTERM, by SIGSEGV: nobody sent SIGKILL, or only to whoever had its pid before.
        assert_eq!(Doing::of(None, VICTIM, TRIGGER, true), Doing::Dying);
        let before = Kill { target: ProcessKey::new(7, 1), ..sent(TRIGGER, BY_KERNEL) };
        assert_eq!(of(&before), Doing::Dying);
    }

    #[test]
    fn where_no_sender_is_seen_the_kernel_is_believed() {
        assert_eq!(Doing::of(None, VICTIM, TRIGGER, false), Doing::Kill);
    }

    #[test]
    fn what_a_victim_has_from_its_parent() {
        let pages = Pages { anon: 50, swap: 5, shmem: 7, file: 9 };
        let held = |at_fork: u32| Held { start_ns: 70, at_fork, ..Held::default() };
        let of = |held: Option<Held>, executed| inherited(held.as_ref(), VICTIM, executed, &pages);
        assert_eq!(of(Some(held(40)), false), (INHERITS, 40));
        // All of it is its parent's, as after vfork.
        assert_eq!(of(Some(held(memory::SHARES)), false), (INHERITS, 55));
        assert_eq!(of(Some(held(memory::OWN)), false), (OWNS, 0));
        // It has executed something since it was looked at, or has never been.
        assert_eq!(of(Some(held(40)), true), (OWNS, 0));
        assert_eq!(of(None, true), (OWNS, 0));
        let before = Held { start_ns: 1, ..held(40) };
        assert_eq!((of(Some(before), false), of(None, false)), ((0, 0), (0, 0)));
    }
}
