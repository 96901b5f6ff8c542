//! How far the log goes, for threads that wait for more; and when core has last said so.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

#[derive(Debug)]
pub struct Tail {
    said: Mutex<Said>,
    moved: Condvar,
}

#[derive(Debug)]
struct Said {
    seq: u64,
    at: Instant,
}

impl Default for Tail {
    fn default() -> Self {
        let said = Mutex::new(Said { seq: 0, at: Instant::now() });
        Self { said, moved: Condvar::new() }
    }
}

impl Tail {
    pub fn set(&self, seq: u64) {
        let mut said = self.said();
        if said.seq != seq {
            self.moved.notify_all();
        }
        *said = Said { seq, at: Instant::now() };
    }

    pub fn now(&self) -> u64 {
        self.said().seq
    }

    /// How long core has said nothing.
    pub fn silence(&self) -> Duration {
        self.said().at.elapsed()
    }

    /// Waits until it is another one than `seen`, but not longer than `limit`.
    pub fn changed(&self, seen: u64, limit: Option<Duration>) {
        let same = |said: &mut Said| said.seq == seen;
        match limit {
            None => drop(self.moved.wait_while(self.said(), same)),
            Some(limit) => drop(self.moved.wait_timeout_while(self.said(), limit, same)),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
