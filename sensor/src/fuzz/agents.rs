//! Events of agents' programs: the first byte chooses which program it is.

use serde_json::Value;

use crate::{
    config::Agent as Name,
    investigate::agent::{self, Said},
};

const NAMES: [Name; 5] = [Name::Claude, Name::Codex, Name::Gemini, Name::Opencode, Name::Api];

pub fn run(bytes: &[u8]) {
    let (first, rest) = super::choice(bytes);
    let name = NAMES[usize::from(first) % NAMES.len()];
    let read = || {
        let Some(mut agent) = agent::of(name) else { unreachable!("{name:?} is an agent") };
        let events: Vec<Value> = rest
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .filter(Value::is_object)
            .collect();
        events.iter().map(|event| agent.read(event)).collect::<Vec<_>>()
    };
    let said = read();
    assert_eq!(said, read(), "the same is read the same way");
    let mut prose = 0;
    for said in &said {
        let count = |which: fn(&Said) -> bool| said.iter().filter(|said| which(said)).count();
        assert!(count(|said| matches!(said, Said::Turn)) <= 1, "{said:?}");
        assert!(count(|said| matches!(said, Said::End(_))) <= 1, "{said:?}");
        for said in said {
            match said {
                Said::Session(name) => assert!(!name.is_empty()),
                Said::End(Err(why)) => assert!(!why.is_empty()),
                Said::Text(text) => prose += text.len(),
                _ => {}
            }
        }
    }
    assert!(prose <= rest.len(), "{prose} bytes of prose");
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        concat!(
            "\0{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s\",\"mcp_servers\":[{\"name\":\"sensor\",\"status\":\"failed\"}]}\n",
            "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"content\":[{\"type\":\"text\",\"text\":\"I look.\"},{\"type\":\"tool_use\",\"name\":\"mcp__sensor__logs\"}],\"usage\":{\"input_tokens\":1000,\"output_tokens\":1}}}\n",
            "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"result\":\"API Error\",\"total_cost_usd\":0.0075,\"modelUsage\":{\"m\":{\"inputTokens\":2000,\"outputTokens\":100}}}",
        ),
        concat!(
            "\x01{\"type\":\"thread.started\",\"thread_id\":\"t\"}\n",
            "{\"type\":\"item.started\",\"item\":{\"id\":\"1\",\"type\":\"mcp_tool_call\",\"server\":\"sensor\",\"tool\":\"logs\"}}\n",
            "{\"type\":\"item.completed\",\"item\":{\"id\":\"1\",\"type\":\"mcp_tool_call\",\"server\":\"sensor\",\"tool\":\"logs\"}}\n",
            "{\"type\":\"item.completed\",\"item\":{\"id\":\"2\",\"type\":\"agent_message\",\"text\":\"npm\"}}\n",
            "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":2000,\"cached_input_tokens\":200,\"output_tokens\":100}}\n",
            "{\"type\":\"turn.failed\",\"error\":{\"message\":\"busy\"}}",
        ),
        concat!(
            "\x02{\"type\":\"init\",\"session_id\":\"s\"}\n",
            "{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"np\",\"delta\":true}\n",
            "{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"m\",\"delta\":true}\n",
            "{\"type\":\"tool_use\",\"tool_name\":\"mcp_sensor_logs\"}\n{\"type\":\"tool_result\"}\n",
            "{\"type\":\"result\",\"status\":\"error\",\"error\":{\"message\":\"no\"},\"stats\":{\"total_tokens\":2100,\"input_tokens\":2000,\"cached\":10}}",
        ),
        concat!(
            "\x03{\"type\":\"step_start\",\"sessionID\":\"ses_1\"}\n",
            "{\"type\":\"tool_use\",\"part\":{\"tool\":\"sensor_logs\"}}\n",
            "{\"type\":\"text\",\"part\":{\"text\":\"npm\"}}\n",
            "{\"type\":\"step_finish\",\"part\":{\"reason\":\"stop\",\"cost\":0.00375,\"tokens\":{\"total\":1050,\"input\":1000,\"output\":50,\"cache\":{\"write\":0,\"read\":0}}}}\n",
            "{\"type\":\"error\",\"error\":{\"name\":\"APIError\",\"data\":{\"message\":\"no\"}}}",
        ),
        "\x04{\"type\":\"usage\",\"input\":1,\"output\":2}\n{\"type\":\"result\",\"error\":null}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
