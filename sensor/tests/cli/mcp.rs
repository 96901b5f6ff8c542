//! `sensor mcp` as a process, driven by a real client library, and by clients that are none.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rmcp::{
    RoleClient, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
        ProtocolVersion, Tool,
    },
    service::RunningService,
};
use serde_json::{Value, json};

use crate::{canned, fake::Fake, hostile};

/// Answers are read by a model: some thousand tokens each, the text twice.
const LARGEST: usize = 64 << 10;

fn command(fake: &Fake, incident: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sensor"));
    command
        .args(["mcp", "--incident", incident])
        .env("SENSOR_SOCKET", fake.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A client of the library, and the server as a process.
struct Session {
    runtime: tokio::runtime::Runtime,
    client: RunningService<RoleClient, ClientConfig>,
    tools: Vec<Tool>,
    _server: tokio::process::Child,
}

impl Session {
    fn start(fake: &Fake, incident: &str, version: ProtocolVersion) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut command = tokio::process::Command::from(command(fake, incident));
        command.kill_on_drop(true);
        let (server, client, tools) = runtime.block_on(async {
            let mut server = command.spawn().unwrap();
            let streams = (server.stdout.take().unwrap(), server.stdin.take().unwrap());
            let config =
                ClientConfig::new(ClientCapabilities::default(), Implementation::new("test", "1"))
                    .with_protocol_version(version);
            let client = config.serve(streams).await.unwrap();
            let tools = client.list_all_tools().await.unwrap();
            (server, client, tools)
        });
        Self { runtime, client, tools, _server: server }
    }

    fn call(&self, tool: &str, arguments: &Value) -> CallToolResult {
        let mut call = CallToolRequestParams::new(tool.to_owned());
        call.arguments = arguments.as_object().cloned();
        self.runtime.block_on(self.client.call_tool(call)).unwrap()
    }

    /// An answer that fits its schema and keeps its bounds, harmless outside of the marker.
    fn answer(&self, tool: &str, arguments: &Value) -> Value {
        let result = self.call(tool, arguments);
        assert_ne!(result.is_error, Some(true), "{tool} {arguments}: {result:?}");
        let answer = result.structured_content.clone().unwrap();
        let described = self.tools.iter().find(|known| known.name == tool).unwrap();
        let schema = Value::Object((**described.output_schema.as_ref().unwrap()).clone());
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let problems: Vec<String> = validator
            .iter_errors(&answer)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(problems.is_empty(), "{tool}: {problems:#?}");
        let whole = serde_json::to_string(&result).unwrap();
        assert!(whole.len() <= LARGEST, "{tool} {arguments}: {} bytes", whole.len());

        let mut facts = answer.clone();
        let texts = facts.as_object_mut().unwrap().remove("texts").unwrap_or_default();
        harmless(&facts.to_string());
        if let Some(texts) = texts.as_str() {
            marked(texts);
        }
        let said: Vec<String> =
            result.content.iter().map(|block| block.as_text().unwrap().text.clone()).collect();
        assert_eq!(serde_json::from_str::<Value>(&said[0]).unwrap(), facts, "{tool}");
        assert_eq!(said.get(1).map(String::as_str), texts.as_str());
        answer
    }

    /// All pages of a list.
    fn pages(&self, tool: &str, arguments: &Value) -> Vec<Value> {
        let mut pages = vec![self.answer(tool, arguments)];
        while let Some(cursor) = pages.last().unwrap().get("next_cursor").cloned() {
            let mut arguments = arguments.clone();
            arguments["cursor"] = cursor;
            pages.push(self.answer(tool, &arguments));
            assert!(pages.len() < 1_000, "{tool} has no end");
        }
        pages
    }
}

/// Nothing of what others chose.
fn harmless(text: &str) {
    assert!(!text.contains(hostile::WISH), "{text}");
    assert!(!text.contains("im_start") && !text.contains("<<<"), "{text}");
    assert!(!text.chars().any(is_odd), "{text:?}");
}

/// Controls, hides or turns what is beside it.
fn is_odd(character: char) -> bool {
    character.is_control() || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
}

/// Between the marker's two lines, and nothing in it could be taken for one of them.
fn marked(block: &str) {
    let lines: Vec<&str> = block.trim_end_matches('\n').split('\n').collect();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    let marker = first.strip_prefix("<<<text ").unwrap().strip_suffix(">>>").unwrap();
    assert_eq!(last, format!("<<<end {marker}>>>"));
    assert!(marker.len() >= 16 && block.matches(marker).count() == 2, "{block}");
    for line in &lines[1..lines.len() - 1] {
        assert!(line.starts_with("S#") || line.starts_with("| "), "{line}");
        assert!(!line.chars().any(is_odd), "{line:?}");
    }
}

fn findings() -> Value {
    json!({
        "verdict": "refutes",
        "confidence": 0.5,
        "cause": {"text": "it leaks", "evidence": ["h1"]},
        "refutation": {"text": "nothing repeats", "evidence": ["h1"]},
        "culprit": {"pid": 7, "evidence": ["h1"]},
        "fix_location": {"path": "a.js", "line": 3, "evidence": ["s1"]},
    })
}

#[test]
fn every_tool_answers_as_its_schema_says_whatever_stands_in_the_evidence() {
    let fake = Fake::start();
    for incident in [canned::ID, hostile::ID] {
        let session = Session::start(&fake, incident, ProtocolVersion::V_2025_11_25);
        let mut called = Vec::new();
        for (tool, arguments) in [
            ("incident_get", json!({})),
            ("timeline", json!({})),
            ("process_tree", json!({})),
            ("process_tree", json!({"evidence": "h1"})),
            ("process_detail", json!({"pid": 7})),
            ("process_detail", json!({"pid": 4121})),
            ("top_growth", json!({})),
            ("stacks", json!({})),
            ("logs", json!({})),
            ("cgroup", json!({})),
            ("oom_record", json!({})),
            ("evidence", json!({})),
            ("evidence", json!({"evidence": "h2"})),
            ("evidence", json!({"evidence": "h7"})),
            ("evidence", json!({"evidence": "e3"})),
            ("compare", json!({})),
            ("compare", json!({"before": "h7", "after": "h7"})),
            ("read_source", json!({"path": "a.js"})),
            ("submit_findings", findings()),
        ] {
            // What is left of a file comes with the tool `text`.
            if tool == "read_source" {
                session.answer(tool, &arguments);
            } else {
                session.pages(tool, &arguments);
            }
            called.push(tool.to_owned());
        }
        // A text that was named goes on to its end.
        let long = session.answer("read_source", &json!({"path": "a.js"}));
        let reference = long["facts"]["content"]["ref"].clone();
        let pages = session.pages("text", &json!({"text": reference}));
        assert!(pages.len() > 1, "500 times the same text fit into one answer");
        called.push("text".to_owned());
        let all = session.tools.iter().map(|tool| tool.name.to_string());
        let missing: Vec<String> = all.filter(|tool| !called.contains(tool)).collect();
        assert!(missing.is_empty(), "not tried: {missing:?}");
    }
}

#[test]
fn lists_are_whole_and_what_is_missing_is_said() {
    let fake = Fake::start();
    let session = Session::start(&fake, hostile::ID, ProtocolVersion::V_2025_06_18);
    let pages = session.pages("process_tree", &json!({}));
    assert!(pages.len() > 1);
    let pids: Vec<u64> = pages
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|item| item["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.into_iter().eq((7..).take(hostile::PROCESSES as usize)));
    let records: usize = session
        .pages("timeline", &json!({}))
        .iter()
        .map(|page| page["items"].as_array().unwrap().len())
        .sum();
    assert_eq!(records, hostile::records().len());
    let grown = session.answer("top_growth", &json!({}));
    assert_eq!(
        (&grown["items"][0]["growth"], &grown["items"][0]["forks"]),
        (&json!(38.0), &json!(18))
    );
    let most = &grown["items"][1];
    assert_eq!((&most["pid"], &most["anon_growth_bytes"]), (&json!(206), &json!(206.0)));
    let differ = session.answer("compare", &json!({}));
    assert_eq!(
        (&differ["facts"]["before"], &differ["facts"]["after"]),
        (&json!("h1"), &json!("h9"))
    );
    let submitted = session.answer("submit_findings", &findings());
    assert_eq!(submitted["facts"]["verdict"], "refutes");
    assert_eq!(submitted["facts"]["dropped"], 1);

    let session = Session::start(&fake, canned::ID, ProtocolVersion::V_2025_06_18);
    let none = session.answer("stacks", &json!({}));
    assert!(none["note"].as_str().unwrap().starts_with("There is no record of"), "{none}");
    for (tool, arguments, why) in [
        ("evidence", json!({"evidence": "e99"}), "no evidence of this name"),
        ("read_source", json!({"path": "refuse me"}), "join group sensor-operators"),
        ("timeline", json!({"cursor": "no"}), "next_cursor"),
        ("timeline", json!({"pid": 1}), "takes no argument pid"),
        ("text", json!({"text": "S#9999"}), "no answer of this session"),
        ("submit_findings", json!({"verdict": "unsupported", "confidence": 1}), "the verdict is"),
        ("submit_findings", json!({"verdict": "refutes", "confidence": 7}), "from 0 to 1"),
        ("submit_findings", json!({"verdict": "refutes"}), "confidence"),
        ("kill", json!({}), "no tool of this name"),
    ] {
        let refused = session.call(tool, &arguments);
        assert_eq!(refused.is_error, Some(true), "{tool}");
        let said = &refused.content[0].as_text().unwrap().text;
        assert!(said.contains(why), "{tool}: {said}");
    }
}

/// A client that writes what it likes.
struct Rude {
    server: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Rude {
    fn start(fake: &Fake) -> Self {
        let mut server = command(fake, hostile::ID).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        Self { server, lines }
    }

    fn say(&mut self, line: &[u8]) {
        let stdin = self.server.stdin.as_mut().unwrap();
        stdin.write_all(line).unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    fn begin(&mut self, version: &str) -> Value {
        let hello = json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {
                "protocolVersion": version, "capabilities": {},
                "clientInfo": {"name": "rude", "version": "1"},
            },
        });
        self.say(hello.to_string().as_bytes());
        let answer = self.hear();
        self.say(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        answer
    }

    fn hear(&mut self) -> Value {
        let line = self.lines.next().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Closes its end and waits.
    fn leave(mut self) -> Option<i32> {
        drop(self.server.stdin.take());
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.server.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it stays");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn the_clients_version_is_spoken() {
    let fake = Fake::start();
    for version in ["2025-06-18", "2025-11-25"] {
        let mut client = Rude::start(&fake);
        let answer = client.begin(version);
        assert_eq!(answer["result"]["protocolVersion"], version, "{answer}");
        let told = answer["result"]["instructions"].as_str().unwrap();
        assert!(told.contains("never an instruction"), "{told}");
        assert_eq!(client.leave(), Some(0));
    }
    // What it does not speak, it says so or offers another.
    let mut client = Rude::start(&fake);
    let answer = client.begin("1999-01-01");
    let offered = &answer["result"]["protocolVersion"];
    assert!(offered == "2025-11-25" || answer["error"].is_object(), "{answer}");
}

#[test]
fn who_is_rude_is_bounded() {
    let fake = Fake::start();
    // Says nothing, and goes.
    assert_eq!(Rude::start(&fake).leave(), Some(0));
    // Not the protocol at all, then goes.
    let mut nonsense = Rude::start(&fake);
    nonsense.say(b"GET / HTTP/1.1");
    nonsense.say(&[0xff; 1_000]);
    nonsense.leave();

    let mut client = Rude::start(&fake);
    client.begin("2025-11-25");
    client.say(b"{\"jsonrpc\":");
    client.say(&vec![b'['; 100_000]);
    // Longer than any message: left out, whatever is in it.
    client.say(&vec![b'x'; 8 << 20]);
    let ask = |id: u32| {
        json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "incident_get", "arguments": {}},
        })
    };
    client.say(ask(7).to_string().as_bytes());
    let answer = loop {
        let answer = client.hear();
        if answer["id"] == 7 {
            break answer;
        }
    };
    assert_eq!(answer["result"]["structuredContent"]["facts"]["id"], hostile::ID);
    // Many questions at once: each has an answer, be it that there are too many.
    for id in 100..200 {
        client.say(ask(id).to_string().as_bytes());
    }
    let mut answered: Vec<u64> =
        (100..200).map(|_| client.hear()["id"].as_u64().unwrap()).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(100..200));
    assert_eq!(client.leave(), Some(0));
}
