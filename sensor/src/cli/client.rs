//! What several verbs ask the daemon.

use clap::ArgGroup;
use sensor_proto::v1::{GetIncidentRequest, Incident, sensor_service_client::SensorServiceClient};
use tonic::transport::Channel;

use super::error::CliError;
pub use crate::feed::client::{Address, connect};

/// The incident whose id begins so.
pub async fn incident(
    client: &mut SensorServiceClient<Channel>,
    id: &str,
) -> Result<Incident, CliError> {
    let answer = client.get_incident(GetIncidentRequest { id: id.to_owned() }).await?;
    answer.into_inner().incident.ok_or_else(|| CliError::Answer("an incident is missing".into()))
}

/// Of a verb with an `id` and a `file`: an incident is either this host's or an exported one.
pub fn one_incident() -> ArgGroup {
    ArgGroup::new("incident").required(true).args(["id", "file"])
}
