//! What is left for a tree to grow into: the host's memory, or less where its cgroup has a limit.

use super::Limits;
use crate::proto;

/// Of the room that a tree has in all it has to grow by at most this part before it is worth a word, however
/// small the room is.
const PART_OF_ROOM: u64 = 4;

/// Room to grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// The host's memory, or the limit, bytes.
    pub all: u64,
    /// What is left of it, less a reserve, bytes.
    pub left: u64,
    /// It is a cgroup's limit that will be met first.
    pub limited: bool,
    /// Memory of the host, bytes.
    host: u64,
}

impl Room {
    /// `limit`: what limits the tree beside the host, and what of it is used, bytes.
    pub fn of(host: &proto::HostMemory, limit: Option<(u64, u64)>, limits: &Limits) -> Self {
        let total = host.total_bytes.unwrap_or(0);
        // A host that does not say what is available says what is free.
        let available = host.available_bytes.or(host.free_bytes).unwrap_or(total);
        let reserve = |all: u64| all / 100 * u64::from(limits.reserve_percent);
        let hosts = Self {
            all: total,
            left: available.saturating_sub(reserve(total)),
            limited: false,
            host: total,
        };
        match limit {
            Some((limit, used)) if total == 0 || limit < total => {
                let left = limit.saturating_sub(used).saturating_sub(reserve(limit));
                if left < hosts.left || total == 0 {
                    Self { all: limit, left, limited: true, host: total.max(limit) }
                } else {
                    hosts
                }
            }
            _ => hosts,
        }
    }

    /// As it was before so many bytes of it were taken.
    pub fn before(self, taken: u64) -> Self {
        Self { left: self.left.saturating_add(taken), ..self }
    }

    /// Growth that is worth a word, bytes.
    pub fn notable(&self, limits: &Limits) -> u64 {
        let part = self.host / 100 * u64::from(limits.growth_percent);
        part.max(u64::from(limits.growth_mib) << 20).min(self.all / PART_OF_ROOM)
    }

    /// Growth that is a waste by itself, bytes.
    pub fn wasted(&self, limits: &Limits) -> u64 {
        let part = self.host / 100 * u64::from(limits.bloat_percent);
        part.max(u64::from(limits.bloat_mib) << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_nearer_end_counts() {
        let limits = Limits::default();
        let host = proto::HostMemory {
            total_bytes: Some(16 * GIB),
            available_bytes: Some(10 * GIB),
            ..Default::default()
        };
        let free = Room::of(&host, None, &limits);
        assert_eq!((free.limited, free.left), (false, 10 * GIB - 16 * GIB / 100 * 5));
        assert_eq!(free.notable(&limits), 16 * GIB / 100 * 6);
        let caged = Room::of(&host, Some((GIB, GIB / 2)), &limits);
        assert_eq!((caged.limited, caged.left), (true, GIB / 2 - GIB / 100 * 5));
        assert_eq!(caged.notable(&limits), GIB / 4, "a small cage is used up by less");
        assert!(!Room::of(&host, Some((15 * GIB, 0)), &limits).limited, "the host is full before");
        assert_eq!(Room::of(&proto::HostMemory::default(), None, &limits).left, 0);
    }
}
