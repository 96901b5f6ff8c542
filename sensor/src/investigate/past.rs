//! What earlier lives of a run have left: what the records of it say, and what its program said. Pure.

use super::agent::{self, Said};
use crate::proto::{self, InvestigationState};

/// Bytes of what it said that are remembered, their end: a prompt shows less of it.
const WORDS: usize = 16 << 10;

/// Who knows what a program's lines say, if anybody does.
pub type Ear = Option<Box<dyn agent::Agent>>;

/// What earlier lives of a run have left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// How many there were.
    pub lives: u32,
    /// The conversation, as its program calls it; empty: it had none yet.
    pub session: String,
    pub spent: proto::Cost,
    /// Lines of its transcript.
    pub lines: u32,
    /// What it said and saw, its end.
    pub words: Vec<u8>,
    /// Verdict of what it had submitted; empty: nothing.
    pub submitted: String,
    /// A stage begins of which it has had no life yet.
    pub is_new_stage: bool,
}

impl Past {
    /// As the record of it has it.
    pub fn of(run: &proto::Investigation) -> Self {
        // One that waited has had no life.
        let least = u32::from(run.state() != InvestigationState::Queued);
        Self {
            lives: run.lives.max(least),
            session: run.session.clone(),
            spent: run.cost.unwrap_or_default(),
            submitted: verdict(run),
            ..Self::default()
        }
    }

    /// Takes what is known of it by now.
    pub fn learn(&mut self, run: &proto::Investigation) {
        self.lives = self.lives.max(run.lives);
        if !run.session.is_empty() {
            self.session.clone_from(&run.session);
        }
        self.spent = run.cost.unwrap_or(self.spent);
        if run.report.is_some() {
            self.submitted = verdict(run);
        }
    }

    /// Remembers what a line of its output said.
    pub fn hear(&mut self, ear: &mut Ear, line: &[u8]) {
        let (Some(agent), Ok(event)) = (ear, serde_json::from_slice(line)) else { return };
        for said in agent.read(&event) {
            let line = match said {
                Said::Text(text) => format!("you said: {text}\n"),
                Said::Tool(name) => format!("you called {name}\n"),
                // The record of it may not have reached the disk.
                Said::Session(name) => {
                    self.session = name;
                    continue;
                }
                _ => continue,
            };
            self.words.extend_from_slice(line.as_bytes());
            let more = self.words.len().saturating_sub(WORDS);
            self.words.drain(..more);
        }
    }
}

fn verdict(run: &proto::Investigation) -> String {
    let verdict = run.report.as_ref().map(|report| report.verdict);
    verdict.map(sensor_proto::json::verdict::word).unwrap_or_default()
}
