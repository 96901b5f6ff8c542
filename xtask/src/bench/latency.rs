//! How long it takes from a crossing in the kernel to user space, and to a durable incident; on an
//! idle machine and under a bomb of 300 tasks.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use ::tests::{
    Cage, Limits, Sensor, Watch,
    run::until,
    target,
    watch::{Arrival, number},
    workloads::script,
};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Effort,
    row::Row,
    stats::{bootstrap, percentile},
};

const BOMB: u32 = 300;

/// A crossing's record comes within milliseconds; under the bomb a client may wait for the CPU.
const RECORD_LIMIT: Duration = Duration::from_secs(30);

/// Commits for the baseline: enough for a p99.
const COMMITS: usize = 300;

/// As many bytes as a small transaction of a database in WAL mode writes: one page and its header.
const COMMIT_BYTES: usize = 4096 + 24;

/// The machine of a bench contains more often than a host ever should.
const CONFIG: &str = "[respond]\nmax_containments_per_minute = 1000";

pub fn measure(sensor: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    let bare = bare_commits()?;
    print(Row::new("bare commit: write and fdatasync, p99", p99(&bare), "ms", None));
    let durable = Some(percentile(&bare, 0.99) + 2.0);
    let mut rows = |how: &str, alarm_budget, durable_budget| -> Result<()> {
        let times = run(sensor, effort)?;
        print(Row::new(
            &format!("crossing to user space, {how}, p50"),
            p50(&times.alarms),
            "ms",
            None,
        ));
        let name = format!("crossing to user space, {how}, p99");
        print(Row::new(&name, p99(&times.alarms), "ms", Some(alarm_budget)));
        let name = format!("crossing to an incident durable and read, {how}, p99");
        print(Row::new(&name, p99(&times.durable), "ms", durable_budget));
        Ok(())
    };
    rows("idle", 1.0, durable)?;

    let cage = Cage::new(Limits::tasks(BOMB))?;
    let bomb = script::function_bomb()?;
    let _running = bomb.start(&cage)?;
    if !until(Duration::from_secs(30), || cage.refused_forks().is_ok_and(|refused| refused > 0)) {
        bail!("the bomb did not go off: {} processes", cage.count());
    }
    rows("under a bomb of 300 tasks", 5.0, Some(20.0))
}

fn p50(times: &[f64]) -> super::stats::Interval {
    bootstrap(times, |times| percentile(times, 0.5))
}

fn p99(times: &[f64]) -> super::stats::Interval {
    bootstrap(times, |times| percentile(times, 0.99))
}

/// All in ms.
#[derive(Default)]
struct Times {
    /// From the crossing to the record that user space made of it.
    alarms: Vec<f64>,
    /// From the crossing to the moment when a client had read the incident, which it gets only once
    /// it is durable: an upper bound.
    durable: Vec<f64>,
}

fn run(binary: &Path, effort: Effort) -> Result<Times> {
    let cage = Cage::new(Limits::default())?;
    let sensor = Sensor::start_binary(binary, &cage, CONFIG)?;
    let mut watch = sensor.watch(0)?;
    // Scripts that repeat themselves thrice cross the first gate and end by themselves.
    for _ in 0..effort.crossings {
        let work = script::brief(3)?;
        work.start(&cage)?.wait(RECORD_LIMIT)?;
    }
    for _ in 0..effort.containments {
        contain(&sensor, &cage, &mut watch)?;
    }
    let mut times = Times::default();
    for arrival in watch.seen() {
        if let Some(crossed) = crossing(&arrival.record)? {
            times.alarms.push(ms(crossed, number(&arrival.record["boot_ns"])?));
        }
    }
    times.durable = openings(watch.seen())?;
    if times.alarms.is_empty() || times.durable.is_empty() {
        bail!(
            "{} records hold {} alarms and {} openings: nothing to measure",
            watch.seen().len(),
            times.alarms.len(),
            times.durable.len()
        );
    }
    Ok(times)
}

/// One recursion, from its start to its end.
fn contain(sensor: &Sensor, cage: &Cage, watch: &mut Watch) -> Result<()> {
    let work = script::line(50)?;
    let _running = work.start(cage)?;
    let contained = watch.find(RECORD_LIMIT, |record| record["transition"]["to"] == "contained")?;
    let id = contained.record["incident"].as_str().context("a transition without incident")?;
    sensor.output(&["kill", id, "--yes"])?;
    watch.find(RECORD_LIMIT, |record| {
        record["incident"] == id && record["transition"]["to"] == "resolved"
    })?;
    if !cage.empties_within(RECORD_LIMIT) {
        bail!("{} processes survive a kill", cage.count());
    }
    Ok(())
}

/// Boot time of the crossing that an alarm's record tells of.
fn crossing(record: &Value) -> Result<Option<u64>> {
    let crossed = &record["observation"]["alarm"]["crossed_ns"];
    if crossed.is_null() { Ok(None) } else { number(crossed).map(Some) }
}

/// From the alarm that opened an incident to the reading of its first transition.
fn openings(records: &[Arrival]) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut last_alarm = None;
    for arrival in records {
        if let Some(crossed) = crossing(&arrival.record)? {
            let level = arrival.record["observation"]["alarm"]["level"].as_str();
            if level != Some("watch") {
                last_alarm = last_alarm.or(Some(crossed));
            }
        } else if arrival.record["kind"] == "transition" {
            if let Some(crossed) =
                last_alarm.take_if(|_| arrival.record["transition"]["to"] == "open")
            {
                times.push(ms(crossed, arrival.read_ns));
            } else if arrival.record["transition"]["to"] == "resolved" {
                last_alarm = None;
            }
        }
    }
    Ok(times)
}

/// What the disk alone takes, in ms.
fn bare_commits() -> Result<Vec<f64>> {
    let path = target::kept("bench")?.join("commit");
    let mut file =
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let page = [0x5a_u8; COMMIT_BYTES];
    let mut times = Vec::with_capacity(COMMITS);
    for _ in 0..COMMITS {
        let begin = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path)?;
    Ok(times)
}

fn ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arrival(record: Value, read_ns: u64) -> Arrival {
        Arrival { record, read_ns }
    }

    fn alarm(level: &str, crossed: &str) -> Value {
        json!({"kind": "observation", "observation": {"alarm": {"level": level, "crossed_ns": crossed}}})
    }

    #[test]
    fn an_opening_is_measured_from_its_first_alarm() {
        let open = json!({"kind": "transition", "transition": {"to": "open"}});
        let resolved = json!({"kind": "transition", "transition": {"to": "resolved"}});
        let records = [
            arrival(alarm("watch", "1000000"), 2_000_000),
            arrival(alarm("contain", "3000000"), 4_000_000),
            arrival(alarm("contain", "3500000"), 4_500_000),
            arrival(open.clone(), 5_000_000),
            arrival(alarm("contain", "6000000"), 6_000_000),
            arrival(resolved, 7_000_000),
            arrival(alarm("open", "8000000"), 8_100_000),
            arrival(open, 8_250_000),
        ];
        assert_eq!(openings(&records).unwrap(), [2.0, 0.25]);
    }
}
