//! What was short at a kill: a group's limit, or the host's memory.

use super::culprit::lost;
use crate::proto::{MemorySample, Oom, OomScope, TreeMemory};

/// The id of the root group, in which everybody may be.
const ROOT: u64 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Short {
    /// Of a group that met its limit: the limit, bytes, and its id in the memory controller's hierarchy. As far
    /// as they are known: of the host neither is.
    limit: Option<u64>,
    group: Option<u64>,
    /// v2 ids of the victims' groups, which are below that limit.
    cgroups: Vec<u64>,
}

impl Short {
    pub fn of(oom: &Oom) -> Self {
        if oom.scope() != OomScope::Cgroup {
            return Self::default();
        }
        // The kernel's log has the whole path, also where a namespace shows the end of it alone.
        let of_limit = oom.victims.iter().filter(|kill| {
            kill.limit_bytes == oom.limit_bytes && oom.cgroup.ends_with(&kill.limit_cgroup)
        });
        let cgroups = oom.victims.iter().map(|kill| kill.victim_cgroup_id);
        Self {
            limit: oom.limit_bytes,
            group: of_limit.map(|kill| kill.limit_cgroup_id).find(|id| *id != 0),
            cgroups: cgroups.filter(|id| *id > ROOT).collect(),
        }
    }

    /// Whether a tree takes of it. Equal limits are the same limit only where nobody knows whose they are:
    /// replicas have equal ones.
    pub fn affects(&self, tree: &TreeMemory) -> bool {
        self.limit.is_none() && self.group.is_none()
            || self.is_limit_of(tree)
            || self.cgroups.contains(&tree.cgroup)
    }

    fn is_limit_of(&self, tree: &TreeMemory) -> bool {
        match (self.group, tree.limit_cgroup_id) {
            (Some(group), its) if its != 0 => its == group,
            _ => self.limit.is_some() && tree.limit_bytes == self.limit,
        }
    }

    /// All that there is of it, bytes.
    pub fn all(&self, before: &[&MemorySample]) -> Option<u64> {
        let host = || before.last()?.host?.total_bytes;
        self.limit.or_else(host).filter(|bytes| *bytes > 0)
    }

    /// What was lost of it in the samples' time, from where most was left to the last one, bytes.
    pub fn fallen(&self, before: &[&MemorySample]) -> Option<u64> {
        if self.limit.is_none() && self.group.is_none() {
            let last = before.last()?.host?;
            return before.iter().filter_map(|one| lost(&one.host?, &last)).max();
        }
        let used = |sample: &MemorySample| {
            let tree = sample.trees.iter().find(|tree| self.is_limit_of(tree));
            tree.and_then(|tree| tree.limit_used_bytes)
        };
        let last = used(before.last()?)?;
        before.iter().filter_map(|one| used(one)).map(|used| last.saturating_sub(used)).max()
    }
}
