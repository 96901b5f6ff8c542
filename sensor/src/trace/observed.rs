//! The observations of a log through the detectors of memory, of pressure, of OOM kills and of thresholds again: from a
//! state directory, which is only read, or from a file that holds the observations alone.

mod kills;

use std::path::{Path, PathBuf};

use prost_types::Timestamp;
use sensor_proto::json;
use serde::Serialize;

use super::key_of;
use crate::{
    config::Config,
    core::UNSEEN,
    detect::{
        Finding,
        memory::{Told, Watch, Whose},
        pressure::{self, Detector, Said},
        usage,
    },
    incident,
    lineage::ProcessKey,
    proto::{
        self, Measure, MemorySample, Pressure, Record, Severity, Usage, observation::Fact,
        record::Body,
    },
    record::{self, Export, ExportError, Exporter, Filter, ReadError, Reader},
};

/// Records of a page.
const PAGE: u32 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum ObservedError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(
        "{0} is an exported incident: `sensor show --file` tells it, and a replay needs a log or what `--keep` wrote"
    )]
    Incident(PathBuf),
}

/// What a replay of a log found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub log: Summary,
    pub findings: Vec<Found>,
}

/// What the log is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub host: String,
    /// When the first observation that a detector sees was recorded, and the last one.
    #[serde(serialize_with = "json::time")]
    pub from: Option<Timestamp>,
    #[serde(serialize_with = "json::time")]
    pub to: Option<Timestamp>,
    /// Samples of memory.
    pub samples: u64,
    /// Looks at pressure that were worth a record.
    pub pressures: u64,
    /// Victims of the OOM killer.
    pub kills: u64,
    /// Looks at what has a threshold that were worth a record.
    pub usages: u64,
    /// Where the file was cut off or damaged, and how; null: nowhere.
    pub damage: Option<String>,
}

/// A finding of the detectors.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    pub kind: String,
    pub rule: &'static str,
    pub severity: String,
    pub confidence: f64,
    /// When the sample was recorded.
    #[serde(serialize_with = "json::time")]
    pub at: Option<Timestamp>,
    /// Boot clock, ns.
    #[serde(serialize_with = "json::string")]
    pub at_ns: u64,
    /// Of pressure, OOM kills and thresholds where it is, empty: the host; null: it is about who grows.
    pub cgroup: Option<String>,
    /// None where nobody has it.
    pub culprit: Option<Process>,
    /// Of a group all its trees; else empty.
    pub members: Vec<Process>,
    pub measures: Vec<Measure>,
    /// Why and when it was over; null: it was not.
    pub over: Option<End>,
    /// Of growth whose it is part of.
    #[serde(skip)]
    pub whose: Whose,
}

#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub pid: u32,
    /// Boot clock, ns.
    #[serde(serialize_with = "json::string")]
    pub start_ns: u64,
    /// As the sample has it; empty: it has it not.
    pub comm: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct End {
    #[serde(serialize_with = "json::time")]
    pub at: Option<Timestamp>,
    #[serde(serialize_with = "json::string")]
    pub at_ns: u64,
    pub why: String,
}

/// The sample that a record is about.
pub fn sample_of(record: &Record) -> Option<&MemorySample> {
    match &record.body {
        Some(Body::Observation(observation)) => match &observation.fact {
            Some(Fact::Memory(sample)) => Some(sample),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a file is a log, and no trace.
pub fn is_log(file: &Path) -> bool {
    file.is_dir() || is_database(file) || record::is_export(file)
}

fn is_database(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == record::FILE)
}

/// Replays a state directory, its database, or a file of observations. `keep`: each observation is written
/// into this new file as well.
pub fn replay(file: &Path, config: &Config, keep: Option<&Path>) -> Result<Report, ObservedError> {
    let mut replay = Replay::new(config);
    let mut keep = keep.map(Exporter::create_records).transpose()?;
    let mut each = |record: Record| -> Result<(), ObservedError> {
        replay.apply(&record);
        if let (Some(keep), Some(Body::Observation(_))) = (&mut keep, &record.body) {
            keep.record(record)?;
        }
        Ok(())
    };
    let damage = if file.is_dir() || is_database(file) {
        let directory: PathBuf = match file.parent() {
            Some(parent) if !file.is_dir() => parent.into(),
            _ => file.into(),
        };
        let log = Reader::open(&directory)?;
        let filter = Filter::new("", &["observation"])?;
        let mut next = 0;
        loop {
            let page = match log.records(next, &filter, PAGE) {
                Ok(page) => page,
                // What was read before is worth telling.
                Err(error) if error.is_damage() && next > 0 => {
                    break Some(format!("damaged behind record {}: {error}", next - 1));
                }
                Err(error) => return Err(error.into()),
            };
            page.records.into_iter().try_for_each(&mut each)?;
            next = page.next_seq;
            if page.end {
                break None;
            }
        }
    } else {
        let mut export = Export::open_records(file)?;
        if export.incident != proto::Incident::default() {
            return Err(ObservedError::Incident(file.into()));
        }
        export.by_ref().try_for_each(&mut each)?;
        export.damage
    };
    if let Some(keep) = keep {
        keep.finish()?;
    }
    let mut report = replay.report;
    report.log.damage = damage;
    Ok(report)
}

/// Likewise, from wherever the observations come.
#[cfg(any(fuzzing, test))]
pub(crate) fn read<R: std::io::Read>(export: &mut Export<R>, config: &Config) -> Report {
    let mut replay = Replay::new(config);
    export.by_ref().for_each(|record| replay.apply(&record));
    replay.report.log.damage.clone_from(&export.damage);
    replay.report
}

/// A replay under way.
struct Replay {
    config: Config,
    watch: Watch,
    pressure: Option<Detector>,
    usage: usage::Detector,
    kills: kills::Kills,
    boot_id: String,
    /// Which run of a sensor the samples are of.
    series_ns: u64,
    report: Report,
}

impl Replay {
    fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            watch: Watch::new(config.detect.memory()),
            pressure: config.detect.pressure().map(Detector::new),
            usage: usage::Detector::new(config.vitals.thresholds.limits()),
            kills: kills::Kills::default(),
            boot_id: String::new(),
            series_ns: 0,
            report: Report::default(),
        }
    }

    fn apply(&mut self, record: &Record) {
        let Some(Body::Observation(observation)) = &record.body else { return };
        match &observation.fact {
            Some(Fact::Memory(sample)) => {
                self.seen(record);
                self.report.log.samples += 1;
                self.grows(sample, record);
            }
            Some(Fact::Pressure(pressure)) => {
                self.seen(record);
                self.report.log.pressures += 1;
                self.presses(pressure, record);
            }
            Some(Fact::OomKill(kill)) => {
                self.seen(record);
                self.report.log.kills += 1;
                self.kills.kill(kill, record.at, &mut self.report.findings);
            }
            Some(Fact::Usage(usage)) => {
                self.seen(record);
                self.report.log.usages += 1;
                self.uses(usage, record);
            }
            _ => {}
        }
    }

    fn seen(&mut self, record: &Record) {
        let log = &mut self.report.log;
        if log.from.is_none() {
            log.host.clone_from(&record.host);
            log.from = record.at;
        }
        log.to = record.at;
        if record.boot_id != self.boot_id {
            self.boot_id.clone_from(&record.boot_id);
            self.watch = Watch::new(self.config.detect.memory());
            self.kills = kills::Kills::default();
            self.begin();
        }
    }

    /// A daemon begins without any pressure in mind, and with the kills that its log has.
    fn begin(&mut self) {
        self.pressure = self.config.detect.pressure().map(Detector::new);
        self.usage = usage::Detector::new(self.config.vitals.thresholds.limits());
    }

    fn uses(&mut self, usage: &Usage, record: &Record) {
        for said in self.usage.observe(usage) {
            match said {
                usage::Said::Above(finding) => {
                    let found = Found::of(&finding, |_| String::new(), record.at);
                    self.report.findings.push(Found { cgroup: Some(String::new()), ..found });
                }
                usage::Said::Below(kind) => {
                    let why = "it has not been above the threshold for three looks".to_owned();
                    let end = End { at: record.at, at_ns: usage.at_ns, why };
                    let kind = json::kind::word(kind.into());
                    let open = self.report.findings.iter_mut().filter(|it| it.over.is_none());
                    open.filter(|found| found.rule == usage::RULE && found.kind == kind)
                        .for_each(|found| found.over = Some(end.clone()));
                }
            }
        }
    }

    fn presses(&mut self, pressure: &Pressure, record: &Record) {
        let Some(detector) = &mut self.pressure else { return };
        for said in detector.observe(pressure) {
            match said {
                Said::Risen { cgroup, finding, .. } => {
                    let found = Found::of(&finding, |_| String::new(), record.at);
                    self.report.findings.push(Found { cgroup: Some(cgroup), ..found });
                }
                Said::Calm { cgroup, why } => {
                    let end = End { at: record.at, at_ns: pressure.at_ns, why: why.to_owned() };
                    let open = self.report.findings.iter_mut().filter(|it| it.over.is_none());
                    open.filter(|found| found.rule == pressure::RULE)
                        .filter(|found| found.cgroup.as_ref() == Some(&cgroup))
                        .for_each(|found| found.over = Some(end.clone()));
                }
            }
        }
    }

    fn grows(&mut self, sample: &MemorySample, record: &Record) {
        if sample.series_ns != self.series_ns && self.report.log.samples > 1 {
            self.begin();
            self.kills.restart(sample.at_ns);
        }
        self.series_ns = sample.series_ns;
        self.kills.sample(sample, record.at, &mut self.report.findings);
        for whose in self.kills.unseen(sample.at_ns) {
            let end = End { at: record.at, at_ns: sample.at_ns, why: UNSEEN.to_owned() };
            self.report.end(whose, &end);
        }
        for told in self.watch.see(sample) {
            match told {
                Told::Found(finding, whose) => {
                    let name = |key| name_in(sample, key);
                    let found = Found { whose, ..Found::of(&finding, name, record.at) };
                    self.report.findings.push(found);
                    self.kills.grows(&finding, whose);
                }
                Told::Over(over) => {
                    self.kills.shrinks(over.culprit);
                    let end = End { at: record.at, at_ns: over.at_ns, why: over.why };
                    self.report.end(over.culprit, &end);
                }
            }
        }
    }
}

impl Report {
    /// A growth is over.
    fn end(&mut self, whose: Whose, end: &End) {
        let growths = self.findings.iter_mut().filter(|found| found.cgroup.is_none());
        let theirs = growths.filter(|found| found.over.is_none() && found.whose == whose);
        theirs.for_each(|found| found.over = Some(end.clone()));
    }
}

fn word(severity: Severity) -> String {
    json::severity::word(severity.into())
}

/// What the program of a tree's root is called; empty: the sample has it not.
fn name_in(sample: &MemorySample, key: ProcessKey) -> String {
    let tree = sample.trees.iter().find(|tree| key_of(tree.root.as_ref()) == Some(key));
    tree.map(|tree| tree.comm.clone()).unwrap_or_default()
}

impl Found {
    /// `name`: what the program of a process is called.
    fn of(finding: &Finding, name: impl Fn(ProcessKey) -> String, at: Option<Timestamp>) -> Self {
        let process = |key: ProcessKey| {
            let comm = name(key);
            Process { pid: key.tgid, start_ns: key.start_ns, comm }
        };
        let members = finding.group.as_ref().map(|group| group.members.as_slice());
        Self {
            kind: json::kind::word(finding.kind.into()),
            rule: finding.rule,
            severity: word(incident::severity(finding, 0)),
            confidence: finding.confidence,
            at,
            at_ns: finding.at_ns,
            cgroup: None,
            culprit: finding.culprit.map(process),
            members: members.unwrap_or_default().iter().copied().map(process).collect(),
            measures: finding.measures.clone(),
            over: None,
            whose: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::UNSEEN_NS,
        host::Host,
        proto::{
            HostMemory, Incident, MemorySample, Observation, ProcessKey as Key, Started,
            Transition, TreeMemory,
        },
    };

    /// A leak of 40 MiB a minute below a supervisor, seen every 5 s; beside it records of all kinds.
    fn log() -> Vec<Record> {
        let record = |seq: u64, body| Record {
            seq,
            host: "box".into(),
            at: Some(Timestamp { seconds: 1_700_000_000 + seq as i64, nanos: 0 }),
            body: Some(body),
            ..Record::default()
        };
        let tree = |pid: u32, parent: Option<u32>, bytes: u64| TreeMemory {
            root: Some(Key { pid, start_ns: u64::from(pid) }),
            parent: parent.map(|pid| Key { pid, start_ns: u64::from(pid) }),
            alive: true,
            comm: "leaks\x1b[2J".into(),
            bytes,
            root_bytes: if pid == 20 { bytes } else { 0 },
            processes: 12,
            ..TreeMemory::default()
        };
        let mut all = vec![record(0, Body::Started(Started::default()))];
        for at in 1..1100_u64 {
            let leak = (100 << 20) + at * 5 * (40 << 20) / 60;
            let host = HostMemory {
                total_bytes: Some(8 << 30),
                available_bytes: Some((6 << 30) - leak),
                anon_bytes: Some((1 << 30) + leak),
                ..HostMemory::default()
            };
            let sample = MemorySample {
                at_ns: at * 5_000_000_000,
                host: Some(host),
                trees: vec![tree(10, None, leak + (3 << 20)), tree(20, Some(10), leak)],
                ..MemorySample::default()
            };
            let fact = Some(Fact::Memory(sample));
            all.push(record(2 * at, Body::Observation(Observation { fact })));
            let incident = Some(Incident { id: format!("{at}"), ..Incident::default() });
            let transition = Transition { incident, ..Transition::default() };
            all.push(record(2 * at + 1, Body::Transition(transition)));
        }
        all
    }

    #[test]
    fn observations_alone_replay_to_the_same_findings_bit_for_bit() {
        let log = log();
        // As a daemon has it, sample by sample.
        let mut watch = Watch::new(Config::default().detect.memory());
        let mut live = Vec::new();
        for sample in log.iter().filter_map(sample_of) {
            for told in watch.see(sample) {
                if let Told::Found(finding, _) = told {
                    live.push(Found::of(&finding, |key| name_in(sample, key), None));
                }
            }
        }
        assert_eq!(live.iter().map(|one| one.rule).collect::<Vec<_>>(), ["M2"]);
        assert_eq!(live[0].culprit.as_ref().map(|one| one.pid), Some(20));

        // The log, stripped of everything but its observations, in a file.
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kept");
        let mut kept = Exporter::create_records(&file).unwrap();
        for record in log.into_iter().filter(|record| record.kind() == "observation") {
            kept.record(record).unwrap();
        }
        kept.finish().unwrap();
        assert!(is_log(&file));
        let bits = |found: &Found| {
            let values: Vec<(String, u64, Option<u64>)> = found
                .measures
                .iter()
                .map(|it| (it.name.clone(), it.value.to_bits(), it.threshold.map(f64::to_bits)))
                .collect();
            (found.rule, found.at_ns, found.confidence.to_bits(), values)
        };
        let again = directory.path().join("again");
        let replayed = replay(&file, &Config::default(), Some(&again)).unwrap();
        assert_eq!(replayed.log.samples, 1099);
        assert!(replayed.findings.iter().map(bits).eq(live.iter().map(bits)));
        assert!(replayed.findings.iter().all(|found| found.cgroup.is_none()));
        // What was kept of it is the same once more, and no incident.
        let twice = replay(&again, &Config::default(), None).unwrap();
        assert!(twice.findings.iter().map(bits).eq(live.iter().map(bits)));
        assert!(Export::open(&again).is_err());
    }

    #[test]
    fn a_damaged_log_is_replayed_as_far_as_it_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let options = record::LogOptions { max_bytes: 64 << 20, reader_gid: None };
        let (written, _) = record::Log::open(directory.path(), &Host::read(), options).unwrap();
        for record in log() {
            written.append(record::Draft::bulk(record.body.unwrap()));
        }
        written.close("test").unwrap();
        drop(written);
        let file = directory.path().join(record::FILE);
        let replayed = || replay(directory.path(), &Config::default(), None);
        let whole = replayed().unwrap().log;
        assert_eq!((whole.samples, whole.damage), (1099, None));
        let bytes = std::fs::read(&file).unwrap();
        // Wherever the damage is: a part that is called one, or an error.
        let mut parts = 0;
        for at in 1..16 {
            let mut damaged = bytes.clone();
            damaged[bytes.len() * at / 16..][..bytes.len() / 16].fill(0xff);
            std::fs::write(&file, damaged).unwrap();
            match replayed() {
                Ok(Report { log: Summary { damage: Some(damage), samples, .. }, .. }) => {
                    assert!(damage.starts_with("damaged behind record "), "{damage}");
                    assert!((1..1099).contains(&samples), "{samples}");
                    parts += 1;
                }
                // It is in no page of theirs.
                Ok(report) => assert_eq!(report.log.samples, 1099, "{at}"),
                Err(error) => assert!(matches!(error, ObservedError::Read(_)), "{error}"),
            }
        }
        assert!(parts > 0);
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let cut = replayed();
        assert!(cut.is_err() || cut.is_ok_and(|report| report.log.damage.is_some()));
    }

    #[test]
    fn growth_that_a_restart_cut_off_is_over_when_nobody_sees_it() {
        let mut replay = Replay::new(&Config::default());
        for record in log() {
            replay.apply(&record);
        }
        assert!(replay.report.findings[0].over.is_none());
        // The next daemon begins where the leak is gone, and looks on.
        let restarted_ns = 6_000 * 1_000_000_000;
        let mut last = 0;
        while replay.report.findings[0].over.is_none() {
            assert!(last < 2 * UNSEEN_NS, "for ever");
            let at_ns = restarted_ns + last;
            let sample = MemorySample { at_ns, series_ns: restarted_ns, ..MemorySample::default() };
            let fact = Some(Fact::Memory(sample));
            let body = Some(Body::Observation(Observation { fact }));
            replay.apply(&Record { body, ..Record::default() });
            last += 60_000_000_000;
        }
        let over = replay.report.findings[0].over.as_ref().unwrap();
        assert_eq!((over.at_ns, over.why.as_str()), (restarted_ns + UNSEEN_NS, UNSEEN));
    }

    /// A host that gets short twice, and a cgroup beside it, looked at once a second.
    fn looks() -> Vec<Pressure> {
        let look = |at: u64, cgroup: &str, percent: u64| Pressure {
            at_ns: at * 1_000_000_000,
            cgroup: cgroup.into(),
            total_bytes: Some(1000 << 20),
            available_bytes: Some((percent * 10) << 20),
            swap_total_bytes: Some(0),
            ..Pressure::default()
        };
        let falls = |at: u64| 40_u64.saturating_sub(at % 400).max(3);
        let host = (0..800).map(|at| look(at, "", if at % 400 < 100 { falls(at) } else { 50 }));
        let group = (0..800).filter(|at| (100..140).contains(at)).map(|at| look(at, "/a", 8));
        let group = group.chain((140..200).map(|at| look(at, "/a", 60)));
        let mut all: Vec<Pressure> = host.chain(group).collect();
        all.sort_by_key(|one| one.at_ns);
        all
    }

    #[test]
    fn pressure_replays_to_the_same_findings_bit_for_bit() {
        let record = |seq: u64, pressure: &Pressure| Record {
            seq,
            at: Some(Timestamp { seconds: seq as i64, nanos: 0 }),
            body: Some(Body::Observation(Observation {
                fact: Some(Fact::Pressure(pressure.clone())),
            })),
            ..Record::default()
        };
        let limits = Config::default().detect.pressure().unwrap();
        let mut detector = Detector::new(limits);
        let mut live = Vec::new();
        for pressure in looks() {
            for said in detector.observe(&pressure) {
                if let Said::Risen { cgroup, finding, .. } = said {
                    let measures: Vec<(String, u64)> = finding
                        .measures
                        .iter()
                        .map(|it| (it.name.clone(), it.value.to_bits()))
                        .collect();
                    live.push((cgroup, finding.at_ns, finding.confidence.to_bits(), measures));
                }
            }
        }
        let mut replay = Replay::new(&Config::default());
        looks().iter().zip(0..).for_each(|(pressure, seq)| replay.apply(&record(seq, pressure)));
        let report = replay.report;
        let replayed: Vec<_> = report
            .findings
            .iter()
            .map(|found| {
                let measures: Vec<(String, u64)> =
                    found.measures.iter().map(|it| (it.name.clone(), it.value.to_bits())).collect();
                (found.cgroup.clone().unwrap(), found.at_ns, found.confidence.to_bits(), measures)
            })
            .collect();
        assert_eq!(replayed, live);
        // Twice a warning that becomes critical, and a warning of the group in between.
        let short: Vec<(&str, &str)> = report
            .findings
            .iter()
            .map(|it| (it.cgroup.as_deref().unwrap(), it.severity.as_str()))
            .collect();
        assert_eq!(
            short,
            [
                ("", "warning"),
                ("", "critical"),
                ("/a", "warning"),
                ("", "warning"),
                ("", "critical")
            ]
        );
        assert!(
            report.findings.iter().all(|found| found.over.is_some() && found.culprit.is_none())
        );
        assert_eq!((report.log.samples, report.log.pressures), (0, 900));

        // Switched off it says nothing.
        let mut off = Config::default();
        off.detect.pressure.enabled = false;
        let mut replay = Replay::new(&off);
        looks().iter().zip(0..).for_each(|(pressure, seq)| replay.apply(&record(seq, pressure)));
        assert!(replay.report.findings.is_empty());
    }
}
