//! `sensor investigate`: somebody is to look into an incident, beside whoever did so by itself.

use clap::Args;
use sensor_proto::v1::{InvestigateRequest, InvestigationState};

use super::{client, error::CliError, out, text};

const EXAMPLES: &str = "\
Examples:
  sensor investigate 4k2m                   by whoever is configured
  sensor investigate 4k2m --agent claude    by Claude Code, once configured (docs/agents.md)
  sensor investigate 4k2m --agent command   by your own program, under [investigate.command]
  sensor watch                              what it says, line by line
  sensor show 4k2m                          what it came to

Evidence is gathered anew first.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InvestigateArgs {
    /// The incident's id, or enough of its beginning to be unique.
    id: String,
    /// Who: builtin, command, claude, codex, gemini, opencode or api.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    agent: String,
}

pub async fn run(daemon: &client::Address, args: InvestigateArgs) -> Result<(), CliError> {
    let mut client = client::connect(daemon).await?;
    let incident = client::unresolved(&mut client, &args.id, "investigate").await?;
    let request = InvestigateRequest { id: incident.id, agent: args.agent };
    let begun = client
        .investigate(request)
        .await?
        .into_inner()
        .investigation
        .ok_or_else(|| CliError::Answer("the investigation is missing".into()))?;
    let what = match begun.state() {
        InvestigationState::Failed | InvestigationState::Suppressed => {
            return Err(CliError::Refused(format!("it was not begun: {}", begun.error)));
        }
        InvestigationState::Queued => "waits for its turn: another one runs",
        _ => "has begun",
    };
    out::print(&format!(
        "investigation {} by {} {what}; `sensor show` tells what it comes to\n",
        text::safe(&begun.id),
        text::safe(&begun.agent)
    ))
}
