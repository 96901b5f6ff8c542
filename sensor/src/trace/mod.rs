//! Lifecycle traces: every fork, exec and exit of a host in a [`file`], recorded by the kernel side
//! ([`recorder`]) and put through the same gates and detectors again ([`replay`]), without root,
//! without that kernel, and with other thresholds if one likes.

mod comparison;
pub mod file;
pub mod recorder;
pub mod replay;
mod table;

pub use self::{
    file::{Reader, TraceError, Writer},
    replay::{Replay, Report},
};

use sensor_common::{ProcessKey, recursion::Limits};

use crate::proto;

fn key_of(key: Option<&proto::ProcessKey>) -> Option<ProcessKey> {
    key.filter(|key| key.pid != 0).map(|key| ProcessKey::new(key.pid, key.start_ns))
}

fn proto_key(key: ProcessKey) -> Option<proto::ProcessKey> {
    (key.tgid != 0).then_some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns })
}

fn proto_limits(limits: &Limits) -> proto::GateLimits {
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
    }
}
