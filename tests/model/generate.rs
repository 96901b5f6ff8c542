//! Gemini's `generateContent` and `streamGenerateContent`.

use serde_json::{Value, json};

use super::{Answer, Body, Conversation, Tool, USAGE, each, string};

pub fn read(path: &str, body: &Value) -> Conversation {
    let declared = each(&body["tools"]).flat_map(|tools| each(&tools["functionDeclarations"]));
    let parts = each(&body["contents"]).flat_map(|content| each(&content["parts"]));
    // …/models/NAME:streamGenerateContent?alt=sse
    let (before, verb) = path.rsplit_once(':').unwrap_or_default();
    Conversation {
        model: before.rsplit('/').next().unwrap_or_default().to_owned(),
        tools: declared.map(|tool| Tool { group: None, name: string(&tool["name"]) }).collect(),
        results: parts
            .filter_map(|part| part.get("functionResponse"))
            .map(|result| result["response"].to_string())
            .collect(),
        streamed: verb.starts_with("stream"),
    }
}

pub fn say(to: &Conversation, answer: &Answer<'_>) -> Body {
    let part = match answer {
        Answer::Text(text) => json!({"text": text}),
        Answer::Call { id, tool, arguments } => {
            json!({"functionCall": {"id": id, "name": tool.full(), "args": arguments}})
        }
    };
    let whole = json!({
        "candidates": [{
            "content": {"role": "model", "parts": [part]},
            "finishReason": "STOP",
            "index": 0,
        }],
        "usageMetadata": {
            "promptTokenCount": USAGE.input + USAGE.cached,
            "cachedContentTokenCount": USAGE.cached,
            "candidatesTokenCount": USAGE.output,
            "totalTokenCount": USAGE.input + USAGE.cached + USAGE.output,
        },
        "modelVersion": to.model,
    });
    if to.streamed { Body::stream(&[whole], false) } else { Body::json(&whole) }
}
