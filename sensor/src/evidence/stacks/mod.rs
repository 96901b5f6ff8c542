//! What the threads of a few processes of a tree were doing.
//!
//! - `sample`: what runs, by a clock of perf
//! - `standing`: what waits or was stopped, as it stands
//! - `python`: an interpreter's own frames, from its memory
//! - `maps`, `kallsyms`: whose code an address is in
//! - `compiled`: how runtimes name the functions that they compile
//!
//! Names of functions come from executables, libraries and perf maps, which the culprit may have written:
//! core opens them, and [`super::parse`] reads them, in a process that may do nothing else. What may hang
//! (memory that is locked, a file server) is asked by a thread beside.

pub(crate) mod compiled;
mod kallsyms;
pub(crate) mod maps;
mod python;
mod remote;
pub(crate) mod sample;
pub(crate) mod standing;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use rustix::fs::{self, FileType, Mode, OFlags};
use sensor_proto::{
    internal::v1::{ParseAnswer, PerfMapWanted, SymbolsWanted, parse_job::What},
    json::escape,
};

use self::{
    maps::Map,
    python::Thread,
    remote::Remote,
    sample::{Chain, Samples},
};
use super::{
    Redactor,
    beside::Beside,
    files::reader,
    parse::{self, Parser},
    proc::Proc,
};
use crate::{
    lineage::ProcessKey,
    proto::{self, frame::Kind},
};

/// How long running threads are sampled: 60 samples of each CPU.
const SAMPLED: Duration = Duration::from_millis(300);
/// Processes of a tree among which the busiest are looked for.
const TREE: usize = 16_384;
/// Processes whose state is asked to find out whether any of them runs.
const STATES: usize = 256;
/// Processes that are shown: those that ran most, the root, the youngest.
const BUSY: usize = 4;
const SHOWN: usize = 6;
/// Threads of one process that are looked at as they stand.
const THREADS: usize = 8;
/// Stacks of one process.
const STACKS: usize = 8;
/// To look at one process; it takes 1 ms.
const ONE: Duration = Duration::from_millis(200);
/// For names of functions; a node takes 0.1 s.
const NAMES: Duration = Duration::from_secs(2);
/// Readings of an interpreter that runs, and between two of them.
const READINGS: usize = 10;
const BETWEEN: Duration = Duration::from_millis(8);
/// Of /proc/PID/maps: some thousand mappings.
const MAPS_LIMIT: usize = 1 << 20;
/// Longest name that is shown, bytes.
const NAME: usize = 256;

/// Stacks of the living among `processes`, roots first; and secrets that were replaced.
pub(super) fn of(
    proc: &Proc,
    parser: &Parser,
    processes: &[ProcessKey],
    redactor: &Redactor,
) -> Option<(proto::Stacks, u32)> {
    let mut stacks = proto::Stacks::default();
    let samples = sampled(proc, &processes[..processes.len().min(TREE)], &mut stacks);
    let chosen = chosen(processes, &samples);
    stacks.omitted = (processes.len() - chosen.len()) as u32;
    let mut seen: Vec<Seen> = Vec::new();
    for key in chosen {
        match look(proc, key, &samples) {
            Look::Seen(one) => seen.push(*one),
            // Died meanwhile.
            Look::Gone => stacks.omitted += 1,
            Look::Hangs => {
                stacks.omitted += 1;
                let pid = key.tgid;
                stacks.notes.push(format!("process {pid} did not answer: its memory is locked"));
            }
        }
    }
    let names = Names::ask(parser, &mut seen, &mut stacks.notes);
    let kernel = kallsyms::resolve(
        seen.iter().flat_map(|one| &one.chains).flat_map(|(chain, _)| chain.kernel.iter().copied()),
    );
    let mut frames = Frames { redactor, redactions: 0, kernel, names };
    for one in &seen {
        let process = frames.process(one);
        stacks.samples_omitted -= process.stacks.iter().map(|it| it.sampled).sum::<u32>();
        stacks.processes.push(process.told);
    }
    let known = !stacks.processes.is_empty() || !stacks.notes.is_empty();
    known.then_some((stacks, frames.redactions))
}

fn sampled(proc: &Proc, processes: &[ProcessKey], stacks: &mut proto::Stacks) -> Samples {
    let state = |key: &ProcessKey| proc.open(*key).map(|opened| opened.stat.state);
    let runs = |key| state(key).is_some_and(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'));
    if !processes.iter().take(STATES).any(runs) {
        stacks.notes.push("nothing of it runs: each thread is shown as it stands".to_owned());
        return Samples::default();
    }
    let wanted: HashSet<u32> = processes.iter().map(|key| key.tgid).collect();
    match sample::take(&wanted, SAMPLED) {
        Ok(samples) => {
            stacks.sampled_ms = SAMPLED.as_millis() as u32;
            stacks.samples = samples.taken;
            stacks.samples_omitted = samples.taken;
            if samples.lost > 0 {
                stacks.notes.push(format!("{} samples of the host were lost", samples.lost));
            }
            if samples.unwatched > 0 {
                stacks.notes.push(format!("{} CPUs were not sampled", samples.unwatched));
            }
            samples
        }
        Err(error) => {
            stacks.notes.push(format!("running threads cannot be sampled: {error}"));
            Samples::default()
        }
    }
}

/// Those that ran most, the root, and the youngest of the deepest.
fn chosen(processes: &[ProcessKey], samples: &Samples) -> Vec<ProcessKey> {
    let mut ran: HashMap<u32, u32> = HashMap::new();
    for (chain, count) in &samples.chains {
        *ran.entry(chain.pid).or_default() += count;
    }
    let mut busy: Vec<(u32, u32)> = ran.into_iter().map(|(pid, count)| (count, pid)).collect();
    busy.sort_unstable_by(|a, b| b.cmp(a));
    let key = |pid: u32| processes.iter().copied().find(|key| key.tgid == pid);
    let busy = busy.into_iter().take(BUSY).filter_map(|(_, pid)| key(pid));
    let mut chosen = Vec::new();
    for key in busy.chain(processes.first().copied()).chain(processes.last().copied()) {
        if !chosen.contains(&key) && chosen.len() < SHOWN {
            chosen.push(key);
        }
    }
    chosen
}

/// A process as it was looked at.
struct Seen {
    key: ProcessKey,
    comm: String,
    /// Of the file system, for its owner's perf map.
    uid: u32,
    maps: Vec<Map>,
    /// Sampled.
    chains: Vec<(Chain, u32)>,
    standing: Vec<Standing>,
    /// Files of mappings that hold frames, each with the index of the mapping.
    files: Vec<(usize, OwnedFd)>,
    perf_map: Option<OwnedFd>,
    /// There was one.
    perf_mapped: bool,
    /// Where python's interpreter is mapped, and its minor release.
    python: Option<(usize, u32)>,
    interpreted: Vec<(Thread, u32)>,
    notes: Vec<String>,
}

/// A thread as it stood.
struct Standing {
    tid: u32,
    name: String,
    kernel: Vec<(String, u64)>,
    /// The program counter, then return addresses.
    user: Vec<u64>,
    unsure: bool,
}

enum Look {
    Seen(Box<Seen>),
    Gone,
    Hangs,
}

fn look(proc: &Proc, key: ProcessKey, samples: &Samples) -> Look {
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
        python,
        interpreted: Vec::new(),
        notes: Vec::new(),
    };
    let mut wanted: Vec<usize> = seen.addresses().filter_map(|it| seen.file_of(it)).collect();
    wanted.extend(python.map(|(at, _)| at));
    wanted.sort_unstable();
    wanted.dedup();
    // Several pieces of one file are one.
    let mut known = HashSet::new();
    for at in wanted {
        let map = &seen.maps[at];
        if known.insert((map.inode, map.path.clone()))
            && let Some(file) = open_mapped(proc, key.tgid, map)
        {
            seen.files.push((at, file));
        }
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
    let status = proc.open(seen.key)?.file("status")?;
    let status = String::from_utf8_lossy(&status);
    let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let name = PathBuf::from(format!("perf-{}.map", own.split_ascii_whitespace().next_back()?));
    let open = |root: &OwnedFd, name: PathBuf| reader::open(root, "/tmp".as_ref(), &name);
    let mut user = reader::as_user(proc, &[seen.key], "perf-map", open).ok()?;
    let (file, _) = user.ask(name, ONE)?.ok()?;
    fs::fstat(&file).is_ok_and(|stat| stat.st_uid == seen.uid).then_some(file)
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
    /// Every frame's address; of a caller the last byte of its call.
    fn addresses(&self) -> impl Iterator<Item = u64> {
        let chains = self.chains.iter().map(|(chain, _)| chain.user.as_slice());
        chains.chain(self.standing.iter().map(|it| it.user.as_slice())).flat_map(within)
    }

    /// The mapping of the file that an address is in.
    fn file_of(&self, address: u64) -> Option<usize> {
        let map = maps::find(&self.maps, address).filter(|map| map.inode != 0)?;
        self.maps.iter().position(|it| it.start == map.start)
    }

    /// Code that no file holds.
    fn has_unnamed_code(&self) -> bool {
        self.addresses().any(|address| {
            maps::find(&self.maps, address).is_some_and(|map| map.executable && map.inode == 0)
        })
    }
}

fn within(frames: &[u64]) -> impl Iterator<Item = u64> {
    frames.iter().enumerate().map(|(at, address)| address.saturating_sub(u64::from(at > 0)))
}

/// Name of a function, and a distance from its beginning.
type Named = (Vec<u8>, u64);

/// What was found out about addresses.
#[derive(Default)]
struct Names {
    /// By the mapped file (inode and path) and the offset in it.
    files: HashMap<(u64, Vec<u8>, u64), Named>,
    /// By process and address.
    compiled: HashMap<(u32, u64), Named>,
}

impl Names {
    /// Asks about all files at once, and reads the interpreters whose place is known then.
    fn ask(parser: &Parser, seen: &mut [Seen], notes: &mut Vec<String>) -> Self {
        let mut asked: Vec<(OwnedFd, What)> = Vec::new();
        let mut about: Vec<About> = Vec::new();
        let mut jobs: HashMap<(u64, Vec<u8>), usize> = HashMap::new();
        for (at, one) in seen.iter_mut().enumerate() {
            for (map, file) in std::mem::take(&mut one.files) {
                let map = &one.maps[map];
                let id = (map.inode, map.path.clone());
                let (map_offset, addresses) = (map.offset, one.addresses());
                let offsets = addresses.filter_map(|address| {
                    let map = maps::find(&one.maps, address)?;
                    (map.inode == id.0 && map.path == id.1)
                        .then(|| address - map.start + map.offset)
                });
                let offsets: Vec<u64> = offsets.collect();
                let job = *jobs.entry(id.clone()).or_insert(asked.len());
                if job == asked.len() {
                    let names = python::minor(&id.1).map(|_| "_PyRuntime".to_owned());
                    let names = names.into_iter().collect();
                    let wanted = SymbolsWanted { offsets: Vec::new(), names, base: map_offset };
                    asked.push((file, What::Symbols(wanted)));
                    about.push(About::File(id));
                }
                if let Some((_, What::Symbols(wanted))) = asked.get_mut(job) {
                    wanted.offsets.extend(offsets);
                    wanted.offsets.sort_unstable();
                    wanted.offsets.dedup();
                }
            }
            if let Some(file) = one.perf_map.take() {
                let mut addresses: Vec<u64> = one.addresses().collect();
                addresses.sort_unstable();
                addresses.dedup();
                asked.push((file, What::PerfMap(PerfMapWanted { addresses })));
                about.push(About::PerfMap(at));
            }
        }
        if asked.len() > parse::FILES {
            notes.push(format!("{} libraries were not looked into", asked.len() - parse::FILES));
            asked.truncate(parse::FILES);
        }
        let questions: Vec<What> = asked.iter().map(|(_, what)| what.clone()).collect();
        let mut names = Self::default();
        if asked.is_empty() {
            return names;
        }
        match parser.ask(asked, NAMES) {
            Err(error) => notes.push(format!("functions have no names here: {error}")),
            Ok(answers) => {
                for ((what, about), answer) in questions.into_iter().zip(about).zip(answers) {
                    names.learn(what, about, answer, seen);
                }
            }
        }
        names
    }

    fn learn(&mut self, what: What, about: About, answer: ParseAnswer, seen: &mut [Seen]) {
        let named = |(asked, symbol): (u64, sensor_proto::internal::v1::Symbol)| {
            (!symbol.name.is_empty()).then_some((asked, (symbol.name, symbol.offset)))
        };
        match (what, about) {
            (What::Symbols(wanted), About::File(id)) => {
                let found = wanted.offsets.into_iter().zip(answer.symbols).filter_map(named);
                self.files.extend(found.map(|(offset, name)| ((id.0, id.1.clone(), offset), name)));
                let Some(distance) = answer.places.first().and_then(|place| place.distance) else {
                    return;
                };
                for one in seen {
                    let Some((_, minor)) = one.python else { continue };
                    let same = |map: &&Map| {
                        map.inode == id.0 && map.path == id.1 && map.offset == wanted.base
                    };
                    if let Some(map) = one.maps.iter().find(same) {
                        let runtime = map.start.wrapping_add_signed(distance);
                        one.read_interpreter(minor, runtime);
                    }
                }
            }
            (What::PerfMap(wanted), About::PerfMap(at)) => {
                let pid = seen[at].key.tgid;
                let found = wanted.addresses.into_iter().zip(answer.symbols).filter_map(named);
                self.compiled.extend(found.map(|(address, name)| ((pid, address), name)));
            }
            _ => {}
        }
    }
}

/// Which file was asked about.
enum About {
    File((u64, Vec<u8>)),
    PerfMap(usize),
}

impl Seen {
    fn read_interpreter(&mut self, minor: u32, runtime: u64) {
        if !python::known(minor) {
            let note =
                format!("frames of python 3.{minor} are not known: only native ones are shown");
            return self.notes.push(note);
        }
        let (remote, times) =
            (Remote(self.key.tgid), if self.chains.is_empty() { 1 } else { READINGS });
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
            found
        };
        let Ok(mut beside) = Beside::start("python", || Ok::<_, io::Error>(()), read) else {
            return;
        };
        let patience = ONE + BETWEEN * times as u32;
        match beside.ask((), patience) {
            Some(found) => self.interpreted = found.into_iter().collect(),
            None => self.notes.push("its interpreter could not be read in time".to_owned()),
        }
    }
}

/// Makes frames that can be shown.
struct Frames<'a> {
    redactor: &'a Redactor,
    redactions: u32,
    kernel: HashMap<u64, (String, u64)>,
    names: Names,
}

struct Told {
    told: proto::ProcessStacks,
    stacks: Vec<Counted>,
}

/// How many samples a stack that is shown stands for.
struct Counted {
    sampled: u32,
}

impl Frames<'_> {
    fn process(&mut self, seen: &Seen) -> Told {
        let mut sampled: Vec<proto::Stack> = Vec::new();
        // Samples at other instructions of the same functions are the same stack.
        let mut same: HashMap<Vec<(i32, String, String, u32)>, usize> = HashMap::new();
        let mut lacks = Lacks::default();
        for (chain, count) in &seen.chains {
            let mut frames: Vec<proto::Frame> =
                chain.kernel.iter().map(|address| self.of_kernel(*address)).collect();
            frames.extend(within(&chain.user).map(|address| self.of_user(seen, address)));
            lacks.look(&frames);
            let id = frames
                .iter()
                .map(|it| (it.kind, it.function.clone(), it.file.clone(), it.line))
                .collect();
            let at = *same.entry(id).or_insert(sampled.len());
            if let Some(stack) = sampled.get_mut(at) {
                stack.samples += count;
                if stack.tid != chain.tid {
                    stack.tid = 0;
                }
            } else {
                let (tid, samples) = (chain.tid, *count);
                let stack = proto::Stack { samples, tid, frames, ..Default::default() };
                sampled.push(stack);
            }
        }
        sampled.sort_by(|a, b| b.samples.cmp(&a.samples).then_with(|| a.tid.cmp(&b.tid)));
        let mut stacks = self.interpreted(seen);
        for it in &seen.standing {
            let mut frames: Vec<proto::Frame> = it
                .kernel
                .iter()
                .map(|(function, offset)| {
                    self.frame(Kind::Kernel, function.as_bytes(), b"", *offset)
                })
                .collect();
            frames.extend(within(&it.user).map(|address| self.of_user(seen, address)));
            lacks.look(&frames);
            stacks.push(proto::Stack {
                samples: 0,
                tid: it.tid,
                thread: self.redactor.line(&it.name),
                frames,
                truncated: it.unsure,
            });
        }
        let mut notes = seen.notes.clone();
        notes.extend(lacks.notes(seen.perf_mapped).map(str::to_owned));
        let all = sampled.len() + stacks.len();
        // Of each sort some: what an interpreter ran says more than the same in machine code.
        stacks.truncate(STACKS / 2);
        sampled.truncate(STACKS - stacks.len());
        let counted = sampled.iter().map(|stack| Counted { sampled: stack.samples }).collect();
        sampled.extend(stacks);
        let process = proto::ProcessKey { pid: seen.key.tgid, start_ns: seen.key.start_ns };
        let told = proto::ProcessStacks {
            process: Some(process),
            comm: self.redactor.line(&seen.comm),
            omitted: (all - sampled.len()) as u32,
            stacks: sampled,
            notes,
        };
        Told { told, stacks: counted }
    }

    fn interpreted(&mut self, seen: &Seen) -> Vec<proto::Stack> {
        let mut threads: Vec<&(Thread, u32)> = seen.interpreted.iter().collect();
        threads.sort_by_key(|(thread, times)| (std::cmp::Reverse(*times), thread.tid));
        let stack = |(thread, _): &(Thread, u32)| proto::Stack {
            tid: thread.tid,
            frames: thread
                .frames
                .iter()
                .map(|it| proto::Frame {
                    line: it.line,
                    ..self.frame(Kind::Interpreted, it.function.as_bytes(), it.file.as_bytes(), 0)
                })
                .collect(),
            ..Default::default()
        };
        threads.into_iter().map(stack).collect()
    }

    fn of_kernel(&mut self, address: u64) -> proto::Frame {
        match self.kernel.get(&address).cloned() {
            Some((name, offset)) => self.frame(Kind::Kernel, name.as_bytes(), b"", offset),
            None => self.frame(Kind::Kernel, b"", b"", address),
        }
    }

    fn of_user(&mut self, seen: &Seen, address: u64) -> proto::Frame {
        let Some(map) = maps::find(&seen.maps, address) else {
            return self.frame(Kind::Native, b"", b"", address);
        };
        if map.inode == 0 {
            // The kernel's own page: [vdso].
            let kind = if map.path.is_empty() { Kind::Jit } else { Kind::Native };
            let known = self.names.compiled.get(&(seen.key.tgid, address)).cloned();
            let Some((name, offset)) = known else {
                return self.frame(kind, b"", &map.path, address);
            };
            let told = compiled::told(&name);
            let file = if told.file.is_empty() { &map.path } else { told.file };
            return proto::Frame {
                line: told.line,
                ..self.frame(kind, told.function, file, offset)
            };
        }
        let at = address - map.start + map.offset;
        let known = self.names.files.get(&(map.inode, map.path.clone(), at)).cloned();
        let (name, offset) = known.unwrap_or((Vec::new(), at));
        self.frame(Kind::Native, &name, &map.path, offset)
    }

    fn frame(&mut self, kind: Kind, function: &[u8], file: &[u8], offset: u64) -> proto::Frame {
        let mut clean = |text: &[u8]| {
            let (text, more) = self.redactor.text(&text[..text.len().min(NAME)]);
            self.redactions += more;
            escape(&text)
        };
        let (function, file) = (clean(function), clean(file));
        proto::Frame { kind: kind.into(), function, file, line: 0, offset }
    }
}

/// Which functions have no names, and so what would give them some.
#[derive(Clone, Copy, Default)]
struct Lacks {
    /// Those that a runtime compiled.
    compiled: bool,
    /// Those that node interprets.
    interpreted: bool,
}

impl Lacks {
    /// What stands on the stack for a function of a script that V8 interprets, whichever it is.
    const OF_V8: &str = "Builtins_InterpreterEntryTrampoline";

    fn look(&mut self, frames: &[proto::Frame]) {
        self.compiled |= frames.iter().any(|it| it.kind() == Kind::Jit && it.function.is_empty());
        self.interpreted |= frames.iter().any(|it| it.function == Self::OF_V8);
    }

    fn notes(self, mapped: bool) -> impl Iterator<Item = &'static str> {
        let compiled = (self.compiled && !mapped).then_some(
            "functions that a runtime compiled have no names here: there is no perf map (node \
             --perf-basic-prof and python -X perf write one)",
        );
        let interpreted = self.interpreted.then_some(
            "functions of JavaScript that node interprets have no names here: only the interpreter's own frames are \
             seen (NODE_OPTIONS='--perf-basic-prof --interpreted-frames-native-stack' names them)",
        );
        compiled.into_iter().chain(interpreted)
    }
}

#[cfg(test)]
mod tests;
