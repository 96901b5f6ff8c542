//! Trees and culprits: a snapshot of the kernel's lineage, and the questions that are asked of it.
//!
//! A [`Forest`] is plain data. The kernel side fills it (`kernel::maps`), tests build it by hand.
//! [`trees`] counts the same processes without their particulars, once a second.

pub mod trees;

use std::collections::HashMap;

pub use sensor_common::{FileId, ProcessKey};

/// What a process ran, as the kernel saw it at exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// Boot clock, ns; 0 when it started before the sensor.
    pub at_ns: u64,
    pub exe: FileId,
    pub cwd: FileId,
    /// Arguments, not redacted: at most the first 512 bytes of the argument area, the last one cut there.
    pub argv: Vec<Vec<u8>>,
    /// Bytes of the whole argument area.
    pub argv_bytes: u32,
    /// Hash of executable, argv and cwd.
    pub strict: u64,
    /// Hash of executable and argv.
    pub loose: u64,
}

/// A process, living or dead, as the kernel's lineage has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub key: ProcessKey,
    /// By fork, whatever re-parenting did later; `None` at the edge of what is known.
    pub parent: Option<ProcessKey>,
    pub alive: bool,
    /// Its birth was not seen.
    pub adopted: bool,
    /// `None`: forked and never executed anything, or nothing is known.
    pub exec: Option<Exec>,
    /// Hash of the executable that it executed; 0: none, or nothing is known.
    pub program: u64,
    /// Living processes of its tree as the kernel counts (itself included, 32 levels deep).
    pub live: u32,
    /// Forks in its tree since the sensor knows it.
    pub forks: u32,
    /// cgroup v2 id at fork or exec.
    pub cgroup: u64,
    /// Number of the brake's mark that it carries; 0: none.
    pub mark: u32,
}

/// All processes that the kernel side knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Forest {
    nodes: HashMap<ProcessKey, Node>,
    children: HashMap<ProcessKey, Vec<ProcessKey>>,
}

impl Forest {
    pub fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut forest = Self::default();
        for node in nodes {
            if let Some(parent) = node.parent {
                forest.children.entry(parent).or_default().push(node.key);
            }
            forest.nodes.insert(node.key, node);
        }
        for children in forest.children.values_mut() {
            children.sort_unstable();
        }
        forest
    }

    /// With one more, which is nobody's parent.
    #[must_use]
    pub fn with(mut self, node: Node) -> Self {
        if let Some(parent) = node.parent {
            self.children.entry(parent).or_default().push(node.key);
        }
        self.nodes.insert(node.key, node);
        self
    }

    /// Hash of the executable that a process runs: what it executed, or the nearest ancestor did.
    /// `None` where nobody saw that.
    pub fn program(&self, key: ProcessKey) -> Option<u64> {
        let line = self.ancestry(key);
        // What was there before the sensor may have executed anything.
        let known = line.into_iter().find(|node| node.program != 0 || node.adopted)?;
        (known.program != 0).then_some(known.program)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn get(&self, key: ProcessKey) -> Option<&Node> {
        self.nodes.get(&key)
    }

    /// The living process with this pid.
    pub fn living(&self, tgid: u32) -> Option<&Node> {
        self.nodes.values().find(|node| node.alive && node.key.tgid == tgid)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// `key` and its ancestors, nearest first; ends where the lineage ends.
    pub fn ancestry(&self, key: ProcessKey) -> Vec<&Node> {
        let mut path: Vec<&Node> = Vec::new();
        let mut next = self.get(key);
        while let Some(node) = next {
            // The kernel's links cannot turn in a circle; a snapshot torn by reuse could.
            if path.len() > self.nodes.len() {
                break;
            }
            path.push(node);
            next = node.parent.and_then(|parent| self.get(parent));
        }
        path
    }

    /// From `root` down to `leaf`, both included; `None` when `leaf` is not below `root`.
    pub fn chain(&self, root: ProcessKey, leaf: ProcessKey) -> Option<Vec<&Node>> {
        let mut path = self.ancestry(leaf);
        let end = path.iter().position(|node| node.key == root)?;
        path.truncate(end + 1);
        path.reverse();
        Some(path)
    }

    /// The tree of `root` with each node's level below it, parents before children, dead ones included.
    pub fn tree(&self, root: ProcessKey) -> Vec<(&Node, u32)> {
        let mut found = Vec::new();
        let mut level = 0;
        let mut wave: Vec<ProcessKey> = vec![root];
        while !wave.is_empty() && found.len() <= self.nodes.len() {
            let mut next = Vec::new();
            for key in wave {
                if let Some(node) = self.get(key) {
                    found.push((node, level));
                }
                next.extend(self.children.get(&key).into_iter().flatten().copied());
            }
            wave = next;
            level += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_what_the_nearest_above_it_executed() {
        let key = |tgid| ProcessKey::new(tgid, u64::from(tgid));
        let node = |tgid, parent: Option<u32>, program, adopted| Node {
            key: key(tgid),
            parent: parent.map(key),
            program,
            adopted,
            ..Node::default()
        };
        let forest = Forest::new([
            node(1, None, 0, true),
            node(2, Some(1), 7, false),
            node(3, Some(2), 0, false),
            node(4, Some(3), 9, false),
            node(5, Some(1), 0, false),
            // A snapshot that is torn.
            node(6, Some(7), 0, false),
            node(7, Some(6), 0, false),
        ]);
        let programs = [1, 2, 3, 4, 5, 6, 8].map(|tgid| forest.program(key(tgid)));
        assert_eq!(programs, [None, Some(7), Some(7), Some(9), None, None, None]);
    }
}
