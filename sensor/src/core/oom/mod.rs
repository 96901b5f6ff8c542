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
            Case, Judged, Kills, Step, culprit::Growth, holders::BEFORE_NS, key, measures, over,
            quiet_ns, severity,
        },
    },
    incident,
    kernel::Detail,
    lineage::{Forest, Node, ProcessKey},
    proto::{
        self, Actor, HostMemory, Incident, Kind, MemorySample, Oom, OomKill, OomScope, State,
        observation::Fact, record::Body,
    },
    record::Draft,
};

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
    /// Those that may turn out to be the OOM killer's doing.
    waiting: HashMap<ProcessKey, Ending>,
}

/// An incident about OOM kills that goes on, as far as is known.
#[derive(Clone, Copy, Debug)]
struct Going {
    /// 0: of an earlier run, and the log has nothing of it.
    case: u64,
    /// When it killed last, boot clock, ns.
    seen_ns: u64,
    /// Victims of its newest kill are on record, and not in the incident yet.
    untold: bool,
}

impl Going {
    fn new(case: u64, seen_ns: u64) -> Self {
        Self { case, seen_ns, untold: false }
    }

    /// One more victim of its newest kill; whether that has to be told a moment later. Those that follow are told
    /// with it.
    fn takes_more(&mut self, seen_ns: u64) -> bool {
        self.seen_ns = seen_ns;
        !std::mem::replace(&mut self.untold, true)
    }
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
        self.deaths.waiting.remove(&marking.marked.victim);
        let (step, case) = self.deaths.kills.took(&kill);
        let case = case.clone();
        let of_it = |(id, going): &(&String, &Going)| {
            // A person may have resolved it meanwhile.
            going.case == case.number && self.incidents.get(id).is_some()
        };
        let known = self.deaths.oom.iter().find(of_it).map(|(id, _)| id.clone());
        if let (Step::Victim, Some(id)) = (step, &known)
            && self.took_victim(id, &case)
        {
            self.log.append_durable(Draft::of(id.clone(), observed(kill)));
            return;
        }
        let samples = self.memory.recent().since(kill.at_ns.saturating_sub(BEFORE_NS));
        let samples: Vec<&MemorySample> = samples.iter().collect();
        let growths = self.growths();
        let Judged { oom, finding, growth, .. } = case.judged(step, &samples, &growths);
        let id = match known {
            Some(id) => {
                self.log.append_durable(Draft::of(id.clone(), observed(kill)));
                self.took_more(&id, step, oom.clone(), &finding);
                id
            }
            None => self.open_oom(&marking, &finding, &case, oom.clone(), observed(kill)),
        };
        let seen_ns = case.last_ns;
        self.deaths.oom.insert(id.clone(), Going::new(case.number, seen_ns));
        let neighbours = self.neighbours(&marking);
        let killing = Killing {
            host: course(&samples),
            recent: self.memory.recent(),
            growths,
            culprit: finding.culprit,
            growth,
            blamed: oom.killed,
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
            self.later(SETTLES, Done::OomDue(id.clone()));
            self.later(FOLLOWS, Done::OomDue(id));
        }
    }

    /// One more victim of a kill whose first one was judged, which is not done again for each; `false`: nothing is known
    /// of that one.
    fn took_victim(&mut self, id: &str, case: &Case) -> bool {
        let Some(matter) = self.matters.get_mut(id) else { return false };
        let subject = &mut matter.subject;
        let Some(killing) = &mut subject.killing else { return false };
        killing.add(case);
        subject.finding = case.finding(killing.culprit);
        let going = self.deaths.oom.get_mut(id);
        if going.is_some_and(|going| going.takes_more(case.last_ns)) {
            self.later(SETTLES, Done::OomTaken(id.to_owned()));
        }
        true
    }

    /// Puts the victims that came since the last time into their incident, all at once.
    pub fn tell_victims(&mut self, id: &str) {
        let Some(going) = self.deaths.oom.get_mut(id) else { return };
        if !std::mem::take(&mut going.untold) {
            return;
        }
        let Some(matter) = self.matters.get(id) else { return };
        let Some(killing) = &matter.subject.killing else { return };
        let (oom, finding) = (killing.oom.clone(), matter.subject.finding.clone());
        self.took_more(id, Step::Victim, oom, &finding);
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
    fn took_more(&mut self, id: &str, step: Step, oom: Oom, finding: &Finding) {
        let kind = finding.kind;
        let why = match (step, kind) {
            (Step::Victim, _) => {
                format!("more processes were killed at once: {} so far", oom.killed)
            }
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

    fn later(&self, after: Duration, due: Done) {
        let done = self.done.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // The desk is gone only when the daemon ends.
            let _ = done.send(due);
        });
    }

    /// Growth that is told of and not over.
    fn growths(&self) -> Vec<Growth> {
        let open = self.incidents.iter().filter(|it| it.kind() == Kind::MemoryGrowth);
        let growth = |it: &Incident| {
            let measures = &it.finding.as_ref()?.measures;
            let told_ns = self.incidents.told_ns(&it.id)?;
            Growth::of(&it.id, self.incidents.roots(&it.id), told_ns, measures)
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

    /// Who is to blame by a look, as it is told; the one that is named already, where it is the same.
    pub(super) fn blamed(&self, id: &str, killing: &Killing) -> Option<proto::Culprit> {
        let culprit = killing.culprit?;
        let named = self.incidents.get(id).and_then(|incident| incident.culprit.as_ref());
        if let Some(named) = named.filter(|it| ProcessKey::new(it.pid, it.start_ns) == culprit) {
            return Some(named.clone());
        }
        let ancestry = Forest::new(self.lineage.ancestry(culprit));
        let mut told = self.gatherer.culprit(&ancestry, culprit);
        complete(&mut told, &killing.oom);
        Some(told)
    }

    /// Puts what a look found into an incident: what the kernel's log adds, and who is to blame by that. Whoever is
    /// stopped stays the one that it is about. `false`: it was a look at an earlier kill, which says nothing of this one.
    pub fn oom_studied(
        incident: &mut Incident,
        seen: &Killing,
        culprit: Option<proto::Culprit>,
    ) -> bool {
        let kind = incident.kind();
        let Some(known) = &mut incident.oom else { return false };
        if known.kills != seen.oom.kills {
            return false;
        }
        let found = seen.oom.clone();
        known.scope = found.scope;
        known.cgroup = found.cgroup;
        known.limit_bytes = found.limit_bytes;
        known.peak_bytes = found.peak_bytes.max(known.peak_bytes);
        known.holders = found.holders;
        incident.severity = incident.severity.max(severity(known, kind) as i32);
        if let Some(finding) = &mut incident.finding {
            finding.measures = measures(known);
        }
        if incident.state() != State::Contained {
            let of = |it: &Option<proto::Culprit>| it.as_ref().map(|it| (it.pid, it.start_ns));
            if of(&incident.culprit) != of(&culprit) {
                // That one's tree is not this one's.
                incident.tree = None;
            }
            incident.culprit = culprit;
        }
        true
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
        self.deaths.oom.insert(id.to_owned(), Going::new(0, clock::boot_ns()));
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

/// The kernel counts in pages: 4 KiB on x86, up to 64 on arm64.
fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// How the host's memory went before a kill.
fn course(samples: &[&MemorySample]) -> Option<(HostMemory, HostMemory, u64)> {
    let (first, last) = (samples.first()?, samples.last()?);
    Some((first.host?, last.host?, last.at_ns.saturating_sub(first.at_ns)))
}

/// What came with the mark or stood in a sample, where /proc has nothing any more.
fn complete(culprit: &mut proto::Culprit, oom: &Oom) {
    let process = ProcessKey::new(culprit.pid, culprit.start_ns);
    let is = |actor: &&Actor| actor.process.map(key) == Some(process);
    let victims = oom.victims.iter().filter_map(|kill| kill.victim.as_ref());
    if let Some(victim) = { victims }.find(is).cloned() {
        if culprit.comm.is_empty() {
            culprit.comm = victim.comm;
            culprit.uid = victim.uid;
        }
        if culprit.cgroup.is_empty() {
            culprit.cgroup = victim.cgroup;
        }
        if culprit.argv.is_empty() {
            culprit.argv = victim.argv;
        }
    }
    let holder = oom.holders.iter().find(|holder| holder.root.map(key) == Some(process));
    if let Some(holder) = holder.filter(|_| culprit.comm.is_empty()) {
        culprit.comm.clone_from(&holder.comm);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victims_of_a_burst_are_told_at_once() {
        let mut going = Going::new(1, 100);
        let due = (101..400).filter(|at| going.takes_more(*at)).count();
        assert_eq!((due, going.seen_ns), (1, 399));
        // After they were told another one is due again.
        assert!(std::mem::take(&mut going.untold));
        assert!(going.takes_more(400));
    }

    #[test]
    fn who_is_gone_is_named_by_what_is_known() {
        let process = |pid: u32| Some(proto::ProcessKey { pid, start_ns: 1 });
        let victim = Actor {
            process: process(7),
            comm: "eats".into(),
            argv: vec!["eats".into(), "much".into()],
            cgroup: "/a".into(),
            uid: 5,
            ..Actor::default()
        };
        let holder = proto::OomHolder {
            root: process(8),
            comm: "leaks".into(),
            ..proto::OomHolder::default()
        };
        let oom = Oom {
            victims: vec![OomKill { victim: Some(victim), ..OomKill::default() }],
            holders: vec![holder],
            ..Oom::default()
        };
        let of = |pid: u32| {
            let mut culprit = proto::Culprit { pid, start_ns: 1, ..proto::Culprit::default() };
            complete(&mut culprit, &oom);
            (culprit.comm, culprit.argv.len(), culprit.cgroup, culprit.uid)
        };
        assert_eq!(of(7), ("eats".into(), 2, "/a".into(), 5));
        assert_eq!(of(8), ("leaks".into(), 0, String::new(), 0));
        assert_eq!(of(9), Default::default());
    }
}
