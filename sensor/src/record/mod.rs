//! The black box: everything that happens, as records in one SQLite file (`log.db` in the state
//! directory).
//!
//! A [`Log`] is the only writer: callers hand over [`Draft`]s and never wait for the disk; one
//! thread owns the connection and commits in groups. [`Log::append_durable`] answers when its
//! record, and all before it, are fsynced. A [`Reader`] reads the same file from another process and
//! another user. A record's identity is (`log_id`, `seq`), and no number is ever used twice.
//!
//! - `queue`: the bounded hand-over between callers and the thread
//! - `writer`: the thread: groups, retries, what it reports
//! - `store`: the connection: one transaction per group, numbers, settings
//! - `numbers`: the reserved numbers once more, outside of the database
//! - `schema`: the tables, and opening, checking and setting aside the file
//! - `check`: looking for damage while the file is in use
//! - `ahead`: SQLite's write-ahead log, where SQLite cannot read it
//! - `salvage`: what can be read of a corrupt file goes into the new one
//! - `mend`: a corrupt file without its first page
//! - `retention`: what goes when the log is over its size
//! - `room`: what is kept free for incidents on a disk that becomes full
//! - `vitals`: the flight recorder's rings
//! - `reader`: pages of records, and the incidents
//! - `export`: an incident as a file of its own

mod ahead;
mod check;
pub(crate) mod export;
mod mend;
pub(crate) mod numbers;
mod queue;
pub mod reach;
mod reader;
mod retention;
mod room;
mod salvage;
mod schema;
mod store;
mod vitals;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    future::Future,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    thread,
};

use prost::Message as _;
use rusqlite::ErrorCode;
use tokio::sync::{broadcast, oneshot, watch};

use self::{
    check::Check,
    queue::{Entry, Queue},
    writer::Writer,
};
pub use self::{
    export::{Export, ExportError, Exporter, is_one as is_export},
    reader::{Changes, Filter, IncidentFilter, Page, ReadError, Reader},
    schema::disk_bytes,
};
use crate::{host::Host, proto};

/// Name of the database in the state directory.
pub const FILE: &str = "log.db";

/// Largest encoded record, bytes: it still fits into a gRPC message of 4 MiB with its envelope.
pub const MAX_RECORD_BYTES: usize = 3_500_000;

/// Words for the bodies of records, as in JSON and in filters; in the order of the schema.
pub const KINDS: [&str; 11] = [
    "started",
    "stopped",
    "observation",
    "transition",
    "evidence",
    "diagnosis",
    "action",
    "investigation",
    "transcript",
    "lost",
    "degraded",
];

/// The setting that says that all automatic action is off.
const PAUSED: &str = "paused";

#[derive(Clone, Debug)]
pub struct LogOptions {
    /// What the database may hold before the oldest records go, bytes; at least 1 MiB.
    pub max_bytes: u64,
    /// Group that may read the files; none: the owner only.
    pub reader_gid: Option<u32>,
}

/// What [`Log::open`] found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Random UUID of the database; empty while it cannot be opened.
    pub log_id: String,
    /// Newest number that may have been used; 0: none.
    pub last_seq: u64,
    /// The daemon that wrote last did not stop in good order.
    pub unclean: bool,
    /// Incidents that were not resolved, or that somebody still looked into, oldest first.
    pub unsettled: Vec<proto::Incident>,
    /// All automatic action was switched off.
    pub paused: bool,
    /// What the flight recorder had: minutes, then seconds, each oldest first.
    pub vitals: Vec<proto::VitalsSample>,
    /// Where a corrupt log was moved before this one was begun.
    pub set_aside: Option<PathBuf>,
    /// Why the log could not be opened; it is tried again each second, records wait in memory.
    pub failing: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("another sensor is running with {0}: stop it, or give this one its own state_dir")]
    Busy(PathBuf),
    #[error("cannot use {path} as the state directory: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "anyone can write to {0}: make it root's alone (chmod 0750), or choose another state_dir"
    )]
    Unsafe(PathBuf),
    #[error(
        "{path} was made by a newer sensor (schema {version}): run that one, or move the file away"
    )]
    Newer { path: PathBuf, version: i64 },
    #[error("{path} is corrupt: {why}")]
    Corrupt { path: PathBuf, why: String },
    #[error("{0} was moved, replaced or removed while it was written")]
    Gone(PathBuf),
    #[error("cannot write the log {path}: {source}")]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(io::Error),
}

impl LogError {
    /// The connection is still good: no room, or somebody else holds the file for now.
    fn is_passing(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }
}

/// Why a record is not on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    #[error("the log cannot be written ({0}); the record waits in memory and is tried again")]
    Waiting(String),
    #[error("the log could not be written for too long, and memory for waiting records ran out")]
    Dropped,
    #[error("the log is closed")]
    Closed,
}

/// Whether the log can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHealth {
    pub ok: bool,
    /// One sentence; empty when there is nothing to say.
    pub detail: String,
}

/// A record before the log gives it its number, time and host.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Incident id; empty for none.
    pub incident: String,
    pub priority: proto::Priority,
    pub body: proto::record::Body,
}

impl Draft {
    /// Bulk that goes first when the log must shrink.
    pub fn bulk(body: proto::record::Body) -> Self {
        Self { incident: String::new(), priority: proto::Priority::Bulk, body }
    }

    /// A record that belongs to an incident, or (empty id) to the daemon itself; it goes last.
    pub fn of(incident: impl Into<String>, body: proto::record::Body) -> Self {
        Self { incident: incident.into(), priority: proto::Priority::Incident, body }
    }
}

/// The promise that a record becomes durable: await it, or [`Receipt::wait`] for it.
///
/// Answers after one attempt: when the disk fails, the record is kept and the answer is
/// [`NotDurable::Waiting`], so nobody hangs on a bad disk.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<u64, NotDurable>>);

impl Receipt {
    /// Blocks until the record is fsynced; its number. Not to be called inside an async task.
    pub fn wait(self) -> Result<u64, NotDurable> {
        self.0.blocking_recv().unwrap_or(Err(NotDurable::Closed))
    }
}

impl Future for Receipt {
    type Output = Result<u64, NotDurable>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(NotDurable::Closed)))
    }
}

/// Handle of the writer; clones write to the same log.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Arc<Queue>,
    directory: PathBuf,
    tail: watch::Receiver<u64>,
    health: watch::Receiver<LogHealth>,
    log_id: watch::Receiver<String>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    check: Check,
    /// Held as long as the log is open: one writer per state directory.
    lock: File,
}

impl Log {
    /// Opens or creates the log in `state_dir` and starts its thread.
    ///
    /// Fails only for what will not pass by itself. When the disk is full or failing, the log starts
    /// all the same, keeps records in memory and says so in [`Opened::failing`].
    pub fn open(
        state_dir: &Path,
        host: &Host,
        options: LogOptions,
    ) -> Result<(Self, Opened), LogError> {
        schema::prepare_directory(state_dir, options.reader_gid)?;
        let lock = lock(state_dir)?;
        let queue = Arc::new(Queue::default());
        let (tail_sender, tail) = watch::channel(0);
        let (health_sender, health) = watch::channel(LogHealth { ok: true, detail: String::new() });
        let (log_id_sender, log_id) = watch::channel(String::new());
        let mut writer = Writer::new(
            state_dir,
            host,
            options,
            Arc::clone(&queue),
            writer::Reports { tail: tail_sender, health: health_sender, log_id: log_id_sender },
        );
        let opened = writer.open()?;
        let check = Check::new(state_dir, Arc::clone(&queue));
        // After an unclean end that was done already, before anything was written.
        if !opened.unclean && opened.failing.is_none() {
            check.start();
        }
        let thread = thread::Builder::new()
            .name("record".into())
            .spawn(move || writer.run())
            .map_err(LogError::Thread)?;
        let shared = Shared {
            queue,
            directory: state_dir.to_owned(),
            tail,
            health,
            log_id,
            thread: Mutex::new(Some(thread)),
            check,
            lock,
        };
        Ok((Self(Arc::new(shared)), opened))
    }

    /// Takes a record to be written with the next group, within 50 ms. Never waits for the disk.
    pub fn append(&self, draft: Draft) {
        self.0.queue.push(Entry::record(draft), None);
    }

    /// Takes a record to be written and fsynced at once, after all that was appended before it.
    pub fn append_durable(&self, draft: Draft) -> Receipt {
        self.push_durable(Entry::record(draft))
    }

    /// Takes a sample of the flight recorder; it goes into its ring with the next group.
    pub fn append_vitals(&self, sample: &proto::VitalsSample) {
        let entry = Entry::Vitals { span: sample.seconds, sample: sample.encode_to_vec() };
        self.0.queue.push(entry, None);
    }

    /// Remembers, durably, whether all automatic action is off.
    pub fn set_paused(&self, paused: bool) -> Receipt {
        self.put(PAUSED, if paused { "1" } else { "0" })
    }

    /// Writes a setting durably; the receipt's number is that of the newest record.
    fn put(&self, key: &'static str, value: &str) -> Receipt {
        self.push_durable(Entry::Setting { key, value: value.to_owned() })
    }

    fn push_durable(&self, entry: Entry) -> Receipt {
        let (sender, receiver) = oneshot::channel();
        self.0.queue.push(entry, Some(sender));
        Receipt(receiver)
    }

    /// The newest number that readers can see. It falls only when a corrupt log was replaced.
    pub fn tail(&self) -> watch::Receiver<u64> {
        self.0.tail.clone()
    }

    /// Records as they come while they cannot be written; they have no number yet.
    pub fn unwritten(&self) -> broadcast::Sender<Arc<proto::Record>> {
        self.0.queue.unwritten()
    }

    pub fn health(&self) -> watch::Receiver<LogHealth> {
        self.0.health.clone()
    }

    /// Random UUID of the database; empty while it cannot be opened.
    pub fn log_id(&self) -> String {
        self.0.log_id.borrow().clone()
    }

    /// Looks for damage, because somebody who reads has met some; not more often than once in 10 s.
    pub fn look_for_damage(&self) {
        self.0.check.start();
    }

    /// Size of the log on disk, bytes.
    pub fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.0.directory)
    }

    /// Writes what is left and a `Stopped` record, and marks the end as clean. Blocks.
    pub fn close(&self, why: &str) -> Result<u64, NotDurable> {
        let stopped = proto::Stopped { why: why.to_owned() };
        let receipt = self.append_durable(Draft::of("", proto::record::Body::Stopped(stopped)));
        self.0.end(true);
        receipt.wait()
    }
}

impl Shared {
    fn end(&self, clean: bool) {
        self.check.end();
        self.queue.close(clean);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the log panicked; its last records are lost");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end(false);
        // Closing is not enough: a child that has not executed yet holds the same open file.
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the log's lock goes with its file");
        }
    }
}

/// Settings as they stand in the database.
type Settings = BTreeMap<String, String>;

fn lock(directory: &Path) -> Result<File, LogError> {
    let path = directory.join("log.lock");
    let failed = |source| LogError::Directory { path: directory.to_owned(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        // Whoever can open it can lock it, and with that keep the daemon from starting.
        .mode(0o600)
        .open(&path)
        // On a disk that is read-only or full just now, what is there must do.
        .or_else(|error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => {
                File::open(&path).or_else(|_| File::open(directory))
            }
            _ => Err(error),
        })
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Busy(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
