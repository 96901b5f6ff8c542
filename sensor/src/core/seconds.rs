//! The desk's clock: a timer of the kernel's own, because the runtime's wakes its thread twice for every pause that
//! is longer than 64 ms.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Ticks once a second, for the first time at once.
pub struct Seconds(AsyncFd<OwnedFd>);

impl Seconds {
    /// To be called inside a tokio runtime.
    pub fn start() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let times = Itimerspec {
            it_interval: Timespec { tv_sec: 1, tv_nsec: 0 },
            it_value: Timespec { tv_sec: 0, tv_nsec: 1 },
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        // SAFETY: the descriptor is the timer's own, and stays what it is until that is dropped.
        Ok(Self(unsafe { AsyncFd::register(timer) }?))
    }

    /// The next second; those that were missed are one with it.
    pub async fn tick(&self) {
        let ticked = |timer: &AsyncFd<OwnedFd>| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8])?);
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                // The runtime is going down.
                return tokio::time::sleep(Duration::from_secs(1)).await;
            };
            if ready.try_io(ticked).is_ok() {
                // Nothing is left to be read: without a second attempt that finds so.
                return ready.clear_ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_was_missed_is_one() {
        let began = Instant::now();
        let seconds = Seconds::start().unwrap();
        seconds.tick().await;
        // Two go by.
        tokio::time::sleep(Duration::from_millis(2_200)).await;
        seconds.tick().await;
        seconds.tick().await;
        assert!(began.elapsed() >= Duration::from_secs(3));
    }
}
