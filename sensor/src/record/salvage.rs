//! What can still be read of a corrupt log goes into the new one, newest first.
//!
//! The new log keeps the identity of the old one where that is known together with the numbers that
//! were reserved: a record is then the same to whoever has seen it before, readers go on where they
//! were, and new numbers begin behind all that may have been used. Where it is not known, the
//! records are new ones to everybody.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prost::Message as _;
use rusqlite::{Connection, OpenFlags, Row as SqlRow, Transaction, params};

use super::{KINDS, mend::Mended, numbers::Reserved, queue::Projection, schema, store, vitals};
use crate::proto;

/// The daemon starts after this at the latest: older records stay in the file that was set aside.
const TIME: Duration = Duration::from_secs(10);

/// Records that are written in one transaction.
const PORTION: usize = 1_024;

/// Portions after which the write-ahead log is copied back: it would become as large as the log.
const CHECKPOINT_EVERY: u64 = 16;

/// A damaged number of reserved numbers may be too small, though not by as much as nobody ever used: new
/// numbers begin this far behind it when nothing confirms it.
const LEAP: u64 = 1 << 32;

/// No log comes this far: a number behind it is damaged.
const MOST: u64 = 1 << 60;

/// Name in `meta` of the file that is read out, until that is done.
const UNDER_WAY: &str = "salvage";

/// Notes in the new log, before anything else is, what it is a copy of.
pub(super) fn announce(aside: &Path, into: &Connection) -> rusqlite::Result<()> {
    let name = aside.file_name().unwrap_or_default().to_string_lossy();
    let insert = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
    into.execute(insert, [UNDER_WAY, &name]).map(drop)
}

/// The new log has what it could get; from now on it is written.
pub(super) fn conclude(into: &Connection) -> rusqlite::Result<()> {
    into.execute("DELETE FROM meta WHERE key = ?1", [UNDER_WAY]).map(drop)
}

/// The file that this log is an unfinished copy of: somebody was killed while it was made.
pub(super) fn unfinished(log: &Connection, directory: &Path) -> Option<PathBuf> {
    let value = "SELECT value FROM meta WHERE key = ?1";
    let name: String = log.query_row(value, [UNDER_WAY], |row| row.get(0)).ok()?;
    // A name, not a path: whatever stands there.
    let aside = directory.join(Path::new(&name).file_name()?);
    aside.is_file().then_some(aside)
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    pub records: u64,
    pub incidents: u64,
    /// Numbers that stood on pages that cannot be read, or whose record is none any more.
    pub lost: u64,
    /// Not everything was looked at.
    pub unfinished: bool,
    /// The new log goes on under the old one's identity.
    pub same_log: bool,
}

impl Salvaged {
    fn count(&mut self, row: Counted) {
        self.records += u64::from(row.record);
        self.incidents += u64::from(row.incident);
        self.lost += u64::from(!row.record);
    }
}

/// Copies from the file at `aside` into the new log. Fails only when that cannot be written.
pub(super) fn salvage(
    aside: &Path,
    into: &mut Connection,
    known: Option<Reserved>,
) -> rusqlite::Result<Salvaged> {
    let straight = open(aside);
    // Where only the names of what is in it are damaged, or where it is, nothing else is.
    let found = |old: &Connection| {
        let mut reader = Reader::new(old, TIME);
        schema::check_tables(old, aside).is_ok() && reader.peek().is_some()
    };
    if !straight.as_ref().is_ok_and(found)
        && let Ok(mended) = Mended::new(aside)
        && let Ok(old) = open(mended.path())
    {
        return copy(&old, into, known, TIME);
    }
    if let Ok(old) = straight {
        return copy(&old, into, known, TIME);
    }
    // Nothing is left but who it was.
    let same_log = begin(into, None, known, 0)?;
    Ok(Salvaged { same_log, ..Salvaged::default() })
}

/// Copies what `old` can read in so much time into the new log. Fails only when that cannot be written.
pub(super) fn copy(
    old: &Connection,
    into: &mut Connection,
    known: Option<Reserved>,
    time: Duration,
) -> rusqlite::Result<Salvaged> {
    let mut reader = Reader::new(old, time);
    let newest = reader.peek().unwrap_or(0);
    let same_log = begin(into, meta(old), known, newest)?;
    let mut salvaged = Salvaged { same_log, ..Salvaged::default() };
    let transaction = into.transaction()?;
    copy_settings(old, &transaction)?;
    copy_gaps(old, &transaction)?;
    salvaged.incidents = copy_incidents(old, &transaction)?;
    copy_vitals(old, &transaction)?;
    transaction.commit()?;
    let mut portions = 0_u64;
    loop {
        let rows = reader.portion();
        if rows.is_empty() {
            break;
        }
        let transaction = into.transaction()?;
        for row in rows {
            salvaged.count(row.write(old, &transaction)?);
        }
        transaction.commit()?;
        portions += 1;
        if portions.is_multiple_of(CHECKPOINT_EVERY) {
            store::checkpoint(into, "PASSIVE")?;
        }
    }
    salvaged.lost += reader.lost;
    let transaction = into.transaction()?;
    copy_unsorted(&reader, &transaction, &mut salvaged)?;
    transaction.commit()?;
    salvaged.unfinished = Instant::now() >= reader.until;
    store::checkpoint(into, "TRUNCATE")?;
    Ok(salvaged)
}

/// Where a damaged number stands among others a search takes a wrong turn, and rows are there that it never finds: who
/// goes from each to its neighbour does. Only where there are more rows than were found, for it reads all of them.
fn copy_unsorted(
    reader: &Reader<'_>,
    into: &Transaction<'_>,
    salvaged: &mut Salvaged,
) -> rusqlite::Result<()> {
    if Instant::now() >= reader.until {
        return Ok(());
    }
    let there = reader.old.query_row("SELECT count(*) FROM records", [], |row| row.get(0));
    let missing = |salvaged: &Salvaged| {
        let there = there.as_ref().copied().unwrap_or(u64::MAX);
        there.saturating_sub(salvaged.records + salvaged.lost)
    };
    // From both ends: in between there may be what cannot be read.
    for direction in ["DESC", "ASC"] {
        if missing(salvaged) > 0 {
            walk(direction, reader, into, salvaged)?;
        }
    }
    if there.is_ok() && reader.lost == 0 && Instant::now() < reader.until {
        salvaged.lost += missing(salvaged);
    }
    Ok(())
}

/// Goes through all rows from one end, until one cannot be read, and copies what is not known yet.
fn walk(
    direction: &str,
    reader: &Reader<'_>,
    into: &Transaction<'_>,
    salvaged: &mut Salvaged,
) -> rusqlite::Result<()> {
    let all = format!(
        "SELECT seq, run, priority, incident, kind, record FROM records ORDER BY seq {direction}"
    );
    let Ok(mut statement) = reader.old.prepare(&all) else { return Ok(()) };
    let Ok(rows) = statement.query_map([], Old::read) else { return Ok(()) };
    let mut known = into.prepare("SELECT 1 FROM records WHERE seq = ?1")?;
    for row in rows.map_while(Result::ok).take_while(|_| Instant::now() < reader.until) {
        if known.exists([row.seq])? {
            continue;
        }
        let was_passed = reader.passed.iter().any(|numbers| numbers.contains(&row.seq));
        let row = row.write(reader.old, into)?;
        salvaged.lost = salvaged.lost.saturating_sub(u64::from(was_passed && row.record));
        // What is no record may be one of the numbers that were passed over.
        if row.record || reader.lost == 0 {
            salvaged.count(row);
        }
    }
    Ok(())
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // Read-only: what was set aside stays as it was found.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // Without it, a file that is shorter than its first page says is refused as a whole.
    connection.pragma_update(None, "writable_schema", true)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Identity and reserved numbers as the old log has them, each on its own.
fn meta(old: &Connection) -> Option<Reserved> {
    let value = |key: &str| -> Option<String> {
        old.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).ok()
    };
    let log_id = value("log_id").filter(|id| uuid::Uuid::try_parse(id).is_ok())?;
    let last = value("reserved").and_then(|text| text.parse().ok()).filter(|last| *last < MOST);
    Some(Reserved { log_id, last: last.unwrap_or(0) })
}

/// Decides who the new log is and where its numbers begin, and writes that down first of all; whether it
/// is the old one.
fn begin(
    into: &mut Connection,
    said: Option<Reserved>,
    known: Option<Reserved>,
    newest: u64,
) -> rusqlite::Result<bool> {
    let (log_id, last) = match (said, known) {
        // Both say who it is: what was reserved is known for certain.
        (Some(said), Some(known)) if said.log_id == known.log_id => {
            (Some(said.log_id), said.last.max(known.last).max(newest))
        }
        // The file beside the log is checked by its checksum, the log's own page by nothing.
        (None, Some(known)) if newest <= known.last => (Some(known.log_id), known.last),
        (Some(said), _) if said.last >= newest && said.last > 0 => {
            (Some(said.log_id), said.last + LEAP)
        }
        _ => (None, newest + LEAP),
    };
    let transaction = into.transaction()?;
    if let Some(log_id) = &log_id {
        store::set_meta(&transaction, "log_id", log_id)?;
    } else if newest == 0 {
        // A new log with nothing of the old one begins at its beginning.
        transaction.commit()?;
        return Ok(false);
    }
    store::set_meta(&transaction, "reserved", &last.to_string())?;
    // So the next run closes the gap between the records and the numbers.
    store::set_meta(&transaction, "clean", "0")?;
    transaction.commit()?;
    Ok(log_id.is_some())
}

/// As an incident's id is made, or could be.
fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn copy_settings(old: &Connection, into: &Transaction<'_>) -> rusqlite::Result<()> {
    let row = |row: &SqlRow<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
    for (key, value) in readable(old, "SELECT key, value FROM settings", row) {
        into.execute("INSERT OR REPLACE INTO settings VALUES (?1, ?2)", [key, value])?;
    }
    Ok(())
}

fn copy_gaps(old: &Connection, into: &Transaction<'_>) -> rusqlite::Result<()> {
    let row = |row: &SqlRow<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?));
    let gaps = readable(old, "SELECT first, last FROM gaps", row);
    for (first, last) in gaps.into_iter().filter(|(first, last)| first <= last && *last < MOST) {
        into.execute("INSERT OR IGNORE INTO gaps VALUES (?1, ?2)", [first, last])?;
    }
    Ok(())
}

fn copy_incidents(old: &Connection, into: &Transaction<'_>) -> rusqlite::Result<u64> {
    let mut copied = 0;
    let row = |row: &SqlRow<'_>| row.get::<_, Vec<u8>>(0);
    for blob in readable(old, "SELECT incident FROM incidents", row) {
        let Ok(incident) = proto::Incident::decode(blob.as_slice()) else { continue };
        if is_id(&incident.id) {
            store::project_incident(into, &incident)?;
            copied += 1;
        }
    }
    Ok(copied)
}

fn copy_vitals(old: &Connection, into: &Transaction<'_>) -> rusqlite::Result<()> {
    let row = |row: &SqlRow<'_>| Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?));
    for (span, sample) in readable(old, "SELECT span, sample FROM vitals", row) {
        vitals::insert(into, span, &sample)?;
    }
    Ok(())
}

/// The rows up to the first that cannot be read.
fn readable<T>(
    old: &Connection,
    sql: &str,
    row: impl FnMut(&SqlRow<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let Ok(mut statement) = old.prepare(sql) else { return Vec::new() };
    let Ok(rows) = statement.query_map([], row) else { return Vec::new() };
    rows.map_while(Result::ok).collect()
}

/// A row of `records` as the old log has it.
struct Old {
    seq: i64,
    /// None where the columns are not what they must be.
    content: Option<Content>,
}

struct Content {
    run: i64,
    priority: i32,
    incident: String,
    kind: String,
    record: Vec<u8>,
}

/// What a row brought.
#[derive(Default)]
struct Counted {
    record: bool,
    incident: bool,
}

impl Old {
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        let content = || -> rusqlite::Result<Content> {
            Ok(Content {
                run: row.get(1)?,
                priority: row.get(2)?,
                incident: row.get(3)?,
                kind: row.get(4)?,
                record: row.get(5)?,
            })
        };
        Ok(Self { seq: row.get(0)?, content: content().ok() })
    }

    /// The row as it must be to be one, with its body.
    fn valid(self) -> Option<(i64, Content, proto::Record)> {
        let content = self.content?;
        let known = KINDS.contains(&content.kind.as_str())
            && proto::Priority::try_from(content.priority).is_ok()
            && (content.incident.is_empty() || is_id(&content.incident));
        if !known || !(1..MOST as i64).contains(&self.seq) {
            return None;
        }
        let record = proto::Record::decode(content.record.as_slice()).ok()?;
        (record.kind() == content.kind).then_some((self.seq, content, record))
    }

    fn write(self, old: &Connection, into: &Transaction<'_>) -> rusqlite::Result<Counted> {
        let Some((seq, content, record)) = self.valid() else { return Ok(Counted::default()) };
        let Content { run, priority, incident, kind, record: blob } = content;
        copy_run(run, old, into)?;
        into.prepare_cached("INSERT OR IGNORE INTO records VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![seq, run, priority, incident, kind, blob])?;
        // Newest first: what is known already is newer.
        let mut counted = Counted { record: true, incident: false };
        let Some(projection) = Projection::of(record.body) else { return Ok(counted) };
        let known = match &projection {
            Projection::Incident(change) => {
                counted.incident = change.id == incident && !store::is_projected(into, &incident)?;
                !counted.incident
            }
            Projection::Action { .. } => false,
            Projection::Investigation(it) => into
                .prepare_cached("SELECT 1 FROM investigations WHERE incident = ?1 AND id = ?2")?
                .exists([&incident, &it.id])?,
        };
        if !known {
            store::project(into, seq as u64, &incident, &projection)?;
        }
        Ok(counted)
    }
}

/// Every record's run must be there, or no reader could show it.
fn copy_run(run: i64, old: &Connection, into: &Transaction<'_>) -> rusqlite::Result<()> {
    let known = into.prepare_cached("SELECT 1 FROM runs WHERE run = ?1")?.exists(params![run])?;
    if known {
        return Ok(());
    }
    let (boot_id, host) = old
        .query_row("SELECT boot_id, host FROM runs WHERE run = ?1", [run], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })
        .unwrap_or_default();
    into.execute("INSERT INTO runs VALUES (?1, ?2, ?3)", params![run, boot_id, host])?;
    Ok(())
}

/// Reads the table from its end, past what cannot be read.
struct Reader<'a> {
    old: &'a Connection,
    /// Rows with smaller numbers are still to be read.
    below: i64,
    /// Numbers that were passed over: how many, and which.
    lost: u64,
    passed: Vec<Range<i64>>,
    until: Instant,
}

impl<'a> Reader<'a> {
    fn new(old: &'a Connection, time: Duration) -> Self {
        Self { old, below: i64::MAX, lost: 0, passed: Vec::new(), until: Instant::now() + time }
    }

    /// The newest number that can be read.
    fn peek(&mut self) -> Option<u64> {
        let newest = match self.first_below(i64::MAX) {
            Ok(newest) => newest,
            Err(_) => self.pass_over().then(|| self.first_below(self.below).ok().flatten())?,
        };
        // How many numbers there were behind the newest that can be read is not known.
        self.lost = 0;
        self.passed.clear();
        self.below = newest? + 1;
        newest.map(|seq| seq as u64)
    }

    fn first_below(&self, below: i64) -> rusqlite::Result<Option<i64>> {
        let mut statement = self
            .old
            .prepare_cached("SELECT seq FROM records WHERE seq < ?1 ORDER BY seq DESC LIMIT 1")?;
        let mut rows = statement.query([below])?;
        rows.next()?.map(|row| row.get(0)).transpose()
    }

    /// The next rows; none: there is nothing left, or no time.
    fn portion(&mut self) -> Vec<Old> {
        let mut rows = Vec::new();
        while rows.is_empty() && Instant::now() < self.until {
            match self.fill(&mut rows) {
                Ok(()) => break,
                // Those before the damage count; behind it, it goes on.
                Err(_) if rows.is_empty() && !self.pass_over() => break,
                Err(_) => {}
            }
        }
        rows
    }

    fn fill(&mut self, rows: &mut Vec<Old>) -> rusqlite::Result<()> {
        let mut statement = self.old.prepare_cached(
            "SELECT seq, run, priority, incident, kind, record FROM records
             WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
        )?;
        let mut found = statement.query(params![self.below, PORTION as i64])?;
        while let Some(row) = found.next()? {
            let row = Old::read(row)?;
            // A damaged tree may send us in circles.
            if row.seq >= self.below {
                break;
            }
            self.below = row.seq;
            rows.push(row);
        }
        Ok(())
    }

    /// Goes down to the next number from which something can be read; false: there is none.
    fn pass_over(&mut self) -> bool {
        let works = |below: i64| self.first_below(below).is_ok();
        let (mut bad, mut step) = (self.below, 1_i64);
        let mut good = loop {
            let tried = self.below.saturating_sub(step);
            if tried <= 1 || Instant::now() >= self.until {
                return false;
            }
            if works(tried) {
                break tried;
            }
            bad = tried;
            step = step.saturating_mul(2);
        };
        // Between the two, the border.
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if works(middle) { good = middle } else { bad = middle }
        }
        self.lost += (self.below - good) as u64;
        self.passed.push(good..self.below);
        self.below = good;
        true
    }
}
