//! One investigation on a thread of its own: what its driver tells becomes what is recorded.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Onward, Progress, Staged};
use crate::{
    clock, config,
    evidence::Gatherer,
    investigate::{Dossier, Driver, End, Event, Past, Stop, Window, stages, witness},
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

/// What one stage has come to.
struct Ended {
    end: End,
    /// With what its lives have left.
    past: Past,
}

impl Running {
    /// To its end.
    pub fn run(&mut self, told: &dyn Fn(Progress)) {
        if !matches!(self.driver, Driver::Builtin) {
            let Dossier { incident, evidence, .. } = &self.dossier;
            let redactor = self.gatherer.redactor();
            let window = Window::fit(incident, evidence, redactor, Marker::random(), self.tokens);
            self.dossier.window = Some(window);
        }
        loop {
            // It is not over: it goes on when the daemon is back.
            let Some(Ended { end, mut past }) = self.stage(told) else { return };
            let (no_room, state) = (end.no_room, end.state);
            let run = &mut self.investigation;
            run.cost = Some(spent(run, &end));
            let is_last = run.stage() == stages::current(run);
            stages::end(run, end, clock::wall());
            if state == InvestigationState::Done && !is_last {
                match self.goes_on(told) {
                    Onwards::Yes => {
                        past.spent = self.investigation.cost.unwrap_or_default();
                        self.past = Some(past);
                        continue;
                    }
                    Onwards::No => {}
                    Onwards::Gone => return,
                }
            }
            self.driver.forget(&self.investigation.id);
            stages::close(&mut self.investigation, state, clock::wall());
            let incident = self.dossier.incident.id.clone();
            let investigation = self.investigation.clone().into();
            return told(if no_room {
                let evidence = std::mem::take(&mut self.dossier.evidence);
                Progress::NoRoom { incident, investigation, evidence }
            } else {
                Progress::State { incident, investigation }
            });
        }
    }

    /// Asks the desk, which knows what was handed in, whether there is to be another stage.
    fn goes_on(&mut self, told: &dyn Fn(Progress)) -> Onwards {
        let (reply, answer) = oneshot::channel();
        told(Progress::Staged(Box::new(Staged {
            incident: self.dossier.incident.id.clone(),
            investigation: self.investigation.clone(),
            evidence: self.dossier.evidence.clone(),
            exhausted: self.driver.exhausted(&self.investigation.cost.unwrap_or_default()),
            reply,
        })));
        let Ok(Onward { investigation, incident }) = answer.blocking_recv() else {
            return Onwards::Gone;
        };
        let stage = stages::current(&investigation);
        let goes_on = stage != stages::current(&self.investigation);
        self.investigation = investigation;
        self.dossier.incident = incident;
        self.dossier.stage = config::Stage::of(stage);
        if goes_on { Onwards::Yes } else { Onwards::No }
    }

    /// One stage; `None`: it was interrupted.
    fn stage(&mut self, told: &dyn Fn(Progress)) -> Option<Ended> {
        let gatherer = Arc::clone(&self.gatherer);
        let redact = |text: &[u8]| gatherer.redactor().text(text).0;
        let incident = self.dossier.incident.id.clone();
        let mut lines = self.past.as_ref().map_or(0, |past| past.lines);
        let investigation = &mut self.investigation;
        let mut ended = None;
        let id = investigation.id.clone();
        let estimated_usd = investigation.cost.map_or(0.0, |cost| cost.estimated_usd);
        let mut tell = |stream: &str, text, witnessed| {
            lines += 1;
            let transcript = Box::new(proto::Transcript {
                investigation: id.clone(),
                line: lines,
                stream: stream.to_owned(),
                text,
                witnessed,
            });
            told(Progress::Line { incident: incident.clone(), transcript });
        };
        let sink = &mut |event| match event {
            Event::Line { stream, text } => tell(stream, text, None),
            Event::Witnessed(mut witnessed) => {
                witnessed.argv = gatherer.redactor().argv(&witnessed.argv).0;
                tell("kernel", witness::line(&witnessed).into_bytes(), Some(witnessed));
            }
            Event::Executed(programs) => {
                investigation.programs = investigation.programs.saturating_add(programs);
                told(going(&incident, investigation));
            }
            Event::Session(session) if session != investigation.session => {
                investigation.session = session;
                told(going(&incident, investigation));
            }
            Event::Session(_) => {}
            Event::Life(life) => {
                investigation.lives = life;
                told(going(&incident, investigation));
            }
            Event::Cost(cost) => {
                investigation.cost = Some(proto::Cost { estimated_usd, ..cost });
                told(going(&incident, investigation));
            }
            Event::End(end) if end.state == InvestigationState::Interrupted => {
                investigation.cost = Some(spent(investigation, &end));
                told(going(&incident, investigation));
            }
            Event::End(end) => ended = Some(end),
        };
        self.driver.run(&id, &self.dossier, self.past.as_ref(), &redact, &self.stop, sink);
        let end = ended?;
        let past = Past {
            lives: investigation.lives.saturating_sub(1),
            session: investigation.session.clone(),
            lines,
            is_new_stage: true,
            ..Past::default()
        };
        Some(Ended { end, past })
    }
}

enum Onwards {
    Yes,
    No,
    /// The daemon ends.
    Gone,
}

fn going(incident: &str, investigation: &proto::Investigation) -> Progress {
    let investigation = investigation.clone().into();
    Progress::Going { incident: incident.to_owned(), investigation }
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
