//! What goes when the log is over its size: the oldest bulk first, then the oldest records of
//! resolved incidents and of none, and only when nothing else is left the oldest of all.

use rusqlite::{Connection, params};

use crate::proto;

/// Records that are removed in one transaction: a millisecond or two, so that a record that somebody
/// waits for is not held up.
const PORTION: u32 = 1_024;

/// Once over the size, go down to this part of it, so that it is not done for every record.
const TARGET_PERCENT: u64 = 95;

/// Pages that are given back to the file system at once (1 MiB).
const PAGES: u32 = 256;

/// Which records may go, in the order in which they do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Bulk,
    Settled,
    Any,
}

impl Stage {
    fn condition(self) -> String {
        match self {
            Self::Bulk => format!("priority = {}", proto::Priority::Bulk as i32),
            Self::Settled => format!(
                "NOT EXISTS (SELECT 1 FROM incidents WHERE id = records.incident AND state <> {})",
                proto::State::Resolved as i32
            ),
            Self::Any => "TRUE".to_owned(),
        }
    }
}

/// Below this, the tables themselves would leave no room for records.
const MIN_BYTES: u64 = 1 << 20;

/// The log's size is looked at again when so much was written, or this part of what it may have, if that is less: a look
/// costs as much as writing what comes in a second where nothing happens.
const UNSEEN_BYTES: u64 = 256 << 10;
const UNSEEN_PART: u64 = 64;

pub(super) struct Retention {
    pub max_bytes: u64,
    shrinking: bool,
    /// Bytes that were written since a look that found nothing to do; `None`: the last one did.
    unseen: Option<u64>,
    /// No bulk stands below this number.
    bulk_from: u64,
}

impl Retention {
    pub fn new(max_bytes: u64) -> Self {
        let max_bytes = max_bytes.max(MIN_BYTES);
        Self { max_bytes, shrinking: false, unseen: None, bulk_from: 0 }
    }

    /// So much came into the log, about.
    pub fn wrote(&mut self, bytes: u64) {
        self.unseen = self.unseen.map(|unseen| unseen + bytes);
    }

    /// Removes one portion when the log is over its size; records that went, and whether it is
    /// still over.
    pub fn shrink(&mut self, connection: &mut Connection) -> rusqlite::Result<(u64, bool)> {
        let few = UNSEEN_BYTES.min(self.max_bytes / UNSEEN_PART);
        if self.unseen.is_some_and(|unseen| unseen < few) {
            return Ok((0, false));
        }
        self.unseen = None;
        let (live, file) = sizes(connection)?;
        let target =
            if self.shrinking { self.max_bytes / 100 * TARGET_PERCENT } else { self.max_bytes };
        self.shrinking = live > target;
        if !self.shrinking {
            if file > self.max_bytes {
                give_back(connection)?;
            } else {
                self.unseen = Some(0);
            }
            return Ok((0, false));
        }
        let mut removed = 0;
        for stage in [Stage::Bulk, Stage::Settled, Stage::Any] {
            removed = self.remove(connection, stage)?;
            if removed > 0 {
                break;
            }
        }
        // With nothing left to remove, the rest is what the tables need to be there at all.
        self.shrinking = removed > 0;
        Ok((removed, self.shrinking))
    }

    fn remove(&mut self, connection: &mut Connection, stage: Stage) -> rusqlite::Result<u64> {
        let from = if stage == Stage::Bulk { self.bulk_from } else { 0 };
        let transaction = connection.transaction()?;
        let (mut removed, mut last) = (0, from);
        {
            let mut statement = transaction.prepare_cached(&format!(
                "DELETE FROM records WHERE seq IN (SELECT seq FROM records
                 WHERE seq >= ?1 AND {} ORDER BY seq LIMIT ?2) RETURNING seq",
                stage.condition()
            ))?;
            let mut rows = statement.query(params![from, PORTION])?;
            while let Some(row) = rows.next()? {
                last = last.max(row.get(0)?);
                removed += 1;
            }
        }
        if stage != Stage::Bulk {
            transaction.execute(
                "DELETE FROM incidents WHERE state = ?1 AND NOT EXISTS (
                 SELECT 1 FROM records WHERE incident <> '' AND incident = incidents.id)",
                [proto::State::Resolved as i32],
            )?;
            transaction.execute_batch(
                "DELETE FROM actions WHERE NOT EXISTS (SELECT 1 FROM records WHERE seq = actions.seq);
                 DELETE FROM investigations WHERE NOT EXISTS (
                 SELECT 1 FROM incidents WHERE id = investigations.incident);",
            )?;
        }
        transaction.commit()?;
        if stage == Stage::Bulk && removed > 0 {
            self.bulk_from = last + 1;
        }
        Ok(removed)
    }
}

/// Bytes in use, and bytes of the file.
fn sizes(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (pages, free, size) =
        (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
    Ok((pages.saturating_sub(free) * size, pages * size))
}

fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    // One page a step: the statement must be run to its end.
    let mut statement =
        connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
