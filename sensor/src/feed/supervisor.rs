//! Keeps a process of ours running: the same program under a hidden verb, as an unprivileged user, with
//! one end of a link as its standard input.

use std::{
    ffi::OsString,
    io,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    watch,
};

use crate::proto;

/// Before it is started again: at once after an accident, slowly when it cannot run at all.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_LAST: Duration = Duration::from_secs(10);
/// What lived so long was not broken from the start.
const RESTART_FORGET: Duration = Duration::from_mins(1);

/// How long it may take to end when it is told to.
const END: Duration = Duration::from_secs(2);

/// Handle of the thread; dropping it ends the process.
pub(super) struct Supervisor {
    verb: &'static str,
    state: watch::Receiver<proto::PartStatus>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Supervisor {
    /// Starts `program`, and again whenever it ends; `part` is what its state is called. Each time, our
    /// end of its link comes out of the channel.
    pub fn start(
        verb: &'static str,
        part: &'static str,
        program: impl Fn() -> io::Result<Command> + Send + 'static,
    ) -> io::Result<(Self, mpsc::Receiver<UnixStream>)> {
        let (stop, stopped) = UnixStream::pair()?;
        let starting = status(part, false, format!("{verb} is being started"));
        let (state_sender, state) = watch::channel(starting);
        let (streams, new_streams) = mpsc::channel(1);
        let watcher = Watcher { verb, part, program, stopped, streams, state: state_sender };
        let thread = thread::Builder::new().name(part.into()).spawn(move || watcher.run())?;
        Ok((Self { verb, state, stop: Some(stop.into()), thread: Some(thread) }, new_streams))
    }

    /// Whether it runs.
    pub fn state(&self) -> watch::Receiver<proto::PartStatus> {
        self.state.clone()
    }

    /// Ends the process, and waits for that.
    pub fn end(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks after `sensor {}` panicked", self.verb);
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Arguments of a process of ours that reads the log, as this user.
pub(super) fn arguments(verb: &str, state_dir: &Path, user: Option<(u32, u32)>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![verb.into(), "--state-dir".into(), state_dir.into()];
    if let Some((uid, gid)) = user {
        arguments
            .extend(["--uid", &uid.to_string(), "--gid", &gid.to_string()].map(OsString::from));
    }
    arguments
}

fn status(part: &str, ok: bool, detail: String) -> proto::PartStatus {
    proto::PartStatus { part: part.into(), ok, detail }
}

/// A thread of its own, because the kernel ends a child that asked for it when the *thread* that started
/// it does.
struct Watcher<P> {
    verb: &'static str,
    part: &'static str,
    program: P,
    stopped: UnixStream,
    streams: mpsc::Sender<UnixStream>,
    state: watch::Sender<proto::PartStatus>,
}

impl<P: Fn() -> io::Result<Command>> Watcher<P> {
    fn run(self) {
        let verb = self.verb;
        let mut pause = RESTART_FIRST;
        loop {
            let start = Instant::now();
            let why = match self.start() {
                Ok((mut child, ours, ours_too)) => {
                    tracing::debug!("{verb} runs as process {}", child.id());
                    self.state.send_replace(status(self.part, true, String::new()));
                    match self.streams.try_send(ours) {
                        Err(TrySendError::Closed(_)) => return self.end(&mut child, &ours_too),
                        Err(TrySendError::Full(_)) => {
                            self.end(&mut child, &ours_too);
                            "the daemon is still busy with the one before".to_owned()
                        }
                        Ok(()) if self.watch(&child) => return self.end(&mut child, &ours_too),
                        Ok(()) => match child.wait() {
                            Ok(status) => format!("{verb} ended ({status})"),
                            Err(error) => format!("{verb} cannot be waited for: {error}"),
                        },
                    }
                }
                Err(error) => format!("{verb} cannot be started: {error}"),
            };
            if start.elapsed() >= RESTART_FORGET {
                pause = RESTART_FIRST;
            }
            let why = format!("{why}; it is started again after {} ms", pause.as_millis());
            tracing::warn!("{why}");
            self.state.send_replace(status(self.part, false, why));
            if wait(&[&self.stopped.as_fd()], Some(pause))[0] {
                return;
            }
            pause = (pause * 2).min(RESTART_LAST);
        }
    }

    /// The child and, twice, our end of its link.
    fn start(&self) -> io::Result<(Child, UnixStream, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let ours_too = ours.try_clone()?;
        let child = (self.program)()?.stdin(OwnedFd::from(theirs)).spawn()?;
        Ok((child, ours, ours_too))
    }

    /// Until the child ends (false) or is to end (true).
    fn watch(&self, child: &Child) -> bool {
        match pidfd(child) {
            Ok(pidfd) => wait(&[&self.stopped.as_fd(), &pidfd.as_fd()], None)[0],
            // It is waited for all the same; the end of the link tells it to go.
            Err(_) => false,
        }
    }

    /// Closes the link, at which it should go by itself; if not, it is killed.
    fn end(&self, child: &mut Child, link: &UnixStream) {
        // Fails when it is closed already.
        let _ = link.shutdown(Shutdown::Both);
        let ended = pidfd(child).is_ok_and(|pidfd| wait(&[&pidfd.as_fd()], Some(END))[0]);
        if !ended && let Err(error) = child.kill() {
            tracing::warn!("{} (process {}) cannot be killed: {error}", self.verb, child.id());
        }
        if let Err(error) = child.wait() {
            tracing::warn!("{} cannot be waited for: {error}", self.verb);
        }
    }
}

/// Of a child that nobody has waited for.
pub(crate) fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?)
}

/// Which of them became readable (or were closed) within the limit.
fn wait(files: &[&BorrowedFd<'_>], limit: Option<Duration>) -> Vec<bool> {
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled: Vec<_> =
            files.iter().map(|file| PollFd::new(*file, PollFlags::IN)).collect();
        match poll(&mut polled, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return polled.iter().map(|file| !file.revents().is_empty()).collect(),
        }
    }
}
