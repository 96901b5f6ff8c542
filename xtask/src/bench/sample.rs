//! What one look at who holds memory costs, beside the kernel's walk over all tasks by itself, and beside reading the
//! same from /proc.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tests::{Sensor, run::run, watch::number};

use super::{
    compile,
    programs::{Accounting, spent},
    row::Row,
    stats::{Interval, bootstrap, median},
};

/// The program that walks, and its source.
pub(super) const WALK: (&str, &str) = ("walk", include_str!("walk.c"));

/// Looks of each kind that are timed, and from one to the next where nothing happens.
const SAMPLES: u32 = 8;
const PERIOD: Duration = Duration::from_secs(5);

/// Processes that end before a look that is to walk over all tasks, as it does where so many may have to be waited
/// for.
const ENDED: u32 = 40;

/// A walk takes ms.
const WALKED_WITHIN: Duration = Duration::from_secs(20);

/// From one question to the next how long the last look took.
const ASK_EVERY: Duration = Duration::from_secs(1);

const NS_PER_MS: f64 = 1e6;

/// `count`: processes in the crowd. `budget`: ms.
pub fn measure(sensor: &Sensor, count: u32, budget: f64, print: &mut dyn FnMut(Row)) -> Result<()> {
    let name = format!("one memory sample at {count} processes");
    let walker = compile(WALK)?;
    let (mut looks, mut walking, mut walks, mut statms) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut by_walking, mut by_walk, mut by_statm) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let walk = walked(&walker)?;
        let statm = statm()?;
        let look = next_look(sensor, false)?;
        for _ in 0..ENDED {
            run(&mut Command::new("true"), WALKED_WITHIN)?.success()?;
        }
        let long = next_look(sensor, true)?;
        looks.push(look);
        walking.push(long);
        walks.push(walk);
        statms.push(statm);
        by_walking.push(look / long);
        by_walk.push(look / walk);
        by_statm.push(look / statm);
    }
    print(Row::new(&name, bootstrap(&looks, median), "ms", Some(budget)));
    print(Row::new(&format!("{name}: in the program"), in_program(sensor)?, "ms", None));
    for (what, times) in [
        ("walking over all tasks, each eighth", walking),
        ("the kernel's walk alone", walks),
        ("/proc/<pid>/statm instead", statms),
    ] {
        print(Row::new(&format!("{name}: {what}"), bootstrap(&times, median), "ms", None));
    }
    for (what, ratios) in
        [("one that walks", by_walking), ("the walk alone", by_walk), ("statm", by_statm)]
    {
        let name = format!("{name} against {what}");
        print(Row::new(&name, bootstrap(&ratios, median), "times", None));
    }
    Ok(())
}

/// ms of the next look that walks over all tasks, or of the next that does not.
fn next_look(sensor: &Sensor, walks: bool) -> Result<f64> {
    let ask = || -> Result<(u64, u64)> {
        let sampling = sensor.status()?["memory_sampling"].take();
        Ok((number(&sampling["took_ns"])?, number(&sampling["walk_took_ns"])?))
    };
    let before = ask()?.0;
    let end = Instant::now() + PERIOD * SAMPLES;
    while Instant::now() < end {
        thread::sleep(ASK_EVERY);
        let (took, walk) = ask()?;
        // No two looks take the same time to the nanosecond.
        if took != before && (took == walk) == walks {
            return Ok(took as f64 / NS_PER_MS);
        }
    }
    bail!(
        "no look at memory {} for {:?}",
        if walks { "walked" } else { "was by table" },
        PERIOD * SAMPLES
    )
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
