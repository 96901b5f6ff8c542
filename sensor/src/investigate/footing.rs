//! Whether an agent that has begun may go on: room is measured while it runs as well, for what an incident does to a
//! host is not over when an agent begins.
//!
//! Who is short of it makes way for the next rung of the [`ladder`](super::ladder), and never comes back in its
//! place: together with a bound that is lower than that of a beginning, and has to be missed several times in a
//! row, nothing goes up and down.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    ladder::{API_BYTES, Headroom},
    sandbox::Inmate,
};
use crate::{
    cgroup::Hierarchies,
    evidence::{proc::Proc, room},
    respond::process::key_of,
};

/// Between two looks: each reads a handful of small files.
const EVERY: Duration = Duration::from_secs(1);

/// Looks in a row that find too little. Counted, not timed: who is not scheduled for a while has looked once.
const IN_A_ROW: u32 = 4;

/// Of what it needed to begin, percent that it must have or could have to go on.
const STAYS_PERCENT: u64 = 75;

/// How a run stands, look by look. Pure: time and what was measured come in.
#[derive(Debug)]
pub struct Footing {
    /// Bytes that it needed to begin; 0: none, and it is never asked to go.
    needs: u64,
    next: Instant,
    short: u32,
}

impl Footing {
    pub fn new(needs: u64, now: Instant) -> Self {
        Self { needs, next: now + EVERY, short: 0 }
    }

    /// Whether it is time to look.
    pub fn is_due(&self, now: Instant) -> bool {
        self.needs > 0 && now >= self.next
    }

    /// What is left, and what the run itself has, bytes. A sentence: it has to go.
    ///
    /// Of tasks it has what it needs: to give them back would be to give them to who takes them all.
    pub fn look(&mut self, now: Instant, headroom: &Headroom, has: u64) -> Option<String> {
        self.next = now + EVERY;
        let why = headroom.memory.and_then(|left| self.lacks(left, has));
        self.short = if why.is_some() { self.short + 1 } else { 0 };
        why.filter(|_| self.short >= IN_A_ROW)
    }

    fn lacks(&self, left: u64, has: u64) -> Option<String> {
        let stays = self.needs * STAYS_PERCENT / 100;
        let mib = |bytes: u64| bytes >> 20;
        if left.saturating_add(has) < stays {
            return Some(format!(
                "it needs {} MiB of memory to go on, has {}, and {} MiB are left",
                mib(stays),
                mib(has),
                mib(left)
            ));
        }
        // Whoever comes after it must be able to begin.
        (self.needs > API_BYTES && left < API_BYTES).then(|| {
            format!("{} MiB of memory are left, it has {} MiB of what is used", mib(left), mib(has))
        })
    }
}

/// What is left for who is started below our group.
pub fn headroom(hierarchies: &Hierarchies) -> Headroom {
    let own = key_of(std::process::id()).ok();
    let proc = Proc::at(Path::new("/proc"));
    let memory = room::memory(&proc, hierarchies, &own.into_iter().collect::<Vec<_>>());
    let tasks = room::tasks(proc.root(), hierarchies, std::process::id());
    Headroom { memory: memory.map(|it| it.available), tasks: tasks.map(|it| it.left) }
}

/// Memory that a run has, bytes: as a group of its own counts it, or by its processes' own words.
pub fn held(inmate: &Inmate) -> u64 {
    let counted = inmate.groups().iter().find_map(|dir| room::group(dir));
    if let Some(room) = counted {
        return room.used;
    }
    let proc = Proc::at(Path::new("/proc"));
    let pids = inmate.processes();
    let opened = pids.iter().filter_map(|pid| proc.open(key_of(*pid).ok()?));
    opened.map(|one| one.status().anon).sum()
}

/// Time on a CPU that a run has had: one that hangs has none, one that is slow has little. Where it has no group of
/// cgroup v2, of its living processes.
pub fn worked(inmate: &Inmate) -> Duration {
    if let Some(counted) = inmate.groups().iter().find_map(|dir| room::cpu_time(dir)) {
        return counted;
    }
    let proc = Proc::at(Path::new("/proc"));
    let pids = inmate.processes();
    let opened = pids.iter().filter_map(|pid| proc.open(key_of(*pid).ok()?));
    Duration::from_millis(opened.map(|one| one.stat.cpu_ms()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Looks at (left, has) MiB, one a second; how many it took until it had to go, and why.
    fn goes(needs: u64, looks: &[(u64, u64)]) -> Option<(usize, String)> {
        let mut now = Instant::now();
        let mut footing = Footing::new(needs * MIB, now);
        for (index, (left, has)) in looks.iter().enumerate() {
            assert!(!footing.is_due(now), "it has just looked");
            now += EVERY;
            if needs > 0 {
                assert!(footing.is_due(now));
            }
            let headroom = Headroom { memory: Some(left * MIB), tasks: Some(0) };
            if let Some(why) = footing.look(now, &headroom, has * MIB) {
                return Some((index + 1, why));
            }
        }
        None
    }

    #[test]
    fn goes_when_too_little_is_left_for_long() {
        let (looks, why) = goes(512, &[(100, 200); 10]).unwrap();
        assert_eq!(looks, 4);
        assert_eq!(why, "it needs 384 MiB of memory to go on, has 200, and 100 MiB are left");
        // What it has is its own to use, until nobody else can live beside it.
        assert_eq!(goes(512, &[(100, 400); 100]), None);
        let (_, why) = goes(512, &[(63, 900); 10]).unwrap();
        assert_eq!(why, "63 MiB of memory are left, it has 900 MiB of what is used");
    }

    #[test]
    fn a_dip_is_no_want_and_what_comes_and_goes_around_the_bound_ends_nobody() {
        let dips: Vec<(u64, u64)> =
            (0..100).map(|second| if second % 4 == 3 { (900, 100) } else { (10, 100) }).collect();
        assert_eq!(goes(512, &dips), None);
        // With less than it would need to begin it goes on.
        assert_eq!(goes(512, &[(300, 100); 100]), None);
        assert_eq!(goes(512, &[(511, 0); 100]), None);
    }

    #[test]
    fn a_request_goes_on_with_little_and_who_needs_nothing_with_nothing() {
        let api = API_BYTES / MIB;
        assert_eq!(goes(api, &[(30, 34); 100]), None);
        assert!(goes(api, &[(10, 34); 10]).unwrap().1.starts_with("it needs 48 MiB"));
        assert_eq!(goes(0, &[(0, 0); 100]), None);
    }

    #[test]
    fn what_nobody_knows_is_no_want() {
        let now = Instant::now();
        let mut footing = Footing::new(512 * MIB, now);
        for _ in 0..10 {
            assert_eq!(footing.look(now, &Headroom::default(), 0), None);
        }
    }
}
