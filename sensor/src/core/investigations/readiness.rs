//! Whether those who can be asked could run now: their program is there, their key can be read, their model's
//! API can be reached. Looked at before it is needed, and again every minute: what answers slowly must not be
//! waited for in the middle of an incident.

use std::{
    collections::HashMap,
    fs::File,
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::{Advice, fadvise};
use ureq::http::Uri;

use super::drivers;
use crate::{
    cgroup::Hierarchies,
    config::{self, Agent, Cli},
    investigate::{
        self, Driver,
        footing::headroom,
        ladder::{self, Rung},
        read_key,
        sandbox::SEARCH_PATH,
    },
    kernel::{Capability, Working},
};

/// Between two looks.
const EVERY: Duration = Duration::from_mins(1);

/// A model's API that is farther away is as good as none.
const REACH: Duration = Duration::from_secs(3);

/// Why one is not ready, by agent.
pub type Ready = HashMap<Agent, Result<(), String>>;

/// What was found last.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Ready>>);

impl Readiness {
    /// Looks now, and goes on looking on a thread of its own for as long as this is held.
    pub fn watch(drivers: &HashMap<Agent, Driver>) -> Self {
        let found = Self::default();
        let all: Vec<Candidate> = drivers
            .values()
            .filter_map(|driver| match driver {
                Driver::Agent(agency) => Some(Candidate::Cli(agency.agent, agency.cli.clone())),
                Driver::Command(command) => Candidate::program(&command.argv),
                Driver::Builtin => None,
            })
            .collect();
        if all.is_empty() {
            return found;
        }
        found.put(all.iter().map(|one| (one.agent(), one.at_hand().map(drop))).collect());
        let kept = Arc::downgrade(&found.0);
        let look = move || {
            while kept.strong_count() > 0 {
                let now = all.iter().map(|one| (one.agent(), one.probe())).collect();
                let Some(found) = kept.upgrade() else { return };
                Self(found).put(now);
                std::thread::sleep(EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("readiness".into());
        if let Err(error) = thread.spawn(look) {
            tracing::warn!("nobody looks whether agents are ready: {error}");
        }
        found
    }

    /// Of an agent that nobody has looked at: it is.
    pub fn of(&self, agent: Agent) -> Result<(), String> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(&agent).cloned().unwrap_or(Ok(()))
    }

    fn put(&self, found: Ready) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// One that could be asked.
#[derive(Clone, Debug)]
enum Candidate {
    /// The operator's own.
    Program(PathBuf),
    Cli(Agent, Cli),
}

impl Candidate {
    fn program(argv: &[String]) -> Option<Self> {
        argv.first().map(|program| Self::Program(program.into()))
    }

    fn agent(&self) -> Agent {
        match self {
            Self::Program(_) => Agent::Command,
            Self::Cli(agent, _) => *agent,
        }
    }

    /// Everything; takes as long as its network does.
    fn probe(&self) -> Result<(), String> {
        let program = self.at_hand()?;
        // In the page cache it starts in a second; from a disk that everybody waits for it may not start at all.
        if let Some(file) = program.and_then(|path| File::open(path).ok()) {
            let _ = fadvise(&file, 0, None, Advice::WillNeed);
        }
        match self {
            Self::Program(_) => Ok(()),
            Self::Cli(agent, cli) => reachable(*agent, cli),
        }
    }

    /// What can be seen without waiting: its program (`None`: ourselves) and its key.
    fn at_hand(&self) -> Result<Option<PathBuf>, String> {
        match self {
            // Whose it is, and who may run it, is the operator's affair.
            Self::Program(path) if is_program(path, 0o111) => Ok(Some(path.clone())),
            Self::Program(path) => Err(no_program(&path.display().to_string(), Agent::Command)),
            Self::Cli(agent, cli) => at_hand(*agent, cli),
        }
    }
}

fn at_hand(agent: Agent, cli: &Cli) -> Result<Option<PathBuf>, String> {
    let program = if agent == Agent::Api { None } else { Some(program(agent, cli)?) };
    if !cli.key_file.as_os_str().is_empty() {
        read_key(&cli.key_file).map_err(|error| error.to_string())?;
    } else if cli.endpoint.is_empty() {
        // Its home is new: nobody has logged in there. Another endpoint may know it otherwise.
        let name = drivers::name(agent);
        return Err(format!(
            "it has no key: write one to a file and set investigate.{name}.key_file"
        ));
    }
    Ok(program)
}

fn program(agent: Agent, Cli { program, .. }: &Cli) -> Result<PathBuf, String> {
    let usual = investigate::agent::of(agent).map_or("", |agent| agent.program());
    let (found, shown) = if program.as_os_str().is_empty() {
        let mut places = SEARCH_PATH.split(':').map(|dir| Path::new(dir).join(usual));
        (places.find(|path| is_program(path, BY_ANYBODY)), usual.to_owned())
    } else {
        let named = Some(program.clone()).filter(|path| is_program(path, BY_ANYBODY));
        (named, program.display().to_string())
    };
    found.ok_or_else(|| no_program(&shown, agent))
}

/// Who runs it owns nothing.
const BY_ANYBODY: u32 = 0o001;

/// One of those whose bits are set may run it.
fn is_program(path: &Path, by: u32) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & by != 0)
}

fn no_program(shown: &str, agent: Agent) -> String {
    let name = drivers::name(agent);
    format!("there is no program {shown}: install it, or set investigate.{name}.program")
}

fn reachable(agent: Agent, cli: &Cli) -> Result<(), String> {
    let vendor = match agent {
        Agent::Claude | Agent::Api => "https://api.anthropic.com",
        Agent::Codex => "https://api.openai.com",
        Agent::Gemini => "https://generativelanguage.googleapis.com",
        // Its configuration chooses the model's vendor.
        _ => "",
    };
    let endpoint = if cli.endpoint.is_empty() { vendor } else { &cli.endpoint };
    if endpoint.is_empty() {
        return Ok(());
    }
    let uri: Uri = endpoint.parse().map_err(|_| format!("{endpoint} is no URL"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let unknown = |error| format!("its model's API {host} has no address: {error}");
    let mut why = format!("its model's API {host} has no address");
    for address in (host, port).to_socket_addrs().map_err(unknown)? {
        match TcpStream::connect_timeout(&address, REACH) {
            Ok(_) => return Ok(()),
            Err(error) => why = format!("its model's API {host} cannot be reached: {error}"),
        }
    }
    Err(why)
}

/// Who would run now, and why, for `sensor doctor`.
pub fn doctor(config: &config::Investigate) -> Capability {
    let capability = |state, why, remedy| Capability {
        name: "investigator",
        state,
        used_for: "finding the cause beyond the built-in diagnosis",
        why,
        remedy,
    };
    let api = |agent, cli: &Cli| agent == Agent::Api && *cli != Cli::default();
    let clis = drivers::clis(config)
        .into_iter()
        .filter(|(agent, cli)| *agent == config.agent || api(*agent, cli))
        .map(|(agent, cli)| Candidate::Cli(agent, cli.clone()));
    let command = Some(&config.command).filter(|_| config.agent == Agent::Command);
    let command = command.and_then(|command| Candidate::program(&command.program));
    let rung = |one: Candidate| {
        let agent = one.agent();
        let needs = ladder::needs(agent, config);
        Rung { agent, name: drivers::name(agent), needs, ready: one.probe() }
    };
    let mut rungs: Vec<Rung> = command.into_iter().chain(clis).map(rung).collect();
    rungs.sort_by_key(|rung| rung.agent != config.agent);
    let headroom = Hierarchies::discover().map(|it| headroom(&it));
    let choice = ladder::choose(&rungs, &headroom.unwrap_or_default());
    match config.agent {
        Agent::None => capability(Working::Ok, "nobody is configured".into(), ""),
        Agent::Builtin => capability(Working::Ok, "builtin: the playbook".into(), ""),
        wanted if choice.agent == wanted => {
            let why = format!("{} would run now", drivers::name(wanted));
            capability(Working::Ok, why, "")
        }
        _ => {
            let why = format!(
                "{} would run now; {}",
                drivers::name(choice.agent),
                choice.why_not.join("; ")
            );
            capability(
                Working::Degraded,
                why,
                "see to what is missing; until then the next best runs",
            )
        }
    }
}
