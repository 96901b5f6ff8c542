//! `sensor.v1.SensorService`: who asks is looked up and checked, reading is answered from the log, the rest
//! is passed to core.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use sensor_proto::internal::v1::{Ask, IncidentsNow, Run, ask, tell};
use tonic::{Request, Response, Status};

use super::{
    connections::{Caller, Client, Counter, Ticket},
    core::Core,
    evidence::{self, EvidenceStream},
    groups::{GroupCache, Members},
    pace::Pace,
    records::{self, Records},
    stream::{self, Follow, IncidentStream, Interest, RecordStream, Wish},
    trees::{self, Lists, TreeStream},
};
use crate::{
    feed::{
        access::{self, Need, Refused, Roles, Who},
        link,
    },
    investigate::claims,
    proto::{self, sensor_service_server::SensorService},
    record::{Filter, IncidentFilter, ReadError, Reader},
};

/// Incidents in one answer, bytes: with its envelope it stays below the 4 MiB that clients take.
const LIST_MAX: usize = 3_500_000;

/// Streams that one client may have open, root excepted; and all clients but root.
const STREAMS_PER_CLIENT: usize = 16;
const STREAMS: usize = 64;

pub(super) struct Service {
    core: Core,
    records: Records,
    groups: GroupCache,
    members: Arc<Members>,
    streams: Counter,
    pace: Pace,
    trees: Lists,
}

impl Service {
    pub fn new(core: Core, records: Records, groups: GroupCache) -> Self {
        let streams = Counter::new(STREAMS_PER_CLIENT, STREAMS);
        let trees = Lists::new(core.clone());
        Self {
            core,
            records,
            groups,
            members: Arc::default(),
            streams,
            pace: Pace::default(),
            trees,
        }
    }

    /// An empty question by whoever sent the request.
    async fn asker<T>(&self, request: &Request<T>) -> Result<(Client, Ask), Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .ok_or_else(|| Status::unauthenticated("the connection does not say who you are"))?;
        if !self.pace.admits(&caller.client(), Instant::now()) {
            return Err(Status::resource_exhausted("too many requests; wait a moment"));
        }
        let ask = match caller {
            Caller::Certified(names) => {
                // A uid that nobody has, should the names be lost on the way.
                Ask { uid: u32::MAX, names: names.to_vec(), ..Ask::default() }
            }
            Caller::Run(run) => Ask { uid: u32::MAX, run: Some(Run::clone(run)), ..Ask::default() },
            &Caller::User { uid, gid } => {
                let members = Arc::clone(&self.members);
                let look_up = tokio::task::spawn_blocking(move || members.groups_of(uid, gid));
                let gids = look_up.await.map_err(|error| {
                    Status::internal(format!("cannot look up your groups: {error}"))
                })?;
                Ask { uid, gids, ..Ask::default() }
            }
        };
        Ok((caller.client(), ask))
    }

    fn roles(&self) -> Roles {
        Roles { groups: self.groups.get(), named: self.core.named() }
    }

    /// Whoever asks, when it may read.
    async fn reader<T>(&self, request: &Request<T>) -> Result<(Client, Ask), Status> {
        let (client, ask) = self.asker(request).await?;
        access::allow(Who::of(&ask), &self.roles(), Need::Read).map_err(refused)?;
        Ok((client, ask))
    }

    /// Whoever asks, when it may read what is about this incident, and the id: all of it where it is the
    /// agent of a run who gives the beginning of its own.
    async fn reader_of<T>(
        &self,
        request: &Request<T>,
        id: &str,
    ) -> Result<(Client, Ask, String), Status> {
        let (client, ask) = self.asker(request).await?;
        let id = about(&ask, id);
        access::allow_about(Who::of(&ask), &self.roles(), Need::Read, &id).map_err(refused)?;
        Ok((client, ask, id))
    }

    /// The incidents that core knows better than a log that does not work; none while it does.
    async fn held(&self, ask: Ask) -> Result<Vec<proto::Incident>, Status> {
        if self.core.log_works() {
            return Ok(Vec::new());
        }
        let what = Some(ask::What::Incidents(IncidentsNow {}));
        match self.core.ask(Ask { what, ..ask }).await? {
            tell::What::Incidents(now) => Ok(now.incidents),
            _ => Err(unexpected()),
        }
    }

    /// For one more stream of whoever asks, when it may read.
    async fn ticket<T>(&self, request: &Request<T>) -> Result<Ticket, Status> {
        let (client, _) = self.reader(request).await?;
        self.stream_of(client)
    }

    fn stream_of(&self, client: Client) -> Result<Ticket, Status> {
        self.streams.take(client).ok_or_else(|| {
            Status::resource_exhausted("too many streams are open; close one and try again")
        })
    }

    async fn ask<T>(&self, request: &Request<T>, what: ask::What) -> Result<tell::What, Status> {
        let ask = self.admitted(request, what).await?;
        self.core.ask(ask).await
    }

    /// A question that core would answer to whoever asks.
    async fn admitted<T>(&self, request: &Request<T>, mut what: ask::What) -> Result<Ask, Status> {
        let (_, ask) = self.asker(request).await?;
        match &mut what {
            ask::What::ReadSource(read) => read.incident = about(&ask, &read.incident),
            ask::What::Findings(found) => found.incident = about(&ask, &found.incident),
            _ => {}
        }
        let ask = Ask { what: Some(what), ..ask };
        access::admit(&ask, &self.roles()).map_err(refused)?;
        Ok(ask)
    }
}

/// The incident's id as it is asked for; in a run all of its own, where that begins so.
fn about(ask: &Ask, id: &str) -> String {
    match &ask.run {
        Some(run) if !id.is_empty() && run.incident.starts_with(id) => run.incident.clone(),
        _ => id.to_owned(),
    }
}

fn refused(refused: Refused) -> Status {
    Status::new(link::code(&refused), refused.to_string())
}

/// Core answered something else than it was asked.
pub(super) fn unexpected() -> Status {
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
impl SensorService for Service {
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
        let (_, ask) = self.reader(&request).await?;
        let held = self.held(ask).await?;
        let request = request.into_inner();
        let filter = IncidentFilter {
            kind: choice(request.kind, "kind")?,
            state: choice(request.state, "state")?,
            since: request.since,
        };
        let known = filter.clone();
        let read = self.records.read(move |reader| reader.incidents(&known, LIST_MAX)).await;
        let (mut incidents, omitted) = self.core.read_or(read, Default::default)?;
        if !held.is_empty() {
            incidents = stream::with_held(incidents, held);
            incidents.retain(|incident| filter.passes(incident));
            incidents.sort_by_key(|incident| {
                Reverse(incident.opened_at.map(|at| (at.seconds, at.nanos)))
            });
        }
        Ok(Response::new(proto::ListIncidentsResponse { incidents, omitted }))
    }

    async fn get_incident(
        &self,
        request: Request<proto::GetIncidentRequest>,
    ) -> Result<Response<proto::GetIncidentResponse>, Status> {
        let (_, ask, id) = self.reader_of(&request, &request.get_ref().id).await?;
        let held = self.held(ask).await?;
        let mut fitting = held.into_iter().filter(|it| !id.is_empty() && it.id.starts_with(&id));
        let incident = match (fitting.next(), fitting.next()) {
            (Some(incident), None) => incident,
            _ => self.records.read(move |reader| reader.incident(&id)).await?,
        };
        Ok(Response::new(proto::GetIncidentResponse { incident: Some(incident) }))
    }

    type WatchIncidentsStream = IncidentStream;

    async fn watch_incidents(
        &self,
        request: Request<proto::WatchIncidentsRequest>,
    ) -> Result<Response<IncidentStream>, Status> {
        let ticket = self.ticket(&request).await?;
        let (_, ask) = self.asker(&request).await?;
        let request = request.into_inner();
        // Before what is held is asked for: nothing may come in between unseen.
        let follow = Follow::new(&self.core);
        let interest = Interest {
            kind: choice(request.kind, "kind")?,
            state: choice(request.state, "state")?,
            severity: choice(request.severity, "severity")?,
            from_seq: request.from_seq,
            held: self.held(ask).await?,
            follow,
        };
        Ok(Response::new(stream::incidents(self.records.clone(), interest, ticket)))
    }

    type StreamRecordsStream = RecordStream;

    async fn stream_records(
        &self,
        request: Request<proto::StreamRecordsRequest>,
    ) -> Result<Response<RecordStream>, Status> {
        let (client, _, incident) = self.reader_of(&request, &request.get_ref().incident).await?;
        let ticket = self.stream_of(client)?;
        let request = request.into_inner();
        let filter = Filter::new(&incident, &request.kinds)
            .map_err(records::status)?
            .severity(choice(request.severity, "severity")?)
            .lane(choice(request.lane, "lane")?);
        let follow = request.follow.then(|| Follow::new(&self.core));
        let from_seq = if request.from_end {
            self.core.read_or(self.records.read(Reader::last_seq).await, || 0)? + 1
        } else {
            request.from_seq
        };
        let wish = Wish { from_seq, filter, follow };
        Ok(Response::new(stream::records(self.records.clone(), wish, ticket)))
    }

    type GetEvidenceStream = EvidenceStream;

    async fn get_evidence(
        &self,
        request: Request<proto::GetEvidenceRequest>,
    ) -> Result<Response<EvidenceStream>, Status> {
        let (client, _, incident) = self.reader_of(&request, &request.get_ref().incident).await?;
        let ticket = self.stream_of(client)?;
        let proto::GetEvidenceRequest { evidence, offset, .. } = request.into_inner();
        let read = move |reader: &Reader| {
            let incident = reader.incident(&incident)?;
            reader.evidence(&incident.id, &evidence)
        };
        let piece = self.records.read(read).await?;
        Ok(Response::new(evidence::parts(piece, offset, ticket)))
    }

    async fn list_trees(
        &self,
        request: Request<proto::ListTreesRequest>,
    ) -> Result<Response<proto::ListTreesResponse>, Status> {
        let what = ask::What::Trees(request.get_ref().clone());
        let ask = self.admitted(&request, what).await?;
        let list = Some(self.trees.list(ask).await?);
        Ok(Response::new(proto::ListTreesResponse { list }))
    }

    type WatchTreesStream = TreeStream;

    async fn watch_trees(
        &self,
        request: Request<proto::WatchTreesRequest>,
    ) -> Result<Response<TreeStream>, Status> {
        let ticket = self.ticket(&request).await?;
        let (wish, every) = trees::wish(request.get_ref().clone())?;
        let ask = self.admitted(&request, ask::What::Trees(wish)).await?;
        Ok(Response::new(self.trees.watch(ask, every, ticket)))
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

    async fn investigate(
        &self,
        request: Request<proto::InvestigateRequest>,
    ) -> Result<Response<proto::InvestigateResponse>, Status> {
        match self.ask(&request, ask::What::Investigate(request.get_ref().clone())).await? {
            tell::What::Investigate(begun) => Ok(Response::new(begun)),
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

    async fn read_source(
        &self,
        request: Request<proto::ReadSourceRequest>,
    ) -> Result<Response<proto::ReadSourceResponse>, Status> {
        match self.ask(&request, ask::What::ReadSource(request.get_ref().clone())).await? {
            tell::What::ReadSource(read) => Ok(Response::new(read)),
            _ => Err(unexpected()),
        }
    }

    async fn submit_findings(
        &self,
        request: Request<proto::SubmitFindingsRequest>,
    ) -> Result<Response<proto::SubmitFindingsResponse>, Status> {
        let what = ask::What::Findings(request.get_ref().clone());
        let mut ask = self.admitted(&request, what).await?;
        let Some(ask::What::Findings(submitted)) = &mut ask.what else { return Err(unexpected()) };
        let (id, findings) = (submitted.incident.clone(), submitted.findings.take());
        let findings = findings.unwrap_or_default();
        let read = move |reader: &Reader| {
            let incident = reader.incident(&id)?;
            let mut cited = Vec::new();
            for id in claims::cited(&findings) {
                match reader.evidence(&incident.id, &id) {
                    Ok(piece) => cited.push(piece),
                    Err(ReadError::NoEvidence { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok((incident.id.clone(), claims::check(findings.clone(), &incident, &cited)))
        };
        let (id, findings) = self.records.read(read).await?;
        (submitted.incident, submitted.findings) = (id, Some(findings));
        match self.core.ask(ask).await? {
            tell::What::Findings(recorded) => Ok(Response::new(recorded)),
            _ => Err(unexpected()),
        }
    }
}
