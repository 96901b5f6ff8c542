//! The respawn gate R6: a command that the same parent starts again and again, and that fails each
//! time as soon as it runs.
//!
//! Such a loop never has more than two processes, so no other gate sees it. What is counted are the
//! ends of one command (executable, argv, cwd) below one parent, in windows that follow each other
//! without a gap; the loop is one when some of them in a row were bad throughout.

use crate::{
    ProcessKey,
    event::{self, Alarm},
    flag::{is_less, not_zero},
    gate::{Level, Rule},
};

/// Thresholds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ends of the command within one window; [`Self::NEVER`] switches the gate off.
    pub runs: u32,
    /// Length of a window, ms.
    pub window_ms: u32,
    /// Bad windows in a row.
    pub windows: u32,
    /// What fails before it has run so long, ms, has failed at once.
    pub life_ms: u32,
    /// Of 100 ends so many are such failures. Above 50 this says as well that the median of the runs
    /// is shorter than `life_ms`.
    pub failed_percent: u32,
}

impl Limits {
    /// The defaults, each with its reason.
    pub const DEFAULT: Self = Self {
        // Every 3 s: supervisors that back off, and scripts that wait with `sleep 5`, stay below.
        runs: 20,
        window_ms: 60_000,
        // What a service waits for at boot is there within a minute or so.
        windows: 2,
        // A start that fails on its configuration takes an interpreter 0.1 to 1 s.
        life_ms: 2000,
        // A command that is restarted in vain never succeeds. One that polls, again and again, until
        // what it waits for is there, failed 93 % of its runs in the recordings of honest work.
        failed_percent: 95,
    };

    /// As [`Self::runs`]: no window has so many.
    pub const NEVER: u32 = u32::MAX;

    const fn window_ns(&self) -> u64 {
        self.window_ms as u64 * NS_PER_MS
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const NS_PER_MS: u64 = 1_000_000;

/// Loops that are remembered: commands that failed at once, most of them once only. The least recently
/// seen are forgotten, which lets their window begin anew.
pub const LOOPS: u32 = 2048;

/// Whose loop: the process that starts the command, and the command's strict signature.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loop {
    pub parent: ProcessKey,
    pub strict: u64,
}

/// How one run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Boot clock, ns.
    pub at_ns: u64,
    /// Since its exec, ns.
    pub ran_ns: u64,
    /// As wait(2) reports it.
    pub code: u32,
}

impl End {
    /// Only this makes the gate remember a command.
    #[inline(always)]
    pub const fn failed_at_once(&self, limits: &Limits) -> bool {
        self.code != 0 && self.ran_ns < limits.life_ms as u64 * NS_PER_MS
    }
}

/// Set in a code whose process left a core dump.
pub const CORE_DUMPED: u32 = 0x80;

/// What `exit` was given; 0 where a signal ended it.
pub const fn status(code: u32) -> u32 {
    code >> 8 & 0xff
}

/// The signal that ended the run, or the command that a shell ran in it: shells exit with 128 more.
/// 0: none.
pub const fn signal(code: u32) -> u32 {
    let (own, status) = (code & 0x7f, status(code));
    if own != 0 {
        own
    } else if status > 128 && status <= 128 + SIGNALS {
        status - 128
    } else {
        0
    }
}

/// Signals of Linux.
const SIGNALS: u32 = 64;

/// What ended of one loop since the window began.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Boot clock of its beginning, ns.
    pub since_ns: u64,
    /// How long those that failed at once ran, together, ns.
    pub ran_ns: u64,
    /// All that ended.
    pub runs: u32,
    /// Those that failed at once.
    pub failed: u32,
    /// Of these, ended by a signal, and with a core dump.
    pub by_signal: u32,
    pub dumped: u32,
    /// Of these, ended otherwise than the one before.
    pub otherwise: u32,
    /// How the last of these ended, as wait(2) reports it.
    pub code: u32,
    /// Bad windows in a row up to this one.
    pub row: u32,
    pub zero: u32,
}

impl Window {
    /// Begins with this end.
    #[inline(always)]
    pub fn begin(end: &End, limits: &Limits) -> Self {
        Self { since_ns: end.at_ns, code: end.code, ..Self::EMPTY }.with(end, limits)
    }

    const EMPTY: Self = Self {
        since_ns: 0,
        ran_ns: 0,
        runs: 0,
        failed: 0,
        by_signal: 0,
        dumped: 0,
        otherwise: 0,
        code: 0,
        row: 0,
        zero: 0,
    };

    /// With one end more. Without branches; counters wrap, which takes a million runs a second.
    #[inline(always)]
    fn with(self, end: &End, limits: &Limits) -> Self {
        let code = u64::from(end.code);
        let life_ns = u64::from(limits.life_ms) * NS_PER_MS;
        let failed = not_zero(code) & is_less(end.ran_ns, life_ns);
        let (own, status) = (code & 0x7f, code >> 8 & 0xff);
        let relayed = is_less(128, status) & is_less(status, 129 + u64::from(SIGNALS));
        let by_signal = failed & (not_zero(own) | relayed);
        let dumped = failed & not_zero(code & u64::from(CORE_DUMPED));
        let differs = u64::from(self.code) ^ code;
        Self {
            ran_ns: self.ran_ns.wrapping_add(end.ran_ns.wrapping_mul(failed)),
            runs: self.runs.wrapping_add(1),
            failed: self.failed.wrapping_add(failed as u32),
            by_signal: self.by_signal.wrapping_add(by_signal as u32),
            dumped: self.dumped.wrapping_add(dumped as u32),
            otherwise: self.otherwise.wrapping_add((failed & not_zero(differs)) as u32),
            code: self.code ^ (differs.wrapping_mul(failed) as u32),
            ..self
        }
    }

    const fn is_bad(&self, limits: &Limits) -> bool {
        self.runs >= limits.runs
            && self.failed as u64 * 100 >= self.runs as u64 * limits.failed_percent as u64
    }

    /// Counts an end: the window after that, and the one before it where it was the last of enough
    /// bad ones in a row. A loop that goes on is told of with each window that ends.
    #[inline(always)]
    pub fn judge(self, end: &End, limits: &Limits) -> (Option<Self>, Self) {
        let mut crossed = None;
        let mut window = self;
        // Another CPU may have begun it with a later clock.
        let age_ns = end.at_ns.saturating_sub(self.since_ns);
        if age_ns >= limits.window_ns() {
            let fresh = Self { code: self.code, ..Self::EMPTY };
            window = if age_ns < 2 * limits.window_ns() && self.is_bad(limits) {
                let row = self.row.wrapping_add(1);
                if row >= limits.windows {
                    crossed = Some(Self { row, ..self });
                }
                Self { since_ns: self.since_ns + limits.window_ns(), row, ..fresh }
            } else {
                // A window without any end lies between, or this one was not bad.
                Self { since_ns: end.at_ns, ..fresh }
            };
        }
        (crossed, window.with(end, limits))
    }
}

/// What the kernel reports about a window that crossed when `process`, a child of `parent`, ended.
#[inline(always)]
pub const fn alarm(
    window: &Window,
    process: ProcessKey,
    parent: ProcessKey,
    live: u32,
    at_ns: u64,
    cgroup: u64,
    limits: &Limits,
) -> Alarm {
    Alarm {
        tag: event::RESPAWNED,
        // Two processes are nothing that stopping would save.
        level: Level::Open as u16,
        rule: Rule::R6 as u16,
        process,
        top: parent,
        crossed_ns: at_ns,
        span_ns: limits.window_ns(),
        cgroup,
        repetitions: window.failed,
        live,
        grown: 0,
        forks: 0,
        exits: window.runs,
        zero: 0,
    }
}

#[cfg(feature = "user")]
// SAFETY: plain integers, 20 bytes without padding; any bit pattern is valid.
unsafe impl aya::Pod for Limits {}

const _: () = assert!(size_of::<Limits>() == 20);
const _: () = assert!(size_of::<Loop>() == 24);
const _: () = assert!(size_of::<Window>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;
    use std::vec::Vec;

    const MS: u64 = NS_PER_MS;
    const SECOND: u64 = 1000 * MS;
    const BORN: u64 = 100 * SECOND;
    const LIMITS: Limits = Limits::DEFAULT;

    /// exit(status)
    const fn exits(status: u32) -> u32 {
        status << 8
    }

    /// One command below one parent, as the kernel remembers it.
    #[derive(Default)]
    struct Command {
        limits: Limits,
        window: Option<Window>,
        runs: u64,
        /// When it crossed, s after the first end, and what was told.
        crossed: Vec<(u64, Window)>,
    }

    impl Command {
        /// So many ends, one every `every` ns, each after 5 ms.
        fn ends(&mut self, count: u64, every: u64, code: impl Fn(u64) -> u32) -> &mut Self {
            for _ in 0..count {
                let at_ns = BORN + self.runs * every;
                self.end(&End { at_ns, ran_ns: 5 * MS, code: code(self.runs) });
            }
            self
        }

        fn end(&mut self, end: &End) {
            self.runs += 1;
            let Some(window) = self.window else {
                let limits = &self.limits;
                self.window = end.failed_at_once(limits).then(|| Window::begin(end, limits));
                return;
            };
            let (crossed, window) = window.judge(end, &self.limits);
            self.window = Some(window);
            let after = (end.at_ns - BORN) / SECOND;
            self.crossed.extend(crossed.map(|crossed| (after, crossed)));
        }

        fn times(&self) -> Vec<u64> {
            self.crossed.iter().map(|(after, _)| *after).collect()
        }
    }

    #[test]
    fn a_loop_crosses_after_two_minutes_and_with_each_further_one() {
        let mut looping = Command::default();
        looping.ends(300, SECOND, |_| exits(1));
        assert_eq!(looping.times(), [120, 180, 240]);
        let told = looping.crossed[1].1;
        assert_eq!((told.runs, told.failed, told.row), (60, 60, 3));
        assert_eq!((told.code, told.otherwise, told.by_signal), (exits(1), 0, 0));
        assert_eq!(told.ran_ns, 60 * 5 * MS);
    }

    #[test]
    fn a_fast_loop_crosses_as_well() {
        let mut looping = Command::default();
        // 1,000 a second.
        looping.ends(125_000, MS, |_| exits(127));
        assert_eq!(looping.times(), [120]);
        assert_eq!(looping.crossed[0].1.runs, 60_000);
    }

    #[test]
    fn every_three_seconds_is_a_loop_and_every_four_is_not() {
        assert_eq!(Command::default().ends(80, 3 * SECOND, |_| exits(1)).times(), [120, 180]);
        assert_eq!(Command::default().ends(80, 4 * SECOND, |_| exits(1)).times(), [0_u64; 0]);
    }

    #[test]
    fn so_many_of_a_hundred_have_to_fail() {
        let of_hundred = |failing: u64, failed_percent| {
            let limits = Limits { failed_percent, ..LIMITS };
            let mut command = Command { limits, ..Command::default() };
            // 100 in each window, those that fail first.
            command.ends(400, 600 * MS, |run| exits(u32::from(run % 100 < failing)));
            command.times()
        };
        assert_eq!(of_hundred(95, LIMITS.failed_percent), [120, 180]);
        assert_eq!(of_hundred(94, LIMITS.failed_percent), [0_u64; 0]);
        assert_eq!(of_hundred(80, 80), [120, 180]);
        assert_eq!(of_hundred(79, 80), [0_u64; 0]);
    }

    #[test]
    fn successes_alone_are_not_remembered() {
        let mut work = Command::default();
        work.ends(3000, MS, |_| 0);
        assert_eq!(work.window, None);
        assert!(work.ends(200_000, MS, |_| 0).crossed.is_empty());
    }

    #[test]
    fn what_fails_late_is_no_loop() {
        let mut slow = Command::default();
        for run in 0..100 {
            let at_ns = BORN + run * 3 * SECOND;
            // The first one fails at once and is remembered.
            let ran_ns = if run == 0 { 0 } else { 2 * SECOND };
            slow.end(&End { at_ns, ran_ns, code: exits(1) });
        }
        assert_eq!(slow.times(), [0_u64; 0]);
    }

    #[test]
    fn a_pause_begins_anew() {
        let mut looping = Command::default();
        looping.ends(110, SECOND, |_| exits(1));
        // 130 s without any: more than a window.
        looping.runs += 130;
        looping.ends(119, SECOND, |_| exits(1));
        assert_eq!(looping.times(), [0_u64; 0]);
        looping.ends(2, SECOND, |_| exits(1));
        assert_eq!(looping.times(), [360]);
    }

    #[test]
    fn signals_dumps_and_changes_are_counted() {
        let mut looping = Command::default();
        // SIGSEGV with a core dump, then what a shell makes of it, then a plain failure.
        let codes = [11 + CORE_DUMPED, exits(139), exits(3)];
        looping.ends(123, SECOND, |run| codes[(run % 3) as usize]);
        let told = looping.crossed[0].1;
        assert_eq!((told.failed, told.by_signal, told.dumped), (60, 40, 20));
        assert_eq!(told.otherwise, 60, "no two in a row are the same");
    }

    #[test]
    fn codes() {
        assert_eq!((signal(9), signal(11 + CORE_DUMPED), signal(exits(137))), (9, 11, 9));
        let none = [exits(1), exits(127), exits(128), exits(193), exits(255), 0];
        assert_eq!(none.map(signal), [0; 6]);
        assert_eq!((status(exits(127)), status(9)), (127, 0));
    }

    #[test]
    fn counting_without_branches_agrees_with_its_words() {
        for code in
            (0..=0xffff).step_by(3).chain([0, 1 << 8, 128 << 8, 129 << 8, 192 << 8, 193 << 8])
        {
            for ran_ns in [0, 1999 * MS, 2000 * MS, 1 << 62] {
                let end = End { at_ns: BORN, ran_ns, code };
                let window = Window::begin(&end, &LIMITS);
                let failed = end.failed_at_once(&LIMITS);
                let counted = |it: bool| u32::from(failed && it);
                assert_eq!((window.runs, window.failed, window.otherwise), (1, counted(true), 0));
                assert_eq!(window.by_signal, counted(signal(code) != 0), "{code:#x}");
                assert_eq!(window.dumped, counted(code & CORE_DUMPED != 0), "{code:#x}");
                assert_eq!(window.ran_ns, if failed { ran_ns } else { 0 });
                // Only a failure at once is remembered.
                let other = Window { code: 7, ..window }.with(&end, &LIMITS);
                assert_eq!(other.code, if failed { code } else { 7 });
            }
        }
    }

    #[test]
    fn counters_wrap_and_clocks_may_run_back() {
        let full = Window {
            since_ns: BORN,
            ran_ns: u64::MAX,
            runs: u32::MAX,
            failed: u32::MAX,
            row: u32::MAX - 1,
            ..Window::default()
        };
        let end = End { at_ns: BORN - SECOND, ran_ns: 1, code: 11 };
        let (crossed, window) = full.judge(&end, &LIMITS);
        assert_eq!(crossed, None, "an earlier clock of another CPU");
        assert_eq!((window.runs, window.failed, window.ran_ns), (0, 0, 0));
        let (crossed, next) = full.judge(&End { at_ns: BORN + 60 * SECOND, ..end }, &LIMITS);
        assert_eq!(crossed.map(|it| it.row), Some(u32::MAX));
        assert_eq!((next.runs, next.row), (1, u32::MAX));
        let late = End { at_ns: u64::MAX, ..end };
        assert_eq!(next.judge(&late, &LIMITS).1.since_ns, u64::MAX);
    }

    #[test]
    fn a_gate_that_is_off_never_crosses() {
        let off = Limits { runs: Limits::NEVER, ..LIMITS };
        let end = End { at_ns: BORN, ran_ns: 0, code: 1 };
        let bad = Window { runs: u32::MAX - 1, failed: u32::MAX - 1, ..Window::begin(&end, &off) };
        let (crossed, _) = bad.judge(&End { at_ns: BORN + 60 * SECOND, ..end }, &off);
        assert_eq!(crossed, None);
    }

    #[test]
    fn the_alarm_names_the_parent_and_asks_for_no_containment() {
        let end = End { at_ns: BORN, ran_ns: 0, code: 1 };
        let (process, parent) = (ProcessKey::new(2, 3), ProcessKey::new(1, 1));
        let alarm = alarm(&Window::begin(&end, &LIMITS), process, parent, 2, 9, 4, &LIMITS);
        assert_eq!((alarm.tag, alarm.level, alarm.rule), (event::RESPAWNED, 2, 5));
        assert_eq!((alarm.process, alarm.top, alarm.span_ns), (process, parent, 60 * SECOND));
        assert_eq!((alarm.repetitions, alarm.exits), (1, 1));
    }
}
