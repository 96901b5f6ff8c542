//! One step of a longer work: a child process whose progress a person can follow and whose output
//! is there when it fails.

use std::{
    cell::Cell,
    io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _, stderr},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How often the progress line moves: slow enough to cost nothing, fast enough to look alive.
const TICK: Duration = Duration::from_millis(200);
/// From a child's end to the arrival of its last lines on a machine that is busy.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Without a terminal, a line this often says that the step still runs.
const STILL: Duration = Duration::from_mins(1);
/// Of the longest of several steps beside each other, as nice(2) has it: three times the share of others.
const FIRST: i32 = -5;
/// A failed step shows this many of its last lines; compilers need most.
const TAIL: usize = 40;

/// How a step ended and what it said.
pub struct Output {
    pub status: ExitStatus,
    /// It ran longer than it may, and was killed.
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status.success() && !self.timed_out
    }

    /// The last lines of both streams, for a person.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.stdout.lines().chain(self.stderr.lines()).collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

enum Line {
    Stdout(String),
    Stderr(String),
}

/// Runs `command` as the step `label` for `limit` at most. An exit code is not an error here.
pub fn run(label: &str, command: &mut Command, limit: Duration) -> Result<Output> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{label}: cannot start {}", command.get_program().display()))?;
    let lines = read_lines(&mut child);
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let mut progress = Progress::new(label, started);
    let (mut timed_out, mut ended) = (false, None);
    loop {
        match lines.recv_timeout(TICK) {
            Ok(Line::Stdout(line)) => progress.keep(&mut stdout, &line),
            Ok(Line::Stderr(line)) => progress.keep(&mut stderr, &line),
            // A daemon that the child left behind may hold the pipes open: its end is the end, once all
            // that it said has had the time to arrive.
            Err(RecvTimeoutError::Timeout) => {
                if child.try_wait()?.is_some()
                    && ended.get_or_insert_with(Instant::now).elapsed() >= LAST_WORDS
                {
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.show();
        if started.elapsed() > limit {
            timed_out = true;
            child.kill()?;
            break;
        }
    }
    let status = child.wait()?;
    progress.clear();
    Ok(Output { status, timed_out, stdout, stderr, took: started.elapsed() })
}

/// Runs `command` as the step `label`; says that it is done, or fails with its last lines.
pub fn must(label: &str, command: &mut Command, limit: Duration) -> Result<Output> {
    let output = run(label, command, limit)?;
    if output.timed_out {
        bail!("{label}: stopped after {}\n{}", seconds(limit), output.tail());
    }
    if !output.status.success() {
        bail!(
            "{label}: {} ({})\n{}",
            command.get_program().display(),
            output.status,
            output.tail()
        );
    }
    done(label, output.took);
    Ok(output)
}

thread_local! {
    /// The moving line belongs to another thread.
    static BESIDE: Cell<bool> = const { Cell::new(false) };
}

/// What this thread does from now on is the longest of several parts beside each other: it gets a processor
/// before they do, where that is allowed, and leaves them the line that moves.
pub fn go_first() {
    BESIDE.set(true);
    // On Linux a thread has a priority of its own, and its children begin with it.
    if let Err(error) = rustix::process::setpriority_process(None, FIRST) {
        eprintln!("no priority for the longest part ({error}): it will take longer");
    }
}

/// Says that a step is done.
pub fn done(label: &str, took: Duration) {
    eprintln!("{label}: done in {}", seconds(took));
}

/// `3 s`, `2 min 5 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

fn read_lines(child: &mut Child) -> Receiver<Line> {
    fn forward(from: impl Read + Send + 'static, to: Sender<Line>, wrap: fn(String) -> Line) {
        thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                if to.send(wrap(String::from_utf8_lossy(&line).into_owned())).is_err() {
                    break;
                }
            }
        });
    }
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, sender.clone(), Line::Stdout);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, sender, Line::Stderr);
    }
    receiver
}

/// The line that moves on a terminal: label, time, and the last thing that the child said.
struct Progress<'a> {
    label: &'a str,
    started: Instant,
    last: String,
    shown: Option<Instant>,
    terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(label: &'a str, started: Instant) -> Self {
        let terminal = stderr().is_terminal() && !BESIDE.get();
        Self { label, started, last: String::new(), shown: None, terminal }
    }

    fn keep(&mut self, all: &mut String, line: &str) {
        let line = line.trim_end_matches('\r');
        all.push_str(line);
        all.push('\n');
        if !line.trim().is_empty() {
            // What the child prints must not move the cursor.
            self.last = line.trim().chars().filter(|c| !c.is_control()).take(60).collect();
        }
    }

    fn show(&mut self) {
        let every = if self.terminal { TICK } else { STILL };
        if self.shown.unwrap_or(self.started).elapsed() < every {
            return;
        }
        self.shown = Some(Instant::now());
        let line = format!("{} … {}", self.label, seconds(self.started.elapsed()));
        if self.terminal {
            eprint!("\r\x1b[K{line}  {}", self.last);
            // Progress is a courtesy: a closed terminal must not stop the work.
            let _ = stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.terminal && self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_kept_apart_and_the_status_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let output = run("test", &mut command, Duration::from_secs(10)).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(output.status.code(), Some(3));
        assert!(!output.success() && !output.timed_out);
    }

    #[test]
    fn what_takes_too_long_is_killed() {
        let mut command = Command::new("sleep");
        let output = run("test", command.arg("60"), Duration::from_millis(100)).unwrap();
        assert!(output.timed_out && !output.success());
        assert!(output.took < Duration::from_secs(30), "killed, not waited for");
    }

    #[test]
    fn a_child_left_behind_does_not_hold_the_step() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 5 & echo started"]);
        let output = run("test", &mut command, Duration::from_mins(1)).unwrap();
        assert!(output.success());
        assert_eq!(output.stdout, "started\n");
        assert!(output.took < Duration::from_secs(4), "took {:?}", output.took);
    }
}
