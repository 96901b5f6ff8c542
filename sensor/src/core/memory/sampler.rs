//! One sample: the kernel's counters added up by trees and groups, with names and limits.

use std::{
    collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc,
};

use crate::{
    cgroup::{self, Hierarchies},
    clock,
    core::trees::Trees,
    evidence::{
        Redactor,
        gather::Gatherer,
        proc::Proc,
        room::{self, Room},
    },
    kernel::{Lineage, Memory},
    lineage::{
        ProcessKey,
        trees::memory::{Gathering, Holding, Tally, Worth},
    },
    proto::{self, GroupBy, GroupMemory, HostMemory, MemorySample, TreeMemory},
    vitals::parse,
};

/// Trees and groups that are told of: what is smaller exhausts nothing, and nearly all are.
const WORTH: Worth = Worth { bytes: 64 << 20, many: 8, trees: 256, groups: 32 };

/// A process may be moved to another cgroup; that is found out after this long.
const BELIEVED_NS: u64 = 60_000_000_000;

/// /proc/meminfo has 1.5 KiB.
const MEMINFO: usize = 4096;

pub struct Sampler {
    memory: Arc<Memory>,
    lineage: Arc<Lineage>,
    trees: Arc<Trees>,
    gatherer: Arc<Gatherer>,
    hierarchies: Hierarchies,
    meminfo: Option<File>,
    series_ns: u64,
    /// Of the roots of the last sample.
    roots: HashMap<ProcessKey, Root>,
    /// Names of the groups of the last sample.
    groups: HashMap<(GroupBy, u64), String>,
}

/// What is asked once about a root.
#[derive(Clone, Default)]
struct Root {
    /// What it ran then.
    signature: u64,
    comm: String,
    asked_ns: u64,
    /// Directories of its cgroups that may limit memory, and the id of each; 0: it could not be read.
    groups: Vec<(PathBuf, u64)>,
}

impl Sampler {
    pub fn new(
        memory: Arc<Memory>,
        lineage: Arc<Lineage>,
        trees: Arc<Trees>,
        gatherer: Arc<Gatherer>,
        hierarchies: Hierarchies,
    ) -> Self {
        Self {
            memory,
            lineage,
            trees,
            gatherer,
            hierarchies,
            meminfo: File::open("/proc/meminfo").ok(),
            series_ns: clock::boot_ns(),
            roots: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// Why /proc has to do, if so.
    pub fn refused(&self) -> Option<&str> {
        self.memory.refused()
    }

    /// Who holds memory now. Whoever lists trees is told as well.
    pub fn sample(&mut self) -> io::Result<MemorySample> {
        let sample = self.measure()?;
        self.trees.outlook().see(&sample);
        Ok(sample)
    }

    fn measure(&mut self) -> io::Result<MemorySample> {
        let host = self.host();
        let at_ns = clock::boot_ns();
        let sample = MemorySample {
            at_ns,
            host: Some(host),
            series_ns: self.series_ns,
            ..MemorySample::default()
        };
        if self.memory.refused().is_some() && room::is_exhausted(&host) {
            return Ok(sample);
        }
        let tally = self.tally()?;
        let took_ns = clock::boot_ns().saturating_sub(at_ns);
        Ok(MemorySample {
            took_ns,
            omitted: tally.omitted as u32,
            processes: tally.processes,
            trees: self.trees_of(&tally.trees, at_ns, host.total_bytes),
            groups: self.groups_of(&tally.groups),
            ..sample
        })
    }

    fn tally(&self) -> io::Result<Tally> {
        let look = self.memory.look(&self.lineage)?;
        Ok(self.trees.recent().tally(|slot, key| look.of(slot, key), &WORTH))
    }

    fn host(&self) -> HostMemory {
        let mut buffer = [0; MEMINFO];
        let read = self.meminfo.as_ref().and_then(|file| file.read_at(&mut buffer, 0).ok());
        parse::host(&buffer[..read.unwrap_or(0)])
    }

    fn trees_of(&mut self, trees: &[Holding], at_ns: u64, total: Option<u64>) -> Vec<TreeMemory> {
        let mut before = std::mem::take(&mut self.roots);
        let mut rooms: HashMap<PathBuf, Option<Room>> = HashMap::new();
        let told = trees.iter().map(|tree| {
            let known = before.remove(&tree.root).filter(|known| {
                known.signature == tree.signature
                    && at_ns.saturating_sub(known.asked_ns) < BELIEVED_NS
            });
            let root = known.unwrap_or_else(|| self.ask(tree, at_ns));
            let of_group = |(dir, id): &(PathBuf, u64)| {
                let room = *rooms.entry(dir.clone()).or_insert_with(|| room::group(dir));
                // v1 says that there is no limit with a number beyond all memory.
                let room = room.filter(|room| total.is_none_or(|total| room.most <= total));
                room.map(|room| (room, *id))
            };
            let nearest = root.groups.iter().filter_map(of_group).min_by_key(|(it, _)| it.left());
            let (room, limit_cgroup_id) = nearest.unzip();
            let told = TreeMemory {
                root: key(tree.root),
                parent: key(tree.parent),
                alive: tree.alive,
                comm: root.comm.clone(),
                program: tree.program,
                signature: tree.signature,
                cgroup: tree.cgroup,
                uid: tree.uid,
                session: tree.session,
                processes: tree.live,
                threads: tree.threads,
                bytes: tree.bytes,
                root_bytes: tree.root_bytes,
                forks: tree.forks,
                exits: tree.exits,
                zombies: tree.zombies,
                alike: tree.alike,
                alike_program: tree.alike_program,
                stalled_ns: self.lineage.stalls().of(tree.slot, tree.root).tree_ns,
                limit_bytes: room.map(|room| room.most),
                limit_used_bytes: room.map(|room| room.used),
                limit_cgroup_id: limit_cgroup_id.unwrap_or_default(),
            };
            self.roots.insert(tree.root, root);
            told
        });
        told.collect()
    }

    fn ask(&self, tree: &Holding, at_ns: u64) -> Root {
        let argv = || self.lineage.argv(tree.slot, tree.root);
        let groups = tree.alive.then(|| self.hierarchies.groups_of(tree.root.tgid, "memory").ok());
        let with_id = |dir: PathBuf| {
            let id = cgroup::id(&dir).unwrap_or_default();
            (dir, id)
        };
        Root {
            signature: tree.signature,
            comm: self.gatherer.name(tree.root, argv),
            asked_ns: at_ns,
            groups: groups.flatten().into_iter().flatten().map(with_id).collect(),
        }
    }

    fn groups_of(&mut self, groups: &[Gathering]) -> Vec<GroupMemory> {
        let mut before = std::mem::take(&mut self.groups);
        let told = groups.iter().map(|group| {
            let name = before.remove(&(group.by, group.what)).filter(|name| !name.is_empty());
            let what = name.unwrap_or_else(|| name_of(group, self.gatherer.redactor()));
            self.groups.insert((group.by, group.what), what.clone());
            GroupMemory {
                by: group.by.into(),
                what,
                processes: group.processes,
                bytes: group.bytes,
                eldest: key(group.eldest),
            }
        });
        told.collect()
    }
}

/// What a group has in common, in words. Empty where its eldest is gone by now.
fn name_of(group: &Gathering, redactor: &Redactor) -> String {
    let opened = || Proc::default().open(group.eldest);
    match group.by {
        GroupBy::Executable => {
            let path = opened().and_then(|opened| opened.exe()).map(|exe| exe.path);
            redactor.name(&path.unwrap_or_default())
        }
        GroupBy::Cgroup => opened().map(|it| redactor.line(&it.cgroup())).unwrap_or_default(),
        _ => group.what.to_string(),
    }
}

fn key(key: ProcessKey) -> Option<proto::ProcessKey> {
    (key.start_ns != 0).then_some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns })
}
