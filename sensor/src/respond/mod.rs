//! Interventions: the brake, freezing, thawing, killing, and who may never be touched.
//!
//! [`policy`] decides, [`Responder`] acts, [`guardian`] undoes a freeze in time even when nobody
//! else is left. Every intervention, and every refusal of one, is a [`proto::Action`].

pub mod ballast;
mod brake;
mod freeze;
pub mod guardian;
pub mod hold;
mod kill;
pub mod policy;
pub mod process;
pub mod protect;
mod rehearse;
pub mod surge;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::Signal;
use sensor_common::brake::Tally;
use sensor_proto::internal::v1::Arm;

use crate::{
    cgroup::Hierarchies,
    clock,
    lineage::{Forest, Node, ProcessKey},
    proto::{self, ActionKind},
};

use self::{
    brake::Sweep,
    policy::Bucket,
    process::signal_all,
    protect::{Additions, Protection, narrow, narrow_group},
};
pub use self::{freeze::Started, rehearse::Rehearsal};

/// The kernel side as the response needs it: who lives, and the brake's marks.
pub trait Marks: Send + Sync {
    /// All processes that the kernel side knows (about 1 µs a process).
    fn forest(&self) -> Forest;
    /// Whether exactly this process lives. One that has exited does not, even while its pid is taken.
    fn lives(&self, key: ProcessKey) -> bool;
    /// Enters those whose birth the kernel side has missed, and takes out those whose exit it has
    /// (about 1 µs a process).
    fn complete(&self);
    /// Takes hold of trees by their roots, which may be dead: from now on the kernel side pauses or
    /// stops whoever forks below them, 32 levels deep, and counts that by `number`, from zero. Ignored
    /// from `until_ns` on (boot clock). An error: the processes of one of them, at least, have to be
    /// marked one by one.
    fn engage(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()>;
    /// The same for a dry run: what would be done is counted, and nothing is done.
    fn rehearse(&self, roots: &[ProcessKey], number: u32, until_ns: u64) -> io::Result<()>;
    /// Marks one process; the kernel side pauses or stops it at its next fork or exec, and its
    /// children inherit the mark. Ignored from `until_ns` on (boot clock). `NotFound`: it is gone.
    fn mark(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()>;
    /// The mark of an ancestor does not hold for this process, nor for those below it.
    fn spare(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()>;
    /// Takes its mark away. `NotFound`: it is gone.
    fn unmark(&self, key: ProcessKey) -> io::Result<()>;
    /// What was done under a number since it was engaged.
    fn tally(&self, number: u32) -> Tally;
    /// Nothing is marked any more.
    fn disengage(&self);
}

/// Where and how often the response may act.
#[derive(Clone, Debug)]
pub struct Options {
    /// cgroup v2 paths; a process outside of all of them is never touched. Empty: the whole host.
    pub scope: Vec<PathBuf>,
    pub protect: Additions,
    /// Containments that may begin in a minute.
    pub per_minute: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scope: Vec::new(),
            protect: Additions::default(),
            per_minute: policy::CONTAINMENTS_PER_MINUTE,
        }
    }
}

/// What to contain.
#[derive(Clone, Debug)]
pub struct Target {
    /// Incident id.
    pub incident: String,
    /// Number of the mark: unique among the containments of this boot, not 0.
    pub mark: u32,
    /// The culprit, or the members of a group of them.
    pub roots: Vec<ProcessKey>,
    /// The process that crossed the gate, if one did: says which part of the tree must stay in when
    /// it has to be narrowed.
    pub leaf: Option<ProcessKey>,
    /// When the brake expires, boot clock, ns.
    pub brake_until_ns: u64,
    /// Who acts and why, for the record.
    pub by: String,
    pub why: String,
}

/// A containment that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub incident: String,
    pub mark: u32,
    /// Root of what is contained, below the culprit where it had to be narrowed; of a group those of
    /// its members that are contained.
    pub roots: Vec<ProcessKey>,
    /// Directory of the group that was frozen as a whole.
    pub cgroup: Option<PathBuf>,
    /// Processes that it reached, parents before children.
    pub processes: Vec<ProcessKey>,
}

/// Processes that an order to the guardian lists. All of them carry the mark as well, so more would
/// only make the frame large.
const MOST_LISTED: usize = 8192;

impl Held {
    /// The order that lets the guardian undo it.
    pub fn arm(&self, thaw_ns: u64, release_ns: u64) -> Arm {
        Arm {
            incident: self.incident.clone(),
            mark: self.mark,
            thaw_ns,
            release_ns,
            processes: listed(&self.processes),
            roots: listed(&self.roots),
            cgroup: self
                .cgroup
                .as_ref()
                .map(|dir| dir.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    /// What another core contained, from what its guardian handed over. `None` where that knew of no
    /// process yet.
    pub fn of(arm: &Arm) -> Option<Self> {
        let processes: Vec<ProcessKey> = keys(&arm.processes);
        Some(Self {
            incident: arm.incident.clone(),
            mark: arm.mark,
            roots: match keys(&arm.roots) {
                // An older core's.
                none if none.is_empty() => vec![*processes.first()?],
                roots => roots,
            },
            cgroup: (!arm.cgroup.is_empty()).then(|| PathBuf::from(&arm.cgroup)),
            processes,
        })
    }
}

fn listed(keys: &[ProcessKey]) -> Vec<proto::ProcessKey> {
    let key = |key: &ProcessKey| proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns };
    keys.iter().take(MOST_LISTED).map(key).collect()
}

fn keys(listed: &[proto::ProcessKey]) -> Vec<ProcessKey> {
    listed.iter().map(|key| ProcessKey::new(key.pid, key.start_ns)).collect()
}

/// Acts on processes.
pub struct Responder {
    marks: Arc<dyn Marks>,
    hierarchies: Hierarchies,
    protection: Protection,
    scope: Vec<PathBuf>,
    bucket: Mutex<Bucket>,
}

impl Responder {
    /// Second: what of the configuration cannot be honoured, one sentence each.
    pub fn new(
        marks: Arc<dyn Marks>,
        hierarchies: Hierarchies,
        options: &Options,
    ) -> (Self, Vec<String>) {
        let (protection, refused) = Protection::new(&options.protect);
        let bucket = Mutex::new(Bucket::new(options.per_minute, clock::boot_ns()));
        let scope = options.scope.clone();
        (Self { marks, hierarchies, protection, scope, bucket }, refused)
    }

    /// The protected set; core adds its own processes to it.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Whether a v2 path is within the scope.
    pub fn in_scope(&self, path: &Path) -> bool {
        self.scope.is_empty() || self.scope.iter().any(|scope| path.starts_with(scope))
    }

    /// Contains the target's tree: [`Responder::begin`], then [`Responder::settle`].
    pub fn contain(&self, target: &Target, armed: &mut dyn FnMut(&Held)) -> Contained {
        match self.begin(target, armed) {
            Ok(started) => self.settle(started, armed),
            Err(actions) => Contained { held: None, actions },
        }
    }

    /// What of the target may be contained, as the beginning of a sweep; an error is the reason why
    /// nothing may.
    fn admit(&self, target: &Target, forest: &Forest) -> Result<(Sweep, Option<String>), String> {
        let mut views = Views::default();
        let protected = |node: &Node| match self.view(forest, node.key, &mut views) {
            View::Protected(reason) => Some(reason.clone()),
            View::Outside | View::Open(_) => None,
        };
        let lives = |root: &ProcessKey| forest.tree(*root).iter().any(|(node, _)| node.alive);
        let living: Vec<ProcessKey> = target.roots.iter().copied().filter(lives).collect();
        let narrowed = match living.as_slice() {
            [] => return Err("no process of its tree lives any more".to_owned()),
            [root] => narrow(forest, *root, target.leaf, protected)?,
            roots => narrow_group(forest, roots, protected)?,
        };
        if views.of.values().all(|view| matches!(view, View::Outside)) {
            return Err("none of its processes is within scope.cgroup".to_owned());
        }
        Ok((Sweep::new(target, narrowed.roots, views), narrowed.because))
    }

    /// What may be done to one process; looked up once per process and containment.
    fn view<'v>(&self, forest: &Forest, key: ProcessKey, seen: &'v mut Views) -> &'v View {
        seen.of.entry(key).or_insert_with(|| {
            let path = self.hierarchies.path_of(key.tgid).ok();
            // Without a readable group nothing proves that it is within the scope.
            if !self.scope.is_empty() && !path.as_ref().is_some_and(|path| self.in_scope(path)) {
                return View::Outside;
            }
            let cgroup = path.as_deref();
            let reason = match forest.program(key) {
                Some(program) => self.protection.of_place(key, cgroup).or_else(|| {
                    if let Some(known) = seen.programs.get(&program) {
                        return known.clone();
                    }
                    let reason = self.protection.of(key, cgroup);
                    // Of one that is gone nobody knows what it ran.
                    if self.marks.lives(key) {
                        seen.programs.insert(program, reason.clone());
                    }
                    reason
                }),
                None => self.protection.of(key, cgroup),
            };
            match reason {
                Some(reason) => View::Protected(reason),
                None => View::Open(path),
            }
        })
    }

    /// Sends `signal` to each that still lives; how many it reached.
    fn signal(&self, keys: impl IntoIterator<Item = ProcessKey>, signal: Signal) -> u32 {
        signal_all(keys, signal, |key| self.marks.lives(key))
    }

    fn take_token(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(clock::boot_ns())
    }
}

/// What a containment came to.
#[derive(Clone, Debug)]
pub struct Contained {
    /// `None`: refused.
    pub held: Option<Held>,
    /// Brake and freeze, or the refusal, before which the tree may have been held and let go.
    pub actions: Vec<proto::Action>,
}

impl Contained {
    /// Whether it was held, and is let go: a guardian has nothing left to undo.
    pub fn is_let_go(&self) -> bool {
        self.held.is_none() && self.actions.iter().any(|one| one.kind() == ActionKind::Release)
    }
}

/// Who was looked at in a containment.
#[derive(Debug, Default)]
struct Views {
    of: HashMap<ProcessKey, View>,
    /// Whether a program is protected, by its hash: of those who run the same one is looked at, for a look
    /// into /proc takes a ms in a storm. Who executes another meanwhile is looked at again in the end.
    programs: HashMap<u64, Option<protect::Reason>>,
}

/// How the response sees a process.
#[derive(Clone, Debug)]
enum View {
    /// With its v2 path, where one could be read.
    Open(Option<PathBuf>),
    Outside,
    Protected(protect::Reason),
}

/// Living processes of a containment, parents before children: the trees, and what carries the mark
/// without being in one (its birth was lost).
fn targets(forest: &Forest, roots: &[ProcessKey], mark: u32) -> Vec<ProcessKey> {
    let mut found: Vec<ProcessKey> = Vec::new();
    let mut within = std::collections::HashSet::new();
    for (node, _) in roots.iter().flat_map(|root| forest.tree(*root)) {
        if node.alive && within.insert(node.key) {
            found.push(node.key);
        }
    }
    found.extend(
        forest
            .nodes()
            .filter(|node| node.alive && mark != 0 && node.mark == mark)
            .map(|node| node.key)
            .filter(|key| !within.contains(key)),
    );
    found
}

/// Everything about an action but what it did.
struct Doing<'a> {
    kind: ActionKind,
    by: &'a str,
    why: &'a str,
    started_ns: u64,
}

impl<'a> Doing<'a> {
    fn now(kind: ActionKind, by: &'a str, why: &'a str) -> Self {
        Self { kind, by, why, started_ns: clock::boot_ns() }
    }

    fn done(self, ok: bool, processes: u32, result: String) -> proto::Action {
        proto::Action {
            kind: self.kind as i32,
            at: Some(clock::wall_of(self.started_ns)),
            by: self.by.to_owned(),
            why: self.why.to_owned(),
            result,
            started_ns: self.started_ns,
            ended_ns: clock::boot_ns(),
            processes,
            ok,
            braked: None,
        }
    }
}

/// `1 process`, `2 processes`.
fn count(processes: u32) -> String {
    format!("{processes} process{}", if processes == 1 { "" } else { "es" })
}
