//! Whether an investigation may begin, must wait, or may not. Pure: time comes in.
//!
//! One agent at a time is on the host; who comes meanwhile waits by severity. All of an hour and of a day are
//! bounded together, a part of the day is kept for critical incidents, and one cause is not looked into
//! twice for nothing. Whoever is refused is told the bound, what is used of it, and when it will be possible.
//!
//! - `denied`: the refusals, as sentences
//! - `ledger`: what was spent, and when

mod denied;
mod ledger;
#[cfg(test)]
mod tests;

use self::ledger::{Entry, HOUR_NS, Ledger};
pub use self::{
    denied::{Denied, What},
    ledger::Earlier,
};
use super::{meter, prices::Estimate};
use crate::{
    config::{Bounds, Day, Investigate, Usd},
    proto::{self, Severity},
};

/// Investigations that wait for the one that runs: at 15 minutes each the last of them begins four hours later, and
/// hardly any incident lives as long.
pub const QUEUE: usize = 16;

/// Of what one run may take, percent: with less left of the day it would be cut off before it has come to anything.
const LEAST_PERCENT: u64 = 10;

const NS_PER_S: u64 = 1_000_000_000;

/// Bounds over all investigations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub per_hour: u32,
    pub cooldown_s: u32,
    pub day: Day,
    /// Of one run.
    pub tokens: u64,
    pub usd: Usd,
}

impl Limits {
    pub fn of(config: &Investigate) -> Self {
        Self {
            per_hour: config.max_per_hour,
            cooldown_s: config.cooldown_s,
            day: config.day.clone(),
            tokens: config.run.tokens,
            usd: config.run.usd,
        }
    }
}

/// Who wants an investigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// This program.
    Itself,
    /// A person, who is not asked why, and may have the same cause looked into again; bounds hold for persons, too.
    Hand,
    /// One that was cut off goes on: it was admitted before, and counts once.
    Resumed,
}

/// One that wants to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The investigation's.
    pub id: String,
    pub incident: String,
    pub severity: Severity,
    /// The incident's; empty: of no known cause.
    pub fingerprint: String,
    /// The culprit is one of our agents.
    pub ours: bool,
    pub by: By,
    /// `None`: an operator's program, of which nobody knows what it spends; only its runs are counted.
    pub estimate: Option<Estimate>,
}

/// What one run may use, its earlier lives included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub tokens: u64,
    pub usd: Usd,
}

impl Grant {
    /// The bounds of a run, cut to what is left of the day.
    pub fn cut(self, bounds: &Bounds) -> Bounds {
        Bounds {
            tokens: bounds.tokens.min(self.tokens),
            usd: bounds.usd.min(self.usd),
            ..bounds.clone()
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// It counts as running until [`Budget::ended`], or [`Budget::withdraw`].
    Go(Grant),
    /// It waits, as the so many-th (1: the next one). Who had to make room for it is told so.
    Queue {
        position: usize,
        gave_way: Option<(Request, Denied)>,
    },
    Denied(Denied),
}

/// What follows from the end of one.
#[derive(Debug, Default, PartialEq)]
pub struct Next {
    /// The next one. It counts as running.
    pub go: Option<(Request, Grant)>,
    /// They have waited in vain: what was spent meanwhile is against them.
    pub denied: Vec<(Request, Denied)>,
}

#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    ledger: Ledger,
    /// Id of the one that runs.
    running: Option<String>,
    /// Most severe first, of those the oldest first.
    queue: Vec<Request>,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ledger: Ledger::default(), running: None, queue: Vec::new() }
    }

    /// Restores what was spent before this run of the daemon.
    pub fn remember(&mut self, now_ns: u64, earlier: impl IntoIterator<Item = Earlier>) {
        for one in earlier {
            self.ledger.remember(now_ns, one);
        }
        self.ledger.prune(now_ns);
    }

    /// Whether one may begin now.
    pub fn ask(&mut self, now_ns: u64, mut request: Request) -> Admission {
        self.ledger.prune(now_ns);
        if request.by == By::Resumed && self.ledger.get(&request.id).is_none() {
            // It had waited and never begun, or that is a day ago: it counts as any other.
            request.by = By::Hand;
        }
        if request.ours {
            return Admission::Denied(Denied::Ourselves);
        }
        if let Some(denied) = self.known(&request) {
            return Admission::Denied(denied);
        }
        match self.check(now_ns, &request) {
            Err(denied) => Admission::Denied(denied),
            Ok(grant) if self.running.is_none() => {
                self.begin(now_ns, &request);
                Admission::Go(grant)
            }
            Ok(_) => self.wait(request),
        }
    }

    /// The one that runs has ended; `cost` is that of all its lives. An end of another one is none.
    pub fn ended(&mut self, now_ns: u64, id: &str, cost: &proto::Cost) -> Next {
        self.ledger.end(now_ns, id, cost.tokens, meter::micro(cost.usd));
        self.free(now_ns, id)
    }

    /// One that waits, or has been let go and was never started, is not wanted any more.
    pub fn withdraw(&mut self, now_ns: u64, id: &str) -> Next {
        self.queue.retain(|waiting| waiting.id != id);
        if self.running.as_deref() == Some(id) {
            self.ledger.undo(id);
        }
        self.free(now_ns, id)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn free(&mut self, now_ns: u64, id: &str) -> Next {
        let mut next = Next::default();
        if self.running.as_deref() == Some(id) {
            self.running = None;
        }
        self.ledger.prune(now_ns);
        while self.running.is_none() && !self.queue.is_empty() {
            let request = self.queue.remove(0);
            match self.check(now_ns, &request) {
                Ok(grant) => {
                    self.begin(now_ns, &request);
                    next.go = Some((request, grant));
                }
                Err(denied) => next.denied.push((request, denied)),
            }
        }
        next
    }

    fn begin(&mut self, now_ns: u64, request: &Request) {
        self.running = Some(request.id.clone());
        self.ledger.begin(now_ns, request);
    }

    /// Whether the same cause is looked into already, or will be.
    fn known(&self, request: &Request) -> Option<Denied> {
        if request.by != By::Itself || request.fingerprint.is_empty() {
            return None;
        }
        let covers = |fingerprint: &str, severity: Severity| {
            fingerprint == request.fingerprint && severity >= request.severity
        };
        let running = self.running.as_deref().and_then(|id| self.ledger.get(id));
        if let Some(entry) = running.filter(|entry| covers(&entry.fingerprint, entry.severity)) {
            return Some(Denied::Running { incident: entry.incident.clone() });
        }
        let mut queue = self.queue.iter();
        let same = queue.find(|waiting| covers(&waiting.fingerprint, waiting.severity))?;
        Some(Denied::Waiting { incident: same.incident.clone() })
    }

    /// Puts it where it belongs, if there is room, or something less urgent to give way.
    fn wait(&mut self, request: Request) -> Admission {
        let mut gave_way = None;
        // What it covers was of less severity.
        let covered = self.queue.iter().position(|waiting| {
            request.by == By::Itself
                && waiting.by == By::Itself
                && !request.fingerprint.is_empty()
                && waiting.fingerprint == request.fingerprint
        });
        let incident = || request.incident.clone();
        if let Some(index) = covered {
            let denied = Denied::Waiting { incident: incident() };
            gave_way = Some((self.queue.remove(index), denied));
        } else if self.queue.len() >= QUEUE {
            match self.queue.pop() {
                Some(least) if least.severity < request.severity => {
                    gave_way = Some((least, Denied::GaveWay { incident: incident() }));
                }
                least => {
                    self.queue.extend(least);
                    return Admission::Denied(Denied::Full);
                }
            }
        }
        let at = self.queue.partition_point(|waiting| waiting.severity >= request.severity);
        self.queue.insert(at, request);
        Admission::Queue { position: at + 1, gave_way }
    }

    /// Whether the bounds let it begin if nothing else runs, and how much is left for it.
    fn check(&self, now_ns: u64, request: &Request) -> Result<Grant, Denied> {
        if request.by == By::Itself {
            self.cooldown(now_ns, request)?;
        }
        if request.by != By::Resumed {
            self.hour(now_ns)?;
        }
        self.day(now_ns, request)
    }

    fn cooldown(&self, now_ns: u64, request: &Request) -> Result<(), Denied> {
        let cooldown_ns = u64::from(self.limits.cooldown_s) * NS_PER_S;
        let same = self.ledger.entries().filter(|entry| {
            !entry.fingerprint.is_empty()
                && entry.fingerprint == request.fingerprint
                && entry.severity >= request.severity
        });
        let Some(last) = same.max_by_key(|entry| entry.began) else { return Ok(()) };
        let ago_ns = last.age(now_ns);
        if ago_ns >= cooldown_ns {
            return Ok(());
        }
        Err(Denied::Cooldown {
            incident: last.incident.clone(),
            ago_ns,
            again_ns: cooldown_ns - ago_ns,
        })
    }

    fn hour(&self, now_ns: u64) -> Result<(), Denied> {
        let mut ages: Vec<u64> = self.ledger.entries().map(|entry| entry.age(now_ns)).collect();
        ages.retain(|age| *age < HOUR_NS);
        ages.sort_unstable();
        let limit = self.limits.per_hour;
        // The youngest of those that must be older than an hour.
        match (limit as usize).checked_sub(1).and_then(|index| ages.get(index)) {
            Some(age) => {
                let used = ages.len() as u64;
                Err(Denied::Hour { used, limit, again_ns: HOUR_NS - age })
            }
            None => Ok(()),
        }
    }

    fn day(&self, now_ns: u64, request: &Request) -> Result<Grant, Denied> {
        let Limits { day, tokens, usd, .. } = &self.limits;
        if request.by != By::Resumed {
            self.left(now_ns, request, What::Runs, day.runs.into(), 1)?;
        }
        let Some(estimate) = request.estimate else {
            return Ok(Grant { tokens: *tokens, usd: *usd });
        };
        // As much as one may take at most is enough.
        let need = |bound: u64, estimate: u64| {
            let least = u128::from(bound) * u128::from(LEAST_PERCENT) / 100;
            estimate.max(least as u64).min(bound)
        };
        let least = need(*tokens, estimate.tokens);
        let tokens = self.left(now_ns, request, What::Tokens, day.tokens, least)?.min(*tokens);
        let least = need(usd.0, estimate.micro_usd.unwrap_or(0));
        let left = self.left(now_ns, request, What::Usd, day.usd.0, least)?;
        Ok(Grant { tokens, usd: Usd(left.min(usd.0)) })
    }

    /// What all others have left of a bound of the day for this one; an error where that is less than it needs.
    fn left(
        &self,
        now_ns: u64,
        request: &Request,
        what: What,
        bound: u64,
        need: u64,
    ) -> Result<u64, Denied> {
        if bound == 0 {
            return Ok(u64::MAX);
        }
        let critical = request.severity >= Severity::Critical;
        let percent = if critical { 0 } else { self.limits.day.critical_percent };
        let reserve = (u128::from(bound) * u128::from(percent) / 100) as u64;
        let open = bound - reserve;
        let of = |entry: &Entry| entry.used(what);
        let others = || self.ledger.entries().filter(|entry| entry.id != request.id);
        let used = others().map(of).fold(0, u64::saturating_add);
        let left = open.saturating_sub(used);
        if left >= need {
            return Ok(left);
        }
        // One after the other is a day ago.
        let mut ends: Vec<(u64, u64)> =
            others().filter_map(|entry| Some((entry.counts_for(now_ns)?, of(entry)))).collect();
        ends.sort_unstable();
        let mut still = used;
        let again_ns = ends.into_iter().find_map(|(ns, freed)| {
            still -= freed.min(still);
            (open.saturating_sub(still) >= need).then_some(ns)
        });
        Err(Denied::Day { what, used, bound, need, reserved_percent: percent, again_ns })
    }
}
