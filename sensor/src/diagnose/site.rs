//! The line of the script that a program runs.

use std::path::PathBuf;

use sensor_proto::internal::v1::passage_wanted::Of;

use super::{Answer, Files, Found, Link, command, words::Words};

/// A line, and the file that says so.
pub(super) struct Site {
    pub file: PathBuf,
    pub number: u64,
    pub text: Vec<u8>,
    pub evidence: String,
}

impl Site {
    /// The line that is wanted, if the program is a script that can be read.
    pub fn of(program: &Link, files: &mut dyn Files, wanted: Of) -> Option<Self> {
        let script = command::script(&program.argv)?;
        let file = command::resolve(&program.cwd, script.path)?;
        let Answer { evidence, found: Found::File(Some(line)) } = files.find(&file, wanted) else {
            return None;
        };
        Some(Self { number: line.line, text: line.text, file, evidence })
    }

    /// `line 3 of /w/run`
    pub fn place(&self, words: &Words<'_>) -> String {
        format!("line {} of {}", self.number, words.path(&self.file))
    }
}
