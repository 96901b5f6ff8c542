//! The command line: one file per verb, and the few things that they share.
//!
//! Texts for people are pure functions of what the daemon answered and a [`out::View`]; effects
//! are in the `run` of each verb. Exit codes: 0 done; 1 failed, or a file told in part, one line on
//! standard error; 2 wrong usage.

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

use clap::{
    Arg, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
    value_parser,
};

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

Exit: 0 done; 1 failed, or only a part of a file could be read: one line on standard error says
what and what to do; 2 wrong usage.";

/// Options of all verbs that ask a daemon; a heading of their own puts them behind the verb's.
const CONNECTION: &str = "Connection";

/// Verbs that ask no daemon.
const ALONE: [&str; 6] = ["run", "doctor", "record", "replay", "certs", "config"];

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
        value_name = "PATH",
        help_heading = CONNECTION
    )]
    socket: PathBuf,
    /// Folder with the certificates for a daemon on another host: ca.pem, client.pem, client.key.
    #[arg(
        long,
        global = true,
        env = "SENSOR_TLS",
        value_name = "DIR",
        help_heading = CONNECTION
    )]
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
    /// Put a trace, or what a log observed, through the detectors again.
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
    let matches = command().try_get_matches().unwrap_or_else(|error| without_hidden(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
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

/// The command line. Where an option means nothing it is still taken, but no help tells of it.
fn command() -> Command {
    let hidden = |name: &'static str| {
        Arg::new(name).long(name).value_parser(value_parser!(PathBuf)).global(true).hide(true)
    };
    let quiet = |verb: Command| verb.args([hidden("socket"), hidden("tls")]);
    ALONE.into_iter().fold(Cli::command(), |command, verb| command.mut_subcommand(verb, quiet))
}

/// The error without suggestions that are nobody's to follow: verbs that `run` starts.
fn without_hidden(mut error: clap::Error) -> clap::Error {
    let kind = ContextKind::SuggestedSubcommand;
    let names = match error.remove(kind) {
        Some(ContextValue::Strings(names)) => names,
        Some(ContextValue::String(name)) => vec![name],
        _ => return error,
    };
    let command = command();
    let shown = |name: &String| !command.find_subcommand(name).is_some_and(Command::is_hide_set);
    let names: Vec<String> = names.into_iter().filter(shown).collect();
    if !names.is_empty() {
        error.insert(kind, ContextValue::Strings(names));
    }
    error
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
    use super::*;

    /// As wide as a line of an example may be: a terminal of 100 columns shows it whole.
    const LINE: usize = 96;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_shows_examples() {
        for verb in command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", verb.get_name());
        }
    }

    #[test]
    fn no_example_breaks_in_the_middle() {
        let command = command();
        for verb in command.get_subcommands().chain([&command]) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                assert!(line.chars().count() <= LINE, "{}: {line}", verb.get_name());
            }
        }
    }

    fn help(words: &[&str]) -> String {
        let words = ["sensor"].iter().chain(words).chain(&["--help"]);
        command().try_get_matches_from(words).unwrap_err().to_string()
    }

    #[test]
    fn how_to_connect_comes_last_and_only_where_it_matters() {
        for verb in command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let (name, help) = (verb.get_name(), help(&[verb.get_name()]));
            if ALONE.contains(&name) {
                assert!(!help.contains("--socket <") && !help.contains("--tls <"), "{help}");
                continue;
            }
            let (own, connection) = help.split_once("\nConnection:\n").unwrap();
            assert!(!own.contains("--socket <PATH>") && own.contains("--help"), "{help}");
            assert!(connection.contains("--socket <PATH>") && connection.contains("--tls"));
        }
        assert!(!help(&["config", "show"]).contains("--socket <"));
    }

    #[test]
    fn a_socket_may_be_given_before_and_behind_any_verb() {
        let socket = |words: &[&str]| {
            let matches = command().try_get_matches_from(words).unwrap();
            Cli::from_arg_matches(&matches).unwrap().socket
        };
        for words in [
            ["sensor", "--socket", "/s", "status"],
            ["sensor", "status", "--socket", "/s"],
            ["sensor", "--socket", "/s", "run"],
            ["sensor", "run", "--socket", "/s"],
        ] {
            assert_eq!(socket(&words), PathBuf::from("/s"), "{words:?}");
        }
        assert_eq!(socket(&["sensor", "config", "show", "--socket", "/s"]), PathBuf::from("/s"));
    }

    fn refusal(words: &[&str]) -> String {
        let words = ["sensor"].iter().chain(words);
        without_hidden(command().try_get_matches_from(words).unwrap_err()).to_string()
    }

    #[test]
    fn only_verbs_for_people_are_suggested() {
        let said = refusal(&["trees"]);
        assert!(said.contains("'trees'") && said.contains("'freeze'"), "{said}");
        assert!(!said.contains(brake::CHILD), "{said}");
        let said = refusal(&["brake-test-chil"]);
        assert!(!said.contains("similar"), "{said}");
    }

    #[test]
    fn an_incident_is_one_of_this_host_or_of_a_file() {
        for verb in ["show", "evidence"] {
            assert!(refusal(&[verb]).contains("<ID|--file <FILE>>"), "{}", refusal(&[verb]));
            assert!(refusal(&[verb, "abc", "--file", "f"]).contains("cannot be used with"));
            for good in [["abc", "--json"], ["--file", "f"]] {
                let words = ["sensor", verb].into_iter().chain(good);
                assert!(command().try_get_matches_from(words).is_ok(), "{verb} {good:?}");
            }
        }
        assert!(refusal(&["show", "--records"]).contains("<ID|--file <FILE>>"));
    }
}
