//! Reads a culprit's source files with no more rights than the culprit's user has.
//!
//! Who starts an incident chooses its paths. So a thread of its own, with the culprit's user and
//! groups for everything that touches files, opens them from the culprit's root directory: a project's
//! directory first, then the file beneath it, so that no link leads out of the project. Only
//! regular files are opened, without waiting for anything, and a reader that hangs on a dead file
//! server is left behind. What may be looked at: see [`project`].

mod project;
pub(super) mod reader;

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::reader::Reader;
use super::{EvidenceLog, Redactor, proc::Proc};
use crate::{
    diagnose::{Answer, FileState, Files},
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

/// For all files of an incident: reading them takes about 1 ms, the rest is a file server that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The files of one incident.
pub struct SourceFiles<'a> {
    redactor: &'a Redactor,
    log: &'a mut EvidenceLog,
    projects: Projects,
    /// Why there is none, for people.
    reader: Result<Reader, String>,
    answers: HashMap<PathBuf, Answer>,
    deadline: Instant,
}

impl<'a> SourceFiles<'a> {
    /// Reads as the first of `processes` that is alive, with what `projects` allow.
    pub fn new(
        proc: &Proc,
        processes: &[ProcessKey],
        projects: Projects,
        redactor: &'a Redactor,
        log: &'a mut EvidenceLog,
    ) -> Self {
        Self {
            redactor,
            log,
            projects,
            reader: Reader::start(proc, processes).map_err(|error| error.to_string()),
            answers: HashMap::new(),
            deadline: Instant::now() + PATIENCE,
        }
    }

    fn look(&mut self, path: &Path) -> (FileState, u64) {
        let refused = |why: &str| (FileState::Refused(why.to_owned()), 0);
        let place = match self.projects.place(path) {
            Ok(place) => place,
            Err(why) => return refused(why),
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        match &mut self.reader {
            Ok(reader) => reader.read(place, FILE_LIMIT, left).unwrap_or_else(|| {
                self.reader = Err("an earlier file did not answer in time".to_owned());
                refused("it did not answer in time")
            }),
            Err(why) => refused(why),
        }
    }

    fn record(&mut self, path: &Path, state: &FileState, size: u64) -> String {
        self.log.add(evidence(self.redactor, path, state, size))
    }
}

/// What stands at a path, as evidence.
fn evidence(redactor: &Redactor, path: &Path, state: &FileState, size: u64) -> proto::Evidence {
    let mut fact = proto::FileFact {
        path: path.as_os_str().as_encoded_bytes().to_vec(),
        size,
        ..Default::default()
    };
    let (mut redactions, mut truncated) = (0, false);
    match state {
        FileState::Present(content) => {
            fact.set_state(file_fact::State::Present);
            truncated = size > content.len() as u64;
            (fact.content, redactions) = redactor.text(content);
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
    fn read(&mut self, path: &Path) -> Answer {
        if let Some(answer) = self.answers.get(path) {
            return answer.clone();
        }
        if self.answers.len() >= FILES {
            // No evidence: nothing was looked at, and nothing can be concluded from it.
            let why = format!("{FILES} files were looked at already");
            return Answer { evidence: String::new(), state: FileState::Refused(why) };
        }
        let (state, size) = self.look(path);
        let answer = Answer { evidence: self.record(path, &state, size), state };
        self.answers.insert(path.to_owned(), answer.clone());
        answer
    }
}

#[cfg(test)]
mod tests;
