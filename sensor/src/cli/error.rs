//! Why a verb failed: one line that says what and what to do, and the exit code for it.

use std::{error::Error, io, path::PathBuf};

use tonic::Code;

use super::text;
use crate::{config::ConfigError, feed::client::ConnectError};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The daemon's own sentence.
    #[error("{0}")]
    Refused(String),
    #[error("the sensor did not answer as it should: {0}")]
    Answer(String),
    /// The connection was lost, or the daemon ended a stream that goes on as a rule.
    #[error("the sensor answers no more: was it stopped? `sensor status` says how it is ({0})")]
    BrokenOff(String),
    #[error("the stream of records ended before record {next}: {why}; go on with --from {next}")]
    StreamEnded { next: u64, why: String },
    #[error("nothing was done")]
    Declined,
    #[error(
        "the bytes may be anything, and standard output is a terminal: write them to a file (> FILE)"
    )]
    Terminal,
    #[error("the {0} is no text and no file: leave --raw away, or use --json")]
    NotBytes(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write JSON: {0}")]
    Json(serde_json::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot write the configuration as TOML: {0}")]
    Toml(#[from] toml::ser::Error),
    #[error("{path} exists already: it is not overwritten; move it away for a new one", path = .0.display())]
    Exists(PathBuf),
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is {damage}; what could be read is shown, and a copy that is whole has the rest",
        path = .path.display()
    )]
    Partial { path: PathBuf, damage: String },
    #[error("cannot make the certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// A part of the daemon ended with an error.
    #[error("{}", sentence(.0.as_ref()))]
    Part(Box<dyn Error + Send + Sync>),
}

impl CliError {
    pub fn part(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Part(Box::new(error))
    }

    /// 0 where only the reader of a pipe has gone, 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Usage(_) => 2,
            _ => 1,
        }
    }

    /// For standard error: one line, safe to print; `None` where nobody wants to hear it.
    pub fn line(&self) -> Option<String> {
        (self.exit_code() != 0).then(|| text::safe(&self.to_string()))
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => Self::Output(kind.into()),
            None => Self::Json(error),
        }
    }
}

/// Whether nobody answers any more. What the daemon says itself comes from no other error.
pub fn is_lost(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal | Code::Unavailable)
        && status.source().is_some()
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            _ if is_lost(&status) => Self::BrokenOff(status.message().to_owned()),
            Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unavailable
            | Code::ResourceExhausted
            // It was done, and is not written down yet.
            | Code::DataLoss
                if !status.message().is_empty() =>
            {
                Self::Refused(status.message().to_owned())
            }
            code => Self::Answer(format!("{}: {}", code.description(), status.message())),
        }
    }
}

/// An error and what it came from, as far as its own text does not say it already.
fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = error.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let gone = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.exit_code(), gone.line()), (0, None));
        let full = CliError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit_code(), 1);
    }

    #[test]
    fn what_the_daemon_says_is_one_plain_line() {
        let error = CliError::from(tonic::Status::not_found("no \x1b[2J\nincident"));
        assert_eq!(error.line().unwrap(), "no \\x1b[2J\\x0aincident");
    }

    #[test]
    fn a_lost_connection_is_no_wrong_answer() {
        let lost = tonic::Status::from_error(io::Error::other("error reading a body").into());
        assert_eq!(
            CliError::from(lost).line().unwrap(),
            "the sensor answers no more: was it stopped? `sensor status` says how it is (error reading a body)"
        );
        let said = CliError::from(tonic::Status::unavailable("not yet"));
        assert_eq!(said.line().unwrap(), "not yet", "the daemon's own word");
        let odd = CliError::from(tonic::Status::internal("odd"));
        assert!(odd.line().unwrap().starts_with("the sensor did not answer as it should: "));
    }

    #[test]
    fn causes_are_told_once() {
        let inner = io::Error::other("disk on fire");
        let error =
            CliError::Part(Box::new(ConfigError::Unreadable { file: "/x".into(), source: inner }));
        assert_eq!(error.to_string(), "cannot read /x: disk on fire");
    }
}
