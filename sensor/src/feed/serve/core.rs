//! `serve`'s end of the link: asks core, and hears from it how far the log goes, how its parts are, and how
//! to speak TLS.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use sensor_proto::internal::v1::{Ask, DamageSeen, Tell, Tls, ask, tell};
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot, watch},
};
use tonic::{Code, Status};

use crate::{
    feed::{
        access::Named,
        frames::{self, Incoming, Outgoing},
        tls::{self, Material},
    },
    proto,
};

/// Core freezes or kills a tree of thousands in well under this.
const ANSWER: Duration = Duration::from_secs(10);

/// Questions that wait to be sent.
const QUEUE: usize = 64;

/// Records that wait for a reader; one that is slower is told how many it missed.
const UNWRITTEN: usize = 1_024;

/// The part that is the log.
const RECORD: &str = "record";

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<tell::What>>>>;

#[derive(Clone)]
pub(super) struct Core {
    questions: mpsc::Sender<Ask>,
    pending: Pending,
    next: Arc<AtomicU64>,
    tail: watch::Receiver<u64>,
    health: watch::Receiver<Vec<proto::PartStatus>>,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    named: watch::Receiver<Arc<Named>>,
    unwritten: broadcast::Sender<Arc<proto::Record>>,
}

/// What core tells without being asked, for whom it may concern.
struct News {
    tail: watch::Sender<u64>,
    health: watch::Sender<Vec<proto::PartStatus>>,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    named: watch::Sender<Arc<Named>>,
    unwritten: broadcast::Sender<Arc<proto::Record>>,
}

impl Core {
    /// Starts to listen; the task ends when core closes the link or breaks it.
    pub fn start(link: UnixStream) -> (Self, tokio::task::JoinHandle<()>) {
        let (incoming, outgoing) = frames::split(link);
        let (questions, waiting) = mpsc::channel(QUEUE);
        let (tail_sender, tail) = watch::channel(0);
        let (health_sender, health) = watch::channel(Vec::new());
        let (tls_sender, tls) = watch::channel(None);
        let (named_sender, named) = watch::channel(Arc::default());
        let (unwritten, _) = broadcast::channel(UNWRITTEN);
        let news = News {
            tail: tail_sender,
            health: health_sender,
            tls: tls_sender,
            named: named_sender,
            unwritten: unwritten.clone(),
        };
        let pending = Pending::default();
        let hears = hear(incoming, Arc::clone(&pending), news);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = hears => {}
                () = say(outgoing, waiting) => {}
            }
        });
        let next = Arc::new(AtomicU64::new(1));
        (Self { questions, pending, next, tail, health, tls, named, unwritten }, task)
    }

    /// Records up to this number can be read.
    pub fn tail(&self) -> watch::Receiver<u64> {
        self.tail.clone()
    }

    pub fn health(&self) -> watch::Receiver<Vec<proto::PartStatus>> {
        self.health.clone()
    }

    /// Records as they come while the log cannot take them.
    pub fn unwritten(&self) -> broadcast::Receiver<Arc<proto::Record>> {
        self.unwritten.subscribe()
    }

    /// Whether the log has all that there is.
    pub fn log_works(&self) -> bool {
        self.health.borrow().iter().all(|part| part.ok || part.part != RECORD)
    }

    /// What was read of the log; `nothing` where it cannot be read and that is known: there is news all
    /// the same.
    pub fn read_or<T>(
        &self,
        read: Result<T, Status>,
        nothing: impl FnOnce() -> T,
    ) -> Result<T, Status> {
        match read {
            Err(status) if status.code() == Code::Unavailable && !self.log_works() => Ok(nothing()),
            read => read,
        }
    }

    /// Says that the log was found damaged. Core looks for itself, and nobody waits for an answer.
    pub fn damage_was_seen(&self) {
        let what = Some(ask::What::Damage(DamageSeen {}));
        // Where so much is asked that there is no room, the next reader says it again.
        let _ = self.questions.try_send(Ask { what, ..Ask::default() });
    }

    /// How TLS is spoken, as soon as core has said so.
    pub fn tls(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.tls.clone()
    }

    /// Names in certificates that may do something.
    pub fn named(&self) -> Arc<Named> {
        Arc::clone(&self.named.borrow())
    }

    /// Core's answer. Its id is chosen here.
    pub async fn ask(&self, mut ask: Ask) -> Result<tell::What, Status> {
        ask.id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        // Taken out again however this ends: the client may have gone.
        let _waiting = Waiting { id: ask.id, pending: &self.pending };
        lock(&self.pending).insert(ask.id, sender);
        let gone = || Status::unavailable("the daemon is going down; try again");
        let exchange = async {
            self.questions.send(ask).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        };
        match tokio::time::timeout(ANSWER, exchange).await {
            Err(_) => Err(Status::deadline_exceeded("the daemon did not answer within 10 s")),
            Ok(Ok(tell::What::Refusal(refusal))) => {
                Err(Status::new(Code::from_i32(refusal.code), refusal.why))
            }
            Ok(answer) => answer,
        }
    }
}

struct Waiting<'a> {
    id: u64,
    pending: &'a Pending,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.pending).remove(&self.id);
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<tell::What>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn hear(mut incoming: Incoming<Tell>, pending: Pending, news: News) {
    loop {
        let tell = match incoming.next().await {
            Ok(Some(tell)) => tell,
            Ok(None) => return,
            Err(error) => return tracing::error!("the link to core broke: {error}"),
        };
        match tell.what {
            Some(tell::What::Tail(now)) => {
                news.tail.send_replace(now.seq);
            }
            Some(tell::What::Health(now)) => {
                news.health.send_replace(now.parts);
            }
            Some(tell::What::Unwritten(record)) => {
                // Nobody may be following.
                let _ = news.unwritten.send(Arc::new(record));
            }
            Some(tell::What::Tls(now)) => {
                let Tls { certificate, key, client_ca, readers, operators } = now;
                news.named.send_replace(Arc::new(Named { readers, operators }));
                match tls::server(&Material { certificate, key, client_ca }) {
                    Ok(config) => drop(news.tls.send_replace(Some(config))),
                    // core has tried the same.
                    Err(error) => tracing::error!("TLS stays as it was: {error}"),
                }
            }
            Some(answer) => {
                if let Some(asker) = lock(&pending).remove(&tell.id) {
                    // The client may have gone in this moment.
                    let _ = asker.send(answer);
                }
            }
            None => {}
        }
    }
}

async fn say(mut outgoing: Outgoing<Ask>, mut questions: mpsc::Receiver<Ask>) {
    while let Some(ask) = questions.recv().await {
        if let Err(error) = outgoing.send(&ask).await {
            return tracing::error!("the link to core broke: {error}");
        }
    }
}
