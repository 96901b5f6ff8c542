//! Numbers an incident's evidence.

use crate::{
    clock,
    proto::{self, record::Body},
    record::{Filter, ReadError, Reader},
};

/// Records that one look into a log takes.
const PAGE: u32 = 256;

/// Evidence of one incident on its way to the record, with the ids that a diagnosis cites.
#[derive(Debug, Default)]
pub struct EvidenceLog {
    given: u32,
    fresh: Vec<proto::Evidence>,
}

impl EvidenceLog {
    /// Goes on where `given` ids were used before: after a restart, or for a later look.
    pub fn after(given: u32) -> Self {
        Self { given, fresh: Vec::new() }
    }

    /// How many ids an incident has used, as a log has them.
    pub fn given_in(log: &Reader, incident: &str) -> Result<u32, ReadError> {
        let filter = Filter::new(incident, &["evidence"])?;
        let (mut next, mut given) = (0, 0);
        loop {
            let page = log.records(next, &filter, PAGE)?;
            for record in &page.records {
                if let Some(Body::Evidence(evidence)) = &record.body {
                    let number = evidence.id.strip_prefix('e').and_then(|id| id.parse().ok());
                    given = given.max(number.unwrap_or(0));
                }
            }
            if page.end {
                return Ok(given);
            }
            next = page.next_seq;
        }
    }

    /// How many ids were used so far.
    pub fn given(&self) -> u32 {
        self.given
    }

    /// Gives the evidence its id, and the time if it has none, and keeps it.
    pub fn add(&mut self, mut evidence: proto::Evidence) -> String {
        self.given += 1;
        let id = format!("e{}", self.given);
        evidence.id.clone_from(&id);
        evidence.at.get_or_insert_with(clock::wall);
        self.fresh.push(evidence);
        id
    }

    /// What was added since the last time.
    pub fn take(&mut self) -> Vec<proto::Evidence> {
        std::mem::take(&mut self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_on_and_nothing_is_taken_twice() {
        let mut log = EvidenceLog::after(2);
        assert_eq!(log.add(proto::Evidence::default()), "e3");
        assert_eq!(log.add(proto::Evidence::default()), "e4");
        let ids: Vec<String> = log.take().into_iter().map(|evidence| evidence.id).collect();
        assert_eq!(ids, ["e3", "e4"]);
        assert_eq!((log.take().len(), log.given()), (0, 4));
    }
}
