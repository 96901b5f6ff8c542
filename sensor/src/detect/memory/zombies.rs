//! Zombies (R5): children that ended and that nobody waits for. They hold no memory, but each a pid; when
//! there are none left, nothing can be started any more.

use super::Limits;

/// So long they have to become more, and never fewer, ns.
pub const RISING_NS: u64 = 60_000_000_000;

/// The unreaped children of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Zombies {
    latest: u32,
    /// Since when there have only been more, ns of the clock, and how many there were.
    since_ns: u64,
    base: u32,
    /// When there were last more than before, ns of the clock.
    more_ns: u64,
}

/// Children that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreaped {
    pub count: u32,
    pub more: u32,
    pub over_ns: u64,
}

impl Zombies {
    pub fn follow(&mut self, now_ns: u64, zombies: u32) {
        if zombies < self.latest || self.latest == 0 {
            (self.since_ns, self.base) = (now_ns, zombies);
        }
        if zombies > self.latest {
            self.more_ns = now_ns;
        }
        self.latest = zombies;
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.latest
    }

    pub fn unreaped(&self, now_ns: u64, limits: &Limits) -> Option<Unreaped> {
        let over_ns = now_ns.saturating_sub(self.since_ns);
        let rising = over_ns >= RISING_NS
            && self.latest > self.base
            && now_ns.saturating_sub(self.more_ns) < RISING_NS;
        (self.latest >= limits.zombies && rising
            || self.latest >= limits.many_zombies.max(limits.zombies))
        .then(|| Unreaped { count: self.latest, more: self.latest - self.base, over_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn found(zombies: impl Fn(u64) -> u32) -> Option<u64> {
        found_with(&Limits::default(), zombies)
    }

    fn found_with(limits: &Limits, zombies: impl Fn(u64) -> u32) -> Option<u64> {
        let mut seen = Zombies::default();
        (0..600).find(|at| {
            seen.follow(at * S, zombies(*at));
            seen.unreaped(at * S, limits).is_some()
        })
    }

    #[test]
    fn they_have_to_be_many_and_become_more() {
        assert_eq!(found(|at| at as u32), Some(64), "one a second, never waited for");
        assert_eq!(found(|at| 100 * at as u32), Some(33), "a tenth of all pids");
        assert_eq!(found(|at| (at % 50) as u32), None, "waited for now and then");
        assert_eq!(found(|_| 100), None, "there were some, and that is all");
    }

    #[test]
    fn how_many_say_enough_by_themselves_is_a_threshold() {
        let limits = Limits { many_zombies: 500, ..Limits::default() };
        assert_eq!(found_with(&limits, |at| 100 * at as u32), Some(5));
        assert_eq!(found_with(&limits, |_| 500), Some(0), "they need not become more");
        let limits = Limits { many_zombies: 1 << 20, ..limits };
        assert_eq!(found_with(&limits, |at| 100 * at as u32), Some(61), "they have to rise");
    }
}
