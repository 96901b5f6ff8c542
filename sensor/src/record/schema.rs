//! The tables of `log.db`, and how the file is opened, checked, protected and, when it is corrupt,
//! set aside.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{FILE, LogError};

/// "snsr": tells the file from any other SQLite database.
const APPLICATION_ID: i64 = 0x736e_7372;
/// Raised with every change of the tables.
const VERSION: i64 = 1;

/// Another connection holds the write lock only against the contract (a backup tool, say): worth a
/// short wait, then it counts as a failing disk.
const BUSY: Duration = Duration::from_secs(2);

/// Corrupt files that are kept: enough to look into, not enough to fill the disk.
const CORRUPT_KEPT: u32 = 3;

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

/// Creates the directory for its owner and `reader_gid`, or sees that it can be used so.
pub(super) fn prepare_directory(path: &Path, reader_gid: Option<u32>) -> Result<(), LogError> {
    let failed = |source| LogError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed)?;
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
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY)?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((connection, version))
    };
    let (mut connection, version) = open().map_err(|source| failure(&path, source))?;
    if version > VERSION {
        return Err(LogError::Newer { path, version });
    }
    let new = version == 0;
    set_up(&mut connection, new).map_err(|source| failure(&path, source))?;
    Ok((connection, new))
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

fn beside(path: &Path, suffix: &str) -> (PathBuf, io::Result<fs::Metadata>) {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    let path = PathBuf::from(name);
    let metadata = fs::metadata(&path);
    (path, metadata)
}

fn set_up(connection: &mut Connection, new: bool) -> rusqlite::Result<()> {
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
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
    }
    Ok(())
}

/// Looks for damage; reads the whole file.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), LogError> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| failure(path, source))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(LogError::Corrupt { path: path.to_owned(), why: found })
    }
}

/// Moves a corrupt log out of the way, keeping the newest few; its new name.
pub(super) fn set_aside(directory: &Path) -> Result<PathBuf, LogError> {
    let failed = |source| LogError::Directory { path: directory.to_owned(), source };
    let path = directory.join(FILE);
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
    // The write-ahead log belongs to the file; the shared memory is only an index of it.
    remove(&beside(&path, "-shm").0).map_err(failed)?;
    let wal = beside(&path, "-wal");
    if wal.1.is_ok() {
        fs::rename(wal.0, beside(&aside(n), "-wal").0).map_err(failed)?;
    }
    fs::rename(&path, aside(n)).map_err(failed)?;
    Ok(aside(n))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Sorts an error of SQLite: damage that a new file cures, or a disk that may come back.
pub(super) fn failure(path: &Path, source: rusqlite::Error) -> LogError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            LogError::Corrupt { path: path.to_owned(), why: source.to_string() }
        }
        _ => LogError::Database { path: path.to_owned(), source },
    }
}

/// Size of the log on disk, bytes: the database and what is written ahead of it.
pub fn disk_bytes(directory: &Path) -> u64 {
    let path = directory.join(FILE);
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    size(&path) + size(&beside(&path, "-wal").0)
}
