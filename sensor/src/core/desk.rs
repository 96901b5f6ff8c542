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
use sensor_proto::json;
use tokio::sync::mpsc;

use super::{
    announce::{Announced, refusal},
    containments::Containments,
    findings::SourceRead,
    growth::Stopped,
    investigations::{Investigations, Progress},
    matter::Matter,
    memory::Sampling,
    oom::Deaths,
    pressure::Shortages,
    reactor::{Containing, Found, Notice, observation},
    reins::Reins,
    requests::Acted,
    respawn::Looping,
    resume::{CutOff, Recalled},
    study::Study,
    term::Times,
    trees::Trees,
};
use crate::{
    clock,
    detect::{
        Finding,
        group::{By, Group},
    },
    evidence::gather::Gatherer,
    host::Host,
    incident::{self, Incidents, Scene},
    kernel::{Lineage, Programs, split},
    lineage::{Forest, Node, ProcessKey},
    proto::{self, State, observation::Fact, record::Body},
    record::{Draft, Log},
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
    /// More victims of a kill came, of which its incident does not tell yet.
    OomTaken(String),
    /// A process that SIGKILL ended is to be told of, unless it was a victim.
    EndDue(ProcessKey),
    Studied(Box<Study>),
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

impl Done {
    /// Something was done to processes.
    pub fn is_deed(&self) -> bool {
        matches!(self, Self::Acted(_) | Self::Stopped(_) | Self::Abandoned(_))
    }
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
    /// What this host does not do for us.
    pub degradations: Vec<String>,
    /// Incidents that a person, or policy about growth, acts on just now: what came of it is recorded before their end.
    pub acting: HashSet<String>,
    /// What each unresolved incident is about.
    pub matters: HashMap<String, Matter>,
    /// Files that were read for investigators, by incident.
    pub sources: HashMap<String, u32>,
    /// Respawn loops by their incident.
    pub loops: HashMap<String, Looping>,
    /// How many evidence ids incidents of an earlier run have used.
    pub given: HashMap<String, u32>,
    /// Memory incidents of an earlier run, or frozen ones, that nobody sees grow, and until when that is waited for, ns.
    pub unseen: HashMap<String, u64>,
    /// What is known of kills.
    pub deaths: Deaths,
    /// How long nobody has told of one that is over, ns.
    pub quiet_ns: u64,
    pub shortages: Shortages,
    /// What the files of the last explanation say could not be read.
    pub unread: bool,
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
        report: proto::Action,
    ) -> Announced {
        let scene = self.scene(finding.culprit, finding.at_ns, ancestry);
        let mut change = self.incidents.report(&finding, scene, incident::new_id());
        let id = change.incident.id.clone();
        change.why = format!("{}: {}", report.by, report.why);
        if change.opened {
            let seen = json::escape(report.why.as_bytes());
            let _ = self.incidents.change(&id, clock::wall_of(finding.at_ns), |incident| {
                incident.summary = format!("{}: {seen}", incident.summary);
                String::new()
            });
        }
        self.act(&id, report);
        if let Some(incident) = self.incidents.get(&id) {
            change.incident = incident.clone();
        }
        self.containments.know(&finding.roots(), &id);
        // Who is reported once more has evidence already, and its numbers go on.
        self.matters.entry(id.clone()).or_insert_with(|| Matter::new(&id, finding));
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

    pub fn finished(&mut self, done: Done) {
        match done {
            Done::StudyDue(incident) => {
                if self.matters.get(&incident).is_some_and(|matter| !matter.studied) {
                    self.study(&incident);
                }
            }
            Done::OomDue(incident) => {
                self.tell_victims(&incident);
                self.study(&incident);
            }
            Done::OomTaken(incident) => self.tell_victims(&incident),
            Done::EndDue(process) => self.end_is_due(process),
            Done::Studied(study) => self.studied(*study),
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
