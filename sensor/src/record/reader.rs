//! Reads the log from any process and user that may read the files, while the writer goes on:
//! pages of records by number, and the incidents.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use prost::Message as _;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, ToSql, ffi, types::Value};

use super::{FILE, KINDS, schema, store};
use crate::proto::{self, record::Body};

/// A page ends when it holds this much, bytes: a few pages in flight stay small.
const PAGE_BYTES: usize = 64 << 10;

/// Numbers that a page looks through for records of some kinds: a few ms, so that a reader that
/// went away is noticed.
const SCAN: u64 = 16_384;

/// In WAL mode a reader waits for nobody but the recovery after a crash.
const BUSY: Duration = Duration::from_secs(2);

/// Between two looks at an index that the writer is changing, which takes it microseconds.
const AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no log at {0}: no sensor has run with this state directory yet")]
    Absent(PathBuf),
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}")]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("{0} was replaced by a new log: open it again")]
    Replaced(PathBuf),
    #[error("no kind of record is called {0}; there are {list}", list = KINDS.join(", "))]
    Kind(String),
    #[error("no incident's id begins with {0}")]
    NoIncident(String),
    #[error("the ids of several incidents begin with {0}: give more of it")]
    Ambiguous(String),
    #[error(
        "incident {incident} has no evidence {id}: `sensor evidence {incident}` shows what it has"
    )]
    NoEvidence { incident: String, id: String },
}

impl ReadError {
    /// What was read makes no sense: the file is damaged, or was while it was read.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Database { source, .. } if schema::is_damage(source))
    }
}

/// Which records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Records of this incident only; empty: all.
    incident: String,
    /// Distinct words of [`KINDS`]; empty: all.
    kinds: Vec<&'static str>,
    /// Records of incidents of this severity or worse only.
    severity: Option<proto::Severity>,
    lane: Option<proto::Priority>,
}

impl Filter {
    pub fn new<S: AsRef<str>>(incident: &str, kinds: &[S]) -> Result<Self, ReadError> {
        let mut known = Vec::new();
        for kind in kinds {
            let kind = kind.as_ref();
            let found = KINDS
                .into_iter()
                .find(|known| *known == kind)
                .ok_or_else(|| ReadError::Kind(shown(kind)))?;
            if !known.contains(&found) {
                known.push(found);
            }
        }
        Ok(Self { incident: incident.to_owned(), kinds: known, ..Self::default() })
    }

    #[must_use]
    pub fn severity(self, severity: Option<proto::Severity>) -> Self {
        Self { severity, ..self }
    }

    #[must_use]
    pub fn lane(self, lane: Option<proto::Priority>) -> Self {
        Self { lane, ..self }
    }

    /// Whether a record passes that is not in the log. How severe its incident is, only the log knows.
    pub fn passes(&self, record: &proto::Record) -> bool {
        (self.incident.is_empty() || self.incident == record.incident)
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind()))
            && (self.severity.is_none() || !record.incident.is_empty())
            && self.lane.is_none_or(|lane| record.priority() == lane)
    }

    /// What it asks for in SQL, behind other conditions.
    fn conditions(&self, sql: &mut String, values: &mut Vec<Value>) {
        if !self.incident.is_empty() {
            // The second condition is what the index is made for.
            sql.push_str(" AND incident = ? AND incident <> ''");
            values.push(self.incident.clone().into());
        }
        if !self.kinds.is_empty() {
            let marks = vec!["?"; self.kinds.len()].join(", ");
            sql.extend([" AND kind IN (", &marks, ")"]);
            values.extend(self.kinds.iter().map(|kind| Value::from((*kind).to_owned())));
        }
        if let Some(severity) = self.severity {
            sql.push_str(" AND incident IN (SELECT id FROM incidents WHERE severity >= ?)");
            values.push((severity as i32).into());
        }
        if let Some(lane) = self.lane {
            sql.push_str(" AND priority = ?");
            values.push((lane as i32).into());
        }
    }

    /// Whether it may leave out most of what it looks through, without an index to help.
    fn is_picky(&self) -> bool {
        !self.kinds.is_empty() || self.severity.is_some() || self.lane.is_some()
    }

    /// Whether a `lost` record of no incident passes.
    fn wants_losses(&self) -> bool {
        self.incident.is_empty()
            && (self.kinds.is_empty() || self.kinds.contains(&"lost"))
            && self.severity.is_none()
            && self.lane != Some(proto::Priority::Incident)
    }
}

/// Which incidents.
#[derive(Clone, Debug, Default)]
pub struct IncidentFilter {
    pub kind: Option<proto::Kind>,
    pub state: Option<proto::State>,
    /// Opened at or after.
    pub since: Option<prost_types::Timestamp>,
}

impl IncidentFilter {
    pub fn passes(&self, incident: &proto::Incident) -> bool {
        let opened = incident.opened_at.map_or(i64::MIN, store::nanoseconds);
        self.kind.is_none_or(|kind| incident.kind() == kind)
            && self.state.is_none_or(|state| incident.state() == state)
            && self.since.is_none_or(|since| opened >= store::nanoseconds(since))
    }
}

/// Records in the order of their numbers.
#[derive(Debug, Default)]
pub struct Page {
    pub log_id: Arc<str>,
    pub records: Vec<proto::Record>,
    /// Where the next page begins.
    pub next_seq: u64,
    /// Nothing follows now.
    pub end: bool,
    /// Records between the page's beginning and `next_seq` that retention has removed; counted only
    /// where a `lost` record would pass the filter.
    pub missing: u64,
}

/// What has become of incidents.
#[derive(Debug)]
pub struct Changes {
    pub log_id: Arc<str>,
    pub incidents: Vec<proto::Incident>,
    /// What comes after this is in the records from here on.
    pub next_seq: u64,
    /// Nothing follows now.
    pub end: bool,
}

/// (device, inode) of the database, and of its write-ahead log if there is one.
#[derive(PartialEq, Eq)]
struct Files {
    database: (u64, u64),
    ahead: Option<(u64, u64)>,
}

/// A read-only connection to the log. Each call sees one consistent state.
pub struct Reader {
    connection: Connection,
    path: PathBuf,
    /// To notice that one of them was replaced.
    files: Files,
    log_id: Arc<str>,
    /// Run → what its records share: boot id, host.
    runs: RefCell<HashMap<i64, (String, String)>>,
}

impl Reader {
    pub fn open(state_dir: &Path) -> Result<Self, ReadError> {
        let path = state_dir.join(FILE);
        // Before anything is opened: what is replaced meanwhile is noticed later.
        let mut found = files(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> rusqlite::Result<(Connection, String)> {
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(BUSY)?;
            // KiB. Pages are read in order and once.
            connection.pragma_update(None, "cache_size", -512)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            let log_id =
                connection.query_row("SELECT value FROM meta WHERE key = 'log_id'", [], |row| {
                    row.get(0)
                })?;
            Ok((connection, log_id))
        };
        let (connection, log_id) =
            whole(open).map_err(|source| ReadError::Database { path: path.clone(), source })?;
        if found.ahead.is_none() {
            // It is made by the first who opens the database.
            found.ahead = files(&path)?.ahead;
        }
        let log_id = log_id.into();
        Ok(Self { connection, path, files: found, log_id, runs: RefCell::default() })
    }

    pub fn log_id(&self) -> &str {
        &self.log_id
    }

    /// Number of the newest record; 0: none.
    pub fn last_seq(&self) -> Result<u64, ReadError> {
        self.read(store::last_seq)
    }

    /// Number of the oldest record; 0: none.
    pub fn oldest_seq(&self) -> Result<u64, ReadError> {
        self.read(|connection| first_from(connection, 0)).map(|seq| seq.unwrap_or(0))
    }

    /// At most `limit` records from `from_seq` on (0: from the oldest), and about 64 KiB.
    ///
    /// A page may be empty before the end: with a filter, only so many numbers are looked through.
    pub fn records(&self, from_seq: u64, filter: &Filter, limit: u32) -> Result<Page, ReadError> {
        self.read(|connection| self.page(connection, from_seq, filter, limit.max(1)))
    }

    /// How many records there are from `from_seq` on, of the next 262,144 numbers.
    pub fn count(&self, from_seq: u64, filter: &Filter) -> Result<u64, ReadError> {
        self.read(|connection| {
            let from = i64::try_from(from_seq).unwrap_or(i64::MAX);
            let mut sql = String::from("SELECT count(*) FROM records WHERE seq >= ? AND seq < ?");
            let mut values = vec![from.into(), from.saturating_add(16 * SCAN as i64).into()];
            filter.conditions(&mut sql, &mut values);
            connection
                .prepare_cached(&sql)?
                .query_row(rusqlite::params_from_iter(values), |row| row.get(0))
        })
    }

    fn page(
        &self,
        connection: &Connection,
        from_seq: u64,
        filter: &Filter,
        limit: u32,
    ) -> rusqlite::Result<Page> {
        let mut page =
            Page { log_id: self.log_id.clone(), next_seq: from_seq, end: true, ..Page::default() };
        let last = store::last_seq(connection)?;
        let Some(first) = first_from(connection, from_seq)? else { return Ok(page) };
        let begin = if from_seq == 0 { first } else { from_seq };
        let scan_end = if filter.is_picky() { last.min(first + SCAN - 1) } else { last };

        let mut sql = String::from(
            "SELECT seq, run, priority, incident, record FROM records WHERE seq >= ? AND seq <= ?",
        );
        let mut values = vec![Value::from(first as i64), Value::from(scan_end as i64)];
        filter.conditions(&mut sql, &mut values);
        sql.push_str(" ORDER BY seq LIMIT ?");
        values.push(limit.into());

        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values))?;
        let (mut found, mut bytes, mut newest, mut full) = (0, 0, first, false);
        while let Some(row) = rows.next()? {
            newest = row.get(0)?;
            found += 1;
            if let Some(record) = self.record(connection, row, &mut bytes)? {
                page.records.push(record);
            }
            full = found == limit || bytes >= PAGE_BYTES;
            if full {
                break;
            }
        }
        page.next_seq = if full { newest + 1 } else { scan_end + 1 };
        page.end = page.next_seq > last;
        if filter.wants_losses() {
            page.missing = missing(connection, begin, page.next_seq, page.records.len(), filter)?;
        }
        Ok(page)
    }

    /// None when the row is no record: it counts as missing, the rest goes on.
    fn record(
        &self,
        connection: &Connection,
        row: &Row<'_>,
        bytes: &mut usize,
    ) -> rusqlite::Result<Option<proto::Record>> {
        let Ok(blob) = row.get_ref(4)?.as_blob() else { return Ok(None) };
        *bytes += blob.len();
        let Ok(mut record) = proto::Record::decode(blob) else { return Ok(None) };
        let (Ok(run), Ok(priority), Ok(incident)) = (row.get(1), row.get(2), row.get(3)) else {
            return Ok(None);
        };
        let (boot_id, host) = self.run(connection, run)?;
        record.log_id = self.log_id.to_string();
        record.seq = row.get(0)?;
        record.priority = priority;
        record.incident = incident;
        record.boot_id = boot_id;
        record.host = host;
        Ok(Some(record))
    }

    /// Boot and host of a run; nothing where damage took them: its records are worth having without.
    fn run(&self, connection: &Connection, run: i64) -> rusqlite::Result<(String, String)> {
        if let Some(known) = self.runs.borrow().get(&run) {
            return Ok(known.clone());
        }
        let shared: (String, String) = connection
            .query_row("SELECT boot_id, host FROM runs WHERE run = ?1", [run], |row| {
                Ok((row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default()))
            })
            .optional()?
            .unwrap_or_default();
        self.runs.borrow_mut().insert(run, shared.clone());
        Ok(shared)
    }

    /// Incidents, newest first, as many as fit into `max_bytes`; and how many older ones do not.
    pub fn incidents(
        &self,
        filter: &IncidentFilter,
        max_bytes: usize,
    ) -> Result<(Vec<proto::Incident>, u32), ReadError> {
        let kind = filter.kind.map(|kind| kind as i32);
        let state = filter.state.map(|state| state as i32);
        let since = filter.since.map_or(i64::MIN, store::nanoseconds);
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT incident FROM incidents WHERE opened_at >= ?1
                 AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR state = ?3)
                 ORDER BY opened_at DESC, opened_ns DESC",
            )?;
            let parameters: [&dyn ToSql; 3] = [&since, &kind, &state];
            let mut rows = statement.query(parameters)?;
            let (mut incidents, mut bytes, mut omitted) = (Vec::new(), 0, 0);
            while let Some(row) = rows.next()? {
                let blob = row.get_ref(0)?.as_blob()?;
                // The envelope of each in a list: a tag and a length.
                bytes += blob.len() + 8;
                match proto::Incident::decode(blob) {
                    Ok(incident) if bytes <= max_bytes => incidents.push(incident),
                    _ => omitted += 1,
                }
            }
            Ok((incidents, omitted))
        })
    }

    /// Incidents whose transitions are among the records from `from_seq` on, as they are now, oldest first.
    pub fn changes(&self, from_seq: u64) -> Result<Changes, ReadError> {
        self.read(|connection| {
            let last = store::last_seq(connection)?;
            let next_seq = from_seq.max((last + 1).min(from_seq.saturating_add(SCAN)));
            let mut statement = connection.prepare_cached(
                "SELECT incident FROM incidents WHERE id IN (
                     SELECT incident FROM records
                     WHERE seq >= ?1 AND seq < ?2 AND kind = 'transition')
                 ORDER BY opened_at, opened_ns",
            )?;
            let bound = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
            let mut rows = statement.query([bound(from_seq), bound(next_seq)])?;
            let mut incidents = Vec::new();
            while let Some(row) = rows.next()? {
                incidents.extend(proto::Incident::decode(row.get_ref(0)?.as_blob()?).ok());
            }
            Ok(Changes {
                log_id: Arc::clone(&self.log_id),
                incidents,
                next_seq,
                end: next_seq > last,
            })
        })
    }

    /// All incidents, oldest first, as [`Reader::changes`] has them.
    pub fn all_incidents(&self) -> Result<Changes, ReadError> {
        self.read(|connection| {
            let mut incidents = Vec::new();
            let mut statement = connection
                .prepare_cached("SELECT incident FROM incidents ORDER BY opened_at, opened_ns")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                incidents.extend(proto::Incident::decode(row.get_ref(0)?.as_blob()?).ok());
            }
            let next_seq = store::last_seq(connection)? + 1;
            Ok(Changes { log_id: Arc::clone(&self.log_id), incidents, next_seq, end: true })
        })
    }

    /// The incident with this id, or the only one whose id begins so.
    pub fn incident(&self, prefix: &str) -> Result<proto::Incident, ReadError> {
        // Ids are lower-case letters and digits, which all sort before `{`.
        let plausible = !prefix.is_empty()
            && prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !plausible {
            return Err(ReadError::NoIncident(shown(prefix)));
        }
        let found: Vec<Vec<u8>> = self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT incident FROM incidents WHERE id >= ?1 AND id < ?1 || '{'
                     ORDER BY id <> ?1 LIMIT 2",
                )?
                .query_map([prefix], |row| row.get(0))?
                .collect()
        })?;
        let mut incidents =
            found.iter().filter_map(|blob| proto::Incident::decode(blob.as_slice()).ok());
        match (incidents.next(), incidents.next()) {
            (None, _) => Err(ReadError::NoIncident(shown(prefix))),
            (Some(first), Some(_)) if first.id != prefix => {
                Err(ReadError::Ambiguous(shown(prefix)))
            }
            (Some(incident), _) => Ok(incident),
        }
    }

    /// The piece of evidence with this id; of several the newest.
    pub fn evidence(&self, incident: &str, id: &str) -> Result<proto::Evidence, ReadError> {
        let found = self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT record FROM records WHERE incident = ?1 AND incident <> ''
                 AND kind = 'evidence' ORDER BY seq DESC",
            )?;
            let mut rows = statement.query([incident])?;
            while let Some(row) = rows.next()? {
                let record = proto::Record::decode(row.get_ref(0)?.as_blob()?);
                match record.map(|record| record.body) {
                    Ok(Some(Body::Evidence(piece))) if piece.id == id => return Ok(Some(piece)),
                    _ => {}
                }
            }
            Ok(None)
        })?;
        let incident = incident.to_owned();
        found.ok_or_else(|| ReadError::NoEvidence { incident, id: shown(id) })
    }

    /// Interventions, of this incident or (empty) of all: the newest `limit`, oldest first.
    pub fn actions(&self, incident: &str, limit: u32) -> Result<Vec<proto::Record>, ReadError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT seq, run, priority, incident, record FROM records WHERE seq IN (
                 SELECT seq FROM actions WHERE ?1 = '' OR incident = ?1
                 ORDER BY seq DESC LIMIT ?2) ORDER BY seq",
            )?;
            let mut rows = statement.query(rusqlite::params![incident, limit])?;
            let (mut records, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                records.extend(self.record(connection, row, &mut bytes)?);
            }
            Ok(records)
        })
    }

    /// Investigations in this state, each with its incident's id.
    pub fn investigations(
        &self,
        state: proto::InvestigationState,
    ) -> Result<Vec<(String, proto::Investigation)>, ReadError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT incident, investigation FROM investigations WHERE state = ?1",
            )?;
            let mut rows = statement.query([state as i32])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                if let Ok(it) = proto::Investigation::decode(row.get_ref(1)?.as_blob()?) {
                    found.push((row.get(0)?, it));
                }
            }
            Ok(found)
        })
    }

    /// Runs `work` on one consistent state of the file that is at the path now.
    fn read<T>(&self, work: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        if files(&self.path)? != self.files {
            return Err(ReadError::Replaced(self.path.clone()));
        }
        whole(|| work(&*self.connection.unchecked_transaction()?))
            .map_err(|source| ReadError::Database { path: self.path.clone(), source })
    }
}

/// What `look` sees of an index that is whole. Who may only read it is refused in the moment in which the
/// writer changes it, as if a crash had left it so and somebody who may write had to mend it.
fn whole<T>(look: impl Fn() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let give_up = Instant::now() + BUSY;
    loop {
        match look() {
            Err(error) if is_torn(&error) && Instant::now() < give_up => thread::sleep(AGAIN),
            result => return result,
        }
    }
}

fn is_torn(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_READONLY_RECOVERY)
}

/// Of a word from outside enough to recognise it.
fn shown(word: &str) -> String {
    word.chars().take(40).collect::<String>().escape_debug().to_string()
}

/// What is at the paths of the log and of what is written ahead of it.
fn files(path: &Path) -> Result<Files, ReadError> {
    let identity = |path: &Path| {
        let failed = |source| ReadError::Open { path: path.to_owned(), source };
        schema::identity(path).map_err(failed)
    };
    let database = identity(path)?.ok_or_else(|| ReadError::Absent(path.to_owned()))?;
    Ok(Files { database, ahead: identity(&schema::wal(path.parent().unwrap_or(path)))? })
}

fn first_from(connection: &Connection, seq: u64) -> rusqlite::Result<Option<u64>> {
    // A number from outside that no record can have is behind all of them.
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    connection
        .prepare_cached("SELECT min(seq) FROM records WHERE seq >= ?1")?
        .query_row([seq], |row| row.get(0))
}

/// Numbers in `begin..next` that were used and have no record any more.
fn missing(
    connection: &Connection,
    begin: u64,
    next: u64,
    found: usize,
    filter: &Filter,
) -> rusqlite::Result<u64> {
    let range = [begin as i64, next as i64];
    let present = if filter.is_picky() {
        connection
            .prepare_cached("SELECT count(*) FROM records WHERE seq >= ?1 AND seq < ?2")?
            .query_row(range, |row| row.get(0))?
    } else {
        found as u64
    };
    let unused: u64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(min(last + 1, ?2) - max(first, ?1)), 0) FROM gaps
             WHERE first < ?2 AND last >= ?1",
        )?
        .query_row(range, |row| row.get(0))?;
    Ok((next - begin).saturating_sub(present + unused))
}
