//! Core's end of the feed: makes the sockets, keeps `sensor serve` running as an unprivileged user,
//! and hands its questions to core, checked.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use sensor_proto::internal::v1::{Ask, Health, Refusal, Tail, Tell, Tls, tell};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tonic::Code;

use super::{
    access::{self, Named, Refused, Roles},
    frames,
    runs::Doors,
    serve::{RUNS, TCP_LISTENER, groups::GroupCache},
    supervisor::{self, Supervisor},
    tls::{self, Files, Material, TlsError},
};
use crate::proto;

/// Questions that core may have before it at once; more wait in the socket.
const QUESTIONS_MAX: usize = 64;

/// How often certificates are looked at for a change: nobody waits for it, they are renewed days before
/// they expire.
const RELOAD: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("another sensor answers at {0}: stop it, or choose another runtime_dir")]
    Taken(PathBuf),
    #[error("{0} exists and is no socket: move it away, or choose another runtime_dir")]
    NoSocket(PathBuf),
    #[error("cannot make the socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address} (feed.tcp.listen): {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot start the thread that looks after `sensor serve`: {0}")]
    Supervisor(io::Error),
}

#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// The program that has the verb `serve`.
    pub program: PathBuf,
    /// Socket that clients connect to.
    pub socket: PathBuf,
    /// Directory of the log, which `serve` reads.
    pub state_dir: PathBuf,
    /// (uid, gid) that `serve` becomes; none when core is not root, and `serve` stays what it is.
    pub user: Option<(u32, u32)>,
    /// Where clients on other hosts connect; none: nowhere.
    pub tcp: Option<Tcp>,
    /// Records up to this number can be read.
    pub tail: watch::Receiver<u64>,
    /// Records that the log cannot take now.
    pub unwritten: broadcast::Sender<Arc<proto::Record>>,
    /// Where the agents of investigations come in.
    pub doors: Doors,
}

/// For clients on other hosts.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub listen: SocketAddr,
    pub files: Files,
    pub named: Named,
}

/// What `serve` is told without asking; each new one is told the newest.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// Records up to this number can be read.
    pub tail: watch::Receiver<u64>,
    pub parts: watch::Sender<Vec<proto::PartStatus>>,
    pub tls: watch::Sender<Option<Tls>>,
    /// Records that the log cannot take now.
    pub unwritten: broadcast::Sender<Arc<proto::Record>>,
}

impl News {
    pub fn new(
        tail: watch::Receiver<u64>,
        unwritten: broadcast::Sender<Arc<proto::Record>>,
    ) -> Self {
        let (parts, tls) = (watch::Sender::default(), watch::Sender::default());
        Self { tail, parts, tls, unwritten }
    }
}

/// Something that core is asked; the asker was checked.
#[derive(Debug)]
pub struct Question {
    pub ask: Ask,
    pub reply: Reply,
}

/// The way back. Dropped without an answer, the asker is told that core has none.
#[derive(Debug)]
pub struct Reply {
    id: u64,
    replies: mpsc::Sender<Tell>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reply {
    pub fn send(mut self, what: tell::What) {
        self.answer(what);
    }

    /// Refuses with a gRPC status and one sentence.
    pub fn refuse(self, code: Code, why: impl Into<String>) {
        self.send(refusal(code, why));
    }

    fn answer(&mut self, what: tell::What) {
        if let Some(permit) = self.permit.take() {
            // There is room for as many answers as there are permits; without a reader it
            // matters to nobody.
            let _ = self.replies.try_send(Tell { id: self.id, what: Some(what) });
            drop(permit);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(refusal(Code::Internal, "the daemon has no answer to this request"));
    }
}

fn refusal(code: Code, why: impl Into<String>) -> tell::What {
    tell::What::Refusal(Refusal { code: code as i32, why: why.into() })
}

/// Handle of the feed; dropping it ends `serve`.
pub struct Link {
    socket: PathBuf,
    news: News,
    supervisor: Supervisor,
    /// The talk with `serve`, and the look at certificates.
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Link {
    /// Makes the socket and starts `serve`. To be called inside a tokio runtime.
    pub fn start(options: LinkOptions) -> Result<(Self, mpsc::Receiver<Question>), LinkError> {
        let mut arguments = supervisor::arguments("serve", &options.state_dir, options.user);
        let remote = match &options.tcp {
            None => None,
            Some(tcp) => {
                // Both are the administrator's mistakes, and told before anything is started.
                let stamp = tcp.files.stamp();
                let first = known(tcp.files.read()?, &tcp.named)?;
                let failed = |source| LinkError::Listen { address: tcp.listen, source };
                arguments.push("--tcp".into());
                Some((TcpListener::bind(tcp.listen).map_err(failed)?, stamp, first))
            }
        };
        let (listener, tls) = match remote {
            None => (None, None),
            Some((listener, stamp, first)) => (Some(OwnedFd::from(listener)), Some((stamp, first))),
        };
        let named = options.tcp.as_ref().map(|tcp| Arc::new(tcp.named.clone())).unwrap_or_default();
        arguments.push("--runs".into());
        let doors = options.doors.clone();
        let program = move || {
            let mut command = Command::new(&options.program);
            command.args(&arguments);
            let mut given = vec![FdMapping { parent_fd: doors.renew()?, child_fd: RUNS }];
            if let Some(listener) = &listener {
                given.push(FdMapping { parent_fd: listener.try_clone()?, child_fd: TCP_LISTENER });
            }
            command.fd_mappings(given).map_err(io::Error::other)?;
            Ok(command)
        };
        let news = News::new(options.tail, options.unwritten);
        let (mut link, questions) = Self::start_with(&options.socket, named, news, program)?;
        if let (Some(tcp), Some((stamp, first))) = (options.tcp, tls) {
            link.news.tls.send_replace(Some(first));
            link.tasks.push(tokio::spawn(renew(tcp, stamp, link.news.tls.clone())));
        }
        Ok((link, questions))
    }

    /// `program` gets one end of the link as its standard input and the listener as its standard
    /// output.
    pub(super) fn start_with(
        socket: &Path,
        named: Arc<Named>,
        news: News,
        program: impl Fn() -> io::Result<Command> + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Question>), LinkError> {
        let listener = listen(socket)?;
        let program = move || {
            let mut command = program()?;
            command.stdout(OwnedFd::from(listener.try_clone()?));
            Ok(command)
        };
        let (supervisor, new_streams) =
            Supervisor::start("serve", "feed", program).map_err(LinkError::Supervisor)?;
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let groups = GroupCache::new(rustix::process::geteuid().as_raw());
        let talk = tokio::spawn(talk(new_streams, news.clone(), questions, groups, named));
        let link = Self { socket: socket.to_owned(), news, supervisor, tasks: vec![talk] };
        Ok((link, asked))
    }

    /// State of all parts, for the health service.
    pub fn set_health(&self, parts: Vec<proto::PartStatus>) {
        self.news.parts.send_if_modified(|known| {
            let changed = *known != parts;
            *known = parts;
            changed
        });
    }

    /// State of the feed itself.
    pub fn state(&self) -> watch::Receiver<proto::PartStatus> {
        self.supervisor.state()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.supervisor.end();
        // Clients then see that there is no daemon, instead of one that does not answer.
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::warn!("cannot remove {}: {error}", self.socket.display());
        }
    }
}

/// Makes the socket, open to all users: who may do what is decided per request. A socket that
/// nobody answers at is left over from a daemon that died, and is replaced.
pub fn listen(path: &Path) -> Result<UnixListener, LinkError> {
    let failed = |source| LinkError::Socket { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(LinkError::NoSocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(LinkError::Taken(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Talks with one `serve` after another.
pub(super) async fn talk(
    mut streams: mpsc::Receiver<UnixStream>,
    news: News,
    questions: mpsc::Sender<Question>,
    groups: GroupCache,
    named: Arc<Named>,
) {
    let roles = || Roles { groups: groups.get(), named: Arc::clone(&named) };
    while let Some(stream) = streams.recv().await {
        let stream =
            stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
        let (incoming, outgoing) = match stream {
            Ok(stream) => frames::split(stream),
            Err(error) => {
                tracing::error!("the link to serve cannot be used: {error}");
                continue;
            }
        };
        let (replies, waiting) = mpsc::channel(QUESTIONS_MAX);
        // Whichever ends first, the link is closed, `serve` ends and a new one comes.
        let result = tokio::select! {
            result = hear(incoming, replies, &questions, &roles) => result,
            result = say(outgoing, waiting, &news) => result,
        };
        if let Err(error) = result {
            tracing::warn!("the link to serve broke: {error}");
        }
    }
}

async fn hear(
    mut incoming: frames::Incoming<Ask>,
    replies: mpsc::Sender<Tell>,
    questions: &mpsc::Sender<Question>,
    roles: &impl Fn() -> Roles,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(QUESTIONS_MAX));
    while let Some(ask) = incoming.next().await? {
        let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
        let reply = Reply { id: ask.id, replies: replies.clone(), permit: Some(permit) };
        match access::admit(&ask, &roles()) {
            Ok(()) => {
                // Core is going down when it takes no more; the reply then says so.
                let _ = questions.send(Question { ask, reply }).await;
            }
            Err(refused) => reply.refuse(code(&refused), refused.to_string()),
        }
    }
    Ok(())
}

/// The gRPC status of a refusal.
pub(super) fn code(refused: &Refused) -> Code {
    match refused {
        Refused::Role { .. } | Refused::Name { .. } | Refused::Run => Code::PermissionDenied,
        Refused::Request(_) => Code::InvalidArgument,
    }
}

async fn say(
    mut outgoing: frames::Outgoing<Tell>,
    mut replies: mpsc::Receiver<Tell>,
    news: &News,
) -> io::Result<()> {
    let (mut tail, mut parts) = (news.tail.clone(), news.parts.subscribe());
    let mut tls = news.tls.subscribe();
    let mut unwritten = news.unwritten.subscribe();
    tail.mark_changed();
    parts.mark_changed();
    tls.mark_changed();
    loop {
        let tell = tokio::select! {
            Some(reply) = replies.recv() => reply,
            Ok(()) = tail.changed() => {
                let seq = *tail.borrow_and_update();
                Tell { id: 0, what: Some(tell::What::Tail(Tail { seq })) }
            }
            Ok(()) = parts.changed() => {
                let parts = parts.borrow_and_update().clone();
                Tell { id: 0, what: Some(tell::What::Health(Health { parts })) }
            }
            record = unwritten.recv() => match record {
                Ok(record) => {
                    let record = Arc::unwrap_or_clone(record);
                    Tell { id: 0, what: Some(tell::What::Unwritten(record)) }
                }
                // They come later, by the log, unless that loses them; then it says so.
                Err(_) => continue,
            },
            Ok(()) = tls.changed() => match tls.borrow_and_update().clone() {
                Some(tls) => Tell { id: 0, what: Some(tell::What::Tls(tls)) },
                None => continue,
            },
            else => return Ok(()),
        };
        outgoing.send(&tell).await?;
    }
}

/// What `serve` is told, if TLS can be spoken with it.
fn known(material: Material, named: &Named) -> Result<Tls, TlsError> {
    tls::server(&material)?;
    let Material { certificate, key, client_ca } = material;
    let Named { readers, operators } = named.clone();
    Ok(Tls { certificate, key, client_ca, readers, operators })
}

/// Tells of new certificates as they come. Those that are of no use are not taken: what was there stays.
async fn renew(tcp: Tcp, mut stamp: tls::Stamp, news: watch::Sender<Option<Tls>>) {
    let tcp = Arc::new(tcp);
    loop {
        tokio::time::sleep(RELOAD).await;
        let files = Arc::clone(&tcp);
        let look = move || {
            let now = files.files.stamp();
            let changed = now != stamp;
            (now, changed.then(|| files.files.read().and_then(|read| known(read, &files.named))))
        };
        let Ok((now, found)) = tokio::task::spawn_blocking(look).await else { return };
        stamp = now;
        match found {
            None => {}
            Some(Ok(found)) => {
                tracing::info!("TLS has a new certificate, key or authority");
                news.send_replace(Some(found));
            }
            Some(Err(error)) => tracing::warn!("TLS stays as it was: {error}"),
        }
    }
}
