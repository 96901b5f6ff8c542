//! OOM kills: which of them are one, and which are a loop.
//!
//! The kernel tells of one victim after the other. Those that it takes in one go, as where a group is killed
//! as a whole, are one kill. Kills that come back in the same group, below the same parent or to the same
//! command have one cause and are one case; often enough it is a loop, which goes on until somebody changes
//! something. Pure: sees what is recorded of each victim, and no clock but that.

pub mod culprit;
mod descent;
pub mod holders;
pub mod short;

use std::collections::VecDeque;

use self::culprit::{Blame, Growth, blame};
use super::Finding;
use crate::{
    lineage::ProcessKey,
    proto::{self, Kind, MemorySample, Oom, OomKill, OomScope, Severity},
};

const SECOND: u64 = 1_000_000_000;

/// Victims of one kill follow each other within µs; but the kernel writes a report for each, which takes up to
/// a second where its console is a slow serial line.
const JOINED_NS: u64 = SECOND;

/// Twice within this in one group, or below one parent, is a loop: restarts back off up to 5 min.
const LOOP_NS: u64 = 600 * SECOND;

/// So many times within this is one for a command, wherever it runs: a group or parent of its own for each
/// run is what containers have.
const RESTARTS: usize = 3;
pub const RESTART_NS: u64 = 1800 * SECOND;

/// Kills of a case that are remembered: enough for a period and its spread.
const TIMES: usize = 8;

/// Cases that are remembered. The least recent make room.
const CASES: usize = 64;

/// Victims of a kill that are kept one by one.
const VICTIMS: usize = 32;

/// A limit counts as met when no more than this was left of it, bytes, or a 128th of it: while the kernel
/// looks for a victim, others free a little.
const SLACK: u64 = 1 << 20;

/// What a victim means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A kill of a cause that is not known yet.
    First,
    /// One more victim of a kill.
    Victim,
    /// One more kill of the same cause.
    Again,
}

/// Kills of one cause.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub number: u64,
    pub oom: Oom,
    /// The group whose limit is met, or in which it kills; empty: the whole host.
    place: String,
    signature: u64,
    parent: Option<proto::ProcessKey>,
    /// The limit that was met at the newest kill; `None`: none was.
    limit_bytes: Option<u64>,
    /// Who asked for memory at the newest kill.
    trigger: Option<proto::ProcessKey>,
    /// When it killed, boot clock, ns, newest last.
    times: VecDeque<u64>,
    /// When the newest victim was taken.
    pub last_ns: u64,
    pub looping: bool,
}

/// What a victim comes to.
#[derive(Clone, Debug)]
pub struct Judged {
    pub step: Step,
    pub case: Case,
    /// What the kernel did, and who had the memory.
    pub oom: Oom,
    pub finding: Finding,
    /// What was known of the culprit's growth before.
    pub growth: Option<Growth>,
}

/// All that is known of kills.
#[derive(Debug, Default)]
pub struct Kills {
    cases: VecDeque<Case>,
    given: u64,
}

impl Kills {
    /// Takes a victim in; answers its case.
    pub fn took(&mut self, kill: &OomKill) -> (Step, &Case) {
        let (place, key) = (place(kill), Keys::of(kill));
        let newest_first = self.cases.iter().rev();
        let mut joined = newest_first.clone().filter(|case| case.is_going_on(kill, &place));
        let mut known = newest_first.filter(|case| case.is_same(kill, &place, &key));
        let (number, step) = match (joined.next(), known.next()) {
            (Some(case), _) => (case.number, Step::Victim),
            (None, Some(case)) => (case.number, Step::Again),
            (None, None) => {
                self.given += 1;
                (self.given, Step::First)
            }
        };
        let at = self.cases.iter().position(|case| case.number == number);
        let mut case = at.and_then(|at| self.cases.remove(at)).unwrap_or_default();
        case.number = number;
        case.take(kill, place, &key, step);
        if self.cases.len() >= CASES {
            self.cases.pop_front();
        }
        // The most recent is the last.
        self.cases.push_back(case);
        (step, &self.cases[self.cases.len() - 1])
    }

    /// Takes a victim in, and says who is to blame: by the samples before it, oldest first, and by what is known
    /// to grow.
    pub fn judge(
        &mut self,
        kill: &OomKill,
        samples: &[&MemorySample],
        growths: &[Growth],
    ) -> Judged {
        let (step, case) = self.took(kill);
        case.judged(step, samples, growths)
    }

    /// The kill that has ended whoever this process asked for memory then, by SIGKILL that the kernel sent: beside its
    /// victims it ends those that share memory with them.
    pub fn behind(&self, trigger: proto::ProcessKey, sent_ns: u64) -> Option<&Case> {
        self.cases.iter().rev().find(|case| {
            case.trigger == Some(trigger) && sent_ns.abs_diff(case.last_ns) <= JOINED_NS
        })
    }

    pub fn case(&self, number: u64) -> Option<&Case> {
        self.cases.iter().find(|case| case.number == number)
    }
}

/// What makes a victim the same as another one.
struct Keys {
    signature: u64,
    parent: Option<proto::ProcessKey>,
}

impl Keys {
    fn of(kill: &OomKill) -> Self {
        let victim = kill.victim.as_ref();
        // Everybody may be a child of init.
        let parent = victim.and_then(|victim| victim.parent).filter(|parent| parent.pid > 1);
        Self { signature: victim.map_or(0, |victim| victim.signature), parent }
    }
}

/// Whether a limit was met, as the kernel's counters say.
fn is_met(kill: &OomKill) -> bool {
    let (Some(limit), Some(used)) = (kill.limit_bytes, kill.limit_used_bytes) else { return false };
    limit.saturating_sub(used) <= SLACK.max(limit / 128)
}

/// Where kills belong together: the root group is no place.
fn place(kill: &OomKill) -> String {
    let own = kill.victim.as_ref().map_or("", |victim| victim.cgroup.as_str());
    let whose = if is_met(kill) { &kill.limit_cgroup } else { "" };
    let place = if whose.is_empty() { own } else { whose };
    if place == "/" { String::new() } else { place.to_owned() }
}

/// Who asked for memory.
fn trigger(kill: &OomKill) -> Option<proto::ProcessKey> {
    kill.trigger.as_ref()?.process
}

impl Case {
    /// It still kills: in the same place, or for the same one that asked, as where a group is killed as a whole
    /// with the groups below it. Who was born after the last victim is no part of that kill, but a new attempt.
    fn is_going_on(&self, kill: &OomKill, place: &str) -> bool {
        let victim = kill.victim.as_ref().and_then(|victim| victim.process);
        victim.is_none_or(|victim| victim.start_ns <= self.last_ns)
            && kill.at_ns.saturating_sub(self.last_ns) <= JOINED_NS
            && (self.place == place || self.trigger.is_some() && self.trigger == trigger(kill))
    }

    /// The same cause as before. Of a command alone that takes three times.
    fn is_same(&self, kill: &OomKill, place: &str, keys: &Keys) -> bool {
        let since = kill.at_ns.saturating_sub(self.last_ns);
        let command = keys.signature != 0 && keys.signature == self.signature;
        self.is_near(kill, place, keys) && since <= LOOP_NS
            || command && self.has_limit_of(kill) && since <= RESTART_NS
    }

    /// In the same place, or below the same parent: there in groups of their own it is one command at one limit, as
    /// a supervisor starts it again; others are services of one manager.
    fn is_near(&self, kill: &OomKill, place: &str, keys: &Keys) -> bool {
        let again =
            place == self.place || keys.signature == self.signature && self.has_limit_of(kill);
        !place.is_empty() && place == self.place
            || keys.parent.is_some() && keys.parent == self.parent && again
    }

    fn has_limit_of(&self, kill: &OomKill) -> bool {
        self.limit_bytes == kill.limit_bytes.filter(|_| is_met(kill))
    }

    fn take(&mut self, kill: &OomKill, place: String, keys: &Keys, step: Step) {
        self.last_ns = kill.at_ns;
        self.oom.killed += 1;
        if step != Step::Victim {
            let near = step == Step::Again && self.is_near(kill, &place, keys);
            self.oom.kills += 1;
            self.oom.victims.clear();
            self.times.push_back(kill.at_ns);
            if self.times.len() > TIMES {
                self.times.pop_front();
            }
            let within = |span: u64| {
                let recent = |at: &&u64| kill.at_ns.saturating_sub(**at) <= span;
                self.times.iter().filter(recent).count()
            };
            self.looping |= near && within(LOOP_NS) >= 2 || within(RESTART_NS) >= RESTARTS;
            self.place = place;
            self.signature = keys.signature;
            self.parent = keys.parent;
            self.limit_bytes = kill.limit_bytes.filter(|_| is_met(kill));
            self.trigger = trigger(kill);
            let (first, times) = (self.times.front().copied(), self.times.len() as u64);
            self.oom.period_ns = match first {
                Some(first) if times > 1 => kill.at_ns.saturating_sub(first) / (times - 1),
                _ => 0,
            };
        }
        if is_met(kill) {
            self.oom.set_scope(OomScope::Cgroup);
            self.oom.cgroup.clone_from(&kill.limit_cgroup);
            self.oom.limit_bytes = kill.limit_bytes;
            self.oom.peak_bytes = self.oom.peak_bytes.max(kill.limit_used_bytes);
        }
        if self.oom.victims.len() < VICTIMS {
            self.oom.victims.push(kill.clone());
        }
    }

    /// Who is to blame for its newest kill, which came by this step: by the samples before it, oldest first, and
    /// by what is known to grow.
    pub fn judged(&self, step: Step, samples: &[&MemorySample], growths: &[Growth]) -> Judged {
        let Blame { holders, culprit, growth } = blame(&self.oom, samples, growths);
        let oom = Oom { holders, ..self.oom.clone() };
        Judged { step, case: self.clone(), oom, finding: self.finding(culprit), growth }
    }

    /// Where it kills (empty: the whole host), and the newest victim's signature.
    pub fn what(&self) -> (&str, u64) {
        (&self.place, self.signature)
    }

    /// How regular it is: the spread of the times between kills by their mean; `None` below three of them.
    pub fn spread(&self) -> Option<f64> {
        let times: Vec<u64> = self.times.iter().copied().collect();
        let gaps: Vec<f64> =
            times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64).collect();
        if gaps.len() < 3 {
            return None;
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean > 0.0).then(|| variance.sqrt() / mean)
    }

    pub fn kind(&self) -> Kind {
        if self.looping { Kind::OomLoop } else { Kind::OomKill }
    }

    /// The claim. `culprit`: who grew, where that is known.
    pub fn finding(&self, culprit: Option<ProcessKey>) -> Finding {
        let newest = self.oom.victims.first().cloned().unwrap_or_default();
        Finding {
            kind: self.kind(),
            rule: if self.looping { "oom_loop" } else { "oom_kill" },
            culprit,
            group: None,
            leaf: newest.victim.and_then(|victim| victim.process).map(key),
            contain: false,
            // The kernel says so itself.
            confidence: 1.0,
            at_ns: newest.at_ns,
            measures: measures(&self.oom),
        }
    }
}

/// The numbers of a claim.
pub fn measures(oom: &Oom) -> Vec<proto::Measure> {
    let measure = |name: &str, value: f64, threshold: Option<f64>, unit: &str| proto::Measure {
        name: name.into(),
        value,
        threshold,
        unit: unit.into(),
    };
    let now = oom.victims.len();
    let mut measures = vec![measure("victims", now as f64, None, "processes")];
    let held: u64 = oom.victims.iter().map(held).sum();
    let mib = |bytes: u64| (bytes as f64 / 1_048_576.0 * 10.0).round() / 10.0;
    if held > 0 {
        measures.push(measure("held", mib(held), None, "MiB"));
    }
    if let Some(limit) = oom.limit_bytes {
        let peak = oom.peak_bytes.unwrap_or_default();
        measures.push(measure("used", mib(peak), Some(mib(limit)), "MiB"));
    }
    if oom.kills > 1 {
        let seconds = (oom.period_ns as f64 / 1e8).round() / 10.0;
        measures.push(measure("kills", oom.kills.into(), Some(2.0), "kills"));
        measures.push(measure("every", seconds, None, "s"));
    }
    measures
}

/// A host without memory is everybody's; a loop does not end by itself.
pub fn severity(oom: &Oom, kind: Kind) -> Severity {
    if kind == Kind::OomLoop || oom.scope() != OomScope::Cgroup {
        Severity::Critical
    } else {
        Severity::Warning
    }
}

/// It is over when nobody was killed again for as long as another kill would be the same cause, ns.
pub fn quiet_ns(kind: Kind) -> u64 {
    if kind == Kind::OomLoop { RESTART_NS } else { LOOP_NS }
}

/// Why it is over then.
pub fn over(quiet_ns: u64) -> String {
    format!("nobody was killed again for {} min", quiet_ns / 60 / SECOND)
}

/// What a victim held that is free now or soon, bytes: files stay in the page cache, and what others have as well
/// stays theirs.
pub fn held(kill: &OomKill) -> u64 {
    let all: u64 = [kill.anon_bytes, kill.shmem_bytes, kill.swap_bytes].into_iter().flatten().sum();
    all.saturating_sub(kill.shared_bytes.unwrap_or_default())
}

/// Whether that is the victim's own: nobody knows what one that has executed nothing has from its parent, but
/// the kernel side.
fn is_own(kill: &OomKill) -> bool {
    kill.shared_bytes.is_some() || kill.victim.as_ref().is_some_and(|it| it.signature != 0)
}

pub fn key(key: proto::ProcessKey) -> ProcessKey {
    ProcessKey::new(key.pid, key.start_ns)
}

#[cfg(test)]
mod tests;
