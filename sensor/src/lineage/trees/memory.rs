//! What trees and groups hold: what each process holds, added up so that nothing counts twice.
//!
//! A process that executed a program counts with all its anonymous memory and swap, one that only forked with
//! what it has more than at its fork. Shared memory is mapped, not copied: a process and those that it only
//! forked touch the same pages one by one, so of them the one that has touched most counts, and the sum is
//! taken over those that executed something. (127 npm processes of 892 MiB have resident sizes that add up to
//! 3,590; a process of 200 MiB with ten idle children has 2,275.)

use std::cmp::Reverse;

use foldhash::{HashMap, HashSet};

use super::{Census, Counted, INIT, Member};
use crate::{lineage::ProcessKey, proto::GroupBy};

/// Of a process, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Anonymous memory and swap.
    pub private: u64,
    /// Shared memory that it has touched.
    pub shared: u64,
    /// Of `private`, what it had when it was forked, if it only was.
    pub at_fork: u64,
    /// It only forked.
    pub forked: bool,
    pub threads: u32,
    pub uid: u32,
    pub session: u32,
    /// Children that ended and that it has not waited for.
    pub zombies: u32,
}

/// A tree, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    pub root: ProcessKey,
    pub slot: u32,
    /// By fork; a key of zeros: not known.
    pub parent: ProcessKey,
    pub alive: bool,
    /// Hashes of what the root runs, as it or the nearest above it executed it; 0: not known.
    pub program: u64,
    pub signature: u64,
    /// cgroup v2 id.
    pub cgroup: u64,
    pub uid: u32,
    pub session: u32,
    /// Living processes, and their threads.
    pub live: u32,
    pub threads: u32,
    pub bytes: u64,
    pub root_bytes: u64,
    pub forks: u32,
    pub exits: u32,
    pub zombies: u32,
    /// Of the program that most living children of the root run: how many do, and its hash. Whose parent
    /// has ended is taken for a child of who is next above.
    pub alike: u32,
    pub alike_program: u64,
}

/// Processes with something in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathering {
    pub by: GroupBy,
    /// The program's hash, the uid, the session, or the cgroup's id.
    pub what: u64,
    pub processes: u32,
    pub bytes: u64,
    pub eldest: ProcessKey,
    /// Its place in the kernel's table.
    pub slot: u32,
}

impl Gathering {
    /// The tree's root is one of them.
    pub fn has(&self, tree: &Holding) -> bool {
        let theirs = match self.by {
            GroupBy::Executable => tree.program,
            GroupBy::Session => tree.session.into(),
            GroupBy::User => tree.uid.into(),
            GroupBy::Cgroup => tree.cgroup,
            GroupBy::Unspecified => return false,
        };
        theirs == self.what
    }
}

/// Which trees and groups are told of.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// Who holds so much, bytes.
    pub bytes: u64,
    /// A tree with more living processes, or whose root has more children that it has not waited for.
    pub many: u32,
    /// The largest trees, and groups of each kind.
    pub trees: usize,
    pub groups: usize,
}

#[derive(Debug, Default)]
pub struct Tally {
    /// The largest first, an ancestor before its descendants.
    pub trees: Vec<Holding>,
    pub groups: Vec<Gathering>,
    /// Trees that are left out.
    pub omitted: usize,
    /// Living processes that were measured.
    pub processes: u32,
}

/// One process, by its place among the members, on the way to the sums.
#[derive(Clone, Copy, Default)]
struct Sum {
    /// What the tree holds, apart from shared memory that may be the same as above it.
    bytes: u64,
    /// That: the most that one of the process and those that it only forked has touched.
    shared: u64,
    threads: u32,
    /// The process's own part, shared memory included where it stands for others.
    own: u64,
    program: u64,
    signature: u64,
}

impl Census {
    /// What all trees and groups hold. `held` answers for a living process by its slot and key.
    pub fn tally(&self, held: impl Fn(u32, ProcessKey) -> Option<Holds>, worth: &Worth) -> Tally {
        let holds = self.holds(held);
        let sums = self.sums(&holds, &self.heirs(&holds));
        let tells = |(at, (sum, holds)): (usize, (&Sum, &Option<Holds>))| {
            let member = &self.members[at];
            let tells = member.live > worth.many
                || sum.bytes + sum.shared >= worth.bytes
                || holds.is_some_and(|holds| holds.zombies > worth.many);
            (tells && member.live > 0 && member.counted.key.tgid != INIT).then_some(at)
        };
        let mut chosen: Vec<usize> =
            sums.iter().zip(&holds).enumerate().filter_map(tells).collect();
        // Those above a tree that is told of are told of as well: nearly always they hold as much.
        let mut known: HashSet<usize> = chosen.iter().copied().collect();
        for at in chosen.clone() {
            let mut above = self.above(at);
            while let Some(at) = above.filter(|at| self.members[*at].counted.key.tgid != INIT)
                && known.insert(at)
            {
                chosen.push(at);
                above = self.above(at);
            }
        }
        let rank = |at: &usize| {
            let sum = &sums[*at];
            (Reverse(sum.bytes + sum.shared), Reverse(self.members[*at].live), *at)
        };
        chosen.sort_unstable_by_key(rank);
        let omitted = chosen.len().saturating_sub(worth.trees);
        chosen.truncate(worth.trees);
        let trees = chosen.iter().map(|at| self.holding(*at, &holds, &sums)).collect();
        let processes = holds.iter().flatten().count() as u32;
        Tally { trees, groups: self.gather(&holds, &sums, worth), omitted, processes }
    }

    /// The same with what each tree holds, for an order by it.
    #[must_use]
    pub fn weighed(&self, held: impl Fn(u32, ProcessKey) -> Option<Holds>) -> Self {
        let holds = self.holds(held);
        let sums = self.sums(&holds, &self.heirs(&holds));
        let weights = sums.iter().map(|sum| sum.bytes + sum.shared).collect();
        Self { weights, ..self.clone() }
    }

    fn holds(&self, held: impl Fn(u32, ProcessKey) -> Option<Holds>) -> Vec<Option<Holds>> {
        let counted = self.members.iter().map(|member| &member.counted);
        counted.map(|it| it.alive.then(|| held(it.slot, it.key)).flatten()).collect()
    }

    /// Of processes that only forked and whose forker has that memory no more, as it is gone or has executed
    /// something since, those who hold what it left to all of them: the eldest of each.
    fn heirs(&self, holds: &[Option<Holds>]) -> HashSet<usize> {
        let counted = |at: usize| &self.members[at].counted;
        let mut eldest: HashMap<usize, usize> = HashMap::default();
        for (at, _) in holds.iter().enumerate().filter(|(_, it)| it.is_some_and(|it| it.forked)) {
            let (mut forked, Some(mut forker)) = (at, self.above(at)) else { continue };
            // What a dead process had without executing anything, it had from above.
            while !counted(forker).alive
                && counted(forker).program == 0
                && let Some(above) = self.above(forker)
            {
                (forked, forker) = (forker, above);
            }
            let Counted { alive, executed_ns, .. } = *counted(forker);
            if alive && executed_ns <= counted(forked).key.start_ns {
                continue;
            }
            let one = eldest.entry(forker).or_insert(at);
            if counted(at).key.start_ns < counted(*one).key.start_ns {
                *one = at;
            }
        }
        eldest.into_values().collect()
    }

    fn sums(&self, holds: &[Option<Holds>], heirs: &HashSet<usize>) -> Vec<Sum> {
        let mut sums: Vec<Sum> = Vec::with_capacity(self.members.len());
        // Parents stand before their children.
        for (at, member) in self.members.iter().enumerate() {
            let Counted { program, signature, .. } = member.counted;
            let (program, signature) = match self.above(at) {
                Some(above) if program == 0 => (sums[above].program, sums[above].signature),
                _ => (program, signature),
            };
            sums.push(Sum { program, signature, ..Sum::default() });
        }
        for (at, member) in self.members.iter().enumerate().rev() {
            let sum = &mut sums[at];
            if let Some(holds) = &holds[at] {
                let is_heir = holds.at_fork > 0 && heirs.contains(&at);
                let inherited = if is_heir { 0 } else { holds.at_fork };
                sum.own = holds.private.saturating_sub(inherited);
                sum.bytes += sum.own;
                sum.shared = sum.shared.max(holds.shared);
                sum.threads += holds.threads;
            }
            let counted = &member.counted;
            let only_forked = holds[at].is_some_and(|holds| holds.forked)
                || !counted.alive && counted.program == 0;
            let above = self.above(at);
            let is_part = only_forked && above.is_some();
            if !is_part {
                sum.own += sum.shared;
            }
            let Sum { bytes, shared, threads, .. } = *sum;
            let Some(above) = above.map(|above| &mut sums[above]) else { continue };
            above.threads += threads;
            above.bytes += bytes;
            if is_part {
                above.shared = above.shared.max(shared);
            } else {
                above.bytes += shared;
            }
        }
        sums
    }

    fn holding(&self, at: usize, holds: &[Option<Holds>], sums: &[Sum]) -> Holding {
        let Member { counted, live, .. } = self.members[at];
        let (sum, own) = (sums[at], holds[at].unwrap_or_default());
        let (alike_program, alike) = self.alike(at, sums);
        Holding {
            root: counted.key,
            slot: counted.slot,
            parent: counted.parent,
            alive: counted.alive,
            program: sum.program,
            signature: sum.signature,
            cgroup: counted.cgroup,
            uid: own.uid,
            session: own.session,
            live,
            threads: sum.threads,
            bytes: sum.bytes + sum.shared,
            root_bytes: sum.own,
            forks: counted.forks,
            exits: counted.exits,
            zombies: own.zombies,
            alike,
            alike_program,
        }
    }

    /// The program that most living children run, and how many do.
    fn alike(&self, at: usize, sums: &[Sum]) -> (u64, u32) {
        let mut counts: HashMap<u64, u32> = HashMap::default();
        // Who stands beside each other mostly runs the same.
        let mut run = (0, 0);
        // The children of whoever has ended count for it.
        let mut parents = vec![at];
        while let Some(parent) = parents.pop() {
            for child in self.children(parent) {
                let program = sums[child].program;
                if !self.members[child].counted.alive {
                    parents.push(child);
                } else if program == run.0 {
                    run.1 += 1;
                } else {
                    let (last, count) = std::mem::replace(&mut run, (program, 1));
                    *counts.entry(last).or_default() += count;
                }
            }
        }
        *counts.entry(run.0).or_default() += run.1;
        // Nobody knows what those run.
        counts.remove(&0);
        counts.into_iter().max_by_key(|(program, count)| (*count, *program)).unwrap_or_default()
    }

    /// Sums over what has something in common.
    fn gather(&self, holds: &[Option<Holds>], sums: &[Sum], worth: &Worth) -> Vec<Gathering> {
        let mut groups = Groups::default();
        // Who stands beside each other in a tree mostly has all of it in common.
        let mut run: Option<Run> = None;
        for ((member, holds), sum) in self.members.iter().zip(holds).zip(sums) {
            let Some(holds) = holds else { continue };
            let Counted { key, slot, cgroup, .. } = member.counted;
            let common = [sum.program, holds.session.into(), holds.uid.into(), cgroup];
            match &mut run {
                Some(run) if run.common == common => {
                    run.processes += 1;
                    run.bytes += sum.own;
                    if key.start_ns < run.eldest.start_ns {
                        (run.eldest, run.slot) = (key, slot);
                    }
                }
                _ => {
                    let (processes, bytes) = (1, sum.own);
                    let next = Run { common, processes, bytes, eldest: key, slot };
                    if let Some(run) = run.replace(next) {
                        groups.add(run);
                    }
                }
            }
        }
        if let Some(run) = run {
            groups.add(run);
        }
        let mut all = groups.all;
        all.retain(|group| group.bytes >= worth.bytes);
        all.sort_unstable_by_key(|it| (it.by as i32, Reverse(it.bytes), it.what));
        let mut told = 0;
        let mut kind = GroupBy::Unspecified;
        all.retain(|group| {
            if group.by != kind {
                (kind, told) = (group.by, 0);
            }
            told += 1;
            told <= worth.groups
        });
        all
    }
}

/// Processes that stand beside each other and have all in common that groups are made by.
struct Run {
    /// In the order of [`BY`].
    common: [u64; BY.len()],
    processes: u32,
    bytes: u64,
    eldest: ProcessKey,
    slot: u32,
}

/// What groups are made by.
const BY: [GroupBy; 4] = [GroupBy::Executable, GroupBy::Session, GroupBy::User, GroupBy::Cgroup];

/// Groups as they are found.
#[derive(Default)]
struct Groups {
    all: Vec<Gathering>,
    places: HashMap<(i32, u64), usize>,
}

impl Groups {
    fn add(&mut self, run: Run) {
        let Run { common, processes, bytes, eldest, slot } = run;
        for (by, what) in BY.into_iter().zip(common) {
            // Nobody knows what it runs, or it has no session.
            if what == 0 && by != GroupBy::User {
                continue;
            }
            let place = *self.places.entry((by.into(), what)).or_insert(self.all.len());
            let Some(group) = self.all.get_mut(place) else {
                self.all.push(Gathering { by, what, processes, bytes, eldest, slot });
                continue;
            };
            group.processes += processes;
            group.bytes += bytes;
            if eldest.start_ns < group.eldest.start_ns {
                (group.eldest, group.slot) = (eldest, slot);
            }
        }
    }
}

#[cfg(test)]
mod tests;
