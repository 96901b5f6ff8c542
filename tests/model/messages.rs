//! Anthropic's Messages.

use serde_json::{Value, json};

use super::{Answer, Body, Conversation, Tool, USAGE, each, result, string};

pub fn read(body: &Value) -> Conversation {
    let pieces = each(&body["messages"]).flat_map(|message| each(&message["content"]));
    Conversation {
        model: string(&body["model"]),
        tools: each(&body["tools"])
            .map(|tool| Tool { group: None, name: string(&tool["name"]) })
            .collect(),
        results: pieces
            .filter(|piece| piece["type"] == "tool_result")
            .map(|piece| result(&piece["content"]))
            .collect(),
        streamed: body["stream"] == true,
    }
}

pub fn say(to: &Conversation, answer: &Answer<'_>) -> Body {
    let (block, empty, delta, reason) = match answer {
        Answer::Text(text) => (
            json!({"type": "text", "text": text}),
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": text}),
            "end_turn",
        ),
        Answer::Call { id, tool, arguments } => {
            let call = |input: &Value| json!({"type": "tool_use", "id": id, "name": tool.full(), "input": input});
            (
                call(arguments),
                call(&json!({})),
                json!({"type": "input_json_delta", "partial_json": arguments.to_string()}),
                "tool_use",
            )
        }
    };
    let message = |content: &[Value], reason: Option<&str>, output: u64| {
        json!({
            "id": format!("msg_{}", crate::names::word()),
            "type": "message",
            "role": "assistant",
            "model": to.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": null,
            "usage": {
                "input_tokens": USAGE.input,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": USAGE.cached,
                "output_tokens": output,
            },
        })
    };
    if !to.streamed {
        return Body::json(&message(&[block], Some(reason), USAGE.output));
    }
    let events = [
        json!({"type": "message_start", "message": message(&[], None, 1)}),
        json!({"type": "content_block_start", "index": 0, "content_block": empty}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": null},
            "usage": {"output_tokens": USAGE.output},
        }),
        json!({"type": "message_stop"}),
    ];
    Body::stream(&events, true)
}
