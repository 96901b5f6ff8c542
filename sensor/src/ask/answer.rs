//! A model's answer as server-sent events of the Messages protocol, line by line. Pure.

use serde_json::{Value, json};

use crate::mcp;

/// What has come of an answer so far.
#[derive(Debug, Default)]
pub struct Answer {
    /// The call's arguments, as they come.
    findings: String,
    called: bool,
    input: u64,
    cached: u64,
    /// It was cut off by the bound of its tokens.
    cut: bool,
    stopped: bool,
}

impl Answer {
    /// Takes a line; what is to be told of it. Lines and events that nobody knows are passed over; an error that
    /// the endpoint tells in the middle is one.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Value>, String> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(None) };
        let Ok(event) = serde_json::from_slice::<Value>(data.trim_ascii()) else {
            return Ok(None);
        };
        let number = |path: &str| event.pointer(path).and_then(Value::as_u64);
        let text = |path: &str| event.pointer(path).and_then(Value::as_str);
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                let usage = |name: &str| number(&format!("/message/usage/{name}")).unwrap_or(0);
                self.input = usage("input_tokens") + usage("cache_creation_input_tokens");
                self.cached = usage("cache_read_input_tokens");
                return Ok(Some(json!({"type": "answering"})));
            }
            "content_block_start" => {
                self.called |= text("/content_block/name") == Some(mcp::SUBMIT);
            }
            "content_block_delta" => match text("/delta/type") {
                Some("input_json_delta") => {
                    self.findings.push_str(text("/delta/partial_json").unwrap_or_default());
                }
                Some("text_delta") => {
                    let text = text("/delta/text").unwrap_or_default();
                    return Ok(Some(json!({"type": "text", "text": text})));
                }
                _ => {}
            },
            "message_delta" => {
                self.cut |= text("/delta/stop_reason") == Some("max_tokens");
                let output = number("/usage/output_tokens").unwrap_or(0);
                let (input, cached) = (self.input, self.cached);
                return Ok(Some(json!({
                    "type": "usage", "input": input, "cached": cached, "output": output,
                })));
            }
            "message_stop" => self.stopped = true,
            "error" => {
                let why = text("/error/message").unwrap_or("without a reason");
                return Err(format!("the model's API ended its answer: {why}"));
            }
            _ => {}
        }
        Ok(None)
    }

    /// What it handed in, once all lines are there.
    pub fn findings(self) -> Result<Value, String> {
        if self.cut {
            return Err("the answer was cut off: it had too many tokens".to_owned());
        }
        if !self.stopped {
            return Err("the answer broke off before its end".to_owned());
        }
        if !self.called {
            return Err("the model handed in nothing".to_owned());
        }
        serde_json::from_str(&self.findings)
            .map_err(|error| format!("what the model handed in is no JSON: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: &str = r#"data: {"type":"message_start","message":{"usage":{"input_tokens":1000,"cache_creation_input_tokens":20,"cache_read_input_tokens":300}}}"#;
    const CALL: &str = r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","name":"submit_findings","input":{}}}"#;
    const STOP: &str = r#"data: {"type":"message_stop"}"#;

    fn delta(text: &str) -> String {
        let delta = json!({"type": "input_json_delta", "partial_json": text});
        format!("data: {}", json!({"type": "content_block_delta", "index": 0, "delta": delta}))
    }

    fn take(lines: &[&str]) -> (Vec<Value>, Result<Value, String>) {
        let (mut answer, mut told) = (Answer::default(), Vec::new());
        for line in lines {
            match answer.line(line.as_bytes()) {
                Ok(event) => told.extend(event),
                Err(why) => return (told, Err(why)),
            }
        }
        (told, answer.findings())
    }

    #[test]
    fn a_call_comes_in_pieces() {
        let (first, second) = (delta(r#"{"verdict":"con"#), delta(r#"firms","confidence":0.5}"#));
        let usage = r#"data: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":50}}"#;
        let lines =
            ["event: message_start", START, ": ping", "", CALL, &first, &second, usage, STOP];
        let (told, findings) = take(&lines);
        assert_eq!(told[0], json!({"type": "answering"}));
        assert_eq!(told[1], json!({"type": "usage", "input": 1020, "cached": 300, "output": 50}));
        assert_eq!(findings.unwrap(), json!({"verdict": "confirms", "confidence": 0.5}));
    }

    #[test]
    fn what_is_missing_is_said() {
        let why = |lines: &[&str]| take(lines).1.unwrap_err();
        assert!(why(&[START, CALL, &delta("{")]).contains("broke off"));
        assert!(why(&[START, STOP]).contains("handed in nothing"));
        assert!(why(&[START, CALL, &delta("{"), STOP]).contains("no JSON"));
        let cut = r#"data: {"type":"message_delta","delta":{"stop_reason":"max_tokens"}}"#;
        assert!(why(&[START, CALL, &delta("{}"), cut, STOP]).contains("cut off"));
        let error =
            r#"data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        assert!(why(&[START, error]).ends_with("ended its answer: Overloaded"));
        assert!(why(&[]).contains("broke off"));
    }

    proptest! {
        #[test]
        fn takes_any_bytes(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20)) {
            let mut answer = Answer::default();
            for line in lines {
                let _ = answer.line(&line);
                let _ = answer.line(&[b"data:".as_slice(), &line].concat());
            }
            let _ = answer.findings();
        }
    }
}
