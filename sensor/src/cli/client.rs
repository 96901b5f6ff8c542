//! The connection to the daemon: gRPC over its unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use sensor_proto::v1::{GetIncidentRequest, Incident, sensor_client::SensorClient};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::error::CliError;

/// A list of many incidents is larger than gRPC's usual 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

pub type Client = SensorClient<Channel>;

/// Connects once. A connection that breaks is not made again: its user says what was missed.
pub async fn connect(socket: &Path) -> Result<Client, CliError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| refused(socket, error))?;
    let once = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = service_fn(move |_| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    // The name is for the protocol only.
    let channel =
        Endpoint::from_static("http://sensor").connect_with_connector(connector).await.map_err(
            |error| CliError::Handshake { socket: socket.to_owned(), reason: error.to_string() },
        )?;
    Ok(SensorClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

fn refused(socket: &Path, source: io::Error) -> CliError {
    let socket = PathBuf::from(socket);
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CliError::NotRunning(socket),
        io::ErrorKind::PermissionDenied => CliError::Forbidden { socket, source },
        _ => CliError::Connect { socket, source },
    }
}

/// The incident whose id begins so.
pub async fn incident(client: &mut Client, id: &str) -> Result<Incident, CliError> {
    let answer = client.get_incident(GetIncidentRequest { id: id.to_owned() }).await?;
    answer.into_inner().incident.ok_or_else(|| CliError::Answer("an incident is missing".into()))
}
