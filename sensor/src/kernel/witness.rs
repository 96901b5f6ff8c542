//! Groups in which execs are told of: whoever watches one hears what ran there and how it ended, by the kernel's word.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use sensor_common::witness::{Left, Ran, TOLD, Watch};

/// What was told of and nobody has taken yet: all that one group may have told, with the ends. What does not fit is
/// known by the counters.
const QUEUE: usize = 2 * TOLD as usize;

/// What the kernel side says of a group.
#[derive(Debug)]
pub enum Told {
    Ran(Box<Ran>),
    Left(Left),
}

impl Told {
    fn cgroup(&self) -> u64 {
        match self {
            Self::Ran(ran) => ran.cgroup,
            Self::Left(left) => left.cgroup,
        }
    }
}

/// Between the thread that reads the ring and whoever watches a group, of whom there is one at a time.
pub struct Witness {
    groups: Mutex<BpfHashMap<MapData, u64, Watch>>,
    sender: SyncSender<Told>,
    told: Mutex<Receiver<Told>>,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

impl Witness {
    pub(super) fn new(groups: BpfHashMap<MapData, u64, Watch>) -> Self {
        let (sender, told) = sync_channel(QUEUE);
        Self { groups: Mutex::new(groups), sender, told: Mutex::new(told) }
    }

    /// From the thread that reads the ring: never waits.
    pub fn tell(&self, told: Told) {
        // Full: that it is missing is known by the counters.
        let _ = self.sender.try_send(told);
    }

    /// Watches a group, by its cgroup v2 id, until what it answers is dropped.
    pub fn watch(self: &Arc<Self>, group: u64) -> io::Result<Watched> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.insert(group, Watch::default(), 0).map_err(io::Error::other)?;
        Ok(Watched { witness: Arc::clone(self), group })
    }
}

/// A group that is watched.
#[derive(Debug)]
pub struct Watched {
    witness: Arc<Witness>,
    group: u64,
}

impl Watched {
    /// What has been told of since the last time. What is another group's is nobody's any more.
    pub fn take(&self) -> Vec<Told> {
        let told = self.witness.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.try_iter().take(QUEUE).filter(|told| told.cgroup() == self.group).collect()
    }

    /// What the kernel side has counted.
    pub fn counted(&self) -> Watch {
        let groups = self.witness.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(&self.group, 0).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut groups = self.witness.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = groups.remove(&self.group);
    }
}
