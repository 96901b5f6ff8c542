//! The line of the script that a program runs.

use std::path::PathBuf;

use super::{Answer, FileState, Files, Link, command, lines::Line, words::Words};

/// A line, and the file that says so.
pub(super) struct Site {
    pub file: PathBuf,
    pub number: usize,
    pub text: Vec<u8>,
    pub evidence: String,
}

impl Site {
    /// The line that `find` picks, if the program is a script that can be read.
    pub fn of(
        program: &Link,
        files: &mut dyn Files,
        find: impl for<'a> FnOnce(&'a [u8]) -> Option<Line<'a>>,
    ) -> Option<Self> {
        let script = command::script(&program.argv)?;
        let file = command::resolve(&program.cwd, script.path)?;
        let Answer { evidence, state: FileState::Present(content) } = files.read(&file) else {
            return None;
        };
        let Line { number, text } = find(&content)?;
        Some(Self { number, text: text.to_vec(), file, evidence })
    }

    /// `line 3 of /w/run`
    pub fn place(&self, words: &Words<'_>) -> String {
        format!("line {} of {}", self.number, words.path(&self.file))
    }
}
