//! Pages about what is summed up: stacks, open files, where a process runs, what was changed lately, lines of
//! logs. `sensor evidence`, the evidence window and the agent's eye show the same. Each line is safe: what others
//! chose is escaped in it, and cannot begin one.

mod stacks;

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use sensor_proto::{
    json::{self, escape},
    v1::{
        Changes, GitState, HeldPlace, LogLine, LogLines, OpenFiles, ProcessKey, Setting, Stacks,
        evidence::Content,
    },
};

use super::Kind;
use crate::present::{style::Style, text, time};

// Writing to a String cannot fail, in all of this file.

/// For whoever has no style and no zone of their own: a model, a report. `None`: there is no page of it.
pub fn page(content: &Content) -> Option<(Kind, String)> {
    let mut page = String::new();
    let kind = write(&mut page, content, &Style::PLAIN, &TimeZone::UTC)?;
    Some((kind, page))
}

/// The page of what has one, and what it is; `None`: it has none.
pub fn write(page: &mut String, content: &Content, style: &Style, zone: &TimeZone) -> Option<Kind> {
    let kind = match content {
        Content::Stacks(found) => {
            stacks::write(page, found, style);
            Kind::Stack
        }
        Content::Logs(found) => {
            logs(page, found, zone);
            Kind::Lines
        }
        Content::OpenFiles(found) => {
            open_files(page, found);
            Kind::Page
        }
        Content::Setting(found) => {
            setting(page, found);
            Kind::Page
        }
        Content::Changes(found) => {
            changes(page, found, zone);
            Kind::Page
        }
        Content::Tree(_)
        | Content::Chain(_)
        | Content::Text(_)
        | Content::File(_)
        | Content::Vitals(_) => return None,
    };
    Some(kind)
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
            (Some(value), unit) => format!("{value} {}", text::safe(unit)).trim_end().to_owned(),
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

    use super::{
        stacks::tests::{native, process, stack},
        *,
    };

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
