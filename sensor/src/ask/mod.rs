//! `sensor ask`: one request to a Messages-compatible endpoint, for hosts with no room for an agent's program.
//!
//! Started by `run`, confined as any agent is. The prompt, evidence window included, comes on standard input; the
//! model has one tool, `submit_findings`, and has to call it. What it hands in goes to the daemon, over the
//! run's own socket. What happens is told as one JSON object a line.

mod answer;

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::crypto::ring::default_provider;
use sensor_proto::json;
use serde_json::{Value, json};
use ureq::{
    Agent, Body,
    http::Response,
    tls::{Certificate, RootCerts, TlsConfig},
};

use self::answer::Answer;
use crate::mcp;

/// Where its key is. Arguments are open to everybody.
pub const KEY: &str = "ANTHROPIC_API_KEY";

/// The version of the protocol, as its vendor dates it.
const VERSION: &str = "2023-06-01";

/// Of an answer, bytes: findings are a few KiB.
const ANSWER: u64 = 4 << 20;

/// Of an error's body, bytes.
const ERROR: u64 = 8 << 10;

/// The prompt, bytes: a window has some hundred KiB at most.
const PROMPT: u64 = 16 << 20;

/// Times that it is tried again where the endpoint has trouble of its own, and the pause before, doubled each time.
const RETRIES: u32 = 2;
const PAUSE: Duration = Duration::from_secs(1);

const CONNECT: Duration = Duration::from_secs(10);
/// Until the answer begins; the run's watchdogs do the rest.
const BEGIN: Duration = Duration::from_mins(2);

#[derive(Clone, Debug, clap::Args)]
pub struct AskArgs {
    #[arg(long)]
    pub incident: String,
    #[arg(long)]
    pub model: String,
    /// Base URL.
    #[arg(long)]
    pub endpoint: String,
    /// Tokens that the answer may have.
    #[arg(long)]
    pub max_tokens: u32,
}

/// What the model handed in; an error says what went wrong.
pub fn request(args: &AskArgs) -> Result<Value, String> {
    let mut prompt = String::new();
    io::stdin()
        .take(PROMPT)
        .read_to_string(&mut prompt)
        .map_err(|error| format!("the prompt cannot be read: {error}"))?;
    let body = json!({
        "model": args.model,
        "max_tokens": args.max_tokens,
        "stream": true,
        "messages": [{"role": "user", "content": prompt}],
        "tools": [{
            "name": mcp::SUBMIT,
            "description": "Hands in what was found. The last thing to do.",
            "input_schema": mcp::findings_schema(),
        }],
        "tool_choice": {"type": "tool", "name": mcp::SUBMIT},
    });
    let body = body.to_string();
    tell(&json!({"type": "request", "model": args.model, "bytes": body.len()}));
    let answer = send(args, &body)?;
    read(answer)
}

/// Tells what the daemon made of it.
pub fn submitted(recorded: &sensor_proto::v1::Investigation) {
    let report = recorded.report.clone().unwrap_or_default();
    let verdict = json::verdict::word(report.verdict);
    tell(&json!({"type": "submitted", "verdict": verdict, "dropped": report.dropped_why}));
}

/// The last line: how it went.
pub fn ended(result: &Result<(), String>) {
    tell(&json!({"type": "result", "error": result.as_ref().err()}));
}

fn tell(event: &Value) {
    // Nobody listens any more: there is nothing to be done about it.
    let _ = writeln!(io::stdout(), "{event}");
}

fn send(args: &AskArgs, body: &str) -> Result<Response<Body>, String> {
    let agent = agent();
    let url = format!("{}/v1/messages", args.endpoint.trim_end_matches('/'));
    let mut tries = 0;
    loop {
        let mut request = agent
            .post(&url)
            .header("content-type", "application/json")
            .header("anthropic-version", VERSION);
        if let Ok(key) = std::env::var(KEY) {
            request = request.header("x-api-key", key);
        }
        let (why, worth_it) = match request.send(body) {
            Ok(answer) if answer.status().is_success() => return Ok(answer),
            Ok(answer) => {
                let status = answer.status();
                (refusal(answer), status.is_server_error() || status.as_u16() == 429)
            }
            Err(error) => (format!("the model's API cannot be asked: {error}"), true),
        };
        if !worth_it || tries == RETRIES {
            return Err(why);
        }
        tell(&json!({"type": "retry", "why": why}));
        thread::sleep(PAUSE * 2_u32.pow(tries));
        tries += 1;
    }
}

/// What an answer that is none says.
fn refusal(answer: Response<Body>) -> String {
    let status = answer.status();
    let mut body = Vec::new();
    let _ = answer.into_body().into_reader().take(ERROR).read_to_end(&mut body);
    let message = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| Some(body.pointer("/error/message")?.as_str()?.to_owned()));
    match message {
        Some(message) => format!("the model's API answers {status}: {message}"),
        None => format!("the model's API answers {status}"),
    }
}

fn read(answer: Response<Body>) -> Result<Value, String> {
    let broken = |error| format!("the answer broke off: {error}");
    let mut answered = Answer::default();
    for line in BufReader::new(answer.into_body().into_reader().take(ANSWER)).split(b'\n') {
        if let Some(event) = answered.line(&line.map_err(broken)?)? {
            tell(&event);
        }
    }
    answered.findings()
}

fn agent() -> Agent {
    let found = rustls_native_certs::load_native_certs().certs;
    let authorities: Vec<_> =
        found.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
        .root_certs(RootCerts::new_with_certs(&authorities))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(BEGIN))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("sensor/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}
