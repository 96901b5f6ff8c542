//! `sensor show`: the story of an incident, for an engineer at three in the morning: what happens,
//! what was done, why it happens, what to change, what to do now; the numbers last.

mod investigation;
mod oom;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use sensor_proto::{
    json::{self, RecordLine, escape},
    v1::{
        Action, Braked, Culprit, Cycle, Diagnosis, Evidence, ExportStart, Finding, Group, GroupBy,
        Incident, Record, State, Step,
    },
};

use super::{
    client,
    describe::{self, paragraph},
    error::CliError,
    evidence,
    out::{self, View},
    style::{Style, Tone},
    table::{Cell, Table},
    text, time, watch,
};
use crate::{
    evidence::Redactor,
    incident,
    investigate::{Window, window},
    present::measure,
    record::Export,
    render::Marker,
};

const EXAMPLES: &str = "\
Examples (4k2m begins the incident's id):
  sensor show 4k2m
  sensor show 4k2m --json | jq .diagnosis
  sensor show 4k2m --markdown                 all of it for a model or a ticket: 12,000 tokens
  sensor show --file 4k2m.incident            what `sensor export` wrote, on any machine
  sensor show --file 4k2m.incident --records  all its records, a line each";

/// Trees of a group that are named; `--json` has all.
const MEMBERS_SHOWN: usize = 10;

/// Beside what was found at an earlier kill of a loop than the one that is told.
const EARLIER: &str = "of an earlier kill: each run of a loop is another process";

/// Actions further than this before the opening are of another boot's clock.
const SAME_STORY_NS: u64 = 60_000_000_000;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = client::one_incident())]
pub struct ShowArgs {
    /// The incident's id, or enough of its beginning to be unique.
    id: Option<String>,
    /// An exported incident instead of one of this host's; needs no daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The records of the file, as `sensor watch` shows them; with --file only.
    #[arg(long)]
    records: bool,
    /// A JSON object (docs/schema/incident.json); with --records one a line (docs/schema/record.json), with
    /// --markdown the same document as JSON (docs/schema/window.json).
    #[arg(long)]
    json: bool,
    /// The incident with its evidence in one document that fits into a model's attention, what others wrote
    /// marked and escaped (docs/redaction.md).
    #[arg(long, conflicts_with = "records")]
    markdown: bool,
    /// What the document may take, tokens, counted rather too high.
    #[arg(long, value_name = "N", requires = "markdown", default_value_t = window::DEFAULT_TOKENS,
        value_parser = tokens)]
    tokens: usize,
}

/// Where an incident comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// The daemon of this host, just now.
    Daemon,
    File {
        name: &'a Path,
        start: &'a ExportStart,
    },
}

pub async fn run(daemon: &client::Address, args: &ShowArgs) -> Result<(), CliError> {
    if let Some(file) = &args.file {
        return show_file(file, args);
    }
    let id = args.id.as_deref().unwrap_or_default();
    if args.records {
        return Err(CliError::Usage(format!(
            "--records shows those of an exported incident: give it as --file FILE instead of {id}; \
             `sensor watch --from 0 --incident {id}` shows those of one here"
        )));
    }
    let mut client = client::connect(daemon).await?;
    let incident = client::incident(&mut client, id).await?;
    if args.markdown {
        let pieces = evidence::all(&mut client, &incident.id).await?;
        return document(&incident, &pieces, args);
    }
    if args.json {
        return out::json(&incident);
    }
    out::print(&story(&incident, &View::current(), Source::Daemon))
}

fn show_file(name: &Path, args: &ShowArgs) -> Result<(), CliError> {
    let view = View::current();
    let mut pieces = Vec::new();
    let export = from_file(name, |record| match (args.records, args.json) {
        (false, _) => {
            pieces.extend(evidence::item_of(record).filter(|_| args.markdown).cloned());
            Ok(())
        }
        (true, true) => out::json_line(&RecordLine::from(record)),
        (true, false) => out::print(&format!("{}\n", watch::line(record, &view))),
    })?;
    match (args.records, args.markdown, args.json) {
        (true, ..) => Ok(()),
        (_, true, _) => document(&export.incident, &pieces, args),
        (_, _, true) => out::json(&export.incident),
        _ => {
            let source = Source::File { name, start: &export.start };
            out::print(&story(&export.incident, &view, source))
        }
    }?;
    whole(name, export.damage)
}

/// The evidence window.
fn document(incident: &Incident, pieces: &[Evidence], args: &ShowArgs) -> Result<(), CliError> {
    // What is in the log was redacted with the log's key; what a rule of this version finds besides gets
    // hashes of its own.
    let redactor = Redactor::with_random_key();
    let window = Window::fit(incident, pieces, &redactor, Marker::random(), args.tokens);
    if args.json { out::json(&window.json()) } else { out::print(&window.markdown()) }
}

fn tokens(text: &str) -> Result<usize, String> {
    let tokens: usize = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if tokens < window::LEAST_TOKENS {
        return Err(format!("less than {} tokens hold no incident", window::LEAST_TOKENS));
    }
    Ok(tokens)
}

/// Reads an exported incident and hands on each of its records; see [`whole`] for what cannot be read.
pub fn from_file(
    file: &Path,
    mut each: impl FnMut(&Record) -> Result<(), CliError>,
) -> Result<Export, CliError> {
    let mut export = Export::open(file).map_err(CliError::part)?;
    for record in export.by_ref() {
        each(&record)?;
    }
    Ok(export)
}

/// Fails where a file was cut off or damaged, once what can be read of it is told: a part of it is not what was
/// asked for.
pub fn whole(file: &Path, damage: Option<String>) -> Result<(), CliError> {
    damage.map_or(Ok(()), |damage| Err(CliError::Partial { path: file.to_owned(), damage }))
}

pub(crate) fn story(incident: &Incident, view: &View, source: Source<'_>) -> String {
    let style = &view.style;
    let mut page = String::new();
    headline(&mut page, incident, view, source);
    if let Some(culprit) = &incident.culprit {
        let aside = if incident::is_of_an_earlier_kill(incident) { EARLIER } else { "" };
        title(&mut page, "Culprit", aside, style);
        culprit_of(&mut page, culprit, incident.group.as_ref(), style);
    }
    if let Some(oom) = &incident.oom {
        oom::section(&mut page, oom, style);
    }
    if let Some(diagnosis) = &incident.diagnosis {
        cause(&mut page, incident, diagnosis, style);
    }
    if let Some(finding) = &incident.finding {
        numbers(&mut page, incident, finding, style);
    }
    if !incident.actions.is_empty() {
        actions(&mut page, incident, view);
    }
    for investigation in &incident.investigations {
        investigation::section(&mut page, investigation, style);
    }
    match source {
        Source::Daemon => next(&mut page, incident, style),
        Source::File { name, .. } => next_of_file(&mut page, name, style),
    }
    page
}

fn title(page: &mut String, name: &str, aside: &str, style: &Style) {
    let aside = if aside.is_empty() { String::new() } else { format!("  {aside}") };
    let (name, aside) = (style.paint(Tone::Strong, name), style.paint(Tone::Faint, &aside));
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(page, "\n{name}{aside}");
}

fn headline(page: &mut String, incident: &Incident, view: &View, source: Source<'_>) {
    let style = &view.style;
    let state = json::state::word(incident.state);
    let _ = writeln!(
        page,
        "{} {}  {}, {}",
        style.paint(Tone::Strong, &describe::kind(incident)),
        text::safe(&incident.id),
        describe::severity(incident, style),
        style.paint(describe::state_tone(incident.state()), &state),
    );
    paragraph(page, &incident.summary, 0, style);
    let _ = writeln!(
        page,
        "opened {} ({}) on {}",
        time::moment(incident.opened_at, &view.zone),
        time::ago(incident.opened_at, view.now),
        text::safe(&incident.host),
    );
    if incident.occurrences > 1 {
        let _ = writeln!(page, "seen {} times", incident.occurrences);
    }
    if let Source::File { start, .. } = source {
        let when = time::moment(start.at, &view.zone);
        let _ = writeln!(
            page,
            "as it was when sensor {} exported it, {when}",
            text::safe(&start.version)
        );
    }
    match (incident.state(), source) {
        (State::Contained, Source::Daemon) => {
            let _ = writeln!(page, "{}", style.paint(Tone::Warning, &standstill(incident, view)));
        }
        (State::Resolved, _) => {
            let when = time::moment(incident.resolved_at, &view.zone);
            let _ =
                writeln!(page, "resolved {when} ({})", time::ago(incident.resolved_at, view.now));
        }
        _ => {}
    }
}

/// That the tree stands still, and until when.
fn standstill(incident: &Incident, view: &View) -> String {
    if incident.thaw_due_ns == 0 {
        return "the culprit may not fork".to_owned();
    }
    if incident.boot_id != view.boot_id {
        return "the culprit's tree was frozen when that host last booted".to_owned();
    }
    match incident.thaw_due_ns.checked_sub(view.now_ns) {
        Some(left) => {
            let due = prost_types::Timestamp {
                seconds: view.now.seconds.saturating_add((left / 1_000_000_000) as i64),
                nanos: 0,
            };
            let when = time::moment(Some(due), &view.zone);
            let left = time::duration(left);
            let stand = if incident.group.is_some() {
                "the culprit's trees stand still; they are"
            } else {
                "the culprit's tree stands still; it is"
            };
            format!("{stand} thawed at {when} (in {left}) unless you decide before")
        }
        None => "the culprit's tree is due to be thawed now".to_owned(),
    }
}

fn culprit_of(page: &mut String, culprit: &Culprit, group: Option<&Group>, style: &Style) {
    if let Some(group) = group {
        group_of(page, group, style);
    }
    let command = describe::culprit_command(culprit);
    let mut facts = Table::headless();
    facts.push([culprit.pid.to_string().into(), Cell::toned(command, Tone::Strong)]);
    page.push_str(&facts.render(2, style));
    let mut facts = Table::headless();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push([Cell::toned(name, Tone::Faint), value.into()]);
        }
    };
    fact("in", escape(&culprit.cwd));
    fact("runs", escape(&culprit.exe));
    fact("cgroup", text::safe(&culprit.cgroup));
    fact("uid", culprit.uid.to_string());
    page.push_str(&facts.render(4, style));
}

/// A group, before the eldest of its trees, which stands for it.
fn group_of(page: &mut String, group: &Group, style: &Style) {
    let mut facts = Table::headless();
    facts.push([Cell::toned(describe::group_name(group), Tone::Strong)]);
    page.push_str(&facts.render(2, style));
    let mut facts = Table::headless();
    let mut fact = |name: &str, value: String| {
        facts.push([Cell::toned(name, Tone::Faint), value.into()]);
    };
    match group.by() {
        GroupBy::Executable => fact("run", text::safe(&group.what)),
        GroupBy::Session => fact("session", text::safe(&group.what)),
        GroupBy::Cgroup => fact("cgroup", text::safe(&group.what)),
        GroupBy::User | GroupBy::Unspecified => {}
    }
    fact("processes", group.processes.to_string());
    fact("memory", text::bytes(group.anon_bytes));
    if let Some(ancestor) = &group.ancestor {
        fact("below", format!("{}, which is not stopped", ancestor.pid));
    }
    let members = group.members.iter().take(MEMBERS_SHOWN).map(|key| key.pid.to_string());
    let mut members: Vec<String> = members.collect();
    if group.members.len() > MEMBERS_SHOWN {
        members.push(format!("and {} more", group.members.len() - MEMBERS_SHOWN));
    }
    fact("trees", members.join(" "));
    page.push_str(&facts.render(4, style));
    let _ = writeln!(page, "  {}", style.paint(Tone::Faint, "the eldest of them:"));
}

fn cause(page: &mut String, incident: &Incident, diagnosis: &Diagnosis, style: &Style) {
    let mut aside = format!(
        "says {}, confidence {}",
        text::safe(&diagnosis.by),
        text::number(diagnosis.confidence)
    );
    if !diagnosis.evidence.is_empty() {
        let _ = write!(aside, ", evidence {}", text::safe(&diagnosis.evidence.join(" ")));
    }
    if incident::is_of_an_earlier_kill(incident) {
        let _ = write!(aside, ", {EARLIER}");
    }
    title(page, "Cause", &aside, style);
    paragraph(page, &diagnosis.cause, 2, style);
    if let Some(found) = &diagnosis.cycle {
        cycle(page, found, style);
    }
    if !diagnosis.remedy.is_empty() {
        title(page, "What to change", "", style);
        paragraph(page, &diagnosis.remedy, 2, style);
    }
}

/// The steps of one turn, and an arrow from the one that begins the next turn to the first.
fn cycle(page: &mut String, cycle: &Cycle, style: &Style) {
    let aside = format!(
        "{}, {} a second, {} deep",
        text::count(cycle.turns, "turn", "turns"),
        text::number(cycle.turns_per_second),
        text::count(cycle.depth, "process", "processes"),
    );
    title(page, "The cycle", &aside, style);
    let back = (cycle.turns_back_at as usize).min(cycle.steps.len().saturating_sub(1));
    let mut last: &[u8] = &[];
    for (index, step) in cycle.steps.iter().enumerate() {
        let (arrow, bar) = match index {
            _ if index > back => ("    ", "    "),
            0 if back == 0 => ("┌─▶ ", "└── "),
            0 => ("┌─▶ ", "│   "),
            _ if index == back => ("└── ", "    "),
            _ => ("│   ", "│   "),
        };
        turn(page, index + 1, step, (arrow, bar), last, style);
        last = &step.cwd;
    }
}

fn turn(
    page: &mut String,
    number: usize,
    step: &Step,
    (arrow, bar): (&str, &str),
    last: &[u8],
    style: &Style,
) {
    let command = text::command(&step.argv);
    let moves = !step.cwd.is_empty() && step.cwd != last;
    let lines = text::wrap(&command, style.text_width().saturating_sub(12));
    let count = lines.len() + usize::from(moves);
    let place = moves.then(|| style.paint(Tone::Faint, &format!("in {}", escape(&step.cwd))));
    for (index, line) in lines.into_iter().chain(place).enumerate() {
        // A single step that turns back to itself needs a second line for the arrow's end.
        let rail = if index == 0 { arrow } else { bar };
        let label = if index == 0 { number.to_string() } else { String::new() };
        let _ = writeln!(page, "  {}{label:>2}  {line}", style.paint(Tone::Bad, rail));
    }
    if count == 1 && bar.starts_with('└') {
        let _ = writeln!(page, "  {}", style.paint(Tone::Bad, bar.trim_end()));
    }
}

fn numbers(page: &mut String, incident: &Incident, finding: &Finding, style: &Style) {
    let aside = format!(
        "rule {}, confidence {}",
        text::safe(&finding.rule),
        text::number(finding.confidence)
    );
    title(page, "Numbers", &aside, style);
    let mut table = Table::headless();
    for measure in &finding.measures {
        let threshold = measure.threshold.map_or_else(String::new, |limit| {
            format!("threshold {}", measure::threshold(limit, &measure.unit))
        });
        table.push([
            text::safe(&measure::name(&measure.name)).into(),
            measure::value(measure.value, &measure.unit).into(),
            Cell::toned(threshold, Tone::Faint),
        ]);
    }
    // The tree is the one of whoever is named.
    let tree = incident.tree.as_ref().filter(|_| !incident::is_of_an_earlier_kill(incident));
    if let Some(tree) = tree {
        let mut total = |name: &str, value: String| {
            table.push([name.into(), value.into(), Cell::default()]);
        };
        total("processes of the tree", tree.processes.to_string());
        total("threads", tree.threads.to_string());
        total("anonymous memory", text::bytes(tree.anon_bytes));
        total("levels below the culprit", tree.depth.to_string());
    }
    page.push_str(&table.render(2, style));
}

fn actions(page: &mut String, incident: &Incident, view: &View) {
    let style = &view.style;
    title(page, "What was done", "times since the incident opened", style);
    for action in &incident.actions {
        let mut table = Table::headless();
        let name = json::action_kind::word(action.kind);
        let tone = if action.ok { Tone::Good } else { Tone::Bad };
        table.push([
            format!("{:>10}", when(action, incident, view)).into(),
            Cell::toned(format!("{name:<8}"), tone),
            text::safe(&action.result).into(),
        ]);
        page.push_str(&table.render(2, style));
        if let Some(braked) = action.braked.and_then(|braked| braked_text(&braked)) {
            paragraph(page, &braked, 24, style);
        }
        paragraph(page, &format!("by {}: {}", action.by, action.why), 24, style);
    }
}

/// What the kernel side did to those who may not fork, if anything.
fn braked_text(braked: &Braked) -> Option<String> {
    let said: Vec<String> = [
        (braked.paused, "fork paused", "forks paused"),
        (braked.passed, "fork under way came to its end", "forks under way came to their end"),
        (braked.executed, "stopped as it executed a program", "stopped as they executed a program"),
        (braked.refused, "fork refused", "forks refused"),
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, one, many)| text::count(count, one, many))
    .collect();
    (!said.is_empty()).then(|| format!("in the kernel: {}", said.join(", ")))
}

fn when(action: &Action, incident: &Incident, view: &View) -> String {
    if action.started_ns.saturating_add(SAME_STORY_NS) < incident.opened_ns {
        return time::of_day(action.at, &view.zone);
    }
    time::offset(incident.opened_ns, action.started_ns)
}

/// What a person can do now.
fn next(page: &mut String, incident: &Incident, style: &Style) {
    title(page, "What you can do", "", style);
    let id = text::safe(&incident.id);
    let mut table = Table::headless();
    let mut verb = |verb: &str, what: &str| {
        table.push([format!("sensor {verb} {id}").into(), Cell::toned(what, Tone::Faint)]);
    };
    verb("evidence", "what was gathered: the tree, the chain, files, the kernel's log");
    let (freeze, kill) = if incident.group.is_some() {
        ("stop all of their trees where they stand; they can go on later", "end all of their trees")
    } else {
        ("stop the tree where it stands; it can go on later", "end the tree")
    };
    match incident.state() {
        State::Contained => {
            verb("kill", kill);
            verb("thaw", "let it run again, brake off; nothing automatic stops it any more");
            verb("resolve", "close the incident and let everything run");
        }
        State::Open | State::Unspecified => {
            if incident::can_be_stopped(incident) {
                verb("freeze", freeze);
                verb("kill", kill);
            }
            verb("resolve", "close the incident");
        }
        State::Resolved => {}
    }
    page.push_str(&table.render(2, style));
}

/// What else the file tells.
fn next_of_file(page: &mut String, name: &Path, style: &Style) {
    title(page, "What else is in the file", "", style);
    let name = text::command(&[name.as_os_str().as_encoded_bytes().to_vec()]);
    let mut table = Table::headless();
    let mut verb = |verb: String, what: &str| {
        table.push([verb.into(), Cell::toned(what, Tone::Faint)]);
    };
    verb(format!("sensor evidence --file {name}"), "what was gathered: the tree, the chain, files");
    verb(format!("sensor show --file {name} --records"), "all that was recorded, in order");
    page.push_str(&table.render(2, style));
}

#[cfg(test)]
mod tests;
