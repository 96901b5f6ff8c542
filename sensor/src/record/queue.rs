//! The bounded hand-over between callers and the thread that writes: two lanes, so that bulk can be
//! dropped and incidents cannot crowd it out, drained in the order of arrival.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prost::Message as _;
use tokio::sync::{broadcast, oneshot};

use super::{Draft, MAX_RECORD_BYTES, NotDurable};
use crate::{
    clock,
    proto::{self, record::Body},
};

/// How long after the one before it a group waits for company. A reader sees bulk this late at worst, a burst
/// costs two commits instead of one per record, and what comes alone wakes the thread once.
const LINGER: Duration = Duration::from_millis(50);

/// A group that is large enough to be written without waiting: beyond this, the fixed cost of a
/// commit is below a tenth of the whole.
const GROUP: usize = 512;

/// Largest group: bounds the transaction and how long a durable record behind it waits.
const GROUP_MAX: usize = 4_096;
const GROUP_MAX_BYTES: usize = 4 << 20;

/// What bulk may hold in memory while the disk is slow: over a second of the fastest load.
const BULK_MAX: usize = 65_536;
const BULK_MAX_BYTES: usize = 8 << 20;

/// What incidents may hold in memory: reached only when the disk fails for long while incidents go
/// on. All memory is bounded, so the oldest goes then, counted apart.
const INCIDENT_MAX_BYTES: usize = 32 << 20;

/// Memory that an entry takes beside its encoded bytes.
const OVERHEAD: usize = 160;

pub(super) type ReceiptSender = oneshot::Sender<Result<u64, NotDurable>>;

/// One thing to be written.
pub(super) enum Entry {
    Record(Row),
    Setting {
        key: &'static str,
        value: String,
    },
    /// A sample of the flight recorder that covers so many seconds, encoded.
    Vitals {
        span: u32,
        sample: Vec<u8>,
    },
}

/// A record as it is stored: what the columns say is not in the blob.
pub(super) struct Row {
    pub incident: String,
    pub priority: proto::Priority,
    pub kind: &'static str,
    /// Encoded record with `at`, `boot_ns` and the body only.
    pub blob: Vec<u8>,
    /// What is kept of it beside the record.
    pub projection: Option<Projection>,
}

/// What some records leave in a table of their own.
pub(super) enum Projection {
    /// As a transition leaves it.
    Incident(Box<proto::Incident>),
    Action {
        kind: i32,
        ok: bool,
    },
    /// As it is from now on.
    Investigation(Box<proto::Investigation>),
}

impl Projection {
    pub fn of(body: Option<Body>) -> Option<Self> {
        match body? {
            Body::Transition(transition) => {
                transition.incident.map(|incident| Self::Incident(Box::new(incident)))
            }
            Body::Action(action) => Some(Self::Action { kind: action.kind, ok: action.ok }),
            Body::Investigation(investigation) => {
                Some(Self::Investigation(Box::new(investigation)))
            }
            _ => None,
        }
    }
}

impl Entry {
    /// Stamps the draft with both clocks and encodes it, in the caller's thread.
    pub fn record(draft: Draft) -> Self {
        let Draft { incident, priority, body } = draft;
        let mut record = proto::Record {
            at: Some(clock::wall()),
            boot_ns: clock::boot_ns(),
            body: Some(body),
            ..Default::default()
        };
        if record.encoded_len() > MAX_RECORD_BYTES {
            let lost = proto::Lost { reason: "record_too_large".into(), count: 1 };
            record.body = Some(Body::Lost(lost));
        }
        let (kind, blob) = (record.kind(), record.encode_to_vec());
        let projection = Projection::of(record.body);
        Self::Record(Row { incident, priority, kind, blob, projection })
    }

    /// As it would be read if it were written, but for its number and what its run has in common.
    fn unwritten(&self) -> Option<Arc<proto::Record>> {
        let Self::Record(row) = self else { return None };
        let mut record = proto::Record::decode(row.blob.as_slice()).ok()?;
        record.incident.clone_from(&row.incident);
        record.priority = row.priority as i32;
        Some(Arc::new(record))
    }

    pub fn is_bulk(&self) -> bool {
        match self {
            Self::Record(row) => row.priority == proto::Priority::Bulk,
            Self::Setting { .. } => false,
            Self::Vitals { .. } => true,
        }
    }

    fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                // A projection is about as large as the transition that it comes from.
                Self::Record(row) => row.blob.len() * (1 + usize::from(row.projection.is_some())),
                Self::Setting { key, value } => key.len() + value.len(),
                Self::Vitals { sample, .. } => sample.len(),
            }
    }
}

pub(super) struct Item {
    order: u64,
    pub entry: Entry,
    pub receipt: Option<ReceiptSender>,
}

impl Item {
    /// What the writer itself has to say.
    pub fn own(entry: Entry) -> Self {
        Self { order: 0, entry, receipt: None }
    }
}

#[derive(Default)]
struct Lane {
    items: VecDeque<Item>,
    bytes: usize,
    dropped: u64,
}

impl Lane {
    fn push(&mut self, item: Item) {
        self.bytes += item.entry.bytes();
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.entry.bytes();
        Some(item)
    }

    fn drop_oldest(&mut self) {
        if let Some(item) = self.pop() {
            self.dropped += 1;
            answer(item.receipt, Err(NotDurable::Dropped));
        }
    }

    fn next_order(&self) -> u64 {
        self.items.front().map_or(u64::MAX, |item| item.order)
    }
}

#[derive(Default)]
struct State {
    bulk: Lane,
    incident: Lane,
    arrivals: u64,
    /// Entries that somebody waits for.
    urgent: usize,
    /// The thread was told of the current group's first entry.
    told: bool,
    /// When the newest group was taken.
    taken: Option<Instant>,
    /// Why the disk fails, as long as it does.
    failing: Option<String>,
    /// Why bulk has to wait, as long as it does.
    held: Option<String>,
    /// What was found to be wrong with the file.
    damage: Option<String>,
    /// Closed; true: in good order.
    closed: Option<bool>,
}

impl State {
    /// Bulk waits; at the end it gets its try all the same.
    fn holds_bulk(&self) -> bool {
        self.held.is_some() && self.closed.is_none()
    }

    /// What can be written now.
    fn len(&self) -> usize {
        let bulk = if self.holds_bulk() { 0 } else { self.bulk.items.len() };
        bulk + self.incident.items.len()
    }

    fn pop(&mut self) -> Option<Item> {
        if self.holds_bulk() {
            self.incident.pop()
        } else if self.bulk.next_order() < self.incident.next_order() {
            self.bulk.pop()
        } else {
            self.incident.pop()
        }
    }
}

/// A group in the order of arrival, and what had to be dropped before it.
#[derive(Default)]
pub(super) struct Group {
    pub items: Vec<Item>,
    pub dropped_bulk: u64,
    pub dropped_incident: u64,
    /// Nothing follows; true: the end is in good order.
    pub end: Option<bool>,
}

/// Records that cannot be written, for whoever wants to know of them all the same: so many may wait to
/// be passed on.
const UNWRITTEN: usize = 1_024;

pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    unwritten: broadcast::Sender<Arc<proto::Record>>,
}

impl Default for Queue {
    fn default() -> Self {
        let (unwritten, _) = broadcast::channel(UNWRITTEN);
        Self { state: Mutex::default(), wake: Condvar::new(), unwritten }
    }
}

impl Queue {
    /// Records as they come, while they cannot be written.
    pub fn unwritten(&self) -> broadcast::Sender<Arc<proto::Record>> {
        self.unwritten.clone()
    }

    fn tell(&self, entry: &Entry) {
        // Nobody may be listening.
        if self.unwritten.receiver_count() > 0
            && let Some(record) = entry.unwritten()
        {
            let _ = self.unwritten.send(record);
        }
    }

    /// Takes an entry; drops the oldest of its lane when that is full.
    pub fn push(&self, entry: Entry, mut receipt: Option<ReceiptSender>) {
        let mut state = self.lock();
        if state.closed.is_some() {
            answer(receipt, Err(NotDurable::Closed));
            return;
        }
        let held = state.held.as_ref().filter(|_| entry.is_bulk());
        if let Some(why) = state.failing.as_ref().or(held) {
            answer(receipt.take(), Err(NotDurable::Waiting(why.clone())));
            self.tell(&entry);
        }
        let urgent = receipt.is_some();
        let order = state.arrivals;
        state.arrivals += 1;
        let item = Item { order, entry, receipt };
        if item.entry.is_bulk() {
            state.bulk.push(item);
            while state.bulk.items.len() > BULK_MAX || state.bulk.bytes > BULK_MAX_BYTES {
                state.bulk.drop_oldest();
            }
            if state.holds_bulk() {
                return;
            }
        } else {
            state.incident.push(item);
            while state.incident.bytes > INCIDENT_MAX_BYTES {
                state.incident.drop_oldest();
            }
        }
        state.urgent += usize::from(urgent);
        let first = !mem::replace(&mut state.told, true);
        // Waking costs a system call: only when it changes what the thread would do.
        let wake = first || urgent || state.len() == GROUP;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// The next group. Waits for its first entry, at most `patience` (none: for ever), then, soon after the group
    /// before, for company unless somebody waits for a receipt.
    pub fn take(&self, patience: Option<Duration>) -> Group {
        let mut state = self.lock();
        let until = patience.map(|patience| Instant::now() + patience);
        while state.len() == 0 && state.closed.is_none() && state.damage.is_none() {
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return Group::default(),
                left => state = self.wait(state, left),
            }
        }
        while state.urgent == 0 && state.len() < GROUP && state.closed.is_none() {
            let left = state.taken.map_or(Duration::ZERO, |before| {
                (before + LINGER).saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                break;
            }
            state = self.wait(state, Some(left));
        }
        let mut group = Group {
            dropped_bulk: mem::take(&mut state.bulk.dropped),
            dropped_incident: mem::take(&mut state.incident.dropped),
            ..Group::default()
        };
        let mut bytes = 0;
        while group.items.len() < GROUP_MAX && bytes < GROUP_MAX_BYTES {
            let Some(item) = state.pop() else { break };
            bytes += item.entry.bytes();
            state.urgent = state.urgent.saturating_sub(usize::from(item.receipt.is_some()));
            group.items.push(item);
        }
        if !group.items.is_empty() {
            state.taken = Some(Instant::now());
        }
        if state.len() == 0 {
            state.told = false;
            state.urgent = 0;
            group.end = state.closed;
        }
        group
    }

    /// Somebody who looked through the file found damage: the thread is to replace it.
    pub fn damaged(&self, why: String) {
        self.lock().damage = Some(why);
        self.wake.notify_one();
    }

    pub fn take_damage(&self) -> Option<String> {
        self.lock().damage.take()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().len() == 0
    }

    /// The disk fails: whoever waits for a receipt is told, now and until [`Queue::recovered`]. `carried`: what
    /// the thread has taken already.
    pub fn failing(&self, why: &str, carried: &[Item]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.failing.replace(why.to_owned()).is_none() {
            let (bulk, incident) = (&state.bulk.items, &state.incident.items);
            let waiting = carried.iter().chain(bulk).chain(incident);
            waiting.for_each(|item| self.tell(&item.entry));
        }
        state.urgent = 0;
        for item in state.bulk.items.iter_mut().chain(&mut state.incident.items) {
            answer(item.receipt.take(), Err(NotDurable::Waiting(why.to_owned())));
        }
    }

    /// Bulk waits from now on (why), and whoever waits for some of it is told; or it waits no more.
    pub fn hold_bulk(&self, why: Option<&str>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.held = why.map(str::to_owned);
        match why {
            Some(why) => {
                for item in &mut state.bulk.items {
                    if item.receipt.is_some() {
                        state.urgent = state.urgent.saturating_sub(1);
                    }
                    answer(item.receipt.take(), Err(NotDurable::Waiting(why.to_owned())));
                }
            }
            None if state.len() > 0 => {
                state.told = true;
            }
            None => {}
        }
    }

    /// Takes back what could not be written, in front of all else.
    pub fn put_back(&self, items: Vec<Item>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for item in items.into_iter().rev() {
            let lane = if item.entry.is_bulk() { &mut state.bulk } else { &mut state.incident };
            lane.bytes += item.entry.bytes();
            lane.items.push_front(item);
        }
    }

    pub fn recovered(&self) {
        self.lock().failing = None;
    }

    /// Waits before the next attempt; true when the queue was closed meanwhile.
    pub fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed.is_some() {
                return state.closed.is_some();
            }
            state = self.wait(state, Some(left));
        }
    }

    /// Takes no more; the thread writes what is here and ends. The first call decides how.
    pub fn close(&self, clean: bool) {
        self.lock().closed.get_or_insert(clean);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match limit {
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

pub(super) fn answer(receipt: Option<ReceiptSender>, result: Result<u64, NotDurable>) {
    if let Some(receipt) = receipt {
        // Whoever asked may have gone; that changes nothing for the record.
        let _ = receipt.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(priority: proto::Priority, count: u64) -> Entry {
        let body = Body::Lost(proto::Lost { reason: "test".into(), count });
        Entry::record(Draft { incident: String::new(), priority, body })
    }

    fn count(entry: &Entry) -> u64 {
        let Entry::Record(row) = entry else { panic!("a setting") };
        match proto::Record::decode(row.blob.as_slice()).unwrap().body {
            Some(Body::Lost(lost)) => lost.count,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lanes_come_out_in_order_of_arrival() {
        let queue = Queue::default();
        for n in 0..100 {
            let priority =
                if n % 3 == 0 { proto::Priority::Incident } else { proto::Priority::Bulk };
            queue.push(lost(priority, n), None);
        }
        let group = queue.take(None);
        assert!(group.items.iter().map(|item| count(&item.entry)).eq(0..100));
        assert_eq!(group.end, None);
    }

    #[test]
    fn a_full_lane_drops_its_oldest_and_counts_them() {
        let queue = Queue::default();
        queue.push(lost(proto::Priority::Incident, 7), None);
        let many = BULK_MAX as u64 + 10;
        for n in 0..many {
            queue.push(lost(proto::Priority::Bulk, n), None);
        }
        queue.close(true);
        let (mut kept, mut dropped) = (Vec::new(), 0);
        loop {
            let group = queue.take(None);
            dropped += group.dropped_bulk;
            assert_eq!(group.dropped_incident, 0);
            kept.extend(group.items.iter().map(|item| count(&item.entry)));
            if group.end.is_some() {
                break;
            }
        }
        assert_eq!(kept[0], 7, "the incident's record stays although it is the oldest");
        assert_eq!(dropped + kept.len() as u64 - 1, many, "every record is kept or counted");
        assert!(kept[1..].iter().copied().eq(dropped..many), "what is dropped is the oldest");
        assert!(kept.len() <= BULK_MAX + 1);
    }

    #[test]
    fn a_failing_disk_answers_at_once() {
        let queue = Queue::default();
        let (sender, mut before) = oneshot::channel();
        queue.push(lost(proto::Priority::Incident, 1), Some(sender));
        queue.failing("full", &[]);
        let (sender, mut after) = oneshot::channel();
        queue.push(lost(proto::Priority::Incident, 2), Some(sender));
        for receipt in [&mut before, &mut after] {
            assert_eq!(receipt.try_recv().unwrap(), Err(NotDurable::Waiting("full".into())));
        }
        assert_eq!(queue.take(None).items.len(), 2, "both records are kept");
    }

    #[test]
    fn bulk_that_is_held_waits_while_incidents_pass() {
        let queue = Queue::default();
        queue.push(lost(proto::Priority::Bulk, 1), None);
        queue.hold_bulk(Some("full"));
        let (sender, mut receipt) = oneshot::channel();
        queue.push(lost(proto::Priority::Bulk, 2), Some(sender));
        assert_eq!(receipt.try_recv().unwrap(), Err(NotDurable::Waiting("full".into())));
        queue.push(lost(proto::Priority::Incident, 3), None);
        let counts = |group: Group| -> Vec<u64> {
            group.items.iter().map(|item| count(&item.entry)).collect()
        };
        assert_eq!(counts(queue.take(None)), [3]);
        assert!(queue.take(Some(Duration::ZERO)).items.is_empty());
        queue.hold_bulk(None);
        assert_eq!(counts(queue.take(None)), [1, 2]);
        // At the end nothing is held back any more.
        queue.hold_bulk(Some("full"));
        queue.push(lost(proto::Priority::Bulk, 4), None);
        queue.close(true);
        assert_eq!(counts(queue.take(None)), [4]);
    }

    #[test]
    fn a_record_that_no_message_could_carry_becomes_a_loss() {
        let text = vec![b'x'; MAX_RECORD_BYTES];
        let evidence = proto::Evidence {
            content: Some(proto::evidence::Content::Text(text)),
            ..Default::default()
        };
        let Entry::Record(row) = Entry::record(Draft::of("i", Body::Evidence(evidence))) else {
            panic!("a setting")
        };
        assert_eq!((row.kind, row.incident.as_str()), ("lost", "i"));
    }
}
