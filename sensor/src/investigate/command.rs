//! The `command` driver: any program, the dossier as JSON on its standard input, its lines as they
//! come. Whatever the program does, it ends with a clear state, and nothing of it survives.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    Dossier, End, Event, Redact, Stop,
    findings::Findings,
    lines::Lines,
    sandbox::{Inmate, Sandbox},
};
use crate::proto::InvestigationState;

/// What is run, and its bounds.
#[derive(Clone, Debug)]
pub struct Command {
    pub argv: Vec<String>,
    pub sandbox: Sandbox,
    /// Then it is asked to end, and 2 s later killed.
    pub deadline: Duration,
    /// Standard output and error together; more than that ends it.
    pub output_bytes: u64,
}

/// Between asking it to end and killing it: a script has time for its traps.
const GRACE: Duration = Duration::from_secs(2);

/// Lines become records: more than anybody reads of one incident.
const MOST_LINES: u64 = 10_000;

/// Bytes that one turn reads from one stream.
const CHUNK: usize = 16 * 1024;

pub fn run(
    command: &Command,
    id: &str,
    dossier: &Dossier,
    redact: Redact<'_>,
    stop: &Stop,
    sink: &mut dyn FnMut(Event),
) -> End {
    let failed = |error: String| End {
        state: InvestigationState::Failed,
        findings: String::new(),
        error,
        wall_ns: 0,
    };
    let input = match serde_json::to_vec(dossier) {
        Ok(input) => input,
        Err(error) => return failed(format!("the dossier cannot be written: {error}")),
    };
    let inmate = match command.sandbox.start(id, &dossier.incident.id, &command.argv) {
        Ok(inmate) => inmate,
        Err(error) => return failed(error.to_string()),
    };
    sink(Event::Line { stream: "sensor", text: inmate.bounds.clone().into_bytes() });
    match Run::new(inmate, input, command, redact, sink) {
        Ok(run) => run.finish(stop),
        Err(error) => failed(format!("cannot watch over the program: {error}")),
    }
}

/// Why a program is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Deadline,
    Stopped,
    TooMuch,
    /// Our own fault.
    Lost,
}

struct Run<'a> {
    inmate: Inmate,
    input: Input,
    output: Output<ChildStdout>,
    errors: Output<ChildStderr>,
    transcript: Transcript<'a>,
    command: &'a Command,
}

impl<'a> Run<'a> {
    fn new(
        mut inmate: Inmate,
        input: Vec<u8>,
        command: &'a Command,
        redact: Redact<'a>,
        sink: &'a mut dyn FnMut(Event),
    ) -> io::Result<Self> {
        let missing = || io::Error::other("a standard stream is missing");
        let stdin = inmate.child.stdin.take().ok_or_else(missing)?;
        let stdout = inmate.child.stdout.take().ok_or_else(missing)?;
        let stderr = inmate.child.stderr.take().ok_or_else(missing)?;
        rustix::io::ioctl_fionbio(&stdin, true)?;
        rustix::io::ioctl_fionbio(&stdout, true)?;
        rustix::io::ioctl_fionbio(&stderr, true)?;
        Ok(Self {
            inmate,
            input: Input { pipe: Some(stdin), bytes: input, written: 0 },
            output: Output { pipe: Some(stdout), lines: Lines::default(), stream: "stdout" },
            errors: Output { pipe: Some(stderr), lines: Lines::default(), stream: "stderr" },
            transcript: Transcript {
                findings: Findings::default(),
                lines: 0,
                bytes: 0,
                redact,
                sink,
            },
            command,
        })
    }

    fn finish(mut self, stop: &Stop) -> End {
        let cause = match self.live(stop) {
            Ok(cause) => cause,
            Err(error) => {
                tracing::error!(%error, "cannot watch over an investigation");
                Some(Cause::Lost)
            }
        };
        // Whatever it has started goes with it; only then its pipes come to an end.
        let status = self.inmate.kill();
        // Nothing waits here: what the pipes hold is taken, however long that takes us.
        while !self.transcript.full(self.command)
            && (self.output.read(&mut self.transcript) | self.errors.read(&mut self.transcript))
        {
        }
        self.output.finish(&mut self.transcript);
        self.errors.finish(&mut self.transcript);
        let cause = cause.or_else(|| self.transcript.full(self.command).then_some(Cause::TooMuch));
        let (state, error) = self.judge(cause, status);
        let findings = self.transcript.findings.conclude(self.transcript.redact);
        End { state, findings, error, wall_ns: 0 }
    }

    /// Until it has ended, or has to be; `None`: it has ended by itself.
    fn live(&mut self, stop: &Stop) -> io::Result<Option<Cause>> {
        let handle = pidfd_open(Pid::from_child(&self.inmate.child), PidfdFlags::empty())?;
        let mut until = Instant::now() + self.command.deadline;
        let mut cause = None;
        loop {
            let ready = self.wait(handle.as_fd(), stop.as_fd(), cause, until)?;
            self.input.write();
            self.output.read(&mut self.transcript);
            self.errors.read(&mut self.transcript);
            if ready.ended {
                return Ok(cause);
            }
            let late = Instant::now() >= until;
            if cause.is_some() {
                if late {
                    return Ok(cause);
                }
                continue;
            }
            cause = if ready.stopped {
                Some(Cause::Stopped)
            } else if self.transcript.full(self.command) {
                Some(Cause::TooMuch)
            } else if late {
                Some(Cause::Deadline)
            } else {
                None
            };
            if cause.is_some() {
                self.inmate.terminate();
                until = Instant::now() + GRACE;
            }
        }
    }

    fn wait(
        &self,
        handle: BorrowedFd<'_>,
        stop: BorrowedFd<'_>,
        cause: Option<Cause>,
        until: Instant,
    ) -> io::Result<Ready> {
        let mut fds = vec![PollFd::from_borrowed_fd(handle, PollFlags::IN)];
        // Once it is being ended, a stop says nothing new, and would be ready for ever.
        let watched = if cause.is_none() { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::from_borrowed_fd(stop, watched));
        fds.extend(self.input.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(self.output.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.errors.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut fds, Some(&left.try_into().unwrap_or_default())) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Ready {
                ended: !fds[0].revents().is_empty(),
                stopped: !fds[1].revents().is_empty(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn judge(
        &self,
        cause: Option<Cause>,
        status: io::Result<ExitStatus>,
    ) -> (InvestigationState, String) {
        use std::os::unix::process::ExitStatusExt as _;
        let (state, mut error) = match (cause, status) {
            (Some(Cause::Deadline), _) => (
                InvestigationState::TimedOut,
                format!("it did not end within {:?}", self.command.deadline),
            ),
            (Some(Cause::Stopped), _) => {
                (InvestigationState::Interrupted, "it was stopped by the daemon".to_owned())
            }
            (Some(Cause::TooMuch), _) => (
                InvestigationState::Failed,
                format!(
                    "it wrote more than {} bytes or {MOST_LINES} lines",
                    self.command.output_bytes
                ),
            ),
            (Some(Cause::Lost), _) => {
                (InvestigationState::Failed, "the daemon could not watch over it".to_owned())
            }
            (None, Ok(status)) if status.success() => (InvestigationState::Done, String::new()),
            (None, Ok(status)) => (
                InvestigationState::Failed,
                match (status.code(), status.signal()) {
                    (Some(code), _) => format!("it ended with exit code {code}"),
                    (None, Some(signal)) => format!("it was ended by signal {signal}"),
                    (None, None) => status.to_string(),
                },
            ),
            (None, Err(error)) => {
                (InvestigationState::Failed, format!("how it ended is not known: {error}"))
            }
        };
        if state != InvestigationState::Done {
            for met in self.inmate.casualties() {
                error = format!("{error}; {met}");
            }
        }
        (state, error)
    }
}

struct Ready {
    ended: bool,
    stopped: bool,
}

/// The dossier on its way.
struct Input {
    /// `None`: all of it is written, or nobody reads it.
    pipe: Option<ChildStdin>,
    bytes: Vec<u8>,
    written: usize,
}

impl Input {
    fn write(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            match pipe.write(&self.bytes[self.written..]) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It may ignore its input.
                Err(_) => self.pipe = None,
            }
        }
    }
}

struct Output<P> {
    /// `None`: at its end.
    pipe: Option<P>,
    lines: Lines,
    stream: &'static str,
}

impl<P: Read + AsFd> Output<P> {
    /// Takes one chunk if there is one; whether there was.
    fn read(&mut self, transcript: &mut Transcript<'_>) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let mut buffer = [0_u8; CHUNK];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                transcript.bytes += length as u64;
                self.lines.push(&buffer[..length], |line| transcript.line(self.stream, &line));
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => self.pipe = None,
        }
        false
    }

    fn finish(&mut self, transcript: &mut Transcript<'_>) {
        if let Some(line) = self.lines.rest() {
            transcript.line(self.stream, &line);
        }
    }
}

struct Transcript<'a> {
    findings: Findings,
    lines: u64,
    bytes: u64,
    redact: Redact<'a>,
    sink: &'a mut dyn FnMut(Event),
}

impl Transcript<'_> {
    fn line(&mut self, stream: &'static str, line: &super::lines::Line) {
        self.lines += 1;
        if self.lines > MOST_LINES {
            return;
        }
        let text = line.shown(self.redact);
        if stream == "stdout" {
            self.findings.see(line, &text);
        }
        (self.sink)(Event::Line { stream, text });
    }

    fn full(&self, command: &Command) -> bool {
        self.bytes > command.output_bytes || self.lines > MOST_LINES
    }
}
