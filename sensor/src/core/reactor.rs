//! What happens on the thread that reads the ring: an alarm becomes a finding, and where policy says
//! so, the brake and the first sweep follow at once. Everything slower is the desk's.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    thread,
};

use sensor_common::{
    event::{Alarm, Braked, Exec},
    gate::{Level, Rule},
    recursion::Limits,
    respawn, storm,
};
use tokio::sync::mpsc;

use super::{
    containments::{Containment, Containments, POLICY, Turn},
    growth::Grown,
    oom::{Ending, Marking},
    respawn::Respawning,
    term::{Term, Times},
};
use crate::{
    cgroup::Hierarchies,
    detect::{
        Finding,
        memory::Over,
        recursion::{self, Crossing},
    },
    kernel::{Event, HELPER_PRIORITY, Lineage, Told, Witness, become_realtime},
    lineage::{Node, ProcessKey},
    proto,
    respond::{
        Contained, Held, Rehearsal, Responder, Target,
        guardian::Guardian,
        policy::{Decision, Policy},
    },
};

/// Messages that wait for the desk. A bomb's execs may overflow it, and are counted then.
pub const MESSAGES: usize = 4096;

/// A dry run counts for so long: the storms that were measured fill a host in that time.
pub const REHEARSED_NS: u64 = 10_000_000_000;

/// What the desk learns.
#[derive(Debug)]
pub enum Notice {
    Alarm(Alarm),
    Found(Box<Found>),
    /// Something was done about an incident.
    Acted {
        incident: String,
        action: proto::Action,
    },
    /// A dry run has begun.
    Rehearsing(Box<Rehearsal>),
    Respawned(Box<Respawning>),
    /// Memory grows.
    Grown(Box<Grown>),
    /// Memory grows no more.
    Shrunk(Over),
    /// The OOM killer took a process.
    Oom(Box<Marking>),
    /// Somebody else's SIGKILL ended one.
    Ended(Box<Ending>),
    /// What a containment came to.
    Contained {
        incident: String,
        contained: Contained,
        thaw_ns: u64,
        turn: Containing,
    },
    Exec(Box<Exec>),
    Braked(Braked),
    /// A look at memory that is worth a record.
    Pressure(Box<proto::Pressure>),
    /// The same of percentages.
    Usage(proto::Usage),
}

/// Why something is contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containing {
    First,
    /// It grew after it was thawed.
    Again,
    /// Trees have joined a group that stands.
    Joined,
}

/// A finding, and what was decided about it.
#[derive(Debug)]
pub struct Found {
    pub finding: Finding,
    /// The chain that it rests on, crossing first.
    pub ancestry: Vec<Node>,
    pub incident: String,
    pub decision: Decision,
    pub alarm: Alarm,
    /// What was done until it was decided.
    pub actions: Vec<proto::Action>,
}

/// All that the thread needs, made before it starts.
pub struct Reactor {
    pub lineage: Arc<Lineage>,
    pub responder: Arc<Responder>,
    pub hierarchies: Hierarchies,
    pub guardian: Arc<Guardian>,
    pub containments: Arc<Containments>,
    pub policy: Policy,
    pub limits: Limits,
    pub storms: storm::Limits,
    pub respawns: respawn::Limits,
    /// Alarms of R3, for the thread that watches explosions.
    pub explosions: SyncSender<Alarm>,
    pub times: Times,
    /// Threads that react are real-time where that is allowed.
    pub realtime: bool,
    pub paused: Arc<AtomicBool>,
    pub notices: mpsc::Sender<Notice>,
    /// Who hears what is executed in groups that are watched.
    pub witness: Arc<Witness>,
    /// Notices that did not fit.
    pub lost: Arc<AtomicU64>,
}

impl Reactor {
    /// Handles one event of the ring. Never waits.
    pub fn handle(self: &Arc<Self>, event: Event) {
        match event {
            Event::Alarm(alarm) => self.alarm(alarm),
            Event::Respawned(respawned) => self.respawned(&respawned),
            Event::Exec(exec) => {
                if self.in_scope(exec.process.tgid) {
                    self.tell(Notice::Exec(exec));
                }
            }
            Event::Braked(braked) => self.braked(braked),
            Event::Marked(marked) => self.marked(&marked),
            Event::Killed(killed) => self.killed(*killed),
            Event::Ran(ran) => self.witness.tell(Told::Ran(ran)),
            Event::Left(left) => self.witness.tell(Told::Left(left)),
            // A daemon never asks for the lifecycle.
            Event::Forked(_) | Event::Executed(_) | Event::Exited(_) => {}
        }
    }

    fn alarm(self: &Arc<Self>, alarm: Alarm) {
        let (Some(level), Some(rule)) = (Level::of(alarm.level), Rule::of(alarm.rule)) else {
            return;
        };
        if matches!(rule, Rule::R2 | Rule::R3) {
            return self.stormed(rule, alarm);
        }
        if !self.in_scope(alarm.process.tgid) {
            return;
        }
        let crossing = |ancestry| Crossing {
            level,
            rule,
            repetitions: alarm.repetitions,
            span_ns: alarm.span_ns,
            live: alarm.live,
            crossed_ns: alarm.crossed_ns,
            ancestry,
        };
        if level < Level::Open {
            self.tell(Notice::Alarm(alarm));
            return;
        }
        let crossing = crossing(self.lineage.ancestry(alarm.process));
        let Some(finding) = recursion::detect(&crossing, &self.limits) else { return };
        let Some(culprit) = finding.culprit else { return };
        let above: Vec<ProcessKey> = crossing
            .ancestry
            .iter()
            .map(|node| node.key)
            .skip_while(|key| *key != culprit)
            .skip(1)
            .collect();
        let why = format!("{} was crossed", finding.rule);
        self.found(finding, crossing.ancestry, &above, alarm, &why, Vec::new());
    }

    /// Tells the desk about a finding, and contains its culprit where policy says so. `above`: the
    /// culprit's ancestors, nearest first; `why`: what is said of a containment; `actions`: what was
    /// done to it until now.
    pub(super) fn found(
        self: &Arc<Self>,
        finding: Finding,
        ancestry: Vec<Node>,
        above: &[ProcessKey],
        alarm: Alarm,
        why: &str,
        actions: Vec<proto::Action>,
    ) {
        let roots = finding.roots();
        if roots.is_empty() {
            return;
        }
        let paused = self.paused.load(Ordering::Relaxed);
        let decision = self.policy.decide(finding.rule, finding.contain, paused);
        let turn = match &decision {
            Decision::Contain { .. } => self.containments.claim(&roots, above),
            Decision::Rehearse { .. } | Decision::Suggest { .. } | Decision::Observe { .. } => {
                Turn::Leave { incident: self.containments.incident_of(&roots, above) }
            }
        };
        let (incident, mark) = match turn {
            Turn::Contain { incident, mark } => (incident, Some(mark)),
            Turn::Leave { incident } => (incident, None),
        };
        let leaf = finding.leaf;
        let told = incident.clone();
        let rehearsed = matches!(decision, Decision::Rehearse { .. });
        let found = Found { finding, ancestry, incident: told, decision, alarm, actions };
        self.tell(Notice::Found(Box::new(found)));
        if rehearsed && let Some((incident, mark)) = self.containments.hold(&roots, above) {
            let until_ns = self.times.term(REHEARSED_NS).release_ns;
            let target = target(incident, mark, roots.clone(), leaf, until_ns, why);
            self.rehearse(target);
        }
        if let Some(mark) = mark {
            let term = self.times.term(self.times.freeze_ns);
            let target = target(incident, mark, roots, leaf, term.release_ns, why);
            self.contain(target, term, Containing::First);
        }
    }

    /// Counts what containing the target would do, for a while.
    fn rehearse(&self, target: Target) {
        let incident = target.incident.clone();
        match self.responder.rehearse(target) {
            Ok(rehearsal) => self.tell(Notice::Rehearsing(Box::new(rehearsal))),
            Err(action) => {
                self.containments.end_hold(&incident);
                self.tell(Notice::Acted { incident, action: *action });
            }
        }
    }

    /// A marked process tried to fork or to execute. While it is being frozen the sweep sees to it;
    /// after a thaw it is regrowth.
    fn braked(self: &Arc<Self>, braked: Braked) {
        self.tell(Notice::Braked(braked));
        let Some(thawed) = self.containments.claim_again(braked.number) else { return };
        let term = self.times.term(thawed.term.freeze_ns);
        let target = Target {
            brake_until_ns: term.release_ns,
            ..thawed.target("it grew again after the thaw")
        };
        self.contain(target, term, Containing::Again);
    }

    /// Brake and first sweep here, the rest on a thread of its own.
    pub(super) fn contain(self: &Arc<Self>, target: Target, term: Term, turn: Containing) {
        let (mark, leaf) = (target.mark, target.leaf);
        let incident = target.incident.clone();
        let guardian = Arc::clone(&self.guardian);
        let mut armed = move |held: &Held| term.arm(&guardian, held);
        let this = Arc::clone(self);
        let finish = move |contained: Contained| {
            let entry = term.entry(&contained, &incident, leaf, &this.guardian);
            if turn != Containing::First
                && this.containments.is_let_run(&incident)
                && let Some(Containment { held, .. }) = &entry
            {
                // A person let it run while it was being stopped once more.
                this.containments.settle(mark, None);
                let action = this.responder.release(held, POLICY, "a person let it run");
                this.guardian.disarm(&incident);
                return this.tell(Notice::Acted { incident, action });
            }
            this.containments.settle(mark, entry);
            let thaw_ns = term.thaw_ns;
            this.tell(Notice::Contained { incident, contained, thaw_ns, turn });
        };
        match self.responder.begin(&target, &mut armed) {
            Err(actions) => finish(Contained { held: None, actions }),
            Ok(started) => {
                let responder = Arc::clone(&self.responder);
                let realtime = self.realtime;
                let sweep = move || {
                    // Among 300 tasks of a bomb an ordinary thread gets its turn every 25 ms. That it is
                    // refused was told of the thread that reads the ring.
                    let _ = realtime.then(|| become_realtime(HELPER_PRIORITY));
                    finish(responder.settle(started, &mut armed));
                };
                // Without a thread the first sweep has to do; a host that has none left is at its end.
                if let Err(error) = thread::Builder::new().name("sweep".into()).spawn(sweep) {
                    tracing::error!("cannot start the thread that sweeps: {error}");
                }
            }
        }
    }

    pub(super) fn in_scope(&self, tgid: u32) -> bool {
        self.responder.in_scope(Path::new("/"))
            || self.hierarchies.path_of(tgid).is_ok_and(|path| self.responder.in_scope(&path))
    }

    pub(super) fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn target(
    incident: String,
    mark: u32,
    roots: Vec<ProcessKey>,
    leaf: Option<ProcessKey>,
    brake_until_ns: u64,
    why: &str,
) -> Target {
    Target { incident, mark, roots, leaf, brake_until_ns, by: POLICY.into(), why: why.into() }
}

/// An alarm as it is recorded. `code`: of a respawn loop how the newest failure ended, else 0.
pub fn observation(alarm: &Alarm, code: u32) -> proto::Observation {
    let key = |key: ProcessKey| Some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns });
    let level = match Level::of(alarm.level) {
        Some(Level::Contain) => "contain",
        Some(Level::Open) => "open",
        Some(Level::Watch) => "watch",
        _ => "calm",
    };
    let alarm = proto::Alarm {
        rule: Rule::of(alarm.rule).map_or("", Rule::name).into(),
        level: level.into(),
        process: key(alarm.process),
        top: key(alarm.top),
        repetitions: alarm.repetitions,
        span_ns: alarm.span_ns,
        live: alarm.live,
        crossed_ns: alarm.crossed_ns,
        grown: alarm.grown,
        forks: alarm.forks,
        exits: alarm.exits,
        code,
    };
    proto::Observation { fact: Some(proto::observation::Fact::Alarm(alarm)) }
}
