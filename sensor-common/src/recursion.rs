//! The recursion gates R1, R1b and R1c: a command among its own living ancestors.
//!
//! Fork rate does not tell work from runaway (a shell loop forks 1,214/s, the recursive npm 14/s);
//! self-similarity does: honest work repeats (executable, argv, cwd) along a chain 0 times,
//! recursions 6 to 200 times.

use crate::{
    flag::is_zero,
    gate::{Level, Rule},
    lineage::{DEAD, GENERATIONS, Image, Node, REPORTED_FOR_S, SEARCHED_ANCESTORS, Slot},
};

/// Thresholds. Counts are of living ancestors, times in ns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// R1: from here on the tree is suspect.
    pub watch: u32,
    /// R1: from here on it may be contained, if it is quick and wide enough.
    pub contain: u32,
    /// R1: from here on it is an incident if it is quick, however narrow.
    pub open: u32,
    /// R1: from here on it is an incident at any pace.
    pub open_slow: u32,
    /// R1b: from here on it is an incident.
    pub loose_open: u32,
    /// R1b: from here on it may be contained.
    pub loose_contain: u32,
    /// R1c: generations of one executable.
    pub growth_repetitions: u32,
    /// R1c: of those, in a row, with a longer argv each.
    pub growth_growing: u32,
    /// Living processes that the tree must have to be contained.
    pub contain_live: u32,
    pub zero: u32,
    /// Time that the last three generations together may take to count as quick.
    pub contain_span_ns: u64,
}

impl Limits {
    /// The defaults, each with its reason.
    pub const DEFAULT: Self = Self {
        // Honest work measured: 0. The second repetition is never chance.
        watch: 2,
        // The recursive npm has 24 to 45 living processes here, 1 % of what the host can bear.
        contain: 3,
        // A wrapper that runs itself again four times reaches 4.
        open: 5,
        // A person who opens a shell in a shell six deep reaches 5 or 6.
        open_slow: 8,
        // Recursive make, seven deep, repeats its argv 5 times.
        loose_open: 8,
        // Twice that: directories can honestly be deep, and a false freeze is the worst bug.
        loose_contain: 16,
        growth_repetitions: 16,
        growth_growing: 8,
        // A person or a retrying wrapper never has so many at once.
        contain_live: 12,
        zero: 0,
        // A recursive npm takes 0.9 s a generation, 2 s on a busy host; a person takes longer than 3 s.
        contain_span_ns: 10_000_000_000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Time that the last three generations took, ns; 0 when there are not that many.
#[inline(always)]
pub const fn span_ns(image: &Image) -> u64 {
    let oldest = image.generations[GENERATIONS - 1];
    if oldest == 0 { 0 } else { image.generations[0].saturating_sub(oldest) }
}

/// The lineage table, wherever it is: the kernel's array, or one that is rebuilt from a trace.
pub trait Nodes {
    /// The node in a slot; none for slot 0 and beyond the table. What it says may change meanwhile.
    fn node(&self, slot: Slot) -> Option<&Node>;
}

/// Nearest living ancestors with the same signature, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub strict: Slot,
    pub loose: Slot,
    pub exe: Slot,
    /// Not 0: an ancestor is suspect, so execs below it are recorded.
    pub suspects: u32,
}

/// Looks through up to 64 ancestors, from `parent` up, for those like `image`. The nearest with the
/// same signature knows how often it was itself preceded, so one period of a cycle is enough.
///
/// Free of branches on what is found: a branch in this loop costs the verifier its limit on some
/// kernels (`if equal {..}` was refused after a million instructions on 6.18).
#[inline(always)]
pub fn search(table: &impl Nodes, parent: Slot, image: &Image) -> Found {
    let mut slot = parent;
    let mut found = [0u64; 3];
    let mut suspects = 0u32;
    for _ in 0..SEARCHED_ANCESTORS {
        if slot == 0 {
            break;
        }
        let Some(ancestor) = table.node(slot) else { break };
        let like = &ancestor.image;
        let living = u64::from(slot) * is_zero(u64::from(ancestor.flags & DEAD));
        found[0] += living * is_zero(like.strict ^ image.strict) * is_zero(found[0]);
        found[1] += living * is_zero(like.loose ^ image.loose) * is_zero(found[1]);
        found[2] += living * is_zero(like.exe ^ image.exe) * is_zero(found[2]);
        suspects |= ancestor.suspect;
        slot = ancestor.parent_slot;
    }
    Found { strict: found[0] as Slot, loose: found[1] as Slot, exe: found[2] as Slot, suspects }
}

/// Completes an image by what its nearest likes know. `image` has the signatures, the length of
/// argv, its own exec time first and its own slot as top.
#[inline(always)]
pub fn repeat(table: &impl Nodes, found: &Found, mut image: Image) -> Image {
    let mut generation = false;
    if found.strict != 0
        && let Some(like) = table.node(found.strict)
    {
        let like = &like.image;
        image.strict_repetitions = like.strict_repetitions.saturating_add(1);
        image.top = above(like.strict_repetitions, like, found.strict);
        follow(&mut image, like);
        generation = true;
    }
    if found.loose != 0
        && let Some(like) = table.node(found.loose)
    {
        let like = &like.image;
        image.loose_repetitions = like.loose_repetitions.saturating_add(1);
        if !generation {
            image.top = above(like.loose_repetitions, like, found.loose);
            follow(&mut image, like);
            generation = true;
        }
    }
    if found.exe != 0
        && let Some(like) = table.node(found.exe)
    {
        let like = &like.image;
        image.exe_repetitions = like.exe_repetitions.saturating_add(1);
        if image.argv_bytes > like.argv_bytes {
            image.growing = like.growing.saturating_add(1);
        }
        if !generation {
            image.top = above(like.growing, like, found.exe);
            follow(&mut image, like);
        }
    }
    image
}

/// The top of a repetition that `like` continues, or begins.
#[inline(always)]
const fn above(repetitions: u16, like: &Image, slot: Slot) -> Slot {
    if repetitions > 0 && like.top != 0 { like.top } else { slot }
}

/// Takes over the exec times of the generations above.
#[inline(always)]
const fn follow(image: &mut Image, like: &Image) {
    const { assert!(GENERATIONS == 4) };
    image.generations[1] = like.generations[0];
    image.generations[2] = like.generations[1];
    image.generations[3] = like.generations[2];
}

/// What the gates say about one exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub rule: Rule,
    /// Living processes in the tree of the repetition's top.
    pub live: u32,
    /// By the rule that crossed.
    pub repetitions: u16,
    /// It is news: the top has not had this level within the last minute.
    pub report: bool,
}

/// Asks the gates about an image that is complete, with `top` on top of its repetition.
#[inline(always)]
pub fn gate(image: &Image, top: &Node, now_ns: u64, limits: &Limits) -> Verdict {
    let live = top.live();
    let (level, rule) = judge(image, live, limits);
    let repetitions = match rule {
        Rule::R1 => image.strict_repetitions,
        Rule::R1b => image.loose_repetitions,
        // The others are not asked here.
        Rule::R1c | Rule::R2 | Rule::R3 | Rule::R6 => image.exe_repetitions,
    };
    let told = level as u16 <= top.image.reported
        && seconds(now_ns).wrapping_sub(top.image.reported_s) < REPORTED_FOR_S;
    let report = !matches!(level, Level::Calm) && !told;
    Verdict { level, rule, live, repetitions, report }
}

/// [`Image::reported_s`] of something that is reported now.
#[inline(always)]
pub const fn seconds(now_ns: u64) -> u32 {
    (now_ns / 1_000_000_000) as u32
}

/// Judges what was just executed. `live`: living processes in the tree of the repetition's top.
#[inline(always)]
pub fn judge(image: &Image, live: u32, limits: &Limits) -> (Level, Rule) {
    let strict = u32::from(image.strict_repetitions);
    let loose = u32::from(image.loose_repetitions);
    let exe = u32::from(image.exe_repetitions);
    let growing = u32::from(image.growing);

    let span = span_ns(image);
    let quick = span != 0 && span <= limits.contain_span_ns;
    let wide = live >= limits.contain_live;

    if strict >= limits.contain && quick && wide {
        return (Level::Contain, Rule::R1);
    }
    if loose >= limits.loose_contain && quick && wide {
        return (Level::Contain, Rule::R1b);
    }
    let grows = exe >= limits.growth_repetitions && growing >= limits.growth_growing;
    if grows && quick && wide {
        return (Level::Contain, Rule::R1c);
    }
    if (strict >= limits.open && quick) || strict >= limits.open_slow {
        return (Level::Open, Rule::R1);
    }
    if loose >= limits.loose_open {
        return (Level::Open, Rule::R1b);
    }
    if grows {
        return (Level::Open, Rule::R1c);
    }
    if strict >= limits.watch {
        return (Level::Watch, Rule::R1);
    }
    (Level::Calm, Rule::R1)
}

#[cfg(feature = "user")]
// SAFETY: plain integers, 48 bytes without padding; any bit pattern is valid.
unsafe impl aya::Pod for Limits {}

const _: () = assert!(size_of::<Limits>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn image(strict: u16, loose: u16, exe: u16, growing: u16, span_ns: u64) -> Image {
        let start = 100 * SECOND;
        Image {
            strict_repetitions: strict,
            loose_repetitions: loose,
            exe_repetitions: exe,
            growing,
            generations: [start + span_ns, start, start, start],
            ..Image::default()
        }
    }

    fn level(image: &Image, live: u32) -> Level {
        judge(image, live, &Limits::default()).0
    }

    #[test]
    fn the_recursive_npm_is_contained_at_the_third_repetition() {
        // Measured: three generations in 2.7 s, 24 living processes.
        let npm = image(3, 3, 12, 0, 2_700_000_000);
        assert_eq!(judge(&npm, 24, &Limits::default()), (Level::Contain, Rule::R1));
        assert_eq!(level(&image(2, 2, 9, 0, 0), 18), Level::Watch);
    }

    #[test]
    fn a_wrapper_that_retries_four_times_is_left_alone() {
        assert_eq!(level(&image(4, 4, 4, 0, SECOND), 5), Level::Watch);
    }

    #[test]
    fn a_shell_in_a_shell_at_a_persons_pace_is_left_alone() {
        assert_eq!(level(&image(6, 6, 6, 0, 12 * SECOND), 7), Level::Watch);
        // However slow: eight of the same command inside each other are worth a word.
        assert_eq!(level(&image(8, 8, 8, 0, 600 * SECOND), 9), Level::Open);
    }

    #[test]
    fn recursive_make_seven_deep_is_left_alone() {
        // Measured: argv repeats 5 times, never with the same cwd.
        assert_eq!(level(&image(0, 5, 6, 0, SECOND), 14), Level::Calm);
    }

    #[test]
    fn ever_new_directories_and_growing_arguments_are_seen() {
        let deep = image(0, 16, 16, 0, SECOND);
        assert_eq!(judge(&deep, 40, &Limits::default()), (Level::Contain, Rule::R1b));
        let grows = image(0, 0, 16, 8, SECOND);
        assert_eq!(judge(&grows, 40, &Limits::default()), (Level::Contain, Rule::R1c));
        assert_eq!(
            level(&image(0, 0, 40, 7, SECOND), 40),
            Level::Calm,
            "the same length again and again"
        );
    }

    #[test]
    fn a_few_processes_are_never_contained() {
        assert_eq!(level(&image(5, 5, 5, 0, SECOND), 11), Level::Open);
        assert_eq!(level(&image(5, 5, 5, 0, SECOND), 12), Level::Contain);
    }

    #[test]
    fn without_three_generations_there_is_no_pace() {
        let mut early = image(3, 3, 3, 0, SECOND);
        early.generations[GENERATIONS - 1] = 0;
        assert_eq!(span_ns(&early), 0);
        assert_eq!(level(&early, 100), Level::Watch);
    }
}
