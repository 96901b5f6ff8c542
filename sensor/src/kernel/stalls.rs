//! The time that processes stand in reclaim, as the kernel side counts it: read without system calls.

use sensor_common::{
    ProcessKey,
    lineage::Slot,
    pressure::{Reclaims, Stall},
};

use super::table::Mapping;

/// `STALLS` and `RECLAIMS`.
pub struct Stalls {
    processes: Mapping<Stall>,
    host: Mapping<Reclaims>,
}

impl Stalls {
    pub(super) fn new(processes: Mapping<Stall>, host: Mapping<Reclaims>) -> Self {
        Self { processes, host }
    }

    /// What the process in a slot and its tree stood in reclaim; nothing where it is another one's.
    pub fn of(&self, slot: Slot, key: ProcessKey) -> Stall {
        let own = self.processes.get(slot).filter(|stall| stall.start_ns == key.start_ns);
        own.unwrap_or(Stall { start_ns: key.start_ns, ..Stall::default() })
    }

    /// What the host did since the programs were attached. The words are read one after the other.
    pub fn host(&self) -> Reclaims {
        self.host.get(0).unwrap_or_default()
    }
}
