//! The guardian: a process of its own that holds the dead-man's timers. It thaws what was frozen in
//! time, whether core lives or not, and holds the kernel side's descriptors until then, so that the
//! brake outlives core as well.
//!
//! Core's end is [`Guardian`]; the process itself is [`run`]. A core that was killed leaves its
//! guardian behind; the next core finds it as [`Predecessor`], arms a guardian of its own with what
//! it hears, and only then tells the old one to leave: at no time nobody guards.

pub(crate) mod frame;
mod run;
mod watch;

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};
use sensor_proto::internal::v1::{Alive, Arm, Claim, Disarm, Estate, Order, Report, order::What};

pub use self::run::{GuardianArgs, run};
use self::{
    frame::{Inbox, send},
    watch::Watch,
};

/// What is wrong with the guardian.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    #[error("the guardian cannot start: {0}")]
    Start(io::Error),
    #[error("the guardian cannot listen on {path}: {source}", path = .path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("the guardian cannot wait: {0}")]
    Wait(io::Error),
    #[error("the guardian at {path} does not answer: {source}", path = .path.display())]
    Silent { path: PathBuf, source: io::Error },
    #[error("another sensor is running here ({path}: {why}): stop it first", path = .path.display())]
    Taken { path: PathBuf, why: String },
}

/// How core starts its guardian.
#[derive(Debug)]
pub struct Launch {
    /// Program and first arguments; [`GuardianArgs`] follow.
    pub command: Vec<OsString>,
    /// What the guardian holds open for the kernel side.
    pub keep: Vec<OwnedFd>,
    /// Where a later core finds it.
    pub socket: PathBuf,
}

impl Launch {
    /// This program's own subcommand.
    pub fn new(keep: Vec<OwnedFd>, runtime_dir: &Path) -> Self {
        Self {
            command: vec!["/proc/self/exe".into(), "guardian".into()],
            keep,
            socket: socket(runtime_dir),
        }
    }
}

/// Where guardians of a daemon with this runtime directory listen.
pub fn socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("guardian.sock")
}

/// What core hears of its guardian.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Report(Report),
    /// It is gone; another one is on its way.
    Died {
        why: String,
    },
    /// Another one guards, with everything that was armed.
    Restarted {
        pid: u32,
    },
}

/// An order that the guardian does not take within this time makes it a dead one.
const ORDER_PATIENCE: Duration = Duration::from_millis(500);

/// Between attempts to start it again: at once, then with patience.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a guardian that ended its link may take to end itself.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// A new core tries this long to hear from an old guardian; an old core that was killed with much
/// memory needs a moment until its link is closed.
const SUCCESSION_PATIENCE: Duration = Duration::from_secs(3);

/// Core's guardian. Dropping it ends the link: the guardian leaves as soon as nothing is armed.
#[derive(Debug)]
pub struct Guardian {
    shared: Arc<Mutex<Shared>>,
    supervisor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What a guardian that is started anew must be told.
    watch: Watch,
    /// `None`: none runs just now.
    link: Option<UnixStream>,
    pid: u32,
    /// Core wants no guardian any more.
    over: bool,
}

impl Guardian {
    /// Starts it, and again whenever it dies. `events` hears of it.
    pub fn start(launch: Launch, events: Sender<Event>) -> Result<Self, GuardianError> {
        let (child, link) = spawn(&launch)?;
        let reader = link.try_clone().map_err(GuardianError::Start)?;
        let shared = Shared { link: Some(link), pid: child.id(), ..Shared::default() };
        let shared = Arc::new(Mutex::new(shared));
        let supervisor = Supervisor { launch, events, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new()
            .name("guardian".to_owned())
            .spawn(move || supervisor.run(child, reader))
            .map_err(GuardianError::Start)?;
        Ok(Self { shared, supervisor: Some(thread) })
    }

    /// Gives an order; when this returns, the order is with the guardian even if core dies. False:
    /// none runs just now; the next one gets it.
    pub fn arm(&self, arm: Arm) -> bool {
        let mut shared = lock(&self.shared);
        shared.watch.arm(arm.clone());
        shared.order(What::Arm(arm))
    }

    /// The incident's containment is over.
    pub fn disarm(&self, incident: &str) -> bool {
        let mut shared = lock(&self.shared);
        shared.watch.disarm(incident);
        shared.order(What::Disarm(Disarm { incident: incident.to_owned() }))
    }

    /// Asks for nothing but that the guardian takes it; false: none runs just now.
    pub fn ping(&self) -> bool {
        lock(&self.shared).order(What::Alive(Alive {}))
    }

    pub fn pid(&self) -> u32 {
        lock(&self.shared).pid
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.over = true;
        shared.hang_up();
        drop(shared);
        if let Some(thread) = self.supervisor.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The lock is held while it is written: orders keep their order, and each is one short write
    /// with a deadline.
    fn order(&mut self, what: What) -> bool {
        let Some(link) = &self.link else { return false };
        let given = send(link, &Order { what: Some(what) }).is_ok();
        if !given {
            // Half an order may be under way: nothing can follow it.
            self.hang_up();
        }
        given
    }

    fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            let _ = link.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears the guardian, and starts the next one.
struct Supervisor {
    launch: Launch,
    events: Sender<Event>,
    shared: Arc<Mutex<Shared>>,
}

impl Supervisor {
    fn run(self, mut child: Child, mut reader: UnixStream) {
        // Those that still guard something after they were hung up on.
        let mut former: Vec<Child> = Vec::new();
        loop {
            self.hear(&mut reader);
            if lock(&self.shared).over {
                // One that guards nothing is about to leave; another one stays, on purpose.
                let _ = last_words(&mut child);
                return;
            }
            lock(&self.shared).hang_up();
            let _ = self.events.send(Event::Died { why: last_words(&mut child) });
            former.push(child);
            former.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            let Some(next) = self.restart() else { return };
            (child, reader) = next;
        }
    }

    /// Passes reports on until the link ends.
    fn hear(&self, reader: &mut UnixStream) {
        let mut inbox = Inbox::default();
        let mut buffer = [0_u8; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => inbox.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            loop {
                match inbox.next::<Report>() {
                    Ok(None) => break,
                    Ok(Some(report)) => {
                        if report.released {
                            lock(&self.shared).watch.disarm(&report.incident);
                        }
                        let _ = self.events.send(Event::Report(report));
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// `None`: core wants none any more.
    fn restart(&self) -> Option<(Child, UnixStream)> {
        let mut pause = FIRST_PAUSE;
        loop {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if lock(&self.shared).over {
                return None;
            }
            let started = spawn(&self.launch).and_then(|(child, link)| {
                Ok((child, link.try_clone().map_err(GuardianError::Start)?, link))
            });
            let (child, reader, link) = match started {
                Ok(started) => started,
                Err(error) => {
                    tracing::error!(%error, "no guardian: what is frozen is not thawed in time");
                    continue;
                }
            };
            let mut shared = lock(&self.shared);
            shared.link = Some(link);
            shared.pid = child.id();
            let armed: Vec<Arm> = shared.watch.armed().cloned().collect();
            if armed.into_iter().all(|arm| shared.order(What::Arm(arm))) {
                drop(shared);
                let _ = self.events.send(Event::Restarted { pid: child.id() });
            }
            return Some((child, reader));
        }
    }
}

/// How a guardian ended, if it did.
fn last_words(child: &mut Child) -> String {
    let end = Instant::now() + LAST_BREATH;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return format!("the guardian ended: {status}"),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            _ => return "the guardian ended its link to core".to_owned(),
        }
    }
}

fn spawn(launch: &Launch) -> Result<(Child, UnixStream), GuardianError> {
    let (ours, theirs) = UnixStream::pair().map_err(GuardianError::Start)?;
    ours.set_write_timeout(Some(ORDER_PATIENCE)).map_err(GuardianError::Start)?;
    let (program, first) = launch
        .command
        .split_first()
        .ok_or_else(|| GuardianError::Start(io::Error::other("no command")))?;
    let listener = listen(&launch.socket)?;
    let keep: Vec<RawFd> = launch.keep.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(program);
    command.args(first);
    command.arg("--link").arg(theirs.as_raw_fd().to_string());
    command.arg("--listen").arg(listener.as_raw_fd().to_string());
    if !keep.is_empty() {
        let list: Vec<String> = keep.iter().map(ToString::to_string).collect();
        command.arg("--keep").arg(list.join(","));
    }
    // Its output is its log; core's own standard output may end before it does.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let inherited: Vec<RawFd> =
        keep.into_iter().chain([theirs.as_raw_fd(), listener.as_raw_fd()]).collect();
    let mut deaf = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGQUIT] {
        deaf.add(signal);
    }
    // SAFETY: between fork and exec only async-signal-safe calls (setsid, sigmask, fcntl), without
    // allocation; the descriptors are open in the parent and so in its child.
    unsafe {
        command.pre_exec(move || {
            // Neither a terminal nor a service manager ends it, from its first moment on: a freeze
            // without a guardian lasts for ever. A blocked signal stays blocked across exec.
            rustix::process::setsid()?;
            deaf.thread_block()?;
            for fd in &inherited {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(GuardianError::Start)?;
    Ok((child, ours))
}

/// Takes the place of the socket that an earlier guardian left or still listens on: those who are
/// connected to it stay so. Opened before the guardian runs, so that it is found from its birth on.
fn listen(socket: &Path) -> Result<UnixListener, GuardianError> {
    let failed = |source| GuardianError::Socket { path: socket.to_owned(), source };
    let fresh = socket.with_extension(std::process::id().to_string());
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    fs::rename(&fresh, socket).map_err(failed)?;
    Ok(listener)
}

/// The guardian that a killed core left behind, still guarding.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    path: PathBuf,
    armed: Vec<Arm>,
}

impl Predecessor {
    /// Asks whether there is one, before a new guardian takes its place at the socket. `Taken`: its
    /// core lives.
    pub fn find(runtime_dir: &Path) -> Result<Option<Self>, GuardianError> {
        let path = socket(runtime_dir);
        let end = Instant::now() + SUCCESSION_PATIENCE;
        loop {
            let failed = |source| GuardianError::Silent { path: path.clone(), source };
            let stream = match UnixStream::connect(&path) {
                Ok(stream) => stream,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(failed(error)),
            };
            stream.set_read_timeout(Some(SUCCESSION_PATIENCE)).map_err(failed)?;
            // It may leave between our connect and our question: ask again, then nobody is there.
            let estate = send(&stream, &Claim { leave: false }).and_then(|()| receive(&stream));
            match estate {
                Ok(estate) if estate.refused.is_empty() => {
                    return Ok(Some(Self { stream, path, armed: estate.armed }));
                }
                Ok(estate) if Instant::now() > end => {
                    return Err(GuardianError::Taken { path, why: estate.refused });
                }
                Err(error) if Instant::now() > end => return Err(failed(error)),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// What it guards, with the processes that carry the marks now.
    pub fn armed(&self) -> &[Arm] {
        &self.armed
    }

    /// Tells it to leave, and waits until it has. Arm a new guardian first.
    pub fn dismiss(self) -> Result<(), GuardianError> {
        let failed = |source| GuardianError::Silent { path: self.path.clone(), source };
        send(&self.stream, &Claim { leave: true }).map_err(failed)?;
        match (&self.stream).read(&mut [0_u8; 1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(failed(io::ErrorKind::InvalidData.into())),
            Err(error) => Err(failed(error)),
        }
    }
}

fn receive(mut stream: &UnixStream) -> io::Result<Estate> {
    let mut inbox = Inbox::default();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match inbox.next() {
            Ok(Some(estate)) => return Ok(estate),
            Ok(None) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => inbox.push(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests;
