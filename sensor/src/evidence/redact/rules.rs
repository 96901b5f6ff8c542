//! Secrets that have a form around them: a few regular expressions, each anchored at a keyword.
//!
//! Forms from the gitleaks rules (<https://github.com/gitleaks/gitleaks>, MIT; see `NOTICE`), adapted.

use regex::bytes::Regex;

use super::{Span, entropy};

pub(super) struct Rule {
    pub name: &'static str,
    /// Where it stands in the text, in any case, the pattern may begin.
    pub keyword: &'static str,
    /// Begins at the keyword; its one group is the secret.
    pattern: &'static str,
    /// Bytes before the keyword at which the pattern begins instead.
    before: usize,
    /// Bits a byte (Shannon), times ten, at least.
    entropy: u32,
}

const fn rule(
    name: &'static str,
    keyword: &'static str,
    pattern: &'static str,
    entropy: u32,
) -> Rule {
    Rule { name, keyword, pattern, before: 0, entropy }
}

/// More specific rules first: they name the span when two begin at one place.
pub(super) const RULES: [Rule; 12] = [
    rule(
        "private-key",
        "-----begin",
        r"-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----(?s:(.*?))(?:-----END|\z)",
        0,
    ),
    rule("jwt", "eyj", r"(eyJ[0-9A-Za-z_-]{8,}\.ey[0-9A-Za-z/_-]{8,}(?:\.[0-9A-Za-z/_=-]*)?)", 0),
    Rule {
        name: "azure-secret",
        keyword: "q~",
        pattern: r"([0-9A-Za-z_~.]{3}[0-9]Q~[0-9A-Za-z_~.-]{20,40})",
        before: 4,
        entropy: 30,
    },
    // The last @ before the path ends the password, which may hold others.
    rule("url-password", "://", r"://[^\s/?#@:'\x22]{0,256}:([^\s/?#'\x22]+)@", 0),
    rule("url-token", "://", r"://([0-9A-Za-z_.~%-]{20,})@", 30),
    rule(
        "authorization",
        "authorization",
        r"(?i)authorization\\?['\x22]?\s{0,8}[:=]\s{0,8}\\?['\x22]?(?:(?:bearer|basic|token|digest|negotiate|apikey|api-key|key|aws4-hmac-sha256)\s{1,8})?([^\s'\x22\\]+)",
        0,
    ),
    rule("bearer", "bearer", r"(?i)bearer\s{1,8}([0-9a-z._~+/=-]{12,})", 25),
    rule("basic", "basic", r"(?i)basic\s{1,4}([0-9a-z+/]{12,}={0,2})(?:['\x22\s]|\z)", 35),
    rule("cookie", "cookie:", r"(?i)cookie:\s{0,8}([^\r\n'\x22]+)", 0),
    rule(
        "netrc",
        "login",
        r"(?i)login\s{1,4}[^\s]{1,128}\s{1,4}(?:password|passwd)\s{1,4}(\S+)",
        0,
    ),
    rule("sql-password", "password", r"(?i)password\s{1,4}'([^'\r\n]+)'", 0),
    rule(
        "sql-password",
        "identified",
        r"(?i)identified\s{1,4}(?:with\s{1,4}\S{1,64}\s{1,4})?(?:by|as)\s{1,4}(?:password\s{1,4})?'([^'\r\n]+)'",
        0,
    ),
];

impl Rule {
    #[expect(clippy::expect_used, reason = "constant patterns; a test compiles every one")]
    pub(super) fn compile(&self) -> Regex {
        // ASCII classes only: the input is bytes.
        regex::bytes::RegexBuilder::new(&format!("\\A(?:{})", self.pattern))
            .unicode(false)
            .build()
            .expect("valid pattern")
    }

    /// The secret of the form that begins at `start`, if one does.
    pub(super) fn at(&self, regex: &Regex, text: &[u8], start: usize) -> Option<Span> {
        let start = start.checked_sub(self.before)?;
        if self.keyword.as_bytes()[0].is_ascii_alphabetic()
            && start > 0
            && text[start - 1].is_ascii_alphanumeric()
            && !(start > 1 && text[start - 2] == b'\\' && b"nrt".contains(&text[start - 1]))
        {
            return None;
        }
        let secret = regex.captures(&text[start..])?.get(1)?;
        if entropy(secret.as_bytes()) < self.entropy {
            return None;
        }
        let at = secret.start() + start..secret.end() + start;
        Some(Span { at, rule: self.name })
    }
}
