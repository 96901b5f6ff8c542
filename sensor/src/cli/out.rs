//! Standard output and what decides how it looks.

use std::io::{self, IsTerminal as _, Write as _};

use jiff::tz::TimeZone;
use prost_types::Timestamp;
use serde::Serialize;

use super::{error::CliError, style::Style};
use crate::{clock, host::Host};

/// What a text for people depends on beside its subject: all that is ambient, so that the texts
/// themselves are pure.
#[derive(Clone, Debug)]
pub struct View {
    pub style: Style,
    pub zone: TimeZone,
    pub now: Timestamp,
    /// Boot clock, ns, and the boot that it counts.
    pub now_ns: u64,
    pub boot_id: String,
}

impl View {
    /// Here and now, on standard output.
    pub fn current() -> Self {
        Self {
            style: Style::of_stdout(),
            zone: TimeZone::system(),
            now: clock::wall(),
            now_ns: clock::boot_ns(),
            boot_id: Host::read().boot_id,
        }
    }

    /// In UTC at the clock's zero, on a terminal of so many columns, or in a pipe.
    #[cfg(test)]
    pub fn plain(width: Option<usize>) -> Self {
        Self {
            style: Style { colour: false, width },
            zone: TimeZone::UTC,
            now: Timestamp::default(),
            now_ns: 0,
            boot_id: String::new(),
        }
    }
}

/// Writes text that is safe already.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Writes bytes as they are, which only a file or a program can take.
pub fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        return Err(CliError::Terminal);
    }
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// One document.
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    let mut document = serde_json::to_string_pretty(value)?;
    document.push('\n');
    print(&document)
}

/// One line of many.
pub fn json_line(value: &impl Serialize) -> Result<(), CliError> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    print(&line)
}
