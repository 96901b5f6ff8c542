//! Findings become incidents: one cause, one incident. Fingerprints, merging, lifecycle.
//!
//! Plain values: time and identity come in, every change goes out as a [`Change`] that the caller
//! records. What is in a fingerprint are kernel facts only, never text.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost_types::Timestamp;

use crate::{
    detect::{
        Finding,
        group::{self, Group},
        memory, pressure, respawn, usage,
    },
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
    /// Takes up what was unresolved when the last run ended.
    pub fn restore(incidents: impl IntoIterator<Item = Incident>) -> Self {
        let live = incidents
            .into_iter()
            .map(|incident| {
                let culprit = incident
                    .culprit
                    .as_ref()
                    .map(|culprit| ProcessKey::new(culprit.pid, culprit.start_ns));
                (incident.id.clone(), Live { incident, culprit, before: 0 })
            })
            .collect();
        Self { live, ..Self::default() }
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
            Live { incident: incident.clone(), culprit: finding.culprit, before },
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
                    && live.roots().iter().any(|known| line.contains(known))
            })
            .map(|live| live.incident.id.clone())
    }

    fn merge(&mut self, id: &str, finding: &Finding, scene: &Scene) -> Change {
        let known = self.live.get(id).and_then(|live| live.culprit);
        self.change(id, scene.now, |incident| {
            incident.occurrences += 1;
            let stronger = incident
                .finding
                .as_ref()
                .is_none_or(|known| finding.contain || finding.confidence >= known.confidence)
                || finding.kind == proto::Kind::MemoryGrowth
                    && severity(finding, 0) as i32 > incident.severity;
            if stronger {
                incident.finding = Some(claim(finding));
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
        let from = live.incident.state();
        let why = change(&mut live.incident);
        live.incident.updated_at = Some(now);
        Some(Change { from, why, incident: live.incident.clone(), opened: false })
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

    /// Roots of what to stop: the culprit, or the members of a group; none of a host-wide kind.
    pub fn roots(&self, id: &str) -> Vec<ProcessKey> {
        self.live.get(id).map(Live::roots).unwrap_or_default()
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

/// An investigation of it has not come to its end.
fn is_looked_into(incident: &Incident) -> bool {
    use proto::InvestigationState as State;
    let goes_on = |state| matches!(state, State::Running | State::Queued);
    incident.investigations.iter().any(|it| goes_on(it.state()))
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

pub fn claim(finding: &Finding) -> proto::Finding {
    proto::Finding {
        rule: finding.rule.into(),
        confidence: finding.confidence,
        measures: finding.measures.clone(),
    }
}

/// A group as it is recorded, by its eldest member.
fn recorded(group: &Group, eldest: Option<&proto::Culprit>) -> proto::Group {
    let (by, what) = match group.by {
        group::By::Executable => {
            let exe = eldest.map(|eldest| sensor_proto::json::escape(&eldest.exe));
            (proto::GroupBy::Executable, exe.unwrap_or_default())
        }
        group::By::Session => (proto::GroupBy::Session, group.shared.to_string()),
        group::By::User => (proto::GroupBy::User, group.shared.to_string()),
        group::By::Cgroup => {
            let cgroup = eldest.map(|eldest| eldest.cgroup.clone());
            (proto::GroupBy::Cgroup, cgroup.unwrap_or_default())
        }
    };
    let mut recorded = proto::Group {
        by: by.into(),
        what,
        uid: group.user,
        ancestor: Some(key(group.ancestor)),
        ..proto::Group::default()
    };
    join(&mut recorded, &group.members);
    recorded
}

/// Adds those that are not in it yet.
pub fn join(group: &mut proto::Group, members: &[ProcessKey]) {
    let known: HashSet<(u32, u64)> =
        group.members.iter().map(|key| (key.pid, key.start_ns)).collect();
    let new = members.iter().filter(|key| !known.contains(&(key.tgid, key.start_ns)));
    group.members.extend(new.map(|one| key(*one)));
}

fn key(key: ProcessKey) -> proto::ProcessKey {
    proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns }
}

/// A group in a few words: ``7 × `node` of user 1000``.
pub fn describe_group(group: &proto::Group) -> String {
    let count = group.members.len();
    let what = &group.what;
    let of_user = group.uid.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    match group.by() {
        proto::GroupBy::Executable => {
            let name = what.rsplit('/').next().filter(|name| !name.is_empty());
            format!("{count} × `{}`{of_user}", name.unwrap_or("?"))
        }
        proto::GroupBy::Session => format!("{count} trees of session {what}{of_user}"),
        proto::GroupBy::Cgroup => format!("{count} trees in {what}{of_user}"),
        _ => format!("{count} trees of user {what}"),
    }
}

/// One line, before there is a diagnosis.
fn summary(finding: &Finding, culprit: Option<&proto::Culprit>) -> String {
    if let Some(group) = &finding.group {
        let who = describe_group(&recorded(group, culprit));
        return match finding.kind {
            proto::Kind::MemoryGrowth => memory::summary(&who, true, finding),
            _ => format!("{who} start processes without end, side by side"),
        };
    }
    let who = culprit.map_or_else(|| "the host".to_owned(), describe);
    match finding.kind {
        proto::Kind::Recursion => format!("{who} runs itself again and again"),
        proto::Kind::ForkStorm => format!("{who} starts processes without end"),
        proto::Kind::MemoryGrowth => memory::summary(&who, false, finding),
        proto::Kind::CrashLoop => format!("{who} restarts a command that fails at once"),
        _ if finding.rule == usage::RULE => usage::sentence(finding),
        proto::Kind::MemoryPressure => "memory is short".to_owned(),
        _ => format!("{who} was reported by hand"),
    }
}

/// A culprit in a few words: its command line, escaped and cut, and its pid.
pub fn describe(culprit: &proto::Culprit) -> String {
    /// Enough to recognise a command in a table.
    const SHOWN: usize = 60;
    let command = if culprit.argv.is_empty() {
        sensor_proto::json::escape(culprit.comm.as_bytes())
    } else {
        sensor_proto::json::escape(&culprit.argv.join(&b' '))
    };
    let mut short: String = command.chars().take(SHOWN).collect();
    if short.len() < command.len() {
        short.push('…');
    }
    format!("`{short}` ({})", culprit.pid)
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

/// The first sentence of a cause, as the one line of a summary.
pub fn headline(cause: &str) -> Option<String> {
    let line = cause.lines().next()?.trim();
    let end = line.find(". ").unwrap_or(line.len());
    let sentence = line[..end].trim_end_matches('.');
    (!sentence.is_empty()).then(|| sentence.to_owned())
}

/// A new incident id: ten letters and digits without those that look alike (Crockford's base 32),
/// random, so that ids of different hosts can stand in one list.
pub fn new_id() -> String {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let random = uuid::Uuid::new_v4().as_u128();
    // The low bits of a version 4 UUID are random.
    (0..10).map(|place| char::from(LETTERS[(random >> (place * 5) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 1, nanos: 0 };

    fn finding(tgid: u32, contain: bool) -> Finding {
        Finding {
            kind: proto::Kind::Recursion,
            rule: "R1",
            culprit: Some(ProcessKey::new(tgid, 1)),
            group: None,
            leaf: None,
            contain,
            confidence: if contain { 0.95 } else { 0.8 },
            at_ns: 0,
            measures: Vec::new(),
        }
    }

    fn scene(now_ns: u64, ancestors: &[u32]) -> Scene {
        Scene {
            now_ns,
            now: NOW,
            host: "h".into(),
            boot_id: "b".into(),
            culprit: None,
            ancestors: ancestors.iter().map(|tgid| ProcessKey::new(*tgid, 1)).collect(),
            identity: [1, 2, 3],
        }
    }

    #[test]
    fn one_cause_is_one_incident() {
        let mut incidents = Incidents::default();
        let first = incidents.report(&finding(7, false), scene(0, &[]), "a".into());
        assert!(first.opened);
        assert_eq!(first.incident.severity(), Severity::Warning);
        let again = incidents.report(&finding(7, true), scene(1, &[]), "b".into());
        assert!(!again.opened);
        assert_eq!((again.incident.id.as_str(), again.incident.occurrences), ("a", 2));
        assert_eq!(again.incident.severity(), Severity::Critical);
        let below = incidents.report(&finding(9, true), scene(2, &[8, 7]), "c".into());
        assert_eq!(below.incident.id, "a", "a descendant's finding is the same cause");
        let other = incidents.report(&finding(20, true), scene(3, &[6]), "d".into());
        assert!(other.opened, "another tree is another incident");
    }

    fn of_group(members: &[u32]) -> Finding {
        let members: Vec<ProcessKey> =
            members.iter().map(|tgid| ProcessKey::new(*tgid, 1)).collect();
        let group = Group {
            by: group::By::Executable,
            shared: 9,
            user: Some(1000),
            alike: true,
            ancestor: ProcessKey::new(2, 1),
            since_ns: 0,
            starters: vec![ProcessKey::new(2, 1)],
            members,
        };
        Finding {
            kind: proto::Kind::ForkStorm,
            rule: "R3",
            culprit: group.members.first().copied(),
            group: Some(group),
            ..finding(0, true)
        }
    }

    fn pids(incident: &Incident) -> Vec<u32> {
        incident.group.iter().flat_map(|group| &group.members).map(|key| key.pid).collect()
    }

    #[test]
    fn a_group_is_one_incident_whichever_member_is_found_again() {
        let mut incidents = Incidents::default();
        let culprit = proto::Culprit { exe: b"/usr/bin/node".to_vec(), ..Default::default() };
        let scene = |at| Scene { culprit: Some(culprit.clone()), ..scene(at, &[3, 2]) };
        let first = incidents.report(&of_group(&[10, 20, 30]), scene(0), "a".into());
        assert_eq!(
            first.incident.summary,
            "3 × `node` of user 1000 start processes without end, side by side"
        );
        assert_eq!(pids(&first.incident), [10, 20, 30]);
        let again = incidents.report(&of_group(&[20, 30, 40]), scene(1), "b".into());
        assert_eq!((again.opened, pids(&again.incident)), (false, vec![10, 20, 30, 40]));
        let storm =
            |tgid| Finding { kind: proto::Kind::ForkStorm, rule: "R3", ..finding(tgid, true) };
        let below = incidents.report(&storm(99), self::scene(2, &[40, 3]), "c".into());
        assert_eq!((below.opened, below.incident.id.as_str()), (false, "a"));
        let beside = incidents.report(&storm(50), self::scene(3, &[3, 2]), "d".into());
        assert!(beside.opened, "what is above the group is none of it");
        let other = incidents.report(&of_group(&[60, 70]), scene(4), "e".into());
        assert!(other.opened);

        let roots = incidents.roots("a");
        let mut restored = Incidents::restore([incidents.get("a").unwrap().clone()]);
        assert_eq!(restored.roots("a"), roots);
        assert!(!restored.report(&of_group(&[40, 80]), scene(5), "f".into()).opened);
    }

    #[test]
    fn one_tree_of_a_group_becomes_the_group() {
        let mut incidents = Incidents::default();
        let alone = Finding { group: None, ..of_group(&[20]) };
        incidents.report(&alone, scene(0, &[]), "a".into());
        let many = incidents.report(&of_group(&[10, 20]), scene(1, &[]), "b".into());
        assert_eq!((many.opened, pids(&many.incident)), (false, vec![10, 20]));
    }

    #[test]
    fn a_storm_joins_the_recursion_that_it_comes_from() {
        let mut incidents = Incidents::default();
        incidents.report(&finding(7, false), scene(0, &[]), "a".into());
        let storm = Finding { kind: proto::Kind::ForkStorm, rule: "R3", ..finding(7, false) };
        let same = incidents.report(&storm, scene(1, &[]), "a".into());
        assert!(!same.opened);
        assert_eq!(same.incident.kind(), proto::Kind::Recursion);
        let other = incidents.report(&storm, scene(2, &[]), "b".into());
        assert!(other.opened, "whoever reacted knew of none");
    }

    #[test]
    fn respawn_loops_are_one_incident_for_each_command_and_never_critical() {
        let restarting = Finding { kind: proto::Kind::CrashLoop, rule: "R6", ..finding(7, false) };
        let of = |loose: u64, above: &[u32]| Scene { identity: [1, loose, 3], ..scene(0, above) };
        let mut incidents = Incidents::default();
        assert!(incidents.report(&restarting, of(1, &[]), "a".into()).opened);
        assert!(incidents.report(&restarting, of(2, &[]), "b".into()).opened, "another command");
        assert!(!incidents.report(&restarting, of(1, &[]), "c".into()).opened);
        let below = Finding { culprit: Some(ProcessKey::new(9, 1)), ..restarting.clone() };
        assert!(incidents.report(&below, of(1, &[7]), "d".into()).opened, "another supervisor");
        let recursion = incidents.report(&finding(9, true), scene(1, &[7]), "e".into());
        assert!(recursion.opened, "what runs away below a supervisor is another cause");
        for round in 0..4 {
            incidents.resolve("a", round, NOW, "quiet").unwrap();
            let again = incidents.report(&restarting, of(1, &[]), "a".into());
            assert_eq!(again.incident.severity(), Severity::Info);
        }
        let measures =
            vec![proto::Measure { name: "by_signal".into(), value: 20.0, ..Default::default() }];
        let crashing = Finding { measures, ..restarting };
        let change = incidents.report(&crashing, of(1, &[]), "f".into());
        assert_eq!((change.opened, change.incident.severity()), (false, Severity::Warning));
    }

    #[test]
    fn what_comes_back_counts_on_and_escalates() {
        let mut incidents = Incidents::default();
        for (round, id) in ["a", "b", "c"].into_iter().enumerate() {
            let change =
                incidents.report(&finding(round as u32 + 1, false), scene(0, &[]), id.into());
            assert_eq!(change.incident.occurrences, round as u32 + 1);
            let expected = if round == 2 { Severity::Critical } else { Severity::Warning };
            assert_eq!(change.incident.severity(), expected);
            incidents.resolve(id, 0, NOW, "done").unwrap();
        }
        let later = incidents.report(&finding(9, false), scene(RECURRENCE_NS, &[]), "d".into());
        assert_eq!(later.incident.occurrences, 1, "after ten minutes it is a new story");
    }

    #[test]
    fn a_resolved_incident_changes_no_more() {
        let mut incidents = Incidents::default();
        incidents.report(&finding(7, true), scene(0, &[]), "ab".into());
        assert_eq!(incidents.find("a"), Ok("ab".into()));
        let change = incidents.resolve("ab", 5, NOW, "the culprit is gone").unwrap();
        assert_eq!((change.from, change.incident.state()), (State::Open, State::Resolved));
        assert!(incidents.resolve("ab", 6, NOW, "again").is_none());
        assert_eq!(incidents.find("a"), Err(FindError::Unknown("a".into())));
    }

    #[test]
    fn restored_incidents_merge_as_before() {
        let mut incidents = Incidents::default();
        let mut open = incidents.report(&finding(7, true), scene(0, &[]), "ab".into()).incident;
        open.culprit = Some(proto::Culprit { pid: 7, start_ns: 1, ..Default::default() });
        let mut restored = Incidents::restore([open]);
        assert!(!restored.report(&finding(7, true), scene(1, &[]), "x".into()).opened);
    }

    #[test]
    fn a_cause_that_is_back_is_known_and_one_that_goes_on_is_none() {
        let mut incidents = Incidents::default();
        incidents.report(&finding(7, false), scene(0, &[]), "a".into());
        incidents.report(&finding(7, false), scene(1, &[]), "b".into());
        assert_eq!(incidents.returns("a"), 0, "it goes on");
        incidents.resolve("a", 2, NOW, "the culprit is gone");
        incidents.report(&finding(9, false), scene(3, &[]), "c".into());
        assert_eq!(incidents.returns("c"), 2, "both findings of the first");
        assert_eq!(incidents.returns("gone"), 0);
    }

    #[test]
    fn ids_are_ten_plain_letters_and_differ() {
        let (one, two) = (new_id(), new_id());
        assert_eq!(one.len(), 10);
        assert!(one.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit()));
        assert_ne!(one, two);
    }
}
