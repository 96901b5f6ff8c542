//! `sensor ask`: started by `run`, as an investigator (see [`crate::ask`]).

use std::io;

use super::{client, error::CliError};
use crate::{ask, mcp};

/// Whatever goes wrong is told as its last event, too.
pub async fn run(daemon: &client::Address, args: &ask::AskArgs) -> Result<(), CliError> {
    let result = submit(daemon, args).await;
    ask::ended(&result);
    result.map_err(|why| CliError::part(io::Error::other(why)))
}

async fn submit(daemon: &client::Address, args: &ask::AskArgs) -> Result<(), String> {
    let findings = mcp::parse_findings(ask::request(args)?)?;
    let client = client::connect(daemon).await.map_err(|error| error.to_string())?;
    let mut daemon = mcp::Daemon::new(client, args.incident.clone());
    ask::submitted(&daemon.submit(findings).await?);
    Ok(())
}
