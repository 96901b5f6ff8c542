//! What several verbs ask the daemon.

use clap::ArgGroup;
use sensor_proto::v1::{
    GetIncidentRequest, Incident, State, sensor_service_client::SensorServiceClient,
};
use tonic::transport::Channel;

use super::{error::CliError, text};
pub use crate::feed::client::{Address, connect};

/// The incident whose id begins so.
pub async fn incident(
    client: &mut SensorServiceClient<Channel>,
    id: &str,
) -> Result<Incident, CliError> {
    let answer = client.get_incident(GetIncidentRequest { id: id.to_owned() }).await?;
    answer.into_inner().incident.ok_or_else(|| CliError::Answer("an incident is missing".into()))
}

/// The same for who wants to do something about it: one that is resolved is said to be.
pub async fn unresolved(
    client: &mut SensorServiceClient<Channel>,
    id: &str,
    verb: &str,
) -> Result<Incident, CliError> {
    let incident = incident(client, id).await?;
    if incident.state() == State::Resolved {
        let id = text::safe(&incident.id);
        return Err(CliError::Refused(format!(
            "incident {id} is resolved: there is nothing to {verb}"
        )));
    }
    Ok(incident)
}

/// Of a verb with an `id` and a `file`: an incident is either this host's or an exported one.
pub fn one_incident() -> ArgGroup {
    ArgGroup::new("incident").required(true).args(["id", "file"])
}
