//! Names that make their value a secret: `GITHUB_TOKEN=`, `"dbPassword": "`, `--api-key `, `<password>`.

use std::ops::Range;

use super::{Span, entropy};

/// Words by which a name may be a secret's; all are looked for in one pass over a text.
pub(super) const WORDS: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
    "pass",
    "pwd",
    "pw",
    "secret",
    "token",
    "key",
    "credential",
    "creds",
    "auth",
    "pat",
    "cookie",
    "connectionstring",
];

/// Ends of a word that make what it names a secret.
const SECRET_WORDS: [&str; 25] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
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
    "creds",
    "auth",
    "key",
    "pat",
    "cookie",
    "connectionstring",
    "authkey",
];

/// Of those, the ones that are too short or too common to count at the end of a longer word
/// (`bypass`, `keypath`, `oauth`): the word itself only.
const WHOLE_WORDS: [&str; 5] = ["pass", "pw", "auth", "pat", "cookie"];

/// What must stand before `key` to make it a secret one: `API_KEY`, but not `--key left`.
const KEY_OWNERS: [&str; 17] = [
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
    "auth",
    "admin",
    "client",
];

/// A last word that makes a name speak about a secret instead of holding it: `TOKEN_FILE`.
const ABOUT: [&str; 47] = [
    "local",
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
    "names",
    "id",
    "ids",
    "type",
    "kind",
    "length",
    "len",
    "count",
    "size",
    "ttl",
    "age",
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
    "alias",
    "version",
    "format",
    "ref",
    "index",
    "stdin",
];

/// A first word that makes a name count secrets or say something about them: `MAX_TOKENS`, `NO_AUTH`.
const COUNTS: [&str; 12] = [
    "max", "min", "num", "n", "total", "count", "no", "without", "skip", "disable", "invalid",
    "public",
];

/// Bytes of a value by which it is judged: a text of nothing but values that are none is not read to its
/// end for each of them.
const JUDGED: usize = 128;

/// Bytes of a name on each side of the word that is looked for.
const REACH: usize = 128;

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

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

/// What stands between a name and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// `=`, `:=`, `=>`: what follows is the value.
    Equals,
    /// `:`: what follows may as well be a type, a script's name, a sentence.
    Colon,
    /// `"name", "`: arguments of a call.
    Comma,
    /// `<name>`: up to the next tag.
    Tag,
    /// `--name `: the next word.
    Blank,
    /// `key="name" value="`: an attribute of its own.
    Attribute,
}

/// The name around the word at `hit`, and the secret under it, if there is one. Nothing within the name
/// needs a second look.
pub(super) fn at(text: &[u8], hit: Range<usize>) -> (usize, Option<Span>) {
    let back =
        text[..hit.start].iter().rev().take(REACH).take_while(|byte| is_name(**byte)).count();
    let forth = text[hit.end..].iter().take(REACH).take_while(|byte| is_name(**byte)).count();
    let (start, end) = (hit.start - back, hit.end + forth);
    // Cheap before dear: most names have no value, and most words that look like ours are none.
    let Some((sign, quote, from)) = sign(text, start, end) else { return (end, None) };
    let name = text[start..end].trim_ascii_start();
    let name = &name[name.iter().take_while(|byte| b"-._".contains(byte)).count()..];
    if !is_secret_name(name) {
        return (end, None);
    }
    let rest = &text[from..];
    if is_reference(rest) || (sign == Sign::Blank && rest.starts_with(b"-")) {
        return (end, None);
    }
    let head = value(&rest[..rest.len().min(JUDGED)], quote, sign);
    if is_harmless(head) || !counts(name, head, sign, quote.is_some()) {
        return (end, None);
    }
    let value = value(rest, quote, sign);
    let rule = if sign == Sign::Blank { "option" } else { "value" };
    // Nothing inside needs a second look, and a text of one endless value is read once.
    (from + value.len(), Some(Span { at: from..from + value.len(), rule }))
}

/// The sign behind the name, the quote that opens the value, and where the value begins.
fn sign(text: &[u8], start: usize, end: usize) -> Option<(Sign, Option<u8>, usize)> {
    let mut at = end;
    let mut closed = quote(text, &mut at).is_some();
    // `config['password'] = `, `name} = `
    while closed && matches!(text.get(at), Some(b']' | b')')) {
        at += 1;
        closed = true;
    }
    let direct = at;
    at += blanks(&text[at..]);
    let rest = &text[at..];
    let (sign, length) = match rest.first()? {
        b'=' if rest.starts_with(b"==")
            && !rest.starts_with(b"===")
            && rest.len() > 2
            && rest[2].is_ascii_whitespace() =>
        {
            return None;
        }
        b'=' if rest.starts_with(b"=>") => (Sign::Equals, 2),
        b'=' => (Sign::Equals, 1),
        b':' => {
            let colons = rest.iter().take_while(|byte| **byte == b':').count();
            match rest.get(colons) {
                Some(b'=') if colons <= 3 => (Sign::Equals, colons + 1),
                _ if colons == 1 => (Sign::Colon, 1),
                _ => return None,
            }
        }
        b'+' | b'?' | b'.' if rest.get(1) == Some(&b'=') => (Sign::Equals, 2),
        b',' if closed && is_listed(text, start) => (Sign::Comma, 1),
        b'>' if at == end && start > 0 && text[start - 1] == b'<' => (Sign::Tag, 1),
        b'v' if closed && rest.starts_with(b"value=") => (Sign::Attribute, 6),
        _ if at > direct && !closed && is_option(text, start) => (Sign::Blank, 0),
        // Go and Kotlin: `var token string = "…"`.
        b's' if at > direct && rest.starts_with(b"string") => {
            let after = 6 + blanks(&rest[6..]);
            (rest.get(after) == Some(&b'=')).then_some((Sign::Equals, after + 1))?
        }
        _ => return None,
    };
    at += length;
    at += blanks(&text[at..]);
    if sign == Sign::Tag {
        at += text[at..].iter().take(64).take_while(|byte| byte.is_ascii_whitespace()).count();
    }
    let quote = quote(text, &mut at);
    match (sign, quote) {
        (Sign::Comma | Sign::Attribute, None) => None,
        _ => Some((sign, quote, at)),
    }
}

/// A quote at `at`, which may be escaped as in a string that holds JSON; `at` is behind it then.
fn quote(text: &[u8], at: &mut usize) -> Option<u8> {
    let escaped = usize::from(text.get(*at) == Some(&b'\\'));
    let quote = *text.get(*at + escaped).filter(|byte| b"'\"`".contains(byte))?;
    *at += escaped + 1;
    Some(quote)
}

fn blanks(text: &[u8]) -> usize {
    text.iter().take(8).take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// Whether the name is written as an option, at the beginning of a word.
fn is_option(text: &[u8], start: usize) -> bool {
    let before = start.checked_sub(1).map(|at| text[at]);
    text[start] == b'-'
        && before.is_none_or(|byte| byte.is_ascii_whitespace() || b"'\"".contains(&byte))
}

/// Whether the name is the first argument of a call, or an option in a list: `("TOKEN", "…")`,
/// `["--password", "…"]`.
fn is_listed(text: &[u8], start: usize) -> bool {
    let before = |back: usize| start.checked_sub(back).map(|at| text[at]);
    matches!(before(1), Some(b'\'' | b'"' | b'`'))
        && (before(2) == Some(b'(') || text[start] == b'-')
}

/// The value at the beginning of `text`: up to the quote that ends it, or to what ends a word.
fn value(text: &[u8], quote: Option<u8>, sign: Sign) -> &[u8] {
    let end = text.iter().position(|byte| match (quote, sign) {
        (Some(quote), _) => *byte == quote || *byte == b'\n',
        (None, Sign::Tag) => matches!(byte, b'<' | b'\n'),
        (None, _) => byte.is_ascii_whitespace() || b"'\"`;|&".contains(byte),
    });
    let value = &text[..end.unwrap_or(text.len())];
    // The backslash belongs to the quote behind it.
    match quote {
        Some(_) => value.strip_suffix(b"\\").unwrap_or(value),
        // A line's end as a string of JSON has it.
        None => value.windows(2).position(|pair| pair == b"\\n").map_or(value, |end| &value[..end]),
    }
}

/// Whether a value after this sign is a secret, and not a type, a version, a script, a sentence.
fn counts(name: &[u8], value: &[u8], sign: Sign, quoted: bool) -> bool {
    let has_blank = value.iter().any(u8::is_ascii_whitespace);
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    // `tokens=1523`: they are counted.
    if name.to_ascii_lowercase().ends_with(b"s") && digits == value.len() {
        return false;
    }
    // `pwd=/home/x`.
    if name.to_ascii_lowercase().ends_with(b"pwd") && value.first() == Some(&b'/') {
        return false;
    }
    match sign {
        // A bare word: as a password would be, or as a token.
        // A header of one's own (`X-Api-Key: …`) is no sentence.
        Sign::Colon if !quoted && name.to_ascii_lowercase().starts_with(b"x-") => value.len() >= 4,
        Sign::Colon if !quoted => {
            let letters = value.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
            value.len() >= 8
                && digits > 0
                && letters > 0
                && entropy(value) >= 25
                && !is_version(value)
                && !matches!(value[0], b'/' | b'.' | b'(' | b'[' | b'<' | b'{')
                && !value.windows(3).any(|part| part == b"://")
        }
        // With blanks it is a command line, the script of a package.json.
        Sign::Colon | Sign::Comma => !has_blank && !is_version(value),
        Sign::Tag => !has_blank && !value.is_empty(),
        _ => true,
    }
}

/// Values that say nothing: hiding them only misleads.
pub(super) fn is_harmless(value: &[u8]) -> bool {
    const WORDS: [&str; 13] = [
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "none",
        "null",
        "nil",
        "undefined",
        "0",
        "1",
        "string",
    ];
    WORDS.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
        // `<your-password>` in a manual, and where somebody was here before us.
        || (value.starts_with(b"<") && value.ends_with(b">"))
        || value.iter().all(|byte| matches!(byte, b'*' | b'.' | b'-' | b'_'))
}

/// A reference to a variable or a command, as shells and templates write it, is not its value.
pub(super) fn is_reference(value: &[u8]) -> bool {
    value.starts_with(b"{{")
        || value.first() == Some(&b'$')
            && value.get(1).is_some_and(|next| b"({_".contains(next) || next.is_ascii_alphabetic())
}

/// A range of versions, as a package that is called `js-tokens` has it.
fn is_version(value: &[u8]) -> bool {
    let number = value.strip_prefix(b"^").or(value.strip_prefix(b"~")).unwrap_or(value);
    value == b"*"
        || (number.contains(&b'.')
            && number.iter().all(|byte| byte.is_ascii_digit() || b".x*".contains(byte)))
}
