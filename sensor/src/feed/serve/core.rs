//! `serve`'s end of the link: asks core, and hears from it how far the log goes and how its parts are.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sensor_proto::internal::v1::{Ask, Tell, tell};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};
use tonic::{Code, Status};

use crate::{
    feed::frames::{self, Incoming, Outgoing},
    proto,
};

/// Core freezes or kills a tree of thousands in well under this.
const ANSWER: Duration = Duration::from_secs(10);

/// Questions that wait to be sent.
const QUEUE: usize = 64;

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<tell::What>>>>;

#[derive(Clone)]
pub(super) struct Core {
    questions: mpsc::Sender<Ask>,
    pending: Pending,
    next: Arc<AtomicU64>,
    tail: watch::Receiver<u64>,
    health: watch::Receiver<Vec<proto::PartStatus>>,
}

impl Core {
    /// Starts to listen; the task ends when core closes the link or breaks it.
    pub fn start(link: UnixStream) -> (Self, tokio::task::JoinHandle<()>) {
        let (incoming, outgoing) = frames::split(link);
        let (questions, waiting) = mpsc::channel(QUEUE);
        let (tail_sender, tail) = watch::channel(0);
        let (health_sender, health) = watch::channel(Vec::new());
        let pending = Pending::default();
        let hears = hear(incoming, Arc::clone(&pending), tail_sender, health_sender);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = hears => {}
                () = say(outgoing, waiting) => {}
            }
        });
        let next = Arc::new(AtomicU64::new(1));
        (Self { questions, pending, next, tail, health }, task)
    }

    /// Records up to this number can be read.
    pub fn tail(&self) -> watch::Receiver<u64> {
        self.tail.clone()
    }

    pub fn health(&self) -> watch::Receiver<Vec<proto::PartStatus>> {
        self.health.clone()
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

async fn hear(
    mut incoming: Incoming<Tell>,
    pending: Pending,
    tail: watch::Sender<u64>,
    health: watch::Sender<Vec<proto::PartStatus>>,
) {
    loop {
        let tell = match incoming.next().await {
            Ok(Some(tell)) => tell,
            Ok(None) => return,
            Err(error) => return tracing::error!("the link to core broke: {error}"),
        };
        match tell.what {
            Some(tell::What::Tail(now)) => {
                tail.send_replace(now.seq);
            }
            Some(tell::What::Health(now)) => {
                health.send_replace(now.parts);
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
