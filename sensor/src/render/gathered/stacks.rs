//! Stacks as a page.

use std::{collections::HashMap, fmt::Write as _};

use sensor_proto::v1::{Frame, ProcessStacks, Stack, Stacks, frame};

use super::{notes, pid};
use crate::present::{
    style::{Style, Tone},
    text,
};

/// Frames that a page shows of one stack; `--json` has all. Equal ones in a row count as one.
const FRAMES: usize = 24;

/// Threads that are named where several stand alike.
const THREADS: usize = 4;

/// Processes likewise.
const PROCESSES: usize = 8;

// Writing to a String cannot fail, in all of this file.

/// Those that ran most first; frames are numbered, innermost first, as `function (file:line)`. What is
/// alike is told once.
pub(super) fn write(page: &mut String, stacks: &Stacks, style: &Style) {
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

#[cfg(test)]
pub(super) mod tests {
    use sensor_proto::v1::{ProcessKey, evidence::Content};

    use super::{super::page, *};

    pub fn native(function: &str, file: &str) -> Frame {
        let (function, file) = (function.to_owned(), file.to_owned());
        Frame { kind: frame::Kind::Native.into(), function, file, ..Frame::default() }
    }

    fn kernel(function: &str) -> Frame {
        Frame { kind: frame::Kind::Kernel.into(), function: function.into(), ..Frame::default() }
    }

    pub fn stack(samples: u32, tid: u32, thread: &str, frames: Vec<Frame>) -> Stack {
        Stack { samples, tid, thread: thread.into(), frames, truncated: false }
    }

    pub fn process(pid: u32, comm: &str, stacks: Vec<Stack>) -> ProcessStacks {
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
}
