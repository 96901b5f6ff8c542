//! Memory growth: whose memory grows, how fast, and when there is none left.
//!
//! A [`Watch`] sees samples of all large trees ([`MemorySample`]) and nothing else, so that a log of them
//! replays to the same findings, bit for bit. For each tree, each sum over processes that have something
//! in common, and the host it keeps three [`rings`] of bucket minima and a short-term forecast: a fixed
//! amount of memory for a bounded number of them.
//!
//! - M1 [`fast`]: what is left is used up within a minute, or within ten and that steadily;
//! - M2, M3, M4 [`trend`]: minima over 80 minutes, 8 hours, 48 hours rise and would use it up;
//! - M5 [`trend`]: so much was wasted over 8 or 48 hours that it is worth a word though there is enough;
//! - M6 [`unattributed`]: the host's memory goes, and not into processes: tmpfs, or the kernel;
//! - R4 [`workers`]: processes pile up;
//! - R5 [`zombies`]: ended children pile up.
//!
//! A tree speaks only if its growth is at least half of what its host or cgroup grew by, for M1 a quarter of what went of
//! what was left: of a host that is always almost full every series looks as if it would soon be (on unscaled
//! production series that was 0.1 to 1 false alarms a day). One tree makes one finding until its growth is over; a
//! more urgent rule makes one more.

mod claims;
mod culprit;
mod fast;
pub mod measures;
mod rings;
mod room;
mod series;
pub mod statistics;
mod trend;
mod unattributed;
mod watch;
mod workers;
mod zombies;

pub use self::{
    claims::{Follows, Over, Whose, is_another},
    culprit::{CARRIES, MOSTLY, is_part},
    measures::{severity, summary},
    watch::{Told, Watch},
};

/// A tree below this is not told of (unless it has many processes), bytes.
pub const TOLD_OF: u64 = 64 << 20;

/// A rule of this family; the later, the more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    R5,
    R4,
    M6,
    M5,
    M4,
    M3,
    M2,
    M1,
}

impl Rule {
    pub const ALL: [Self; 8] =
        [Self::R5, Self::R4, Self::M6, Self::M5, Self::M4, Self::M3, Self::M2, Self::M1];

    /// The rule of this name; of other families none.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// What grows by it.
    pub fn follows(self) -> Follows {
        match self {
            Self::R5 => Follows::Zombies,
            Self::R4 => Follows::Processes,
            Self::M6 => Follows::Host,
            Self::M5 | Self::M4 | Self::M3 | Self::M2 | Self::M1 => Follows::Bytes,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::R5 => "R5",
            Self::R4 => "R4",
            Self::M6 => "M6",
            Self::M5 => "M5",
            Self::M4 => "M4",
            Self::M3 => "M3",
            Self::M2 => "M2",
            Self::M1 => "M1",
        }
    }
}

/// Thresholds; the reason of each stands in the default configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub growth: bool,
    pub growth_mib: u32,
    pub growth_percent: u32,
    pub reserve_percent: u32,
    pub share_percent: u32,
    pub fast_s: u32,
    pub soon_s: u32,
    pub fast_share_percent: u32,
    pub urgent_s: u64,
    pub medium_s: u64,
    pub slow_s: u64,
    pub bloat_mib: u32,
    pub bloat_percent: u32,
    pub accumulation: bool,
    pub second_workers: u32,
    pub minute_workers: u32,
    pub slow_workers: u32,
    pub unreaped: bool,
    pub zombies: u32,
    pub many_zombies: u32,
}

impl Default for Limits {
    fn default() -> Self {
        crate::config::Detect::default().memory()
    }
}

#[cfg(test)]
mod tests;
