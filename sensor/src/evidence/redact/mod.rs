//! Secrets are replaced at the entrance, before anything is stored, streamed or shown to an agent.
//!
//! Keyword prefilter → regex → entropy, as gitleaks does it, plus names that make their value a
//! secret. What was replaced leaves `[redacted:RULE:HASH]` with a keyed hash: two equal secrets stay
//! recognisable as equal within one log, and nobody without the key can try candidates.

mod rules;

use std::{hash::Hasher as _, ops::Range};

use siphasher::sip::SipHasher24;

use self::rules::{
    COMPILED, Check, entropy, is_harmless, is_reference, is_secret_name, is_version,
};

/// Text beyond is cut off, with the token that the cut may have halved. Twice what a single argument
/// can have (128 KiB, `MAX_ARG_STRLEN`), four times what is read of a file.
pub const TEXT_LIMIT: usize = 256 << 10;

/// Replacements in one text; what follows the last one is replaced as a whole. A marker is at most
/// 40 bytes, so a text grows by at most 20 KiB.
const REPLACEMENTS: usize = 512;

/// A replacement can uncover the beginning of another token. Seen in random tests: two passes.
const PASSES: usize = 4;

/// How far back the token that a cut halved is searched.
const TOKEN: usize = 4096;

/// A secret in a text.
struct Span {
    at: Range<usize>,
    rule: &'static str,
}

/// Replaces secrets. Cheap to clone.
#[derive(Clone)]
pub struct Redactor {
    hasher: SipHasher24,
}

impl Redactor {
    /// The key must be random, and stay the same for as long as hashes are to be compared.
    pub fn new(key: [u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(&key) }
    }

    /// With a key that nobody knows and that ends with the process.
    pub fn with_random_key() -> Self {
        Self::new(uuid::Uuid::new_v4().into_bytes())
    }

    /// `text` with its secrets replaced, and how many there were.
    pub fn text(&self, text: &[u8]) -> (Vec<u8>, u32) {
        let mut text = cut(text).to_vec();
        let mut count = 0;
        for _ in 0..PASSES {
            let spans = spans(&text);
            if spans.is_empty() {
                return (text, count);
            }
            let (replaced, more) = self.replace(&text, spans);
            text = replaced;
            count += more;
        }
        // Made to be unreadable: so be it.
        (self.marker("unstable", &text), count + 1)
    }

    /// A command line with its secrets replaced, and how many there were. Knows options whose value
    /// is the next argument.
    pub fn argv(&self, argv: &[Vec<u8>]) -> (Vec<Vec<u8>>, u32) {
        // By its redacted name, so that a second pass takes it for the same program.
        let first = argv.first().map(|first| self.text(first).0).unwrap_or_default();
        let program = program(&first, argv);
        let mut redacted = Vec::with_capacity(argv.len());
        let mut count = 0;
        let mut room = TEXT_LIMIT;
        let mut due = Due::Nothing;
        for (position, argument) in argv.iter().enumerate() {
            let Some(left) = room.checked_sub(argument.len() + 1) else {
                break;
            };
            room = left;
            let part = match std::mem::replace(&mut due, Due::Nothing) {
                Due::Whole if !argument.starts_with(b"--") => Some(0),
                Due::AfterColon => after_colon(argument),
                _ => None,
            };
            let is_script = position > 0 && takes_script(program, &argv[position - 1]);
            let part = part.or_else(|| (!is_script).then(|| inside(program, argument)).flatten());
            let (argument, more) = match part {
                Some(start) if start < argument.len() && !is_harmless(&argument[start..]) => {
                    let span = Span { at: start..argument.len(), rule: "option" };
                    self.replace(argument, outside_markers(argument, vec![span]))
                }
                _ => {
                    if position > 0 {
                        due = announced(program, argument);
                    }
                    self.text(argument)
                }
            };
            redacted.push(argument);
            count += more;
        }
        (redacted, count)
    }

    /// Spans are in order and do not touch each other.
    fn replace(&self, text: &[u8], spans: Vec<Span>) -> (Vec<u8>, u32) {
        let mut output = Vec::with_capacity(text.len() + 64);
        let mut end = 0;
        let mut count = 0;
        for span in spans {
            output.extend_from_slice(&text[end..span.at.start]);
            if count == REPLACEMENTS {
                output.extend(self.marker("too-many", &text[span.at.start..]));
                end = text.len();
                break;
            }
            output.extend(self.marker(span.rule, &text[span.at.clone()]));
            end = span.at.end;
            count += 1;
        }
        output.extend_from_slice(&text[end..]);
        (output, count as u32)
    }

    fn marker(&self, rule: &str, secret: &[u8]) -> Vec<u8> {
        let mut hasher = self.hasher;
        hasher.write(secret);
        format!("[redacted:{rule}:{:08x}]", hasher.finish() as u32).into_bytes()
    }
}

/// Stands for a program whose `login` takes a password by `-p`, where `run` takes a port.
const LOGIN: &[u8] = b" login";

/// The name by which options are understood.
fn program<'a>(first: &'a [u8], argv: &[Vec<u8>]) -> &'a [u8] {
    let name = basename(first);
    let logs_in = || argv.iter().skip(1).take(3).any(|argument| argument == b"login");
    match name {
        b"docker" | b"podman" | b"nerdctl" | b"helm" | b"skopeo" if logs_in() => LOGIN,
        _ => name,
    }
}

/// What the next argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// A secret.
    Whole,
    /// A name, a colon and a secret.
    AfterColon,
}

/// What an argument announces: `--password`, and `-p` where the program means that by it.
fn announced(program: &[u8], argument: &[u8]) -> Due {
    let Some(name) = argument.strip_prefix(b"-") else {
        return Due::Nothing;
    };
    let name = name.strip_prefix(b"-").unwrap_or(name);
    match (program, argument) {
        (b"curl", b"-u" | b"--user" | b"-U" | b"--proxy-user") => Due::AfterColon,
        (b"sshpass" | b"mongo" | b"mongosh" | LOGIN, b"-p")
        | (b"redis-cli", b"-a")
        | (b"zip" | b"unzip", b"-P") => Due::Whole,
        (program, b"-w") if program.starts_with(b"ldap") => Due::Whole,
        _ if name.len() > 1 && is_plain(name) && is_secret_name(name) => Due::Whole,
        _ => Due::Nothing,
    }
}

/// Where the secret begins that an argument carries after a name or an option of its own.
fn inside(program: &[u8], argument: &[u8]) -> Option<usize> {
    let attached: &[u8] = match program {
        _ if program.starts_with(b"mysql") || program.starts_with(b"mariadb") => b"-p",
        b"sshpass" | b"7z" | b"7za" | b"7zz" | b"mongo" | b"mongosh" => b"-p",
        b"openssl" => b"pass:",
        b"curl" if argument.starts_with(b"-u") => return after_colon(argument),
        _ => b"",
    };
    if !attached.is_empty() && argument.len() > attached.len() && argument.starts_with(attached) {
        return Some(attached.len());
    }
    // The shell is done with this: all that follows the sign is the value.
    let sign = argument.iter().take(130).position(|byte| *byte == b'=')?;
    let name = argument[..sign].strip_prefix(b"-").unwrap_or(&argument[..sign]);
    let name = name.strip_prefix(b"-").unwrap_or(name);
    (is_plain(name) && is_secret_name(name)).then_some(sign + 1)
}

/// Whether the argument after `option` is a command line of its own.
fn takes_script(program: &[u8], option: &[u8]) -> bool {
    const SHELLS: [&[u8]; 8] = [b"sh", b"bash", b"dash", b"ash", b"zsh", b"ksh", b"busybox", b"su"];
    SHELLS.contains(&program) && option.starts_with(b"-") && option.ends_with(b"c")
}

fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// Behind the first colon that is none of a marker's.
fn after_colon(argument: &[u8]) -> Option<usize> {
    let colon = |from: usize, to: usize| {
        argument[from..to].iter().position(|byte| *byte == b':').map(|at| from + at + 1)
    };
    let mut from = 0;
    for marker in COMPILED.marker.find_iter(argument) {
        if let Some(found) = colon(from, marker.start()) {
            return Some(found);
        }
        from = marker.end();
    }
    colon(from, argument.len())
}

fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// All secrets of a text, in order, not touching each other, and none within a marker.
fn spans(text: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for (rule, regex) in COMPILED.candidates(text) {
        for found in regex.captures_iter(text) {
            // Each pattern has exactly one group that takes part.
            let Some(secret) = found.iter().skip(1).flatten().next() else {
                continue;
            };
            if let Check::Entropy(floor) = rule.check
                && entropy(secret.as_bytes()) < floor
            {
                continue;
            }
            spans.push(Span { at: secret.range(), rule: rule.name });
        }
    }
    spans.extend(named(text));
    // Stable: of two that begin at one place, the more specific rule comes first and gives the name.
    spans.sort_by_key(|span| span.at.start);
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        if span.at.is_empty() {
            continue;
        }
        match merged.last_mut() {
            Some(last) if span.at.start <= last.at.end => {
                last.at.end = last.at.end.max(span.at.end);
            }
            _ => merged.push(span),
        }
    }
    outside_markers(text, merged)
}

/// Values whose name says that they are secret.
fn named(text: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for (regex, is_option) in [(&COMPILED.assignment, false), (&COMPILED.option, true)] {
        let mut from = 0;
        while let Some(found) = regex.captures_at(text, from) {
            let (Some(whole), Some(name)) = (found.get(0), found.name("name")) else {
                break;
            };
            // The value may hold names of its own.
            from = name.end();
            if !is_secret_name(name.as_bytes()) {
                continue;
            }
            let quote = found.name("quote").map(|quote| quote.as_bytes()[0]);
            let start = whole.end();
            let rest = &text[start..];
            let colon = found.name("sep").is_some_and(|sep| sep.as_bytes() == b":");
            // A bare word after a colon is a type or a script's name. These questions come before
            // the value is measured, or a text of nothing else would be read once for each.
            let bare = quote.is_none() && (colon || (is_option && rest.starts_with(b"-")));
            if bare || is_reference(rest) {
                continue;
            }
            let value = value(rest, quote);
            // With blanks it is a command line, the script of a package.json.
            if colon && (value.iter().any(u8::is_ascii_whitespace) || is_version(value)) {
                continue;
            }
            if !is_harmless(value) {
                let rule = if is_option { "option" } else { "value" };
                spans.push(Span { at: start..start + value.len(), rule });
                // Nothing inside needs a second look, and a text of one endless value is read once.
                from = start + value.len();
            }
        }
    }
    spans
}

/// The value at the beginning of `text`: up to the quote that ends it, or to what ends a word.
fn value(text: &[u8], quote: Option<u8>) -> &[u8] {
    let end = text.iter().position(|byte| match quote {
        Some(quote) => *byte == quote || *byte == b'\n',
        None => byte.is_ascii_whitespace() || b"'\"`;|&".contains(byte),
    });
    &text[..end.unwrap_or(text.len())]
}

/// Leaves out of each span what was replaced before.
fn outside_markers(text: &[u8], spans: Vec<Span>) -> Vec<Span> {
    let markers: Vec<Range<usize>> =
        COMPILED.marker.find_iter(text).map(|marker| marker.range()).collect();
    if markers.is_empty() {
        return spans;
    }
    let mut outside = Vec::with_capacity(spans.len());
    let mut first = 0;
    for Span { at, rule } in spans {
        let mut start = at.start;
        while first < markers.len() && markers[first].end <= start {
            first += 1;
        }
        for marker in markers[first..].iter().take_while(|marker| marker.start < at.end) {
            if start < marker.start {
                outside.push(Span { at: start..marker.start, rule });
            }
            start = start.max(marker.end);
        }
        if start < at.end {
            outside.push(Span { at: start..at.end, rule });
        }
    }
    outside
}

/// Bounded; without the token that the cut halved, which no rule would know any more.
fn cut(text: &[u8]) -> &[u8] {
    let Some(head) = text.get(..TEXT_LIMIT).filter(|head| head.len() < text.len()) else {
        return text;
    };
    let tail = &head[TEXT_LIMIT - TOKEN..];
    match tail.iter().rposition(u8::is_ascii_whitespace) {
        Some(blank) => &head[..=TEXT_LIMIT - TOKEN + blank],
        None => head,
    }
}

#[cfg(test)]
mod tests;
