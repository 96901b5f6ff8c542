//! One reader's stream of records or incidents: what the log has, at the reader's pace, then what comes.

use std::{
    collections::HashMap,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc, watch,
};
use tokio_stream::Stream;
use tonic::Status;

use super::{connections::Ticket, core::Core, records::Records};
use crate::{
    clock,
    host::Host,
    proto::{self, record::Body},
    record::{Changes, Filter, Page, Reader},
};

/// Records of a page: large enough that reading it costs little per record.
const PAGE: u32 = 1_000;

/// Pages that wait for the reader. With one being sent and one being read, a reader that sleeps
/// holds three, at most 64 KiB each or one large record.
const PAGES_AHEAD: usize = 1;

pub(super) type Batch<T> = Result<Vec<T>, Status>;

/// What the client gets; dropping it ends everything behind it.
pub(super) struct Answers<T> {
    batches: mpsc::Receiver<Batch<T>>,
    current: vec::IntoIter<T>,
    _ticket: Ticket,
}

pub(super) type RecordStream = Answers<proto::StreamRecordsResponse>;
pub(super) type IncidentStream = Answers<proto::WatchIncidentsResponse>;

impl<T> Unpin for Answers<T> {}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.current.next() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match self.batches.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(answers))) => self.current = answers.into_iter(),
            }
        }
    }
}

/// Answers with what `pump` sends, until it ends.
pub(super) fn answer<T, F>(
    ticket: Ticket,
    pump: impl FnOnce(mpsc::Sender<Batch<T>>) -> F,
) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, batches) = mpsc::channel(PAGES_AHEAD);
    let pump = pump(sender.clone());
    tokio::spawn(async move {
        if let Err(status) = pump.await {
            // The client may be the one who has gone.
            let _ = sender.send(Err(status)).await;
        }
    });
    Answers { batches, current: Vec::new().into_iter(), _ticket: ticket }
}

/// Fails where what was read is of another log than what was read first; no name: nothing was.
fn still(first: &mut Option<Arc<str>>, log_id: &Arc<str>) -> Result<(), Status> {
    if log_id.is_empty() || first.get_or_insert_with(|| Arc::clone(log_id)) == log_id {
        return Ok(());
    }
    let why = "the log was replaced by a new one (its numbers begin again): read that from 0";
    Err(Status::aborted(why))
}

/// What there is beyond the log as it was read.
pub(super) struct Follow {
    tail: watch::Receiver<u64>,
    unwritten: broadcast::Receiver<Arc<proto::Record>>,
    core: Core,
}

enum News {
    /// The log has more.
    Written,
    /// It cannot take this one now.
    Unwritten(Arc<proto::Record>),
    /// So many of those came too quickly.
    Missed(u64),
    /// There is nobody left to tell, or core has gone and this process ends, too.
    Gone,
}

impl Follow {
    pub fn new(core: &Core) -> Self {
        Self { tail: core.tail(), unwritten: core.unwritten(), core: core.clone() }
    }

    async fn news<T>(&mut self, sender: &mpsc::Sender<Batch<T>>) -> News {
        tokio::select! {
            () = sender.closed() => News::Gone,
            changed = self.tail.changed() => {
                if changed.is_ok() { News::Written } else { News::Gone }
            }
            record = self.unwritten.recv() => match record {
                Ok(record) => News::Unwritten(record),
                Err(RecvError::Lagged(missed)) => News::Missed(missed),
                Err(RecvError::Closed) => News::Gone,
            },
        }
    }
}

/// What is wanted.
pub(super) struct Wish {
    pub from_seq: u64,
    pub filter: Filter,
    /// Go on with what comes; none: end at the newest.
    pub follow: Option<Follow>,
}

pub(super) fn records(records: Records, wish: Wish, ticket: Ticket) -> RecordStream {
    answer(ticket, |sender| pump_records(records, wish, sender))
}

/// Until the client has gone, or all is sent and it does not follow.
async fn pump_records(
    records: Records,
    mut wish: Wish,
    sender: mpsc::Sender<Batch<proto::StreamRecordsResponse>>,
) -> Result<(), Status> {
    let mut log_id: Option<Arc<str>> = None;
    loop {
        // Marked before reading: what comes while the page is read wakes us afterwards.
        if let Some(follow) = &mut wish.follow {
            follow.tail.mark_unchanged();
        }
        let (from, filter) = (wish.from_seq, wish.filter.clone());
        let read = records.read(move |reader| reader.records(from, &filter, PAGE)).await;
        let known = log_id.clone().unwrap_or_default();
        let nothing = || Page { log_id: known, next_seq: from, end: true, ..Page::default() };
        let page = match &wish.follow {
            Some(follow) => follow.core.read_or(read, nothing)?,
            None => read?,
        };
        still(&mut log_id, &page.log_id)?;
        wish.from_seq = page.next_seq;
        let end = page.end;
        let batch = with_loss(page, records.host());
        if !batch.is_empty() && sender.send(Ok(batch)).await.is_err() {
            return Ok(());
        }
        if !end {
            continue;
        }
        let Some(follow) = &mut wish.follow else { return Ok(()) };
        loop {
            let log_id = log_id.as_deref().unwrap_or_default();
            let record = match follow.news(&sender).await {
                News::Gone => return Ok(()),
                News::Written => break,
                News::Unwritten(record) => numberless(&record, log_id, records.host()),
                News::Missed(count) => lost("unwritten", count, log_id, records.host()),
            };
            if !wish.filter.passes(&record) {
                continue;
            }
            let answer = proto::StreamRecordsResponse { record: Some(record) };
            if sender.send(Ok(vec![answer])).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// A record that the log cannot take now.
fn numberless(record: &proto::Record, log_id: &str, host: &Host) -> proto::Record {
    proto::Record {
        log_id: log_id.to_owned(),
        boot_id: host.boot_id.clone(),
        host: host.name.clone(),
        ..record.clone()
    }
}

/// Which incidents are wanted.
pub(super) struct Interest {
    pub kind: Option<proto::Kind>,
    pub state: Option<proto::State>,
    pub severity: Option<proto::Severity>,
    pub from_seq: u64,
    /// Those that the log may not have as they are now.
    pub held: Vec<proto::Incident>,
    pub follow: Follow,
}

impl Interest {
    fn fits(&self, incident: &proto::Incident) -> bool {
        self.kind.is_none_or(|kind| incident.kind() == kind)
            && self.state.is_none_or(|state| incident.state() == state)
            && self.severity.is_none_or(|severity| incident.severity >= severity as i32)
    }
}

pub(super) fn incidents(records: Records, interest: Interest, ticket: Ticket) -> IncidentStream {
    answer(ticket, |sender| pump_incidents(records, interest, sender))
}

/// Until the client has gone.
async fn pump_incidents(
    records: Records,
    mut interest: Interest,
    sender: mpsc::Sender<Batch<proto::WatchIncidentsResponse>>,
) -> Result<(), Status> {
    // Whether the client takes an incident for one that fits. Who goes on was told of some that nobody
    // remembers here: one that no longer fits is told once too often rather than never.
    let mut fitted: HashMap<String, bool> = HashMap::new();
    let resumed = interest.from_seq != 0;
    let mut log_id: Option<Arc<str>> = None;
    loop {
        interest.follow.tail.mark_unchanged();
        let from = interest.from_seq;
        let read = move |reader: &Reader| match from {
            0 => reader.all_incidents(),
            _ => reader.changes(from),
        };
        let known = log_id.clone().unwrap_or_default();
        let nothing =
            || Changes { log_id: known, incidents: Vec::new(), next_seq: from, end: true };
        let changes = interest.follow.core.read_or(records.read(read).await, nothing)?;
        still(&mut log_id, &changes.log_id)?;
        interest.from_seq = changes.next_seq;
        let mut incidents = with_held(changes.incidents, mem::take(&mut interest.held));
        loop {
            let mut batch = Vec::new();
            for incident in incidents {
                let fits = interest.fits(&incident);
                if !fitted.insert(incident.id.clone(), fits).unwrap_or(resumed) && !fits {
                    continue;
                }
                batch.push(proto::WatchIncidentsResponse {
                    incident: Some(incident),
                    log_id: log_id.as_deref().unwrap_or_default().to_owned(),
                    next_seq: interest.from_seq,
                });
            }
            if !batch.is_empty() && sender.send(Ok(batch)).await.is_err() {
                return Ok(());
            }
            if !changes.end {
                break;
            }
            incidents = match interest.follow.news(&sender).await {
                News::Gone => return Ok(()),
                News::Written => break,
                News::Unwritten(record) => transition(&record).into_iter().collect(),
                // Each tells its incident whole: the next one will do.
                News::Missed(_) => Vec::new(),
            };
        }
    }
}

/// The incident as a transition leaves it.
fn transition(record: &proto::Record) -> Option<proto::Incident> {
    match &record.body {
        Some(Body::Transition(transition)) => transition.incident.clone(),
        _ => None,
    }
}

/// What the log has, with what core knows better.
pub(super) fn with_held(
    mut written: Vec<proto::Incident>,
    held: Vec<proto::Incident>,
) -> Vec<proto::Incident> {
    for incident in held {
        match written.iter_mut().find(|known| known.id == incident.id) {
            Some(known) => *known = incident,
            None => written.push(incident),
        }
    }
    written
}

/// The page's records, behind a record that says how many are missing among them.
fn with_loss(page: Page, host: &Host) -> Vec<proto::StreamRecordsResponse> {
    let answer = |record| proto::StreamRecordsResponse { record: Some(record) };
    if page.missing == 0 {
        return page.records.into_iter().map(answer).collect();
    }
    let notice = lost("retention", page.missing, &page.log_id, host);
    std::iter::once(notice).chain(page.records).map(answer).collect()
}

/// Made for one reader, and not stored.
pub(in crate::feed) fn lost(reason: &str, count: u64, log_id: &str, host: &Host) -> proto::Record {
    let lost = proto::Lost { reason: reason.into(), count };
    proto::Record {
        log_id: log_id.to_owned(),
        seq: 0,
        at: Some(clock::wall()),
        boot_ns: clock::boot_ns(),
        boot_id: host.boot_id.clone(),
        host: host.name.clone(),
        incident: String::new(),
        priority: proto::Priority::Bulk as i32,
        body: Some(Body::Lost(lost)),
    }
}
