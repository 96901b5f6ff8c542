//! A trace through the gates and the detectors again, and what came of it beside what the kernel had
//! said while it was recorded.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    io::Read,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use prost_types::Timestamp;
use sensor_common::{
    FileId, ProcessKey,
    event::Alarm,
    gate::{Level, Rule},
    lineage::{Image, REPORTED_FOR_S},
    recursion::{Limits, span_ns},
    respawn as respawn_gate, storm as storm_gate,
};
use sensor_proto::json;
use serde::Serialize;

pub use super::comparison::Agreement;
use super::{
    comparison::{Compared, Comparison, TOLD},
    file::{Reader, TraceError},
    key_of, proto_limits,
    table::{Judged, Respawned, Table},
};
use crate::{
    config::{Config, Mode},
    detect::{
        Finding,
        recursion::{self, Crossing},
        respawn, storm,
    },
    lineage::{Exec, Node},
    proto::{
        GateVerdict, Measure, TraceExec, TraceExit, TraceFile, TraceFork, TraceProcess,
        TraceSignatures, TraceStart, trace_entry::Entry,
    },
};

/// What a replay found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub trace: Summary,
    /// Only what ran in these cgroups and below is counted; empty: everything.
    pub scope: Vec<String>,
    pub agreement: Agreement,
    pub findings: Vec<Found>,
    /// Different culprits among the findings, but for those that would only be watched.
    pub incidents: usize,
    /// Culprits of explosions (R3) alone. A daemon watches whether they go on, and looks at sockets and
    /// limits, which a trace has not: each may be an incident, contained or not, or nothing at all.
    pub watched: usize,
    /// Those of them that the configuration has contained.
    pub containments: usize,
}

/// What the trace is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub host: String,
    pub kernel: String,
    pub version: String,
    #[serde(serialize_with = "json::time")]
    pub started_at: Option<Timestamp>,
    pub seconds: f64,
    /// It was ended in good order: there is no damage.
    pub complete: bool,
    /// Where it was cut off or damaged, and how; null: nowhere.
    pub damage: Option<String>,
    pub forks: u64,
    pub execs: u64,
    pub exits: u64,
    /// Most processes alive at once.
    pub peak_live: u64,
    /// What the kernel side could not keep, all reasons together: parts of the trace may be missing.
    pub lost: u64,
    /// The same by reason.
    pub losses: BTreeMap<String, u64>,
}

/// A finding of the detectors.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    pub kind: String,
    pub rule: &'static str,
    /// The configuration has it contained.
    pub contain: bool,
    pub confidence: f64,
    /// From the trace's start, s.
    pub after_s: f64,
    #[serde(serialize_with = "json::string")]
    pub at_ns: u64,
    pub culprit: FoundCulprit,
    /// Of a respawn loop: the command that the culprit restarts, redacted; else empty.
    #[serde(serialize_with = "json::texts")]
    pub restarts: Vec<Vec<u8>>,
    pub measures: Vec<Measure>,
}

/// What is known of a culprit by a trace: the names are those of an incident's.
#[derive(Clone, Debug, Serialize)]
pub struct FoundCulprit {
    pub pid: u32,
    /// Boot clock, ns.
    #[serde(serialize_with = "json::string")]
    pub start_ns: u64,
    /// Redacted; empty where the trace has no arguments.
    #[serde(serialize_with = "json::texts")]
    pub argv: Vec<Vec<u8>>,
    /// cgroup v2 path; null where the trace does not know it.
    pub cgroup: Option<String>,
}

/// Replays a file: all of it, or only what ran in the cgroups of the configuration's scope and below.
pub fn replay(file: &Path, config: &Config) -> Result<Report, TraceError> {
    read(Reader::open(file)?, config)
}

/// Likewise, from wherever the trace comes.
pub(crate) fn read<R: Read>(mut reader: Reader<R>, config: &Config) -> Result<Report, TraceError> {
    let Some(Entry::Start(start)) = reader.entry()? else {
        return Err(reader.no_trace("it does not begin with a trace's start"));
    };
    let mut replay = Replay::new(&start, config);
    while let Some(entry) = reader.entry()? {
        replay.apply(entry);
    }
    Ok(replay.report(reader.damage()))
}

/// A replay under way.
pub struct Replay<'a> {
    config: &'a Config,
    limits: Limits,
    storms: storm_gate::Limits,
    respawns: respawn_gate::Limits,
    /// How far two counts may be apart because of what is under way.
    under_way: u32,
    start_ns: u64,
    last_ns: u64,
    table: Table,
    /// Children and parents from before the trace, until all of them are known.
    links: Vec<(ProcessKey, ProcessKey)>,
    groups: HashMap<u64, PathBuf>,
    live: u64,
    culprits: HashSet<ProcessKey>,
    exploding: HashSet<ProcessKey>,
    contained: HashSet<ProcessKey>,
    /// Alarms of storms and respawn loops by the kernel and by the replay.
    said: Vec<Alarmed>,
    judged: Vec<Alarmed>,
    /// Storms of the replay so far.
    alarms: usize,
    /// When a storm was last told of, by culprit and rule, ns.
    told: HashMap<(ProcessKey, u16), u64>,
    /// Respawn loops that were told of: who restarts what.
    loops: HashSet<(ProcessKey, Vec<Vec<u8>>)>,
    comparison: Comparison,
    report: Report,
}

/// Alarms of the same storm may be so far apart: the kernel looks at every eighth fork, and a look
/// that two CPUs share may come at the next.
const APART_NS: u64 = 1_000_000_000;

/// Alarms that are looked at: each takes a look at all processes, and a file may hold anything.
const ALARMS: usize = 1000;

/// As the daemon has it.
const TOLD_FOR_NS: u64 = (REPORTED_FOR_S as u64 - 1) * 1_000_000_000;

/// Births that two CPUs are in the middle of at once begin no further apart, ns: a few turns of the scheduler.
const TWICE_NS: u64 = 100_000_000;

/// An alarm that stands with a fork or an exit.
#[derive(Clone, Debug)]
struct Alarmed {
    rule: u32,
    top: Option<ProcessKey>,
    at_ns: u64,
}

impl Alarmed {
    fn is(&self, other: &Self) -> bool {
        (self.rule, self.top) == (other.rule, other.top)
            && self.at_ns.abs_diff(other.at_ns) <= APART_NS
    }

    /// The kernel said it twice, as two CPUs may that look at once.
    fn is_said_with(&self, other: &Self) -> bool {
        self.is(other) && self.at_ns.abs_diff(other.at_ns) <= TWICE_NS
    }
}

impl<'a> Replay<'a> {
    pub fn new(start: &TraceStart, config: &'a Config) -> Self {
        let limits = config.detect.limits();
        let storms = config.detect.storms(start.cpus.max(1));
        let respawns = config.detect.respawns();
        let in_force = proto_limits(&limits, &storms, &respawns);
        let report = Report {
            trace: Summary {
                host: start.host.clone(),
                kernel: start.kernel.clone(),
                version: start.version.clone(),
                started_at: start.at,
                ..Summary::default()
            },
            scope: config.scope.cgroup.clone(),
            agreement: Agreement {
                comparable: start.limits.as_ref() == Some(&in_force),
                ..Agreement::default()
            },
            ..Report::default()
        };
        Self {
            config,
            limits,
            storms,
            respawns,
            under_way: start.cpus.max(1),
            start_ns: start.boot_ns,
            last_ns: start.boot_ns,
            table: Table::new(),
            links: Vec::new(),
            groups: HashMap::new(),
            live: 0,
            culprits: HashSet::new(),
            exploding: HashSet::new(),
            contained: HashSet::new(),
            said: Vec::new(),
            judged: Vec::new(),
            alarms: 0,
            told: HashMap::new(),
            loops: HashSet::new(),
            comparison: Comparison::default(),
            report,
        }
    }

    pub fn apply(&mut self, entry: Entry) {
        if !matches!(entry, Entry::Process(_) | Entry::Group(_)) {
            // Once all are there: a parent may come after its child, where pids began anew.
            for (child, parent) in std::mem::take(&mut self.links) {
                self.table.link(child, parent);
            }
        }
        match entry {
            Entry::Start(_) => {}
            Entry::Process(process) => self.process(&process),
            Entry::Fork(fork) => self.fork(&fork),
            Entry::Exec(exec) => self.exec(exec),
            Entry::Exit(exit) => self.exit(&exit),
            Entry::Group(group) => {
                self.groups.insert(group.id, OsString::from_vec(group.path).into());
            }
            Entry::Lost(lost) => {
                let trace = &mut self.report.trace;
                trace.lost = trace.lost.saturating_add(lost.count);
                let of_reason = trace.losses.entry(lost.reason).or_default();
                *of_reason = of_reason.saturating_add(lost.count);
            }
            Entry::End(end) => self.passed(end.boot_ns),
        }
    }

    /// What came of it. `damage`: where the trace was cut off or damaged, and how.
    pub fn report(mut self, damage: Option<String>) -> Report {
        let comparable = self.report.agreement.comparable;
        self.report.agreement = Agreement { comparable, ..self.comparison.end() };
        self.compare_storms();
        self.report.trace.complete = damage.is_none();
        self.report.trace.damage = damage;
        self.report.trace.seconds = (self.last_ns - self.start_ns) as f64 / 1e9;
        self.report.incidents = self.culprits.len();
        self.report.watched = self.exploding.difference(&self.culprits).count();
        self.report.containments = self.contained.len();
        self.report
    }

    fn passed(&mut self, now_ns: u64) {
        self.last_ns = self.last_ns.max(now_ns);
    }

    fn process(&mut self, process: &TraceProcess) {
        let Some(key) = key_of(process.process.as_ref()) else { return };
        let TraceSignatures { strict, loose, exe } = process.signatures.unwrap_or_default();
        let argv_bytes = process.argv_bytes;
        let image = Image { strict, loose, exe, argv_bytes, ..Image::default() };
        let slot = self.table.adopt(key, process.cgroup, image);
        if let Some(parent) = key_of(process.parent.as_ref()) {
            self.links.push((key, parent));
        }
        self.place(slot);
    }

    /// Counts a process where it belongs now; answers whether it is in scope.
    fn place(&mut self, slot: u32) -> bool {
        let scope = &self.config.scope.cgroup;
        let scoped = scope.is_empty()
            || self
                .groups
                .get(&self.table.cgroup(slot))
                .is_some_and(|group| scope.iter().any(|path| group.starts_with(path)));
        match (self.table.set_scoped(slot, scoped), scoped) {
            (false, true) => self.live += 1,
            (true, false) => self.live -= 1,
            _ => {}
        }
        self.report.trace.peak_live = self.report.trace.peak_live.max(self.live);
        scoped
    }

    fn fork(&mut self, fork: &TraceFork) {
        let Some(child) = key_of(fork.child.as_ref()) else { return };
        self.passed(child.start_ns);
        let parent = key_of(fork.parent.as_ref());
        let (slot, alarms) = self.table.fork(child, parent, fork.cgroup, &self.storms);
        if !self.place(slot) {
            return;
        }
        self.report.trace.forks += 1;
        if self.report.agreement.comparable {
            let storm = |rule, top| Alarmed { rule, top, at_ns: child.start_ns };
            let said = fork.storms.iter().take(ALARMS.saturating_sub(self.said.len()));
            self.said.extend(said.map(|one| storm(one.rule, key_of(one.top.as_ref()))));
            let judged = alarms.iter().take(ALARMS.saturating_sub(self.judged.len()));
            self.judged.extend(judged.map(|one| storm(one.rule.into(), Some(one.top))));
        }
        for alarm in alarms {
            self.alarms += 1;
            if self.alarms <= ALARMS {
                self.stormed(&alarm);
            }
        }
    }

    fn exit(&mut self, exit: &TraceExit) {
        let Some(key) = key_of(exit.process.as_ref()) else { return };
        self.passed(exit.exit_ns);
        self.comparison.died(key, exit.exit_ns);
        let Some(slot) = self.table.living(key) else { return };
        let respawned = self.table.ended(slot, exit.exit_ns, exit.code, &self.respawns);
        if self.table.set_scoped(slot, false) {
            self.live -= 1;
            self.report.trace.exits += 1;
            if self.report.agreement.comparable {
                let at_ns = exit.exit_ns;
                let rule = Rule::R6 as u32;
                let alarm = |top| Alarmed { rule, top, at_ns };
                let said = exit.respawn.iter().map(|one| alarm(key_of(one.parent.as_ref())));
                self.said.extend(said.take(ALARMS.saturating_sub(self.said.len())));
                let judged = respawned.iter().map(|one| alarm(Some(one.alarm.top)));
                self.judged.extend(judged.take(ALARMS.saturating_sub(self.judged.len())));
            }
            if let Some(respawned) = respawned {
                self.respawned(respawned);
            }
        }
        self.table.exit(key);
    }

    /// A loop that goes on is the same loop: the daemon, too, opens one incident about it.
    fn respawned(&mut self, respawned: Respawned) {
        let Respawned { alarm, window, command } = respawned;
        if !self.loops.insert((alarm.top, command.clone())) {
            return;
        }
        let finding = respawn::detect(&alarm, &window, &self.respawns);
        let ancestry = self.table.living(alarm.top).map(|slot| self.table.ancestry(slot));
        self.add(finding, alarm.top, &ancestry.unwrap_or_default(), command);
    }

    fn stormed(&mut self, alarm: &Alarm) {
        let Some(rule) = Rule::of(alarm.rule) else { return };
        let forest = self.table.forest();
        let Some(finding) = storm::detect(rule, alarm, &forest, &self.storms) else { return };
        let Some(culprit) = finding.culprit else { return };
        // All ancestors of a storm cross; the daemon, too, tells of it once a minute.
        let told = self.told.insert((culprit, alarm.rule), alarm.crossed_ns);
        if told.is_some_and(|told| alarm.crossed_ns.saturating_sub(told) < TOLD_FOR_NS) {
            return;
        }
        let ancestry: Vec<Node> = forest.ancestry(culprit).into_iter().cloned().collect();
        self.add(finding, culprit, &ancestry, Vec::new());
    }

    /// Alarms of the kernel and of the replay that are the same: rule, top, and time but for a second. One that the
    /// kernel said twice is one.
    fn compare_storms(&mut self) {
        let mut ours = std::mem::take(&mut self.judged);
        let mut differences = Vec::new();
        let mut agreed: Vec<Alarmed> = Vec::new();
        for said in std::mem::take(&mut self.said) {
            if let Some(at) = ours.iter().position(|one| one.is(&said)) {
                ours.swap_remove(at);
                self.report.agreement.storms_agree += 1;
                agreed.push(said);
            } else if !agreed.iter().any(|one| said.is_said_with(one)) {
                differences.push(format!("only the kernel said {said:?}"));
            }
        }
        differences.extend(ours.iter().map(|one| format!("only the replay said {one:?}")));
        let agreement = &mut self.report.agreement;
        agreement.storms_differ = differences.len() as u64;
        let room = TOLD.saturating_sub(agreement.differences.len());
        agreement.differences.extend(differences.into_iter().take(room));
    }

    fn exec(&mut self, exec: TraceExec) {
        let Some(key) = key_of(exec.process.as_ref()) else { return };
        self.passed(exec.exec_ns);
        let signatures = exec.signatures.unwrap_or_default();
        let said = exec.verdict.unwrap_or_default();
        let slot = self.table.ensure(key);
        let comparable = self.report.agreement.comparable;
        let (mut in_flight, under_way) = (false, self.under_way);
        let judged = self.table.executed(
            slot,
            exec.cgroup,
            Exec {
                at_ns: exec.exec_ns,
                exe: file_id(exec.exe),
                cwd: file_id(exec.cwd),
                argv: exec.argv,
                argv_bytes: exec.argv_bytes,
                strict: signatures.strict,
                loose: signatures.loose,
            },
            signatures.exe,
            &self.limits,
            |counted| {
                in_flight = counted != said.live && counted.abs_diff(said.live) <= under_way;
                if in_flight { said.live } else { counted }
            },
        );
        if !self.place(slot) {
            return;
        }
        self.report.trace.execs += 1;
        if comparable {
            self.compare(slot, &judged, said, in_flight);
        }
        if judged.verdict.report {
            self.crossed(slot, &judged);
        }
    }

    fn compare(&mut self, slot: u32, judged: &Judged, said: GateVerdict, in_flight: bool) {
        let ours = verdict(judged);
        // Told apart only as far as what is under way does not explain it.
        let ours = GateVerdict { live: if in_flight { said.live } else { ours.live }, ..ours };
        let chain = if said == ours {
            Vec::new()
        } else {
            self.table.ancestry(slot).iter().map(|node| node.key).collect()
        };
        let now_ns = judged.image.generations[0];
        self.comparison.add(Compared { now_ns, said, ours, in_flight, chain });
    }

    fn crossed(&mut self, slot: u32, judged: &Judged) {
        let crossing = Crossing {
            level: judged.verdict.level,
            rule: judged.verdict.rule,
            repetitions: u32::from(judged.verdict.repetitions),
            span_ns: span_ns(&judged.image),
            live: judged.verdict.live,
            crossed_ns: judged.image.generations[0],
            ancestry: self.table.ancestry(slot),
        };
        if crossing.level < Level::Open {
            return;
        }
        let Some(finding) = recursion::detect(&crossing, &self.limits) else { return };
        let Some(culprit) = finding.culprit else { return };
        self.add(finding, culprit, &crossing.ancestry, Vec::new());
    }

    /// A finding of the detectors, with the culprit's ancestry or that of one below it.
    fn add(
        &mut self,
        finding: Finding,
        culprit: ProcessKey,
        ancestry: &[Node],
        restarts: Vec<Vec<u8>>,
    ) {
        let contain = finding.contain && self.config.respond.rules.mode(finding.rule) == Mode::Auto;
        if finding.rule == Rule::R3.name() {
            self.exploding.insert(culprit);
        } else {
            self.culprits.insert(culprit);
        }
        if contain {
            self.contained.insert(culprit);
        }
        let found = self.found(finding, culprit, contain, ancestry);
        self.report.findings.push(Found { restarts, ..found });
    }

    fn found(
        &self,
        finding: Finding,
        culprit: ProcessKey,
        contain: bool,
        ancestry: &[Node],
    ) -> Found {
        let node = ancestry.iter().find(|node| node.key == culprit);
        let argv = node.and_then(|node| node.exec.as_ref()).map(|exec| exec.argv.clone());
        let cgroup = node.and_then(|node| self.groups.get(&node.cgroup));
        let cgroup = cgroup.map(|path| path.display().to_string());
        Found {
            kind: json::kind::word(finding.kind.into()),
            rule: finding.rule,
            contain,
            confidence: finding.confidence,
            after_s: finding.at_ns.saturating_sub(self.start_ns) as f64 / 1e9,
            at_ns: finding.at_ns,
            culprit: FoundCulprit {
                pid: culprit.tgid,
                start_ns: culprit.start_ns,
                argv: argv.unwrap_or_default(),
                cgroup,
            },
            restarts: Vec::new(),
            measures: finding.measures,
        }
    }
}

fn file_id(file: Option<TraceFile>) -> FileId {
    file.map_or_else(FileId::default, |file| FileId { ino: file.ino, dev: file.dev, zero: 0 })
}

fn verdict(judged: &Judged) -> GateVerdict {
    let Image { strict_repetitions, loose_repetitions, exe_repetitions, growing, .. } =
        judged.image;
    GateVerdict {
        level: judged.verdict.level as u32,
        rule: judged.verdict.rule as u32,
        strict_repetitions: strict_repetitions.into(),
        loose_repetitions: loose_repetitions.into(),
        exe_repetitions: exe_repetitions.into(),
        growing: growing.into(),
        top: super::proto_key(judged.top),
        live: judged.verdict.live,
        reported: judged.verdict.report,
    }
}

#[cfg(test)]
mod tests;
