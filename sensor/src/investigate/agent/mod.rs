//! Agents: how each command-line program is started, and what the lines say that it prints.
//!
//! An [`Agent`] knows one program's contract and nothing else: no process, no clock, no file. What it
//! wants started is a [`Launch`]; what its program prints becomes what it [`Said`]. Contracts change
//! weekly, so an event that nobody knows is passed over, and the raw line is kept in any case.

mod api;
mod claude;
mod codex;
mod gemini;
mod opencode;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::Access;

/// What a run is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// All that the model is told, evidence window included.
    pub prompt: &'a str,
    /// Path or name of the program; empty: its usual name.
    pub program: &'a Path,
    /// Empty: what the program chooses by itself.
    pub model: &'a str,
    /// Base URL of the model's API; empty: the vendor's.
    pub endpoint: &'a str,
    pub key: Option<&'a str>,
    /// Its home and current directory, the only place where it may write.
    pub home: &'a Path,
    /// Command line of our MCP server, from the program on.
    pub server: &'a [String],
    pub session: Session<'a>,
    pub access: Access,
    pub turns: u32,
    /// Millionths of a US dollar.
    pub micro_usd: u64,
}

/// Which conversation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session<'a> {
    /// A new one; a UUID for programs that let us choose its name.
    New(&'a str),
    /// One that was cut off, by the name that its program gave it.
    Resume(&'a str),
}

/// What is to be started. The key is in `env` alone: arguments are open to everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    pub argv: Vec<String>,
    /// Beside PATH, HOME, TMPDIR, LANG and the variables of the run.
    pub env: Vec<(String, String)>,
    /// Files in its home, by relative path, written before it starts.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    pub stdin: Vec<u8>,
}

/// What one event of a program says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The conversation's name, by which it is taken up again.
    Session(String),
    /// The model has answered once more.
    Turn,
    /// A tool is called.
    Tool(String),
    /// Prose of the model.
    Text(String),
    /// Trouble that the program deals with by itself.
    Trouble(String),
    /// Spent on top of what was known.
    Spent(Usage),
    /// Spent since this life began, all in all: takes the place of what was known of it.
    Total(Usage),
    /// The terminal event: nothing but its exit is to come. An error says what went wrong.
    End(Result<(), String>),
}

/// What a model was given and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Tokens that it read anew.
    pub input: u64,
    /// Tokens that it had in its cache.
    pub cached: u64,
    pub output: u64,
    /// Millionths of a US dollar, where the program counts them.
    pub micro_usd: Option<u64>,
}

/// One program's contract.
pub trait Agent: Send + std::fmt::Debug {
    /// As configuration and records name it.
    fn name(&self) -> &'static str;

    /// Its usual name, to be looked up.
    fn program(&self) -> &'static str {
        self.name()
    }

    fn launch(&self, task: &Task<'_>) -> Launch;

    /// Whether what it says in total is of the whole conversation, and not of this life alone.
    fn counts_conversations(&self) -> bool {
        false
    }

    /// What an event says, in order. An agent is made anew for each life of a run.
    fn read(&mut self, event: &Value) -> Vec<Said>;
}

/// Who has a contract here.
pub fn of(agent: crate::config::Agent) -> Option<Box<dyn Agent>> {
    use crate::config::Agent as Name;
    match agent {
        Name::Claude => Some(Box::<claude::Claude>::default()),
        Name::Codex => Some(Box::<codex::Codex>::default()),
        Name::Gemini => Some(Box::<gemini::Gemini>::default()),
        Name::Opencode => Some(Box::<opencode::Opencode>::default()),
        Name::Api => Some(Box::new(api::Api)),
        Name::None | Name::Builtin | Name::Command => None,
    }
}

/// What programs know our MCP server by.
const SERVER: &str = "sensor";

impl Task<'_> {
    /// The first word of the command line.
    fn program_or(&self, usual: &str) -> String {
        let program = self.program.to_string_lossy();
        if program.is_empty() { usual.to_owned() } else { program.into_owned() }
    }

    /// The program of our MCP server, and its arguments.
    fn server(&self) -> (&str, &[String]) {
        self.server.split_first().map_or(("", &[]), |(program, arguments)| (program, arguments))
    }

    /// Below its home.
    fn at(&self, path: &str) -> String {
        self.home.join(path).to_string_lossy().into_owned()
    }
}

/// Variables, each with its value.
fn variables<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// A text in an event; empty where there is none.
fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A count in an event; 0 where there is none.
fn count(event: &Value, pointer: &str) -> u64 {
    event.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// An amount of dollars in an event, in millionths; none where it is no amount.
fn micro_usd(event: &Value, pointer: &str) -> Option<u64> {
    let dollars = event.pointer(pointer).and_then(Value::as_f64)?;
    (dollars >= 0.0).then_some((dollars * 1e6).round() as u64)
}

/// A tool of ours by its own name, without what the program puts before it; any other as it is.
fn tool(name: &str, prefix: &str) -> Said {
    Said::Tool(name.strip_prefix(prefix).unwrap_or(name).to_owned())
}

/// Why it failed, where it says so.
fn why(said: &str) -> String {
    if said.is_empty() { "it failed and does not say why".to_owned() } else { said.to_owned() }
}
