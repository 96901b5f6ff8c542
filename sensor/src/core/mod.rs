//! The daemon: brings the parts up in order, lets them work, takes them down in order.
//!
//! Three processes: this one (root: programs, brake, evidence, the only writer of the log), its
//! guardian, which outlives it, and `serve`, which is not root; where there are webhooks also
//! `deliver`, which is not root either. In this one: the thread that reads the ring and reacts
//! ([`reactor`]), the desk ([`desk`]), the thread that writes the log, and whatever may block beside
//! them.

mod absorb;
mod containments;
mod desk;
mod findings;
mod growth;
mod investigated;
mod investigations;
pub mod memory;
mod oom;
mod pressure;
mod privileges;
mod reactor;
mod requests;
mod respawn;
mod resume;
mod storm;
mod study;
mod succession;
pub mod survival;
mod trees;
mod vigil;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
        mpsc as std_mpsc,
    },
    thread,
    time::Duration,
};

use sensor_common::{brake::Tally, gate::Rule, respawn::Limits};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

use self::{
    containments::Containments,
    desk::{Desk, Done},
    growth::{Before, Growth},
    investigations::{Investigations, Place},
    memory::{Sampler, Sampling},
    pressure::Shortages,
    reactor::{MESSAGES, Notice, Reactor, Times},
    succession::Legacy,
    trees::Trees,
};
use crate::{
    cgroup::{CgroupError, Hierarchies},
    clock,
    config::{self, Config},
    evidence::{Parser, Redactor, Sources, gather},
    feed::{
        access::Named,
        link::{Link, LinkError, LinkOptions, Question, Tcp},
        runs::Doors,
        tls::Files,
        webhooks::link::{Told, Webhooks, WebhooksError, WebhooksOptions},
    },
    host::{Host, cpus},
    investigate,
    kernel::{
        Brake, Detail, Gear, Kernel, Lineage, LoadError, LoadOptions, Programs, Reader, Visitor,
    },
    lineage::{Forest, ProcessKey},
    proto::{self, observation::Fact, record::Body},
    record::{Draft, Log, LogError, LogOptions, Opened},
    respond::{
        Marks, Options, Responder,
        guardian::{self, Guardian, GuardianError, Launch, Predecessor},
        policy::{Mode, Policy},
        protect::Additions,
    },
    vitals::Recorder,
};

#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("the sensor must run as root: it watches and stops processes of all users")]
    NotRoot,
    #[error("cannot use {path} as the runtime directory: {source}", path = .path.display())]
    RuntimeDir { path: PathBuf, source: io::Error },
    #[error("scope.cgroup {0:?} is not below the cgroup v2 mount")]
    Scope(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{0}; `sensor doctor` says what this kernel can do")]
    Kernel(#[from] LoadError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Feed(#[from] LinkError),
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    #[error("cannot start the daemon's threads: {0}")]
    Threads(#[source] io::Error),
}

/// The brake through the kernel's own tables.
pub struct Reins {
    pub lineage: Arc<Lineage>,
    pub brake: Brake,
    visitor: Option<Arc<Visitor>>,
}

impl Marks for Reins {
    fn forest(&self) -> Forest {
        self.lineage.forest(Detail::Links)
    }

    fn lives(&self, key: ProcessKey) -> bool {
        self.lineage.is_alive(key)
    }

    fn complete(&self) {
        if let Some(visitor) = &self.visitor
            && let Err(error) = visitor.complete(&self.lineage)
        {
            tracing::warn!("the lineage cannot be completed: {error}");
        }
    }

    fn engage(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()> {
        let engaged = self.brake.engage(number);
        let mark = |root: &ProcessKey| self.lineage.mark_root(*root, number, until_ns);
        roots.iter().map(mark).fold(Ok(()), io::Result::and).and(engaged)
    }

    fn rehearse(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()> {
        let engaged = self.brake.engage(number);
        let mark = |root: &ProcessKey| self.lineage.mark_dry(*root, number, until_ns);
        roots.iter().map(mark).fold(Ok(()), io::Result::and).and(engaged)
    }

    fn mark(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.lineage.mark(key, number, until_ns)
    }

    fn spare(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.lineage.exempt(key, number, until_ns)
    }

    fn unmark(&self, key: ProcessKey) -> io::Result<()> {
        self.lineage.unmark(key)
    }

    fn tally(&self, number: u32) -> Tally {
        self.brake.tally(number)
    }

    fn disengage(&self) {
        self.brake.disengage();
    }
}

/// Runs the daemon until it is told to end (SIGTERM, SIGINT).
pub fn run(config: &Config) -> Result<(), CoreError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CoreError::NotRoot);
    }
    // Before there are threads.
    if let Err(error) = privileges::keep_what_is_needed() {
        tracing::warn!("all of root's capabilities are kept: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("desk")
        .enable_all()
        .build()
        .map_err(CoreError::Threads)?;
    runtime.block_on(async { Daemon::start(config)?.work().await })
}

/// Everything that runs.
struct Daemon {
    desk: Desk,
    link: Link,
    webhooks: Option<Webhooks>,
    reader: Reader,
    notices: mpsc::Receiver<Notice>,
    /// How it goes with webhooks.
    delivered: mpsc::Receiver<Told>,
    questions: mpsc::Receiver<Question>,
    done: mpsc::UnboundedReceiver<Done>,
    guardian_events: mpsc::UnboundedReceiver<guardian::Event>,
}

impl Daemon {
    fn start(config: &Config) -> Result<Self, CoreError> {
        let host = Host::read();
        let (started_at, started_ns) = (clock::wall(), clock::boot_ns());
        let serve_user = user(&config.feed.user);
        prepare_runtime_dir(&config.runtime_dir)?;
        let hierarchies = Hierarchies::discover()?;
        let scope = scope(&config.scope.cgroup, &hierarchies)?;
        // Before other processes of ours exist: in a delegated unit it moves this one out of the way.
        let home = hierarchies.home()?;
        let scratch = config.runtime_dir.join("scratch");
        let cleared = investigate::clear_leftovers(&hierarchies, &home);
        if cleared > 0 {
            tracing::warn!("ended {cleared} investigations of an earlier run");
        }
        let options = LogOptions {
            max_bytes: config.record.max_bytes,
            reader_gid: serve_user.map(|(_, gid)| gid),
        };
        let (log, mut opened) = Log::open(&config.state_dir, &host, options)?;

        let mut degradations = Vec::new();
        // Nothing is known of trees before the kernel side is there.
        let counted: Arc<OnceLock<Arc<Trees>>> = Arc::default();
        let before = std::mem::take(&mut opened.vitals);
        let recorder = recorder(&config.state_dir, &log, before, Arc::clone(&counted))
            .map_err(|error| degradations.push(format!("no flight recorder: {error}")))
            .ok();
        if config.kernel.realtime
            && let Err(error) = survival::lock_memory()
        {
            degradations.push(format!("memory may be paged out: {error}"));
        }
        if let Err(error) = survival::outlive() {
            degradations.push(format!("the OOM killer may take the daemon as any other: {error}"));
        }
        let kernel = Kernel::start(&load_options(config))?;
        let Kernel { programs, lineage, ring, brake, baseline_processes } = kernel;
        if let Some(why) = &programs.no_baseline {
            degradations.push(format!("no baseline: {why}"));
        }
        if let Some(why) = programs.memory().refused() {
            degradations.push(format!("memory is sampled from /proc: {why}"));
        }
        if let Err(why) = &programs.understudies {
            degradations.push(format!("nobody stands in for skipped programs: {why}"));
        }
        if let Err(why) = &programs.stalls {
            degradations.push(format!("not all time in reclaim is counted: {why}"));
        }
        if brake.gear() == Gear::Signals && config.kernel.brake < Gear::Signals {
            let why: Vec<_> = brake.refused().iter().map(|(_, why)| why.as_str()).collect();
            degradations.push(format!("forks cannot be paused: {}", why.join("; ")));
        }
        tracing::info!("brake: {}", brake.gear());
        let lineage = Arc::new(lineage);
        let reins =
            Arc::new(Reins { lineage: Arc::clone(&lineage), brake, visitor: programs.visitor() });

        let predecessor = Predecessor::find(&config.runtime_dir)?;
        let (guardian, guardian_events) = start_guardian(&programs, &config.runtime_dir)?;
        let responder_options = Options {
            scope,
            protect: Additions {
                executables: config.respond.protect.executables.clone(),
                units: config.respond.protect.units.clone(),
            },
            per_minute: config.respond.max_containments_per_minute,
        };
        let (responder, refused) =
            Responder::new(reins.clone(), hierarchies.clone(), &responder_options);
        degradations.extend(refused);
        protect_ourselves(&responder, &lineage, &guardian);

        let containments = Arc::new(Containments::default());
        let paused = Arc::new(AtomicBool::new(opened.paused));
        let overflow = Arc::new(AtomicU64::new(0));
        let (notice_sender, notices) = mpsc::channel(MESSAGES);
        let (done_sender, done) = mpsc::unbounded_channel();
        let times = Times {
            freeze_ns: u64::from(config.respond.freeze_s) * 1_000_000_000,
            brake_extra_ns: u64::from(config.respond.brake_extra_s) * 1_000_000_000,
        };
        let shortages = Shortages::start(
            config,
            &hierarchies,
            &responder_options.scope,
            &lineage,
            &notice_sender,
            &overflow,
            &mut degradations,
        );
        let responder = Arc::new(responder);
        let guardian = Arc::new(guardian);
        let (explosions, alarms) = storm::channel();
        let reactor = Arc::new(Reactor {
            lineage: Arc::clone(&lineage),
            responder: Arc::clone(&responder),
            hierarchies: hierarchies.clone(),
            guardian: Arc::clone(&guardian),
            containments: Arc::clone(&containments),
            policy: policy(config),
            limits: config.detect.limits(),
            storms: config.detect.storms(cpus()),
            respawns: config.detect.respawns(),
            explosions,
            times,
            realtime: config.kernel.realtime,
            paused: Arc::clone(&paused),
            notices: notice_sender,
            lost: Arc::clone(&overflow),
        });
        // The running program itself, also when its file was replaced meanwhile.
        let program = Path::new("/proc/self/exe");
        let doors = Doors::default();
        let (link, questions) = Link::start(LinkOptions {
            program: program.to_owned(),
            socket: config.socket(),
            state_dir: config.state_dir.clone(),
            user: serve_user,
            tcp: tcp(&config.feed.tcp),
            unwritten: log.unwritten(),
            doors: doors.clone(),
        })?;
        let (webhooks, delivered) = Webhooks::start(&WebhooksOptions {
            program,
            webhooks: &config.webhooks,
            state_dir: &config.state_dir,
            user: serve_user,
            begin: (&opened.log_id, opened.last_seq + 1),
            started_ns,
        })?;
        let parser = Parser::new(program, serve_user);
        let gatherer = Arc::new(gatherer(config).with_parser(parser));
        let memory = programs.memory();
        let trees =
            Trees::new(Arc::clone(&lineage), memory, Arc::clone(&gatherer), hierarchies.clone());
        let trees = Arc::clone(counted.get_or_init(|| Arc::new(trees)));
        let sampler = Sampler::new(
            programs.memory(),
            Arc::clone(&lineage),
            Arc::clone(&trees),
            Arc::clone(&gatherer),
            hierarchies.clone(),
        );
        let before = Before::new(&config.state_dir, &host.boot_id);
        let growth = Growth::new(config.detect.memory(), Arc::clone(&reactor), before);
        let memory = sampling(sampler, &log, growth).map_err(CoreError::Threads)?;
        let mut desk = Desk {
            log,
            recorder,
            memory,
            host,
            lineage,
            trees,
            programs,
            reins,
            responder,
            containments,
            guardian,
            investigations: Investigations::new(
                &config.investigate,
                Place {
                    hierarchies,
                    home,
                    scratch,
                    doors,
                    log_gid: serve_user.map(|(_, gid)| gid),
                },
                Arc::clone(&gatherer),
            ),
            cut_off: Vec::new(),
            gatherer,
            incidents: crate::incident::Incidents::default(),
            times,
            paused,
            overflow,
            done: done_sender,
            rehearsals: Vec::new(),
            losses: HashMap::new(),
            missed: false,
            feed: link.state(),
            webhooks: webhooks.as_ref().map(Webhooks::part),
            started_at,
            scope: config.scope.cgroup.clone(),
            acting: HashSet::new(),
            matters: HashMap::new(),
            loops: HashMap::new(),
            unseen: HashMap::new(),
            deaths: oom::Deaths::default(),
            quiet_ns: quiet_ns(&config.detect.respawns()),
            shortages,
            unread: false,
        };
        desk.begin(&opened, degradations, baseline_processes);
        desk.succeed(Legacy { opened, state_dir: &config.state_dir, predecessor });
        desk.resume(&config.state_dir);
        survival::keep_memory();
        // From here on there are reactions: what an earlier run knew is in the book.
        storm::start(&reactor, alarms).map_err(CoreError::Threads)?;
        let told = |granted: io::Result<()>| {
            if let Err(error) = granted {
                tracing::warn!(
                    "no real-time scheduling ({error}): under a fork bomb reactions are slower"
                );
            }
        };
        let reader =
            Reader::start(ring, config.kernel.realtime, told, move |event| reactor.handle(event))
                .map_err(CoreError::Threads)?;
        Ok(Self {
            desk,
            link,
            webhooks,
            reader,
            notices,
            delivered,
            questions,
            done,
            guardian_events,
        })
    }

    async fn work(self) -> Result<(), CoreError> {
        let Self {
            mut desk,
            link,
            webhooks,
            reader,
            mut notices,
            mut delivered,
            mut questions,
            mut done,
            mut guardian_events,
        } = self;
        let mut tail = desk.log.tail();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut terminate = signal(SignalKind::terminate()).map_err(CoreError::Threads)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CoreError::Threads)?;
        let grown = |seq: u64| {
            link.set_tail(seq);
            if let Some(webhooks) = &webhooks {
                webhooks.set_tail(seq);
            }
        };
        grown(*tail.borrow_and_update());
        let why = loop {
            tokio::select! {
                Some(notice) = notices.recv() => desk.notice(notice),
                Some(question) = questions.recv() => desk.answer(question),
                Some(done) = done.recv() => desk.finished(done),
                Some(event) = guardian_events.recv() => desk.guardian_said(&event),
                Some(told) = delivered.recv() => match told {
                    Told::Degraded(degraded) => {
                        desk.log.append(Draft::of("", Body::Degraded(degraded)));
                    }
                    Told::Lost(lost) => desk.log.append(Draft::of("", Body::Lost(lost))),
                    Told::Damage => desk.log.look_for_damage(),
                },
                Ok(()) = tail.changed() => grown(*tail.borrow_and_update()),
                _ = tick.tick() => {
                    desk.look_around();
                    link.set_health(desk.parts());
                    webhooks.iter().for_each(Webhooks::alive);
                }
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
            }
        };
        tracing::info!("going down: {why}");
        // No more reactions, then no more requests, then the last record.
        drop(reader);
        drop(link);
        drop(webhooks);
        desk.leave();
        let log = desk.log.clone();
        let closing = tokio::task::spawn_blocking(move || log.close(why));
        if let Ok(Err(error)) = closing.await {
            tracing::error!("the last records are not durable: {error}");
        }
        Ok(())
    }
}

impl Desk {
    fn begin(&mut self, opened: &Opened, degradations: Vec<String>, baseline_processes: u32) {
        for degradation in &degradations {
            tracing::warn!("{degradation}");
        }
        tracing::info!("watching {baseline_processes} processes on {}", self.host.kernel);
        self.log.append_durable(Draft::of(
            "",
            Body::Started(proto::Started {
                version: env!("CARGO_PKG_VERSION").into(),
                kernel: self.host.kernel.clone(),
                degradations,
                map_bytes: self.programs.map_bytes(),
                baseline_processes,
            }),
        ));
        let degraded = |part: &str, why: String| {
            Draft::of(
                "",
                Body::Degraded(proto::Degraded { part: part.into(), why, recovered: false }),
            )
        };
        if let Some(path) = &opened.set_aside {
            let why = format!("the log was damaged and was moved to {}", path.display());
            self.log.append(degraded("record", why));
        }
        // What was lost while the programs were being attached was nobody's yet.
        self.losses = self.programs.losses().into_iter().collect();
    }

    fn guardian_said(&mut self, event: &guardian::Event) {
        let (why, recovered) = match event {
            guardian::Event::Report(report) => return self.guardian_acted(report),
            guardian::Event::Died { why } => (why.clone(), false),
            guardian::Event::Restarted { pid } => {
                self.responder.protection().add_own(*pid, "guardian");
                (
                    format!(
                        "another guardian runs as process {pid}, with everything that is frozen"
                    ),
                    true,
                )
            }
        };
        tracing::warn!("{why}");
        self.log.append(Draft::of(
            "",
            Body::Degraded(proto::Degraded { part: "guardian".into(), why, recovered }),
        ));
    }
}

/// Where clients on other hosts connect; none where that is not wanted.
fn tcp(config: &config::Tcp) -> Option<Tcp> {
    Some(Tcp {
        // Checked with the configuration; empty: not wanted.
        listen: config.listen.parse().ok()?,
        files: Files {
            certificate: config.certificate.clone(),
            key: config.key.clone(),
            client_ca: config.client_ca.clone(),
        },
        named: Named { readers: config.readers.clone(), operators: config.operators.clone() },
    })
}

/// The flight recorder; what it records goes into the log's rings.
fn recorder(
    state_dir: &Path,
    log: &Log,
    before: Vec<proto::VitalsSample>,
    trees: Arc<OnceLock<Arc<Trees>>>,
) -> io::Result<Recorder> {
    let log = log.clone();
    let trees = move || trees.get().map(|trees| trees.outstanding()).unwrap_or_default();
    Recorder::start(state_dir, before, trees, move |sample| log.append_vitals(sample))
}

/// Samples of who holds memory, into the log and to the detectors.
fn sampling(sampler: Sampler, log: &Log, mut growth: Growth) -> io::Result<Sampling> {
    let log = log.clone();
    Sampling::start(sampler, move |sample| {
        let fact = Some(Fact::Memory(sample.clone()));
        log.append(Draft::bulk(Body::Observation(proto::Observation { fact })));
        growth.see(sample);
    })
}

/// (uid, gid) of a user, `nobody` where there is no such user.
fn user(name: &str) -> Option<(u32, u32)> {
    [name, "nobody"].into_iter().find_map(|name| {
        let user = nix::unistd::User::from_name(name).ok()??;
        Some((user.uid.as_raw(), user.gid.as_raw()))
    })
}

fn prepare_runtime_dir(path: &Path) -> Result<(), CoreError> {
    fs::create_dir_all(path)
        .map_err(|source| CoreError::RuntimeDir { path: path.to_owned(), source })
}

/// Scope as v2 paths; a directory below the mount stands for its path.
fn scope(configured: &[String], hierarchies: &Hierarchies) -> Result<Vec<PathBuf>, CoreError> {
    configured
        .iter()
        .map(|entry| {
            let path = Path::new(entry);
            match hierarchies.unified() {
                Some(mount) if path.starts_with(mount) => hierarchies.path(path),
                Some(_) if path.is_absolute() => Some(path.to_owned()),
                _ => None,
            }
            .ok_or_else(|| CoreError::Scope(entry.clone()))
        })
        .collect()
}

/// The kernel side of a daemon with this configuration.
pub fn load_options(config: &Config) -> LoadOptions {
    LoadOptions {
        max_processes: config.kernel.max_processes,
        ring_bytes: config.kernel.ring_bytes,
        limits: config.detect.limits(),
        storms: config.detect.storms(cpus()),
        respawns: config.detect.respawns(),
        lifecycle: false,
        brake: config.kernel.brake,
    }
}

/// A loop that goes on is told of with each window, and after a window that was not bad enough when as
/// many bad ones as it takes have come again.
fn quiet_ns(limits: &Limits) -> u64 {
    u64::from(limits.window_ms) * 1_000_000 * (u64::from(limits.windows) + 3)
}

/// What `sensor doctor` would load, too.
pub fn doctor(config: &Config) -> Vec<crate::kernel::Capability> {
    let mut found = crate::kernel::doctor(&load_options(config));
    found.push(investigations::readiness::doctor(&config.investigate));
    found
}

fn policy(config: &Config) -> Policy {
    use crate::config::Mode as Configured;
    let rules = &config.respond.rules;
    let of_memory = crate::detect::memory::Rule::ALL.map(crate::detect::memory::Rule::name);
    let all = Rule::ALL.map(Rule::name).into_iter().chain(of_memory);
    Policy::with(all.map(|rule| {
        let mode = match rules.mode(rule) {
            Configured::Observe => Mode::Observe,
            Configured::Suggest => Mode::Suggest,
            Configured::Approve => Mode::Approve,
            Configured::Auto => Mode::Auto,
        };
        (rule.to_owned(), mode)
    }))
    .dry(config.respond.dry_run)
}

fn gatherer(config: &Config) -> gather::Gatherer {
    let limits = gather::Limits {
        listed: config.evidence.max_processes as usize,
        ..gather::Limits::default()
    };
    let evidence = &config.evidence;
    gather::Gatherer::new(Redactor::with_random_key(), limits)
        .with_logs(Sources::here(evidence.files.clone()), evidence.deploy_markers.clone())
}

/// The guardian with what keeps the brake alive, and its events on a channel of ours.
fn start_guardian(
    programs: &Programs,
    runtime_dir: &Path,
) -> Result<(Guardian, mpsc::UnboundedReceiver<guardian::Event>), CoreError> {
    let mut keep: Vec<OwnedFd> = programs.guardian_maps()?.into();
    for link in programs.links() {
        keep.push(link.try_clone().map_err(CoreError::Threads)?);
    }
    let (sender, events) = std_mpsc::channel();
    let guardian = Guardian::start(Launch::new(keep, runtime_dir), sender)?;
    let (forward, received) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("guardian-events".into())
        .spawn(move || {
            while let Ok(event) = events.recv() {
                if forward.send(event).is_err() {
                    return;
                }
            }
        })
        .map_err(CoreError::Threads)?;
    Ok((guardian, received))
}

/// Number of the mark that exempts our own processes: no containment has it.
const OURS: u32 = u32::MAX;

/// Neither the brake nor an action of ours may ever hit us.
fn protect_ourselves(responder: &Responder, lineage: &Lineage, guardian: &Guardian) {
    for (pid, what) in [(std::process::id(), "core"), (guardian.pid(), "guardian")] {
        responder.protection().add_own(pid, what);
        if let Some(node) = lineage.living(pid)
            && let Err(error) = lineage.exempt(node.key, OURS, u64::MAX)
        {
            tracing::warn!("the brake does not know that process {pid} is ours: {error}");
        }
    }
}
