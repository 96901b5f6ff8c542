//! Values that no type can refuse: ranges, and keys that must fit each other.

use std::{
    fmt::Display,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::{Config, MIB, Mode, investigate, webhook};
use crate::evidence::{changes, logs};

/// A value that cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Dotted; `[0]` behind a key is its first item.
    pub key: String,
    pub what: String,
}

pub(super) type Checked = Result<(), Problem>;

/// Repetitions are counted in 16 bits; nobody waits for ten thousand.
const REPETITIONS: RangeInclusive<u32> = 1..=10_000;

/// Shorter than the clock's tick of a slow kernel is noise, longer than an hour is no storm.
const SPAN_MS: RangeInclusive<u32> = 10..=3_600_000;

/// Arguments of a program, paths and names: more is a mistake, and would bloat each look at them.
const MAX_ITEMS: usize = 256;

/// The first problem, in the order of the keys.
pub(super) fn check(config: &Config) -> Checked {
    absolute("state_dir", &config.state_dir)?;
    absolute("runtime_dir", &config.runtime_dir)?;
    few("scope.cgroup", config.scope.cgroup.len())?;
    for path in &config.scope.cgroup {
        absolute("scope.cgroup", Path::new(path))?;
    }
    kernel(config)?;
    detect(config)?;
    thresholds(config)?;
    respond(config)?;
    range("evidence.max_processes", config.evidence.max_processes, 1..=16_384)?;
    files("evidence.files", &config.evidence.files, logs::FILES)?;
    files("evidence.deploy_markers", &config.evidence.deploy_markers, changes::MARKERS)?;
    // Less would not hold one large incident.
    range("record.max_bytes", config.record.max_bytes, 16 * MIB..=1024 * 1024 * MIB)?;
    feed(config)?;
    investigate::check::check(&config.investigate)?;
    webhook::check(&config.webhooks)
}

fn files(key: &str, paths: &[PathBuf], most: usize) -> Checked {
    if paths.len() > most {
        return problem(key, format!("{} are more than the {most} that are read", paths.len()));
    }
    paths.iter().try_for_each(|path| absolute(key, path))
}

fn feed(config: &Config) -> Checked {
    name("feed.user", &config.feed.user)?;
    if config.feed.user == "root" {
        let what = "the feed reads what strangers send, and never runs as root".to_owned();
        return problem("feed.user", what);
    }
    let tcp = &config.feed.tcp;
    if !tcp.listen.is_empty() && tcp.listen.parse::<SocketAddr>().is_err() {
        let what = format!("{:?} is no IP address with a port, as in \"0.0.0.0:7443\"", tcp.listen);
        return problem("feed.tcp.listen", what);
    }
    absolute("feed.tcp.certificate", &tcp.certificate)?;
    absolute("feed.tcp.key", &tcp.key)?;
    absolute("feed.tcp.client_ca", &tcp.client_ca)?;
    few("feed.tcp.readers", tcp.readers.len())?;
    few("feed.tcp.operators", tcp.operators.len())
}

fn kernel(config: &Config) -> Checked {
    let kernel = &config.kernel;
    range("kernel.max_processes", kernel.max_processes, 1_024..=1_048_576)?;
    range("kernel.ring_bytes", kernel.ring_bytes, 65_536..=67_108_864)?;
    if !kernel.ring_bytes.is_power_of_two() {
        let what = format!("{} is not a power of two, as the kernel asks for", kernel.ring_bytes);
        return problem("kernel.ring_bytes", what);
    }
    Ok(())
}

fn detect(config: &Config) -> Checked {
    let recursion = &config.detect.recursion;
    range("detect.recursion.watch_repetitions", recursion.watch_repetitions, REPETITIONS)?;
    range("detect.recursion.contain_repetitions", recursion.contain_repetitions, REPETITIONS)?;
    range("detect.recursion.open_repetitions", recursion.open_repetitions, REPETITIONS)?;
    range("detect.recursion.open_slow_repetitions", recursion.open_slow_repetitions, REPETITIONS)?;
    range("detect.recursion.contain_span_ms", recursion.contain_span_ms, 1..=3_600_000)?;
    range("detect.recursion.contain_live", recursion.contain_live, 1..=1_048_576)?;
    not_above(
        ("detect.recursion.watch_repetitions", recursion.watch_repetitions),
        ("contain_repetitions", recursion.contain_repetitions),
    )?;
    not_above(
        ("detect.recursion.watch_repetitions", recursion.watch_repetitions),
        ("open_repetitions", recursion.open_repetitions),
    )?;
    not_above(
        ("detect.recursion.open_repetitions", recursion.open_repetitions),
        ("open_slow_repetitions", recursion.open_slow_repetitions),
    )?;

    let argv = &config.detect.recursion_argv;
    range("detect.recursion_argv.open_repetitions", argv.open_repetitions, REPETITIONS)?;
    range("detect.recursion_argv.contain_repetitions", argv.contain_repetitions, REPETITIONS)?;
    not_above(
        ("detect.recursion_argv.open_repetitions", argv.open_repetitions),
        ("contain_repetitions", argv.contain_repetitions),
    )?;

    let growth = &config.detect.recursion_growth;
    range("detect.recursion_growth.repetitions", growth.repetitions, REPETITIONS)?;
    range("detect.recursion_growth.growing", growth.growing, REPETITIONS)?;
    not_above(
        ("detect.recursion_growth.growing", growth.growing),
        ("repetitions", growth.repetitions),
    )?;
    storms(config)
}

fn storms(config: &Config) -> Checked {
    let bomb = &config.detect.fork_bomb;
    // With 1 every shell that starts jobs would be a bomb.
    range("detect.fork_bomb.chain", bomb.chain, 2..=10_000)?;
    // A tree is looked at every eighth fork.
    range("detect.fork_bomb.growth", bomb.growth, 8..=1_048_576)?;
    range("detect.fork_bomb.span_ms", bomb.span_ms, SPAN_MS)?;

    let explosion = &config.detect.explosion;
    range("detect.explosion.growth", explosion.growth, 8..=1_048_576)?;
    range("detect.explosion.growth_per_cpu", explosion.growth_per_cpu, 0..=65_536)?;
    range("detect.explosion.span_ms", explosion.span_ms, SPAN_MS)?;
    // 0 would never cross, for which there is `enabled`.
    range("detect.explosion.completed_percent", explosion.completed_percent, 1..=100)?;
    respawns(config)
}

fn respawns(config: &Config) -> Checked {
    let respawn = &config.detect.respawn;
    // One failure is no loop.
    range("detect.respawn.runs", respawn.runs, 2..=1_000_000)?;
    range("detect.respawn.window_s", respawn.window_s, 1..=3_600)?;
    range("detect.respawn.windows", respawn.windows, 1..=1_000)?;
    range("detect.respawn.life_ms", respawn.life_ms, 1..=3_600_000)?;
    // Below it the median of the runs could be anything, and most of them a success.
    range("detect.respawn.failed_percent", respawn.failed_percent, 51..=100)?;
    memory(config)?;
    pressure(config)
}

fn memory(config: &Config) -> Checked {
    let memory = &config.detect.memory;
    range("detect.memory.growth_mib", memory.growth_mib, 1..=1_048_576)?;
    range("detect.memory.growth_percent", memory.growth_percent, 0..=90)?;
    range("detect.memory.reserve_percent", memory.reserve_percent, 0..=50)?;
    // With 0 every tree would be to blame for what another one does.
    range("detect.memory.share_percent", memory.share_percent, 1..=100)?;
    range("detect.memory.fast_share_percent", memory.fast_share_percent, 1..=100)?;
    range("detect.memory.fast_s", memory.fast_s, 1..=86_400)?;
    range("detect.memory.soon_s", memory.soon_s, 1..=86_400)?;
    for (key, hours) in [
        ("detect.memory.urgent_h", memory.urgent_h),
        ("detect.memory.medium_h", memory.medium_h),
        ("detect.memory.slow_h", memory.slow_h),
    ] {
        range(key, hours, 1..=8_760)?;
    }
    range("detect.memory.bloat_mib", memory.bloat_mib, 1..=16_777_216)?;
    range("detect.memory.bloat_percent", memory.bloat_percent, 0..=100)?;

    let workers = &config.detect.accumulation;
    for (key, count) in [
        ("detect.accumulation.in_seconds", workers.in_seconds),
        ("detect.accumulation.in_minutes", workers.in_minutes),
        ("detect.accumulation.in_hours", workers.in_hours),
    ] {
        // Fewer are not even a record high in each bucket that has to be one.
        range(key, count, 8..=1_048_576)?;
    }
    let zombies = &config.detect.zombies;
    // A tree is told of from 8 on.
    range("detect.zombies.count", zombies.count, 9..=1_048_576)?;
    // No kernel has more pids than 4,194,304.
    range("detect.zombies.many", zombies.many, 9..=4_194_304)
}

fn pressure(config: &Config) -> Checked {
    let pressure = &config.detect.pressure;
    // A level holds until it is clearly over, by a fifth of its threshold.
    range("detect.pressure.watch_percent", pressure.watch_percent, 1..=80)?;
    range("detect.pressure.warning_percent", pressure.warning_percent, 1..=80)?;
    range("detect.pressure.critical_percent", pressure.critical_percent, 1..=80)?;
    not_above(
        ("detect.pressure.critical_percent", pressure.critical_percent),
        ("warning_percent", pressure.warning_percent),
    )?;
    not_above(
        ("detect.pressure.warning_percent", pressure.warning_percent),
        ("watch_percent", pressure.watch_percent),
    )?;
    range("detect.pressure.warning_s", pressure.warning_s, 1..=600)?;
    range("detect.pressure.critical_s", pressure.critical_s, 1..=600)?;
    not_above(
        ("detect.pressure.critical_s", pressure.critical_s),
        ("warning_s", pressure.warning_s),
    )
}

fn thresholds(config: &Config) -> Checked {
    let thresholds = &config.vitals.thresholds;
    // 0: none.
    range("vitals.thresholds.memory_percent", thresholds.memory_percent, 0..=100)?;
    range("vitals.thresholds.disk_percent", thresholds.disk_percent, 0..=100)?;
    range("vitals.thresholds.cpu_percent", thresholds.cpu_percent, 0..=100)?;
    absolute("vitals.thresholds.disk", &thresholds.disk)?;
    // More often the CPUs' ticks say too little.
    range("vitals.thresholds.polling_interval_ms", thresholds.polling_interval_ms, 100..=3_600_000)
}

fn respond(config: &Config) -> Checked {
    let respond = &config.respond;
    if let Mode::Approve | Mode::Auto = respond.rules.r6 {
        let what = "a respawn loop is never stopped, by whomever it is approved: it has two processes at \
                    most, so that nothing would be saved; \"observe\" or \"suggest\"";
        return problem("respond.rules.R6", what.into());
    }
    if let Mode::Approve | Mode::Auto = respond.rules.m6 {
        let what = "what grows is in no process, so that there is nobody to stop; \"observe\" or \
                    \"suggest\"";
        return problem("respond.rules.M6", what.into());
    }
    range("respond.freeze_s", respond.freeze_s, 1..=86_400)?;
    // 0 would let the brake go before what it holds is awake.
    range("respond.brake_extra_s", respond.brake_extra_s, 1..=86_400)?;
    range("respond.max_containments_per_minute", respond.max_containments_per_minute, 1..=1_000)?;
    // 0: none. More would be a part of the shortage.
    range("respond.ballast_bytes", respond.ballast_bytes, 0..=1024 * MIB)?;
    few("respond.protect.executables", respond.protect.executables.len())?;
    for executable in &respond.protect.executables {
        absolute("respond.protect.executables", executable)?;
    }
    few("respond.protect.units", respond.protect.units.len())?;
    for unit in &respond.protect.units {
        if !unit.contains('.') || unit.contains('/') {
            let what = format!("{unit:?} is no unit; write it with its suffix, as in ssh.service");
            return problem("respond.protect.units", what);
        }
    }
    Ok(())
}

pub(super) fn problem(key: &str, what: String) -> Checked {
    Err(Problem { key: key.into(), what })
}

pub(super) fn range<T: PartialOrd + Display>(
    key: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Checked {
    if allowed.contains(&value) {
        return Ok(());
    }
    problem(key, format!("{value} is not within {} to {}", allowed.start(), allowed.end()))
}

pub(super) fn not_above<T: PartialOrd + Display>(lower: (&str, T), upper: (&str, T)) -> Checked {
    if lower.1 <= upper.1 {
        return Ok(());
    }
    problem(lower.0, format!("{} is above {} ({})", lower.1, upper.0, upper.1))
}

pub(super) fn absolute(key: &str, path: &Path) -> Checked {
    let shown = path.display();
    if !path.is_absolute() {
        return problem(key, format!("\"{shown}\" is not an absolute path"));
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return problem(key, format!("\"{shown}\" must not contain \"..\""));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return problem(key, format!("\"{shown}\" contains a NUL"));
    }
    Ok(())
}

pub(super) fn few(key: &str, items: usize) -> Checked {
    if items <= MAX_ITEMS {
        return Ok(());
    }
    problem(key, format!("{items} entries are more than {MAX_ITEMS}"))
}

/// A user, by the rules of `useradd` without its taste for lower case.
pub(super) fn name(key: &str, name: &str) -> Checked {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte);
    if !name.is_empty() && name.len() <= 64 && !name.starts_with('-') && name.bytes().all(legal) {
        return Ok(());
    }
    problem(key, format!("{name:?} is no user name"))
}
