//! Whose growth it is: the lowest process whose tree carries it, or trees beside each other that have
//! something in common.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    detect::group::{By, Group},
    lineage::ProcessKey,
    proto::{GroupBy, GroupMemory, TreeMemory},
};

/// A tree carries a growth if so many percent of it are its own, ...
pub const CARRIES: u64 = 90;

/// ... or so many, and of what grew lately as many as above: what is beside it is over. Of a rush a part is enough: it is
/// what goes on now.
pub const MOSTLY: u64 = 66;
pub const RUSHES: u64 = 25;

/// Whether a part is so many percent of the whole.
pub fn is_part(part: u64, whole: u64, percent: u64) -> bool {
    u128::from(part) * 100 >= u128::from(whole) * u128::from(percent)
}

/// Links that are followed upward at most: a sample that comes from elsewhere may lead in a circle.
const DEEPEST: usize = 64;

/// The trees of a sample as they hang together.
pub struct Sight<'a> {
    trees: BTreeMap<ProcessKey, &'a TreeMemory>,
    /// In order of their keys.
    children: BTreeMap<ProcessKey, Vec<ProcessKey>>,
}

/// What a tree grew by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grown {
    pub all: u64,
    /// In the later part of the window.
    pub lately: u64,
}

pub fn key_of(key: &crate::proto::ProcessKey) -> ProcessKey {
    ProcessKey::new(key.pid, key.start_ns)
}

impl<'a> Sight<'a> {
    pub fn of(trees: &'a [TreeMemory]) -> Self {
        let trees: BTreeMap<ProcessKey, &TreeMemory> =
            trees.iter().filter_map(|tree| Some((key_of(tree.root.as_ref()?), tree))).collect();
        let mut children: BTreeMap<ProcessKey, Vec<ProcessKey>> = BTreeMap::new();
        for (key, tree) in &trees {
            if let Some(parent) = tree.parent.as_ref().map(key_of).filter(|parent| parent != key) {
                children.entry(parent).or_default().push(*key);
            }
        }
        Self { trees, children }
    }

    pub fn tree(&self, key: ProcessKey) -> Option<&'a TreeMemory> {
        self.trees.get(&key).copied()
    }

    fn parent(&self, key: ProcessKey) -> Option<ProcessKey> {
        self.tree(key)?.parent.as_ref().map(key_of)
    }

    /// A process and those above it, nearest first.
    pub fn line(&self, key: ProcessKey) -> impl Iterator<Item = ProcessKey> {
        std::iter::successors(Some(key), |key| self.parent(*key)).take(DEEPEST)
    }

    /// Those that have none of the others above them.
    pub fn topmost(&self, keys: &BTreeSet<ProcessKey>) -> Vec<ProcessKey> {
        let above = |key: &ProcessKey| self.line(*key).skip(1).any(|one| keys.contains(&one));
        keys.iter().copied().filter(|key| !above(key)).collect()
    }

    /// The lowest process whose tree carries the growth of the tree of `top`. `grown`: within the window in which it
    /// grew. `least`: percent of who carries what grew lately.
    pub fn lowest(
        &self,
        top: ProcessKey,
        least: u64,
        grown: impl Fn(ProcessKey) -> Grown,
    ) -> ProcessKey {
        let whole = grown(top);
        let carries = |key: &ProcessKey| {
            let part = grown(*key);
            is_part(part.all, whole.all, CARRIES)
                || whole.lately > 0
                    && is_part(part.all, whole.all, least)
                    && is_part(part.lately, whole.lately, CARRIES)
        };
        let mut lowest = top;
        for _ in 0..DEEPEST {
            let children = self.children.get(&lowest).map(Vec::as_slice).unwrap_or_default();
            match children.iter().find(|key| **key != top && carries(key)) {
                Some(child) => lowest = *child,
                None => break,
            }
        }
        lowest
    }

    /// Everybody below a process that the sample tells of.
    fn below(&self, top: ProcessKey) -> BTreeSet<ProcessKey> {
        let mut found = BTreeSet::new();
        let mut open = vec![top];
        while let Some(key) = open.pop() {
            for child in self.children.get(&key).into_iter().flatten() {
                if *child != top && found.insert(*child) {
                    open.push(*child);
                }
            }
        }
        found
    }

    /// Of the trees below a process those of one program, started by others than that process, that carry its
    /// growth together.
    pub fn crowd_below(&self, top: ProcessKey, grown: impl Fn(ProcessKey) -> u64) -> Option<Group> {
        let below = self.below(top);
        let mut by_program: BTreeMap<u64, BTreeSet<ProcessKey>> = BTreeMap::new();
        for key in below {
            let program = self.tree(key).map_or(0, |tree| tree.program);
            if program != 0 {
                by_program.entry(program).or_default().insert(key);
            }
        }
        let own = self.tree(top).map_or(0, |tree| tree.program);
        by_program
            .into_iter()
            .filter(|(program, _)| *program != own)
            .map(|(program, keys)| (program, self.topmost(&keys)))
            // What the process starts itself are its workers.
            .filter(|(_, keys)| keys.iter().any(|key| self.parent(*key) != Some(top)))
            .find_map(|(program, keys)| {
                self.crowd(By::Executable, program, keys, grown(top), &grown)
            })
    }

    /// The trees that a sum over processes is made of, where they carry its growth and none of them alone
    /// does.
    pub fn crowd_of(
        &self,
        group: &GroupMemory,
        whole: u64,
        grown: impl Fn(ProcessKey) -> u64,
    ) -> Option<Group> {
        let eldest = self.tree(key_of(group.eldest.as_ref()?));
        let (by, shared) = match group.by() {
            GroupBy::Executable => (By::Executable, eldest?.program),
            GroupBy::Session => (By::Session, group.what.parse().ok()?),
            GroupBy::User => (By::User, group.what.parse().ok()?),
            GroupBy::Cgroup => (By::Cgroup, eldest?.cgroup),
            GroupBy::Unspecified => return None,
        };
        let has = |tree: &TreeMemory| match by {
            By::Executable => tree.program == shared,
            By::Session => u64::from(tree.session) == shared,
            By::User => u64::from(tree.uid) == shared,
            By::Cgroup => tree.cgroup == shared,
        };
        let keys: BTreeSet<ProcessKey> =
            self.trees.iter().filter(|(_, tree)| has(tree)).map(|(key, _)| *key).collect();
        let members = self.topmost(&keys);
        self.crowd(by, shared, members, whole, &grown)
    }

    fn crowd(
        &self,
        by: By,
        shared: u64,
        mut members: Vec<ProcessKey>,
        whole: u64,
        grown: &impl Fn(ProcessKey) -> u64,
    ) -> Option<Group> {
        let carries = |sum: u64| is_part(sum, whole, CARRIES);
        members.retain(|key| grown(*key) > 0);
        let all = members.iter().fold(0_u64, |sum, key| sum.saturating_add(grown(*key)));
        if members.len() < 2
            || whole == 0
            || !carries(all)
            || members.iter().any(|key| carries(grown(*key)))
        {
            return None;
        }
        members.sort_unstable_by_key(|key| (key.start_ns, key.tgid));
        let eldest = *members.first()?;
        let user = self.tree(eldest)?.uid;
        let one_user =
            members.iter().all(|key| self.tree(*key).is_some_and(|tree| tree.uid == user));
        let signature = self.tree(eldest)?.signature;
        let alike = signature != 0
            && members
                .iter()
                .all(|key| self.tree(*key).is_some_and(|tree| tree.signature == signature));
        let above = |key: &ProcessKey| -> Vec<ProcessKey> { self.line(*key).skip(1).collect() };
        let mut starters: Vec<ProcessKey> =
            members.iter().filter_map(|key| self.parent(*key)).collect();
        starters.sort_unstable();
        starters.dedup();
        // Nobody that the sample tells of stands above all of them: then pid 1 does, or who started the
        // eldest.
        let common = above(&eldest)
            .into_iter()
            .find(|one| members.iter().all(|key| above(key).contains(one)))
            .or(self.parent(eldest))
            .unwrap_or(eldest);
        Some(Group {
            by,
            shared,
            user: one_user.then_some(user),
            alike,
            ancestor: common,
            since_ns: 0,
            members,
            starters,
        })
    }
}
