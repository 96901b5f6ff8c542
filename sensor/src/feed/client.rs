//! How a client on this host connects to the daemon.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::proto::sensor_client::SensorClient;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("sensor is not running (no socket at {0}): start it with `sensor run`")]
    Absent(PathBuf),
    #[error("sensor is not running (nobody answers at {0}): start it with `sensor run`")]
    Refused(PathBuf),
    #[error("you may not open {0}: use sudo, or check the permissions of its directory")]
    Permission(PathBuf),
    #[error("cannot connect to {path}: {source}")]
    Failed { path: PathBuf, source: io::Error },
    #[error("{path} does not speak gRPC: is it sensor's socket? ({source})")]
    Protocol { path: PathBuf, source: tonic::transport::Error },
}

/// Connects to the daemon's socket; connects again by itself when the connection is lost.
pub async fn connect(socket: &Path) -> Result<SensorClient<Channel>, ConnectError> {
    let path = socket.to_owned();
    // The first connection is made here, where its error still has a name.
    let first = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ConnectError::Absent(path.clone()),
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(path.clone()),
        io::ErrorKind::PermissionDenied => ConnectError::Permission(path.clone()),
        _ => ConnectError::Failed { path: path.clone(), source },
    })?;
    let first = Mutex::new(Some(first));
    let again = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let path = again.clone();
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(path).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The name is only what the protocol wants to have; the connector decides.
    let channel = Endpoint::from_static("http://sensor")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Protocol { path, source })?;
    Ok(SensorClient::new(channel))
}
