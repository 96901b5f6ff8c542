//! What became of a bomb, kept for the page about kernels: how many of it stand, and whether its limit
//! stopped it before the sensor did.

use std::{env, fs::OpenOptions, io::Write as _};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Cage, Sensor};

/// Names the file that facts are kept in, if anybody wants them.
pub const FILE: &str = "SENSOR_BOMBS_FILE";

/// A bomb that was contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bomb {
    /// As it is labelled.
    pub name: String,
    /// What the brake was, in the words of the status.
    pub brake: String,
    pub rule: String,
    /// Processes that stand.
    pub alive: u64,
    /// Forks that its limit refused.
    pub refused: u64,
    /// Forks that were paused, and those that came past the mark.
    pub paused: u64,
    pub passed: u64,
    /// Events that the kernel side has lost meanwhile, those that another program stood in for included.
    pub lost: u64,
}

impl Bomb {
    /// Of a contained incident in its cage.
    pub fn of(name: &str, sensor: &Sensor, cage: &Cage, incident: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
        let actions = incident["actions"].as_array().context("an incident without actions")?;
        // A tree that was held first has two of them, which count from zero each.
        let counted = |what: &str| {
            let braked = actions.iter().filter(|one| one["kind"] == "brake");
            braked.filter_map(|one| one["braked"][what].as_u64()).sum()
        };
        let losses = sensor.status()?["losses"].clone();
        Ok(Self {
            name: name.to_owned(),
            brake: text(&sensor.part("brake")?["detail"])?,
            rule: text(&incident["finding"]["rule"])?,
            alive: cage.count() as u64,
            refused: cage.refused_forks()?,
            paused: counted("paused"),
            passed: counted("passed"),
            lost: losses
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one["count"].as_u64())
                .sum(),
        })
    }

    /// Prints it, and keeps it where somebody wants it.
    pub fn note(&self) -> Result<()> {
        let line = serde_json::to_string(self)? + "\n";
        eprint!("{line}");
        let Some(file) = env::var_os(FILE) else { return Ok(()) };
        let mut kept = OpenOptions::new().create(true).append(true).open(file)?;
        Ok(kept.write_all(line.as_bytes())?)
    }
}
