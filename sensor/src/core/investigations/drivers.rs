//! Who can be asked on this host, as the configuration has it.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    cgroup::Hierarchies,
    config::{self, Agent, Cli},
    evidence::Gatherer,
    feed::runs::Doors,
    investigate::{Agency, Command, Driver, Manager, Prices, Sandbox, Whom, ladder},
    kernel::Witness,
};

/// Where their programs live.
#[derive(Clone, Debug)]
pub struct Place {
    pub hierarchies: Hierarchies,
    /// v2 path below which their groups are.
    pub home: PathBuf,
    /// Who makes units of them.
    pub manager: Option<Manager>,
    /// Directory of their homes.
    pub scratch: PathBuf,
    pub doors: Doors,
    /// Hears what they execute.
    pub witness: Arc<Witness>,
    /// The group that may read the log.
    pub log_gid: Option<u32>,
}

/// All that can be asked for by name.
pub const NAMES: [(&str, Agent); 7] = [
    ("builtin", Agent::Builtin),
    ("command", Agent::Command),
    ("claude", Agent::Claude),
    ("codex", Agent::Codex),
    ("gemini", Agent::Gemini),
    ("opencode", Agent::Opencode),
    ("api", Agent::Api),
];

/// The playbook, and whoever is configured: no model is asked that nobody has chosen.
pub fn of(
    config: &config::Investigate,
    place: &Place,
    gatherer: &Gatherer,
) -> HashMap<Agent, Driver> {
    let mut drivers = HashMap::from([(Agent::Builtin, Driver::Builtin)]);
    if !config.command.program.is_empty() {
        drivers.insert(Agent::Command, command(config, place));
    }
    for (agent, cli) in clis(config) {
        if config.agent == agent || *cli != Cli::default() {
            let agency = agency(agent, cli, config, place, gatherer);
            drivers.insert(agent, Driver::Agent(agency.into()));
        }
    }
    drivers
}

/// Agents, and how each is configured.
pub fn clis(config: &config::Investigate) -> [(Agent, &Cli); 5] {
    [
        (Agent::Claude, &config.claude),
        (Agent::Codex, &config.codex),
        (Agent::Gemini, &config.gemini),
        (Agent::Opencode, &config.opencode),
        (Agent::Api, &config.api),
    ]
}

/// As configuration and records name it.
pub fn name(agent: Agent) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == agent).map_or("none", |(name, _)| name)
}

fn command(config: &config::Investigate, place: &Place) -> Driver {
    let kept_bytes = ladder::needs(Agent::Command, config);
    let stop_after = config.stop_after;
    let config = &config.command;
    let Place { hierarchies, home, manager, scratch, doors, witness, log_gid } = place.clone();
    let mut command = Command::new(config.program.clone(), hierarchies, home, scratch);
    command.sandbox.manager = manager;
    command.sandbox.doors = Some(doors);
    command.sandbox.witness = Some(witness);
    command.sandbox.log_gid = log_gid;
    command.sandbox.user = Whom::Named(config.user.clone());
    command.sandbox.memory_bytes = config.memory_max_bytes;
    command.sandbox.kept_bytes = kept_bytes;
    command.sandbox.pids = config.pids_max.into();
    command.stop_after = stop_after;
    command.deadline = Duration::from_secs(config.deadline_s.into());
    Driver::Command(command)
}

fn agency(
    agent: Agent,
    cli: &Cli,
    config: &config::Investigate,
    place: &Place,
    gatherer: &Gatherer,
) -> Agency {
    let Place { hierarchies, home, manager, scratch, doors, witness, log_gid } = place.clone();
    let bounds = config.run.clone();
    Agency {
        agent,
        cli: cli.clone(),
        stop_after: config.stop_after,
        prices: Prices::new(&config.prices),
        sandbox: Sandbox {
            user: Whom::Named(bounds.user.clone()),
            memory_bytes: bounds.memory_max_bytes,
            kept_bytes: ladder::needs(agent, config),
            pids: bounds.pids_max.into(),
            hierarchies,
            home,
            manager,
            scratch,
            log_gid,
            doors: Some(doors),
            witness: Some(witness),
        },
        bounds,
        redactor: gatherer.redactor().clone(),
    }
}
