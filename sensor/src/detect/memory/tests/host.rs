//! A host on a clock that is set by hand: what its processes hold is said, and samples are made of it as a
//! sensor would take them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    detect::memory::{Limits, Told, Watch},
    proto::{self, GroupBy, GroupMemory, HostMemory, MemorySample, TreeMemory},
};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 3600;
pub const DAY: u64 = 24 * HOUR;

/// Time on the boot clock at which the sensor begins, s.
const BOOTED_S: u64 = 100_000;

/// A process at one moment.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    /// As it was at fork.
    pub parent: u32,
    /// Seconds since the sensor began; before it: negative.
    pub born: i64,
    pub own: u64,
    /// What it runs, as a number.
    pub program: u64,
    pub alive: bool,
    pub zombies: u32,
    /// Commands that it has run so far and that have ended.
    pub done: u32,
}

impl Process {
    /// One that was there before, child of pid 1.
    pub fn new(pid: u32, own: u64) -> Self {
        Self {
            pid,
            parent: 1,
            born: -(7 * DAY as i64) / 7 * 2,
            own,
            program: u64::from(pid),
            alive: true,
            zombies: 0,
            done: 0,
        }
    }

    #[must_use]
    pub fn below(self, parent: u32) -> Self {
        Self { parent, ..self }
    }

    #[must_use]
    pub fn runs(self, program: u64) -> Self {
        Self { program, ..self }
    }

    #[must_use]
    pub fn born(self, born: u64) -> Self {
        Self { born: born as i64, ..self }
    }

    #[must_use]
    pub fn dead(self) -> Self {
        Self { alive: false, own: 0, ..self }
    }

    fn key(&self) -> proto::ProcessKey {
        let born = (BOOTED_S as i64 + self.born.max(-(BOOTED_S as i64) + 1)) as u64;
        proto::ProcessKey { pid: self.pid, start_ns: born * 1_000_000_000 }
    }
}

/// A host with so much memory.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub total: u64,
    /// What programs could have if none of ours were there.
    pub free: u64,
    /// The limit of the cgroup that all of ours run in.
    pub limit: Option<u64>,
    /// Seconds between two samples.
    pub every: u64,
}

impl Host {
    pub fn of_gib(gib: u64, every: u64) -> Self {
        Self { total: gib * GIB, free: gib * GIB / 4 * 3, limit: None, every }
    }

    /// The sample at a time, s.
    pub fn sample(&self, at: u64, processes: &[Process], forks: &mut Forks) -> MemorySample {
        let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|one| (one.pid, one)).collect();
        for process in processes {
            forks.0.entry(process.pid).or_insert((process.parent, process.born >= 0));
        }
        let used = processes.iter().filter(|one| one.alive).map(|one| one.own).sum::<u64>();
        let mut trees: BTreeMap<u32, TreeMemory> = BTreeMap::new();
        for process in processes {
            let mut pid = process.pid;
            while let Some(above) = by_pid.get(&pid) {
                let tree = trees.entry(pid).or_insert_with(|| TreeMemory {
                    root: Some(above.key()),
                    parent: by_pid.get(&above.parent).map(|parent| parent.key()),
                    alive: above.alive,
                    comm: format!("p{pid}"),
                    program: above.program,
                    signature: above.program,
                    cgroup: 5,
                    uid: 1000,
                    session: pid,
                    root_bytes: above.own,
                    zombies: above.zombies,
                    limit_bytes: self.limit,
                    limit_used_bytes: self.limit.map(|_| used + 10 * MIB),
                    ..TreeMemory::default()
                });
                tree.bytes += process.own;
                tree.processes += u32::from(process.alive);
                tree.forks += process.done;
                tree.exits += process.done;
                pid = above.parent;
            }
        }
        for pid in forks.0.keys().copied().collect::<Vec<u32>>() {
            let mut born = forks.0[&pid].1;
            let mut above = forks.0[&pid].0;
            while let Some((next, _)) = forks.0.get(&above).copied() {
                if let Some(tree) = trees.get_mut(&above).filter(|_| born) {
                    tree.forks += 1;
                }
                above = next;
                born = forks.0[&pid].1;
            }
        }
        for process in processes {
            let mut alike: BTreeMap<u64, u32> = BTreeMap::new();
            let children = processes.iter().filter(|one| one.parent == process.pid && one.alive);
            children.for_each(|child| *alike.entry(child.program).or_default() += 1);
            if let (Some((program, count)), Some(tree)) =
                (alike.into_iter().max_by_key(|one| one.1), trees.get_mut(&process.pid))
            {
                (tree.alike, tree.alike_program) = (count, program);
            }
        }
        let mut told: BTreeSet<u32> = BTreeSet::new();
        for (pid, tree) in &trees {
            if tree.bytes >= 64 * MIB || tree.processes > 8 || tree.zombies > 8 {
                let mut pid = *pid;
                while told.insert(pid) && by_pid.contains_key(&by_pid[&pid].parent) {
                    pid = by_pid[&pid].parent;
                }
            }
        }
        trees.retain(|pid, _| told.contains(pid));
        MemorySample {
            at_ns: (BOOTED_S + at) * 1_000_000_000,
            series_ns: BOOTED_S * 1_000_000_000,
            took_ns: 1000,
            host: Some(HostMemory {
                total_bytes: Some(self.total),
                available_bytes: Some(self.free.saturating_sub(used)),
                anon_bytes: Some(self.total / 8 + used),
                shmem_bytes: Some(MIB),
                ..HostMemory::default()
            }),
            trees: trees.into_values().collect(),
            groups: groups(processes),
            processes: processes.len() as u32,
            ..MemorySample::default()
        }
    }

    /// What is found within so many seconds, each with the second.
    pub fn watch(&self, seconds: u64, at: impl Fn(u64) -> Vec<Process>) -> Vec<(u64, Told)> {
        let mut watch = Watch::new(Limits::default());
        let mut forks = Forks::default();
        let mut found = Vec::new();
        for now in (0..seconds).step_by(self.every as usize) {
            let sample = self.sample(now, &at(now), &mut forks);
            found.extend(watch.see(&sample).into_iter().map(|told| (now, told)));
        }
        found
    }
}

/// Who was ever there: its parent, and whether the sensor saw its birth.
#[derive(Default)]
pub struct Forks(BTreeMap<u32, (u32, bool)>);

fn groups(processes: &[Process]) -> Vec<GroupMemory> {
    let mut groups: BTreeMap<(i32, String), GroupMemory> = BTreeMap::new();
    for process in processes.iter().filter(|one| one.alive) {
        for (by, what) in [
            (GroupBy::Executable, format!("/usr/bin/p{}", process.program)),
            (GroupBy::User, "1000".to_owned()),
        ] {
            let group = groups.entry((by.into(), what.clone())).or_insert_with(|| GroupMemory {
                by: by.into(),
                what,
                eldest: Some(process.key()),
                ..GroupMemory::default()
            });
            group.processes += 1;
            group.bytes += process.own;
            if group.eldest.is_some_and(|eldest| eldest.start_ns > process.key().start_ns) {
                group.eldest = Some(process.key());
            }
        }
    }
    groups.into_values().filter(|group| group.bytes >= 64 * MIB).collect()
}

/// Numbers that look random and are always the same: 0 to `most` for a time and a purpose.
pub fn noise(at: u64, purpose: u64, most: u64) -> u64 {
    // SplitMix64 (Steele, Lea and Flood 2014).
    let mut word = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ word >> 31) % (most + 1)
}
