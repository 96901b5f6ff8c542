//! A model on this machine that says what a script tells it to, in the protocols of the agents' vendors:
//! Anthropic's Messages, `OpenAI`'s Responses, Gemini's `generateContent`.
//!
//! Each answer takes the next step of the script; the last step is repeated for ever, so that a single
//! call of a tool is a loop without end. Where tools are called, a request that offers none is an aside,
//! and takes no step. Every answer costs [`USAGE`], so sums are exact.

mod generate;
mod messages;
mod responses;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    http::{Listening, Request, say},
    names,
    process::boot_ns,
};

/// What an answer is said to have cost.
pub const USAGE: Usage = Usage { input: 1000, cached: 100, output: 50 };

/// From one byte to the next of a trickle.
const TRICKLE: Duration = Duration::from_secs(1);

/// Headers in which a key may stand.
const KEYS: [&str; 3] = ["x-api-key", "authorization", "x-goog-api-key"];

/// Tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Read anew.
    pub input: u64,
    /// Read from the cache.
    pub cached: u64,
    pub output: u64,
}

/// What the model does when it is asked.
#[derive(Clone, Debug)]
pub enum Step {
    /// Says this, and has done.
    Text(String),
    /// Calls the tool whose name ends so: each client puts the server's name before it, in its own way.
    Call(&'static str, Value),
    /// Answers with this status instead, and so does all else at this address.
    Status(u16),
    /// Answers never.
    Hang,
    /// Answers with what is no event stream, but says that it is one.
    Garbage,
    /// Says this, a byte a second.
    Trickle(String),
}

/// What it was asked for an answer.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub model: String,
    /// Names of the tools that it was offered.
    pub tools: Vec<String>,
    /// What tools gave, of the whole conversation.
    pub results: Vec<String>,
    /// Of the request's body.
    pub bytes: usize,
    /// Names in lower case; `right` or `wrong` in place of a key.
    pub headers: BTreeMap<String, String>,
    pub right_key: bool,
    /// When, boot clock, ns.
    pub boot_ns: u64,
}

/// A tool that a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tool {
    /// Where a protocol knows groups of tools.
    group: Option<String>,
    name: String,
}

impl Tool {
    fn full(&self) -> String {
        let Self { group, name } = self;
        group.as_ref().map_or_else(|| name.clone(), |group| format!("{group}__{name}"))
    }

    fn is(&self, suffix: &str) -> bool {
        let before = self.name.strip_suffix(suffix);
        before.is_some_and(|it| !it.ends_with(|last: char| last.is_alphanumeric()))
    }
}

/// What is read of a request.
#[derive(Debug)]
struct Conversation {
    model: String,
    tools: Vec<Tool>,
    results: Vec<String>,
    streamed: bool,
}

/// One thing that a model says.
#[derive(Debug)]
enum Answer<'a> {
    Text(&'a str),
    Call { id: String, tool: Tool, arguments: &'a Value },
}

/// Type and text of an answer's body.
struct Body(&'static str, String);

impl Body {
    const STREAM: &'static str = "text/event-stream";

    fn json(value: &Value) -> Self {
        Self("application/json", value.to_string())
    }

    /// A stream whose events have a name, their `type`, where `named`.
    fn stream(events: &[Value], named: bool) -> Self {
        let one = |event: &Value| match event["type"].as_str() {
            Some(name) if named => format!("event: {name}\ndata: {event}\n\n"),
            _ => format!("data: {event}\n\n"),
        };
        Self(Self::STREAM, events.iter().map(one).collect::<Vec<_>>().concat())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Messages,
    Responses,
    Generate,
}

impl Protocol {
    fn of(request: &Request) -> Option<Self> {
        let path = request.path.split('?').next().unwrap_or_default();
        let is = |end: &str| request.method == "POST" && path.ends_with(end);
        if is("/messages") {
            Some(Self::Messages)
        } else if is("/responses") {
            Some(Self::Responses)
        } else if is(":generateContent") || is(":streamGenerateContent") {
            Some(Self::Generate)
        } else {
            None
        }
    }

    fn read(self, request: &Request) -> Conversation {
        match self {
            Self::Messages => messages::read(&request.json()),
            Self::Responses => responses::read(&request.json()),
            Self::Generate => generate::read(&request.path, &request.json()),
        }
    }

    fn say(self, to: &Conversation, answer: &Answer<'_>) -> Body {
        match self {
            Self::Messages => messages::say(to, answer),
            Self::Responses => responses::say(to, answer),
            Self::Generate => generate::say(to, answer),
        }
    }
}

/// The server; it ends with this.
#[derive(Debug)]
pub struct Model {
    address: SocketAddr,
    mind: Arc<Mind>,
    _listening: Listening,
}

#[derive(Debug)]
struct Mind {
    key: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    script: Vec<Step>,
    /// Steps that were taken.
    turn: usize,
    asked: Vec<Asked>,
}

impl State {
    fn step(&self) -> Step {
        let last = self.script.len().saturating_sub(1);
        self.script.get(self.turn.min(last)).cloned().unwrap_or(Step::Hang)
    }
}

impl Model {
    /// A server that takes this key alone.
    pub fn start(key: &str, script: Vec<Step>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Mutex::new(State { script, ..State::default() });
        let mind = Arc::new(Mind { key: key.to_owned(), state });
        let thinking = Arc::clone(&mind);
        let listening = Listening::new(listener, move |stream| thinking.serve(stream))?;
        Ok(Self { address, mind, _listening: listening })
    }

    /// Base of all addresses, without a version.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked for answers until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.mind.lock().asked.clone()
    }

    /// Begins with another script, and nothing was asked yet.
    pub fn begins(&self, script: Vec<Step>) {
        *self.mind.lock() = State { script, ..State::default() };
    }
}

impl Mind {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let request = Request::read(&mut stream)?;
        let protocol = Protocol::of(&request);
        let conversation = protocol.map(|it| it.read(&request));
        let right_key = self.knows_key(&request);
        let (step, turn, aside) = self.step(&request, conversation.as_ref(), right_key);
        let out = stream.get_mut();
        match (&step, protocol.zip(conversation)) {
            // Whether anybody is there at all.
            _ if request.method == "HEAD" => say(out, 200, "", b"")?,
            (Step::Status(status), _) => fail(out, *status)?,
            _ if !right_key => fail(out, 401)?,
            (_, None) => say_body(out, &other(&request))?,
            (_, Some((protocol, to))) if aside => {
                say_body(out, &protocol.say(&to, &Answer::Text("{}")))?;
            }
            (Step::Text(text), Some((protocol, to))) => {
                say_body(out, &protocol.say(&to, &Answer::Text(text)))?;
            }
            (Step::Call(suffix, arguments), Some((protocol, to))) => {
                let tool = to.tools.iter().find(|tool| tool.is(suffix)).cloned();
                let missing = format!("there is no tool {suffix}");
                let answer = match tool {
                    Some(tool) => Answer::Call {
                        id: format!("call_{turn}_{}", names::word()),
                        tool,
                        arguments,
                    },
                    None => Answer::Text(&missing),
                };
                say_body(out, &protocol.say(&to, &answer))?;
            }
            // Until the client has enough of it.
            (Step::Hang, _) => drop(stream.read(&mut [0])?),
            (Step::Garbage, _) => say(out, 200, &content(Body::STREAM), &[0x1b; 8192])?,
            (Step::Trickle(text), Some((protocol, to))) => {
                let Body(kind, text) = protocol.say(&to, &Answer::Text(text));
                write!(out, "HTTP/1.1 200 So\r\nconnection: close\r\n{}\r\n", content(kind))?;
                for byte in text.bytes() {
                    out.write_all(&[byte])?;
                    thread::sleep(TRICKLE);
                }
            }
        }
        Ok(())
    }

    /// The step for a request, its number, and whether it is an aside: some ask for a title of the
    /// conversation, or which model it should be. What is none is kept.
    fn step(
        &self,
        request: &Request,
        conversation: Option<&Conversation>,
        right_key: bool,
    ) -> (Step, usize, bool) {
        let mut state = self.lock();
        let (step, turn) = (state.step(), state.turn);
        let calls = state.script.iter().any(|step| matches!(step, Step::Call(..)));
        let Some(conversation) = conversation else { return (step, turn, false) };
        if calls && conversation.tools.is_empty() {
            return (step, turn, true);
        }
        let mut headers = request.headers.clone();
        for name in KEYS {
            if let Some(value) = headers.get_mut(name) {
                if right_key { "right" } else { "wrong" }.clone_into(value);
            }
        }
        state.turn += 1;
        state.asked.push(Asked {
            path: request.path.split('?').next().unwrap_or_default().to_owned(),
            model: conversation.model.clone(),
            tools: conversation.tools.iter().map(Tool::full).collect(),
            results: conversation.results.clone(),
            bytes: request.body.len(),
            headers,
            right_key,
            boot_ns: boot_ns(),
        });
        (step, turn, false)
    }

    fn knows_key(&self, request: &Request) -> bool {
        let is = |value: &str| value.strip_prefix("Bearer ").unwrap_or(value) == self.key;
        KEYS.iter().any(|name| is(request.header(name)))
    }
}

/// What is no question to the model: which models there are, how long a text is.
fn other(request: &Request) -> Body {
    Body::json(&if request.path.contains("ount") {
        json!({"input_tokens": USAGE.input, "totalTokens": USAGE.input})
    } else {
        json!({"object": "list", "data": [], "models": [], "has_more": false})
    })
}

fn content(kind: &str) -> String {
    format!("content-type: {kind}\r\n")
}

fn say_body(stream: &mut TcpStream, Body(kind, text): &Body) -> std::io::Result<()> {
    say(stream, 200, &content(kind), text.as_bytes())
}

/// An error in the form that all three have in common as far as clients look.
fn fail(stream: &mut TcpStream, status: u16) -> std::io::Result<()> {
    let kind = if status == 401 { "authentication_error" } else { "api_error" };
    let message = format!("the script says {status}");
    let error = json!({"type": kind, "message": message, "code": status, "status": kind});
    let Body(kind, text) = Body::json(&json!({"type": "error", "error": error}));
    say(stream, status, &content(kind), text.as_bytes())
}

/// The elements of an array; none, if it is not one.
fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a tool gave: a text, or pieces with texts in them.
fn result(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(pieces) => pieces.iter().filter_map(|piece| piece["text"].as_str()).collect(),
        other => other.to_string(),
    }
}
