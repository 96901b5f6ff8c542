//! Claude Code, headless: `claude -p --bare`. Its conversation has the name that we choose, the prompt comes on
//! its standard input, and one JSON object a line goes to its output.
//!
//! What it says of money is of one life. `success` may stand beside `is_error`, and only the sums of
//! its last event are right: while it runs, an answer is told with the output that it had when it began.

use serde_json::{Value, json};

use super::{
    Agent, Launch, SERVER, Said, Session, Task, Usage, count, micro_usd, text, tool, variables, why,
};
use crate::config::Access;

/// As it writes the names of our tools.
const OURS: &str = "mcp__sensor__";

/// It tries as often as this by itself; a run has a deadline and does not wait for a model that is down.
const RETRIES: &str = "2";

#[derive(Debug, Default)]
pub struct Claude {
    /// Of the answer that came last: each of its parts is an event of its own.
    answer: String,
}

impl Agent for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn launch(&self, task: &Task<'_>) -> Launch {
        let (command, args) = task.server();
        let servers =
            json!({"mcpServers": {SERVER: {"type": "stdio", "command": command, "args": args}}});
        let ours = format!("{OURS}*");
        let (tools, allowed) = match task.access {
            Access::Eye => ("", ours),
            Access::Shell => ("Bash", format!("{ours},Bash")),
        };
        let (turns, dollars) = (task.turns.to_string(), (task.micro_usd as f64 / 1e6).to_string());
        let (session, name) = match task.session {
            Session::New(name) => ("--session-id", name),
            Session::Resume(name) => ("--resume", name),
        };
        let mut argv = vec![task.program_or(self.program())];
        // Bare: no hooks, no CLAUDE.md, no plugins: nothing that lies about in a project speaks to it.
        let options = ["-p", "--bare", "--output-format", "stream-json", "--verbose"];
        argv.extend(options.map(str::to_owned));
        let mut with = |option: &str, value: &str| argv.extend([option.into(), value.to_owned()]);
        with(session, name);
        if !task.model.is_empty() {
            with("--model", task.model);
        }
        with("--max-turns", &turns);
        with("--max-budget-usd", &dollars);
        with("--tools", tools);
        with("--allowedTools", &allowed);
        with("--permission-mode", "dontAsk");
        with("--mcp-config", &servers.to_string());
        argv.extend(["--strict-mcp-config", "--disable-slash-commands"].map(str::to_owned));
        let mut env = variables([
            ("CLAUDE_CONFIG_DIR", &task.at(".claude")),
            ("CLAUDE_CODE_MAX_RETRIES", RETRIES),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
        ]);
        if !task.endpoint.is_empty() {
            env.push(("ANTHROPIC_BASE_URL".into(), task.endpoint.into()));
        }
        env.extend(task.key.map(|key| ("ANTHROPIC_API_KEY".into(), key.into())));
        Launch { argv, env, files: Vec::new(), stdin: task.prompt.into() }
    }

    fn read(&mut self, event: &Value) -> Vec<Said> {
        match (text(event, "/type"), text(event, "/subtype")) {
            ("system", "init") => began(event),
            ("system", "api_retry") => {
                let error = text(event, "/error");
                let (attempt, most) = (count(event, "/attempt"), count(event, "/max_retries"));
                let status = count(event, "/error_status");
                let said =
                    format!("its model answers {status} {error}: again, {attempt} of {most}");
                vec![Said::Trouble(said)]
            }
            ("assistant", _) => self.answered(event),
            ("result", subtype) => ended(event, subtype),
            _ => Vec::new(),
        }
    }
}

impl Claude {
    fn answered(&mut self, event: &Value) -> Vec<Said> {
        let parts = event.pointer("/message/content").and_then(Value::as_array);
        let parts = parts.map(Vec::as_slice).unwrap_or_default();
        // Its own words for what went wrong, in the model's place.
        if text(event, "/message/model") == "<synthetic>" {
            let said = parts.iter().map(|part| text(part, "/text")).filter(|it| !it.is_empty());
            return said.map(|text| Said::Trouble(text.to_owned())).collect();
        }
        let mut said = Vec::new();
        let answer = text(event, "/message/id");
        if answer.is_empty() || answer != self.answer {
            answer.clone_into(&mut self.answer);
            said.push(Said::Turn);
            if let Some(usage) = event.pointer("/message/usage") {
                said.push(Said::Spent(used(usage)));
            }
        }
        for part in parts {
            match text(part, "/type") {
                "tool_use" => said.push(tool(text(part, "/name"), OURS)),
                "text" => said.push(Said::Text(text(part, "/text").to_owned())),
                _ => {}
            }
        }
        said
    }
}

fn began(event: &Value) -> Vec<Said> {
    let mut said = Vec::new();
    let session = text(event, "/session_id");
    if !session.is_empty() {
        said.push(Said::Session(session.to_owned()));
    }
    let servers = event.pointer("/mcp_servers").and_then(Value::as_array);
    for server in servers.into_iter().flatten() {
        let (name, status) = (text(server, "/name"), text(server, "/status"));
        if name == SERVER && status != "connected" {
            said.push(Said::Trouble(format!("it sees no evidence: its server is {status}")));
        }
    }
    said
}

fn ended(event: &Value, subtype: &str) -> Vec<Said> {
    let mut usage = event.pointer("/usage").map(used).unwrap_or_default();
    // `usage` lacks the answer at which a bound was met.
    if let Some(models) = event.pointer("/modelUsage").and_then(Value::as_object)
        && !models.is_empty()
    {
        usage = models.values().fold(Usage::default(), |sum, of| Usage {
            input: sum
                .input
                .saturating_add(count(of, "/inputTokens"))
                .saturating_add(count(of, "/cacheCreationInputTokens")),
            cached: sum.cached.saturating_add(count(of, "/cacheReadInputTokens")),
            output: sum.output.saturating_add(count(of, "/outputTokens")),
            micro_usd: None,
        });
    }
    let mut said = Vec::new();
    // Where it could not even begin, its sums say nothing.
    if usage != Usage::default() {
        let micro_usd = micro_usd(event, "/total_cost_usd");
        said.push(Said::Total(Usage { micro_usd, ..usage }));
    }
    let failed = event.pointer("/is_error").and_then(Value::as_bool).unwrap_or(false);
    let end = if subtype == "success" && !failed { Ok(()) } else { Err(reason(event, subtype)) };
    said.push(Said::End(end));
    said
}

fn reason(event: &Value, subtype: &str) -> String {
    let errors = event.pointer("/errors").and_then(Value::as_array);
    let errors: Vec<&str> = errors.into_iter().flatten().filter_map(Value::as_str).collect();
    let said = match (errors.join("; "), text(event, "/result")) {
        (errors, _) if !errors.is_empty() => errors,
        (_, result) if !result.is_empty() => result.to_owned(),
        _ if subtype == "success" => String::new(),
        _ => subtype.replace('_', " "),
    };
    why(&said)
}

fn used(usage: &Value) -> Usage {
    let written = count(usage, "/cache_creation_input_tokens");
    Usage {
        input: count(usage, "/input_tokens").saturating_add(written),
        cached: count(usage, "/cache_read_input_tokens"),
        output: count(usage, "/output_tokens"),
        micro_usd: None,
    }
}
