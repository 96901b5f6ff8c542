//! The desk: where findings, actions and requests meet. It alone changes incidents, and writes down
//! everything that happens to them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use sensor_common::{event, lineage::ARGV_KEPT};
use sensor_proto::internal::v1::Report;
use tokio::sync::mpsc;
use tonic::Code;

use super::{
    Reins,
    containments::{Containments, GUARDIAN, POLICY},
    findings::SourceRead,
    growth::Stopped,
    investigations::{Asked, Investigations, Progress},
    memory::Sampling,
    oom::Deaths,
    pressure::Shortages,
    reactor::{Containing, Found, Notice, Times, observation},
    requests::{self, Acted},
    respawn::Looping,
    resume::{CutOff, Recalled},
    study::{self, Study, Subject},
    trees::Trees,
};
use crate::{
    clock,
    detect::{
        Finding,
        group::{By, Group},
    },
    diagnose::pressure::Shortage,
    evidence::gather::{Gatherer, Restarted},
    feed::link::Reply,
    host::Host,
    incident::{self, Change, Incidents, Scene, headline},
    investigate::Driver,
    kernel::{Lineage, Programs, split},
    lineage::{Forest, Node, ProcessKey},
    proto::{
        self, ActionKind, Incident, State, evidence::Content, observation::Fact, record::Body,
    },
    record::{Draft, Log, Receipt},
    respond::{Contained, Rehearsal, Responder, guardian::Guardian, policy::Decision},
    vitals::Recorder,
};

/// Work that was done beside the desk.
#[derive(Debug)]
pub enum Done {
    /// An incident that was opened a moment ago is to be looked at, unless it was meanwhile.
    StudyDue(String),
    /// An incident about OOM kills is to be looked at, also where it was before.
    OomDue(String),
    Studied(Study),
    Investigated(Progress),
    /// An investigation that was cut off, with its past.
    Recalled(Box<Result<Recalled, (CutOff, String)>>),
    /// A person's action was carried out.
    Acted(Box<Acted>),
    /// What grew was stopped, or could not be.
    Stopped(Box<Stopped>),
    /// An action on this incident came to no end.
    Abandoned(String),
    /// A file was looked at for an investigator.
    Source(Box<SourceRead>),
}

/// An incident as it was just recorded, and the promise that the record becomes durable.
pub struct Announced {
    pub incident: Incident,
    pub receipt: Receipt,
}

/// Everything that the desk works with.
pub struct Desk {
    pub log: Log,
    /// None where it could not be started.
    pub recorder: Option<Recorder>,
    pub memory: Sampling,
    pub host: Host,
    pub lineage: Arc<Lineage>,
    pub trees: Arc<Trees>,
    pub programs: Programs,
    pub reins: Arc<Reins>,
    pub responder: Arc<Responder>,
    pub containments: Arc<Containments>,
    pub guardian: Arc<Guardian>,
    pub gatherer: Arc<Gatherer>,
    pub investigations: Investigations,
    /// Of an earlier run, until they are taken up.
    pub cut_off: Vec<CutOff>,
    pub incidents: Incidents,
    pub times: Times,
    pub paused: Arc<AtomicBool>,
    /// Notices that the reactor could not hand over.
    pub overflow: Arc<AtomicU64>,
    pub done: mpsc::UnboundedSender<Done>,
    /// Dry runs that are going on.
    pub rehearsals: Vec<Rehearsal>,
    /// Losses that were already recorded, by reason.
    pub losses: HashMap<&'static str, u64>,
    /// At the last look the kernel had skipped something.
    pub missed: bool,
    /// State of the feed.
    pub feed: tokio::sync::watch::Receiver<proto::PartStatus>,
    /// State of the webhooks, where there are some.
    pub webhooks: Option<tokio::sync::watch::Receiver<proto::PartStatus>>,
    pub started_at: prost_types::Timestamp,
    /// As configured, for the status.
    pub scope: Vec<String>,
    /// Incidents that a person, or policy about growth, acts on just now: what came of it is recorded before their end.
    pub acting: HashSet<String>,
    /// What each unresolved incident is about.
    pub matters: HashMap<String, Matter>,
    /// Respawn loops by their incident.
    pub loops: HashMap<String, Looping>,
    /// Memory incidents of an earlier run that this one has not seen grow, and since when it looks, ns.
    pub unseen: HashMap<String, u64>,
    /// What is known of kills.
    pub deaths: Deaths,
    /// How long nobody has told of one that is over, ns.
    pub quiet_ns: u64,
    pub shortages: Shortages,
    /// What the files of the last explanation say could not be read.
    pub unread: bool,
}

/// What an incident is about, and how far it has been looked at.
pub struct Matter {
    pub subject: Subject,
    /// It is being looked at just now.
    studying: bool,
    /// Once more when that is done: much has changed.
    again: bool,
    studied: bool,
    /// What the look that goes on has found so far.
    evidence: Vec<proto::Evidence>,
    /// Investigations that people wait for.
    asked: Vec<(Driver, Reply)>,
    /// Files that investigators have asked for.
    pub sources: u32,
}

impl Matter {
    pub fn new(incident: &str, finding: Finding) -> Self {
        let incident = incident.to_owned();
        let subject =
            Subject { incident, finding, restarted: None, killing: None, shortage: None, given: 0 };
        Self {
            subject,
            studying: false,
            again: false,
            studied: false,
            evidence: Vec::new(),
            asked: Vec::new(),
            sources: 0,
        }
    }

    /// The same of a shortage.
    pub fn short(incident: &str, finding: Finding, shortage: Shortage) -> Self {
        let mut matter = Self::new(incident, finding);
        matter.subject.shortage = Some(shortage);
        matter
    }

    /// The same of a respawn loop.
    pub fn restarting(incident: &str, finding: Finding, restarted: Restarted) -> Self {
        let mut matter = Self::new(incident, finding);
        matter.subject.restarted = Some(restarted);
        matter
    }
}

/// An incident that is not contained at once is looked at after this long: most are contained a
/// moment later, and a tree that stands shows more.
const STUDY_DELAY: Duration = Duration::from_millis(300);

impl Desk {
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Alarm(alarm) => {
                self.log.append(Draft::bulk(Body::Observation(observation(&alarm, 0))));
            }
            Notice::Found(found) => self.found(*found),
            Notice::Rehearsing(rehearsal) => self.rehearsals.push(*rehearsal),
            Notice::Acted { incident, action } => self.act(&incident, action),
            Notice::Respawned(respawning) => self.respawned(*respawning),
            Notice::Grown(grown) => self.grown(*grown),
            Notice::Shrunk(over) => self.shrunk(&over),
            Notice::Oom(marking) => self.oom(*marking),
            Notice::Ended(ending) => self.ended(*ending),
            Notice::Contained { incident, contained, thaw_ns, turn } => {
                self.contained(&incident, contained, thaw_ns, turn);
            }
            Notice::Exec(exec) => self.executed(&exec),
            Notice::Pressure(pressure) => self.pressed(*pressure),
            Notice::Usage(usage) => self.used(usage),
            Notice::Braked(braked) => {
                tracing::debug!("the brake holds process {}", braked.process.tgid);
            }
        }
    }

    /// An incident that a person opens.
    pub fn opened_by_hand(
        &mut self,
        finding: Finding,
        ancestry: &[Node],
        why: String,
    ) -> Announced {
        let scene = self.scene(finding.culprit, finding.at_ns, ancestry);
        let mut change = self.incidents.report(&finding, scene, incident::new_id());
        change.why = why;
        let id = change.incident.id.clone();
        self.containments.know(&finding.roots(), &id);
        self.matters.insert(id.clone(), Matter::new(&id, finding));
        let announced = self.announce(change);
        self.study(&id);
        announced
    }

    fn found(&mut self, found: Found) {
        let Found { finding, ancestry, incident, decision, alarm, actions } = found;
        let mut scene = self.scene(finding.culprit, finding.at_ns, &ancestry);
        if let Some(group) = &finding.group {
            scene.identity = identity_of(group, scene.identity);
        }
        let change = self.incidents.report(&finding, scene, incident);
        let id = change.incident.id.clone();
        self.containments.know(&finding.roots(), &id);
        self.log.append(Draft {
            priority: proto::Priority::Incident,
            ..Draft::of(id.clone(), Body::Observation(observation(&alarm, 0)))
        });
        let opened = change.opened;
        self.announce(change);

        let matter =
            self.matters.entry(id.clone()).or_insert_with(|| Matter::new(&id, finding.clone()));
        let stronger = finding.contain && !matter.subject.finding.contain;
        if stronger {
            matter.subject.finding = finding.clone();
        }
        for action in actions {
            self.act(&id, action);
        }
        self.tell_why_not(&id, &decision, finding.contain);
        // What is being contained is looked at once it stands.
        if opened && !matches!(decision, Decision::Contain { .. }) {
            let done = self.done.clone();
            tokio::spawn(async move {
                tokio::time::sleep(STUDY_DELAY).await;
                // The desk is gone only when the daemon ends.
                let _ = done.send(Done::StudyDue(id));
            });
        }
    }

    /// Records why nothing is done about a finding. `strong`: it is good enough for containment.
    pub fn tell_why_not(&mut self, id: &str, decision: &Decision, strong: bool) {
        if let Some(why) = decision.why_not(strong).filter(|why| !self.is_told(id, why)) {
            self.act(id, refusal(why.to_owned()));
        }
    }

    /// Whether an incident has an action with this reason already: a finding that comes again is no
    /// news.
    fn is_told(&self, id: &str, why: &str) -> bool {
        let actions = self.incidents.get(id).map(|incident| incident.actions.as_slice());
        actions.unwrap_or_default().iter().any(|action| action.why == why)
    }

    /// An incident opens with its finding, not when we come to write it down.
    pub fn scene(&self, culprit: Option<ProcessKey>, at_ns: u64, ancestry: &[Node]) -> Scene {
        let forest = Forest::new(ancestry.iter().cloned());
        let exec = culprit.and_then(|key| forest.get(key)).and_then(|node| node.exec.clone());
        let cgroup = culprit.and_then(|key| forest.get(key)).map_or(0, |node| node.cgroup);
        let above = ancestry.iter().map(|node| node.key);
        Scene {
            now_ns: at_ns,
            now: clock::wall_of(at_ns),
            host: self.host.name.clone(),
            boot_id: self.host.boot_id.clone(),
            culprit: culprit.map(|key| self.gatherer.culprit(&forest, key)),
            ancestors: above.skip_while(|key| Some(*key) != culprit).skip(1).collect(),
            identity: exec.map_or([0, 0, cgroup], |exec| [exec.exe.ino, exec.loose, cgroup]),
        }
    }

    pub fn contained(
        &mut self,
        incident: &str,
        contained: Contained,
        thaw_ns: u64,
        turn: Containing,
    ) {
        let standing = contained.actions.last().map_or(0, |freeze| freeze.processes);
        for action in contained.actions {
            self.act(incident, action);
        }
        if let Some(held) = contained.held {
            let why = match turn {
                Containing::Again => {
                    "its tree grew after the thaw and stands again, for twice as long"
                }
                Containing::Joined => "more of its trees were started, and stand as well",
                Containing::First if held.roots.len() > 1 => "its trees stand and cannot fork",
                Containing::First => "its tree stands and cannot fork",
            };
            self.change(incident, |incident| {
                incident.set_state(State::Contained);
                incident.thaw_due_ns = thaw_ns;
                // The rest of it is read next; how many stand is known already.
                incident.tree.get_or_insert_default().processes = standing;
                if let Some(group) = &mut incident.group {
                    incident::join(group, &held.roots);
                    group.processes = standing;
                }
                why.to_owned()
            });
            self.absorb(incident, &held);
        }
        if turn == Containing::First {
            self.study(incident);
        }
    }

    fn executed(&mut self, exec: &event::Exec) {
        let key =
            |key: ProcessKey| Some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns });
        let argv = split(&exec.argv[..(exec.kept as usize).min(ARGV_KEPT)]);
        let fact = proto::Exec {
            process: key(exec.process),
            parent: key(exec.parent),
            exec_ns: exec.exec_ns,
            argv: self.gatherer.redactor().argv(&argv).0,
            argv_bytes: exec.argv_bytes,
        };
        self.log.append(Draft::bulk(Body::Observation(proto::Observation {
            fact: Some(Fact::Exec(fact)),
        })));
    }

    /// The dead-man's timer ran out.
    pub fn guardian_acted(&mut self, report: &Report) {
        let id = report.incident.as_str();
        let (kind, result) = if report.released {
            self.containments.take(id);
            (ActionKind::Release, "the brake expired")
        } else {
            self.containments.thawed(id);
            (ActionKind::Thaw, "runs again; the brake is still on")
        };
        let now = clock::boot_ns();
        self.act(
            id,
            proto::Action {
                kind: kind.into(),
                at: Some(clock::wall()),
                by: GUARDIAN.into(),
                why: "nobody decided within the time of the freeze".into(),
                result: result.into(),
                started_ns: now,
                ended_ns: now,
                processes: report.processes,
                ok: true,
                braked: None,
            },
        );
        self.change(id, |incident| {
            incident.set_state(State::Open);
            incident.thaw_due_ns = 0;
            "the guardian let it run again".to_owned()
        });
    }

    pub fn study(&mut self, incident: &str) {
        let Some(matter) = self.matters.get_mut(incident) else { return };
        if matter.studying {
            matter.again = true;
            return;
        }
        matter.studying = true;
        matter.studied = true;
        let subject = matter.subject.clone();
        let (lineage, gatherer, done) =
            (Arc::clone(&self.lineage), Arc::clone(&self.gatherer), self.done.clone());
        tokio::task::spawn_blocking(move || {
            study::study(&subject, &lineage, &gatherer, |study| {
                // The desk is gone only when the daemon ends.
                let _ = done.send(Done::Studied(study));
            });
        });
    }

    pub fn finished(&mut self, done: Done) {
        match done {
            Done::StudyDue(incident) => {
                if self.matters.get(&incident).is_some_and(|matter| !matter.studied) {
                    self.study(&incident);
                }
            }
            Done::OomDue(incident) => self.study(&incident),
            Done::Studied(study) => self.studied(study),
            Done::Investigated(progress) => drop(self.investigated(progress)),
            Done::Recalled(recalled) => self.recalled(*recalled),
            Done::Acted(acted) => self.acted(*acted),
            Done::Stopped(stopped) => self.stopped(*stopped),
            Done::Source(read) => self.source_read(*read),
            Done::Abandoned(incident) => {
                tracing::error!("an action on incident {incident} came to no end");
                self.acting.remove(&incident);
            }
        }
    }

    fn studied(&mut self, study: Study) {
        let id = study.incident.as_str();
        let mut evidence = study.evidence.clone();
        let again = self.matters.get_mut(id).is_some_and(|matter| {
            matter.subject.given = study.given;
            // One of a later kill is not explained by this one.
            if let (Some(known), Some(seen)) = (&mut matter.subject.killing, &study.killing)
                && seen.is_of(known)
            {
                known.clone_from(seen);
            }
            matter.studying = study.more;
            matter.evidence.append(&mut evidence);
            if study.more {
                return false;
            }
            // All of this look.
            evidence = std::mem::take(&mut matter.evidence);
            std::mem::take(&mut matter.again)
        });
        for item in study.evidence {
            self.log.append(Draft::of(id, Body::Evidence(item)));
        }
        if let Some(diagnosis) = &study.diagnosis {
            self.log.append(Draft::of(id, Body::Diagnosis(diagnosis.clone())));
        }
        if let Some(parsed) = study.parsed {
            self.files_parsed(id, parsed);
        }
        let (tree, diagnosis, killing) = (study.tree, study.diagnosis, study.killing);
        if !study.more && tree.is_none() && diagnosis.is_none() && killing.is_none() {
            return self.studied_all(id, again, evidence);
        }
        self.change(id, |incident| {
            if let Some(tree) = tree {
                if let Some(group) = &mut incident.group {
                    group.processes = tree.processes;
                    group.anon_bytes = tree.anon_bytes;
                }
                incident.tree = Some(tree);
            }
            if let Some(killing) = killing {
                Self::oom_studied(incident, killing.oom().clone());
            }
            if let Some(diagnosis) = diagnosis {
                if let Some(line) = headline(&diagnosis.cause) {
                    incident.summary = line;
                }
                incident.diagnosis = Some(diagnosis);
            }
            "evidence was gathered and explained".to_owned()
        });
        if !study.more {
            self.studied_all(id, again, evidence);
        }
    }

    /// An explanation stands without what its files say, or the first one again with it.
    fn files_parsed(&mut self, id: &str, parsed: Result<(), String>) {
        let recovered = parsed.is_ok();
        let why = match parsed {
            Ok(()) if !self.unread => return,
            Ok(()) => format!("the files of incident {id} were read"),
            Err(why) => format!("incident {id} is explained without what its files say: {why}"),
        };
        self.unread = !recovered;
        tracing::warn!("{why}");
        let degraded = proto::Degraded { part: "parse".into(), why, recovered };
        self.log.append(Draft::of(id, Body::Degraded(degraded)));
    }

    /// A look came to its end, with all this evidence.
    fn studied_all(&mut self, id: &str, again: bool, evidence: Vec<proto::Evidence>) {
        if again {
            return self.study(id);
        }
        let asked = self.matters.get_mut(id).map(|matter| std::mem::take(&mut matter.asked));
        for (driver, reply) in asked.unwrap_or_default() {
            let asked =
                Asked { driver, why: "a person asked for it".into(), by_hand: true, past: None };
            let begun = self.investigate(id, asked, evidence.clone());
            requests::begun(begun, reply);
        }
        // One investigation an incident: a person may ask for more.
        if let Some(incident) = self.incidents.get(id).filter(|it| it.investigations.is_empty())
            && let Some(asked) = self.investigations.chosen(incident, self.incidents.returns(id))
        {
            self.investigate(id, asked, evidence);
        }
    }

    /// Has an incident looked at again, and an investigation begun after that.
    pub fn ask_investigation(&mut self, id: &str, driver: Driver, reply: Reply) {
        match self.matters.get_mut(id) {
            None => {
                reply.refuse(Code::FailedPrecondition, "nothing more is known of this incident");
            }
            Some(matter) => {
                matter.asked.push((driver, reply));
                self.study(id);
            }
        }
    }

    /// Changes an incident and records the change. `None`: there is no such unresolved incident.
    pub fn change(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Incident) -> String,
    ) -> Option<Announced> {
        let change = self.incidents.change(id, clock::wall(), change)?;
        Some(self.announce(change))
    }

    /// The same of what is known of its investigations: it may be resolved while one goes on.
    pub fn amend(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Incident) -> String,
    ) -> Option<Announced> {
        let change = self.incidents.amend(id, clock::wall(), change)?;
        Some(self.announce(change))
    }

    pub fn announce(&mut self, change: Change) -> Announced {
        let (incident, opened) = (change.incident.clone(), change.opened);
        // Of one that was over already it is known what was before.
        let goes_on = change.from != State::Resolved;
        let state = sensor_proto::json::state::word(incident.state);
        tracing::info!(
            "incident {} is {state}: {} ({})",
            incident.id,
            incident.summary,
            change.why
        );
        let receipt = self.log.append_durable(Draft::of(
            incident.id.clone(),
            Body::Transition(proto::Transition {
                from: change.from.into(),
                to: incident.state,
                why: change.why,
                incident: Some(change.incident),
            }),
        ));
        if goes_on {
            self.attach_vitals(&incident, opened);
        }
        Announced { incident, receipt }
    }

    /// Puts what the flight recorder has into an incident's evidence: what was before it as it opens,
    /// and what was since then as it ends.
    fn attach_vitals(&self, incident: &Incident, opened: bool) {
        let Some(recorder) = &self.recorder else { return };
        let (id, record) = if opened {
            ("v1", recorder.record())
        } else if incident.state() == State::Resolved && incident.boot_id == self.host.boot_id {
            ("v2", recorder.since(incident.opened_ns))
        } else {
            return;
        };
        self.log.append(Draft::of(
            incident.id.clone(),
            Body::Evidence(proto::Evidence {
                id: id.into(),
                name: "vitals".into(),
                source: "/proc/pressure, /proc/meminfo, /proc/loadavg, lineage".into(),
                at: Some(clock::wall()),
                truncated: false,
                redactions: 0,
                content: Some(Content::Vitals(record)),
            }),
        ));
    }

    /// Records an action and puts it into its incident.
    pub fn act(&mut self, id: &str, mut action: proto::Action) {
        // It may name a cgroup.
        action.result = self.gatherer.redactor().line(&action.result);
        self.log.append_durable(Draft::of(id, Body::Action(action.clone())));
        // The next transition carries it.
        self.incidents.change(id, clock::wall(), |incident| {
            incident.actions.push(action);
            String::new()
        });
    }

    pub fn resolve(&mut self, id: &str, why: &str) -> Option<Announced> {
        // A group stays frozen when its last member is gone, and would hold whoever comes next.
        if let Some(held) = self.containments.take(id)
            && held.held.cgroup.is_some()
        {
            let action = self.responder.release(&held.held, POLICY, "its incident is over");
            self.act(id, action);
        }
        let change = self.incidents.resolve(id, clock::boot_ns(), clock::wall(), why)?;
        self.guardian.disarm(id);
        self.containments.forget(id);
        self.matters.remove(id);
        if let Some(looping) = self.loops.get_mut(id) {
            looping.close();
        }
        self.shortages.close(id);
        Some(self.announce(change))
    }
}

/// Kernel facts that make a group the same: what its members share. Their groups and arguments may
/// differ.
pub fn identity_of(group: &Group, [exe, loose, _]: [u64; 3]) -> [u64; 3] {
    match group.by {
        By::Executable => [exe, if group.alike { loose } else { 0 }, 0],
        By::Session => [1, group.shared, 1],
        By::User => [2, group.shared, 2],
        By::Cgroup => [3, group.shared, 3],
    }
}

pub fn refusal(why: String) -> proto::Action {
    let now = clock::boot_ns();
    proto::Action {
        kind: ActionKind::Refuse.into(),
        at: Some(clock::wall()),
        by: POLICY.into(),
        why,
        result: "nothing was done".into(),
        started_ns: now,
        ended_ns: now,
        processes: 0,
        ok: true,
        braked: None,
    }
}
