//! The guardian's own process.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd, FromRawFd as _, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use sensor_proto::internal::v1::{Arm, Claim, Estate, Order, Report, order::What};

use super::{
    GuardianError,
    frame::{Inbox, send},
    watch::{Due, Watch},
};
use crate::{
    clock,
    lineage::ProcessKey,
    proto,
    respond::{
        freeze::{thaw_group, wake},
        keys,
    },
};

/// Arguments of the hidden subcommand `sensor guardian`. Only core starts it.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardianArgs {
    /// Descriptor of the stream to core.
    #[arg(long)]
    pub link: RawFd,
    /// Descriptors to hold open: maps and links of the kernel side, which end with their last holder.
    #[arg(long, value_delimiter = ',')]
    pub keep: Vec<RawFd>,
    /// Descriptor of the socket on which a later core finds this guardian.
    #[arg(long)]
    pub listen: RawFd,
}

/// A new core that does not read must not keep us from the timers for longer.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);

/// New cores that ask at the same time; more than one is a mistake already.
const MOST_CLAIMANTS: usize = 4;

/// Guards until core ends the link and nothing is armed any more. `marked` lists the living
/// processes that carry a mark.
pub fn run(
    args: &GuardianArgs,
    marked: impl Fn(u32) -> Vec<ProcessKey>,
) -> Result<(), GuardianError> {
    // Names the process for people; nothing depends on it.
    let _ = rustix::thread::set_name(c"sensor-guardian");
    let mut post = Post::new(args, marked)?;
    while post.turn().map_err(GuardianError::Wait)? {}
    Ok(())
}

/// Everything that the guardian listens to.
struct Post<F> {
    watch: Watch,
    marked: F,
    /// `None`: core is gone.
    link: Option<(UnixStream, Inbox)>,
    listener: UnixListener,
    claimants: Vec<(UnixStream, Inbox)>,
    timer: OwnedFd,
    /// A new core guards what we guarded.
    dismissed: bool,
}

impl<F: Fn(u32) -> Vec<ProcessKey>> Post<F> {
    fn new(args: &GuardianArgs, marked: F) -> Result<Self, GuardianError> {
        let link = UnixStream::from(inherited(args.link)?);
        link.set_nonblocking(true).map_err(GuardianError::Start)?;
        let listener = UnixListener::from(inherited(args.listen)?);
        listener.set_nonblocking(true).map_err(GuardianError::Start)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)
            .map_err(|error| GuardianError::Start(error.into()))?;
        Ok(Self {
            watch: Watch::default(),
            marked,
            link: Some((link, Inbox::default())),
            listener,
            claimants: Vec::new(),
            timer,
            dismissed: false,
        })
    }

    /// Waits for something and does it; false: there is nothing left to guard.
    fn turn(&mut self) -> io::Result<bool> {
        self.set_timer()?;
        self.wait()?;
        // Core first: a claim is judged by whether core lives.
        self.hear_core();
        self.hear_claimants();
        for due in self.watch.due(clock::boot_ns()) {
            self.act(&due);
        }
        Ok(!self.dismissed && (self.link.is_some() || !self.watch.is_empty()))
    }

    /// Boot clock, so that a suspended host thaws as soon as it is back.
    fn set_timer(&self) -> io::Result<()> {
        let at = self.watch.next().unwrap_or(0);
        // Zero would switch the timer off; what is due already is due after a nanosecond.
        let at = if self.watch.is_empty() { 0 } else { at.max(1) };
        let value =
            Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as _ };
        let spec = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = [self.timer.as_fd(), self.listener.as_fd()]
            .into_iter()
            .chain(self.link.iter().map(|(stream, _)| stream.as_fd()))
            .chain(self.claimants.iter().map(|(stream, _)| stream.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hear_core(&mut self) {
        let Some((stream, inbox)) = &mut self.link else { return };
        let open = receive(stream, inbox);
        loop {
            match inbox.next::<Order>() {
                Ok(Some(Order { what: Some(What::Arm(arm)) })) => self.watch.arm(arm),
                Ok(Some(Order { what: Some(What::Disarm(disarm)) })) => {
                    self.watch.disarm(&disarm.incident);
                }
                Ok(Some(_)) => {}
                Ok(None) if open => return,
                // What was cut off by its death was never ordered.
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "core speaks gibberish: guarding on without it");
                    break;
                }
            }
        }
        self.link = None;
        if !self.watch.is_empty() {
            let incidents = self.watch.armed().count();
            tracing::warn!(incidents, "core is gone: the guardian thaws in time");
        }
    }

    fn hear_claimants(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.claimants.len() < MOST_CLAIMANTS && admitted(&stream) {
                self.claimants.push((stream, Inbox::default()));
            }
        }
        for (stream, mut inbox) in std::mem::take(&mut self.claimants) {
            let open = receive(&stream, &mut inbox);
            loop {
                match inbox.next::<Claim>() {
                    Ok(Some(claim)) if self.answer(&stream, claim) => {}
                    Ok(None) if open => {
                        self.claimants.push((stream, inbox));
                        break;
                    }
                    _ => break,
                }
            }
        }
    }

    /// False: the claimant is not listening.
    fn answer(&mut self, stream: &UnixStream, claim: Claim) -> bool {
        let mut estate = Estate::default();
        if self.link.is_some() {
            "the core of this guardian is alive".clone_into(&mut estate.refused);
        } else if claim.leave {
            self.dismissed = true;
            return true;
        } else {
            estate.armed = self.watch.armed().map(|arm| self.now_carrying(arm)).collect();
        }
        let blocking = stream.set_nonblocking(false);
        let sent = blocking.and_then(|()| send(stream, &estate));
        sent.and_then(|()| stream.set_nonblocking(true)).is_ok()
    }

    /// The order, with what has inherited the mark since.
    fn now_carrying(&self, arm: &Arm) -> Arm {
        let mut arm = arm.clone();
        let known = keys(&arm.processes);
        let carriers = (self.marked)(arm.mark).into_iter().filter(|key| !known.contains(key));
        let carriers =
            carriers.map(|key| proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns });
        arm.processes.extend(carriers);
        arm
    }

    fn act(&mut self, due: &Due) {
        let (arm, released) = match due {
            Due::Thaw(arm) => (arm, false),
            Due::Release(arm) => (arm, true),
        };
        if !arm.cgroup.is_empty()
            && let Some(problem) = thaw_group(Path::new(&arm.cgroup))
        {
            tracing::error!(incident = arm.incident, problem, "cannot thaw");
        }
        let mut processes = keys(&arm.processes);
        let carriers = (self.marked)(arm.mark);
        processes.extend(carriers.into_iter().filter(|key| !arm_lists(arm, *key)));
        // To the 10 ms of /proc: whoever took a pid within that time is at worst woken.
        let processes = wake(processes, |_| true);
        tracing::info!(incident = arm.incident, processes, released, "thawed by the guardian");
        if let Some((stream, _)) = &self.link {
            let report = Report { incident: arm.incident.clone(), processes, released };
            // A core that has stopped reading learns it from the processes themselves.
            if let Err(error) = send(stream, &report) {
                tracing::warn!(%error, "core does not take the guardian's report");
            }
        }
    }
}

fn arm_lists(arm: &Arm, key: ProcessKey) -> bool {
    arm.processes.iter().any(|listed| listed.pid == key.tgid && listed.start_ns == key.start_ns)
}

/// Reads what is there without waiting; false: the other end is gone.
fn receive(mut stream: &UnixStream, inbox: &mut Inbox) -> bool {
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => inbox.push(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Only the user that we run as, which is root outside of tests, may ask what we guard.
fn admitted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    let peer = rustix::net::sockopt::socket_peercred(stream);
    peer.is_ok_and(|peer| peer.uid == own)
        && stream.set_nonblocking(true).is_ok()
        && stream.set_write_timeout(Some(CLAIM_PATIENCE)).is_ok()
}

/// Takes over a descriptor that core opened for us.
fn inherited(number: RawFd) -> Result<OwnedFd, GuardianError> {
    // SAFETY: fcntl on a number that is no descriptor fails with EBADF and does nothing else.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        let error = io::Error::other(format!("{number} is no descriptor from core"));
        return Err(GuardianError::Start(error));
    }
    // SAFETY: open, as just seen; core made it for us and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
