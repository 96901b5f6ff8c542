//! Investigations: one run of a driver over one incident's evidence.
//!
//! [`builtin`] reads the evidence by a fixed playbook, without a model. [`command`] starts any
//! program, confined, with the evidence on its standard input. Both tell what they do line by line
//! as it happens; [`budget`] decides whether one may start. [`window`] is what there is to read, fitted into
//! a model's attention.

pub mod agent;
mod brief;
mod budget;
pub(crate) mod builtin;
pub mod claims;
mod command;
pub(crate) mod findings;
pub(crate) mod footing;
pub mod gate;
mod key;
pub(crate) mod ladder;
pub(crate) mod lines;
pub mod meter;
mod past;
pub mod prices;
pub(crate) mod reserve;
mod run;
pub(crate) mod sandbox;
mod shell;
pub(crate) mod stages;
mod supervise;
#[cfg(test)]
mod tests;
mod watch;
pub mod window;
pub(crate) mod witness;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;

pub use self::{
    budget::{Admission, Budget, By, Denied, Earlier, Grant, Limits, Next, Request},
    command::Command,
    key::{Key, KeyError, read_key},
    past::{Ear, Past},
    prices::Prices,
    run::Agency,
    sandbox::{Manager, Sandbox, Whom, clear_leftovers, tidy, unread},
    window::Window,
};
use crate::{
    clock,
    config::Stage,
    proto::{self, InvestigationState},
};

/// What an investigation is about; as JSON, what a program gets on its standard input.
#[derive(Clone, Debug, Serialize)]
pub struct Dossier {
    pub incident: proto::Incident,
    pub evidence: Vec<proto::Evidence>,
    /// The same for a reader who can be fooled; the playbook can not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// What is asked for this time.
    pub stage: Stage,
}

/// What happens in an investigation, as it happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Line {
        /// `playbook`, `stdout`, `stderr`, or `sensor` for what the daemon says about the run.
        stream: &'static str,
        /// Redacted, at most some 16 KiB.
        text: Vec<u8>,
    },
    /// A program was executed in it, or has ended. Secrets by their place among the arguments are still in it.
    Witnessed(proto::Witnessed),
    /// So many programs were executed in the life that has ended.
    Executed(u64),
    /// What its program calls the conversation: it can be taken up again by that name.
    Session(String),
    /// It was cut off, and begins this life.
    Life(u32),
    /// What it has cost so far.
    Cost(proto::Cost),
    /// The last one.
    End(End),
}

/// How an investigation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub state: InvestigationState,
    /// Redacted, at most 16 KiB; may stand beside an error.
    pub findings: String,
    /// One sentence; empty when it is done.
    pub error: String,
    pub wall_ns: u64,
    /// As far as it is counted.
    pub cost: proto::Cost,
    /// It was ended for want of room: the next best takes over.
    pub no_room: bool,
}

impl Default for End {
    fn default() -> Self {
        Self {
            state: InvestigationState::Done,
            findings: String::new(),
            error: String::new(),
            wall_ns: 0,
            cost: proto::Cost::default(),
            no_room: false,
        }
    }
}

impl End {
    fn failed(error: String) -> Self {
        Self { state: InvestigationState::Failed, error, ..Self::default() }
    }
}

/// Replaces secrets.
pub type Redact<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// Who investigates.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for the life of the daemon, and a copy each run"
)]
pub enum Driver {
    Builtin,
    Command(Command),
    Agent(Box<Agency>),
}

impl Driver {
    /// As records name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Command(_) => "command",
            Self::Agent(agency) => agency.name(),
        }
    }

    /// How far it is to go.
    pub fn stop_after(&self) -> proto::Stage {
        let stage = match self {
            // It names the place as far as its rules do.
            Self::Builtin => Stage::Diagnose,
            Self::Command(command) => command.stop_after,
            Self::Agent(agency) => agency.stop_after,
        };
        match stage {
            Stage::Diagnose => proto::Stage::Diagnose,
            Stage::Locate => proto::Stage::Locate,
        }
    }

    /// The bound of a run that is used up with what it has cost, as a sentence.
    pub fn exhausted(&self, spent: &proto::Cost) -> Option<String> {
        let Self::Agent(agency) = self else { return None };
        meter::exhausted(&agency.bounds, spent)
    }

    /// Takes away what a run has left that does not go on.
    pub fn forget(&self, id: &str) {
        match self {
            Self::Builtin => {}
            Self::Command(command) => command.sandbox.forget(id),
            Self::Agent(agency) => agency.sandbox.forget(id),
        }
    }

    /// Runs one stage to its end; blocks until then. `id` is the investigation's, of letters, digits and
    /// dashes. The last event is always an [`Event::End`]. What is left of it a later stage or life needs:
    /// [`Driver::forget`].
    pub fn run(
        &self,
        id: &str,
        dossier: &Dossier,
        past: Option<&Past>,
        redact: Redact<'_>,
        stop: &Stop,
        sink: &mut dyn FnMut(Event),
    ) {
        let started = Instant::now();
        let mut end = match self {
            Self::Builtin => builtin::run(dossier, redact, sink),
            Self::Command(command) => command::run(command, id, dossier, redact, stop, sink),
            Self::Agent(agency) => run::run(agency, id, dossier, past, redact, stop, sink),
        };
        end.wall_ns = started.elapsed().as_nanos() as u64;
        sink(Event::End(end));
    }
}

/// Ends a running investigation from another thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    pub fn new() -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// The investigation ends as interrupted, soon. Stays so.
    pub fn now(&self) {
        // Fails only when the counter is full: it has been told before.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Admits investigations, within bounds.
#[derive(Debug)]
pub struct Desk {
    /// v2 path below which our agents' groups are.
    home: PathBuf,
    budget: Budget,
}

impl Desk {
    pub fn new(home: &Path, limits: Limits) -> Self {
        Self { home: home.to_owned(), budget: Budget::new(limits) }
    }

    /// What was spent before this run of the daemon counts.
    pub fn remember(&mut self, earlier: impl IntoIterator<Item = Earlier>) {
        self.budget.remember(clock::boot_ns(), earlier);
    }

    /// Asks for one about a culprit that lives in the v2 path `cgroup` (empty: none is known).
    pub fn ask(&mut self, cgroup: &Path, request: Request) -> Admission {
        let ours = sandbox::is_agent(&self.home, cgroup);
        self.budget.ask(clock::boot_ns(), Request { ours, ..request })
    }

    /// One that was let go has ended, and costs so much with all its lives; what follows from that.
    pub fn ended(&mut self, id: &str, cost: &proto::Cost) -> Next {
        self.budget.ended(clock::boot_ns(), id, cost)
    }

    /// What the one that runs has cost, before another one is asked for in its place.
    pub fn spent(&mut self, id: &str, cost: &proto::Cost) {
        self.budget.spent(clock::boot_ns(), id, cost);
    }

    /// One is not wanted any more that waits, or was let go and has not begun.
    pub fn withdraw(&mut self, id: &str) -> Next {
        self.budget.withdraw(clock::boot_ns(), id)
    }
}
