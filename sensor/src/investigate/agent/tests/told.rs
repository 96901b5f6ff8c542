//! What the streams of the real programs say, as they were recorded.

use serde_json::json;

use super::*;

#[test]
fn claude_tells_answers_tools_and_its_sum() {
    let name = "22222222-2222-4222-8222-222222222222";
    assert_eq!(
        recorded("claude-success"),
        all([
            &[session(name)],
            &answer(),
            &[tool("Bash")],
            &answer(),
            &[
                prose("ROOT CAUSE: mock."),
                Said::Total(usage(2000, 0, 100, 7500)),
                Said::End(Ok(())),
            ],
        ])
    );
    // The sum of a conversation that was taken up is of this life.
    assert_eq!(
        recorded("claude-resume"),
        all([
            &[session(name)],
            &answer(),
            &[prose("ROOT CAUSE: mock."), Said::Total(usage(1000, 0, 50, 3750)), Said::End(Ok(()))],
        ])
    );
}

#[test]
fn our_tools_have_their_own_names_whoever_calls_them() {
    // As each of them counts: Claude has 30 of the tokens written into the cache.
    let spent = Said::Spent(usage(1030, 200, 1, None));
    let looks = |name: &str| vec![Said::Turn, spent.clone(), prose("I look."), tool(name)];
    assert_eq!(
        recorded("claude-tools"),
        all([
            &[session("11111111-1111-4111-8111-111111111111")],
            &looks("incident_get"),
            &looks("submit_findings"),
            &[Said::Turn, spent.clone(), prose("ROOT CAUSE: mock.")],
            &[Said::Total(usage(3090, 600, 150, 19613)), Said::End(Ok(()))],
        ])
    );
    let calls = || {
        let (get, submit) = (tool("incident_get"), tool("submit_findings"));
        vec![Said::Turn, get, Said::Turn, submit, Said::Turn, prose("ROOT CAUSE: mock.")]
    };
    assert_eq!(
        recorded("codex-tools"),
        all([
            &[session("01a22103-04a0-7411-a614-25620d80e961")],
            &calls(),
            &[Said::Total(usage(2700, 300, 150, None)), Said::End(Ok(()))],
        ])
    );
    assert_eq!(
        recorded("gemini-tools"),
        all([
            &[session("11111111-1111-4111-8111-111111111111")],
            &calls(),
            // 7 of each answer are thoughts.
            &[Said::Total(usage(2400, 600, 171, None)), Said::End(Ok(()))],
        ])
    );
    // 0.0039225 dollars, as far as a double has it.
    let step = Said::Spent(usage(1030, 200, 50, 3922));
    let looks = |name: &str| vec![Said::Turn, prose("I look."), tool(name), step.clone()];
    assert_eq!(
        recorded("opencode-tools"),
        all([
            &[session("ses_ddefccf97ffeXlkY57xTdJlY8u")],
            &looks("incident_get"),
            &looks("submit_findings"),
            &[Said::Turn, prose("ROOT CAUSE: mock."), step.clone(), Said::End(Ok(()))],
        ])
    );
}

#[test]
fn codex_counts_what_a_killed_life_has_spent() {
    // Killed after one answer; three more in this life.
    let said = recorded("codex-after-kill");
    assert!(said.contains(&Said::Total(usage(3600, 400, 200, None))), "{said:?}");
}

#[test]
fn claude_tells_what_it_was_denied_as_any_call() {
    assert_eq!(
        recorded("claude-denied"),
        all([
            &[session("e0f6af83-718b-4d6b-b8d5-d67735db022c")],
            &answer(),
            &[tool("Bash")],
            &answer(),
            &[
                prose("ROOT CAUSE: mock."),
                Said::Total(usage(2000, 0, 100, 7500)),
                Said::End(Ok(())),
            ],
        ])
    );
}

#[test]
fn claude_says_success_where_its_model_failed() {
    let broken = "API Error: 500 mock 500. This is a server-side issue, usually temporary — try \
                  again in a moment. If it persists, check your inference gateway (127.0.0.1:8085).";
    assert_eq!(
        recorded("claude-api-500"),
        [
            session("60158cb7-7171-4e14-a584-573a33d7e4c0"),
            trouble("its model answers 500 server_error: again, 1 of 2"),
            trouble("its model answers 500 server_error: again, 2 of 2"),
            trouble(broken),
            failed(broken),
        ]
    );
}

#[test]
fn claude_tells_which_bound_it_has_met() {
    let call = || [tool("Bash")];
    assert_eq!(
        recorded("claude-max-turns"),
        all([
            &[session("f6a87b64-ba28-4a99-a6ab-521b2379a4d4")],
            &answer(),
            &call(),
            &answer(),
            &call(),
            &[
                Said::Total(usage(2000, 0, 100, 7500)),
                failed("Reached maximum number of turns (2)"),
            ],
        ])
    );
    // Three answers; `usage` has only two of them.
    assert_eq!(
        recorded("claude-max-budget"),
        all([
            &[session("9bcee055-1ac5-48ae-8cc1-60754ff7d638")],
            &answer(),
            &call(),
            &answer(),
            &call(),
            &answer(),
            &call(),
            &[Said::Total(usage(3000, 0, 150, 11250)), failed("Reached maximum budget ($0.01)")],
        ])
    );
}

#[test]
fn claude_does_not_know_a_conversation() {
    let why = "No conversation found with session ID: 00000000-0000-4000-8000-000000000000";
    assert_eq!(recorded("claude-bad-resume"), [failed(why)]);
}

#[test]
fn claude_counts_an_answer_once_however_many_parts_it_has() {
    let mut claude = agent(Name::Claude);
    let part = |id: &str, content: Value| {
        let usage = json!({"input_tokens": 1000, "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 200, "output_tokens": 1});
        json!({"type": "assistant", "message": {"id": id, "content": [content], "usage": usage}})
    };
    let looks = json!({"type": "text", "text": "I look."});
    let calls = json!({"type": "tool_use", "name": "mcp__sensor__incident_get", "input": {}});
    let spent = Said::Spent(usage(1030, 200, 1, None));
    assert_eq!(claude.read(&part("a", looks)), [Said::Turn, spent.clone(), prose("I look.")]);
    assert_eq!(claude.read(&part("a", calls.clone())), [tool("incident_get")]);
    assert_eq!(claude.read(&part("b", calls)), [Said::Turn, spent, tool("incident_get")]);
}

#[test]
fn claude_without_its_eye_says_so() {
    let event = json!({"type": "system", "subtype": "init", "session_id": "s",
        "mcp_servers": [{"name": "sensor", "status": "failed"}]});
    let blind = trouble("it sees no evidence: its server is failed");
    assert_eq!(agent(Name::Claude).read(&event), [session("s"), blind]);
}

#[test]
fn codex_tells_calls_and_its_sum_at_the_end() {
    let name = "01a1fc03-1f72-79b0-af65-f44b10ddb720";
    let unknown = trouble(
        "Model metadata for `gpt-5.1-codex` not found. Defaulting to fallback metadata; this can \
         degrade performance and cause issues.",
    );
    assert_eq!(
        recorded("codex-success"),
        [
            session(name),
            unknown.clone(),
            Said::Turn,
            tool("command_execution"),
            Said::Turn,
            prose("ROOT CAUSE: mock."),
            // 2,000 read, 200 of them from the cache.
            Said::Total(usage(1800, 200, 100, None)),
            Said::End(Ok(())),
        ]
    );
    // Its sum goes on from the earlier life's.
    assert_eq!(
        recorded("codex-resume"),
        [
            session(name),
            unknown.clone(),
            Said::Turn,
            prose("ROOT CAUSE: mock."),
            Said::Total(usage(2700, 300, 150, None)),
            Said::End(Ok(())),
        ]
    );
    let busy =
        "We’re currently experiencing high demand, which may cause temporary errors.".to_owned();
    assert_eq!(
        recorded("codex-turn-failed"),
        [
            session("01a1fc03-4a93-7e73-ad1f-aa7032d8ff66"),
            unknown,
            trouble(&format!("Reconnecting... 1/1 ({busy})")),
            trouble(&busy),
            failed(&busy),
        ]
    );
}

#[test]
fn codex_counts_calls_that_are_made_at_once_as_one_answer() {
    let mut codex = agent(Name::Codex);
    let mut call = |event: &str, id: &str| {
        let item = json!({"id": id, "type": "mcp_tool_call", "server": "sensor", "tool": "logs"});
        codex.read(&json!({"type": event, "item": item}))
    };
    assert_eq!(call("item.started", "1"), [Said::Turn, tool("logs")]);
    assert_eq!(call("item.started", "2"), [tool("logs")]);
    assert_eq!(call("item.completed", "2"), []);
    assert_eq!(call("item.completed", "1"), []);
    assert_eq!(call("item.completed", "3"), [Said::Turn, tool("logs")], "told only at its end");
}

#[test]
fn gemini_tells_calls_and_its_sum() {
    assert_eq!(
        recorded("gemini-success"),
        [
            session("67c1efc3-4ab4-41d0-b034-117a1ccffa51"),
            Said::Turn,
            tool("run_shell_command"),
            Said::Turn,
            prose("ROOT CAUSE: mock."),
            Said::Total(usage(2000, 0, 100, None)),
            Said::End(Ok(())),
        ]
    );
    let why = "[API Error: {\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\
               \"message\":\"invalid x-api-key\"}}]";
    assert_eq!(
        recorded("gemini-api-401"),
        [
            session("3ffcd29c-fe9a-4b0c-bda1-ffff2a792322"),
            Said::Total(Usage::default()),
            failed(why),
        ]
    );
}

#[test]
fn gemini_tells_that_its_turns_are_used_up() {
    let said = recorded("gemini-max-turns");
    let why = "Reached max session turns for this session. Increase the number of turns by \
               specifying maxSessionTurns in settings.json.";
    let ends = [Said::Total(usage(1600, 400, 114, None)), failed(why)];
    assert_eq!(said[said.len() - 2..], ends);
}

#[test]
fn gemini_makes_one_text_of_the_pieces_of_an_answer() {
    let mut gemini = agent(Name::Gemini);
    let piece = |text: &str| json!({"type": "message", "role": "assistant", "content": text, "delta": true});
    assert_eq!(gemini.read(&piece("ROOT ")), [Said::Turn]);
    assert_eq!(gemini.read(&piece("CAUSE")), []);
    let call = json!({"type": "tool_use", "tool_name": "mcp_sensor_submit_findings"});
    assert_eq!(gemini.read(&call), [prose("ROOT CAUSE"), tool("submit_findings")]);
    // Thoughts are in the total alone: 57 of 1,057.
    let stats = json!({"total_tokens": 1057, "input_tokens": 1000, "output_tokens": 50,
        "cached": 200});
    assert_eq!(
        gemini.read(&json!({"type": "result", "status": "success", "stats": stats})),
        [Said::Total(usage(800, 200, 57, None)), Said::End(Ok(()))]
    );
}

#[test]
fn gemini_cuts_a_long_answer_at_its_end_and_not_within() {
    let mut gemini = agent(Name::Gemini);
    let piece = |text: &str| json!({"type": "message", "role": "assistant", "content": text});
    let long = "x".repeat((64 << 10) - 2);
    for text in [&long, "four", "1"] {
        gemini.read(&piece(text));
    }
    let said = gemini.read(&json!({"type": "tool_result"}));
    assert_eq!(said, [prose(&format!("{long}fo"))]);
}

#[test]
fn opencode_tells_steps_and_ends_with_one_that_asks_for_nothing() {
    let step = || Said::Spent(usage(1000, 0, 50, 3750));
    assert_eq!(
        recorded("opencode-success"),
        [
            session("ses_e03fc9467ffe23RDjTIJ94dhs3"),
            Said::Turn,
            tool("bash"),
            step(),
            Said::Turn,
            prose("ROOT CAUSE: mock."),
            step(),
            Said::End(Ok(())),
        ]
    );
    assert_eq!(
        recorded("opencode-api-401"),
        [session("ses_ddef4a8e6ffeYUNhPThiKLg6qq"), failed("invalid x-api-key")]
    );
    let mut opencode = agent(Name::Opencode);
    let finish = json!({"type": "step_finish", "part": {"reason": "length", "cost": 0,
        "tokens": {"total": 1290, "input": 1000, "output": 50, "reasoning": 10,
            "cache": {"write": 30, "read": 200}}}});
    assert_eq!(
        opencode.read(&finish),
        [
            Said::Turn,
            Said::Spent(usage(1030, 200, 60, None)),
            failed("its model stopped for another reason: length"),
        ]
    );
}

#[test]
fn a_step_that_has_an_end_alone_is_a_turn_of_opencode() {
    let mut agent = agent(Name::Opencode);
    let end = json!({"type": "step_finish", "part": {"reason": "unknown"}});
    let begin = json!({"type": "step_start", "part": {}});
    let mut turns =
        |event: &Value| agent.read(event).iter().filter(|said| matches!(said, Said::Turn)).count();
    assert_eq!([&begin, &end, &end, &end, &begin, &end].map(&mut turns), [1, 0, 1, 1, 1, 0]);
}

/// And says the same up to there.
#[test]
fn a_stream_that_is_cut_off_has_no_end() {
    for (name, which, stream) in RECORDED {
        let whole = said(*name, stream.as_bytes());
        assert!(matches!(whole.last(), Some(Said::End(_))), "{which}");
        let ends = whole.iter().filter(|said| matches!(said, Said::End(_)));
        assert_eq!(ends.count(), 1, "{which}");
        let (before, _) = stream.trim_end().rsplit_once('\n').unwrap_or_default();
        let cut = said(*name, before.as_bytes());
        assert!(!cut.iter().any(|said| matches!(said, Said::End(_))), "{which}");
        assert_eq!(cut[..], whole[..cut.len()], "{which}");
    }
}
