//! Ends by SIGKILL of whoever is no victim of the OOM killer: who was ended by whom.

use std::mem;

use sensor_common::oom::{BY_KERNEL, BY_OOM, Kill, Killed, SENDER_ENDS};

use super::{SETTLES, bytes, marks::recorded};
use crate::{
    core::desk::{Desk, Done},
    detect::oom::key,
    lineage::{Node, ProcessKey},
    proto::{self, Actor, Incident, observation::Fact, record::Body},
    record::Draft,
};

/// Ends by SIGKILL that are remembered, for whoever asks who did it.
const ENDS: usize = 64;

/// SIGKILL ended a process that the OOM killer did not choose.
#[derive(Debug)]
pub struct Ending {
    pub(super) killed: Killed,
    pub(super) cgroup: String,
    pub(super) sender_cgroup: String,
    pub(super) sender: Option<Node>,
}

impl Desk {
    /// SIGKILL ended a process. Where it may turn out to be a victim of the OOM killer it is told of a moment later.
    pub fn ended(&mut self, ending: Ending) {
        let Killed { process, known, kill, .. } = ending.killed;
        if known != 0 && kill.flags & BY_OOM != 0 {
            // It was marked while its end was written down.
            return;
        }
        if known == 0 || !kill.may_be_marked() {
            return self.tell_end(ending);
        }
        self.deaths.waiting.insert(process, ending);
        self.later(SETTLES, Done::EndDue(process));
    }

    /// Nobody has marked it.
    pub fn end_is_due(&mut self, process: ProcessKey) {
        if let Some(ending) = self.deaths.waiting.remove(&process) {
            self.tell_end(ending);
        }
    }

    /// Before a good end: nothing waits any longer.
    pub fn tell_waiting_ends(&mut self) {
        for (_, ending) in mem::take(&mut self.deaths.waiting) {
            self.tell_end(ending);
        }
    }

    fn tell_end(&mut self, ending: Ending) {
        let Ending { killed, cgroup, sender_cgroup, sender } = ending;
        let Kill { sender: by, sender_comm, sender_uid, flags, at_ns, pages, .. } = killed.kill;
        if killed.known != 0 && [std::process::id(), self.guardian.pid()].contains(&by.tgid) {
            // Recorded as an action.
            return;
        }
        let clean = |group: &str| self.gatherer.redactor().line(group);
        let process = Actor {
            parent: recorded(killed.parent),
            cgroup: clean(&cgroup),
            ..self.actor(killed.process, &killed.comm, killed.uid, None)
        };
        let known = killed.known != 0;
        let by_kernel = known && flags & BY_KERNEL != 0;
        let behind = recorded(by).filter(|_| by_kernel && flags & SENDER_ENDS == 0);
        let behind = behind.and_then(|trigger| self.deaths.kills.behind(trigger, at_ns));
        let victim = behind.and_then(|case| case.oom.victims.last()?.victim.clone());
        let case = behind.map(|case| case.number);
        let fact = proto::Killed {
            at_ns: killed.at_ns,
            process: Some(process),
            sender: known.then(|| Actor {
                cgroup: clean(&sender_cgroup),
                ..self.actor(by, &sender_comm, sender_uid, sender.as_ref())
            }),
            by_kernel,
            sent_ns: if known { at_ns } else { 0 },
            bytes: if known { bytes(pages.anon + pages.swap + pages.shmem) } else { 0 },
            processes: killed.live,
            untold: killed.untold,
            victim,
        };
        if self.deaths.ends.len() >= ENDS {
            self.deaths.ends.pop_front();
        }
        self.deaths.ends.push_back(fact.clone());
        let of_case = self.deaths.oom.iter().find(|(_, going)| Some(going.case) == case);
        let incident = match of_case {
            Some((id, _)) => id.clone(),
            None => self.whose(killed.process, killed.parent),
        };
        let observed = Body::Observation(proto::Observation { fact: Some(Fact::Killed(fact)) });
        self.log.append(Draft { incident, ..Draft::bulk(observed) });
    }

    /// The unresolved incident in whose tree a process was; empty: none.
    fn whose(&self, process: ProcessKey, parent: ProcessKey) -> String {
        if self.incidents.iter().next().is_none() {
            return String::new();
        }
        let mut line = self.lineage.line(parent);
        line.push(process);
        line.push(parent);
        let about = |incident: &&Incident| {
            self.incidents.roots(&incident.id).iter().any(|root| line.contains(root))
        };
        let found = self.incidents.iter().find(about);
        found.map(|incident| incident.id.clone()).unwrap_or_default()
    }

    /// Who killed children of this process last, in words; `None`: nobody that was seen.
    pub fn killer_of_children(&self, parent: ProcessKey) -> Option<String> {
        let is = |actor: &Option<Actor>| {
            actor.as_ref().and_then(|actor| actor.parent).is_some_and(|its| key(its) == parent)
        };
        let end = self.deaths.ends.iter().rev().find(|end| is(&end.process))?;
        let sender = end.sender.as_ref()?;
        let pid = sender.process.unwrap_or_default().pid;
        let whom = match (&end.victim, end.by_kernel) {
            (Some(_), _) => "the OOM killer, on behalf of ",
            (None, true) => "the kernel, on behalf of ",
            (None, false) => "",
        };
        Some(format!("{whom}`{}` ({pid}) of uid {}", sender.comm, sender.uid))
    }
}
