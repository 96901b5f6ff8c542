//! The log for async tasks: a few read-only connections, used on threads that may block.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;
use tonic::Status;

use super::{READERS, core::Core};
use crate::{
    host::Host,
    record::{ReadError, Reader},
};

#[derive(Clone)]
pub(super) struct Records(Arc<Shared>);

struct Shared {
    state_dir: PathBuf,
    host: Host,
    core: Core,
    /// (device, inode) of the directory that this process may read.
    directory: Option<(u64, u64)>,
    /// Another one stands in its place.
    moved: Notify,
    idle: Mutex<Vec<Reader>>,
}

impl Records {
    pub fn new(state_dir: &Path, host: Host, core: Core) -> Self {
        Self(Arc::new(Shared {
            state_dir: state_dir.to_owned(),
            host,
            core,
            directory: identity(state_dir),
            moved: Notify::new(),
            idle: Mutex::default(),
        }))
    }

    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Until the log's directory is another one (a disk was mounted there, say), which a confined process
    /// may not read.
    pub async fn moved(&self) {
        self.0.moved.notified().await;
    }

    /// Runs `work` with a reader of the log that is there now.
    pub async fn read<T, W>(&self, work: W) -> Result<T, Status>
    where
        T: Send + 'static,
        W: Fn(&Reader) -> Result<T, ReadError> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || shared.read(work))
            .await
            .map_err(|error| Status::internal(format!("reading the log failed: {error}")))?
            .inspect_err(|error| {
                if error.is_damage() {
                    self.0.core.damage_was_seen();
                } else if identity(&self.0.state_dir) != self.0.directory {
                    self.0.moved.notify_one();
                }
            })
            .map_err(status)
    }
}

impl Shared {
    fn read<T>(&self, work: impl Fn(&Reader) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let idle = self.lock().pop();
        let reader = match idle {
            Some(reader) => reader,
            None => Reader::open(&self.state_dir)?,
        };
        let (reader, result) = match work(&reader) {
            // A new log took its place: once more, with that.
            Err(ReadError::Replaced(_)) => {
                let reader = Reader::open(&self.state_dir)?;
                let result = work(&reader);
                (reader, result)
            }
            result => (reader, result),
        };
        let broken = matches!(result, Err(ReadError::Database { .. } | ReadError::Replaced(_)));
        if !broken {
            let mut idle = self.lock();
            if idle.len() < READERS {
                idle.push(reader);
            }
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// (device, inode); none: it is not there.
pub(in crate::feed) fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).map(|metadata| (metadata.dev(), metadata.ino())).ok()
}

pub(super) fn status(error: ReadError) -> Status {
    let why = error.to_string();
    match error {
        ReadError::NoIncident(_) | ReadError::NoEvidence { .. } => Status::not_found(why),
        ReadError::Ambiguous(_) | ReadError::Kind(_) => Status::invalid_argument(why),
        ReadError::Replaced(_) => Status::aborted(why),
        ReadError::Absent(_) | ReadError::Open { .. } | ReadError::Database { .. } => {
            Status::unavailable(why)
        }
    }
}
