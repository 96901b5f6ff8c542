//! Looks through the whole file while it is in use: it takes seconds for each GiB, and nobody shall wait for
//! that. What is damaged is replaced by what can be read of it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::InterruptHandle;

use super::{FILE, LogError, queue::Queue, schema};

/// Between two looks: readers that meet damage say so each time.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Check {
    state_dir: PathBuf,
    queue: Arc<Queue>,
    last: Mutex<Option<Look>>,
}

struct Look {
    began: Instant,
    thread: thread::JoinHandle<()>,
    interrupt: InterruptHandle,
}

impl Check {
    pub fn new(state_dir: &Path, queue: Arc<Queue>) -> Self {
        Self { state_dir: state_dir.to_owned(), queue, last: Mutex::default() }
    }

    /// Begins to look, unless somebody does or has just done so.
    pub fn start(&self) {
        let mut last = self.last();
        if last.as_ref().is_some_and(|it| !it.thread.is_finished() || it.began.elapsed() < PAUSE) {
            return;
        }
        match self.look() {
            Ok(look) => *last = Some(look),
            Err(why) => tracing::warn!("the log is not looked through: {why}"),
        }
    }

    fn look(&self) -> Result<Look, String> {
        let connection =
            schema::open_to_check(&self.state_dir).map_err(|error| error.to_string())?;
        let interrupt = connection.get_interrupt_handle();
        let (path, queue) = (self.state_dir.join(FILE), Arc::clone(&self.queue));
        let thread = thread::Builder::new()
            .name("record-check".into())
            .spawn(move || {
                // Other errors: it was interrupted, or the disk fails, which the writer notices as well.
                if let Err(LogError::Corrupt { why, .. }) = schema::check(&connection, &path) {
                    queue.damaged(why);
                }
            })
            .map_err(|error| error.to_string())?;
        Ok(Look { began: Instant::now(), thread, interrupt })
    }

    /// Ends the look that is under way.
    pub fn end(&self) {
        if let Some(look) = &*self.last() {
            look.interrupt.interrupt();
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Look>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
