//! Starts investigations, and turns what they say into records.

pub mod admission;
mod drivers;
pub mod readiness;
mod running;

use std::{collections::HashMap, iter, path::PathBuf, sync::Arc};

use tokio::sync::oneshot;

pub use self::drivers::Place;
use self::{
    admission::{Order, Verdict, Waiting},
    readiness::Readiness,
    running::Running,
};
use crate::{
    cgroup::Hierarchies,
    clock,
    config::{self, Agent, When},
    evidence::Gatherer,
    investigate::{
        self, By, Desk as Admission, Dossier, Driver, End, Limits, Past, Stop,
        footing::headroom,
        ladder::{self, Rung},
        reserve::Reserve,
        stages,
    },
    proto::{self, InvestigationState},
};

/// What an investigation has come to.
#[derive(Debug)]
pub enum Progress {
    Line {
        incident: String,
        transcript: Box<proto::Transcript>,
    },
    /// It goes on; what is known of it has changed.
    Going {
        incident: String,
        investigation: Box<proto::Investigation>,
    },
    /// It has begun or ended.
    State {
        incident: String,
        investigation: Box<proto::Investigation>,
    },
    /// It has ended a stage, and may go on to the next one.
    Staged(Box<Staged>),
    /// It was ended for want of room: somebody who needs less is to go on with its evidence.
    NoRoom {
        incident: String,
        investigation: Box<proto::Investigation>,
        evidence: Vec<proto::Evidence>,
    },
}

/// One that has ended its first stage.
#[derive(Debug)]
pub struct Staged {
    pub incident: String,
    pub investigation: proto::Investigation,
    pub evidence: Vec<proto::Evidence>,
    /// The bound of which nothing is left, as a sentence.
    pub exhausted: Option<String>,
    pub reply: oneshot::Sender<Onward>,
}

/// What is known of it then.
#[derive(Debug)]
pub struct Onward {
    /// In its next stage, or in none.
    pub investigation: proto::Investigation,
    pub incident: proto::Incident,
}

/// One that is to begin.
#[derive(Debug)]
pub struct Asked {
    pub driver: Driver,
    /// Why this one, for the record.
    pub why: String,
    pub by: By,
    /// One that was cut off, and what its lives have left.
    pub past: Option<(proto::Investigation, Past)>,
}

/// Who investigates on this host, and what runs.
pub struct Investigations {
    agent: Agent,
    when: When,
    drivers: HashMap<Agent, Driver>,
    admission: Admission,
    /// By id, those that the budget has in its queue.
    waiting: HashMap<String, Waiting>,
    gatherer: Arc<Gatherer>,
    stop: Option<Stop>,
    /// Of the evidence window.
    tokens: usize,
    scratch: PathBuf,
    hierarchies: Hierarchies,
    readiness: Readiness,
    /// `None`: whoever is configured needs none.
    reserve: Option<Reserve>,
    /// Times that one that was cut off is taken up again.
    pub resumes: u32,
}

impl Investigations {
    pub fn new(config: &config::Investigate, place: Place, gatherer: Arc<Gatherer>) -> Self {
        let limits = Limits::of(config);
        let stop =
            Stop::new().inspect_err(|error| tracing::warn!("no investigations: {error}")).ok();
        let drivers = drivers::of(config, &place, &gatherer);
        // The playbook starts no program.
        let reserve = (drivers.len() > 1).then(Reserve::default);
        let mut these = Self {
            agent: config.agent,
            when: config.when,
            readiness: Readiness::watch(&drivers),
            drivers,
            admission: Admission::new(&place.home, limits),
            waiting: HashMap::new(),
            gatherer,
            stop,
            tokens: config.window_tokens as usize,
            scratch: place.scratch,
            hierarchies: place.hierarchies,
            reserve,
            resumes: config.run.resumes,
        };
        these.tend_reserve();
        these
    }

    /// Who investigates under this name, which a person gave; empty: whoever does by itself. An error says
    /// why nobody does.
    pub fn named(&self, agent: &str) -> Result<Driver, String> {
        if agent.is_empty() {
            return self.by_itself().ok_or_else(|| {
                "nobody is configured to investigate: set investigate.agent".into()
            });
        }
        let known = drivers::NAMES.iter().find(|(name, _)| *name == agent);
        let Some((name, agent)) = known else {
            let names = drivers::NAMES.map(|(name, _)| name).join(", ");
            return Err(format!("nobody of that name investigates here: it is one of {names}"));
        };
        self.drivers.get(agent).cloned().ok_or_else(|| match agent {
            Agent::Command => "no program is configured: set investigate.command".to_owned(),
            _ => format!("{name} is not configured: set investigate.{name}, or investigate.agent"),
        })
    }

    /// Who investigates without being asked.
    pub fn by_itself(&self) -> Option<Driver> {
        self.drivers.get(&self.agent).cloned()
    }

    /// Starts one about an incident, if the budget lets it. Answers what is to be recorded at once: that it
    /// began, waits, or why it may not; `told` hears the rest. `None`: nothing can be started on this host.
    pub fn begin(
        &mut self,
        mut asked: Asked,
        incident: &proto::Incident,
        evidence: Vec<proto::Evidence>,
        told: impl Fn(Progress) + Send + 'static,
    ) -> Option<Progress> {
        self.stop.as_ref()?;
        self.tend_reserve();
        let by = asked.by;
        // Of the others it was looked at: what has begun goes on as it was.
        if matches!(by, By::Itself | By::Hand) {
            self.step_down(&mut asked.driver, &mut asked.why);
        }
        let order = Order::new(asked, incident, evidence);
        match self.admit(order, by, incident, &told) {
            Verdict::Go(order) => self.start(*order, incident, told),
            Verdict::Not(progress) => Some(progress),
        }
    }

    /// Starts one that was admitted.
    pub fn start(
        &self,
        order: Order,
        incident: &proto::Incident,
        told: impl Fn(Progress) + Send + 'static,
    ) -> Option<Progress> {
        let Order { driver, past, evidence, mut investigation } = order;
        investigation.set_state(InvestigationState::Running);
        investigation.error.clear();
        let stage = if matches!(driver, Driver::Builtin) {
            config::Stage::Diagnose
        } else {
            let stage = stages::current(&investigation);
            stages::begin(&mut investigation, stage, clock::wall());
            config::Stage::of(stage)
        };
        let incident_id = incident.id.clone();
        let begun = Progress::State {
            incident: incident_id.clone(),
            investigation: investigation.clone().into(),
        };
        let mut running = Running {
            gatherer: Arc::clone(&self.gatherer),
            tokens: self.tokens,
            stop: self.stop.clone()?,
            driver,
            past,
            dossier: Dossier { incident: incident.clone(), evidence, window: None, stage },
            investigation,
        };
        tokio::task::spawn_blocking(move || {
            let run = std::panic::AssertUnwindSafe(|| running.run(&told));
            // One that never ended would keep all others from beginning.
            if std::panic::catch_unwind(run).is_err() {
                let error = "the thread that listened to it has failed".to_owned();
                let end = End { state: InvestigationState::Failed, error, ..End::default() };
                // With what earlier stages came to.
                let mut investigation = running.investigation;
                stages::end(&mut investigation, end, clock::wall());
                stages::close(&mut investigation, InvestigationState::Failed, clock::wall());
                let investigation = investigation.into();
                told(Progress::State { incident: incident_id, investigation });
            }
        });
        Some(begun)
    }

    /// Has the wanted one make way for who can run now, with the room that is left: one request instead of it, or
    /// the playbook. Why stands behind why somebody was wanted.
    fn step_down(&self, driver: &mut Driver, why: &mut String) {
        let Some(wanted) = self.rung(driver) else { return };
        let agent = wanted.agent;
        let rungs: Vec<Rung> = iter::once(wanted).chain(self.rung_below(agent)).collect();
        let choice = self.choose(&rungs);
        if choice.agent == agent {
            return;
        }
        *driver = self.drivers.get(&choice.agent).cloned().unwrap_or(Driver::Builtin);
        let instead = instead(driver, &choice.why_not);
        *why = if why.is_empty() { instead } else { format!("{why}: {instead}") };
    }

    /// Who goes on where this agent was ended for want of room, and whoever may not after it.
    pub fn successor(&mut self, over: &proto::Investigation, why_not: Vec<String>) -> Asked {
        self.admission.spent(&over.id, &over.cost.unwrap_or_default());
        let below = Agent::of(&over.agent).and_then(|agent| self.rung_below(agent));
        let choice = self.choose(below.as_slice());
        let driver = self.drivers.get(&choice.agent).cloned().unwrap_or(Driver::Builtin);
        let why = instead(&driver, &[why_not, choice.why_not].concat());
        Asked { driver, why, by: By::Successor, past: None }
    }

    /// Where all tasks are taken, those that are held for this are given back; where there are enough again, some
    /// are held.
    pub(super) fn tend_reserve(&mut self) {
        let Some(reserve) = &mut self.reserve else { return };
        let given = reserve.tend(headroom(&self.hierarchies).tasks);
        if given > 0 {
            tracing::info!("{given} tasks that were held for investigations are given back");
        }
    }

    fn choose(&self, rungs: &[Rung]) -> ladder::Choice {
        ladder::choose(rungs, &headroom(&self.hierarchies))
    }

    /// One request to a model stands between an agent and the playbook, where it is configured.
    fn rung_below(&self, agent: Agent) -> Option<Rung> {
        (agent != Agent::Api).then(|| self.rung(self.drivers.get(&Agent::Api)?)).flatten()
    }

    /// One that has waited: there may be less room now than when it was asked for.
    pub fn reconsider(&mut self, order: &mut Order) {
        self.tend_reserve();
        let investigation = &mut order.investigation;
        // What has begun goes on as it was.
        if order.past.is_none() {
            self.step_down(&mut order.driver, &mut investigation.why);
            order.driver.name().clone_into(&mut investigation.agent);
            investigation.set_stage(order.driver.stop_after());
        }
    }

    /// Why one that has found the cause cannot go on to the place now; `None`: it can.
    pub fn why_no_more(&self, agent: &str) -> Option<String> {
        let driver = self.drivers.get(&Agent::of(agent)?)?;
        let rung = self.rung(driver)?;
        let (wanted, choice) = (rung.agent, self.choose(&[rung]));
        (choice.agent != wanted).then(|| choice.why_not.join("; "))
    }

    /// `None`: the playbook.
    fn rung(&self, driver: &Driver) -> Option<Rung> {
        let (agent, needs) = match driver {
            Driver::Builtin => return None,
            Driver::Command(command) => (Agent::Command, command.sandbox.kept_bytes),
            Driver::Agent(agency) => (agency.agent, agency.sandbox.kept_bytes),
        };
        Some(Rung { agent, name: driver.name(), needs, ready: self.readiness.of(agent) })
    }

    /// Takes away what runs of an earlier core have left, but for those that are taken up again.
    pub fn tidy(&self, kept: &[String]) {
        investigate::tidy(&self.scratch, kept);
    }

    /// Directory of the homes of runs, and of what they write.
    pub fn scratch(&self) -> PathBuf {
        self.scratch.clone()
    }

    /// Who investigates, for the status.
    pub fn describe(&self) -> String {
        match self.by_itself() {
            None => "nobody is configured".into(),
            Some(driver) => format!("by {}", driver.name()),
        }
    }

    /// Whatever runs ends soon, as interrupted.
    pub fn end(&self) {
        if let Some(stop) = &self.stop {
            stop.now();
        }
    }
}

fn instead(driver: &Driver, why_not: &[String]) -> String {
    format!("{} instead, for {}", driver.name(), why_not.join("; "))
}
