//! Loads the programs, attaches them, and says what each part of it needed from this kernel.

use std::{
    error::Error as _,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap as BpfHashMap, Map, MapData, PerCpuArray, Queue, RingBuf, Stack},
    programs::{BtfTracePoint, Iter, Program, ProgramError, ProgramFd, RawTracePoint},
};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use sensor_common::{
    lineage::{ExecRecord, Known, Slot},
    loss::{Losses, Reason},
    recursion::Limits,
    respawn, storm,
};

use super::{
    brake::{Brake, Gear, Gears, Loaded},
    btf::{Btf, BtfError},
    lineage::Lineage,
    memory::{self, Memory},
    oom::{self, Kills},
    stalls::Stalls,
    table::{Mapping, Table, fdinfo},
    understudy,
    visit::{Visitor, bpf, skipped},
    witness::Witness,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sensor-ebpf"));

/// What the operator may choose about the kernel side.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Nodes in the lineage table, living and retained dead processes.
    pub max_processes: u32,
    /// Size of the ring, bytes: a power of two.
    pub ring_bytes: u32,
    pub limits: Limits,
    pub storms: storm::Limits,
    pub respawns: respawn::Limits,
    /// Every fork, exec and exit comes through the ring: for a recorder, never for a daemon.
    pub lifecycle: bool,
    /// No better gear of the brake than this one is tried.
    pub brake: Gear,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Btf(#[from] BtfError),
    #[error("cannot read the kernel's type information: {0}")]
    KernelBtf(#[from] aya::BtfError),
    #[error("cannot create the kernel's tables ({0}); this needs root, or CAP_BPF and CAP_PERFMON")]
    Maps(#[source] Box<aya::EbpfError>),
    #[error("the eBPF object has no {0}; it does not belong to this build")]
    Absent(&'static str),
    #[error("table {name}: {source}")]
    Map { name: &'static str, source: Box<aya::maps::MapError> },
    #[error("the kernel refused to load {name}: {reason}")]
    Refused { name: &'static str, reason: String },
    #[error("cannot map the lineage table: {0}")]
    Table(#[source] io::Error),
    #[error("baseline: {0}")]
    Baseline(#[source] io::Error),
    #[error(
        "the self-test failed: {0}; this kernel lays its structures out in a way that the sensor misreads"
    )]
    SelfTest(String),
    #[error("the brake could not be tried: {0}")]
    BrakeTest(#[source] io::Error),
}

/// Tracepoints in the order in which they are attached: exit first, or processes that end between
/// the two would stay in the table.
const TRACEPOINTS: [(&str, &str); 3] = [
    ("sensor_exit", "sched_process_exit"),
    ("sensor_exec", "sched_process_exec"),
    ("sensor_fork", "sched_process_fork"),
];

/// Who looks for memory, and for how long: the end before the beginning, which would otherwise wait for it.
const RECLAIM: [(&str, &str); 4] = [
    ("sensor_reclaim_end", "mm_vmscan_direct_reclaim_end"),
    ("sensor_reclaim_begin", "mm_vmscan_direct_reclaim_begin"),
    ("sensor_group_reclaim_end", "mm_vmscan_memcg_reclaim_end"),
    ("sensor_group_reclaim_begin", "mm_vmscan_memcg_reclaim_begin"),
];

const BASELINE: &str = "sensor_baseline";

/// Look at who holds memory: of all tasks, and of those in the table.
const MEMORY: &str = "sensor_memory";
const IN_TABLE: &str = "sensor_held";

/// The loss that the kernel causes itself: it skips a program that would run inside another one.
pub const SKIPPED: &str = "recursion_guard";

/// The loaded kernel side. Dropping it detaches the programs, unless somebody else holds their links.
pub struct Programs {
    ebpf: Ebpf,
    links: Vec<OwnedFd>,
    losses: PerCpuArray<MapData, Losses>,
    /// What was skipped and yet not lost.
    stood_in: PerCpuArray<MapData, u64>,
    map_bytes: u64,
    /// Unknown exits until everything was attached and everybody known.
    early_exits: u64,
    /// Why there is no baseline, if so.
    pub no_baseline: Option<String>,
    /// Whether somebody stands in for a skipped program, or why nobody does where it is needed.
    pub understudies: Result<bool, String>,
    /// What of kills can be seen here.
    pub kills: Kills,
    /// Whether the time in reclaim is counted, or why some of it is not.
    pub stalls: Result<(), String>,
    visitor: Option<Arc<Visitor>>,
    memory: Arc<Memory>,
    witness: Arc<Witness>,
    gears: Gears,
    /// Keep the programs attached that see kills, and those of [`RECLAIM`]. Nobody needs them when we are gone.
    _others: Vec<OwnedFd>,
}

/// Loads and attaches everything; the baseline is still to be run.
pub fn load(options: &LoadOptions) -> Result<(Programs, Lineage, RingBuf<MapData>), LoadError> {
    let types = Btf::of_kernel()?;
    let offsets = types.offsets()?;
    let layout = types.memory();
    let (places, numbers) = oom::layout(&types);
    let has_loop = types.enumerator("BPF_FUNC_loop").is_some();
    drop(types);
    let memory = layout.unwrap_or_default();
    let btf = aya::Btf::from_sys_fs()?;
    let tables = ["NODES", "MARKS", "INDEX", "FREE", "EXECS", "KNOWN", "STALLS", "HELD"];
    let lifecycle = u32::from(options.lifecycle);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("OOM", &places, true)
        .override_global("LIMITS", &options.limits, true)
        .override_global("STORMS", &options.storms, true)
        .override_global("RESPAWNS", &options.respawns, true)
        .override_global("LIFECYCLE", &lifecycle, true)
        .override_global("CALLS", &calls::NUMBERS, true)
        .override_global("ARGUMENT", &calls::ARGUMENT, true)
        .override_global("MEMORY", &memory, true)
        .map_max_entries("EVENTS", options.ring_bytes);
    for table in tables {
        loader.map_max_entries(table, options.max_processes);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| LoadError::Maps(Box::new(error)))?;

    let map_bytes = map_bytes(&ebpf);
    fill_free_slots(&mut ebpf, options.max_processes)?;
    let lineage = lineage(&mut ebpf)?;
    let ring = typed(&mut ebpf, "EVENTS", RingBuf::try_from)?;
    let losses = typed(&mut ebpf, "LOSSES", PerCpuArray::try_from)?;
    let stood_in = typed(&mut ebpf, "STOOD_IN", PerCpuArray::try_from)?;
    let witness = Arc::new(Witness::new(typed(&mut ebpf, "WATCHED", BpfHashMap::try_from)?));

    let mut links = Vec::new();
    for (name, tracepoint) in TRACEPOINTS {
        let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
        let refused = |error| LoadError::Refused { name, reason: reason(&error) };
        program.load(tracepoint, &btf).map_err(refused)?;
        let loaded = program.fd().map_err(refused)?;
        links.push(
            attach(loaded.as_fd())
                .map_err(|error| LoadError::Refused { name, reason: error.to_string() })?,
        );
    }
    let understudies = understudy::attach(&mut ebpf).map(|understudies| {
        links.extend(understudies);
        links.len() > TRACEPOINTS.len()
    });
    let (mut others, kills) = oom::load_kills(&mut ebpf, &btf, numbers);
    let (reclaim, stalls) = attach_reclaim(&mut ebpf, &btf);
    others.extend(reclaim);
    let iterator: &mut Iter = program(&mut ebpf, BASELINE)?;
    let (visitor, no_baseline) = match load_iterator(iterator, &btf) {
        Ok(visitor) => (Some(Arc::new(visitor)), None),
        Err(error) => (None, Some(reason(&error))),
    };
    let memory = Arc::new(load_memory(&mut ebpf, &btf, layout.err(), has_loop)?);
    let gears = load_gears(&mut ebpf, &btf, options.brake)?;
    let programs = Programs {
        ebpf,
        links,
        losses,
        stood_in,
        map_bytes,
        early_exits: 0,
        no_baseline,
        understudies,
        kills,
        stalls,
        visitor,
        memory,
        witness,
        gears,
        _others: others,
    };
    Ok((programs, lineage, ring))
}

/// Attaches what counts the time in reclaim, as far as it goes: a kernel without memory cgroups has
/// half of it.
fn attach_reclaim(ebpf: &mut Ebpf, btf: &aya::Btf) -> (Vec<OwnedFd>, Result<(), String>) {
    let (mut links, mut refused) = (Vec::new(), Vec::new());
    for (name, tracepoint) in RECLAIM {
        match attach_tracepoint(ebpf, btf, name, tracepoint) {
            Ok(link) => links.push(link),
            Err(why) => refused.push(format!("{tracepoint}: {why}")),
        }
    }
    let stalls = if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) };
    (links, stalls)
}

/// Loads and attaches one that the rest does without; an error says why it cannot be.
pub(super) fn attach_tracepoint(
    ebpf: &mut Ebpf,
    btf: &aya::Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<OwnedFd, String> {
    let program: &mut BtfTracePoint = program(ebpf, name).map_err(|error| error.to_string())?;
    program.load(tracepoint, btf).map_err(|error| reason(&error))?;
    let loaded = program.fd().map_err(|error| reason(&error))?;
    attach(loaded.as_fd()).map_err(|error| error.to_string())
}

fn load_iterator(iterator: &mut Iter, btf: &aya::Btf) -> Result<Visitor, ProgramError> {
    iterator.load("task", btf)?;
    owned(iterator.fd()?).map(Visitor::new)
}

fn owned(program: &ProgramFd) -> Result<OwnedFd, ProgramError> {
    program.as_fd().try_clone_to_owned().map_err(ProgramError::IOError)
}

/// What looks at who holds memory. `unknown`: a field that this kernel lacks; `has_loop`: it has `bpf_loop`.
fn load_memory(
    ebpf: &mut Ebpf,
    btf: &aya::Btf,
    unknown: Option<&'static str>,
    has_loop: bool,
) -> Result<Memory, LoadError> {
    let held = mapped(ebpf, "HELD")?;
    let visitor = match unknown {
        Some(field) => Err(format!("this kernel has no {field}")),
        None => load_iterator(program(ebpf, MEMORY)?, btf).map_err(|error| reason(&error)),
    };
    let table = if has_loop {
        let table: &mut RawTracePoint = program(ebpf, IN_TABLE)?;
        table.load().and_then(|()| owned(table.fd()?)).map_err(|error| reason(&error))
    } else {
        Err("this kernel has no bpf_loop, which came with Linux 5.17".into())
    };
    Ok(Memory::new(visitor.map(|visitor| memory::Kernel { visitor, table, held })))
}

/// Has the kernel verify what can pause a fork, from `best` on.
fn load_gears(ebpf: &mut Ebpf, btf: &aya::Btf, best: Gear) -> Result<Gears, LoadError> {
    let mut gears = Gears::default();
    for gear in Gear::PAUSES.into_iter().filter(|gear| *gear >= best) {
        let Some((name, hook)) = gear.program() else { continue };
        match load_gear(ebpf.program_mut(name).ok_or(LoadError::Absent(name))?, hook, btf) {
            Ok(program) => gears.loaded.push(Loaded { gear, program }),
            Err(error) => gears.refused.push((gear, reason(&error))),
        }
    }
    Ok(gears)
}

fn load_gear(program: &mut Program, hook: &str, btf: &aya::Btf) -> Result<OwnedFd, ProgramError> {
    match program {
        Program::Lsm(program) => program.load(hook, btf)?,
        Program::FEntry(program) => program.load(hook, btf)?,
        Program::BtfTracePoint(program) => program.load(hook, btf)?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    let fd = program.fd()?.as_fd().try_clone_to_owned();
    fd.map_err(ProgramError::IOError)
}

/// System calls that make processes, as the programs take them.
mod calls {
    use libc::c_long;

    /// `clone`, `clone3`, `fork`, `vfork`: i64 on every architecture that has eBPF. arm64 has no `fork`.
    #[cfg(target_arch = "x86_64")]
    pub const NUMBERS: [c_long; 4] =
        [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
    #[cfg(not(target_arch = "x86_64"))]
    pub const NUMBERS: [c_long; 4] = [libc::SYS_clone, libc::SYS_clone3, -1, -1];

    /// Where `struct pt_regs` has the first argument: rdi, or x0, which part of the ABI
    /// (arch/x86/include/uapi/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h) fixes.
    #[cfg(target_arch = "x86_64")]
    pub const ARGUMENT: u64 = 112;
    #[cfg(not(target_arch = "x86_64"))]
    pub const ARGUMENT: u64 = 0;
}

impl Programs {
    /// Calls the baseline program for every task; `None` where there is none.
    pub fn visitor(&self) -> Option<Arc<Visitor>> {
        self.visitor.clone()
    }

    /// Who looks at who holds memory.
    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// Who hears what is executed in groups that are watched.
    pub fn witness(&self) -> Arc<Witness> {
        Arc::clone(&self.witness)
    }

    /// Losses so far, by reason, and how often the kernel skipped a program.
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let lost = self.lost();
        let mut losses: Vec<(&'static str, u64)> = Reason::ALL
            .into_iter()
            .map(|reason| {
                let early = if reason == Reason::UnknownExit { self.early_exits } else { 0 };
                (reason.word(), lost[reason as usize].saturating_sub(early))
            })
            .collect();
        losses.push((SKIPPED, self.skipped()));
        losses
    }

    /// By reason, of all CPUs.
    fn lost(&self) -> Losses {
        let mut sums = Losses::default();
        let Ok(cpus) = self.losses.get(&0, 0) else { return sums };
        for lost in cpus.iter() {
            sums.iter_mut().zip(lost).for_each(|(sum, lost)| *sum += lost);
        }
        sums
    }

    /// From here on an unknown exit is a loss. Exits are attached first, so whoever ended between
    /// that and the baseline was never entered, and need not have been.
    pub fn everybody_known(&mut self) {
        self.early_exits = self.lost()[Reason::UnknownExit as usize];
    }

    /// Forks, execs and exits that no program of ours was run for.
    fn skipped(&self) -> u64 {
        let skipped: u64 = TRACEPOINTS
            .iter()
            .filter_map(|(name, _)| {
                let fd = self.ebpf.program(name)?.fd().ok()?;
                skipped(fd.as_fd()).ok()
            })
            .sum();
        // Read after the other: whoever stands in is counted a moment after the lead was skipped.
        skipped.saturating_sub(sum(&self.stood_in))
    }

    /// Memory of all maps in the kernel, bytes, as the kernel counts it at load.
    pub fn map_bytes(&self) -> u64 {
        self.map_bytes
    }

    /// Finds the brake that works here. Once, when everybody is known.
    pub(super) fn choose_brake(&mut self, lineage: &Lineage) -> Result<Brake, LoadError> {
        let tallies = mapped(&self.ebpf, "TALLIES")?;
        let (brake, links) = Brake::choose(mem::take(&mut self.gears), lineage, tallies)?;
        self.links.extend(links);
        Ok(brake)
    }

    /// Detaches what was attached at this place, as if the kernel skipped it.
    #[cfg(test)]
    pub(super) fn detach(&mut self, tracepoint: &str) {
        let attached = TRACEPOINTS.iter().position(|(_, attached)| *attached == tracepoint);
        drop(self.links.remove(attached.unwrap()));
    }

    /// Descriptors that keep the programs attached while anybody holds them.
    pub fn links(&self) -> &[OwnedFd] {
        &self.links
    }

    /// Descriptors of the maps that the guardian reads: nodes, marks, brake.
    pub fn guardian_maps(&self) -> Result<[OwnedFd; 3], LoadError> {
        table_maps(&self.ebpf)
    }
}

/// Attaches a loaded `tp_btf`, LSM or fentry program and gives the link's descriptor away, which aya's own attach
/// keeps to itself: the guardian holds a copy, so that the programs outlive core.
pub(super) fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: a union of integers and pointers: all zero is valid, and what the command asks for.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // The name stays null: the program's attach_btf_id says where it belongs.
    attributes.raw_tracepoint.prog_fd = program.as_raw_fd().unsigned_abs();
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attributes)
}

/// A per-CPU counter.
fn sum(counters: &PerCpuArray<MapData, u64>) -> u64 {
    counters.get(&0, 0).map_or(0, |values| values.iter().sum())
}

fn map_bytes(ebpf: &Ebpf) -> u64 {
    let bytes = |map: &Map| {
        let (Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Stack(data)) = map
        else {
            return None;
        };
        fdinfo::<u64>(data.fd().as_fd(), "memlock:").ok()?
    };
    ebpf.maps().filter_map(|(_, map)| bytes(map)).sum()
}

/// Descriptors of what [`Table::new`] maps, in its order.
fn table_maps(ebpf: &Ebpf) -> Result<[OwnedFd; 3], LoadError> {
    let clone = |name| {
        let Some(Map::Array(data)) = ebpf.map(name) else { return Err(LoadError::Absent(name)) };
        data.fd().as_fd().try_clone_to_owned().map_err(LoadError::Table)
    };
    Ok([clone("NODES")?, clone("MARKS")?, clone("BRAKE_UNTIL")?])
}

fn lineage(ebpf: &mut Ebpf) -> Result<Lineage, LoadError> {
    let [nodes, marks, until] = table_maps(ebpf)?;
    let table =
        Table::new(nodes.as_fd(), marks.as_fd(), until.as_fd()).map_err(LoadError::Table)?;
    let index: BpfHashMap<MapData, u32, Slot> = typed(ebpf, "INDEX", BpfHashMap::try_from)?;
    let execs: BpfHashMap<MapData, Slot, ExecRecord> = typed(ebpf, "EXECS", BpfHashMap::try_from)?;
    let known: BpfHashMap<MapData, u32, Known> = typed(ebpf, "KNOWN", BpfHashMap::try_from)?;
    let gone = typed(ebpf, "GONE", Queue::try_from)?;
    let entered = typed(ebpf, "ENTERED", Array::try_from)?;
    let stalls = Stalls::new(mapped(ebpf, "STALLS")?, mapped(ebpf, "RECLAIMS")?);
    Ok(Lineage::new(table, index, execs, known, gone, entered, stalls))
}

/// An array that the kernel side shares with us.
fn mapped<T: Copy>(ebpf: &Ebpf, name: &'static str) -> Result<Mapping<T>, LoadError> {
    let Some(Map::Array(data)) = ebpf.map(name) else { return Err(LoadError::Absent(name)) };
    Mapping::new(data.fd().as_fd()).map_err(LoadError::Table)
}

fn fill_free_slots(ebpf: &mut Ebpf, entries: u32) -> Result<(), LoadError> {
    let map = ebpf.map_mut("FREE").ok_or(LoadError::Absent("FREE"))?;
    let failed = |source| LoadError::Map { name: "FREE", source: Box::new(source) };
    let mut free: Stack<&mut MapData, Slot> = Stack::try_from(map).map_err(failed)?;
    // Slot 0 means "none". Lowest on top, so that the table fills from its beginning.
    for slot in (1..entries).rev() {
        free.push(slot, 0).map_err(failed)?;
    }
    Ok(())
}

fn typed<T>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<T, aya::maps::MapError>,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Absent(name))?;
    convert(map).map_err(|source| LoadError::Map { name, source: Box::new(source) })
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, LoadError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    program.try_into().map_err(|error| LoadError::Refused { name, reason: reason(&error) })
}

/// Lines with which the verifier ends every log, whatever it thinks of the program.
const STATISTICS: [&str; 4] = ["verification time", "stack depth", "insns processed", "processed"];

/// The part of a load error that a person can use: the verifier's last words, not its whole log.
pub(super) fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let says = |line: &&str| {
                let line = line.trim();
                !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start))
            };
            let last = log.lines().rev().filter(says).take(3);
            let last: Vec<&str> = last.collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            if last.is_empty() {
                io_error.to_string()
            } else {
                format!("{io_error}: {}", last.join(" / "))
            }
        }
        other => {
            let mut text = other.to_string();
            let mut source = other.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}
