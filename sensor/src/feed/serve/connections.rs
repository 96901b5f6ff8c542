//! Accepts connections, so many per user: the socket is open to all, and none may use it up.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::transport::server::{Connected, UdsConnectInfo};

/// Connections that one user may have open, root excepted.
const PER_USER: usize = 16;
/// … and all users but root together: below the usual limit of 1,024 open files.
const ALL_USERS: usize = 512;

/// Counts what users hold, until the ticket is dropped.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    per_user: usize,
    all: usize,
    held: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Counter {
    pub fn new(per_user: usize, all: usize) -> Self {
        Self { per_user, all, held: Arc::default() }
    }

    /// None when the user holds all that it may.
    pub fn take(&self, uid: u32) -> Option<Ticket> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = held.iter().filter(|(user, _)| **user != 0).map(|(_, count)| count).sum();
        let count = held.entry(uid).or_default();
        if uid != 0 && (*count >= self.per_user || all >= self.all) {
            return None;
        }
        *count += 1;
        Some(Ticket { uid, held: Arc::clone(&self.held) })
    }
}

#[derive(Debug)]
pub(super) struct Ticket {
    uid: u32,
    held: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

/// Connections that may stay; the others are closed at once.
pub(super) fn accept(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    let counter = Counter::new(PER_USER, ALL_USERS);
    UnixListenerStream::new(listener).filter_map(move |accepted| {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return Some(Err(error)),
        };
        // Without credentials nobody could be let in anyway.
        let uid = stream.peer_cred().ok()?.uid();
        let Some(ticket) = counter.take(uid) else {
            tracing::debug!("uid {uid} has too many connections; one more was closed");
            return None;
        };
        Some(Ok(Connection { stream, _ticket: ticket }))
    })
}

/// A stream that is counted as long as it is open.
pub(super) struct Connection {
    stream: UnixStream,
    _ticket: Ticket,
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
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
    fn one_user_cannot_use_up_what_others_need() {
        let counter = Counter::new(2, 3);
        let mut tickets: Vec<_> = (0..2).map(|_| counter.take(1).unwrap()).collect();
        assert!(counter.take(1).is_none());
        tickets.push(counter.take(2).unwrap());
        assert!(counter.take(2).is_none(), "all users together");
        for _ in 0..10 {
            tickets.push(counter.take(0).unwrap());
        }
        tickets.remove(0);
        assert!(counter.take(1).is_some(), "what is given back can be taken again");
    }
}
