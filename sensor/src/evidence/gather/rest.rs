//! What is gathered once the diagnosis stands: who was there above the culprit, where it runs and what
//! bounds it, what its tree holds open.
//!
//! Every step has bounds of its own and begins only before the deadline of all. While the host is out of
//! memory none does: each would take pages that the kernel has to take from somebody else first.

use std::time::{Duration, Instant};

use super::{Gatherer, plain};
use crate::{
    evidence::{
        EvidenceLog, changes, files::Projects, git, logs, open_files, proc::read_file, room,
        setting, stacks,
    },
    lineage::{Forest, ProcessKey},
    proto::{self, evidence::Content},
    vitals::parse,
};

/// For all steps together; a step that has begun may take its own bound on top.
const PATIENCE: Duration = Duration::from_secs(5);

impl Gatherer {
    /// Whether looking at processes would make it worse.
    pub(super) fn exhausted(&self) -> bool {
        let text = read_file(self.proc.root().join("meminfo"), 16 << 10).unwrap_or_default();
        room::is_exhausted(&parse::host(&text))
    }

    /// Puts into the log what is left to know about these trees.
    pub fn rest(&self, forest: &Forest, roots: &[ProcessKey], log: &mut EvidenceLog) {
        let deadline = Instant::now() + PATIENCE;
        let Some(culprit) = roots.first().copied() else { return };
        log_some(log, self.ancestry(forest, culprit));
        let mut left_out = Vec::new();
        for (name, step) in STEPS {
            let why = if self.exhausted() {
                "the host is out of memory"
            } else if Instant::now() >= deadline {
                "there was no time left"
            } else {
                log_some(log, step(self, forest, roots));
                continue;
            };
            left_out.push(format!("{name}: {why}\n"));
        }
        if !left_out.is_empty() {
            let text = left_out.concat().into_bytes();
            log.add(proto::Evidence {
                truncated: true,
                ..plain("not_gathered", "this sensor", text)
            });
        }
    }

    /// From the oldest known ancestor down to the culprit, each with what it last executed.
    fn ancestry(&self, forest: &Forest, culprit: ProcessKey) -> Option<proto::Evidence> {
        let mut line = forest.ancestry(culprit);
        let omitted = line.len().saturating_sub(self.limits.links);
        line.truncate(self.limits.links);
        line.reverse();
        if line.len() < 2 {
            return None;
        }
        let chain = super::Chain { links: self.links(forest, &line), omitted };
        Some(proto::Evidence { name: "ancestry".into(), ..self.chain_evidence(&chain) })
    }

    fn setting(&self, forest: &Forest, roots: &[ProcessKey]) -> Option<proto::Evidence> {
        let living = living(forest, roots);
        let mut setting = living.iter().find_map(|key| setting::of(&self.proc, *key))?;
        let mut redactions = 0;
        let mut clean = |name: &[u8]| {
            let (name, more) = self.redactor.text(name);
            redactions += more;
            name
        };
        for group in &mut setting.groups {
            group.path = clean(&group.path);
        }
        for name in [&mut setting.unit, &mut setting.slice, &mut setting.container] {
            *name = String::from_utf8_lossy(&clean(name.as_bytes())).into_owned();
        }
        Some(proto::Evidence {
            name: "setting".into(),
            source: "/proc/PID/limits, /proc/PID/cgroup, cgroup".into(),
            redactions,
            content: Some(Content::Setting(setting)),
            ..Default::default()
        })
    }

    fn stacks(&self, forest: &Forest, roots: &[ProcessKey]) -> Option<proto::Evidence> {
        let parser = &self.parser.as_ref()?.of_one_step();
        let living = living(forest, roots);
        let (stacks, redactions) = stacks::of(&self.proc, parser, &living, &self.redactor)?;
        Some(proto::Evidence {
            name: "stacks".into(),
            source: "perf events, /proc/PID/task, /proc/PID/maps".into(),
            truncated: stacks.omitted > 0 || stacks.samples_omitted > 0 || parser.has_failed(),
            redactions,
            content: Some(Content::Stacks(stacks)),
            ..Default::default()
        })
    }

    fn lines(&self, _: &Forest, _: &[ProcessKey]) -> Option<proto::Evidence> {
        let parser = &self.parser.as_ref()?.of_one_step();
        let window = self.limits.kernel_log;
        let (lines, redactions) = logs::of(parser, &self.logs, window, &self.redactor)?;
        Some(proto::Evidence {
            name: "logs".into(),
            source: "the journal, evidence.files".into(),
            truncated: lines.omitted > 0 || parser.has_failed(),
            redactions,
            content: Some(Content::Logs(lines)),
            ..Default::default()
        })
    }

    fn changes(&self, forest: &Forest, roots: &[ProcessKey]) -> Option<proto::Evidence> {
        let parser = &self.parser.as_ref()?.of_one_step();
        let (mut changes, mut redactions) = changes::of(parser, &self.markers, &self.redactor);
        // The first that is still there, in its own directory.
        let place = living(forest, roots).into_iter().find_map(|key| {
            let cwd = self.proc.open(key)?.cwd().filter(|cwd| !cwd.deleted)?;
            Some((key, cwd.path))
        });
        if let Some((key, cwd)) = place {
            let projects = Projects::new([cwd.as_slice()], &self.homes);
            let at = (key, cwd.as_slice());
            match git::of(&self.proc, parser, at, projects, &self.redactor) {
                Ok(Some((state, more))) => {
                    changes.git = Some(state);
                    redactions += more;
                }
                Ok(None) => {}
                Err(error) => changes.notes.push(format!(".git could not be read: {error}")),
            }
        }
        Some(proto::Evidence {
            name: "changes".into(),
            source: "logs of packages, units, evidence.deploy_markers, .git".into(),
            truncated: changes.omitted > 0 || parser.has_failed(),
            redactions,
            content: Some(Content::Changes(changes)),
            ..Default::default()
        })
    }

    fn open_files(&self, forest: &Forest, roots: &[ProcessKey]) -> Option<proto::Evidence> {
        let (files, redactions) =
            open_files::of(&self.proc, &living(forest, roots), &self.redactor);
        (files.processes > 0).then(|| proto::Evidence {
            name: "open_files".into(),
            source: "/proc/PID/fd, /proc/PID/net".into(),
            truncated: files.omitted > 0 || files.descriptors_omitted > 0,
            redactions,
            content: Some(Content::OpenFiles(files)),
            ..Default::default()
        })
    }
}

type Step = fn(&Gatherer, &Forest, &[ProcessKey]) -> Option<proto::Evidence>;

/// The most perishable first.
const STEPS: [(&str, Step); 5] = [
    ("stacks", Gatherer::stacks),
    ("open_files", Gatherer::open_files),
    ("setting", Gatherer::setting),
    ("logs", Gatherer::lines),
    ("changes", Gatherer::changes),
];

fn log_some(log: &mut EvidenceLog, evidence: Option<proto::Evidence>) {
    if let Some(evidence) = evidence {
        log.add(evidence);
    }
}

/// The living processes of these trees, roots first.
fn living(forest: &Forest, roots: &[ProcessKey]) -> Vec<ProcessKey> {
    let trees = roots.iter().flat_map(|root| forest.tree(*root));
    trees.filter(|(node, _)| node.alive).map(|(node, _)| node.key).collect()
}
