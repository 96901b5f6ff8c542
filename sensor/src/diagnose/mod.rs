//! A finding and its evidence become a statement of cause, without any model.
//!
//! Pure rules, one file each, look at the chain from the culprit down and at passages of files that
//! [`Files`] finds for them: what is in a file is read by `sensor parse`, not here. Each names its confidence; the best one speaks. What is quoted has no secrets,
//! no control characters and a bounded length, and every claim cites its evidence.

mod command;
mod cycle;
mod generic;
mod git_hook;
mod make;
pub mod memory;
pub(crate) mod npm;
pub mod oom;
pub mod pressure;
pub mod respawn;
mod script;
mod site;
pub mod storm;
mod words;

use std::path::Path;

use sensor_proto::internal::v1::{CallWanted, Passage, passage_wanted::Of};

use self::{cycle::Cycle, words::Words};
use crate::{
    detect::{Finding, usage},
    evidence::Redactor,
    lineage::{FileId, ProcessKey},
    present::text::count,
    proto,
};

/// One process of the chain from the culprit down to the crossing.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub key: ProcessKey,
    pub alive: bool,
    /// Boot clock, ns; 0: forked only, or before the sensor.
    pub exec_ns: u64,
    /// As at exec, not yet redacted.
    pub argv: Vec<Vec<u8>>,
    /// Bytes of the argument area, shown in `argv` or not.
    pub argv_bytes: u32,
    /// Absolute, in the culprit's mount namespace; empty: unknown.
    pub cwd: Vec<u8>,
    pub exe: Vec<u8>,
    /// Executable as device and inode; zero: unknown.
    pub program: FileId,
    /// Hash of executable, argv and cwd; 0: never executed anything.
    pub strict: u64,
    /// Hash of executable and argv; 0 likewise.
    pub loose: u64,
}

/// What a rule may look at.
pub struct Case<'a> {
    pub finding: &'a Finding,
    /// Culprit first.
    pub chain: &'a [Link],
    /// Evidence id of the chain, for citation.
    pub chain_evidence: &'a str,
    pub files: &'a mut dyn Files,
    /// For everything that is quoted.
    pub redactor: &'a Redactor,
}

/// What stands at a path. Every answer has become evidence, so that a diagnosis can cite it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Evidence id.
    pub evidence: String,
    pub found: Found,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A regular file, and what was asked for if its beginning has that.
    File(Option<Passage>),
    Absent,
    /// It may not be read.
    Refused,
}

/// Looks into files as the culprit's user, bounded.
pub trait Files {
    /// `path` is absolute, in the culprit's mount namespace.
    fn find(&mut self, path: &Path, wanted: Of) -> Answer;
}

/// Asks for the line that started a command. `aliases` stand for its program.
fn call(link: &Link, aliases: &[&[u8]]) -> Of {
    let list = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
    Of::Call(CallWanted { words: list(&command::words(link)), aliases: list(aliases) })
}

/// What a rule says.
struct Claim {
    by: &'static str,
    cause: String,
    remedy: String,
    /// 0 to 1.
    confidence: f64,
    /// Besides the chain's.
    evidence: Vec<String>,
}

/// Knows one family of tools; `None`: not this family, or not enough to say why.
type Rule = fn(&Cycle<'_>, &mut dyn Files, &Words<'_>) -> Option<Claim>;

/// The most specific first: of equally sure claims the earlier one speaks.
const RULES: [Rule; 4] = [git_hook::explain, npm::explain, make::explain, script::explain];

/// A claim as sure as this is not looked behind: other rules would only read more files.
const SURE: f64 = 0.9;

/// The best explanation that the rules have. Always answers: without a rule that knows more, with
/// the numbers of the finding.
pub fn diagnose(case: &mut Case<'_>) -> proto::Diagnosis {
    let words = Words { redactor: case.redactor };
    let Some(cycle) = Cycle::find(case.chain) else {
        return told(generic::numbers(case.finding), case.chain_evidence);
    };
    let mut best = generic::cycle(&cycle, &words);
    for rule in RULES {
        if best.confidence >= SURE {
            break;
        }
        if let Some(claim) = rule(&cycle, case.files, &words)
            && claim.confidence > best.confidence
        {
            best = claim;
        }
    }
    best.cause += &size(&cycle);
    let mut diagnosis = told(best, case.chain_evidence);
    diagnosis.cycle = Some(shown(&cycle, case.redactor));
    diagnosis
}

fn told(claim: Claim, chain_evidence: &str) -> proto::Diagnosis {
    let mut evidence: Vec<String> = Vec::new();
    for id in std::iter::once(chain_evidence.to_owned()).chain(claim.evidence) {
        if !id.is_empty() && !evidence.contains(&id) {
            evidence.push(id);
        }
    }
    proto::Diagnosis {
        cause: claim.cause,
        confidence: claim.confidence,
        evidence,
        by: claim.by.to_owned(),
        remedy: claim.remedy,
        cycle: None,
    }
}

/// What can be said of a percentage that an operator set a threshold for: that it was crossed.
pub fn threshold(finding: &Finding, cited: &[String]) -> proto::Diagnosis {
    let mut said = usage::sentence(finding);
    if let Some(first) = said.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    proto::Diagnosis {
        cause: format!("{said}. A percentage knows nothing of why."),
        // What was measured is true; it explains little.
        confidence: 0.3,
        evidence: cited.to_vec(),
        by: usage::RULE.into(),
        remedy: match finding.kind {
            proto::Kind::DiskPressure => "Look with `df` and `du` at what fills the disk.".into(),
            _ => "Look with `sensor top` at what runs.".into(),
        },
        cycle: None,
    }
}

/// How far it went, as one more sentence.
fn size(cycle: &Cycle<'_>) -> String {
    let Cycle { period, turns, depth, turns_per_second: pace, .. } = cycle;
    let steps = count(*period as u64, "step", "steps");
    let (turns, depth) = (
        count(*turns as u64, "turn makes", "turns make"),
        count(*depth as u64, "process", "processes"),
    );
    let pace = if *pace > 0.0 { format!(", {pace:.1} turns a second") } else { String::new() };
    format!(" A turn has {steps}; {turns} {depth}{pace}.")
}

fn shown(cycle: &Cycle<'_>, redactor: &Redactor) -> proto::Cycle {
    let step = |(at, link): (usize, &&Link)| proto::Step {
        argv: redactor.argv(&link.argv).0,
        cwd: redactor.text(cycle.cwd(at)).0,
    };
    proto::Cycle {
        steps: cycle.steps().iter().enumerate().map(step).collect(),
        turns: cycle.turns as u32,
        depth: cycle.depth as u32,
        turns_per_second: cycle.turns_per_second,
        // A turn is listed from its beginning to the step that starts the next.
        turns_back_at: cycle.period as u32 - 1,
    }
}

#[cfg(test)]
mod tests;
