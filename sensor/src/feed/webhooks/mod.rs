//! Webhooks: records as HTTP requests, from a durable cursor, each until the receiver has it.
//!
//! What speaks with receivers is a process of its own, `sensor deliver`: an unprivileged user that may read
//! the log, write its cursors and connect to the receivers' ports. core tells it whom to send what, with
//! the contents of the files that only root may read. When it dies, core starts it again, and it goes on
//! from the cursors.
//!
//! - [`link`]: core's end
//! - `delivery`: one webhook's way through the log
//! - `cursor`: how far it got
//! - `message`, `agent_message`: what a record is to a receiver
//! - `sender`: one request, and what its answer means
//! - `signature`: who it is from
//! - `pause`: how long until the next try
//! - `heartbeat`: a sign of life

mod agent_message;
mod cursor;
mod delivery;
mod heartbeat;
pub mod link;
mod message;
mod pause;
mod sender;
mod signature;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use sensor_proto::internal::v1::{Account, Errand, Webhooks, errand::What};
use tokio::{sync::mpsc, task::JoinSet};
use ureq::http::{Uri, uri::Scheme};

use self::{
    cursor::{Cursor, Position},
    delivery::{Delivery, Source},
    heartbeat::Heart,
    sender::Sender,
    tail::Tail,
};
pub use super::privileges::ChildArgs;
use super::{
    frames::{self, Incoming, Outgoing},
    privileges::{self, Leave},
    serve::records::identity,
};
use crate::{core::survival, host::Host, record::ReadError};

/// Directory of the cursors, below the state directory.
const CURSORS: &str = "webhooks";

/// Accounts that wait for core; who has another one waits for room.
const ACCOUNTS: usize = 16;

/// Where names are asked for when the answer is too large for a datagram.
const DNS: u16 = 53;

#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    #[error("`sensor deliver` is started by `sensor run`, not by hand ({0})")]
    ByHand(io::Error),
    #[error(transparent)]
    Privileges(#[from] privileges::PrivilegesError),
    #[error("cannot start to deliver: {0}")]
    Start(#[source] io::Error),
    #[error("the daemon did not say what to deliver")]
    NoErrand,
    #[error("the daemon said what cannot be: {0}")]
    Kinds(#[from] ReadError),
    #[error("the link to the daemon broke: {0}")]
    Link(#[source] io::Error),
    #[error("a thread that delivers ended: it panicked, or the log's directory is another one")]
    Thread,
}

/// Delivers until core closes the link, which is the standard input. To be called before any thread is
/// started: what is given up is given up by all.
pub fn run(args: &ChildArgs) -> Result<(), DeliverError> {
    // It holds nothing that cannot be started again, and must not stay when memory is short.
    let _ = survival::be_ordinary();
    let link = io::stdin().as_fd().try_clone_to_owned().map_err(DeliverError::ByHand)?;
    let link = UnixStream::from(link);
    link.peer_addr().map_err(DeliverError::ByHand)?;
    args.settle()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .thread_name("deliver")
        .enable_all()
        .build()
        .map_err(DeliverError::Start)?;
    let result = runtime.block_on(deliver(link, &args.state_dir));
    // A request that is under way is made again by the next one.
    runtime.shutdown_background();
    result
}

async fn deliver(link: UnixStream, state_dir: &Path) -> Result<(), DeliverError> {
    link.set_nonblocking(true).map_err(DeliverError::Start)?;
    let link = tokio::net::UnixStream::from_std(link).map_err(DeliverError::Start)?;
    let (mut incoming, outgoing) = frames::split::<Errand, Account>(link);
    let first = incoming.next().await.map_err(DeliverError::Link)?;
    let Some(What::Webhooks(webhooks)) = first.and_then(|errand| errand.what) else {
        return Err(DeliverError::NoErrand);
    };
    let (accounts, waiting) = mpsc::channel(ACCOUNTS);
    let tail = Arc::new(Tail::default());
    let works = prepare(webhooks, state_dir, &tail, &accounts)?;
    let leave = Leave { write: Some(&cursors(state_dir)), ports: &works.ports };
    if let Err(why) = privileges::confine(state_dir, leave) {
        tracing::info!("deliver may see the host's files as its user may: {why}");
    }
    let mut threads = JoinSet::new();
    for work in works.threads {
        threads.spawn_blocking(work);
    }
    tokio::select! {
        result = hear(incoming, &tail) => result,
        result = say(outgoing, waiting) => result,
        _ = threads.join_next() => Err(DeliverError::Thread),
    }
}

/// What is to be done, and what leave it needs.
struct Works {
    /// If one ends, another process is needed.
    threads: Vec<Box<dyn FnOnce() + Send>>,
    ports: Vec<u16>,
}

fn prepare(
    webhooks: Webhooks,
    state_dir: &Path,
    tail: &Arc<Tail>,
    accounts: &mpsc::Sender<Account>,
) -> Result<Works, DeliverError> {
    let source = Source {
        state_dir: state_dir.to_owned(),
        directory: identity(state_dir),
        begin: Position {
            log_id: webhooks.begin_log_id.parse().unwrap_or_default(),
            next_seq: webhooks.begin_seq,
        },
        host: Host::read(),
    };
    let mut works = Works { threads: Vec::new(), ports: vec![DNS] };
    for webhook in webhooks.webhooks {
        let sender = Arc::new(Sender::new(&webhook));
        if let Some(heartbeat) = webhook.heartbeat.clone() {
            let heart = Heart {
                url: parsed(&heartbeat.url, &mut works.ports)?,
                webhook: webhook.clone(),
                heartbeat,
                sender: Arc::clone(&sender),
                host: source.host.clone(),
                started_ns: webhooks.started_ns,
                tail: Arc::clone(tail),
                accounts: accounts.clone(),
            };
            works.threads.push(Box::new(move || heart.run()));
        }
        let url = parsed(&webhook.url, &mut works.ports)?;
        let cursor = Cursor::new(&cursors(state_dir), &webhook.name);
        let delivery =
            Delivery::new(webhook, url, sender, cursor, source.clone(), accounts.clone())?;
        let tail = Arc::clone(tail);
        works.threads.push(Box::new(move || delivery.run(&tail)));
    }
    Ok(works)
}

/// A URL that was checked with the configuration; its port is one to connect to.
fn parsed(url: &str, ports: &mut Vec<u16>) -> Result<Uri, DeliverError> {
    let uri: Uri = url.parse().map_err(|_| DeliverError::NoErrand)?;
    let usual = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    ports.push(uri.port_u16().unwrap_or(usual));
    Ok(uri)
}

async fn hear(mut incoming: Incoming<Errand>, tail: &Tail) -> Result<(), DeliverError> {
    while let Some(errand) = incoming.next().await.map_err(DeliverError::Link)? {
        if let Some(What::Tail(now)) = errand.what {
            tail.set(now.seq);
        }
    }
    Ok(())
}

async fn say(
    mut outgoing: Outgoing<Account>,
    mut accounts: mpsc::Receiver<Account>,
) -> Result<(), DeliverError> {
    while let Some(account) = accounts.recv().await {
        outgoing.send(&account).await.map_err(DeliverError::Link)?;
    }
    Ok(())
}

/// Where the cursors of a log are.
fn cursors(state_dir: &Path) -> PathBuf {
    state_dir.join(CURSORS)
}
