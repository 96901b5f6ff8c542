//! What stood out in a minute, of what did in its seconds.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::proto::TopTree;

/// A day of minutes with three trees takes some 150 KiB of an incident's evidence.
const OF_MINUTE: usize = 3;

/// The tree that forked most, if any did, and the largest: each as in its largest second, with all forks
/// that were told of.
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
                // The newest: it may have executed something else meanwhile.
                known.comm = tree.comm;
            }
            None => drop(trees.insert((pid, start_ns), tree)),
        }
    }
    let mut trees: Vec<TopTree> = trees.into_values().collect();
    trees.sort_by_key(|tree| Reverse((tree.processes, tree.forks)));
    let busiest = trees.iter().enumerate().filter(|(_, tree)| tree.forks > 0);
    if let Some((at, _)) = busiest.max_by_key(|(at, tree)| (tree.forks, Reverse(*at))) {
        trees[..=at].rotate_right(1);
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
}
