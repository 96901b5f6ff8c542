//! TLS for clients on other hosts: both sides show certificates, and the names in the client's decide
//! what it may do.
//!
//! core reads the files, which only root may, sees whether they make sense, and hands their contents to
//! `serve`, again whenever they change: nothing is restarted for a new certificate.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};

use crate::present::text::safe;

/// A certificate has a few KiB, a list of authorities some 200.
const FILE_MAX: u64 = 1 << 20;

/// What gRPC speaks.
const HTTP2: &[u8] = b"h2";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}; `sensor certs` makes such files")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than 1 MiB: it is no certificate")]
    Large { path: PathBuf },
    #[error("feed.tcp.{what} has no {content} in PEM")]
    Pem { what: &'static str, content: &'static str },
    #[error("feed.tcp.client_ca is of no use: {0}")]
    Root(#[source] rustls::Error),
    #[error("feed.tcp.client_ca is of no use: {0}")]
    Authority(#[source] VerifierBuilderError),
    #[error("feed.tcp.certificate and feed.tcp.key are of no use: {0}")]
    Identity(#[source] rustls::Error),
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate and those that lead to its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of the authorities that clients' certificates have to come from, PEM.
    pub client_ca: PathBuf,
}

/// What is in them.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    pub client_ca: Vec<u8>,
}

/// When each was last written; unequal after every change.
pub type Stamp = [Option<SystemTime>; 3];

impl Files {
    pub fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key, &self.client_ca]
            .map(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
    }

    pub fn read(&self) -> Result<Material, TlsError> {
        Ok(Material {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_ca: read(&self.client_ca)?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(TlsError::Large { path: path.to_owned() });
    }
    Ok(bytes)
}

/// How a server with these speaks TLS 1.2 and 1.3, to clients with a certificate only.
pub fn server(material: &Material) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates("client_ca", &material.client_ca)? {
        roots.add(authority).map_err(TlsError::Root)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .map_err(TlsError::Authority)?;
    let chain = certificates("certificate", &material.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&material.key)
        .map_err(|_| TlsError::Pem { what: "key", content: "private key" })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Identity)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(TlsError::Identity)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // Who connects again is verified again: a certificate may have expired, its authority be gone.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let absent = || TlsError::Pem { what, content: "certificate" };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| absent())?;
    if found.is_empty() { Err(absent()) } else { Ok(found) }
}

/// Names in a certificate: those of its alternative names that are DNS names or URIs. The common name
/// is none: no verifier of the last ten years takes it for one. Nor is what has a character that nobody sees:
/// names are recorded and shown.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = parsed.valid_dns_names().chain(parsed.valid_uri_names());
    names.filter(|name| safe(name) == *name).map(str::to_owned).collect()
}
