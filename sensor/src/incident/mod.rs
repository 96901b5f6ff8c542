//! Findings become incidents: one cause, one incident. Fingerprints, merging, lifecycle.
//!
//! Plain values: time and identity come in, every change goes out as a [`Change`] that the caller
//! records. What is in a fingerprint are kernel facts only, never text.

mod group;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prost_types::Timestamp;

pub use self::{
    group::join,
    words::{describe, describe_group, headline},
};
use self::{group::recorded, words::summary};
use crate::{
    detect::{Finding, memory, pressure, respawn, usage},
    lineage::ProcessKey,
    proto::{self, Incident, Severity, State},
};

/// How long after its end the same cause counts as come back, ns: the length of a coffee, and of
/// the default freeze.
const RECURRENCE_NS: u64 = 10 * 60 * 1_000_000_000;

/// Resolved incidents that are remembered for that; a storm of different ones pushes old ones out.
const REMEMBERED: usize = 256;

/// What the caller knows about the moment and the place of a finding.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Boot clock, ns.
    pub now_ns: u64,
    pub now: Timestamp,
    pub host: String,
    pub boot_id: String,
    pub culprit: Option<proto::Culprit>,
    /// The culprit's ancestors, nearest first.
    pub ancestors: Vec<ProcessKey>,
    /// Kernel facts that make a cause the same cause: executable, signature, cgroup.
    pub identity: [u64; 3],
}

/// An incident changed: from which state, why, and what it is now.
#[derive(Clone, Debug)]
pub struct Change {
    pub from: State,
    pub why: String,
    pub incident: Incident,
    /// It is new.
    pub opened: bool,
}

struct Live {
    incident: Incident,
    culprit: Option<ProcessKey>,
    /// Findings of the same cause in incidents that were resolved a short while before it.
    before: u32,
    /// When it was told of last, boot clock, ns; of an earlier run of the daemon when it was opened.
    told_ns: u64,
    /// Growth that goes on, by whose it is.
    growths: BTreeSet<memory::Whose>,
}

impl Live {
    /// Roots of what to stop.
    fn roots(&self) -> Vec<ProcessKey> {
        match &self.incident.group {
            Some(group) => {
                group.members.iter().map(|key| ProcessKey::new(key.pid, key.start_ns)).collect()
            }
            None => self.culprit.into_iter().collect(),
        }
    }

    /// Whether it may be the cause of what a rule says of somebody in its line of descent. Memory, processes or
    /// zombies that become more are several causes, unless it is one process whose they are.
    fn explains(&self, rule: &str, culprit: Option<ProcessKey>) -> bool {
        let grows = |rule: &str| memory::Rule::named(rule).map(memory::Rule::follows);
        let known = self.incident.finding.as_ref().and_then(|finding| grows(&finding.rule));
        self.culprit == culprit || known == grows(rule)
    }

    /// Whether a growth is another cause than this one, which was told of before it began.
    fn is_before(&self, finding: &Finding) -> bool {
        finding.kind == proto::Kind::MemoryGrowth
            && memory::is_another(&self.roots(), self.told_ns, &finding.roots())
    }
}

/// All incidents that are not resolved, and what is left of those that are.
#[derive(Default)]
pub struct Incidents {
    live: BTreeMap<String, Live>,
    /// Resolved, but somebody still looks into them.
    looked_into: BTreeMap<String, Incident>,
    /// Fingerprint → (when resolved, how often it had come).
    resolved: HashMap<String, (u64, u32)>,
}

impl Incidents {
    /// Takes up what was not settled when the last run ended.
    pub fn restore(incidents: impl IntoIterator<Item = Incident>) -> Self {
        let (resolved, live): (Vec<_>, Vec<_>) =
            incidents.into_iter().partition(|incident| incident.state() == State::Resolved);
        let looked_into = resolved.into_iter().filter(is_looked_into);
        let looked_into = looked_into.map(|incident| (incident.id.clone(), incident)).collect();
        let live = live
            .into_iter()
            .map(|incident| {
                let culprit = culprit_of(&incident);
                let told_ns = incident.opened_ns;
                let live = Live { incident, culprit, before: 0, told_ns, growths: BTreeSet::new() };
                (live.incident.id.clone(), live)
            })
            .collect();
        Self { live, looked_into, ..Self::default() }
    }

    /// Opens an incident, or joins the finding to the one it belongs to.
    pub fn report(&mut self, finding: &Finding, scene: Scene, new_id: String) -> Change {
        // Whoever reacted may know already whose it is: a recursion that nobody stops becomes a storm.
        let known = Some(new_id.clone()).filter(|id| self.live.contains_key(id));
        if let Some(id) = known.or_else(|| self.belonging(finding, &scene)) {
            return self.merge(&id, finding, &scene);
        }
        let fingerprint = fingerprint(finding.kind, scene.identity);
        let before = self
            .resolved
            .get(&fingerprint)
            .filter(|(at, _)| scene.now_ns.saturating_sub(*at) < RECURRENCE_NS)
            .map_or(0, |(_, times)| *times);
        let incident = Incident {
            id: new_id,
            kind: finding.kind.into(),
            severity: severity(finding, before).into(),
            state: State::Open.into(),
            opened_at: Some(scene.now),
            opened_ns: scene.now_ns,
            host: scene.host,
            boot_id: scene.boot_id,
            summary: summary(finding, scene.culprit.as_ref()),
            group: finding.group.as_ref().map(|group| recorded(group, scene.culprit.as_ref())),
            culprit: scene.culprit,
            finding: Some(claim(finding)),
            fingerprint,
            occurrences: before + 1,
            updated_at: Some(scene.now),
            ..Incident::default()
        };
        let why = if before == 0 {
            format!("{} was crossed", finding.rule)
        } else {
            format!("{} was crossed again: the same cause came back", finding.rule)
        };
        self.live.insert(
            incident.id.clone(),
            Live {
                incident: incident.clone(),
                culprit: finding.culprit,
                before,
                told_ns: scene.now_ns,
                growths: BTreeSet::new(),
            },
        );
        Change { from: State::Unspecified, why, incident, opened: true }
    }

    /// The incident that a finding is about: the same culprit, or one in the same line of descent.
    fn belonging(&self, finding: &Finding, scene: &Scene) -> Option<String> {
        if is_oom(finding.kind) {
            // Its detector knows which kills are one cause.
            return None;
        }
        let Some(culprit) = finding.culprit else {
            // Nobody's: it is the same where all the facts are.
            let fingerprint = fingerprint(finding.kind, scene.identity);
            let same =
                |live: &&Live| live.culprit.is_none() && live.incident.fingerprint == fingerprint;
            return self.live.values().find(same).map(|live| live.incident.id.clone());
        };
        if finding.kind == proto::Kind::Manual {
            // Whoever points at a process means that one, and not what stands above it.
            let same = |live: &&Live| {
                live.culprit == Some(culprit) && live.incident.kind() == proto::Kind::Manual
            };
            return self.live.values().find(same).map(|live| live.incident.id.clone());
        }
        if finding.kind == proto::Kind::CrashLoop {
            // A supervisor restarts several commands: each is a cause of its own.
            let fingerprint = fingerprint(finding.kind, scene.identity);
            let same = |live: &&Live| {
                live.culprit == Some(culprit) && live.incident.fingerprint == fingerprint
            };
            return self.live.values().find(same).map(|live| live.incident.id.clone());
        }
        let line: HashSet<ProcessKey> =
            finding.roots().into_iter().chain(scene.ancestors.iter().copied()).collect();
        self.live
            .values()
            .find(|live| {
                live.incident.kind == finding.kind as i32
                    && live.explains(finding.rule, Some(culprit))
                    && !live.is_before(finding)
                    && live.roots().iter().any(|known| line.contains(known))
            })
            .map(|live| live.incident.id.clone())
    }

    fn merge(&mut self, id: &str, finding: &Finding, scene: &Scene) -> Change {
        let known = self.live.get_mut(id).and_then(|live| {
            live.told_ns = scene.now_ns;
            live.culprit
        });
        self.change(id, scene.now, |incident| {
            incident.occurrences += 1;
            let stronger = incident
                .finding
                .as_ref()
                .is_none_or(|known| finding.contain || finding.confidence >= known.confidence)
                || finding.kind == proto::Kind::MemoryGrowth
                    && severity(finding, 0) as i32 > incident.severity;
            if stronger {
                // Growth within a recursion makes it worse; it is still a recursion, and is told by its own numbers.
                if incident.kind() == finding.kind {
                    incident.finding = Some(claim(finding));
                }
                incident.severity = incident.severity.max(severity(finding, 0) as i32);
            }
            match (&finding.group, &mut incident.group) {
                (Some(group), Some(known)) => join(known, &group.members),
                // What was one tree of them is one of many now.
                (Some(group), None) if known.is_some_and(|one| group.members.contains(&one)) => {
                    incident.group = Some(recorded(group, incident.culprit.as_ref()));
                }
                _ => {}
            }
            format!("{} was crossed in the same tree", finding.rule)
        })
        // `id` was found in the map a moment ago.
        .unwrap_or_default()
    }

    /// Changes an incident; the closure says why. `None` when there is no such incident.
    pub fn change(
        &mut self,
        id: &str,
        now: Timestamp,
        change: impl FnOnce(&mut Incident) -> String,
    ) -> Option<Change> {
        let live = self.live.get_mut(id)?;
        let (from, known) = (live.incident.state(), culprit_of(&live.incident));
        let why = change(&mut live.incident);
        // Who is stopped is who is named. Where nobody could be named, it is the one that was found.
        let culprit = culprit_of(&live.incident);
        if culprit != known {
            live.culprit = culprit;
        }
        live.incident.updated_at = Some(now);
        Some(Change { from, why, incident: live.incident.clone(), opened: false })
    }

    /// When an incident that is not resolved was told of last, boot clock, ns.
    pub fn told_ns(&self, id: &str) -> Option<u64> {
        self.live.get(id).map(|live| live.told_ns)
    }

    /// Ends an incident.
    pub fn resolve(&mut self, id: &str, now_ns: u64, now: Timestamp, why: &str) -> Option<Change> {
        let change = self.change(id, now, |incident| {
            incident.set_state(State::Resolved);
            incident.resolved_at = Some(now);
            incident.thaw_due_ns = 0;
            why.to_owned()
        })?;
        self.live.remove(id);
        if is_looked_into(&change.incident) {
            self.looked_into.insert(id.to_owned(), change.incident.clone());
        }
        if self.resolved.len() >= REMEMBERED {
            self.resolved.retain(|_, (at, _)| now_ns.saturating_sub(*at) < RECURRENCE_NS);
        }
        if self.resolved.len() < REMEMBERED {
            self.resolved
                .insert(change.incident.fingerprint.clone(), (now_ns, change.incident.occurrences));
        }
        Some(change)
    }

    /// Changes what is known of its investigations: also of one that was resolved while somebody looks into
    /// it.
    pub fn amend(
        &mut self,
        id: &str,
        now: Timestamp,
        change: impl FnOnce(&mut Incident) -> String,
    ) -> Option<Change> {
        let Some(incident) = self.looked_into.get_mut(id) else {
            return self.change(id, now, change);
        };
        let why = change(incident);
        incident.updated_at = Some(now);
        let incident = incident.clone();
        if !is_looked_into(&incident) {
            self.looked_into.remove(id);
        }
        Some(Change { from: State::Resolved, why, incident, opened: false })
    }

    pub fn get(&self, id: &str) -> Option<&Incident> {
        self.live.get(id).map(|live| &live.incident)
    }

    /// How often its cause had been found in incidents that were resolved a short while before; 0: it is new, or
    /// nobody knows any more.
    pub fn returns(&self, id: &str) -> u32 {
        self.live.get(id).map_or(0, |live| live.before)
    }

    /// The same, or one that is resolved while somebody looks into it.
    pub fn get_looked_into(&self, id: &str) -> Option<&Incident> {
        self.get(id).or_else(|| self.looked_into.get(id))
    }

    /// A growth is part of an incident: as the detector has it, by whose it is.
    pub fn grows(&mut self, id: &str, whose: memory::Whose) {
        if let Some(live) = self.live.get_mut(id) {
            live.growths.insert(whose);
        }
    }

    /// A growth is over. The unresolved incidents that it was all of that went on, each with its state.
    pub fn shrinks(&mut self, whose: memory::Whose) -> Vec<(String, State)> {
        let mut over = Vec::new();
        for (id, live) in &mut self.live {
            let is_growth = live.incident.kind() == proto::Kind::MemoryGrowth;
            if is_growth && live.growths.remove(&whose) && live.growths.is_empty() {
                over.push((id.clone(), live.incident.state()));
            }
        }
        over
    }

    /// Roots of what to stop: the culprit, or the members of a group; none of a host-wide kind.
    pub fn roots(&self, id: &str) -> Vec<ProcessKey> {
        self.live.get(id).map(Live::roots).unwrap_or_default()
    }

    /// Whatever somebody looks into, resolved or not.
    pub fn looked_into(&self) -> impl Iterator<Item = &Incident> {
        self.iter().filter(|incident| is_looked_into(incident)).chain(self.looked_into.values())
    }

    /// Unresolved incidents.
    pub fn iter(&self) -> impl Iterator<Item = &Incident> {
        self.live.values().map(|live| &live.incident)
    }

    /// The unresolved incident whose id begins so; an error says that there is none, or several.
    pub fn find(&self, prefix: &str) -> Result<String, FindError> {
        let mut matches = self.live.keys().filter(|id| id.starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(id), None) => Ok(id.clone()),
            (Some(_), Some(_)) => Err(FindError::Ambiguous(prefix.to_owned())),
            (None, _) => Err(FindError::Unknown(prefix.to_owned())),
        }
    }
}

/// Whom an incident names.
fn culprit_of(incident: &Incident) -> Option<ProcessKey> {
    incident.culprit.as_ref().map(|culprit| ProcessKey::new(culprit.pid, culprit.start_ns))
}

/// An investigation of it has not come to its end.
fn is_looked_into(incident: &Incident) -> bool {
    incident.investigations.iter().any(goes_on)
}

/// It runs, or waits for its turn.
pub fn goes_on(investigation: &proto::Investigation) -> bool {
    use proto::InvestigationState as State;
    matches!(investigation.state(), State::Running | State::Queued)
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error(
        "no unresolved incident has an id that begins with {0:?}; `sensor incidents` lists them"
    )]
    Unknown(String),
    #[error("several incidents have an id that begins with {0:?}; give more of it")]
    Ambiguous(String),
}

impl Default for Change {
    fn default() -> Self {
        Self {
            from: State::Unspecified,
            why: String::new(),
            incident: Incident::default(),
            opened: false,
        }
    }
}

/// What may be contained is critical, and so is what has come back three times; but a respawn loop,
/// which costs two processes, is never.
pub fn severity(finding: &Finding, before: u32) -> Severity {
    let kind = finding.kind;
    if kind == proto::Kind::MemoryGrowth {
        memory::severity(finding)
    } else if finding.rule == usage::RULE {
        // A number that somebody chose: that it comes back makes it no worse.
        Severity::Warning
    } else if pressure::is_critical(finding) {
        Severity::Critical
    } else if kind == proto::Kind::CrashLoop && respawn::is_grave(finding) {
        Severity::Warning
    } else if matches!(kind, proto::Kind::Manual | proto::Kind::CrashLoop) {
        Severity::Info
    } else if finding.contain || before >= 2 {
        Severity::Critical
    } else {
        Severity::Warning
    }
}

/// About what the OOM killer did: whoever is to blame may be gone.
pub fn is_oom(kind: proto::Kind) -> bool {
    matches!(kind, proto::Kind::OomKill | proto::Kind::OomLoop)
}

/// Whether there is somebody to stop: whom the OOM killer took is gone, and so are the earlier runs of a loop.
pub fn can_be_stopped(incident: &Incident) -> bool {
    let taken = |oom: &proto::Oom| names(incident, oom.victims.iter().filter_map(victim));
    incident.culprit.is_some()
        && !incident.oom.as_ref().is_some_and(taken)
        && !is_of_an_earlier_kill(incident)
}

/// Not every kill of a loop is looked into: the newest one may tell neither as victim nor as holder of memory of the
/// culprit that was found at an earlier one.
pub fn is_of_an_earlier_kill(incident: &Incident) -> bool {
    incident.culprit.is_some()
        && incident.oom.as_ref().is_some_and(|oom| {
            let holders = oom.holders.iter().filter_map(|holder| holder.root);
            oom.kills > 1 && !names(incident, oom.victims.iter().filter_map(victim).chain(holders))
        })
}

fn victim(kill: &proto::OomKill) -> Option<proto::ProcessKey> {
    kill.victim.as_ref()?.process
}

/// Whether the culprit is among them.
fn names(incident: &Incident, mut among: impl Iterator<Item = proto::ProcessKey>) -> bool {
    let culprit = incident.culprit.as_ref().map(|culprit| (culprit.pid, culprit.start_ns));
    among.any(|key| Some((key.pid, key.start_ns)) == culprit)
}

pub fn claim(finding: &Finding) -> proto::Finding {
    proto::Finding {
        rule: finding.rule.into(),
        confidence: finding.confidence,
        measures: finding.measures.clone(),
    }
}

/// Equal for the same cause: the kind and kernel facts, hashed (FNV-1a).
fn fingerprint(kind: proto::Kind, identity: [u64; 3]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in [kind as u64].into_iter().chain(identity) {
        for byte in word.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

/// A new incident id: ten letters and digits without those that look alike (Crockford's base 32),
/// random, so that ids of different hosts can stand in one list.
pub fn new_id() -> String {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let random = uuid::Uuid::new_v4().as_u128();
    // The low bits of a version 4 UUID are random.
    (0..10).map(|place| char::from(LETTERS[(random >> (place * 5) & 31) as usize])).collect()
}
