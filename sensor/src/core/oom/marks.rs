//! From the kernel's events to what is recorded of them: on the thread that reads the ring what is gone a moment
//! later, on the desk the words for it.

use std::path::Path;

use sensor_common::{
    lineage::ARGV_KEPT,
    oom::{COUNTED, DYING, INHERITS, Killed, LIMITED, Marked, NODE, OWNS, Pages, RECORD},
};

use super::{Marking, bytes, ends::Ending};
use crate::{
    core::{
        desk::Desk,
        reactor::{Notice, Reactor},
    },
    kernel::split,
    lineage::{Exec, Node, ProcessKey},
    proto::{self, Actor, OomKill},
};

impl Reactor {
    /// On the thread that reads the ring.
    pub(in crate::core) fn marked(&self, marked: &Marked) {
        let victim_cgroup = self.group_path(None, marked.victim_cgroup);
        if !self.covers(&victim_cgroup, marked.victim.tgid) {
            return;
        }
        let mut ancestry = self.lineage.ancestry(marked.victim);
        if ancestry.is_empty() {
            // It was quicker than we are.
            let victim = gone(marked);
            ancestry = victim.parent.map(|it| self.lineage.ancestry(it)).unwrap_or_default();
            ancestry.insert(0, victim);
        }
        let limited = marked.flags & LIMITED != 0;
        self.tell(Notice::Oom(Box::new(Marking {
            trigger: self.lineage.living(marked.trigger.tgid),
            trigger_cgroup: self.group_path(None, marked.trigger_cgroup),
            limit_cgroup: if limited {
                self.group_path(Some("memory"), marked.limit.cgroup)
            } else {
                String::new()
            },
            victim_cgroup,
            ancestry,
            marked: *marked,
        })));
    }

    /// On the thread that reads the ring.
    pub(in crate::core) fn killed(&self, killed: Killed) {
        let cgroup = self.group_path(None, killed.cgroup);
        if !self.covers(&cgroup, killed.process.tgid) {
            return;
        }
        self.tell(Notice::Ended(Box::new(Ending {
            sender_cgroup: self.group_path(None, killed.kill.sender_cgroup),
            sender: (killed.known != 0)
                .then(|| self.lineage.living(killed.kill.sender.tgid))
                .flatten()
                .filter(|node| node.key == killed.kill.sender),
            cgroup,
            killed,
        })));
    }

    fn group_path(&self, controller: Option<&str>, id: u64) -> String {
        let path = self.hierarchies.path_of_id(controller, id);
        path.map_or_else(String::new, |path| {
            sensor_proto::json::escape(path.as_os_str().as_encoded_bytes())
        })
    }

    /// Whether a process that may be gone is in the scope.
    fn covers(&self, group: &str, tgid: u32) -> bool {
        if group.is_empty() {
            return self.in_scope(tgid);
        }
        self.responder.in_scope(Path::new(group))
    }
}

/// A victim whose node is gone already, by what came with the mark.
fn gone(marked: &Marked) -> Node {
    let Marked { image, record, flags, .. } = marked;
    let known = flags & NODE != 0;
    let argv = split(&record.argv[..(record.kept as usize).min(ARGV_KEPT)]);
    Node {
        key: marked.victim,
        parent: (known && marked.parent.start_ns != 0).then_some(marked.parent),
        cgroup: marked.victim_cgroup,
        program: if known { image.exe } else { 0 },
        exec: (known && flags & RECORD != 0).then(|| Exec {
            at_ns: image.generations[0],
            exe: record.exe,
            cwd: record.cwd,
            argv,
            argv_bytes: record.argv_bytes,
            strict: image.strict,
            loose: image.loose,
        }),
        ..Node::default()
    }
}

/// Of what a victim held what others have as well, pages; `None`: not known. `ancestry`: it, and those above it.
fn shared(flags: u32, pages: Pages, at_fork: u32, ancestry: &[Node]) -> Option<u64> {
    if flags & COUNTED == 0 || flags & (OWNS | INHERITS) == 0 {
        return None;
    }
    if flags & OWNS != 0 {
        return Some(0);
    }
    // What a dead process left that executed nothing, it had from above; who has executed something since has it
    // no more.
    let executed_ns = |node: &Node| node.exec.as_ref().map_or(0, |exec| exec.at_ns);
    let forker = ancestry.windows(2).find(|pair| pair[1].alive || pair[1].exec.is_some());
    let has_it = |pair: &&[Node]| pair[1].alive && executed_ns(&pair[1]) <= pair[0].key.start_ns;
    let at_fork = forker.filter(has_it).map_or(0, |_| u64::from(at_fork));
    Some(at_fork.min(pages.anon.saturating_add(pages.swap)).saturating_add(pages.shmem))
}

pub(super) fn recorded(key: ProcessKey) -> Option<proto::ProcessKey> {
    (key.tgid != 0).then_some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns })
}

fn comm(bytes: &[u8; 16]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

impl Desk {
    pub(super) fn actor(
        &self,
        key: ProcessKey,
        name: &[u8; 16],
        uid: u32,
        node: Option<&Node>,
    ) -> Actor {
        let exec = node.and_then(|node| node.exec.as_ref());
        Actor {
            process: recorded(key),
            parent: node.and_then(|node| node.parent).and_then(recorded),
            comm: self.gatherer.redactor().name(comm(name)),
            argv: exec.map(|exec| self.gatherer.redactor().argv(&exec.argv).0).unwrap_or_default(),
            uid,
            cgroup: String::new(),
            signature: exec.map_or(0, |exec| exec.strict),
        }
    }

    /// A mark as it is recorded.
    pub(super) fn oom_kill(&self, marking: &Marking) -> OomKill {
        let marked = &marking.marked;
        let pages = marked.pages;
        let counted = |pages: u64| (marked.flags & COUNTED != 0).then_some(bytes(pages));
        let limit = |pages: u64| (marked.flags & LIMITED != 0).then_some(bytes(pages));
        let victim = marking.ancestry.first();
        let clean = |group: &str| self.gatherer.redactor().line(group);
        OomKill {
            at_ns: marked.at_ns,
            victim: Some(Actor {
                cgroup: clean(&marking.victim_cgroup),
                ..self.actor(marked.victim, &marked.victim_comm, marked.victim_uid, victim)
            }),
            trigger: Some(Actor {
                cgroup: clean(&marking.trigger_cgroup),
                ..self.actor(
                    marked.trigger,
                    &marked.trigger_comm,
                    marked.trigger_uid,
                    marking.trigger.as_ref().or(victim).filter(|it| it.key == marked.trigger),
                )
            }),
            anon_bytes: counted(pages.anon),
            file_bytes: counted(pages.file),
            shmem_bytes: counted(pages.shmem),
            swap_bytes: counted(pages.swap),
            oom_score_adj: marked.oom_score_adj,
            dying: marked.flags & DYING != 0,
            limit_bytes: limit(marked.limit.max),
            limit_used_bytes: limit(marked.limit.used),
            limit_cgroup: clean(&marking.limit_cgroup),
            limit_cgroup_id: if marked.flags & LIMITED != 0 { marked.limit.cgroup } else { 0 },
            victim_cgroup_id: marked.victim_cgroup,
            shared_bytes: shared(marked.flags, pages, marked.at_fork, &marking.ancestry).map(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(alive: bool, executed: bool) -> Node {
        Node { alive, exec: executed.then(Exec::default), ..Node::default() }
    }

    #[test]
    fn what_others_have_as_well() {
        let of = |flags, above: &[Node]| {
            let pages = Pages { anon: 50, swap: 5, shmem: 7, file: 9 };
            let ancestry: Vec<Node> = [node(true, false)].iter().chain(above).cloned().collect();
            shared(flags, pages, 40, &ancestry)
        };
        let server = [node(true, true)];
        assert_eq!(of(COUNTED | OWNS, &server), Some(0));
        assert_eq!(of(COUNTED | INHERITS, &server), Some(47));
        assert_eq!(of(COUNTED | INHERITS, &[node(false, false), node(true, true)]), Some(47));
        // A daemon whose forker is gone has alone what it had then.
        assert_eq!(of(COUNTED | INHERITS, &[node(false, true), node(true, true)]), Some(7));
        assert_eq!(of(COUNTED | INHERITS, &[]), Some(7));
        // And so has a worker of a server that has executed itself since.
        let mut reloaded = node(true, true);
        reloaded.exec.as_mut().unwrap().at_ns = 1;
        assert_eq!(of(COUNTED | INHERITS, &[reloaded]), Some(7));
        assert_eq!((of(COUNTED, &server), of(OWNS, &server)), (None, None));
    }
}
