//! Secrets are replaced at the entrance, before anything is stored, streamed or shown to an agent, and
//! once more at the exits, on the whole of a text, before anything is cut off.
//!
//! As gitleaks does it: one pass looks for keywords ([`scan`]); where one stands, a [token](tokens), a
//! [form](rules), a [name](names) or an [option](programs) is looked for, its entropy measured, and what says
//! nothing let through. What was replaced leaves `[redacted:RULE:HASH]` with a keyed hash: two equal
//! secrets stay recognisable as equal within one log, and nobody without the key can try candidates.
//! Everything is compiled once; a text costs a copy of itself, at most [`TEXT_LIMIT`] bytes.

mod names;
mod programs;
mod rules;
mod scan;
mod tokens;

use std::{collections::BTreeMap, hash::Hasher as _, ops::Range};

use siphasher::sip::SipHasher24;

use self::{
    names::{is_harmless, is_secret_name},
    programs::{Carries, Program, secret_part, takes_script},
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

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its key is a secret as well.
        f.write_str("Redactor")
    }
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
            let spans = scan::spans(&text);
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

    /// What somebody has named, a path or a task: escaped, with its secrets replaced. Two equal names stay equal.
    pub fn name(&self, name: &[u8]) -> String {
        sensor_proto::json::escape(&self.text(name).0)
    }

    /// The same of what can be printed as it is.
    pub fn line(&self, line: &str) -> String {
        String::from_utf8_lossy(&self.text(line.as_bytes()).0).into_owned()
    }

    /// A command line with its secrets replaced, and how many there were. Knows options whose value
    /// is the next argument.
    pub fn argv(&self, argv: &[Vec<u8>]) -> (Vec<Vec<u8>>, u32) {
        // By its redacted name, so that a second pass takes it for the same program.
        let first = argv.first().map(|first| self.text(first).0).unwrap_or_default();
        let program = programs::of(&first, argv);
        let mut redacted: Vec<Vec<u8>> = Vec::with_capacity(argv.len());
        let mut count = 0;
        let mut room = TEXT_LIMIT;
        let mut due = None;
        // Arguments until a secret behind a verb.
        let mut wait = 0;
        for (position, argument) in argv.iter().enumerate() {
            let Some(left) = room.checked_sub(argument.len() + 1) else {
                break;
            };
            room = left;
            // As redacted, for the same reason.
            let is_script = redacted.last().is_some_and(|before| takes_script(&first, before));
            let part = match due.take() {
                Some(Carries::Whole) if !argument.starts_with(b"--") => Some(0),
                Some(Carries::Pair) => after_sign(argument),
                _ if wait == 1 => Some(0),
                _ if is_script || position == 0 => None,
                _ => inside(program, argument),
            };
            wait = match program {
                Some(program) if program.is_verb(argument) => 2,
                _ => usize::saturating_sub(wait, 1),
            };
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

/// What an argument announces: `--password`, and `-p` where the program means that by it.
fn announced(program: Option<&Program>, argument: &[u8]) -> Option<Carries> {
    if let Some(carries) = program.and_then(|program| program.announced(argument)) {
        return Some(carries);
    }
    let name = argument.strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    (name.len() > 1 && is_plain(name) && is_secret_name(name)).then_some(Carries::Whole)
}

/// Where the secret begins that an argument carries after a name or an option of its own.
fn inside(program: Option<&Program>, argument: &[u8]) -> Option<usize> {
    if let Some((from, carries)) = program.and_then(|program| program.attached(argument)) {
        return secret_part(&argument[from..], carries).map(|part| from + part);
    }
    // The shell is done with this: all that follows the sign is the value.
    let sign = argument.iter().take(130).position(|byte| *byte == b'=')?;
    let name = argument[..sign].strip_prefix(b"-").unwrap_or(&argument[..sign]);
    let name = name.strip_prefix(b"-").unwrap_or(name);
    (is_plain(name) && is_secret_name(name)).then_some(sign + 1)
}

fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// Behind the first colon or per cent sign that is none of a marker's.
fn after_sign(argument: &[u8]) -> Option<usize> {
    let markers = scan::markers(argument);
    let is_free = |at: &usize| !markers.iter().any(|marker| marker.contains(at));
    let signs = argument.iter().enumerate().filter(|(_, byte)| b":%".contains(byte));
    signs.map(|(at, _)| at).find(is_free).map(|at| at + 1)
}

/// Leaves out of each span what was replaced before.
fn outside_markers(text: &[u8], spans: Vec<Span>) -> Vec<Span> {
    without(&scan::markers(text), spans)
}

/// Leaves these ranges, in order, out of the spans, in order.
fn without(markers: &[Range<usize>], spans: Vec<Span>) -> Vec<Span> {
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

/// Shannon entropy in bits a byte, times ten.
fn entropy(bytes: &[u8]) -> u32 {
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

/// How many secrets each rule has replaced in a text, by the marks that are left.
pub fn replaced(text: &[u8]) -> BTreeMap<String, u32> {
    let mut rules = BTreeMap::new();
    for marker in scan::markers(text) {
        let rule = text[marker].split(|byte| *byte == b':').nth(1).unwrap_or_default();
        *rules.entry(String::from_utf8_lossy(rule).into_owned()).or_default() += 1;
    }
    rules
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
mod corpus;
#[cfg(test)]
mod tests;
