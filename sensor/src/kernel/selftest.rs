//! The self-test at start: a child is forked, executes and exits, and what arrived is compared with
//! what is known to be true. Offsets that are off by a field give plausible nonsense otherwise.

use std::{
    io::{self, Read as _, Write as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sensor_common::FileId;

use super::{baseline::file_id, lineage::Lineage, load::LoadError};
use crate::lineage::Node;

/// Hidden subcommand of the child.
pub const CHILD: &str = "self-test-child";

/// How long the child may take to show up: the kernel side works at once, a loaded host may not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The child: says that it runs, then waits to be let go.
pub fn child() -> io::Result<()> {
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new()).map(|_| ())
}

/// Runs the test.
pub fn run(lineage: &Lineage) -> Result<(), LoadError> {
    let failed = |what: String| LoadError::SelfTest(what);
    let token = uuid::Uuid::new_v4().to_string();
    let mut child = Command::new("/proc/self/exe")
        .args([CHILD, &token])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot start a child: {error}")))?;
    let mut ready = [0];
    let started = child.stdout.as_mut().map_or(Ok(()), |stdout| stdout.read_exact(&mut ready));
    let pid = child.id();
    let seen = lineage.living(pid);
    let expected = Expected::of(pid, &token);

    drop(child.stdin.take());
    let ended = child.wait();
    started.and(ended).map_err(|error| failed(format!("the child did not run: {error}")))?;
    expected.and_then(|expected| expected.compare(seen)).map_err(failed)?;

    let deadline = Instant::now() + PATIENCE;
    while lineage.living(pid).is_some() {
        if Instant::now() > deadline {
            return Err(failed(format!("the exit of child {pid} was not seen")));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What is true of the child.
struct Expected {
    parent: u32,
    start_ns: u64,
    exe: FileId,
    cwd: FileId,
    token: Vec<u8>,
}

impl Expected {
    fn of(pid: u32, token: &str) -> Result<Self, String> {
        let unreadable = |error: io::Error| format!("cannot read the child's /proc entry: {error}");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(unreadable)?;
        // Field 22, counted behind the name, which may hold anything.
        let ticks: u64 = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
            .ok_or("the child's /proc/PID/stat has no start time")?;
        Ok(Self {
            parent: std::process::id(),
            start_ns: ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()),
            exe: file_id(&format!("/proc/{pid}/exe")).map_err(unreadable)?,
            cwd: file_id(&format!("/proc/{pid}/cwd")).map_err(unreadable)?,
            token: token.into(),
        })
    }

    fn compare(&self, seen: Option<Node>) -> Result<(), String> {
        let seen = seen.ok_or("the fork of a child was not seen")?;
        if seen.parent.is_none_or(|parent| parent.tgid != self.parent) {
            return Err(format!("the child's parent is {}, not {:?}", self.parent, seen.parent));
        }
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        if seen.key.start_ns.abs_diff(self.start_ns) > tick {
            return Err(format!(
                "the child started at {} ns, not {} ns",
                self.start_ns, seen.key.start_ns
            ));
        }
        let exec = seen.exec.ok_or("the exec of a child was not seen")?;
        if exec.argv.last() != Some(&self.token) {
            return Err(format!("the child's argv was misread as {:?}", exec.argv));
        }
        if exec.exe != self.exe {
            return Err(format!("the child's executable is {:?}, not {:?}", self.exe, exec.exe));
        }
        if exec.cwd != self.cwd {
            return Err(format!("the child's directory is {:?}, not {:?}", self.cwd, exec.cwd));
        }
        Ok(())
    }
}
