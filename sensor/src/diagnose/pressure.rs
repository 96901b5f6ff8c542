//! Pressure: how short memory is, who takes it, who waits for it, and what no process holds.
//!
//! Who waits is rarely who takes. What is said of growth compares two samples of who held what; nothing is
//! scanned for it. Of a cgroup only those in it count: what grows elsewhere does not take from its limit.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
};

use sensor_proto::json::escape;

use super::words::{Words, list};
use crate::{
    detect::pressure::{REFAULTED_PERCENT, projected_s, read_again},
    evidence::Redactor,
    lineage::ProcessKey,
    present::text::bytes,
    proto::{self, GroupBy, HostMemory, MemorySample, Pressure, TreeMemory},
};

/// A place where memory is short, as it was when it was said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shortage {
    pub pressure: Pressure,
    /// Who held what some minutes ago, and last; of a cgroup who is in it alone.
    pub before: Option<MemorySample>,
    pub now: Option<MemorySample>,
    /// Who has waited longest within the last minutes, and within how long, ns.
    pub waiting: Vec<Waiting>,
    pub waited_ns: u64,
    /// Arguments of processes that hold a tree of the samples.
    pub commands: Vec<(ProcessKey, Vec<Vec<u8>>)>,
    /// Incidents about processes that run away, by their pid.
    pub growths: Vec<(u32, String)>,
}

/// A process that waits for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub process: ProcessKey,
    /// As at exec, not yet redacted.
    pub argv: Vec<Vec<u8>>,
    /// Within [`Shortage::waited_ns`], its threads together, ns.
    pub stalled_ns: u64,
}

/// What a sample tells of cgroups alone: trees whose root is in one of them. Sums over processes that are
/// alike go over the whole host, and so they tell nothing.
pub(crate) fn within(sample: MemorySample, cgroups: &HashSet<u64>) -> MemorySample {
    let mut sample = MemorySample { groups: Vec::new(), ..sample };
    sample.trees.retain(|tree| cgroups.contains(&tree.cgroup));
    sample
}

/// Growth that is told of: of what a sample tells at all.
const LEAST_BYTES: i64 = 32 << 20;
/// … and this part of all that is gone, in a hundred.
const LEAST_PERCENT: i64 = 10;
/// Trees that are told of.
const TOLD: usize = 3;
/// A child that has so much of its tree's growth, in a hundred, has it.
const CARRIES: i64 = 90;
/// What explains less than this part of what is gone, in a hundred, does not explain it.
const EXPLAINS: i64 = 50;
/// Less time than this is no waiting worth a word, ns.
const LEAST_WAIT_NS: u64 = 10_000_000;

impl Shortage {
    /// One line, before anything else is known.
    pub fn summary(&self) -> String {
        let pressure = &self.pressure;
        let place = place(&pressure.cgroup);
        let mut line = match (pressure.available_bytes, pressure.total_bytes) {
            (Some(available), Some(total)) => {
                format!("memory is short on {place}: {} of {} left", bytes(available), bytes(total))
            }
            _ => format!("processes wait for memory in {place}"),
        };
        if let Some(seconds) = projected_s(pressure) {
            let _ = write!(line, ", none in {seconds:.0} s at this pace");
        }
        line
    }
}

impl Shortage {
    /// Roots of the trees that are told as those who take it.
    pub fn growing(&self) -> Vec<ProcessKey> {
        let growers = Change::of(self).map(|change| change.growers()).unwrap_or_default();
        let root = |(tree, _): (&TreeMemory, i64)| tree.root;
        let roots = growers.into_iter().filter_map(root);
        roots.map(|root| ProcessKey::new(root.pid, root.start_ns)).collect()
    }
}

/// `the host`, or a cgroup's path.
pub fn place(cgroup: &str) -> String {
    if cgroup.is_empty() { "the host".into() } else { escape(cgroup.as_bytes()) }
}

/// What an explanation may look at.
pub struct Case<'a> {
    pub shortage: &'a Shortage,
    /// Evidence ids, for citation.
    pub cited: &'a [String],
    pub redactor: &'a Redactor,
}

/// How short it is, who takes it, who waits.
pub fn diagnose(case: &Case<'_>) -> proto::Diagnosis {
    let words = Words { redactor: case.redactor };
    let shortage = case.shortage;
    let mut cause = format!("{}.", capital(&shortage.summary()));
    let waits = waits(&shortage.pressure);
    if !waits.is_empty() {
        let _ = write!(cause, " {waits}");
    }
    let change = Change::of(shortage);
    let growers = change.as_ref().map(Change::growers).unwrap_or_default();
    let named = |tree: &TreeMemory| name(shortage, tree, &words);
    let mut confidence = 0.5;
    let mut remedy = String::new();
    if let (Some(change), Some(first)) = (&change, growers.first()) {
        let told = growers.iter().map(|(tree, grown)| {
            format!("{} (+{} in {})", named(tree), bytes(grown.unsigned_abs()), change.span())
        });
        let told: Vec<String> = told.collect();
        let take = if told.len() == 1 { "takes it" } else { "take it" };
        let _ = write!(cause, " {} {take}.", list(&told));
        confidence = if change
            .explains(growers.iter().fold(0, |sum, (_, grown)| sum.saturating_add(*grown)))
        {
            0.85
        } else {
            0.6
        };
        // Of a dead one its children hold it.
        let whom = if first.0.alive { "" } else { "what is left of " };
        let bound = if shortage.pressure.cgroup.is_empty() {
            "bound it with a memory limit"
        } else {
            "give it a limit of its own below this one"
        };
        remedy = format!("End {whom}{} or {bound}, if it may not grow like that.", named(first.0));
        let incidents: Vec<String> = growers
            .iter()
            .filter_map(|(tree, _)| {
                let pid = tree.root?.pid;
                let (_, id) = shortage.growths.iter().find(|(of, _)| *of == pid)?;
                Some(format!("incident {id}"))
            })
            .collect();
        if !incidents.is_empty() {
            let are = if incidents.len() == 1 { "is" } else { "are" };
            let _ = write!(cause, " {} {are} about that.", capital(&list(&incidents)));
        }
    }
    if let Some(change) = &change
        && let Some((said, what)) = change.crowd(&growers)
    {
        let _ = write!(cause, " {said}");
        remedy = what;
        confidence = 0.7;
    }
    if let Some(change) = &change
        && let Some((said, what)) = change.elsewhere()
    {
        let _ = write!(cause, " {said}");
        if remedy.is_empty() {
            remedy = what;
        }
    }
    let boxed = !shortage.pressure.cgroup.is_empty();
    if change.is_none() {
        cause += " Who takes it is not known: there is nothing yet to compare with.";
    } else if boxed && growers.is_empty() {
        cause += " Who takes it is not known: no tree in it was seen to grow much.";
    }
    if let Some((said, what)) = cache(&shortage.pressure, change.as_ref()) {
        let _ = write!(cause, " {said}");
        if remedy.is_empty() {
            confidence = 0.7;
        } else {
            remedy.push(' ');
        }
        remedy += &what;
    }
    let waiting: Vec<String> = shortage
        .waiting
        .iter()
        .filter(|one| one.stalled_ns >= LEAST_WAIT_NS)
        .map(|one| {
            let seconds = one.stalled_ns as f64 / 1e9;
            let who = command(&one.argv, &words);
            let span = span(shortage.waited_ns);
            format!("{who} ({}, {seconds:.1} s in the last {span})", one.process.tgid)
        })
        .collect();
    if !waiting.is_empty() {
        let wait = if waiting.len() == 1 { "waits" } else { "wait" };
        let _ = write!(
            cause,
            " {} {wait} for memory; who waits need not be who takes it.",
            list(&waiting)
        );
    }
    if remedy.is_empty() {
        let top = if boxed {
            format!("sensor top --sort memory --cgroup {}", place(&shortage.pressure.cgroup))
        } else {
            "sensor top --sort memory".into()
        };
        remedy = format!("Look with `{top}` at who holds most, and end or bound what may go.");
    }
    proto::Diagnosis {
        cause,
        confidence,
        evidence: case.cited.to_vec(),
        by: "pressure".into(),
        remedy,
        cycle: None,
    }
}

/// What the numbers say about waiting, as a sentence.
fn waits(pressure: &Pressure) -> String {
    let some = pressure.some_percent.filter(|some| *some >= 1.0);
    let full = pressure.full_percent.filter(|full| *full >= 1.0);
    match (some, full) {
        (Some(some), Some(full)) => format!(
            "Some task waited for memory {some:.0} % of the last {} s, all of them {full:.0} %.",
            seconds(pressure.window_ns)
        ),
        (Some(some), None) => format!(
            "Some task waited for memory {some:.0} % of the last {} s.",
            seconds(pressure.window_ns)
        ),
        _ => String::new(),
    }
}

/// Page cache that is read again and again, as a sentence, and what to do.
fn cache(pressure: &Pressure, change: Option<&Change<'_>>) -> Option<(String, String)> {
    let percent = read_again(pressure).filter(|percent| *percent >= REFAULTED_PERCENT)?;
    let mut said = format!(
        "{percent:.0} % of the page cache was read again within 10 s: what is in use does not fit, and what \
         was thrown out a moment before is fetched once more."
    );
    if let Some(change) = change
        && let Some((left, gone)) = change.cache()
    {
        let _ = write!(
            said,
            " {} of page cache are left, {} less than {} ago.",
            bytes(left),
            bytes(gone),
            change.span()
        );
    }
    let more = if pressure.cgroup.is_empty() {
        "More memory for the host".into()
    } else {
        format!("A higher limit for {}", place(&pressure.cgroup))
    };
    Some((said, format!("{more}, or fewer that read so much at once, ends the reading.")))
}

fn seconds(ns: u64) -> u64 {
    (ns / 1_000_000_000).max(1)
}

/// `3 min`, `40 s`
fn span(ns: u64) -> String {
    let seconds = seconds(ns);
    if seconds >= 120 { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn command(argv: &[Vec<u8>], words: &Words<'_>) -> String {
    if argv.is_empty() {
        "a process of which no command is known".into()
    } else {
        words.command(argv)
    }
}

fn name(shortage: &Shortage, tree: &TreeMemory, words: &Words<'_>) -> String {
    let root = tree.root.unwrap_or_default();
    let key = ProcessKey::new(root.pid, root.start_ns);
    let argv = shortage.commands.iter().find(|(of, _)| *of == key).map(|(_, argv)| argv);
    match argv {
        Some(argv) if !argv.is_empty() => format!("{} ({})", words.command(argv), root.pid),
        // Escaped where it was read.
        _ => format!("`{}` ({})", tree.comm, root.pid),
    }
}

/// What lies between two samples, of a place.
struct Change<'a> {
    pressure: &'a Pressure,
    before: &'a MemorySample,
    now: &'a MemorySample,
}

impl<'a> Change<'a> {
    fn of(shortage: &'a Shortage) -> Option<Self> {
        let (before, now) = (shortage.before.as_ref()?, shortage.now.as_ref()?);
        (now.at_ns > before.at_ns).then_some(Self { pressure: &shortage.pressure, before, now })
    }

    fn span(&self) -> String {
        span(self.now.at_ns - self.before.at_ns)
    }

    fn host(&self, of: fn(&HostMemory) -> Option<u64>) -> Option<i64> {
        let value = |sample: &MemorySample| sample.host.as_ref().and_then(of);
        Some(signed(value(self.now)?).saturating_sub(signed(value(self.before)?)))
    }

    /// What is gone of the memory that was available in the place, bytes; none where nobody knows.
    fn gone(&self) -> Option<i64> {
        if self.pressure.cgroup.is_empty() {
            return self.host(|host| host.available_bytes).map(i64::saturating_neg);
        }
        let limit = self.pressure.total_bytes?;
        let used = limit.saturating_sub(self.pressure.available_bytes?);
        // Whoever was in it then had its limit above him. Where nobody is told of, or it is another limit that he
        // would have met, all that is used may have come since: so less is explained, and none too much.
        let limited = self.before.trees.iter().find(|tree| tree.limit_bytes == Some(limit));
        let before = limited.and_then(|tree| tree.limit_used_bytes).unwrap_or_default();
        Some(signed(used).saturating_sub(signed(before)))
    }

    /// Whether so much growth explains what is gone.
    fn explains(&self, grown: i64) -> bool {
        grown > 0
            && self
                .gone()
                .is_some_and(|gone| grown.saturating_mul(100) >= gone.saturating_mul(EXPLAINS))
    }

    /// Page cache of the host, without what lies in memory alone: what is left of it, and what is gone, where
    /// that is worth a word, bytes.
    fn cache(&self) -> Option<(u64, u64)> {
        if !self.pressure.cgroup.is_empty() {
            return None;
        }
        let files = |sample: &MemorySample| {
            let host = sample.host.as_ref()?;
            Some(host.cached_bytes?.saturating_sub(host.shmem_bytes.unwrap_or_default()))
        };
        let (before, now) = (files(self.before)?, files(self.now)?);
        let gone = before.saturating_sub(now);
        (signed(gone) >= LEAST_BYTES).then_some((now, gone))
    }

    /// How much a tree has grown. One that was not told of before held little, or was not there.
    fn grown(&self, tree: &TreeMemory) -> i64 {
        let before = self.before.trees.iter().find(|one| one.root == tree.root);
        signed(tree.bytes).saturating_sub(before.map_or(0, |one| signed(one.bytes)))
    }

    /// The trees that have grown most, each the lowest that has its growth, none below another.
    fn growers(&self) -> Vec<(&'a TreeMemory, i64)> {
        let gone = self.gone().unwrap_or_default();
        let least = LEAST_BYTES.max(gone.saturating_mul(LEAST_PERCENT) / 100);
        let mut trees: Vec<(&TreeMemory, i64)> =
            self.now.trees.iter().map(|tree| (tree, self.grown(tree))).collect();
        trees.retain(|(_, grown)| *grown >= least);
        trees.sort_by_key(|(_, grown)| std::cmp::Reverse(*grown));
        let mut told: Vec<(&TreeMemory, i64)> = Vec::new();
        let mut covered: HashSet<(u32, u64)> = HashSet::new();
        for (tree, grown) in &trees {
            if told.len() >= TOLD || key(tree).is_some_and(|key| covered.contains(&key)) {
                continue;
            }
            let (lowest, line) = lowest(&trees, (tree, *grown));
            // Whoever is above it is it as well, and so is what is below.
            covered.extend(line);
            covered.extend(self.below(lowest.0));
            covered.extend(self.above(lowest.0));
            told.push(lowest);
        }
        told
    }

    /// Keys of all trees below one.
    fn below(&self, tree: &TreeMemory) -> HashSet<(u32, u64)> {
        let mut found: HashSet<(u32, u64)> = key(tree).into_iter().collect();
        // A sample has 256 trees at most; a chain of them is no longer.
        for _ in 0..self.now.trees.len() {
            let more = self.now.trees.iter().filter(|one| {
                let parent = one.parent.map(|parent| (parent.pid, parent.start_ns));
                parent.is_some_and(|parent| found.contains(&parent))
            });
            let more: Vec<(u32, u64)> =
                more.filter_map(key).filter(|key| !found.contains(key)).collect();
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        found
    }

    /// Keys of all trees above one.
    fn above(&self, tree: &TreeMemory) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let mut parent = tree.parent;
        while let Some(above) = parent.filter(|_| found.len() < self.now.trees.len()) {
            found.push((above.pid, above.start_ns));
            parent = self
                .now
                .trees
                .iter()
                .find(|one| one.root == Some(above))
                .and_then(|one| one.parent);
        }
        found
    }

    /// Many processes with something in common, of which none alone has done it: what they are, and what
    /// to do.
    fn crowd(&self, growers: &[(&TreeMemory, i64)]) -> Option<(String, String)> {
        let alone = growers.iter().map(|(_, grown)| *grown).max().unwrap_or(0);
        if self.gone().is_none_or(|gone| gone <= 0) || self.explains(alone) {
            return None;
        }
        let grown = |group: &proto::GroupMemory| {
            let same = |one: &&proto::GroupMemory| one.by == group.by && one.what == group.what;
            let before = self.before.groups.iter().find(same).map_or(0, |one| signed(one.bytes));
            signed(group.bytes).saturating_sub(before)
        };
        let of_executables = self.now.groups.iter().filter(|group| {
            group.by() == GroupBy::Executable && group.processes > 1 && grown(group) >= LEAST_BYTES
        });
        let group = of_executables.max_by_key(|group| grown(group))?;
        let grown = grown(group);
        if !self.explains(grown) {
            return None;
        }
        let name = group.what.rsplit('/').next().unwrap_or_default();
        let who = format!("{} × `{name}`", group.processes);
        Some((
            format!(
                "{who} hold {} together, {} more than {} ago; none of them alone has done it.",
                bytes(group.bytes),
                bytes(grown.unsigned_abs()),
                self.span()
            ),
            format!("Let fewer of the {who} run at once, or give the host more memory."),
        ))
    }

    /// What is gone of the host and no tree holds: where it went, and what to do.
    fn elsewhere(&self) -> Option<(String, String)> {
        if !self.pressure.cgroup.is_empty() {
            // The numbers are the host's.
            return None;
        }
        let gone = self.gone()?;
        let trees = self.host(|host| host.anon_bytes).unwrap_or_default().max(0);
        let rest = gone.saturating_sub(trees);
        if gone < LEAST_BYTES || rest.saturating_mul(100) < gone.saturating_mul(EXPLAINS) {
            return None;
        }
        let parts: BTreeMap<&str, i64> = [
            ("shared", self.host(|host| host.shmem_bytes).unwrap_or_default()),
            ("kernel", self.host(|host| host.unreclaimable_bytes).unwrap_or_default()),
        ]
        .into();
        let (most, grown) = parts.into_iter().max_by_key(|(_, grown)| *grown)?;
        let size = |grown: i64| bytes(grown.unsigned_abs());
        let span = self.span();
        let explains = grown.saturating_mul(100) >= rest.saturating_mul(EXPLAINS);
        Some(match most {
            "shared" if explains => (
                format!("Shared memory and tmpfs took {} in {span}: files in /dev/shm, /tmp or /run that lie in memory.", size(grown)),
                "Look with `df -t tmpfs` and `ipcs -m` for what fills shared memory, and remove it.".into(),
            ),
            _ if explains => (
                format!("The kernel itself took {} in {span} that it cannot give back.", size(grown)),
                "Look at /proc/slabinfo and the kernel's log: a driver or a file system may leak.".into(),
            ),
            _ => (
                format!("{} are gone since {span} that no process holds, nor shared memory, nor what the kernel accounts for: unattributed. Drivers and graphics memory are counted nowhere.", size(rest)),
                "Look for a driver, a graphics card or a virtual machine's balloon that takes memory.".into(),
            ),
        })
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn key(tree: &TreeMemory) -> Option<(u32, u64)> {
    tree.root.map(|root| (root.pid, root.start_ns))
}

/// From a tree down to the lowest that has nine tenths of its growth, and those on the way.
fn lowest<'a>(
    trees: &[(&'a TreeMemory, i64)],
    from: (&'a TreeMemory, i64),
) -> ((&'a TreeMemory, i64), Vec<(u32, u64)>) {
    let mut lowest = from;
    let mut line: Vec<(u32, u64)> = key(from.0).into_iter().collect();
    for _ in 0..trees.len() {
        let child = trees.iter().filter(|(tree, _)| {
            tree.parent.is_some() && tree.parent == lowest.0.root && tree.root != lowest.0.root
        });
        let Some(child) = child.max_by_key(|(_, grown)| *grown) else { break };
        if child.1.saturating_mul(100) < lowest.1.saturating_mul(CARRIES) {
            break;
        }
        lowest = *child;
        line.extend(key(lowest.0));
    }
    (lowest, line)
}

#[cfg(test)]
mod tests;
