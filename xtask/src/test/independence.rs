//! The judge is independent of what it judges: no commit changes a rule together with a label, and
//! the crate that runs the labelled workloads depends on no crate of the sensor.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::results::{Case, Outcome};
use crate::place;

/// What decides whether something is an incident, what it says, and what is done.
const RULES: [&str; 5] = [
    "sensor-common/src/recursion.rs",
    "sensor-common/src/signature.rs",
    "sensor/src/detect/",
    "sensor/src/diagnose/",
    "sensor/src/respond/policy.rs",
];

/// What says how it should be decided.
const LABELS: &str = "tests/workloads/";
const LABEL_FILE: &str = "/workload.toml";

/// Our crates, the judge's own and this one aside.
const SENSOR: [&str; 4] = ["sensor", "sensor-common", "sensor-ebpf", "sensor-proto"];

/// Both checks.
pub fn cases() -> Vec<Case> {
    vec![history(place::workspace()), dependencies(place::workspace())]
}

fn history(workspace: &Path) -> Case {
    let case = |outcome| Case { name: "no commit changes a rule and a label".into(), outcome };
    let Some(log) = log(workspace) else {
        println!("rules and labels: there is no git history here, so no commit can be looked at");
        return case(Outcome::Passed);
    };
    let History { mixed, rootless } = History::read(&log);
    if rootless {
        println!(
            "rules and labels: what came before the oldest commit that is here cannot be looked at"
        );
    }
    for commit in &mixed {
        println!("rules and labels: one commit changes both: {commit}");
    }
    case(if mixed.is_empty() { Outcome::Passed } else { Outcome::Failed })
}

/// Every commit but merges: its subject after a NUL, its parents, its files. None without git or
/// history.
fn log(workspace: &Path) -> Option<String> {
    let output = Command::new("git")
        .args(["-c", "core.quotePath=false", "log", "--no-merges", "--no-renames", "--name-only"])
        .arg("--format=%x00%h %s%n%P")
        .current_dir(workspace)
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct History {
    /// Commits that change a rule and a label.
    mixed: Vec<String>,
    /// One of them seems to add everything: the oldest that is here.
    rootless: bool,
}

impl History {
    fn read(log: &str) -> Self {
        let mut history = Self::default();
        for commit in log.split('\0').skip(1) {
            let mut lines = commit.lines();
            let subject = lines.next().unwrap_or_default();
            let parents = lines.next().unwrap_or_default();
            let files: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
            let mixed =
                files.iter().any(|file| is_rule(file)) && files.iter().any(|file| is_label(file));
            if !mixed {
                continue;
            }
            // A history that was cut off, or imported, begins with a commit that adds all there is.
            if parents.is_empty() {
                history.rootless = true;
            } else {
                history.mixed.push(subject.to_owned());
            }
        }
        history
    }
}

fn is_rule(file: &str) -> bool {
    RULES
        .iter()
        .any(|rule| if rule.ends_with('/') { file.starts_with(rule) } else { file == *rule })
}

fn is_label(file: &str) -> bool {
    file.starts_with(LABELS) && file.ends_with(LABEL_FILE)
}

fn dependencies(workspace: &Path) -> Case {
    let found = fs::read_to_string(workspace.join("tests/Cargo.toml"))
        .context("cannot read tests/Cargo.toml")
        .and_then(|manifest| of_the_sensor(&manifest));
    let outcome = match &found {
        Ok(crates) if crates.is_empty() => Outcome::Passed,
        Ok(crates) => {
            println!("the crate tests depends on what it judges: {}", crates.join(", "));
            Outcome::Failed
        }
        Err(error) => {
            println!("{error:#}");
            Outcome::Failed
        }
    };
    Case { name: "the judge depends on no crate of the sensor".into(), outcome }
}

/// The sensor's crates that a manifest depends on, in any of its tables and under any name.
fn of_the_sensor(manifest: &str) -> Result<Vec<String>> {
    let manifest: toml::Table = toml::from_str(manifest).context("tests/Cargo.toml")?;
    let mut found = Vec::new();
    collect(&manifest, &mut found);
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect(table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            for (name, dependency) in inner {
                let name = dependency.get("package").and_then(toml::Value::as_str).unwrap_or(name);
                if SENSOR.contains(&name) {
                    found.push(name.to_owned());
                }
            }
        } else {
            // [target.'cfg(…)'.dependencies]
            collect(inner, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_changes_both_is_found() {
        let log = "\0aaa Tune R1\nbbb\n\nsensor/src/detect/recursion.rs\nREADME.md\n\
                   \0bbb A workload\nccc\n\ntests/workloads/npm/workload.toml\nsensor/src/cli/mod.rs\n\
                   \0ccc Both\nddd\n\nsensor-common/src/signature.rs\ntests/workloads/a/workload.toml\n\
                   \0ddd Files of a workload\neee\n\nsensor/src/diagnose/npm.rs\ntests/workloads/a/setup\n";
        let expected = History { mixed: vec!["ccc Both".into()], rootless: false };
        assert_eq!(History::read(log), expected);
    }

    #[test]
    fn a_history_without_beginning_is_no_fault_but_said() {
        let log =
            "\0aaa Import\n\n\nsensor/src/respond/policy.rs\ntests/workloads/a/workload.toml\n";
        assert_eq!(History::read(log), History { mixed: Vec::new(), rootless: true });
    }

    #[test]
    fn git_says_what_the_reader_expects() {
        let place = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            let status = Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
                .args(args)
                .current_dir(place.path())
                .output()
                .unwrap()
                .status;
            assert!(status.success(), "{args:?}");
        };
        let put = |file: &str| {
            let file = place.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        };
        git(&["init", "-q"]);
        put("README.md");
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "Begin"]);
        put("sensor/src/detect/recursion.rs");
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "A rule"]);
        assert_eq!(history(place.path()).outcome, Outcome::Passed);
        put("sensor/src/detect/storm.rs");
        put("tests/workloads/a b/workload.toml");
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "Both"]);
        assert_eq!(history(place.path()).outcome, Outcome::Failed);
    }

    #[test]
    fn a_dependency_is_found_in_any_table_and_under_any_name() {
        let found = |manifest: &str| of_the_sensor(manifest).unwrap();
        assert_eq!(found("[dependencies]\nanyhow = \"1\"\nnix = { workspace = true }"), [""; 0]);
        assert_eq!(found("[dev-dependencies]\nsensor = { workspace = true }"), ["sensor"]);
        assert_eq!(
            found("[target.'cfg(unix)'.dependencies]\nx = { package = \"sensor-common\" }"),
            ["sensor-common"]
        );
        assert!(of_the_sensor("no manifest").is_err());
    }

    #[test]
    fn this_workspace_keeps_them_apart() {
        for case in cases() {
            assert_eq!(case.outcome, Outcome::Passed, "{}", case.name);
        }
    }
}
