//! The kernel's lineage as a [`Forest`], and the marks that stop a tree.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, Queue};
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use sensor_common::{
    ProcessKey,
    brake::{DRY, EXEMPT, Mark, spares},
    lineage::{ADOPTED, DEAD, EXECUTED, ExecRecord, Known, Node as KernelNode, Slot},
};

use super::{stalls::Stalls, table::Table};
use crate::{
    clock,
    lineage::{Exec, Forest, Node, trees::Counted},
};

/// How much of each process a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Lineage, signatures and counters: about 0.1 µs a process, no system calls.
    Links,
    /// What each process executed as well: a system call a process.
    Execs,
}

/// The maps that hold the lineage.
pub struct Lineage {
    table: Table,
    index: BpfHashMap<MapData, u32, Slot>,
    execs: BpfHashMap<MapData, Slot, ExecRecord>,
    known: Mutex<BpfHashMap<MapData, u32, Known>>,
    gone: Mutex<Queue<MapData, ProcessKey>>,
    entered: Mutex<Array<MapData, u32>>,
    stalls: Stalls,
}

impl Lineage {
    pub(super) fn new(
        table: Table,
        index: BpfHashMap<MapData, u32, Slot>,
        execs: BpfHashMap<MapData, Slot, ExecRecord>,
        known: BpfHashMap<MapData, u32, Known>,
        gone: Queue<MapData, ProcessKey>,
        entered: Array<MapData, u32>,
        stalls: Stalls,
    ) -> Self {
        let (known, gone, entered) = (Mutex::new(known), Mutex::new(gone), Mutex::new(entered));
        Self { table, index, execs, known, gone, entered, stalls }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What processes and the host stood in reclaim.
    pub fn stalls(&self) -> &Stalls {
        &self.stalls
    }

    /// All processes that the kernel side knows now.
    pub fn forest(&self, detail: Detail) -> Forest {
        Forest::new(self.table.nodes().map(|(slot, node)| self.view(slot, &node, detail)))
    }

    /// The same in numbers only, and none of it kept: 0.1 µs a process, no system calls.
    pub fn counted(&self) -> impl Iterator<Item = Counted> + Clone + '_ {
        let counted = |(slot, node): (Slot, KernelNode)| Counted {
            slot,
            key: node.key,
            parent_slot: node.parent_slot,
            parent: node.parent,
            alive: node.flags & DEAD == 0,
            forks: node.forks,
            exits: node.exits,
            cgroup: node.cgroup,
            program: node.image.exe,
            signature: node.image.strict,
            executed_ns: if node.flags & EXECUTED == 0 { 0 } else { node.image.generations[0] },
        };
        self.table.nodes().map(counted)
    }

    /// Arguments of what a process executed, or the nearest ancestor did; empty where nobody saw that.
    pub fn argv(&self, slot: Slot, key: ProcessKey) -> Vec<Vec<u8>> {
        let mut next = self.table.node(slot, key).map(|node| (slot, node));
        // The longest chain that the table can hold.
        for _ in 0..self.table.entries() {
            let Some((slot, node)) = next else { break };
            if node.flags & EXECUTED != 0 {
                return self
                    .execs
                    .get(&slot, 0)
                    .map(|record| arguments(&record))
                    .unwrap_or_default();
            }
            next = self.table.at(node.parent_slot).map(|parent| (node.parent_slot, parent));
        }
        Vec::new()
    }

    /// A living process by pid.
    pub fn living(&self, tgid: u32) -> Option<Node> {
        let (slot, node) = self.find(tgid)?;
        Some(self.view(slot, &node, Detail::Execs))
    }

    /// A living process, its parent, and so on, with what they executed.
    pub fn ancestry(&self, key: ProcessKey) -> Vec<Node> {
        let mut path = Vec::new();
        let Ok(mut slot) = self.slot(key) else { return path };
        // The longest chain that the table can hold; a link torn by reuse could turn in a circle.
        while path.len() < self.table.entries() as usize
            && let Some(node) = self.table.at(slot)
        {
            path.push(self.view(slot, &node, Detail::Execs));
            slot = node.parent_slot;
            if slot == 0 {
                break;
            }
        }
        path
    }

    /// The keys of the same, read without system calls but one.
    pub fn line(&self, key: ProcessKey) -> Vec<ProcessKey> {
        let mut line = Vec::new();
        let mut slot = self.slot(key).unwrap_or_default();
        while slot != 0
            && line.len() < self.table.entries() as usize
            && let Some(node) = self.table.at(slot)
        {
            line.push(node.key);
            slot = node.parent_slot;
        }
        line
    }

    /// Whether exactly this process lives: the kernel side forgets it before its pid can be taken again.
    pub fn is_alive(&self, key: ProcessKey) -> bool {
        self.slot(key).is_ok()
    }

    /// How many processes live, by what the kernel side knows.
    pub fn living_count(&self) -> u32 {
        self.table.nodes().filter(|(_, node)| node.flags & DEAD == 0).count() as u32
    }

    /// How many have ended that init has lived with, within 32 generations of it.
    pub fn ended(&self) -> u32 {
        self.find(1).map_or(0, |(_, init)| init.exits)
    }

    /// From now on who does not fit into the table is counted when it is born, and not whenever somebody
    /// looks for it.
    pub(super) fn all_entered(&self) -> Result<(), MapError> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner).set(0, 1, 0)
    }

    /// Has the next visit bury who is gone though its exit was not seen: 0.3 µs for each of the living.
    pub(super) fn mourn(&self) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let living = self.table.nodes().filter(|(_, node)| node.flags & DEAD == 0);
        let missed = living.filter(|(_, node)| {
            let pid = Pid::from_raw(node.key.tgid.cast_signed());
            pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
        });
        for (_, node) in missed {
            // Full: the rest is for the visit after that.
            if gone.push(node.key, 0).is_err() {
                break;
            }
        }
    }

    fn find(&self, tgid: u32) -> Option<(Slot, KernelNode)> {
        let slot = self.index.get(&tgid, 0).ok()?;
        let node = self.table.at(slot)?;
        (node.key.tgid == tgid && node.flags & DEAD == 0).then_some((slot, node))
    }

    /// Slot of a living process, if it is still the one that is meant.
    fn slot(&self, key: ProcessKey) -> io::Result<Slot> {
        self.index
            .get(&key.tgid, 0)
            .ok()
            .filter(|slot| self.table.node(*slot, key).is_some())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The same for one that is dead, and remembered because a descendant lives.
    fn remembered(&self, key: ProcessKey) -> io::Result<Slot> {
        let found = self.slot(key).ok().or_else(|| self.table.slot_of(key));
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Puts the brake's mark on a living process; its children inherit it.
    pub fn mark(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.mark_at(self.slot(key)?, key, number, until_ns, 0)
    }

    /// The same for the root of a tree, which may be dead: it holds at once for all below, 32 levels
    /// deep.
    pub fn mark_root(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.mark_at(self.remembered(key)?, key, number, until_ns, 0)
    }

    /// The same for a dry run: the kernel side counts what it would do.
    pub fn mark_dry(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        self.mark_at(self.remembered(key)?, key, number, until_ns, DRY)
    }

    fn mark_at(
        &self,
        slot: Slot,
        key: ProcessKey,
        number: u32,
        until_ns: u64,
        flags: u32,
    ) -> io::Result<()> {
        let now = clock::boot_ns();
        if self.table.mark_of(slot, key).is_some_and(|mark| spares(&mark, key.start_ns, now)) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        self.table.set_mark(slot, Mark { start_ns: key.start_ns, until_ns, number, flags });
        Ok(())
    }

    /// Takes the mark away.
    pub fn unmark(&self, key: ProcessKey) -> io::Result<()> {
        self.table.clear_mark(self.remembered(key)?, key);
        Ok(())
    }

    /// The brake passes this process by until then, and holds for nobody below it because of those above.
    pub fn exempt(&self, key: ProcessKey, number: u32, until_ns: u64) -> io::Result<()> {
        let mark = Mark { start_ns: key.start_ns, until_ns, number, flags: EXEMPT };
        self.table.set_exemption(self.slot(key)?, mark);
        Ok(())
    }

    /// Tells the baseline what processes from before the sensor run.
    pub(super) fn tell(&self, known: impl IntoIterator<Item = (u32, Known)>) {
        let Ok(mut map) = self.known.lock() else { return };
        for (tgid, known) in known {
            // A process that does not fit has no signature until its next exec.
            let _ = map.insert(tgid, known, 0);
        }
    }

    /// Forgets what [`Self::tell`] told.
    pub(super) fn forget(&self) {
        let Ok(mut map) = self.known.lock() else { return };
        let tgids: Vec<u32> = map.keys().filter_map(Result::ok).collect();
        for tgid in tgids {
            let _ = map.remove(&tgid);
        }
    }

    fn view(&self, slot: Slot, node: &KernelNode, detail: Detail) -> Node {
        let exec = (node.flags & EXECUTED != 0).then(|| {
            let image = &node.image;
            let mut exec = Exec {
                at_ns: image.generations[0],
                argv_bytes: image.argv_bytes,
                strict: image.strict,
                loose: image.loose,
                ..Exec::default()
            };
            if detail == Detail::Execs
                && let Ok(record) = self.execs.get(&slot, 0)
            {
                exec.exe = record.exe;
                exec.cwd = record.cwd;
                exec.argv_bytes = record.argv_bytes;
                exec.argv = arguments(&record);
            }
            exec
        });
        Node {
            key: node.key,
            parent: (node.parent.start_ns != 0).then_some(node.parent),
            alive: node.flags & DEAD == 0,
            adopted: node.flags & ADOPTED != 0,
            program: if exec.is_some() { node.image.exe } else { 0 },
            exec,
            live: node.live(),
            forks: node.forks,
            cgroup: node.cgroup,
            mark: self
                .table
                .mark_of(slot, node.key)
                .map_or(0, |mark| if mark.flags & EXEMPT == 0 { mark.number } else { 0 }),
        }
    }
}

fn arguments(record: &ExecRecord) -> Vec<Vec<u8>> {
    split(&record.argv[..(record.kept as usize).min(record.argv.len())])
}

/// An argument area as its arguments: each ends with a zero byte, the last one perhaps cut.
pub fn split(area: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments: Vec<Vec<u8>> = area.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    if arguments.last().is_some_and(Vec::is_empty) {
        arguments.pop();
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn arguments_end_with_a_zero_byte() {
        assert_eq!(split(b"npm\0test\0"), [b"npm".to_vec(), b"test".to_vec()]);
        assert_eq!(split(b"npm\0te"), [b"npm".to_vec(), b"te".to_vec()], "cut short");
        assert_eq!(split(b"a\0\0"), [b"a".to_vec(), b"".to_vec()], "an empty argument");
        assert!(split(b"").is_empty());
    }
}
