//! Deliveries from a real log to a receiver in this process.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::{Webhook, WebhookFormat};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    cursor::{Cursor, Position},
    delivery::{Delivery, Source},
    sender::Sender,
    tail::Tail,
};
use crate::{
    host::Host,
    proto::{self, record::Body},
    record::{Draft, Filter, Log, LogOptions, Reader},
};

/// Far longer than any of it takes.
const SOON: Duration = Duration::from_secs(20);

/// Headers of a request.
type Headers = BTreeMap<String, String>;

/// Takes everything; the headers come out of the channel.
fn receiver() -> (String, std_mpsc::Receiver<Headers>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, taken) = std_mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut headers = Headers::new();
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                if let Some((name, value)) = line.trim_end().split_once(": ") {
                    headers.insert(name.to_ascii_lowercase(), value.to_owned());
                }
                line.clear();
            }
            let mut body = vec![0; headers["content-length"].parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            stream.get_mut().write_all(b"HTTP/1.1 204 So\r\nconnection: close\r\n\r\n").unwrap();
            if sender.send(headers).is_err() {
                return;
            }
        }
    });
    (url, taken)
}

fn log(directory: &Path, max_bytes: u64, records: u64) -> Log {
    let (log, _) =
        Log::open(directory, &Host::read(), LogOptions { max_bytes, reader_gid: None }).unwrap();
    for count in 1..=records {
        log.append(Draft::bulk(lost("x".repeat(1_000), count)));
    }
    log.append_durable(Draft::of("", lost("the last one".into(), 1))).wait().unwrap();
    log
}

fn lost(reason: String, count: u64) -> Body {
    Body::Lost(proto::Lost { reason, count })
}

/// Delivers what is in the log; the ids in the order in which they come, until there are no more.
fn delivered(directory: &Path, begin_seq: u64, webhook: Webhook) -> impl Iterator<Item = String> {
    let log_id = Reader::open(directory).unwrap().log_id().parse().unwrap();
    let (url, taken) = receiver();
    let webhook = Webhook {
        name: "board".into(),
        timeout_s: 5,
        max_pause_s: 1,
        give_up_s: 1,
        format: WebhookFormat::Cloudevents.into(),
        ..webhook
    };
    let source = Source {
        state_dir: directory.to_owned(),
        directory: None,
        begin: Position { log_id, next_seq: begin_seq },
        host: Host::read(),
    };
    let (accounts, kept) = mpsc::channel(100);
    let sender = Arc::new(Sender::new(&webhook));
    let cursor = Cursor::new(directory, "board");
    let url = url.parse().unwrap();
    let delivery = Delivery::new(webhook, url, sender, cursor, source, accounts).unwrap();
    // It never ends, and goes with the test's process.
    thread::spawn(move || delivery.run(&Tail::default()));
    std::iter::from_fn(move || {
        let _ = &kept;
        taken.recv_timeout(SOON).ok().map(|headers| headers["webhook-id"].clone())
    })
}

/// Waits until the cursor says that all before this number have arrived.
fn kept(directory: &Path, log: &Log, next_seq: u64) {
    let log_id = log.log_id().parse().unwrap();
    let end = Instant::now() + SOON;
    let cursor = Cursor::new(directory, "board");
    while cursor.read().unwrap() != Some(Position { log_id, next_seq }) {
        assert!(Instant::now() < end, "{:?}", cursor.read());
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_new_webhook_begins_where_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 1 << 30, 3);
    let id = |seq: u64| format!("{}/{seq}", log.log_id());
    let begin = |oldest| Webhook { oldest, ..Webhook::default() };
    let now: Vec<String> = delivered(directory.path(), 3, begin(false)).take(2).collect();
    assert_eq!(now, [3, 4].map(id));
    kept(directory.path(), &log, 5);
    fs::remove_file(directory.path().join("board")).unwrap();
    let oldest: Vec<String> = delivered(directory.path(), 3, begin(true)).take(4).collect();
    assert_eq!(oldest, [1, 2, 3, 4].map(id));
}

#[test]
fn of_another_log_and_with_a_damaged_cursor_it_begins_with_the_oldest() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 1 << 30, 1);
    let all = [1, 2].map(|seq| format!("{}/{seq}", log.log_id()));
    let cursor = Cursor::new(directory.path(), "board");
    cursor.write(&Position { log_id: Uuid::new_v4(), next_seq: 4711 }).unwrap();
    let ids = || delivered(directory.path(), 2, Webhook::default()).take(2).collect::<Vec<_>>();
    assert_eq!(ids(), all);
    kept(directory.path(), &log, 3);
    fs::write(directory.path().join("board"), "4711").unwrap();
    assert_eq!(ids(), all);
}

#[test]
fn what_is_gone_before_it_arrived_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 1 << 20, 3_000);
    // It goes on for a while.
    let reader = Reader::open(directory.path()).unwrap();
    let mut oldest = 0;
    while reader.oldest_seq().unwrap() != oldest {
        oldest = reader.oldest_seq().unwrap();
        thread::sleep(Duration::from_secs(1));
    }
    let there = reader.records(2, &Filter::default(), 100).unwrap();
    assert!(there.missing > 1_000, "{}", there.missing);
    let log_id = log.log_id().parse().unwrap();
    let position = Position { log_id, next_seq: 2 };
    Cursor::new(directory.path(), "board").write(&position).unwrap();
    let mut ids = delivered(directory.path(), 1, Webhook::default());
    assert_eq!(ids.next().unwrap(), format!("{log_id}/2-{}", there.next_seq - 1));
    for record in there.records {
        assert_eq!(ids.next().unwrap(), format!("{log_id}/{}", record.seq));
    }
}
