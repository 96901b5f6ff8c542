//! `buf`, which knows the rules for schemas, and calls a service by nothing but its reflection.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{place, step};

const PACKAGE: &str = "@bufbuild/buf@1.75.0";
/// A program of 90 MB.
const LIMIT: Duration = Duration::from_mins(10);

pub fn path() -> PathBuf {
    directory().join("node_modules/.bin/buf")
}

fn directory() -> PathBuf {
    place::tools().join("buf")
}

/// Makes sure that it is there.
pub fn ensure() -> Result<()> {
    if path().exists() {
        return Ok(());
    }
    let npm = place::command("npm").context("npm is missing, which installs buf")?;
    let mut command = Command::new(npm);
    command.args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"]);
    command.arg(directory()).arg(PACKAGE);
    step::must(&format!("npm install {PACKAGE}"), &mut command, LIMIT).map(drop)
}
