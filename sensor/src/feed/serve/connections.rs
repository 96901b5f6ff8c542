//! Accepts connections, so many per client: the socket is open to all, and none may use it up.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use sensor_proto::internal::v1::Run;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use crate::feed::{runs, tls};

/// Connections that one client may have open, root excepted.
const PER_CLIENT: usize = 16;
/// … and all clients but root together: below the usual limit of 1,024 open files.
const ALL_CLIENTS: usize = 512;

/// Handshakes of one address, and of all, that are under way: who is not known yet gets less.
const HANDSHAKES_PER_ADDRESS: usize = 8;
const HANDSHAKES: usize = 64;
/// A handshake takes two round trips.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// After an accept that failed, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    User {
        uid: u32,
        gid: u32,
    },
    /// The names in its certificate, one at least.
    Certified(Arc<[String]>),
    /// The agent of a run.
    Run(Arc<Run>),
}

/// What connections and streams are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    User(u32),
    /// The first name in its certificate.
    Name(String),
    /// An investigation by its id.
    Run(String),
    /// Nobody yet.
    Address(IpAddr),
}

impl Caller {
    pub fn client(&self) -> Client {
        match self {
            Self::User { uid, .. } => Client::User(*uid),
            Self::Certified(names) => Client::Name(names.first().cloned().unwrap_or_default()),
            Self::Run(run) => Client::Run(run.investigation.clone()),
        }
    }
}

impl Client {
    pub const ROOT: Self = Self::User(0);
}

/// Counts what clients hold, until the ticket is dropped.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    per_client: usize,
    all: usize,
    held: Held,
}

type Held = Arc<Mutex<HashMap<Client, usize>>>;

impl Counter {
    pub fn new(per_client: usize, all: usize) -> Self {
        Self { per_client, all, held: Held::default() }
    }

    /// None when the client holds all that it may.
    pub fn take(&self, client: Client) -> Option<Ticket> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let others = held.iter().filter(|(other, _)| **other != Client::ROOT);
        let all: usize = others.map(|(_, count)| count).sum();
        let has = held.get(&client).copied().unwrap_or_default();
        if client != Client::ROOT && (has >= self.per_client || all >= self.all) {
            return None;
        }
        held.insert(client.clone(), has + 1);
        Some(Ticket { client, held: Arc::clone(&self.held) })
    }
}

#[derive(Debug)]
pub(super) struct Ticket {
    client: Client,
    held: Held,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.client);
            }
        }
    }
}

/// Connections that may stay; the others are closed at once.
pub(super) fn accept(
    listener: UnixListener,
    remote: Option<Remote>,
    runs: Option<AsyncFd<OwnedFd>>,
) -> impl Stream<Item = io::Result<Connection>> {
    let counter = Counter::new(PER_CLIENT, ALL_CLIENTS);
    let (sender, remotes) = mpsc::channel(1);
    if let Some(runs) = runs {
        tokio::spawn(admitted(runs, counter.clone(), sender.clone()));
    }
    if let Some(remote) = remote {
        tokio::spawn(remote.accept(counter.clone(), sender));
    }
    let local = UnixListenerStream::new(listener).filter_map(move |accepted| {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return Some(Err(error)),
        };
        // Without credentials nobody could be let in anyway.
        let peer = stream.peer_cred().ok()?;
        let caller = Caller::User { uid: peer.uid(), gid: peer.gid() };
        Connection::new(Either::Left(stream), caller, &counter).map(Ok)
    });
    local.merge(ReceiverStream::new(remotes).map(Ok))
}

/// Connections of agents, which core has let in, until it takes no more or nobody takes them.
async fn admitted(way: AsyncFd<OwnedFd>, counter: Counter, connections: mpsc::Sender<Connection>) {
    loop {
        let next = tokio::select! {
            next = way.async_io(Interest::READABLE, |way| runs::receive(way.as_fd())) => next,
            () = connections.closed() => return,
        };
        let (run, stream) = match next {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("a connection of an investigation was lost: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(stream) = UnixStream::from_std(stream) else { continue };
        let caller = Caller::Run(Arc::new(run));
        if let Some(connection) = Connection::new(Either::Left(stream), caller, &counter) {
            // Nobody takes it when the server is about to end.
            let _ = connections.send(connection).await;
        }
    }
}

/// Where clients on other hosts come in.
pub(super) struct Remote {
    pub listener: TcpListener,
    /// How TLS is spoken now; none: nobody is let in yet.
    pub tls: watch::Receiver<Option<Arc<ServerConfig>>>,
}

impl Remote {
    /// Until nobody takes connections any more.
    async fn accept(self, counter: Counter, connections: mpsc::Sender<Connection>) {
        let handshakes = Counter::new(HANDSHAKES_PER_ADDRESS, HANDSHAKES);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = connections.closed() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!("no connection could be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let tls = self.tls.borrow().clone();
            let (Some(tls), Some(ticket)) = (tls, handshakes.take(Client::Address(address.ip())))
            else {
                tracing::debug!("{address} was not let in");
                continue;
            };
            let (counter, connections) = (counter.clone(), connections.clone());
            tokio::spawn(async move {
                let result = tokio::time::timeout(HANDSHAKE, greet(stream, tls)).await;
                drop(ticket);
                let (stream, caller) = match result {
                    Ok(Ok(greeted)) => greeted,
                    Ok(Err(error)) => return tracing::debug!("{address}: {error}"),
                    Err(_) => return tracing::debug!("{address}: no handshake within 5 s"),
                };
                if let Some(connection) = Connection::new(stream, caller, &counter) {
                    // Nobody takes it when the server is about to end.
                    let _ = connections.send(connection).await;
                }
            });
        }
    }
}

type Io = Either<UnixStream, Box<TlsStream<TcpStream>>>;

async fn greet(stream: TcpStream, tls: Arc<ServerConfig>) -> io::Result<(Io, Caller)> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(tls).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let names = shown.map(tls::names).unwrap_or_default();
    if names.is_empty() {
        return Err(io::Error::other("its certificate has no DNS name and no URI"));
    }
    Ok((Either::Right(Box::new(stream)), Caller::Certified(names.into())))
}

/// A stream that is counted as long as it is open.
pub(super) struct Connection {
    stream: Io,
    caller: Caller,
    _ticket: Ticket,
}

impl Connection {
    /// None when the caller has too many.
    fn new(stream: Io, caller: Caller, counter: &Counter) -> Option<Self> {
        let Some(ticket) = counter.take(caller.client()) else {
            tracing::debug!("{caller:?} has too many connections; one more was closed");
            return None;
        };
        Some(Self { stream, caller, _ticket: ticket })
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_use_up_what_others_need() {
        let counter = Counter::new(2, 3);
        let take = |uid| counter.take(Client::User(uid));
        let mut tickets: Vec<_> = (0..2).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        tickets.push(counter.take(Client::Name("somebody.example".into())).unwrap());
        assert!(take(2).is_none(), "all clients together");
        for _ in 0..10 {
            tickets.push(take(0).unwrap());
        }
        tickets.remove(0);
        assert!(take(1).is_some(), "what is given back can be taken again");
    }
}
