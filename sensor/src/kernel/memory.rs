//! Who holds how much memory, as the kernel's own counters say: one look at all processes at a time.
//!
//! A program goes through the table of those that the kernel side knows. One that walks over all tasks of the host takes
//! twice the time, but finds those as well that are only to be waited for: it looks now and then, where many have ended,
//! and each time on a kernel without `bpf_loop` (before 5.17). Where neither loads, /proc has to do, at some 15 µs a
//! process.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sensor_common::{
    ProcessKey,
    lineage::{ADOPTED, DEAD, EXECUTED, Slot},
    memory::{Held, SLOTS_AT_ONCE},
};

use super::{
    lineage::Lineage,
    table::Mapping,
    visit::{self, Visitor},
};
use crate::{evidence::proc::Proc, lineage::trees::memory::Holds};

/// What looks.
pub struct Memory {
    kernel: Result<Kernel, String>,
    page: u64,
    proc: Proc,
    last: Mutex<Last>,
}

/// The programs, and where they leave what they have seen.
pub(super) struct Kernel {
    /// Walks over all tasks.
    pub visitor: Visitor,
    /// Goes through the table; or why this kernel does not take it.
    pub table: Result<OwnedFd, String>,
    pub held: Mapping<Held>,
}

/// From one walk over all tasks to the next, where nobody ends: looks.
const WALK_EVERY: u32 = 8;

/// Or this many that ended: some of them may be waited for by nobody.
const ENDED: u32 = 32;

/// What is known from the last look.
#[derive(Default)]
struct Last {
    number: u32,
    /// The last one that was a walk, and how many had ended before it.
    walk: u32,
    ended: u32,
    /// Where /proc has to do: what each process held, and had when it was seen first.
    read: HashMap<Slot, (ProcessKey, Holds)>,
}

/// What one look saw; the next one waits until it is dropped.
pub struct Look<'a> {
    memory: &'a Memory,
    last: MutexGuard<'a, Last>,
}

impl Memory {
    /// `kernel`: the loaded program, or why there is none.
    pub(super) fn new(kernel: Result<Kernel, String>) -> Self {
        let page = rustix::param::page_size() as u64;
        Self { kernel, page, proc: Proc::default(), last: Mutex::default() }
    }

    /// Why /proc has to do, if so.
    pub fn refused(&self) -> Option<&str> {
        self.kernel.as_ref().err().map(String::as_str)
    }

    /// Why each look is a walk over all tasks, if so.
    pub fn no_table(&self) -> Option<&str> {
        self.kernel.as_ref().ok()?.table.as_ref().err().map(String::as_str)
    }

    /// What looks: `table`, `iterator` or `proc`.
    pub fn by(&self) -> &'static str {
        match &self.kernel {
            Ok(Kernel { table: Ok(_), .. }) => "table",
            Ok(_) => "iterator",
            Err(_) => "proc",
        }
    }

    /// Looks at all processes, whoever they belong to.
    pub fn look(&self, lineage: &Lineage) -> io::Result<Look<'_>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.kernel {
            Ok(kernel) => {
                // 0 is never.
                last.number = last.number.wrapping_add(1).max(1);
                kernel.held.set(0, Held { look: last.number, ..Held::default() });
                kernel.look(lineage, &mut last)?;
            }
            Err(_) => self.read(lineage, &mut last),
        }
        Ok(Look { memory: self, last })
    }

    /// The same from /proc. Who was not seen to execute anything shares with its parent what it has at first
    /// sight, as far as the parent has as much.
    fn read(&self, lineage: &Lineage, last: &mut Last) {
        let before = std::mem::take(&mut last.read);
        let mut new = Vec::new();
        let living = lineage.table().nodes().filter(|(_, node)| node.flags & DEAD == 0);
        for (slot, node) in living {
            let Some(opened) = self.proc.open(node.key) else { continue };
            let status = opened.status();
            let private = status.anon + status.swap;
            let forked = node.flags & (EXECUTED | ADOPTED) == 0;
            let known = before.get(&slot).filter(|(key, _)| forked && *key == node.key);
            if forked && known.is_none() {
                new.push((slot, node.parent_slot, node.parent));
            }
            let holds = Holds {
                private,
                shared: status.shmem,
                at_fork: known.map_or(0, |(_, known)| known.at_fork),
                forked,
                threads: opened.stat.threads,
                uid: status.uid,
                session: opened.stat.session,
                // Who is a zombie is no more in the table.
                zombies: 0,
            };
            last.read.insert(slot, (node.key, holds));
        }
        // When all have been read: a parent may come after its children.
        for (slot, parent_slot, parent) in new {
            let parent = last.read.get(&parent_slot).filter(|(key, _)| *key == parent);
            let had = parent.map_or(0, |(_, parent)| parent.private);
            if let Some((_, holds)) = last.read.get_mut(&slot) {
                holds.at_fork = had.min(holds.private);
            }
        }
    }
}

impl Kernel {
    fn look(&self, lineage: &Lineage, last: &mut Last) -> io::Result<()> {
        let ended = lineage.ended();
        let due = last.walk == 0
            || last.number.wrapping_sub(last.walk) >= WALK_EVERY
            || ended.wrapping_sub(last.ended) >= ENDED;
        if let Ok(program) = &self.table
            && !due
        {
            let mut first = 1;
            while visit::run(program.as_fd(), first)? == SLOTS_AT_ONCE {
                first += u64::from(SLOTS_AT_ONCE);
            }
            return Ok(());
        }
        self.visitor.visit()?;
        (last.walk, last.ended) = (last.number, ended);
        Ok(())
    }
}

impl Look<'_> {
    /// Whether it was a walk over all tasks.
    pub fn is_walk(&self) -> bool {
        self.last.walk == self.last.number && self.memory.kernel.is_ok()
    }

    /// What a process holds; `None` for one that was not there.
    #[inline]
    pub fn of(&self, slot: Slot, key: ProcessKey) -> Option<Holds> {
        let Ok(Kernel { held, .. }) = &self.memory.kernel else {
            let (whose, holds) = self.last.read.get(&slot)?;
            return (*whose == key).then_some(*holds);
        };
        let held = held.get(slot)?;
        if held.start_ns != key.start_ns || held.look != self.last.number {
            return None;
        }
        let bytes = |pages: u32| u64::from(pages) * self.memory.page;
        let private = held.anon.saturating_add(held.swap);
        let inherited = held.inherited(private);
        Some(Holds {
            private: bytes(private),
            shared: bytes(held.shmem),
            at_fork: bytes(inherited.unwrap_or(0)),
            forked: inherited.is_some(),
            threads: held.threads,
            uid: held.uid,
            session: held.session,
            zombies: if held.zombies_look == self.last.walk { held.zombies } else { 0 },
        })
    }
}

#[cfg(test)]
mod tests;
