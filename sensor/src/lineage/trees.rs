//! Trees by size and by what they do: all processes of one moment counted, compared with a moment before,
//! and the few trees chosen that a person would name.
//!
//! Counting and choosing take 0.12 µs a process; 116 bytes of it are kept until the next time, and on as long as nothing
//! changes.

pub mod memory;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet, VecDeque},
    mem,
    ops::Range,
    sync::Arc,
};

use super::ProcessKey;
use crate::proto::TreeOrder;

/// Its tree is the host, and nobody stands above it.
const INIT: u32 = 1;

/// kthreadd: it and its children are the kernel's own. What those start is not.
const KERNEL: u32 = 2;

/// Who has so much of what a tree is judged by stands for it, percent: as with a culprit.
const CARRIES: u64 = 90;

/// A process as the kernel side counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its place in the kernel's table, for as long as it is known there; from 1 on.
    pub slot: u32,
    pub key: ProcessKey,
    /// By fork; 0 and a key of zeros where it is not known.
    pub parent_slot: u32,
    pub parent: ProcessKey,
    pub alive: bool,
    /// Forks in its tree since it is known, and exits.
    pub forks: u32,
    pub exits: u32,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Hashes of the program that it executed, and of that with arguments and directory; 0: none, or nobody
    /// knows.
    pub program: u64,
    pub signature: u64,
    /// When it executed that, boot clock, ns; 0: as `program`.
    pub executed_ns: u64,
}

impl Counted {
    fn is_kernel(&self) -> bool {
        self.key.tgid == KERNEL || self.parent.tgid == KERNEL
    }
}

/// A process in its tree.
#[derive(Clone, Copy, Debug)]
struct Member {
    counted: Counted,
    /// The place of its parent among the members, from 1 on; 0: nobody stands above it.
    above: u32,
    /// Members of its tree, dead ones included, from itself on.
    size: u32,
    /// Living ones.
    live: u32,
    /// Those of them that are in its cgroup, and so is everybody between.
    near: u32,
    /// Since the moment before.
    forked: u32,
    grown: i32,
}

impl Member {
    /// The place of its parent.
    fn above(&self) -> Option<usize> {
        (self.above as usize).checked_sub(1)
    }
}

/// A tree, by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    pub root: ProcessKey,
    pub slot: u32,
    pub alive: bool,
    /// Living processes.
    pub live: u32,
    /// Forks since it is known.
    pub forks: u32,
    /// Forks, and living processes more than before, since the moment before.
    pub forked: u32,
    pub grown: i32,
    /// What it holds, bytes, where somebody asked.
    pub bytes: Option<u64>,
    at: usize,
}

/// What trees are judged by, each with what it holds where that is asked for, bytes; empty: nobody knows.
#[derive(Clone, Copy)]
struct By<'a> {
    order: TreeOrder,
    weights: &'a [u64],
}

/// Of a process among all.
#[derive(Clone, Copy, Debug)]
pub struct Place(usize);

/// All processes of one moment.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Boot clock, ns.
    pub at_ns: u64,
    /// Since the moment that it is compared with; 0: there is none.
    pub span_ns: u64,
    /// Parents before children, a tree without gaps.
    members: Arc<Vec<Member>>,
    /// By slot: the place among the members, from 1 on; 0: none.
    places: Arc<Vec<u32>>,
    /// What each one's tree holds, bytes; empty: nobody asked.
    weights: Vec<u64>,
}

impl Census {
    /// `processes` are gone through twice where anything is different from `before`, with which they are compared.
    pub fn new(
        processes: impl Iterator<Item = Counted> + Clone,
        at_ns: u64,
        before: Option<&Self>,
    ) -> Self {
        let span_ns = before.map_or(0, |before| at_ns.saturating_sub(before.at_ns));
        if let Some(before) = before.filter(|before| before.has_only(processes.clone())) {
            return before.again(at_ns, span_ns);
        }
        let mut census = Self { at_ns, span_ns, ..Self::default() };
        census.enter(&processes.collect::<Vec<_>>());
        census.add_up();
        if let Some(before) = before {
            census.compare(before);
        }
        census
    }

    /// Whether these are the same processes, and nothing is different about them.
    fn has_only(&self, mut processes: impl Iterator<Item = Counted>) -> bool {
        let mut members = 0;
        let are_same = processes.all(|process| match self.place(process.slot) {
            Some(at) => {
                members += 1;
                self.members[at].counted == process
            }
            None => process.is_kernel(),
        });
        are_same && members == self.members.len()
    }

    /// The same processes at another moment.
    fn again(&self, at_ns: u64, span_ns: u64) -> Self {
        let mut census = Self { at_ns, span_ns, weights: Vec::new(), ..self.clone() };
        if self.members.iter().any(|member| member.forked != 0 || member.grown != 0) {
            for member in Arc::make_mut(&mut census.members) {
                (member.forked, member.grown) = (0, 0);
            }
        }
        census
    }

    /// Whether nothing at all has happened since then, as far as the counts from then to now were made one after the
    /// other.
    pub fn rests_since(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.members, &before.members)
    }

    /// Whoever is in one of these cgroups. Forks and growth are those of the whole trees.
    #[must_use]
    pub fn within(&self, groups: &HashSet<u64>) -> Self {
        let inside = |member: &&Member| groups.contains(&member.counted.cgroup);
        let members: Vec<&Member> = self.members.iter().filter(inside).collect();
        let processes: Vec<Counted> = members.iter().map(|member| member.counted).collect();
        let mut census = Self { at_ns: self.at_ns, span_ns: self.span_ns, ..Self::default() };
        census.enter(&processes);
        for member in Arc::make_mut(&mut census.members) {
            let whole = self.place(member.counted.slot).map(|at| &self.members[at]);
            if let Some(whole) = whole {
                (member.forked, member.grown) = (whole.forked, whole.grown);
            }
        }
        census.add_up();
        let weight = |member: &Member| Some(self.weights[self.place(member.counted.slot)?]);
        if !self.weights.is_empty() {
            census.weights = census.members.iter().filter_map(weight).collect();
        }
        census
    }

    /// Lays the processes out by their trees.
    fn enter(&mut self, processes: &[Counted]) {
        const NOBODY: u32 = u32::MAX;
        let slots = processes.iter().map(|it| it.slot as usize + 1).max().unwrap_or_default();
        // Of each slot the process in it.
        let mut holders = vec![NOBODY; slots];
        for (index, process) in (0..).zip(processes) {
            holders[process.slot as usize] = index;
        }
        let parent_of = |process: &Counted| {
            let index = *holders.get(process.parent_slot as usize)?;
            let parent = processes.get(index as usize)?;
            let is_known = process.parent_slot != 0 && parent.key == process.parent;
            (is_known && process.key.tgid != INIT).then_some(index as usize)
        };
        // First child and next sibling.
        let mut families = vec![(NOBODY, NOBODY); processes.len()];
        let mut stack: Vec<(u32, u32)> = Vec::new();
        for (index, process) in (0..).zip(processes) {
            if process.is_kernel() {
                continue;
            }
            match parent_of(process).filter(|parent| !processes[*parent].is_kernel()) {
                Some(parent) => {
                    let next = mem::replace(&mut families[parent].0, index);
                    families[index as usize].1 = next;
                }
                None => stack.push((index, 0)),
            }
        }
        let mut places = vec![0; slots];
        let mut members = Vec::with_capacity(processes.len());
        // A snapshot that is torn by reuse could turn in a circle: nobody reaches that from a root.
        while let Some((index, above)) = stack.pop() {
            let counted = processes[index as usize];
            let (size, live, near) = (1, 0, 0);
            members.push(Member { counted, above, size, live, near, forked: 0, grown: 0 });
            let place = members.len() as u32;
            places[counted.slot as usize] = place;
            let (mut child, _) = families[index as usize];
            while child != NOBODY {
                stack.push((child, place));
                (_, child) = families[child as usize];
            }
        }
        self.members = Arc::new(members);
        self.places = Arc::new(places);
    }

    /// Sums from the leaves up.
    fn add_up(&mut self) {
        let members = Arc::make_mut(&mut self.members);
        for at in (0..members.len()).rev() {
            let member = &mut members[at];
            let own = u32::from(member.counted.alive);
            member.live += own;
            member.near += own;
            let (Member { size, live, near, .. }, cgroup) = (*member, member.counted.cgroup);
            let above = member.above();
            if let Some(parent) = above.map(|parent| &mut members[parent]) {
                parent.size += size;
                parent.live += live;
                if parent.counted.cgroup == cgroup {
                    parent.near += near;
                }
            }
        }
    }

    fn compare(&mut self, before: &Self) {
        for member in Arc::make_mut(&mut self.members) {
            let Counted { slot, key, forks, .. } = member.counted;
            let then = before.place(slot).map(|at| &before.members[at]);
            let (forks_then, live_then) = match then.filter(|then| then.counted.key == key) {
                Some(then) => (then.counted.forks, then.live),
                None if key.start_ns > before.at_ns => (0, 0),
                // It was there, and nobody knew of it.
                None => (forks, member.live),
            };
            // The kernel side may have taken some back that it counted twice.
            member.forked = forks.saturating_sub(forks_then);
            member.grown = member.live.cast_signed().wrapping_sub(live_then.cast_signed());
        }
    }

    /// The place of a member's parent.
    fn above(&self, at: usize) -> Option<usize> {
        self.members[at].above()
    }

    fn place(&self, slot: u32) -> Option<usize> {
        (*self.places.get(slot as usize)? as usize).checked_sub(1)
    }

    /// Living processes.
    pub fn living(&self) -> u32 {
        self.roots().map(|at| self.members[at].live).sum()
    }

    /// Births since the moment before.
    pub fn forked(&self) -> u32 {
        self.roots().map(|at| self.members[at].forked).sum()
    }

    fn roots(&self) -> impl Iterator<Item = usize> {
        self.side_by_side(0..self.members.len())
    }

    fn children(&self, at: usize) -> impl Iterator<Item = usize> {
        self.side_by_side(at + 1..at + self.members[at].size as usize)
    }

    /// Roots of the trees that stand beside each other in a stretch.
    fn side_by_side(&self, stretch: Range<usize>) -> impl Iterator<Item = usize> {
        let mut next = stretch.start;
        std::iter::from_fn(move || {
            let at = next;
            (at < stretch.end).then(|| {
                next = at + self.members[at].size as usize;
                at
            })
        })
    }

    /// The trees that stand for the others by this order, best first, no two of which have a process in
    /// common; and how many there are beyond the limit.
    pub fn trees(&self, order: TreeOrder, limit: usize) -> (Vec<Tree>, usize) {
        self.ranked(By { order, weights: &self.weights }, limit)
    }

    fn ranked(&self, by: By<'_>, limit: usize) -> (Vec<Tree>, usize) {
        // Ends with the best; the worst of them is at hand.
        let mut best = BinaryHeap::new();
        let mut found = 0;
        // In their order, which is mostly that of their age: of equals the first is mostly the best.
        let mut open: VecDeque<usize> = self.roots().collect();
        while let Some(at) = open.pop_front() {
            if self.members[at].live == 0 {
                continue;
            }
            let Some(at) = self.carrier(at, by, &mut open) else { continue };
            found += 1;
            let one = Reverse((self.rank(at, by), at));
            if best.len() < limit {
                best.push(one);
            } else if let Some(mut worst) = best.peek_mut()
                && one < *worst
            {
                *worst = one;
            }
        }
        let omitted = found - best.len();
        (
            best.into_sorted_vec().into_iter().map(|Reverse((_, at))| self.tree(at)).collect(),
            omitted,
        )
    }

    /// What a tree is worth by this order; of equals the one with more processes, then more births, then the eldest.
    fn rank(&self, at: usize, by: By<'_>) -> (i64, u32, u32, Reverse<ProcessKey>) {
        let Member { counted, live, forked, grown, .. } = self.members[at];
        let value = match by.order {
            TreeOrder::Growth => i64::from(grown),
            _ => self.weight(at, by) as i64,
        };
        (value, live, forked, Reverse(counted.key))
    }

    /// Who stands for a tree: the lowest process that carries nearly all of it. Trees beside the way down to
    /// it are for later; `None`: all of it is.
    fn carrier(&self, root: usize, by: By<'_>, later: &mut VecDeque<usize>) -> Option<usize> {
        // What does nothing is judged by its size.
        let size = By { order: TreeOrder::Processes, ..by };
        let by = if self.weight(root, by) == 0 { size } else { by };
        let enough = self.weight(root, by).saturating_mul(CARRIES);
        let mut at = root;
        loop {
            if self.stands_aside(at) {
                later.extend(self.children(at));
                return None;
            }
            let is_heir = |child: &usize| {
                self.members[*child].live > 0
                    && self.weight(*child, by).saturating_mul(100) >= enough
            };
            let heir = self.children(at).find(is_heir);
            let Some(heir) = heir else { return Some(at) };
            later.extend(self.children(at).filter(|child| *child != heir));
            at = heir;
        }
    }

    /// It starts what others do: most of its tree is in other cgroups.
    fn stands_aside(&self, at: usize) -> bool {
        let Member { counted, live, near, .. } = self.members[at];
        counted.key.tgid == INIT || (live - near) * 2 > live
    }

    fn weight(&self, at: usize, by: By<'_>) -> u64 {
        let member = &self.members[at];
        match by.order {
            TreeOrder::Unspecified | TreeOrder::Processes => member.live.into(),
            TreeOrder::Forks => member.forked.into(),
            TreeOrder::Growth => u64::try_from(member.grown).unwrap_or(0),
            TreeOrder::Memory => by.weights.get(at).copied().unwrap_or(0),
        }
    }

    fn tree(&self, at: usize) -> Tree {
        let Member { counted, live, forked, grown, .. } = self.members[at];
        let Counted { slot, key, alive, forks, .. } = counted;
        let bytes = self.weights.get(at).copied();
        Tree { root: key, slot, alive, live, forks, forked, grown, bytes, at }
    }

    /// The trees that stand out: who forks and grows most, if anybody does, the largest, who holds most memory and
    /// whose memory grows fastest; seven at most, of which one may be part of another. `held`: what a root's tree
    /// holds, bytes, and by how many bytes a second that grows, where it is known.
    pub fn outstanding(&self, held: impl Fn(ProcessKey) -> Option<(u64, u64)>) -> Vec<Tree> {
        let held = self.members.iter().map(|member| held(member.counted.key).unwrap_or_default());
        let (bytes, slopes): (Vec<u64>, Vec<u64>) = held.unzip();
        let mut found: Vec<Tree> = Vec::new();
        for (order, weights, most) in [
            (TreeOrder::Forks, &[][..], 2),
            (TreeOrder::Growth, &[], 1),
            (TreeOrder::Processes, &[], 2),
            (TreeOrder::Memory, &bytes, 1),
            (TreeOrder::Memory, &slopes, 1),
        ] {
            let by = By { order, weights };
            // Most of the time nobody does it.
            if (0..self.members.len()).all(|at| self.weight(at, by) == 0) {
                continue;
            }
            let trees = self.ranked(by, most).0.into_iter();
            for tree in trees.filter(|tree| self.weight(tree.at, by) > 0) {
                if !found.iter().any(|known| known.root == tree.root) {
                    found.push(tree);
                }
            }
        }
        found
    }

    /// The hash of what a tree's root executed.
    pub fn signature(&self, tree: &Tree) -> u64 {
        self.members[tree.at].counted.signature
    }

    /// The living processes of a tree.
    pub fn living_of(&self, tree: &Tree) -> impl Iterator<Item = ProcessKey> {
        let end = tree.at + self.members[tree.at].size as usize;
        let members = self.members[tree.at..end].iter().map(|member| member.counted);
        members.filter(|counted| counted.alive).map(|counted| counted.key)
    }

    /// Where these processes are, for [`Self::is_of`].
    pub fn find(&self, keys: &[ProcessKey]) -> Vec<Place> {
        let keys: HashSet<&ProcessKey> = keys.iter().collect();
        let members = self.members.iter().enumerate();
        let found = members.filter(|(_, member)| keys.contains(&member.counted.key));
        found.map(|(at, _)| Place(at)).collect()
    }

    /// Whether a process is in a tree, or the tree is in that of the process.
    pub fn is_of(&self, tree: &Tree, process: Place) -> bool {
        let reaches =
            |from: usize, to: usize| (from..from + self.members[from].size as usize).contains(&to);
        reaches(tree.at, process.0) || reaches(process.0, tree.at)
    }
}

#[cfg(test)]
mod tests;
