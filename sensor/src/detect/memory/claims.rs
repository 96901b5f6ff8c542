//! What was told and is not over yet: one tree makes one finding.

use std::collections::BTreeMap;

use super::{Rule, culprit::Sight, fast::MORE};
use crate::lineage::ProcessKey;

/// What a finding was about, as it is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    Bytes,
    Processes,
    Zombies,
    /// The host's memory outside of processes.
    Host,
}

/// Growth that goes on.
#[derive(Clone, Debug)]
pub struct Claim {
    pub rule: Rule,
    /// The culprit, or the eldest of a group; `None`: the host.
    pub culprit: Option<ProcessKey>,
    /// Of a group all its trees, else the culprit.
    pub members: Vec<ProcessKey>,
    /// Where it began, as it is followed.
    pub base: u64,
    peak: u64,
    /// When it was told of last, ns since boot.
    told_ns: u64,
    /// When it last grew, ns of the clock.
    grew_ns: u64,
    /// How long without growth until it is over, ns.
    pub patience_ns: u64,
}

/// Growth is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Whose finding it was; `None`: the host's.
    pub culprit: Option<ProcessKey>,
    pub rule: &'static str,
    /// A sentence without its end.
    pub why: String,
    /// Boot clock, ns.
    pub at_ns: u64,
}

/// What there is now of what a claim follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    Is(u64),
    /// A sample that does not tell of all trees says no more: it is one of those that are left out.
    AtMost(u64),
}

/// Whether a growth is about somebody else than one that was told of: whoever was not born yet is not what grew. Whoever
/// joins a group is one more of the same.
pub fn is_another(known: &[ProcessKey], told_ns: u64, roots: &[ProcessKey]) -> bool {
    known.len() == 1 && roots.iter().all(|root| root.start_ns > told_ns)
}

/// Findings by their culprit.
#[derive(Clone, Debug, Default)]
pub struct Claims(BTreeMap<Option<ProcessKey>, Claim>);

impl Claim {
    pub fn new(
        rule: Rule,
        (culprit, members): (Option<ProcessKey>, Vec<ProcessKey>),
        (base, value): (u64, u64),
        (now_ns, told_ns): (u64, u64),
        patience_ns: u64,
    ) -> Self {
        Self { rule, culprit, members, base, peak: value, told_ns, grew_ns: now_ns, patience_ns }
    }

    /// Those that grow with it are followed as well. Whether there are any.
    pub fn join(&mut self, members: &[ProcessKey]) -> bool {
        let known = self.members.len();
        let new = members.iter().filter(|key| !self.members.contains(key));
        let new: Vec<ProcessKey> = new.copied().collect();
        self.members.extend(new);
        self.members.len() > known
    }

    /// A more urgent rule tells of it. What is followed is now what that rule saw, from where it stands, where that is
    /// something else than before: others (`joined`), or something else of the same.
    pub fn rise(
        &mut self,
        (rule, joined): (Rule, bool),
        (grown, value): (u64, u64),
        (now_ns, told_ns): (u64, u64),
        patience_ns: u64,
    ) {
        if joined || self.rule.follows() != rule.follows() {
            (self.base, self.peak) = (value.saturating_sub(grown), value);
            self.grew_ns = now_ns;
        }
        (self.rule, self.told_ns) = (rule, told_ns);
        self.patience_ns = self.patience_ns.max(patience_ns);
    }

    /// Follows it; says why it is over.
    fn follow(&mut self, now_ns: u64, now: Now) -> Option<String> {
        let value = match now {
            Now::Is(value) => value,
            Now::AtMost(most) if most <= self.peak => most,
            // Whether it is more or less than before nobody knows.
            Now::AtMost(_) => return None,
        };
        let grown = self.peak.saturating_sub(self.base);
        if value > self.peak.saturating_add(grown / MORE) {
            (self.peak, self.grew_ns) = (value, now_ns);
        } else if value < self.base.saturating_add(grown / 2) {
            return Some("half of what it grew by, or more, is given back".to_owned());
        }
        let quiet_ns = now_ns.saturating_sub(self.grew_ns);
        let minutes = quiet_ns / 60_000_000_000;
        (quiet_ns > self.patience_ns).then(|| format!("it has not grown for {minutes} min"))
    }
}

impl Claims {
    /// The most urgent claim about what a finding is about: about its culprit, or, where the same grows, about
    /// somebody above or below it or a group that it is in. That a supervisor does not wait for its children is
    /// another cause than that one of them takes memory.
    pub fn about(
        &mut self,
        (culprit, members): (Option<ProcessKey>, &[ProcessKey]),
        follows: Follows,
        sight: &Sight<'_>,
    ) -> Option<&mut Claim> {
        let related = |claim: &Claim| {
            let near = |member: &ProcessKey| members.iter().any(|key| sight.related(*key, *member));
            claim.members.iter().any(near)
        };
        let another = |claim: &Claim| is_another(&claim.members, claim.told_ns, members);
        self.0
            .values_mut()
            .filter(|claim| {
                let same = claim.rule.follows() == follows;
                claim.culprit == culprit || same && related(claim) && !another(claim)
            })
            .max_by_key(|claim| claim.rule)
    }

    /// Processes pile up below it.
    pub fn piles_up(&self, culprit: ProcessKey) -> bool {
        self.0.get(&Some(culprit)).is_some_and(|claim| claim.rule == Rule::R4)
    }

    /// Those that pile up below it are told of as a group.
    pub fn piled_up(&self, culprit: ProcessKey, sight: &Sight<'_>) -> bool {
        let below = |member: &ProcessKey| sight.line(*member).any(|above| above == culprit);
        self.0.values().any(|claim| claim.members.len() > 1 && claim.members.iter().all(below))
    }

    pub fn of_host(&mut self) -> Option<&mut Claim> {
        self.0.get_mut(&None)
    }

    pub fn put(&mut self, claim: Claim) {
        self.0.insert(claim.culprit, claim);
    }

    /// Follows all of them; `value`: what each has now. Those that are over are no more.
    pub fn follow(
        &mut self,
        now_ns: u64,
        at_ns: u64,
        value: impl Fn(&Claim) -> Option<Now>,
    ) -> Vec<Over> {
        let mut over = Vec::new();
        self.0.retain(|culprit, claim| {
            let Some(value) = value(claim) else { return true };
            let why = claim.follow(now_ns, value);
            if let Some(why) = &why {
                let (culprit, why) = (*culprit, why.clone());
                over.push(Over { culprit, rule: claim.rule.name(), why, at_ns });
            }
            why.is_none()
        });
        over
    }
}
