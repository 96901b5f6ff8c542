//! What is asked of the daemon, about one incident.

use sensor_proto::v1::{
    Evidence, FileFact, Findings, GetEvidenceRequest, GetIncidentRequest, Incident, Investigation,
    ReadSourceRequest, Record, StreamRecordsRequest, SubmitFindingsRequest, evidence::Content,
    record::Body, sensor_service_client::SensorServiceClient,
};
use tonic::{Status, transport::Channel};

use super::Failed;

/// Evidence that is taken up at once, bytes: far more than an incident has.
const EVIDENCE: usize = 64 << 20;

/// The daemon, and the incident that this session is about.
#[derive(Clone, Debug)]
pub struct Daemon {
    client: SensorServiceClient<Channel>,
    incident: String,
}

impl Daemon {
    /// `incident`: all of its id.
    pub fn new(client: SensorServiceClient<Channel>, incident: String) -> Self {
        Self { client, incident }
    }

    pub fn incident_id(&self) -> &str {
        &self.incident
    }

    pub async fn incident(&mut self) -> Result<Incident, Failed> {
        let request = GetIncidentRequest { id: self.incident.clone() };
        let answer = self.client.get_incident(request).await.map_err(said)?;
        answer.into_inner().incident.ok_or_else(|| "the daemon sent no incident".to_owned())
    }

    /// Hands on records from this number on, until `each` has enough (false).
    pub async fn records(
        &mut self,
        kinds: &[&str],
        from_seq: u64,
        mut each: impl FnMut(Record) -> bool,
    ) -> Result<(), Failed> {
        let request = StreamRecordsRequest {
            from_seq,
            incident: self.incident.clone(),
            kinds: kinds.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let mut stream = self.client.stream_records(request).await.map_err(said)?.into_inner();
        while let Some(answer) = stream.message().await.map_err(said)? {
            if !answer.record.is_none_or(&mut each) {
                break;
            }
        }
        Ok(())
    }

    /// All evidence, oldest first.
    pub async fn evidence(&mut self) -> Result<Vec<Evidence>, Failed> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        self.records(&["evidence"], 0, |record| {
            bytes += prost::Message::encoded_len(&record);
            if let Some(Body::Evidence(piece)) = record.body {
                pieces.push(piece);
            }
            bytes < EVIDENCE
        })
        .await?;
        Ok(pieces)
    }

    /// One piece, which comes in parts.
    pub async fn piece(&mut self, id: &str) -> Result<Evidence, Failed> {
        let request = GetEvidenceRequest {
            incident: self.incident.clone(),
            evidence: id.to_owned(),
            offset: 0,
        };
        let mut parts = self.client.get_evidence(request).await.map_err(said)?.into_inner();
        let head = parts.message().await.map_err(said)?.and_then(|head| head.evidence);
        let mut piece = head.ok_or("the daemon sent no evidence")?;
        while let Some(part) = parts.message().await.map_err(said)? {
            if let Some(Content::Text(bytes) | Content::File(FileFact { content: bytes, .. })) =
                &mut piece.content
                && bytes.len() < EVIDENCE
            {
                bytes.extend(part.chunk);
            }
        }
        Ok(piece)
    }

    pub async fn read_source(&mut self, path: &str) -> Result<Evidence, Failed> {
        let path = path.as_bytes().to_vec();
        let request = ReadSourceRequest { incident: self.incident.clone(), path };
        let answer = self.client.read_source(request).await.map_err(said)?;
        answer.into_inner().evidence.ok_or_else(|| "the daemon sent no evidence".to_owned())
    }

    pub async fn submit(&mut self, findings: Findings) -> Result<Investigation, Failed> {
        let request =
            SubmitFindingsRequest { incident: self.incident.clone(), findings: Some(findings) };
        let answer = self.client.submit_findings(request).await.map_err(said)?;
        let recorded = answer.into_inner().investigation;
        recorded.ok_or_else(|| "the daemon does not say what it recorded".to_owned())
    }
}

/// The daemon's own sentence.
fn said(status: Status) -> Failed {
    if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }
}
