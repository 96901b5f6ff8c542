//! Investigations at the desk: they are begun, what they tell is recorded, and what they have come to is
//! judged by what is in the record.

use std::path::Path;

use super::{
    announce::Announced,
    desk::{Desk, Done},
    investigations::{
        Asked, Onward, Progress, Staged,
        admission::{self, Waiting},
    },
};
use crate::{
    clock,
    investigate::stages,
    proto::{self, InvestigationState, Outcome, Stage, record::Body},
    record::Draft,
};

impl Desk {
    /// `None`: the incident was resolved meanwhile, or nothing can be started here.
    pub(super) fn investigate(
        &mut self,
        id: &str,
        asked: Asked,
        evidence: Vec<proto::Evidence>,
    ) -> Option<(Announced, proto::Investigation)> {
        let told = self.teller();
        let incident = self.incidents.get_looked_into(id)?;
        let begun = self.investigations.begin(asked, incident, evidence, told)?;
        let Progress::State { investigation, .. } = &begun else { return None };
        let investigation = proto::Investigation::clone(investigation);
        self.investigated(begun).map(|announced| (announced, investigation))
    }

    /// What investigations of the last day have cost counts, whoever of us was told.
    pub(super) fn recall_spending(&mut self, state_dir: &Path) {
        match admission::earlier(state_dir) {
            Ok(earlier) => self.investigations.remember(earlier),
            Err(error) => {
                tracing::warn!("what earlier investigations have cost is not counted: {error}");
            }
        }
    }

    /// Brings to the desk what is told elsewhere.
    fn teller(&self) -> impl Fn(Progress) + Send + 'static {
        let done = self.done.clone();
        move |progress| {
            let _ = done.send(Done::Investigated(progress));
        }
    }

    /// The next one begins when one has ended.
    fn follow(&mut self, ended: &proto::Investigation) {
        let told = self.teller();
        let mut next = self.investigations.ended(ended, &told);
        while let Some(Waiting { incident, mut order }) = next {
            let id = order.investigation.id.clone();
            self.investigations.reconsider(&mut order);
            let found = self.incidents.get_looked_into(&incident);
            let begun = found.and_then(|it| self.investigations.start(order, it, self.teller()));
            if let Some(begun) = begun {
                self.investigated(begun);
                return;
            }
            next = self.investigations.withdraw(&id, &told);
        }
    }

    pub(super) fn investigated(&mut self, progress: Progress) -> Option<Announced> {
        match progress {
            Progress::Line { incident, transcript } => {
                self.log.append(Draft::of(incident, Body::Transcript(*transcript)));
                None
            }
            Progress::Going { incident, investigation } => {
                let investigation = self.with_report(&incident, *investigation);
                let body = Body::Investigation(investigation.clone());
                self.log.append(Draft::of(incident.clone(), body));
                // The next transition carries it.
                self.incidents.amend(&incident, clock::wall(), |incident| {
                    put(incident, investigation);
                    String::new()
                });
                None
            }
            Progress::State { incident, investigation } => {
                let (announced, over) = self.passed(&incident, *investigation);
                if let Some(over) = over {
                    self.follow(&over);
                }
                announced
            }
            Progress::Staged(staged) => {
                self.staged(*staged);
                None
            }
            Progress::NoRoom { incident, investigation, evidence } => {
                self.make_way(&incident, *investigation, &evidence)
            }
        }
    }

    /// It has found the cause, and is to find the place, or there is a reason why not. Either is on its incident.
    fn staged(&mut self, staged: Staged) {
        let Staged { incident, investigation, evidence, exhausted, reply } = staged;
        let mut run = self.with_report(&incident, investigation);
        stages::judge(&mut run);
        let found = run.stages.first().is_some_and(|first| first.outcome() == Outcome::Complete);
        // Who has found nothing looks no further.
        if found {
            match self.why_no_further(&incident, &run, &evidence, exhausted) {
                Some(why) => stages::skip(&mut run, why),
                None => stages::begin(&mut run, Stage::Locate, clock::wall()),
            }
        }
        let goes_on = found && stages::current(&run) == Stage::Locate;
        self.log.append(Draft::of(incident.clone(), Body::Investigation(run.clone())));
        // Who is killed now begins with this stage.
        let announced = self.amend(&incident, |incident| {
            let what = if goes_on { "goes on to the place" } else { "has ended its first stage" };
            let why = format!("investigation by {} {what}", run.agent);
            put(incident, run.clone());
            why
        });
        // Without its incident nobody waits for it: as if the daemon had ended.
        if let Some(Announced { incident, .. }) = announced {
            let _ = reply.send(Onward { investigation: run, incident });
        }
    }

    /// Why there is no second stage.
    fn why_no_further(
        &self,
        id: &str,
        run: &proto::Investigation,
        evidence: &[proto::Evidence],
        exhausted: Option<String>,
    ) -> Option<String> {
        let incident = self.incidents.get_looked_into(id)?;
        stages::why_not(incident, run.report.as_ref(), evidence)
            .or_else(|| {
                let is_over = self.incidents.get(id).is_none();
                is_over.then(|| "the incident was resolved: its files are read no more".to_owned())
            })
            .or(exhausted)
            .or_else(|| self.investigations.why_no_more(&run.agent))
    }

    /// It has begun or ended: what was announced, and what it has come to if it is over.
    fn passed(
        &mut self,
        incident: &str,
        investigation: proto::Investigation,
    ) -> (Option<Announced>, Option<proto::Investigation>) {
        let mut investigation = self.with_report(incident, investigation);
        let ended = investigation.ended_at.is_some();
        if ended {
            conclude(&mut investigation);
        }
        let body = Body::Investigation(investigation.clone());
        self.log.append(Draft::of(incident.to_owned(), body));
        let over = ended.then(|| investigation.clone());
        let announced = self.amend(incident, |incident| {
            let why = format!("investigation by {}", investigation.agent);
            let what = match investigation.state() {
                InvestigationState::Suppressed => "was suppressed",
                InvestigationState::Queued => "waits for its turn",
                _ if ended => "ended",
                _ if investigation.lives > 1 => "was taken up again",
                _ => "began",
            };
            put(incident, investigation);
            format!("{why} {what}")
        });
        (announced, over)
    }

    /// It was ended for want of room: somebody who needs less goes on.
    fn make_way(
        &mut self,
        incident: &str,
        investigation: proto::Investigation,
        given: &[proto::Evidence],
    ) -> Option<Announced> {
        let mut over = self.with_report(incident, investigation);
        // What it has handed in, or printed before its second stage, is what the next one would be asked for; and nobody
        // begins about what is resolved.
        let wants_another = over.report.is_none() && stages::current(&over) == Stage::Diagnose;
        if wants_another && self.incidents.get(incident).is_some() {
            conclude(&mut over);
            self.log.append(Draft::of(incident, Body::Investigation(over.clone())));
            // The transition by which the next one begins carries it, and no earlier one: who is killed in between
            // takes up the one that was ended, and no incident is left with neither.
            self.incidents.amend(incident, clock::wall(), |incident| {
                put(incident, over.clone());
                String::new()
            });
            if self.step_down(incident, &over, given) {
                self.follow(&over);
                return None;
            }
        }
        let (announced, over) = self.passed(incident, over);
        if let Some(over) = over {
            self.follow(&over);
        }
        announced
    }

    /// Who needs less begins, before all that wait, for it has waited. Whether anybody does.
    fn step_down(
        &mut self,
        incident: &str,
        over: &proto::Investigation,
        given: &[proto::Evidence],
    ) -> bool {
        let (mut above, mut why_not) = (over.clone(), Vec::new());
        loop {
            why_not.push(format!("{}: {}", above.agent, above.error));
            let asked = self.investigations.successor(&above, why_not.clone());
            let begun = self.investigate(incident, asked, given.to_vec());
            match begun {
                // The bounds of hour and day are for it as well; the playbook costs nothing.
                Some((_, refused)) if refused.state() == InvestigationState::Suppressed => {
                    above = refused;
                }
                begun => return begun.is_some(),
            }
        }
    }

    /// What it has submitted is known here, not to its driver.
    fn with_report(
        &self,
        incident: &str,
        mut investigation: proto::Investigation,
    ) -> proto::Investigation {
        if let Some(report) = self.report_of(incident, &investigation.id) {
            investigation.report = Some(report);
        }
        investigation
    }
}

fn put(incident: &mut proto::Incident, investigation: proto::Investigation) {
    incident.investigations.retain(|known| known.id != investigation.id);
    incident.investigations.push(investigation);
}

/// What an investigation has come to: complete is one that ended well, and that submitted something. A
/// program of the operator's may print it instead. Of one with stages it is what the first one has come to.
fn conclude(investigation: &mut proto::Investigation) {
    if investigation.agent == "builtin" {
        return;
    }
    stages::judge(investigation);
    let printed = investigation.agent == "command" && !investigation.findings.is_empty();
    let done = investigation.state() == InvestigationState::Done;
    let found = investigation.report.is_some() || printed;
    investigation.set_outcome(match investigation.state() {
        InvestigationState::Suppressed => Outcome::Suppressed,
        _ if done && found => Outcome::Complete,
        _ => Outcome::Incomplete,
    });
    if done && !found {
        investigation.error = "it ended without findings".into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_is_what_ended_well_and_has_findings() {
        use InvestigationState::{Done, Failed, Suppressed, TimedOut};
        let outcome = |agent: &str, state, report: bool, findings: &str| {
            let mut one = proto::Investigation {
                agent: agent.into(),
                findings: findings.into(),
                report: report.then(proto::Findings::default),
                ..Default::default()
            };
            one.set_state(state);
            conclude(&mut one);
            (one.outcome(), one.error)
        };
        assert_eq!(outcome("claude", Done, true, ""), (Outcome::Complete, String::new()));
        let nothing = "it ended without findings".to_owned();
        assert_eq!(outcome("claude", Done, false, "prose"), (Outcome::Incomplete, nothing));
        for state in [Failed, TimedOut] {
            assert_eq!(outcome("claude", state, true, "").0, Outcome::Incomplete);
        }
        assert_eq!(outcome("claude", Suppressed, false, "").0, Outcome::Suppressed);
        assert_eq!(outcome("command", Done, false, "printed").0, Outcome::Complete);
        assert_eq!(outcome("builtin", Done, false, "x").0, Outcome::Unspecified);
    }
}
