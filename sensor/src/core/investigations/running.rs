//! One investigation on a thread of its own: what its driver tells becomes what is recorded.

use std::sync::Arc;

use super::Progress;
use crate::{
    clock,
    evidence::Gatherer,
    investigate::{Dossier, Driver, End, Event, Past, Stop, Window},
    proto::{self, InvestigationState},
    render::Marker,
};

pub struct Running {
    pub gatherer: Arc<Gatherer>,
    /// Of the evidence window.
    pub tokens: usize,
    pub stop: Stop,
    pub driver: Driver,
    pub past: Option<Past>,
    pub dossier: Dossier,
    pub investigation: proto::Investigation,
}

impl Running {
    /// To its end.
    pub fn run(mut self, told: &dyn Fn(Progress)) {
        if !matches!(self.driver, Driver::Builtin) {
            let Dossier { incident, evidence, .. } = &self.dossier;
            let redactor = self.gatherer.redactor();
            let window = Window::fit(incident, evidence, redactor, Marker::random(), self.tokens);
            self.dossier.window = Some(window);
        }
        let gatherer = Arc::clone(&self.gatherer);
        let redact = |text: &[u8]| gatherer.redactor().text(text).0;
        let incident = self.dossier.incident.id.clone();
        let mut lines = self.past.as_ref().map_or(0, |past| past.lines);
        let mut investigation = self.investigation;
        let id = investigation.id.clone();
        let estimated_usd = investigation.cost.map_or(0.0, |cost| cost.estimated_usd);
        let sink = &mut |event| match event {
            Event::Line { stream, text } => {
                lines += 1;
                let transcript = proto::Transcript {
                    investigation: id.clone(),
                    line: lines,
                    stream: stream.to_owned(),
                    text,
                };
                told(Progress::Line { incident: incident.clone(), transcript });
            }
            Event::Session(session) if session != investigation.session => {
                investigation.session = session;
                told(going(&incident, &investigation));
            }
            Event::Session(_) => {}
            Event::Life(life) => {
                investigation.lives = life;
                told(going(&incident, &investigation));
            }
            Event::Cost(cost) => {
                investigation.cost = Some(proto::Cost { estimated_usd, ..cost });
                told(going(&incident, &investigation));
            }
            // It is not over: it goes on when the daemon is back.
            Event::End(end) if end.state == InvestigationState::Interrupted => {
                investigation.cost = Some(spent(&investigation, &end));
                told(going(&incident, &investigation));
            }
            Event::End(end) => {
                conclude(&mut investigation, end);
                told(Progress::State {
                    incident: incident.clone(),
                    investigation: investigation.clone().into(),
                });
            }
        };
        self.driver.run(&id, &self.dossier, self.past.as_ref(), &redact, &self.stop, sink);
    }
}

fn going(incident: &str, investigation: &proto::Investigation) -> Progress {
    let investigation = investigation.clone().into();
    Progress::Going { incident: incident.to_owned(), investigation }
}

fn conclude(investigation: &mut proto::Investigation, end: End) {
    investigation.cost = Some(spent(investigation, &end));
    investigation.set_state(end.state);
    investigation.ended_at = Some(clock::wall());
    investigation.findings = end.findings;
    investigation.error = end.error;
}

/// What it has cost in all its lives, with the one that has just ended.
fn spent(investigation: &proto::Investigation, end: &End) -> proto::Cost {
    let before = investigation.cost.unwrap_or_default();
    let wall_ns = before.wall_ns.saturating_add(end.wall_ns);
    proto::Cost { wall_ns, estimated_usd: before.estimated_usd, ..end.cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_each_life_counts() {
        let before = proto::Cost { wall_ns: 5, estimated_usd: 0.5, ..Default::default() };
        let mut one = proto::Investigation { cost: Some(before), ..Default::default() };
        for (life, wall_ns) in [(1, 25), (2, 45)] {
            let cost = proto::Cost { tokens: life, ..Default::default() };
            let end = End { wall_ns: 20, cost, ..End::default() };
            let cost = spent(&one, &end);
            assert_eq!((cost.wall_ns, cost.tokens), (wall_ns, life));
            assert!((cost.estimated_usd - 0.5).abs() < 1e-12);
            one.cost = Some(cost);
        }
    }
}
