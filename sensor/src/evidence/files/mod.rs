//! Reads a culprit's source files with no more rights than the culprit's user has.
//!
//! Who starts an incident chooses its paths. So a thread of its own, with the culprit's user and
//! groups for everything that touches files, opens them from the culprit's root directory: a project's
//! directory first, then the file beneath it, so that no link leads out of the project. Only
//! regular files are opened, without waiting for anything, and a reader that hangs on a dead file
//! server is left behind. What may be looked at: see [`project`].
//!
//! What is in a file nobody here looks at: the rules' questions about it go to `sensor parse`, one process
//! for all files of an incident. When it fails, the rest of the questions have no answer.

mod project;
pub(super) mod reader;

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::{Passage, PassageWanted, parse_job::What, passage_wanted::Of};

use self::reader::Reader;
use super::{
    EvidenceLog, Parser, Redactor,
    parse::{Dialogue, ParseError, passage},
    proc::Proc,
};
use crate::{
    diagnose::{Answer, Files, Found},
    lineage::ProcessKey,
    proto::{self, evidence::Content, file_fact},
};

pub use self::project::{Projects, homes};

/// Bytes read of one file. A package.json or Makefile has a few KiB.
pub const FILE_LIMIT: usize = 64 << 10;

/// Bytes read of one file that an investigator asks for: some 3,000 lines. All of it is redacted at once, so
/// that no secret is cut in two.
pub const SOURCE_LIMIT: usize = 128 << 10;

/// Files looked at for one incident: a cycle of a few steps, each with a walk up of a few levels.
const FILES: usize = 64;

/// For opening and reading all files of an incident: that takes about 1 ms, the rest is a file server that
/// hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// For all questions about what is in them: as much as the process that answers may compute. It takes a few
/// milliseconds to start and less than one to answer; the rest is a host that has other things to do.
const PARSED: Duration = Duration::from_secs(5);

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::evidence) enum FileState {
    /// The beginning of a regular file.
    Present(Vec<u8>),
    Absent,
    /// Why it may not be read.
    Refused(String),
}

/// The files of one incident.
pub struct SourceFiles<'a> {
    redactor: &'a Redactor,
    log: &'a mut EvidenceLog,
    projects: Projects,
    /// Why there is none, for people.
    reader: Result<Reader, String>,
    /// What remains of [`PATIENCE`].
    left: Duration,
    /// Who looks into them.
    parse: Result<Dialogue, ParseError>,
    /// It was asked.
    asked: bool,
    /// Evidence id and state of each that was looked at.
    known: HashMap<PathBuf, (String, FileState)>,
}

impl<'a> SourceFiles<'a> {
    /// Reads as `reader` does, and what `projects` allow.
    pub(in crate::evidence) fn new(
        reader: Result<Reader, reader::Error>,
        projects: Projects,
        parser: Option<&Parser>,
        redactor: &'a Redactor,
        log: &'a mut EvidenceLog,
    ) -> Self {
        // It starts while the first file is being read.
        let parse = parser.map_or(Err(ParseError::Nobody), |it| it.dialogue(Vec::new(), PARSED));
        Self {
            redactor,
            log,
            projects,
            reader: reader.map_err(|error| error.to_string()),
            left: PATIENCE,
            parse,
            asked: false,
            known: HashMap::new(),
        }
    }

    /// Whether what is in the files was read, or why not; `None`: nobody wanted to know.
    pub fn parsed(&self) -> Option<Result<(), &ParseError>> {
        self.asked.then(|| self.parse.as_ref().map(|_| ()))
    }

    fn look(&mut self, path: &Path) -> (FileState, u64) {
        let refused = |why: &str| (FileState::Refused(why.to_owned()), 0);
        let place = match self.projects.place(path) {
            Ok(place) => place,
            Err(why) => return refused(why),
        };
        let began = Instant::now();
        let read = match &mut self.reader {
            Ok(reader) => reader.read(place, FILE_LIMIT, self.left).unwrap_or_else(|| {
                self.reader = Err("an earlier file did not answer in time".to_owned());
                refused("it did not answer in time")
            }),
            Err(why) => refused(why),
        };
        self.left = self.left.saturating_sub(began.elapsed());
        read
    }

    /// Evidence id and state of what stands at a path.
    fn stands(&mut self, path: &Path) -> (String, FileState) {
        if let Some(known) = self.known.get(path) {
            return known.clone();
        }
        if self.known.len() >= FILES {
            // No evidence: nothing was looked at, and nothing can be concluded from it.
            let why = format!("{FILES} files were looked at already");
            return (String::new(), FileState::Refused(why));
        }
        let (state, size) = self.look(path);
        let known = (self.record(path, &state, size), state);
        self.known.insert(path.to_owned(), known.clone());
        known
    }

    /// What is wanted of a file that begins like this.
    fn passage(&mut self, content: &[u8], wanted: Of) -> Option<Passage> {
        let wanted = PassageWanted { of: Some(wanted) };
        self.asked = true;
        let parse = self.parse.as_mut().ok()?;
        let answer = parse.ask_of(content, What::Passage(wanted.clone())).and_then(|answer| {
            passage::checked(answer, &wanted, content.len()).map_err(|()| ParseError::Nonsense)
        });
        answer.unwrap_or_else(|error| {
            self.parse = Err(error);
            None
        })
    }

    fn record(&mut self, path: &Path, state: &FileState, size: u64) -> String {
        self.log.add(evidence(self.redactor, path, state, size))
    }
}

/// What stands at a path, as evidence.
fn evidence(redactor: &Redactor, path: &Path, state: &FileState, size: u64) -> proto::Evidence {
    let (path, mut redactions) = redactor.text(path.as_os_str().as_encoded_bytes());
    let mut fact = proto::FileFact { path, size, ..Default::default() };
    let mut truncated = false;
    match state {
        FileState::Present(content) => {
            fact.set_state(file_fact::State::Present);
            truncated = size > content.len() as u64;
            let (content, more) = redactor.text(content);
            fact.content = content;
            redactions += more;
        }
        FileState::Absent => fact.set_state(file_fact::State::Absent),
        FileState::Refused(why) => {
            fact.set_state(file_fact::State::Refused);
            fact.why.clone_from(why);
        }
    }
    proto::Evidence {
        name: "file".to_owned(),
        source: sensor_proto::json::escape(&fact.path),
        truncated,
        redactions,
        content: Some(Content::File(fact)),
        ..Default::default()
    }
}

/// A file that an investigator asks for, as evidence, or why it may not be read: a regular file beneath the
/// culprit's working directory, opened with the rights of the first of `processes` that is alive.
pub fn read_source(
    proc: &Proc,
    processes: &[ProcessKey],
    cwd: &[u8],
    path: &[u8],
    homes: &BTreeSet<PathBuf>,
    redactor: &Redactor,
) -> proto::Evidence {
    let (cwd, path) = (Path::new(OsStr::from_bytes(cwd)), Path::new(OsStr::from_bytes(path)));
    let look = || -> Result<(FileState, u64), String> {
        let place = project::source(cwd, path, homes)?;
        let mut reader = Reader::start(proc, processes).map_err(|error| error.to_string())?;
        let read = reader.read(place, SOURCE_LIMIT, PATIENCE);
        read.ok_or_else(|| "it did not answer in time".to_owned())
    };
    let (state, size) = look().unwrap_or_else(|why| (FileState::Refused(why), 0));
    evidence(redactor, &cwd.join(path), &state, size)
}

impl Files for SourceFiles<'_> {
    fn find(&mut self, path: &Path, wanted: Of) -> Answer {
        let (evidence, state) = self.stands(path);
        let found = match state {
            FileState::Present(content) => Found::File(self.passage(&content, wanted)),
            FileState::Absent => Found::Absent,
            FileState::Refused(_) => Found::Refused,
        };
        Answer { evidence, found }
    }
}

#[cfg(test)]
mod tests;
