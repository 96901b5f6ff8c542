//! The recorder: loads the kernel side with its lifecycle events switched on, next to whatever
//! daemon runs, and writes what it says into a trace. Nothing is stopped or changed.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use sensor_common::{
    FileId, ProcessKey, event,
    gate::Rule,
    lineage::{ADOPTED, Node},
};

use super::{
    file::{TraceError, Writer},
    proto_key, proto_limits, respawn_verdict, storm_verdict,
};
use crate::{
    cgroup::{self, CgroupError, Hierarchies},
    clock,
    evidence::redact::Redactor,
    host::{Host, cpus},
    kernel::{Event, Gear, Kernel, LoadError, LoadOptions, Reader, split},
    proto::{
        GateVerdict, Lost, RespawnVerdict, StormVerdict, TraceEnd, TraceExec, TraceExit, TraceFile,
        TraceFork, TraceGroup, TraceProcess, TraceSignatures, TraceStart, trace_entry::Entry,
    },
};

/// Size of the ring, bytes. A process that executes something takes 808: 56 for its fork, 712 for
/// its exec, 40 for its exit. Room for 20,000 of them, 17 s of the fastest shell loop that was seen
/// (1,214 a second): so long may a slow disk take.
pub const RING_BYTES: u32 = 16 << 20;

/// Events between the ring's reader and the file. What does not fit waits in the ring.
const QUEUE: usize = 4096;

/// Forks, and exits, with alarms that are waited for; there is one for each CPU at most.
const WAITED_FOR: usize = 1024;

/// How often the ring is looked at when nothing happens.
const CALM: Duration = Duration::from_secs(1);

/// How often the file is brought up to date, losses are counted and the caller is told.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("cannot write the trace: {0}; what was written until then can be replayed")]
    Write(#[source] io::Error),
    #[error("cannot start the thread that reads the kernel's events: {0}")]
    Thread(#[source] io::Error),
}

/// How a recording goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub elapsed: Duration,
    pub forks: u64,
    pub execs: u64,
    pub exits: u64,
    /// Events that the trace does not have.
    pub lost: u64,
    /// Size of the file, bytes.
    pub bytes: u64,
}

/// Records until `go_on`, which hears how it goes every second and first when everything is
/// attached, says no.
pub fn record(
    file: &Path,
    options: &LoadOptions,
    argv: bool,
    mut go_on: impl FnMut(&Progress) -> bool,
) -> Result<Progress, RecordError> {
    let hierarchies = Hierarchies::discover()?;
    let start = start(options, argv);
    let kernel = Kernel::start(&LoadOptions { lifecycle: true, brake: Gear::Signals, ..*options })?;
    // Only now: where the kernel side is refused, an empty file would be in the next attempt's way.
    let writer = Writer::create(file)?;
    let started = Instant::now();
    let mut recording = Recording {
        writer,
        redactor: Redactor::with_random_key(),
        argv,
        hierarchies,
        groups: HashSet::new(),
        storms: HashMap::new(),
        respawns: HashMap::new(),
        lost: HashMap::new(),
        progress: Progress::default(),
    };
    recording.write(Entry::Start(start)).map_err(RecordError::Write)?;
    // Everybody whose birth was not seen; the others are in the ring.
    for (_, node) in kernel.lineage.table().nodes().filter(|(_, node)| node.flags & ADOPTED != 0) {
        recording.existing(&node).map_err(RecordError::Write)?;
    }
    // From here on the file can be replayed, however soon it ends.
    recording.writer.flush().map_err(RecordError::Write)?;

    let (sender, events) = sync_channel(QUEUE);
    let forward = forward(sender);
    let Kernel { programs, ring, .. } = kernel;
    let reader = Reader::start(ring, false, CALM, |_| {}, forward).map_err(RecordError::Thread)?;
    let followed = recording.follow(
        &events,
        || programs.losses(),
        |progress| go_on(&Progress { elapsed: started.elapsed(), ..*progress }),
    );
    let losses = programs.losses();
    // Detached first, so that what the reader drains at its end is all there is.
    drop(programs);
    if let Err(error) = followed {
        // Nobody may wait for a full queue while the reader is waited for.
        drop(events);
        return Err(RecordError::Write(error));
    }
    let ended = std::thread::spawn(move || drop(reader));
    let rest = events.iter().try_for_each(|event| recording.event(event));
    drop(events);
    // Its channel is closed: it has nothing left to do.
    let _ = ended.join();
    rest.and_then(|()| recording.note_lost(&losses))
        .and_then(|()| recording.finish())
        .map(|progress| Progress { elapsed: started.elapsed(), ..progress })
        .map_err(RecordError::Write)
}

/// The reader waits when the queue is full, and the kernel's ring holds what comes meanwhile.
fn forward(sender: SyncSender<Event>) -> impl FnMut(Event) + Send + 'static {
    move |event| {
        // Nobody listens any more: the recording has failed, and says so.
        let _ = sender.send(event);
    }
}

fn start(options: &LoadOptions, argv: bool) -> TraceStart {
    let host = Host::read();
    TraceStart {
        version: env!("CARGO_PKG_VERSION").into(),
        host: host.name,
        kernel: host.kernel,
        boot_id: host.boot_id,
        at: Some(clock::wall()),
        boot_ns: clock::boot_ns(),
        cpus: cpus(),
        limits: Some(proto_limits(&options.limits, &options.storms, &options.respawns)),
        argv,
    }
}

struct Recording {
    writer: Writer,
    redactor: Redactor,
    /// Whether arguments are written.
    argv: bool,
    hierarchies: Hierarchies,
    /// Groups whose paths are in the trace.
    groups: HashSet<u64>,
    /// Alarms of storms whose fork has not come yet, by the child.
    storms: HashMap<ProcessKey, Vec<StormVerdict>>,
    /// Alarms of respawn loops whose exit has not come yet, by the process.
    respawns: HashMap<ProcessKey, RespawnVerdict>,
    /// Losses that are in the trace, by reason.
    lost: HashMap<&'static str, u64>,
    progress: Progress,
}

/// Losses of the kernel side by reason, since it was loaded.
type Losses = Vec<(&'static str, u64)>;

impl Recording {
    /// Writes what comes until `go_on` says no.
    fn follow(
        &mut self,
        events: &Receiver<Event>,
        losses: impl Fn() -> Losses,
        mut go_on: impl FnMut(&Progress) -> bool,
    ) -> io::Result<()> {
        let mut next = Instant::now();
        while go_on(&self.progress) {
            next += EVERY;
            while let Ok(event) =
                events.recv_timeout(next.saturating_duration_since(Instant::now()))
            {
                self.event(event)?;
                // Under a flood there is always one more.
                if Instant::now() >= next {
                    break;
                }
            }
            self.note_lost(&losses())?;
            self.writer.flush()?;
            self.progress.bytes = self.writer.size()?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Forked(fork) => {
                self.progress.forks += 1;
                self.group(fork.cgroup, fork.parent)?;
                let storms = self.storms.remove(&fork.child).unwrap_or_default();
                self.write(Entry::Fork(TraceFork {
                    child: proto_key(fork.child),
                    parent: proto_key(fork.parent),
                    cgroup: fork.cgroup,
                    storms,
                }))
            }
            Event::Executed(exec) => {
                self.progress.execs += 1;
                self.group(exec.cgroup, exec.process)?;
                let argv = self.argv(&exec);
                self.write(Entry::Exec(executed(&exec, argv)))
            }
            Event::Exited(exit) => {
                self.progress.exits += 1;
                let respawn = self.respawns.remove(&exit.process);
                self.write(Entry::Exit(TraceExit {
                    process: proto_key(exit.process),
                    exit_ns: exit.at_ns,
                    code: exit.code,
                    respawn,
                }))
            }
            // A storm's alarm comes just before its fork; with other CPUs' events in between.
            Event::Alarm(alarm) if is_storm(&alarm) => {
                // A fork that was lost leaves its alarms behind.
                if self.storms.len() >= WAITED_FOR {
                    self.storms.clear();
                }
                self.storms.entry(alarm.process).or_default().push(storm_verdict(&alarm));
                Ok(())
            }
            // As with a fork.
            Event::Respawned(respawned) => {
                if self.respawns.len() >= WAITED_FOR {
                    self.respawns.clear();
                }
                self.respawns.insert(respawned.alarm.process, respawn_verdict(&respawned));
                Ok(())
            }
            // Another alarm is in its exec's verdict; nothing is braked where nobody marks.
            Event::Alarm(_)
            | Event::Exec(_)
            | Event::Braked(_)
            | Event::Marked(_)
            | Event::Killed(_)
            | Event::Ran(_)
            | Event::Left(_) => Ok(()),
        }
    }

    fn existing(&mut self, node: &Node) -> io::Result<()> {
        self.group(node.cgroup, node.key)?;
        let image = &node.image;
        self.write(Entry::Process(TraceProcess {
            process: proto_key(node.key),
            parent: proto_key(node.parent),
            cgroup: node.cgroup,
            signatures: Some(TraceSignatures {
                strict: image.strict,
                loose: image.loose,
                exe: image.exe,
            }),
            argv_bytes: image.argv_bytes,
        }))
    }

    fn argv(&self, exec: &event::Executed) -> Vec<Vec<u8>> {
        if !self.argv {
            return Vec::new();
        }
        let record = &exec.record;
        self.redactor.argv(&split(&record.argv[..(record.kept as usize).min(record.argv.len())])).0
    }

    /// Writes the path of a group the first time that it is seen. `member` was in it a moment ago.
    fn group(&mut self, id: u64, member: ProcessKey) -> io::Result<()> {
        if self.groups.contains(&id) {
            return Ok(());
        }
        // Moved or gone meanwhile: the next member will tell.
        let Ok(path) = self.hierarchies.path_of(member.tgid) else { return Ok(()) };
        let same = self
            .hierarchies
            .dir(&path)
            .is_some_and(|dir| cgroup::id(&dir).is_ok_and(|it| it == id));
        if !same {
            return Ok(());
        }
        self.groups.insert(id);
        let (path, _) = self.redactor.text(path.as_os_str().as_bytes());
        self.write(Entry::Group(TraceGroup { id, path }))
    }

    /// Writes what was lost since the last time, by reason.
    fn note_lost(&mut self, losses: &Losses) -> io::Result<()> {
        for &(reason, count) in losses {
            let known = self.lost.insert(reason, count).unwrap_or_default();
            let more = count.saturating_sub(known);
            if more > 0 {
                self.progress.lost += more;
                self.write(Entry::Lost(Lost { reason: reason.into(), count: more }))?;
            }
        }
        Ok(())
    }

    fn write(&mut self, entry: Entry) -> io::Result<()> {
        self.writer.write(entry)
    }

    fn finish(mut self) -> Result<Progress, io::Error> {
        self.write(Entry::End(TraceEnd { boot_ns: clock::boot_ns() }))?;
        self.progress.bytes = self.writer.finish()?;
        Ok(self.progress)
    }
}

fn is_storm(alarm: &event::Alarm) -> bool {
    matches!(Rule::of(alarm.rule), Some(Rule::R2 | Rule::R3))
}

fn executed(exec: &event::Executed, argv: Vec<Vec<u8>>) -> TraceExec {
    let file = |file: FileId| Some(TraceFile { dev: file.dev, ino: file.ino });
    let image = &exec.image;
    TraceExec {
        process: proto_key(exec.process),
        exec_ns: image.generations[0],
        cgroup: exec.cgroup,
        signatures: Some(TraceSignatures {
            strict: image.strict,
            loose: image.loose,
            exe: image.exe,
        }),
        exe: file(exec.record.exe),
        cwd: file(exec.record.cwd),
        argv,
        argv_bytes: exec.record.argv_bytes,
        verdict: Some(GateVerdict {
            level: exec.level.into(),
            rule: exec.rule.into(),
            strict_repetitions: image.strict_repetitions.into(),
            loose_repetitions: image.loose_repetitions.into(),
            exe_repetitions: image.exe_repetitions.into(),
            growing: image.growing.into(),
            top: proto_key(exec.top),
            live: exec.live,
            reported: exec.reported != 0,
        }),
    }
}
