//! The corpus in `tests/traces`, hours that need no hours to be judged: long recordings of honest work, and
//! observations of memory, each with its label.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Label;
use crate::run::run;

/// A replay makes millions of events a minute; a day of a busy machine has some.
const LIMIT: Duration = Duration::from_mins(10);

/// What the detectors made of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Replay {
    pub seconds: f64,
    pub forks: u64,
    /// Different culprits, and those of them worth a containment.
    pub incidents: u64,
    pub containments: u64,
    /// Events that did not reach the trace.
    pub lost: u64,
}

/// Observations of memory, and what has to be told of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Of its file, without the ending.
    #[serde(skip)]
    pub name: String,
    /// In one line.
    pub about: String,
    pub label: Label,
    /// Of a malign one: the program that has to be blamed.
    pub culprit: Option<String>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces")
}

/// All recordings, by name.
pub fn traces() -> Result<Vec<PathBuf>> {
    files(&directory())
}

/// All observations, by name.
pub fn observed() -> Result<Vec<Observed>> {
    let file = directory().join("observations.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    labels(&text).with_context(|| file.display().to_string())
}

fn labels(text: &str) -> Result<Vec<Observed>> {
    let read: BTreeMap<String, Observed> = toml::from_str(text)?;
    read.into_iter()
        .map(|(name, one)| {
            let malign = one.label != Label::Honest;
            ensure!(
                one.culprit.is_some() == malign,
                "{name}: a culprit is for the malign, and only"
            );
            Ok(Observed { name, ..one })
        })
        .collect()
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "trace") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Puts one through the sensor's detectors.
pub fn replay(sensor: &Path, file: &Path) -> Result<Replay> {
    parse(&replayed(sensor, file)?)
}

/// Puts observations through them; what is wrong about what was found, in sentences.
pub fn judge(sensor: &Path, observed: &Observed) -> Result<Vec<String>> {
    let file = directory().join(&observed.name).with_extension("observations");
    observed.faults(&replayed(sensor, &file)?)
}

fn replayed(sensor: &Path, file: &Path) -> Result<String> {
    // The defaults are judged, not what this host has configured.
    let defaults = tempfile::NamedTempFile::new().context("cannot make an empty configuration")?;
    let mut command = Command::new(sensor);
    command.arg("replay").arg(file).arg("--json").arg("--config").arg(defaults.path());
    let said = run(&mut command, LIMIT)?;
    said.success().with_context(|| format!("sensor replay {}", file.display()))
}

#[derive(Deserialize)]
struct Findings {
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    kind: String,
    rule: String,
    culprit: Option<Process>,
}

#[derive(Deserialize)]
struct Process {
    comm: String,
}

impl Observed {
    fn faults(&self, said: &str) -> Result<Vec<String>> {
        let Findings { findings } =
            serde_json::from_str(said).context("sensor replay --json printed something else")?;
        let mut faults = Vec::new();
        let is_right = |found: &Finding| self.label == Label::Malign(found.kind.clone());
        if let Label::Malign(kind) = &self.label
            && !findings.iter().any(is_right)
        {
            faults.push(format!("missed: no {kind}"));
        }
        for found in &findings {
            let (kind, rule) = (&found.kind, &found.rule);
            let whom = found.culprit.as_ref().map(|culprit| &culprit.comm);
            if !is_right(found) {
                faults.push(format!("a false finding: {kind} by {rule}"));
            } else if whom != self.culprit.as_ref() {
                faults.push(format!("the culprit of {rule} is wrong: {whom:?}"));
            }
        }
        Ok(faults)
    }
}

#[derive(Deserialize)]
struct Report {
    trace: Trace,
    incidents: u64,
    containments: u64,
}

#[derive(Deserialize)]
struct Trace {
    seconds: f64,
    forks: u64,
    lost: u64,
}

fn parse(said: &str) -> Result<Replay> {
    let Report { trace, incidents, containments } =
        serde_json::from_str(said).context("sensor replay --json printed something else")?;
    let Trace { seconds, forks, lost } = trace;
    Ok(Replay { seconds, forks, incidents, containments, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let said = r#"{"trace":{"seconds":7200.5,"forks":9,"lost":2,"more":1},"findings":[],
            "incidents":3,"containments":1}"#;
        let expected = Replay { seconds: 7200.5, forks: 9, incidents: 3, containments: 1, lost: 2 };
        assert_eq!(parse(said).unwrap(), expected);
        assert!(parse("{}").is_err());
    }

    #[test]
    fn every_label_of_observations_has_its_file() {
        let all = observed().unwrap();
        assert!(all.len() >= 8, "{all:?}");
        for one in all {
            let file = directory().join(&one.name).with_extension("observations");
            assert!(file.is_file(), "{}", file.display());
        }
        assert!(labels("[a]\nabout = ''\nlabel = 'memory_growth'\n").is_err());
        assert!(labels("[a]\nabout = ''\nlabel = 'honest'\nculprit = 'x'\n").is_err());
    }

    #[test]
    fn what_is_found_is_held_against_the_label() {
        let said = |findings: &str| format!(r#"{{"log":{{}},"findings":[{findings}]}}"#);
        let found = |kind: &str, comm: &str| {
            said(&format!(
                r#"{{"kind":"{kind}","rule":"M2","culprit":{{"pid":2,"comm":"{comm}"}}}}"#
            ))
        };
        let leak = "[a]\nabout = ''\nlabel = 'memory_growth'\nculprit = 'x'\n";
        let leak = &labels(leak).unwrap()[0];
        let honest = &labels("[b]\nabout = ''\nlabel = 'honest'\n").unwrap()[0];
        let none: [&str; 0] = [];
        assert_eq!(leak.faults(&found("memory_growth", "x")).unwrap(), none);
        assert_eq!(leak.faults(&said("")).unwrap(), ["missed: no memory_growth"]);
        assert_eq!(
            leak.faults(&found("memory_growth", "y")).unwrap(),
            ["the culprit of M2 is wrong: Some(\"y\")"]
        );
        assert_eq!(
            leak.faults(&found("oom_kill", "x")).unwrap(),
            ["missed: no memory_growth", "a false finding: oom_kill by M2"]
        );
        assert_eq!(honest.faults(&said("")).unwrap(), none);
        assert_eq!(
            honest.faults(&found("memory_growth", "x")).unwrap(),
            ["a false finding: memory_growth by M2"]
        );
        assert!(honest.faults("{}").is_err());
    }

    #[test]
    fn only_traces_are_found_and_none_is_no_error() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b.trace", "a.trace", "README.md"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let names: Vec<_> = files(place.path())
            .unwrap()
            .iter()
            .map(|it| it.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.trace", "b.trace"]);
        assert_eq!(files(&place.path().join("none")).unwrap(), Vec::<PathBuf>::new());
    }
}
