//! `sensor record`: a trace of this host's lifecycle. Needs no daemon, and disturbs none.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use super::{error::CliError, text, time};
use crate::{
    config::Config,
    core,
    kernel::LoadOptions,
    trace::recorder::{self, Progress},
};

const EXAMPLES: &str = "\
Examples:
  sudo sensor record --lifecycle build.trace              until Ctrl-C
  sudo sensor record --lifecycle day.trace --for 8h
  sudo sensor record --lifecycle share.trace --no-argv    without anybody's arguments
  sensor replay build.trace                               what the detectors make of it";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RecordArgs {
    /// The trace: a new file, for every fork, exec and exit.
    #[arg(long, value_name = "FILE", required = true)]
    lifecycle: PathBuf,
    /// End by itself: 90s, 15min, 8h.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Leave arguments out; otherwise they are there, redacted.
    #[arg(long)]
    no_argv: bool,
    /// Configuration instead of /etc/sensor/sensor.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(args: &RecordArgs) -> Result<(), CliError> {
    let config = Config::load(args.config.as_deref())?;
    let options = LoadOptions { ring_bytes: recorder::RING_BYTES, ..core::load_options(&config) };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends us at once, whatever the first one waits for: a disk that is slow, a
        // verifier. In this order, or the first one would.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .map_err(CliError::Runtime)?;
        flag::register(signal, Arc::clone(&stop)).map_err(CliError::Runtime)?;
    }
    let shown = io::stderr().is_terminal();
    let mut begun = false;
    let done = recorder::record(&args.lifecycle, &options, !args.no_argv, |progress| {
        // Nobody is left to tell when this fails.
        if !begun {
            let file = text::safe(&args.lifecycle.display().to_string());
            let _ = writeln!(io::stderr(), "recording into {file}; Ctrl-C ends it");
            begun = true;
        } else if shown {
            let _ = write!(io::stderr(), "\r\x1b[K{}", line(progress));
        }
        !stop.load(Ordering::Relaxed)
            && args.duration.is_none_or(|duration| progress.elapsed < duration)
    })
    .map_err(CliError::part)?;
    let start = if shown { "\r\x1b[K" } else { "" };
    let _ = writeln!(io::stderr(), "{start}{}", line(&done));
    Ok(())
}

fn line(progress: &Progress) -> String {
    let Progress { elapsed, forks, execs, exits, lost, bytes } = *progress;
    let lost = if lost > 0 { format!(", {lost} LOST") } else { String::new() };
    format!(
        "{}: {}, {}, {}{lost}; {}",
        time::duration(elapsed.as_nanos() as u64),
        text::count(forks, "fork", "forks"),
        text::count(execs, "exec", "execs"),
        text::count(exits, "exit", "exits"),
        text::bytes(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_loud() {
        let progress = Progress {
            elapsed: Duration::from_secs(12),
            forks: 1,
            execs: 2,
            exits: 3,
            lost: 0,
            bytes: 2048,
        };
        assert_eq!(line(&progress), "12.0 s: 1 fork, 2 execs, 3 exits; 2.0 KiB");
        assert!(line(&Progress { lost: 4, ..progress }).contains("4 LOST"));
    }
}
