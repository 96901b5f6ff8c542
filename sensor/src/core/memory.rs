//! Memory: who holds it, every few seconds, on a thread of its own. Each sample is recorded, and the last
//! quarter of an hour is kept at hand for whoever explains an OOM kill.
//!
//! - `sampler`: makes one sample
//! - `outlook`: how fast trees grow just now, pure
//! - `pace`: when the next one is due, pure
//! - `recent`: the last quarter of an hour

mod outlook;
mod pace;
mod recent;
mod sampler;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

pub use self::{outlook::Outlook, recent::Recent, sampler::Sampler};
use crate::proto::{self, MemorySample};

/// Time over which the share of a CPU is told.
const SHARED_OVER: Duration = Duration::from_mins(1);

/// The thread, and what it has found; ends with this value.
pub struct Sampling {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
    stop: Option<mpsc::Sender<()>>,
}

struct Shared {
    recent: Arc<Recent>,
    cost: Mutex<Cost>,
}

/// What looking costs.
#[derive(Default)]
struct Cost {
    /// What looks.
    by: &'static str,
    /// Why /proc has to do; empty: it has not.
    refused: String,
    /// What went wrong at the last look; empty: nothing.
    failure: String,
    took_ns: u64,
    /// Of the last that was a walk over all tasks.
    walk_took_ns: u64,
    processes: u32,
    every: Duration,
    /// When samples were finished, and the CPU time that each took.
    spent: VecDeque<(Instant, Duration)>,
}

impl Cost {
    fn spend(&mut self, now: Instant, cpu: Duration) {
        self.spent.push_back((now, cpu));
        while self.spent.front().is_some_and(|(then, _)| now.duration_since(*then) > SHARED_OVER) {
            self.spent.pop_front();
        }
    }

    /// Percent of a CPU, up to the newest sample.
    fn share(&self) -> f64 {
        let (Some((first, _)), Some((last, _))) = (self.spent.front(), self.spent.back()) else {
            return 0.0;
        };
        // The first one was paid for before the time that is looked at.
        let cpu: Duration = self.spent.iter().skip(1).map(|(_, cpu)| *cpu).sum();
        let span = last.duration_since(*first).as_secs_f64();
        if span > 0.0 { cpu.as_secs_f64() / span * 100.0 } else { 0.0 }
    }
}

impl Sampling {
    /// Starts the thread. `keep` gets each sample as it is made.
    pub fn start(
        mut sampler: Sampler,
        mut keep: impl FnMut(&MemorySample) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let refused = sampler.refused().unwrap_or_default().to_owned();
        let cost = Mutex::new(Cost { by: sampler.by(), refused, ..Cost::default() });
        let shared = Arc::new(Shared { recent: Arc::default(), cost });
        let found = Arc::clone(&shared);
        let thread = thread::Builder::new().name("memory".into()).spawn(move || {
            let mut pace = pace::Pace::new(sampler.refused().is_none());
            let mut due = Instant::now();
            loop {
                match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
                let before = cpu_time();
                let sample = sampler.sample();
                let mut every = pace::CALM;
                if let Ok(sample) = &sample {
                    every = pace.after(sample);
                    found.recent.add(sample);
                    keep(sample);
                }
                found.note(&sample, sampler.walked(), every, cpu_time().saturating_sub(before));
                // Who was asleep does not make up for it.
                due = (due + every).max(Instant::now());
            }
        })?;
        Ok(Self { shared, thread: Some(thread), stop: Some(stop) })
    }

    /// The last quarter of an hour.
    pub fn recent(&self) -> Arc<Recent> {
        Arc::clone(&self.shared.recent)
    }

    /// What it costs, for `sensor status`.
    pub fn cost(&self) -> proto::SamplingStatus {
        let cost = self.shared.cost();
        proto::SamplingStatus {
            by: cost.by.into(),
            why: if cost.failure.is_empty() { &cost.refused } else { &cost.failure }.clone(),
            took_ns: cost.took_ns,
            walk_took_ns: cost.walk_took_ns,
            cpu_percent: cost.share(),
            every_ms: cost.every.as_millis() as u32,
            processes: cost.processes,
        }
    }
}

impl Shared {
    fn cost(&self) -> MutexGuard<'_, Cost> {
        // Nothing under the lock leaves it half changed.
        self.cost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(
        &self,
        sample: &io::Result<MemorySample>,
        walked: bool,
        every: Duration,
        cpu: Duration,
    ) {
        let mut cost = self.cost();
        cost.every = every;
        cost.spend(Instant::now(), cpu);
        match sample {
            Ok(sample) => {
                (cost.took_ns, cost.processes) = (sample.took_ns, sample.processes);
                if walked {
                    cost.walk_took_ns = sample.took_ns;
                }
                cost.failure.clear();
            }
            Err(error) => {
                if cost.failure.is_empty() {
                    tracing::warn!("memory cannot be looked at: {error}");
                }
                cost.failure = error.to_string();
            }
        }
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panicked: then there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_the_last_minute() {
        let mut cost = Cost::default();
        assert!(cost.share().abs() < 1e-9);
        let start = Instant::now();
        // 5 ms every 5 s, then 50 ms every second: of 60 s, 0.1 % and 5 %.
        for at in 0..100 {
            cost.spend(start + Duration::from_secs(5 * at), Duration::from_millis(5));
        }
        assert!((cost.share() - 0.1).abs() < 0.001, "{}", cost.share());
        for at in 0..=60 {
            let now = start + Duration::from_secs(500 + at);
            cost.spend(now, Duration::from_millis(50));
        }
        assert!((cost.share() - 5.0).abs() < 0.001, "{}", cost.share());
        assert_eq!(cost.spent.len(), 61);
    }
}
