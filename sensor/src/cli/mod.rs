//! The command line: one file per verb, and the few things that they share.
//!
//! Texts for people are pure functions of what the daemon answered and a [`out::View`]; effects
//! are in the `run` of each verb. Exit codes: 0 done; 1 failed, one line on standard error; 2
//! wrong usage.

mod act;
mod ask;
mod certs;
mod client;
mod config;
mod daemon;
mod describe;
mod doctor;
mod error;
pub(crate) mod evidence;
mod export;
mod incidents;
mod investigate;
mod mcp;
pub(crate) mod out;
mod record;
pub(crate) mod replay;
mod report;
mod screen;
pub(crate) mod show;
mod status;
mod table;
mod top;
mod trigger;
mod vitals;
pub(crate) mod watch;

use std::{
    future::Future,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::error::CliError;
pub(crate) use crate::present::{style, text, time};
use crate::{
    ask::AskArgs,
    evidence::parse::{self, ParseArgs},
    feed::{serve::ServeArgs, webhooks::ChildArgs},
    kernel::{brake, selftest},
    respond::guardian::GuardianArgs,
};

const EXAMPLES: &str = "\
Examples:
  sudo sensor run                 watch this host, in the foreground
  sensor incidents                what happened
  sensor show 4k2m                the story of the incident whose id begins with 4k2m
  sensor watch                    what happens now, a line each
  sensor top                      who has the processes, and who makes them
  sensor doctor                   what this kernel and this user can do

Exit: 0 done; 1 failed, one line on standard error says what and what to do; 2 wrong usage.";

/// Smoke detector, black box and first responder for a Linux host.
#[derive(Debug, Parser)]
#[command(name = "sensor", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    /// Socket of the daemon, or https://HOST:PORT of one on another host.
    #[arg(
        long,
        global = true,
        env = "SENSOR_SOCKET",
        default_value = "/run/sensor/sensor.sock",
        value_name = "PATH"
    )]
    socket: PathBuf,
    /// Folder with the certificates for a daemon on another host: ca.pem, client.pem, client.key.
    #[arg(long, global = true, env = "SENSOR_TLS", value_name = "DIR")]
    tls: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch this host, in the foreground; logs to standard error.
    Run(daemon::RunArgs),
    /// What this kernel and this user can do, and what is degraded.
    Doctor(doctor::DoctorArgs),
    /// How the daemon is.
    Status(status::StatusArgs),
    /// All incidents, newest first.
    Incidents(incidents::IncidentsArgs),
    /// The story of an incident: what, why, what was done, what to do.
    Show(show::ShowArgs),
    /// Records as they come.
    Watch(watch::WatchArgs),
    /// Who has the processes, and who makes them, live.
    Top(top::TopArgs),
    /// What was gathered about an incident.
    Evidence(evidence::EvidenceArgs),
    /// Everything about an incident in one file, to be read anywhere.
    Export(export::ExportArgs),
    /// Stop the culprit's tree where it stands; it can go on later.
    Freeze(act::ActArgs),
    /// Let what is frozen run again.
    Thaw(act::ActArgs),
    /// End the culprit's tree.
    Kill(act::ActArgs),
    /// Close an incident; what is frozen runs again.
    Resolve(act::ActArgs),
    /// Have somebody look into an incident, again or for the first time.
    Investigate(investigate::InvestigateArgs),
    /// Show an incident to a coding agent: an MCP server on standard input and output.
    Mcp(mcp::McpArgs),
    /// Open an incident by hand.
    Trigger(trigger::TriggerArgs),
    /// Switch all automatic action off; survives restarts.
    Pause(act::SwitchArgs),
    /// Switch automatic action on again.
    Resume(act::SwitchArgs),
    /// Record every fork, exec and exit of this host into a trace.
    Record(record::RecordArgs),
    /// Put a trace through the gates and the detectors again.
    Replay(replay::ReplayArgs),
    /// Make certificates for clients on other hosts.
    Certs(certs::CertsArgs),
    /// Check and show configurations.
    Config(config::ConfigArgs),
    /// Answers clients. Started by `run`.
    #[command(hide = true)]
    Serve(ServeArgs),
    /// Sends records to webhooks. Started by `run`.
    #[command(hide = true)]
    Deliver(ChildArgs),
    /// Asks a model once. Started by `run`.
    #[command(hide = true)]
    Ask(AskArgs),
    /// Decodes foreign files. Started by `run`.
    #[command(hide = true)]
    Parse(ParseArgs),
    /// Holds the dead-man's timers. Started by `run`.
    #[command(hide = true)]
    Guardian(GuardianArgs),
    /// What `run` starts to see whether the kernel side reads it right.
    #[command(hide = true, name = selftest::CHILD)]
    SelfTestChild {
        /// Shows in its argv.
        token: String,
    },
    /// What `run` starts to see whether its brake works.
    #[command(hide = true, name = brake::CHILD)]
    BrakeTestChild,
}

/// Reads the command line, does what it says, tells how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(line) = error.line() {
                // Nobody is left to tell when this fails.
                let _ = writeln!(io::stderr(), "sensor: {line}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    use crate::proto::Verb as Act;

    let daemon = client::Address::parse(cli.socket, cli.tls)?;
    match cli.verb {
        Verb::Run(args) => daemon::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Status(args) => client_of(status::run(&daemon, &args)),
        Verb::Incidents(args) => client_of(incidents::run(&daemon, args)),
        Verb::Show(args) => client_of(show::run(&daemon, &args)),
        Verb::Watch(args) => client_of(watch::run(&daemon, &args)),
        Verb::Top(args) => client_of(top::run(&daemon, args)),
        Verb::Evidence(args) => client_of(evidence::run(&daemon, &args)),
        Verb::Export(args) => client_of(export::run(&daemon, &args)),
        Verb::Freeze(args) => client_of(act::run(&daemon, Act::Freeze, args)),
        Verb::Thaw(args) => client_of(act::run(&daemon, Act::Thaw, args)),
        Verb::Kill(args) => client_of(act::run(&daemon, Act::Kill, args)),
        Verb::Resolve(args) => client_of(act::run(&daemon, Act::Resolve, args)),
        Verb::Investigate(args) => client_of(investigate::run(&daemon, args)),
        Verb::Mcp(args) => client_of(mcp::run(&daemon, &args)),
        Verb::Trigger(args) => client_of(trigger::run(&daemon, args)),
        Verb::Pause(args) => client_of(act::switch(&daemon, true, args)),
        Verb::Resume(args) => client_of(act::switch(&daemon, false, args)),
        Verb::Record(args) => record::run(&args),
        Verb::Replay(args) => replay::run(&args),
        Verb::Certs(args) => certs::run(&args),
        Verb::Config(args) => config::run(&args),
        Verb::Serve(args) => daemon::serve(args),
        Verb::Deliver(args) => daemon::deliver(&args),
        Verb::Ask(args) => client_of(ask::run(&daemon, &args)),
        Verb::Parse(args) => parse::run(&args).map_err(CliError::part),
        Verb::Guardian(args) => daemon::guardian(&args),
        Verb::SelfTestChild { .. } => Ok(selftest::child()?),
        Verb::BrakeTestChild => Ok(brake::child()?),
    }
}

/// A client needs one thread.
fn client_of(verb: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?
        .block_on(verb)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_examples() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", verb.get_name());
        }
    }
}
