//! The lineage table as user space sees it: mapped, read without system calls, while the kernel
//! side goes on writing.
//!
//! A node may change or be freed under the reader's eyes. So every read copies the node and takes
//! it only if its identity was the same before and after.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sensor_common::{
    ProcessKey,
    brake::Mark,
    lineage::{DEAD, Node, Slot},
};

/// An array map of `T`, shared with the kernel.
pub(super) struct Mapping<T> {
    start: NonNull<T>,
    entries: u32,
}

// SAFETY: the memory is shared with the kernel anyway; all access goes through volatile copies of
// plain integers.
unsafe impl<T: Copy + Send> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Copy + Send> Sync for Mapping<T> {}

impl<T: Copy> Mapping<T> {
    pub fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        let entries = max_entries(map)?;
        let length = entries as usize * size_of::<T>();
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )?
        };
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("the kernel mapped a table at address 0"))?;
        Ok(Self { start, entries })
    }

    fn place(&self, slot: Slot) -> Option<NonNull<T>> {
        // SAFETY: within the mapping, which lives as long as self.
        (slot < self.entries).then(|| unsafe { self.start.add(slot as usize) })
    }

    pub fn get(&self, slot: Slot) -> Option<T> {
        // SAFETY: in bounds and aligned: array maps lay elements out at multiples of 8 bytes, and T
        // is made of integers, valid whatever the kernel is just writing.
        self.place(slot).map(|place| unsafe { place.read_volatile() })
    }

    pub fn set(&self, slot: Slot, value: T) {
        if let Some(place) = self.place(slot) {
            // SAFETY: as above.
            unsafe { place.write_volatile(value) };
        }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing borrows from it.
        let _ =
            unsafe { munmap(self.start.as_ptr().cast(), self.entries as usize * size_of::<T>()) };
    }
}

/// How many entries a map has, from what the kernel says about its descriptor.
fn max_entries(map: BorrowedFd<'_>) -> io::Result<u32> {
    fdinfo(map, "max_entries:")?
        .ok_or_else(|| io::Error::other("the kernel does not say how large a map is"))
}

/// A number from /proc/self/fdinfo.
pub(super) fn fdinfo<T: std::str::FromStr>(
    descriptor: BorrowedFd<'_>,
    key: &str,
) -> io::Result<Option<T>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    Ok(info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()))
}

/// Nodes and marks of all processes that the kernel side knows.
pub struct Table {
    nodes: Mapping<Node>,
    marks: Mapping<Mark>,
    until: Mapping<u64>,
}

impl Table {
    /// Maps `NODES`, `MARKS` and `BRAKE_UNTIL`; they stay mapped after the descriptors are closed.
    pub fn new(
        nodes: BorrowedFd<'_>,
        marks: BorrowedFd<'_>,
        until: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            nodes: Mapping::new(nodes)?,
            marks: Mapping::new(marks)?,
            until: Mapping::new(until)?,
        })
    }

    /// Every node in use, with its slot.
    pub fn nodes(&self) -> impl Iterator<Item = (Slot, Node)> + Clone + '_ {
        // Slots are handed out lowest first and never-used ones last: the first of those ends it.
        (1..self.nodes.entries)
            .map_while(|slot| {
                let node = self.nodes.get(slot)?;
                (node.key.tgid != 0).then_some((slot, node))
            })
            .filter(|(slot, node)| node.is_used() && self.key_at(*slot) == Some(node.key))
    }

    fn key_at(&self, slot: Slot) -> Option<ProcessKey> {
        // SAFETY: as with a whole node, of which it is a part.
        self.nodes
            .place(slot)
            .map(|place| unsafe { (&raw const (*place.as_ptr()).key).read_volatile() })
    }

    /// The node in a slot, whoever's it is.
    pub fn at(&self, slot: Slot) -> Option<Node> {
        self.nodes.get(slot).filter(Node::is_used)
    }

    /// Where a process's node is, living or dead. Looks at all of them: 0.1 µs each.
    pub fn slot_of(&self, key: ProcessKey) -> Option<Slot> {
        self.nodes().find(|(_, node)| node.key == key).map(|(slot, _)| slot)
    }

    /// The node in a slot, if it is this process's.
    pub fn node(&self, slot: Slot, key: ProcessKey) -> Option<Node> {
        self.nodes.get(slot).filter(|node| node.key == key && node.is_used())
    }

    /// The mark in a slot, if it is meant for this process.
    pub fn mark_of(&self, slot: Slot, key: ProcessKey) -> Option<Mark> {
        self.marks.get(slot).filter(|mark| mark.start_ns == key.start_ns && mark.number != 0)
    }

    /// Writes a mark that holds.
    pub fn set_mark(&self, slot: Slot, mark: Mark) {
        self.write_mark(slot, mark);
        self.look_until(mark.until_ns);
    }

    /// Writes a mark that exempts, for which nobody has to look.
    pub fn set_exemption(&self, slot: Slot, mark: Mark) {
        self.write_mark(slot, mark);
    }

    /// The start time goes last: until it is there the kernel ignores the rest.
    fn write_mark(&self, slot: Slot, mark: Mark) {
        self.marks.set(slot, Mark { start_ns: 0, ..mark });
        self.marks.set(slot, mark);
    }

    /// Takes a process's mark away.
    pub fn clear_mark(&self, slot: Slot, key: ProcessKey) {
        if self.marks.get(slot).is_some_and(|mark| mark.start_ns == key.start_ns) {
            self.marks.set(slot, Mark::default());
        }
    }

    /// The kernel looks for marks at least until then (boot clock, ns).
    fn look_until(&self, until_ns: u64) {
        if let Some(place) = self.until.place(0) {
            // SAFETY: one aligned word of the mapping; the kernel only reads it.
            let until = unsafe { AtomicU64::from_ptr(place.as_ptr()) };
            until.fetch_max(until_ns, Ordering::Relaxed);
        }
    }

    /// Living processes that carry a containment's mark. The guardian asks this when core is dead.
    pub fn marked(&self, number: u32) -> Vec<ProcessKey> {
        self.nodes()
            .filter(|(slot, node)| {
                node.flags & DEAD == 0
                    && self.mark_of(*slot, node.key).is_some_and(|mark| mark.number == number)
            })
            .map(|(_, node)| node.key)
            .collect()
    }

    /// Slots, slot 0 included.
    pub fn entries(&self) -> u32 {
        self.nodes.entries
    }
}
