//! One pass over a text finds every place where a secret may be.

use std::{ops::Range, sync::LazyLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::bytes::Regex;

use super::{
    Span, names,
    programs::{self, PROGRAMS},
    rules::RULES,
    tokens::TOKENS,
    without,
};

/// What a keyword begins.
#[derive(Clone, Copy)]
enum Owner {
    /// What was replaced before.
    Marker,
    Token(usize, &'static str),
    Rule(usize),
    Program(usize),
    Name,
}

/// Keywords and patterns, compiled once.
struct Compiled {
    keywords: AhoCorasick,
    owners: Vec<Owner>,
    regexes: Vec<Regex>,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(compile);

/// Begins what was replaced.
const MARK: &str = "[redacted:";

#[expect(clippy::expect_used, reason = "constant keywords; every test compiles them")]
fn compile() -> Compiled {
    let mut all: Vec<(&'static str, Owner)> = vec![(MARK, Owner::Marker)];
    for (at, token) in TOKENS.iter().enumerate() {
        all.extend(token.prefixes.iter().map(|prefix| (*prefix, Owner::Token(at, prefix))));
    }
    all.extend(RULES.iter().enumerate().map(|(at, rule)| (rule.keyword, Owner::Rule(at))));
    all.extend(programs::keywords().map(|(at, name)| (name, Owner::Program(at))));
    all.extend(names::WORDS.map(|word| (word, Owner::Name)));
    Compiled {
        keywords: AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .ascii_case_insensitive(true)
            .build(all.iter().map(|(keyword, _)| keyword))
            .expect("some hundred short keywords"),
        owners: all.into_iter().map(|(_, owner)| owner).collect(),
        regexes: RULES.iter().map(super::rules::Rule::compile).collect(),
    }
}

/// All secrets of a text, in order, not touching each other, and none within a marker.
pub(super) fn spans(text: &[u8]) -> Vec<Span> {
    let compiled = &*COMPILED;
    let mut spans: Vec<Span> = Vec::new();
    let mut markers: Vec<Range<usize>> = Vec::new();
    let mut commands = Vec::new();
    // What was looked at to its end: within a marker, a name with its value, a form, nothing else begins.
    let mut marked = 0;
    let mut named = 0;
    let mut formed = [0; RULES.len()];
    for hit in compiled.keywords.find_overlapping_iter(text) {
        let start = hit.start();
        if start < marked {
            continue;
        }
        match compiled.owners[hit.pattern().as_usize()] {
            Owner::Marker => {
                if let Some(end) = marker_end(text, start) {
                    markers.push(start..end);
                    marked = end;
                }
            }
            Owner::Token(at, prefix) => spans.extend(TOKENS[at].at(text, start, prefix)),
            Owner::Rule(at) => {
                if start >= formed[at]
                    && let Some(span) = RULES[at].at(&compiled.regexes[at], text, start)
                {
                    formed[at] = span.at.end;
                    // All of a form's text is secret, and ends where values do.
                    named = named.max(span.at.end);
                    spans.push(span);
                }
            }
            Owner::Program(at) => {
                programs::in_text(&PROGRAMS[at], text, start, &mut commands);
                spans.extend(commands.drain(..).map(|at| Span { at, rule: "option" }));
            }
            Owner::Name => {
                if start >= named {
                    let (end, span) = names::at(text, hit.range());
                    named = end;
                    spans.extend(span);
                }
            }
        }
    }
    if spans.is_empty() {
        return spans;
    }
    // Stable: of two that begin at one place, the more specific one was found first and gives the name.
    spans.retain(|span| !span.at.is_empty());
    spans.sort_by_key(|span| span.at.start);
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.at.start <= last.at.end => {
                last.at.end = last.at.end.max(span.at.end);
            }
            _ => merged.push(span),
        }
    }
    without(&markers, merged)
}

/// Where a text has been redacted before.
pub(super) fn markers(text: &[u8]) -> Vec<Range<usize>> {
    let mut markers = Vec::new();
    let mut at = 0;
    while let Some(found) = find(&text[at..], MARK.as_bytes()) {
        let start = at + found;
        at = marker_end(text, start).map_or(start + 1, |end| {
            markers.push(start..end);
            end
        });
    }
    markers
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// The end of `[redacted:RULE:HASH]`, if that is what begins at `start`.
fn marker_end(text: &[u8], start: usize) -> Option<usize> {
    let rest = text[start..].strip_prefix(MARK.as_bytes())?;
    let rule =
        rest.iter().take(21).take_while(|byte| byte.is_ascii_lowercase() || **byte == b'-').count();
    let hash = rest.get(rule..rule + 10)?;
    let digits = &hash[1..9];
    let is_marker = (2..=20).contains(&rule)
        && hash[0] == b':'
        && hash[9] == b']'
        && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_marker.then_some(start + MARK.len() + rule + 10)
}
