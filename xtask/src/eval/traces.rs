//! Long recordings of honest work, `tests/traces/*.trace`: hours that need no hours to be judged.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::judged::{Replay, Replayed};
use crate::{place, step};

/// A replay makes millions of events a minute; a day of a busy machine has some.
const LIMIT: Duration = Duration::from_mins(10);

/// Replays all of them.
pub fn replay_all(sensor: &Path) -> Result<Vec<Replayed>> {
    let directory = place::workspace().join("tests/traces");
    let files = files(&directory)?;
    if files.is_empty() {
        return Ok(Vec::new());
    }
    // The defaults are judged, not what this host has configured.
    let defaults = tempfile::NamedTempFile::new().context("cannot make an empty configuration")?;
    Ok(files
        .iter()
        .map(|file| Replayed {
            name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            result: replay(sensor, defaults.path(), file).map_err(|error| format!("{error:#}")),
        })
        .collect())
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

fn replay(sensor: &Path, config: &Path, file: &Path) -> Result<Replay> {
    let mut command = Command::new(sensor);
    command.arg("replay").arg(file).arg("--json").arg("--config").arg(config);
    let label = format!("replay of {}", file.display());
    let output = step::run(&label, &mut command, LIMIT)?;
    if !output.success() {
        bail!("{label}: {}", output.tail());
    }
    parse(&output.stdout)
}

/// What `sensor replay --json` prints, as far as it is judged here.
#[derive(Deserialize)]
struct Report {
    trace: Trace,
    #[serde(default)]
    agreement: Agreement,
    incidents: u64,
    containments: u64,
}

#[derive(Deserialize)]
struct Trace {
    seconds: f64,
    #[serde(default)]
    lost: u64,
}

/// All 0 where the trace was recorded with other thresholds.
#[derive(Default, Deserialize)]
struct Agreement {
    agree: u64,
    differ: u64,
}

fn parse(json: &str) -> Result<Replay> {
    let report: Report =
        serde_json::from_str(json).context("sensor replay --json printed something else")?;
    Ok(Replay {
        seconds: report.trace.seconds,
        incidents: report.incidents,
        containments: report.containments,
        gates_agree: report.agreement.agree,
        gates_differ: report.agreement.differ,
        lost: report.trace.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let said = r#"{"trace":{"seconds":7200.5,"forks":9,"lost":2},"agreement":{"comparable":true,
            "agree":40,"differ":1,"in_flight":0},"findings":[],"incidents":3,"containments":1}"#;
        let expected = Replay {
            seconds: 7200.5,
            incidents: 3,
            containments: 1,
            gates_agree: 40,
            gates_differ: 1,
            lost: 2,
        };
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
