//! A daemon that answers with canned data, on a socket of its own.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use sensor_proto::v1::{
    sensor_service_server::{SensorService as Service, SensorServiceServer},
    *,
};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::oneshot};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

use super::{canned, hostile, program::Sensor};

/// What a stream does behind its last record.
#[derive(Clone, Copy)]
enum End {
    /// Waits for more, as with a real daemon.
    Waits,
    /// The daemon goes away.
    Ends,
    /// More and more comes.
    Never,
}

pub struct Fake {
    asked: Arc<Asked>,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Asked {
    listed: Mutex<Vec<ListIncidentsRequest>>,
    acted: Mutex<Vec<ActRequest>>,
    trees: Mutex<Vec<ListTreesRequest>>,
    streamed: Mutex<Vec<StreamRecordsRequest>>,
}

struct Answers {
    asked: Arc<Asked>,
    end: End,
}

impl Fake {
    pub fn start() -> Self {
        Self::with(End::Waits)
    }

    pub fn ending() -> Self {
        Self::with(End::Ends)
    }

    pub fn endless() -> Self {
        Self::with(End::Never)
    }

    fn with(end: End) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let asked = Arc::new(Asked::default());
        let service = SensorServiceServer::new(Answers { asked: asked.clone(), end });
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                let server = tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = server => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { asked, directory, stop: Some(stop) }
    }

    /// A call of the program against this daemon.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn sensor(&self, args: &[&str]) -> Sensor {
        Sensor::new(args, &self.socket())
    }

    pub fn acted(&self) -> Vec<ActRequest> {
        self.asked.acted.lock().unwrap().clone()
    }

    pub fn trees(&self) -> Vec<ListTreesRequest> {
        self.asked.trees.lock().unwrap().clone()
    }

    pub fn streamed(&self) -> Vec<StreamRecordsRequest> {
        self.asked.streamed.lock().unwrap().clone()
    }

    pub fn listed(&self) -> Vec<ListIncidentsRequest> {
        self.asked.listed.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // The server may have ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for Answers {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        Ok(Response::new(canned::status(true)))
    }

    async fn list_incidents(
        &self,
        request: Request<ListIncidentsRequest>,
    ) -> Answer<ListIncidentsResponse> {
        self.asked.listed.lock().unwrap().push(request.into_inner());
        let host_wide = Incident { culprit: None, ..canned::incident() };
        let incidents = vec![canned::incident(), host_wide];
        Ok(Response::new(ListIncidentsResponse { incidents, omitted: 2 }))
    }

    async fn get_incident(
        &self,
        request: Request<GetIncidentRequest>,
    ) -> Answer<GetIncidentResponse> {
        let id = request.into_inner().id;
        if id == "fails" {
            let incident = Some(Incident { id, ..canned::incident() });
            return Ok(Response::new(GetIncidentResponse { incident }));
        }
        if id == "over" {
            let over = Incident { id, state: State::Resolved.into(), ..canned::incident() };
            return Ok(Response::new(GetIncidentResponse { incident: Some(over) }));
        }
        if id == hostile::ID {
            return Ok(Response::new(GetIncidentResponse { incident: Some(hostile::incident()) }));
        }
        if !canned::ID.starts_with(&id) {
            return Err(Status::not_found("no incident has an id that begins so"));
        }
        Ok(Response::new(GetIncidentResponse { incident: Some(canned::incident()) }))
    }

    type WatchIncidentsStream =
        Pin<Box<dyn Stream<Item = Result<WatchIncidentsResponse, Status>> + Send>>;

    async fn watch_incidents(
        &self,
        _: Request<WatchIncidentsRequest>,
    ) -> Answer<Self::WatchIncidentsStream> {
        Err(Status::unimplemented("no verb asks for it"))
    }

    type StreamRecordsStream =
        Pin<Box<dyn Stream<Item = Result<StreamRecordsResponse, Status>> + Send>>;

    async fn stream_records(
        &self,
        request: Request<StreamRecordsRequest>,
    ) -> Answer<Self::StreamRecordsStream> {
        let request = request.into_inner();
        self.asked.streamed.lock().unwrap().push(request.clone());
        let known =
            if request.incident == hostile::ID { hostile::records() } else { canned::records() };
        let records: Vec<_> = known
            .into_iter()
            .filter(|record| record.seq >= request.from_seq)
            .filter(|record| request.incident.is_empty() || record.incident == request.incident)
            .filter(|record| {
                request.kinds.is_empty() || request.kinds.contains(&record.kind().to_owned())
            })
            .map(|record| Ok(StreamRecordsResponse { record: Some(record) }))
            .collect();
        let again = records.clone();
        let records = tokio_stream::iter(records);
        Ok(Response::new(match self.end {
            End::Waits if request.follow => Box::pin(records.chain(tokio_stream::pending())),
            End::Waits | End::Ends => Box::pin(records),
            End::Never => Box::pin(
                tokio_stream::iter(again.into_iter().cycle()).throttle(Duration::from_millis(5)),
            ),
        }))
    }

    type GetEvidenceStream =
        Pin<Box<dyn Stream<Item = Result<GetEvidenceResponse, Status>> + Send>>;

    async fn get_evidence(
        &self,
        request: Request<GetEvidenceRequest>,
    ) -> Answer<Self::GetEvidenceStream> {
        let wanted = request.into_inner().evidence;
        let known = canned::all_evidence().into_iter().chain(hostile::evidence());
        let found = known.into_iter().find(|piece| piece.id == wanted);
        let mut piece = found.ok_or_else(|| Status::not_found("no evidence of this name"))?;
        let bytes = match &mut piece.content {
            Some(evidence::Content::Text(bytes)) => std::mem::take(bytes),
            Some(evidence::Content::File(file)) => std::mem::take(&mut file.content),
            _ => Vec::new(),
        };
        let head = GetEvidenceResponse {
            size_bytes: bytes.len() as u64,
            evidence: Some(piece),
            ..Default::default()
        };
        let parts: Vec<_> = bytes
            .chunks(3)
            .map(|part| GetEvidenceResponse { chunk: part.to_vec(), ..Default::default() })
            .collect();
        let answers = std::iter::once(head).chain(parts).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.collect::<Vec<_>>()))))
    }

    async fn read_source(&self, request: Request<ReadSourceRequest>) -> Answer<ReadSourceResponse> {
        if request.into_inner().path == b"refuse me" {
            return Err(Status::permission_denied("join group sensor-operators, or use sudo"));
        }
        Ok(Response::new(ReadSourceResponse { evidence: Some(hostile::source()) }))
    }

    async fn submit_findings(
        &self,
        request: Request<SubmitFindingsRequest>,
    ) -> Answer<SubmitFindingsResponse> {
        let SubmitFindingsRequest { incident, findings } = request.into_inner();
        let report = findings.map(|found| Findings {
            dropped: 1,
            dropped_why: vec![hostile::TEXT.to_owned()],
            ..found
        });
        let investigation =
            Investigation { id: format!("{incident}-1"), report, ..Default::default() };
        Ok(Response::new(SubmitFindingsResponse { investigation: Some(investigation) }))
    }

    async fn investigate(
        &self,
        request: Request<InvestigateRequest>,
    ) -> Answer<InvestigateResponse> {
        let InvestigateRequest { id, agent } = request.into_inner();
        let mut investigation =
            Investigation { id: format!("{id}-2"), agent, ..Default::default() };
        if id == "fails" {
            investigation.set_state(InvestigationState::Failed);
            investigation.error = "the budget of this hour is spent".into();
        }
        Ok(Response::new(InvestigateResponse { investigation: Some(investigation) }))
    }

    async fn list_trees(&self, request: Request<ListTreesRequest>) -> Answer<ListTreesResponse> {
        let list = canned::trees();
        self.asked.trees.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ListTreesResponse { list: Some(list) }))
    }

    type WatchTreesStream = Pin<Box<dyn Stream<Item = Result<WatchTreesResponse, Status>> + Send>>;

    async fn watch_trees(
        &self,
        request: Request<WatchTreesRequest>,
    ) -> Answer<Self::WatchTreesStream> {
        let request = request.into_inner();
        let every = Duration::from_millis(request.interval_ms.into()) / 10;
        self.asked.trees.lock().unwrap().extend(request.list);
        let lists = (1..).map(|n| TreeList { processes: n, ..canned::trees() });
        let lists = lists.map(|list| Ok(WatchTreesResponse { list: Some(list) }));
        let lists = tokio_stream::iter(lists).throttle(every);
        Ok(Response::new(match self.end {
            End::Ends => Box::pin(lists.take(2)),
            End::Waits | End::Never => Box::pin(lists),
        }))
    }

    async fn act(&self, request: Request<ActRequest>) -> Answer<ActResponse> {
        let request = request.into_inner();
        let ok = request.id != "fails";
        self.asked.acted.lock().unwrap().push(request);
        Ok(Response::new(ActResponse {
            action: Some(canned::action(ok)),
            incident: Some(canned::incident()),
        }))
    }

    async fn trigger(&self, request: Request<TriggerRequest>) -> Answer<TriggerResponse> {
        if request.into_inner().why == "refuse me" {
            return Err(Status::permission_denied("join group sensor-operators, or use sudo"));
        }
        Ok(Response::new(TriggerResponse { incident: Some(canned::incident()) }))
    }

    async fn set_paused(&self, request: Request<SetPausedRequest>) -> Answer<SetPausedResponse> {
        Ok(Response::new(SetPausedResponse { paused: request.into_inner().paused }))
    }
}
