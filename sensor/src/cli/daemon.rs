//! `sensor run`: the daemon in the foreground; and the processes that it starts beside itself.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::error::CliError;
use crate::{
    config::Config,
    core,
    feed::{
        serve::{self, ServeArgs},
        webhooks::{self, ChildArgs},
    },
    kernel,
    respond::guardian::{self, GuardianArgs},
};

const EXAMPLES: &str = "\
Examples:
  sudo sensor run
  sudo sensor run --config ./sensor.toml
  sudo SENSOR_LOG=debug sensor run        trace, debug, info (as without), warn, error";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Configuration instead of /etc/sensor/sensor.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(args: &RunArgs) -> Result<(), CliError> {
    let config = Config::load(args.config.as_deref())?;
    log();
    core::run(&config).map_err(CliError::part)
}

/// The hidden verb `serve`: the process that answers clients.
pub fn serve(args: ServeArgs) -> Result<(), CliError> {
    log();
    serve::run(args).map_err(CliError::part)
}

/// The hidden verb `deliver`: the process that sends records to webhooks.
pub fn deliver(args: &ChildArgs) -> Result<(), CliError> {
    log();
    webhooks::run(args).map_err(CliError::part)
}

/// The hidden verb `guardian`: the process that holds the dead-man's timers.
pub fn guardian(args: &GuardianArgs) -> Result<(), CliError> {
    log();
    let marked = kernel::marked_by(&args.keep).map_err(CliError::part)?;
    guardian::run(args, marked).map_err(CliError::part)
}

/// Logs to standard error. The journal has its own times, and a file wants no colour.
fn log() {
    let filter = EnvFilter::builder()
        .with_env_var("SENSOR_LOG")
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // It fails where a subscriber is set already, which is then the one to keep.
    let _ = if env::var_os("JOURNAL_STREAM").is_some() {
        format.without_time().try_init()
    } else {
        format.try_init()
    };
}
