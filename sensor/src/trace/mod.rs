//! Lifecycle traces: every fork, exec and exit of a host in a [`file`], recorded by the kernel side
//! ([`recorder`]) and put through the same gates and detectors again ([`replay`]), without root,
//! without that kernel, and with other thresholds if one likes.

mod comparison;
pub mod file;
pub mod observed;
pub mod recorder;
pub mod replay;
mod table;

pub use self::{
    file::{Reader, TraceError, Writer},
    replay::{Replay, Report},
};

use sensor_common::{
    ProcessKey,
    event::{Alarm, Respawned},
    recursion::Limits,
    respawn, storm,
};

use crate::proto;

fn key_of(key: Option<&proto::ProcessKey>) -> Option<ProcessKey> {
    key.filter(|key| key.pid != 0).map(|key| ProcessKey::new(key.pid, key.start_ns))
}

fn proto_key(key: ProcessKey) -> Option<proto::ProcessKey> {
    (key.tgid != 0).then_some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns })
}

/// The thresholds as a trace has them. Taken apart by name: one that is new does not compile until it
/// is here, so that a replay never compares verdicts of different thresholds.
fn proto_limits(
    limits: &Limits,
    storms: &storm::Limits,
    respawns: &respawn::Limits,
) -> proto::GateLimits {
    let &Limits {
        watch,
        contain,
        open,
        open_slow,
        loose_open,
        loose_contain,
        growth_repetitions,
        growth_growing,
        contain_live,
        zero: _,
        contain_span_ns,
    } = limits;
    let &storm::Limits { chain, chain_growth, chain_ms, growth, growth_ms, completed_percent } =
        storms;
    let &respawn::Limits { runs, window_ms, windows, life_ms, failed_percent } = respawns;
    proto::GateLimits {
        watch,
        contain,
        open,
        open_slow,
        loose_open,
        loose_contain,
        growth_repetitions,
        growth_growing,
        contain_live,
        contain_span_ns,
        chain,
        chain_growth,
        chain_ms,
        growth,
        growth_ms,
        completed_percent,
        respawn_runs: runs,
        respawn_window_ms: window_ms,
        respawn_windows: windows,
        respawn_life_ms: life_ms,
        respawn_failed_percent: failed_percent,
    }
}

/// A respawn loop's alarm as it stands with the exit that crossed.
fn respawn_verdict(respawned: &Respawned) -> proto::RespawnVerdict {
    proto::RespawnVerdict {
        parent: proto_key(respawned.alarm.top),
        runs: respawned.window.runs,
        failed: respawned.window.failed,
        row: respawned.window.row,
    }
}

/// A storm's alarm as it stands with the fork that crossed.
fn storm_verdict(alarm: &Alarm) -> proto::StormVerdict {
    proto::StormVerdict {
        rule: alarm.rule.into(),
        top: proto_key(alarm.top),
        live: alarm.live,
        grown: alarm.grown,
        forks: alarm.forks,
        exits: alarm.exits,
        span_ns: alarm.span_ns,
        chain: alarm.repetitions,
    }
}
