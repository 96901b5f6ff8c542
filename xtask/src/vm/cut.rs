//! The plug is pulled: a guest with a disk announces one incident after the other until it is killed, and
//! the next one has to know all that was announced, and to take up the investigation that ran. The host keeps
//! what QEMU was told to write, so this is a smoke test of the whole; what a disk may do to writes that were
//! not synced, the log's own tests play.

mod oom;

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};

pub use self::oom::run as run_oom;
use super::{Plan, attach, blank};
use crate::{place, step, test::Built};

const DISK_BYTES: u64 = 256 << 20;

/// From power to an answer, on a slow emulation of a machine that is busy.
const START: Duration = Duration::from_mins(10);

/// In real time, as its disk is.
const PROCESSORS: u8 = 2;

/// Between the first answer and the cut, ms.
const SHORTEST_MS: u64 = 500;
const LONGEST_MS: u64 = 12_000;

pub fn run(kernel: &str, times: u32) -> Result<()> {
    let (built, disk) = (Built::all()?, disk()?);
    let plan = Plan { processors: PROCESSORS, ..Plan::of(kernel, &built) };
    let machine = plan.machine("sensor.cut")?;
    let mut announced = HashSet::new();
    let (mut runs, mut taken_up) = (HashMap::new(), 0);
    for cut in 1..=times {
        let guest = Guest::start(&machine, &disk)?;
        guest.knows(&announced)?;
        taken_up += guest.takes_up(&mut runs)?;
        let before = announced.len();
        let end = Instant::now() + moment();
        while let Some(line) = guest.line(end) {
            announced.extend(line.strip_prefix("announced ").map(str::to_owned));
            runs.extend(Run::parse(&line));
        }
        let new = announced.len() - before;
        eprintln!(
            "{kernel}: cut {cut} of {times}: {new} incidents were announced since the last, all older are known; \
             {taken_up} investigations were taken up until now"
        );
    }
    let last = Guest::start(&machine, &disk)?;
    last.knows(&announced)?;
    taken_up += last.takes_up(&mut runs)?;
    last.tells_of_runs()?;
    println!(
        "{kernel}: {times} cuts, {} incidents announced, all of them known; {taken_up} times an investigation was taken up",
        announced.len()
    );
    Ok(())
}

/// An investigation as the guest tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    lives: u32,
    state: String,
}

impl Run {
    /// `run ID LIVES STATE`
    fn parse(line: &str) -> Option<(String, Self)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["run", id, lives, state] = words[..] else { return None };
        Some((id.to_owned(), Self { lives: lives.parse().ok()?, state: state.to_owned() }))
    }

    fn is_running(&self) -> bool {
        self.state == "running"
    }

    fn is_over(&self) -> bool {
        !self.is_running() && self.state != "queued"
    }
}

/// An empty file system in a file.
fn disk() -> Result<PathBuf> {
    let path = blank("cut.img", DISK_BYTES)?;
    let mut mkfs =
        Command::new(place::command("mkfs.ext4").context("mkfs.ext4 is missing (e2fsprogs)")?);
    step::must("mkfs.ext4", mkfs.args(["-q", "-F"]).arg(&path), START)?;
    Ok(path)
}

/// Some time until the cut, another one each time.
fn moment() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let span = LONGEST_MS - SHORTEST_MS;
    Duration::from_millis(SHORTEST_MS + u64::from(now.subsec_nanos()) / 1_000 % span)
}

/// A machine that is gone without a word when this is dropped.
struct Guest {
    machine: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn start(machine: &Command, disk: &Path) -> Result<Self> {
        let mut command = Command::new(machine.get_program());
        command.args(machine.get_args());
        let console = place::target().join("vm/cut.log");
        attach(&mut command, disk);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut machine = command.spawn().context("cannot start QEMU")?;
        let output = machine.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { machine, lines })
    }

    /// Until then; none: no more came.
    fn line(&self, end: Instant) -> Option<String> {
        self.lines.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
    }

    /// What it says until it has come up. Fails when it does not.
    fn comes_up(&self) -> Result<Vec<String>> {
        let end = Instant::now() + START;
        let mut said = Vec::new();
        loop {
            match self.line(end) {
                None => bail!(
                    "the guest did not come up; see {}",
                    place::target().join("vm/cut.log").display()
                ),
                Some(line) if line == "ready" => return Ok(said),
                Some(line) => said.push(line),
            }
        }
    }

    /// Fails when it has come up without one of these incidents.
    fn knows(&self, announced: &HashSet<String>) -> Result<()> {
        let mut missing = announced.clone();
        for line in self.comes_up()? {
            if let Some(id) = line.strip_prefix("known ") {
                missing.remove(id);
            }
        }
        if !missing.is_empty() {
            bail!("announced and not there any more: {missing:?}");
        }
        Ok(())
    }

    /// Fails when it says nothing of any investigation: then there was nothing to take up in all these cuts.
    fn tells_of_runs(&self) -> Result<()> {
        let end = Instant::now() + START;
        while let Some(line) = self.line(end) {
            if Run::parse(&line).is_some() {
                return Ok(());
            }
        }
        bail!("the guest says nothing of investigations")
    }

    /// How many of those that ran have begun another life. Fails when one has neither done that nor come to an
    /// end: one that was taken up as often as it may be is over.
    fn takes_up(&self, runs: &mut HashMap<String, Run>) -> Result<usize> {
        let mut waited: HashMap<String, Run> =
            runs.drain().filter(|(_, run)| run.is_running()).collect();
        let (end, mut taken_up) = (Instant::now() + START, 0);
        while !waited.is_empty() {
            let Some(line) = self.line(end) else {
                bail!("ran, and were not taken up: {waited:?}");
            };
            let Some((id, run)) = Run::parse(&line) else { continue };
            if let Some(before) = waited.get(&id) {
                let again = run.is_running() && run.lives > before.lives;
                taken_up += usize::from(again);
                if again || run.is_over() {
                    waited.remove(&id);
                }
            }
            runs.insert(id, run);
        }
        Ok(taken_up)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_of_an_investigation_is_read() {
        let (id, run) = Run::parse("run 4k2m-1 2 running").unwrap();
        assert_eq!((&*id, run.lives, run.is_running(), run.is_over()), ("4k2m-1", 2, true, false));
        for (state, over) in [("queued", false), ("interrupted", true), ("done", true)] {
            let (_, run) = Run::parse(&format!("run a 1 {state}")).unwrap();
            assert_eq!((run.is_running(), run.is_over()), (false, over), "{state}");
        }
        for other in ["", "ready", "run a one running", "run a 1", "announced a"] {
            assert_eq!(Run::parse(other), None, "{other}");
        }
    }
}
