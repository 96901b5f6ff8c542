//! `sensor export`: everything about an incident in one file, to be read anywhere.

use std::path::PathBuf;

use clap::Args;
use sensor_proto::v1::StreamRecordsRequest;

use super::{client, error::CliError, out, text};
use crate::record::Exporter;

const EXAMPLES: &str = "\
Examples (4k2m begins the incident's id):
  sensor export 4k2m 4k2m.incident
  scp web-1:4k2m.incident . && sensor show --file 4k2m.incident
  sensor evidence --file 4k2m.incident

The file holds arguments, paths and lines of logs, redacted as in the log: give it to those who
may read them.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// The incident's id, or enough of its beginning to be unique.
    id: String,
    /// A new file, for its owner only; nothing is overwritten.
    file: PathBuf,
}

pub async fn run(daemon: &client::Address, args: &ExportArgs) -> Result<(), CliError> {
    let mut client = client::connect(daemon).await?;
    let incident = client::incident(&mut client, &args.id).await?;
    let request =
        StreamRecordsRequest { incident: incident.id.clone(), ..StreamRecordsRequest::default() };
    let mut stream = client.stream_records(request).await?.into_inner();
    let mut exporter = Exporter::create(&args.file, &incident).map_err(CliError::part)?;
    while let Some(answer) = stream.message().await? {
        if let Some(record) = answer.record {
            exporter.record(record).map_err(CliError::part)?;
        }
    }
    let (records, bytes) = exporter.finish().map_err(CliError::part)?;
    out::print(&format!(
        "{}: incident {}, {}, {}\n",
        text::safe(&args.file.display().to_string()),
        text::safe(&incident.id),
        text::count(records, "record", "records"),
        text::bytes(bytes),
    ))
}
