//! Processes of a recursive npm project that are alive when it is contained.

use std::{path::Path, time::Duration};

use anyhow::Result;
use tests::{Cage, Limits, Sensor, Workload, process::boot_ns, skip, watch::number};

use super::{
    Effort,
    row::Row,
    stats::{Interval, bootstrap, median},
};

/// npm needs 2–4 s here.
const CONTAIN_LIMIT: Duration = Duration::from_secs(40);

pub fn measure(binary: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    if let Some(reason) = skip::reason(&["npm", "node"]) {
        eprintln!("xtask: no rows for recursive npm: {reason}");
        return Ok(());
    }
    let (mut alive, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..effort.projects {
        let work = Workload::labelled("npm-missing-manifest")?;
        let cage = Cage::new(Limits::default())?;
        let sensor = Sensor::start_binary(binary, &cage, "")?;
        let mut watch = sensor.watch(0)?;
        let started = boot_ns();
        let _running = work.start(&cage)?;
        let contained =
            watch.find(CONTAIN_LIMIT, |record| record["transition"]["to"] == "contained")?.record;
        alive.push(number(&contained["transition"]["incident"]["tree"]["processes"])? as f64);
        seconds.push(number(&contained["boot_ns"])?.saturating_sub(started) as f64 / 1e9);
    }
    // The budget is for each run: the worst one counts, and what was seen is its interval.
    let most = alive.iter().copied().fold(0.0, f64::max);
    let worst = Interval { value: most, low: most, high: most, samples: alive.len() };
    print(Row::new(
        "recursive npm: processes alive when contained, most",
        worst,
        "processes",
        Some(50.0),
    ));
    print(Row::new("recursive npm: the later budget of the same", worst, "processes", Some(32.0)));
    print(Row::new("recursive npm: start to contained", bootstrap(&seconds, median), "s", None));
    Ok(())
}
