//! Kills of a log through their detector again, with the samples and the growth that a daemon would have had at hand.

use std::collections::BTreeMap;

use prost_types::Timestamp;

use super::{End, Found, name_in, word};
use crate::{
    core::{UNSEEN_NS, memory::Recent},
    detect::{
        Finding,
        memory::Whose,
        oom::{self, Judged, culprit::Growth, holders::BEFORE_NS, key, over, quiet_ns, severity},
    },
    lineage::ProcessKey,
    proto::{Kind, MemorySample, Oom, OomKill, OomScope},
};

/// What a daemon knows as the next one is killed.
#[derive(Default)]
pub struct Kills {
    seen: oom::Kills,
    recent: Recent,
    /// Growth that is not over, by whose it is.
    growing: BTreeMap<Whose, Growing>,
    /// Of cases that go on.
    open: BTreeMap<u64, Open>,
}

struct Growing {
    /// As it was told last.
    told: Finding,
    /// Whoever was named with it.
    roots: Vec<ProcessKey>,
    /// When it is over unless it is told of again: another daemon has not seen it. Boot clock, ns.
    unseen_until_ns: Option<u64>,
}

struct Open {
    /// Its place among the findings.
    at: usize,
    kind: Kind,
    /// When it killed last, boot clock, ns.
    seen_ns: u64,
}

impl Kills {
    /// Time goes on; what holds memory is remembered as a daemon does.
    pub fn sample(&mut self, sample: &MemorySample, at: Option<Timestamp>, findings: &mut [Found]) {
        self.recent.add(sample);
        self.open.retain(|_, open| {
            let quiet_ns = quiet_ns(open.kind);
            let goes_on = sample.at_ns.saturating_sub(open.seen_ns) < quiet_ns;
            if !goes_on && let Some(found) = findings.get_mut(open.at) {
                found.over = Some(End { at, at_ns: sample.at_ns, why: over(quiet_ns) });
            }
            goes_on
        });
    }

    /// Growth is told of: one more time, where it is known.
    pub fn grows(&mut self, finding: &Finding, whose: Whose) {
        let known = self.growing.remove(&whose).map(|known| known.roots);
        let mut roots = known.unwrap_or_else(|| finding.culprit.into_iter().collect());
        let new: Vec<ProcessKey> =
            finding.roots().into_iter().filter(|root| !roots.contains(root)).collect();
        roots.extend(new);
        let growing = Growing { told: finding.clone(), roots, unseen_until_ns: None };
        self.growing.insert(whose, growing);
    }

    /// Another daemon goes on: what grew before it has to be seen to grow within its time.
    pub fn restart(&mut self, at_ns: u64) {
        self.growing.values_mut().for_each(|one| one.unseen_until_ns = Some(at_ns + UNSEEN_NS));
    }

    /// Whose growth is over because nobody saw it any more.
    pub fn unseen(&mut self, at_ns: u64) -> Vec<Whose> {
        let is_over = |one: &Growing| one.unseen_until_ns.is_some_and(|until| at_ns >= until);
        self.growing.extract_if(.., |_, one| is_over(one)).map(|(whose, _)| whose).collect()
    }

    pub fn shrinks(&mut self, whose: Whose) {
        self.growing.remove(&whose);
    }

    /// A victim: of a kill that is new, or of one that is found already, which is then told as it is now.
    pub fn kill(&mut self, kill: &OomKill, at: Option<Timestamp>, findings: &mut Vec<Found>) {
        if kill.dying {
            return;
        }
        let samples = self.recent.since(kill.at_ns.saturating_sub(BEFORE_NS));
        let samples: Vec<&MemorySample> = samples.iter().collect();
        let growths = self.growing.values();
        let growths: Vec<Growth> = growths
            .filter_map(|it| Growth::of("", it.roots.clone(), it.told.at_ns, &it.told.measures))
            .collect();
        let Judged { case, oom, finding, .. } = self.seen.judge(kill, &samples, &growths);
        let found = found(&finding, &oom, samples.last().copied(), at);
        let seen_ns = case.last_ns;
        let place = match self.open.get(&case.number) {
            Some(open) => open.at,
            None => findings.len(),
        };
        self.open.insert(case.number, Open { at: place, kind: finding.kind, seen_ns });
        match findings.get_mut(place) {
            // Whom it named first it names still, and when it was.
            Some(known) => {
                let (at, culprit) = (known.at, known.culprit.take());
                *known = Found { at, culprit, ..found };
            }
            None => findings.push(found),
        }
    }
}

fn found(
    finding: &Finding,
    oom: &Oom,
    sample: Option<&MemorySample>,
    at: Option<Timestamp>,
) -> Found {
    let name = |process: ProcessKey| {
        let actors = oom.victims.iter().filter_map(|kill| kill.victim.as_ref());
        let victim = { actors }.find(|actor| actor.process.map(key) == Some(process));
        match (victim, sample) {
            (Some(victim), _) => victim.comm.clone(),
            (None, Some(sample)) => name_in(sample, process),
            (None, None) => String::new(),
        }
    };
    let cgroup = if oom.scope() == OomScope::Cgroup { oom.cgroup.clone() } else { String::new() };
    Found {
        severity: word(severity(oom, finding.kind)),
        cgroup: Some(cgroup),
        ..Found::of(finding, name, at)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};
    use crate::{
        config::Config,
        detect::{oom::Step, usage},
        proto::{Actor, HostMemory, Observation, ProcessKey as Key, TreeMemory, Usage},
    };

    const MIB: u64 = 1 << 20;
    const SECOND: u64 = 1_000_000_000;

    /// 20 leaks 20 MiB a minute until the host is full after two hours; then it kills 30, and 40 a minute later, which are
    /// others. Meanwhile a group meets its limit again and again.
    fn log() -> Vec<Fact> {
        let mut all: Vec<(u64, Fact)> = Vec::new();
        let process = |pid: u32| Some(Key { pid, start_ns: u64::from(pid) });
        for at in (0..8_700_u64).step_by(5) {
            let leak = 100 * MIB + at.min(7_200) * 20 * MIB / 60;
            let host = HostMemory {
                total_bytes: Some(16_384 * MIB),
                available_bytes: Some(2_500 * MIB - at.min(7_200) * 20 * MIB / 60),
                anon_bytes: Some(14_000 * MIB + leak),
                ..HostMemory::default()
            };
            let tree = |pid: u32, bytes: u64| TreeMemory {
                root: process(pid),
                alive: true,
                comm: format!("p{pid}"),
                bytes,
                root_bytes: bytes,
                processes: 1,
                ..TreeMemory::default()
            };
            let trees = vec![tree(10, 13_000 * MIB), tree(20, leak)];
            let sample = MemorySample {
                at_ns: at * SECOND,
                host: Some(host),
                trees,
                ..MemorySample::default()
            };
            all.push((at * SECOND, Fact::Memory(sample)));
        }
        let kill = |pid: u32, at: u64| OomKill {
            at_ns: at * SECOND + 1,
            victim: Some(Actor {
                process: process(pid),
                comm: format!("p{pid}"),
                cgroup: format!("/{pid}"),
                signature: pid.into(),
                ..Actor::default()
            }),
            anon_bytes: Some(90 * MIB),
            ..OomKill::default()
        };
        let caged = |at: u64| OomKill {
            limit_bytes: Some(100 * MIB),
            limit_used_bytes: Some(100 * MIB),
            limit_cgroup: "/caged".into(),
            limit_cgroup_id: 9,
            victim_cgroup_id: 9,
            ..kill(50, at)
        };
        let dying = OomKill { dying: true, ..kill(60, 7_202) };
        let kills = [7_001, 7_031, 7_061].map(caged).into_iter().chain([kill(30, 7_201)]);
        for kill in kills.chain([dying, kill(40, 7_261)]) {
            all.push((kill.at_ns, Fact::OomKill(kill)));
        }
        for (at, memory) in [(7_150, 95), (7_160, 99), (7_170, 50), (7_180, 50), (7_190, 50)] {
            let at_ns = at * SECOND + 2;
            let usage = Usage { at_ns, memory_percent: Some(memory), ..Usage::default() };
            all.push((at_ns, Fact::Usage(usage)));
        }
        all.sort_by_key(|(at_ns, _)| *at_ns);
        all.into_iter().map(|(_, fact)| fact).collect()
    }

    type Bits = (&'static str, u64, Option<ProcessKey>, u64, Vec<(String, u64, Option<u64>)>);

    fn bits(finding: &Finding) -> Bits {
        let measures = finding.measures.iter();
        let measures = measures
            .map(|it| (it.name.clone(), it.value.to_bits(), it.threshold.map(f64::to_bits)))
            .collect();
        (finding.rule, finding.at_ns, finding.culprit, finding.confidence.to_bits(), measures)
    }

    fn found_bits(found: &Found) -> Bits {
        let measures = found.measures.iter();
        let measures = measures
            .map(|it| (it.name.clone(), it.value.to_bits(), it.threshold.map(f64::to_bits)))
            .collect();
        let culprit = found.culprit.as_ref().map(|one| ProcessKey::new(one.pid, one.start_ns));
        (found.rule, found.at_ns, culprit, found.confidence.to_bits(), measures)
    }

    fn configured() -> Config {
        let mut config = Config::default();
        config.vitals.thresholds.memory_percent = 90;
        config
    }

    /// What a daemon finds of kills and thresholds: of each kill as it was told last.
    fn live(log: &[Fact]) -> Vec<Bits> {
        let config = configured();
        let mut watch = Watch::new(config.detect.memory());
        let (mut kills, recent) = (oom::Kills::default(), Recent::default());
        let mut usage = usage::Detector::new(config.vitals.thresholds.limits());
        let mut growths: Vec<Growth> = Vec::new();
        let mut told: Vec<(u64, Bits)> = Vec::new();
        for fact in log {
            match fact {
                Fact::Memory(sample) => {
                    recent.add(sample);
                    for one in watch.see(sample) {
                        if let Told::Found(found, _) = one {
                            let (roots, at_ns) = (found.roots(), found.at_ns);
                            growths.extend(Growth::of("i1", roots, at_ns, &found.measures));
                        }
                    }
                }
                Fact::OomKill(kill) if !kill.dying => {
                    let samples = recent.since(kill.at_ns.saturating_sub(BEFORE_NS));
                    let samples: Vec<&MemorySample> = samples.iter().collect();
                    let Judged { step, case, finding, .. } = kills.judge(kill, &samples, &growths);
                    if step == Step::First {
                        told.push((case.number, bits(&finding)));
                    } else {
                        let known = told.iter_mut().find(|(number, _)| *number == case.number);
                        known.unwrap().1 = bits(&finding);
                    }
                }
                Fact::Usage(seen) => {
                    for said in usage.observe(seen) {
                        if let usage::Said::Above(finding) = said {
                            told.push((u64::MAX, bits(&finding)));
                        }
                    }
                }
                _ => {}
            }
        }
        told.into_iter().map(|(_, bits)| bits).collect()
    }

    #[test]
    fn kills_and_thresholds_replay_to_the_same_findings_bit_for_bit() {
        let log = log();
        let mut replay = Replay::new(&configured());
        for (seq, fact) in (0_u64..).zip(&log) {
            let observation = Observation { fact: Some(fact.clone()) };
            replay.apply(&Record {
                seq,
                at: Some(Timestamp { seconds: seq as i64, nanos: 0 }),
                body: Some(Body::Observation(observation)),
                ..Record::default()
            });
        }
        let report = replay.report;
        let of_growth = |found: &&Found| found.kind == "memory_growth";
        let leak: Vec<&Found> = report.findings.iter().filter(of_growth).collect();
        assert_eq!(leak.iter().map(|it| it.culprit.as_ref().unwrap().pid).max(), Some(20));
        let others: Vec<&Found> =
            report.findings.iter().filter(|found| !of_growth(found)).collect();
        let replayed: Vec<Bits> = others.iter().map(|found| found_bits(found)).collect();
        assert_eq!(replayed, live(&log));
        let told: Vec<_> = others
            .iter()
            .map(|it| {
                let culprit = it.culprit.as_ref().map(|one| (one.pid, one.comm.as_str()));
                let cgroup = it.cgroup.as_deref().unwrap();
                (it.rule, it.severity.as_str(), cgroup, culprit, it.over.is_some())
            })
            .collect();
        // Who grew, and neither who was killed nor who holds most.
        let leaks = Some((20, "p20"));
        assert_eq!(
            told,
            [
                ("oom_loop", "critical", "/caged", Some((50, "p50")), false),
                ("threshold", "warning", "", None, true),
                ("oom_kill", "critical", "", leaks, true),
                ("oom_kill", "critical", "", leaks, true),
            ]
        );
        assert_eq!((report.log.kills, report.log.usages), (6, 5));
        assert_eq!(replay.kills.open.len(), 1, "a loop is over after half an hour");

        // A daemon on another boot knows nothing of them.
        let boot_id = "another".to_owned();
        let observation = Observation { fact: log.into_iter().next_back() };
        let body = Some(Body::Observation(observation));
        let mut replay = Replay { report, ..Replay::new(&configured()) };
        replay.apply(&Record { boot_id, body, ..Record::default() });
        assert!(replay.kills.open.is_empty());
    }
}
