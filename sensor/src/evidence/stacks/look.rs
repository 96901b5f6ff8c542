//! One process, as it is looked at while it may be gone the next moment: its mappings, its threads as they
//! stand, the files that hold its code, an interpreter's frames.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use rustix::fs::{self, FileType, Mode, OFlags};
use sensor_proto::json::escape;

use super::{
    maps::{self, Map},
    python::{self, Thread},
    remote::Remote,
    sample::{Chain, Samples},
    standing,
};
use crate::{
    evidence::{
        beside::Beside,
        files::reader,
        parse,
        proc::{Opened, Proc},
    },
    lineage::ProcessKey,
};

/// Threads of one process that are looked at as they stand.
const THREADS: usize = 8;
/// Threads that are looked for by the number that they have in a pid namespace of their own.
const NAMESPACED: usize = 256;
/// To look at one process; it takes 1 ms.
const ONE: Duration = Duration::from_millis(200);
/// Readings of an interpreter that runs, and between two of them.
const READINGS: usize = 10;
const BETWEEN: Duration = Duration::from_millis(8);
/// Of /proc/PID/maps: some thousand mappings.
const MAPS_LIMIT: usize = 1 << 20;

/// A process as it was looked at.
pub(super) struct Seen {
    pub key: ProcessKey,
    pub comm: String,
    /// Of the file system, for its owner's perf map.
    pub uid: u32,
    pub maps: Vec<Map>,
    /// Sampled.
    pub chains: Vec<(Chain, u32)>,
    pub standing: Vec<Standing>,
    /// Files of mappings that hold frames, each with the index of the mapping.
    pub files: Vec<(usize, OwnedFd)>,
    pub perf_map: Option<OwnedFd>,
    /// There was one.
    pub perf_mapped: bool,
    /// How an interpreter in a pid namespace of its own calls its threads: our number by its own.
    tids: Option<HashMap<u32, u32>>,
    /// Where python's interpreter is mapped, and its minor release.
    pub python: Option<(usize, u32)>,
    pub interpreted: Vec<(Thread, u32)>,
    pub notes: Vec<String>,
}

/// A thread as it stood.
pub(super) struct Standing {
    pub tid: u32,
    pub name: String,
    pub kernel: Vec<(String, u64)>,
    /// The program counter, then return addresses.
    pub user: Vec<u64>,
    pub unsure: bool,
}

pub(super) enum Look {
    Seen(Box<Seen>),
    Gone,
    Hangs,
}

pub(super) fn look(proc: &Proc, key: ProcessKey, samples: &Samples) -> Look {
    let chains: Vec<(Chain, u32)> = samples
        .chains
        .iter()
        .filter(|(chain, _)| chain.pid == key.tgid)
        .map(|(chain, count)| (chain.clone(), *count))
        .collect();
    let there = proc.clone();
    let inspect = move |chains| inspect(&there, key, chains);
    let Ok(mut beside) = Beside::start("stacks", || Ok::<_, io::Error>(()), inspect) else {
        return Look::Hangs;
    };
    match beside.ask(chains, ONE) {
        None => Look::Hangs,
        Some(None) => Look::Gone,
        Some(Some(mut seen)) => {
            if seen.has_unnamed_code() {
                seen.perf_map = perf_map(proc, &seen);
                seen.perf_mapped = seen.perf_map.is_some();
            }
            Look::Seen(Box::new(seen))
        }
    }
}

fn inspect(proc: &Proc, key: ProcessKey, chains: Vec<(Chain, u32)>) -> Option<Seen> {
    let opened = proc.open(key)?;
    let maps = maps::parse(&opened.large_file("maps", MAPS_LIMIT)?);
    let remote = Remote(key.tgid);
    let sampled: HashSet<u32> = chains.iter().map(|(chain, _)| chain.tid).collect();
    let mut standing = Vec::new();
    // The first is the process' own; threads that were seen running need not stand.
    for tid in opened.threads(THREADS).into_iter().filter(|tid| !sampled.contains(tid)) {
        let file = |name: &str| opened.file(&format!("task/{tid}/{name}"));
        let kernel = file("stack").map(|text| standing::kernel(&text)).unwrap_or_default();
        let registers = file("syscall").and_then(|text| standing::registers(&text));
        let (user, unsure) = registers.map(|it| walk(remote, &maps, it)).unwrap_or_default();
        let name = file("comm").unwrap_or_default();
        let name = escape(name.strip_suffix(b"\n").unwrap_or(&name));
        if !kernel.is_empty() || !user.is_empty() {
            standing.push(Standing { tid, name, kernel, user, unsure });
        }
    }
    let python = maps
        .iter()
        .enumerate()
        .find_map(|(at, map)| Some((at, python::minor(&map.path).filter(|_| map.inode != 0)?)));
    let mut seen = Seen {
        key,
        comm: escape(&opened.stat.comm),
        uid: opened.status().uid,
        maps,
        chains,
        standing,
        files: Vec::new(),
        perf_map: None,
        perf_mapped: false,
        tids: python.and_then(|_| own_tids(&opened)),
        python,
        interpreted: Vec::new(),
        notes: Vec::new(),
    };
    let mut wanted: Vec<usize> = seen.addresses().filter_map(|it| seen.file_of(it)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    // Without the interpreter's file none of its frames is found.
    wanted.splice(0..0, python.map(|(at, _)| at));
    // Several pieces of one file are one.
    let mut known = HashSet::new();
    for at in wanted {
        let map = &seen.maps[at];
        if !known.insert((map.inode, map.path.clone())) {
            continue;
        }
        // A program may have its code in as many files as it likes; descriptors are the daemon's.
        if seen.files.len() == parse::FILES {
            seen.notes.push("it has more libraries than are looked into".to_owned());
            break;
        }
        seen.files.extend(open_mapped(proc, key.tgid, map).map(|file| (at, file)));
    }
    // Still the same process: what was read is of this one.
    proc.open(key).map(|_| seen)
}

/// The mapped file itself, whatever has its name by now.
fn open_mapped(proc: &Proc, pid: u32, map: &Map) -> Option<OwnedFd> {
    let path: PathBuf = proc
        .root()
        .join(pid.to_string())
        .join("map_files")
        .join(format!("{:x}-{:x}", map.start, map.end));
    // Opening a device does something to it: look before.
    let place = fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let regular = |file: &OwnedFd| {
        fs::fstat(file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    };
    if !regular(&place) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    fs::open(&path, flags, Mode::empty()).ok().filter(regular)
}

/// The process' own perf map, opened with its user's rights in its own root directory: a regular file
/// of that user.
fn perf_map(proc: &Proc, seen: &Seen) -> Option<OwnedFd> {
    let own = *namespaced(&proc.open(seen.key)?, "status")?.last()?;
    let name = PathBuf::from(format!("perf-{own}.map"));
    let open = |root: &OwnedFd, name: PathBuf| reader::open(root, "/tmp".as_ref(), &name);
    let mut user = reader::as_user(proc, &[seen.key], "perf-map", open).ok()?;
    let (file, _) = user.ask(name, ONE)?.ok()?;
    fs::fstat(&file).is_ok_and(|stat| stat.st_uid == seen.uid).then_some(file)
}

/// The numbers of a process or thread, from our pid namespace to its own; `status` is its file.
fn namespaced(opened: &Opened, status: &str) -> Option<Vec<u32>> {
    let status = opened.file(status)?;
    let status = String::from_utf8_lossy(&status);
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

/// Our number of each thread by its own; `None`: it calls them as we do.
fn own_tids(opened: &Opened) -> Option<HashMap<u32, u32>> {
    namespaced(opened, "status").filter(|numbers| numbers.len() > 1)?;
    let numbers = |tid: u32| namespaced(opened, &format!("task/{tid}/status"));
    let tids = opened.threads(NAMESPACED).into_iter();
    Some(tids.filter_map(|tid| Some((*numbers(tid)?.last()?, tid))).collect())
}

fn walk(remote: Remote, maps: &[Map], (sp, pc): (u64, u64)) -> (Vec<u64>, bool) {
    let Some(stack) = maps::find(maps, sp) else { return (vec![pc], true) };
    let len = usize::try_from(stack.end - sp).unwrap_or(standing::BYTES).min(standing::BYTES);
    let words = remote.words(sp, len);
    let code = |address| maps::find(maps, address).is_some_and(|map| map.executable);
    let called = |address: u64| {
        standing::ends_with_call(&remote.bytes(address.saturating_sub(7), 7.min(address as usize)))
    };
    let (mut frames, unsure) = standing::walk(&words, sp, code, called);
    frames.insert(0, pc);
    (frames, unsure)
}

impl Seen {
    /// Every frame's address, [`within`] its call.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        let chains = self.chains.iter().map(|(chain, _)| chain.user.as_slice());
        chains.chain(self.standing.iter().map(|it| it.user.as_slice())).flat_map(within)
    }

    /// The mapping of the file that an address is in.
    fn file_of(&self, address: u64) -> Option<usize> {
        maps::position(&self.maps, address).filter(|at| self.maps[*at].inode != 0)
    }

    /// Code that no file holds.
    fn has_unnamed_code(&self) -> bool {
        self.addresses().any(|address| {
            maps::find(&self.maps, address).is_some_and(|map| map.executable && map.inode == 0)
        })
    }
}

/// Frames' addresses; of a caller the last byte of its call.
pub(super) fn within(frames: &[u64]) -> impl Iterator<Item = u64> {
    frames.iter().enumerate().map(|(at, address)| address.saturating_sub(u64::from(at > 0)))
}

impl Seen {
    /// Frames of the interpreter whose `_PyRuntime` is there.
    pub fn read_interpreter(&mut self, proc: &Proc, minor: u32, runtime: u64) {
        if !python::known(minor) {
            let note =
                format!("frames of python 3.{minor} are not known: only native ones are shown");
            return self.notes.push(note);
        }
        let (remote, times) =
            (Remote(self.key.tgid), if self.chains.is_empty() { 1 } else { READINGS });
        let (proc, key) = (proc.clone(), self.key);
        let read = move |()| {
            let mut found: HashMap<Thread, u32> = HashMap::new();
            for time in 0..times {
                if time > 0 {
                    std::thread::sleep(BETWEEN);
                }
                for thread in python::threads(remote, minor, runtime) {
                    *found.entry(thread).or_default() += 1;
                }
            }
            // Still the same process.
            proc.open(key).map(|_| found)
        };
        let Ok(mut beside) = Beside::start("python", || Ok::<_, io::Error>(()), read) else {
            return;
        };
        let patience = ONE + BETWEEN * times as u32;
        match beside.ask((), patience) {
            Some(found) => {
                let ours = |tid| match &self.tids {
                    Some(tids) => tids.get(&tid).copied().unwrap_or(0),
                    None => tid,
                };
                let found = found.into_iter().flatten();
                self.interpreted = found
                    .map(|(thread, times)| (Thread { tid: ours(thread.tid), ..thread }, times))
                    .collect();
            }
            None => self.notes.push("its interpreter could not be read in time".to_owned()),
        }
    }
}
