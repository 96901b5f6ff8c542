use proptest::prelude::*;
use sensor_common::{recursion::Limits, respawn, storm};

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text.as_bytes(), Path::new("/c.toml"))
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// Dotted names of all values.
fn keys(table: &toml::Table, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => keys(inner, &format!("{prefix}{key}."), found),
            _ => found.push(format!("{prefix}{key}")),
        }
    }
}

#[test]
fn the_default_file_says_every_key_and_its_default() {
    assert_eq!(parse(DEFAULT_TEXT).unwrap(), Config::default());

    let (mut written, mut known) = (Vec::new(), Vec::new());
    keys(&DEFAULT_TEXT.parse().unwrap(), "", &mut written);
    keys(&toml::Table::try_from(Config::default()).unwrap(), "", &mut known);
    written.sort();
    known.sort();
    assert_eq!(written, known);
}

#[test]
fn what_is_shown_can_be_read_back() {
    let mut config = Config::default();
    config.scope.cgroup.push("/build.slice".into());
    config.respond.rules.r1b = Mode::Suggest;
    let shown = toml::to_string(&config).unwrap();
    assert_eq!(parse(&shown).unwrap(), config);
}

/// The keys of a webhook stand in comments of the default file; this is what they say.
fn documented_webhook() -> Config {
    let (_, section) = DEFAULT_TEXT.split_once("\n# [[webhooks]]\n").unwrap();
    let keys = section.lines().filter_map(|line| {
        let line = line.strip_prefix("# ")?;
        (line.contains(" = ") || line.starts_with('[')).then_some(line)
    });
    parse(&format!("[[webhooks]]\n{}", keys.collect::<Vec<_>>().join("\n"))).unwrap()
}

#[test]
fn the_default_file_says_every_key_of_a_webhook_and_its_default() {
    let config = documented_webhook();
    let Webhook { name, url, .. } = config.webhooks[0].clone();
    assert_eq!(config.webhooks, [Webhook { name, url, ..Webhook::default() }]);
    let shown = toml::to_string(&config).unwrap();
    assert_eq!(parse(&shown).unwrap(), config);
    let count = |text: &str| text.matches(" = ").count();
    let (_, written) = DEFAULT_TEXT.split_once("\n# [[webhooks]]\n").unwrap();
    let (_, known) = shown.split_once("[[webhooks]]").unwrap();
    assert_eq!(count(written), count(known));
}

#[test]
fn a_webhook_that_cannot_be_is_refused_at_its_line() {
    let refused = |line: &str| {
        message(&format!(
            "[[webhooks]]\nname = \"a\"\nurl = \"https://a.example/\"\n\n[[webhooks]]\n\
             name = \"b\"\nurl = \"https://b.example/\"\n{line}\n"
        ))
    };
    let (head, at) = ("/c.toml:8: webhooks[1].", "/c.toml:9: webhooks[1].");
    for (line, said) in [
        ("timeout_s = 0", format!("{head}timeout_s: 0 is not within 1 to 300")),
        ("kinds = [\"transitions\"]", format!("{head}kinds: kinds are started, stopped, ")),
        ("secret_file = \"key\"", format!("{head}secret_file: \"key\" is not an absolute path")),
        ("format = \"xml\"", format!("{head}format: unknown variant `xml`")),
        ("color = 1", format!("{head}color: unknown field `color`")),
        ("heartbeat.url = \"ftp://c/\"", format!("{head}heartbeat.url: begins with neither")),
        (
            "[webhooks.heartbeat]\nevery_s = 0",
            format!("{at}heartbeat.every_s: 0 is not within 1 to 86400"),
        ),
    ] {
        let is = refused(line);
        assert!(is.starts_with(&said), "{is}");
    }
    let twice = "[[webhooks]]\nname = \"a\"\nurl = \"https://a.example/\"\n";
    assert_eq!(
        message(&format!("{twice}{twice}")),
        "/c.toml:5: webhooks[1].name: another is called \"a\", too",
    );
}

#[test]
fn where_a_webhook_may_go() {
    let of = |url: &str, more: &str| {
        parse(&format!("[[webhooks]]\nname = \"a\"\nurl = {url:?}\n{more}"))
            .map_err(|error| error.to_string())
    };
    for url in [
        "https://a.example",
        "https://a.example:8443/x?key=1",
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
        "http://localhost/",
    ] {
        assert!(of(url, "").is_ok(), "{url}");
    }
    for (url, why) in [
        ("", "is no URL"),
        ("/path", "is no URL"),
        ("ftp://a.example/", "begins with neither"),
        ("https://user:secret@a.example/", "are not sent"),
        ("http://a.example/secret", "use https"),
        ("http://10.0.0.1/secret", "use https"),
    ] {
        let said = of(url, "").unwrap_err();
        assert!(said.starts_with("/c.toml:3: webhooks[0].url: "), "{said}");
        assert!(said.contains(why) && !said.contains("secret"), "{said}");
    }
    assert!(of("http://a.example/", "plain_http = true").is_ok());
}

/// The keys of a price stand in comments of the default file, too.
#[test]
fn the_default_file_says_every_key_of_a_price() {
    let (_, section) = DEFAULT_TEXT.split_once("\n# [[investigate.prices]]\n").unwrap();
    let section = section.split_once("\n\n").unwrap().0;
    let keys = section.lines().filter_map(|line| line.strip_prefix("# "));
    let keys: Vec<&str> = keys.filter(|line| line.contains(" = ")).collect();
    let config = parse(&format!("[[investigate.prices]]\n{}", keys.join("\n"))).unwrap();
    let shown = toml::to_string(&config).unwrap();
    assert_eq!(parse(&shown).unwrap(), config);
    let (_, known) = shown.split_once("[[investigate.prices]]\n").unwrap();
    let count = |lines: &mut dyn Iterator<Item = &str>| {
        lines.take_while(|line| !line.is_empty()).filter(|line| line.contains(" = ")).count()
    };
    assert_eq!(count(&mut known.lines()), keys.len());
}

#[test]
fn what_an_investigation_may_cost_is_within_bounds() {
    for (text, said) in [
        ("cooldown_s = 86401", "cooldown_s: 86401 is not within 0 to 86400"),
        (
            "window_tokens = 5000\nrun.tokens = 4000",
            "window_tokens: 5000 is above investigate.run.tokens (4000)",
        ),
        ("run.user = \"-x\"", "run.user: \"-x\" is no user name"),
        ("command.user = \"root\"", "command.user: an investigation does not run as root: name "),
        ("run.pids_max = 0", "run.pids_max: 0 is not within 1 to 32768"),
        (
            "run.memory_min_bytes = 1073741825",
            "run.memory_min_bytes: 1073741825 is above memory_max_bytes (1073741824)",
        ),
        (
            "command.memory_max_bytes = 33554432",
            "command.memory_min_bytes: 67108864 is above memory_max_bytes (33554432)",
        ),
        ("run.silence_s = 901", "run.silence_s: 901 is above deadline_s (900)"),
        ("run.turns = 0", "run.turns: 0 is not within 1 to 10000"),
        ("run.tool_calls = 0", "run.tool_calls: 0 is not within 1 to 100000"),
        ("run.usd = 0", "run.usd: 0 is not within 0.01 to 1000 US dollars"),
        ("run.usd = -1", "run.usd: -1 is no amount of US dollars"),
        ("run.usd = nan", "run.usd: NaN is no amount of US dollars"),
        ("run.resumes = 11", "run.resumes: 11 is not within 0 to 10"),
        ("day.critical_percent = 101", "day.critical_percent: 101 is not within 0 to 100"),
        (
            "run.tokens = 10000001",
            "run.tokens: 10000001 is above investigate.day.tokens (10000000)",
        ),
        ("run.usd = 10.5", "run.usd: 10.5 is above investigate.day.usd (10)"),
        ("day.hours = 1", "day.hours: unknown field `hours`, expected one of `runs`, "),
        ("when = \"never\"", "when: unknown variant `never`, expected `always` or `doubt`"),
    ] {
        let is = message(&format!("[investigate]\n{text}"));
        let line = text.lines().count() + usize::from(!text.contains('\n'));
        assert!(is.starts_with(&format!("/c.toml:{line}: investigate.{said}")), "{is}");
    }
    let unbounded = "[investigate]\nday = { runs = 0, tokens = 0, usd = 0 }\nrun.usd = 1000";
    let config = parse(unbounded).unwrap().investigate;
    assert_eq!((config.day.usd, config.run.usd), (Usd(0), Usd(1_000_000_000)));
}

#[test]
fn where_an_agent_and_its_model_are() {
    for (text, said) in [
        ("claude.program = \"claude\"", "claude.program: \"claude\" is not an absolute path"),
        ("codex.key_file = \"/a/../b\"", "codex.key_file: \"/a/../b\" must not contain \"..\""),
        ("api.program = \"/bin/sh\"", "api.program: \"api\" starts no program: leave it out"),
        ("gemini.model = \"--yolo\"", "gemini.model: \"--yolo\" is no model: up to 128 letters, "),
        ("opencode.model = \"a b\"", "opencode.model: \"a b\" is no model: "),
        ("api.endpoint = \"ftp://a/\"", "api.endpoint: begins with neither https:// nor http://"),
        (
            "claude.endpoint = \"http://10.0.0.1/\"",
            "claude.endpoint: http shows everybody on the way the key and what runs here: use https",
        ),
        ("agent = \"api\"", "agent: \"api\" needs a model in [investigate.api]"),
        ("agent = \"gpt\"", "agent: unknown variant `gpt`, expected one of `none`, `builtin`, "),
    ] {
        let is = message(&format!("\n[investigate]\n{text}"));
        assert!(is.starts_with(&format!("/c.toml:3: investigate.{said}")), "{is}");
    }
    for text in [
        "agent = \"api\"\napi.model = \"claude-haiku-5-5[1m]\"",
        "opencode.model = \"openrouter/vendor/model:free\"",
        "claude.endpoint = \"http://127.0.0.1:8080\"\nclaude.key_file = \"/etc/sensor/claude.key\"",
        "gemini.endpoint = \"https://gateway.example/v1\"\ngemini.program = \"/opt/bin/gemini\"",
    ] {
        assert!(parse(&format!("[investigate]\n{text}")).is_ok(), "{text}");
    }
}

#[test]
fn prices_that_cannot_be_are_refused_at_their_line() {
    let price = |model: &str, more: &str| {
        let input = "input_usd = 1\noutput_usd = 2";
        format!("[[investigate.prices]]\nmodel = {model:?}\n{input}\n{more}\n")
    };
    let first = price("a", "");
    assert!(parse(&(first.clone() + &price("a-b", "cached_usd = 0"))).is_ok());
    for (second, said) in [
        (price("a", ""), "7: investigate.prices[1].model: another is for \"a\", too"),
        (price("", ""), "7: investigate.prices[1].model: \"\" is no model: "),
        (
            price("b", "cached_usd = 10001"),
            "10: investigate.prices[1].cached_usd: 10001 is not within 0 to 10000 US dollars",
        ),
        (price("b", "usd = 1"), "10: investigate.prices[1].usd: unknown field `usd`"),
    ] {
        let is = message(&(first.clone() + &second));
        assert!(is.starts_with(&format!("/c.toml:{said}")), "{is}");
    }
    let is = message("[[investigate.prices]]\nmodel = \"a\"\ninput_usd = 1");
    assert!(is.contains("missing field `output_usd`"), "{is}");
}

#[test]
fn the_thresholds_are_those_of_the_gates() {
    assert_eq!(Detect::default().limits(), Limits::default());
    // 4 × 64 = 256.
    for cpus in [1, 4] {
        assert_eq!(Detect::default().storms(cpus), storm::Limits::default());
    }
    assert_eq!(Detect::default().storms(64).growth, 4096);
}

#[test]
fn the_feed_is_nobody_who_may_do_everything() {
    let error = parse("[feed]\nuser = \"root\"\n").unwrap_err().to_string();
    assert!(error.contains("feed.user") && error.contains("never runs as root"), "{error}");
}

#[test]
fn storm_thresholds_that_cannot_be_are_refused() {
    assert_eq!(
        message("[detect.fork_bomb]\nchain = 1"),
        "/c.toml:2: detect.fork_bomb.chain: 1 is not within 2 to 10000",
    );
    assert_eq!(
        message("[detect.explosion]\ncompleted_percent = 101"),
        "/c.toml:2: detect.explosion.completed_percent: 101 is not within 1 to 100",
    );
    let off = "[detect.fork_bomb]\nenabled = false\n[detect.explosion]\nenabled = false";
    let limits = parse(off).unwrap().detect.storms(2);
    assert_eq!((limits.chain, limits.growth), (NEVER, NEVER));
}

#[test]
fn respawn_thresholds_are_those_of_the_gate_or_refused() {
    assert_eq!(Detect::default().respawns(), respawn::Limits::default());
    let off = parse("[detect.respawn]\nenabled = false").unwrap().detect.respawns();
    assert_eq!(off.runs, respawn::Limits::NEVER);
    assert_eq!(
        message("[detect.respawn]\nfailed_percent = 50"),
        "/c.toml:2: detect.respawn.failed_percent: 50 is not within 51 to 100",
    );
    assert_eq!(
        message("[detect.respawn]\nwindow_s = 0"),
        "/c.toml:2: detect.respawn.window_s: 0 is not within 1 to 3600",
    );
    for mode in ["auto", "approve"] {
        let said = message(&format!("[respond.rules]\nR6 = \"{mode}\""));
        assert!(
            said.starts_with("/c.toml:2: respond.rules.R6: a respawn loop is never stopped"),
            "{said}"
        );
    }
    assert!(parse("[respond.rules]\nR6 = \"observe\"").is_ok());
}

#[test]
fn each_rule_of_memory_has_a_mode_and_only_suggests_by_default() {
    for rule in crate::detect::memory::Rule::ALL.map(crate::detect::memory::Rule::name) {
        assert_eq!(Rules::default().mode(rule), Mode::Suggest, "{rule}");
        for mode in ["observe", "suggest"] {
            assert!(parse(&format!("[respond.rules]\n{rule} = \"{mode}\"")).is_ok(), "{rule}");
        }
        for (mode, word) in [(Mode::Auto, "auto"), (Mode::Approve, "approve")] {
            let said = format!("[respond.rules]\n{rule} = \"{word}\"");
            match rule {
                "M6" => assert_eq!(
                    message(&said),
                    "/c.toml:2: respond.rules.M6: what grows is in no process, so that there is \
                     nobody to stop; \"observe\" or \"suggest\""
                ),
                _ => assert_eq!(parse(&said).unwrap().respond.rules.mode(rule), mode),
            }
        }
    }
}

#[test]
fn how_many_zombies_say_enough_is_for_the_operator() {
    assert_eq!(
        message("[detect.zombies]\nmany = 8"),
        "/c.toml:2: detect.zombies.many: 8 is not within 9 to 4194304",
    );
    let limits = parse("[detect.zombies]\nmany = 100").unwrap().detect.memory();
    assert_eq!((limits.zombies, limits.many_zombies), (64, 100));
}

#[test]
fn a_rule_that_is_off_never_crosses() {
    let config =
        parse("[detect.recursion]\nenabled = false\n[detect.recursion_growth]\nenabled = false")
            .unwrap();
    let limits = config.detect.limits();
    assert_eq!(
        (limits.watch, limits.contain, limits.open, limits.open_slow),
        (NEVER, NEVER, NEVER, NEVER)
    );
    assert_eq!((limits.growth_repetitions, limits.growth_growing), (NEVER, NEVER));
    assert_eq!((limits.loose_open, limits.loose_contain), (8, 16));
}

#[test]
fn errors_name_file_line_and_key() {
    assert_eq!(
        message("[kernel]\n\nring_bytes = 100000\n"),
        "/c.toml:3: kernel.ring_bytes: 100000 is not a power of two, as the kernel asks for",
    );
    assert_eq!(
        message("[respond]\nfreeze_s = 0"),
        "/c.toml:2: respond.freeze_s: 0 is not within 1 to 86400",
    );
    assert_eq!(
        message("\n[respond.rules]\nR9 = \"auto\""),
        "/c.toml:3: respond.rules.R9: unknown field `R9`, expected one of `R1`, `R1b`, `R1c`, `R2`, `R3`, `R4`, `R5`, `R6`, `M1`, `M2`, `M3`, `M4`, `M5`, `M6`",
    );
    assert_eq!(
        message("[respond.rules]\nR1 = \"maybe\""),
        "/c.toml:2: respond.rules.R1: unknown variant `maybe`, expected one of `observe`, `suggest`, `approve`, `auto`",
    );
    assert_eq!(
        message("[kernel]\nrealtime = 1"),
        "/c.toml:2: kernel.realtime: invalid type: integer `1`, expected a boolean",
    );
    assert_eq!(
        message("[detect.recursion]\nopen_repetitions = 9"),
        "/c.toml:2: detect.recursion.open_repetitions: 9 is above open_slow_repetitions (8)",
    );
    assert_eq!(
        message("# nothing\n[investigate]\nagent = \"command\""),
        "/c.toml:3: investigate.agent: \"command\" needs a program in [investigate.command]",
    );
    assert_eq!(
        message("[scope]\ncgroup = [\n  \"/a\",\n  \"../b\",\n]"),
        "/c.toml:2: scope.cgroup: \"../b\" is not an absolute path",
    );
    assert!(message("[kernel]\nring_bytes = = 1").starts_with("/c.toml:2: "));
    assert!(message("[knel]\na = 1").starts_with("/c.toml:1: knel: unknown field `knel`"));
}

#[test]
fn a_value_that_only_its_default_makes_impossible_names_the_table() {
    // open_repetitions (5 by default) stands nowhere in the file.
    assert_eq!(
        message("\n[detect.recursion]\nopen_slow_repetitions = 4"),
        "/c.toml:2: detect.recursion.open_repetitions: 5 is above open_slow_repetitions (4)",
    );
}

#[test]
fn bytes_that_are_no_text_are_an_error_with_a_line() {
    let error = Config::parse(b"\n\nx = \"\xff\"", Path::new("/c.toml")).unwrap_err();
    assert_eq!(error.to_string(), "/c.toml:3: is not UTF-8");
}

#[test]
fn a_missing_file_is_fine_unless_it_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent.toml");
    let error = Config::load(Some(&path)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read {}: No such file", path.display())), "{error}");
}

#[test]
fn a_huge_file_is_refused_unread() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let error = Config::load(Some(file.path())).unwrap_err().to_string();
    assert!(error.ends_with("it is larger than 1 MiB, so it is no configuration"), "{error}");
}

#[test]
fn what_no_key_governs_is_only_suggested() {
    let rules = Rules::default();
    assert_eq!(rules.mode("R1c"), Mode::Auto);
    assert_eq!(rules.mode("manual"), Mode::Suggest);
}

proptest! {
    #[test]
    fn any_bytes_make_a_configuration_or_one_plain_line(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = Config::parse(&bytes, Path::new("/c.toml")) {
            prop_assert!(!error.to_string().contains(|c: char| c.is_control()), "{error:?}");
        }
    }

    #[test]
    fn any_key_and_value_make_a_configuration_or_one_plain_line(
        table in "[a-z.]{0,12}", key in "(ring_bytes|cgroup|\"[^\"\\\\]{0,6}\"|[a-z_]{1,9})", value in "(-?[0-9]{1,19}|\"\\PC{0,9}\"|\\[\\]|true)",
    ) {
        let text = format!("[{table}]\n{key} = {value}\n");
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains(|c: char| c.is_control()), "{error:?}");
        }
    }
}
