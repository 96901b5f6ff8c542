//! The process that answers clients, as the daemon starts it: with many of them, and with rude ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod rude;
mod served;

use std::{fs, path::PathBuf, thread};

use rude::{GO_AWAY, HEADERS, PING, RESET, Rude};
use sensor::proto::{GetIncidentRequest, ListIncidentsRequest};
use served::{Records, Served, follow};
use tonic::Code;

const READERS: usize = 100;
/// Of those, who never reads what it asked for.
const ASLEEP: usize = 10;

/// More than all that lies between a reader and the log: windows, sockets, pages.
const BYTES: usize = 4 << 10;
const RECORDS: u64 = 1_500;
const ROUNDS: u32 = 4;

/// For all readers together, whatever the log holds: pages and what HTTP/2 keeps ready to be sent. What
/// those who sleep have asked for is more in the end.
const MOST: u64 = 200 * MIB;

const MIB: u64 = 1 << 20;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Anonymous memory of the process that serves, bytes.
fn memory(served: &Served) -> u64 {
    let file = format!("/proc/{}/status", served.process().unwrap());
    let status = fs::read_to_string(file).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Other users may have fewer streams than these tests open.
macro_rules! needs_root {
    ($name:expr) => {
        if !is_root() {
            println!("SKIP {}: needs root, whose streams are not limited", $name);
            return;
        }
    };
}

#[test]
fn readers_that_never_read_cost_the_others_nothing() {
    needs_root!("readers_that_never_read_cost_the_others_nothing");
    let served = Served::start();
    let newest = served.fill(RECORDS, BYTES);
    let open = |count: usize| {
        let socket = served.socket();
        served.runtime.block_on(async move {
            let mut readers = Vec::new();
            for _ in 0..count {
                let mut client = Served::client(&socket).await;
                readers.push((follow(&mut client, 1).await, client));
            }
            readers
        })
    };
    let mut asleep = open(ASLEEP);
    let mut awake = open(READERS - ASLEEP);
    let mut all_read_to = |last: u64, count: u64| {
        let readers = std::mem::take(&mut awake);
        awake = served.runtime.block_on(async {
            let tasks: Vec<_> = readers
                .into_iter()
                .map(|(mut records, client)| {
                    tokio::spawn(async move {
                        assert_eq!(records.read_to(last).await, count);
                        (records, client)
                    })
                })
                .collect();
            let mut readers = Vec::new();
            for task in tasks {
                readers.push(task.await.unwrap());
            }
            readers
        });
    };
    let mut last = 0;
    for round in 0..ROUNDS {
        let newest = if round == 0 { newest } else { served.fill(RECORDS, BYTES) };
        all_read_to(newest, newest - last);
        last = newest;
        let memory = memory(&served);
        println!("{newest} records: {} MiB", memory / MIB);
        assert!(memory < MOST, "{memory} bytes for {READERS} readers");
    }
    // Whoever slept finds everything where it was.
    let (records, _client) = &mut asleep[0];
    assert_eq!(served.runtime.block_on(records.read_to(last)), last);
}

/// Somebody who keeps the rules is answered, whatever others do.
fn polite(served: &Served) {
    let socket = served.socket();
    let listed = served.runtime.block_on(async {
        let mut client = Served::client(&socket).await;
        let records: &mut Records = &mut follow(&mut client, 1).await;
        records.next().await;
        client.list_incidents(ListIncidentsRequest::default()).await
    });
    assert_eq!(listed.unwrap().into_inner().incidents, []);
}

#[test]
fn a_message_without_end_is_refused_at_its_beginning() {
    let served = Served::start();
    served.fill(10, 10);
    let before = memory(&served);
    // 1 GiB, as it says, and compressed or not.
    for compressed in [0, 1] {
        let mut client = Rude::greeted(&served.socket());
        client.call(1, "Trigger").unwrap();
        client.data(1, &[compressed, 0x40, 0, 0, 0]).unwrap();
        assert!(client.hears(&[HEADERS, RESET], 1).is_some(), "no answer");
        // It goes on all the same.
        while client.data(1, &[0; 16 << 10]).is_ok() {}
        client.sees_the_end();
    }
    // One of a length that is allowed, which never ends: nobody waits for it.
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut client = Rude::greeted(&served.socket());
        client.call(1, "Trigger").unwrap();
        client.data(1, &[0, 0, 0, 0xff, 0xff, 1, 2, 3]).unwrap();
        waiting.push(client);
    }
    polite(&served);
    assert!(memory(&served) < before + 32 * MIB, "{} bytes", memory(&served));
    // As many bytes of zeros, compressed: what they become is bounded as well.
    let id = "\0".repeat(1 << 28);
    let socket = served.socket();
    let status = served.runtime.block_on(async {
        let client = Served::client(&socket).await;
        let mut client = client.send_compressed(tonic::codec::CompressionEncoding::Zstd);
        client.get_incident(GetIncidentRequest { id }).await.unwrap_err()
    });
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Internal),
        "{status:?}"
    );
    assert!(memory(&served) < before + 32 * MIB, "{} bytes", memory(&served));
    polite(&served);
}

#[test]
fn ten_thousand_streams_of_one_connection_are_refused() {
    needs_root!("ten_thousand_streams_of_one_connection_are_refused");
    let served = Served::start();
    served.fill(2_000, 1_000);
    let before = memory(&served);
    // All of them at once, each of a stream that follows.
    let mut client = Rude::greeted(&served.socket());
    let mut opened = 0;
    for stream in (1..20_000).step_by(2) {
        let request = client.call(stream, "StreamRecords");
        if request.and_then(|()| client.data(stream, &[0, 0, 0, 0, 2, 0x10, 1])).is_err() {
            break;
        }
        opened += 1;
    }
    println!("{opened} were opened");
    polite(&served);
    assert!(memory(&served) < before + 64 * MIB, "{} bytes", memory(&served));
    drop(client);

    // Opened and given up at once, again and again (CVE-2023-44487).
    let mut client = Rude::greeted(&served.socket());
    let mut given_up = 0;
    for stream in (1..200_000).step_by(2) {
        if client.call(stream, "GetStatus").and_then(|()| client.reset(stream)).is_err() {
            break;
        }
        given_up += 1;
    }
    println!("{given_up} were given up");
    assert!(given_up < 99_999, "nobody stopped it");
    polite(&served);
    assert!(memory(&served) < before + 64 * MIB, "{} bytes", memory(&served));
}

#[test]
fn who_speaks_something_else_sees_the_end() {
    let served = Served::start();
    served.fill(10, 10);
    let socket = served.socket();
    for words in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        // TLS, to a socket without.
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        &vec![0xff; 1 << 20],
        &vec![0; 1 << 20],
    ] {
        let mut client = Rude::silent(&socket);
        // It may be closed before it has said all.
        let _ = client.say(words);
        client.sees_the_end();
    }
    // Frames of all kinds and lengths that are none.
    let mut client = Rude::greeted(&socket);
    for kind in 0..=255 {
        if client.say(&[0, 0, 5, kind, 0xff, 0, 0, 0, 1, 1, 2, 3, 4, 5]).is_err() {
            break;
        }
    }
    assert!(client.hears(&[GO_AWAY], 0).is_some(), "it was not told why");
    // Half of a greeting, and nothing more.
    let silent: Vec<Rude> = (0..200).map(|_| Rude::silent(&socket)).collect();
    polite(&served);
    drop(silent);
    // Questions without end, whose answers nobody reads.
    let rude = |socket: PathBuf| {
        let mut client = Rude::greeted(&socket);
        (0..1_000_000).take_while(|_| client.ping().is_ok()).count()
    };
    let pings = thread::spawn(move || rude(socket));
    polite(&served);
    println!("{} pings", pings.join().unwrap());
    let mut client = Rude::greeted(&served.socket());
    client.ping().unwrap();
    assert_eq!(client.hears(&[PING], 0), Some(PING));
    polite(&served);
}
