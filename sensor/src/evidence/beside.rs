//! A thread that does what may wait for ever: reading memory of a process whose lock is held, opening
//! a file on a server that does not answer. Whoever asks goes on without it.

use std::{
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

/// Threads of this kind, those that hang included. More would be a leak: then nothing is looked at
/// that may hang.
const MOST: usize = 24;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Answers questions one by one. It ends when this is dropped, and after the question at which it
/// hangs.
pub(super) struct Beside<Q, A> {
    questions: Sender<Q>,
    answers: Receiver<A>,
    late: bool,
}

impl<Q: Send + 'static, A: Send + 'static> Beside<Q, A> {
    /// `prepare` runs on the thread before all else; its error is ours.
    pub fn start<E: From<io::Error> + Send + 'static>(
        name: &str,
        prepare: impl FnOnce() -> Result<(), E> + Send + 'static,
        mut answer: impl FnMut(Q) -> A + Send + 'static,
    ) -> Result<Self, E> {
        let alive = Alive::new().ok_or_else(|| {
            E::from(io::Error::other("too many earlier looks hang in the kernel"))
        })?;
        let (questions, incoming) = channel();
        let (outgoing, answers) = channel();
        let (ready, started) = channel();
        let work = move || {
            let _alive = alive;
            if ready.send(prepare()).is_err() {
                return;
            }
            for question in incoming {
                if outgoing.send(answer(question)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        started.recv().map_err(|_| io::Error::other("its thread ended"))??;
        Ok(Self { questions, answers, late: false })
    }

    /// `None` when the answer takes too long; from then on always.
    pub fn ask(&mut self, question: Q, wait: Duration) -> Option<A> {
        if self.late {
            return None;
        }
        self.questions.send(question).ok()?;
        let answer = self.answers.recv_timeout(wait).ok();
        self.late = answer.is_none();
        answer
    }
}

/// Counts a thread as long as it lives.
struct Alive;

impl Alive {
    fn new() -> Option<Self> {
        if ALIVE.fetch_add(1, Ordering::Relaxed) < MOST {
            return Some(Self);
        }
        ALIVE.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_hangs_is_left_behind() {
        let (hold, held) = channel::<()>();
        let answer = move |number: u32| {
            if number == 2 {
                // Until the test ends.
                let _ = held.recv();
            }
            number * 10
        };
        let mut beside = Beside::start("test", || Ok::<_, io::Error>(()), answer).unwrap();
        assert_eq!(beside.ask(1, Duration::from_mins(1)), Some(10));
        let began = Instant::now();
        assert_eq!(beside.ask(2, Duration::from_millis(20)), None);
        assert_eq!(beside.ask(3, Duration::from_mins(1)), None, "nobody waits twice");
        assert!(began.elapsed() < Duration::from_secs(30));
        drop(hold);
    }

    #[test]
    fn what_cannot_be_prepared_is_said() {
        let fail = || Err(io::Error::other("no"));
        let started = Beside::start("test", fail, |(): ()| ());
        assert_eq!(started.err().unwrap().to_string(), "no");
    }
}
