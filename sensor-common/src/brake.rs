//! The brake: no more forks in the culprit's tree, by a mark that children inherit.
//!
//! User space writes marks, the kernel side copies them to children. A mark names the process that
//! it is meant for, so that one that outlives its slot's tenant stops nobody, and expires by itself.

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

/// The process is never signalled, whoever marked its ancestors, and its children inherit nothing
/// through it.
pub const EXEMPT: u32 = 1 << 0;

/// Whether `mark` holds for a process that started at `start_ns`, at `now_ns`.
#[inline(always)]
pub const fn holds(mark: &Mark, start_ns: u64, now_ns: u64) -> bool {
    mark.number != 0
        && mark.start_ns == start_ns
        && now_ns < mark.until_ns
        && mark.flags & EXEMPT == 0
}

#[cfg(feature = "user")]
// SAFETY: plain integers, 24 bytes without padding; any bit pattern is valid.
unsafe impl aya::Pod for Mark {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_for_its_process_until_it_expires() {
        let mark = Mark { start_ns: 7, until_ns: 100, number: 1, flags: 0 };
        assert!(holds(&mark, 7, 99));
        assert!(!holds(&mark, 7, 100), "expired");
        assert!(!holds(&mark, 8, 50), "another process in the same slot");
        assert!(!holds(&Mark { flags: EXEMPT, ..mark }, 7, 50), "exempt");
        assert!(!holds(&Mark::default(), 0, 0), "an empty slot");
    }
}
