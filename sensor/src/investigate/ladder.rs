//! Who can run now: the agent that is wanted, one request instead of it, or the playbook. Pure.
//!
//! An agent on a host that has no room for it finds nothing and makes things worse: cold, one was seen to take
//! 21 s in 192 MiB and never to end in 128. So what is left is measured first, and each rung says what it needs.

use crate::config::{Agent, Investigate};

/// What a rung needs of the host's memory, bytes: `sensor ask` has some 30 MiB, and a prompt.
pub const API_BYTES: u64 = 64 << 20;

/// Tasks that must be left: a runtime starts some 40 threads.
pub const TASKS: u64 = 64;

/// What the host has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Bytes; `None`: nobody knows.
    pub memory: Option<u64>,
    pub tasks: Option<u64>,
}

/// One that could be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    pub agent: Agent,
    pub name: &'static str,
    /// Bytes that it needs.
    pub needs: u64,
    /// An error says what is missing.
    pub ready: Result<(), String>,
}

/// Bytes that one needs to begin.
pub fn needs(agent: Agent, config: &Investigate) -> u64 {
    match agent {
        Agent::None | Agent::Builtin => 0,
        Agent::Command => config.command.memory_min_bytes,
        Agent::Api => API_BYTES,
        Agent::Claude | Agent::Codex | Agent::Gemini | Agent::Opencode => {
            config.run.memory_min_bytes
        }
    }
}

/// The first rung that can run now, and, sentence by sentence, why none above it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub agent: Agent,
    pub why_not: Vec<String>,
}

/// `rungs`: the wanted one first. The playbook needs nothing.
pub fn choose(rungs: &[Rung], headroom: &Headroom) -> Choice {
    let mut why_not = Vec::new();
    for rung in rungs {
        match holds(rung, headroom) {
            Ok(()) => return Choice { agent: rung.agent, why_not },
            Err(why) => why_not.push(format!("{}: {why}", rung.name)),
        }
    }
    Choice { agent: Agent::Builtin, why_not }
}

fn holds(rung: &Rung, headroom: &Headroom) -> Result<(), String> {
    rung.ready.clone()?;
    if let Some(left) = headroom.memory.filter(|left| *left < rung.needs) {
        return Err(format!(
            "it needs {} MiB of memory, and {} MiB are left",
            rung.needs >> 20,
            left >> 20
        ));
    }
    match headroom.tasks.filter(|left| *left < TASKS) {
        Some(left) => Err(format!("it needs {TASKS} tasks, and {left} are left")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(agent: Agent, name: &'static str, needs: u64) -> Rung {
        Rung { agent, name, needs, ready: Ok(()) }
    }

    fn left(memory_mib: u64, tasks: u64) -> Headroom {
        Headroom { memory: Some(memory_mib << 20), tasks: Some(tasks) }
    }

    #[test]
    fn steps_down_as_room_shrinks() {
        let rungs = [rung(Agent::Claude, "claude", 512 << 20), rung(Agent::Api, "api", API_BYTES)];
        let chosen = |headroom| choose(&rungs, &headroom).agent;
        assert_eq!(chosen(left(512, 1000)), Agent::Claude);
        assert_eq!(chosen(left(511, 1000)), Agent::Api);
        assert_eq!(chosen(left(64, 64)), Agent::Api);
        assert_eq!(chosen(left(63, 1000)), Agent::Builtin);
        assert_eq!(chosen(left(4096, 63)), Agent::Builtin);
        assert_eq!(chosen(Headroom { memory: None, tasks: None }), Agent::Claude);
        let choice = choose(&rungs, &left(20, 1000));
        assert_eq!(
            choice.why_not,
            [
                "claude: it needs 512 MiB of memory, and 20 MiB are left",
                "api: it needs 64 MiB of memory, and 20 MiB are left"
            ]
        );
    }

    #[test]
    fn who_is_not_ready_is_passed_over() {
        let missing = Rung {
            ready: Err("there is no program claude".into()),
            ..rung(Agent::Claude, "claude", 0)
        };
        let choice = choose(&[missing, rung(Agent::Api, "api", 0)], &left(4096, 1000));
        assert_eq!(choice.agent, Agent::Api);
        assert_eq!(choice.why_not, ["claude: there is no program claude"]);
        assert_eq!(choose(&[], &left(1, 1)).agent, Agent::Builtin);
    }
}
