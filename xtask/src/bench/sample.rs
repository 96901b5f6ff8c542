//! What one look at who holds memory costs, beside the kernel's walk over all tasks by itself, and beside reading the
//! same from /proc.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tests::{Sensor, run::run, watch::number};

use super::{
    compile,
    programs::{Accounting, spent},
    row::Row,
    stats::{Interval, bootstrap, median},
};

/// Looks that are timed, and from one to the next where nothing happens.
const SAMPLES: u32 = 8;
const PERIOD: Duration = Duration::from_secs(5);

/// A walk takes ms.
const WALKED_WITHIN: Duration = Duration::from_secs(20);

const NS_PER_MS: f64 = 1e6;

/// `count`: processes in the crowd. `budget`: ms.
pub fn measure(sensor: &Sensor, count: u32, budget: f64, print: &mut dyn FnMut(Row)) -> Result<()> {
    let name = format!("one memory sample at {count} processes");
    let walker = compile("walk", include_str!("walk.c"))?;
    let (mut looks, mut walks, mut statms) = (Vec::new(), Vec::new(), Vec::new());
    let (mut by_walk, mut by_statm) = (Vec::new(), Vec::new());
    let end = Instant::now() + PERIOD * SAMPLES * 2;
    while looks.len() < SAMPLES as usize && Instant::now() < end {
        let walk = walked(&walker)?;
        let statm = statm()?;
        let look = number(&sensor.status()?["memory_sampling"]["took_ns"])? as f64 / NS_PER_MS;
        // No two looks take the same time to the nanosecond.
        if looks.last() != Some(&look) {
            looks.push(look);
            walks.push(walk);
            statms.push(statm);
            by_walk.push(look / walk);
            by_statm.push(look / statm);
        }
    }
    print(Row::new(&name, bootstrap(&looks, median), "ms", Some(budget)));
    print(Row::new(&format!("{name}: in the program"), in_program(sensor)?, "ms", None));
    for (what, times) in [("the kernel's walk alone", walks), ("/proc/<pid>/statm instead", statms)]
    {
        print(Row::new(&format!("{name}: {what}"), bootstrap(&times, median), "ms", None));
    }
    for (what, ratios) in [("the walk alone", by_walk), ("statm", by_statm)] {
        let name = format!("{name} against {what}");
        print(Row::new(&name, bootstrap(&ratios, median), "times", None));
    }
    Ok(())
}

/// ms of the kernel's walk over all tasks with a program that does nothing, after some time in which nothing happens.
fn walked(program: &Path) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(["1", &(PERIOD / 2).as_millis().to_string()]);
    let said = run(&mut command, WALKED_WITHIN)?.success()?;
    let ns: u64 = said.trim().parse().with_context(|| format!("walk printed {said:?}"))?;
    Ok(ns as f64 / NS_PER_MS)
}

/// ms to read `statm` of all processes of the host: what a tool without the kernel side reads, names and users not
/// among it.
fn statm() -> Result<f64> {
    let begin = Instant::now();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let path = entry?.path();
        let is_process =
            path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
        if is_process {
            // One that ends meanwhile is none.
            let _ = fs::read(path.join("statm"));
        }
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// ms of a look inside the program that looks, as the kernel counts it; the rest is the kernel's walk from task to
/// task, and adding up. What few processes begin or end on the host meanwhile is in it.
fn in_program(sensor: &Sensor) -> Result<Interval> {
    let _accounting = Accounting::on()?;
    let looks: Result<Vec<f64>> = (0..SAMPLES)
        .map(|_| {
            let before = spent(sensor)?;
            thread::sleep(PERIOD);
            Ok(spent(sensor)?.since(before).ns as f64 / NS_PER_MS)
        })
        .collect();
    Ok(bootstrap(&looks?, median))
}
