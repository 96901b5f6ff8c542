//! `sensor mcp`: an agent's eye on one incident.

use clap::Args;

use super::{client, error::CliError};
use crate::mcp;

const EXAMPLES: &str = "\
Examples:
  sensor mcp --incident 4k2m                         speaks MCP on standard input and output
  claude --mcp-config '{\"mcpServers\":{\"sensor\":{\"type\":\"stdio\",
      \"command\":\"sensor\",\"args\":[\"mcp\",\"--incident\",\"4k2m\"]}}}'
  codex -c 'mcp_servers.sensor.command=\"sensor\"' \\
      -c 'mcp_servers.sensor.args=[\"mcp\",\"--incident\",\"4k2m\"]'

In a run of your own investigator, SENSOR_INCIDENT and SENSOR_SOCKET are set:
  \"$SENSOR_PROGRAM\" mcp

Root, sensor and sensor-operators may read; read_source and submit_findings need root or
sensor-operators. It changes nothing but what submit_findings records.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct McpArgs {
    /// The incident's id, or enough of its beginning to be unique.
    #[arg(long, value_name = "ID", env = "SENSOR_INCIDENT")]
    incident: String,
}

pub async fn run(daemon: &client::Address, args: &McpArgs) -> Result<(), CliError> {
    let mut client = client::connect(daemon).await?;
    // Also: whether there is one, before the client is told so.
    let incident = client::incident(&mut client, &args.incident).await?;
    mcp::serve(mcp::Daemon::new(client, incident.id)).await.map_err(CliError::part)
}
