//! Pressure: from a look at the host's memory to an incident, and to its end.
//!
//! What is judged here was judged before by who watches, in the same way: see `detect::pressure`. Nothing is
//! stopped: who stalls is not who grows, and who grows has an incident of its own.
//!
//! - `groups`: which cgroups are watched
//! - `waits`: who waits just now, pure

mod groups;
mod waits;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sensor_common::lineage::DEAD;
use tokio::sync::mpsc;

use self::waits::{Stalled, Waits};
use super::{desk::Desk, matter::Matter, reactor::Notice};
use crate::{
    cgroup::{self, Hierarchies},
    clock,
    config::Config,
    detect::{
        Finding, pressure,
        pressure::{Level, Said},
        usage,
    },
    diagnose::pressure::{Shortage, Waiting, within},
    host, incident,
    kernel::{HELPER_PRIORITY, Lineage},
    proto::{self, Kind, Pressure, Priority, Usage, observation::Fact, record::Body},
    record::Draft,
    respond::ballast::Ballast,
    vitals::{
        parse,
        pressure::{Options, Strain, Watcher},
        usage::{Options as Polled, Poller},
    },
};

/// Between two looks for the cgroups that are to be watched, s.
const GROUPS_EVERY_S: u32 = 10;

/// Who holds what is compared with how it was so long ago, ns: a minute's growth of a slow leak is within what
/// programs take and give back.
const COMPARED_NS: u64 = 180_000_000_000;

/// All that is known of pressure.
pub struct Shortages {
    detector: Option<pressure::Detector>,
    thresholds: usage::Detector,
    /// Incidents by the place that they are about; empty: the host.
    open: HashMap<String, String>,
    /// The same of thresholds, by kind.
    above: HashMap<Kind, String>,
    watcher: Option<Arc<Watcher>>,
    /// Ends with this value.
    _poller: Option<Poller>,
    strain: Strain,
    waits: Waits,
    ballast: Ballast,
    hierarchies: Hierarchies,
    /// cgroups that incidents are limited to; none: the whole host.
    scope: Vec<PathBuf>,
    /// Looks around until the cgroups are looked for again.
    due: u32,
}

impl Shortages {
    /// Starts what watches. What could not be started is said.
    pub fn start(
        config: &Config,
        hierarchies: &Hierarchies,
        scope: &[PathBuf],
        lineage: &Arc<Lineage>,
        notices: &mpsc::Sender<Notice>,
        lost: &Arc<AtomicU64>,
        degradations: &mut Vec<String>,
    ) -> Self {
        let strain = Strain::default();
        let limits = config.detect.pressure();
        let tell = |notices: &mpsc::Sender<Notice>| {
            let (notices, lost) = (notices.clone(), Arc::clone(lost));
            move |notice| {
                if notices.try_send(notice).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let watcher = limits.and_then(|limits| {
            let options = Options {
                proc: "/proc".into(),
                cpus: host::cpus(),
                limits,
                strain: strain.clone(),
                // It gives way to those who stop something.
                priority: config.kernel.realtime.then_some(HELPER_PRIORITY - 1),
            };
            let (lineage, tell) = (Arc::clone(lineage), tell(notices));
            let reclaimed = move || {
                let all = lineage.stalls().host();
                (all.times, all.ns)
            };
            let told = move |pressure| tell(Notice::Pressure(Box::new(pressure)));
            Watcher::start(options, reclaimed, told)
                .map_err(|error| {
                    degradations.push(format!("nobody watches for pressure: {error}"));
                })
                .ok()
        });
        degradations.extend(watcher.as_ref().and_then(|watcher| watcher.degraded.clone()));
        let chosen = &config.vitals.thresholds;
        let thresholds = chosen.limits();
        let poller = thresholds.any().then(|| {
            let options = Polled {
                proc: "/proc".into(),
                disk: chosen.disk.clone(),
                every: Duration::from_millis(chosen.polling_interval_ms.into()),
                thresholds,
            };
            let tell = tell(notices);
            Poller::start(options, move |usage| tell(Notice::Usage(usage)))
        });
        let poller = poller.transpose().map_err(|error: io::Error| {
            degradations.push(format!("nobody looks at the thresholds: {error}"));
        });
        Self {
            detector: limits.map(pressure::Detector::new),
            thresholds: usage::Detector::new(thresholds),
            open: HashMap::new(),
            above: HashMap::new(),
            watcher: watcher.map(Arc::new),
            _poller: poller.unwrap_or_default(),
            strain,
            waits: Waits::since(clock::boot_ns()),
            ballast: Ballast::new(config.respond.ballast_bytes),
            hierarchies: hierarchies.clone(),
            scope: scope.to_vec(),
            due: 0,
        }
    }

    /// An incident is over, whoever said so.
    pub fn close(&mut self, id: &str) {
        self.open.retain(|_, open| open != id);
        self.above.retain(|_, open| open != id);
    }
}

impl Desk {
    /// A look at a place that is worth a record.
    pub fn pressed(&mut self, pressure: Pressure) {
        let said = self.shortages.detector.as_mut().map(|it| it.observe(&pressure));
        let mut id = self.shortages.open.get(&pressure.cgroup).cloned();
        for said in said.unwrap_or_default() {
            match said {
                Said::Risen { cgroup, level, finding } => {
                    if let Some(opened) = self.short(&cgroup, level, *finding, &pressure) {
                        id = Some(opened);
                    }
                }
                Said::Calm { cgroup, why } => {
                    if let Some(id) = self.shortages.open.remove(&cgroup) {
                        self.resolve(&id, why);
                    }
                }
            }
        }
        self.observed(id, Fact::Pressure(pressure));
    }

    /// Ends what nobody tells of any more. That is recorded, so that a replay ends it as well.
    pub fn end_silent_shortages(&mut self) {
        let at_ns = clock::boot_ns();
        let silent = self.shortages.detector.as_ref().map(|it| it.silent(at_ns));
        for cgroup in silent.unwrap_or_default() {
            self.pressed(Pressure { at_ns, cgroup, ..Pressure::default() });
        }
    }

    /// Opens an incident of a place, or makes the open one worse. The host's own are everybody's matter: they
    /// open only where no scope is set.
    fn short(
        &mut self,
        cgroup: &str,
        level: Level,
        finding: Finding,
        pressure: &Pressure,
    ) -> Option<String> {
        if level == Level::Critical && cgroup.is_empty() {
            let bytes = self.shortages.ballast.release();
            if bytes > 0 {
                tracing::info!("{bytes} bytes of ballast were given back to the host");
            }
        }
        if cgroup.is_empty() && !self.shortages.scope.is_empty() {
            return None;
        }
        let shortage = self.shortage(pressure);
        let summary = shortage.summary();
        if let Some(id) = self.shortages.open.get(cgroup).cloned() {
            self.change(&id, |incident| {
                incident.occurrences += 1;
                incident.severity = incident.severity.max(incident::severity(&finding, 0) as i32);
                incident.finding = Some(incident::claim(&finding));
                incident.summary = summary;
                format!("the pressure is {} now", level.word())
            })?;
            if let Some(matter) = self.matters.get_mut(&id) {
                matter.subject.finding = finding;
                matter.subject.shortage = Some(shortage);
            }
            self.study(&id);
            return Some(id);
        }
        let mut scene = self.scene(None, finding.at_ns, &[]);
        scene.identity = identity(cgroup);
        let mut change = self.incidents.report(&finding, scene, incident::new_id());
        change.incident.summary.clone_from(&summary);
        let id = change.incident.id.clone();
        self.incidents.change(&id, clock::wall(), |incident| {
            incident.summary = summary;
            String::new()
        });
        self.shortages.open.insert(cgroup.to_owned(), id.clone());
        self.announce(change);
        self.matters.insert(id.clone(), Matter::short(&id, finding, shortage));
        self.study(&id);
        Some(id)
    }

    /// What is at hand about it: no process is scanned any more.
    fn shortage(&self, pressure: &Pressure) -> Shortage {
        let inside = self.inside(&pressure.cgroup);
        let waits = &self.shortages.waits;
        let waiting = waits.longest(self.stalled(), inside.as_ref());
        let waiting = waiting.into_iter().map(|one| Waiting {
            process: one.process,
            argv: self.lineage.argv(one.slot, one.process),
            stalled_ns: one.ns,
        });
        let growths = self.incidents.iter().filter(|incident| {
            matches!(incident.kind(), Kind::MemoryGrowth | Kind::ForkStorm | Kind::Recursion)
        });
        let growths = growths
            .filter_map(|incident| Some((incident.culprit.as_ref()?.pid, incident.id.clone())));
        let since_ns = pressure.at_ns.saturating_sub(COMPARED_NS);
        let (before, now) = self.memory.recent().ends(since_ns).unzip();
        let here = |sample| match &inside {
            Some(cgroups) => within(sample, cgroups),
            None => sample,
        };
        let mut shortage = Shortage {
            pressure: pressure.clone(),
            waiting: waiting.collect(),
            waited_ns: waits.span_ns(pressure.at_ns),
            growths: growths.collect(),
            before: before.map(here),
            now: now.map(here),
            commands: Vec::new(),
        };
        // Of the few that are told, what they run.
        let commands = shortage.growing().into_iter().filter_map(|key| {
            let node = self.lineage.living(key.tgid).filter(|node| node.key == key)?;
            Some((key, node.exec?.argv))
        });
        shortage.commands = commands.collect();
        shortage
    }

    /// Ids of a place's cgroup and of those below it; none: the host. Nobody is in one that is gone.
    fn inside(&self, cgroup: &str) -> Option<HashSet<u64>> {
        let ids = || cgroup::ids(&self.shortages.hierarchies.dir(Path::new(cgroup))?).ok();
        (!cgroup.is_empty()).then(|| ids().unwrap_or_default())
    }

    /// Whoever has stood in reclaim since it is known. Who watches waits as well, and that is no news.
    fn stalled(&self) -> impl Iterator<Item = Stalled> {
        let (stalls, ours) = (self.lineage.stalls(), std::process::id());
        self.lineage.table().nodes().filter_map(move |(slot, node)| {
            let ns = stalls.of(slot, node.key).own_ns;
            let watches = [node.key.tgid, node.parent.tgid].contains(&ours);
            let tells = ns > 0 && node.flags & DEAD == 0 && !watches;
            tells.then_some(Stalled { process: node.key, slot, cgroup: node.cgroup, ns })
        })
    }

    /// Keeps in mind who has waited for how long. Not while memory is exhausted: it takes some.
    pub fn note_waits(&mut self) {
        let now_ns = clock::boot_ns();
        if self.shortages.waits.is_due(now_ns) && !self.shortages.strain.is_exhausted() {
            let mut waits = std::mem::take(&mut self.shortages.waits);
            waits.see(now_ns, self.stalled());
            self.shortages.waits = waits;
        }
    }

    /// A look at the percentages.
    pub fn used(&mut self, usage: Usage) {
        let mut id = None;
        for said in self.shortages.thresholds.observe(&usage) {
            match said {
                usage::Said::Above(finding) => {
                    let mut scene = self.scene(None, finding.at_ns, &[]);
                    scene.identity = [2, finding.kind as u64, 0];
                    let kind = finding.kind;
                    let change = self.incidents.report(&finding, scene, incident::new_id());
                    let opened = change.incident.id.clone();
                    self.shortages.above.insert(kind, opened.clone());
                    self.announce(change);
                    self.matters.insert(opened.clone(), Matter::new(&opened, *finding));
                    self.study(&opened);
                    id = Some(opened);
                }
                usage::Said::Below(kind) => {
                    if let Some(opened) = self.shortages.above.remove(&kind) {
                        self.resolve(
                            &opened,
                            "it has not been above the threshold for three looks",
                        );
                        id = Some(opened);
                    }
                }
            }
        }
        self.observed(id, Fact::Usage(usage));
    }

    /// Records a fact, with the incident that it belongs to.
    fn observed(&mut self, id: Option<String>, fact: Fact) {
        let body = Body::Observation(proto::Observation { fact: Some(fact) });
        self.log.append(match id {
            Some(id) => Draft { priority: Priority::Incident, ..Draft::of(id, body) },
            None => Draft::bulk(body),
        });
    }

    /// Has the cgroups watched that are nearest to their limits. Not while memory is exhausted.
    pub fn choose_groups(&mut self) {
        let shortages = &mut self.shortages;
        let Some(watcher) = shortages.watcher.clone() else { return };
        if shortages.due > 0 || shortages.strain.is_exhausted() {
            shortages.due = shortages.due.saturating_sub(1);
            return;
        }
        shortages.due = GROUPS_EVERY_S;
        let (hierarchies, scope) = (shortages.hierarchies.clone(), shortages.scope.clone());
        let gatherer = Arc::clone(&self.gatherer);
        tokio::task::spawn_blocking(move || {
            let mut groups = groups::fullest(&hierarchies, &scope);
            for group in &mut groups {
                group.name = gatherer.redactor().line(&group.name);
            }
            watcher.watch(groups);
        });
    }

    /// Takes the ballast when there is enough besides it.
    pub fn tend_ballast(&mut self) {
        let shortages = &mut self.shortages;
        let Some(detector) = shortages.detector.as_ref() else { return };
        if !shortages.ballast.is_missing() || shortages.strain.is_exhausted() {
            return;
        }
        let memory = parse::memory(&fs::read("/proc/meminfo").unwrap_or_default());
        if let Some((total, available)) = memory.total.zip(memory.available) {
            shortages.ballast.tend(total, available, detector.limits().watch_percent);
        }
    }

    /// What an earlier run had opened: whether it is over is for the next look to say.
    pub fn forget_shortages(&mut self) {
        let of_pressure = |incident: &&proto::Incident| {
            matches!(incident.kind(), Kind::MemoryPressure | Kind::DiskPressure | Kind::CpuPressure)
        };
        let old: Vec<String> =
            self.incidents.iter().filter(of_pressure).map(|incident| incident.id.clone()).collect();
        for id in old {
            self.resolve(&id, "the sensor was started again, and opens a new one if it goes on");
        }
    }
}

/// Kernel facts that make a shortage the same: where it is.
fn identity(cgroup: &str) -> [u64; 3] {
    // FNV-1a.
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    [1, cgroup.bytes().fold(0xcbf2_9ce4_8422_2325, hash), 0]
}
