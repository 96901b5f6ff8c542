//! Storms: from an alarm to an incident, and for an explosion to the decision whether it is contained.
//!
//! A function bomb (R2) is contained on the thread that reads the ring, as a recursion is. Whether an
//! explosion (R3) is contained takes looks at /proc and some time, so it is watched on a thread of
//! its own, which may block. Its crossing is recorded at once; an incident is opened with the verdict,
//! and none where the growth just ends: `xargs -P300` is nobody's trouble.
//!
//! Where nobody whose tree carries an explosion may be stopped, it may be that of a group of trees
//! (`detect::group`, `members`). Who belongs to it is asked anew at each look; once it stands, trees that
//! are started in the place of its own are stopped as well.

mod members;

use std::{
    collections::HashMap,
    io,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use sensor_common::{event::Alarm, gate::Rule};

use self::members::{Kept, keeps, newest};
use super::{
    containments::POLICY,
    reactor::{Found, Notice, Reactor},
    survival,
};
use crate::{
    clock,
    detect::{Finding, storm},
    evidence::{proc::Proc, room, sockets},
    kernel::{Detail, HELPER_PRIORITY, become_realtime},
    lineage::{Forest, Node, ProcessKey},
    proto,
    respond::{
        Held, Target, hold,
        policy::Decision,
        surge::{Memory, Sample, Surge, Tasks, Verdict, WATCHED_NS, YOUNG_NS},
    },
};

/// Alarms that wait for the thread. All ancestors of a storm may cross, 32 of them.
const ALARMS: usize = 128;

/// Explosions that are watched at once; a host with more of them has other troubles.
const WATCHED: usize = 16;

/// Between two looks at an explosion: a tenth of the shortest time that is left to decide.
const EVERY: Duration = Duration::from_millis(20);

/// A look takes 2 to 5 ms. Where it takes longer, this many times as long passes before the next: a
/// real-time thread that looked all the time would slow the storm down, and take that for its end.
/// But no longer than this: a limit of 1,000 may be half a second away.
const REST: u32 = 3;
const LONGEST: Duration = Duration::from_millis(100);

/// Processes whose sockets are looked at where there is no time for all of them: 0.05 ms each on an idle
/// host, and ten times that in a storm.
const PROBED: usize = 32;

const INIT: u32 = 1;

/// Of the cgroups in which the trees of a group stand, so many are asked for their limits.
const LIMITS_ASKED: usize = 8;

/// A group that turned out to be another one is judged after this: by then its own pace is known.
const SETTLED_NS: u64 = 250_000_000;

/// Groups that stand and are looked after for new trees at once, and the time between two looks.
const KEPT: usize = 16;
const KEPT_EVERY: Duration = Duration::from_millis(100);

/// Whose storm it is.
struct Storm {
    finding: Finding,
    culprit: ProcessKey,
    /// Of its newest process, with what was executed.
    ancestry: Vec<Node>,
    /// The culprit's ancestors, nearest first.
    above: Vec<ProcessKey>,
    /// Why it is not to be contained, whatever comes of its growth.
    spared: Option<String>,
}

impl Storm {
    /// Of all that is to be stopped.
    fn roots(&self) -> Vec<ProcessKey> {
        self.finding.roots()
    }
}

/// An explosion that is being watched.
struct Watched {
    storm: Storm,
    alarm: Alarm,
    surge: Surge,
    /// It was looked at before, and the sockets of [`PROBED`] of its processes.
    probed: bool,
    /// Why it is not to be contained, whatever comes of its growth.
    spared: Option<String>,
    /// The incident that it would be, unless it belongs to a known one.
    reserved: Option<String>,
    /// When it was found to be another group than before, boot clock, ns; 0: never.
    regrouped_ns: u64,
    /// Members that the group had at most.
    most: usize,
    /// A group that was to be contained: trees that join it are.
    kept: Option<Kept>,
}

impl Reactor {
    /// An alarm of R2 or R3, on the thread that reads the ring.
    pub(super) fn stormed(self: &Arc<Self>, rule: Rule, alarm: Alarm) {
        if rule != Rule::R2 {
            if self.explosions.try_send(alarm).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let Some(storm) = self.storm(rule, &alarm) else { return };
        let Storm { finding, ancestry, above, .. } = storm;
        self.found(finding, ancestry, &above, alarm, "R2 was crossed", Vec::new());
    }

    /// What an alarm is about, if it is news and within the scope.
    fn storm(&self, rule: Rule, alarm: &Alarm) -> Option<Storm> {
        // A bomb's inner nodes cross by the dozen, and a look at all processes takes its time.
        let line = self.lineage.line(alarm.process);
        if self.containments.is_told(&line, rule, alarm.crossed_ns) {
            self.tell(Notice::Alarm(*alarm));
            return None;
        }
        let forest = self.lineage.forest(Detail::Links);
        let mut finding = storm::detect(rule, alarm, &forest, &self.storms)?;
        let mut spared = None;
        if rule == Rule::R3 {
            spared = older(finding.culprit?, alarm);
            if let Some((group, why)) = self.group(finding.culprit?, alarm, &forest) {
                spared = why;
                finding.culprit = group.members.first().copied();
                finding.leaf = finding.culprit.and_then(|eldest| newest(&forest, eldest));
                finding.group = Some(group);
            }
        }
        let culprit = finding.culprit?;
        let leaf = finding.leaf?;
        // Nobody can say more of several trees below init than that each of them grows.
        if culprit.tgid <= INIT || !self.is_in_scope(culprit, leaf) {
            return None;
        }
        if !self.containments.is_news(&finding.roots(), rule, alarm.crossed_ns) {
            self.tell(Notice::Alarm(*alarm));
            return None;
        }
        let above = forest.ancestry(culprit).into_iter().skip(1).map(|node| node.key).collect();
        let mut ancestry = self.lineage.ancestry(leaf);
        if ancestry.is_empty() {
            ancestry = forest.ancestry(culprit).into_iter().cloned().collect();
        }
        Some(Storm { finding, culprit, ancestry, above, spared })
    }

    /// Both ends of the storm, as far as they live: an ancestor that crossed may be a neighbour's.
    fn is_in_scope(&self, culprit: ProcessKey, leaf: ProcessKey) -> bool {
        let within = |key: ProcessKey| {
            let path = self.hierarchies.path_of(key.tgid).ok();
            path.map(|path| self.responder.in_scope(&path))
        };
        self.responder.in_scope(Path::new("/"))
            || (within(leaf).unwrap_or(true)
                && within(culprit).unwrap_or_else(|| within(leaf) == Some(true)))
    }

    /// Records that an explosion crossed; what is to be watched of it.
    fn explodes(&self, alarm: Alarm) -> Option<Watched> {
        let storm = self.storm(Rule::R3, &alarm)?;
        self.tell(Notice::Alarm(alarm));
        if self.containments.is_settled_above(&storm.roots(), &storm.above) {
            return None;
        }
        let reserved = self.containments.reserve(&storm.roots(), &storm.above);
        let surge = Surge::new(alarm.crossed_ns, storm::per_second(&alarm));
        let (spared, most) = (storm.spared.clone(), storm.roots().len());
        Some(Watched {
            storm,
            alarm,
            surge,
            probed: false,
            spared,
            regrouped_ns: 0,
            most,
            reserved,
            kept: None,
        })
    }

    /// Looks at an explosion once; false when it has been decided.
    fn look(self: &Arc<Self>, watched: &mut Watched) -> bool {
        if watched.kept.is_some() {
            return self.keep(watched);
        }
        // Another rule was quicker, or a person.
        if self.containments.is_settled_above(&watched.storm.roots(), &watched.storm.above) {
            return false;
        }
        let now_ns = clock::boot_ns();
        let forest = self.lineage.forest(Detail::Links);
        self.refresh(watched, &forest);
        let living = living(&forest, &watched.storm.roots());
        if living.is_empty() {
            // A group whose trees share nothing just now may be one again in a moment.
            let watched_ns = now_ns.saturating_sub(watched.alarm.crossed_ns);
            return watched.storm.finding.group.is_some() && watched_ns < WATCHED_NS;
        }
        let is_group = watched.storm.finding.group.is_some();
        let (tasks, memory) = self.room(&forest, &living, is_group, watched.probed);
        let sample = Sample {
            memory,
            tasks,
            // Counted again: what stands above takes its time on a busy host.
            live: self.living(watched).len() as u32,
            at_ns: clock::boot_ns(),
        };
        let live = sample.live;
        let verdict = watched.surge.judge(sample);
        if !watched.probed && verdict == Verdict::Wait {
            watched.spared =
                watched.spared.take().or_else(|| look_for_servers(&some(&living)).err());
        }
        watched.probed = true;
        // How fast other trees grow is not known at once.
        if now_ns < watched.regrouped_ns + SETTLED_NS {
            return true;
        }
        match (verdict, &watched.spared) {
            (Verdict::Wait, _) => return true,
            (Verdict::Stopped(why), _) => {
                let culprit = watched.storm.culprit.tgid;
                tracing::info!("the tree of process {culprit} exploded, and stopped: {why}");
            }
            (Verdict::Leave(why), _) => self.leave(watched, live, &why, Vec::new()),
            (Verdict::Contain(end) | Verdict::ContainNow(end), Some(spared)) => {
                self.leave(watched, live, &format!("{spared}; {end}"), Vec::new());
            }
            (Verdict::ContainNow(why), None) => {
                self.decide_at_once(watched, live, &why);
                return keeps(watched, now_ns);
            }
            (Verdict::Contain(why), None) => {
                let spared = look_for_servers(&self.living(watched));
                self.decide(watched, live, &why, spared, Vec::new());
                return keeps(watched, now_ns);
            }
        }
        false
    }

    /// The limit is near, and to look at every process takes longer than there may be left. So the tree
    /// is kept from forking meanwhile, which nobody in it notices; where that cannot be, a few of its
    /// processes have to do.
    fn decide_at_once(self: &Arc<Self>, watched: &mut Watched, live: u32, why: &str) {
        let hold = self.hold(watched, why);
        let living = match &hold {
            // Who joins a group while it is held is not looked at, nor contained by this.
            Some((held, _)) => living(&self.lineage.forest(Detail::Links), &held.roots),
            None => self.living(watched),
        };
        let Some((held, mut brake)) = hold else {
            let spared = look_for_servers(&some(&living));
            return self.decide(watched, live, why, spared, Vec::new());
        };
        let spared = look_for_servers(&living);
        brake.braked = Some(self.responder.braked(held.mark));
        self.decide(watched, live, why, spared, vec![brake]);
        self.containments.end_hold(&held.incident);
        if !self.containments.is_settled_above(&watched.storm.roots(), &watched.storm.above) {
            let action = self.responder.let_go(&held, POLICY, "it is not contained");
            self.guardian.disarm(&held.incident);
            self.tell(Notice::Acted { incident: held.incident, action });
        }
    }

    fn decide(
        self: &Arc<Self>,
        watched: &Watched,
        live: u32,
        why: &str,
        spared: Result<(), String>,
        actions: Vec<proto::Action>,
    ) {
        match spared {
            Ok(()) => self.stop(watched, live, why, actions),
            Err(spared) => self.leave(watched, live, &format!("{spared}; {why}"), actions),
        }
    }

    /// Keeps a tree from forking while it is judged, where policy would have it contained.
    fn hold(&self, watched: &Watched, why: &str) -> Option<(Held, proto::Action)> {
        let paused = self.paused.load(Ordering::Relaxed);
        let Decision::Contain { .. } = self.policy.decide(Rule::R3.name(), true, paused) else {
            return None;
        };
        let Storm { above, finding, .. } = &watched.storm;
        let (incident, mark) = self.containments.hold(&finding.roots(), above)?;
        let target = Target {
            incident: incident.clone(),
            mark,
            roots: finding.roots(),
            leaf: finding.leaf,
            brake_until_ns: clock::boot_ns() + hold::LONGEST_NS,
            by: POLICY.into(),
            why: format!("R3 was crossed, and {why}: it is held while it is judged"),
        };
        let forest = self.lineage.forest(Detail::Links);
        let held = self.responder.hold(&target, &forest, &mut |held| {
            self.guardian.arm(held.arm(target.brake_until_ns, target.brake_until_ns));
        });
        if held.is_none() {
            self.guardian.disarm(&incident);
            self.containments.end_hold(&incident);
        }
        held
    }

    fn living(&self, watched: &mut Watched) -> Vec<ProcessKey> {
        let forest = self.lineage.forest(Detail::Links);
        self.refresh(watched, &forest);
        living(&forest, &watched.storm.roots())
    }

    /// The limits that these would meet first. Where those of a group stand in several cgroups, each of
    /// which may have its own, the widest counts: what one of them has left says nothing about all.
    fn room(
        &self,
        forest: &Forest,
        living: &[ProcessKey],
        is_group: bool,
        with_memory: bool,
    ) -> (Option<Tasks>, Option<Memory>) {
        let mut places: HashMap<u64, ProcessKey> = HashMap::new();
        let asked = if is_group { living.len() } else { 1 };
        for node in living.iter().take(asked).filter_map(|key| forest.get(*key)) {
            places.entry(node.cgroup).or_insert(node.key);
        }
        let proc = Proc::default();
        let asked = places.values().take(LIMITS_ASKED);
        let tasks = asked.map(|key| room::tasks(proc.root(), &self.hierarchies, key.tgid));
        // What cannot be read may be wider.
        let tasks: Option<Vec<Tasks>> = tasks.collect();
        let tasks = tasks.and_then(|all| all.into_iter().max_by_key(|tasks| tasks.left));
        // Takes its time, and says nothing yet when the watch begins.
        let memory = (with_memory && places.len() == 1)
            .then(|| room::memory(&proc, &self.hierarchies, living))
            .flatten();
        (tasks, memory)
    }

    /// It goes on and is left alone; an incident says so, and why.
    fn leave(&self, watched: &Watched, live: u32, why: &str, actions: Vec<proto::Action>) {
        let Storm { finding, ancestry, above, .. } = &watched.storm;
        self.tell(Notice::Found(Box::new(Found {
            finding: storm::watched(finding.clone(), judged_ns(&actions), live),
            ancestry: ancestry.clone(),
            incident: self.containments.incident_of(&finding.roots(), above),
            decision: Decision::Suggest { why: format!("R3 was crossed, but {why}") },
            alarm: watched.alarm,
            actions,
        })));
    }

    /// It is to be contained, if policy has it so.
    fn stop(
        self: &Arc<Self>,
        watched: &Watched,
        live: u32,
        why: &str,
        actions: Vec<proto::Action>,
    ) {
        let Storm { finding, ancestry, above, .. } = &watched.storm;
        let finding = storm::watched(finding.clone(), judged_ns(&actions), live);
        let finding = Finding { contain: true, confidence: SURE, ..finding };
        let why = format!("R3 was crossed, and {why}");
        self.found(finding, ancestry.clone(), above, watched.alarm, &why, actions);
    }
}

/// Why a process is left alone for its age.
fn older(culprit: ProcessKey, alarm: &Alarm) -> Option<String> {
    let age_ns = alarm.crossed_ns.saturating_sub(culprit.start_ns);
    (age_ns >= YOUNG_NS).then(|| {
        let minutes = age_ns / 60_000_000_000;
        format!("its tree is {minutes} minutes old, and no newcomer")
    })
}

fn living(forest: &Forest, roots: &[ProcessKey]) -> Vec<ProcessKey> {
    let trees = roots.iter().flat_map(|root| forest.tree(*root));
    trees.filter(|(node, _)| node.alive).map(|(node, _)| node.key).collect()
}

/// When an explosion was judged, boot clock: before anything was done about it.
fn judged_ns(actions: &[proto::Action]) -> u64 {
    actions.first().map_or_else(clock::boot_ns, |first| first.started_ns)
}

/// A few processes of a tree, parents first, and the culprit before all: workers have a socket from
/// them.
fn some(living: &[ProcessKey]) -> Vec<ProcessKey> {
    living.iter().step_by((living.len() / PROBED).max(1)).copied().collect()
}

/// An error is why the tree of these is to be left alone.
fn look_for_servers(processes: &[ProcessKey]) -> Result<(), String> {
    match sockets::listener(Proc::default().root(), processes) {
        Ok(None) => Ok(()),
        Ok(Some(server)) => Err(format!(
            "process {} of its tree listens on a socket: a server may start its workers",
            server.tgid
        )),
        Err(unseen) => Err(format!("nobody can say whether it is a server: {unseen}")),
    }
}

/// Of an explosion that went on: more than the gate's own 0.6.
const SURE: f64 = 0.85;

/// Where the thread that reads the ring leaves explosions; the other end is for [`start`].
pub fn channel() -> (SyncSender<Alarm>, Receiver<Alarm>) {
    sync_channel(ALARMS)
}

/// Starts the thread that watches explosions. It ends with the reactor.
///
/// Real-time where allowed, because nothing less gets its turn: with a session for each process of the
/// storm, and so a group of its own in the scheduler, a thread of the highest ordinary priority took
/// 300 ms for 20 ms of work.
pub fn start(reactor: &Arc<Reactor>, alarms: Receiver<Alarm>) -> io::Result<()> {
    let realtime = reactor.realtime;
    let reactor = Arc::downgrade(reactor);
    thread::Builder::new().name("storms".into()).spawn(move || {
        // That it is refused was told of the thread that reads the ring.
        let _ = realtime.then(|| become_realtime(HELPER_PRIORITY));
        survival::warm_up();
        // A mistake about one storm must not leave the next ones unseen.
        while panic::catch_unwind(AssertUnwindSafe(|| watch(&reactor, &alarms))).is_err() {
            tracing::error!("what was known of the explosions that are watched is lost");
        }
    })?;
    Ok(())
}

fn watch(reactor: &Weak<Reactor>, alarms: &Receiver<Alarm>) {
    let mut watched: Vec<Watched> = Vec::new();
    let mut pause = EVERY;
    loop {
        let alarm = if watched.is_empty() {
            match alarms.recv() {
                Ok(alarm) => Some(alarm),
                Err(_) => return,
            }
        } else {
            match alarms.recv_timeout(pause) {
                Ok(alarm) => Some(alarm),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let Some(reactor) = reactor.upgrade() else { return };
        if let Some(explosion) = alarm.and_then(|alarm| reactor.explodes(alarm)) {
            if watched.iter().filter(|one| one.kept.is_none()).count() < WATCHED {
                watched.push(explosion);
            } else {
                let why = format!("{WATCHED} others are watched already");
                reactor.leave(&explosion, explosion.alarm.live, &why, Vec::new());
            }
        }
        let began = Instant::now();
        watched.retain_mut(|explosion| {
            let go_on = reactor.look(explosion);
            if let Some(reserved) = explosion.reserved.as_ref().filter(|_| !go_on) {
                // What was decided is an incident by now.
                reactor.containments.release(reserved);
            }
            go_on
        });
        let surplus = watched.iter().filter(|one| one.kept.is_some()).count().saturating_sub(KEPT);
        for _ in 0..surplus {
            let eldest = watched.iter().position(|one| one.kept.is_some());
            eldest.map(|eldest| watched.remove(eldest));
        }
        let judging = watched.iter().any(|one| one.kept.is_none());
        let least = if judging { EVERY } else { KEPT_EVERY };
        pause = (began.elapsed() * REST).clamp(least, LONGEST);
    }
}
