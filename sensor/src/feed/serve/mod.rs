//! The process that clients talk to: an unprivileged user, the listener and the link inherited from
//! core, the log read-only.

mod connections;
mod core;
mod evidence;
pub(super) mod groups;
mod pace;
pub(super) mod records;
mod service;
pub(super) mod stream;
mod trees;

use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use sensor_proto::DESCRIPTORS;
use tokio::{io::unix::AsyncFd, sync::watch};
use tonic::{codec::CompressionEncoding, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use self::{
    connections::Remote, core::Core, groups::GroupCache, records::Records, service::Service,
};
use super::privileges::{self, ChildArgs, Leave, PrivilegesError};
use crate::{core::survival, host::Host, proto, proto::sensor_service_server::SensorServiceServer};

/// Largest request, bytes; the largest that makes sense is some 1 KiB.
const REQUEST_MAX: usize = 64 << 10;

/// Requests that one connection may have in work; streams that it may have open.
const REQUESTS_PER_CONNECTION: usize = 8;
const STREAMS_PER_CONNECTION: u32 = 32;

/// Until a request is answered, or a stream has begun, where the client names no time of its own: core
/// answers within 10 s, a page is read in milliseconds, and a disk may hang.
const ANSWER: Duration = Duration::from_secs(30);

/// A peer that answers no ping for five minutes is gone for good. One that is only stopped (ctrl-z, or
/// by our own hand) may come back before.
const PING: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_mins(5);

/// Where core puts the listener for clients on other hosts.
pub(super) const TCP_LISTENER: RawFd = 3;
/// Where core puts the way on which connections of agents come.
pub(super) const RUNS: RawFd = 4;

/// Threads that read the log; each page is short.
const READERS: usize = 4;

/// Arguments of the hidden `sensor serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub child: ChildArgs,
    /// A listener for clients on other hosts is descriptor 3.
    #[arg(long)]
    pub tcp: bool,
    /// The way on which connections of agents come is descriptor 4.
    #[arg(long)]
    pub runs: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("`sensor serve` is started by `sensor run`, not by hand ({0})")]
    ByHand(io::Error),
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    #[error("cannot start the feed: {0}")]
    Start(#[source] io::Error),
    #[error("the feed's own descriptors cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the feed failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until core closes the link. Standard input is the link, standard output the listener.
/// To be called before any thread is started: what is given up is given up by all.
pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    // It holds nothing that cannot be started again, and must not stay when memory is short.
    let _ = survival::be_ordinary();
    let link = UnixStream::from(inherited(io::stdin().as_fd())?);
    let listener = UnixListener::from(inherited(io::stdout().as_fd())?);
    link.peer_addr().map_err(ServeError::ByHand)?;
    listener.local_addr().map_err(ServeError::ByHand)?;
    let remote = if args.tcp {
        // SAFETY: that is where core puts it; nobody else here knows of it.
        let listener = unsafe { OwnedFd::from_raw_fd(TCP_LISTENER) };
        let listener = TcpListener::from(listener);
        listener.local_addr().map_err(ServeError::ByHand)?;
        Some(listener)
    } else {
        None
    };
    // SAFETY: that is where core puts it; nobody else here knows of it.
    let runs = args.runs.then(|| unsafe { OwnedFd::from_raw_fd(RUNS) });
    // Who may act as its owner: root, or whoever started all of it.
    let owner = args.child.uid.map_or_else(|| rustix::process::geteuid().as_raw(), |_| 0);
    args.child.settle()?;
    let state_dir = args.child.state_dir;
    if let Err(why) = privileges::confine(&state_dir, Leave::default()) {
        tracing::info!("serve may see the host's files as its user may: {why}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(READERS)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    let listeners = Listeners { local: listener, remote, runs };
    let result = runtime.block_on(serve(listeners, link, &state_dir, GroupCache::new(owner)));
    // A page that is being read is for nobody any more.
    runtime.shutdown_background();
    result
}

fn inherited(file: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, ServeError> {
    file.try_clone_to_owned().map_err(ServeError::ByHand)
}

/// Where clients connect.
pub(super) struct Listeners {
    pub local: UnixListener,
    pub remote: Option<TcpListener>,
    /// Where connections of agents come from core.
    pub runs: Option<OwnedFd>,
}

/// The server itself: until the link is closed.
pub(super) async fn serve(
    listeners: Listeners,
    link: UnixStream,
    state_dir: &Path,
    groups: GroupCache,
) -> Result<(), ServeError> {
    let Listeners { local, remote, runs } = listeners;
    let listen = || {
        local.set_nonblocking(true)?;
        link.set_nonblocking(true)?;
        let local = tokio::net::UnixListener::from_std(local)?;
        let remote = match remote {
            Some(remote) => {
                remote.set_nonblocking(true)?;
                Some(tokio::net::TcpListener::from_std(remote)?)
            }
            None => None,
        };
        // SAFETY: an owned descriptor stays the same, and open, for as long as it lives.
        let runs = runs.map(|runs| unsafe { AsyncFd::register(runs) }).transpose()?;
        Ok((local, remote, runs, tokio::net::UnixStream::from_std(link)?))
    };
    let (local, remote, runs, link) = listen().map_err(ServeError::Start)?;
    let (core, link_closed) = Core::start(link);
    let remote = remote.map(|listener| Remote { listener, tls: core.tls() });
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = report(reporter, core.health());
    let records = Records::new(state_dir, Host::read(), core.clone());
    let moved = records.clone();
    let service = Service::new(core, records, groups);
    // Who is near enough to do without does not ask for compression.
    let service = SensorServiceServer::new(service)
        .max_decoding_message_size(REQUEST_MAX)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Zstd);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(public_descriptors())
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let server = Server::builder()
        .timeout(ANSWER)
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING_ANSWER))
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming(connections::accept(local, remote, runs));
    tokio::select! {
        result = server => Ok(result?),
        () = health => Ok(()),
        _ = link_closed => Ok(()),
        // Core starts another one, which may read what is there now.
        () = moved.moved() => Ok(()),
    }
}

/// What clients may know: the schema without what the daemon's processes say to each other.
fn public_descriptors() -> FileDescriptorSet {
    // The bytes are built into the program; if they were wrong, reflection alone would be empty.
    let mut files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    files.file.retain(|file| !file.package().starts_with("sensor.internal"));
    files
}

/// Keeps the health service true: every part by its name, the service, and "" for all together.
async fn report(reporter: HealthReporter, mut parts: watch::Receiver<Vec<proto::PartStatus>>) {
    let status = |ok| if ok { ServingStatus::Serving } else { ServingStatus::NotServing };
    // Core is there as long as this process is.
    reporter.set_service_status("sensor.v1.SensorService", ServingStatus::Serving).await;
    let mut named: Vec<String> = Vec::new();
    loop {
        let now = parts.borrow_and_update().clone();
        // Unknown until core has said something.
        let all = !now.is_empty() && now.iter().all(|part| part.ok);
        reporter.set_service_status("", status(all)).await;
        for gone in named.iter().filter(|name| !now.iter().any(|part| part.part == **name)) {
            reporter.set_service_status(gone, ServingStatus::NotServing).await;
        }
        for part in &now {
            reporter.set_service_status(&part.part, status(part.ok)).await;
            if !named.contains(&part.part) {
                named.push(part.part.clone());
            }
        }
        if parts.changed().await.is_err() {
            return;
        }
    }
}
