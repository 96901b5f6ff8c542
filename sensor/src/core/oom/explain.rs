//! What an explanation of a kill is made of: the kernel's own report, who had the memory, and what followed.

use std::sync::Arc;

use super::bytes;
use crate::{
    clock,
    core::{
        memory::Recent,
        study::{Study, Subject},
    },
    detect::{
        Finding,
        oom::{
            Case,
            culprit::{Blame, Growth, blame},
            held,
            holders::BEFORE_NS,
            key, measures,
            short::Short,
        },
    },
    diagnose,
    evidence::{EvidenceLog, gather::Gatherer, oom_report::Report},
    kernel::{Detail, Lineage},
    lineage::ProcessKey,
    present::text::count,
    proto::{self, HostMemory, MemorySample, Oom, OomKill, OomScope, evidence::Content},
};

/// What an explanation of a kill needs.
#[derive(Clone, Debug)]
pub struct Killing {
    pub(super) oom: Oom,
    /// What was sampled before, and the growth that was known then: should the kernel's log say that something else was
    /// short.
    pub(super) recent: Arc<Recent>,
    pub(super) growths: Vec<Growth>,
    /// Who is to blame, and what was known of that one's growth; and how many had been killed as that was found.
    pub(super) culprit: Option<ProcessKey>,
    pub(super) growth: Option<Growth>,
    pub(super) blamed: u32,
    /// Memory of the host before and at the kill, and the time between.
    pub(super) host: Option<(HostMemory, HostMemory, u64)>,
    /// Who lived beside the victims.
    pub(super) neighbours: Vec<ProcessKey>,
    pub(super) spread: Option<f64>,
    /// When it killed, boot clock, ns.
    pub(super) at_ns: u64,
    /// Evidence of the first look.
    pub(super) cited: Vec<String>,
    pub(super) report: Option<Report>,
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
        let corrected =
            killing.report.as_ref().is_some_and(|report| correct(&mut killing.oom, report));
        if corrected || killing.blamed != killing.oom.killed {
            let from_ns = killing.at_ns.saturating_sub(BEFORE_NS);
            let samples = killing.recent.since(from_ns);
            killing.blame(&samples);
        }
        if let Some(report) = &killing.report {
            add_candidates(&mut killing.oom, report);
        }
        let kernel_log = gatherer.kernel_log().map(|evidence| log.add(evidence));
        killing.cited.extend(kernel_log);
        killing.cited.push(log.add(gatherer.holders(&killing.oom)));
        if let Some(culprit) = killing.culprit.filter(|key| lineage.is_alive(*key)) {
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
        culprit: killing.culprit,
        growth: killing.growth.as_ref(),
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
    /// Of which kill it tells, and of how many of its victims.
    pub fn is_of(&self, other: &Self) -> bool {
        (self.oom.kills, self.oom.killed) == (other.oom.kills, other.oom.killed)
    }

    /// What is claimed of it now.
    pub fn claim(&self, finding: &mut Finding) {
        finding.culprit = self.culprit;
        finding.measures = measures(&self.oom);
    }

    /// One more victim of the same kill. Who had the memory is looked for at the next look, and not for each: a group
    /// of 300 processes is killed within a moment.
    pub(super) fn add(&mut self, case: &Case) {
        let holders = std::mem::take(&mut self.oom.holders);
        self.oom = Oom { holders, ..case.oom.clone() };
        self.at_ns = case.last_ns;
        self.cited.clear();
        self.report = None;
    }

    /// Looks once more for who had it: something else was short, or more were killed.
    fn blame(&mut self, samples: &[MemorySample]) {
        let samples: Vec<&MemorySample> = samples.iter().collect();
        let found = blame(&self.oom, &samples, &self.growths);
        Blame { holders: self.oom.holders, culprit: self.culprit, growth: self.growth } = found;
        self.blamed = self.oom.killed;
    }
}

/// The kernel's own word on what was short; whether that is something else than the counters said.
fn correct(oom: &mut Oom, report: &Report) -> bool {
    let counted = Short::of(oom);
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
    counted != Short::of(oom)
}

/// Whom the kernel counted where nobody else had.
fn add_candidates(oom: &mut Oom, report: &Report) {
    for candidate in &report.candidates {
        let known =
            |holder: &proto::OomHolder| holder.root.is_some_and(|root| root.pid == candidate.pid);
        if oom.holders.len() < 16 && !oom.holders.iter().any(known) {
            oom.holders.push(proto::OomHolder {
                root: Some(proto::ProcessKey { pid: candidate.pid, start_ns: 0 }),
                comm: candidate.comm.clone(),
                processes: 1,
                bytes: bytes(candidate.rss_pages.saturating_add(candidate.swap_entries)),
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
                "{}\t{} B\tgrown {} B in {:.1} s\t{}\t{}\n",
                holder.root.unwrap_or_default().pid,
                holder.bytes,
                holder.grown_bytes,
                holder.grown_ns as f64 / 1e9,
                count(holder.processes, "process", "processes"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Actor, ProcessKey as Key, TreeMemory};

    const MIB: u64 = 1 << 20;
    const SECOND: u64 = 1_000_000_000;

    fn process(pid: u32) -> Key {
        Key { pid, start_ns: pid.into() }
    }

    /// By the counters 7 filled its limit of 100 MiB; 8 beside it has taken far more of the host.
    fn counted() -> Killing {
        let recent = Recent::default();
        for at in 0..60 {
            let tree = |pid: u32, group: u64, bytes: u64| TreeMemory {
                root: Some(process(pid)),
                processes: 1,
                bytes,
                root_bytes: bytes,
                limit_cgroup_id: group,
                ..TreeMemory::default()
            };
            let host = HostMemory { total_bytes: Some(2048 * MIB), ..HostMemory::default() };
            recent.add(&MemorySample {
                at_ns: at * SECOND,
                host: Some(host),
                trees: vec![tree(7, 3, (30 + at) * MIB), tree(8, 4, at * 20 * MIB)],
                ..MemorySample::default()
            });
        }
        let kill = OomKill {
            at_ns: 60 * SECOND,
            victim: Some(Actor { process: Some(process(7)), ..Actor::default() }),
            anon_bytes: Some(95 * MIB),
            limit_bytes: Some(100 * MIB),
            limit_used_bytes: Some(100 * MIB),
            limit_cgroup: "/seven".into(),
            limit_cgroup_id: 3,
            ..OomKill::default()
        };
        let mut oom = Oom {
            cgroup: "/seven".into(),
            limit_bytes: Some(100 * MIB),
            victims: vec![kill],
            ..Oom::default()
        };
        oom.set_scope(OomScope::Cgroup);
        Killing {
            oom,
            recent: Arc::new(recent),
            growths: Vec::new(),
            culprit: None,
            growth: None,
            blamed: 0,
            host: None,
            neighbours: Vec::new(),
            spread: None,
            at_ns: 60 * SECOND,
            cited: Vec::new(),
            report: None,
        }
    }

    fn blamed(killing: &mut Killing) -> Option<u32> {
        let samples = killing.recent.since(0);
        killing.blame(&samples);
        killing.culprit.map(|key| key.tgid)
    }

    #[test]
    fn where_the_kernel_says_something_else_it_is_looked_once_more() {
        let mut killing = counted();
        assert_eq!((blamed(&mut killing), killing.oom.holders.len()), (Some(7), 1));
        // The same with the whole path is nothing else.
        let report = Report {
            scope: OomScope::Cgroup,
            cgroup: "/box/seven".into(),
            limit: Some(100 * MIB),
            ..Report::default()
        };
        assert!(!correct(&mut killing.oom, &report));
        let host = Report { scope: OomScope::Host, ..Report::default() };
        assert!(correct(&mut killing.oom, &host));
        assert_eq!((killing.oom.limit_bytes, killing.oom.cgroup.as_str()), (None, ""));
        assert_eq!((blamed(&mut killing), killing.oom.holders.len()), (Some(8), 2));
    }

    /// A group of 300 is killed: its first victim was judged, and nothing since.
    fn group_kill() -> (Killing, crate::detect::oom::Kills) {
        let mut killing = counted();
        let mut kills = crate::detect::oom::Kills::default();
        killing.oom = kills.took(&killing.oom.victims[0]).1.oom.clone();
        blamed(&mut killing);
        (killing, kills)
    }

    #[test]
    fn for_each_victim_of_a_group_nobody_is_looked_for() {
        let (mut killing, mut kills) = group_kill();
        let holders = killing.oom.holders.clone();
        assert_eq!((holders.len(), killing.blamed), (1, 1));
        killing.cited.push("e1".into());
        let first = killing.oom.victims[0].clone();
        for pid in 100..399_u32 {
            let victim = Some(Actor { process: Some(process(pid)), ..Actor::default() });
            let (step, case) = kills.took(&OomKill { victim, ..first.clone() });
            assert_eq!(step, crate::detect::oom::Step::Victim);
            killing.add(case);
        }
        assert_eq!((killing.oom.killed, killing.oom.victims.len()), (300, 32));
        assert_eq!((&killing.oom.holders, killing.blamed), (&holders, 1));
        assert!(killing.cited.is_empty(), "it is looked at once more");
        // One who looks then finds those that were killed as well.
        blamed(&mut killing);
        assert_eq!((killing.blamed, killing.oom.holders.len()), (300, 16));
        // A look that began before is not one of it.
        assert!(!killing.is_of(&group_kill().0));
    }

    #[test]
    fn who_is_named_is_who_was_found_anew() {
        use crate::{core::desk::Desk, proto::Culprit};
        let (mut killing, kills) = group_kill();
        let finding = kills.case(1).map(|case| case.finding(killing.culprit)).unwrap();
        let named = |pid| Some(Culprit { pid, start_ns: pid.into(), ..Culprit::default() });
        let mut incident = proto::Incident {
            culprit: named(7),
            finding: Some(crate::incident::claim(&finding)),
            oom: Some(killing.oom.clone()),
            severity: proto::Severity::Warning.into(),
            ..proto::Incident::default()
        };
        let used = |incident: &proto::Incident| {
            let claim = incident.finding.clone().unwrap_or_default();
            claim.measures.iter().any(|one| one.name == "used")
        };
        assert!(used(&incident));
        correct(&mut killing.oom, &Report { scope: OomScope::Host, ..Report::default() });
        assert_eq!(blamed(&mut killing), Some(8));
        // Whoever is stopped stays the one that it is about.
        let mut contained = incident.clone();
        contained.set_state(proto::State::Contained);
        assert!(Desk::oom_studied(&mut contained, &killing, named(8)));
        assert_eq!(contained.culprit, named(7));
        // Nor does a look at an earlier kill say anything.
        let mut later = incident.clone();
        later.oom.as_mut().unwrap().kills = 2;
        assert!(!Desk::oom_studied(&mut later, &killing, named(8)));
        assert_eq!(later.culprit, named(7));
        incident.tree = Some(proto::Tree::default());
        assert!(Desk::oom_studied(&mut incident, &killing, named(8)));
        assert_eq!((incident.culprit.clone(), used(&incident)), (named(8), false));
        assert_eq!(incident.tree, None, "that was the tree of 7");
        assert_eq!(incident.severity(), proto::Severity::Critical, "the host was short");
        let mut subject = finding;
        killing.claim(&mut subject);
        assert_eq!(subject.culprit.map(|key| key.tgid), Some(8));
    }
}
