//! The brake's gears: in which way this kernel keeps a marked process from forking, found by trial.
//!
//! What a kernel lists says little: `bpf` may stand in its list of security modules and be refused,
//! or be absent, and then the program attaches and is never called. So each gear is tried with a child
//! of ours: marked, it must stand before its fork has a child, and must go on as if nothing had been.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use sensor_common::brake::{Deed, Tally, tally_index};

use super::{
    lineage::Lineage,
    load::{LoadError, attach},
    table::Mapping,
};
use crate::clock;

/// Hidden subcommand of the child that is paused.
pub const CHILD: &str = "brake-test-child";

/// How long a trial may take: a loaded host may not get around to the child at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// The mark's number in a trial. Containments count up from 1.
const TRIAL: u32 = u32::MAX - 1;

/// A way to brake, best first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Gear {
    /// `lsm/task_alloc` pauses a fork, and refuses it where it cannot be paused.
    TaskAlloc,
    /// `fentry/kernel_clone` pauses a fork.
    KernelClone,
    /// `tp_btf/sys_enter` pauses a fork. Attached only while a mark holds.
    SysEnter,
    /// Signals from the fork and exec tracepoints: one child more for each process.
    Signals,
}

impl Gear {
    /// Those that pause, best first.
    pub const PAUSES: [Self; 3] = [Self::TaskAlloc, Self::KernelClone, Self::SysEnter];

    /// Name of its program in the object, and what that attaches to.
    pub(super) const fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::TaskAlloc => Some(("sensor_pause_task_alloc", "task_alloc")),
            Self::KernelClone => Some(("sensor_pause_clone", "kernel_clone")),
            Self::SysEnter => Some(("sensor_pause_syscall", "sys_enter")),
            Self::Signals => None,
        }
    }
}

impl fmt::Display for Gear {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::TaskAlloc => "forks are paused in lsm/task_alloc",
            Self::KernelClone => "forks are paused in fentry/kernel_clone",
            Self::SysEnter => "forks are paused at the system call",
            Self::Signals => "signals after each fork and exec",
        })
    }
}

/// A gear whose program this kernel has verified.
pub(super) struct Loaded<P = OwnedFd> {
    pub gear: Gear,
    pub program: P,
}

/// What can be tried, best first, and what cannot, and why.
pub(super) struct Gears<P = OwnedFd> {
    pub loaded: Vec<Loaded<P>>,
    pub refused: Vec<(Gear, String)>,
}

impl<P> Default for Gears<P> {
    fn default() -> Self {
        Self { loaded: Vec::new(), refused: Vec::new() }
    }
}

/// The brake as it works here.
pub struct Brake {
    gear: Gear,
    /// Better ones, and why not.
    refused: Vec<(Gear, String)>,
    tallies: Mapping<Tally>,
    /// Of a gear that is attached only while a mark holds: the program, and the link meanwhile.
    switch: Option<(OwnedFd, Mutex<Option<OwnedFd>>)>,
}

impl Brake {
    /// Tries what was loaded, best first, and keeps the first that works. Second: the links that hold
    /// it, which the guardian keeps as well.
    pub(super) fn choose(
        gears: Gears,
        lineage: &Lineage,
        tallies: Mapping<Tally>,
    ) -> Result<(Self, Vec<OwnedFd>), LoadError> {
        let attached = |program: &OwnedFd| attach(program.as_fd());
        let (chosen, refused) = first_that_works(gears, attached, || trial(lineage, &tallies))
            .map_err(LoadError::BrakeTest)?;
        let (gear, switch, links) = match chosen {
            // Taken off until it is needed.
            Some((Loaded { gear: Gear::SysEnter, program }, _)) => {
                (Gear::SysEnter, Some((program, Mutex::new(None))), Vec::new())
            }
            Some((Loaded { gear, .. }, link)) => (gear, None, vec![link]),
            None => (Gear::Signals, None, Vec::new()),
        };
        Ok((Self { gear, refused, tallies, switch }, links))
    }

    pub fn gear(&self) -> Gear {
        self.gear
    }

    /// Better gears, and why they do not work here.
    pub fn refused(&self) -> &[(Gear, String)] {
        &self.refused
    }

    /// Marks with this number are about to be made: counts from zero, and takes hold, which is 0.2 ms
    /// where it has to be attached first. An error leaves the signals.
    pub fn engage(&self, number: u32) -> io::Result<()> {
        self.tallies.set(tally_index(number), Tally::default());
        let Some((program, link)) = &self.switch else { return Ok(()) };
        let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.is_none() {
            *link = Some(attach(program.as_fd())?);
        }
        Ok(())
    }

    /// No mark holds any more.
    pub fn disengage(&self) {
        if let Some((_, link)) = &self.switch {
            link.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// What was done under a number since it was engaged.
    pub fn tally(&self, number: u32) -> Tally {
        self.tallies.get(tally_index(number)).unwrap_or_default()
    }
}

/// What works, with what holds it; and what does not, with the reason.
type Chosen<P, L> = (Option<(Loaded<P>, L)>, Vec<(Gear, String)>);

/// The first of the gears that can be attached and stands its trial, and why those before it do not. An
/// error: nothing could be tried.
fn first_that_works<P, L>(
    Gears { loaded, mut refused }: Gears<P>,
    attach: impl Fn(&P) -> io::Result<L>,
    trial: impl Fn() -> Result<(), TrialError>,
) -> io::Result<Chosen<P, L>> {
    for one in loaded {
        let link = match attach(&one.program) {
            Ok(link) => link,
            Err(error) => {
                refused.push((one.gear, unattachable(&error)));
                continue;
            }
        };
        match trial() {
            Ok(()) => return Ok((Some((one, link)), refused)),
            Err(TrialError::Child(error)) => return Err(error),
            Err(TrialError::NotPaused) => refused.push((one.gear, not_called(one.gear))),
            Err(TrialError::Broken(what)) => refused.push((one.gear, what)),
        }
    }
    Ok((None, refused))
}

/// Why a program that is attached does nothing.
fn not_called(gear: Gear) -> String {
    match gear {
        Gear::TaskAlloc => {
            "it is attached, but the kernel does not call it: `bpf` is not among its \
                            security modules (/sys/kernel/security/lsm)"
                .to_owned()
        }
        _ => "it is attached, but a fork came past it".to_owned(),
    }
}

enum TrialError {
    /// Nothing could be tried.
    Child(io::Error),
    NotPaused,
    Broken(String),
}

impl From<io::Error> for TrialError {
    fn from(error: io::Error) -> Self {
        Self::Child(error)
    }
}

/// A child that waits for a word, forks, and ends well if the fork did. Ended with this.
struct Subject {
    child: Child,
    go: ChildStdin,
    /// Held, so that its last word does not end it.
    _said: ChildStdout,
}

impl Subject {
    fn start() -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(CHILD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (go, said) = (child.stdin.take(), child.stdout.take());
        let (Some(go), Some(mut said)) = (go, said) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        said.read_exact(&mut [0])?;
        Ok(Self { child, go, _said: said })
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Waits until it stands. False: it ended without.
    fn stands(&self) -> io::Result<bool> {
        let end = Instant::now() + PATIENCE;
        loop {
            match waitpid(self.pid(), WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
                Some((_, status)) => return Ok(status.stopped()),
                None if Instant::now() > end => return Ok(false),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Lets it go on; whether it ended well.
    fn goes_on(&mut self) -> io::Result<bool> {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::CONT)?;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status.success()),
                None if Instant::now() > end => return Ok(false),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a program that was loaded is not attached.
fn unattachable(error: &io::Error) -> String {
    /// ENOTSUPP of include/linux/errno.h, which no C library has a name for.
    const NOT_SUPPORTED: i32 = 524;
    if error.raw_os_error() == Some(NOT_SUPPORTED) {
        return "this kernel cannot call programs from its own functions (524, ENOTSUPP), as on arm64 \
                before Linux 6.4"
            .to_owned();
    }
    format!("it cannot be attached: {error}")
}

/// Pauses a child of ours in its fork, and lets it go on.
fn trial(lineage: &Lineage, tallies: &Mapping<Tally>) -> Result<(), TrialError> {
    tallies.set(tally_index(TRIAL), Tally::default());
    let mut subject = Subject::start()?;
    let key = lineage
        .living(subject.child.id())
        .ok_or_else(|| io::Error::other("the child is not known"))?
        .key;
    lineage.mark(key, TRIAL, clock::boot_ns() + 2 * PATIENCE.as_nanos() as u64)?;
    subject.go.write_all(b"!")?;
    let stood = subject.stands()?;
    let tally = tallies.get(tally_index(TRIAL)).unwrap_or_default();
    if !stood || tally.of(Deed::Passed) > 0 {
        return Err(TrialError::NotPaused);
    }
    if tally.of(Deed::Paused) != 1 {
        return Err(TrialError::Broken(format!("a paused fork was counted as {:?}", tally.deeds)));
    }
    lineage.unmark(key)?;
    if !subject.goes_on()? {
        return Err(TrialError::Broken(
            "a paused fork did not go on when it was let go".to_owned(),
        ));
    }
    Ok(())
}

/// The child: says that it runs, waits for a word, forks.
pub fn child() -> io::Result<()> {
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    io::stdin().read_exact(&mut [0])?;
    // SAFETY: this process has one thread; its child ends at once, without any clean-up.
    let pid = unsafe { libc::fork() };
    match pid {
        // SAFETY: as above.
        0 => unsafe { libc::_exit(0) },
        1.. => waitpid(Pid::from_raw(pid), WaitOptions::empty()).map(|_| ()).map_err(Into::into),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_kernel_says_is_put_into_words() {
        let said = unattachable(&io::Error::from_raw_os_error(524));
        assert!(said.contains("arm64") && said.contains("524"), "{said}");
        let said = unattachable(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(said.contains("it cannot be attached: Operation not permitted"), "{said}");
    }

    /// Gears whose attachment ends with these errors, 0 for none, and then the trial does: what is
    /// chosen, held by which link, and what is said of the others.
    fn chosen(attached: &[(Gear, i32)], trial: fn() -> Result<(), TrialError>) -> Tried {
        let load = |&(gear, program)| Loaded { gear, program };
        let gears = Gears {
            loaded: attached.iter().map(load).collect(),
            refused: vec![(Gear::TaskAlloc, "the verifier says no".to_owned())],
        };
        let attach = |error: &i32| match error {
            0 => Ok("a link"),
            error => Err(io::Error::from_raw_os_error(*error)),
        };
        let (chosen, refused) = first_that_works(gears, attach, trial).unwrap();
        let refused = refused.into_iter().skip(1).collect();
        (chosen.map(|(loaded, _)| loaded.gear), refused)
    }
    type Tried = (Option<Gear>, Vec<(Gear, String)>);

    /// Of an arm64 kernel before 6.4, whose trampolines serve neither LSM nor fentry programs.
    const ARM64: [(Gear, i32); 3] =
        [(Gear::TaskAlloc, 524), (Gear::KernelClone, 524), (Gear::SysEnter, 0)];

    #[test]
    fn where_programs_cannot_be_called_from_the_kernels_functions_the_next_gear_is_named() {
        let (gear, refused) = chosen(&ARM64, || Ok(()));
        assert_eq!(gear, Some(Gear::SysEnter));
        let gears: Vec<Gear> = refused.iter().map(|(gear, _)| *gear).collect();
        assert_eq!(gears, [Gear::TaskAlloc, Gear::KernelClone]);
        assert!(refused.iter().all(|(_, why)| why.contains("524, ENOTSUPP")), "{refused:?}");
    }

    #[test]
    fn what_is_attached_and_not_called_is_no_brake() {
        let (gear, refused) = chosen(&ARM64, || Err(TrialError::NotPaused));
        assert_eq!(gear, None, "signals are left");
        assert_eq!(refused.last().unwrap().0, Gear::SysEnter);
        assert!(refused.last().unwrap().1.contains("came past it"), "{refused:?}");
        let (gear, _) = chosen(&[(Gear::TaskAlloc, 0), (Gear::SysEnter, 0)], || Ok(()));
        assert_eq!(gear, Some(Gear::TaskAlloc), "the best that works");
    }
}
