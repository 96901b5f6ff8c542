//! The compilers: rustup's components for the checks, and one that can build the kernel side.

use std::{env, process::Command, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};

use super::packages::{self, Requirement};
use crate::{
    cargo,
    ebpf_toolchain::{self, DISTRIBUTION, NIGHTLY, Toolchain},
    place, step,
};

/// 150 MB; a line too slow for that is better served by the distribution's mirror.
const DOWNLOAD: Duration = Duration::from_mins(10);

/// Debian's compiler with the sources of its `core`, newer than its plain `rustc`.
const DISTRIBUTION_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// rustfmt and clippy for the compiler that runs us.
pub fn ensure_components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = cargo::command(subcommand).arg("--version").output();
        if there.is_ok_and(|output| output.status.success()) {
            continue;
        }
        let rustup = place::command("rustup").with_context(|| {
            format!("cargo {subcommand} is missing: install {component} for this compiler")
        })?;
        let label = format!("rustup component add {component}");
        step::must(&label, Command::new(rustup).args(["component", "add", component]), DOWNLOAD)?;
    }
    Ok(())
}

/// A compiler for the kernel side: the one that is there, else the pinned nightly, else the
/// distribution's.
pub fn ensure() -> Result<Toolchain> {
    let nothing = match ebpf_toolchain::find() {
        Ok(toolchain) => return Ok(toolchain),
        Err(why) => why,
    };
    if env::var_os(ebpf_toolchain::OVERRIDE).is_some_and(|name| !name.is_empty()) {
        bail!("{nothing}: install it, or unset the variable");
    }
    eprintln!("missing: a compiler for the kernel side, with the source of its core library");
    let mut failures = Vec::new();
    for (kind, install) in
        [(NIGHTLY, install_nightly as fn() -> Result<()>), (DISTRIBUTION, install_distribution)]
    {
        let installed = install()
            .and_then(|()| ebpf_toolchain::examine(kind, None).map_err(|why| anyhow!(why)));
        match installed {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => {
                eprintln!("{kind}: {error:#}");
                failures.push(kind);
            }
        }
    }
    bail!(
        "no compiler for the kernel side could be installed ({}). Install by hand either \
         `rustup toolchain install {NIGHTLY} --profile minimal --component rust-src` or, on \
         Debian, `apt-get install {}`",
        failures.join(", "),
        DISTRIBUTION_PACKAGES.join(" ")
    )
}

fn install_nightly() -> Result<()> {
    let rustup = place::command("rustup").context("there is no rustup")?;
    let mut command = Command::new(rustup);
    // Without a network it should say so now, not after its retries.
    command.env("RUSTUP_MAX_RETRIES", "1").args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--no-self-update",
    ]);
    step::must(&format!("rustup toolchain install {NIGHTLY}"), &mut command, DOWNLOAD).map(drop)
}

fn install_distribution() -> Result<()> {
    if place::command("apt-get").is_none() {
        bail!("not a Debian system: {} cannot be had", DISTRIBUTION_PACKAGES.join(", "));
    }
    let why = "compiler for the kernel side";
    packages::install(
        &DISTRIBUTION_PACKAGES
            .map(|package| Requirement::file(format!("/usr/share/doc/{package}"), package, why)),
    )
}
