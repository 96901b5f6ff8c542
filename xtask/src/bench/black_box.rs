//! How many records a second the log takes, and how many a client gets.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    Effort,
    row::Row,
    stats::{bootstrap, median},
};
use crate::cargo;

/// Of one row, as a bench program prints it.
#[derive(Deserialize)]
pub(super) struct Samples {
    name: String,
    samples: Vec<f64>,
}

/// Records a second: the budget table.
const STORE: f64 = 50_000.0;
const FEED: f64 = 100_000.0;

/// The bench program brings its own binary of this build.
pub fn measure(_sensor: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    let rows = samples("black_box", effort.rounds)?;
    let of = |name| of(&rows, name);
    let ratio = |some: &[f64], others: &[f64]| -> Vec<f64> {
        some.iter().zip(others).map(|(some, other)| some / other).collect()
    };
    let (bare, store) = (of("bare")?, of("store")?);
    let (feed, beside) = (of("feed")?, of("feed_beside_sleepers")?);
    let unit = "records/s";
    print(Row::at_least("log: records taken", bootstrap(store, median), unit, Some(STORE)));
    let to_bare = ratio(store, bare);
    print(Row::new(
        "log: to a database with nothing around it",
        bootstrap(&to_bare, median),
        "times",
        None,
    ));
    print(Row::at_least("feed: to one reader", bootstrap(feed, median), unit, Some(FEED)));
    let to_alone = ratio(beside, feed);
    let name = "feed: beside ten that never read, to alone";
    print(Row::at_least(name, bootstrap(&to_alone, median), "times", Some(0.9)));
    Ok(())
}

/// What a bench program of the sensor's measures in so many rounds.
pub(super) fn samples(program: &str, rounds: u32) -> Result<Vec<Samples>> {
    let mut bench = cargo::command("bench");
    bench.args(["--quiet", "-p", "sensor", "--bench", program, "--"]);
    let output = bench.arg(rounds.to_string()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the bench {program} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Samples>, _>>()
        .with_context(|| format!("the bench {program} printed something else"))
}

/// The samples of one row.
pub(super) fn of<'a>(rows: &'a [Samples], name: &str) -> Result<&'a [f64]> {
    let row = rows.iter().find(|row| row.name == name);
    Ok(&row.with_context(|| format!("the bench left out {name}"))?.samples)
}
