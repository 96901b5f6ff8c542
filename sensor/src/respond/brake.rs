//! The brake: a mark on the root of a tree, which holds for all below it at once, and then on each of
//! its processes, so that it holds however deep they are and whatever becomes of the root. The kernel
//! side keeps from forking whoever has it, and hands it on to children.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{Marks, Responder, Target, View, Views, freeze, process::Stat, targets};
use crate::{
    cgroup,
    lineage::{Forest, Node, ProcessKey},
};

/// Members of a group that are looked at; the largest trees that were seen had some 6,000.
const MOST_MEMBERS: usize = 65_536;

/// Whoever was interrupted on its way to stop itself has had its turn again: among 300 tasks that takes 25 ms.
const LATE: Duration = Duration::from_millis(250);

/// What a containment has reached so far.
pub(super) struct Sweep {
    /// Each with its tree.
    pub roots: Vec<ProcessKey>,
    pub mark: u32,
    until_ns: u64,
    /// How each process was seen, so that it is looked at once.
    views: Views,
    done: HashSet<ProcessKey>,
    /// Protected processes: who is below them works for them, and is left alone as well.
    shields: HashSet<ProcessKey>,
    /// Who is left alone but had inherited the mark: the kernel side may have stopped them.
    pub to_wake: Vec<ProcessKey>,
    /// Marked, in the order in which they were found: parents before children in each pass.
    pub reached: Vec<ProcessKey>,
    /// Marked and not stopped yet.
    pub pending: Vec<ProcessKey>,
    /// Out of the scope, or protected: left alone.
    pub spared: u32,
}

impl Sweep {
    pub fn new(target: &Target, roots: Vec<ProcessKey>, views: Views) -> Self {
        Self {
            roots,
            mark: target.mark,
            until_ns: target.brake_until_ns,
            views,
            done: HashSet::new(),
            shields: HashSet::new(),
            to_wake: Vec::new(),
            reached: Vec::new(),
            pending: Vec::new(),
            spared: 0,
        }
    }

    /// Whether somebody protected is above it, within what is contained.
    fn is_shielded(&self, forest: &Forest, key: ProcessKey) -> bool {
        let within = |node: &&&Node| !self.roots.contains(&node.key);
        !self.shields.is_empty()
            && forest
                .ancestry(key)
                .iter()
                .skip(1)
                .take_while(within)
                .any(|node| self.shields.contains(&node.key))
    }

    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.views.of.values()
    }
}

impl Responder {
    /// Exempts whoever is known to be spared.
    pub(super) fn spare_known(&self, sweep: &Sweep) {
        for (key, view) in &sweep.views.of {
            if !matches!(view, View::Open(_)) {
                // An error: it is gone.
                let _ = self.marks.spare(*key, sweep.mark, sweep.until_ns);
            }
        }
    }

    /// Takes hold of each whole tree at once. What is known to be spared is exempt before that.
    pub(super) fn engage(&self, sweep: &Sweep) {
        self.spare_known(sweep);
        let open =
            |root: &&ProcessKey| matches!(sweep.views.of.get(root), Some(View::Open(_)) | None);
        let roots: Vec<ProcessKey> = sweep.roots.iter().filter(open).copied().collect();
        if !roots.is_empty()
            && let Err(error) = self.marks.engage(&roots, sweep.mark, sweep.until_ns)
        {
            tracing::warn!("the brake takes hold process by process: {error}");
        }
    }

    /// Marks what is new in the tree since the last pass; how many that were.
    pub(super) fn mark_new(&self, sweep: &mut Sweep, forest: &Forest) -> u32 {
        let before = sweep.reached.len();
        for key in targets(forest, &sweep.roots, sweep.mark) {
            if !sweep.done.insert(key) {
                continue;
            }
            let carries = forest.get(key).is_some_and(|node| node.mark == sweep.mark);
            if sweep.is_shielded(forest, key) {
                if carries && self.marks.unmark(key).is_ok() {
                    sweep.to_wake.push(key);
                }
                sweep.spared += 1;
                continue;
            }
            let view = self.view(forest, key, &mut sweep.views);
            if !matches!(view, View::Open(_)) {
                if matches!(view, View::Protected(_)) {
                    sweep.shields.insert(key);
                }
                if carries {
                    sweep.to_wake.push(key);
                }
                sweep.spared += 1;
                let _ = self.marks.spare(key, sweep.mark, sweep.until_ns);
            // An error: it is gone meanwhile, and there is nothing to stop.
            } else if self.marks.mark(key, sweep.mark, sweep.until_ns).is_ok() {
                sweep.reached.push(key);
                sweep.pending.push(key);
            }
        }
        (sweep.reached.len() - before) as u32
    }

    /// Wakes once more who was let go: since 7.0 the kernel may interrupt a process between the look at its mark
    /// and the signal to itself, and then it is stopped after it was woken. Whoever stands under another
    /// mark by then is left to that.
    pub(super) fn wake_late(&self, mark: u32, mut carriers: Vec<ProcessKey>) {
        let marks = Arc::clone(&self.marks);
        let look = move || {
            thread::sleep(LATE);
            carriers.extend(unmark_all(marks.as_ref(), mark));
            let forest = marks.forest();
            let is_free = |key: &ProcessKey| forest.get(*key).is_some_and(|node| node.mark == 0);
            carriers.retain(is_free);
            freeze::wake(carriers, |key| marks.lives(key));
        };
        if let Err(error) = thread::Builder::new().name("let-go".into()).spawn(look) {
            tracing::warn!("whoever was about to stop itself may stand: {error}");
        }
    }

    /// Takes the mark off everybody outside of what the sweep has to reach; who of them lives.
    pub(super) fn unmark_others(&self, sweep: &Sweep) -> Vec<ProcessKey> {
        let within = |forest: &Forest, key: ProcessKey| {
            forest.ancestry(key).iter().any(|node| sweep.roots.contains(&node.key))
        };
        unmark_those(self.marks.as_ref(), |forest, node| {
            node.mark == sweep.mark && !within(forest, node.key)
        })
    }

    /// Lets go of whoever became protected after it was looked at, by executing such a program, and of
    /// those below it; who is to be woken.
    pub(super) fn relent(&self, sweep: &mut Sweep) -> Vec<ProcessKey> {
        let forest = self.marks.forest();
        let mut now = Views::default();
        let became =
            |key: &ProcessKey| matches!(self.view(&forest, *key, &mut now), View::Protected(_));
        let became: Vec<ProcessKey> = sweep.reached.iter().copied().filter(became).collect();
        if became.is_empty() {
            return std::mem::take(&mut sweep.to_wake);
        }
        sweep.shields.extend(&became);
        sweep.views = now;
        let (kept, free): (Vec<_>, Vec<_>) = std::mem::take(&mut sweep.reached)
            .into_iter()
            .partition(|key| !sweep.shields.contains(key) && !sweep.is_shielded(&forest, *key));
        sweep.reached = kept;
        sweep.pending.retain(|key| !free.contains(key));
        sweep.spared += free.len() as u32;
        for key in &free {
            // An error: it is gone. Below an exempt process nobody is held by those above it.
            let _ = self.marks.unmark(*key);
            if sweep.shields.contains(key) {
                let _ = self.marks.spare(*key, sweep.mark, sweep.until_ns);
            }
        }
        free.into_iter().chain(std::mem::take(&mut sweep.to_wake)).collect()
    }

    /// Directory of the lowest cgroup that holds all that was reached, if it holds nothing else.
    pub(super) fn owned(&self, sweep: &mut Sweep) -> Option<PathBuf> {
        let paths = sweep.reached.iter().map(|key| match sweep.views.of.get(key) {
            Some(View::Open(Some(path))) => path.as_path(),
            // Not known: no group can be proven to hold it.
            _ => Path::new("/"),
        });
        let common = cgroup::common(paths)?;
        // The root group cannot be frozen, and is nobody's own.
        common.parent()?;
        if !self.in_scope(&common) {
            return None;
        }
        let dir = self.hierarchies.dir(&common)?;
        self.owns(&dir, sweep).then_some(dir)
    }

    /// Whether every member of the group belongs to the tree, none of it spared. Marks what is new.
    pub(super) fn owns(&self, dir: &Path, sweep: &mut Sweep) -> bool {
        // Members before the forest: all of them were born when it is looked at.
        let Ok(Some(members)) = cgroup::members(dir, MOST_MEMBERS) else { return false };
        self.mark_new(sweep, &self.marks.forest());
        let reached: HashSet<u32> = sweep.reached.iter().map(|key| key.tgid).collect();
        let dead = |pid: u32| Stat::read(pid).map_or(true, |stat| !stat.lives());
        !members.is_empty() && members.iter().all(|pid| reached.contains(pid) || dead(*pid))
    }
}

/// Takes the mark off every process that carries it, those born meanwhile included; which of the
/// living they were. Dead ones, whose mark holds for their descendants, lose it as well.
pub(super) fn unmark_all(marks: &dyn Marks, mark: u32) -> Vec<ProcessKey> {
    unmark_those(marks, |_, node| mark != 0 && node.mark == mark)
}

fn unmark_those(marks: &dyn Marks, those: impl Fn(&Forest, &Node) -> bool) -> Vec<ProcessKey> {
    let mut carriers = Vec::new();
    // A child that is born during one round carries the mark in the next; it has none to give on
    // once its parent has lost it, so three rounds are plenty.
    for _ in 0..3 {
        let forest = marks.forest();
        let found = forest.nodes().filter(|node| those(&forest, node));
        let freed: Vec<_> = found.filter(|node| marks.unmark(node.key).is_ok()).collect();
        if freed.is_empty() {
            break;
        }
        carriers.extend(freed.into_iter().filter(|node| node.alive).map(|node| node.key));
    }
    carriers
}
