//! What was told and is not over yet: one tree makes one finding.

use std::collections::BTreeMap;

use super::{
    Rule,
    culprit::{Sight, is_part},
    fast::{MORE, OVER_NS},
};
use crate::{detect::group::Group, lineage::ProcessKey};

/// What was told of is so many percent of what grows above it, or more: then it is the same growth.
const SAME: u64 = 50;

/// Whose growth it is part of, as that was told of first: [`Over`] names it by this. `None`: the host's.
pub type Whose = Option<ProcessKey>;

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
    /// What told of it before M1 did.
    rose_from: Option<Rule>,
    /// The culprit, or the eldest of a group; `None`: the host.
    pub culprit: Option<ProcessKey>,
    /// Of a group all its trees, else the culprit.
    pub members: Vec<ProcessKey>,
    /// As it was told of last.
    pub group: Option<Group>,
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
    pub culprit: Whose,
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

/// What is left of those that a claim follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// One that was told of lives, or nobody knows.
    Some,
    /// What they started, while they have ended.
    Orphans,
    /// None has as much that a sample tells of it.
    Nothing,
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
        (culprit, members, group): (Option<ProcessKey>, Vec<ProcessKey>, Option<Group>),
        (base, value): (u64, u64),
        (now_ns, told_ns): (u64, u64),
        patience_ns: u64,
    ) -> Self {
        Self {
            rule,
            rose_from: None,
            culprit,
            members,
            group,
            base,
            peak: value,
            told_ns,
            grew_ns: now_ns,
            patience_ns,
        }
    }

    /// A group grows with it and is followed as well. Whether there is anybody new.
    pub fn join(&mut self, group: &Group) -> bool {
        let known = self.members.len();
        let new = group.members.iter().filter(|key| !self.members.contains(key));
        let new: Vec<ProcessKey> = new.copied().collect();
        self.members.extend(new);
        self.group = Some(group.clone());
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
        self.rose_from = (rule == Rule::M1).then_some(self.rule);
        (self.rule, self.told_ns) = (rule, told_ns);
        self.patience_ns = self.patience_ns.max(patience_ns);
    }

    /// Follows it; says why it is over.
    fn follow(
        &mut self,
        now_ns: u64,
        now: Now,
        left: impl FnOnce(&Self) -> Left,
    ) -> Option<String> {
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
            return Some(shrunk(self.rule.follows(), left(self)).to_owned());
        }
        let quiet_ns = now_ns.saturating_sub(self.grew_ns);
        // Its rush is over, and may begin anew: that is to be told again.
        if quiet_ns > OVER_NS
            && let Some(rule) = self.rose_from.take()
        {
            self.rule = rule;
        }
        let minutes = quiet_ns / 60_000_000_000;
        (quiet_ns > self.patience_ns).then(|| format!("it has not grown for {minutes} min"))
    }
}

/// Why a growth is over of which half or more is gone. Whether somebody has ended or gave it back is told as far as a
/// sample knows.
fn shrunk(follows: Follows, left: Left) -> &'static str {
    match (follows, left) {
        (Follows::Bytes, Left::Nothing) => "it has ended, or holds less than 64 MiB by now",
        (Follows::Bytes, Left::Orphans) => {
            "it has ended, and what it started holds less than half of what it grew by"
        }
        (Follows::Bytes | Follows::Host, _) => "half of what it grew by, or more, is given back",
        (Follows::Processes, Left::Nothing) => "it has ended, or few processes are left of it",
        (Follows::Processes, _) => "half of the processes that came, or more, have ended",
        (Follows::Zombies, Left::Nothing) => "it has ended, or has waited for its children",
        (Follows::Zombies, _) => "half of the children that it left, or more, were waited for",
    }
}

fn sum(keys: &[ProcessKey], of: impl Fn(ProcessKey) -> u64) -> u64 {
    keys.iter().fold(0, |sum, key| sum.saturating_add(of(*key)))
}

impl Claims {
    /// What was told of below somebody who grows by a `whole`, and is half of that, or more: of what grew lately, or,
    /// where it was as urgent, since it was told of. That is the same growth.
    pub fn carriers(
        &self,
        above: &[ProcessKey],
        (rule, whole): (Rule, u64),
        sight: &Sight<'_>,
        lately: impl Fn(ProcessKey) -> u64,
    ) -> Vec<Whose> {
        let whole_lately = sum(above, &lately);
        let held = |key| sight.tree(key).map_or(0, |tree| tree.bytes);
        let carries = |claim: &&Claim| {
            let is_below =
                |key: &&ProcessKey| sight.line(**key).skip(1).any(|one| above.contains(&one));
            let theirs: Vec<ProcessKey> = claim.members.iter().filter(is_below).copied().collect();
            let (part, all) = (sum(&theirs, &lately), sum(&theirs, held));
            let since = all.saturating_sub(claim.base);
            claim.rule.follows() == Follows::Bytes
                && (part > 0 && is_part(part, whole_lately, SAME)
                    || claim.rule >= rule && since > 0 && is_part(since, whole, SAME))
        };
        self.0.values().filter(carries).map(|claim| claim.culprit).collect()
    }

    /// The most urgent claim that a finding is a part of: about its culprit, or, where the same grows, about somebody
    /// above it or a group that it is in or below, or one of those that carry it. Where more grows than what was told
    /// of, that is another cause; so is that a supervisor does not wait for its children than that one of them takes
    /// memory.
    pub fn about(
        &mut self,
        (culprit, members): (Option<ProcessKey>, &[ProcessKey]),
        (follows, carriers): (Follows, &[Whose]),
        sight: &Sight<'_>,
    ) -> Option<&mut Claim> {
        let is_within = |claim: &Claim| {
            let within =
                |key: &ProcessKey| sight.line(*key).any(|one| claim.members.contains(&one));
            members.iter().any(within) && !is_another(&claim.members, claim.told_ns, members)
        };
        self.0
            .values_mut()
            .filter(|claim| {
                claim.culprit == culprit
                    || carriers.contains(&claim.culprit)
                    || claim.rule.follows() == follows && is_within(claim)
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

    /// Follows all of them; `value`: what each has now, `left`: of whom. Those that are over are no more.
    pub fn follow(
        &mut self,
        now_ns: u64,
        at_ns: u64,
        value: impl Fn(&Claim) -> Option<Now>,
        left: impl Fn(&Claim) -> Left,
    ) -> Vec<Over> {
        let mut over = Vec::new();
        self.0.retain(|culprit, claim| {
            let Some(value) = value(claim) else { return true };
            let why = claim.follow(now_ns, value, &left);
            if let Some(why) = &why {
                let (culprit, why) = (*culprit, why.clone());
                over.push(Over { culprit, rule: claim.rule.name(), why, at_ns });
            }
            why.is_none()
        });
        over
    }
}
