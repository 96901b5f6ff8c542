//! What a fork and an exec cost with the sensor on against off.
//!
//! Pairs of blocks in turn, off and on, and beside each pair a second block without the sensor: the
//! A/A ratio says what this machine's noise would claim. Because that noise is up to 4 % here in 30
//! pairs, the kernel's own count of the programs' time stands beside it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{Cage, Limits, Sensor, run::run};

use super::{
    Effort, compile,
    programs::{Accounting, spent},
    row::Row,
    stats::{Interval, bootstrap, median},
};

/// The program of the loops, and its source.
pub(super) const SPAWN: (&str, &str) = ("spawn", include_str!("spawn.c"));

/// One block: long enough for 1,000 forks, short enough that drift does not fit between two.
const BLOCK: Duration = Duration::from_millis(300);

/// Blocks of each kind between two starts of the daemon, the median of which counts.
const BLOCKS: usize = 5;

/// Good enough: half of the interval, in percent.
const NARROW: f64 = 0.5;

/// Name, argument of `spawn.c`, budget in percent.
const LOOPS: [(&str, &str, f64); 4] = [
    ("vfork+exec loop, sensor on against off", "exec", 1.0),
    ("vfork loop, sensor on against off", "vfork", 3.0),
    ("fork+exit loop, sensor on against off", "fork", 3.0),
    ("page-fault loop, sensor on against off", "touch", 1.0),
];

pub fn measure(sensor: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    let program = compile(SPAWN)?;
    let cage = Cage::new(Limits::tasks(100))?;
    let names = LOOPS.map(|(name, _, budget)| (name.to_owned(), budget));
    compare(sensor, &cage, effort, &names, &|| blocks(&program), print)?;
    count(sensor, &program, &cage, print)
}

/// Rows of what takes so much time, in turns without, without, and with a daemon. `names`: of each, with its budget in
/// percent.
pub(super) fn compare<const N: usize>(
    sensor: &Path,
    cage: &Cage,
    effort: Effort,
    names: &[(String, f64); N],
    blocks: &dyn Fn() -> Result<[f64; N]>,
    print: &mut dyn FnMut(Row),
) -> Result<()> {
    let mut ratios = [const { Vec::new() }; N];
    let mut noise = [const { Vec::new() }; N];
    let end = Instant::now() + effort.overhead;
    loop {
        let off = blocks()?;
        let again = blocks()?;
        let daemon = Sensor::start_binary(sensor, cage, "")?;
        let on = blocks()?;
        drop(daemon);
        for which in 0..N {
            noise[which].push(percent(again[which], off[which]));
            ratios[which].push(percent(on[which], f64::midpoint(off[which], again[which])));
        }
        let narrow = ratios.iter().all(|ratios| {
            let Interval { low, high, .. } = bootstrap(ratios, median);
            (high - low) / 2.0 <= NARROW
        });
        let enough = noise.iter().all(|pairs| pairs.len() >= effort.pairs);
        if (enough && narrow) || Instant::now() >= end {
            break;
        }
    }
    for (which, (name, budget)) in names.iter().enumerate() {
        print(Row::new(name, bootstrap(&ratios[which], median), "%", Some(*budget)));
        let name = format!("{name}: off against off");
        print(Row::new(&name, bootstrap(&noise[which], median), "%", None));
    }
    Ok(())
}

/// The programs' own time in each loop, as the kernel counts it.
fn count(sensor: &Path, program: &Path, cage: &Cage, print: &mut dyn FnMut(Row)) -> Result<()> {
    let daemon = Sensor::start_binary(sensor, cage, "")?;
    let _accounting = Accounting::on()?;
    for (name, what, budget) in LOOPS {
        let mut shares = Vec::new();
        let mut each = Vec::new();
        let mut missed = 0;
        for _ in 0..BLOCKS {
            let before = spent(&daemon)?;
            let (operations, ns) = block(program, what)?;
            let spent = spent(&daemon)?.since(before);
            shares.push(100.0 * spent.ns as f64 / ns as f64);
            each.push(spent.ns as f64 / operations as f64);
            missed += spent.missed;
        }
        let name = name.trim_end_matches(", sensor on against off");
        let share = format!("{name}: time inside the programs");
        print(Row::new(&share, bootstrap(&shares, median), "%", Some(budget)));
        let each_name = format!("{name}: inside the programs, each time");
        print(Row::new(&each_name, bootstrap(&each, median), "ns", None));
        print(Row::counted(
            &format!("{name}: runs that were skipped"),
            missed as f64,
            "runs",
            None,
        ));
    }
    Ok(())
}

/// Median ns for each of the loops.
fn blocks(program: &Path) -> Result<[f64; LOOPS.len()]> {
    let mut all = [const { Vec::new() }; LOOPS.len()];
    for _ in 0..BLOCKS {
        for (times, (_, what, _)) in all.iter_mut().zip(LOOPS) {
            let (operations, ns) = block(program, what)?;
            times.push(ns as f64 / operations as f64);
        }
    }
    Ok(all.map(|times| median(&times)))
}

/// Operations, and the ns that they took together.
pub(super) fn block(program: &Path, what: &str) -> Result<(u64, u64)> {
    let mut command = Command::new(program);
    command.args([what, &BLOCK.as_millis().to_string()]);
    let said = run(&mut command, BLOCK + Duration::from_secs(20))?.success()?;
    let mut numbers = said.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(operations)), Some(Ok(ns))) if operations > 0 => Ok((operations, ns)),
        _ => anyhow::bail!("spawn printed {said:?}"),
    }
}

fn percent(with: f64, without: f64) -> f64 {
    100.0 * (with / without - 1.0)
}
