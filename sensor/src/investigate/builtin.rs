//! The `builtin` driver: a playbook that goes through the evidence in a fixed order. Each step says
//! what was looked at, what was seen, what that means and what to do next. No model, no network.

use std::{collections::BTreeMap, fmt::Write as _};

use sensor_proto::json::escape;

use super::{Dossier, End, Event, Redact, lines::SHOWN};
use crate::{
    detect::memory::measures::LIMIT,
    incident,
    present::text::{self, count},
    proto::{self, ActionKind, Evidence, Kind, OomScope, State, evidence::Content, file_fact},
};

/// PSI above this share of time says that work waits: a busy build reaches 10 to 30 %.
const STALLED_PERCENT: f64 = 40.0;

/// Less available memory than this share, and the kernel is about to kill.
const SCARCE: f64 = 0.05;

/// Programs that one line names.
const NAMED: usize = 4;

/// One step of the playbook.
struct Step {
    looked: String,
    seen: String,
    means: String,
    next: String,
}

pub fn run(dossier: &Dossier, redact: Redact<'_>, sink: &mut dyn FnMut(Event)) -> End {
    let incident = &dossier.incident;
    let mut steps: Vec<Step> =
        dossier.evidence.iter().filter_map(|evidence| step(incident, evidence)).collect();
    steps.push(diagnosis(incident));
    steps.push(actions(incident));
    let total = steps.len();
    for (index, step) in steps.iter().enumerate() {
        let Step { looked, seen, means, next } = step;
        let number = index + 1;
        let line = format!(
            "{number}/{total} looked at {looked}: {seen}. It means: {means}. Next: {next}."
        );
        let mut text = redact(line.as_bytes());
        text.truncate(SHOWN);
        sink(Event::Line { stream: "playbook", text });
    }
    let findings = redact(findings(incident).as_bytes());
    End { findings: String::from_utf8_lossy(&findings).into_owned(), ..End::default() }
}

fn step(incident: &proto::Incident, evidence: &Evidence) -> Option<Step> {
    let mut step = match evidence.content.as_ref()? {
        Content::Tree(tree) => of_tree(incident, tree),
        Content::Chain(chain) => of_chain(incident, chain),
        Content::File(file) => of_file(incident, evidence, file),
        Content::Text(text) => of_text(incident, &evidence.name, &String::from_utf8_lossy(text))?,
        // For people: what it says of a tree, the evidence about the tree says better, and what only names
        // and counts is for whoever knows the program.
        Content::Vitals(_)
        | Content::Stacks(_)
        | Content::OpenFiles(_)
        | Content::Setting(_)
        | Content::Changes(_)
        | Content::Logs(_) => return None,
    };
    step.looked = format!("{} ({})", step.looked, evidence.id);
    if evidence.truncated {
        step.seen.push_str("; the evidence was cut to stay within bounds");
    }
    Some(step)
}

fn of_tree(incident: &proto::Incident, tree: &proto::ProcessTree) -> Step {
    let mut programs: BTreeMap<String, usize> = BTreeMap::new();
    for process in &tree.processes {
        // Who ended before it was looked at has no name.
        let name =
            if process.comm.is_empty() { "?".to_owned() } else { escape(process.comm.as_bytes()) };
        *programs.entry(name).or_default() += 1;
    }
    let mut programs: Vec<(String, usize)> = programs.into_iter().collect();
    programs.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let mut names: Vec<String> =
        programs.iter().take(NAMED).map(|(name, count)| format!("{count} × {name}")).collect();
    if programs.len() > NAMED {
        let others = (programs.len() - NAMED) as u64;
        names.push(count(others, "other program", "other programs"));
    }
    let total = tree.processes.len() + tree.omitted as usize;
    let standing = tree.processes.iter().filter(|process| stands(process)).count();
    let anon = tree.processes.iter().map(|it| it.anon_bytes).fold(0, u64::saturating_add);
    let depth = tree.processes.iter().map(|process| process.depth).max().unwrap_or(0);
    let running = tree.processes.len() - standing;
    Step {
        looked: "the culprit's tree".to_owned(),
        seen: format!(
            "{} ({}), {}, {} MiB of their own memory, {standing} of {} stopped",
            count(total as u64, "process", "processes"),
            names.join(", "),
            count(depth, "level deep", "levels deep"),
            anon >> 20,
            tree.processes.len()
        ),
        means: match (incident.state(), running) {
            (State::Contained, 0) => "the tree stands still and can be studied".to_owned(),
            (State::Contained, _) => {
                "the tree is held by its cgroup's freezer, or a part of it still runs".to_owned()
            }
            _ if total == 0 => "nothing of it lives any more".to_owned(),
            _ => "the tree runs, and may go on growing".to_owned(),
        },
        next: if total == 0 {
            "see what started it, and whether it runs again".to_owned()
        } else if depth >= 6 {
            "read the chain from the culprit to the deepest process".to_owned()
        } else {
            "see which of the programs has the most instances, and who starts it".to_owned()
        },
    }
}

fn stands(process: &proto::Process) -> bool {
    matches!(process.state.as_str(), "T" | "t" | "Z")
}

fn of_chain(incident: &proto::Incident, chain: &proto::Chain) -> Step {
    let commands: Vec<String> = chain
        .links
        .iter()
        .filter(|link| !link.argv.is_empty())
        .map(|link| command(&link.argv))
        .collect();
    let cycle = incident.diagnosis.as_ref().and_then(|diagnosis| diagnosis.cycle.as_ref());
    let (seen, means) = match cycle {
        Some(cycle) => {
            let steps: Vec<String> = cycle.steps.iter().map(|step| command(&step.argv)).collect();
            (
                format!(
                    "{}, in which {} {}: {}",
                    count(chain.links.len() as u64, "process", "processes"),
                    count(steps.len() as u64, "step repeats", "steps repeat"),
                    count(cycle.turns, "time", "times"),
                    steps.join(" → ")
                ),
                "each turn starts the next one, so it does not end by itself".to_owned(),
            )
        }
        None => (
            format!(
                "{}: {}",
                count(chain.links.len() as u64, "process", "processes"),
                commands.join(" → ")
            ),
            "no repeating period was found in it".to_owned(),
        ),
    };
    let back = cycle.and_then(|cycle| cycle.steps.get(cycle.turns_back_at as usize));
    Step {
        looked: "the chain from the culprit to the crossing".to_owned(),
        seen,
        means,
        next: match back {
            Some(step) => format!(
                "see in {} what makes `{}` begin again",
                if step.cwd.is_empty() { "its directory".to_owned() } else { escape(&step.cwd) },
                command(&step.argv)
            ),
            None => "see which command of the chain should have been the last".to_owned(),
        },
    }
}

/// An argv as a person would type it, shortened.
fn command(argv: &[Vec<u8>]) -> String {
    const LONGEST: usize = 120;
    let words: Vec<String> = argv.iter().map(|word| escape(word)).collect();
    let line = words.join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn of_file(incident: &proto::Incident, evidence: &Evidence, file: &proto::FileFact) -> Step {
    let cited = incident
        .diagnosis
        .as_ref()
        .is_some_and(|diagnosis| diagnosis.evidence.contains(&evidence.id));
    let (seen, means) = match file.state() {
        file_fact::State::Present => (
            format!("a file of {}", count(file.size, "byte", "bytes")),
            if cited { "it is part of the cause" } else { "it is there, as its program expects" },
        ),
        file_fact::State::Absent => (
            "nothing stands there".to_owned(),
            if cited {
                "that it is missing is part of the cause"
            } else {
                "a program that looks for it goes on to look elsewhere"
            },
        ),
        file_fact::State::Refused | file_fact::State::Unspecified => (
            format!("not read: {}", escape(file.why.as_bytes())),
            "what is in it has to be seen by a person",
        ),
    };
    Step {
        looked: escape(&file.path),
        seen,
        means: means.to_owned(),
        next: if cited { "change it as the remedy says" } else { "keep it in mind" }.to_owned(),
    }
}

/// Text evidence that the playbook can read; other text is left to people.
fn of_text(incident: &proto::Incident, name: &str, text: &str) -> Option<Step> {
    match name {
        "pressure" => of_pressure(incident, text),
        "meminfo" => of_meminfo(incident, text),
        "kernel_log" => Some(of_kernel_log(text)),
        _ => None,
    }
}

/// PSI: <https://docs.kernel.org/accounting/psi.html>.
fn of_pressure(incident: &proto::Incident, text: &str) -> Option<Step> {
    let highest = text
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("avg10=")?.parse::<f64>().ok())
        .filter(|percent| percent.is_finite())
        .max_by(f64::total_cmp)?;
    let stalled = highest > STALLED_PERCENT;
    Some(Step {
        looked: "the host's pressure".to_owned(),
        seen: format!("work waited for a resource in up to {highest:.1} % of the last 10 s"),
        means: if stalled { "everybody on this host feels it" } else { "the host keeps up" }
            .to_owned(),
        next: if !stalled {
            "there is time to look closely"
        } else if incident::can_be_stopped(incident) {
            "contain first, explain afterwards"
        } else {
            "see who waits, and for what"
        }
        .to_owned(),
    })
}

/// A limit that was met, or that growth comes to: whose, and bytes.
fn limit(incident: &proto::Incident) -> Option<(String, u64)> {
    let oom = incident.oom.as_ref().filter(|oom| oom.scope() == OomScope::Cgroup);
    if let Some((oom, bytes)) = oom.and_then(|oom| Some((oom, oom.limit_bytes?))) {
        let whose = if oom.cgroup.is_empty() { "a group" } else { &oom.cgroup };
        return Some((whose.to_owned(), bytes));
    }
    let measures = incident.finding.iter().flat_map(|finding| &finding.measures);
    let limit = { measures }.find(|measure| measure.name == LIMIT)?;
    Some(("the culprit's group".to_owned(), limit.value as u64))
}

fn of_meminfo(incident: &proto::Incident, text: &str) -> Option<Step> {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let (available, total) = (kib("MemAvailable")?, kib("MemTotal")?.max(1));
    let scarce = (available as f64) < SCARCE * total as f64;
    let about_memory = matches!(
        incident.kind(),
        Kind::MemoryGrowth | Kind::MemoryPressure | Kind::OomKill | Kind::OomLoop
    );
    let (means, next) = match limit(incident) {
        _ if scarce => (
            "the kernel is about to kill processes".to_owned(),
            if incident::can_be_stopped(incident) {
                "kill the tree if it is of no use"
            } else {
                "see who holds most of it"
            },
        ),
        Some((whose, bytes)) => (
            format!(
                "the host has memory: what is short is the limit of {whose}, {}",
                text::bytes(bytes)
            ),
            "look at who is in that group, and what they need",
        ),
        // Who was killed has given back what it had, and a group may be short alone.
        None if about_memory => {
            ("the host has some memory left now".to_owned(), "look at who had grown")
        }
        None => ("memory is not what runs out first".to_owned(), "look at processes and time"),
    };
    Some(Step {
        looked: "the host's memory".to_owned(),
        seen: format!("{} of {} MiB are available", available >> 10, total >> 10),
        means,
        next: next.to_owned(),
    })
}

fn of_kernel_log(text: &str) -> Step {
    const SIGNS: [(&str, &str); 8] = [
        ("Out of memory", "the kernel killed for want of memory"),
        ("oom-kill:", "the kernel killed for want of memory"),
        ("fork rejected by pids controller", "a cgroup ran out of tasks"),
        ("blocked for more than", "tasks hang"),
        ("segfault at", "a program crashed"),
        ("I/O error", "a disk failed"),
        ("Remounting filesystem read-only", "a file system can no longer be written"),
        ("soft lockup", "a CPU was stuck"),
    ];
    const NOTHING: &str =
        "none of them of OOM kills, limits of tasks, hangs, crashes or failing disks";
    let lines = text.lines().count();
    let mut met: Vec<&str> = Vec::new();
    for (sign, meaning) in SIGNS {
        if text.contains(sign) && !met.contains(&meaning) {
            met.push(meaning);
        }
    }
    Step {
        looked: "the kernel's log".to_owned(),
        seen: format!(
            "{}, {}",
            count(lines as u64, "line", "lines"),
            if met.is_empty() { NOTHING.to_owned() } else { met.join(", ") }
        ),
        means: if met.is_empty() {
            "nothing of what the playbook knows troubled the kernel; what else it says is for a person"
        } else {
            "the kernel felt it as well"
        }
        .to_owned(),
        next: if met.is_empty() {
            "look for the cause in the processes"
        } else {
            "compare the times with the incident's"
        }
        .to_owned(),
    }
}

fn diagnosis(incident: &proto::Incident) -> Step {
    let known = incident.diagnosis.as_ref().filter(|diagnosis| !diagnosis.cause.is_empty());
    match known {
        Some(diagnosis) => Step {
            looked: format!(
                "the diagnosis of {} (it cites {})",
                escape(diagnosis.by.as_bytes()),
                if diagnosis.evidence.is_empty() {
                    "nothing".to_owned()
                } else {
                    diagnosis.evidence.join(", ")
                }
            ),
            seen: plain(&diagnosis.cause),
            means: format!("{:.0} % sure", diagnosis.confidence * 100.0),
            next: if diagnosis.remedy.is_empty() {
                "no remedy is known: a person has to look".to_owned()
            } else {
                plain(&diagnosis.remedy)
            },
        },
        None => Step {
            looked: "the diagnosis".to_owned(),
            seen: "no rule knows the cause".to_owned(),
            means: "only the numbers of the finding stand".to_owned(),
            next: "read the tree and the chain, or have an agent investigate".to_owned(),
        },
    }
}

/// Of a sentence of ours: without control characters, and without its full stop.
fn plain(sentence: &str) -> String {
    text::safe(sentence.trim().trim_end_matches('.'))
}

fn actions(incident: &proto::Incident) -> Step {
    let done: Vec<String> = incident
        .actions
        .iter()
        .filter(|action| action.kind() != ActionKind::Report)
        .map(|action| {
            let word = sensor_proto::json::action_kind::word(action.kind);
            format!("{word} ({})", plain(&action.result))
        })
        .collect();
    let refused = incident.actions.iter().any(|action| action.kind() == ActionKind::Refuse);
    let id = &incident.id;
    Step {
        looked: "what was done about it".to_owned(),
        seen: if done.is_empty() { "nothing yet".to_owned() } else { done.join(", ") },
        means: match incident.state() {
            State::Contained => "it does no further harm while it is contained",
            State::Resolved => "it is over",
            _ if incident::is_oom(incident.kind()) => "it may come back",
            _ if refused => "it was not contained, and may go on",
            _ => "it may go on",
        }
        .to_owned(),
        next: match incident.state() {
            State::Contained => format!(
                "`sensor kill {id}` to end it, `sensor thaw {id}` to let it go on once the cause is mended"
            ),
            State::Resolved => "mend the cause, or it comes back".to_owned(),
            _ if incident.culprit.is_none() => {
                "there is nobody to stop: look at who grows".to_owned()
            }
            _ if !incident::can_be_stopped(incident) => {
                "whoever it was has ended: see what starts it again, and with how much work"
                    .to_owned()
            }
            _ => format!("`sensor freeze {id}` to stop it while you look"),
        },
    }
}

fn findings(incident: &proto::Incident) -> String {
    let mut text = plain(&incident.summary);
    if let Some(diagnosis) = &incident.diagnosis {
        let cause = plain(&diagnosis.cause);
        if cause.starts_with(&text) {
            // The summary is its first sentence.
            text = cause;
        } else if !cause.is_empty() {
            let _ = write!(text, ". Cause: {cause}");
        }
        if !diagnosis.remedy.is_empty() {
            let _ = write!(text, ". Remedy: {}", plain(&diagnosis.remedy));
        }
    }
    text.push('.');
    text
}
