//! One reader's stream of records: pages from the log at the reader's pace, then what comes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::Status;

use super::{connections::Ticket, records::Records};
use crate::{
    clock,
    host::Host,
    proto::{self, record::Body},
    record::{Filter, Page},
};

/// Records of a page: large enough that reading it costs little per record.
const PAGE: u32 = 1_000;

/// Pages that wait for the reader. With one being sent and one being read, a reader that sleeps
/// holds three, at most 256 KiB each or one large record.
const PAGES_AHEAD: usize = 1;

type Batch = Result<vec::IntoIter<proto::Record>, Status>;

/// What the client gets; dropping it ends everything behind it.
pub(super) struct RecordStream {
    batches: mpsc::Receiver<Batch>,
    current: vec::IntoIter<proto::Record>,
    _ticket: Ticket,
}

impl Stream for RecordStream {
    type Item = Result<proto::StreamRecordsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(record) = self.current.next() {
                let response = proto::StreamRecordsResponse { record: Some(record) };
                return Poll::Ready(Some(Ok(response)));
            }
            match self.batches.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(records))) => self.current = records,
            }
        }
    }
}

/// What is wanted.
pub(super) struct Wish {
    pub from_seq: u64,
    pub filter: Filter,
    /// Go on with what comes, told by this; none: end at the newest.
    pub follow: Option<watch::Receiver<u64>>,
}

pub(super) fn start(records: Records, wish: Wish, ticket: Ticket) -> RecordStream {
    let (sender, batches) = mpsc::channel(PAGES_AHEAD);
    tokio::spawn(async move {
        if let Err(status) = pump(records, wish, &sender).await {
            // The client may be the one who has gone.
            let _ = sender.send(Err(status)).await;
        }
    });
    RecordStream { batches, current: Vec::new().into_iter(), _ticket: ticket }
}

/// Until the client has gone, or all is sent and it does not follow.
async fn pump(
    records: Records,
    mut wish: Wish,
    sender: &mpsc::Sender<Batch>,
) -> Result<(), Status> {
    let mut log_id: Option<Arc<str>> = None;
    loop {
        // Marked before reading: what comes while the page is read wakes us afterwards.
        if let Some(tail) = &mut wish.follow {
            tail.mark_unchanged();
        }
        let (from, filter) = (wish.from_seq, wish.filter.clone());
        let page = records.read(move |reader| reader.records(from, &filter, PAGE)).await?;
        if log_id.get_or_insert_with(|| Arc::clone(&page.log_id)) != &page.log_id {
            return Err(Status::aborted(
                "the log was replaced by a new one (its numbers begin again): read that from 0",
            ));
        }
        wish.from_seq = page.next_seq;
        let end = page.end;
        let batch = with_loss(page, records.host());
        if !batch.is_empty() && sender.send(Ok(batch.into_iter())).await.is_err() {
            return Ok(());
        }
        if !end {
            continue;
        }
        let Some(tail) = &mut wish.follow else { return Ok(()) };
        tokio::select! {
            () = sender.closed() => return Ok(()),
            // Core has gone: this process ends, too.
            changed = tail.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// The page's records, behind a record that says how many are missing among them.
fn with_loss(page: Page, host: &Host) -> Vec<proto::Record> {
    if page.missing == 0 {
        return page.records;
    }
    let lost = proto::Lost { reason: "retention".into(), count: page.missing };
    let notice = proto::Record {
        log_id: page.log_id.to_string(),
        seq: 0,
        at: Some(clock::wall()),
        boot_ns: clock::boot_ns(),
        boot_id: host.boot_id.clone(),
        host: host.name.clone(),
        incident: String::new(),
        priority: proto::Priority::Bulk as i32,
        body: Some(Body::Lost(lost)),
    };
    std::iter::once(notice).chain(page.records).collect()
}
