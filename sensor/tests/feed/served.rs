//! A log, and the real process that serves it as the daemon has it do; no kernel side, no core.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sensor::{
    feed::{
        client::{self, Address},
        link::{Link, LinkOptions, Question},
        runs::Doors,
    },
    host::Host,
    proto::{
        Lost, Record, Stopped, StreamRecordsRequest, record::Body,
        sensor_service_client::SensorServiceClient,
    },
    record::{Draft, Log, LogOptions},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};
use tonic::{Streaming, transport::Channel};

/// A process and its first answer, on a busy machine.
const START: Duration = Duration::from_secs(20);

pub struct Served {
    // Dropped in this order: the process goes before what it reads.
    _link: Link,
    _questions: mpsc::Receiver<Question>,
    pub runtime: Runtime,
    log: Log,
    directory: TempDir,
}

impl Served {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let options = LogOptions { max_bytes: 1 << 30, reader_gid: None };
        let (log, _) = Log::open(&state_dir, &Host::read(), options).unwrap();
        let options = LinkOptions {
            program: env!("CARGO_BIN_EXE_sensor").into(),
            socket: directory.path().join("sensor.sock"),
            state_dir,
            user: None,
            tcp: None,
            tail: log.tail(),
            unwritten: log.unwritten(),
            doors: Doors::default(),
        };
        let inside = runtime.enter();
        let (link, questions) = Link::start(options).unwrap();
        drop(inside);
        let served = Self { _link: link, _questions: questions, runtime, log, directory };
        let give_up = Instant::now() + START;
        while served.process().is_none() {
            assert!(Instant::now() < give_up, "serve does not run");
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sensor.sock")
    }

    /// So many records of at least so many bytes, readable when this returns. The newest number.
    pub fn fill(&self, count: u64, bytes: usize) -> u64 {
        let reason = "x".repeat(bytes);
        for count in 1..=count {
            self.log.append(Draft::bulk(Body::Lost(Lost { reason: reason.clone(), count })));
            // What waits is bounded, and bulk beyond it would be lost.
            if count % 1_000 == 0 {
                self.settle();
            }
        }
        self.settle()
    }

    fn settle(&self) -> u64 {
        let record = Draft::of("", Body::Stopped(Stopped::default()));
        self.log.append_durable(record).wait().unwrap()
    }

    pub async fn client(socket: &Path) -> SensorServiceClient<Channel> {
        client::connect(&Address::Local(socket.to_owned())).await.unwrap()
    }

    /// The process, once it is the program that serves.
    pub fn process(&self) -> Option<u32> {
        let state_dir = self.directory.path().join("state");
        children().into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&&b"serve"[..])
                && words.contains(&state_dir.as_os_str().as_encoded_bytes())
        })
    }
}

/// Of all threads of this process.
fn children() -> Vec<u32> {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = threads.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
        })
        .collect()
}

/// A stream that goes on with what comes.
pub async fn follow(client: &mut SensorServiceClient<Channel>, from_seq: u64) -> Records {
    let request = StreamRecordsRequest { from_seq, follow: true, ..Default::default() };
    Records(client.stream_records(request).await.unwrap().into_inner())
}

pub struct Records(Streaming<sensor::proto::StreamRecordsResponse>);

impl Records {
    pub async fn next(&mut self) -> Record {
        self.0.message().await.unwrap().unwrap().record.unwrap()
    }

    /// Up to and with this number, each exactly one after the other. How many.
    pub async fn read_to(&mut self, last: u64) -> u64 {
        let mut before: Option<u64> = None;
        let mut count = 0;
        loop {
            let seq = self.next().await.seq;
            assert!(before.is_none_or(|before| seq == before + 1), "{before:?}, then {seq}");
            count += 1;
            if seq == last {
                return count;
            }
            before = Some(seq);
        }
    }
}
