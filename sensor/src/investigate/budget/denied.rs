//! Why an investigation does not begin, as a sentence.

use std::fmt;

use super::QUEUE;
use crate::present::text::{dollars, grouped};

/// What is bounded over a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Runs,
    Tokens,
    /// Millionths of a US dollar.
    Usd,
}

/// Why an investigation does not begin: the bound, what is used of it, and when it will be possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the culprit is an investigation of our own: it is not investigated")]
    Ourselves,
    #[error("the same cause is being investigated for incident {incident}")]
    Running { incident: String },
    #[error("the same cause waits to be investigated for incident {incident}")]
    Waiting { incident: String },
    #[error(
        "the same cause was investigated {} ago for incident {incident}: an agent looks into it again in {}, or at once where it is more severe",
        span(*.ago_ns), span(*.again_ns)
    )]
    Cooldown { incident: String, ago_ns: u64, again_ns: u64 },
    #[error(
        "{used} of {limit} investigations an hour have begun (investigate.max_per_hour): the next one may in {}",
        span(*.again_ns)
    )]
    Hour { used: u64, limit: u32, again_ns: u64 },
    #[error("{}", day(*.what, *.used, *.bound, *.need, *.reserved_percent, *.again_ns))]
    Day {
        what: What,
        used: u64,
        bound: u64,
        /// What it needs at least.
        need: u64,
        /// Part of the bound that only critical incidents may use; 0: it is critical.
        reserved_percent: u32,
        /// `None`: never, or nobody knows.
        again_ns: Option<u64>,
    },
    #[error(
        "{QUEUE} investigations wait already that are as urgent: ask again when there are fewer"
    )]
    Full,
    #[error(
        "{QUEUE} investigations wait already, and incident {incident} is more urgent than this one"
    )]
    GaveWay { incident: String },
}

fn day(
    what: What,
    used: u64,
    bound: u64,
    need: u64,
    reserved_percent: u32,
    again_ns: Option<u64>,
) -> String {
    let (of, key) = match what {
        What::Runs => {
            (format!("{} of {} runs", grouped(used), grouped(bound)), "investigate.day.runs")
        }
        What::Tokens => {
            (format!("{} of {} tokens", grouped(used), grouped(bound)), "investigate.day.tokens")
        }
        What::Usd => (format!("{} of {}", dollars(used), dollars(bound)), "investigate.day.usd"),
    };
    let kept = match reserved_percent {
        0 => String::new(),
        percent => format!(", and {percent} % are kept for critical incidents"),
    };
    let needs = match what {
        What::Runs => String::new(),
        What::Tokens => format!("; this one needs {} at least", grouped(need)),
        What::Usd => format!("; this one needs {} at least", dollars(need)),
    };
    let again = match again_ns {
        Some(ns) => format!(": it may begin in {}", span(ns)),
        None if reserved_percent > 0 => ": only a critical one may begin".to_owned(),
        None => String::new(),
    };
    format!("{of} of the last 24 hours are used ({key}){kept}{needs}{again}")
}

/// A time to wait, never shorter than it is: `42 s`, `7 min`, `3 h 20 min`.
fn span(ns: u64) -> Span {
    Span(ns.div_ceil(1_000_000_000))
}

struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.div_ceil(60);
        match (self.0, minutes / 60, minutes % 60) {
            (0..100, ..) => write!(f, "{} s", self.0),
            (_, 0, _) => write!(f, "{minutes} min"),
            (_, hours, 0) => write!(f, "{hours} h"),
            (_, hours, minutes) => write!(f, "{hours} h {minutes} min"),
        }
    }
}
