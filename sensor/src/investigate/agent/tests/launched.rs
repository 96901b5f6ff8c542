//! How each program is started, word for word; its key is in one place.

use std::path::Path;

use serde_json::json;

use super::*;

pub struct Given {
    pub server: Vec<String>,
    pub endpoint: &'static str,
    pub model: &'static str,
    pub session: Session<'static>,
    pub access: Access,
}

pub fn launch(name: Name, given: &Given) -> Launch {
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

pub fn eye() -> Given {
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
    assert_eq!(
        lines(&new.argv),
        "opencode\nrun\n--print-logs\n--log-level\nINFO\n--format\njson\n--title\nsensor"
    );
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
        "opencode\nrun\n--print-logs\n--log-level\nINFO\n--format\njson\n--title\nsensor\n--model\nanthropic/claude-x\n--session\nses_1"
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
