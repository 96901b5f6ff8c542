//! What the daemon costs where nothing happens, beside a crowd that sleeps.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tests::{Cage, Sensor, process::field, watch::number, workloads::crowd};

use super::{
    Effort,
    row::Row,
    sample,
    stats::{bootstrap, median},
};

/// After its start a daemon settles: first writes, first looks.
const SETTLE: Duration = Duration::from_secs(3);

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
        let cpu = cpu(&sensor, effort.idle)?;
        let name = format!("idle at {count} processes: CPU of a core");
        print(Row::new(&name, bootstrap(&cpu, median), "%", Some(cpu_budget)));
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
