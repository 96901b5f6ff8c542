//! Groups of trees: who belongs to one, who does so now, and who joins it while it stands.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use nix::unistd::Pid;
use sensor_common::event::Alarm;

use super::{
    super::{
        announce::refusal,
        containments::Standing,
        reactor::{Containing, Notice, Reactor},
    },
    INIT, Watched, living, look_for_servers, older,
};
use crate::{
    clock,
    detect::{
        group::{self, By, Group, Place, Traits},
        storm,
    },
    evidence::proc::Proc,
    kernel::Detail,
    lineage::{Forest, ProcessKey},
    present::text,
    respond::surge::{Surge, YOUNG_NS},
};

/// So many new trees are more of the same storm. Somebody who restarts a service while its group stands
/// starts one tree, or a few.
const JOINED: usize = 8;

/// After trees were added the next pause is twice as long: containments are counted.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// What is started so soon after trees were added comes from the same hand.
const JOINING: Duration = Duration::from_secs(10);

/// A contained group.
pub(super) struct Kept {
    /// Who is born later may join, boot clock, ns.
    since_ns: u64,
    /// No trees are added before.
    rests_until: Instant,
    pause: Duration,
    /// Until then one tree is enough: those of a moment ago were more of the storm.
    joining_until: Instant,
}

impl Reactor {
    /// The group that carries an explosion where the process that does may not be stopped with all of its
    /// tree, and why it is to be left alone, if it is.
    pub(super) fn group(
        &self,
        carrier: ProcessKey,
        alarm: &Alarm,
        forest: &Forest,
    ) -> Option<(Group, Option<String>)> {
        let since_ns = storm::since_ns(alarm);
        let barred = self.barred(forest, carrier, since_ns);
        let old = older(carrier, alarm);
        let is_free = carrier.tgid > INIT && !barred.contains(&carrier);
        if is_free && barred.is_empty() && old.is_none() {
            return None;
        }
        let oldest_ns = alarm.crossed_ns.saturating_sub(YOUNG_NS);
        let place = Place { ancestor: carrier, since_ns, oldest_ns, barred: &barred };
        let group = group::find(forest, &place, |key| traits(forest, key, None))?;
        // One that is merely old and starts one process after the other is to blame itself.
        if is_free && barred.is_empty() && !group.grows_within(forest) {
            return None;
        }
        let spared = match group.by {
            By::Executable if is_free => old.map(|_| {
                format!(
                    "process {} above its trees is no newcomer, and nothing forbids to stop that",
                    carrier.tgid
                )
            }),
            By::Executable => None,
            By::Session => Some("its trees share nothing but their session".to_owned()),
            By::User => Some("its trees share nothing but their user".to_owned()),
            By::Cgroup => Some("its trees share nothing but their cgroup".to_owned()),
        };
        Some((group, spared))
    }

    /// Whom nobody may stop at a process and below it. Where it is one of them, as init is, only the trees
    /// below that have grown are looked at.
    fn barred(&self, forest: &Forest, carrier: ProcessKey, since_ns: u64) -> HashSet<ProcessKey> {
        let mut barred = self.responder.barred(forest, forest.get(carrier));
        if carrier.tgid > INIT && barred.is_empty() {
            let tree = forest.tree(carrier).into_iter().map(|(node, _)| node);
            return self.responder.barred(forest, tree);
        }
        barred.extend(self.responder.barred(forest, group::grown(forest, carrier, since_ns)));
        barred
    }

    /// Who is in a group now. One whose eldest is gone has another one.
    pub(super) fn refresh(&self, watched: &mut Watched, forest: &Forest) {
        let Watched { storm, alarm, surge, spared, most, regrouped_ns, .. } = watched;
        let Some(group) = &mut storm.finding.group else { return };
        let barred = self.barred(forest, group.ancestor, group.since_ns);
        let oldest_ns = clock::boot_ns().saturating_sub(YOUNG_NS);
        let by = Some(group.by);
        let mut members = group.again(forest, oldest_ns, &barred, |key| traits(forest, key, by));
        // A wrapper has executed what it was for: what they share is another program now.
        if members.len() * 2 < *most
            && let Some((other, why)) = self.group(group.ancestor, alarm, forest)
        {
            *spared = spared.take().or(why);
            members.clone_from(&other.members);
            *most = members.len();
            *group = other;
            *regrouped_ns = clock::boot_ns();
            *surge = Surge::new(alarm.crossed_ns, storm::per_second(alarm));
        }
        *most = members.len().max(*most);
        group.members.clone_from(&members);
        if !members.contains(&storm.culprit)
            && let Some(eldest) = members.first()
        {
            storm.culprit = *eldest;
            storm.finding.culprit = Some(*eldest);
            storm.finding.leaf = newest(forest, *eldest);
            storm.ancestry = self.lineage.ancestry(storm.finding.leaf.unwrap_or(*eldest));
            storm.above = forest.ancestry(*eldest).into_iter().skip(1).map(|it| it.key).collect();
        }
    }

    /// Looks after a group that stands: who may not be stopped goes on starting trees, and those belong to
    /// it. False when it does not stand any more.
    pub(super) fn keep(self: &Arc<Self>, watched: &mut Watched) -> bool {
        let roots = watched.storm.roots();
        let Some(kept) = &mut watched.kept else { return false };
        let standing = match self.containments.standing(&roots) {
            Standing::Busy => return true,
            Standing::Over => return false,
            Standing::Contained(standing) => standing,
        };
        if Instant::now() < kept.rests_until || self.paused.load(Ordering::Relaxed) {
            return true;
        }
        let Some(group) = &watched.storm.finding.group else { return false };
        let forest = self.lineage.forest(Detail::Links);
        let barred = self.barred(&forest, group.ancestor, kept.since_ns);
        let (held, by) = (&standing.held, Some(group.by));
        let mut joined =
            group.joined(&forest, kept.since_ns, &barred, |key| traits(&forest, key, by));
        joined.retain(|key| !held.roots.contains(key));
        let enough = if Instant::now() < kept.joining_until { 1 } else { JOINED };
        if joined.len() < enough || held.roots.len() + joined.len() > group::MOST_MEMBERS {
            return true;
        }
        if let Err(spared) = look_for_servers(&living(&forest, &joined)) {
            let action = refusal(format!("more of its trees were started, but {spared}"));
            self.tell(Notice::Acted { incident: held.incident.clone(), action });
            return false;
        }
        let Some(standing) = self.containments.claim_more(&held.incident) else { return true };
        let count = joined.len();
        self.containments.know(&joined, &standing.held.incident);
        let mut target = standing.target(&format!(
            "{} started",
            text::count(count as u64, "more of its trees was", "more of its trees were")
        ));
        target.roots.extend(joined);
        kept.rests_until = Instant::now() + kept.pause;
        kept.pause *= 2;
        kept.joining_until = Instant::now() + JOINING;
        tracing::info!("{count} more trees of incident {} are contained", standing.held.incident);
        // Until the same time as the others.
        self.contain(target, standing.term, Containing::Joined);
        true
    }
}

/// What a process shares with others, as far as it is asked for.
fn traits(forest: &Forest, key: ProcessKey, by: Option<By>) -> Traits {
    let asked = |one: By| by.is_none_or(|by| by == one);
    let opened =
        (asked(By::Session) || asked(By::User)).then(|| Proc::default().open(key)).flatten();
    // 0: of those whom the kernel or another pid namespace has started, which makes them no session.
    let session = |_| {
        let session = nix::unistd::getsid(Some(Pid::from_raw(key.tgid.cast_signed()))).ok()?;
        u32::try_from(session.as_raw()).ok().filter(|session| *session != 0)
    };
    Traits {
        executable: forest.program(key),
        session: opened.as_ref().filter(|_| asked(By::Session)).and_then(session),
        user: opened.as_ref().map(|opened| opened.status().uid),
    }
}

pub(super) fn newest(forest: &Forest, root: ProcessKey) -> Option<ProcessKey> {
    let tree = forest.tree(root);
    tree.iter().rev().find(|(node, _)| node.alive).map(|(node, _)| node.key)
}

/// A group that was decided about is looked after; who was born since may join it.
pub(super) fn keeps(watched: &mut Watched, since_ns: u64) -> bool {
    let is_group = watched.storm.finding.group.is_some();
    watched.kept = is_group.then(|| Kept {
        since_ns,
        rests_until: Instant::now(),
        pause: JOIN_PAUSE,
        joining_until: Instant::now(),
    });
    is_group
}
