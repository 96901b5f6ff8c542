//! Decodes foreign files in a process of its own, `sensor parse`: an unprivileged user that may open
//! nothing, connect to nobody and take little memory. core hands it open files and questions; a
//! file that makes it crash or hang costs the answers about that gathering and nothing else.
//!
//! - `elf`: functions of executables and libraries
//! - `perf_map`: functions that a runtime compiled
//! - `packages`: what package managers did
//! - `lines`: lines of logs, those that are alike once
//! - `git_index`: what git last saw of a work tree
//! - `git_head`: where its HEAD is, and since when
//! - `passage`: what a rule of the diagnosis looks for in a culprit's project
//!
//! [`health`] says whether there is such a process to be had.
//!
//! A [`Dialogue`] is one such process: it answers one question after the other, so that what it has said
//! can decide which file is opened next.

pub(crate) mod elf;
pub(crate) mod git_head;
pub(crate) mod git_index;
mod health;
pub(crate) mod lines;
mod moment;
pub(crate) mod packages;
pub(crate) mod passage;
pub(crate) mod perf_map;

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::sys::resource::{Resource, setrlimit};
use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sensor_proto::internal::v1::{ParseAnswer, ParseJob, parse_job::What};

use self::health::Health;
use crate::{
    core::survival,
    feed::{
        privileges::{self, PrivilegesError},
        supervisor::pidfd,
    },
};

/// Open files of one process.
pub(crate) const FILES: usize = 64;
/// Of a question or of its answer, bytes: some thousand addresses, and names of 512 bytes at most; 10,000
/// paths of git.
const MESSAGE: usize = 4 << 20;
/// Its memory beside what it maps of files, bytes.
const DATA: u64 = 64 << 20;
/// What it maps of files, bytes: the largest executables have a few hundred MiB.
const SPACE: u64 = 8 << 30;
/// Of CPU time, s. Functions of a node take 0.1 s.
const CPU: u64 = 5;
/// The first descriptor of a file.
const FIRST: i32 = 3;

/// Who parses.
#[derive(Clone, Debug)]
pub struct Parser {
    /// This program.
    program: PathBuf,
    /// User and group of the process; none: as whoever runs this.
    user: Option<(u32, u32)>,
    health: Health,
    /// A test's, which has no such program: it decodes by itself.
    #[cfg(test)]
    here: bool,
}

/// Why there is no answer; one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("this sensor starts no `sensor parse`")]
    Nobody,
    #[error("`sensor parse` cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("`sensor parse` did not answer in time")]
    Late,
    #[error("`sensor parse` failed on what it was given to read")]
    Failed,
    #[error("`sensor parse` answered what cannot be")]
    Nonsense,
}

/// Arguments of the hidden verb.
#[derive(Clone, Debug, clap::Args)]
pub struct ParseArgs {
    /// User to become.
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    /// Its only group.
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
}

/// What ends the process.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("`sensor parse` is started by `sensor run`, not by hand ({0})")]
    ByHand(io::Error),
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    #[error("its limits cannot be set: {0}")]
    Limits(#[source] io::Error),
}

impl Parser {
    pub fn new(program: impl Into<PathBuf>, user: Option<(u32, u32)>) -> Self {
        Self {
            program: program.into(),
            user,
            health: Health::default(),
            #[cfg(test)]
            here: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn here() -> Self {
        Self { here: true, ..Self::new("", None) }
    }

    /// Asks a fresh process about these files; one answer for each.
    pub(crate) fn ask(
        &self,
        asked: Vec<(OwnedFd, What)>,
        patience: Duration,
    ) -> Result<Vec<ParseAnswer>, ParseError> {
        let (files, asked): (Vec<OwnedFd>, Vec<What>) = asked.into_iter().unzip();
        let mut dialogue = self.dialogue(files, patience)?;
        asked.into_iter().map(|what| dialogue.ask(what)).collect()
    }

    /// Starts a process that has these files open, and answers for so long.
    pub(crate) fn dialogue(
        &self,
        files: Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<Dialogue, ParseError> {
        let health = self.health.clone();
        #[cfg(test)]
        if self.here {
            let files = files.into_iter().map(File::from).collect();
            return Ok(Dialogue { with: With::Here(files), health });
        }
        let deadline = Instant::now() + patience;
        let started = UnixStream::pair()
            .and_then(|(link, theirs)| Ok((link, Running(self.start(files, theirs)?))));
        let (link, child) = health.note(started.map_err(ParseError::Start))?;
        Ok(Dialogue { with: With::Child { link, deadline, _child: child }, health })
    }

    fn start(&self, files: Vec<OwnedFd>, link: UnixStream) -> io::Result<Child> {
        let mappings = files
            .into_iter()
            .zip(FIRST..)
            .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
            .collect();
        let mut command = Command::new(&self.program);
        command.arg("parse").env_clear().stdin(OwnedFd::from(link));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.args(["--uid", &uid.to_string(), "--gid", &gid.to_string()]);
        }
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        command.spawn()
    }
}

/// A process that answers one question after the other. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Dialogue {
    with: With,
    health: Health,
}

#[derive(Debug)]
enum With {
    Child {
        link: UnixStream,
        deadline: Instant,
        _child: Running,
    },
    #[cfg(test)]
    Here(std::collections::VecDeque<File>),
}

impl Dialogue {
    /// About the next of its files. After an error there are no more answers.
    pub(crate) fn ask(&mut self, what: What) -> Result<ParseAnswer, ParseError> {
        self.answer(ParseJob { what: Some(what), content: None })
    }

    /// About what was read of a file.
    pub(crate) fn ask_of(&mut self, content: &[u8], what: What) -> Result<ParseAnswer, ParseError> {
        self.answer(ParseJob { what: Some(what), content: Some(content.to_vec()) })
    }

    fn answer(&mut self, job: ParseJob) -> Result<ParseAnswer, ParseError> {
        let answer = self.with.answer(job);
        self.health.note(answer)
    }
}

impl With {
    fn answer(&mut self, job: ParseJob) -> Result<ParseAnswer, ParseError> {
        match self {
            Self::Child { link, deadline, .. } => {
                let mut link = Timed { link, deadline: *deadline };
                let answer = send(&mut link, &job.encode_to_vec())
                    .and_then(|()| receive(&mut link))
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ParseError::Late,
                        io::ErrorKind::InvalidData => ParseError::Nonsense,
                        _ => ParseError::Failed,
                    })?;
                let answer = answer.ok_or(ParseError::Failed)?;
                ParseAnswer::decode(answer.as_slice()).map_err(|_| ParseError::Nonsense)
            }
            #[cfg(test)]
            Self::Here(files) => Ok(answer(job, || files.pop_front())),
        }
    }
}

/// A stream that fails when it takes too long, however slowly the other side goes on.
struct Timed<'a> {
    link: &'a mut UnixStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl io::Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.link.set_read_timeout(self.left()?)?;
        self.link.read(buffer)
    }
}

impl io::Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.link.set_write_timeout(self.left()?)?;
        self.link.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.link.flush()
    }
}

/// A message behind its length: 4 bytes, big endian, as in all frames of ours.
fn send(link: &mut impl io::Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|it| *it as usize <= MESSAGE);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    link.write_all(&[&length.to_be_bytes(), message].concat())
}

/// `None`: the other side has closed.
pub(crate) fn receive(link: &mut impl io::Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match link.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Not what it says, but what comes.
    let mut message = Vec::new();
    link.take(length as u64).read_to_end(&mut message)?;
    if message.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

/// A child that does not outlive our interest in it.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Whatever it would still say, nobody hears it.
            let _ = self.0.kill();
            // It may hang on a file server that does not answer, where even this signal waits.
            if let Ok(pidfd) = pidfd(&self.0) {
                let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
                let _ = poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
            }
            let _ = self.0.try_wait();
        }
    }
}

/// The hidden verb.
pub fn run(args: &ParseArgs) -> Result<(), ChildError> {
    let link =
        rustix::io::dup(io::stdin().as_fd()).map_err(|error| ChildError::ByHand(error.into()))?;
    let mut link = UnixStream::from(link);
    link.peer_addr().map_err(ChildError::ByHand)?;
    // Refused where it is not ours to say.
    let _ = survival::be_ordinary();
    let user = args.uid.zip(args.gid);
    privileges::settle(user)?;
    bound().map_err(ChildError::Limits)?;
    // As much of it as the kernel knows; without, it is still nobody with no capability.
    let _ = privileges::confine_wholly();
    let mut files = FIRST..;
    while let Some(job) = receive(&mut link).map_err(ChildError::ByHand)? {
        let job = ParseJob::decode(job.as_slice())
            .map_err(|error| ChildError::ByHand(io::Error::other(error)))?;
        // SAFETY: core has put its files there, one behind the other; nothing else of this process has
        // them, and each is taken once. Where there is none, reading fails.
        let file = || files.next().map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        send(&mut link, &answer(job, file).encode_to_vec()).map_err(ChildError::ByHand)?;
    }
    Ok(())
}

/// Does what one job says.
pub(crate) fn answer(job: ParseJob, file: impl FnOnce() -> Option<File>) -> ParseAnswer {
    let answer = match (job.what, job.content) {
        (Some(What::Passage(wanted)), Some(content)) => Ok(passage::answer(&content, &wanted)),
        (Some(What::Git(wanted)), Some(content)) => Ok(git_head::answer(&content, &wanted)),
        (Some(what), None) => file()
            .ok_or_else(|| "there is no such file".to_owned())
            .and_then(|file| of_file(what, &file)),
        _ => Err("nothing was asked".to_owned()),
    };
    answer.unwrap_or_else(|error| ParseAnswer { error, ..Default::default() })
}

fn of_file(what: What, file: &File) -> Result<ParseAnswer, String> {
    match what {
        What::Symbols(wanted) => elf::symbols(file, &wanted),
        What::PerfMap(wanted) => perf_map::symbols(file, &wanted.addresses),
        What::Packages(wanted) => packages::changes(file, &wanted),
        What::Lines(wanted) => lines::find(file, &wanted),
        What::Index(wanted) => git_index::entries(file, wanted),
        What::Passage(_) | What::Git(_) => {
            Err("of this kind only what was read is taken".to_owned())
        }
    }
}

/// Neither all memory nor all time, no file, no core.
fn bound() -> io::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_DATA, DATA),
        (Resource::RLIMIT_AS, SPACE),
        (Resource::RLIMIT_CPU, CPU),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Now, s since 1970, and how far this host's calendar is from Greenwich, s: the process that parses
/// cannot read the file that says so.
pub(super) fn clock_offset() -> (i64, i32) {
    let now = jiff::Timestamp::now();
    (now.as_second(), jiff::tz::TimeZone::system().to_offset(now).seconds())
}
