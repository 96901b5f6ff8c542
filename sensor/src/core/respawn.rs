//! Respawn loops: from an alarm to an incident, and to its end.
//!
//! They stay out of the book of containments: their culprit is often a shell, or init, and what runs
//! away below it is no part of them.

use sensor_common::{event, gate::Rule, lineage::ARGV_KEPT, oom::SIGKILL, respawn::signal};

use super::{
    announce::refusal,
    desk::Desk,
    matter::Matter,
    reactor::{Notice, Reactor, observation},
};
use crate::{
    clock,
    detect::{Finding, respawn},
    evidence::gather::Restarted,
    incident,
    kernel::split,
    lineage::{Exec, Node, ProcessKey},
    proto::{self, State, record::Body},
    record::Draft,
    respond::policy::Decision,
};

/// A respawn loop was told of, once more or for the first time.
#[derive(Debug)]
pub struct Respawning {
    pub finding: Finding,
    /// The culprit's, itself first.
    pub ancestry: Vec<Node>,
    pub decision: Decision,
    pub restarted: Restarted,
    pub alarm: event::Alarm,
}

/// A respawn loop that goes on, as far as is known.
#[derive(Clone, Copy, Debug)]
pub struct Looping {
    /// Who restarts what (strict signature); none: an earlier run knew.
    whose: Option<(ProcessKey, u64)>,
    /// When it was last told of, boot clock, ns.
    seen_ns: u64,
    /// A person closed its incident: nobody is told again as long as it goes on.
    closed: bool,
}

impl Looping {
    /// Of an earlier run.
    pub fn unseen(now_ns: u64) -> Self {
        Self { whose: None, seen_ns: now_ns, closed: false }
    }

    /// Its incident is over.
    pub fn close(&mut self) {
        self.closed = true;
    }
}

impl Reactor {
    /// An alarm of R6, on the thread that reads the ring.
    pub(super) fn respawned(&self, respawned: &event::Respawned) {
        let event::Respawned { alarm, window, image, record } = *respawned;
        if !self.in_scope(alarm.top.tgid) {
            return;
        }
        // Nobody restarts anything any more.
        let ancestry = self.lineage.ancestry(alarm.top);
        let Some(parent) = ancestry.first() else { return };
        let command = Node {
            key: alarm.process,
            parent: Some(alarm.top),
            cgroup: parent.cgroup,
            exec: Some(Exec {
                at_ns: image.generations[0],
                exe: record.exe,
                cwd: record.cwd,
                argv: split(&record.argv[..(record.kept as usize).min(ARGV_KEPT)]),
                argv_bytes: record.argv_bytes,
                strict: image.strict,
                loose: image.loose,
            }),
            ..Node::default()
        };
        let finding = respawn::detect(&alarm, &window, &self.respawns);
        let decision = self.policy.decide(Rule::R6.name(), finding.contain, false);
        self.tell(Notice::Respawned(Box::new(Respawning {
            finding,
            ancestry,
            decision,
            restarted: Restarted { command, window, span_ns: alarm.span_ns, killer: None },
            alarm,
        })));
    }
}

impl Desk {
    /// One cause, one incident: who restarts what. A loop that goes on is written down as an
    /// observation and changes nothing about its incident.
    pub fn respawned(&mut self, respawning: Respawning) {
        let Respawning { finding, ancestry, decision, mut restarted, alarm } = respawning;
        let exec = restarted.command.exec.clone().unwrap_or_default();
        let whose = (alarm.top, exec.strict);
        let seen_ns = alarm.crossed_ns;
        let known = self.loops.iter_mut().find(|(_, looping)| looping.whose == Some(whose));
        if let Some((id, looping)) = known {
            looping.seen_ns = seen_ns;
            let observed = Body::Observation(observation(&alarm, restarted.window.code));
            self.log.append(Draft { incident: id.clone(), ..Draft::bulk(observed) });
            return;
        }
        if u64::from(signal(restarted.window.code)) == SIGKILL {
            restarted.killer = self.killer_of_children(alarm.top);
        }
        let mut scene = self.scene(finding.culprit, finding.at_ns, &ancestry);
        // The cause is the command in its directory, whoever restarts it.
        scene.identity = [exec.exe.ino, exec.strict, restarted.command.cgroup];
        let change = self.incidents.report(&finding, scene, incident::new_id());
        let (id, opened) = (change.incident.id.clone(), change.opened);
        self.loops.insert(id.clone(), Looping { whose: Some(whose), seen_ns, closed: false });
        self.log.append(Draft {
            priority: proto::Priority::Incident,
            ..Draft::of(id.clone(), Body::Observation(observation(&alarm, restarted.window.code)))
        });
        self.announce(change);
        if !opened {
            return;
        }
        self.matters.insert(id.clone(), Matter::restarting(&id, finding, restarted));
        if let Decision::Suggest { why } = decision {
            self.act(&id, refusal(why));
        }
        self.study(&id);
    }

    /// A loop has ended of which nobody has told for a while. One that is held is not over: it goes on
    /// when it is let go.
    pub fn resolve_ended_loops(&mut self) {
        let now_ns = clock::boot_ns();
        let mut ended = Vec::new();
        for (id, looping) in &mut self.loops {
            let held = self.incidents.get(id).is_some_and(|it| it.state() == State::Contained);
            if held || self.acting.contains(id) {
                looping.seen_ns = now_ns;
            } else if now_ns.saturating_sub(looping.seen_ns) >= self.quiet_ns {
                ended.push(id.clone());
            }
        }
        let why =
            format!("the command has not failed like that for {} s", self.quiet_ns / 1_000_000_000);
        for id in ended {
            if self.loops.remove(&id).is_some_and(|looping| !looping.closed) {
                self.resolve(&id, &why);
            }
        }
    }
}
