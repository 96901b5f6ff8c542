//! Gemini CLI, headless: `gemini -o stream-json`, with the prompt on its standard input. Its configuration is
//! in its home: settings, and a policy that denies every tool but ours.
//!
//! A policy that a later version cannot read it passes over with a warning; `tools.core` then leaves it
//! without any tool, ours included. Answers come in pieces, of which a text is made here.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Agent, Launch, SERVER, Said, Session, Task, Usage, count, text, tool, variables, why};
use crate::config::Access;

/// As it writes the names of our tools.
const OURS: &str = "mcp_sensor_";

const SHELL: &str = "run_shell_command";

/// Attempts for one answer: a run has a deadline and does not wait for a model that is down. Its own are 10.
const ATTEMPTS: u32 = 3;

/// Of an answer, bytes that are gathered; its raw lines have all of it.
const LONGEST: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Gemini {
    /// An answer has begun, and no tool has answered since.
    answering: bool,
    /// What was said of it.
    words: String,
}

impl Agent for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn launch(&self, task: &Task<'_>) -> Launch {
        let mut argv = vec![task.program_or(self.program())];
        let mut with = |option: &str, value: &str| argv.extend([option.into(), value.to_owned()]);
        with("-o", "stream-json");
        match task.session {
            Session::New(name) => with("--session-id", name),
            Session::Resume(name) => with("--resume", name),
        }
        if !task.model.is_empty() {
            with("-m", task.model);
        }
        // Its home is ours, and holds nothing that it could be fooled by.
        argv.push("--skip-trust".into());
        let mut env = variables([("GEMINI_CLI_NO_RELAUNCH", "true")]);
        if !task.endpoint.is_empty() {
            env.push(("GOOGLE_GEMINI_BASE_URL".into(), task.endpoint.into()));
        }
        env.extend(task.key.map(|key| ("GEMINI_API_KEY".into(), key.into())));
        let files = vec![
            (PathBuf::from(".gemini/settings.json"), settings(task).to_string().into()),
            (PathBuf::from(".gemini/policies/sensor.toml"), policy(task.access).into()),
        ];
        Launch { argv, env, files, stdin: task.prompt.into() }
    }

    fn read(&mut self, event: &Value) -> Vec<Said> {
        let mut said = Vec::new();
        match (text(event, "/type"), text(event, "/role")) {
            ("init", _) => {
                let session = text(event, "/session_id");
                if !session.is_empty() {
                    said.push(Said::Session(session.to_owned()));
                }
            }
            ("message", "assistant") => {
                self.answers(&mut said);
                let words = text(event, "/content");
                let room = LONGEST - self.words.len();
                self.words.push_str(&words[..words.floor_char_boundary(room)]);
            }
            ("tool_use", _) => {
                self.answers(&mut said);
                self.finish(&mut said);
                said.push(tool(text(event, "/tool_name"), OURS));
            }
            ("tool_result", _) => {
                self.finish(&mut said);
                self.answering = false;
            }
            ("error", _) => said.push(Said::Trouble(text(event, "/message").to_owned())),
            ("result", _) => {
                self.finish(&mut said);
                said.extend(event.pointer("/stats").map(|stats| Said::Total(used(stats))));
                said.push(Said::End(match text(event, "/status") {
                    "success" => Ok(()),
                    _ => Err(why(text(event, "/error/message"))),
                }));
            }
            _ => {}
        }
        said
    }
}

impl Gemini {
    fn answers(&mut self, said: &mut Vec<Said>) {
        if !self.answering {
            said.push(Said::Turn);
        }
        self.answering = true;
    }

    fn finish(&mut self, said: &mut Vec<Said>) {
        if !self.words.is_empty() {
            said.push(Said::Text(std::mem::take(&mut self.words)));
        }
    }
}

fn settings(task: &Task<'_>) -> Value {
    let (command, args) = task.server();
    let core = match task.access {
        // Of the tools that are built in, one that does not exist.
        Access::Eye => "none",
        Access::Shell => SHELL,
    };
    json!({
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "general": {
            "enableAutoUpdate": false,
            "enableAutoUpdateNotification": false,
            "maxAttempts": ATTEMPTS,
            "sessionRetention": {"enabled": false},
        },
        "privacy": {"usageStatisticsEnabled": false},
        "telemetry": {"enabled": false},
        "experimental": {"enableAgents": false},
        "skills": {"enabled": false},
        "hooksConfig": {"enabled": false},
        "context": {"includeDirectoryTree": false},
        "tools": {"core": [core]},
        "mcp": {"allowed": [SERVER]},
        "mcpServers": {SERVER: {"command": command, "args": args, "trust": true}},
        "model": {"maxSessionTurns": task.turns},
    })
}

fn policy(access: Access) -> String {
    let rule = |which: &str, decision: &str, priority: u32| {
        format!("[[rule]]\n{which}\ndecision = \"{decision}\"\npriority = {priority}\n")
    };
    let mut policy = rule("toolName = \"*\"", "deny", 998);
    policy += &rule(&format!("mcpName = \"{SERVER}\"\ntoolName = \"*\""), "allow", 999);
    if access == Access::Shell {
        policy += &rule(&format!("toolName = \"{SHELL}\""), "allow", 999);
    }
    policy
}

fn used(stats: &Value) -> Usage {
    let (given, cached) = (count(stats, "/input_tokens"), count(stats, "/cached"));
    // What it thought is in the total alone.
    let thought = count(stats, "/total_tokens").saturating_sub(given);
    Usage {
        input: given.saturating_sub(cached),
        cached,
        output: count(stats, "/output_tokens").max(thought),
        micro_usd: None,
    }
}
