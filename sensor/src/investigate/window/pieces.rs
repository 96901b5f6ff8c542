//! What a window tells about an incident, and how telling each piece is.

use std::{
    collections::{BTreeMap, HashSet},
    mem::{Discriminant, discriminant},
};

use sensor_proto::json;

use super::{Item, Section};
use crate::{
    proto::{self, evidence::Content},
    render::{Fact, Facts, Kind, Rendering, Word, gathered},
};

/// Bytes of a text that is one of many: a command line, a path.
const LINE: usize = 512;

/// Bytes of a sentence of ours, or of what an agent said.
const PROSE: usize = 2_000;

/// Bytes of a file, a table or a log.
const BODY: usize = 3_000;

/// Links of the chain that say what repeats: two turns of the longest cycle that was seen.
const LINKS: usize = 24;

/// Kinds of commands of a tree that are counted.
const COMMANDS: usize = 16;

/// Processes of a tree that are told one by one.
const PROCESSES: usize = 48;

/// An id of ours: letters and digits.
pub(super) fn id(text: &str) -> Word {
    Word::checked(text)
}

/// All pieces, in the order in which they are told.
pub(super) fn of(
    incident: &proto::Incident,
    evidence: &[proto::Evidence],
    rendering: &mut Rendering,
) -> Vec<Item> {
    let mut pieces = Pieces { rendering, items: Vec::new(), summed_up: Vec::new() };
    pieces.incident(incident);
    let cited: HashSet<&str> = incident
        .diagnosis
        .iter()
        .flat_map(|diagnosis| diagnosis.evidence.iter().map(String::as_str))
        .collect();
    for piece in evidence {
        pieces.evidence(piece, incident.opened_ns, cited.contains(piece.id.as_str()));
    }
    for investigation in &incident.investigations {
        pieces.investigation(investigation);
    }
    pieces.items
}

struct Pieces<'a> {
    rendering: &'a mut Rendering,
    items: Vec<Item>,
    /// Kinds of summaries that were told.
    summed_up: Vec<Discriminant<Content>>,
}

impl Pieces<'_> {
    fn add(&mut self, section: Section, rank: u32, cap: usize, facts: Facts) {
        self.items.push(Item { section, rank, facts, cap, from_end: false });
    }

    /// A text as a fact, if there is one.
    fn text(&mut self, facts: &mut Facts, name: &'static str, kind: Kind, text: &[u8]) {
        if !text.is_empty() {
            let reference = self.rendering.refer(kind, text);
            facts.add(name, Fact::Text(reference));
        }
    }

    fn argv(&mut self, facts: &mut Facts, argv: &[Vec<u8>]) {
        if !argv.is_empty() {
            let reference = self.rendering.argv(argv);
            facts.add("argv", Fact::Text(reference));
        }
    }

    fn incident(&mut self, incident: &proto::Incident) {
        let mut facts = Facts::new()
            .with("kind", Fact::word(&json::kind::word(incident.kind)))
            .with("severity", Fact::word(&json::severity::word(incident.severity)))
            .with("state", Fact::word(&json::state::word(incident.state)))
            .with("occurrences", Fact::Count(incident.occurrences.into()));
        if let Some(at) = incident.opened_at {
            facts.add("opened_at", Fact::At(at));
        }
        if let Some(at) = incident.resolved_at {
            facts.add("resolved_at", Fact::At(at));
        }
        self.text(&mut facts, "host", Kind::Name, incident.host.as_bytes());
        self.add(Section::Incident, 0, LINE, facts);
        let mut facts = Facts::new();
        self.text(&mut facts, "summary", Kind::Prose, incident.summary.as_bytes());
        self.add(Section::Incident, 1, PROSE, facts);
        if let Some(culprit) = &incident.culprit {
            let mut facts = Facts::new()
                .with("culprit_pid", Fact::Count(culprit.pid.into()))
                .with("uid", Fact::Count(culprit.uid.into()));
            self.argv(&mut facts, &culprit.argv);
            self.text(&mut facts, "cwd", Kind::Cwd, &culprit.cwd);
            self.text(&mut facts, "exe", Kind::Exe, &culprit.exe);
            self.text(&mut facts, "comm", Kind::Comm, culprit.comm.as_bytes());
            self.text(&mut facts, "cgroup", Kind::Cgroup, culprit.cgroup.as_bytes());
            self.add(Section::Incident, 2, PROSE, facts);
        }
        if let Some(group) = &incident.group {
            let mut facts = Facts::new()
                .with("culprit_is_a_group_by", Fact::word(&json::group_by::word(group.by)))
                .with("trees", Fact::Count(group.members.len() as u64))
                .with("processes", Fact::Count(group.processes.into()))
                .with("anonymous", Fact::Bytes(group.anon_bytes));
            self.text(&mut facts, "what", Kind::Path, group.what.as_bytes());
            self.add(Section::Incident, 3, LINE, facts);
        }
        if let Some(tree) = &incident.tree {
            let facts = Facts::new()
                .with("processes_of_the_tree", Fact::Count(tree.processes.into()))
                .with("threads", Fact::Count(tree.threads.into()))
                .with("anonymous", Fact::Bytes(tree.anon_bytes))
                .with("levels_below_the_culprit", Fact::Count(tree.depth.into()));
            self.add(Section::Incident, 4, 0, facts);
        }
        if let Some(finding) = &incident.finding {
            self.finding(finding);
        }
        if let Some(diagnosis) = &incident.diagnosis {
            self.diagnosis(diagnosis);
        }
        for action in &incident.actions {
            let mut facts = Facts::new()
                .with("action", Fact::word(&json::action_kind::word(action.kind)))
                .with("ok", Fact::Is(action.ok))
                .with("processes", Fact::Count(action.processes.into()));
            if let Some(at) = action.at {
                facts.add("at", Fact::At(at));
            }
            if let Some(braked) = &action.braked {
                facts.add("forks_paused", Fact::Count(braked.paused.into()));
                facts.add("forks_refused", Fact::Count(braked.refused.into()));
            }
            self.text(&mut facts, "by", Kind::Name, action.by.as_bytes());
            self.text(&mut facts, "why", Kind::Prose, action.why.as_bytes());
            self.text(&mut facts, "result", Kind::Prose, action.result.as_bytes());
            self.add(Section::Actions, 45, LINE, facts);
        }
    }

    fn finding(&mut self, finding: &proto::Finding) {
        let facts = Facts::new()
            .with("rule", Fact::word(&finding.rule))
            .with("confidence", Fact::Number(finding.confidence));
        self.add(Section::Finding, 5, 0, facts);
        for measure in &finding.measures {
            let unit = || {
                if measure.unit.is_empty() { Word::ours("") } else { Word::checked(&measure.unit) }
            };
            let mut facts = Facts::new();
            facts.add_named(Word::checked(&measure.name), Fact::Measure(measure.value, unit()));
            if let Some(threshold) = measure.threshold {
                facts.add("threshold", Fact::Number(threshold));
            }
            self.add(Section::Finding, 6, 0, facts);
        }
    }

    fn diagnosis(&mut self, diagnosis: &proto::Diagnosis) {
        let ids = diagnosis.evidence.iter().map(|id| Fact::word(id)).collect();
        let mut facts = Facts::new()
            .with("by", Fact::word(&diagnosis.by))
            .with("confidence", Fact::Number(diagnosis.confidence))
            .with("evidence", Fact::Many(ids));
        self.text(&mut facts, "cause", Kind::Prose, diagnosis.cause.as_bytes());
        self.text(&mut facts, "remedy", Kind::Prose, diagnosis.remedy.as_bytes());
        self.add(Section::Diagnosis, 10, PROSE, facts);
        let Some(cycle) = &diagnosis.cycle else { return };
        let facts = Facts::new()
            .with("steps_of_a_turn", Fact::Count(cycle.steps.len() as u64))
            .with("turns", Fact::Count(cycle.turns.into()))
            .with("turns_a_second", Fact::Number(cycle.turns_per_second))
            .with("depth", Fact::Count(cycle.depth.into()))
            .with("turns_back_at_step", Fact::Count(u64::from(cycle.turns_back_at) + 1));
        self.add(Section::Diagnosis, 11, 0, facts);
        for (index, step) in cycle.steps.iter().enumerate() {
            let mut facts = Facts::new().with("step", Fact::Count(index as u64 + 1));
            self.argv(&mut facts, &step.argv);
            self.text(&mut facts, "cwd", Kind::Cwd, &step.cwd);
            self.add(Section::Diagnosis, 12, LINE, facts);
        }
    }

    fn evidence(&mut self, piece: &proto::Evidence, opened_ns: u64, is_cited: bool) {
        let mut head = Facts::new()
            .with("evidence", Fact::word(&piece.id))
            .with("name", Fact::word(&piece.name));
        if let Some(at) = piece.at {
            head.add("at", Fact::At(at));
        }
        if piece.truncated {
            head.add("cut_to_its_bounds", Fact::Is(true));
        }
        if piece.redactions > 0 {
            head.add("secrets_replaced", Fact::Count(piece.redactions.into()));
        }
        match &piece.content {
            Some(Content::Tree(tree)) => self.tree(head, tree),
            Some(Content::Chain(chain)) => self.chain(head, chain, opened_ns),
            Some(Content::File(file)) => {
                let mut facts = head
                    .with("state", Fact::word(&json::file_state::word(file.state)))
                    .with("size", Fact::Bytes(file.size));
                self.text(&mut facts, "path", Kind::Path, &file.path);
                self.text(&mut facts, "why", Kind::Prose, file.why.as_bytes());
                self.text(&mut facts, "content", Kind::File, &file.content);
                self.add(Section::Files, if is_cited { 20 } else { 50 }, BODY, facts);
            }
            Some(Content::Text(text)) => {
                let is_log = piece.name.contains("log");
                self.text(&mut head, "source", Kind::Path, piece.source.as_bytes());
                self.text(&mut head, "text", if is_log { Kind::Log } else { Kind::Output }, text);
                let rank = match piece.name.as_str() {
                    _ if is_cited => 21,
                    "pressure" => 46,
                    _ if is_log => 55,
                    _ => 60,
                };
                self.items.push(Item {
                    section: Section::Evidence,
                    rank,
                    facts: head,
                    cap: BODY,
                    from_end: is_log,
                });
            }
            Some(Content::Vitals(record)) => self.recorder(head, record),
            Some(other) => {
                let is_log = matches!(other, Content::Logs(_));
                match other {
                    Content::Stacks(stacks) => {
                        head.add("samples", Fact::Count(stacks.samples.into()));
                        head.add("processes", Fact::Count(stacks.processes.len() as u64));
                        head.add("not_looked_at", Fact::Count(stacks.omitted.into()));
                    }
                    Content::Logs(logs) => {
                        head.add("lines", Fact::Count(logs.lines.len() as u64));
                        head.add("left_out", Fact::Count(logs.omitted.into()));
                        let before = logs.window_s.saturating_mul(1_000_000_000);
                        head.add("of_the_last", Fact::Lasting(before));
                    }
                    _ => {}
                }
                if let Some((kind, page)) = gathered::page(other) {
                    self.text(&mut head, "content", kind, page.as_bytes());
                }
                // Gathered again, it mostly says the same again.
                let kind = discriminant(other);
                let again = self.summed_up.contains(&kind);
                self.summed_up.push(kind);
                let (rank, cap) = match other {
                    _ if is_cited => (21, BODY),
                    _ if again => (62, BODY),
                    Content::Stacks(_) | Content::Logs(_) => (47, BODY),
                    _ => (49, BODY / 2),
                };
                let section = Section::Evidence;
                self.items.push(Item { section, rank, facts: head, cap, from_end: is_log });
            }
            None => self.add(Section::Evidence, 70, 0, head),
        }
    }

    fn chain(&mut self, head: Facts, chain: &proto::Chain, opened_ns: u64) {
        self.add(Section::Chain, 30, 0, head.with("links", Fact::Count(chain.links.len() as u64)));
        for (index, link) in chain.links.iter().enumerate() {
            let mut facts = Facts::new().with("link", Fact::Count(index as u64 + 1));
            if let Some(process) = &link.process {
                facts.add("pid", Fact::Count(process.pid.into()));
            }
            if !link.alive {
                facts.add("dead", Fact::Is(true));
            }
            if link.exec_ns > 0 && opened_ns > link.exec_ns {
                facts.add("executed_before_it_opened", Fact::Lasting(opened_ns - link.exec_ns));
            }
            self.argv(&mut facts, &link.argv);
            self.text(&mut facts, "cwd", Kind::Cwd, &link.cwd);
            self.text(&mut facts, "exe", Kind::Exe, &link.exe);
            self.add(Section::Chain, if index < LINKS { 31 } else { 80 }, LINE, facts);
        }
    }

    fn tree(&mut self, head: Facts, tree: &proto::ProcessTree) {
        let standing =
            tree.processes.iter().filter(|process| matches!(process.state.as_str(), "T" | "t"));
        let zombies = tree.processes.iter().filter(|process| process.state == "Z");
        let sum = |of: fn(&proto::Process) -> u64| {
            tree.processes.iter().map(of).fold(0, u64::saturating_add)
        };
        let facts = head
            .with("listed", Fact::Count(tree.processes.len() as u64))
            .with("not_listed", Fact::Count(tree.omitted.into()))
            .with("stopped", Fact::Count(standing.count() as u64))
            .with("zombies", Fact::Count(zombies.count() as u64))
            .with("anonymous", Fact::Bytes(sum(|process| process.anon_bytes)))
            .with("open_files", Fact::Count(sum(|process| process.fds.into())));
        self.add(Section::Processes, 35, 0, facts);
        // A storm is a few commands many times.
        let mut commands: BTreeMap<&[Vec<u8>], (u64, u64)> = BTreeMap::new();
        for process in &tree.processes {
            let (count, bytes) = commands.entry(&process.argv).or_default();
            *count += 1;
            *bytes = bytes.saturating_add(process.anon_bytes);
        }
        let mut commands: Vec<_> = commands.into_iter().collect();
        commands.sort_by_key(|(_, (count, bytes))| std::cmp::Reverse((*count, *bytes)));
        for (argv, (count, bytes)) in commands.into_iter().take(COMMANDS) {
            let mut facts = Facts::new()
                .with("processes_of_this_command", Fact::Count(count))
                .with("anonymous", Fact::Bytes(bytes));
            self.argv(&mut facts, argv);
            self.add(Section::Processes, 36, LINE, facts);
        }
        let mut largest: Vec<&proto::Process> = tree.processes.iter().collect();
        largest.sort_by_key(|process| std::cmp::Reverse(process.anon_bytes));
        for (index, process) in largest.into_iter().enumerate() {
            let mut facts = Facts::new()
                .with("pid", Fact::Count(process.pid.into()))
                .with(
                    "parent",
                    Fact::Count(process.parent.map_or(process.ppid, |key| key.pid).into()),
                )
                .with("state", Fact::word(&process.state))
                .with("depth", Fact::Count(process.depth.into()))
                .with("threads", Fact::Count(process.threads.into()))
                .with("anonymous", Fact::Bytes(process.anon_bytes))
                .with("resident", Fact::Bytes(process.rss_bytes))
                .with("files", Fact::Count(process.fds.into()));
            self.argv(&mut facts, &process.argv);
            self.text(&mut facts, "comm", Kind::Comm, process.comm.as_bytes());
            self.text(&mut facts, "cwd", Kind::Cwd, &process.cwd);
            let rank = match index {
                0..8 => 48,
                _ if index < PROCESSES => 65,
                _ => 85,
            };
            self.add(Section::Processes, rank, LINE, facts);
        }
    }

    /// Single seconds of the last minute, and minutes before them.
    fn recorder(&mut self, head: Facts, record: &proto::FlightRecord) {
        let samples = record.samples.len();
        self.add(Section::Recorder, 56, 0, head.with("samples", Fact::Count(samples as u64)));
        for (back, sample) in record.samples.iter().rev().enumerate() {
            let Some(vitals) = &sample.average else { continue };
            let mut facts = Facts::new().with("seconds", Fact::Count(sample.seconds.into()));
            if let Some(at) = sample.at {
                facts.add("at", Fact::At(at));
            }
            let mut stall = |name, percent: Option<f32>| {
                if let Some(percent) = percent.filter(|percent| *percent > 0.0) {
                    facts.add(name, Fact::Measure(percent.into(), Word::ours("%")));
                }
            };
            stall("cpu_some", vitals.cpu_some);
            stall("memory_some", vitals.memory_some);
            stall("memory_full", vitals.memory_full);
            stall("io_some", vitals.io_some);
            stall("io_full", vitals.io_full);
            if let Some(bytes) = vitals.available_bytes {
                facts.add("available", Fact::Bytes(bytes));
            }
            if let Some(processes) = vitals.processes {
                facts.add("processes", Fact::Count(processes.into()));
            }
            if let Some(tree) = sample.trees.first() {
                facts.add("top_tree_pid", Fact::Count(tree.pid.into()));
                facts.add("top_tree_forks", Fact::Count(tree.forks.into()));
                facts.add("top_tree_processes", Fact::Count(tree.processes.into()));
            }
            let holder = sample.trees.iter().filter(|tree| tree.bytes > 0);
            if let Some(tree) = holder.max_by_key(|tree| tree.bytes) {
                self.holder(&mut facts, tree);
            }
            // The last seconds, then one of ten, then the rest.
            let rank = match back {
                0..5 => 57,
                _ if back % 10 == 0 && back < 60 => 66,
                _ => 90,
            };
            self.add(Section::Recorder, rank, LINE, facts);
        }
    }

    /// Who held most memory.
    fn holder(&mut self, facts: &mut Facts, tree: &proto::TopTree) {
        facts.add("largest_tree_pid", Fact::Count(tree.pid.into()));
        self.text(facts, "largest_tree_comm", Kind::Comm, tree.comm.as_bytes());
        facts.add("largest_tree_memory", Fact::Bytes(tree.bytes));
        facts.add("largest_tree_threads", Fact::Count(tree.threads.into()));
        let unit = Word::ours("bytes/s");
        facts.add("largest_tree_grows", Fact::Measure(tree.bytes_per_second, unit));
        if let Some(s) = tree.exhausted_in_s {
            facts.add("nothing_left_to_it_in", Fact::Measure(s, Word::ours("s")));
        }
        if tree.stalled_ns > 0 {
            facts.add("it_stood_in_reclaim_for", Fact::Lasting(tree.stalled_ns));
        }
    }

    fn investigation(&mut self, investigation: &proto::Investigation) {
        let mut facts = Facts::new()
            .with("investigation", Fact::word(&investigation.id))
            .with("by", Fact::word(&investigation.agent))
            .with("state", Fact::word(&json::investigation_state::word(investigation.state)));
        self.text(&mut facts, "findings", Kind::Agent, investigation.findings.as_bytes());
        self.text(&mut facts, "error", Kind::Prose, investigation.error.as_bytes());
        self.add(Section::Investigations, 58, PROSE, facts);
    }
}
