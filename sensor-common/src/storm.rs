//! The storm gates R2 and R3: a tree that grows without completing anything.
//!
//! How fast a tree forks tells nothing (a shell loop forks 1,214/s and ends as many); how much it has
//! grown since it was last small does. Each node keeps two windows, 1 s and 5 s long, whose base is
//! the tree's smallest size in them; what is judged is the size now against that base.

use crate::{
    ProcessKey,
    event::{self, Alarm},
    gate::{Level, Rule},
    lineage::{REPORTED_FOR_S, live},
};

/// Forks of a tree between two looks at its windows, less 1; a mask. A look costs 50 ns for each of
/// the ancestors; 8 processes more or less change no verdict.
const LOOK_MASK: u32 = 7;

/// An ancestor is looked at where its forks have none of these bits. At every fork of a long chain:
/// in the tree that `while fork()` makes these are rare (one in 64 at 64 processes), and honest work
/// has none.
#[inline(always)]
pub const fn mask(chain: u32, long: u32) -> u32 {
    if chain >= long { 0 } else { LOOK_MASK }
}

/// Thresholds. Growth is of living processes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// R2: forks since the last exec on the way to the newest process.
    pub chain: u32,
    /// R2: growth within `chain_ms`.
    pub chain_growth: u32,
    /// R2: length of its window, ms.
    pub chain_ms: u32,
    /// R3: growth within `growth_ms`.
    pub growth: u32,
    /// R3: length of its window, ms.
    pub growth_ms: u32,
    /// R3: of 100 processes born meanwhile, so many or more that have ended are work, not a storm.
    pub completed_percent: u32,
}

impl Limits {
    /// The defaults, each with its reason. User space raises `growth` on hosts with many CPUs.
    pub const DEFAULT: Self = Self {
        // Honest work measured: 4 (a pyenv shim, a pool of workers). A shell bomb reaches 29, and
        // `while fork()` the binary logarithm of its size: 6 at 64 processes.
        chain: 6,
        // The smallest bomb that matters: 64 shells take 0.04 s to make, and a tenth of a GiB.
        chain_growth: 64,
        // Bombs take 0.04 to 0.4 s to grow so far, and 1.2 s on an emulated processor; that nothing in
        // it ever executed a program is what tells, not how fast it is.
        chain_ms: 3000,
        // Honest work measured: 129, which is the -j64 or -P64 that somebody asked for, doubled.
        growth: 256,
        // A storm of 160/s (the slowest reported) takes 1.6 s.
        growth_ms: 5000,
        // Work that grows ends as much as it begins; the storms measured ended nothing at all.
        completed_percent: 20,
    };

    /// R3's growth for each CPU: who has many starts as many jobs at once, and twice as many
    /// processes.
    pub const GROWTH_PER_CPU: u32 = 64;
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A node's memory of when its tree was smallest, and what was reported about it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The tree's counters then: forks in the upper half, exits in the lower. One word, because
    /// several CPUs may look at the same node at once.
    base: u64,
    /// When that was, boot clock, ms; 0: at its birth. Wraps after 49 days, which makes one look
    /// forget what came before.
    since_ms: u32,
    /// When its rule was last reported with this node on top, boot clock, s; 0: never.
    pub reported_s: u32,
}

impl Window {
    /// Of a process that was just born.
    pub const NEW: Self = Self { base: 0, since_ms: 0, reported_s: 0 };

    const fn base(forks: u32, exits: u32) -> u64 {
        (forks as u64) << 32 | exits as u64
    }

    /// Looks at a tree with these counters: how it has grown since it was smallest, and the window
    /// after that. `born_ms`: when its root was born.
    #[inline(always)]
    pub const fn look(
        self,
        now_ms: u32,
        born_ms: u32,
        forks: u32,
        exits: u32,
        length_ms: u32,
    ) -> (Growth, Self) {
        let since_ms = if self.since_ms == 0 { born_ms } else { self.since_ms };
        let mut span_ms = now_ms.wrapping_sub(since_ms);
        // Another CPU has looked with a later clock.
        if span_ms > u32::MAX / 2 {
            span_ms = 0;
        }
        let (base_forks, base_exits) = ((self.base >> 32) as u32, self.base as u32);
        let alive = live(forks, exits);
        let before = live(base_forks, base_exits);
        if span_ms > length_ms || alive <= before {
            let fresh = Self {
                base: Self::base(forks, exits),
                // 0 would mean its birth.
                since_ms: if now_ms == 0 { 1 } else { now_ms },
                reported_s: self.reported_s,
            };
            return (Growth { live: alive, ..Growth::NONE }, fresh);
        }
        let growth = Growth {
            live: alive,
            grown: alive - before,
            forks: forks.wrapping_sub(base_forks),
            exits: exits.wrapping_sub(base_exits),
            span_ms,
        };
        (growth, self)
    }

    /// The same window for a tree into which another one has been put: that is no growth.
    #[inline(always)]
    #[must_use]
    pub const fn shifted(self, forks: u32, exits: u32) -> Self {
        let base = Self::base(
            ((self.base >> 32) as u32).wrapping_add(forks),
            (self.base as u32).wrapping_add(exits),
        );
        Self { base, ..self }
    }

    /// Whether its rule has not been reported within the last minute.
    #[inline(always)]
    pub const fn is_news(&self, now_s: u32) -> bool {
        self.reported_s == 0 || now_s.wrapping_sub(self.reported_s) >= REPORTED_FOR_S
    }
}

/// How a tree has changed since it was smallest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Living processes now.
    pub live: u32,
    /// More than then.
    pub grown: u32,
    /// Born and ended meanwhile.
    pub forks: u32,
    pub exits: u32,
    /// Time since then, ms.
    pub span_ms: u32,
}

impl Growth {
    const NONE: Self = Self { live: 0, grown: 0, forks: 0, exits: 0, span_ms: 0 };
}

/// [`Window`]'s clock.
#[inline(always)]
pub const fn millis(ns: u64) -> u32 {
    (ns / 1_000_000) as u32
}

/// R2, of the short window. `chain`: forks since the last exec on the way to the newest process.
#[inline(always)]
pub const fn is_function_bomb(chain: u32, growth: &Growth, limits: &Limits) -> bool {
    chain >= limits.chain && growth.grown >= limits.chain_growth
}

/// R3, of the long window.
#[inline(always)]
pub const fn is_explosion(growth: &Growth, limits: &Limits) -> bool {
    growth.grown >= limits.growth
        && growth.exits as u64 * 100 < growth.forks as u64 * limits.completed_percent as u64
}

/// What one look at a node came to: at most one rule, the surer one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed {
    pub rule: Rule,
    pub growth: Growth,
}

/// Looks at a node's windows and brings them up to date. `chain` is 0 where the node is above the
/// program whose processes only fork: what grows there is somebody else's.
#[inline(always)]
pub const fn judge(
    windows: [Window; 2],
    now_ns: u64,
    born_ns: u64,
    chain: u32,
    forks: u32,
    exits: u32,
    limits: &Limits,
) -> (Option<Crossed>, [Window; 2]) {
    let (now_ms, born_ms) = (millis(now_ns), millis(born_ns));
    let now_s = (now_ns / 1_000_000_000) as u32;
    let [short, long] = windows;
    let (quick, mut short) = short.look(now_ms, born_ms, forks, exits, limits.chain_ms);
    let (slow, mut long) = long.look(now_ms, born_ms, forks, exits, limits.growth_ms);
    let mut crossed = None;
    if is_function_bomb(chain, &quick, limits) {
        if short.is_news(now_s) {
            short.reported_s = now_s;
            crossed = Some(Crossed { rule: Rule::R2, growth: quick });
        }
    } else if is_explosion(&slow, limits) && long.is_news(now_s) {
        long.reported_s = now_s;
        crossed = Some(Crossed { rule: Rule::R3, growth: slow });
    }
    (crossed, [short, long])
}

/// What the kernel reports about it: `child` was born below `top`.
#[inline(always)]
pub const fn alarm(
    crossed: Crossed,
    child: ProcessKey,
    top: ProcessKey,
    chain: u32,
    cgroup: u64,
) -> Alarm {
    let Crossed { rule, growth } = crossed;
    // Whether an explosion is to be stopped takes more than is known here.
    let level = if matches!(rule, Rule::R2) { Level::Contain } else { Level::Open };
    Alarm {
        tag: event::ALARM,
        level: level as u16,
        rule: rule as u16,
        process: child,
        top,
        crossed_ns: child.start_ns,
        span_ns: growth.span_ms as u64 * 1_000_000,
        cgroup,
        repetitions: chain,
        live: growth.live,
        grown: growth.grown,
        forks: growth.forks,
        exits: growth.exits,
        zero: 0,
    }
}

/// The chain as [`judge`] takes it, for an ancestor so many levels above the newest process (1: its
/// parent). Down from the program that began the chain, all have only forked.
#[inline(always)]
pub const fn chain_below(chain: u32, level: u32) -> u32 {
    if level > chain { 0 } else { chain }
}

#[cfg(feature = "user")]
// SAFETY: plain integers, 24 bytes without padding; any bit pattern is valid.
unsafe impl aya::Pod for Limits {}

const _: () = assert!(size_of::<Limits>() == 24);
const _: () = assert!(size_of::<Window>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;
    const BORN: u64 = 100 * SECOND;

    /// A tree that is looked at as the kernel does it.
    struct Tree {
        windows: [Window; 2],
        forks: u32,
        exits: u32,
        now_ns: u64,
        chain: u32,
        crossed: Vec<(Rule, u32, u64)>,
    }

    extern crate std;
    use std::{vec, vec::Vec};

    impl Tree {
        fn new(chain: u32) -> Self {
            let windows = [Window::default(); 2];
            Self { windows, forks: 0, exits: 0, now_ns: BORN, chain, crossed: Vec::new() }
        }

        /// `count` forks, one every `every` ns, of which `ending` in a hundred end at once.
        fn grow(&mut self, count: u32, every: u64, ending: u32) -> &mut Self {
            for _ in 0..count {
                self.now_ns += every;
                self.forks += 1;
                if self.forks & mask(self.chain, Limits::DEFAULT.chain) == 0 {
                    let (crossed, windows) = judge(
                        self.windows,
                        self.now_ns,
                        BORN,
                        self.chain,
                        self.forks,
                        self.exits,
                        &Limits::DEFAULT,
                    );
                    self.windows = windows;
                    if let Some(Crossed { rule, growth }) = crossed {
                        self.crossed.push((rule, growth.grown, (self.now_ns - BORN) / MS));
                    }
                }
                if self.forks * ending / 100 > self.exits {
                    self.exits += 1;
                }
            }
            self
        }
    }

    #[test]
    fn a_shell_bomb_crosses_at_64_processes() {
        // 327 forks a second.
        let mut bomb = Tree::new(29);
        assert_eq!(bomb.grow(200, 3 * MS, 0).crossed, [(Rule::R2, 64, 192)]);
        assert_eq!((mask(4, 6), mask(6, 6)), (7, 0));
    }

    #[test]
    fn a_star_crosses_at_256_processes() {
        let mut star = Tree::new(1);
        assert_eq!(star.grow(400, 3 * MS, 0).crossed, [(Rule::R3, 256, 768)]);
    }

    #[test]
    fn the_slowest_storm_that_was_reported_crosses() {
        // 160 a second, from a parent that has long been there: the first look forgets the past.
        let mut star = Tree::new(1);
        star.now_ns += 60 * SECOND;
        star.grow(600, 6_250_000, 0);
        assert_eq!(star.crossed.len(), 1);
        assert_eq!((star.crossed[0].0, star.crossed[0].1), (Rule::R3, 256));
    }

    #[test]
    fn a_shell_loop_and_a_burst_that_ends_never_cross() {
        // 1,269 short commands a second.
        assert_eq!(Tree::new(2).grow(20_000, 788_000, 100).crossed, []);
        // A quarter ends: that is work, however much of it lives.
        assert_eq!(Tree::new(1).grow(2_000, MS, 25).crossed, []);
        assert_eq!(Tree::new(1).grow(2_000, MS, 15).crossed.len(), 1);
    }

    #[test]
    fn what_somebody_asked_for_never_crosses() {
        // xargs -P64: 129 processes within a second.
        assert_eq!(Tree::new(1).grow(129, 4 * MS, 0).crossed, []);
        // A pyenv shim's chain is 4.
        assert_eq!(Tree::new(4).grow(129, 4 * MS, 0).crossed, []);
    }

    #[test]
    fn slow_growth_never_crosses() {
        // 40 a second: 200 in five seconds.
        assert_eq!(Tree::new(1).grow(2_000, 25 * MS, 0).crossed, []);
        // 20 a second in a chain of forks.
        assert_eq!(Tree::new(9).grow(250, 50 * MS, 0).crossed, []);
    }

    #[test]
    fn the_base_is_the_smallest_size_within_the_window() {
        let length = 1000;
        let window = Window::default();
        let (_, window) = window.look(5_000, 0, 100, 0, length);
        // 60 end: the base follows down to 41 living.
        let (down, window) = window.look(5_100, 0, 100, 60, length);
        assert_eq!((down.live, down.grown), (41, 0));
        let (up, window) = window.look(5_200, 0, 150, 60, length);
        assert_eq!(up, Growth { live: 91, grown: 50, forks: 50, exits: 0, span_ms: 100 });
        // Too old: it begins again.
        let (late, window) = window.look(6_101, 0, 200, 60, length);
        assert_eq!((late.live, late.grown), (141, 0));
        // A look with an earlier clock, from another CPU.
        let (early, _) = window.look(6_100, 0, 210, 60, length);
        assert_eq!((early.grown, early.span_ms), (10, 0));
    }

    #[test]
    fn a_tree_that_is_put_in_is_no_growth() {
        let (_, window) = Window::default().look(5_000, 0, 10, 0, 1000);
        let window = window.shifted(300, 20);
        let (growth, _) = window.look(5_010, 0, 318, 20, 1000);
        assert_eq!((growth.grown, growth.forks, growth.exits), (8, 8, 0));
    }

    #[test]
    fn one_rule_is_reported_once_a_minute() {
        let mut star = Tree::new(1);
        // 200 a second for 100 s: news at the beginning and after a minute.
        star.grow(20_000, 5 * MS, 0);
        let times: Vec<u64> = star.crossed.iter().map(|(_, _, ms)| ms / 1000).collect();
        assert_eq!(times, vec![1, 61]);
    }

    #[test]
    fn what_grows_above_the_program_is_somebody_elses() {
        assert_eq!((chain_below(6, 1), chain_below(6, 6), chain_below(6, 7)), (6, 6, 0));
    }

    #[test]
    fn a_rule_that_is_off_never_crosses() {
        let limits = Limits { chain: u32::MAX, growth: u32::MAX, ..Limits::DEFAULT };
        let growth = Growth { live: 9000, grown: 9000, forks: 9000, exits: 0, span_ms: 10 };
        assert!(!is_function_bomb(60_000, &growth, &limits) && !is_explosion(&growth, &limits));
    }
}
