//! `api`: one request with the evidence window in it, by `sensor ask`. No tools but the one that takes its
//! answer, and 30 MiB instead of a CLI's 350.

use serde_json::Value;

use super::{Agent, Launch, Said, Task, Usage, count, text, why};
use crate::ask;

/// Its vendor's own.
const ENDPOINT: &str = "https://api.anthropic.com";

/// Tokens that an answer may have: findings are a few hundred words.
pub const ANSWER_TOKENS: u32 = 4096;

#[derive(Debug, Default)]
pub struct Api;

impl Agent for Api {
    fn name(&self) -> &'static str {
        "api"
    }

    fn program(&self) -> &'static str {
        "sensor"
    }

    /// Of the server's command line, `sensor --socket PATH mcp --incident ID`, it takes the program and both values.
    fn launch(&self, task: &Task<'_>) -> Launch {
        let [program, flag, socket, _, incident @ ..] = task.server else {
            return Launch::default();
        };
        let endpoint = if task.endpoint.is_empty() { ENDPOINT } else { task.endpoint };
        let tokens = ANSWER_TOKENS.to_string();
        let options = ["--model", task.model, "--endpoint", endpoint, "--max-tokens", &tokens];
        let argv = [program.as_str(), flag, socket, "ask"]
            .into_iter()
            .chain(incident.iter().map(String::as_str))
            .chain(options)
            .map(str::to_owned)
            .collect();
        let env = task.key.map(|key| (ask::KEY.to_owned(), key.to_owned())).into_iter().collect();
        Launch { argv, env, stdin: task.prompt.as_bytes().to_vec(), ..Launch::default() }
    }

    fn read(&mut self, event: &Value) -> Vec<Said> {
        match text(event, "/type") {
            "text" => vec![Said::Text(text(event, "/text").to_owned())],
            "retry" => vec![Said::Trouble(text(event, "/why").to_owned())],
            "usage" => {
                let usage = Usage {
                    input: count(event, "/input"),
                    cached: count(event, "/cached"),
                    output: count(event, "/output"),
                    micro_usd: None,
                };
                vec![Said::Turn, Said::Total(usage)]
            }
            "submitted" => vec![Said::Tool(crate::mcp::SUBMIT.to_owned())],
            "result" => vec![Said::End(match &event["error"] {
                Value::Null => Ok(()),
                _ => Err(why(text(event, "/error"))),
            })],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::{config::Access, investigate::agent::Session};

    #[test]
    fn is_one_request_whose_key_is_in_the_environment_alone() {
        let server = ["/bin/sensor", "--socket", "/h/sensor.sock", "mcp", "--incident", "4k2m"];
        let server = server.map(str::to_owned);
        let launch = Api.launch(&Task {
            prompt: "find the cause",
            program: Path::new(""),
            model: "claude-x",
            endpoint: "",
            key: Some("sk-secret"),
            home: Path::new("/h"),
            server: &server,
            session: Session::New("s"),
            access: Access::Eye,
            turns: 1,
            micro_usd: 1,
        });
        assert_eq!(
            launch.argv.join(" "),
            "/bin/sensor --socket /h/sensor.sock ask --incident 4k2m --model claude-x \
             --endpoint https://api.anthropic.com --max-tokens 4096"
        );
        assert_eq!(launch.env, [(ask::KEY.to_owned(), "sk-secret".to_owned())]);
        assert_eq!(launch.stdin, b"find the cause");
    }

    #[test]
    fn what_it_says() {
        let mut api = Api;
        let usage = json!({"type": "usage", "input": 10, "cached": 2, "output": 3});
        let used = Usage { input: 10, cached: 2, output: 3, micro_usd: None };
        assert_eq!(api.read(&usage), [Said::Turn, Said::Total(used)]);
        assert_eq!(api.read(&json!({"type": "result", "error": null})), [Said::End(Ok(()))]);
        let failed = api.read(&json!({"type": "result", "error": "401"}));
        assert_eq!(failed, [Said::End(Err("401".to_owned()))]);
        assert_eq!(api.read(&json!({"type": "answering"})), []);
        assert_eq!(api.read(&json!(7)), []);
    }
}
