//! The writer's connection: one transaction per group, numbers that are never used twice, settings,
//! and the incidents as their transitions leave them.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    FILE, LogError, LogOptions, Settings,
    numbers::{Numbers, Reserved},
    queue::{Entry, Item, Projection, Row},
    retention::Retention,
    room,
    salvage::{self, Salvaged},
    schema, vitals,
};
use crate::{host::Host, proto};

/// Numbers that are reserved at once. One more fsync per so many records; after a crash the rest
/// of the block stays unused.
const BLOCK: u64 = 65_536;

/// What may stand in the write-ahead log before it is copied back, when nobody waits, bytes.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// … and when somebody always waits.
const CHECKPOINT_BYTES_BUSY: u64 = 32 << 20;

/// What a transaction adds to the write-ahead log beside its records, bytes: a page of the table and one
/// of each index, of 4 KiB each.
const TRANSACTION_BYTES: u64 = 5 * 4_096;

/// Time to copy a log that has lost its name. Nobody finds what stays behind, and records that come
/// meanwhile wait in memory.
const REGAIN: Duration = Duration::from_mins(1);

/// How much is done at once.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Numbers that are reserved.
    pub block: u64,
    /// What may stand in the write-ahead log, bytes: when nobody waits, and when somebody always does.
    pub checkpoint_idle: u64,
    pub checkpoint_busy: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            block: BLOCK,
            checkpoint_idle: CHECKPOINT_BYTES,
            checkpoint_busy: CHECKPOINT_BYTES_BUSY,
        }
    }
}

/// What was in the log when it was opened.
#[derive(Default)]
pub(super) struct Found {
    pub last_seq: u64,
    pub unclean: bool,
    pub unsettled: Vec<proto::Incident>,
    pub settings: Settings,
    /// What the flight recorder has, oldest first.
    pub vitals: Vec<proto::VitalsSample>,
    pub set_aside: Option<(PathBuf, String)>,
    /// What could be read of that.
    pub salvaged: Salvaged,
    /// Numbers were given out that the log knows nothing of: it has lost its newest records.
    pub beheaded: bool,
}

pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) retention: Retention,
    path: PathBuf,
    /// None where the file cannot be used: then the database alone knows.
    numbers: Option<Numbers>,
    pub log_id: String,
    pub pace: Pace,
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
    /// The database and its write-ahead log; none until the first write.
    files: Option<Files>,
}

/// (device, inode) of what stands at the paths of the database and of its write-ahead log.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    database: Option<(u64, u64)>,
    ahead: Option<(u64, u64)>,
}

impl Files {
    fn at(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(path);
        Ok(Self {
            database: schema::identity(path)?,
            ahead: schema::identity(&schema::wal(directory))?,
        })
    }
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
        let known = open_numbers(directory).and_then(|numbers| numbers.read());
        let aside = schema::name_aside(directory)?;
        let announce = |connection: &Connection| salvage::announce(&aside, connection);
        schema::replace(directory, &aside, options.reader_gid, announce)?;
        let (mut connection, _) = schema::open(directory, options.reader_gid)?;
        let failed = |source| schema::failure(&directory.join(FILE), source);
        let read = salvage::salvage(&aside, &mut connection, known);
        salvage::conclude(&connection).map_err(failed)?;
        drop(connection);
        // What was copied until then is there, and the rest in the old file.
        let salvaged = read.unwrap_or_else(|error| {
            tracing::warn!("not everything could be read out of {}: {error}", aside.display());
            Salvaged { unfinished: true, ..Salvaged::default() }
        });
        let (store, found) = Self::open_existing(directory, host, options, false)?;
        Ok((store, Found { set_aside: Some((aside, why)), salvaged, ..found }))
    }

    fn open_existing(
        directory: &Path,
        host: &Host,
        options: &LogOptions,
        check: bool,
    ) -> Result<(Self, Found), LogError> {
        let path = directory.join(FILE);
        schema::take_fresh(directory)
            .map_err(|source| LogError::Directory { path: directory.to_owned(), source })?;
        let (connection, new) = schema::open(directory, options.reader_gid)?;
        if let Some(aside) = salvage::unfinished(&connection, directory) {
            drop(connection);
            schema::put_back(directory, &aside)?;
            let why = "it was read out when that was interrupted".to_owned();
            return Err(LogError::Corrupt { path, why });
        }
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
        let mut numbers = open_numbers(directory);
        let mut log_id = meta("log_id")?;
        // A log was here and is gone: this one goes on in its stead.
        if new
            && let Some(gone) = numbers.as_ref().and_then(Numbers::read)
            && gone.log_id != log_id
        {
            connection
                .execute("UPDATE meta SET value = ?1 WHERE key = 'log_id'", [&gone.log_id])
                .map_err(|source| schema::failure(&path, source))?;
            log_id = gone.log_id;
        }
        let reserved: u64 = meta("reserved")?.parse().map_err(|_| corrupt("reserved"))?;
        let mut clean = meta("clean")? == "1";
        if check && !clean {
            schema::check(&connection, &path)?;
        }
        let known = numbers.as_ref().map_or(0, |numbers| numbers.of(&log_id));
        // They are written behind the database's own: never are there more of them in good order.
        let beheaded = known > reserved;
        let reserved = reserved.max(known);
        clean &= !beheaded;
        if known < reserved || known == 0 {
            tell(&mut numbers, &log_id, reserved, true);
        }
        let read = || -> rusqlite::Result<Found> {
            let newest = last_seq(&connection)?;
            let mut statement = connection.prepare(
                "SELECT incident FROM incidents WHERE state <> ?1 OR id IN \
                 (SELECT incident FROM investigations WHERE state IN (?2, ?3)) ORDER BY opened_at",
            )?;
            let states = [
                proto::State::Resolved as i32,
                proto::InvestigationState::Running as i32,
                proto::InvestigationState::Queued as i32,
            ];
            let unsettled = statement
                .query_map(states, |row| row.get::<_, Vec<u8>>(0))?
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
                unclean: !clean && (!new || beheaded),
                unsettled,
                settings,
                vitals: vitals::all(&connection)?,
                beheaded,
                ..Found::default()
            })
        };
        let found = read().map_err(|source| schema::failure(&path, source))?;
        let store = Self {
            retention: Retention::new(options.max_bytes),
            path,
            numbers,
            log_id,
            pace: Pace::default(),
            host: host.clone(),
            next: reserved + 1,
            reserved,
            run: None,
            clean,
            full_sync: false,
            unchecked_bytes: 0,
            files: None,
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
        let mut bytes = TRANSACTION_BYTES;
        let transaction = self.connection.transaction()?;
        for item in items {
            match &item.entry {
                Entry::Record(row) => {
                    insert(&transaction, seq, run, row)?;
                    seq += 1;
                    bytes += row.blob.len() as u64;
                }
                Entry::Setting { key, value } => {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO settings VALUES (?1, ?2)")?
                        .execute(params![key, value])?;
                }
                Entry::Vitals { span, sample } => vitals::insert(&transaction, *span, sample)?,
            }
        }
        transaction.commit()?;
        self.unchecked_bytes += bytes;
        self.retention.wrote(bytes);
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
        let reserved = self.next + count.max(self.pace.block) - 1;
        self.sync_fully(true)?;
        let transaction = self.connection.transaction()?;
        let run = match self.run {
            Some(run) => run,
            None => begin_run(&transaction, &self.host, self.next, self.clean)?,
        };
        set_meta(&transaction, "reserved", &reserved.to_string())?;
        set_meta(&transaction, "clean", "0")?;
        transaction.commit()?;
        tell(&mut self.numbers, &self.log_id, reserved, false);
        self.reserved = reserved;
        if self.run.is_none() {
            self.keep_headroom();
            self.files = Files::at(&self.path).ok();
        }
        Ok(*self.run.insert(run))
    }

    /// Whether what is written goes into the files that everybody else finds.
    pub fn is_in_place(&self) -> bool {
        match (&self.files, Files::at(&self.path)) {
            (Some(ours), Ok(there)) => *ours == there,
            // Whether they are there cannot be told; writing will tell.
            _ => true,
        }
    }

    /// Goes on where the log has its name, with all that this one has: it is still there, though nobody
    /// else finds it. Where somebody has put another log, that one counts.
    pub fn regain(
        &mut self,
        directory: &Path,
        host: &Host,
        options: &LogOptions,
    ) -> Result<(Self, Found), LogError> {
        let failed = |source| schema::failure(&self.path, source);
        let gone = |source| LogError::Directory { path: directory.to_owned(), source };
        let there = schema::identity(&self.path).map_err(gone)?;
        if there.is_none() {
            // What is left of it beside the name belongs to a file that nobody finds.
            schema::remove_beside(directory).map_err(gone)?;
            let known = self.numbers.as_ref().and_then(Numbers::read);
            let (mut connection, _) = schema::open(directory, options.reader_gid)?;
            let salvaged =
                salvage::copy(&self.connection, &mut connection, known, REGAIN).map_err(failed)?;
            drop(connection);
            let (store, found) = Self::open_existing(directory, host, options, false)?;
            return Ok((store, Found { salvaged, ..found }));
        }
        if self.files.as_ref().is_some_and(|ours| ours.database == there) {
            checkpoint(&self.connection, "TRUNCATE").map_err(failed)?;
        }
        Self::open(directory, host, options, true)
    }

    /// Marks the end as clean, gives back numbers that were not used, and folds the write-ahead
    /// log in.
    pub fn finish(&mut self) -> Result<(), LogError> {
        let mut finish = || -> rusqlite::Result<()> {
            tell(&mut self.numbers, &self.log_id, self.next - 1, true);
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
        let limit = if idle { self.pace.checkpoint_idle } else { self.pace.checkpoint_busy };
        if self.unchecked_bytes >= limit {
            checkpoint(&self.connection, "PASSIVE")
                .map_err(|source| schema::failure(&self.path, source))?;
            self.unchecked_bytes = 0;
            self.keep_headroom();
        }
        Ok(())
    }

    fn keep_headroom(&self) {
        if let Some(directory) = self.path.parent() {
            room::keep_headroom(&schema::wal(directory));
        }
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

fn open_numbers(directory: &Path) -> Option<Numbers> {
    // A disk that fails is told of by the database.
    Numbers::open(directory)
        .inspect_err(|error| {
            tracing::debug!("the log's numbers are kept in one place only: {error}");
        })
        .ok()
}

/// Writes the reserved numbers beside the database as well. `only`: no older line stays.
fn tell(numbers: &mut Option<Numbers>, log_id: &str, last: u64, only: bool) {
    let Some(open) = numbers else { return };
    let reserved = Reserved { log_id: log_id.to_owned(), last };
    let written = if only { open.replace(&reserved) } else { open.write(&reserved) };
    if let Err(error) = written {
        // A disk that fails is told of by the database; this is its second line.
        tracing::warn!("the log's numbers are kept in one place only: {error}");
        *numbers = None;
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
    let projection = row.projection.as_ref();
    projection.map_or(Ok(()), |it| project(transaction, seq, &row.incident, it))
}

pub(super) fn project(
    transaction: &Transaction<'_>,
    seq: u64,
    incident: &str,
    projection: &Projection,
) -> rusqlite::Result<()> {
    match projection {
        Projection::Incident(incident) => project_incident(transaction, incident),
        Projection::Action { kind, ok } => transaction
            .prepare_cached("INSERT OR REPLACE INTO actions VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![seq, incident, kind, ok])
            .map(drop),
        Projection::Investigation(investigation) => transaction
            .prepare_cached("INSERT OR REPLACE INTO investigations VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                incident,
                investigation.id,
                investigation.state,
                investigation.encode_to_vec()
            ])
            .map(drop),
    }
}

/// An incident as its newest transition leaves it.
pub(super) fn project_incident(
    transaction: &Transaction<'_>,
    incident: &proto::Incident,
) -> rusqlite::Result<()> {
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

pub(super) fn is_projected(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<bool> {
    transaction.prepare_cached("SELECT 1 FROM incidents WHERE id = ?1")?.exists([id])
}

/// Wall clock as the `opened_at` column has it; saturates in the years 1677 and 2262.
pub(super) fn nanoseconds(time: prost_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

pub(super) fn set_meta(
    transaction: &Transaction<'_>,
    key: &str,
    value: &str,
) -> rusqlite::Result<()> {
    transaction.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [key, value]).map(drop)
}

pub(super) fn last_seq(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .query_row("SELECT max(seq) FROM records", [], |row| row.get(0))
        .optional()
        .map(|seq: Option<Option<u64>>| seq.flatten().unwrap_or(0))
}

pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    // A reader in the middle of a page makes this stop early; the next one goes on.
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
