//! Growth of memory: whose it is, what makes it, since when, when it is full, and what to change. One file a
//! rule; the first that fits speaks.

mod bloat;
mod crowd;
mod held;
mod host;
mod leak;
mod limit;
mod spike;
mod tree;
mod workers;
mod zombies;

pub use self::held::Held;
use super::{Claim, Link, words::Words};
use crate::{
    detect::{
        Finding,
        memory::measures::{self, LATEST, LEFT, LIMIT, OVER, SLOPE, SOONEST},
    },
    evidence::Redactor,
    present::{text, time::seconds},
    proto,
};

/// What an explanation may look at.
pub struct Case<'a> {
    pub finding: &'a Finding,
    /// What the culprit runs; of a group what its eldest tree runs.
    pub program: &'a Link,
    pub held: &'a Held,
    /// Evidence ids of tree and chain, for citation.
    pub cited: &'a [String],
    pub redactor: &'a Redactor,
}

/// A rule, with what all of them need.
struct Told<'a> {
    finding: &'a Finding,
    program: &'a Link,
    held: &'a Held,
    words: Words<'a>,
}

type Rule = fn(&Told<'_>) -> Option<Claim>;

/// What is the narrowest first: a zombie is no worker, workers are no leak of whoever starts them.
const RULES: [Rule; 8] = [
    host::explain,
    zombies::explain,
    crowd::explain,
    workers::explain,
    spike::explain,
    limit::explain,
    leak::explain,
    bloat::explain,
];

/// Always answers: without a rule that knows more, whose tree it is.
pub fn diagnose(case: &Case<'_>) -> proto::Diagnosis {
    let told = Told {
        finding: case.finding,
        program: case.program,
        held: case.held,
        words: Words { redactor: case.redactor },
    };
    let claim =
        RULES.into_iter().find_map(|rule| rule(&told)).unwrap_or_else(|| tree::explain(&told));
    let (first, more) = case.cited.split_first().map_or(("", &[][..]), |(one, more)| (one, more));
    super::told(Claim { evidence: [more, &claim.evidence].concat(), ..claim }, first)
}

impl Told<'_> {
    fn value(&self, name: &str) -> Option<f64> {
        measures::value(self.finding, name)
    }

    fn bytes(&self, name: &str) -> String {
        text::bytes(self.value(name).unwrap_or(0.0) as u64)
    }

    /// The culprit's command in backticks.
    fn who(&self) -> String {
        match self.program.argv.as_slice() {
            [] => "a process of which no command is known".to_owned(),
            argv => self.words.command(argv),
        }
    }

    fn pid(&self) -> String {
        self.finding.culprit.map_or(String::new(), |key| format!(" (process {})", key.tgid))
    }

    /// What a restart does, as a sentence: of whoever has ended nothing has to be given back.
    fn restart(&self) -> String {
        if self.held.ended {
            return "It has ended meanwhile, and what it held is free again.".to_owned();
        }
        format!("A restart of {}{} gives the memory back until then.", self.who(), self.pid())
    }

    /// `1.2 GiB in 81 min, 15.1 MiB a minute`
    fn pace(&self) -> String {
        let over = self.value(OVER).map(seconds).unwrap_or_default();
        format!(
            "{} in {over}, {}",
            self.bytes(measures::GROWN),
            rate(self.value(SLOPE).unwrap_or(0.0))
        )
    }

    /// When it is full, as a sentence with a space before it; none where nothing is foreseen.
    fn forecast(&self) -> String {
        let (Some(soonest), Some(latest), Some(_)) =
            (self.value(SOONEST), self.value(LATEST), self.value(LEFT))
        else {
            return String::new();
        };
        let what = match self.value(LIMIT) {
            Some(limit) => {
                let whose = if self.finding.group.is_some() { "their" } else { "its" };
                format!("the limit of {whose} cgroup, {},", text::bytes(limit as u64))
            }
            None => "the host".to_owned(),
        };
        let (soonest, latest) = (seconds(soonest), seconds(latest));
        let when = if soonest == latest { soonest } else { format!("{soonest} to {latest}") };
        format!(
            " If it goes on like that, {what} is used up in {when}; {} are left.",
            self.bytes(LEFT)
        )
    }
}

/// Bytes a second, in the unit of time in which they are more than a few.
fn rate(per_second: f64) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let (times, unit) = match per_second {
        fast if fast >= MIB => (1.0, "second"),
        middle if middle * 60.0 >= MIB => (60.0, "minute"),
        slow if slow * 3600.0 >= MIB => (3600.0, "hour"),
        _ => (86_400.0, "day"),
    };
    format!("{} a {unit}", text::bytes((per_second * times) as u64))
}

#[cfg(test)]
mod tests;
