//! What comes from the distribution: known by the command or file that is needed, so that it may
//! come from elsewhere, installed by Debian's package name.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, bail};

use super::{Need, failure};
use crate::{place, step};

/// Packages come in seconds from a near mirror; a slow line gets its time.
const LIMIT: Duration = Duration::from_mins(30);

/// How a thing is known to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Command(&'static str),
    File(String),
}

/// Something from the distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub probe: Probe,
    /// Debian's name.
    pub package: String,
    pub why: &'static str,
}

impl Requirement {
    pub fn command(command: &'static str, package: &str, why: &'static str) -> Self {
        Self { probe: Probe::Command(command), package: package.into(), why }
    }

    pub fn file(file: impl Into<String>, package: impl Into<String>, why: &'static str) -> Self {
        Self { probe: Probe::File(file.into()), package: package.into(), why }
    }

    pub fn is_there(&self) -> bool {
        match &self.probe {
            Probe::Command(name) => place::command(name).is_some(),
            Probe::File(path) => Path::new(path).exists(),
        }
    }
}

/// Installs what `needs` asks for and is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<Requirement> = needs
        .iter()
        .flat_map(|need| requirements(*need))
        .filter(|requirement| !requirement.is_there())
        .collect();
    install(&missing)
}

fn requirements(need: Need) -> Vec<Requirement> {
    let command = Requirement::command;
    match need {
        Need::Build => vec![
            command("cc", "gcc", "SQLite is compiled from source"),
            Requirement::file("/usr/include/stdio.h", "libc6-dev", "the C library's headers"),
        ],
        Need::Test => vec![
            command("make", "make", "a recursive make is one of the workloads"),
            command("git", "git", "a hook that commits is one of the workloads"),
            command("node", "nodejs", "npm scripts are workloads"),
            command("npm", "npm", "npm scripts are workloads"),
            command("python3", "python3", "pools and pre-forking servers are workloads"),
            command("script", "bsdutils", "shells in shells, as a person opens them"),
            command("strace", "strace", "a program is paused under a tracer"),
            // 80 MB to fetch, 450 MB on disk.
            command("go", "golang-go", "a Go program with threads is paused, too"),
            command("busybox", "busybox-static", "its shell is paused, too"),
            command("stress-ng", "stress-ng", "its stressors are workloads"),
            command("mkfs.ext4", "e2fsprogs", "a disk that fails is made for the log"),
        ],
        Need::Agents => vec![command("npm", "npm", "agents are installed with it")],
        Need::Fuzz => vec![command("c++", "g++", "libFuzzer is C++")],
        Need::Vm => vec![
            command("qemu-system-x86_64", "qemu-system-x86", "runs other kernels"),
            Requirement::file(
                "/usr/share/seabios/bios-256k.bin",
                "seabios",
                "the virtual machine's firmware",
            ),
            Requirement::file("/bin/busybox", "busybox-static", "the guest's userland"),
            command("dash", "dash", "the guest's /bin/sh"),
            command("make", "make", "copied into the guest, as a workload"),
            command("git", "git", "copied into the guest, as a workload"),
            command("perl", "perl-base", "copied into the guest, as a workload"),
            Requirement::file(
                "/usr/bin/python3",
                "python3",
                "copied into the guest, as a workload",
            ),
            command("strip", "binutils", "makes the guest's binaries small"),
        ],
    }
}

/// Installs `missing`, and says of each what it is for.
pub fn install(missing: &[Requirement]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|it| it.package.as_str()).collect();
    packages.sort_unstable();
    packages.dedup();
    for package in &packages {
        let why = missing.iter().find(|it| it.package == *package).map_or("", |it| it.why);
        eprintln!("missing: {package} ({why})");
    }
    let names = packages.join(" ");
    if place::command("apt-get").is_none() {
        bail!(
            "this system has no apt-get: install what Debian calls {names} with its own package \
             manager, then run this again"
        );
    }
    let label = format!("apt-get install {names}");
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(&packages);
    let first = step::run(&label, &mut apt(&args)?, LIMIT)?;
    if first.success() {
        step::done(&label, first.took);
        return Ok(());
    }
    // A fresh machine has no package lists, an old one may have stale ones.
    step::must("apt-get update", &mut apt(&["update", "-q"])?, LIMIT)?;
    let second = step::run(&label, &mut apt(&args)?, LIMIT)?;
    if !second.success() {
        return failure(&label, &second);
    }
    step::done(&label, second.took);
    Ok(())
}

/// apt-get as root, asking nobody anything.
fn apt(args: &[&str]) -> Result<Command> {
    let mut command = if place::is_root() {
        Command::new("apt-get")
    } else if let Some(sudo) = place::command("sudo") {
        let mut command = Command::new(sudo);
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    } else {
        bail!(
            "installing needs root and there is no sudo: as root, run `apt-get {}`",
            args.join(" ")
        )
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
    Ok(command)
}

/// Whether apt knows `package` and could install it.
pub fn is_available(package: &str) -> bool {
    Command::new("apt-cache").args(["show", package]).output().is_ok_and(|it| it.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_is_known_by_the_thing_itself() {
        assert!(Requirement::command("sh", "dash", "").is_there());
        assert!(!Requirement::command("no-such-command-here", "x", "").is_there());
        assert!(Requirement::file("/proc/self/status", "x", "").is_there());
        assert!(!Requirement::file("/no/such/file", "x", "").is_there());
    }
}
