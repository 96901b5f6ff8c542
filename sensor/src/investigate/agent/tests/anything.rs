//! Whatever an event or a line is, it is read, and costs no more than itself.

use proptest::prelude::*;

use super::{
    launched::{Given, eye, launch},
    *,
};

/// JSON of the shapes that events have: the words of all programs in all places.
fn anything() -> impl Strategy<Value = Value> {
    let words = vec![
        "type",
        "subtype",
        "system",
        "init",
        "assistant",
        "result",
        "item.started",
        "item.completed",
        "turn.completed",
        "message",
        "content",
        "text",
        "usage",
        "item",
        "id",
        "part",
        "tokens",
        "cache",
        "stats",
        "error",
        "errors",
        "tool_use",
        "step_finish",
        "role",
        "mcp_tool_call",
        "agent_message",
        "modelUsage",
        "is_error",
        "input_tokens",
        "total_tokens",
        "inputTokens",
        "total_cost_usd",
        "cost",
        "session_id",
        "sessionID",
        "data",
        "reason",
        "init",
    ];
    let word = prop::sample::select(words);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        let object = prop::collection::vec((word.clone(), inner.clone()), 0..8);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|pairs| pairs.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_an_event_is_it_is_read(events in prop::collection::vec(anything(), 1..8)) {
        for name in NAMES {
            let mut agent = agent(name);
            for event in &events {
                agent.read(event);
            }
        }
    }

    #[test]
    fn codex_gets_each_word_of_a_command_line_as_it_is(words in prop::collection::vec(".{0,12}", 1..5)) {
        let launch = launch(Name::Codex, &Given { server: words.clone(), ..eye() });
        let mut server = toml::Table::new();
        for argument in &launch.argv {
            if let Some(setting) = argument.strip_prefix("mcp_servers.sensor.") {
                server.extend(setting.parse::<toml::Table>().unwrap());
            }
        }
        let told = |value: &toml::Value| value.as_str().unwrap().to_owned();
        let mut heard = vec![told(&server["command"])];
        heard.extend(server["args"].as_array().unwrap().iter().map(told));
        prop_assert_eq!(heard, words);
    }

    #[test]
    fn a_line_that_is_damaged_costs_itself_alone(
        which in 0..RECORDED.len(),
        line in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        junk in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let (name, _, stream) = RECORDED[which];
        let mut lines: Vec<Vec<u8>> = stream.lines().map(|line| line.as_bytes().to_vec()).collect();
        let at = line.index(lines.len());
        let intact = said(name, &lines.join(&b'\n'));
        let keep = cut.index(lines[at].len());
        let mut junk = junk;
        junk.retain(|byte| *byte != b'\n');
        // No whole object: its first byte is missing, or its end.
        lines[at] = if keep == 0 { lines[at][1..].to_vec() } else { lines[at][..keep].to_vec() };
        lines.insert(at, junk);
        let damaged = said(name, &lines.join(&b'\n'));
        let ends = |said: &[Said]| said.iter().filter(|it| matches!(it, Said::End(_))).count();
        prop_assert!(ends(&damaged) <= ends(&intact));
        let tools = |said: &[Said]| said.iter().filter(|it| matches!(it, Said::Tool(_))).count();
        prop_assert!(tools(&damaged) <= tools(&intact));
    }
}
