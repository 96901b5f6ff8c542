//! Investigations as nori-premortem sends them (docs/webhooks.md says whence that is known): messages of a
//! coding agent, one a request, grouped by `session_id`.
//!
//! The investigation is the session. It begins with a message of the system that says what happened, each
//! line of its transcript is one of the assistant, and a result ends it. Beyond the tool's own fields each
//! has the record's identity.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::message::{Message, identity};
use crate::{
    present::measure,
    proto::{self, InvestigationState, record::Body},
};

/// Kinds of records that become messages.
pub const KINDS: [&str; 2] = ["investigation", "transcript"];

/// The message that a record is, if it is one. `incident` finds what the record is about.
pub fn message(
    record: &proto::Record,
    incident: impl FnOnce() -> Option<proto::Incident>,
) -> Option<Message> {
    let (session, said) = match record.body.as_ref()? {
        Body::Investigation(it) => (&it.id, investigation(it, incident)),
        Body::Transcript(line) => (&line.investigation, transcript(line)),
        _ => return None,
    };
    let Value::Object(mut said) = said else { return None };
    said.insert("session_id".into(), session.as_str().into());
    said.entry("uuid").or_insert_with(|| uuid(record).to_string().into());
    said.insert("sensor".into(), origin(record));
    let body = serde_json::to_vec(&said).unwrap_or_default();
    Some(Message { id: identity(record), headers: Vec::new(), body })
}

fn investigation(
    it: &proto::Investigation,
    incident: impl FnOnce() -> Option<proto::Incident>,
) -> Value {
    if it.state() == InvestigationState::Running {
        return of_the_system(incident().as_ref().map_or_else(String::new, facts));
    }
    let failed = it.state() != InvestigationState::Done;
    let cost = it.cost.unwrap_or_default();
    json!({
        "type": "result",
        "subtype": if failed { "error_during_execution" } else { "success" },
        "is_error": failed,
        "result": if it.error.is_empty() { &it.findings } else { &it.error },
        "duration_ms": cost.wall_ns / 1_000_000,
        "total_cost_usd": cost.usd,
    })
}

/// What the agent was called for.
fn facts(incident: &proto::Incident) -> String {
    let mut text = format!("Incident {}: {}\n", incident.id, incident.summary);
    for measure in incident.finding.iter().flat_map(|finding| &finding.measures) {
        let limit = measure.threshold.map_or_else(String::new, |it| {
            format!(" (threshold: {})", measure::threshold(it, &measure.unit))
        });
        let (name, value) =
            (measure::name(&measure.name), measure::value(measure.value, &measure.unit));
        // Writing to a String cannot fail.
        let _ = write!(text, "\n- {name}: {value}{limit}");
    }
    text
}

fn transcript(line: &proto::Transcript) -> Value {
    let text = String::from_utf8_lossy(&line.text);
    match line.stream.as_str() {
        // What the agent says in this form already stays as it is.
        "stdout" => raw(&text).map_or_else(|| of_the_assistant(&text), Value::Object),
        "playbook" => of_the_assistant(&text),
        _ => of_the_system(text.into_owned()),
    }
}

/// A message of an agent that prints such.
fn raw(text: &str) -> Option<Map<String, Value>> {
    let message: Map<String, Value> = serde_json::from_str(text).ok()?;
    message.get("type")?.is_string().then_some(message)
}

fn of_the_system(content: String) -> Value {
    json!({ "type": "system", "message": { "role": "system", "content": content } })
}

fn of_the_assistant(text: &str) -> Value {
    json!({
        "type": "assistant",
        "parent_tool_use_id": null,
        "message": {
            "type": "message",
            "role": "assistant",
            "content": [{ "type": "text", "text": text }],
        },
    })
}

fn origin(record: &proto::Record) -> Value {
    json!({
        "log_id": record.log_id,
        "seq": record.seq.to_string(),
        "at": record.at.unwrap_or_default().to_string(),
        "host": record.host,
        "incident": record.incident,
    })
}

/// One for each record: the log's, with the number in its lower half.
fn uuid(record: &proto::Record) -> Uuid {
    let log_id = record.log_id.parse::<Uuid>().unwrap_or_default();
    Uuid::from_u128(log_id.as_u128() ^ u128::from(record.seq))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(seq: u64, body: Body) -> proto::Record {
        proto::Record {
            log_id: "0d9ad1a4-6a0b-4a5e-9d0e-6a1b0e9f5c11".into(),
            seq,
            host: "h".into(),
            incident: "4k2m".into(),
            body: Some(body),
            ..Default::default()
        }
    }

    fn line(stream: &str, text: &[u8]) -> Value {
        let transcript = proto::Transcript {
            investigation: "4k2m-1".into(),
            line: 1,
            stream: stream.into(),
            text: text.into(),
            witnessed: None,
        };
        said(Body::Transcript(transcript), None)
    }

    fn said(body: Body, incident: Option<&proto::Incident>) -> Value {
        let message = message(&record(7, body), || incident.cloned()).unwrap();
        assert!(message.id.ends_with("/7"));
        let said: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(said["session_id"], "4k2m-1");
        assert_eq!(said["sensor"]["seq"], "7");
        said
    }

    #[test]
    fn lines_are_messages_of_who_said_them() {
        let it = line("playbook", b"1/3 looked at \xff");
        assert_eq!(it["type"], "assistant");
        assert_eq!(it["message"]["content"][0]["text"], "1/3 looked at \u{fffd}");
        assert_eq!(it["uuid"], "0d9ad1a4-6a0b-4a5e-9d0e-6a1b0e9f5c16");
        let it = line("stderr", b"trouble");
        assert_eq!((&it["type"], &it["message"]["content"]), (&json!("system"), &json!("trouble")));
        assert_eq!(line("stdout", b"[1]")["message"]["content"][0]["text"], "[1]");
    }

    #[test]
    fn an_agent_s_own_messages_stay_but_for_their_session() {
        let own = br#"{"type":"user","session_id":"x","uuid":"u","message":{"role":"user"}}"#;
        let it = line("stdout", own);
        assert_eq!((&it["type"], &it["uuid"]), (&json!("user"), &json!("u")));
        assert_eq!(it["message"], json!({ "role": "user" }));
        assert_eq!(line("stderr", own)["type"], "system", "it is not what the agent says");
    }

    #[test]
    fn a_run_begins_with_the_facts_and_ends_with_a_result() {
        let mut run = proto::Investigation { id: "4k2m-1".into(), ..Default::default() };
        run.set_state(InvestigationState::Running);
        let finding = proto::Finding {
            measures: vec![proto::Measure {
                name: "repetitions".into(),
                value: 5.0,
                threshold: Some(3.0),
                unit: "processes".into(),
            }],
            ..Default::default()
        };
        let incident = proto::Incident {
            id: "4k2m".into(),
            summary: "npm test runs itself".into(),
            finding: Some(finding),
            ..Default::default()
        };
        let it = said(Body::Investigation(run.clone()), Some(&incident));
        assert_eq!(it["type"], "system");
        assert_eq!(
            it["message"]["content"],
            "Incident 4k2m: npm test runs itself\n\n- repetitions: 5 processes (threshold: 3)"
        );
        run.set_state(InvestigationState::Done);
        run.findings = "a cycle".into();
        let it = said(Body::Investigation(run.clone()), Some(&incident));
        assert_eq!((&it["subtype"], &it["result"]), (&json!("success"), &json!("a cycle")));
        run.set_state(InvestigationState::TimedOut);
        run.error = "no end".into();
        let it = said(Body::Investigation(run), None);
        assert_eq!((&it["is_error"], &it["result"]), (&json!(true), &json!("no end")));
    }

    #[test]
    fn other_records_are_no_messages() {
        let lost = proto::Lost { reason: "map_full".into(), count: 1 };
        assert_eq!(message(&record(1, Body::Lost(lost)), || None), None);
    }

    proptest! {
        #[test]
        fn any_line_is_a_message(
            stream in "(stdout|stderr|sensor|playbook)",
            text in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            line(&stream, &text);
        }
    }
}
