//! The recordings of honest work, replayed: hours that need no hours to be judged.

use std::path::Path;

use ::tests::judge::corpus;
use anyhow::Result;

use super::judged::Replayed;

/// Replays all of them.
pub fn replay_all(sensor: &Path) -> Result<Vec<Replayed>> {
    Ok(corpus::traces()?
        .iter()
        .map(|file| Replayed {
            name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            result: corpus::replay(sensor, file).map_err(|error| format!("{error:#}")),
        })
        .collect())
}
