//! Reserve: tasks that the daemon holds while all is well, and gives back when an investigation is to begin and
//! others have taken all that the host or a group above us may have. The ballast of processes.
//!
//! No limit of tasks can be had for one process alone: `pid_max` and `threads-max` are the whole host's, and a group's limit
//! holds for all below it. Whoever forks at that moment may get what is given back; what was stopped before, as a
//! culprit is, does not fork.

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, Builder, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{process::Pid, thread::gettid};

use super::ladder::TASKS;

/// How many: what an agent wants to see left, and what the daemon's own parts may take in that moment.
const HELD: u64 = TASKS + TASKS / 2;

/// With less left, nothing is held: it would be missed by others.
const PLENTY: u64 = 5 * HELD;

/// A held thread only waits; the least that threads may have.
const STACK: usize = 16 << 10;

/// Tasks that are there to be given back.
#[derive(Debug, Default)]
pub struct Reserve {
    held: Option<Held>,
}

impl Reserve {
    /// Takes or gives, by how many tasks are left; `None`: nobody knows. How many were given back.
    pub fn tend(&mut self, left: Option<u64>) -> u64 {
        match left {
            Some(left) if left < TASKS => self.held.take().map_or(0, Held::give),
            Some(left) if left >= PLENTY && self.held.is_none() => {
                match Held::take(HELD) {
                    Ok(held) => self.held = Some(held),
                    Err(error) => tracing::warn!("no tasks are held for investigations: {error}"),
                }
                0
            }
            _ => 0,
        }
    }
}

/// For the kernel to take leave of a task.
const GONE: Duration = Duration::from_secs(1);

/// Threads that wait for nothing but their end.
#[derive(Debug)]
struct Held {
    wait: Arc<Wait>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Wait {
    over: Mutex<bool>,
    told: Condvar,
    /// Of those that wait.
    ids: Mutex<Vec<Pid>>,
}

impl Held {
    fn take(count: u64) -> io::Result<Self> {
        let mut held = Self { wait: Arc::default(), threads: Vec::new() };
        for _ in 0..count {
            let wait = Arc::clone(&held.wait);
            let waits = move || {
                let Wait { over, told, ids } = &*wait;
                ids.lock().unwrap_or_else(PoisonError::into_inner).push(gettid());
                let now = over.lock().unwrap_or_else(PoisonError::into_inner);
                drop(told.wait_while(now, |over| !*over));
            };
            let thread = Builder::new().name("reserve".into()).stack_size(STACK).spawn(waits)?;
            held.threads.push(thread);
        }
        Ok(held)
    }

    /// They are gone when this returns.
    fn give(mut self) -> u64 {
        let given = self.threads.len() as u64;
        self.end();
        given
    }

    fn end(&mut self) {
        let Wait { over, told, ids } = &*self.wait;
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        told.notify_all();
        for thread in self.threads.drain(..) {
            // It only waits.
            let _ = thread.join();
        }
        // The kernel counts a task for a moment after it has ended.
        let end = Instant::now() + GONE;
        let counts = |id: &Pid| Path::new(&format!("/proc/self/task/{id}")).exists();
        let ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
        while ids.iter().any(counts) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They give themselves their name.
    fn become_tasks(count: u64) {
        let end = Instant::now() + Duration::from_secs(20);
        while tasks() as u64 != count {
            assert!(Instant::now() < end, "{} tasks, not {count}", tasks());
            thread::yield_now();
        }
    }

    fn tasks() -> usize {
        let named = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it == "reserve\n")
        };
        std::fs::read_dir("/proc/self/task").unwrap().flatten().filter(named).count()
    }

    #[test]
    fn it_is_given_back_once_when_tasks_are_short_and_taken_when_there_are_plenty() {
        let mut reserve = Reserve::default();
        assert_eq!(reserve.tend(None), 0);
        assert_eq!(reserve.tend(Some(PLENTY - 1)), 0);
        assert_eq!(tasks(), 0);
        for _ in 0..2 {
            assert_eq!(reserve.tend(Some(PLENTY)), 0);
            become_tasks(HELD);
            // Between the two nothing changes.
            assert_eq!(reserve.tend(Some(TASKS)), 0);
            become_tasks(HELD);
            assert_eq!(reserve.tend(Some(TASKS - 1)), HELD);
            assert_eq!(tasks(), 0);
            assert_eq!(reserve.tend(Some(0)), 0);
        }
    }
}
