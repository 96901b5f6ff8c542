//! Finds the cycle in a chain: the shortest series of commands that comes back to its beginning.
//!
//! Commands are compared by executable and arguments, whatever directory they run in; where that
//! finds nothing, by executable alone, for arguments that grow. A chain may begin with something
//! else (`make`, which runs `make all`, which runs `make all`), may end in the middle of a turn, may
//! hold processes that only forked, and two branches of a recursion may lie in it in any order.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::Link;
use crate::lineage::FileId;

/// Links above the cycle: whoever was taken for the culprit by less than this may have called it.
const LEAD_IN: usize = 16;

/// Steps of a cycle; the kernel's gate looks 64 ancestors up.
const PERIOD: usize = 64;

/// Of the links below the beginning, in hundredths, that must belong to the cycle.
const COVERED: usize = 75;

/// A cycle and the chain that it lies in.
#[derive(Clone, Debug)]
pub struct Cycle<'a> {
    /// Links that executed something, culprit first.
    pub runs: Vec<&'a Link>,
    /// Where in `runs` the first turn begins; `runs` goes on for at least one more turn.
    pub start: usize,
    /// Steps of one turn.
    pub period: usize,
    /// Full turns that are alive.
    pub turns: usize,
    /// Links of the chain.
    pub depth: usize,
    /// 0: not known.
    pub turns_per_second: f64,
    /// What one turn adds to the arguments, if that is why it turns.
    pub added: Vec<Vec<u8>>,
}

impl<'a> Cycle<'a> {
    /// `None` when nothing comes back.
    pub fn find(chain: &'a [Link]) -> Option<Self> {
        let runs: Vec<&Link> =
            chain.iter().filter(|link| link.loose != 0 || !link.argv.is_empty()).collect();
        let same = |sign: fn(&Link) -> u64| {
            let signs: Vec<u64> = runs.iter().map(|link| sign(link)).collect();
            regular(&signs).or_else(|| branching(&signs))
        };
        let Turns { beginnings, full } = same(command).or_else(|| same(program))?;
        let (start, period) = (*beginnings.first()?, beginnings.get(1)? - beginnings.first()?);
        Some(Self {
            start,
            period,
            turns: beginnings[..full].iter().filter(|at| runs[**at].alive).count(),
            depth: chain.len(),
            turns_per_second: pace(&runs, &beginnings),
            added: added(&runs, &beginnings),
            runs,
        })
    }

    /// One turn.
    pub fn steps(&self) -> &[&'a Link] {
        &self.runs[self.start..self.start + self.period]
    }

    /// Each step of one turn with what it started.
    pub fn calls(&self) -> impl Iterator<Item = (&'a Link, &'a Link)> {
        let turn = &self.runs[self.start..=self.start + self.period];
        turn.windows(2).map(|pair| (pair[0], pair[1]))
    }

    /// The working directory of a step: of the first turn, or of a later one where that is not known.
    pub fn cwd(&self, step: usize) -> &'a [u8] {
        let turns = self.runs.iter().skip(self.start + step).step_by(self.period);
        let same = turns.filter(|run| command(run) == command(self.steps()[step]));
        same.map(|run| run.cwd.as_slice()).find(|cwd| !cwd.is_empty()).unwrap_or_default()
    }
}

/// Executable and arguments.
fn command(link: &Link) -> u64 {
    if link.loose != 0 {
        return link.loose;
    }
    let mut hasher = DefaultHasher::new();
    (&link.exe, &link.argv).hash(&mut hasher);
    hasher.finish()
}

/// The executable.
fn program(link: &Link) -> u64 {
    let mut hasher = DefaultHasher::new();
    if link.program == FileId::default() {
        (&link.exe, link.argv.first()).hash(&mut hasher);
    } else {
        (link.program.ino, link.program.dev).hash(&mut hasher);
    }
    hasher.finish()
}

/// Where turns begin, and how many of them are full; the last one may be cut off.
struct Turns {
    beginnings: Vec<usize>,
    full: usize,
}

/// Turns that are all alike: at least two full ones, from as far up as can be.
fn regular(signs: &[u64]) -> Option<Turns> {
    for start in 0..LEAD_IN.min(signs.len()) {
        let below = &signs[start..];
        for period in 1..=PERIOD.min(below.len() / 2) {
            let equal = below.iter().zip(&below[period..]).take_while(|(one, next)| one == next);
            let covered = equal.count() + period;
            if covered >= 2 * period && covered * 100 >= below.len() * COVERED {
                let beginnings = (start..start + covered).step_by(period).collect();
                return Some(Turns { beginnings, full: covered / period });
            }
        }
    }
    None
}

/// Turns that differ, as branches lie in one chain: what comes back most often starts
/// one, and the way that is taken most often is put first.
fn branching(signs: &[u64]) -> Option<Turns> {
    let anchor = signs.iter().take(LEAD_IN).max_by_key(|sign| {
        // Of equals the last would win; the topmost should.
        let at = signs.iter().position(|other| other == *sign).unwrap_or_default();
        (signs.iter().filter(|other| other == sign).count(), std::cmp::Reverse(at))
    })?;
    let places: Vec<usize> = (0..signs.len()).filter(|at| signs[*at] == *anchor).collect();
    if places.len() < 3 || places.windows(2).any(|pair| pair[1] - pair[0] > PERIOD) {
        return None;
    }
    let mut ways: HashMap<&[u64], (usize, usize)> = HashMap::new();
    for pair in places.windows(2) {
        ways.entry(&signs[pair[0]..pair[1]]).or_insert((0, pair[0])).0 += 1;
    }
    let (_, first) =
        ways.into_values().max_by_key(|(count, at)| (*count, std::cmp::Reverse(*at)))?;
    let beginnings: Vec<usize> = places.into_iter().filter(|at| *at >= first).collect();
    Some(Turns { full: beginnings.len() - 1, beginnings })
}

/// Turns a second, from the execs that begin them.
fn pace(runs: &[&Link], beginnings: &[usize]) -> f64 {
    let times: Vec<u64> =
        beginnings.iter().map(|at| runs[*at].exec_ns).filter(|at| *at > 0).collect();
    match (times.first(), times.last()) {
        (Some(first), Some(last)) if last > first => {
            (times.len() - 1) as f64 * 1e9 / (last - first) as f64
        }
        _ => 0.0,
    }
}

/// The arguments that each turn has and the one before had not, where turns grow.
fn added(runs: &[&Link], beginnings: &[usize]) -> Vec<Vec<u8>> {
    let grows = |pair: &[usize]| runs[pair[1]].argv_bytes > runs[pair[0]].argv_bytes;
    if beginnings.len() < 3 || !beginnings[1..].windows(2).all(grows) {
        return Vec::new();
    }
    // The first turn was called by hand and may differ in more; later ones may be cut off.
    let (before, after) = (runs[beginnings[1]], runs[beginnings[2]]);
    let mut missing = after.argv.clone();
    for argument in &before.argv {
        if let Some(at) = missing.iter().position(|other| other == argument) {
            missing.remove(at);
        }
    }
    missing
}

#[cfg(test)]
mod tests;
