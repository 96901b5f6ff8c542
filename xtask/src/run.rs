//! `cargo xtask run`: build the sensor, start it on this host in the foreground.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, place, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Arguments for `sensor run`, such as `--config FILE`
    #[arg(last = true)]
    sensor: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[setup::Need::Build])?;
    let sensor = cargo::sensor(true)?;
    let mut command = if place::is_root() {
        Command::new(&sensor)
    } else if let Some(sudo) = place::command("sudo") {
        eprintln!("starting the sensor needs root: asking sudo");
        let mut command = Command::new(sudo);
        command.arg("--").arg(&sensor);
        command
    } else {
        bail!("starting the sensor needs root and there is no sudo: run {} run", sensor.display());
    };
    // The sensor takes our place, so that signals and the terminal are its own.
    let error = command.arg("run").args(&args.sensor).exec();
    Err(error).with_context(|| format!("cannot start {}", sensor.display()))
}
