//! What an incident is about: evidence in order of perishability, then the diagnosis. Runs beside
//! the desk, on a thread that may block.

use std::{fmt::Write as _, sync::Arc};

use super::oom::{self, Killing};
use crate::{
    detect::{Finding, usage},
    diagnose::{
        self, Case, memory,
        pressure::{self, Shortage},
        respawn, storm,
    },
    evidence::{
        EvidenceLog,
        files::SourceFiles,
        gather::{Gatherer, Restarted},
    },
    kernel::{Detail, Lineage},
    lineage::{Forest, ProcessKey},
    proto::{self, evidence::Content},
};

/// What came of it.
#[derive(Debug)]
pub struct Study {
    pub incident: String,
    pub evidence: Vec<proto::Evidence>,
    /// Evidence ids used so far.
    pub given: u32,
    pub diagnosis: Option<proto::Diagnosis>,
    /// Whether what files say was read for it, or why not; `None`: nothing was to be read.
    pub parsed: Option<Result<(), String>>,
    pub tree: Option<proto::Tree>,
    /// More evidence comes, without which the diagnosis stands already.
    pub more: bool,
    /// Of an OOM kill: what is known of it now.
    pub killing: Option<Box<Killing>>,
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Subject {
    pub incident: String,
    pub finding: Finding,
    /// Of a respawn loop: what is restarted, where this run has seen it.
    pub restarted: Option<Restarted>,
    /// Of an OOM kill: what this run has seen of it.
    pub killing: Option<Box<Killing>>,
    /// Of pressure on memory: what was at hand as it was said.
    pub shortage: Option<Shortage>,
    /// Evidence ids that were used before.
    pub given: u32,
}

/// Gathers and explains, and tells what is known so far; then gathers what takes longer.
pub fn study(
    subject: &Subject,
    lineage: &Lineage,
    gatherer: &Arc<Gatherer>,
    mut tell: impl FnMut(Study),
) {
    if let Some(killing) = &subject.killing {
        return tell(oom::study(subject, killing, lineage, gatherer));
    }
    let mut log = EvidenceLog::after(subject.given);
    let mut tree = None;
    let (mut diagnosis, mut parsed) = (None, None);
    let mut meminfo = gatherer.meminfo();
    if let Some(culprit) = subject.finding.culprit {
        let forest = lineage.forest(Detail::Execs);
        let (evidence, totals) = gatherer.tree(&forest, &subject.finding.roots());
        let held = match &evidence.content {
            Some(Content::Tree(tree)) => memory::Held::of(tree, &subject.finding.roots()),
            _ => memory::Held::default(),
        };
        let grows = subject.finding.kind == proto::Kind::MemoryGrowth;
        let exact = grows.then(|| gatherer.proportional(&evidence)).flatten();
        let seen = log.add(evidence);
        tree = Some(totals);
        let explained = match subject.finding.kind {
            proto::Kind::Recursion => Some(explain(subject, culprit, &forest, gatherer, &mut log)),
            proto::Kind::ForkStorm => {
                Some(explain_storm(subject, culprit, &forest, gatherer, seen, &mut log))
            }
            proto::Kind::CrashLoop => subject.restarted.as_ref().map(|restarted| {
                explain_respawn(subject, culprit, forest, restarted, gatherer, &mut log)
            }),
            proto::Kind::MemoryGrowth => {
                let program = gatherer.program(&forest, culprit);
                let chain = gatherer.chain(&forest, culprit, subject.finding.leaf);
                let mut cited = vec![seen, log.add(gatherer.chain_evidence(&chain))];
                cited.extend(exact.map(|exact| log.add(exact)));
                Some((explain_memory(subject, &program, &held, &cited, gatherer), None))
            }
            _ => None,
        };
        if let Some(explained) = explained {
            (diagnosis, parsed) = (Some(explained.0), explained.1);
        }
    } else if subject.finding.kind == proto::Kind::MemoryGrowth {
        let cited: Vec<String> = meminfo.take().map(|it| log.add(it)).into_iter().collect();
        let nobody = (diagnose::Link::default(), memory::Held::default());
        diagnosis = Some(explain_memory(subject, &nobody.0, &nobody.1, &cited, gatherer));
    }
    let around = [gatherer.pressure(), meminfo, gatherer.kernel_log()];
    let cited: Vec<String> =
        around.into_iter().flatten().map(|evidence| log.add(evidence)).collect();
    if let Some(shortage) = &subject.shortage {
        let redactor = gatherer.redactor();
        let case = pressure::Case { shortage, cited: &cited, redactor };
        diagnosis = Some(pressure::diagnose(&case));
    } else if subject.finding.rule == usage::RULE {
        diagnosis = Some(diagnose::threshold(&subject.finding, &cited));
    }
    let more = subject.finding.culprit.is_some();
    let incident = &subject.incident;
    tell(Study {
        incident: incident.clone(),
        evidence: log.take(),
        given: log.given(),
        diagnosis,
        parsed,
        tree,
        killing: None,
        more,
    });
    if more {
        let forest = lineage.forest(Detail::Execs);
        gatherer.rest(&forest, &subject.finding.roots(), &mut log);
        tell(Study {
            incident: incident.clone(),
            evidence: log.take(),
            given: log.given(),
            diagnosis: None,
            parsed: None,
            tree: None,
            killing: None,
            more: false,
        });
    }
}

/// And whether what files say was read for it.
type Explained = (proto::Diagnosis, Option<Result<(), String>>);

/// Says in it what it does not know.
fn explained(mut diagnosis: proto::Diagnosis, files: &SourceFiles<'_>) -> Explained {
    let parsed = files.parsed().map(|parsed| parsed.map_err(ToString::to_string));
    if let Some(Err(why)) = &parsed {
        // Writing to a String cannot fail.
        let _ = write!(diagnosis.cause, " What its files say is not known: {why}.");
    }
    (diagnosis, parsed)
}

fn explain(
    subject: &Subject,
    culprit: ProcessKey,
    forest: &Forest,
    gatherer: &Gatherer,
    log: &mut EvidenceLog,
) -> Explained {
    let chain = gatherer.chain(forest, culprit, subject.finding.leaf);
    let cited = log.add(gatherer.chain_evidence(&chain));
    let mut files = gatherer.source_files(&chain, log);
    let diagnosis = diagnose::diagnose(&mut Case {
        finding: &subject.finding,
        chain: &chain.links,
        chain_evidence: &cited,
        files: &mut files,
        redactor: gatherer.redactor(),
    });
    explained(diagnosis, &files)
}

fn explain_storm(
    subject: &Subject,
    culprit: ProcessKey,
    forest: &Forest,
    gatherer: &Gatherer,
    tree_evidence: String,
    log: &mut EvidenceLog,
) -> Explained {
    let finding = &subject.finding;
    let limit = gatherer.room(forest, &finding.roots());
    // Of a group what stands above its trees says why there are so many.
    let starter = finding.group.as_ref().map_or(culprit, |group| group.ancestor);
    let program = gatherer.program(forest, starter);
    let crowd = storm::Crowd::of(forest, finding, program, limit);
    let chain = gatherer.chain(forest, culprit, subject.finding.leaf);
    let cited = [tree_evidence, log.add(gatherer.chain_evidence(&chain))];
    let mut files = gatherer.source_files(&chain, log);
    let diagnosis = storm::diagnose(&mut storm::Case {
        finding: &subject.finding,
        crowd: &crowd,
        cited: &cited,
        files: &mut files,
        redactor: gatherer.redactor(),
    });
    explained(diagnosis, &files)
}

fn explain_memory(
    subject: &Subject,
    program: &diagnose::Link,
    held: &memory::Held,
    cited: &[String],
    gatherer: &Gatherer,
) -> proto::Diagnosis {
    let finding = &subject.finding;
    memory::diagnose(&memory::Case { finding, program, held, cited, redactor: gatherer.redactor() })
}

fn explain_respawn(
    subject: &Subject,
    culprit: ProcessKey,
    forest: Forest,
    restarted: &Restarted,
    gatherer: &Gatherer,
    log: &mut EvidenceLog,
) -> Explained {
    let program = gatherer.program(&forest, culprit);
    // The command as it last ran stands below whoever restarts it, though it is gone.
    let leaf = restarted.command.key;
    let chain = gatherer.chain(&forest.with(restarted.command.clone()), culprit, Some(leaf));
    let cited =
        [log.add(gatherer.chain_evidence(&chain)), log.add(gatherer.ends_evidence(restarted))];
    let command = chain.links.last().cloned().unwrap_or_default();
    let mut files = gatherer.source_files(&chain, log);
    let diagnosis = respawn::diagnose(&mut respawn::Case {
        finding: &subject.finding,
        program: &program,
        command: &command,
        restarted,
        cited: &cited,
        files: &mut files,
        redactor: gatherer.redactor(),
    });
    explained(diagnosis, &files)
}
