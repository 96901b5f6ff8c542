//! `sensor trigger`: somebody saw something that no detector did.

use clap::Args;
use sensor_proto::v1::TriggerRequest;

use super::{client, describe, error::CliError, out, text};

const EXAMPLES: &str = "\
Examples:
  sensor trigger --pid 4121 --why 'eats the machine'
  sensor trigger --why 'slow since the deploy' --json | jq -r .id";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TriggerArgs {
    /// The process that it is about; without it, the host as a whole.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// What was seen; becomes part of the record.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// The incident as JSON (docs/schema/incident.json).
    #[arg(long)]
    json: bool,
}

pub async fn run(daemon: &client::Address, args: TriggerArgs) -> Result<(), CliError> {
    let mut client = client::connect(daemon).await?;
    let request = TriggerRequest { pid: args.pid.unwrap_or(0), why: args.why };
    let incident = client
        .trigger(request)
        .await?
        .into_inner()
        .incident
        .ok_or_else(|| CliError::Answer("an incident is missing".into()))?;
    if args.json {
        return out::json(&incident);
    }
    let id = text::safe(&incident.id);
    out::print(&format!(
        "incident {id} is open: {}\nsensor show {id} tells its story\n",
        describe::subject(&incident)
    ))
}
