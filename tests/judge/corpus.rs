//! The corpus: long recordings of honest work in `tests/traces`, hours that need no hours to be
//! judged.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

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

/// All recordings, by name.
pub fn traces() -> Result<Vec<PathBuf>> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("traces"))
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
    // The defaults are judged, not what this host has configured.
    let defaults = tempfile::NamedTempFile::new().context("cannot make an empty configuration")?;
    let mut command = Command::new(sensor);
    command.arg("replay").arg(file).arg("--json").arg("--config").arg(defaults.path());
    let said = run(&mut command, LIMIT)?
        .success()
        .with_context(|| format!("sensor replay {}", file.display()))?;
    parse(&said)
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
