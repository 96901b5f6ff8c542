//! What stood out in a minute, of what did in its seconds.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::proto::TopTree;

/// A day of minutes with three trees takes some 150 KiB of an incident's evidence.
const OF_MINUTE: usize = 3;

/// The tree that forked most, if any did, the one that held most memory, and the largest: each as in its largest
/// second, with all forks that were told of.
pub(super) fn of_minute(seconds: Vec<TopTree>) -> Vec<TopTree> {
    let mut trees: BTreeMap<(u32, u64), TopTree> = BTreeMap::new();
    for tree in seconds {
        let TopTree { pid, start_ns, .. } = tree;
        match trees.get_mut(&(pid, start_ns)) {
            Some(known) => {
                known.processes = known.processes.max(tree.processes);
                known.forks = known.forks.saturating_add(tree.forks);
                known.bytes = known.bytes.max(tree.bytes);
                known.bytes_per_second = known.bytes_per_second.max(tree.bytes_per_second);
                known.threads = known.threads.max(tree.threads);
                known.stalled_ns = known.stalled_ns.max(tree.stalled_ns);
                let ends = [known.exhausted_in_s, tree.exhausted_in_s].into_iter().flatten();
                known.exhausted_in_s = ends.reduce(f64::min);
                // The newest: it may have executed something else meanwhile.
                known.comm = tree.comm;
            }
            None => drop(trees.insert((pid, start_ns), tree)),
        }
    }
    let mut trees: Vec<TopTree> = trees.into_values().collect();
    trees.sort_by_key(|tree| Reverse((tree.processes, tree.forks)));
    // The last one that is moved to the front is the first.
    for by in [|tree: &TopTree| tree.bytes, |tree: &TopTree| tree.forks.into()] {
        let some = trees.iter().enumerate().filter(|(_, tree)| by(tree) > 0);
        if let Some((at, _)) = some.max_by_key(|(at, tree)| (by(tree), Reverse(*at))) {
            trees[..=at].rotate_right(1);
        }
    }
    trees.truncate(OF_MINUTE);
    trees
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(pid: u32, processes: u32, forks: u32) -> TopTree {
        TopTree { pid, start_ns: 1, comm: "sh".into(), processes, forks, ..TopTree::default() }
    }

    #[test]
    fn who_forked_most_and_who_was_largest() {
        assert_eq!(of_minute(Vec::new()), []);
        let seconds = [
            tree(1, 50, 0),
            tree(2, 40, 1),
            tree(3, 2, 300),
            TopTree { comm: "make".into(), ..tree(2, 45, 1) },
            tree(3, 3, 400),
            tree(4, 30, 0),
        ];
        let make = TopTree { comm: "make".into(), ..tree(2, 45, 2) };
        assert_eq!(of_minute(seconds.to_vec()), [tree(3, 3, 700), tree(1, 50, 0), make]);
    }

    #[test]
    fn who_held_most_is_kept_with_its_nearest_end() {
        let holds = |bytes: u64, threads, stalled_ns, exhausted_in_s| TopTree {
            bytes,
            threads,
            stalled_ns,
            exhausted_in_s,
            ..tree(9, 1, 0)
        };
        let seconds = [
            tree(1, 50, 0),
            tree(2, 40, 1),
            TopTree { bytes: 1 << 30, ..tree(3, 30, 0) },
            holds(8 << 30, 7, 5, Some(90.0)),
            holds(9 << 30, 5, 800, Some(30.0)),
            holds(7 << 30, 6, 900, None),
        ];
        let most = holds(9 << 30, 7, 900, Some(30.0));
        assert_eq!(of_minute(seconds.to_vec()), [tree(2, 40, 1), most, tree(1, 50, 0)]);
    }
}
