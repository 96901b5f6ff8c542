//! What the processes of a tree are and hold, counted by their command.

use std::collections::{BTreeMap, HashSet};

use crate::proto;

/// A command below the culprit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Redacted.
    pub argv: Vec<Vec<u8>>,
    pub count: usize,
    /// Anonymous memory of all of them, bytes.
    pub bytes: u64,
    /// Of them those that somebody else adopted: their parent has ended or let go of them.
    pub orphans: usize,
}

/// A tree as evidence has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What runs below the roots, by command: most frequent first.
    pub below: Vec<Below>,
    /// Anonymous memory of the roots themselves, bytes.
    pub own_bytes: u64,
    /// Anonymous memory of each root that was read, bytes, most first.
    pub roots: Vec<u64>,
    pub processes: usize,
    /// Ended, and not waited for.
    pub zombies: usize,
    /// Nothing of it lived any more as it was looked at.
    pub ended: bool,
}

impl Held {
    pub fn of(tree: &proto::ProcessTree, roots: &[crate::lineage::ProcessKey]) -> Self {
        let roots: HashSet<(u32, u64)> = roots.iter().map(|key| (key.tgid, key.start_ns)).collect();
        let mut held =
            Self { processes: tree.processes.len() + tree.omitted as usize, ..Self::default() };
        held.ended = held.processes == 0;
        let mut below: BTreeMap<&[Vec<u8>], Below> = BTreeMap::new();
        for process in &tree.processes {
            held.zombies += usize::from(process.state == "Z");
            if roots.contains(&(process.pid, process.start_ns)) {
                held.own_bytes += process.anon_bytes;
                held.roots.push(process.anon_bytes);
                continue;
            }
            let one = below.entry(&process.argv).or_default();
            one.count += 1;
            one.bytes += process.anon_bytes;
            let by_lineage = process.parent.as_ref().map(|parent| parent.pid);
            one.orphans += usize::from(by_lineage.is_some_and(|pid| pid != process.ppid));
        }
        held.below =
            below.into_iter().map(|(argv, below)| Below { argv: argv.to_vec(), ..below }).collect();
        held.below.sort_by_key(|one| std::cmp::Reverse((one.count, one.bytes)));
        held.roots.sort_unstable_by(|one, other| other.cmp(one));
        held
    }
}
