//! How far the log goes, for threads that wait for more.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

#[derive(Debug, Default)]
pub struct Tail {
    seq: Mutex<u64>,
    moved: Condvar,
}

impl Tail {
    pub fn set(&self, seq: u64) {
        *self.seq.lock().unwrap_or_else(PoisonError::into_inner) = seq;
        self.moved.notify_all();
    }

    pub fn now(&self) -> u64 {
        *self.seq.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is another one than `seen`, but not longer than `limit`.
    pub fn changed(&self, seen: u64, limit: Option<Duration>) {
        let seq = self.seq.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |seq: &mut u64| *seq == seen;
        match limit {
            None => drop(self.moved.wait_while(seq, same)),
            Some(limit) => drop(self.moved.wait_timeout_while(seq, limit, same)),
        }
    }
}
