//! OOM kills: from the kernel's mark on a victim to an incident with its explanation, and to its end; and who
//! else ends processes with SIGKILL.
//!
//! Nobody looks at all processes while there is no memory: what each tree held is known from before, and what
//! the kernel thought of it stands in its own log, which is read a moment later.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Duration,
};

use sensor_common::{
    lineage::ARGV_KEPT,
    oom::{BY_KERNEL, COUNTED, DYING, Kill, Killed, LIMITED, Marked, NODE, RECORD},
    signature,
};

use super::{
    desk::{Desk, Done, Matter},
    reactor::{Notice, Reactor},
    study::{Study, Subject},
};
use crate::{
    clock,
    detect::{
        Finding,
        oom::{
            Case, Kills, LOOP_NS, RESTART_NS, Step, held,
            holders::{BEFORE_NS, culprit, holders},
            key,
        },
    },
    diagnose,
    evidence::{EvidenceLog, gather::Gatherer, oom_report::Report},
    incident,
    kernel::{Detail, Lineage, split},
    lineage::{Exec, Node, ProcessKey},
    proto::{
        self, Actor, HostMemory, Incident, Kind, MemorySample, Oom, OomKill, OomScope, State,
        evidence::Content, observation::Fact, record::Body,
    },
    record::Draft,
};

/// Bytes of a page, wherever eBPF programs of ours are run.
const PAGE: u64 = 4096;

/// From the last victim to a look at the kernel's log: it writes its report before and after the mark.
const SETTLES: Duration = Duration::from_millis(700);

/// From a kill to the question what followed it: who depends on a victim learns of its end at once, and gives
/// up within some tries.
const FOLLOWS: Duration = Duration::from_secs(10);

/// Processes beside a victim that are looked at again.
const NEIGHBOURS: usize = 256;

/// Ends by SIGKILL that are remembered, for whoever asks who did it.
const ENDS: usize = 64;

/// The OOM killer took a process.
#[derive(Debug)]
pub struct Marking {
    marked: Marked,
    /// v2 paths; empty: gone.
    victim_cgroup: String,
    trigger_cgroup: String,
    /// In the memory controller's hierarchy.
    limit_cgroup: String,
    /// The victim, its parent, and so on.
    ancestry: Vec<Node>,
    trigger: Option<Node>,
}

/// SIGKILL ended a process, and not the OOM killer's.
#[derive(Debug)]
pub struct Ending {
    killed: Killed,
    cgroup: String,
    sender_cgroup: String,
    sender: Option<Node>,
}

/// What is known of kills.
#[derive(Default)]
pub struct Deaths {
    kills: Kills,
    /// By their incident.
    oom: HashMap<String, Going>,
    /// The newest last.
    ends: VecDeque<proto::Killed>,
}

/// An incident about OOM kills that goes on, as far as is known.
#[derive(Clone, Copy, Debug)]
struct Going {
    /// 0: of an earlier run.
    case: u64,
    /// When it killed last, boot clock, ns.
    seen_ns: u64,
}

/// What an explanation of a kill needs.
#[derive(Clone, Debug)]
pub struct Killing {
    oom: Oom,
    /// Memory of the host before and at the kill, and the time between.
    host: Option<(HostMemory, HostMemory, u64)>,
    /// Who lived beside the victims.
    neighbours: Vec<ProcessKey>,
    spread: Option<f64>,
    /// When it killed, boot clock, ns.
    at_ns: u64,
    /// Evidence of the first look.
    cited: Vec<String>,
    report: Option<Report>,
}

impl Reactor {
    /// On the thread that reads the ring.
    pub(super) fn marked(&self, marked: &Marked) {
        let victim_cgroup = self.group_path(None, marked.victim_cgroup);
        if !self.covers(&victim_cgroup, marked.victim.tgid) {
            return;
        }
        let mut ancestry = self.lineage.ancestry(marked.victim);
        if ancestry.is_empty() {
            // It was quicker than we are.
            let victim = gone(marked);
            ancestry = victim.parent.map(|it| self.lineage.ancestry(it)).unwrap_or_default();
            ancestry.insert(0, victim);
        }
        let limited = marked.flags & LIMITED != 0;
        self.tell(Notice::Oom(Box::new(Marking {
            trigger: self.lineage.living(marked.trigger.tgid),
            trigger_cgroup: self.group_path(None, marked.trigger_cgroup),
            limit_cgroup: if limited {
                self.group_path(Some("memory"), marked.limit.cgroup)
            } else {
                String::new()
            },
            victim_cgroup,
            ancestry,
            marked: *marked,
        })));
    }

    /// On the thread that reads the ring.
    pub(super) fn killed(&self, killed: Killed) {
        let cgroup = self.group_path(None, killed.cgroup);
        if !self.covers(&cgroup, killed.process.tgid) {
            return;
        }
        self.tell(Notice::Ended(Box::new(Ending {
            sender_cgroup: self.group_path(None, killed.kill.sender_cgroup),
            sender: (killed.known != 0)
                .then(|| self.lineage.living(killed.kill.sender.tgid))
                .flatten()
                .filter(|node| node.key == killed.kill.sender),
            cgroup,
            killed,
        })));
    }

    fn group_path(&self, controller: Option<&str>, id: u64) -> String {
        let path = self.hierarchies.path_of_id(controller, id);
        path.map_or_else(String::new, |path| {
            sensor_proto::json::escape(path.as_os_str().as_encoded_bytes())
        })
    }

    /// Whether a process that may be gone is in the scope.
    fn covers(&self, group: &str, tgid: u32) -> bool {
        if group.is_empty() {
            return self.in_scope(tgid);
        }
        self.responder.in_scope(Path::new(group))
    }
}

/// A victim whose node is gone already, by what came with the mark.
fn gone(marked: &Marked) -> Node {
    let Marked { image, record, flags, .. } = marked;
    let known = flags & NODE != 0;
    let argv = split(&record.argv[..(record.kept as usize).min(ARGV_KEPT)]);
    Node {
        key: marked.victim,
        parent: (known && marked.parent.start_ns != 0).then_some(marked.parent),
        cgroup: marked.victim_cgroup,
        program: if known { image.exe } else { 0 },
        exec: (known && flags & RECORD != 0).then(|| Exec {
            at_ns: image.generations[0],
            exe: record.exe,
            cwd: record.cwd,
            argv,
            argv_bytes: record.argv_bytes,
            strict: image.strict,
            loose: image.loose,
        }),
        ..Node::default()
    }
}

fn recorded(key: ProcessKey) -> Option<proto::ProcessKey> {
    (key.tgid != 0).then_some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns })
}

fn comm(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    sensor_proto::json::escape(&bytes[..end])
}

impl Desk {
    fn actor(&self, key: ProcessKey, name: &[u8; 16], uid: u32, node: Option<&Node>) -> Actor {
        let exec = node.and_then(|node| node.exec.as_ref());
        Actor {
            process: recorded(key),
            parent: node.and_then(|node| node.parent).and_then(recorded),
            comm: comm(name),
            argv: exec.map(|exec| self.gatherer.redactor().argv(&exec.argv).0).unwrap_or_default(),
            uid,
            cgroup: String::new(),
            signature: exec.map_or(0, |exec| exec.strict),
        }
    }

    /// A mark as it is recorded.
    fn oom_kill(&self, marking: &Marking) -> OomKill {
        let marked = &marking.marked;
        let pages = marked.pages;
        let counted = |count: u64| (marked.flags & COUNTED != 0).then_some(count * PAGE);
        let limit = |count: u64| (marked.flags & LIMITED != 0).then_some(count * PAGE);
        let victim = marking.ancestry.first();
        OomKill {
            at_ns: marked.at_ns,
            victim: Some(Actor {
                cgroup: marking.victim_cgroup.clone(),
                ..self.actor(marked.victim, &marked.victim_comm, marked.victim_uid, victim)
            }),
            trigger: Some(Actor {
                cgroup: marking.trigger_cgroup.clone(),
                ..self.actor(
                    marked.trigger,
                    &marked.trigger_comm,
                    marked.trigger_uid,
                    marking.trigger.as_ref().or(victim).filter(|it| it.key == marked.trigger),
                )
            }),
            anon_bytes: counted(pages.anon),
            file_bytes: counted(pages.file),
            shmem_bytes: counted(pages.shmem),
            swap_bytes: counted(pages.swap),
            oom_score_adj: marked.oom_score_adj,
            dying: marked.flags & DYING != 0,
            limit_bytes: limit(marked.limit.max),
            limit_used_bytes: limit(marked.limit.used),
            limit_cgroup: marking.limit_cgroup.clone(),
        }
    }

    /// The OOM killer took a process: on disk at once, explained a moment later.
    pub fn oom(&mut self, marking: Marking) {
        let kill = self.oom_kill(&marking);
        let observed =
            |kill| Body::Observation(proto::Observation { fact: Some(Fact::OomKill(kill)) });
        if kill.dying {
            // Its end is not the OOM killer's doing.
            self.log.append(Draft::bulk(observed(kill)));
            return;
        }
        let (step, case) = self.deaths.kills.took(&kill);
        let case = case.clone();
        let samples = self.memory.recent().since(kill.at_ns.saturating_sub(BEFORE_NS));
        let samples: Vec<&MemorySample> = samples.iter().collect();
        let oom = Oom {
            holders: holders(
                &samples,
                &case.oom.victims,
                &[marking.marked.victim_cgroup],
                case.oom.limit_bytes,
            ),
            ..case.oom.clone()
        };
        let short = oom.limit_bytes.unwrap_or_else(total_memory);
        let whose = culprit(&oom.holders, &oom.victims, short);
        let finding = case.finding(whose);
        let known = self.deaths.oom.iter().find(|(_, going)| going.case == case.number);
        let id = match known.map(|(id, _)| id.clone()) {
            Some(id) => {
                self.log.append_durable(Draft::of(id.clone(), observed(kill)));
                self.took_more(&id, step, &case, oom.clone(), &finding);
                id
            }
            None => self.open_oom(&marking, &finding, &case, oom.clone(), observed(kill)),
        };
        let seen_ns = case.last_ns;
        self.deaths.oom.insert(id.clone(), Going { case: case.number, seen_ns });
        let neighbours = if step == Step::Victim {
            let matter = self.matters.get(&id).and_then(|matter| matter.subject.killing.as_ref());
            matter.map(|killing| killing.neighbours.clone()).unwrap_or_default()
        } else {
            self.neighbours(&marking)
        };
        let killing = Killing {
            host: course(&samples),
            neighbours,
            spread: case.spread(),
            at_ns: seen_ns,
            cited: Vec::new(),
            report: None,
            oom,
        };
        let matter =
            self.matters.entry(id.clone()).or_insert_with(|| Matter::new(&id, finding.clone()));
        matter.subject.finding = finding;
        matter.subject.killing = Some(Box::new(killing));
        // A loop that goes on for days is not explained each time.
        let kills = case.oom.kills;
        if step != Step::Victim && (kills <= 3 || kills.is_power_of_two()) {
            self.look_later(&id, SETTLES);
            self.look_later(&id, FOLLOWS);
        }
    }

    fn open_oom(
        &mut self,
        marking: &Marking,
        finding: &Finding,
        case: &Case,
        oom: Oom,
        observed: Body,
    ) -> String {
        let theirs = finding
            .culprit
            .filter(|culprit| marking.ancestry.iter().all(|node| node.key != *culprit));
        let ancestry = theirs.map(|culprit| self.lineage.ancestry(culprit));
        let ancestry = ancestry.as_ref().unwrap_or(&marking.ancestry);
        let mut scene = self.scene(finding.culprit, finding.at_ns, ancestry);
        scene.identity = case.identity();
        if let Some(culprit) = &mut scene.culprit {
            complete(culprit, &oom);
        }
        let mut change = self.incidents.report(finding, scene, incident::new_id());
        let id = change.incident.id.clone();
        let summary = summary(&oom, finding.kind);
        // It was opened a moment ago, by ourselves.
        if let Some(changed) = self.incidents.change(&id, clock::wall(), |incident| {
            incident.summary.clone_from(&summary);
            incident.set_severity(severity(&oom, finding.kind));
            incident.oom = Some(oom);
            String::new()
        }) {
            change.incident = changed.incident;
        }
        change.why = "the OOM killer acted".into();
        self.log.append(Draft::of(id.clone(), observed));
        self.announce(change);
        id
    }

    /// One more victim of a kill, or one more kill of the same cause.
    fn took_more(&mut self, id: &str, step: Step, case: &Case, oom: Oom, finding: &Finding) {
        let kind = case.kind();
        let why = match (step, kind) {
            (Step::Victim, _) => format!("{} processes were killed at once", oom.victims.len()),
            (_, Kind::OomLoop) => format!("the OOM killer came back: {} kills, a loop", oom.kills),
            _ => format!("the OOM killer came back: {} kills", oom.kills),
        };
        let claim = incident::claim(finding);
        self.change(id, |incident| {
            let mut oom = oom;
            if let Some(known) = &incident.oom {
                supplement(&mut oom, known);
            }
            incident.set_kind(kind);
            incident.severity = incident.severity.max(severity(&oom, kind) as i32);
            incident.summary = summary(&oom, kind);
            incident.occurrences = oom.kills;
            incident.finding = Some(claim);
            incident.oom = Some(oom);
            why
        });
    }

    fn look_later(&self, id: &str, after: Duration) {
        let (done, id) = (self.done.clone(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // The desk is gone only when the daemon ends.
            let _ = done.send(Done::OomDue(id));
        });
    }

    /// Who lives beside a victim: in its group, and below its parent.
    fn neighbours(&self, marking: &Marking) -> Vec<ProcessKey> {
        let forest = self.lineage.forest(Detail::Links);
        let (victim, group) = (marking.marked.victim, marking.marked.victim_cgroup);
        let own_group = !matches!(marking.victim_cgroup.as_str(), "" | "/");
        let parent = marking.ancestry.first().and_then(|node| node.parent);
        let below = parent.filter(|parent| parent.tgid > 1).map(|parent| forest.tree(parent));
        let below = below.iter().flatten().map(|(node, _)| *node);
        let beside = forest.nodes().filter(|node| own_group && node.cgroup == group);
        let mut found: Vec<ProcessKey> = below
            .chain(beside)
            .filter(|node| node.alive && node.key != victim)
            .map(|node| node.key)
            .collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(NEIGHBOURS);
        found
    }

    /// Puts what the kernel's log adds into an incident.
    pub fn oom_studied(incident: &mut Incident, seen: Oom) {
        let Some(known) = &mut incident.oom else { return };
        if known.kills == seen.kills {
            known.scope = seen.scope;
            known.cgroup = seen.cgroup;
            known.limit_bytes = seen.limit_bytes;
            known.peak_bytes = seen.peak_bytes.max(known.peak_bytes);
            known.holders = seen.holders;
        }
    }

    /// SIGKILL ended a process.
    pub fn ended(&mut self, ending: Ending) {
        let Ending { killed, cgroup, sender_cgroup, sender } = ending;
        let Kill { sender: by, sender_comm, sender_uid, flags, at_ns, pages, .. } = killed.kill;
        if killed.known != 0 && [std::process::id(), self.guardian.pid()].contains(&by.tgid) {
            // Recorded as an action.
            return;
        }
        let process = Actor {
            parent: recorded(killed.parent),
            cgroup,
            ..self.actor(killed.process, &killed.comm, killed.uid, None)
        };
        let known = killed.known != 0;
        let fact = proto::Killed {
            at_ns: killed.at_ns,
            process: Some(process),
            sender: known.then(|| Actor {
                cgroup: sender_cgroup,
                ..self.actor(by, &sender_comm, sender_uid, sender.as_ref())
            }),
            by_kernel: known && flags & BY_KERNEL != 0,
            sent_ns: if known { at_ns } else { 0 },
            bytes: if known { (pages.anon + pages.swap + pages.shmem) * PAGE } else { 0 },
            processes: killed.live,
            untold: killed.untold,
        };
        if self.deaths.ends.len() >= ENDS {
            self.deaths.ends.pop_front();
        }
        self.deaths.ends.push_back(fact.clone());
        let incident = self.whose(killed.process, killed.parent);
        let observed = Body::Observation(proto::Observation { fact: Some(Fact::Killed(fact)) });
        self.log.append(Draft { incident, ..Draft::bulk(observed) });
    }

    /// The unresolved incident in whose tree a process was; empty: none.
    fn whose(&self, process: ProcessKey, parent: ProcessKey) -> String {
        if self.incidents.iter().next().is_none() {
            return String::new();
        }
        let mut line = self.lineage.line(parent);
        line.push(process);
        line.push(parent);
        let about = |incident: &&Incident| {
            self.incidents.roots(&incident.id).iter().any(|root| line.contains(root))
        };
        let found = self.incidents.iter().find(about);
        found.map(|incident| incident.id.clone()).unwrap_or_default()
    }

    /// Who killed children of this process last, in words; `None`: nobody that was seen.
    pub fn killer_of_children(&self, parent: ProcessKey) -> Option<String> {
        let is = |actor: &Option<Actor>| {
            actor.as_ref().and_then(|actor| actor.parent).is_some_and(|its| key(its) == parent)
        };
        let end = self.deaths.ends.iter().rev().find(|end| is(&end.process))?;
        let sender = end.sender.as_ref()?;
        let pid = sender.process.unwrap_or_default().pid;
        let whom = if end.by_kernel { "the kernel, on behalf of " } else { "" };
        Some(format!("{whom}`{}` ({pid}) of uid {}", sender.comm, sender.uid))
    }

    /// An incident of an earlier run.
    pub fn take_up_oom(&mut self, id: &str) {
        self.deaths.oom.insert(id.to_owned(), Going { case: 0, seen_ns: clock::boot_ns() });
    }

    /// It is over when nobody was killed again for as long as another kill would be the same cause.
    pub fn resolve_ended_ooms(&mut self) {
        let now_ns = clock::boot_ns();
        let mut ended = Vec::new();
        for (id, going) in &self.deaths.oom {
            let Some(incident) = self.incidents.get(id) else {
                ended.push((id.clone(), None));
                continue;
            };
            let quiet_ns = if incident.kind() == Kind::OomLoop { RESTART_NS } else { LOOP_NS };
            if self.acting.contains(id) || incident.state() == State::Contained {
                continue;
            }
            if now_ns.saturating_sub(going.seen_ns) >= quiet_ns {
                ended.push((id.clone(), Some(quiet_ns)));
            }
        }
        for (id, quiet_ns) in ended {
            self.deaths.oom.remove(&id);
            if let Some(quiet_ns) = quiet_ns {
                let minutes = quiet_ns / 60_000_000_000;
                self.resolve(&id, &format!("nobody was killed again for {minutes} min"));
            }
        }
    }
}

/// How the host's memory went before a kill.
fn course(samples: &[&MemorySample]) -> Option<(HostMemory, HostMemory, u64)> {
    let (first, last) = (samples.first()?, samples.last()?);
    Some((first.host?, last.host?, last.at_ns.saturating_sub(first.at_ns)))
}

/// All memory of the host, bytes.
fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

/// What came with the mark, where /proc has nothing any more.
fn complete(culprit: &mut proto::Culprit, oom: &Oom) {
    let is = |actor: &&Actor| {
        actor.process.is_some_and(|it| it.pid == culprit.pid && it.start_ns == culprit.start_ns)
    };
    let victims = oom.victims.iter().filter_map(|kill| kill.victim.as_ref());
    let Some(victim) = { victims }.find(is).cloned() else { return };
    if culprit.comm.is_empty() {
        culprit.comm = victim.comm;
        culprit.uid = victim.uid;
    }
    if culprit.cgroup.is_empty() {
        culprit.cgroup = victim.cgroup;
    }
}

/// What is known from before and did not come again.
fn supplement(oom: &mut Oom, known: &Oom) {
    if oom.scope() == OomScope::Unspecified {
        oom.scope = known.scope;
        oom.cgroup.clone_from(&known.cgroup);
    }
    oom.limit_bytes = oom.limit_bytes.or(known.limit_bytes);
    oom.peak_bytes = oom.peak_bytes.max(known.peak_bytes);
}

/// A host without memory is everybody's; a loop does not end by itself.
fn severity(oom: &Oom, kind: Kind) -> proto::Severity {
    if kind == Kind::OomLoop || oom.scope() != OomScope::Cgroup {
        proto::Severity::Critical
    } else {
        proto::Severity::Warning
    }
}

/// One line, before there is a diagnosis.
fn summary(oom: &Oom, kind: Kind) -> String {
    let name = |kill: &OomKill| {
        let victim = kill.victim.clone().unwrap_or_default();
        format!("`{}` ({})", victim.comm, victim.process.unwrap_or_default().pid)
    };
    let who = match oom.victims.as_slice() {
        [] => "a process".to_owned(),
        [one] => name(one),
        [one, more @ ..] => format!("{} and {} more", name(one), more.len()),
    };
    let why = match (oom.limit_bytes, oom.scope()) {
        (Some(limit), OomScope::Cgroup) => {
            format!("at the limit of {} MiB of {}", limit >> 20, oom.cgroup)
        }
        (_, OomScope::Host) => "as the host had no memory left".into(),
        _ => "as there was no memory left".into(),
    };
    if kind == Kind::OomLoop {
        format!("the OOM killer ends {who} {why}: {} times so far", oom.kills)
    } else {
        format!("the OOM killer ended {who} {why}")
    }
}

/// Gathers and explains. The first time what the kernel says, later what followed.
pub fn study(
    subject: &Subject,
    killing: &Killing,
    lineage: &Lineage,
    gatherer: &Arc<Gatherer>,
) -> Study {
    let mut log = EvidenceLog::after(subject.given);
    let mut killing = killing.clone();
    let mut tree = None;
    let again = !killing.cited.is_empty();
    if !again {
        let victims = killing.oom.victims.iter().filter_map(|kill| kill.victim.as_ref()?.process);
        let pids: Vec<u32> = victims.map(|key| key.pid).collect();
        killing.report = gatherer.oom_report(&pids);
        if let Some(report) = &killing.report {
            correct(&mut killing.oom, report);
        }
        let kernel_log = gatherer.kernel_log().map(|evidence| log.add(evidence));
        killing.cited.extend(kernel_log);
        killing.cited.push(log.add(gatherer.holders(&killing.oom)));
        if let Some(culprit) = subject.finding.culprit.filter(|key| lineage.is_alive(*key)) {
            let (evidence, totals) = gatherer.tree(&lineage.forest(Detail::Execs), &[culprit]);
            killing.cited.push(log.add(evidence));
            tree = Some(totals);
        }
        for evidence in [gatherer.pressure(), gatherer.meminfo()].into_iter().flatten() {
            log.add(evidence);
        }
    }
    let after = if again { followed(&killing, lineage) } else { diagnose::oom::After::default() };
    let diagnosis = diagnose::oom::diagnose(&diagnose::oom::Case {
        finding: &subject.finding,
        oom: &killing.oom,
        report: killing.report.as_ref(),
        host: killing.host,
        after,
        spread: killing.spread,
        cited: &killing.cited,
        redactor: gatherer.redactor(),
    });
    Study {
        incident: subject.incident.clone(),
        evidence: log.take(),
        given: log.given(),
        diagnosis: Some(diagnosis),
        parsed: None,
        tree,
        killing: Some(Box::new(killing)),
        more: false,
    }
}

impl Killing {
    /// Of which kill it tells.
    pub fn is_of(&self, other: &Self) -> bool {
        self.oom.kills == other.oom.kills
    }

    pub fn oom(&self) -> &Oom {
        &self.oom
    }
}

/// The kernel's own word on what was short, and whom it counted where nobody else had.
fn correct(oom: &mut Oom, report: &Report) {
    if report.scope != OomScope::Unspecified {
        oom.set_scope(report.scope);
    }
    if report.scope == OomScope::Cgroup {
        if !report.cgroup.is_empty() {
            oom.cgroup.clone_from(&report.cgroup);
        }
        oom.limit_bytes = report.limit.or(oom.limit_bytes);
        oom.peak_bytes = oom.peak_bytes.max(report.used);
    } else if report.scope == OomScope::Host {
        oom.cgroup.clear();
        (oom.limit_bytes, oom.peak_bytes) = (None, None);
    }
    for candidate in &report.candidates {
        let known =
            |holder: &proto::OomHolder| holder.root.is_some_and(|root| root.pid == candidate.pid);
        if oom.holders.len() < 16 && !oom.holders.iter().any(known) {
            oom.holders.push(proto::OomHolder {
                root: Some(proto::ProcessKey { pid: candidate.pid, start_ns: 0 }),
                comm: candidate.comm.clone(),
                processes: 1,
                bytes: candidate
                    .rss_pages
                    .saturating_add(candidate.swap_entries)
                    .saturating_mul(PAGE),
                ..proto::OomHolder::default()
            });
        }
    }
}

/// What has become of those beside the victims.
fn followed(killing: &Killing, lineage: &Lineage) -> diagnose::oom::After {
    let victims = killing.oom.victims.iter().filter_map(|kill| kill.victim.as_ref());
    let taken: Vec<ProcessKey> = victims.clone().filter_map(|it| it.process).map(key).collect();
    let signatures: Vec<u64> = victims.map(|it| it.signature).filter(|one| *one != 0).collect();
    let ended = killing.neighbours.iter().filter(|one| !taken.contains(one));
    let ended = ended.filter(|one| !lineage.is_alive(**one)).count();
    let forest = lineage.forest(Detail::Execs);
    let restarted = forest.nodes().any(|node| {
        let exec = node.exec.as_ref();
        node.alive
            && exec
                .is_some_and(|exec| exec.at_ns > killing.at_ns && signatures.contains(&exec.strict))
    });
    diagnose::oom::After {
        span_ns: clock::boot_ns().saturating_sub(killing.at_ns),
        ended: ended as u32,
        restarted,
    }
}

impl Gatherer {
    /// Who had the memory, one a line.
    fn holders(&self, oom: &Oom) -> proto::Evidence {
        let line = |holder: &proto::OomHolder| {
            format!(
                "{}\t{} B\tgrown {} B in {:.1} s\t{} processes\t{}\n",
                holder.root.unwrap_or_default().pid,
                holder.bytes,
                holder.grown_bytes,
                holder.grown_ns as f64 / 1e9,
                holder.processes,
                holder.comm,
            )
        };
        let victim = |kill: &OomKill| {
            let victim = kill.victim.clone().unwrap_or_default();
            let pid = victim.process.unwrap_or_default().pid;
            format!("killed\t{pid}\t{} B\t{}\n", held(kill), victim.comm)
        };
        let victims = oom.victims.iter().map(victim);
        let text: String = victims.chain(oom.holders.iter().map(line)).collect();
        let (text, redactions) = self.redactor().text(text.as_bytes());
        proto::Evidence {
            name: "holders".to_owned(),
            source: "memory samples, oom:mark_victim, /dev/kmsg".to_owned(),
            redactions,
            content: Some(Content::Text(text)),
            ..Default::default()
        }
    }
}

impl Case {
    /// Kernel facts that make it the same cause.
    fn identity(&self) -> [u64; 3] {
        let (place, signature) = self.what();
        if place.is_empty() {
            return [signature, 0, 0];
        }
        [signature::argv_of_bytes(place.as_bytes(), place.len() as u32), 0, 1]
    }
}
