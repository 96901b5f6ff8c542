//! The daemon: brings the parts up in order, lets them work, takes them down in order.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    CoreError, configured,
    containments::Containments,
    deadman,
    desk::{Desk, Done},
    growth::{Before, Growth},
    investigations::{Investigations, Place},
    memory::{Sampler, Sampling},
    oom,
    pressure::Shortages,
    reactor::{MESSAGES, Notice, Reactor},
    reins::Reins,
    seconds::Seconds,
    storm,
    succession::Legacy,
    survival,
    term::Times,
    trees::Trees,
};
use crate::{
    cgroup::Hierarchies,
    clock,
    config::Config,
    evidence::Parser,
    feed::{
        link::{Link, LinkOptions, Question},
        runs::Doors,
        webhooks::link::{Told, Webhooks, WebhooksOptions},
    },
    host::{Host, cpus},
    investigate,
    kernel::{Brake, Gear, Kernel, Programs, Reader},
    proto::{self, observation::Fact, record::Body},
    record::{Draft, Log, LogOptions, Opened, reach},
    respond::{
        Options, Responder,
        guardian::{self, Predecessor},
        protect::Additions,
    },
    vitals::Recorder,
};

/// The ring's thread looks by itself so often, for the case that the desk, which has it look each second, is held up.
const RING_LOOKS: Duration = Duration::from_secs(5);

/// As it goes down, the desk hears out the threads that react: what they had begun takes this long at most, and who
/// has said nothing for so long has said it all.
const LAST_WORDS: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(20);

/// Everything that runs.
pub struct Daemon {
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
    pub fn start(config: &Config) -> Result<Self, CoreError> {
        if let Err(error) = survival::take_small_pages() {
            tracing::debug!("large pages may be more than is needed: {error}");
        }
        let host = Host::read();
        let (started_at, started_ns) = (clock::wall(), clock::boot_ns());
        let feeder = configured::Feeder::find(&config.feed.user);
        let serve_user = feeder.ids;
        if let Some(user) = serve_user {
            match reach::barrier(&config.state_dir, user) {
                Ok(None) => {}
                Ok(Some(barrier)) => return Err(CoreError::Barrier { barrier, uid: user.0 }),
                Err(error) => {
                    tracing::warn!("whether the feed can reach its log is not known: {error}");
                }
            }
        }
        prepare_runtime_dir(&config.runtime_dir)?;
        let hierarchies = Hierarchies::discover()?;
        let scope = configured::scope(&config.scope.cgroup, &hierarchies)?;
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

        let mut degradations = configured::absent(&scope, &hierarchies);
        degradations.extend(feeder.told.err());
        // Nothing is known of trees before the kernel side is there.
        let counted: Arc<OnceLock<Arc<Trees>>> = Arc::default();
        let before = std::mem::take(&mut opened.vitals);
        let recorder = recorder(&config.state_dir, &log, before, Arc::clone(&counted))
            .map_err(|error| degradations.push(format!("no flight recorder: {error}")))
            .ok();
        if let Err(error) = survival::outlive() {
            degradations.push(format!("the OOM killer may take the daemon as any other: {error}"));
        }
        let kernel = Kernel::start(&configured::load_options(config))?;
        let Kernel { programs, lineage, ring, brake, baseline_processes } = kernel;
        // To read the kernel's types took ten times what is held later: what is locked cannot be given back.
        survival::trim();
        if config.kernel.realtime
            && let Err(error) = survival::lock_memory()
        {
            degradations.push(format!("memory may be paged out: {error}"));
        }
        degradations.extend(lacks(&programs, &brake, config.kernel.brake));
        tracing::info!("brake: {}", brake.gear());
        let lineage = Arc::new(lineage);
        let reins =
            Arc::new(Reins { lineage: Arc::clone(&lineage), brake, visitor: programs.visitor() });

        let predecessor = Predecessor::find(&config.runtime_dir)?;
        let (guardian, guardian_events) = deadman::start(&programs, &config.runtime_dir)?;
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
        deadman::protect_ourselves(&responder, &lineage, &guardian);

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
            policy: configured::policy(config),
            limits: config.detect.limits(),
            storms: config.detect.storms(cpus()),
            respawns: config.detect.respawns(),
            explosions,
            times,
            realtime: config.kernel.realtime,
            paused: Arc::clone(&paused),
            notices: notice_sender,
            witness: programs.witness(),
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
            tcp: configured::tcp(&config.feed.tcp),
            tail: log.tail(),
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
        let gatherer = Arc::new(configured::gatherer(config).with_parser(parser));
        let (memory, witness) = (programs.memory(), programs.witness());
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
                    manager: investigate::Manager::find(),
                    scratch,
                    doors,
                    witness,
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
            degradations,
            acting: HashSet::new(),
            matters: HashMap::new(),
            sources: HashMap::new(),
            loops: HashMap::new(),
            given: HashMap::new(),
            unseen: HashMap::new(),
            deaths: oom::Deaths::default(),
            quiet_ns: configured::quiet_ns(&config.detect.respawns()),
            shortages,
            unread: false,
        };
        desk.begin(&opened, baseline_processes);
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
        let handle = move |event| reactor.handle(event);
        let reader = Reader::start(ring, config.kernel.realtime, RING_LOOKS, told, handle)
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

    /// Until it is told to end.
    pub async fn work(self) -> Result<(), CoreError> {
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
        tail.mark_changed();
        let seconds = Seconds::start().map_err(CoreError::Threads)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(CoreError::Threads)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CoreError::Threads)?;
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
                // What a webhook hears of is a sign of life of the desk's as well.
                Ok(()) = tail.changed(), if webhooks.is_some() => {
                    let seq = *tail.borrow_and_update();
                    if let Some(webhooks) = &webhooks {
                        webhooks.set_tail(seq);
                    }
                }
                () = seconds.tick() => {
                    reader.nudge();
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
        desk.hear_out(&mut notices, &mut done).await;
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
    /// The first record of this run.
    fn begin(&mut self, opened: &Opened, baseline_processes: u32) {
        for degradation in &self.degradations {
            tracing::warn!("{degradation}");
        }
        tracing::info!("watching {baseline_processes} processes on {}", self.host.kernel);
        self.log.append_durable(Draft::of(
            "",
            Body::Started(proto::Started {
                version: env!("CARGO_PKG_VERSION").into(),
                kernel: self.host.kernel.clone(),
                degradations: self.degradations.clone(),
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

    /// What was seen until now is recorded, and above all what was done: what the daemon leaves behind frozen would
    /// otherwise be nobody's, and a person who has it done would not hear of it.
    async fn hear_out(
        &mut self,
        notices: &mut mpsc::Receiver<Notice>,
        done: &mut mpsc::UnboundedReceiver<Done>,
    ) {
        let end = Instant::now() + LAST_WORDS;
        loop {
            let acts = self.containments.are_busy() || !self.acting.is_empty();
            let until = end.min(Instant::now() + if acts { LAST_WORDS } else { SILENCE });
            tokio::select! {
                Some(notice) = notices.recv() => self.notice(notice),
                // What was looked into begins nothing any more.
                Some(done) = done.recv() => if done.is_deed() { self.finished(done) },
                () = sleep_until(until) => break,
            }
        }
        self.tell_waiting_ends();
    }
}

/// What this kernel does not do for us.
fn lacks(programs: &Programs, brake: &Brake, wanted: Gear) -> Vec<String> {
    let mut lacks = Vec::new();
    if let Some(why) = &programs.no_baseline {
        lacks.push(format!("no baseline: {why}"));
    }
    if let Some(why) = programs.memory().refused() {
        lacks.push(format!("memory is sampled from /proc: {why}"));
    }
    if let Err(why) = &programs.understudies {
        lacks.push(format!("nobody stands in for skipped programs: {why}"));
    }
    if let Err(why) = &programs.stalls {
        lacks.push(format!("not all time in reclaim is counted: {why}"));
    }
    if brake.gear() == Gear::Signals && wanted < Gear::Signals {
        let why: Vec<_> = brake.refused().iter().map(|(_, why)| why.as_str()).collect();
        lacks.push(format!("forks cannot be paused: {}", why.join("; ")));
    }
    lacks
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

fn prepare_runtime_dir(path: &Path) -> Result<(), CoreError> {
    fs::create_dir_all(path)
        .map_err(|source| CoreError::RuntimeDir { path: path.to_owned(), source })
}
