//! Starts investigations, and turns what they say into records.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    cgroup::Hierarchies,
    clock,
    config::{self, Agent},
    evidence::Gatherer,
    feed::runs::Doors,
    investigate::{Command, Desk as Admission, Dossier, Driver, Event, Limits, Stop, Window},
    proto::{self, InvestigationState},
    render::Marker,
};

/// What an investigation has come to.
#[derive(Debug)]
pub enum Progress {
    Line { incident: String, transcript: proto::Transcript },
    State { incident: String, investigation: Box<proto::Investigation> },
}

/// Who investigates on this host, and what runs.
pub struct Investigations {
    /// By itself; `None`: nobody.
    driver: Option<Driver>,
    /// The operator's program, where there is one: for whoever asks for it.
    command: Option<Driver>,
    admission: Admission,
    gatherer: Arc<Gatherer>,
    stop: Option<Stop>,
    /// Of the evidence window.
    tokens: usize,
}

/// One at a time: an investigator is a load of its own on a host in trouble.
const AT_ONCE: u32 = 1;

impl Investigations {
    pub fn new(
        config: &config::Investigate,
        hierarchies: &Hierarchies,
        home: PathBuf,
        scratch: PathBuf,
        doors: Doors,
        gatherer: Arc<Gatherer>,
    ) -> Self {
        let program = config.command.program.clone();
        let command = (!program.is_empty()).then(|| {
            let mut command = Command::new(program, hierarchies.clone(), home.clone(), scratch);
            command.sandbox.doors = Some(doors);
            command.sandbox.user.clone_from(&config.command.user);
            command.sandbox.memory_bytes = config.command.memory_max_bytes;
            command.sandbox.pids = config.command.pids_max.into();
            command.deadline = Duration::from_secs(config.command.deadline_s.into());
            Driver::Command(command)
        });
        let driver = match config.agent {
            Agent::None
            | Agent::Claude
            | Agent::Codex
            | Agent::Gemini
            | Agent::Opencode
            | Agent::Api => None,
            Agent::Builtin => Some(Driver::Builtin),
            // Checked with the configuration: it has a program.
            Agent::Command => command.clone(),
        };
        let limits = Limits { at_once: AT_ONCE, per_hour: config.max_per_hour };
        let stop =
            Stop::new().inspect_err(|error| tracing::warn!("no investigations: {error}")).ok();
        Self {
            driver,
            command,
            admission: Admission::new(&home, limits),
            gatherer,
            stop,
            tokens: config.window_tokens as usize,
        }
    }

    /// Who investigates under this name, which a person gave; empty: whoever does by itself. An error says
    /// why nobody does.
    pub fn named(&self, agent: &str) -> Result<Driver, String> {
        let (found, why) = match agent {
            "" => {
                (self.driver.clone(), "nobody is configured to investigate: set investigate.agent")
            }
            "builtin" => (Some(Driver::Builtin), ""),
            "command" => {
                (self.command.clone(), "no program is configured: set investigate.command")
            }
            _ => (None, "nobody of that name investigates here: it is builtin or command"),
        };
        found.ok_or_else(|| why.to_owned())
    }

    /// Who investigates without being asked.
    pub fn by_itself(&self) -> Option<Driver> {
        self.driver.clone()
    }

    /// Starts one about an incident. Answers what is to be recorded at once: that it began, or why
    /// it may not; `told` hears the rest. `None`: nothing can be started on this host.
    pub fn begin(
        &self,
        driver: Driver,
        incident: &proto::Incident,
        evidence: Vec<proto::Evidence>,
        told: impl Fn(Progress) + Send + 'static,
    ) -> Option<Progress> {
        let stop = self.stop.clone()?;
        let number = incident.investigations.len() + 1;
        let mut investigation = proto::Investigation {
            id: format!("{}-{number}", incident.id),
            agent: driver.name().to_owned(),
            started_at: Some(clock::wall()),
            ..Default::default()
        };
        let incident_id = incident.id.clone();
        let cgroup = incident.culprit.as_ref().map_or("", |culprit| culprit.cgroup.as_str());
        // The playbook costs nothing; the budget is for programs.
        let ticket = match &driver {
            Driver::Builtin => None,
            Driver::Command(_) => match self.admission.admit(Path::new(cgroup)) {
                Ok(ticket) => Some(ticket),
                Err(denied) => {
                    investigation.set_state(InvestigationState::Failed);
                    investigation.ended_at = Some(clock::wall());
                    investigation.error = denied.to_string();
                    return Some(Progress::State {
                        incident: incident_id,
                        investigation: investigation.into(),
                    });
                }
            },
        };
        investigation.set_state(InvestigationState::Running);
        let begun = Progress::State {
            incident: incident_id.clone(),
            investigation: investigation.clone().into(),
        };
        let mut dossier = Dossier { incident: incident.clone(), evidence, window: None };
        let gatherer = Arc::clone(&self.gatherer);
        let tokens = self.tokens;
        tokio::task::spawn_blocking(move || {
            if matches!(driver, Driver::Command(_)) {
                let Dossier { incident, evidence, .. } = &dossier;
                let redactor = gatherer.redactor();
                let window = Window::fit(incident, evidence, redactor, Marker::random(), tokens);
                dossier.window = Some(window);
            }
            let redact = |text: &[u8]| gatherer.redactor().text(text).0;
            let mut lines = 0;
            let id = investigation.id.clone();
            driver.run(&id, &dossier, &redact, &stop, &mut |event| match event {
                Event::Line { stream, text } => {
                    lines += 1;
                    let transcript = proto::Transcript {
                        investigation: id.clone(),
                        line: lines,
                        stream: stream.to_owned(),
                        text,
                    };
                    told(Progress::Line { incident: incident_id.clone(), transcript });
                }
                Event::End(end) => {
                    investigation.set_state(end.state);
                    investigation.ended_at = Some(clock::wall());
                    investigation.findings = end.findings;
                    investigation.error = end.error;
                    investigation.cost =
                        Some(proto::Cost { wall_ns: end.wall_ns, ..Default::default() });
                    told(Progress::State {
                        incident: incident_id.clone(),
                        investigation: investigation.clone().into(),
                    });
                }
            });
            drop(ticket);
        });
        Some(begun)
    }

    /// Who investigates, for the status.
    pub fn describe(&self) -> String {
        match &self.driver {
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
