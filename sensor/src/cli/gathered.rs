//! Pages of `sensor evidence` about what is summed up: stacks, open files, where a process runs, what was
//! changed lately, lines of logs.

use std::fmt::Write as _;

use sensor_proto::{
    json::{self, escape},
    v1::{
        Changes, Frame, GitState, HeldPlace, LogLines, OpenFiles, ProcessKey, ProcessStacks,
        Setting, Stacks, frame,
    },
};

use super::{
    out::View,
    style::{Style, Tone},
    text, time,
};

/// Outer frames that a page shows of one stack; `--json` has all.
const FRAMES: usize = 24;

// Writing to a String cannot fail, in all of this file.

pub fn stacks(page: &mut String, stacks: &Stacks, style: &Style) {
    if stacks.sampled_ms > 0 {
        let samples = text::count(stacks.samples, "sample", "samples");
        let _ = writeln!(page, "  {samples} in {} ms", stacks.sampled_ms);
    }
    for process in &stacks.processes {
        of_process(page, process, style);
    }
    if stacks.omitted > 0 {
        let _ =
            writeln!(page, "  and {} more", text::count(stacks.omitted, "process", "processes"));
    }
    notes(page, &stacks.notes);
}

fn of_process(page: &mut String, process: &ProcessStacks, style: &Style) {
    let name = format!("{} {}", pid(process.process), text::safe(&process.comm));
    let _ = writeln!(page, "  {}", style.paint(Tone::Strong, &name));
    for stack in &process.stacks {
        let who = match stack.tid {
            0 => String::new(),
            tid => format!(", thread {tid} {}", text::safe(&stack.thread)),
        };
        let head = match stack.samples {
            0 => format!("as it stood{who}"),
            samples => format!("{}{who}", text::count(samples, "sample", "samples")),
        };
        let _ = writeln!(page, "    {}", style.paint(Tone::Faint, &head));
        for frame in stack.frames.iter().take(FRAMES) {
            let _ = writeln!(page, "      {}", self::frame(frame));
        }
        let hidden = stack.frames.len().saturating_sub(FRAMES);
        if hidden > 0 {
            let _ = writeln!(page, "      and {}", text::count(hidden as u64, "frame", "frames"));
        } else if stack.truncated {
            page.push_str("      …\n");
        }
    }
    if process.omitted > 0 {
        let _ = writeln!(page, "    and {}", text::count(process.omitted, "stack", "stacks"));
    }
    for note in &process.notes {
        let _ = writeln!(page, "    ({})", text::safe(note));
    }
}

fn frame(frame: &Frame) -> String {
    let file = text::safe(&frame.file);
    let place = match (file.is_empty(), frame.line) {
        (true, _) => String::new(),
        (false, 0) => format!("  {file}"),
        (false, line) => format!("  {file}:{line}"),
    };
    let word = match frame.kind() {
        frame::Kind::Kernel => "  [kernel]".to_owned(),
        _ => place,
    };
    if frame.function.is_empty() {
        return format!("{:#x}{word}", frame.offset);
    }
    format!("{}{word}", text::safe(&frame.function))
}

pub fn open_files(page: &mut String, files: &OpenFiles) {
    let kinds: Vec<String> =
        files.kinds.iter().map(|it| format!("{} {}", it.count, text::safe(&it.kind))).collect();
    let of = text::count(files.processes, "process", "processes");
    let _ = writeln!(page, "  of {of}: {}", kinds.join(", "));
    for listener in &files.listeners {
        let who = pid(listener.process);
        let address = escape(&listener.address);
        let _ = writeln!(page, "  {who} listens on {} {address}", text::safe(&listener.protocol));
    }
    places(page, "connected to", &files.peers);
    places(page, "open in", &files.directories);
    for file in &files.deleted {
        let (who, path) = (pid(file.process), escape(&file.path));
        let _ = writeln!(page, "  {who} holds {} in {path}, deleted", text::bytes(file.bytes));
    }
    if files.omitted > 0 || files.descriptors_omitted > 0 {
        let processes = text::count(files.omitted, "process", "processes");
        let descriptors = text::count(files.descriptors_omitted, "descriptor", "descriptors");
        let _ = writeln!(page, "  not looked at: {processes}, {descriptors}");
    }
}

fn places(page: &mut String, word: &str, places: &[HeldPlace]) {
    for place in places {
        let _ = writeln!(page, "  {:>5} {word} {}", place.count, escape(&place.name));
    }
}

pub fn setting(page: &mut String, setting: &Setting) {
    let named = [
        ("unit", &setting.unit),
        ("slice", &setting.slice),
        ("runtime", &setting.runtime),
        ("container", &setting.container),
        ("pod", &setting.pod),
    ];
    let _ = writeln!(page, "  process {}", pid(setting.process));
    for (what, name) in named.into_iter().filter(|(_, name)| !name.is_empty()) {
        let _ = writeln!(page, "  {what} {}", text::safe(name));
    }
    for namespace in &setting.namespaces {
        let (name, value) = (text::safe(&namespace.name), text::safe(&namespace.value));
        let _ = writeln!(page, "  {name} namespace of its own: {value}");
    }
    for limit in &setting.limits {
        let value = |value: Option<u64>| match (value, limit.unit.as_str()) {
            (None, _) => "unlimited".to_owned(),
            (Some(value), "bytes") => text::bytes(value),
            (Some(value), unit) => format!("{value} {unit}").trim_end().to_owned(),
        };
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        let _ = writeln!(page, "  limit of {}: {soft}, at most {hard}", text::safe(&limit.name));
    }
    for group in &setting.groups {
        let (path, which) = (escape(&group.path), text::safe(&group.hierarchy));
        let _ = writeln!(page, "  cgroup {path} ({which})");
        for reading in &group.readings {
            let (name, value) = (text::safe(&reading.name), text::safe(&reading.value));
            let _ = writeln!(page, "    {name} {value}");
        }
    }
}

pub fn changes(page: &mut String, changes: &Changes, view: &View) {
    let _ = writeln!(page, "  of the last {}", span(changes.window_s));
    for change in &changes.changes {
        let when = time::of_second(change.at, &view.zone);
        let (kind, how) = (text::safe(&change.kind), text::safe(&change.how));
        let _ = writeln!(page, "  {when}  {kind} {how} {}", escape(&change.what));
    }
    if changes.omitted > 0 {
        let _ = writeln!(page, "  and {} more", changes.omitted);
    }
    if let Some(git) = &changes.git {
        self::git(page, git, view);
    }
    notes(page, &changes.notes);
}

fn git(page: &mut String, git: &GitState, view: &View) {
    let branch = if git.branch.is_empty() {
        "no branch (detached)".to_owned()
    } else {
        format!("branch {}", escape(&git.branch))
    };
    let _ = writeln!(page, "  git in {}: {branch}, {}", escape(&git.top), text::safe(&git.head));
    if git.moved_at.is_some() {
        let when = time::of_second(git.moved_at, &view.zone);
        let _ = writeln!(page, "    {when}  {}", escape(&git.moved_by));
    }
    if !git.amid.is_empty() {
        let _ = writeln!(page, "    in the middle of a {}", text::safe(&git.amid));
    }
    let _ = writeln!(
        page,
        "    {} changed since git last looked ({} of {} looked at)",
        text::count(git.modified_count, "file", "files"),
        git.looked_at,
        git.files
    );
    for file in &git.modified {
        let _ = writeln!(page, "      {}", escape(file));
    }
}

pub fn logs(page: &mut String, logs: &LogLines, view: &View) {
    let _ = writeln!(page, "  of the last {}", span(logs.window_s));
    for line in &logs.lines {
        let when = if line.at.is_some() { time::of_day(line.at, &view.zone) } else { "-".into() };
        let times = if line.repeats > 1 { format!(" {}×", line.repeats) } else { String::new() };
        let (source, writer) = (text::safe(&line.source), text::safe(&line.writer));
        let from = if writer.is_empty() { source } else { writer };
        let _ = writeln!(page, "  {when}{times} {from}: {}", escape(&line.text));
    }
    if logs.omitted > 0 {
        let _ = writeln!(page, "  and {}", text::count(logs.omitted, "other line", "other lines"));
    }
    notes(page, &logs.notes);
}

fn notes(page: &mut String, notes: &[String]) {
    for note in notes {
        let _ = writeln!(page, "  ({})", text::safe(note));
    }
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
