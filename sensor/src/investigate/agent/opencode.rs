//! opencode, headless: `opencode run --format json`, with the prompt on its standard input. It names its
//! conversation itself; its configuration is one file in its home.
//!
//! It has no terminal event of its own: the end is a step after which it asks for no tool. A model is named
//! `PROVIDER/MODEL`; the key reaches any provider by one variable that the configuration refers to.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{
    Agent, Launch, SERVER, Said, Session, Task, Usage, count, micro_usd, text, tool, variables, why,
};
use crate::config::Access;

/// As it writes the names of our tools.
const OURS: &str = "sensor_";

const CONFIG: &str = "opencode.json";

const KEY: &str = "SENSOR_MODEL_KEY";

/// Whose model it is if none is named; any that it may choose itself would include its maker's.
const PROVIDER: &str = "anthropic";

#[derive(Debug, Default)]
pub struct Opencode {
    /// Its conversation's name was told.
    named: bool,
    /// The model answers.
    in_step: bool,
}

impl Agent for Opencode {
    fn name(&self) -> &'static str {
        "opencode"
    }

    fn launch(&self, task: &Task<'_>) -> Launch {
        // Its log, on its standard error, is all that is known of one that hangs before its model has answered.
        let mut argv = vec![task.program_or(self.program()), "run".into(), "--print-logs".into()];
        let mut with = |option: &str, value: &str| argv.extend([option.into(), value.to_owned()]);
        with("--log-level", "INFO");
        with("--format", "json");
        // Otherwise it has another model make one up.
        with("--title", SERVER);
        if !task.model.is_empty() {
            with("--model", task.model);
        }
        if let Session::Resume(name) = task.session {
            with("--session", name);
        }
        let mut env = variables([
            ("OPENCODE_CONFIG", &task.at(CONFIG)),
            ("OPENCODE_DISABLE_AUTOCOMPACT", "1"),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_CLAUDE_CODE", "1"),
            ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
            ("OPENCODE_DISABLE_EXTERNAL_SKILLS", "1"),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
            ("OPENCODE_DISABLE_PROJECT_CONFIG", "1"),
            ("OPENCODE_DISABLE_SHARE", "1"),
            ("OPENCODE_PURE", "1"),
            // It fetches a package for plugins that there are none of.
            ("npm_config_offline", "true"),
        ]);
        env.extend(task.key.map(|key| (KEY.into(), key.into())));
        let files = vec![(PathBuf::from(CONFIG), config(task).to_string().into())];
        Launch { argv, env, files, stdin: task.prompt.into() }
    }

    fn read(&mut self, event: &Value) -> Vec<Said> {
        let mut said = Vec::new();
        let session = text(event, "/sessionID");
        if !self.named && !session.is_empty() {
            self.named = true;
            said.push(Said::Session(session.to_owned()));
        }
        match text(event, "/type") {
            "step_start" => {
                self.in_step = true;
                said.push(Said::Turn);
            }
            "tool_use" => said.push(tool(text(event, "/part/tool"), OURS)),
            "text" => said.push(Said::Text(text(event, "/part/text").to_owned())),
            "step_finish" => {
                // An answer that is none has an end alone; it is asked for again, without end.
                if !std::mem::take(&mut self.in_step) {
                    said.push(Said::Turn);
                }
                said.push(Said::Spent(used(event)));
                match text(event, "/part/reason") {
                    // It goes on.
                    "" | "tool-calls" | "unknown" => {}
                    "stop" => said.push(Said::End(Ok(()))),
                    reason => {
                        let why = format!("its model stopped for another reason: {reason}");
                        said.push(Said::End(Err(why)));
                    }
                }
            }
            "error" => {
                let message = text(event, "/error/data/message");
                let name = text(event, "/error/name");
                let said_of_it = if message.is_empty() { name } else { message };
                said.push(Said::End(Err(why(said_of_it))));
            }
            _ => {}
        }
        said
    }
}

fn config(task: &Task<'_>) -> Value {
    let (provider, model) = task.model.split_once('/').unwrap_or((PROVIDER, task.model));
    let mut options = Map::new();
    if !task.endpoint.is_empty() {
        options.insert("baseURL".into(), task.endpoint.into());
    }
    if task.key.is_some() {
        options.insert("apiKey".into(), format!("{{env:{KEY}}}").into());
    }
    let mut models = Map::new();
    if !model.is_empty() {
        // One that is newer than its own list is known by this.
        models.insert(model.to_owned(), json!({}));
    }
    let mut permission =
        Map::from_iter([("*".to_owned(), json!("deny")), (format!("{OURS}*"), json!("allow"))]);
    if task.access == Access::Shell {
        permission.insert("bash".into(), "allow".into());
    }
    json!({
        "autoupdate": false,
        "share": "disabled",
        "snapshot": false,
        "enabled_providers": [provider],
        "provider": {provider: {"options": options, "models": models}},
        "mcp": {SERVER: {"type": "local", "command": task.server, "enabled": true}},
        "permission": permission,
    })
}

fn used(event: &Value) -> Usage {
    let tokens = |name: &str| count(event, &format!("/part/tokens/{name}"));
    let (read, written) = (tokens("cache/read"), tokens("cache/write"));
    let input = tokens("input").saturating_add(written);
    let rest = tokens("total").saturating_sub(input).saturating_sub(read);
    Usage {
        input,
        cached: read,
        output: tokens("output").saturating_add(tokens("reasoning")).max(rest),
        // It takes a model that it has no price of for free.
        micro_usd: micro_usd(event, "/part/cost").filter(|cost| *cost > 0),
    }
}
