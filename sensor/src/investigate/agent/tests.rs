//! Contracts: what is launched, word for word, and what recorded streams of the real programs say.

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Agent as Name;

const KEY: &str = "sk-0123456789";

const NAMES: [Name; 4] = [Name::Claude, Name::Codex, Name::Gemini, Name::Opencode];

/// A recorded stream, by its name and whose it is.
macro_rules! recorded {
    ($($name:ident $which:literal)*) => {
        &[$((Name::$name, $which, include_str!(concat!("streams/", $which, ".jsonl")))),*]
    };
}

const RECORDED: &[(Name, &str, &str)] = recorded! {
    Claude "claude-api-500"
    Claude "claude-bad-resume"
    Claude "claude-denied"
    Claude "claude-max-budget"
    Claude "claude-max-turns"
    Claude "claude-resume"
    Claude "claude-success"
    Claude "claude-tools"
    Codex "codex-after-kill"
    Codex "codex-resume"
    Codex "codex-success"
    Codex "codex-tools"
    Codex "codex-turn-failed"
    Gemini "gemini-api-401"
    Gemini "gemini-max-turns"
    Gemini "gemini-success"
    Gemini "gemini-tools"
    Opencode "opencode-api-401"
    Opencode "opencode-success"
    Opencode "opencode-tools"
};

fn agent(name: Name) -> Box<dyn Agent> {
    of(name).unwrap()
}

/// What a stream says, as supervision hears it.
fn said(name: Name, stream: &[u8]) -> Vec<Said> {
    let mut agent = agent(name);
    let events = stream
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok().filter(Value::is_object));
    events.flat_map(|event| agent.read(&event)).collect()
}

fn recorded(which: &str) -> Vec<Said> {
    let (name, _, stream) = RECORDED.iter().find(|(_, name, _)| *name == which).unwrap();
    said(*name, stream.as_bytes())
}

fn usage(input: u64, cached: u64, output: u64, micro_usd: impl Into<Option<u64>>) -> Usage {
    Usage { input, cached, output, micro_usd: micro_usd.into() }
}

fn session(name: &str) -> Said {
    Said::Session(name.to_owned())
}

fn tool(name: &str) -> Said {
    Said::Tool(name.to_owned())
}

fn prose(text: &str) -> Said {
    Said::Text(text.to_owned())
}

fn trouble(text: &str) -> Said {
    Said::Trouble(text.to_owned())
}

fn failed(why: &str) -> Said {
    Said::End(Err(why.to_owned()))
}

/// As Claude tells each of the recorded answers: 1,000 tokens read, and the first of those written.
fn answer() -> [Said; 2] {
    [Said::Turn, Said::Spent(usage(1000, 0, 1, None))]
}

fn all<const N: usize>(parts: [&[Said]; N]) -> Vec<Said> {
    parts.concat()
}

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
            Said::Spent(usage(1030, 200, 60, None)),
            failed("its model stopped for another reason: length"),
        ]
    );
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

struct Given {
    server: Vec<String>,
    endpoint: &'static str,
    model: &'static str,
    session: Session<'static>,
    access: Access,
}

fn launch(name: Name, given: &Given) -> Launch {
    agent(name).launch(&Task {
        prompt: "look into it",
        program: Path::new(""),
        model: given.model,
        endpoint: given.endpoint,
        key: Some(KEY),
        home: Path::new("/run/sensor/x"),
        server: &given.server,
        session: given.session,
        access: given.access,
        turns: 30,
        micro_usd: 1_500_000,
    })
}

fn server() -> Vec<String> {
    ["/usr/bin/sensor", "--socket", "/run/a b\"c", "mcp"].map(str::to_owned).to_vec()
}

const NEW: Session<'static> = Session::New("11111111-1111-4111-8111-111111111111");

fn eye() -> Given {
    Given { server: server(), endpoint: "", model: "", session: NEW, access: Access::Eye }
}

fn shell() -> Given {
    Given {
        server: server(),
        endpoint: "http://127.0.0.1:8080",
        model: "anthropic/claude-x",
        session: Session::Resume("ses_1"),
        access: Access::Shell,
    }
}

fn lines(argv: &[String]) -> String {
    argv.join("\n")
}

#[test]
fn claude_is_launched_bare_with_our_tools_alone() {
    let servers = r#"{"mcpServers":{"sensor":{"args":["--socket","/run/a b\"c","mcp"],"command":"/usr/bin/sensor","type":"stdio"}}}"#;
    let new = launch(Name::Claude, &eye());
    let expected = format!(
        "claude\n-p\n--bare\n--output-format\nstream-json\n--verbose\n--session-id\n\
         11111111-1111-4111-8111-111111111111\n--max-turns\n30\n--max-budget-usd\n1.5\n--tools\n\n\
         --allowedTools\nmcp__sensor__*\n--permission-mode\ndontAsk\n--mcp-config\n{servers}\n\
         --strict-mcp-config\n--disable-slash-commands"
    );
    assert_eq!(lines(&new.argv), expected);
    let env = [
        ("CLAUDE_CONFIG_DIR", "/run/sensor/x/.claude"),
        ("CLAUDE_CODE_MAX_RETRIES", "2"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
        ("ANTHROPIC_API_KEY", KEY),
    ];
    assert_eq!(new.env, variables(env));
    assert_eq!((new.files, new.stdin), (vec![], b"look into it".to_vec()));

    let resumed = launch(Name::Claude, &shell());
    let expected = format!(
        "claude\n-p\n--bare\n--output-format\nstream-json\n--verbose\n--resume\nses_1\n--model\n\
         anthropic/claude-x\n--max-turns\n30\n--max-budget-usd\n1.5\n--tools\nBash\n\
         --allowedTools\nmcp__sensor__*,Bash\n--permission-mode\ndontAsk\n--mcp-config\n{servers}\n\
         --strict-mcp-config\n--disable-slash-commands"
    );
    assert_eq!(lines(&resumed.argv), expected);
    let endpoint = ("ANTHROPIC_BASE_URL".to_owned(), "http://127.0.0.1:8080".to_owned());
    assert!(resumed.env.contains(&endpoint));
}

/// Settings of Codex on both lines.
const CODEX: &str = r#"approval_policy="never"
web_search="disabled"
features.apps=false
features.browser_use=false
features.computer_use=false
features.goals=false
features.hooks=false
features.image_generation=false
features.memories=false
features.multi_agent=false
features.multi_agent_v2=false
features.plugins=false
features.shell_snapshot=false
features.skill_search=false
features.sleep_tool=false
features.tool_suggest=false
features.unbounded_connection_retries=false
features.view_image=false
SHELLagents.enabled=false
analytics.enabled=false
check_for_update_on_startup=false
skills.bundled.enabled=false
skills.include_instructions=false
tools.experimental_request_user_input.enabled=false
tools.update_plan.enabled=false
history.persistence="none"
shell_environment_policy.ignore_default_excludes=false
shell_environment_policy.exclude=["*KEY*"]
features.code_mode.direct_only_tool_namespaces=["mcp__sensor"]
mcp_servers.sensor.command="/usr/bin/sensor"
mcp_servers.sensor.args=["--socket", '/run/a b"c', "mcp"]
mcp_servers.sensor.default_tools_approval_mode="approve"
mcp_servers.sensor.required=true
"#;

fn codex(settings: &str) -> String {
    settings.lines().flat_map(|line| ["-c\n", line, "\n"]).collect()
}

#[test]
fn codex_is_launched_with_all_its_configuration() {
    let new = launch(Name::Codex, &eye());
    let no_shell = "features.shell_tool=false\nfeatures.unified_exec=false\n";
    let settings = format!("sandbox_mode=\"read-only\"\n{CODEX}").replace("SHELL", no_shell);
    let expected = format!(
        "codex\nexec\n--json\n--skip-git-repo-check\n--ignore-user-config\n--ignore-rules\n{}-",
        codex(&settings)
    );
    assert_eq!(lines(&new.argv), expected);
    assert_eq!(new.env, variables([("CODEX_API_KEY", KEY)]));
    assert_eq!((new.files, new.stdin), (vec![], b"look into it".to_vec()));

    let resumed = launch(Name::Codex, &shell());
    let provider = r#"model_provider="sensor"
model_providers.sensor.name="sensor"
model_providers.sensor.base_url="http://127.0.0.1:8080"
model_providers.sensor.wire_api="responses"
model_providers.sensor.request_max_retries=2
model_providers.sensor.stream_max_retries=2
model_providers.sensor.env_key="CODEX_API_KEY"
"#;
    let settings =
        format!("sandbox_mode=\"danger-full-access\"\n{CODEX}{provider}").replace("SHELL", "");
    let expected = format!(
        "codex\nexec\nresume\n--json\n--skip-git-repo-check\n--ignore-user-config\n--ignore-rules\n\
         -m\nanthropic/claude-x\n{}ses_1\n-",
        codex(&settings)
    );
    assert_eq!(lines(&resumed.argv), expected);
}

#[test]
fn gemini_is_launched_with_settings_and_a_policy() {
    let new = launch(Name::Gemini, &eye());
    assert_eq!(
        lines(&new.argv),
        "gemini\n-o\nstream-json\n--session-id\n11111111-1111-4111-8111-111111111111\n--skip-trust"
    );
    assert_eq!(new.env, variables([("GEMINI_CLI_NO_RELAUNCH", "true"), ("GEMINI_API_KEY", KEY)]));
    let files: Vec<_> = new.files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(files, [".gemini/settings.json", ".gemini/policies/sensor.toml"]);
    let settings: Value = serde_json::from_slice(&new.files[0].1).unwrap();
    assert_eq!(settings["tools"], json!({"core": ["none"]}));
    assert_eq!(settings["model"], json!({"maxSessionTurns": 30}));
    let server = json!({"sensor": {"command": "/usr/bin/sensor",
        "args": ["--socket", "/run/a b\"c", "mcp"], "trust": true}});
    assert_eq!(settings["mcpServers"], server);
    let policy = "[[rule]]\ntoolName = \"*\"\ndecision = \"deny\"\npriority = 998\n\
                  [[rule]]\nmcpName = \"sensor\"\ntoolName = \"*\"\ndecision = \"allow\"\npriority = 999\n";
    assert_eq!(new.files[1].1, policy.as_bytes());
    assert_eq!(new.stdin, b"look into it");

    let resumed = launch(Name::Gemini, &shell());
    assert_eq!(
        lines(&resumed.argv),
        "gemini\n-o\nstream-json\n--resume\nses_1\n-m\nanthropic/claude-x\n--skip-trust"
    );
    let endpoint = ("GOOGLE_GEMINI_BASE_URL".to_owned(), "http://127.0.0.1:8080".to_owned());
    assert!(resumed.env.contains(&endpoint));
    let settings: Value = serde_json::from_slice(&resumed.files[0].1).unwrap();
    assert_eq!(settings["tools"], json!({"core": ["run_shell_command"]}));
    let shell =
        "[[rule]]\ntoolName = \"run_shell_command\"\ndecision = \"allow\"\npriority = 999\n";
    assert_eq!(resumed.files[1].1, format!("{policy}{shell}").as_bytes());
}

#[test]
fn opencode_is_launched_with_one_file_that_denies_all_but_ours() {
    let new = launch(Name::Opencode, &eye());
    assert_eq!(lines(&new.argv), "opencode\nrun\n--format\njson\n--title\nsensor");
    let env = [
        ("OPENCODE_CONFIG", "/run/sensor/x/opencode.json"),
        ("OPENCODE_DISABLE_AUTOCOMPACT", "1"),
        ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
        ("OPENCODE_DISABLE_CLAUDE_CODE", "1"),
        ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
        ("OPENCODE_DISABLE_EXTERNAL_SKILLS", "1"),
        ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
        ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
        ("OPENCODE_DISABLE_PROJECT_CONFIG", "1"),
        ("OPENCODE_DISABLE_SHARE", "1"),
        ("OPENCODE_PURE", "1"),
        ("npm_config_offline", "true"),
        ("SENSOR_MODEL_KEY", KEY),
    ];
    assert_eq!(new.env, variables(env));
    let [(path, config)] = &new.files[..] else { panic!("{:?}", new.files) };
    assert_eq!(path, Path::new("opencode.json"));
    let config: Value = serde_json::from_slice(config).unwrap();
    let expected = json!({
        "autoupdate": false,
        "share": "disabled",
        "snapshot": false,
        "enabled_providers": ["anthropic"],
        "provider": {"anthropic": {"options": {"apiKey": "{env:SENSOR_MODEL_KEY}"}, "models": {}}},
        "mcp": {"sensor": {"type": "local", "enabled": true,
            "command": ["/usr/bin/sensor", "--socket", "/run/a b\"c", "mcp"]}},
        "permission": {"*": "deny", "sensor_*": "allow"},
    });
    assert_eq!(config, expected);
    assert_eq!(new.stdin, b"look into it");

    let resumed = launch(Name::Opencode, &shell());
    assert_eq!(
        lines(&resumed.argv),
        "opencode\nrun\n--format\njson\n--title\nsensor\n--model\nanthropic/claude-x\n--session\nses_1"
    );
    let text = String::from_utf8(resumed.files[0].1.clone()).unwrap();
    // The last rule that fits counts.
    assert!(text.contains(r#""permission":{"*":"deny","bash":"allow","sensor_*":"allow"}"#));
    let config: Value = serde_json::from_str(&text).unwrap();
    let options = json!({"apiKey": "{env:SENSOR_MODEL_KEY}", "baseURL": "http://127.0.0.1:8080"});
    let provider = json!({"anthropic": {"options": options, "models": {"claude-x": {}}}});
    assert_eq!(config["provider"], provider);
}

#[test]
fn a_key_is_in_one_variable_and_nowhere_else() {
    let holds = |bytes: &[u8]| bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes());
    for name in NAMES {
        for given in [eye(), shell()] {
            let launch = launch(name, &given);
            assert!(!launch.argv.iter().any(|word| holds(word.as_bytes())), "{name:?}");
            assert!(!launch.files.iter().any(|(_, content)| holds(content)), "{name:?}");
            assert!(!holds(&launch.stdin), "{name:?}");
            let variables = launch.env.iter().filter(|(_, value)| value == KEY);
            assert_eq!(variables.count(), 1, "{name:?}");
        }
    }
}

#[test]
fn a_program_with_a_path_is_launched_by_it() {
    for name in NAMES {
        let agent = agent(name);
        let task = Task {
            prompt: "",
            program: Path::new("/opt/it"),
            model: "",
            endpoint: "",
            key: None,
            home: Path::new("/h"),
            server: &[],
            session: NEW,
            access: Access::Eye,
            turns: 1,
            micro_usd: 1,
        };
        let launch = agent.launch(&task);
        assert_eq!(launch.argv[0], "/opt/it");
        assert!(launch.env.iter().all(|(name, _)| !name.contains("KEY")), "{name:?}");
        let usual = agent.launch(&Task { program: Path::new(""), ..task });
        assert_eq!(usual.argv[0], agent.program());
    }
}

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
