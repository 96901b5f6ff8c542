//! The brake: no more forks in the culprit's tree, by a mark that children inherit.
//!
//! User space writes marks, the kernel side copies them to children. A mark names the process that
//! it is meant for, so that one that outlives its slot's tenant stops nobody, and expires by itself.
//! What the brake did is counted in the kernel, by the mark's number.

/// The brake's mark on one slot of the lineage table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Start of the process that it is meant for, ns.
    pub start_ns: u64,
    /// Boot clock until which it holds, ns.
    pub until_ns: u64,
    /// Number of the containment; children carry the same.
    pub number: u32,
    pub flags: u32,
}

/// The process is not stopped, whoever marked its ancestors, and its children inherit nothing through
/// it.
pub const EXEMPT: u32 = 1 << 0;

/// What the brake would do is counted, and not done: a dry run.
pub const DRY: u32 = 1 << 1;

/// What the brake did to a process.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Stopped it before its fork had a child. One that is woken and tries again counts again.
    Paused = 0,
    /// Stopped it after a fork that had a child all the same.
    Passed = 1,
    /// Stopped it as it executed something.
    Executed = 2,
    /// Made its fork fail with EAGAIN, because the signal that pauses could not be sent.
    Refused = 3,
}

/// What the brake did under one number. Counted where it happens, so that no full ring can hide it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// When user space was told last, boot clock, ns.
    pub told_ns: u64,
    /// By [`Deed`].
    pub deeds: [u32; 4],
}

impl Tally {
    pub const fn of(&self, deed: Deed) -> u32 {
        self.deeds[deed as usize]
    }

    /// What was done in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let deeds = core::array::from_fn(|deed| self.deeds[deed].wrapping_add(other.deeds[deed]));
        Self { told_ns: self.told_ns.max(other.told_ns), deeds }
    }
}

/// Numbers that are counted at once; a later one takes the place of an earlier.
pub const TALLIES: u32 = 64;

/// Where a number's tally is.
#[inline(always)]
pub const fn tally_index(number: u32) -> u32 {
    number % TALLIES
}

/// User space is told so often that a tree moves under the brake, ns: each time wakes it.
pub const TOLD_EVERY_NS: u64 = 1_000_000;

/// Whether `mark` holds for a process that started at `start_ns`, at `now_ns`.
#[inline(always)]
pub const fn holds(mark: &Mark, start_ns: u64, now_ns: u64) -> bool {
    mark.number != 0
        && mark.start_ns == start_ns
        && now_ns < mark.until_ns
        && mark.flags & EXEMPT == 0
}

/// Whether `mark` exempts a process that started at `start_ns`, at `now_ns`.
#[inline(always)]
pub const fn spares(mark: &Mark, start_ns: u64, now_ns: u64) -> bool {
    mark.flags & EXEMPT != 0 && mark.start_ns == start_ns && now_ns < mark.until_ns
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers, 24 bytes without padding; any bit pattern is valid.
    unsafe impl aya::Pod for super::Mark {}
    // SAFETY: the same.
    unsafe impl aya::Pod for super::Tally {}
}

const _: () = assert!(size_of::<Mark>() == 24);
const _: () = assert!(size_of::<Tally>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_for_its_process_until_it_expires() {
        let mark = Mark { start_ns: 7, until_ns: 100, number: 1, flags: 0 };
        assert!(holds(&mark, 7, 99));
        assert!(!holds(&mark, 7, 100), "expired");
        assert!(!holds(&mark, 8, 50), "another process in the same slot");
        let exempt = Mark { flags: EXEMPT, ..mark };
        assert!(!holds(&exempt, 7, 50) && spares(&exempt, 7, 50), "exempt");
        assert!(!spares(&exempt, 7, 100), "no longer");
        assert!(!spares(&exempt, 8, 50) && !spares(&mark, 7, 50));
        assert!(!holds(&Mark::default(), 0, 0), "an empty slot");
    }
}
