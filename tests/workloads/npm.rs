//! npm projects, real ones, with npm and packages from the registry.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::Workload;
use crate::{
    names,
    run::run,
    target::{self, kept},
};

/// The registry may be slow; without it, none of these workloads can be made.
const FETCH_LIMIT: Duration = Duration::from_mins(3);

/// What the recursive project of the story used to run scripts side by side.
const CONCURRENTLY: &str = "concurrently@9.2.1";

/// A package with a few dependencies, for an installation that does real work.
const PACKAGES: [&str; 3] = ["semver@7.7.2", "yargs@17.7.2", "glob@11.0.3"];

/// Installs packages once for all runs; gives the directory that holds `node_modules`.
fn installed(name: &str, packages: &[&str]) -> Result<std::path::PathBuf> {
    let directory = kept(name)?;
    let done = directory.join("installed");
    if fs::read_to_string(&done).is_ok_and(|known| known == packages.join(" ")) {
        return Ok(directory);
    }
    fs::write(directory.join("package.json"), r#"{"name": "kept", "private": true}"#)?;
    let mut npm = Command::new("npm");
    npm.arg("install").args(packages).args(["--no-audit", "--no-fund", "--ignore-scripts"]);
    npm.current_dir(&directory);
    run(&mut npm, FETCH_LIMIT)?
        .success()
        .with_context(|| format!("cannot install {packages:?} from the npm registry"))?;
    fs::write(done, packages.join(" "))?;
    Ok(directory)
}

/// In a copy that is the workload's own, as after a real installation.
fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to), FETCH_LIMIT)?.success()?;
    Ok(())
}

/// A project whose npm neither asks the registry nor writes outside of the project's directory.
fn project() -> Result<Workload> {
    let work = Workload::new()?;
    let prefix = work.path().join("prefix");
    fs::create_dir_all(prefix.join("lib/node_modules"))?;
    let settings = [
        ("npm_config_audit", "false"),
        ("npm_config_fund", "false"),
        ("npm_config_offline", "true"),
        ("npm_config_update_notifier", "false"),
    ];
    let work = settings.into_iter().fold(work, |work, (name, value)| work.with(name, value));
    Ok(work.with("npm_config_prefix", prefix))
}

fn manifest(work: &Workload, scripts: &[(&str, &str)]) -> Result<()> {
    let scripts: serde_json::Map<String, serde_json::Value> =
        scripts.iter().map(|(name, line)| ((*name).to_owned(), (*line).into())).collect();
    let manifest = serde_json::json!({
        "name": names::word(), "version": "1.0.0", "private": true, "scripts": scripts,
    });
    work.write("project/package.json", &format!("{manifest:#}\n"))?;
    Ok(())
}

/// The project of the first story: `npm test` runs three scripts side by side, the third is
/// `cd DIRECTORY && npm test`, and that directory has no package.json, so npm walks up and runs the
/// project's own `test` again.
pub fn missing_manifest() -> Result<Workload> {
    let mut work = project()?;
    let (lint, unit, nested, directory) =
        (names::word(), names::word(), names::word(), names::word());
    manifest(
        &work,
        &[
            ("test", &format!("concurrently npm:test:{lint} npm:test:{unit} npm:test:{nested}")),
            (&format!("test:{lint}"), "node --check check.js"),
            (&format!("test:{unit}"), "node check.js"),
            (&format!("test:{nested}"), &format!("cd {directory} && npm test")),
        ],
    )?;
    work.write(
        "project/check.js",
        "const assert = require('assert');\n\
         const words = require('fs').readFileSync(__filename, 'utf8').split(/\\s+/);\n\
         assert(words.includes('assert'));\n",
    )?;
    work.write(&format!("project/{directory}/index.js"), "module.exports = 1;\n")?;
    copy(
        &installed("concurrently", &[CONCURRENTLY])?.join("node_modules"),
        &work.path().join("project"),
    )?;
    work.cwd = work.path().join("project");
    work.steps = Some(6);
    Ok(work.runs(["npm", "test"]).named([directory, "package.json".into()]))
}

/// `a` runs `b`, `b` runs `a`.
pub fn two_scripts() -> Result<Workload> {
    let mut work = project()?;
    let (one, other) = (names::word(), names::word());
    manifest(&work, &[(&one, &format!("npm run {other}")), (&other, &format!("npm run {one}"))])?;
    work.cwd = work.path().join("project");
    Ok(work.runs(["npm", "run", &one]).named([one, other, "package.json".into()]))
}

/// `a` runs `a`: a straight line, at npm's slow pace.
pub fn one_script() -> Result<Workload> {
    let mut work = project()?;
    let name = names::word();
    manifest(&work, &[(&name, &format!("npm run {name}"))])?;
    work.cwd = work.path().join("project");
    Ok(work.runs(["npm", "run", &name]).named([name, "package.json".into()]))
}

/// `prepare` runs `npm link`, which runs `prepare`.
pub fn prepare_link() -> Result<Workload> {
    let mut work = project()?;
    manifest(&work, &[("prepare", "npm link")])?;
    work.cwd = work.path().join("project");
    Ok(work.runs(["npm", "link"]).named(["prepare", "npm link", "package.json"]))
}

/// An honest installation from a lock file.
pub fn clean_install() -> Result<Workload> {
    let mut work = Workload::new()?;
    let kept = installed("packages", &PACKAGES)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(kept.join(file), work.path().join(file))?;
    }
    // The registry's settings are the user's, as for any installation.
    work.environment = std::env::vars_os().collect();
    work = work.with("npm_config_cache", target::kept("npm-cache")?);
    Ok(work.runs(["npm", "ci", "--no-audit", "--no-fund"]))
}
