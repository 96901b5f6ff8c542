//! Codex, headless: `codex exec --json`. It names its conversation itself, takes the prompt on its standard
//! input, and all of its configuration from the command line.
//!
//! It says nothing of single answers of its model, and what it has spent only at the end of its one turn. So
//! answers are counted by what they ask for, and a life that was cut off has told no spending: the sum
//! that a later one tells, which is of the whole conversation, holds it.

use std::collections::BTreeSet;

use serde_json::Value;
use toml::Value as Toml;

use super::{Agent, Launch, SERVER, Said, Session, Task, Usage, count, text, tool, why};
use crate::config::Access;

/// Where a provider of our own gets the key from; without one, `codex exec` looks there as well.
const KEY: &str = "CODEX_API_KEY";

/// It tries as often as this by itself; a run has a deadline and does not wait for a model that is down.
const RETRIES: i64 = 2;

/// What it may not do by itself, as it names it. Names that it does not know it passes over.
const OFF: &[&str] = &[
    "apps",
    "browser_use",
    "computer_use",
    "goals",
    "hooks",
    "image_generation",
    "memories",
    "multi_agent",
    "multi_agent_v2",
    "plugins",
    "shell_snapshot",
    "skill_search",
    "sleep_tool",
    "tool_suggest",
    "unbounded_connection_retries",
    "view_image",
];

/// And these where it has no shell.
const SHELL: &[&str] = &["shell_tool", "unified_exec"];

/// Tool calls that are known to be under way; more than a model asks for at once.
const UNDER_WAY: usize = 256;

#[derive(Debug, Default)]
pub struct Codex {
    /// An answer has begun, and no tool has answered since.
    answering: bool,
    /// Tool calls that have begun, by their names.
    calls: BTreeSet<String>,
}

impl Agent for Codex {
    fn name(&self) -> &'static str {
        "codex"
    }

    fn counts_conversations(&self) -> bool {
        true
    }

    fn launch(&self, task: &Task<'_>) -> Launch {
        let mut argv = vec![task.program_or(self.program()), "exec".into()];
        if let Session::Resume(_) = task.session {
            argv.push("resume".into());
        }
        let options = ["--json", "--skip-git-repo-check", "--ignore-user-config", "--ignore-rules"];
        argv.extend(options.map(str::to_owned));
        if !task.model.is_empty() {
            argv.extend(["-m".into(), task.model.to_owned()]);
        }
        for (key, value) in settings(task) {
            argv.extend(["-c".into(), format!("{key}={value}")]);
        }
        if let Session::Resume(name) = task.session {
            argv.push(name.to_owned());
        }
        argv.push("-".into());
        let env = task.key.map(|key| (KEY.into(), key.into())).into_iter().collect();
        Launch { argv, env, files: Vec::new(), stdin: task.prompt.into() }
    }

    fn read(&mut self, event: &Value) -> Vec<Said> {
        match text(event, "/type") {
            "thread.started" => match text(event, "/thread_id") {
                "" => Vec::new(),
                name => vec![Said::Session(name.to_owned())],
            },
            "item.started" => self.item(event, false),
            "item.completed" => self.item(event, true),
            // It tries again by itself.
            "error" => vec![Said::Trouble(text(event, "/message").to_owned())],
            "turn.completed" => {
                let spent = event.pointer("/usage").map(|usage| Said::Total(used(usage)));
                spent.into_iter().chain([Said::End(Ok(()))]).collect()
            }
            "turn.failed" => vec![Said::End(Err(why(text(event, "/error/message"))))],
            _ => Vec::new(),
        }
    }
}

impl Codex {
    fn item(&mut self, event: &Value, completed: bool) -> Vec<Said> {
        let mut said = Vec::new();
        let name = match text(event, "/item/type") {
            "error" => return vec![Said::Trouble(text(event, "/item/message").to_owned())],
            "reasoning" => {
                self.answers(&mut said);
                return said;
            }
            "agent_message" => {
                self.answers(&mut said);
                if completed {
                    said.push(Said::Text(text(event, "/item/text").to_owned()));
                }
                return said;
            }
            "mcp_tool_call" => match (text(event, "/item/server"), text(event, "/item/tool")) {
                (SERVER, tool) => tool.to_owned(),
                (server, tool) => format!("{server}.{tool}"),
            },
            call @ ("command_execution" | "file_change" | "web_search" | "collab_tool_call") => {
                call.to_owned()
            }
            _ => return said,
        };
        // One that is told only when it has ended is a call as well.
        let call = text(event, "/item/id");
        if !self.calls.contains(call) {
            self.answers(&mut said);
            said.push(tool(&name, ""));
        }
        if completed {
            self.calls.remove(call);
            self.answering = false;
        } else {
            if self.calls.len() >= UNDER_WAY {
                self.calls.clear();
            }
            self.calls.insert(call.to_owned());
        }
        said
    }

    fn answers(&mut self, said: &mut Vec<Said>) {
        if !self.answering {
            said.push(Said::Turn);
        }
        self.answering = true;
    }
}

/// Its configuration, key by key.
fn settings(task: &Task<'_>) -> Vec<(String, Toml)> {
    let word = |text: &str| Toml::String(text.to_owned());
    let words = |texts: &[String]| Toml::Array(texts.iter().map(|text| word(text)).collect());
    let off = Toml::Boolean(false);
    let mut all: Vec<(String, Toml)> = Vec::new();
    let mut set = |key: &str, value: Toml| all.push((key.to_owned(), value));

    // A sandbox of its own would show a shell 5 of 90 processes; ours is around it anyway.
    let sandbox = match task.access {
        Access::Eye => "read-only",
        Access::Shell => "danger-full-access",
    };
    set("sandbox_mode", word(sandbox));
    set("approval_policy", word("never"));
    set("web_search", word("disabled"));
    let no_shell = if task.access == Access::Eye { SHELL } else { &[] };
    for feature in OFF.iter().chain(no_shell) {
        set(&format!("features.{feature}"), off.clone());
    }
    for key in [
        "agents.enabled",
        "analytics.enabled",
        "check_for_update_on_startup",
        "skills.bundled.enabled",
        "skills.include_instructions",
        "tools.experimental_request_user_input.enabled",
        "tools.update_plan.enabled",
    ] {
        set(key, off.clone());
    }
    set("history.persistence", word("none"));
    set("shell_environment_policy.ignore_default_excludes", off);
    set("shell_environment_policy.exclude", words(&["*KEY*".to_owned()]));
    // Some models get tools only as functions of a script that they write; ours they get as they are.
    let ours = words(&[format!("mcp__{SERVER}")]);
    set("features.code_mode.direct_only_tool_namespaces", ours);

    let (command, arguments) = task.server();
    let mut server = |key: &str, value: Toml| set(&format!("mcp_servers.{SERVER}.{key}"), value);
    server("command", word(command));
    server("args", words(arguments));
    server("default_tools_approval_mode", word("approve"));
    // Without evidence there is nothing to look into.
    server("required", Toml::Boolean(true));

    if !task.endpoint.is_empty() {
        set("model_provider", word(SERVER));
        let mut provider =
            |key: &str, value: Toml| set(&format!("model_providers.{SERVER}.{key}"), value);
        provider("name", word(SERVER));
        provider("base_url", word(task.endpoint));
        provider("wire_api", word("responses"));
        provider("request_max_retries", Toml::Integer(RETRIES));
        provider("stream_max_retries", Toml::Integer(RETRIES));
        if task.key.is_some() {
            provider("env_key", word(KEY));
        }
    }
    all
}

fn used(usage: &Value) -> Usage {
    let cached = count(usage, "/cached_input_tokens");
    Usage {
        input: count(usage, "/input_tokens").saturating_sub(cached),
        cached,
        output: count(usage, "/output_tokens"),
        micro_usd: None,
    }
}
