//! `sensor evidence`: what was gathered about an incident, section by section.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use sensor_proto::{
    json::{self, escape},
    v1::{
        Chain, Evidence, FileFact, GetEvidenceRequest, Link, Process, ProcessTree, Record,
        StreamRecordsRequest, evidence::Content, record::Body,
        sensor_service_client::SensorServiceClient,
    },
};
use tonic::transport::Channel;

use super::{
    client,
    error::CliError,
    out::{self, View},
    show,
    style::{Style, Tone},
    text, time, vitals, watch,
};
use crate::render::gathered;

const EXAMPLES: &str = "\
Examples:
  sensor evidence 4k2m
  sensor evidence 4k2m --follow                   goes on with what is still gathered
  sensor evidence 4k2m e7 --raw > kernel.log      one piece, its bytes as they were read
  sensor evidence --file 4k2m.incident            of an exported incident
  sensor evidence 4k2m --json | jq '.[] | select(.name == \"meminfo\").text'";

/// Levels that are drawn by indentation; deeper ones carry their number.
const DRAWN_LEVELS: u32 = 16;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = client::one_incident())]
pub struct EvidenceArgs {
    /// The incident's id, or enough of its beginning to be unique.
    id: Option<String>,
    /// One piece only: e1, v1, …
    #[arg(conflicts_with_all = ["file", "follow"])]
    piece: Option<String>,
    /// An exported incident instead of one of this host's; needs no daemon.
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    file: Option<PathBuf>,
    /// A JSON array (docs/schema/evidence.json describes its elements); with --follow one object a
    /// line.
    #[arg(long)]
    json: bool,
    /// Go on with what is still gathered, until interrupted.
    #[arg(long)]
    follow: bool,
    /// The bytes of the piece's text or file and nothing else, as they were read, redacted.
    #[arg(long, requires = "piece", conflicts_with = "json")]
    raw: bool,
}

pub async fn run(daemon: &client::Address, args: &EvidenceArgs) -> Result<(), CliError> {
    if let Some(file) = &args.file {
        return of_file(file, args.json);
    }
    let mut client = client::connect(daemon).await?;
    let id = args.id.as_deref().unwrap_or_default();
    if let Some(name) = &args.piece {
        return piece(&mut client, id, name, args).await;
    }
    let incident = client::incident(&mut client, id).await?;
    let request = request(&incident.id, args.follow);
    let view = View::current();
    if args.follow {
        return watch::follow(daemon, request, |record| match item_of(record) {
            Some(item) if args.json => out::json_line(item),
            Some(item) => out::print(&section(item, &view)),
            None => Ok(()),
        })
        .await;
    }
    let mut items = Vec::new();
    each(&mut client, request, |item| {
        if args.json {
            items.push(item);
            return Ok(());
        }
        out::print(&section(&item, &view))
    })
    .await?;
    if args.json { out::json(&items) } else { Ok(()) }
}

fn request(incident: &str, follow: bool) -> StreamRecordsRequest {
    StreamRecordsRequest {
        incident: incident.to_owned(),
        kinds: vec!["evidence".to_owned()],
        follow,
        ..Default::default()
    }
}

async fn each(
    client: &mut SensorServiceClient<Channel>,
    request: StreamRecordsRequest,
    mut take: impl FnMut(Evidence) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut stream = client.stream_records(request).await?.into_inner();
    while let Some(answer) = stream.message().await? {
        if let Some(Body::Evidence(item)) = answer.record.and_then(|record| record.body) {
            take(item)?;
        }
    }
    Ok(())
}

/// What was gathered about an incident so far.
pub async fn all(
    client: &mut SensorServiceClient<Channel>,
    incident: &str,
) -> Result<Vec<Evidence>, CliError> {
    let mut items = Vec::new();
    each(client, request(incident, false), |item| {
        items.push(item);
        Ok(())
    })
    .await?;
    Ok(items)
}

/// One piece, which comes in parts.
async fn piece(
    client: &mut SensorServiceClient<Channel>,
    incident: &str,
    name: &str,
    args: &EvidenceArgs,
) -> Result<(), CliError> {
    let request =
        GetEvidenceRequest { incident: incident.into(), evidence: name.into(), offset: 0 };
    let mut parts = client.get_evidence(request).await?.into_inner();
    let head = parts.message().await?.and_then(|head| head.evidence);
    let mut piece = head.ok_or_else(|| CliError::Answer("the evidence is missing".into()))?;
    let bytes = match &mut piece.content {
        Some(Content::Text(bytes) | Content::File(FileFact { content: bytes, .. })) => bytes,
        _ if args.raw => return Err(CliError::NotBytes(piece.name)),
        _ => &mut Vec::new(),
    };
    while let Some(part) = parts.message().await? {
        if args.raw {
            out::bytes(&part.chunk)?;
        } else {
            bytes.extend(part.chunk);
        }
    }
    match (args.raw, args.json) {
        (true, _) => Ok(()),
        (false, true) => out::json(&piece),
        (false, false) => out::print(&section(&piece, &View::current())),
    }
}

/// A file may hold more than fits into memory: each item goes out as it is read.
fn of_file(file: &Path, json: bool) -> Result<(), CliError> {
    let view = View::current();
    let mut before = "[\n";
    let export = show::from_file(file, |record| match item_of(record) {
        Some(item) if json => {
            out::print(before)?;
            before = ",\n";
            out::print(&serde_json::to_string_pretty(item)?)
        }
        Some(item) => out::print(&section(item, &view)),
        None => Ok(()),
    })?;
    if json {
        out::print(if before == "[\n" { "[]\n" } else { "\n]\n" })?;
    }
    show::whole(file, export.damage)
}

pub fn item_of(record: &Record) -> Option<&Evidence> {
    match &record.body {
        Some(Body::Evidence(item)) => Some(item),
        _ => None,
    }
}

/// One line about a piece of evidence.
pub fn brief(item: &Evidence) -> String {
    let what = match &item.content {
        Some(Content::Tree(tree)) => {
            let all = tree.processes.len() as u64 + u64::from(tree.omitted);
            text::count(all, "process", "processes")
        }
        Some(Content::Chain(chain)) => text::count(chain.links.len() as u64, "link", "links"),
        Some(Content::Text(bytes)) => text::bytes(bytes.len() as u64),
        Some(Content::File(file)) => {
            format!("{} {}", escape(&file.path), json::file_state::word(file.state))
        }
        Some(Content::Vitals(record)) => {
            text::count(record.samples.len() as u64, "sample", "samples")
        }
        Some(Content::Stacks(found)) => gathered::brief::stacks(found),
        Some(Content::OpenFiles(found)) => gathered::brief::open_files(found),
        Some(Content::Setting(found)) => gathered::brief::setting(found),
        Some(Content::Changes(found)) => gathered::brief::changes(found),
        Some(Content::Logs(found)) => gathered::brief::logs(found),
        None => "of a kind that this version does not know".into(),
    };
    let marks = marks(item);
    let source = text::safe(&item.source);
    format!("{} {} from {source}: {what}{marks}", text::safe(&item.id), text::safe(&item.name))
}

fn marks(item: &Evidence) -> String {
    let mut marks = String::new();
    if item.truncated {
        marks.push_str(", cut to its bounds");
    }
    if item.redactions > 0 {
        let secrets = text::count(item.redactions, "secret", "secrets");
        // Writing to a String cannot fail, here and below.
        let _ = write!(marks, ", {secrets} replaced");
    }
    marks
}

pub(crate) fn section(item: &Evidence, view: &View) -> String {
    let style = &view.style;
    let title = format!("{} {}", text::safe(&item.id), text::safe(&item.name));
    let when = time::of_day(item.at, &view.zone);
    let head = format!("{} at {when}{}", text::safe(&item.source), marks(item));
    let mut page =
        format!("{}  {}\n", style.paint(Tone::Strong, &title), style.paint(Tone::Faint, &head));
    match &item.content {
        Some(Content::Tree(found)) => tree(&mut page, found, style),
        Some(Content::Chain(found)) => chain(&mut page, found, style),
        Some(Content::Text(bytes)) => lines(&mut page, bytes),
        Some(Content::File(found)) => file(&mut page, found),
        Some(Content::Vitals(found)) => vitals::render(&mut page, found, style),
        Some(content) => {
            let mut part = String::new();
            gathered::write(&mut part, content, style, &view.zone);
            for line in part.lines() {
                let _ = writeln!(page, "  {line}");
            }
        }
        None => page.push_str("  of a kind that this version does not know\n"),
    }
    page.push('\n');
    page
}

/// Lines as they were read, each escaped.
fn lines(page: &mut String, bytes: &[u8]) {
    for line in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n') {
        // The kernel's tables are aligned with tabs.
        let line = line.split(|byte| *byte == b'\t').map(escape).collect::<Vec<_>>().join("    ");
        let _ = writeln!(page, "  {line}");
    }
}

fn file(page: &mut String, file: &FileFact) {
    let state = json::file_state::word(file.state);
    let why =
        if file.why.is_empty() { String::new() } else { format!(": {}", text::safe(&file.why)) };
    let _ = writeln!(page, "  {} {state}{why}", escape(&file.path));
    if !file.content.is_empty() {
        let _ = writeln!(page, "  {}:", text::bytes(file.size));
        lines(page, &file.content);
    }
}

/// The processes as an indented tree. The order is the gatherer's, level by level; here each stands
/// below its parent.
fn tree(page: &mut String, tree: &ProcessTree, style: &Style) {
    let index: HashMap<(u32, u64), usize> = tree
        .processes
        .iter()
        .enumerate()
        .map(|(index, process)| ((process.pid, process.start_ns), index))
        .collect();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (position, process) in tree.processes.iter().enumerate() {
        let parent = process.parent.and_then(|key| index.get(&(key.pid, key.start_ns)));
        match parent {
            // A parent stands before its child; what claims otherwise must not send us in circles.
            Some(parent) if *parent < position => {
                children.entry(*parent).or_default().push(position);
            }
            _ => roots.push(position),
        }
    }
    let mut stack: Vec<(usize, u32)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
    while let Some((position, level)) = stack.pop() {
        let above = tree.processes[position]
            .parent
            .and_then(|key| index.get(&(key.pid, key.start_ns)))
            .map(|parent| tree.processes[*parent].cwd.as_slice());
        page.push_str(&process(&tree.processes[position], level, above, style));
        let below = children.get(&position).into_iter().flatten().rev();
        stack.extend(below.map(|child| (*child, level + 1)));
    }
    if tree.omitted > 0 {
        let _ = writeln!(page, "  and {} more", tree.omitted);
    }
}

fn process(process: &Process, level: u32, above: Option<&[u8]>, style: &Style) -> String {
    let indent = "  ".repeat(level.min(DRAWN_LEVELS) as usize + 1);
    let deep = if level > DRAWN_LEVELS { format!("[level {level}] ") } else { String::new() };
    let command = if process.argv.is_empty() {
        format!("[{}]", escape(process.comm.as_bytes()))
    } else {
        text::command(&process.argv)
    };
    let facts = format!(
        "{} {}, {}, {}",
        text::safe(&process.state),
        text::bytes(process.rss_bytes),
        text::count(process.threads, "thread", "threads"),
        text::count(process.fds, "file", "files"),
    );
    let place = if process.cwd.is_empty() || above == Some(process.cwd.as_slice()) {
        String::new()
    } else {
        format!("  in {}", escape(&process.cwd))
    };
    let line = format!("{indent}{deep}{} {command}", process.pid);
    let room = style.width.map_or(usize::MAX, |columns| columns.max(40));
    let line = text::fit(&line, room);
    format!("{line}  {}\n", style.paint(Tone::Faint, &format!("({facts}){place}")))
}

fn chain(page: &mut String, chain: &Chain, style: &Style) {
    let mut last = 0;
    for (index, link) in chain.links.iter().enumerate() {
        page.push_str(&step(index + 1, link, last, style));
        if link.exec_ns > 0 {
            last = link.exec_ns;
        }
    }
}

fn step(number: usize, link: &Link, last_ns: u64, style: &Style) -> String {
    let pid = link.process.unwrap_or_default().pid;
    let command =
        if link.argv.is_empty() { "(forked only)".into() } else { text::command(&link.argv) };
    let after = match (last_ns, link.exec_ns) {
        (0, _) | (_, 0) => String::new(),
        (last, now) => format!("{}  ", time::offset(last, now)),
    };
    let end = if link.alive { "" } else { "  dead" };
    let place =
        if link.cwd.is_empty() { String::new() } else { format!("in {}", escape(&link.cwd)) };
    format!(
        "  {number:>3}  {pid:>7}  {command}  {}\n",
        style.paint(Tone::Faint, &format!("{after}{place}{end}"))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_proto::v1::ProcessKey;

    use super::*;

    fn node(pid: u32, parent: u32, cwd: &str) -> Process {
        Process {
            pid,
            start_ns: 1,
            parent: Some(ProcessKey { pid: parent, start_ns: 1 }),
            argv: vec![format!("p{pid}").into_bytes()],
            cwd: cwd.into(),
            state: "T".into(),
            threads: 1,
            fds: 3,
            rss_bytes: 4096,
            ..Default::default()
        }
    }

    #[test]
    fn each_process_stands_below_its_parent() {
        let found = ProcessTree {
            processes: vec![node(1, 0, "/a"), node(2, 1, "/a"), node(3, 1, "/b"), node(4, 2, "/a")],
            omitted: 7,
        };
        let mut page = String::new();
        tree(&mut page, &found, &Style::PLAIN);
        let facts = "(T 4.0 KiB, 1 thread, 3 files)";
        let expected = format!(
            "  1 p1  {facts}  in /a\n    2 p2  {facts}\n      4 p4  {facts}\n    3 p3  {facts}  in /b\n  and 7 more\n"
        );
        assert_eq!(page, expected);
    }

    #[test]
    fn a_tree_in_a_circle_is_shown_all_the_same() {
        let found = ProcessTree { processes: vec![node(1, 2, "/"), node(2, 1, "/")], omitted: 0 };
        let mut page = String::new();
        tree(&mut page, &found, &Style::PLAIN);
        assert_eq!(page.lines().count(), 2);
    }

    #[test]
    fn a_chain_tells_its_pace() {
        let link = |pid, exec_ns, word: &str| Link {
            process: Some(ProcessKey { pid, start_ns: 1 }),
            alive: true,
            exec_ns,
            argv: vec![word.into()],
            cwd: b"/w".to_vec(),
            ..Default::default()
        };
        let links = vec![link(10, 1_000_000_000, "a"), link(11, 1_850_000_000, "b")];
        let mut page = String::new();
        chain(&mut page, &Chain { links }, &Style::PLAIN);
        assert_eq!(page, "    1       10  a  in /w\n    2       11  b  +0.850 s  in /w\n");
    }

    proptest! {
        #[test]
        fn every_process_is_shown_once(parents in proptest::collection::vec(0_u32..40, 0..40)) {
            let processes: Vec<Process> =
                parents.iter().enumerate().map(|(pid, parent)| node(pid as u32, *parent, "/")).collect();
            let mut page = String::new();
            tree(&mut page, &ProcessTree { processes, omitted: 0 }, &Style::PLAIN);
            prop_assert_eq!(page.lines().count(), parents.len());
        }

        #[test]
        fn hostile_bytes_stay_on_their_line(bytes: Vec<u8>) {
            let mut page = String::new();
            lines(&mut page, &bytes);
            prop_assert!(!page.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(page.lines().all(|line| line.starts_with("  ")));
        }
    }
}
