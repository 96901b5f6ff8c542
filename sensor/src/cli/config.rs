//! `sensor config`: what a configuration says, and what is wrong with it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{error::CliError, out, text};
use crate::config::{Config, DEFAULT_FILE, DEFAULT_TEXT};

const EXAMPLES: &str = "\
Examples:
  sensor config check                           is /etc/sensor/sensor.toml good?
  sensor config check ./sensor.toml
  sensor config show                            every key as the file has it, or its default
  sensor config default > ./sensor.toml         every key with its reason, to start from";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is wrong with a configuration, without starting anything.
    Check {
        /// Instead of /etc/sensor/sensor.toml.
        file: Option<PathBuf>,
    },
    /// Every key as the file has it, or its default: what is in force from the next start.
    Show {
        /// Instead of /etc/sensor/sensor.toml.
        file: Option<PathBuf>,
    },
    /// The default configuration, each key with its reason.
    Default,
}

pub fn run(args: &ConfigArgs) -> Result<(), CliError> {
    match &args.what {
        What::Check { file } => {
            Config::load(file.as_deref())?;
            out::print(&verdict(file.as_deref()))
        }
        What::Show { file } => {
            let config = Config::load(file.as_deref())?;
            out::print(&toml::to_string(&config)?)
        }
        What::Default => out::print(DEFAULT_TEXT),
    }
}

fn verdict(file: Option<&Path>) -> String {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name = text::safe(&path.display().to_string());
    if file.is_none() && !path.exists() {
        format!("{name} does not exist: the defaults are in force\n")
    } else {
        format!("{name} is good\n")
    }
}
