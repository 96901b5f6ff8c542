//! What the daemon costs where nothing happens, beside a crowd that sleeps.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tests::{
    Cage, Sensor,
    process::{self, field},
    watch::number,
    workloads::crowd,
};

use super::{
    Effort,
    row::Row,
    sample,
    stats::{bootstrap, median},
};

/// After its start a daemon settles: first writes, first looks, and for 5 s it expects more to happen.
const SETTLE: Duration = Duration::from_secs(10);

/// A thread that takes less, in percent of a core, is not told of.
const WORTH_A_ROW: f64 = 0.005;

/// Slices of the time, for an interval.
const SLICES: u32 = 10;

const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(binary: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    for &count in effort.crowds {
        // CPU in % of a core, memory in MiB, a sample in ms: the budget table.
        let (cpu_budget, memory_budget, sample_budget) =
            if count <= 1000 { (0.2, 40.0, 0.5) } else { (1.0, 80.0, 4.0) };
        let work = crowd::of(count)?;
        let cage = Cage::new(crowd::limits(count))?;
        let _crowd = crowd::start(&work, &cage)?;
        let sensor = Sensor::start_binary(binary, &cage, "")?;
        thread::sleep(SETTLE);
        let (begin, before) = (Instant::now(), threads(&sensor));
        let cpu = cpu(&sensor, effort.idle)?;
        let (took, after) = (begin.elapsed(), threads(&sensor));
        let name = format!("idle at {count} processes: CPU of a core");
        print(Row::new(&name, bootstrap(&cpu, median), "%", Some(cpu_budget)));
        for (thread, ns) in after {
            let ns = ns.saturating_sub(before.get(&thread).copied().unwrap_or_default());
            let share = 100.0 * ns as f64 / took.as_nanos() as f64;
            if share >= WORTH_A_ROW {
                print(Row::counted(&format!("{name}, {thread}"), share, "%", None));
            }
        }
        sample::measure(&sensor, count, sample_budget, print)?;
        let memory = Memory::read(&sensor)?;
        let name = format!("idle at {count} processes: anonymous + locked + maps");
        print(Row::counted(&name, memory.all() / MIB, "MiB", Some(memory_budget)));
        let name = format!("idle at {count} processes: of that, maps in the kernel");
        print(Row::counted(&name, memory.maps / MIB, "MiB", None));
    }
    Ok(())
}

/// Percent of a core, slice by slice, all processes of the daemon.
fn cpu(sensor: &Sensor, time: Duration) -> Result<Vec<f64>> {
    (0..SLICES)
        .map(|_| {
            let (begin, before) = (Instant::now(), sensor.cpu_time()?);
            thread::sleep(time / SLICES);
            let spent = sensor.cpu_time()?.saturating_sub(before);
            Ok(100.0 * spent.as_secs_f64() / begin.elapsed().as_secs_f64())
        })
        .collect()
}

/// CPU time that each thread of the daemon has used so far, ns: those of one name in one kind of process together.
fn threads(sensor: &Sensor) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for pid in sensor.processes() {
        let verb = process::argv(pid).get(1).cloned().unwrap_or_default();
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            let name = format!("{} of {verb}", read("comm").trim());
            *all.entry(name).or_default() += ns.unwrap_or_default();
        }
    }
    all
}

/// Bytes, all processes of the daemon together.
pub(super) struct Memory {
    /// Anonymous, or locked where that is more: locked memory holds most of the anonymous.
    held: f64,
    maps: f64,
}

impl Memory {
    pub fn read(sensor: &Sensor) -> Result<Self> {
        let processes = sensor.processes();
        if processes.is_empty() {
            bail!("the daemon has no processes");
        }
        let mut held = 0;
        for pid in processes {
            let file = format!("/proc/{pid}/smaps_rollup");
            let kib = |name| field(&file, name).with_context(|| format!("{file} has no {name}"));
            held += kib("Pss_Anon")?.max(kib("Locked")?) << 10;
        }
        let maps = number(&sensor.status()?["map_bytes"])?;
        Ok(Self { held: held as f64, maps: maps as f64 })
    }

    pub fn all(&self) -> f64 {
        self.held + self.maps
    }
}
