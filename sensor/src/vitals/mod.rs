//! The flight recorder: the host's vital signs once a second, always on, so that the minutes before an
//! incident exist. Reads a handful of small files of `/proc` that stay open, into one buffer.
//!
//! - `reading`: one look at the host
//! - `parse`: what stands in those files, pure
//! - `ring`: ten minutes of seconds, a day of minutes
//! - `top`: the trees that stood out in a minute
//! - [`usage`]: how full the host is in percent, where somebody has set thresholds
//! - [`pressure`]: how hard memory is to get, looked at faster the less is left

pub(crate) mod parse;
pub mod pressure;
mod reading;
mod ring;
mod top;
pub mod usage;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use self::reading::Probe;
pub use self::ring::{Rings, Span};
use crate::{
    clock,
    proto::{FlightRecord, TopTree, VitalsSample},
};

/// A recorder at work; ends with this value.
pub struct Recorder {
    rings: Arc<Mutex<Rings>>,
    thread: Option<thread::JoinHandle<()>>,
    stop: Option<mpsc::Sender<()>>,
}

impl Recorder {
    /// Starts its thread. `before`: what an earlier recorder had. `trees` are those that stand out at the
    /// moment. `keep` gets each sample as it is made.
    pub fn start(
        state_dir: &Path,
        before: Vec<VitalsSample>,
        trees: impl Fn() -> Vec<TopTree> + Send + 'static,
        keep: impl Fn(&VitalsSample) + Send + 'static,
    ) -> io::Result<Self> {
        let rings = Arc::new(Mutex::new(Rings::of(before)));
        let (stop, stopped) = mpsc::channel();
        let (shared, mut probe) = (Arc::clone(&rings), Probe::open(Path::new("/proc"), state_dir));
        let thread = thread::Builder::new().name("vitals".into()).spawn(move || {
            let every = Duration::from_secs(u64::from(Span::Second.seconds()));
            let mut due = Instant::now() + every;
            loop {
                match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
                let vitals = probe.read(clock::boot_ns());
                let trees = trees();
                let made = lock(&shared).add(clock::wall(), clock::boot_ns(), vitals, trees);
                made.iter().for_each(&keep);
                // Who was asleep does not make up for it.
                due = (due + every).max(Instant::now());
            }
        })?;
        Ok(Self { rings, thread: Some(thread), stop: Some(stop) })
    }

    /// All that is known up to now.
    pub fn record(&self) -> FlightRecord {
        FlightRecord { samples: lock(&self.rings).samples() }
    }

    /// The same from a moment of this boot on, boot clock, ns.
    pub fn since(&self, boot_ns: u64) -> FlightRecord {
        FlightRecord { samples: lock(&self.rings).since(boot_ns) }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It panicked: then there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

fn lock(rings: &Mutex<Rings>) -> MutexGuard<'_, Rings> {
    // Nothing under the lock leaves the rings half changed.
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}
