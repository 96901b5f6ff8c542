//! The recordings of honest work and the observations of memory, replayed: hours that need no hours to be judged.

use std::path::Path;

use ::tests::judge::corpus;
use anyhow::Result;

use super::judged::{Observed, Replayed};

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

/// Replays all observations.
pub fn judge_observed(sensor: &Path) -> Result<Vec<Observed>> {
    Ok(corpus::observed()?
        .iter()
        .map(|one| Observed {
            name: one.name.clone(),
            faults: corpus::judge(sensor, one).map_err(|error| format!("{error:#}")),
        })
        .collect())
}
