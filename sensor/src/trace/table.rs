//! The lineage table as the kernel side keeps it, rebuilt from a trace.
//!
//! The gates are the same functions; what is here is how a fork and an exit change the table, as in
//! `sensor-ebpf/src/lineage.rs`, without its concurrency.

use std::collections::HashMap;

use sensor_common::{
    ProcessKey,
    event::Alarm,
    lineage::{ADOPTED, COUNTED_ANCESTORS, DEAD, EXECUTED, Image, Node, Slot},
    recursion::{Limits, Nodes, Verdict, gate, repeat, search, seconds},
    respawn::{self, End, Loop, Window},
    storm,
};

use crate::lineage::{self, Exec, Forest};

/// What the table has of one process beside its node.
#[derive(Debug, Default)]
struct Beside {
    exec: Option<Exec>,
    scoped: bool,
}

#[derive(Debug)]
pub struct Table {
    /// Slot 0 is nobody's.
    nodes: Vec<Node>,
    beside: Vec<Beside>,
    free: Vec<Slot>,
    /// Slot of the living process with a tgid.
    index: HashMap<u32, Slot>,
    /// Commands that failed at once, by who starts them.
    loops: HashMap<Loop, Window>,
}

impl Nodes for Table {
    fn node(&self, slot: Slot) -> Option<&Node> {
        self.nodes.get(slot as usize).filter(|_| slot != 0)
    }
}

/// A respawn loop that an exit came to.
#[derive(Clone, Debug)]
pub struct Respawned {
    pub alarm: Alarm,
    pub window: Window,
    /// What is restarted.
    pub command: Vec<Vec<u8>>,
}

/// What an exec came to.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    pub image: Image,
    pub top: ProcessKey,
    pub verdict: Verdict,
}

impl Table {
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            beside: vec![Beside::default()],
            free: Vec::new(),
            index: HashMap::new(),
            loops: HashMap::new(),
        }
    }

    /// Slot of a process that lives, as far as the trace goes.
    pub fn living(&self, key: ProcessKey) -> Option<Slot> {
        let slot = *self.index.get(&key.tgid)?;
        (self.nodes[slot as usize].key == key).then_some(slot)
    }

    /// Slot of a process that is known to exist; made where its birth was not seen.
    pub fn ensure(&mut self, key: ProcessKey) -> Slot {
        match self.living(key) {
            Some(slot) => slot,
            None => self.create(key, 0, 0, ADOPTED),
        }
    }

    /// A process that was there before the trace, with what it ran.
    pub fn adopt(&mut self, key: ProcessKey, cgroup: u64, image: Image) -> Slot {
        let slot = self.ensure(key);
        let node = &mut self.nodes[slot as usize];
        node.cgroup = cgroup;
        node.image = image;
        if image.exe != 0 {
            node.flags |= EXECUTED;
        }
        slot
    }

    /// Puts an adopted process below its parent, and its tree into the counters above.
    pub fn link(&mut self, key: ProcessKey, parent: ProcessKey) {
        let (Some(slot), Some(above)) = (self.living(key), self.living(parent)) else { return };
        // A file may claim that two processes are each other's parents.
        if self.nodes[slot as usize].parent_slot != 0 || self.is_below(above, slot) {
            return;
        }
        let node = &mut self.nodes[slot as usize];
        node.parent = parent;
        node.parent_slot = above;
        let (forks, exits) = (node.forks.wrapping_add(1), node.exits);
        self.nodes[above as usize].references += 1;
        self.count(above, forks, exits);
        self.shift(above, forks, exits);
    }

    /// Whether `top` is `slot` or one of its ancestors.
    fn is_below(&self, slot: Slot, top: Slot) -> bool {
        let mut slot = slot;
        while slot != 0 && slot != top {
            slot = self.nodes[slot as usize].parent_slot;
        }
        slot == top
    }

    /// A process was born: its slot, and what the gates say about its ancestors' trees.
    pub fn fork(
        &mut self,
        child: ProcessKey,
        parent: Option<ProcessKey>,
        cgroup: u64,
        limits: &storm::Limits,
    ) -> (Slot, Vec<Alarm>) {
        // Nobody is its own parent, whatever a file says.
        let parent = parent.filter(|parent| parent.tgid != child.tgid);
        let parent_slot = parent.map_or(0, |parent| self.ensure(parent));
        let slot = self.create(child, parent_slot, cgroup, 0);
        let alarms = self.count_birth(parent_slot, slot, limits);
        (slot, alarms)
    }

    /// As in `sensor-ebpf/src/lineage.rs` and `storm.rs`.
    fn count_birth(&mut self, parent: Slot, child: Slot, limits: &storm::Limits) -> Vec<Alarm> {
        let Node { key, image, cgroup, .. } = self.nodes[child as usize];
        let chain = u32::from(image.fork_chain);
        let mask = storm::mask(chain, limits.chain);
        let mut alarms = Vec::new();
        let mut slot = parent;
        for level in 1..=COUNTED_ANCESTORS {
            if slot == 0 {
                break;
            }
            let node = &mut self.nodes[slot as usize];
            slot = node.parent_slot;
            node.forks = node.forks.wrapping_add(1);
            if node.forks & mask != 0 {
                continue;
            }
            let (top, chain) = (node.key, storm::chain_below(chain, level));
            let (crossed, windows) = storm::judge(
                node.windows,
                key.start_ns,
                top.start_ns,
                chain,
                node.forks,
                node.exits,
                limits,
            );
            node.windows = windows;
            alarms.extend(crossed.map(|crossed| storm::alarm(crossed, key, top, chain, cgroup)));
        }
        alarms
    }

    fn create(&mut self, key: ProcessKey, parent_slot: Slot, cgroup: u64, flags: u32) -> Slot {
        // The exit of a pid's former owner did not reach the trace.
        if let Some(former) = self.index.get(&key.tgid).map(|slot| self.nodes[*slot as usize].key) {
            self.exit(former);
        }
        let mut node = Node { key, cgroup, parent_slot, references: 1, flags, ..Node::default() };
        if parent_slot != 0 {
            let parent = &mut self.nodes[parent_slot as usize];
            parent.references += 1;
            node.parent = parent.key;
            node.image.fork_chain = parent.image.fork_chain.wrapping_add(1);
        }
        let slot = if let Some(slot) = self.free.pop() {
            self.nodes[slot as usize] = node;
            self.beside[slot as usize] = Beside::default();
            slot
        } else {
            self.nodes.push(node);
            self.beside.push(Beside::default());
            (self.nodes.len() - 1) as Slot
        };
        self.index.insert(key.tgid, slot);
        slot
    }

    fn count(&mut self, slot: Slot, forks: u32, exits: u32) {
        let mut slot = slot;
        for _ in 0..COUNTED_ANCESTORS {
            if slot == 0 {
                break;
            }
            let node = &mut self.nodes[slot as usize];
            node.forks = node.forks.wrapping_add(forks);
            node.exits = node.exits.wrapping_add(exits);
            slot = node.parent_slot;
        }
    }

    /// A tree that was there before the trace is no growth of those above it.
    fn shift(&mut self, slot: Slot, forks: u32, exits: u32) {
        let mut slot = slot;
        for _ in 0..COUNTED_ANCESTORS {
            if slot == 0 {
                break;
            }
            let node = &mut self.nodes[slot as usize];
            node.windows = node.windows.map(|window| window.shifted(forks, exits));
            slot = node.parent_slot;
        }
    }

    /// A process ends like this: what the gate says about those that its parent starts. As in
    /// `sensor-ebpf/src/respawn.rs`; comes before [`Self::exit`].
    pub fn ended(
        &mut self,
        slot: Slot,
        at_ns: u64,
        code: u32,
        limits: &respawn::Limits,
    ) -> Option<Respawned> {
        let Node { key, parent, parent_slot, image, cgroup, flags, .. } = self.nodes[slot as usize];
        let began_ns = image.generations[0];
        if flags & EXECUTED == 0 || began_ns == 0 || parent.start_ns == 0 {
            return None;
        }
        let end = End { at_ns, ran_ns: at_ns.saturating_sub(began_ns), code };
        let whose = Loop { parent, strict: image.strict };
        let Some(window) = self.loops.get_mut(&whose) else {
            if end.failed_at_once(limits) {
                self.forget_loops(at_ns, limits);
                self.loops.insert(whose, Window::begin(&end, limits));
            }
            return None;
        };
        let (crossed, next) = window.judge(&end, limits);
        *window = next;
        let window = crossed?;
        let live = self.node(parent_slot).map_or(0, Node::live);
        let alarm = respawn::alarm(&window, key, parent, live, at_ns, cgroup, limits);
        let exec = self.beside[slot as usize].exec.as_ref();
        let command = exec.map(|exec| exec.argv.clone()).unwrap_or_default();
        Some(Respawned { alarm, window, command })
    }

    /// The kernel forgets the least recently seen; here those whose window has long ended, which come
    /// to nothing either way.
    fn forget_loops(&mut self, now_ns: u64, limits: &respawn::Limits) {
        if self.loops.len() >= respawn::LOOPS as usize {
            let length_ns = u64::from(limits.window_ms) * 1_000_000;
            self.loops.retain(|_, window| now_ns.saturating_sub(window.since_ns) < 2 * length_ns);
        }
    }

    /// A process is gone. Answers whether it was known.
    pub fn exit(&mut self, key: ProcessKey) -> bool {
        let Some(slot) = self.living(key) else { return false };
        self.index.remove(&key.tgid);
        self.nodes[slot as usize].flags |= DEAD;
        self.count(slot, 0, 1);
        let mut slot = slot;
        while slot != 0 {
            let node = &mut self.nodes[slot as usize];
            node.references -= 1;
            if node.references > 0 {
                break;
            }
            self.free.push(slot);
            slot = node.parent_slot;
        }
        true
    }

    /// A process executed something: what the gates say. `live` may put another number in place of
    /// the counted one.
    pub fn executed(
        &mut self,
        slot: Slot,
        cgroup: u64,
        exec: Exec,
        exe: u64,
        limits: &Limits,
        live: impl FnOnce(u32) -> u32,
    ) -> Judged {
        let now_ns = exec.at_ns;
        let image = Image {
            strict: exec.strict,
            loose: exec.loose,
            exe,
            generations: [now_ns, 0, 0, 0],
            argv_bytes: exec.argv_bytes,
            top: slot,
            ..Image::default()
        };
        let parent = self.nodes[slot as usize].parent_slot;
        let found = search(self, parent, &image);
        let image = repeat(self, &found, image);
        let node = &mut self.nodes[slot as usize];
        node.image = image;
        node.cgroup = cgroup;
        node.flags |= EXECUTED;
        self.beside[slot as usize].exec = Some(exec);

        let mut top = self.nodes[image.top as usize];
        let (counted, taken) = (top.live(), live(top.live()));
        top.forks = top.forks.wrapping_add(taken).wrapping_sub(counted);
        let verdict = gate(&image, &top, now_ns, limits);
        if verdict.report {
            let top = &mut self.nodes[image.top as usize];
            top.image.reported = verdict.level as u16;
            top.image.reported_s = seconds(now_ns);
            top.suspect = 1;
        }
        Judged { image, top: top.key, verdict: Verdict { live: counted, ..verdict } }
    }

    pub fn cgroup(&self, slot: Slot) -> u64 {
        self.nodes[slot as usize].cgroup
    }

    /// Says whether a process is in scope; answers whether it was.
    pub fn set_scoped(&mut self, slot: Slot, scoped: bool) -> bool {
        std::mem::replace(&mut self.beside[slot as usize].scoped, scoped)
    }

    /// A process, its parent, and so on, as the detectors take them.
    pub fn ancestry(&self, slot: Slot) -> Vec<lineage::Node> {
        let mut path = Vec::new();
        let mut slot = slot;
        while let Some(node) = self.node(slot) {
            path.push(self.view(slot, node));
            slot = node.parent_slot;
        }
        path
    }

    /// All processes, as the detectors take them.
    pub fn forest(&self) -> Forest {
        let used = self.nodes.iter().enumerate().filter(|(_, node)| node.references != 0);
        Forest::new(used.map(|(slot, node)| self.view(slot as Slot, node)))
    }

    fn view(&self, slot: Slot, node: &Node) -> lineage::Node {
        let exec = self.beside[slot as usize].exec.clone();
        lineage::Node {
            key: node.key,
            parent: (node.parent.start_ns != 0).then_some(node.parent),
            alive: node.flags & DEAD == 0,
            adopted: node.flags & ADOPTED != 0,
            // What ran before the trace has executed something, whatever it was.
            exec: exec.or_else(|| (node.flags & EXECUTED != 0).then(Exec::default)),
            program: node.image.exe,
            live: node.live(),
            forks: node.forks,
            cgroup: node.cgroup,
            mark: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: storm::Limits = storm::Limits::DEFAULT;

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey::new(tgid, u64::from(tgid) * 1000)
    }

    fn live(table: &Table, tgid: u32) -> u32 {
        table.nodes[table.living(key(tgid)).unwrap() as usize].live()
    }

    #[test]
    fn counts_the_living_of_a_tree() {
        let mut table = Table::new();
        table.fork(key(1), None, 0, &LIMITS);
        for child in 2..6 {
            table.fork(key(child), Some(key(child - 1)), 0, &LIMITS);
        }
        assert_eq!((live(&table, 1), live(&table, 4)), (5, 2));
        table.exit(key(3));
        assert_eq!(live(&table, 1), 4);
        assert_eq!(live(&table, 4), 2, "an ancestor's death is none of its business");
    }

    #[test]
    fn a_node_stays_while_a_descendant_lives_and_no_longer() {
        let mut table = Table::new();
        table.fork(key(1), None, 0, &LIMITS);
        table.fork(key(2), Some(key(1)), 0, &LIMITS);
        let (leaf, _) = table.fork(key(3), Some(key(2)), 0, &LIMITS);
        table.exit(key(2));
        table.exit(key(1));
        let path: Vec<u32> = table.ancestry(leaf).iter().map(|node| node.key.tgid).collect();
        assert_eq!(path, [3, 2, 1]);
        table.exit(key(3));
        assert_eq!(table.free.len(), 3);
    }

    #[test]
    fn a_pid_that_came_again_is_another_process() {
        let mut table = Table::new();
        table.fork(key(1), None, 0, &LIMITS);
        table.fork(key(2), Some(key(1)), 0, &LIMITS);
        let again = ProcessKey::new(2, 9_999_999);
        table.fork(again, Some(key(1)), 0, &LIMITS);
        assert_eq!(live(&table, 1), 2, "the former one is gone, though nobody said so");
        assert!(table.living(key(2)).is_none() && table.living(again).is_some());
        assert!(!table.exit(key(2)), "and its exit means nobody any more");
    }

    #[test]
    fn those_before_the_trace_are_counted_where_they_belong() {
        let mut table = Table::new();
        for tgid in [3, 2, 1] {
            table.adopt(key(tgid), 0, Image::default());
        }
        table.link(key(3), key(2));
        table.link(key(2), key(1));
        assert_eq!((live(&table, 1), live(&table, 2)), (3, 2));
    }
}
