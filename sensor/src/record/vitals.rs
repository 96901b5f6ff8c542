//! The flight recorder's rings in the database: ten minutes of seconds, a day of minutes.

use prost::Message as _;
use rusqlite::{Connection, Transaction, params};

use crate::{proto, vitals::Span};

/// Adds a sample to the ring of its span; the oldest goes.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    span: u32,
    sample: &[u8],
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO vitals SELECT ?1, coalesce(max(ordinal), 0) + 1, ?2 FROM vitals WHERE span = ?1",
        )?
        .execute(params![span, sample])?;
    let kept = Span::ALL.iter().find(|it| it.seconds() == span).map_or(0, |it| it.kept());
    transaction
        .prepare_cached(
            "DELETE FROM vitals WHERE span = ?1
             AND ordinal <= (SELECT max(ordinal) FROM vitals WHERE span = ?1) - ?2",
        )?
        .execute(params![span, kept as i64])?;
    Ok(())
}

/// All samples: the minutes, then the seconds, each oldest first. What is none is left out.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<proto::VitalsSample>> {
    let mut statement =
        connection.prepare("SELECT sample FROM vitals ORDER BY span DESC, ordinal")?;
    let mut rows = statement.query([])?;
    let mut samples = Vec::new();
    while let Some(row) = rows.next()? {
        samples.extend(proto::VitalsSample::decode(row.get_ref(0)?.as_blob()?).ok());
    }
    Ok(samples)
}
