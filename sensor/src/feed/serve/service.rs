//! `sensor.v1.Sensor`: who asks is looked up and checked, reading is answered from the log, the rest
//! is passed to core.

use std::sync::Arc;

use sensor_proto::internal::v1::{Ask, ask, tell};
use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

use super::{
    connections::Counter,
    core::Core,
    groups::{GroupCache, Members},
    records::{self, Records},
    stream::{self, RecordStream, Wish},
};
use crate::{
    feed::{
        access::{self, Need, Refused},
        link,
    },
    proto::{self, sensor_server::Sensor},
    record::{Filter, IncidentFilter, Reader},
};

/// Incidents in one answer, bytes: with its envelope it stays below the 4 MiB that clients take.
const LIST_MAX: usize = 3_500_000;

/// Streams that one user may have open, root excepted; and all users but root.
const STREAMS_PER_USER: usize = 16;
const STREAMS: usize = 64;

pub(super) struct Service {
    core: Core,
    records: Records,
    groups: GroupCache,
    members: Arc<Members>,
    streams: Counter,
}

/// The user behind a connection.
struct Peer {
    uid: u32,
    gids: Vec<u32>,
}

impl Service {
    pub fn new(core: Core, records: Records, groups: GroupCache) -> Self {
        let streams = Counter::new(STREAMS_PER_USER, STREAMS);
        Self { core, records, groups, members: Arc::default(), streams }
    }

    async fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let credentials = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .ok_or_else(|| Status::unauthenticated("the connection does not say who you are"))?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let members = Arc::clone(&self.members);
        let gids = tokio::task::spawn_blocking(move || members.groups_of(uid, gid))
            .await
            .map_err(|error| Status::internal(format!("cannot look up your groups: {error}")))?;
        Ok(Peer { uid, gids })
    }

    /// The uid, when it may read.
    async fn reader<T>(&self, request: &Request<T>) -> Result<u32, Status> {
        let peer = self.peer(request).await?;
        access::allow(peer.uid, &peer.gids, &self.groups.get(), Need::Read).map_err(refused)?;
        Ok(peer.uid)
    }

    async fn ask<T>(&self, request: &Request<T>, what: ask::What) -> Result<tell::What, Status> {
        let Peer { uid, gids } = self.peer(request).await?;
        let ask = Ask { id: 0, uid, gids, what: Some(what) };
        access::admit(&ask, &self.groups.get()).map_err(refused)?;
        self.core.ask(ask).await
    }
}

fn refused(refused: Refused) -> Status {
    Status::new(link::code(&refused), refused.to_string())
}

/// Core answered something else than it was asked.
fn unexpected() -> Status {
    Status::internal("the daemon gave an answer that does not fit")
}

/// An enum of the request: none for "unspecified".
fn choice<E: TryFrom<i32>>(value: i32, what: &str) -> Result<Option<E>, Status> {
    if value == 0 {
        return Ok(None);
    }
    E::try_from(value)
        .map(Some)
        .map_err(|_| Status::invalid_argument(format!("{value} is no {what} that I know")))
}

#[tonic::async_trait]
impl Sensor for Service {
    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, Status> {
        match self.ask(&request, ask::What::Status(*request.get_ref())).await? {
            tell::What::Status(status) => Ok(Response::new(status)),
            _ => Err(unexpected()),
        }
    }

    async fn list_incidents(
        &self,
        request: Request<proto::ListIncidentsRequest>,
    ) -> Result<Response<proto::ListIncidentsResponse>, Status> {
        self.reader(&request).await?;
        let request = request.into_inner();
        let filter = IncidentFilter {
            kind: choice(request.kind, "kind")?,
            state: choice(request.state, "state")?,
            since: request.since,
        };
        let (incidents, omitted) =
            self.records.read(move |reader| reader.incidents(&filter, LIST_MAX)).await?;
        Ok(Response::new(proto::ListIncidentsResponse { incidents, omitted }))
    }

    async fn get_incident(
        &self,
        request: Request<proto::GetIncidentRequest>,
    ) -> Result<Response<proto::GetIncidentResponse>, Status> {
        self.reader(&request).await?;
        let id = request.into_inner().id;
        let incident = self.records.read(move |reader| reader.incident(&id)).await?;
        Ok(Response::new(proto::GetIncidentResponse { incident: Some(incident) }))
    }

    type StreamRecordsStream = RecordStream;

    async fn stream_records(
        &self,
        request: Request<proto::StreamRecordsRequest>,
    ) -> Result<Response<RecordStream>, Status> {
        let uid = self.reader(&request).await?;
        let ticket = self.streams.take(uid).ok_or_else(|| {
            Status::resource_exhausted("too many streams are open; close one and try again")
        })?;
        let request = request.into_inner();
        let filter = Filter::new(&request.incident, &request.kinds).map_err(records::status)?;
        let from_seq = if request.from_end {
            self.records.read(Reader::last_seq).await? + 1
        } else {
            request.from_seq
        };
        let follow = request.follow.then(|| self.core.tail());
        let wish = Wish { from_seq, filter, follow };
        Ok(Response::new(stream::start(self.records.clone(), wish, ticket)))
    }

    async fn act(
        &self,
        request: Request<proto::ActRequest>,
    ) -> Result<Response<proto::ActResponse>, Status> {
        match self.ask(&request, ask::What::Act(request.get_ref().clone())).await? {
            tell::What::Act(done) => Ok(Response::new(done)),
            _ => Err(unexpected()),
        }
    }

    async fn trigger(
        &self,
        request: Request<proto::TriggerRequest>,
    ) -> Result<Response<proto::TriggerResponse>, Status> {
        match self.ask(&request, ask::What::Trigger(request.get_ref().clone())).await? {
            tell::What::Trigger(done) => Ok(Response::new(done)),
            _ => Err(unexpected()),
        }
    }

    async fn set_paused(
        &self,
        request: Request<proto::SetPausedRequest>,
    ) -> Result<Response<proto::SetPausedResponse>, Status> {
        match self.ask(&request, ask::What::SetPaused(request.get_ref().clone())).await? {
            tell::What::SetPaused(done) => Ok(Response::new(done)),
            _ => Err(unexpected()),
        }
    }
}
