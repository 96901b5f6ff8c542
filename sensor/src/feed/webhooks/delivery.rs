//! One webhook's way through the log: record by record, in order, each until the receiver has it.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::{
    Account, DamageSeen, Delivery as Report, Webhook, WebhookFormat, account::What,
};
use tokio::sync::mpsc;
use ureq::http::Uri;
use uuid::Uuid;

use super::{
    agent_message,
    cursor::{Cursor, Position},
    message::{Message, cloud_event, identity},
    pause,
    sender::{Outcome, Sender},
    tail::Tail,
};
use crate::{
    feed::serve::{records::identity as directory_identity, stream::lost},
    host::Host,
    proto::{self, record::Body},
    record::{Filter, Page, ReadError, Reader},
};

/// Records of a page: what is read ahead is read again by the next process.
const PAGE: u32 = 100;

/// Failed tries in a row before it is called an outage: a receiver may be started anew.
const OUTAGE: u32 = 3;

/// Before the log is looked for again when it cannot be read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often, at most, it is told how many records wait, and kept how many of no interest were passed.
const TELL: Duration = Duration::from_secs(1);
const KEEP: Duration = Duration::from_secs(10);

/// The part in records about webhooks.
pub const PART: &str = "webhooks";
/// The reason in records about what was left out.
pub const REFUSED: &str = "webhook_refused";

/// What a webhook needs to get its records.
pub struct Delivery {
    webhook: Webhook,
    url: Uri,
    filter: Filter,
    sender: Arc<Sender>,
    cursor: Cursor,
    source: Source,
    reader: Option<Reader>,
    accounts: mpsc::Sender<Account>,
    told: Told,
    /// When the cursor was last written.
    kept: Instant,
}

/// What core was told last.
struct Told {
    at: Instant,
    report: Report,
    /// Nothing yet: it knows what another process said before this one.
    nothing: bool,
}

/// Where the records are.
#[derive(Clone)]
pub struct Source {
    pub state_dir: PathBuf,
    /// (device, inode) of the directory that this process may read.
    pub directory: Option<(u64, u64)>,
    /// Where a webhook that is new begins.
    pub begin: Position,
    pub host: Host,
}

impl Delivery {
    pub fn new(
        webhook: Webhook,
        url: Uri,
        sender: Arc<Sender>,
        cursor: Cursor,
        source: Source,
        accounts: mpsc::Sender<Account>,
    ) -> Result<Self, ReadError> {
        let filter = match webhook.format() {
            WebhookFormat::AgentMessages => Filter::new("", &agent_message::KINDS),
            _ => Filter::new("", &webhook.kinds),
        }?;
        let asked = |value: i32| (value != 0).then_some(value);
        let severity = asked(webhook.severity).map(|_| webhook.severity());
        let lane = asked(webhook.lane).map(|_| webhook.lane());
        let now = Instant::now();
        Ok(Self {
            url,
            filter: filter.severity(severity).lane(lane),
            sender,
            cursor,
            source,
            reader: None,
            accounts,
            told: Told { at: now, report: Report::default(), nothing: true },
            kept: now,
            webhook,
        })
    }

    /// Goes on for ever, unless the log's directory is another one (a disk was mounted there, say), which a
    /// confined process may not read.
    pub fn run(mut self, tail: &Tail) {
        let mut position = self.known();
        loop {
            // Looked at before reading: what comes meanwhile is seen then, or wakes us.
            let seen = tail.now();
            match self.page(&mut position) {
                Ok((at, page)) => {
                    let end = page.end;
                    position = Some(self.deliver(&at, page));
                    if end {
                        self.caught_up();
                        tail.changed(seen, None);
                    }
                }
                Err(error) => {
                    tracing::warn!("{}: {error}", self.webhook.name);
                    if error.is_damage() {
                        self.say(What::Damage(DamageSeen {}));
                    } else if directory_identity(&self.source.state_dir) != self.source.directory {
                        return;
                    }
                    self.reader = None;
                    tail.changed(seen, Some(LOOK_AGAIN));
                }
            }
        }
    }

    /// What the file knows; none: it is a new one.
    fn known(&self) -> Option<Position> {
        self.cursor.read().unwrap_or_else(|error| {
            // Twice is better than never: who has a record knows it by its id.
            tracing::error!("{}: {error}: it begins with the oldest record", self.webhook.name);
            Some(Position { log_id: Uuid::nil(), next_seq: 0 })
        })
    }

    /// What comes next, and from which number on it was looked for.
    fn page(&mut self, position: &mut Option<Position>) -> Result<(Position, Page), ReadError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.source.state_dir)?,
        };
        let log_id = reader.log_id().parse::<Uuid>().unwrap_or_default();
        let at = match position {
            Some(known) if known.log_id == log_id => known.clone(),
            // Of another log nothing has arrived.
            Some(_) => Position { log_id, next_seq: 0 },
            None => {
                let begin = &self.source.begin;
                let here = begin.log_id == log_id && !self.webhook.oldest;
                let new = Position { log_id, next_seq: if here { begin.next_seq } else { 0 } };
                self.keep(&new);
                new
            }
        };
        *position = Some(at.clone());
        let page = reader.records(at.next_seq, &self.filter, PAGE)?;
        self.reader = Some(reader);
        Ok((at, page))
    }

    /// Gives where the next page begins.
    fn deliver(&mut self, from: &Position, page: Page) -> Position {
        let log_id = from.log_id;
        if page.missing > 0 {
            let record = lost("retention", page.missing, &page.log_id, &self.source.host);
            let id = format!("{log_id}/{}-{}", from.next_seq, page.next_seq.saturating_sub(1));
            self.push(&record, cloud_event(&record, id));
        }
        for record in page.records {
            if let Some(message) = self.message(&record) {
                self.push(&record, message);
                self.keep(&Position { log_id, next_seq: record.seq + 1 });
            }
        }
        let end = Position { log_id, next_seq: page.next_seq };
        if page.next_seq > from.next_seq && self.kept.elapsed() >= KEEP {
            self.keep(&end);
        }
        end
    }

    fn message(&self, record: &proto::Record) -> Option<Message> {
        if self.webhook.format() != WebhookFormat::AgentMessages {
            return Some(cloud_event(record, identity(record)));
        }
        let incident = || self.reader.as_ref()?.incident(&record.incident).ok();
        agent_message::message(record, incident)
    }

    /// Tries until it has arrived, or is refused for too long.
    fn push(&mut self, record: &proto::Record, message: Message) {
        let give_up = Duration::from_secs(self.webhook.give_up_s.into());
        let longest = Duration::from_secs(self.webhook.max_pause_s.into());
        let mut tries = 0_u32;
        let mut refused: Option<Instant> = None;
        loop {
            tries = tries.saturating_add(1);
            let (why, asked) = match self.sender.post(&self.url, &message) {
                Outcome::Accepted => return self.arrived(record.seq),
                Outcome::Refused(why) => {
                    let since = *refused.get_or_insert_with(Instant::now);
                    if since.elapsed() >= give_up {
                        return self.leave_out(record, &why);
                    }
                    (why, None)
                }
                Outcome::Failed { why, pause } => {
                    refused = None;
                    (why, pause)
                }
            };
            tracing::debug!("{}: record {}: {why}", self.webhook.name, message.id);
            let failing = self.told.report.failing || tries >= OUTAGE;
            let waiting = self.waiting(record.seq);
            let refused_before = self.told.report.refused;
            self.tell(Report { failing, why, waiting, refused: refused_before });
            let random = Uuid::new_v4().as_u128() as u64;
            let pause = pause::after(tries, longest, random);
            thread::sleep(pause.max(asked.unwrap_or_default()));
        }
    }

    fn arrived(&mut self, seq: u64) {
        let Report { why, refused, .. } = &self.told.report;
        if self.told.nothing || !why.is_empty() || self.told.at.elapsed() >= TELL {
            let (refused, waiting) = (*refused, self.waiting(seq + 1));
            self.tell(Report { refused, waiting, ..Report::default() });
            self.told.report.refused = 0;
        }
    }

    fn leave_out(&mut self, record: &proto::Record, why: &str) {
        tracing::warn!("{}: record {} is left out: {why}", self.webhook.name, record.seq);
        // What says that something was left out is not missed, or there would be no end of it.
        if is_about_us(record) {
            return;
        }
        let report = Report {
            failing: true,
            why: format!("{why} to record {}, which is left out", record.seq),
            waiting: self.waiting(record.seq + 1),
            refused: self.told.report.refused + 1,
        };
        self.tell(report);
    }

    fn caught_up(&mut self) {
        if self.told.nothing || self.told.report.waiting > 0 {
            self.tell(Report { waiting: 0, ..self.told.report.clone() });
        }
    }

    fn waiting(&self, from_seq: u64) -> u64 {
        // In a moment in which nobody can say, it is one: this.
        self.reader
            .as_ref()
            .and_then(|reader| reader.count(from_seq, &self.filter).ok())
            .unwrap_or(1)
    }

    fn tell(&mut self, report: Report) {
        self.told = Told { at: Instant::now(), report: report.clone(), nothing: false };
        self.say(What::Delivery(report));
    }

    fn say(&self, what: What) {
        let webhook = self.webhook.name.clone();
        // Without core this process ends.
        let _ = self.accounts.blocking_send(Account { webhook, what: Some(what) });
    }

    fn keep(&mut self, position: &Position) {
        self.kept = Instant::now();
        if let Err(error) = self.cursor.write(position) {
            // It goes on; the next process would begin where it was kept last.
            tracing::warn!(
                "{}: cannot keep how far it got ({error}): records may come twice",
                self.webhook.name
            );
        }
    }
}

fn is_about_us(record: &proto::Record) -> bool {
    match &record.body {
        Some(Body::Degraded(degraded)) => degraded.part == PART,
        Some(Body::Lost(lost)) => lost.reason == REFUSED,
        _ => false,
    }
}
