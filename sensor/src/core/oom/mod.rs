//! OOM kills: from the kernel's mark on a victim to an incident with its explanation, and to its end.
//!
//! Nobody looks at all processes while there is no memory: what each tree held is known from before, and what
//! the kernel thought of it stands in its own log, which is read a moment later.
//!
//! - `marks`: what the kernel tells, as it is recorded
//! - `ends`: who else ends processes with SIGKILL
//! - `explain`: what an explanation is made of
//! - `before`: what the log knows of kills that an earlier run of the daemon saw

mod before;
mod ends;
mod explain;
mod marks;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    time::Duration,
};

use sensor_common::{oom::Marked, signature};

pub use self::{
    ends::Ending,
    explain::{Killing, study},
};
use super::{
    desk::{Desk, Done},
    matter::Matter,
};
use crate::{
    clock,
    detect::{
        Finding,
        oom::{
            Case, Judged, Kills, Step, culprit::Growth, holders::BEFORE_NS, over, quiet_ns,
            severity,
        },
    },
    incident,
    kernel::Detail,
    lineage::{Node, ProcessKey},
    proto::{
        self, Actor, HostMemory, Incident, Kind, MemorySample, Oom, OomKill, OomScope, State,
        observation::Fact, record::Body,
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
    /// 0: of an earlier run, and the log has nothing of it.
    case: u64,
    /// When it killed last, boot clock, ns.
    seen_ns: u64,
}

impl Desk {
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
        let samples = self.memory.recent().since(kill.at_ns.saturating_sub(BEFORE_NS));
        let samples: Vec<&MemorySample> = samples.iter().collect();
        let growths = self.growths();
        let judged = self.deaths.kills.judge(&kill, &samples, &growths);
        let Judged { step, case, oom, finding, growth } = judged;
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
            recent: self.memory.recent(),
            growths,
            culprit: finding.culprit,
            growth,
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

    /// Growth that is told of and not over.
    fn growths(&self) -> Vec<Growth> {
        let open = self.incidents.iter().filter(|it| it.kind() == Kind::MemoryGrowth);
        let growth = |it: &Incident| {
            let measures = &it.finding.as_ref()?.measures;
            Growth::of(&it.id, self.incidents.roots(&it.id), it.opened_ns, measures)
        };
        open.filter_map(growth).collect()
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

    /// What the log has of kills.
    pub fn recall_kills(&mut self, state_dir: &Path) {
        match before::kills(state_dir, &self.host.boot_id, clock::boot_ns()) {
            Ok(known) => self.deaths.recall(known),
            Err(error) => tracing::warn!("earlier OOM kills are not counted: {error}"),
        }
    }

    /// An incident of an earlier run.
    pub fn take_up_oom(&mut self, id: &str) {
        if self.deaths.oom.contains_key(id) {
            return;
        }
        self.deaths.oom.insert(id.to_owned(), Going { case: 0, seen_ns: clock::boot_ns() });
    }

    /// Those are over in which nobody was killed again.
    pub fn resolve_ended_ooms(&mut self) {
        let now_ns = clock::boot_ns();
        let mut ended = Vec::new();
        for (id, going) in &self.deaths.oom {
            let Some(incident) = self.incidents.get(id) else {
                ended.push((id.clone(), None));
                continue;
            };
            let quiet_ns = quiet_ns(incident.kind());
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
                self.resolve(&id, &over(quiet_ns));
            }
        }
    }
}

/// How the host's memory went before a kill.
fn course(samples: &[&MemorySample]) -> Option<(HostMemory, HostMemory, u64)> {
    let (first, last) = (samples.first()?, samples.last()?);
    Some((first.host?, last.host?, last.at_ns.saturating_sub(first.at_ns)))
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
