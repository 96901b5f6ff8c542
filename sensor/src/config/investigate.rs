//! Who looks into an incident, what it may cost, and within which bounds.

pub(super) mod check;

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::proto;

/// Who looks into an incident.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Investigate {
    pub agent: Agent,
    /// Whether an agent is asked where the built-in diagnosis is good enough.
    pub when: When,
    /// How far agents go.
    pub stop_after: Stage,
    pub max_per_hour: u32,
    /// The same cause is not looked into again by an agent for so long, s; 0: at once.
    pub cooldown_s: u32,
    pub window_tokens: u32,
    pub command: Command,
    pub run: Bounds,
    pub day: Day,
    pub claude: Cli,
    pub codex: Cli,
    pub gemini: Cli,
    pub opencode: Cli,
    pub api: Cli,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<Price>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// Nobody.
    None,
    /// The playbook of this program: no model, no network.
    Builtin,
    /// The program of `[investigate.command]`.
    Command,
    /// Claude Code.
    Claude,
    Codex,
    /// Gemini CLI.
    Gemini,
    Opencode,
    /// One request with the evidence window in it.
    Api,
}

impl Agent {
    /// By the name that configuration and records have for it.
    pub fn of(name: &str) -> Option<Self> {
        let name = de::value::StrDeserializer::<de::value::Error>::new(name);
        Self::deserialize(name).ok()
    }
}

/// When an agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// About every incident.
    Always,
    /// Where the built-in diagnosis is not sure, the incident came back, or its kind is not understood.
    Doubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The cause.
    Diagnose,
    /// And file and line in the culprit's project.
    Locate,
}

impl Stage {
    /// As records have it.
    pub fn of(stage: proto::Stage) -> Self {
        match stage {
            proto::Stage::Unspecified | proto::Stage::Diagnose => Self::Diagnose,
            proto::Stage::Locate => Self::Locate,
        }
    }
}

/// What an agent may see of the host by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Only what our MCP server shows.
    Eye,
    /// A shell, as the culprit's user.
    Shell,
}

/// A program of the operator's that investigates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Command {
    /// Absolute path and arguments.
    pub program: Vec<String>,
    pub user: String,
    pub deadline_s: u32,
    /// Memory that the kernel does not take from it (cgroup v2).
    pub memory_min_bytes: u64,
    pub memory_max_bytes: u64,
    pub pids_max: u32,
}

/// Bounds of one run of an agent's CLI, and of `api`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    pub user: String,
    pub access: Access,
    /// Wall clock, s.
    pub deadline_s: u32,
    /// Until its first event, s.
    pub first_event_s: u32,
    /// Between two events, s.
    pub silence_s: u32,
    /// Between its last event and its end, s.
    pub linger_s: u32,
    /// Memory that the kernel does not take from it (cgroup v2).
    pub memory_min_bytes: u64,
    pub memory_max_bytes: u64,
    pub pids_max: u32,
    /// Answers of the model.
    pub turns: u32,
    pub tool_calls: u32,
    /// Input and output together, also what was cached.
    pub tokens: u64,
    pub usd: Usd,
    /// Times that a run that was cut off is taken up again.
    pub resumes: u32,
}

/// What all runs of the last 24 h may take together; 0: no bound.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Day {
    pub runs: u32,
    pub tokens: u64,
    pub usd: Usd,
    /// Part of each that only critical incidents may use, percent.
    pub critical_percent: u32,
}

/// One of the agents, and where its model is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cli {
    /// Absolute path; empty: its usual name, looked up in a fixed PATH. Unused by `api`.
    pub program: PathBuf,
    /// Empty: what the CLI chooses. `api` needs one.
    pub model: String,
    /// Base URL of the model's API; empty: the vendor's.
    pub endpoint: String,
    /// File with the API key; root's, nobody else may read it. Empty: none is passed.
    pub key_file: PathBuf,
}

/// What a model costs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Models whose name begins so; the longest counts.
    pub model: String,
    /// US dollars for a million tokens.
    pub input_usd: Usd,
    pub output_usd: Usd,
    /// Input that the model had in its cache; as `input_usd` where it is not said.
    pub cached_usd: Option<Usd>,
}

/// An amount of money, in millionths of a US dollar; in a file a number of dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usd(pub u64);

impl Usd {
    const MICRO: f64 = 1e6;

    /// In dollars, for people and records.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / Self::MICRO
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        // More than anybody has; and what is exact in a double.
        if !(0.0..=1e9).contains(&dollars) {
            return Err(de::Error::custom(format!("{dollars} is no amount of US dollars")));
        }
        Ok(Self((dollars * Self::MICRO).round() as u64))
    }
}
