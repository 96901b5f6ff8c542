//! The log for async tasks: a few read-only connections, used on threads that may block.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tonic::Status;

use super::READERS;
use crate::{
    host::Host,
    record::{ReadError, Reader},
};

#[derive(Clone)]
pub(super) struct Records(Arc<Shared>);

struct Shared {
    state_dir: PathBuf,
    host: Host,
    idle: Mutex<Vec<Reader>>,
}

impl Records {
    pub fn new(state_dir: &Path, host: Host) -> Self {
        let idle = Mutex::new(Vec::new());
        Self(Arc::new(Shared { state_dir: state_dir.to_owned(), host, idle }))
    }

    pub fn host(&self) -> &Host {
        &self.0.host
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
