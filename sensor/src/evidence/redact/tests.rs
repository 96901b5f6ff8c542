use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{rules::RULES, tokens::TOKENS, *};

fn redactor() -> Redactor {
    Redactor::new(*b"0123456789abcdef")
}

fn text(input: &str) -> (String, u32) {
    let (output, count) = redactor().text(input.as_bytes());
    (String::from_utf8(output).unwrap(), count)
}

fn list(arguments: &[&str]) -> Vec<Vec<u8>> {
    arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect()
}

fn argv(arguments: &[&str]) -> (String, u32) {
    let (output, count) = redactor().argv(&list(arguments));
    (String::from_utf8(output.join(&b' ')).unwrap(), count)
}

#[test]
fn every_rule_leaves_a_mark_that_is_known_again() {
    let forms = RULES.iter().map(|rule| (rule.name, rule.compile().captures_len()));
    for (name, groups) in forms.chain(TOKENS.iter().map(|token| (token.name, 2))) {
        assert_eq!(groups, 2, "{name}: the whole and the secret");
        let (marked, _) = redactor().replace(b"x", vec![Span { at: 0..1, rule: name }]);
        assert_eq!(replaced(&marked), BTreeMap::from([(name.to_owned(), 1)]));
    }
}

/// The text with all marks as `[]`.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    let mut end = 0;
    for marker in scan::markers(text.as_bytes()) {
        bare.push_str(&text[end..marker.start]);
        bare.push_str("[]");
        end = marker.end;
    }
    bare + &text[end..]
}

// Tokens are put together here, so that no scanner takes this file for a leak.
const TAIL: &str = "a8Zk2Qp9Lr4Xw7Tn3Vb6Ym1Cd5Fg0HsJuEi";

fn tokens() -> Vec<(String, &'static str)> {
    let id = "QZ3XWK7YPT4RMN2V";
    vec![
        (format!("AKIA{id}"), "aws-key-id"),
        (format!("ghp_{TAIL}"), "github-token"),
        (format!("github_pat_{TAIL}"), "github-token"),
        (format!("glpat-{TAIL}"), "gitlab-token"),
        (format!("npm_{TAIL}"), "npm-token"),
        (format!("xoxb-{TAIL}"), "slack-token"),
        (format!("sk_live_{TAIL}"), "stripe-key"),
        (format!("sk-ant-api03-{TAIL}"), "anthropic-key"),
        (format!("sk-proj-{TAIL}"), "openai-key"),
        (format!("AIza{TAIL}"), "google-key"),
        (format!("hf_{TAIL}"), "huggingface-token"),
        (format!("dckr_pat_{TAIL}"), "docker-token"),
        (format!("hvs.{TAIL}"), "vault-token"),
        (format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{TAIL}"), "jwt"),
    ]
}

#[test]
fn tokens_are_known_by_their_shape() {
    for (token, rule) in tokens() {
        let (output, count) = text(&format!("run with {token}, then go"));
        assert_eq!(count, 1, "{output}");
        assert!(output.starts_with(&format!("run with [redacted:{rule}:")), "{output}");
        assert!(output.ends_with("], then go"), "{output}");
        // Cut off by the kernel: still known.
        let half = &token[..token.len() - 8];
        assert!(!text(half).0.contains(half), "{half}");
    }
}

#[test]
fn names_make_their_value_a_secret() {
    for (input, output) in [
        ("GITHUB_TOKEN=hunter2 make", "GITHUB_TOKEN=[] make"),
        ("a --password hunter2 b", "a --password [] b"),
        ("a --api-key='hunter 2' b", "a --api-key='[]' b"),
        ("a --auth-token \"hunter 2\" b", "a --auth-token \"[]\" b"),
        ("{\"dbPassword\": \"hunter2\", \"port\": 3}", "{\"dbPassword\": \"[]\", \"port\": 3}"),
        (
            "//registry.example.org/:_authToken=hunter2\nx",
            "//registry.example.org/:_authToken=[]\nx",
        ),
        ("X=secret=hunter2", "X=secret=[]"),
        ("postgres://app:hunter2@db:5432/x", "postgres://app:[]@db:5432/x"),
        ("https://x/?token=hunter2&page=3", "https://x/?token=[]&page=3"),
        ("-H 'Authorization: Bearer hunter2'", "-H 'Authorization: Bearer []'"),
        ("mysql -u root -phunter2 db", "mysql -u root -p[] db"),
        ("curl -u me:hunter2 http://x", "curl -u me:[] http://x"),
        ("sshpass -p hunter2 ssh x", "sshpass -p [] ssh x"),
        (
            "-----BEGIN RSA PRIVATE KEY-----hunter2\nhunter3-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----[]-----END RSA PRIVATE KEY-----",
        ),
    ] {
        let (redacted, count) = text(input);
        assert_eq!(bare(&redacted), output, "{redacted}");
        assert_eq!(count, 1, "{redacted}");
    }
}

#[test]
fn arguments_announce_secrets() {
    for input in [
        &["tool", "--password", "hunter2"][..],
        &["tool", "-secret", "hunter2"],
        &["tool", "--token=hunter2"],
        &["tool", "DB_PASSWORD=hunter2"],
        &["java", "-Ddb.password=hunter2"],
        &["/usr/bin/mysqldump", "-u", "root", "-phunter2", "db"],
        &["sshpass", "-p", "hunter2", "ssh", "h"],
        &["sshpass", "-phunter2", "ssh", "h"],
        &["redis-cli", "-a", "hunter2"],
        &["curl", "-u", "me:hunter2", "http://x"],
        &["curl", "-ume:hunter2", "http://x"],
        &["docker", "login", "-p", "hunter2"],
        &["openssl", "enc", "-pass", "pass:hunter2"],
        &["ldapsearch", "-w", "hunter2"],
        &["sh", "-c", "curl -H 'Authorization: token hunter2' http://x"],
    ] {
        let (output, count) = argv(input);
        assert!(!output.contains("hunter2"), "{output}");
        assert_eq!(count, 1, "{output}");
    }
    assert!(argv(&["sh", "-ec", "TOKEN=hunter2 make all"]).0.ends_with("] make all"));
    // The next argument is another option, not the value.
    assert_eq!(argv(&["tool", "--password", "--verbose"]).1, 0);
}

#[test]
fn a_markers_colon_announces_nothing() {
    // The name before the colon is a secret by its shape; behind the colon stands nothing.
    let (once, _) = redactor().argv(&list(&["curl", "-u", &format!("ghp_{TAIL}/--me--:")]));
    assert_eq!(redactor().argv(&once), (once, 0));
}

#[test]
fn an_option_that_ends_as_a_shells_does_only_in_its_secret_is_none_of_a_script() {
    let (once, _) = redactor().argv(&list(&["sh", "-TOKEN='hunter2c", "TOKEN='r 5'x"]));
    assert_eq!(redactor().argv(&once), (once, 0));
}

#[test]
fn equal_secrets_stay_equal_under_one_key_only() {
    let (one, _) = text("A_TOKEN=hunter2 B_TOKEN=hunter2 C_TOKEN=hunter3");
    let marks: Vec<&str> =
        one.split(' ').filter_map(|word| word.split_once('=')).map(|pair| pair.1).collect();
    assert_eq!(marks[0], marks[1]);
    assert_ne!(marks[0], marks[2]);
    let other = Redactor::new([7; 16]).text(b"A_TOKEN=hunter2").0;
    assert!(!other.ends_with(marks[0].as_bytes()));
}

#[test]
fn ordinary_command_lines_stay_as_they_are() {
    for line in [
        "npm run test:auth",
        "node /usr/bin/npm test",
        "sh -c cd web && npm test",
        "node ./node_modules/.bin/concurrently npm:test:ui npm:test:token",
        "make -j8 -C src KEY=left V=1",
        "git commit --author=a -m fix_the_token_parser",
        "ssh -p 2222 host",
        "mkdir -p a/b",
        "gcc -pthread -o tokenizer tokenizer.c",
        "cargo build --package sk-analyzer-for-everything",
        "docker run -p 80:80 -e PWD=/srv nginx",
        "llm --max-tokens 4096 --max_tokens=4096",
        "tool --token-file /run/x --password-file=/run/y SSH_AUTH_SOCK=/tmp/s",
        "curl -fsSL https://example.org:8080/a@b",
        "sleep 30",
        "PWD=/home/x OLDPWD=/home/y pnpm -r --filter=./packages/* build",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        assert_eq!(argv(&arguments), (line.to_owned(), 0));
        assert_eq!(text(line), (line.to_owned(), 0));
    }
    for file in [
        "{\"scripts\": {\"token\": \"node make-token.js\", \"test:auth\": \"jest auth\"}}",
        "{\"dependencies\": {\"js-tokens\": \"^4.0.0\", \"password\": \"~1.2.x\"}}",
        "const token: string; TOKEN=$(cat file) PASSWORD=\"$OTHER\" SECRET=${X}",
    ] {
        assert_eq!(text(file), (file.to_owned(), 0));
    }
}

#[test]
fn a_huge_text_is_cut_without_halving_a_token() {
    let mut input = vec![b'x'; TEXT_LIMIT - 10];
    input[TEXT_LIMIT - 40] = b' ';
    input.extend_from_slice(b" ghp_");
    input.extend_from_slice(TAIL.as_bytes());
    let (output, count) = redactor().text(&input);
    assert_eq!((output.len(), count), (TEXT_LIMIT - 9, 0));
}

#[test]
fn more_secrets_than_can_be_told_apart_go_as_one() {
    let input = "PASSWORD=a ".repeat(2 * REPLACEMENTS);
    let (output, count) = text(&input);
    assert_eq!(count as usize, REPLACEMENTS);
    assert!(output.contains("[redacted:too-many:"));
    assert_eq!(output.matches("PASSWORD").count(), REPLACEMENTS + 1);
}

/// Text in which rules find something to hold on to.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        3 => prop::sample::select(vec![
            "password", "TOKEN", "=", ":", "://", "@", "'", "\"", " ", "\n", "--", "-p", "mysql ", "curl ", "Bearer ",
            "Authorization: ", "cookie:", "ghp_", "sk-ant-", "eyJhbGciOi", ".", "AKIA", "PRIVATE KEY-----", "-----BEGIN ",
            "-----END", "[redacted:value:0123abcd]", "[redacted:", "]", "$", "$X", "a8Zk2Qp9Lr4Xw7Tn3Vb6Ym1Cd", "x", "\u{e9}",
        ]).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec(fragment, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn redacting_twice_changes_nothing_and_growth_is_bounded(input in fragments()) {
        let redactor = redactor();
        let (once, _) = redactor.text(&input);
        prop_assert!(once.len() <= input.len() + 40 * REPLACEMENTS * PASSES);
        let (twice, more) = redactor.text(&once);
        prop_assert_eq!((twice, more), (once, 0));
    }

    #[test]
    fn arguments_likewise(input in prop::collection::vec(fragments(), 0..6)) {
        let redactor = redactor();
        let (once, _) = redactor.argv(&input);
        prop_assert_eq!(once.len(), input.len());
        let (twice, more) = redactor.argv(&once);
        prop_assert_eq!((twice, more), (once, 0));
    }

    #[test]
    fn planted_secrets_never_survive(
        secret in "[A-Za-z0-9+/_.]{7,60}[G-Z]", before in "[ -~]{0,30}", after in "[ -~]{0,30}", form in 0..8usize,
        name in prop::sample::select(vec!["password", "API_KEY", "dbPassword", "auth-token", "CLIENT_SECRET"]),
    ) {
        // What stands around must not hold it by chance.
        prop_assume!(!before.contains(&secret) && !after.contains(&secret));
        let unquoted = before.replace(['"', '\''], "");
        let line = match form {
            0 => vec![before, format!("--{name}"), secret.clone(), after],
            1 => vec![before, format!("--{name}={secret}"), after],
            2 => vec![format!("{name}={secret}"), after],
            3 => vec![format!("{before} {name}={secret} {after}")],
            4 => vec![format!("{before} \"{name}\": \"{secret}\"")],
            5 => vec![before, format!("http://u:{}@host/{after}", secret.replace('/', "%2F"))],
            6 => vec![format!("{unquoted} --{name} {secret} {after}")],
            _ => vec!["curl".to_owned(), "-u".to_owned(), format!("me:{secret}"), after],
        };
        let bytes: Vec<Vec<u8>> = line.iter().map(|part| part.clone().into_bytes()).collect();
        let (output, count) = redactor().argv(&bytes);
        let output = String::from_utf8(output.join(&b' ')).unwrap();
        prop_assert!(!output.contains(&secret), "{line:?} became {output}");
        prop_assert!(count >= 1);
    }

    #[test]
    fn words_of_ordinary_work_stay(
        words in prop::collection::vec(prop::sample::select(vec![
            "npm", "run", "test", "node", "/usr/bin/npm", "make", "-j8", "-C", "src", "install", "--prefix", "web", "&&", "cd",
            "sh", "-c", "git", "commit", "-m", "--workspace=a", "NODE_ENV=test", "index.js", "-p", "8080", "--", "0f3a9c2b7d5e",
        ]), 1..20),
    ) {
        prop_assume!(words[0] != "sshpass");
        let input = list(&words);
        prop_assert_eq!(redactor().argv(&input), (input, 0));
    }
}

#[test]
fn no_repetition_takes_more_than_linear_time() {
    // Each makes some rule begin at every place. Quadratic, the worst took 90 s; now none takes 0.2 s.
    for unit in [
        "a=",
        "mysql ",
        "mysql -pa ",
        "curl -u a:b ",
        "password=",
        "--password ",
        "://a:",
        "ey",
        "eyAAAAAAAAA.",
        "-----BEGIN PRIVATE KEY-----",
        "cookie:",
        "authorization: ",
        "Bearer a",
        "ghp_ghp_",
        "\"password\": \"",
        "[redacted:value:0123abcd]password=x",
        "token token=\"",
        "token=$token",
        "token: '",
        "token: '\"",
        "token=true ",
    ] {
        let input = unit.repeat(TEXT_LIMIT / unit.len());
        let began = Instant::now();
        let (output, _) = redactor().text(input.as_bytes());
        assert!(began.elapsed() < Duration::from_secs(10), "{unit}: {:?}", began.elapsed());
        assert!(output.len() <= TEXT_LIMIT + 40 * REPLACEMENTS);
    }
}
