//! Pages about what is summed up: stacks, open files, where a process runs, what was changed lately, lines of
//! logs. `sensor evidence`, the evidence window and the agent's eye show the same. Each line is safe: what others
//! chose is escaped in it, and cannot begin one.

use std::{collections::HashMap, fmt::Write as _};

use jiff::tz::TimeZone;
use sensor_proto::{
    json::{self, escape},
    v1::{
        Changes, Frame, GitState, HeldPlace, LogLine, LogLines, OpenFiles, ProcessKey,
        ProcessStacks, Setting, Stack, Stacks, evidence::Content, frame,
    },
};

use super::Kind;
use crate::cli::{
    style::{Style, Tone},
    text, time,
};

/// Frames that a page shows of one stack; `--json` has all. Equal ones in a row count as one.
const FRAMES: usize = 24;

/// Threads that are named where several stand alike.
const THREADS: usize = 4;

/// Processes likewise.
const PROCESSES: usize = 8;

// Writing to a String cannot fail, in all of this file.

/// For whoever has no style and no zone of their own: a model, a report. `None`: there is no page of it.
pub fn page(content: &Content) -> Option<(Kind, String)> {
    let mut page = String::new();
    let kind = write(&mut page, content, &Style::PLAIN, &TimeZone::UTC)?;
    Some((kind, page))
}

/// The page of what has one, and what it is; `None`: it has none.
pub fn write(page: &mut String, content: &Content, style: &Style, zone: &TimeZone) -> Option<Kind> {
    match content {
        Content::Stacks(found) => stacks(page, found, style),
        Content::Logs(found) => logs(page, found, zone),
        Content::OpenFiles(found) => open_files(page, found),
        Content::Setting(found) => setting(page, found),
        Content::Changes(found) => changes(page, found, zone),
        Content::Tree(_)
        | Content::Chain(_)
        | Content::Text(_)
        | Content::File(_)
        | Content::Vitals(_) => return None,
    }
    Some(match content {
        Content::Stacks(_) => Kind::Stack,
        Content::Logs(_) => Kind::Lines,
        _ => Kind::Page,
    })
}

/// Those that ran most first; frames are numbered, innermost first, as `function (file:line)`. What is
/// alike is told once.
fn stacks(page: &mut String, stacks: &Stacks, style: &Style) {
    if stacks.sampled_ms > 0 {
        let samples = text::count(stacks.samples, "sample", "samples");
        let _ = write!(page, "{samples} of what ran in {} ms", stacks.sampled_ms);
        let hidden = stacks.samples_omitted;
        let others = if hidden > 0 { format!(", {hidden} not shown") } else { String::new() };
        let _ = writeln!(page, "{others}");
    }
    let mut alike: Vec<(Vec<Group>, Vec<&ProcessStacks>)> = Vec::new();
    for process in &stacks.processes {
        let groups = grouped(&process.stacks);
        let same = |(other, of): &(Vec<Group>, Vec<&ProcessStacks>)| {
            let first = of.first();
            first.is_some_and(|it| it.comm == process.comm && it.notes == process.notes)
                && other.len() == groups.len()
                && other.iter().zip(&groups).all(|(a, b)| a.is_like(b.stack))
        };
        match alike.iter_mut().find(|one| same(one)) {
            Some((_, of)) => of.push(process),
            None => alike.push((groups, vec![process])),
        }
    }
    notes(page, "", &stacks.notes);
    let mut files = Files::default();
    for (groups, processes) in &alike {
        of_processes(page, groups, processes, &mut files, style);
    }
    if stacks.omitted > 0 {
        let others = text::count(stacks.omitted, "other process", "other processes");
        let _ = writeln!(page, "{others} not looked at");
    }
}

/// Threads whose stacks are alike.
struct Group<'a> {
    stack: &'a Stack,
    threads: Vec<(u32, &'a str)>,
}

impl Group<'_> {
    /// At other instructions of the same functions, too.
    fn is_like(&self, other: &Stack) -> bool {
        let one = self.stack;
        (one.samples, one.truncated, one.frames.len())
            == (other.samples, other.truncated, other.frames.len())
            && one.frames.iter().zip(&other.frames).all(|(a, b)| is_same(a, b))
    }
}

/// The same function. Where it has no name, the same place; but of what a runtime compiled places say nothing.
fn is_same(one: &Frame, other: &Frame) -> bool {
    let place = |frame: &Frame| {
        let is_named = !frame.function.is_empty() || frame.kind() == frame::Kind::Jit;
        if is_named { 0 } else { frame.offset }
    };
    (one.kind, &one.function, &one.file, one.line, place(one))
        == (other.kind, &other.function, &other.file, other.line, place(other))
}

fn grouped(stacks: &[Stack]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for stack in stacks {
        let thread = (stack.tid, stack.thread.as_str());
        // What was sampled is one already, and each has a count of its own.
        match groups.iter_mut().find(|group| stack.samples == 0 && group.is_like(stack)) {
            Some(group) => group.threads.push(thread),
            None => groups.push(Group { stack, threads: vec![thread] }),
        }
    }
    groups
}

fn of_processes(
    page: &mut String,
    groups: &[Group],
    of: &[&ProcessStacks],
    files: &mut Files,
    style: &Style,
) {
    let Some(first) = of.first() else { return };
    let pids: Vec<String> =
        of.iter().take(PROCESSES).map(|it| pid(it.process).to_string()).collect();
    let alike =
        if of.len() > 1 { format!(" ({} processes alike)", of.len()) } else { String::new() };
    let name = format!("{} {}{alike}", pids.join(", "), text::safe(&first.comm));
    let _ = writeln!(page, "{}", style.paint(Tone::Strong, &name));
    // First: who shows only a beginning shows what the rest lacks.
    notes(page, "  ", &first.notes);
    for group in groups {
        let _ = writeln!(page, "  {}", style.paint(Tone::Faint, &head(group, of.len())));
        frames(page, group.stack, files);
    }
    if first.omitted > 0 {
        let _ =
            writeln!(page, "  and {}", text::count(first.omitted, "other stack", "other stacks"));
    }
}

/// How often it was seen, and of which threads.
fn head(group: &Group, processes: usize) -> String {
    let threads: Vec<String> = group
        .threads
        .iter()
        .filter(|(tid, _)| *tid != 0)
        .map(|(tid, name)| format!("{tid} {}", text::safe(name)).trim_end().to_owned())
        .collect();
    let seen = match group.stack.samples {
        0 => "as it stood".to_owned(),
        samples => text::count(samples, "sample", "samples"),
    };
    match (threads.len(), processes) {
        (0, _) => seen,
        // Of several processes each has its own numbers.
        (1, 2..) => format!("{seen}, 1 thread of each"),
        (count, 2..) => format!("{seen}, {count} threads of each"),
        (1, _) => format!("{seen}, thread {}", threads[0]),
        (count, _) => {
            let rest = if count > THREADS { ", …" } else { "" };
            let shown: Vec<String> = threads.into_iter().take(THREADS).collect();
            format!("{seen}, {count} threads: {}{rest}", shown.join(", "))
        }
    }
}

fn frames(page: &mut String, stack: &Stack, files: &mut Files) {
    let mut lines: Vec<(usize, usize, String)> = Vec::new();
    for (at, frame) in stack.frames.iter().enumerate() {
        let full = lines.len() == FRAMES;
        match lines.last_mut() {
            // A recursion is one line.
            Some((_, upto, _)) if is_same(&stack.frames[at - 1], frame) => *upto = at,
            _ if full => {
                let hidden = (stack.frames.len() - at) as u64;
                let others = text::count(hidden, "other frame", "other frames");
                lines.push((at, at, format!("and {others}")));
                break;
            }
            _ => lines.push((at, at, self::frame(frame, files))),
        }
    }
    for (from, upto, told) in lines {
        let number = if upto > from { format!("{from}-{upto}") } else { from.to_string() };
        let _ = writeln!(page, "  {number:>5}  {told}");
    }
    if stack.truncated {
        page.push_str("         … (callers may be missing, or of earlier calls)\n");
    }
}

/// Files that a page has named: the next time the last part of their path will do.
#[derive(Default)]
struct Files(HashMap<String, String>);

impl Files {
    fn name(&mut self, file: &str) -> String {
        let last = file.rsplit('/').next().unwrap_or(file);
        match self.0.get(last) {
            Some(whole) if whole == file => last.to_owned(),
            Some(_) => file.to_owned(),
            None => {
                self.0.insert(last.to_owned(), file.to_owned());
                file.to_owned()
            }
        }
    }
}

fn frame(frame: &Frame, files: &mut Files) -> String {
    let file = text::safe(&frame.file);
    if frame.kind() == frame::Kind::Jit && frame.function.is_empty() {
        return "? (code that a runtime compiled)".to_owned();
    }
    let place = match (frame.kind(), file.is_empty(), frame.line) {
        (frame::Kind::Kernel, ..) => " [kernel]".to_owned(),
        (_, true, _) => String::new(),
        (_, false, 0) => format!(" ({})", files.name(&file)),
        (_, false, line) => format!(" ({}:{line})", files.name(&file)),
    };
    if frame.function.is_empty() {
        return format!("{:#x}{place}", frame.offset);
    }
    format!("{}{place}", text::safe(&frame.function))
}

fn open_files(page: &mut String, files: &OpenFiles) {
    let kinds: Vec<String> =
        files.kinds.iter().map(|it| format!("{} {}", it.count, text::safe(&it.kind))).collect();
    let of = text::count(files.processes, "process", "processes");
    let _ = writeln!(page, "of {of}: {}", kinds.join(", "));
    for listener in &files.listeners {
        let who = pid(listener.process);
        let address = escape(&listener.address);
        let _ = writeln!(page, "{who} listens on {} {address}", text::safe(&listener.protocol));
    }
    places(page, "connected to", &files.peers);
    places(page, "open in", &files.directories);
    for file in &files.deleted {
        let (who, path) = (pid(file.process), escape(&file.path));
        let _ = writeln!(page, "{who} holds {} in {path}, deleted", text::bytes(file.bytes));
    }
    if files.omitted > 0 || files.descriptors_omitted > 0 {
        let processes = text::count(files.omitted, "process", "processes");
        let descriptors = text::count(files.descriptors_omitted, "descriptor", "descriptors");
        let _ = writeln!(page, "not looked at: {processes}, {descriptors}");
    }
}

fn places(page: &mut String, word: &str, places: &[HeldPlace]) {
    for place in places {
        let _ = writeln!(page, "{:>5} {word} {}", place.count, escape(&place.name));
    }
}

fn setting(page: &mut String, setting: &Setting) {
    let named = [
        ("unit", &setting.unit),
        ("slice", &setting.slice),
        ("runtime", &setting.runtime),
        ("container", &setting.container),
        ("pod", &setting.pod),
    ];
    let _ = writeln!(page, "process {}", pid(setting.process));
    for (what, name) in named.into_iter().filter(|(_, name)| !name.is_empty()) {
        let _ = writeln!(page, "{what} {}", text::safe(name));
    }
    for namespace in &setting.namespaces {
        let (name, value) = (text::safe(&namespace.name), text::safe(&namespace.value));
        let _ = writeln!(page, "{name} namespace of its own: {value}");
    }
    for limit in &setting.limits {
        let value = |value: Option<u64>| match (value, limit.unit.as_str()) {
            (None, _) => "unlimited".to_owned(),
            (Some(value), "bytes") => text::bytes(value),
            (Some(value), unit) => format!("{value} {unit}").trim_end().to_owned(),
        };
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        let _ = writeln!(page, "limit of {}: {soft}, at most {hard}", text::safe(&limit.name));
    }
    for group in &setting.groups {
        let (path, which) = (escape(&group.path), text::safe(&group.hierarchy));
        let _ = writeln!(page, "cgroup {path} ({which})");
        for reading in &group.readings {
            let (name, value) = (text::safe(&reading.name), text::safe(&reading.value));
            let _ = writeln!(page, "  {name} {value}");
        }
    }
}

fn changes(page: &mut String, changes: &Changes, zone: &TimeZone) {
    let _ = writeln!(page, "of the last {}{}", span(changes.window_s), clock(zone));
    for change in &changes.changes {
        let when = time::of_second(change.at, zone);
        let (kind, how) = (text::safe(&change.kind), text::safe(&change.how));
        let _ = writeln!(page, "{when}  {kind} {how} {}", escape(&change.what));
    }
    if changes.omitted > 0 {
        let _ = writeln!(page, "and {} more", changes.omitted);
    }
    if let Some(git) = &changes.git {
        self::git(page, git, zone);
    }
    notes(page, "", &changes.notes);
}

fn git(page: &mut String, git: &GitState, zone: &TimeZone) {
    let branch = if git.branch.is_empty() {
        "no branch (detached)".to_owned()
    } else {
        format!("branch {}", escape(&git.branch))
    };
    let _ = writeln!(page, "git in {}: {branch}, {}", escape(&git.top), text::safe(&git.head));
    if git.moved_at.is_some() {
        let when = time::of_second(git.moved_at, zone);
        let _ = writeln!(page, "  {when}  {}", escape(&git.moved_by));
    }
    if !git.amid.is_empty() {
        let _ = writeln!(page, "  in the middle of a {}", text::safe(&git.amid));
    }
    let _ = writeln!(
        page,
        "  {} changed since git last looked ({} of {} looked at)",
        text::count(git.modified_count, "file", "files"),
        git.looked_at,
        git.files
    );
    for file in &git.modified {
        let _ = writeln!(page, "    {}", escape(file));
    }
}

/// Oldest first: time, who wrote it, the line. One that stands for several says how many, and until when.
fn logs(page: &mut String, logs: &LogLines, zone: &TimeZone) {
    let _ = writeln!(page, "of the last {}{}", span(logs.window_s), clock(zone));
    for line in &logs.lines {
        let _ = writeln!(page, "{}", self::line(line, zone));
    }
    if logs.omitted > 0 {
        let _ = writeln!(page, "and {}", text::count(logs.omitted, "other line", "other lines"));
    }
    notes(page, "", &logs.notes);
}

fn line(line: &LogLine, zone: &TimeZone) -> String {
    let at = |time| match time {
        Some(_) => time::of_second(time, zone),
        None => "?".to_owned(),
    };
    let when = match (line.repeats, line.until) {
        (0 | 1, _) => at(line.at),
        (times, until) if until.is_none() || until == line.at => {
            format!("{} {times}×", at(line.at))
        }
        (times, until) => format!("{} to {} {times}×", at(line.at), at(until)),
    };
    let (source, writer) = (text::safe(&line.source), text::safe(&line.writer));
    let from = if writer.is_empty() { source } else { format!("{source}, {writer}") };
    // As syslog has them; what is less severe is no more than usual.
    let severity = match line.severity {
        Some(0..=2) => " critical",
        Some(3) => " error",
        Some(4) => " warning",
        _ => "",
    };
    format!("{when} [{from}]{severity}: {}", escape(&line.text))
}

fn notes(page: &mut String, indent: &str, notes: &[String]) {
    for note in notes {
        let _ = writeln!(page, "{indent}({})", text::safe(note));
    }
}

/// Whose times they are, for whoever is elsewhere.
fn clock(zone: &TimeZone) -> &'static str {
    if *zone == TimeZone::UTC { ", times in UTC" } else { "" }
}

fn span(seconds: u64) -> String {
    time::duration(seconds.saturating_mul(1_000_000_000))
}

fn pid(key: Option<ProcessKey>) -> u32 {
    key.unwrap_or_default().pid
}

/// What an item of the list of evidence says about each, in a few words.
pub mod brief {
    use super::{Changes, LogLines, OpenFiles, Setting, Stacks, json, text};

    pub fn stacks(stacks: &Stacks) -> String {
        let of = stacks.processes.len() as u64;
        let count = stacks.processes.iter().map(|it| it.stacks.len() as u64).sum::<u64>();
        let stacks = text::count(count, "stack", "stacks");
        format!("{stacks} of {}", text::count(of, "process", "processes"))
    }

    pub fn open_files(files: &OpenFiles) -> String {
        text::count(files.descriptors, "descriptor", "descriptors")
    }

    pub fn setting(setting: &Setting) -> String {
        let groups = text::count(setting.groups.len() as u64, "group", "groups");
        if setting.unit.is_empty() {
            groups
        } else {
            format!("{}, {groups}", text::safe(&setting.unit))
        }
    }

    pub fn changes(changes: &Changes) -> String {
        let all = changes.changes.len() as u64 + u64::from(changes.omitted);
        let git = changes.git.as_ref().map(|git| format!(", git in {}", json::escape(&git.top)));
        format!("{}{}", text::count(all, "change", "changes"), git.unwrap_or_default())
    }

    pub fn logs(logs: &LogLines) -> String {
        text::count(logs.lines.len() as u64, "line", "lines")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::Timestamp;

    use super::*;

    fn native(function: &str, file: &str) -> Frame {
        let (function, file) = (function.to_owned(), file.to_owned());
        Frame { kind: frame::Kind::Native.into(), function, file, ..Frame::default() }
    }

    fn kernel(function: &str) -> Frame {
        Frame { kind: frame::Kind::Kernel.into(), function: function.into(), ..Frame::default() }
    }

    fn stack(samples: u32, tid: u32, thread: &str, frames: Vec<Frame>) -> Stack {
        Stack { samples, tid, thread: thread.into(), frames, truncated: false }
    }

    fn process(pid: u32, comm: &str, stacks: Vec<Stack>) -> ProcessStacks {
        let process = Some(ProcessKey { pid, start_ns: 1 });
        ProcessStacks { process, comm: comm.into(), stacks, ..ProcessStacks::default() }
    }

    fn told(stacks: &Stacks) -> String {
        page(&Content::Stacks(stacks.clone())).unwrap().1
    }

    #[test]
    fn frames_are_numbered_and_what_is_alike_is_told_once() {
        let waits = || vec![kernel("futex_wait"), native("wait", "/lib/libc.so.6")];
        let hoard = Frame {
            kind: frame::Kind::Jit.into(),
            function: "hoard".into(),
            file: "/srv/app.js".into(),
            line: 7,
            ..Frame::default()
        };
        let unnamed = |offset| Frame { kind: frame::Kind::Jit.into(), offset, ..Frame::default() };
        let runs = vec![
            hoard,
            native("walk", "/bin/node"),
            native("walk", "/bin/node"),
            native("walk", "/bin/node"),
            unnamed(0x1000),
            unnamed(0x2000),
            Frame { offset: 0x99, ..native("", "/bin/node") },
        ];
        let mut node = process(
            10,
            "node",
            vec![
                stack(57, 10, "", runs),
                stack(0, 11, "worker", waits()),
                stack(0, 12, "worker", waits()),
            ],
        );
        node.omitted = 2;
        node.notes.push("there is no perf map".into());
        let stands = |pid| process(pid, "sh", vec![stack(0, pid, "sh", vec![kernel("do_wait")])]);
        let stacks = Stacks {
            processes: vec![node, stands(20), stands(21)],
            sampled_ms: 300,
            samples: 60,
            samples_omitted: 3,
            omitted: 4,
            notes: vec!["one more thing".into()],
        };
        let expected = "\
60 samples of what ran in 300 ms, 3 not shown
(one more thing)
10 node
  (there is no perf map)
  57 samples, thread 10
      0  hoard (/srv/app.js:7)
    1-3  walk (/bin/node)
    4-5  ? (code that a runtime compiled)
      6  0x99 (node)
  as it stood, 2 threads: 11 worker, 12 worker
      0  futex_wait [kernel]
      1  wait (/lib/libc.so.6)
  and 2 other stacks
20, 21 sh (2 processes alike)
  as it stood, 1 thread of each
      0  do_wait [kernel]
4 other processes not looked at
";
        assert_eq!(told(&stacks), expected);
    }

    #[test]
    fn a_deep_stack_ends_with_a_count() {
        let frames = (0..60).map(|at| native(&format!("f{at}"), "/a/x")).collect();
        let stacks = Stacks {
            processes: vec![process(1, "x", vec![stack(1, 1, "", frames)])],
            ..Stacks::default()
        };
        let page = told(&stacks);
        assert!(page.contains("     23  f23 (x)\n     24  and 36 other frames\n"), "{page}");
        // Another file of the same name is named whole.
        let frames = vec![native("a", "/a/x"), native("b", "/b/x"), native("c", "/a/x")];
        let stacks = Stacks {
            processes: vec![process(1, "x", vec![stack(1, 1, "", frames)])],
            ..Stacks::default()
        };
        let page = told(&stacks);
        assert!(
            page.contains("a (/a/x)") && page.contains("b (/b/x)") && page.contains("c (x)"),
            "{page}"
        );
    }

    #[test]
    fn a_line_of_a_log_has_time_and_source() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let line = |at, text: &str| LogLine { at, text: text.into(), ..LogLine::default() };
        let found = LogLines {
            lines: vec![
                LogLine { source: "/var/log/app".into(), repeats: 1, ..line(at(60), "one\nfake") },
                LogLine {
                    source: "journal".into(),
                    writer: "cron.service".into(),
                    severity: Some(3),
                    repeats: 17,
                    until: at(125),
                    ..line(at(61), "two")
                },
                LogLine {
                    source: "journal".into(),
                    repeats: 2,
                    until: at(61),
                    ..line(at(61), "three")
                },
                LogLine { source: "/x".into(), ..line(None, "four") },
            ],
            omitted: 1,
            window_s: 600,
            notes: vec!["/y: there is none".into()],
            ..LogLines::default()
        };
        let expected = "\
of the last 10 min, times in UTC
00:01:00 [/var/log/app]: one\\x0afake
00:01:01 to 00:02:05 17× [journal, cron.service] error: two
00:01:01 2× [journal]: three
? [/x]: four
and 1 other line
(/y: there is none)
";
        assert_eq!(page(&Content::Logs(found)).unwrap().1, expected);
    }

    proptest! {
        #[test]
        fn nobody_writes_a_line_of_their_own(
            function in ".{0,20}\n?.{0,5}", file in ".{0,20}\n?.{0,5}", text: Vec<u8>, samples in 0_u32..2
        ) {
            let frames = vec![native(&function, &file), native(&file, &function)];
            let mut one = process(1, &function, vec![stack(samples, 1, &file, frames)]);
            one.notes.push(function.clone());
            let stacks = Stacks { processes: vec![one], notes: vec![file.clone()], ..Stacks::default() };
            let line = LogLine { source: function, writer: file, text, ..LogLine::default() };
            let logs = LogLines { lines: vec![line], ..LogLines::default() };
            for (content, lines) in [(Content::Stacks(stacks), 6), (Content::Logs(logs), 2)] {
                let (_, page) = page(&content).unwrap();
                prop_assert!(!page.chars().any(|it| it.is_control() && it != '\n'), "{page:?}");
                prop_assert!((lines - 1..=lines).contains(&page.lines().count()), "{page}");
            }
        }
    }
}
