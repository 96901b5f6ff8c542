//! The tables of `log.db`, and how the file is opened, checked, protected and, when it is corrupt,
//! set aside.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
    },
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use prost::Message as _;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, ffi};
use rustix::fs::Access;

use super::{FILE, LogError, queue::Projection, store};
use crate::proto;

/// "snsr": tells the file from any other SQLite database.
const APPLICATION_ID: i64 = 0x736e_7372;
/// Raised with every change of the tables.
const VERSION: i64 = 2;

/// Another connection holds the write lock only against the contract (a backup tool, say): worth a
/// short wait, then it counts as a failing disk.
const BUSY: Duration = Duration::from_secs(2);

/// Directory in which a log is made before it takes the place of a corrupt one.
const FRESH: &str = "log.new";

/// Corrupt files that are kept: enough to look into, not enough to fill the disk.
const CORRUPT_KEPT: u32 = 3;

/// As the first version made them. What came later is in `STEPS`, for new files as for old ones.
const TABLES: &str = "
    -- log_id, reserved, clean
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- What all records of one run of the daemon share.
    CREATE TABLE runs (run INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, host TEXT NOT NULL);
    -- Numbers that were reserved and never used.
    CREATE TABLE gaps (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        incident TEXT NOT NULL,
        kind TEXT NOT NULL,
        record BLOB NOT NULL
    );
    CREATE INDEX records_by_incident ON records (incident) WHERE incident <> '';
    -- Incidents as their newest transition leaves them.
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY,
        kind INTEGER NOT NULL,
        severity INTEGER NOT NULL,
        state INTEGER NOT NULL,
        opened_ns INTEGER NOT NULL,
        -- Wall clock, ns since 1970.
        opened_at INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        incident BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX incidents_by_time ON incidents (opened_at);
";

/// What each version adds to the one before it, from version 2 on.
const STEPS: [&str; (VERSION - 1) as usize] = ["
    -- Interventions; the records have all about them.
    CREATE TABLE actions (
        seq INTEGER PRIMARY KEY,
        incident TEXT NOT NULL,
        kind INTEGER NOT NULL,
        ok INTEGER NOT NULL
    );
    CREATE INDEX actions_by_incident ON actions (incident);
    -- Investigations as their newest record leaves them.
    CREATE TABLE investigations (
        incident TEXT NOT NULL,
        id TEXT NOT NULL,
        state INTEGER NOT NULL,
        investigation BLOB NOT NULL,
        PRIMARY KEY (incident, id)
    ) WITHOUT ROWID;
    -- The flight recorder: two rings, of seconds and of minutes. No records: they have no number, and
    -- readers of the log do not get them.
    CREATE TABLE vitals (
        -- What a sample covers, s.
        span INTEGER NOT NULL,
        -- Grows by one with each.
        ordinal INTEGER NOT NULL,
        sample BLOB NOT NULL,
        PRIMARY KEY (span, ordinal)
    ) WITHOUT ROWID;
"];

/// Creates the directory for its owner and `reader_gid`, or sees that it can be used so.
pub(super) fn prepare_directory(path: &Path, reader_gid: Option<u32>) -> Result<(), LogError> {
    let failed = |source| LogError::Directory { path: path.to_owned(), source };
    let new = !path.exists();
    if let Some(parent) = path.parent() {
        // Those above it are not ours, and readers have to pass.
        fs::create_dir_all(parent).map_err(failed)?;
    }
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed)?;
    // SQLite syncs this directory, which keeps the names of its files; its own name is in the next.
    if let Some(parent) = path.parent().filter(|_| new) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    let found = fs::metadata(path).map_err(failed)?;
    if found.mode() & 0o002 != 0 {
        return Err(LogError::Unsafe(path.to_owned()));
    }
    // What the administrator has set stays, as long as readers can pass.
    if let Some(gid) = reader_gid
        && found.mode() & 0o005 != 0o005
        && (found.gid() != gid || found.mode() & 0o050 != 0o050)
    {
        chown(path, None, Some(gid)).map_err(failed)?;
        let mode = found.mode() & 0o7777 | 0o050;
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

/// Opens the log for writing; `true`: it is new.
pub(super) fn open(
    directory: &Path,
    reader_gid: Option<u32>,
) -> Result<(Connection, bool), LogError> {
    let path = directory.join(FILE);
    protect(&path, reader_gid)
        .map_err(|source| LogError::Directory { path: directory.to_owned(), source })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<(Connection, i64)> {
        let connection = connect(&path, flags)?;
        connection.busy_timeout(BUSY)?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((connection, version))
    };
    let (mut connection, version) = open().map_err(|source| failure(&path, source))?;
    if version > VERSION {
        return Err(LogError::Newer { path, version });
    }
    // A byte of the header can forbid it, and only the header: the disk can be written.
    let forbidden = connection.is_readonly(MAIN_DB).map_err(|source| failure(&path, source))?
        && rustix::fs::access(&path, Access::WRITE_OK).is_ok();
    if forbidden {
        let why = "its header says that nobody may write it".into();
        return Err(LogError::Corrupt { path, why });
    }
    let new = version == 0;
    set_up(&mut connection, version).map_err(|source| failure(&path, source))?;
    check_tables(&connection, &path)?;
    Ok((connection, new))
}

#[cfg(not(test))]
fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, flags)
}

/// Tests put a disk of their own below some files.
#[cfg(test)]
fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    match super::tests::disk::below(path) {
        Some(name) => Connection::open_with_flags_and_vfs(path, flags, name),
        None => Connection::open_with_flags(path, flags),
    }
}

/// Creates the file for its owner and `reader_gid` before SQLite does; SQLite gives the files
/// beside it the same owner and mode.
///
/// An existing file is not opened here: closing it again would drop the locks of every other
/// connection in this process (POSIX locks belong to the process, not the descriptor).
fn protect(path: &Path, reader_gid: Option<u32>) -> io::Result<()> {
    let mode = if reader_gid.is_some() { 0o640 } else { 0o600 };
    match OpenOptions::new().create_new(true).write(true).mode(mode).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for (path, metadata) in
        [(path.to_owned(), fs::metadata(path)), beside(path, "-wal"), beside(path, "-shm")]
    {
        let Ok(metadata) = metadata else { continue };
        if let Some(gid) = reader_gid
            && metadata.gid() != gid
        {
            chown(&path, None, Some(gid))?;
        }
        if metadata.mode() & 0o777 != mode {
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// What SQLite keeps beside a database under this suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> (PathBuf, io::Result<fs::Metadata>) {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    let path = PathBuf::from(name);
    let metadata = fs::metadata(&path);
    (path, metadata)
}

fn set_up(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    let new = version == 0;
    if new {
        // Only before the first table: space is given back page by page.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The writer checkpoints when nobody waits, not inside a commit.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
    // KiB. Appending needs the last page of the table and of two indexes.
    connection.pragma_update(None, "cache_size", -2_048)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if new {
        let log_id = uuid::Uuid::new_v4().to_string();
        connection.pragma_update(None, "synchronous", "FULL")?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.execute(
            "INSERT INTO meta VALUES ('log_id', ?1), ('reserved', '0'), ('clean', '1')",
            [log_id],
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        for step in STEPS {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
        // The tables stand in the file itself from now on, not only in what is written ahead of it.
        store::checkpoint(connection, "TRUNCATE")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
    } else if version < VERSION {
        migrate(connection, version)?;
    }
    Ok(())
}

/// Brings the tables of an older version up to ours, in one transaction: an older sensor can read the
/// file until it is done, and only a newer one afterwards.
fn migrate(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction()?;
    for step in STEPS.iter().skip((version - 1).max(0) as usize) {
        transaction.execute_batch(step)?;
    }
    if version < 2 {
        // By the index: records of no incident are by far the most, and have none of this.
        let mut statement = transaction.prepare(
            "SELECT seq, incident, record FROM records
             WHERE incident <> '' AND kind IN ('action', 'investigation')",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(record) = proto::Record::decode(row.get_ref(2)?.as_blob()?) else { continue };
            let Some(projection) = Projection::of(record.body) else { continue };
            store::project(&transaction, row.get(0)?, &row.get::<_, String>(1)?, &projection)?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    tracing::info!("the log was brought from version {version} of its tables to {VERSION}");
    Ok(())
}

/// Looks for damage; reads the whole file.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), LogError> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| failure(path, source))?;
    if found == "ok" {
        check_tables(connection, path)
    } else {
        Err(LogError::Corrupt { path: path.to_owned(), why: found })
    }
}

/// Tables and indexes are the ones that we make: a name with another letter in it is sound to SQLite, and
/// nobody who asks for it finds it.
pub(super) fn check_tables(connection: &Connection, path: &Path) -> Result<(), LogError> {
    static OURS: LazyLock<rusqlite::Result<Vec<String>>> = LazyLock::new(|| {
        let empty = Connection::open_in_memory()?;
        empty.execute_batch(TABLES)?;
        STEPS.iter().try_for_each(|step| empty.execute_batch(step))?;
        definitions(&empty)
    });
    let there = definitions(connection).map_err(|source| failure(path, source))?;
    match &*OURS {
        Ok(ours) => match ours.iter().find(|it| !there.contains(it)) {
            Some(missing) => Err(LogError::Corrupt {
                path: path.to_owned(),
                why: format!("it has lost {missing}"),
            }),
            None => Ok(()),
        },
        // No memory for an empty database: others will say so.
        Err(error) => {
            tracing::warn!("the log's tables are not compared: {error}");
            Ok(())
        }
    }
}

/// What stands in a database, as it was defined, on one line each, without comments.
fn definitions(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare("SELECT tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let defined = statement.query_map([], |row| {
        let (table, sql): (String, String) = (row.get(0)?, row.get(1)?);
        let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
        let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        Ok(format!("{table}: {}", words.join(" ")))
    })?;
    defined.collect()
}

/// A connection that looks through the file while others use it.
pub(super) fn open_to_check(directory: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.join(FILE), flags)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // KiB. Pages are read in order and once.
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}

/// Name for a corrupt log; of those there are already, the newest few stay.
pub(super) fn name_aside(directory: &Path) -> Result<PathBuf, LogError> {
    let failed = |source| LogError::Directory { path: directory.to_owned(), source };
    let aside = |n: u32| directory.join(format!("{FILE}.corrupt-{n}"));
    let taken = fs::read_dir(directory)
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix(FILE)?.strip_prefix(".corrupt-")?.parse::<u32>().ok()
        })
        .collect::<Vec<_>>();
    let n = taken.iter().max().map_or(1, |newest| newest.saturating_add(1));
    for old in taken.into_iter().filter(|old| old.saturating_add(CORRUPT_KEPT) <= n) {
        remove(&aside(old)).map_err(failed)?;
        remove(&beside(&aside(old), "-wal").0).map_err(failed)?;
    }
    Ok(aside(n))
}

/// Moves a corrupt log out of the way and an empty one, which `prepare` writes into first, in its place.
pub(super) fn replace(
    directory: &Path,
    aside: &Path,
    reader_gid: Option<u32>,
    prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), LogError> {
    let path = directory.join(FILE);
    let failed = |source| LogError::Directory { path: directory.to_owned(), source };
    let connection = fresh(directory, reader_gid)?;
    prepare(&connection)
        // All of it stands in the one file then.
        .and_then(|()| store::checkpoint(&connection, "TRUNCATE"))
        .map_err(|source| failure(&path, source))?;
    drop(connection);
    // The write-ahead log belongs to the file; the shared memory is only an index of it.
    remove(&beside(&path, "-shm").0).map_err(failed)?;
    let ahead = beside(&path, "-wal");
    if ahead.1.is_ok() {
        fs::rename(ahead.0, beside(aside, "-wal").0).map_err(failed)?;
    }
    fs::rename(&path, aside).map_err(failed)?;
    take_fresh(directory).map_err(failed)
}

/// An empty log in a directory of its own.
fn fresh(directory: &Path, reader_gid: Option<u32>) -> Result<Connection, LogError> {
    let fresh = directory.join(FRESH);
    let make = || -> io::Result<()> {
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        DirBuilder::new().mode(0o700).create(&fresh)
    };
    make().map_err(|source| LogError::Directory { path: directory.to_owned(), source })?;
    Ok(open(&fresh, reader_gid)?.0)
}

/// The first page of an empty log.
pub(super) fn first_page(directory: &Path) -> io::Result<Vec<u8>> {
    // Its tables stand in the file itself as soon as it is closed.
    drop(fresh(directory, None).map_err(io::Error::other)?);
    let fresh = directory.join(FRESH);
    let mut page = fs::read(fresh.join(FILE))?;
    fs::remove_dir_all(&fresh)?;
    page.truncate(4_096);
    Ok(page)
}

/// The empty log takes its place, also where whoever made it could not do that any more.
pub(super) fn take_fresh(directory: &Path) -> io::Result<()> {
    let (path, fresh) = (directory.join(FILE), directory.join(FRESH));
    if !path.exists() && fresh.join(FILE).exists() {
        fs::rename(fresh.join(FILE), &path)?;
        fs::remove_dir_all(&fresh)?;
    }
    Ok(())
}

/// Puts a corrupt log back in the place of its copy, into which nobody has written yet.
pub(super) fn put_back(directory: &Path, aside: &Path) -> Result<(), LogError> {
    let path = directory.join(FILE);
    let put_back = || -> io::Result<()> {
        remove_beside(directory)?;
        remove(&path)?;
        let ahead = beside(aside, "-wal");
        if ahead.1.is_ok() {
            fs::rename(ahead.0, beside(&path, "-wal").0)?;
        }
        fs::rename(aside, &path)
    };
    put_back().map_err(|source| LogError::Directory { path: directory.to_owned(), source })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Sorts an error of SQLite: damage that a new file cures, or a disk that may come back.
pub(super) fn failure(path: &Path, source: rusqlite::Error) -> LogError {
    if is_damage(&source) {
        LogError::Corrupt { path: path.to_owned(), why: source.to_string() }
    } else {
        LogError::Database { path: path.to_owned(), source }
    }
}

/// The file is not what SQLite made of it, ends too early, or lacks what every log has.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    // All statements and all values are ours: what they name is no more called so, a row of `meta` is gone,
    // or a value is not what was put there.
    if matches!(
        error,
        Error::SqlInputError { .. }
            | Error::QueryReturnedNoRows
            | Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
    ) {
        return true;
    }
    // Has no code of its own (sqlite3InitOne): the header names a format that there never was.
    if error.to_string().starts_with("unsupported file format") {
        return true;
    }
    let Some(error) = error.sqlite_error() else { return false };
    matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        || error.extended_code == ffi::SQLITE_IOERR_SHORT_READ
}

/// Removes what SQLite keeps beside a database that is gone.
pub(super) fn remove_beside(directory: &Path) -> io::Result<()> {
    let path = directory.join(FILE);
    remove(&beside(&path, "-wal").0)?;
    remove(&beside(&path, "-shm").0)
}

/// (device, inode) of the file at the path; none where there is none.
///
/// The file is not opened: closing it would drop this process's locks on it.
pub(super) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The write-ahead log of the database in this directory.
pub(super) fn wal(directory: &Path) -> PathBuf {
    beside(&directory.join(FILE), "-wal").0
}

/// Size of the log on disk, bytes: the database and what is written ahead of it.
pub fn disk_bytes(directory: &Path) -> u64 {
    let path = directory.join(FILE);
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    size(&path) + size(&beside(&path, "-wal").0)
}
