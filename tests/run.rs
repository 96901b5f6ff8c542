//! Runs a program to its end, but not for ever.

use std::{
    ffi::OsString,
    fs,
    io::{Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::NamedTempFile;

/// Between two looks at something that changes by itself: 10 ms is far below what tests assert.
const LOOK: Duration = Duration::from_millis(10);

/// 300 MB, on a disk that is busy.
const COPIED_WITHIN: Duration = Duration::from_mins(1);

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it ended well.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{}: {}{}", self.status, self.stderr, self.stdout);
        }
        Ok(self.stdout)
    }
}

/// Copies a program that will be executed. Another process does it: a file that is open for writing cannot be
/// executed, and whoever forks in this one meanwhile has what this one has open.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args([from, to]), COPIED_WITHIN)?.success()?;
    Ok(())
}

/// Writes a program that will be executed, by everybody: as [`copy_program`], and for the same reason.
pub fn write_program(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let mut draft = NamedTempFile::new()?;
    draft.write_all(text.as_ref())?;
    copy_program(draft.path(), path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Runs a command to its end, or kills it after `limit` and fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let words: Vec<OsString> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(Into::into).collect();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {words:?}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, limit).with_context(|| format!("{words:?}"));
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (text(stdout), text(stderr));
    let status = status.with_context(|| format!("it had said: {stdout}{stderr}"))?;
    Ok(Output { status, stdout, stderr })
}

/// Waits for a child's end; fails after `limit` and leaves the child alone.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let mut ended = None;
    let within = until(limit, || {
        ended = child.try_wait().transpose();
        ended.is_some()
    });
    match ended {
        Some(status) if within => Ok(status?),
        _ => bail!("still runs after {limit:?}"),
    }
}

/// Looks until it is so; whether it was in time.
pub fn until(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK);
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error still tells something.
            let _ = pipe.read_to_end(&mut all);
        }
        all
    })
}

fn text(reader: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}
