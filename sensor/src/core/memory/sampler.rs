//! One sample: the kernel's counters added up by trees and groups, with names and limits.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    cgroup::{self, Hierarchies},
    clock,
    core::trees::Trees,
    detect::memory::TOLD_OF,
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
const WORTH: Worth = Worth { bytes: TOLD_OF, many: 8, trees: 256, groups: 32 };

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
    walked: bool,
}

/// What is asked once about a root.
#[derive(Clone, Default)]
struct Root {
    /// What it ran then.
    signature: u64,
    comm: String,
    asked_ns: u64,
    /// Its cgroups that may limit memory.
    groups: Vec<Group>,
}

#[derive(Clone, PartialEq)]
struct Group {
    dir: PathBuf,
    /// 0: it could not be read.
    id: u64,
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
            walked: false,
        }
    }

    /// Why /proc has to do, if so.
    pub fn refused(&self) -> Option<&str> {
        self.memory.refused()
    }

    /// What looks: `table`, `iterator` or `proc`.
    pub fn by(&self) -> &'static str {
        self.memory.by()
    }

    /// Whether the last look was a walk over all tasks.
    pub fn walked(&self) -> bool {
        self.walked
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
            return Ok(MemorySample { trees_unknown: true, ..sample });
        }
        let tally = self.tally()?;
        let took_ns = clock::boot_ns().saturating_sub(at_ns);
        let mut limits = Limits::new(host.total_bytes);
        let named = self.named(&tally.groups);
        let mut trees = self.trees_of(&tally.trees, at_ns, &mut limits);
        name_alike(&mut trees, &programs(&named));
        Ok(MemorySample {
            took_ns,
            omitted: tally.omitted as u32,
            processes: tally.processes,
            groups: self.groups_of(named, &tally.trees, &mut limits),
            trees,
            ..sample
        })
    }

    fn tally(&mut self) -> io::Result<Tally> {
        let look = self.memory.look(&self.lineage)?;
        self.walked = look.is_walk();
        Ok(self.trees.recent().tally(|slot, key| look.of(slot, key), &WORTH))
    }

    fn host(&self) -> HostMemory {
        let mut buffer = [0; MEMINFO];
        let read = self.meminfo.as_ref().and_then(|file| file.read_at(&mut buffer, 0).ok());
        parse::host(&buffer[..read.unwrap_or(0)])
    }

    fn trees_of(&mut self, trees: &[Holding], at_ns: u64, limits: &mut Limits) -> Vec<TreeMemory> {
        let mut before = std::mem::take(&mut self.roots);
        let told = trees.iter().map(|tree| {
            let known = before.remove(&tree.root).filter(|known| {
                known.signature == tree.signature
                    && at_ns.saturating_sub(known.asked_ns) < BELIEVED_NS
            });
            let root = known.unwrap_or_else(|| self.ask(tree, at_ns));
            let (room, limit_cgroup_id) = limits.tightest(&root.groups).unzip();
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
        let with_id = |dir: PathBuf| Group { id: cgroup::id(&dir).unwrap_or_default(), dir };
        Root {
            signature: tree.signature,
            comm: self.gatherer.name(tree.root, argv),
            asked_ns: at_ns,
            groups: groups.flatten().into_iter().flatten().map(with_id).collect(),
        }
    }

    /// The groups of a tally with their names.
    fn named<'a>(&mut self, groups: &'a [Gathering]) -> Vec<Named<'a>> {
        let mut before = std::mem::take(&mut self.groups);
        let named = groups.iter().map(|group| {
            let name = before.remove(&(group.by, group.what)).filter(|name| !name.is_empty());
            let what = name.unwrap_or_else(|| name_of(group, self.gatherer.redactor()));
            self.groups.insert((group.by, group.what), what.clone());
            (group, what)
        });
        together(named.collect())
    }

    /// After [`Self::trees_of`]: it knows what the roots are in.
    fn groups_of(
        &self,
        named: Vec<Named<'_>>,
        trees: &[Holding],
        limits: &mut Limits,
    ) -> Vec<GroupMemory> {
        let told = named.into_iter().map(|group| {
            // A dead root is in no cgroup; the living below it that hold much are told of as well.
            let members = trees.iter().filter(|tree| tree.alive && group.has(tree));
            let eldest = members.clone().map(|tree| tree.root).min_by_key(|it| it.start_ns);
            let theirs =
                members.filter_map(|tree| Some(self.roots.get(&tree.root)?.groups.as_slice()));
            let room = limits.shared(theirs);
            let told = group.told();
            GroupMemory {
                limit_bytes: room.map(|room| room.most),
                limit_used_bytes: room.map(|room| room.used),
                // Whoever reads it knows those that are told of.
                eldest: eldest.and_then(key).or(told.eldest),
                ..told
            }
        });
        told.collect()
    }
}

/// What has one name: each container has its own file of the program that all of them run.
struct Named<'a> {
    what: String,
    /// Never empty; the largest first.
    parts: Vec<&'a Gathering>,
}

impl Named<'_> {
    fn has(&self, tree: &Holding) -> bool {
        self.parts.iter().any(|part| part.has(tree))
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    /// Without what limits it.
    fn told(self) -> GroupMemory {
        let eldest = self.parts.iter().map(|part| part.eldest).min_by_key(|it| it.start_ns);
        GroupMemory {
            by: self.parts.first().map_or(GroupBy::Unspecified, |part| part.by).into(),
            processes: self.parts.iter().map(|part| part.processes).sum(),
            bytes: self.bytes(),
            eldest: eldest.and_then(key),
            what: self.what,
            ..GroupMemory::default()
        }
    }
}

/// Adds those of one kind and name together; the largest of each kind first. Of two that have no name nobody knows
/// whether they are the same.
fn together(named: Vec<(&Gathering, String)>) -> Vec<Named<'_>> {
    let mut found: Vec<Named<'_>> = Vec::new();
    let mut places: HashMap<(GroupBy, String), usize> = HashMap::new();
    for (part, what) in named {
        let same = places.get(&(part.by, what.clone())).filter(|_| !what.is_empty());
        if let Some(at) = same {
            found[*at].parts.push(part);
        } else {
            places.insert((part.by, what.clone()), found.len());
            found.push(Named { what, parts: vec![part] });
        }
    }
    found.sort_by_key(|group| {
        (group.parts.first().map(|part| part.by as i32), Reverse(group.bytes()))
    });
    found
}

/// Has trees that run one program out of several files know it by one hash.
fn name_alike(trees: &mut [TreeMemory], programs: &HashMap<u64, u64>) {
    for tree in trees {
        for program in [&mut tree.program, &mut tree.alike_program] {
            *program = programs.get(program).copied().unwrap_or(*program);
        }
    }
}

/// By what a tree's program is known: of those that have one name, the largest's.
fn programs(named: &[Named<'_>]) -> HashMap<u64, u64> {
    let executables = named.iter().filter_map(|group| {
        let (first, more) = group.parts.split_first()?;
        (first.by == GroupBy::Executable).then(|| more.iter().map(|part| (part.what, first.what)))
    });
    executables.flatten().collect()
}

/// Limits of memory, each read once a sample.
struct Limits {
    /// The host's memory, bytes.
    total: Option<u64>,
    rooms: HashMap<PathBuf, Option<Room>>,
}

impl Limits {
    fn new(total: Option<u64>) -> Self {
        Self { total, rooms: HashMap::new() }
    }

    fn of(&mut self, dir: &Path) -> Option<Room> {
        let room = *self.rooms.entry(dir.to_owned()).or_insert_with(|| room::group(dir));
        // What is beyond all memory is met by nobody.
        room.filter(|room| self.total.is_none_or(|total| room.most <= total))
    }

    /// The one that is met first by who is in these cgroups.
    fn tightest(&mut self, groups: &[Group]) -> Option<(Room, u64)> {
        let limited = groups.iter().filter_map(|group| Some((self.of(&group.dir)?, group.id)));
        limited.min_by_key(|(room, _)| room.left())
    }

    /// Of those that all are under, each of whom is in such cgroups, the one that is met first.
    fn shared<'a>(&mut self, mut all: impl Iterator<Item = &'a [Group]>) -> Option<Room> {
        let mut limited: Vec<&Group> = all.next()?.iter().collect();
        limited.retain(|group| self.of(&group.dir).is_some());
        while !limited.is_empty()
            && let Some(groups) = all.next()
        {
            limited.retain(|group| groups.contains(group));
        }
        limited.into_iter().filter_map(|group| self.of(&group.dir)).min_by_key(Room::left)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_program_out_of_many_containers_is_one_group() {
        let part = |by, what, mib: u64, pid: u32| Gathering {
            by,
            what,
            processes: 2,
            bytes: mib << 20,
            eldest: ProcessKey::new(pid, u64::from(pid)),
            slot: pid,
        };
        let run = |what, mib, pid| part(GroupBy::Executable, what, mib, pid);
        let parts =
            [run(7, 300, 30), run(8, 290, 40), run(9, 280, 20), run(5, 80, 50), run(6, 70, 60)];
        let user = part(GroupBy::User, 8, 900, 40);
        let names = ["/usr/bin/java", "/usr/local/bin/node", "/usr/local/bin/node", "", ""];
        let mut named: Vec<_> =
            parts.iter().zip(names).map(|(part, name)| (part, name.to_owned())).collect();
        named.push((&user, "8".to_owned()));
        let named = together(named);
        let of = |by| Holding { program: by, uid: 1, ..Holding::default() };
        assert!(named[0].has(&of(8)) && named[0].has(&of(9)) && !named[0].has(&of(7)));
        let programs = programs(&named);
        let mut trees = [7, 8, 9, 5].map(|program| TreeMemory {
            program,
            alike_program: program,
            ..TreeMemory::default()
        });
        name_alike(&mut trees, &programs);
        assert_eq!(trees.each_ref().map(|tree| tree.program), [7, 8, 8, 5]);
        assert_eq!(trees.map(|tree| tree.alike_program), [7, 8, 8, 5]);
        let told: Vec<_> = named
            .into_iter()
            .map(Named::told)
            .map(|it| (it.what, it.processes, it.bytes >> 20, it.eldest.map_or(0, |key| key.pid)))
            .collect();
        // Of those without a name nobody knows whether they run the same.
        let expected = [
            ("/usr/local/bin/node", 4, 570, 20),
            ("/usr/bin/java", 2, 300, 30),
            ("", 2, 80, 50),
            ("", 2, 70, 60),
            ("8", 2, 900, 40),
        ];
        assert_eq!(
            told,
            expected.map(|(what, count, mib, pid)| (what.to_owned(), count, mib, pid))
        );
    }

    #[test]
    fn what_all_are_under_limits_them_together() {
        const MIB: u64 = 1 << 20;
        let root = tempfile::tempdir().unwrap();
        let lay = |dir: &str, most: &str, used: u64| {
            let dir = root.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("memory.max"), format!("{most}\n")).unwrap();
            fs::write(dir.join("memory.current"), format!("{}\n", used * MIB)).unwrap();
        };
        // A user's slice of 2 GiB with two sessions, of which one has a limit of its own; another user's.
        lay("user", &(2048 * MIB).to_string(), 1500);
        lay("user/one", &(600 * MIB).to_string(), 500);
        lay("user/two", "max", 900);
        lay("other", "max", 100);
        let dirs = |names: &[&str]| -> Vec<Group> {
            let named = names.iter().map(|name| Group { dir: root.path().join(name), id: 7 });
            named.collect()
        };
        let (one, two) = (dirs(&["user/one", "user"]), dirs(&["user/two", "user"]));
        let other = dirs(&["other"]);
        let mut limits = Limits::new(Some(16_384 * MIB));
        let mib = |room: Option<Room>| room.map(|room| (room.most / MIB, room.used / MIB));
        let (tightest, id) = limits.tightest(&one).unzip();
        assert_eq!((mib(tightest), id), (Some((600, 500)), Some(7)));
        let mut shared =
            |all: &[&Vec<Group>]| mib(limits.shared(all.iter().map(|dirs| dirs.as_slice())));
        assert_eq!(
            shared(&[&one, &two]),
            Some((2048, 1500)),
            "the session's is one member's alone"
        );
        assert_eq!(shared(&[&one, &one]), Some((600, 500)));
        assert_eq!(shared(&[&one, &two, &other]), None);
        assert_eq!(shared(&[]), None, "of nobody nothing is known");
        // Where a member is, nobody knows: then nobody knows what all share.
        assert_eq!(shared(&[&one, &Vec::new()]), None);
        // More than the host has is no limit.
        assert_eq!(mib(Limits::new(Some(1024 * MIB)).shared([two.as_slice()].into_iter())), None);
    }
}
