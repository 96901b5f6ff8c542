//! The feed over real sockets: the real server, core's real end of the link, a core that is played
//! by the test, and clients of other users in processes of their own.

mod connection;
mod evidence;
mod incidents;
mod remote;
mod roles;
mod trees;

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sensor_proto::internal::v1::{Ask, Incidents, ask, tell};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    access::{Groups, Named},
    client::{self, Address, ConnectError},
    link::{self, Link, LinkError, News, Question},
    serve::{self, Listeners, ServeError, groups::GroupCache},
};
use crate::{
    host::Host,
    proto::{self, record::Body, sensor_service_client::SensorServiceClient},
    record::{Draft, Log, LogOptions, Reader},
};

const NOBODY: u32 = 65_534;
const READERS: u32 = 4_242;
const OPERATORS: u32 = 4_243;
const GROUPS: Groups = Groups { readers: Some(READERS), operators: Some(OPERATORS), owner: 0 };

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

async fn connect(socket: &Path) -> Result<SensorServiceClient<Channel>, ConnectError> {
    client::connect(&Address::Local(socket.to_owned())).await
}

/// Roles by certificate.
fn named() -> Named {
    let list = |name: &str| vec![name.to_owned()];
    Named { readers: list("board.example"), operators: list("ada.example") }
}

fn groups() -> GroupCache {
    GroupCache::fixed(Groups { owner: rustix::process::geteuid().as_raw(), ..GROUPS })
}

/// Everything from the log to the socket, but for the child process.
struct Feed {
    runtime: Runtime,
    directory: tempfile::TempDir,
    log: Log,
    news: News,
    remote: SocketAddr,
    questions: Option<mpsc::Receiver<Question>>,
    streams: Option<mpsc::Sender<UnixStream>>,
    talk: JoinHandle<()>,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Feed {
    fn start() -> Self {
        Self::start_sized(1 << 30)
    }

    fn start_sized(max_bytes: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let options = LogOptions { max_bytes, reader_gid: None };
        let (log, _) = Log::open(&directory.path().join("state"), &Host::read(), options).unwrap();
        let listener = link::listen(&directory.path().join("sensor.sock")).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let remote = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = remote.local_addr().unwrap();
        let news = News::new(log.tail(), log.unwritten());
        let (streams, new_streams) = mpsc::channel(1);
        let (questions_sender, questions) = mpsc::channel(8);
        streams.try_send(ours).unwrap();
        let talk = runtime.spawn(link::talk(
            new_streams,
            news.clone(),
            questions_sender,
            groups(),
            Arc::new(named()),
        ));
        let state = directory.path().join("state");
        let listeners = Listeners { local: listener, remote: Some(remote), runs: None };
        let server =
            runtime.spawn(async move { serve::serve(listeners, theirs, &state, groups()).await });
        Self {
            runtime,
            directory,
            log,
            news,
            remote: address,
            questions: Some(questions),
            streams: Some(streams),
            talk,
            server: Some(server),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sensor.sock")
    }

    fn client(&self) -> SensorServiceClient<Channel> {
        self.runtime.block_on(connect(&self.socket())).unwrap()
    }

    /// Plays core: answers status and acts, and leaves `Trigger` without an answer.
    fn answer(&mut self) -> JoinHandle<Vec<Ask>> {
        let mut questions = self.questions.take().unwrap();
        self.runtime.spawn(async move {
            let mut askers = Vec::new();
            while let Some(Question { ask, reply }) = questions.recv().await {
                askers.push(ask.clone());
                match ask.what.unwrap() {
                    ask::What::Status(_) => {
                        let status =
                            proto::GetStatusResponse { version: "1".into(), ..Default::default() };
                        reply.send(tell::What::Status(status));
                    }
                    ask::What::Act(act) if act.id == "gone" => {
                        reply.refuse(Code::FailedPrecondition, "it is resolved");
                    }
                    ask::What::Act(act) => {
                        let action = proto::Action { why: act.why, ok: true, ..Default::default() };
                        reply.send(tell::What::Act(proto::ActResponse {
                            action: Some(action),
                            incident: None,
                        }));
                    }
                    ask::What::SetPaused(set) => {
                        let paused = proto::SetPausedResponse { paused: set.paused };
                        reply.send(tell::What::SetPaused(paused));
                    }
                    ask::What::Trigger(_) | ask::What::Investigate(_) | ask::What::Damage(_) => {
                        drop(reply);
                    }
                    ask::What::Trees(wish) if wish.cgroup == "/none" => {
                        reply.refuse(Code::NotFound, "there is no such cgroup");
                    }
                    ask::What::Trees(wish) => {
                        // Which question it answers.
                        let list = proto::TreeList {
                            processes: askers.len() as u32,
                            omitted: wish.limit,
                            ..Default::default()
                        };
                        reply.send(tell::What::Trees(list));
                    }
                    ask::What::ReadSource(read) => {
                        let file = proto::FileFact { path: read.path, ..Default::default() };
                        let evidence = proto::Evidence {
                            id: "s1".into(),
                            content: Some(proto::evidence::Content::File(file)),
                            ..Default::default()
                        };
                        reply.send(tell::What::ReadSource(proto::ReadSourceResponse {
                            evidence: Some(evidence),
                        }));
                    }
                    ask::What::Findings(found) => {
                        let investigation = proto::Investigation {
                            id: found.incident,
                            report: found.findings,
                            ..Default::default()
                        };
                        reply.send(tell::What::Findings(proto::SubmitFindingsResponse {
                            investigation: Some(investigation),
                        }));
                    }
                    ask::What::Incidents(_) => {
                        let known = proto::Incident { id: "held".into(), ..Default::default() };
                        reply.send(tell::What::Incidents(Incidents { incidents: vec![known] }));
                    }
                }
            }
            askers
        })
    }

    fn append(&self, numbers: std::ops::RangeInclusive<u64>) {
        for count in numbers {
            let lost = proto::Lost { reason: "test".into(), count };
            self.log.append(Draft::bulk(Body::Lost(lost)));
        }
    }

    fn flush(&self) -> u64 {
        let receipt =
            self.log.append_durable(Draft::of("", Body::Stopped(proto::Stopped::default())));
        receipt.wait().unwrap()
    }

    fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < until, "{what} did not happen within 20 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn seqs(records: &[proto::Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

/// Reads until `count` records have come, or the stream ends.
async fn read(
    client: &mut SensorServiceClient<Channel>,
    request: proto::StreamRecordsRequest,
    count: usize,
) -> Result<Vec<proto::Record>, Status> {
    let mut stream = client.stream_records(request).await?.into_inner();
    let mut records = Vec::new();
    while records.len() < count {
        let Some(response) = stream.message().await? else { break };
        records.push(response.record.unwrap());
    }
    Ok(records)
}

fn following(from_seq: u64) -> proto::StreamRecordsRequest {
    proto::StreamRecordsRequest { from_seq, follow: true, ..Default::default() }
}

#[test]
fn requests_reach_core_with_who_asks_and_its_answer_comes_back() {
    let mut feed = Feed::start();
    let askers = feed.answer();
    let mut client = feed.client();
    feed.runtime.block_on(async {
        let status = client.get_status(proto::GetStatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.version, "1");
        let act = |id: &str| proto::ActRequest {
            id: id.into(),
            verb: proto::Verb::Thaw as i32,
            why: "enough".into(),
        };
        let done = client.act(act("abc")).await.unwrap().into_inner();
        assert_eq!(done.action.unwrap().why, "enough");
        let refused = client.act(act("gone")).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::FailedPrecondition, "it is resolved")
        );
        let senseless = client.act(act("NOT AN ID")).await.unwrap_err();
        assert_eq!(senseless.code(), Code::InvalidArgument);
        let unanswered = client.trigger(proto::TriggerRequest::default()).await.unwrap_err();
        assert_eq!(unanswered.code(), Code::Internal);
        let request = proto::SetPausedRequest { paused: true, why: String::new() };
        assert!(client.set_paused(request).await.unwrap().into_inner().paused);
    });
    feed.talk.abort();
    let askers = feed.runtime.block_on(askers).unwrap();
    let us = rustix::process::geteuid().as_raw();
    assert_eq!(askers.iter().map(|ask| ask.uid).collect::<Vec<_>>(), [us; 5]);
    let group = rustix::process::getegid().as_raw();
    assert!(askers.iter().all(|ask| ask.gids.contains(&group) && ask.names.is_empty()));
}

#[test]
fn a_stream_ends_at_the_newest_or_follows() {
    let feed = Feed::start();
    feed.append(1..=2_500);
    assert_eq!(feed.flush(), 2_501);
    let mut client = feed.client();
    feed.runtime.block_on(async {
        let request = proto::StreamRecordsRequest::default();
        let whole = read(&mut client, request.clone(), usize::MAX).await.unwrap();
        assert!(seqs(&whole).into_iter().eq(1..=2_501));
        let some = proto::StreamRecordsRequest {
            from_seq: 2_400,
            kinds: vec!["stopped".into()],
            ..request.clone()
        };
        assert_eq!(seqs(&read(&mut client, some, usize::MAX).await.unwrap()), [2_501]);
        let unknown = proto::StreamRecordsRequest { kinds: vec!["x".into()], ..request.clone() };
        let error = read(&mut client, unknown, 1).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);

        let from_end =
            proto::StreamRecordsRequest { from_end: true, follow: true, ..request.clone() };
        let mut stream = client.stream_records(from_end).await.unwrap().into_inner();
        feed.append(1..=3);
        for seq in 2_502..=2_504 {
            assert_eq!(stream.message().await.unwrap().unwrap().record.unwrap().seq, seq);
        }
    });
}

#[test]
fn a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let feed = Feed::start();
    let socket = feed.socket();
    let reader = feed.runtime.spawn(async move {
        let mut seen = Vec::new();
        // Cut off after a number of records that fits no page, a new connection each time.
        for cut in [1, 7, 999, 1_001, 3_000, 4_992] {
            let mut client = connect(&socket).await.unwrap();
            let next = seen.last().map_or(1, |last| last + 1);
            let records = read(&mut client, following(next), cut).await.unwrap();
            seen.extend(seqs(&records));
        }
        seen
    });
    for part in 0..10 {
        feed.append(part * 1_000 + 1..=part * 1_000 + 1_000);
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = feed.runtime.block_on(reader).unwrap();
    assert!(seen.into_iter().eq(1..=10_000));
}

#[test]
fn a_slow_reader_loses_nothing_and_holds_up_nobody() {
    let feed = Feed::start();
    let mut slow = feed.client();
    let mut quick = feed.client();
    feed.runtime.block_on(async {
        let mut stream = slow.stream_records(following(1)).await.unwrap().into_inner();
        feed.append(1..=30_000);
        assert_eq!(seqs(&read(&mut quick, following(1), 30_000).await.unwrap()).len(), 30_000);
        for seq in 1..=30_000 {
            let record = stream.message().await.unwrap().unwrap().record.unwrap();
            assert_eq!(record.seq, seq);
            if seq % 3_000 == 0 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    });
}

#[test]
fn a_reader_is_told_how_many_records_retention_took() {
    let feed = Feed::start_sized(1 << 20);
    // Twice what fits into 1 MiB.
    feed.append(1..=40_000);
    feed.flush();
    let mut client = feed.client();
    let log = Reader::open(&feed.directory.path().join("state")).unwrap();
    feed.wait_until("removal", |_| log.oldest_seq().unwrap() > 1_001);
    let last = feed.flush();
    let records = feed.runtime.block_on(async {
        let request = proto::StreamRecordsRequest { from_seq: 1, ..Default::default() };
        read(&mut client, request, usize::MAX).await.unwrap()
    });
    let (notices, stored): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.seq == 0);
    assert!(seqs(&stored).is_sorted_by(|a, b| a < b));
    let told: u64 = notices
        .iter()
        .map(|notice| match &notice.body {
            Some(Body::Lost(lost)) if lost.reason == "retention" => lost.count,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(told > 1_000, "{told}");
    let newest = stored.last().unwrap().seq;
    assert!(newest >= last);
    assert_eq!(told + stored.len() as u64, newest, "each record is there or counted");
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let feed = Feed::start();
    feed.append(1..=10);
    feed.flush();
    let alive = |feed: &Feed| feed.runtime.metrics().num_alive_tasks();
    // Core's end, the server, its end, who waits for other hosts.
    feed.wait_until("the start", |feed| alive(feed) == 4);
    let before = alive(&feed);
    let mut client = feed.client();
    let streams = feed.runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = client.stream_records(following(1)).await.unwrap().into_inner();
            stream.message().await.unwrap().unwrap();
            streams.push(stream);
        }
        streams
    });
    assert!(alive(&feed) >= before + 20);
    drop(streams);
    drop(client);
    feed.wait_until("the end of all streams", |feed| alive(feed) <= before);
}

#[test]
fn a_log_that_was_replaced_ends_the_stream_with_a_reason() {
    let feed = Feed::start();
    feed.append(1..=5);
    feed.flush();
    let mut client = feed.client();
    let state = feed.directory.path().join("state");
    feed.runtime.block_on(async {
        let mut stream = client.stream_records(following(1)).await.unwrap().into_inner();
        for _ in 0..6 {
            stream.message().await.unwrap().unwrap();
        }
        for file in ["log.db", "log.db-wal", "log.db-shm"] {
            fs::rename(state.join(file), state.join(format!("moved.{file}"))).unwrap();
        }
        fs::remove_file(state.join("log.lock")).unwrap();
        // Nothing says any more who it was.
        fs::remove_file(state.join("log.numbers")).unwrap();
        let options = LogOptions { max_bytes: 1 << 30, reader_gid: None };
        let (_new, _) = Log::open(&state, &Host::read(), options).unwrap();
        feed.append(6..=6);
        let error = stream.message().await.unwrap_err();
        assert_eq!(error.code(), Code::Aborted);
        assert!(error.message().contains("replaced"), "{error}");
    });
}

#[test]
fn health_is_true_by_part_and_reflection_shows_what_is_public() {
    let feed = Feed::start();
    let channel = feed.runtime.block_on(async {
        let path = feed.socket();
        tonic::transport::Endpoint::from_static("http://sensor")
            .connect_with_connector(tower::service_fn(move |_: tonic::transport::Uri| {
                let path = path.clone();
                async move {
                    let stream = tokio::net::UnixStream::connect(path).await?;
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
                }
            }))
            .await
            .unwrap()
    });
    let check = |service: &str| {
        let mut health = HealthClient::new(channel.clone());
        let request = HealthCheckRequest { service: service.into() };
        feed.runtime
            .block_on(health.check(request))
            .map(|response| response.into_inner().status().as_str_name())
            .map_err(|status| status.code())
    };
    assert_eq!(check("sensor.v1.SensorService"), Ok("SERVING"));
    assert_eq!(check("kernel"), Err(Code::NotFound));
    let part = |name: &str, ok| proto::PartStatus { part: name.into(), ok, detail: String::new() };
    feed.news.parts.send_replace(vec![part("kernel", true), part("record", true)]);
    feed.wait_until("health", |_| check("") == Ok("SERVING"));
    feed.news.parts.send_replace(vec![part("kernel", true), part("record", false)]);
    feed.wait_until("illness", |_| check("") == Ok("NOT_SERVING"));
    assert_eq!(check("kernel"), Ok("SERVING"));
    feed.wait_until("illness of the part", |_| check("record") == Ok("NOT_SERVING"));

    let names = feed.runtime.block_on(async {
        let mut reflection = ServerReflectionClient::new(channel.clone());
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = tokio_stream::iter([request]);
        let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    });
    for name in ["sensor.v1.SensorService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("internal")));
}
