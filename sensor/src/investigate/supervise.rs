//! A program under supervision: it is started in its sandbox, its lines are told as they come, and it is
//! ended when it has to be. Whatever it does, this comes to an end, and nothing of it survives.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    process::{ChildStderr, ChildStdin, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};

use super::{
    Event, Redact, Stop,
    footing::{Footing, headroom, held, worked},
    lines::{Line, Lines},
    sandbox::{Inmate, Program, Sandbox, SandboxError},
    watch::{Bark, Patience, Watch},
    witness::Ledger,
};
use crate::cgroup::Hierarchies;

/// Lines become records: more than anybody reads of one incident.
pub const MOST_LINES: u64 = 10_000;

/// Lines of standard error that do; what is beyond ends nobody.
const MOST_ASIDES: u64 = 2000;

/// Bytes that one turn reads from one stream.
const CHUNK: usize = 16 * 1024;

/// How often its output is looked at: a file cannot be waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of its last line of standard error that the error of a run cites.
const CITED: usize = 300;

/// What is to be run, and for how long.
pub struct Order<'a> {
    pub id: &'a str,
    pub incident: &'a str,
    pub sandbox: &'a Sandbox,
    pub program: Program<'a>,
    /// For its standard input.
    pub input: Vec<u8>,
    pub patience: Patience,
    /// Memory that must be there for it, bytes; 0: it goes on with whatever there is.
    pub needs: u64,
    /// Standard output and error together; more than that ends it.
    pub output_bytes: u64,
    /// Its home is kept when it ends.
    pub keeps_home: bool,
    /// How it is asked to end, and the time that it has each time; then it is killed.
    pub farewell: &'static [(Signal, Duration)],
}

/// Who listens to its standard output.
pub trait Listener {
    /// `shown` is what the transcript has of the line.
    fn hear(&mut self, line: &Line, shown: &[u8], sink: &mut dyn FnMut(Event)) -> Heard;
}

/// What a line means for the run.
#[derive(Debug, Default)]
pub struct Heard {
    /// It is a sign of life.
    pub event: bool,
    /// And the last one to come.
    pub last: bool,
    /// Why the run has to end.
    pub enough: Option<String>,
}

/// Why a program was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    Bark(Bark),
    /// The daemon ends.
    Stopped,
    TooMuch,
    /// Its listener said so.
    Enough(String),
    /// Others have taken what it needs.
    NoRoom(String),
    /// Our own fault.
    Lost,
}

/// How it came to its end.
#[derive(Debug)]
pub struct Ended {
    /// `None`: by itself.
    pub cause: Option<Cause>,
    pub status: io::Result<ExitStatus>,
    /// Limits that it has met and, of one that was too slow, whether it worked at all and what it wrote last, as
    /// sentences.
    pub remarks: Vec<String>,
}

/// Why it could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("cannot watch over the program: {0}")]
    Watch(#[from] io::Error),
}

/// Runs it; blocks until it has ended.
pub fn run(
    order: Order<'_>,
    listener: &mut dyn Listener,
    redact: Redact<'_>,
    stop: &Stop,
    sink: &mut dyn FnMut(Event),
) -> Result<Ended, SuperviseError> {
    let mut inmate = order.sandbox.start(order.id, order.incident, &order.program)?;
    if order.keeps_home {
        inmate.keep_home();
    }
    sink(Event::Line { stream: "sensor", text: inmate.bounds.clone().into_bytes() });
    Ok(Run::new(inmate, order, listener, redact, sink)?.finish(stop))
}

impl Ended {
    /// By a signal.
    pub fn was_killed(&self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        self.status.as_ref().is_ok_and(|status| status.signal().is_some())
    }

    /// How it ended by itself: an error unless with exit code 0.
    pub fn well(&self) -> Result<(), String> {
        use std::os::unix::process::ExitStatusExt as _;
        match &self.status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(match (status.code(), status.signal()) {
                (Some(code), _) => format!("it ended with exit code {code}"),
                (None, Some(signal)) => format!("it was ended by signal {signal}"),
                (None, None) => status.to_string(),
            }),
            Err(error) => Err(format!("how it ended is not known: {error}")),
        }
    }
}

struct Run<'a> {
    inmate: Inmate,
    input: Input,
    output: Output<File>,
    errors: Output<ChildStderr>,
    transcript: Transcript<'a>,
    /// What it executes, where that is known.
    ledger: Option<Ledger>,
    /// How one that took too long stood then, a sentence.
    stood: Option<String>,
    watch: Watch,
    footing: Footing,
    hierarchies: &'a Hierarchies,
    farewell: &'static [(Signal, Duration)],
}

impl<'a> Run<'a> {
    fn new(
        mut inmate: Inmate,
        order: Order<'a>,
        listener: &'a mut dyn Listener,
        redact: Redact<'a>,
        sink: &'a mut dyn FnMut(Event),
    ) -> io::Result<Self> {
        let missing = || io::Error::other("a standard stream is missing");
        let stdin = inmate.child.stdin.take().ok_or_else(missing)?;
        let stderr = inmate.child.stderr.take().ok_or_else(missing)?;
        rustix::io::ioctl_fionbio(&stdin, true)?;
        rustix::io::ioctl_fionbio(&stderr, true)?;
        let stdout = inmate.output.try_clone()?;
        let ledger = inmate.watched.take().map(Ledger::new);
        Ok(Self {
            inmate,
            input: Input { pipe: Some(stdin), bytes: order.input, written: 0 },
            output: Output { source: Some(stdout), lines: Lines::default(), stream: "stdout" },
            errors: Output { source: Some(stderr), lines: Lines::default(), stream: "stderr" },
            transcript: Transcript {
                listener,
                enough: None,
                heard: None,
                aside: Vec::new(),
                asides: 0,
                lines: 0,
                bytes: 0,
                most_bytes: order.output_bytes,
                redact,
                sink,
            },
            ledger,
            stood: None,
            watch: Watch::new(order.patience, Instant::now()),
            footing: Footing::new(order.needs, Instant::now()),
            hierarchies: &order.sandbox.hierarchies,
            farewell: order.farewell,
        })
    }

    fn finish(mut self, stop: &Stop) -> Ended {
        let cause = match self.live(stop) {
            Ok(cause) => cause,
            Err(error) => {
                tracing::error!(%error, "cannot watch over an investigation");
                Some(Cause::Lost)
            }
        };
        // Now: where it is a unit, systemd takes its group away moments after its end.
        let casualties = self.inmate.casualties().into_iter().map(str::to_owned);
        let remarks = casualties.chain(self.stood.take()).collect();
        // Whatever it has started goes with it; only then what it writes comes to an end.
        let status = self.inmate.kill();
        // Nothing waits here: what is there is taken, however long that takes us.
        while !self.transcript.full()
            && (self.output.read(&mut self.transcript) | self.errors.read(&mut self.transcript))
        {
        }
        if let Some(ledger) = &mut self.ledger {
            // Nobody reads on what the kernel tells when the daemon ends.
            let all = !matches!(cause, Some(Cause::Stopped));
            self.transcript.close(ledger, all);
        }
        self.output.finish(&mut self.transcript);
        self.errors.finish(&mut self.transcript);
        let cause = cause.or_else(|| self.transcript.verdict());
        Ended { cause, status, remarks }
    }

    /// Until it has ended, or has to be; `None`: it has ended by itself.
    fn live(&mut self, stop: &Stop) -> io::Result<Option<Cause>> {
        let handle = pidfd_open(Pid::from_child(&self.inmate.child), PidfdFlags::empty())?;
        let mut cause = None;
        let mut farewell = self.farewell.iter();
        let mut until = self.watch.next().0;
        let mut more = false;
        loop {
            let pause = if more { Duration::ZERO } else { LOOK };
            let ready = self.wait(handle.as_fd(), stop.as_fd(), cause.is_none(), until, pause)?;
            self.input.write();
            more = self.output.read(&mut self.transcript);
            self.errors.read(&mut self.transcript);
            if let Some(ledger) = &mut self.ledger {
                self.transcript.witness(ledger);
            }
            if ready.ended {
                return Ok(cause);
            }
            if cause.is_none() {
                if let Some(last) = self.transcript.heard.take() {
                    self.watch.heard(Instant::now(), last);
                }
                let (due, bark) = self.watch.next();
                until = due;
                cause = if ready.stopped {
                    Some(Cause::Stopped)
                } else {
                    let late = (Instant::now() >= due).then_some(Cause::Bark(bark));
                    self.transcript.verdict().or(late).or_else(|| self.lacks_room())
                };
                if matches!(cause, Some(Cause::Bark(_))) {
                    // Before it is asked to end.
                    let worked = worked(&self.inmate).as_secs_f64();
                    let said = self.transcript.last_words();
                    let said =
                        said.map_or_else(String::new, |it| format!(", and wrote last: {it}"));
                    self.stood = Some(format!("it had {worked:.1} s of CPU time{said}"));
                }
                if cause.is_none() {
                    continue;
                }
            } else if Instant::now() < until {
                continue;
            }
            let Some((signal, time)) = farewell.next() else { return Ok(cause) };
            self.inmate.ask(*signal);
            until = Instant::now() + *time;
        }
    }

    /// Whether others have left it too little. One that has told its result is about to give back what it has.
    fn lacks_room(&mut self) -> Option<Cause> {
        let now = Instant::now();
        if self.watch.is_over() || !self.footing.is_due(now) {
            return None;
        }
        let (left, has) = (headroom(self.hierarchies), held(&self.inmate));
        self.footing.look(now, &left, has).map(Cause::NoRoom)
    }

    fn wait(
        &self,
        handle: BorrowedFd<'_>,
        stop: BorrowedFd<'_>,
        stoppable: bool,
        until: Instant,
        pause: Duration,
    ) -> io::Result<Ready> {
        let mut fds = vec![PollFd::from_borrowed_fd(handle, PollFlags::IN)];
        // Once it is being ended, a stop says nothing new, and would be ready for ever.
        let watched = if stoppable { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::from_borrowed_fd(stop, watched));
        fds.extend(self.input.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(self.errors.source.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let left = until.saturating_duration_since(Instant::now()).min(pause);
        match poll(&mut fds, Some(&left.try_into().unwrap_or_default())) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Ready {
                ended: !fds[0].revents().is_empty(),
                stopped: !fds[1].revents().is_empty(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

struct Ready {
    ended: bool,
    stopped: bool,
}

/// What it reads, on its way.
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

/// Where its lines come from.
trait Source: Read {
    /// Nothing is there: whether nothing will ever be.
    fn is_over(&mut self) -> bool;
}

impl Source for ChildStderr {
    fn is_over(&mut self) -> bool {
        true
    }
}

impl Source for File {
    /// A file that grows is never at its end. Whoever has it for its output can cut it, and goes on at its
    /// new end.
    fn is_over(&mut self) -> bool {
        let end = self.metadata().map(|meta| meta.len()).unwrap_or_default();
        if self.stream_position().is_ok_and(|at| at > end) {
            let _ = self.seek(SeekFrom::Start(end));
        }
        false
    }
}

struct Output<S> {
    /// `None`: at its end.
    source: Option<S>,
    lines: Lines,
    stream: &'static str,
}

impl<S: Source> Output<S> {
    /// Takes one chunk if there is one; whether there was.
    fn read(&mut self, transcript: &mut Transcript<'_>) -> bool {
        let Some(source) = &mut self.source else { return false };
        let mut buffer = [0_u8; CHUNK];
        match source.read(&mut buffer) {
            Ok(0) => {
                if source.is_over() {
                    self.source = None;
                }
            }
            Ok(length) => {
                transcript.bytes += length as u64;
                self.lines.push(&buffer[..length], |line| transcript.line(self.stream, &line));
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => self.source = None,
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
    listener: &'a mut dyn Listener,
    enough: Option<String>,
    /// An event came since the last look; true: the last one.
    heard: Option<bool>,
    /// The last line of its standard error that says something.
    aside: Vec<u8>,
    /// How many there were.
    asides: u64,
    lines: u64,
    bytes: u64,
    most_bytes: u64,
    redact: Redact<'a>,
    sink: &'a mut dyn FnMut(Event),
}

impl Transcript<'_> {
    fn line(&mut self, stream: &'static str, line: &Line) {
        if stream != "stdout" {
            return self.note(stream, line.shown(self.redact));
        }
        self.lines += 1;
        if self.lines > MOST_LINES {
            return;
        }
        let text = line.shown(self.redact);
        (self.sink)(Event::Line { stream, text: text.clone() });
        let heard = self.listener.hear(line, &text, self.sink);
        if heard.event {
            self.heard = Some(heard.last || self.heard == Some(true));
        }
        if let Some(why) = heard.enough {
            self.enough.get_or_insert(why);
        }
    }

    /// A line that is beside the matter. A log may be long: that ends nobody, and not all of it is kept.
    fn note(&mut self, stream: &'static str, text: Vec<u8>) {
        if !text.trim_ascii().is_empty() {
            text.trim_ascii().clone_into(&mut self.aside);
        }
        self.asides += 1;
        if self.asides <= MOST_ASIDES {
            (self.sink)(Event::Line { stream, text });
        } else if self.asides == MOST_ASIDES + 1 {
            let text = format!("no more than {MOST_ASIDES} lines of its {stream} are kept");
            (self.sink)(Event::Line { stream: "sensor", text: text.into_bytes() });
        }
    }

    /// The beginning of the last line of its standard error, if there is any.
    fn last_words(&self) -> Option<String> {
        let cited = &self.aside[..self.aside.len().min(CITED)];
        (!cited.is_empty()).then(|| String::from_utf8_lossy(cited).into_owned())
    }

    /// What was executed since the last look. Bounded by itself, and not by lines: none of it is the program's.
    fn witness(&mut self, ledger: &mut Ledger) {
        for witnessed in ledger.take(self.redact) {
            (self.sink)(Event::Witnessed(witnessed));
        }
    }

    /// The rest of it, when nothing lives any more: all that is still to come, or what is there.
    fn close(&mut self, ledger: &mut Ledger, all: bool) {
        let rest = if all { ledger.rest(self.redact) } else { ledger.take(self.redact) };
        for witnessed in rest {
            (self.sink)(Event::Witnessed(witnessed));
        }
        if let Some(untold) = ledger.untold() {
            (self.sink)(Event::Line { stream: "sensor", text: untold.into_bytes() });
        }
        (self.sink)(Event::Executed(ledger.executed()));
    }

    fn full(&self) -> bool {
        self.bytes > self.most_bytes || self.lines > MOST_LINES
    }

    fn verdict(&self) -> Option<Cause> {
        let enough = self.enough.clone().map(Cause::Enough);
        enough.or_else(|| self.full().then_some(Cause::TooMuch))
    }
}

/// What is said of a cause, as the state and the error of an investigation.
pub fn tell(cause: &Cause, output_bytes: u64) -> (crate::proto::InvestigationState, String) {
    use crate::proto::InvestigationState as State;
    match cause {
        Cause::Bark(Bark::Deadline(time)) => {
            (State::TimedOut, format!("it did not end within {time:?}"))
        }
        Cause::Bark(Bark::NoEvent(time)) => {
            (State::TimedOut, format!("it said nothing within {time:?} of its begin"))
        }
        Cause::Bark(Bark::Silent(time)) => {
            (State::TimedOut, format!("it fell silent, for {time:?}"))
        }
        Cause::Bark(Bark::Lingers(time)) => {
            (State::TimedOut, format!("it did not go within {time:?} of its result"))
        }
        Cause::Stopped => (State::Interrupted, "it was stopped by the daemon".to_owned()),
        Cause::TooMuch => (
            State::Failed,
            format!("it wrote more than {output_bytes} bytes or {MOST_LINES} lines"),
        ),
        Cause::Enough(why) => (State::Failed, why.clone()),
        Cause::NoRoom(why) => (State::Failed, format!("there is no room for it any more: {why}")),
        Cause::Lost => (State::Failed, "the daemon could not watch over it".to_owned()),
    }
}
