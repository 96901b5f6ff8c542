//! A finding and its evidence become a statement of cause, without any model.

use std::path::Path;

use crate::{
    detect::Finding,
    lineage::{FileId, ProcessKey},
    proto,
};

/// One process of the chain from the culprit down to the crossing.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub key: ProcessKey,
    pub alive: bool,
    /// Boot clock, ns; 0: forked only, or before the sensor.
    pub exec_ns: u64,
    /// As at exec, not yet redacted.
    pub argv: Vec<Vec<u8>>,
    /// Bytes of the argument area, shown in `argv` or not.
    pub argv_bytes: u32,
    /// Absolute, in the culprit's mount namespace; empty: unknown.
    pub cwd: Vec<u8>,
    pub exe: Vec<u8>,
    /// Executable as device and inode; zero: unknown.
    pub program: FileId,
    /// Hash of executable, argv and cwd; 0: never executed anything.
    pub strict: u64,
    /// Hash of executable and argv; 0 likewise.
    pub loose: u64,
}

/// What a rule may look at.
pub struct Case<'a> {
    pub finding: &'a Finding,
    /// Culprit first.
    pub chain: &'a [Link],
    /// Evidence id of the chain, for citation.
    pub chain_evidence: &'a str,
    pub files: &'a mut dyn Files,
}

/// What stands at a path. Every answer has become evidence, so that a diagnosis can cite it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Evidence id.
    pub evidence: String,
    pub state: FileState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// The beginning of a regular file.
    Present(Vec<u8>),
    Absent,
    /// Why it may not be read.
    Refused(String),
}

/// Reads files as the culprit's user, bounded.
pub trait Files {
    /// `path` is absolute, in the culprit's mount namespace.
    fn read(&mut self, path: &Path) -> Answer;
}

/// The best explanation that the rules have. Always answers: without a rule that knows more, with
/// the numbers of the finding.
pub fn diagnose(_case: &mut Case<'_>) -> proto::Diagnosis {
    unimplemented!("first rule")
}
