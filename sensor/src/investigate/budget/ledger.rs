//! What investigations have spent within the last day.

use prost_types::Timestamp;

use super::{Request, What};
use crate::{
    investigate::meter,
    proto::{self, InvestigationState, Severity},
};

pub const HOUR_NS: u64 = 3_600_000_000_000;

pub const DAY_NS: u64 = 24 * HOUR_NS;

const NS_PER_S: i64 = 1_000_000_000;

/// Who costs nothing: the playbook, and a person's own agent, whose bill is that person's.
const FREE: [&str; 2] = ["builtin", "mcp"];

/// One investigation.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: String,
    pub incident: String,
    pub fingerprint: String,
    pub severity: Severity,
    /// On the boot clock, ns; before zero: in an earlier boot.
    pub began: i64,
    /// `None`: it runs.
    ended: Option<i64>,
    /// Of one that runs: when its lives before this one ended.
    ended_before: Option<i64>,
    tokens: u64,
    micro_usd: u64,
}

impl Entry {
    /// Since it began, ns.
    pub fn age(&self, now_ns: u64) -> u64 {
        signed(now_ns).saturating_sub(self.began).max(0).unsigned_abs()
    }

    /// How long it goes on counting for the day, ns: for a day after its end, so that the bound holds for any 24
    /// hours. `None`: it has not ended.
    pub fn counts_for(&self, now_ns: u64) -> Option<u64> {
        let since = signed(now_ns).saturating_sub(self.ended?).max(0).unsigned_abs();
        Some(DAY_NS.saturating_sub(since))
    }

    pub fn used(&self, what: What) -> u64 {
        match what {
            What::Runs => 1,
            What::Tokens => self.tokens,
            What::Usd => self.micro_usd,
        }
    }
}

/// One of an earlier run of the daemon, as the log has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier {
    pub id: String,
    pub incident: String,
    pub fingerprint: String,
    pub severity: Severity,
    /// Since it began and ended, ns. One that has not ended ends now.
    pub began_ago_ns: u64,
    pub ended_ago_ns: u64,
    pub cost: proto::Cost,
}

impl Earlier {
    /// Of an incident that is not known yet. `None`: it has never begun, costs nothing, or is more than a day ago.
    pub fn of(investigation: &proto::Investigation, now: Timestamp) -> Option<Self> {
        let lived = investigation.lives > 0 || investigation.cost.is_some();
        let begun = match investigation.state() {
            InvestigationState::Unspecified
            | InvestigationState::Queued
            | InvestigationState::Suppressed => false,
            // Records of an older version say that also of what was refused.
            InvestigationState::Failed => lived,
            _ => true,
        };
        if !begun || FREE.contains(&investigation.agent.as_str()) {
            return None;
        }
        // A clock that was set back: as if it were now.
        let ago = |time: Option<Timestamp>| {
            let time = time.unwrap_or(now);
            let seconds = now.seconds.saturating_sub(time.seconds).saturating_mul(NS_PER_S);
            let nanos = i64::from(now.nanos).saturating_sub(time.nanos.into());
            seconds.saturating_add(nanos).max(0).unsigned_abs()
        };
        let one = Self {
            id: investigation.id.clone(),
            incident: String::new(),
            fingerprint: String::new(),
            severity: Severity::Unspecified,
            began_ago_ns: ago(investigation.started_at),
            ended_ago_ns: ago(investigation.ended_at),
            cost: investigation.cost.unwrap_or_default(),
        };
        (one.ended_ago_ns < DAY_NS).then_some(one)
    }

    /// With what its incident says of its cause.
    #[must_use]
    pub fn about(self, incident: &proto::Incident) -> Self {
        Self {
            incident: incident.id.clone(),
            fingerprint: incident.fingerprint.clone(),
            severity: incident.severity(),
            ..self
        }
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// It runs. One that is known goes on.
    pub fn begin(&mut self, now_ns: u64, request: &Request) {
        if let Some(known) = self.entries.iter_mut().find(|entry| entry.id == request.id) {
            known.ended_before = known.ended.take();
            return;
        }
        self.entries.push(Entry {
            id: request.id.clone(),
            incident: request.incident.clone(),
            fingerprint: request.fingerprint.clone(),
            severity: request.severity,
            began: signed(now_ns),
            ended: None,
            ended_before: None,
            tokens: 0,
            micro_usd: 0,
        });
    }

    pub fn end(&mut self, now_ns: u64, id: &str, tokens: u64, micro_usd: u64) {
        let ended = self.entries.iter_mut().find(|entry| entry.id == id && entry.ended.is_none());
        if let Some(entry) = ended {
            entry.ended = Some(signed(now_ns));
            // What it had spent before is in it, or was forgotten by whoever counts.
            entry.tokens = entry.tokens.max(tokens);
            entry.micro_usd = entry.micro_usd.max(micro_usd);
        }
    }

    /// It was let go and never began: only what it had spent before counts.
    pub fn undo(&mut self, id: &str) {
        self.entries.retain_mut(|entry| {
            if entry.id == id {
                entry.ended = entry.ended_before.take();
            }
            entry.id != id || entry.ended.is_some()
        });
    }

    pub fn remember(&mut self, now_ns: u64, one: Earlier) {
        let ago = |ns: u64| signed(now_ns).saturating_sub(signed(ns));
        self.entries.retain(|entry| entry.id != one.id);
        self.entries.push(Entry {
            began: ago(one.began_ago_ns),
            ended: Some(ago(one.ended_ago_ns)),
            ended_before: None,
            tokens: one.cost.tokens,
            micro_usd: meter::micro(one.cost.usd),
            id: one.id,
            incident: one.incident,
            fingerprint: one.fingerprint,
            severity: one.severity,
        });
    }

    /// Forgets what ended a day ago. Cooldowns are shorter.
    pub fn prune(&mut self, now_ns: u64) {
        self.entries.retain(|entry| entry.counts_for(now_ns) != Some(0));
    }
}

/// No clock counts three centuries.
fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
