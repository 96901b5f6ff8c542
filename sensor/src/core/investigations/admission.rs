//! Whether an investigation may begin: what the budget says of it, and what becomes of those that wait.

use std::path::Path;

use super::{Asked, Investigations, Progress};
use crate::{
    clock,
    config::{Agent, Stage},
    investigate::{
        Admission, By, Denied, Driver, Earlier, Grant, Next, Past, Request,
        gate::{Gate, gate},
        prices::{Estimate, USUAL_TURNS},
    },
    proto::{self, InvestigationState},
    record::{ReadError, Reader},
};

/// One that waits for its turn.
#[derive(Debug)]
pub struct Waiting {
    pub incident: String,
    pub order: Order,
}

/// One that may begin, or may soon.
#[derive(Debug)]
pub struct Order {
    pub driver: Driver,
    pub past: Option<Past>,
    pub evidence: Vec<proto::Evidence>,
    pub investigation: proto::Investigation,
}

impl Order {
    pub fn new(asked: Asked, incident: &proto::Incident, evidence: Vec<proto::Evidence>) -> Self {
        let Asked { driver, why, past, .. } = asked;
        let number = incident.investigations.len() + 1;
        let (investigation, past) = match past {
            Some((cut_off, past)) => (
                proto::Investigation { lives: past.lives + 1, ended_at: None, ..cut_off },
                Some(past),
            ),
            None => (
                proto::Investigation {
                    id: format!("{}-{number}", incident.id),
                    agent: driver.name().to_owned(),
                    started_at: Some(clock::wall()),
                    why,
                    lives: 1,
                    stage: driver.stop_after().into(),
                    ..Default::default()
                },
                None,
            ),
        };
        Self { driver, past, evidence, investigation }
    }

    fn estimate(&self, prompt_tokens: usize) -> Option<Estimate> {
        let Driver::Agent(agency) = &self.driver else { return None };
        let turns = if agency.agent == Agent::Api { 1 } else { USUAL_TURNS };
        let once = agency.prices.estimate(&agency.cli.model, prompt_tokens as u64, turns);
        // The second stage has a prompt and answers of its own.
        Some(if agency.stop_after == Stage::Locate { once.twice() } else { once })
    }

    /// It is held to what is left of the day.
    fn cut(&mut self, grant: Grant) {
        if let Driver::Agent(agency) = &mut self.driver {
            agency.bounds = grant.cut(&agency.bounds);
        }
    }
}

/// What the budget says of an order.
pub enum Verdict {
    Go(Box<Order>),
    /// It waits or is suppressed: what is to be recorded.
    Not(Progress),
}

impl Investigations {
    /// What was spent before this run of the daemon counts.
    pub fn remember(&mut self, earlier: impl IntoIterator<Item = Earlier>) {
        self.admission.remember(earlier);
    }

    /// Who looks into an incident without being asked, and why; `returns`: how often its cause was found before.
    /// `None`: nobody is configured.
    pub fn chosen(&self, incident: &proto::Incident, returns: u32) -> Option<Asked> {
        let driver = self.by_itself()?;
        let (driver, why) = match &driver {
            Driver::Agent(_) => match gate(incident, returns, self.when) {
                Gate::Agent(why) => (driver, why),
                Gate::Enough(why) => (Driver::Builtin, why),
            },
            // They are started about every incident.
            Driver::Builtin | Driver::Command(_) => (driver, String::new()),
        };
        Some(Asked { driver, why, by: By::Itself, past: None })
    }

    pub(super) fn admit(
        &mut self,
        mut order: Order,
        by: By,
        incident: &proto::Incident,
        told: &dyn Fn(Progress),
    ) -> Verdict {
        // The playbook costs nothing; the budget is for programs.
        if matches!(order.driver, Driver::Builtin) {
            return Verdict::Go(order.into());
        }
        let estimate = order.estimate(self.tokens);
        if let Some(micro_usd) = estimate.and_then(|estimate| estimate.micro_usd) {
            let cost = order.investigation.cost.get_or_insert_default();
            cost.estimated_usd = crate::config::Usd(micro_usd).dollars();
        }
        let request = Request {
            id: order.investigation.id.clone(),
            incident: incident.id.clone(),
            severity: incident.severity(),
            fingerprint: incident.fingerprint.clone(),
            ours: false,
            by,
            estimate,
        };
        let cgroup = incident.culprit.as_ref().map_or("", |culprit| culprit.cgroup.as_str());
        match self.admission.ask(Path::new(cgroup), request) {
            Admission::Go(grant) => {
                order.cut(grant);
                Verdict::Go(order.into())
            }
            Admission::Denied(denied) => {
                Verdict::Not(suppressed(incident.id.clone(), order.investigation, &denied))
            }
            Admission::Queue { gave_way, .. } => {
                if let Some((request, denied)) = gave_way {
                    self.suppress(&request.id, &denied, told);
                }
                order.investigation.set_state(InvestigationState::Queued);
                // The one that it waits for has not begun.
                order.investigation.lives = order.investigation.lives.saturating_sub(1);
                let (id, incident) = (order.investigation.id.clone(), incident.id.clone());
                let investigation = order.investigation.clone().into();
                self.waiting.insert(id, Waiting { incident: incident.clone(), order });
                Verdict::Not(Progress::State { incident, investigation })
            }
        }
    }

    /// One has ended. The next one, if it may begin: it counts as running.
    pub fn ended(
        &mut self,
        investigation: &proto::Investigation,
        told: &dyn Fn(Progress),
    ) -> Option<Waiting> {
        let cost = investigation.cost.unwrap_or_default();
        let next = self.admission.ended(&investigation.id, &cost);
        self.tend_reserve();
        self.follow(next, told)
    }

    /// One that was let go could not be started: as if nobody had asked. The next one.
    pub fn withdraw(&mut self, id: &str, told: &dyn Fn(Progress)) -> Option<Waiting> {
        let next = self.admission.withdraw(id);
        self.follow(next, told)
    }

    fn follow(&mut self, next: Next, told: &dyn Fn(Progress)) -> Option<Waiting> {
        for (request, denied) in next.denied {
            self.suppress(&request.id, &denied, told);
        }
        let (request, grant) = next.go?;
        let mut waiting = self.waiting.remove(&request.id)?;
        waiting.order.cut(grant);
        waiting.order.investigation.lives += 1;
        Some(waiting)
    }

    fn suppress(&mut self, id: &str, denied: &Denied, told: &dyn Fn(Progress)) {
        if let Some(Waiting { incident, order }) = self.waiting.remove(id) {
            told(suppressed(incident, order.investigation, denied));
        }
    }
}

/// What the log has of the last day's investigations.
pub fn earlier(state_dir: &Path) -> Result<Vec<Earlier>, ReadError> {
    let reader = Reader::open(state_dir)?;
    let (mut found, now) = (Vec::new(), clock::wall());
    for state in [
        InvestigationState::Running,
        InvestigationState::Done,
        InvestigationState::Failed,
        InvestigationState::TimedOut,
        InvestigationState::Interrupted,
    ] {
        for (id, investigation) in reader.investigations(state)? {
            if let Some(one) = Earlier::of(&investigation, now) {
                found.push(one.about(&reader.incident(&id)?));
            }
        }
    }
    Ok(found)
}

fn suppressed(
    incident: String,
    mut investigation: proto::Investigation,
    denied: &Denied,
) -> Progress {
    investigation.set_state(InvestigationState::Suppressed);
    investigation.ended_at = Some(clock::wall());
    investigation.error = denied.to_string();
    Progress::State { incident, investigation: investigation.into() }
}
