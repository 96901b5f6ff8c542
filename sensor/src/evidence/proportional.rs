//! What the largest processes of a tree hold, with what they share divided among those who share it: the
//! kernel's own division. It walks all of a process' pages for it, 2.5 ms for 200 MiB, under its memory lock.

use super::memory::Memory;
use crate::{lineage::ProcessKey, proto};

/// Processes whose share is read: they have nearly all, for the others it says little.
const LARGEST: usize = 16;

/// Resident set up to which it is read in passing: 10 ms.
pub(super) const CHEAP: u64 = 1 << 30;

/// Reads the shares that are not known yet of the largest processes, up to this resident size; whether all
/// that were asked for came.
pub(super) fn fill(processes: &mut [proto::Process], memory: &mut Memory, largest: u64) -> bool {
    let mut order: Vec<&mut proto::Process> = processes.iter_mut().collect();
    order.sort_by_key(|process| std::cmp::Reverse(process.rss_bytes));
    let mut all = true;
    for process in order.into_iter().take(LARGEST) {
        // One without any has ended.
        if process.pss_bytes == 0 && (1..=largest).contains(&process.rss_bytes) {
            process.pss_bytes = memory.pss(ProcessKey::new(process.pid, process.start_ns));
            all &= process.pss_bytes > 0;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evidence::proc::Proc, respond::process::key_of};

    #[test]
    fn this_process_has_its_part() {
        let key = key_of(std::process::id()).unwrap();
        let own = proto::Process {
            pid: key.tgid,
            start_ns: key.start_ns,
            rss_bytes: 2 << 30,
            ..Default::default()
        };
        let gone = proto::Process { pid: u32::MAX, rss_bytes: 1, ..own.clone() };
        let zombie = proto::Process { rss_bytes: 0, ..gone.clone() };
        let mut memory = Memory::thorough(&Proc::default());

        let mut large = [own.clone()];
        assert!(fill(&mut large, &mut memory, CHEAP), "what is not cheap is not asked for");
        assert_eq!(large[0].pss_bytes, 0);

        let mut tree = [zombie, own, gone];
        assert!(!fill(&mut tree, &mut memory, u64::MAX), "one of them is gone");
        assert!(tree[1].pss_bytes > 1 << 20, "{}", tree[1].pss_bytes);
        assert_eq!((tree[0].pss_bytes, tree[2].pss_bytes), (0, 0));

        let known = tree[1].pss_bytes;
        tree[1].start_ns = 1;
        assert!(fill(&mut tree[..2], &mut memory, u64::MAX), "what is known is not asked again");
        assert_eq!(tree[1].pss_bytes, known);
    }
}
