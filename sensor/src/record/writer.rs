//! The thread that writes: takes groups from the queue, commits them, answers who waits, and keeps
//! what it has when the disk fails until it works again.

use std::{
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Draft, FILE, LogError, LogHealth, LogOptions, NotDurable, Opened, PAUSED,
    queue::{Entry, Item, Queue, answer},
    room::Room,
    salvage::Salvaged,
    store::{Found, Store},
};
use crate::{host::Host, proto, proto::record::Body};

/// Between two attempts on a failing disk.
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks whether the file still has its name: what was written into one that nobody finds is
/// lost with the next crash.
const LOOK: Duration = Duration::from_secs(1);

/// At the end, a disk that fails gets this many attempts.
const LAST_ATTEMPTS: u32 = 2;

/// After a checkpoint or a removal that failed.
const TIDY_RETRY: Duration = Duration::from_secs(10);

/// Removals are told of this often at most, and at the end.
const REMOVALS_EVERY: Duration = Duration::from_secs(10);

/// Where the writer says what readers and the daemon may know.
pub(super) struct Reports {
    pub tail: watch::Sender<u64>,
    pub health: watch::Sender<LogHealth>,
    pub log_id: watch::Sender<String>,
}

fn set_aside_text(path: &Path, why: &str, salvaged: &Salvaged) -> String {
    let Salvaged { records, incidents, lost, unfinished, same_log } = salvaged;
    let rest = if *unfinished { ", older ones were left" } else { "" };
    let identity = if *same_log { "" } else { "; it is another log to its readers" };
    format!(
        "{why}; {records} records and {incidents} incidents were read out of it{rest}, {lost} could \
         not be{identity}; the old log is kept as {}",
        path.display()
    )
}

pub(super) struct Writer {
    directory: PathBuf,
    host: Host,
    options: LogOptions,
    queue: Arc<Queue>,
    reports: Reports,
    store: Option<Store>,
    /// The group that is being written, as often as it takes.
    carried: Vec<Item>,
    /// Why the disk fails, as long as it does.
    failing: Option<String>,
    /// What is wrong with the file, until it is replaced.
    corrupt: Option<String>,
    /// A log that has everything but its name, until that is regained.
    nameless: Option<Store>,
    /// When it was last seen whether the file still has its name.
    looked: Instant,
    /// The file was looked through for damage.
    checked: bool,
    room: Room,
    tidy_after: Option<Instant>,
    /// Nothing follows: what is still to come is written, nothing is tidied any more.
    ending: bool,
    /// Records that retention took and no record tells of yet.
    removed: u64,
    /// When the last record told of removals.
    told: Option<Instant>,
}

impl Writer {
    pub fn new(
        directory: &Path,
        host: &Host,
        options: LogOptions,
        queue: Arc<Queue>,
        reports: Reports,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            host: host.clone(),
            options,
            queue,
            reports,
            store: None,
            carried: Vec::new(),
            failing: None,
            corrupt: None,
            nameless: None,
            looked: Instant::now(),
            checked: false,
            room: Room::default(),
            tidy_after: None,
            ending: false,
            removed: 0,
            told: None,
        }
    }

    /// The first attempt to open the log; fails only for what will not pass by itself.
    pub fn open(&mut self) -> Result<Opened, LogError> {
        match self.open_store() {
            Ok(found) => Ok(Opened {
                log_id: self.reports.log_id.borrow().clone(),
                last_seq: found.last_seq,
                unclean: found.unclean || found.set_aside.is_some(),
                unsettled: found.unsettled,
                paused: found.settings.get(PAUSED).is_some_and(|value| value == "1"),
                vitals: found.vitals,
                set_aside: found.set_aside.map(|(path, _)| path),
                failing: None,
            }),
            Err(error @ (LogError::Directory { .. } | LogError::Database { .. })) => {
                let failing = Some(error.to_string());
                self.fail(error);
                Ok(Opened { failing, ..Opened::default() })
            }
            Err(error) => Err(error),
        }
    }

    fn open_store(&mut self) -> Result<Found, LogError> {
        // The check reads the whole file: once, not with every attempt on a failing disk.
        let check = !mem::replace(&mut self.checked, true);
        let (directory, host, options) = (&self.directory, &self.host, &self.options);
        let (store, found) = match (self.corrupt.take(), &mut self.nameless) {
            (Some(why), _) => Store::replace(directory, host, options, why)?,
            (None, Some(nameless)) => nameless.regain(directory, host, options)?,
            (None, None) => Store::open(directory, host, options, check)?,
        };
        self.nameless = None;
        self.reports.log_id.send_replace(store.log_id.clone());
        self.reports.tail.send_replace(found.last_seq);
        if let Some((path, why)) = &found.set_aside {
            let why = set_aside_text(path, why, &found.salvaged);
            tracing::error!("a new log was begun: {why}");
            self.note(false, &why);
        } else if found.salvaged.unfinished {
            self.note(false, "there was no time to copy all of the log that had lost its name");
        }
        self.count(found.salvaged.lost, "log_damage");
        if found.beheaded {
            let why = "the newest records are gone: numbers were given out that the log knows \
                       nothing of (was its write-ahead log removed, or an older copy put back?)";
            tracing::error!("{why}");
            self.note(false, why);
        }
        self.store = Some(store);
        Ok(found)
    }

    /// Until the queue is closed and written.
    pub fn run(mut self) {
        let mut end = None;
        let mut attempts_left = LAST_ATTEMPTS;
        loop {
            // While the disk fails, the queue holds the rest: its memory is bounded.
            if self.failing.is_none() {
                let group = self.queue.take(self.patience());
                end = group.end;
                self.ending = end.is_some();
                self.count(group.dropped_bulk, "record_memory");
                self.count(group.dropped_incident, "record_memory_incident");
                self.carried.extend(group.items);
            }
            self.look_at_room();
            match self.attempt() {
                Ok(()) if self.ending && self.carried.is_empty() => {
                    if self.removed == 0 {
                        break;
                    }
                    self.tell_removed();
                }
                Ok(()) => {}
                Err(error) => {
                    self.fail(error);
                    if self.queue.pause(RETRY) {
                        attempts_left -= 1;
                        if attempts_left == 0 {
                            break;
                        }
                    }
                }
            }
        }
        self.finish(end == Some(true));
    }

    /// How long to wait for a group: for ever, unless there is something of our own to write.
    fn patience(&self) -> Option<Duration> {
        if !self.carried.is_empty() {
            Some(Duration::ZERO)
        } else if self.removed > 0 {
            Some(
                self.told
                    .map_or(REMOVALS_EVERY, |told| REMOVALS_EVERY.saturating_sub(told.elapsed())),
            )
        } else if self.room.is_low() {
            Some(RETRY)
        } else {
            None
        }
    }

    /// On a disk that is nearly full, what room there is belongs to the incidents.
    fn look_at_room(&mut self) {
        if self.ending {
            return;
        }
        let Some(news) = self.room.look(&self.directory) else { return };
        let (recovered, why) = match news {
            Ok(why) => (true, why),
            Err(why) => (false, why),
        };
        if recovered {
            tracing::info!("{why}");
            self.queue.hold_bulk(None);
        } else {
            tracing::error!("{why}");
            self.queue.hold_bulk(Some(&why));
            let (bulk, rest) =
                mem::take(&mut self.carried).into_iter().partition(|item| item.entry.is_bulk());
            self.carried = rest;
            self.queue.put_back(bulk);
        }
        self.note(recovered, &why);
        if self.failing.is_none() {
            let detail = if recovered { String::new() } else { why };
            self.reports.health.send_replace(LogHealth { ok: recovered, detail });
        }
    }

    fn attempt(&mut self) -> Result<(), LogError> {
        // Who replaces the log anyway is told of the same damage.
        if let Some(why) = self.queue.take_damage().filter(|_| self.corrupt.is_none()) {
            return Err(LogError::Corrupt { path: self.directory.join(FILE), why });
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if self.store.as_ref().is_some_and(|store| !store.is_in_place()) {
                return Err(LogError::Gone(self.directory.join(FILE)));
            }
        }
        if self.store.is_none() {
            self.open_store()?;
        }
        let Some(store) = self.store.as_mut() else { return Ok(()) };
        if !self.carried.is_empty() {
            let durable = self.carried.iter().any(|item| item.receipt.is_some());
            let last = store.write(&self.carried, durable || self.failing.is_some())?;
            if self.carried.iter().any(|item| matches!(item.entry, Entry::Record(_))) {
                // Before the receipts: who has one may rely on it.
                self.reports.tail.send_replace(last);
            }
            let mut seq = last;
            for item in self.carried.drain(..).rev() {
                let record = matches!(item.entry, Entry::Record(_));
                answer(item.receipt, Ok(seq));
                seq -= u64::from(record);
            }
        }
        self.recover();
        self.tidy()
    }

    /// Checkpoints and removals. When they fail there is time to try again; only damage is urgent.
    fn tidy(&mut self) -> Result<(), LogError> {
        if self.ending || self.tidy_after.is_some_and(|after| Instant::now() < after) {
            return Ok(());
        }
        self.tidy_after = None;
        match self.try_tidy() {
            Err(error @ LogError::Corrupt { .. }) => Err(error),
            Err(error) => {
                tracing::warn!("the log cannot be tidied, it may grow: {error}");
                self.tidy_after = Some(Instant::now() + TIDY_RETRY);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn try_tidy(&mut self) -> Result<(), LogError> {
        loop {
            let idle = self.queue.is_empty();
            let Some(store) = self.store.as_mut() else { return Ok(()) };
            store.tidy(idle)?;
            let (removed, more) = store.shrink()?;
            self.removed += removed;
            // Seldom: if hardly anything fits, telling of removals would itself make the next.
            if self.removed > 0 && self.told.is_none_or(|told| told.elapsed() >= REMOVALS_EVERY) {
                self.tell_removed();
            }
            // Under load, one portion a group keeps up; while nobody waits it goes on.
            if !more || !idle {
                return Ok(());
            }
        }
    }

    fn tell_removed(&mut self) {
        self.told = Some(Instant::now());
        let count = mem::take(&mut self.removed);
        self.count(count, "retention");
    }

    /// Adds a record about what is not in the log.
    fn count(&mut self, count: u64, reason: &str) {
        if count > 0 {
            self.add(Body::Lost(proto::Lost { reason: reason.into(), count }));
        }
    }

    /// Adds a record about the log itself.
    fn note(&mut self, recovered: bool, why: &str) {
        let part = "record".into();
        self.add(Body::Degraded(proto::Degraded { part, why: why.to_owned(), recovered }));
    }

    fn add(&mut self, body: Body) {
        self.carried.push(Item::own(Entry::record(Draft::of("", body))));
    }

    fn fail(&mut self, error: LogError) {
        let why = error.to_string();
        // Whoever is answered below finds the state that the answer speaks of.
        self.reports.health.send_replace(LogHealth { ok: false, detail: why.clone() });
        self.queue.failing(&why, &self.carried);
        for item in &mut self.carried {
            answer(item.receipt.take(), Err(NotDurable::Waiting(why.clone())));
        }
        if self.failing.is_none() {
            tracing::error!("the log fails, records wait in memory: {why}");
            self.note(false, &why);
        }
        if !error.is_passing() {
            let store = self.store.take();
            if matches!(error, LogError::Gone(_)) {
                self.nameless = store;
            }
        }
        if let LogError::Corrupt { why, .. } = error {
            self.corrupt = Some(why);
        }
        self.failing = Some(why);
    }

    fn recover(&mut self) {
        if let Some(why) = self.failing.take() {
            tracing::info!("the log can be written again");
            self.queue.recovered();
            self.note(true, &format!("it can be written again; before: {why}"));
            let ok = !self.room.is_low();
            let detail =
                if ok { "" } else { "the disk is nearly full: only incidents are written" };
            let detail = detail.to_owned();
            self.reports.health.send_replace(LogHealth { ok, detail });
        }
    }

    fn finish(mut self, clean: bool) {
        let left = self.carried.len() + self.queue.take(Some(Duration::ZERO)).items.len();
        if left > 0 {
            tracing::error!("the log cannot be written; at least {left} records are lost");
            return;
        }
        if let Some(store) = self.store.as_mut().filter(|_| clean)
            && let Err(error) = store.finish()
        {
            tracing::error!("the log could not be closed in good order: {error}");
        }
    }
}
