//! The agents' command-line programs that the end-to-end tests run against a model of the project's own:
//! in versions that are pinned together with their checksums in `tests/agents`.

use std::{
    env,
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{place, step};

const PACKAGE: &str = "package.json";
const LOCK: &str = "package-lock.json";
/// 400 MB to fetch, 1.1 GB on disk.
const LIMIT: Duration = Duration::from_mins(15);

/// Makes sure that they are there.
pub fn ensure() -> Result<()> {
    let pinned = place::workspace().join("tests/agents");
    let directory = place::tools().join("agents");
    let read = |name: &str| {
        let path = pinned.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (package, lock) = (read(PACKAGE)?, read(LOCK)?);
    // What was installed, once all of it was.
    let installed = directory.join("installed");
    if fs::read_to_string(&installed).is_ok_and(|it| it == lock) {
        return Ok(());
    }
    fs::create_dir_all(directory.join("bin"))
        .with_context(|| format!("cannot make {}", directory.display()))?;
    fs::write(directory.join(PACKAGE), package)?;
    fs::write(directory.join(LOCK), &lock)?;
    let npm = place::command("npm").context("npm is missing, which installs the agents")?;
    let mut command = Command::new(npm);
    // No script of a package runs: the programs are in the packages.
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory);
    step::must("npm ci of the agents", &mut command, LIMIT)?;
    link(&directory).context("cannot make the agents' commands")?;
    fs::write(&installed, lock).with_context(|| format!("cannot write {}", installed.display()))
}

/// One command each in `bin`; none where there is no program for this processor.
fn link(directory: &Path) -> Result<()> {
    let packages = directory.join("node_modules");
    let (short, triple) = match env::consts::ARCH {
        "aarch64" => ("arm64", "aarch64-unknown-linux-musl"),
        _ => ("x64", "x86_64-unknown-linux-musl"),
    };
    let programs: [(&str, String); 3] = [
        ("claude", format!("@anthropic-ai/claude-code-linux-{short}/claude")),
        ("codex", format!("@openai/codex-linux-{short}/vendor/{triple}/bin/codex")),
        ("opencode", format!("opencode-linux-{short}-baseline/bin/opencode")),
    ];
    for (name, program) in programs {
        let (program, link) = (packages.join(program), command(directory, name)?);
        if program.exists() {
            symlink(program, link)?;
        } else {
            eprintln!("no {name} for this processor: its tests are skipped");
        }
    }
    // A script for node 20 and later, which not every distribution has.
    let node = packages.join(format!("node-linux-{short}/bin/node"));
    let script = packages.join("@google/gemini-cli/bundle/gemini.js");
    let (link, node, script) = (command(directory, "gemini")?, node.display(), script.display());
    fs::write(&link, format!("#!/bin/sh\nexec '{node}' '{script}' \"$@\"\n"))?;
    fs::set_permissions(&link, Permissions::from_mode(0o755))?;
    Ok(())
}

/// Where a command comes; an old one goes.
fn command(directory: &Path, name: &str) -> Result<PathBuf> {
    let link = directory.join("bin").join(name);
    match fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(link),
    }
}
