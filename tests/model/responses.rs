//! `OpenAI`'s Responses.

use serde_json::{Value, json};

use super::{Answer, Body, Conversation, Tool, USAGE, each, result, string};

pub fn read(body: &Value) -> Conversation {
    let one = |group: Option<&Value>, tool: &Value| Tool {
        group: group.map(string),
        name: string(&tool["name"]),
    };
    let tools = each(&body["tools"]).flat_map(|tool| match &tool["tools"] {
        Value::Array(within) => within.iter().map(|it| one(Some(&tool["name"]), it)).collect(),
        _ => vec![one(None, tool)],
    });
    Conversation {
        model: string(&body["model"]),
        // Some have a type alone.
        tools: tools.filter(|tool| !tool.name.is_empty()).collect(),
        results: each(&body["input"])
            .filter(|item| item["type"] == "function_call_output")
            .map(|item| result(&item["output"]))
            .collect(),
        streamed: body["stream"] == true,
    }
}

pub fn say(to: &Conversation, answer: &Answer<'_>) -> Body {
    let item = match answer {
        Answer::Text(text) => json!({
            "type": "message",
            "id": format!("msg_{}", crate::names::word()),
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        Answer::Call { id, tool, arguments } => {
            let mut call = json!({
                "type": "function_call",
                "id": format!("fc_{id}"),
                "call_id": id,
                "name": tool.name,
                "arguments": arguments.to_string(),
                "status": "completed",
            });
            if let Some(group) = &tool.group {
                call["namespace"] = group.as_str().into();
            }
            call
        }
    };
    let id = format!("resp_{}", crate::names::word());
    let whole = json!({
        "id": id,
        "object": "response",
        "status": "completed",
        "model": to.model,
        "output": [item],
        "usage": {
            "input_tokens": USAGE.input + USAGE.cached,
            "input_tokens_details": {"cached_tokens": USAGE.cached},
            "output_tokens": USAGE.output,
            "output_tokens_details": {"reasoning_tokens": 10},
            "total_tokens": USAGE.input + USAGE.cached + USAGE.output,
        },
    });
    if !to.streamed {
        return Body::json(&whole);
    }
    let events = [
        json!({"type": "response.created", "response": {"id": id, "model": to.model}}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": whole}),
    ];
    Body::stream(&events, true)
}
