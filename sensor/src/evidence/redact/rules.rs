//! What a secret looks like.
//!
//! A curated subset of the gitleaks rules (<https://github.com/gitleaks/gitleaks>, MIT), adapted:
//! lower bounds on token lengths are lax, because the kernel cuts arguments at 512 bytes and half a
//! token is still a secret; rules whose only sign is entropy are left out, because they hit hashes
//! and paths. Names that make their value a secret are found by [`Compiled::assignment`] and
//! [`Compiled::option`] and judged by [`is_secret_name`]; the regex stops where the value begins, so
//! that a long harmless value is not scanned twice.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex::bytes::Regex;

/// How a match becomes a span to redact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The group is a secret.
    Always,
    /// It is when it looks random: at least this many bits a byte (Shannon), times ten.
    Entropy(u32),
}

#[derive(Debug)]
pub(super) struct Rule {
    pub name: &'static str,
    /// Any of these, in any case, must occur before the regex runs.
    keywords: &'static [&'static str],
    /// Group 1 and up: the secrets; without groups the whole match.
    pattern: &'static str,
    pub check: Check,
}

/// More specific rules first: they name the span when two overlap.
pub(super) const RULES: [Rule; 27] = [
    rule(
        "private-key",
        &["private key"],
        r"(?i)-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----(?s:(.*?))(?:-----END|\z)",
        Check::Always,
    ),
    rule(
        "aws-key-id",
        &["akia", "asia", "abia", "acca", "a3t"],
        r"\b((?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{8,16})\b",
        Check::Entropy(25),
    ),
    rule(
        "github-token",
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        r"((?:gh[pousr]_|github_pat_)[0-9A-Za-z_]{8,})",
        Check::Always,
    ),
    rule(
        "gitlab-token",
        &["glpat-", "glptt-", "gldt-", "glrt-", "glcbt-", "glft-", "glagent-", "gloas-", "glsoat-"],
        r"(gl(?:pat|ptt|dt|rt|cbt|ft|agent|oas|soat)-[0-9A-Za-z_.-]{8,})",
        Check::Always,
    ),
    rule("npm-token", &["npm_"], r"\b(npm_[0-9A-Za-z]{20,})", Check::Entropy(30)),
    rule(
        "slack-token",
        &["xox", "xapp-"],
        r"((?:xox[abeoprs]|xapp)-[0-9A-Za-z-]{8,})",
        Check::Always,
    ),
    rule(
        "slack-webhook",
        &["hooks.slack.com"],
        r"hooks\.slack\.com/(?:services|workflows|triggers)/([0-9A-Za-z+/_-]{8,})",
        Check::Always,
    ),
    rule(
        "stripe-key",
        &["k_live", "k_test", "k_prod", "whsec_"],
        r"\b((?:[rs]k_(?:live|test|prod)|whsec)_[0-9A-Za-z]{8,})",
        Check::Always,
    ),
    rule("anthropic-key", &["sk-ant-"], r"(sk-ant-[0-9A-Za-z_-]{8,})", Check::Always),
    rule(
        "openai-key",
        &["sk-"],
        r"\b(sk-(?:(?:proj|svcacct|admin|None)-[0-9A-Za-z_-]{8,}|[0-9A-Za-z]{20,}))",
        Check::Entropy(35),
    ),
    rule(
        "google-key",
        &["aiza", "gocspx-", "ya29."],
        r"((?:AIza|GOCSPX-|ya29\.)[0-9A-Za-z_-]{10,})",
        Check::Entropy(30),
    ),
    rule("huggingface-token", &["hf_"], r"\b(hf_[0-9A-Za-z]{20,})", Check::Entropy(30)),
    rule("pypi-token", &["pypi-aget", "pypi-agen"], r"(pypi-Ag[0-9A-Za-z_-]{16,})", Check::Always),
    rule("docker-token", &["dckr_"], r"(dckr_(?:pat|oat)_[0-9A-Za-z_-]{8,})", Check::Always),
    rule("digitalocean-token", &["_v1_"], r"\b(do[oprt]_v1_[0-9a-f]{16,})", Check::Always),
    rule("sendgrid-token", &["sg."], r"\b(SG\.[0-9A-Za-z=_.-]{20,})", Check::Entropy(30)),
    rule("twilio-key", &["sk"], r"\b(SK[0-9a-fA-F]{32})\b", Check::Entropy(30)),
    rule(
        "vault-token",
        &["hvs.", "hvb.", "hvr."],
        r"\b(hv[sbr]\.[0-9A-Za-z_-]{12,})",
        Check::Entropy(30),
    ),
    rule("shopify-token", &["shp"], r"\b(shp(?:at|ca|pa|ss)_[0-9a-fA-F]{16,})", Check::Always),
    rule(
        "service-token",
        &["dapi", "lin_api_", "glsa_", "glc_", "atatt3", "dp.pt.", "dp.st.", "age-secret-key-1"],
        r"\b((?:dapi[0-9a-f]{16,}|lin_api_[0-9A-Za-z]{16,}|gl(?:sa|c)_[0-9A-Za-z_+/=]{16,}|ATATT3[0-9A-Za-z_=-]{16,}|dp\.[ps]t\.[0-9A-Za-z._-]{16,}|AGE-SECRET-KEY-1[0-9A-Z]{16,}))",
        Check::Always,
    ),
    rule(
        "jwt",
        &["ey"],
        r"\b(ey[0-9A-Za-z_-]{8,}\.ey[0-9A-Za-z/_-]{8,}(?:\.[0-9A-Za-z/_=-]*)?)",
        Check::Always,
    ),
    // The last @ before the path ends the password, which may hold others.
    rule("url-password", &["://"], r"://[^\s/?#@:'\x22]{0,256}:([^\s/?#'\x22]+)@", Check::Always),
    rule("url-token", &["://"], r"://([0-9A-Za-z_.~%-]{20,})@", Check::Entropy(30)),
    rule(
        "authorization",
        &["authorization"],
        r"(?i)\bauthorization['\x22]?\s{0,8}[:=]\s{0,8}['\x22]?(?:(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256)\s{1,8})?([^\s'\x22]+)",
        Check::Always,
    ),
    rule("bearer", &["bearer"], r"(?i)\bbearer\s{1,8}([0-9a-z._~+/=-]{12,})", Check::Entropy(25)),
    rule("cookie", &["cookie:"], r"(?i)\bcookie:\s{0,8}([^\r\n'\x22]+)", Check::Always),
    // Options of one letter, inside a shell's command text. As arguments: see `argv`.
    rule(
        "option",
        &["mysql", "mariadb", "sshpass", "curl", "redis-cli", "openssl"],
        r"\b(?:(?:mysql|mariadb)[a-z-]{0,16}\b[^|;&\n]*?\s-p|sshpass\s{1,8}-p\s{0,8}|redis-cli\b[^|;&\n]*?\s-a\s{0,8}|curl\b[^|;&\n]*?\s(?:-u|--user|--proxy-user)[ =]{0,8}['\x22]?[^\s:'\x22]{0,128}:|openssl\b[^|;&\n]*?\spass:)['\x22]?([^\s'\x22;|&-][^\s'\x22;|&]*)",
        Check::Always,
    ),
];

const fn rule(
    name: &'static str,
    keywords: &'static [&'static str],
    pattern: &'static str,
    check: Check,
) -> Rule {
    Rule { name, keywords, pattern, check }
}

/// Ends of a word that make what it names a secret.
const SECRET_WORDS: [&str; 22] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pass",
    "pwd",
    "pw",
    "secret",
    "secrets",
    "token",
    "tokens",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "credential",
    "credentials",
    "auth",
    "key",
    "pat",
    "cookie",
    "connectionstring",
];

/// Of those, the ones that are too short or too common to count at the end of a longer word
/// (`bypass`, `keypath`, `oauth`): the word itself only.
const WHOLE_WORDS: [&str; 5] = ["pass", "pw", "auth", "pat", "cookie"];

/// What must stand before `key` to make it a secret one: `API_KEY`, but not `--key left`.
const KEY_OWNERS: [&str; 14] = [
    "api",
    "access",
    "secret",
    "private",
    "encryption",
    "signing",
    "master",
    "account",
    "storage",
    "shared",
    "service",
    "license",
    "deploy",
    "app",
];

/// A last word that makes a name speak about a secret instead of holding it: `TOKEN_FILE`.
const ABOUT: [&str; 38] = [
    "file",
    "files",
    "path",
    "dir",
    "sock",
    "socket",
    "url",
    "uri",
    "endpoint",
    "host",
    "name",
    "id",
    "ids",
    "type",
    "kind",
    "length",
    "len",
    "count",
    "size",
    "ttl",
    "expiry",
    "expires",
    "expiration",
    "timeout",
    "method",
    "methods",
    "provider",
    "mode",
    "enabled",
    "required",
    "limit",
    "policy",
    "header",
    "command",
    "cmd",
    "program",
    "prompt",
    "store",
];

/// A first word that makes a name count secrets or say something about them: `MAX_TOKENS`, `NO_AUTH`.
const COUNTS: [&str; 10] =
    ["max", "min", "num", "n", "total", "count", "no", "without", "skip", "disable"];

/// Whether a value under this name is a secret: `GITHUB_TOKEN`, `--api-key`, `dbPassword`.
pub(super) fn is_secret_name(name: &[u8]) -> bool {
    // The shell's working directory.
    if name == b"PWD" || name == b"OLDPWD" {
        return false;
    }
    let words = words(name);
    let (Some(first), Some(last)) = (words.first(), words.last()) else {
        return false;
    };
    if ABOUT.contains(&last.as_str()) || (words.len() > 1 && COUNTS.contains(&first.as_str())) {
        return false;
    }
    words.iter().enumerate().any(|(at, word)| {
        SECRET_WORDS.iter().any(|secret| match *secret {
            "key" => {
                word == "key"
                    && at.checked_sub(1).is_some_and(|at| KEY_OWNERS.contains(&words[at].as_str()))
            }
            secret if WHOLE_WORDS.contains(&secret) => word == secret,
            secret => word.ends_with(secret),
        })
    })
}

/// The words of `camelCase`, `snake_case`, `kebab-case` and `dotted.names`, in lower case.
fn words(name: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut after_lower = false;
    for byte in name {
        let splits = !byte.is_ascii_alphanumeric();
        if (splits || (byte.is_ascii_uppercase() && after_lower)) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if !splits {
            word.push(char::from(byte.to_ascii_lowercase()));
        }
        after_lower = byte.is_ascii_lowercase() || byte.is_ascii_digit();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Values that say nothing: hiding them only misleads.
pub(super) fn is_harmless(value: &[u8]) -> bool {
    const WORDS: [&str; 12] = [
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "none",
        "null",
        "undefined",
        "0",
        "1",
        "string",
    ];
    WORDS.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

/// A reference to a variable or a command, as shells write it, is not its value.
pub(super) fn is_reference(value: &[u8]) -> bool {
    value.first() == Some(&b'$')
        && value.get(1).is_some_and(|next| b"({_".contains(next) || next.is_ascii_alphabetic())
}

/// A range of versions, as a package that is called `js-tokens` has it.
pub(super) fn is_version(value: &[u8]) -> bool {
    let number = value.strip_prefix(b"^").or(value.strip_prefix(b"~")).unwrap_or(value);
    value == b"*"
        || (number.contains(&b'.')
            && number.iter().all(|byte| byte.is_ascii_digit() || b".x*".contains(byte)))
}

/// Shannon entropy in bits a byte, times ten.
pub(super) fn entropy(bytes: &[u8]) -> u32 {
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len().max(1) as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum();
    (bits * 10.0) as u32
}

/// The rules, compiled once.
pub(super) struct Compiled {
    keywords: AhoCorasick,
    /// Rule of each keyword.
    owners: Vec<usize>,
    regexes: Vec<Regex>,
    /// A replacement that was made before.
    pub marker: Regex,
    /// `NAME=`, `"name": "`, `name :=`: groups `name`, `sep`, `quote`.
    pub assignment: Regex,
    /// `--name `: groups `name`, `quote`.
    pub option: Regex,
}

pub(super) static COMPILED: LazyLock<Compiled> = LazyLock::new(compile);

#[expect(clippy::expect_used, reason = "constant patterns; a test compiles every one")]
fn compile() -> Compiled {
    let owners =
        RULES.iter().enumerate().flat_map(|(at, rule)| rule.keywords.iter().map(move |_| at));
    let keywords = RULES.iter().flat_map(|rule| rule.keywords);
    // ASCII classes only: the input is bytes.
    let regex = |pattern: &str| {
        regex::bytes::RegexBuilder::new(pattern).unicode(false).build().expect("valid pattern")
    };
    Compiled {
        keywords: AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(keywords)
            .expect("a few short keywords"),
        owners: owners.collect(),
        regexes: RULES.iter().map(|rule| regex(rule.pattern)).collect(),
        marker: regex(r"\[redacted:[a-z-]{2,20}:[0-9a-f]{8}\]"),
        assignment: regex(
            r#"(?P<name>[A-Za-z_][0-9A-Za-z_.-]{0,127})['"]?\s{0,4}(?P<sep>\+=|:=|=>|=|:)\s{0,4}(?P<quote>["'])?"#,
        ),
        option: regex(
            r#"(?:^|[\s'"])--?(?P<name>[A-Za-z][0-9A-Za-z_-]{1,63})\s{1,8}(?P<quote>["'])?"#,
        ),
    }
}

impl Compiled {
    /// Rules that have a keyword in `text`, with their regexes, in the order of [`RULES`].
    pub(super) fn candidates(&self, text: &[u8]) -> Vec<(&'static Rule, &Regex)> {
        let mut present = [false; RULES.len()];
        let mut missing = RULES.len();
        for found in self.keywords.find_overlapping_iter(text) {
            let owner = self.owners[found.pattern().as_usize()];
            if !present[owner] {
                present[owner] = true;
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
        }
        (0..RULES.len())
            .filter(|at| present[*at])
            .map(|at| (&RULES[at], &self.regexes[at]))
            .collect()
    }
}
