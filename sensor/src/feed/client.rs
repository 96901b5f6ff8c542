//! How a client connects to the daemon: on this host by its socket, on another one over TLS.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    codec::CompressionEncoding,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::proto::sensor_service_client::SensorServiceClient;

/// What an address on another host begins with.
const HTTPS: &str = "https://";

const CONNECT: Duration = Duration::from_secs(10);

/// Until a request is answered, or a stream has begun: longer than the daemon takes to give up itself.
const ANSWER: Duration = Duration::from_secs(40);

/// Where the daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Its socket on this host.
    Local(PathBuf),
    Remote {
        /// `https://HOST:PORT`.
        uri: String,
        /// Folder with `ca.pem`, `client.pem` and `client.key`.
        tls: PathBuf,
    },
}

impl Address {
    /// As it is written on the command line. `tls` is needed for a host's.
    pub fn parse(written: PathBuf, tls: Option<PathBuf>) -> Result<Self, ConnectError> {
        let uri = written.to_str().filter(|text| text.contains("://")).map(str::to_owned);
        match (uri, tls) {
            (None, _) => Ok(Self::Local(written)),
            (Some(uri), _) if !uri.starts_with(HTTPS) => Err(ConnectError::NoSocket(uri)),
            (Some(uri), Some(tls)) => Ok(Self::Remote { uri, tls }),
            (Some(uri), None) => Err(ConnectError::NoCertificate(uri)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "{0} asks for a certificate: give the folder with ca.pem, client.pem and client.key as --tls \
         or SENSOR_TLS; `sensor certs` makes such folders"
    )]
    NoCertificate(String),
    #[error(
        "{0} is no socket: --socket (or SENSOR_SOCKET) takes the path of the daemon's socket on this host, \
         /run/sensor/sensor.sock, or https://HOST:PORT of a daemon on another host, with --tls DIR"
    )]
    NoSocket(String),
    #[error("cannot read {path}: {source}; `sensor certs` makes such files")]
    Certificate { path: PathBuf, source: io::Error },
    #[error(
        "cannot connect to {uri}: {}; is feed.tcp.listen set there, and does its authority know your \
         certificate?",
        innermost(.source)
    )]
    Remote { uri: String, source: tonic::transport::Error },
    #[error(
        "sensor is not running (no socket at {0}): start it with `sensor run`; one with another \
         runtime_dir has its socket there: name it with --socket or SENSOR_SOCKET"
    )]
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

/// The first cause: the outer ones only say that it did not work.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Connects to the daemon; connects again by itself when the connection is lost.
pub async fn connect(address: &Address) -> Result<SensorServiceClient<Channel>, ConnectError> {
    match address {
        Address::Local(socket) => connect_local(socket).await,
        Address::Remote { uri, tls } => connect_remote(uri, tls).await,
    }
}

async fn connect_remote(
    uri: &str,
    tls: &Path,
) -> Result<SensorServiceClient<Channel>, ConnectError> {
    let read = |name: &str| {
        let path = tls.join(name);
        fs::read(&path).map_err(|source| ConnectError::Certificate { path, source })
    };
    let identity = Identity::from_pem(read("client.pem")?, read("client.key")?);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")?))
        .identity(identity);
    let failed = |source| ConnectError::Remote { uri: uri.to_owned(), source };
    let endpoint = Endpoint::from_shared(uri.to_owned()).map_err(failed)?;
    let channel = endpoint
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .tls_config(tls)
        .map_err(failed)?
        .connect()
        .await
        .map_err(failed)?;
    Ok(SensorServiceClient::new(channel).accept_compressed(CompressionEncoding::Zstd))
}

async fn connect_local(socket: &Path) -> Result<SensorServiceClient<Channel>, ConnectError> {
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
        .timeout(ANSWER)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Protocol { path, source })?;
    Ok(SensorServiceClient::new(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_another_host() {
        let parse = |written: &str, tls: Option<&str>| {
            Address::parse(written.into(), tls.map(PathBuf::from))
                .map_err(|error| error.to_string())
        };
        assert_eq!(parse("/run/s", None), Ok(Address::Local("/run/s".into())));
        let remote = Address::Remote { uri: "https://a:1".into(), tls: "d".into() };
        assert_eq!(parse("https://a:1", Some("d")), Ok(remote));
        assert!(parse("https://a:1", None).unwrap_err().contains("asks for a certificate"));
        for tls in [None, Some("d")] {
            let refused = parse("http://a:1", tls).unwrap_err();
            assert!(refused.starts_with("http://a:1 is no socket: --socket"), "{refused}");
        }
    }
}
