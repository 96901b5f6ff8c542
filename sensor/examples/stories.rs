//! Observations of memory on a clock that is set by hand: hours and days of a leak, of a day and its night, of a
//! cache that warms up, as a sensor would have recorded them.
//!
//! `stories DIRECTORY` writes a file for each into that directory; `sensor replay FILE` puts it through the detectors.
//! `tests/traces` has them with their labels.

use std::path::Path;

use anyhow::{Context as _, Result};
use prost_types::Timestamp;
use sensor::{
    proto::{
        HostMemory, MemorySample, Observation, ProcessKey, Record, TreeMemory, observation::Fact,
        record::Body,
    },
    record::Exporter,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// When the sensor began, boot clock, s; and at 2026-11-01 00:00 UTC.
const BOOTED_S: u64 = 100_000;
const BEGAN_S: i64 = 1_793_491_200;

/// What one service holds over time.
struct Story {
    name: &'static str,
    host: u64,
    seconds: u64,
    /// Between two samples, s: a sensor takes one each 5 s; one a minute says the same of days.
    every: u64,
    bytes: fn(u64) -> u64,
}

const STORIES: [Story; 7] = [
    Story {
        name: "leak-half-a-mib-a-minute",
        host: 4 * GIB,
        seconds: 52 * HOUR,
        every: 60,
        bytes: |at| python(at, 512),
    },
    Story {
        name: "leak-5-mib-a-minute",
        host: 6 * GIB,
        seconds: 10 * HOUR,
        every: 30,
        bytes: |at| node(at, 5 * 1024),
    },
    Story {
        name: "leak-50-mib-a-minute",
        host: 8 * GIB,
        seconds: 90 * 60,
        every: 10,
        bytes: |at| python(at, 50 * 1024),
    },
    Story {
        name: "day-and-night",
        host: 16 * GIB,
        seconds: 4 * DAY,
        every: 60,
        bytes: day_and_night,
    },
    Story {
        name: "cache-that-warms-up",
        host: 16 * GIB,
        seconds: 2 * DAY,
        every: 60,
        bytes: cache,
    },
    Story {
        name: "garbage-collector",
        host: 8 * GIB,
        seconds: 4 * HOUR,
        every: 10,
        bytes: |at| GIB / 2 + 2 * GIB * (at % 1500) / 1500,
    },
    Story {
        name: "database",
        host: 16 * GIB,
        seconds: 3 * HOUR,
        every: 10,
        bytes: |at| 100 * MIB + (6 * GIB * at / HOUR).min(6 * GIB),
    },
];

/// Arenas of 1 MiB that are never given back.
fn python(at: u64, kib_a_minute: u64) -> u64 {
    80 * MIB + (at * kib_a_minute / 60 / 1024) * MIB + noise(at, 1, 512) * 1024
}

/// What is left after a collection grows, and what is allocated in between comes on top.
fn node(at: u64, kib_a_minute: u64) -> u64 {
    100 * MIB + at * kib_a_minute / 60 * 1024 + (at % 470) / 10 * 2 * MIB
}

/// By day 2.5 GiB, by night 1 GiB.
fn day_and_night(at: u64) -> u64 {
    let turn = (at as f64 / DAY as f64 * std::f64::consts::TAU).sin();
    (GIB as f64 * (1.75 + 0.75 * turn)) as u64 + noise(at, 5, 50) * MIB
}

/// Up to 4 GiB, ever slower.
fn cache(at: u64) -> u64 {
    let warm = ((1 + at / 600) as f64).ln() / (1.0 + (2 * DAY / 600) as f64).ln();
    200 * MIB + (warm * (4 * GIB) as f64) as u64
}

/// Numbers that look random and are always the same: 0 to `most` for a time and a purpose.
fn noise(at: u64, purpose: u64, most: u64) -> u64 {
    // SplitMix64 (Steele, Lea and Flood 2014).
    let mut word = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ word >> 31) % (most + 1)
}

/// A service below its supervisor, beside another one that is busy.
fn sample(story: &Story, at: u64) -> MemorySample {
    let tree = |pid: u32, parent: u32, comm: &str, own: u64, bytes: u64, processes: u32| {
        let key = |pid: u32| ProcessKey { pid, start_ns: u64::from(pid) * 1_000_000_000 };
        TreeMemory {
            root: Some(key(pid)),
            parent: (parent > 0).then(|| key(parent)),
            alive: true,
            comm: comm.into(),
            program: pid.into(),
            uid: 1000,
            session: pid,
            bytes,
            root_bytes: own,
            processes,
            ..TreeMemory::default()
        }
    };
    let (service, busy) = ((story.bytes)(at), 300 * MIB + noise(at, 30, 200) * MIB);
    let used = 4 * MIB + service + busy;
    MemorySample {
        at_ns: (BOOTED_S + at) * 1_000_000_000,
        series_ns: BOOTED_S * 1_000_000_000,
        host: Some(HostMemory {
            total_bytes: Some(story.host),
            available_bytes: Some((story.host / 4 * 3).saturating_sub(used)),
            anon_bytes: Some(story.host / 8 + used),
            shmem_bytes: Some(MIB),
            ..HostMemory::default()
        }),
        trees: vec![
            tree(10, 0, "supervisor", 4 * MIB, used, 3),
            tree(20, 10, "service", service, service, 1),
            tree(30, 10, "busy", busy, busy, 1),
        ],
        processes: 3,
        ..MemorySample::default()
    }
}

fn write(story: &Story, directory: &Path) -> Result<()> {
    let mut file =
        Exporter::create_records(&directory.join(story.name).with_extension("observations"))?;
    for (seq, at) in (1..).zip((0..story.seconds).step_by(story.every as usize)) {
        let fact = Some(Fact::Memory(sample(story, at)));
        file.record(Record {
            seq,
            host: "box".into(),
            at: Some(Timestamp { seconds: BEGAN_S + at as i64, nanos: 0 }),
            body: Some(Body::Observation(Observation { fact })),
            ..Record::default()
        })?;
    }
    file.finish()?;
    Ok(())
}

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: stories DIRECTORY")?;
    STORIES.iter().try_for_each(|story| write(story, Path::new(&directory)))
}
