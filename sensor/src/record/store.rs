//! The writer's connection: one transaction per group, numbers that are never used twice, settings,
//! and the incidents as their transitions leave them.

use std::path::{Path, PathBuf};

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    FILE, LogError, LogOptions, Settings,
    queue::{Entry, Item, Row},
    retention::Retention,
    schema,
};
use crate::{host::Host, proto};

/// Numbers that are reserved at once. One more fsync per so many records; after a crash the rest
/// of the block stays unused.
const BLOCK: u64 = 65_536;

/// What may stand in the write-ahead log before it is copied back, when nobody waits, bytes.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// … and when somebody always waits.
const CHECKPOINT_BYTES_BUSY: u64 = 32 << 20;

/// What was in the log when it was opened.
#[derive(Default)]
pub(super) struct Found {
    pub last_seq: u64,
    pub unclean: bool,
    pub unresolved: Vec<proto::Incident>,
    pub settings: Settings,
    pub set_aside: Option<(PathBuf, String)>,
}

pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) retention: Retention,
    path: PathBuf,
    pub log_id: String,
    host: Host,
    /// Number of the next record.
    next: u64,
    /// Numbers up to here are ours to use.
    reserved: u64,
    /// Run of this daemon; none until the first write.
    run: Option<i64>,
    /// The last end was in good order, so no number was reserved in vain.
    clean: bool,
    full_sync: bool,
    unchecked_bytes: u64,
}

impl Store {
    /// Opens the log; a corrupt one is set aside and a new one begun. `check`: after an unclean end,
    /// look for damage (reads the whole file).
    pub fn open(
        directory: &Path,
        host: &Host,
        options: &LogOptions,
        check: bool,
    ) -> Result<(Self, Found), LogError> {
        match Self::open_existing(directory, host, options, check) {
            Err(LogError::Corrupt { why, .. }) => Self::replace(directory, host, options, why),
            other => other,
        }
    }

    /// Sets the corrupt log aside and begins a new one.
    pub fn replace(
        directory: &Path,
        host: &Host,
        options: &LogOptions,
        why: String,
    ) -> Result<(Self, Found), LogError> {
        let aside = schema::set_aside(directory)?;
        let (store, found) = Self::open_existing(directory, host, options, false)?;
        Ok((store, Found { set_aside: Some((aside, why)), ..found }))
    }

    fn open_existing(
        directory: &Path,
        host: &Host,
        options: &LogOptions,
        check: bool,
    ) -> Result<(Self, Found), LogError> {
        let path = directory.join(FILE);
        let (connection, new) = schema::open(directory, options.reader_gid)?;
        // A file that is no log of ours inside has lost tables or rows.
        let corrupt = |what: &str| LogError::Corrupt {
            path: path.clone(),
            why: format!("{what} cannot be read"),
        };
        let meta = |key: &str| -> Result<String, LogError> {
            connection
                .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
                .map_err(|_| corrupt(key))
        };
        let log_id = meta("log_id")?;
        let reserved: u64 = meta("reserved")?.parse().map_err(|_| corrupt("reserved"))?;
        let clean = meta("clean")? == "1";
        if check && !clean {
            schema::check(&connection, &path)?;
        }
        let read = || -> rusqlite::Result<Found> {
            let newest = last_seq(&connection)?;
            let mut statement = connection
                .prepare("SELECT incident FROM incidents WHERE state <> ?1 ORDER BY opened_at")?;
            let unresolved = statement
                .query_map([proto::State::Resolved as i32], |row| row.get::<_, Vec<u8>>(0))?
                .filter_map(|blob| match blob {
                    // What another schema wrote and this one cannot read is no incident here.
                    Ok(blob) => proto::Incident::decode(blob.as_slice()).ok().map(Ok),
                    Err(error) => Some(Err(error)),
                })
                .collect::<rusqlite::Result<_>>()?;
            let settings = connection
                .prepare("SELECT key, value FROM settings")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Found {
                last_seq: if clean { reserved } else { newest },
                unclean: !clean && !new,
                unresolved,
                settings,
                set_aside: None,
            })
        };
        let found = read().map_err(|source| schema::failure(&path, source))?;
        let store = Self {
            retention: Retention::new(options.max_bytes),
            path,
            log_id,
            host: host.clone(),
            next: reserved + 1,
            reserved,
            run: None,
            clean,
            full_sync: false,
            unchecked_bytes: 0,
            connection,
        };
        Ok((store, found))
    }

    /// Writes a group in one transaction; the number of its last record. `durable`: fsynced, with
    /// all that was written before.
    pub fn write(&mut self, items: &[Item], durable: bool) -> Result<u64, LogError> {
        self.try_write(items, durable).map_err(|source| schema::failure(&self.path, source))
    }

    fn try_write(&mut self, items: &[Item], durable: bool) -> rusqlite::Result<u64> {
        let run = self.prepare(items.len() as u64)?;
        self.sync_fully(durable)?;
        let mut seq = self.next;
        let transaction = self.connection.transaction()?;
        for item in items {
            match &item.entry {
                Entry::Record(row) => {
                    insert(&transaction, seq, run, row)?;
                    seq += 1;
                    self.unchecked_bytes += row.blob.len() as u64;
                }
                Entry::Setting { key, value } => {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO settings VALUES (?1, ?2)")?
                        .execute(params![key, value])?;
                }
            }
        }
        transaction.commit()?;
        self.next = seq;
        Ok(seq - 1)
    }

    /// Sees that `count` numbers are reserved, durably, before one of them is used; the run.
    fn prepare(&mut self, count: u64) -> rusqlite::Result<i64> {
        if let Some(run) = self.run
            && self.next + count <= self.reserved + 1
        {
            return Ok(run);
        }
        let reserved = self.next + count.max(BLOCK) - 1;
        self.sync_fully(true)?;
        let transaction = self.connection.transaction()?;
        let run = match self.run {
            Some(run) => run,
            None => begin_run(&transaction, &self.host, self.next, self.clean)?,
        };
        set_meta(&transaction, "reserved", &reserved.to_string())?;
        set_meta(&transaction, "clean", "0")?;
        transaction.commit()?;
        self.reserved = reserved;
        Ok(*self.run.insert(run))
    }

    /// Marks the end as clean, gives back numbers that were not used, and folds the write-ahead
    /// log in.
    pub fn finish(&mut self) -> Result<(), LogError> {
        let mut finish = || -> rusqlite::Result<()> {
            self.sync_fully(true)?;
            let transaction = self.connection.transaction()?;
            set_meta(&transaction, "reserved", &(self.next - 1).to_string())?;
            set_meta(&transaction, "clean", "1")?;
            transaction.commit()?;
            checkpoint(&self.connection, "TRUNCATE")
        };
        finish().map_err(|source| schema::failure(&self.path, source))
    }

    /// Copies the write-ahead log back into the database when it has grown. `idle`: nobody waits.
    pub fn tidy(&mut self, idle: bool) -> Result<(), LogError> {
        let limit = if idle { CHECKPOINT_BYTES } else { CHECKPOINT_BYTES_BUSY };
        if self.unchecked_bytes >= limit {
            checkpoint(&self.connection, "PASSIVE")
                .map_err(|source| schema::failure(&self.path, source))?;
            self.unchecked_bytes = 0;
        }
        Ok(())
    }

    /// Removes one portion of what is over the size; records that went, and whether more must go.
    pub fn shrink(&mut self) -> Result<(u64, bool), LogError> {
        // Without numbers of our own we have not written, so there is nothing to make room for.
        if self.run.is_none() {
            return Ok((0, false));
        }
        self.sync_fully(false)
            .and_then(|()| self.retention.shrink(&mut self.connection))
            .map_err(|source| schema::failure(&self.path, source))
    }

    fn sync_fully(&mut self, fully: bool) -> rusqlite::Result<()> {
        if self.full_sync != fully {
            let level = if fully { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.full_sync = fully;
        }
        Ok(())
    }
}

/// Remembers what all records of this run share, and the numbers that the last run left unused.
fn begin_run(
    transaction: &Transaction<'_>,
    host: &Host,
    next: u64,
    clean: bool,
) -> rusqlite::Result<i64> {
    if !clean {
        let newest = last_seq(transaction)?;
        if newest + 1 < next {
            transaction
                .execute("INSERT OR REPLACE INTO gaps VALUES (?1, ?2)", [newest + 1, next - 1])?;
        }
    }
    transaction
        .execute("INSERT INTO runs (boot_id, host) VALUES (?1, ?2)", [&host.boot_id, &host.name])?;
    Ok(transaction.last_insert_rowid())
}

fn insert(transaction: &Transaction<'_>, seq: u64, run: i64, row: &Row) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![seq, run, row.priority as i32, row.incident, row.kind, row.blob])?;
    let Some(incident) = row.projection.as_deref() else { return Ok(()) };
    let opened_at = incident.opened_at.unwrap_or_default();
    transaction
        .prepare_cached("INSERT OR REPLACE INTO incidents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![
            incident.id,
            incident.kind,
            incident.severity,
            incident.state,
            incident.opened_ns as i64,
            nanoseconds(opened_at),
            incident.fingerprint,
            incident.encode_to_vec(),
        ])?;
    Ok(())
}

/// Wall clock as the `opened_at` column has it; saturates in the years 1677 and 2262.
pub(super) fn nanoseconds(time: prost_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

fn set_meta(transaction: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    transaction.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [key, value]).map(drop)
}

pub(super) fn last_seq(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .query_row("SELECT max(seq) FROM records", [], |row| row.get(0))
        .optional()
        .map(|seq: Option<Option<u64>>| seq.flatten().unwrap_or(0))
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    // A reader in the middle of a page makes this stop early; the next one goes on.
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
