//! The thread that reads the ring: real-time where allowed, because under a bomb of 300 tasks its
//! p99 is 0.1 ms with `SCHED_FIFO` and 25 ms without.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    panic::{self, AssertUnwindSafe},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use sensor_common::{
    event::{self, Alarm, Braked, Exec, Executed, Exited, Forked, Respawned},
    oom::{Killed, Marked},
    witness::{Left, Ran},
};

use crate::core::survival;

/// What the kernel side had to say.
#[derive(Debug)]
pub enum Event {
    Alarm(Alarm),
    Respawned(Box<Respawned>),
    Exec(Box<Exec>),
    Braked(Braked),
    Marked(Box<Marked>),
    Killed(Box<Killed>),
    Ran(Box<Ran>),
    Left(Left),
    // The lifecycle, where it was asked for at load.
    Forked(Forked),
    Executed(Box<Executed>),
    Exited(Exited),
}

/// Priority among real-time threads: above ordinary work, below what keeps a kernel alive (50 is
/// where threaded interrupts run).
pub(super) const PRIORITY: i32 = 40;

/// Alarms wake the reader; the rest is fetched this often, for a while after an alarm.
const BUSY: Duration = Duration::from_millis(50);
/// Looks at the busy pace after the last event.
const BUSY_LOOKS: u32 = 100;

/// The running thread; ends when dropped.
pub struct Reader {
    ring: OwnedFd,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the thread.
struct Bell {
    event: OwnedFd,
    /// It is rung for the thread to end; false: to look.
    stop: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // An eventfd takes eight bytes; what does not fit has been rung for already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Whether the thread is to end.
    fn heard(&self) -> bool {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        self.stop.load(Ordering::Acquire)
    }
}

impl Reader {
    /// Starts the thread. `handle` runs on it and must not wait for anything. `calm`: how often it looks when
    /// nothing happens at all. `told` learns whether real-time scheduling was granted.
    pub fn start(
        ring: RingBuf<MapData>,
        realtime: bool,
        calm: Duration,
        told: impl FnOnce(io::Result<()>) + Send + 'static,
        handle: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(Bell { event, stop: AtomicBool::new(false) });
        let heard = Arc::clone(&bell);
        // SAFETY: the ring's descriptor is open as long as the ring.
        let watched = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        let thread = thread::Builder::new().name("ring".into()).spawn(move || {
            if realtime {
                told(become_realtime(PRIORITY));
            }
            survival::warm_up();
            read(ring, &heard, calm, handle);
        })?;
        Ok(Self { ring: watched, bell, thread: Some(thread) })
    }

    /// Has it look at once if there is anything to be read. Whoever is awake each second anyway does for it
    /// what would cost it a wake-up of its own.
    pub fn nudge(&self) {
        let mut waits = [PollFd::new(&self.ring, PollFlags::IN)];
        if poll(&mut waits, Some(&timespec(Duration::ZERO))).is_ok_and(|ready| ready > 0) {
            self.bell.ring();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.bell.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

fn read(mut ring: RingBuf<MapData>, bell: &Bell, calm: Duration, mut handle: impl FnMut(Event)) {
    let mut looks = 0u32;
    loop {
        let pause = if looks > 0 { BUSY } else { calm };
        // SAFETY: the ring's descriptor is open as long as the ring.
        let events = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let mut waits =
            [PollFd::new(&events, PollFlags::IN), PollFd::new(&bell.event, PollFlags::IN)];
        // Interrupted or timed out: look all the same.
        let _ = poll(&mut waits, Some(&timespec(pause)));
        let stopped = !waits[1].revents().is_empty() && bell.heard();
        looks = looks.saturating_sub(1);
        while let Some(item) = ring.next() {
            let event = parse(&item);
            // Somebody kills somebody all the time somewhere: no reason to look more often.
            if !matches!(event, Some(Event::Killed(_))) {
                looks = BUSY_LOOKS;
            }
            if let Some(event) = event
                // A mistake about one event must not leave the next ones unseen.
                && panic::catch_unwind(AssertUnwindSafe(|| handle(event))).is_err()
            {
                tracing::error!("an event of the kernel side could not be dealt with");
            }
        }
        // What was there when the stop came has been handed over.
        if stopped {
            return;
        }
    }
}

/// An event by its first word. `None` for one that this build does not know.
pub(crate) fn parse(bytes: &[u8]) -> Option<Event> {
    let tag = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    match tag {
        event::ALARM => take(bytes).map(Event::Alarm),
        event::RESPAWNED => take(bytes).map(|respawned| Event::Respawned(Box::new(respawned))),
        event::EXEC => take(bytes).map(|exec| Event::Exec(Box::new(exec))),
        event::BRAKED => take(bytes).map(Event::Braked),
        event::MARKED => take(bytes).map(|marked| Event::Marked(Box::new(marked))),
        event::KILLED => take(bytes).map(|killed| Event::Killed(Box::new(killed))),
        event::RAN => take(bytes).map(|ran| Event::Ran(Box::new(ran))),
        event::LEFT => take(bytes).map(Event::Left),
        event::FORKED => take(bytes).map(Event::Forked),
        event::EXECUTED => take(bytes).map(|exec| Event::Executed(Box::new(exec))),
        event::EXITED => take(bytes).map(Event::Exited),
        _ => None,
    }
}

fn take<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: long enough, and a Pod is valid whatever its bytes.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// For what works for the reader's reactions: it gives way to the reader itself.
pub const HELPER_PRIORITY: i32 = PRIORITY - 1;

/// Makes the calling thread real-time. What it starts is not.
pub fn become_realtime(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: a plain system call on the calling thread.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..900), tag in 0u32..13) {
            let mut tagged = tag.to_ne_bytes().to_vec();
            tagged.extend(&bytes);
            let expected = match tag {
                event::ALARM => tagged.len() >= size_of::<Alarm>(),
                event::RESPAWNED => tagged.len() >= size_of::<Respawned>(),
                event::EXEC => tagged.len() >= size_of::<Exec>(),
                event::BRAKED => tagged.len() >= size_of::<Braked>(),
                event::MARKED => tagged.len() >= size_of::<Marked>(),
                event::KILLED => tagged.len() >= size_of::<Killed>(),
                event::RAN => tagged.len() >= size_of::<Ran>(),
                event::LEFT => tagged.len() >= size_of::<Left>(),
                event::FORKED => tagged.len() >= size_of::<Forked>(),
                event::EXECUTED => tagged.len() >= size_of::<Executed>(),
                event::EXITED => tagged.len() >= size_of::<Exited>(),
                _ => false,
            };
            prop_assert_eq!(parse(&tagged).is_some(), expected);
            let _ = parse(&bytes);
        }
    }
}
