//! Where the agent of a run comes in: a socket in the run's scratch directory, for that agent alone.
//!
//! core makes the socket and takes the connections, for it may look at whoever connects: the kernel
//! says which user and which process that is, and `/proc` in which cgroup. It reads nothing from
//! them. Who is admitted is handed to `serve` with the name of its run; `serve` answers about that
//! run's incident and nothing else. There is no token that could leak: outside of the run's cgroup
//! the socket is of no use, also to the same user. When the run ends, so do its connections.

use std::{
    fs::{self, Permissions},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{PermissionsExt as _, lchown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use prost::Message as _;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg,
        shutdown, socketpair,
        sockopt::{set_socket_send_buffer_size, socket_peercred},
    },
    process::{PidfdFlags, pidfd_open},
};
pub use sensor_proto::internal::v1::Run;

use crate::cgroup::Hierarchies;

/// Name of the socket in a run's scratch directory.
pub const SOCKET: &str = "sensor.sock";

/// Connections that a run may have open: its program, and what that starts.
const OPEN: usize = 16;

/// Between two connections: a look at `/proc` for each is cheap, but not for nothing.
const PACE: Duration = Duration::from_millis(10);

/// Longest name of a run, bytes: an investigation's id and an incident's.
const NAME: usize = 128;

/// Where connections go: to whichever `serve` runs now.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<Way>>);

#[derive(Debug, Default)]
struct Way {
    serve: Option<OwnedFd>,
    /// Connections that it was given. They do not end with it by themselves: a run's door has a copy of each.
    passed: Vec<Weak<UnixStream>>,
}

/// Who may come in.
#[derive(Clone, Debug)]
pub struct Guest {
    pub run: Run,
    pub uid: u32,
    pub gid: u32,
    /// v2 path of the run's group.
    pub group: PathBuf,
}

/// A socket that is open. Dropping it ends it, with all connections that came through it.
#[derive(Debug)]
pub struct Door {
    stop: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Doors {
    /// For the next `serve`: its end of the way on which connections come. To be called as it is started.
    /// Connections that the last one had end, so that nobody waits for its answers; they may come again.
    pub(super) fn renew(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // Some connections on their way are enough: each is of a run.
        set_socket_send_buffer_size(&ours, 16 << 10)?;
        let next = Way { serve: Some(ours), passed: Vec::new() };
        let last = std::mem::replace(&mut *self.way(), next);
        last.passed.iter().filter_map(Weak::upgrade).for_each(|stream| end(&stream));
        Ok(theirs)
    }

    /// Makes the socket in `scratch`, where nobody else can change anything yet, and lets in who is the guest, until
    /// the door is dropped.
    pub fn open(&self, scratch: &Path, guest: Guest, hierarchies: Hierarchies) -> io::Result<Door> {
        let path = scratch.join(SOCKET);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        if rustix::process::geteuid().is_root() {
            lchown(&path, Some(guest.uid), Some(guest.gid))?;
        }
        listener.set_nonblocking(true)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let keeper = Keeper {
            doors: self.clone(),
            guest,
            hierarchies,
            listener,
            stop: Arc::clone(&stop),
            inside: Vec::new(),
        };
        let thread = thread::Builder::new().name("run-door".into()).spawn(move || keeper.keep())?;
        Ok(Door { stop, thread: Some(thread) })
    }

    /// Hands a connection to `serve`.
    fn pass(&self, run: &Run, stream: &Arc<UnixStream>) -> io::Result<()> {
        let mut way = self.way();
        let serve = way.serve.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        send(serve.as_fd(), run, stream.as_fd())?;
        way.passed.retain(|stream| stream.strong_count() > 0);
        way.passed.push(Arc::downgrade(stream));
        Ok(())
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Fails only when the counter is full: it has been told before.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread at a run's door panicked");
        }
    }
}

struct Keeper {
    doors: Doors,
    guest: Guest,
    hierarchies: Hierarchies,
    listener: UnixListener,
    stop: Arc<OwnedFd>,
    /// A copy of each connection, by which it is ended.
    inside: Vec<Arc<UnixStream>>,
}

impl Keeper {
    fn keep(mut self) {
        while self.wait() {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(why) = self.admit(stream) {
                        let run = &self.guest.run.investigation;
                        tracing::warn!("somebody was not let in to investigation {run}: {why}");
                    }
                    thread::sleep(PACE);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!("no connection could be accepted: {error}");
                    thread::sleep(PACE * 10);
                }
            }
        }
        self.inside.iter().for_each(|stream| end(stream));
    }

    /// Until somebody knocks (true) or the run is over.
    fn wait(&self) -> bool {
        loop {
            let mut files = [
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            match poll(&mut files, None) {
                Ok(_) => return files[0].revents().is_empty(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) -> io::Result<()> {
        check(&self.guest, &self.hierarchies, stream.as_fd())?;
        self.inside.retain(|stream| is_open(stream));
        if self.inside.len() >= OPEN {
            return Err(io::Error::other(format!("it has {OPEN} connections open")));
        }
        let stream = Arc::new(stream);
        self.doors.pass(&self.guest.run, &stream)?;
        self.inside.push(stream);
        Ok(())
    }
}

/// Whether its peer is the agent: the run's user, and in the run's cgroup.
fn check(guest: &Guest, hierarchies: &Hierarchies, stream: BorrowedFd<'_>) -> io::Result<()> {
    let peer = socket_peercred(stream)?;
    if peer.uid.as_raw() != guest.uid {
        return Err(io::Error::other(format!("it is uid {}", peer.uid.as_raw())));
    }
    // Held while it is looked at, so that its pid is nobody else's then.
    let held = pidfd_open(peer.pid, PidfdFlags::empty())?;
    let group = hierarchies.path_of(peer.pid.as_raw_nonzero().get() as u32)?;
    let mut ended = [PollFd::new(&held, PollFlags::IN)];
    if poll(&mut ended, Some(&Timespec::default()))? > 0 {
        return Err(io::Error::other("whoever connected is gone"));
    }
    if group.starts_with(&guest.group) {
        Ok(())
    } else {
        Err(io::Error::other(format!("it is in the cgroup {}", group.display())))
    }
}

/// For whoever has a copy of it.
fn end(stream: &UnixStream) {
    // Fails where it is closed already.
    let _ = shutdown(stream, Shutdown::Both);
}

fn is_open(stream: &UnixStream) -> bool {
    let mut files = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut files, Some(&Timespec::default())).is_ok()
        && !files[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn send(to: BorrowedFd<'_>, run: &Run, stream: BorrowedFd<'_>) -> io::Result<()> {
    let name = run.encode_to_vec();
    let streams = [stream];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if name.len() > NAME || !beside.push(SendAncillaryMessage::ScmRights(&streams)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(&name)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next connection and whose it is; `None`: core has closed the way.
pub(super) fn receive(from: BorrowedFd<'_>) -> io::Result<Option<(Run, UnixStream)>> {
    let mut name = [0; NAME];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut name)];
    let received = recvmsg(from, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let stream = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut streams) => streams.next(),
        _ => None,
    });
    if received.bytes == 0 && stream.is_none() {
        return Ok(None);
    }
    let run = Run::decode(&name[..received.bytes]).map_err(io::Error::other)?;
    let stream = stream.ok_or_else(|| io::Error::other("no connection beside its name"))?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    Ok(Some((run, stream)))
}

#[cfg(test)]
mod tests;
