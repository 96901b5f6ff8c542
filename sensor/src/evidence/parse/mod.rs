//! Decodes foreign files in a process of its own, `sensor parse`: an unprivileged user that may open
//! nothing, connect to nobody and take little memory. core hands it open files and questions; a
//! file that makes it crash or hang costs the answers about that gathering and nothing else.
//!
//! - `elf`: functions of executables and libraries
//! - `perf_map`: functions that a runtime compiled
//! - `packages`: what package managers did
//! - `lines`: lines of logs, those that are alike once
//! - `git_index`: what git last saw of a work tree

pub(crate) mod elf;
pub(crate) mod git_index;
pub(crate) mod lines;
mod moment;
pub(crate) mod packages;
pub(crate) mod perf_map;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
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
use sensor_proto::internal::v1::{
    ParseAnswer, ParseAnswers, ParseJob, ParseRequest, parse_job::What,
};

use crate::{
    core::survival,
    feed::{
        privileges::{self, PrivilegesError},
        supervisor::pidfd,
    },
};

/// Files of one request.
pub(crate) const FILES: usize = 64;
/// Of a request and of its answers, bytes: some thousand addresses, and names of 512 bytes at most.
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
    /// A test's, which has no such program: it decodes by itself.
    #[cfg(test)]
    here: bool,
}

/// Why there is no answer; one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("`sensor parse` cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("`sensor parse` did not answer in time")]
    Late,
    #[error("`sensor parse` failed on what it was given to read")]
    Failed,
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
        #[cfg(test)]
        if self.here {
            let one = |(file, what)| answer(ParseJob { what: Some(what) }, &File::from(file));
            return Ok(asked.into_iter().map(one).collect());
        }
        let deadline = Instant::now() + patience;
        let count = asked.len();
        let (files, jobs): (Vec<OwnedFd>, Vec<ParseJob>) =
            asked.into_iter().map(|(file, what)| (file, ParseJob { what: Some(what) })).unzip();
        let request = ParseRequest { jobs }.encode_to_vec();
        let (mut ours, theirs) = UnixStream::pair().map_err(ParseError::Start)?;
        let mut child = Running(self.start(files, theirs).map_err(ParseError::Start)?);
        let answers = exchange(&mut ours, &request, deadline)?;
        let ended = child.end(deadline);
        let answers = ParseAnswers::decode(answers.as_slice()).map_err(|_| ParseError::Failed)?;
        if !ended || answers.answers.len() != count {
            return Err(ParseError::Failed);
        }
        Ok(answers.answers)
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

/// Sends all, then reads until the other side closes.
fn exchange(
    link: &mut UnixStream,
    request: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, ParseError> {
    let left =
        || Some(deadline.saturating_duration_since(Instant::now())).filter(|it| !it.is_zero());
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ParseError::Late,
        _ => ParseError::Failed,
    };
    link.set_write_timeout(Some(left().ok_or(ParseError::Late)?)).map_err(broken)?;
    link.write_all(request).map_err(broken)?;
    link.shutdown(std::net::Shutdown::Write).map_err(broken)?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        link.set_read_timeout(Some(left().ok_or(ParseError::Late)?)).map_err(broken)?;
        match link.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
        if answer.len() > MESSAGE {
            return Err(ParseError::Failed);
        }
    }
}

/// A child that does not outlive our interest in it.
struct Running(Child);

impl Running {
    /// Whether it ended well by then.
    fn end(&mut self, deadline: Instant) -> bool {
        if let Ok(pidfd) = pidfd(&self.0) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
            // When it does not end in time it is killed.
            let _ = poll(&mut polled, Timespec::try_from(left).ok().as_ref());
        }
        matches!(self.0.try_wait(), Ok(Some(status)) if status.success())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
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
    let mut request = Vec::new();
    (&mut link).take(MESSAGE as u64).read_to_end(&mut request).map_err(ChildError::ByHand)?;
    let request = ParseRequest::decode(request.as_slice())
        .map_err(|error| ChildError::ByHand(io::Error::other(error)))?;
    let jobs = request.jobs.into_iter().take(FILES).zip(FIRST..);
    let answers = jobs.map(|(job, fd)| {
        // SAFETY: core has put one file for each job there; nothing else of this process has it. Where
        // it has not, reading fails.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        answer(job, &file)
    });
    let answers = ParseAnswers { answers: answers.collect() };
    link.write_all(&answers.encode_to_vec()).map_err(ChildError::ByHand)
}

/// Does what one job says.
pub(crate) fn answer(job: ParseJob, file: &File) -> ParseAnswer {
    let answer = match job.what {
        Some(What::Symbols(wanted)) => elf::symbols(file, &wanted),
        Some(What::PerfMap(wanted)) => perf_map::symbols(file, &wanted.addresses),
        Some(What::Packages(wanted)) => packages::changes(file, &wanted),
        Some(What::Lines(wanted)) => lines::find(file, &wanted),
        Some(What::Index(wanted)) => git_index::entries(file, wanted),
        None => Err("nothing was asked".to_owned()),
    };
    answer.unwrap_or_else(|error| ParseAnswer { error, ..Default::default() })
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
