//! What is left of an agent's findings when each claim is held against the evidence that it cites.
//! Pure: code, not the agent, settles what becomes part of the record.
//!
//! A claim stays when it cites evidence, all that it cites is there, and, where it says what
//! happened, each number in it is one of the evidence's: exactly, or rounded as far as it is
//! written. What the evidence does not say is dropped and counted. The built-in diagnosis stands,
//! unless a cause and what is wrong with the diagnosis both stay.

use std::collections::HashMap;

use sensor_proto::json::escape;
use serde_json::Value;

use crate::{
    proto::{
        AccusedProcess, Claim, Evidence, Findings, FixLocation, Incident, Verdict,
        evidence::Content,
    },
    render::gathered,
};

/// By this name the incident's own numbers are cited: finding, culprit, tree, group, actions.
pub const INCIDENT: &str = "incident";

/// Characters of one claim: some sentences.
const TEXT_MAX: usize = 2_000;

/// Ids that one claim cites.
const CITED_MAX: usize = 16;

/// Parts of findings: what may be dropped.
const PARTS: usize = 7;

/// Ids that the findings cite, each once.
pub fn cited(findings: &Findings) -> Vec<String> {
    let claims = [
        &findings.cause,
        &findings.mechanism,
        &findings.remedy,
        &findings.prevention,
        &findings.refutation,
    ];
    let mut ids: Vec<String> = claims
        .into_iter()
        .flatten()
        .map(|claim| &claim.evidence)
        .chain(findings.culprit.as_ref().map(|culprit| &culprit.evidence))
        .chain(findings.fix_location.as_ref().map(|place| &place.evidence))
        .flat_map(|ids| ids.iter().take(CITED_MAX + 1))
        .filter(|id| *id != INCIDENT)
        .cloned()
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(PARTS * CITED_MAX);
    ids
}

/// What is left of findings about this incident. `evidence`: what there is of what they cite.
pub fn check(mut findings: Findings, incident: &Incident, evidence: &[Evidence]) -> Findings {
    let mut known: HashMap<&str, Facts> =
        evidence.iter().map(|piece| (piece.id.as_str(), Facts::of_piece(piece))).collect();
    known.insert(INCIDENT, Facts::of_incident(incident));
    let mut judge = Judge { known, dropped: Vec::new() };

    let asked = findings.verdict();
    // What is to be done is a proposal: its numbers are nobody's measurement.
    for (part, claim, is_fact) in [
        ("cause", &mut findings.cause, true),
        ("mechanism", &mut findings.mechanism, true),
        ("remedy", &mut findings.remedy, false),
        ("prevention", &mut findings.prevention, false),
        ("refutation", &mut findings.refutation, true),
    ] {
        judge.keep(part, claim, |judge, claim| judge.claim(claim, is_fact));
    }
    judge.keep("culprit", &mut findings.culprit, Judge::culprit);
    judge.keep("fix_location", &mut findings.fix_location, Judge::place);

    let refuted = findings.cause.is_some() && findings.refutation.is_some();
    findings.set_verdict(match asked {
        Verdict::Refutes if !refuted => Verdict::Unsupported,
        // Whoever says nothing about it has left it as it is.
        Verdict::Unspecified | Verdict::Unsupported => Verdict::Extends,
        asked => asked,
    });
    findings.confidence =
        if findings.confidence.is_finite() { findings.confidence.clamp(0.0, 1.0) } else { 0.0 };
    findings.dropped = judge.dropped.len() as u32;
    findings.dropped_why = judge.dropped;
    findings.at = None;
    findings
}

struct Judge<'a> {
    known: HashMap<&'a str, Facts>,
    dropped: Vec<String>,
}

impl Judge<'_> {
    /// Drops a part that does not withstand `check`, and says why.
    fn keep<T>(
        &mut self,
        part: &str,
        claim: &mut Option<T>,
        check: impl FnOnce(&Self, &mut T) -> Result<(), String>,
    ) {
        let Some(inner) = claim else { return };
        if let Err(why) = check(self, inner) {
            *claim = None;
            self.dropped.push(format!("{part}: {why}"));
        }
    }

    fn claim(&self, claim: &mut Claim, is_fact: bool) -> Result<(), String> {
        text(&mut claim.text)?;
        let facts = self.cited(&claim.evidence)?;
        if is_fact { numbers(&claim.text, &facts) } else { Ok(()) }
    }

    fn culprit(&self, culprit: &mut AccusedProcess) -> Result<(), String> {
        let facts = self.cited(&culprit.evidence)?;
        if culprit.pid == 0 || !facts.iter().any(|facts| facts.has(f64::from(culprit.pid), 0.0)) {
            return Err(format!("there is no process {} in what it cites", culprit.pid));
        }
        if culprit.text.trim().is_empty() {
            return Ok(());
        }
        text(&mut culprit.text)?;
        numbers(&culprit.text, &facts)
    }

    fn place(&self, place: &mut FixLocation) -> Result<(), String> {
        let facts = self.cited(&place.evidence)?;
        let path = place.path.trim();
        // As it stands in the JSON of evidence, in which it was read.
        let path = if facts.iter().any(|facts| facts.says(path)) {
            path.to_owned()
        } else {
            escape(path.as_bytes())
        };
        let naming: Vec<&&Facts> = facts.iter().filter(|facts| facts.says(&path)).collect();
        if path.is_empty() || path.len() > TEXT_MAX || naming.is_empty() {
            return Err("what it cites does not name this path".to_owned());
        }
        let line = u64::from(place.line);
        if line > 0 && !naming.iter().any(|facts| line <= facts.lines) {
            return Err(format!("no file that it cites has a line {line} that was read"));
        }
        place.path = path;
        Ok(())
    }

    /// What the cited pieces say, where all of them are there.
    fn cited(&self, ids: &[String]) -> Result<Vec<&Facts>, String> {
        if ids.is_empty() {
            return Err("it cites no evidence".to_owned());
        }
        if ids.len() > CITED_MAX {
            return Err(format!("it cites more than {CITED_MAX} pieces of evidence"));
        }
        let find = |id: &String| {
            let shown: String = id.chars().take(16).collect();
            let shown = escape(shown.as_bytes());
            self.known.get(id.as_str()).ok_or_else(|| format!("there is no evidence {shown}"))
        };
        ids.iter().map(find).collect()
    }
}

fn text(text: &mut String) -> Result<(), String> {
    let plain = text.trim();
    if plain.is_empty() {
        return Err("it says nothing".to_owned());
    }
    if plain.chars().count() > TEXT_MAX {
        return Err(format!("it is longer than {TEXT_MAX} characters"));
    }
    *text = plain.to_owned();
    Ok(())
}

fn numbers(text: &str, facts: &[&Facts]) -> Result<(), String> {
    for said in said(text) {
        let fits = |facts: &&Facts| said.fits(facts);
        if !facts.iter().any(fits) {
            return Err(format!("{} is not in what it cites", said.shown));
        }
    }
    Ok(())
}

/// Numbers and texts of a piece of evidence.
#[derive(Debug, Default)]
struct Facts {
    /// In order.
    numbers: Vec<f64>,
    texts: Vec<String>,
    /// Of a file, as far as it was read.
    lines: u64,
}

impl Facts {
    fn of_piece(piece: &Evidence) -> Self {
        let mut facts = Self::default();
        if let Some(Content::File(file)) = &piece.content {
            facts.lines = file.content.split(|byte| *byte == b'\n').count() as u64;
        }
        if let Some(Content::Text(text)) = &piece.content {
            // Not escaped: there a line's end would be `\x0a`, digits of its own.
            facts.text(&String::from_utf8_lossy(text));
        } else {
            facts.walk(&serde_json::to_value(piece).unwrap_or_default());
            // As whoever cites it has seen it: what is alike counted, times by the clock.
            if let Some((_, page)) = piece.content.as_ref().and_then(gathered::page) {
                facts.text(&page);
            }
        }
        facts.numbers.sort_unstable_by(f64::total_cmp);
        facts
    }

    /// Without what agents have said about it: nobody is one's own evidence.
    fn of_incident(incident: &Incident) -> Self {
        let mut facts = Self::default();
        let incident = Incident {
            diagnosis: None,
            investigations: Vec::new(),
            summary: String::new(),
            ..incident.clone()
        };
        facts.walk(&serde_json::to_value(&incident).unwrap_or_default());
        facts.numbers.sort_unstable_by(f64::total_cmp);
        facts
    }

    fn walk(&mut self, value: &Value) {
        match value {
            Value::Number(number) => self.numbers.extend(number.as_f64()),
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.numbers.push(items.len() as f64);
                // A command line as one would quote it.
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                if words.len() > 1 {
                    self.texts.push(words.join(" "));
                }
                for item in items {
                    self.walk(item);
                }
            }
            Value::Object(fields) => {
                for field in fields.values() {
                    self.walk(field);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if !bytes[at].is_ascii_digit() {
                at += 1;
                continue;
            }
            let (value, _, end) = number(text, at);
            self.numbers.extend(value);
            // The kernel's tables count in kB, by which it means KiB.
            if let Some(value) = value
                && text[end..].trim_start_matches(' ').starts_with("kB")
            {
                self.numbers.push(value * 1024.0);
            }
            at = end;
        }
        self.texts.push(text.to_owned());
    }

    /// Whether one of its numbers is as near to this one.
    fn has(&self, value: f64, tolerance: f64) -> bool {
        let slack = tolerance + value.abs() * 1e-9;
        let from = self.numbers.partition_point(|number| *number < value - slack);
        self.numbers.get(from).is_some_and(|number| *number <= value + slack)
    }

    fn says(&self, text: &str) -> bool {
        !text.is_empty() && self.texts.iter().any(|known| known.contains(text))
    }
}

/// A number as a claim says it.
#[derive(Debug, PartialEq)]
struct Said {
    shown: String,
    value: f64,
    /// Half of the last digit that is written.
    rounding: f64,
    /// By what it may have to be multiplied to be the evidence's: 1 where it has no unit.
    scales: &'static [f64],
    /// `line 5`
    line: bool,
}

impl Said {
    fn fits(&self, facts: &Facts) -> bool {
        let lines = self.line && self.value >= 1.0 && self.value <= facts.lines as f64;
        lines
            || self.scales.iter().any(|scale| facts.has(self.value * scale, self.rounding * scale))
    }
}

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;
const GIB: f64 = MIB * KIB;
const TIB: f64 = GIB * KIB;

/// Units, and what their numbers may be in evidence: bytes, or the same time in ns, µs, ms or s.
const UNITS: [(&str, &[f64]); 20] = [
    ("KiB", &[KIB, 1.0]),
    ("MiB", &[MIB, KIB, 1.0]),
    ("GiB", &[GIB, MIB, KIB, 1.0]),
    ("TiB", &[TIB, GIB, MIB, 1.0]),
    // Many write these and mean those.
    ("kB", &[KIB, 1e3, 1.0]),
    ("KB", &[KIB, 1e3, 1.0]),
    ("MB", &[MIB, 1e6, KIB, 1e3, 1.0]),
    ("GB", &[GIB, 1e9, MIB, 1e6, 1.0]),
    ("TB", &[TIB, 1e12, GIB, 1e9, 1.0]),
    ("ns", &[1.0, 1e-3, 1e-6, 1e-9]),
    ("us", &[1e3, 1.0, 1e-3, 1e-6]),
    ("µs", &[1e3, 1.0, 1e-3, 1e-6]),
    ("ms", &[1e6, 1e3, 1.0, 1e-3]),
    ("seconds", &[1e9, 1e6, 1e3, 1.0]),
    ("second", &[1e9, 1e6, 1e3, 1.0]),
    ("s", &[1e9, 1e6, 1e3, 1.0]),
    ("minutes", &[6e10, 6e4, 60.0, 1.0]),
    ("min", &[6e10, 6e4, 60.0, 1.0]),
    ("hours", &[3.6e12, 3.6e6, 3_600.0, 1.0]),
    ("h", &[3.6e12, 3.6e6, 3_600.0, 1.0]),
];

/// A share is one of 1 or of 100.
const PERCENT: &[f64] = &[1.0, 0.01];

/// The numbers that a text says. What is part of a name (`R1`, `e4`, `utf8`) is none.
fn said(text: &str) -> Vec<Said> {
    let mut found = Vec::new();
    let mut before = ' ';
    let mut skip = 0;
    for (at, character) in text.char_indices() {
        if at < skip {
            continue;
        }
        let in_name = before.is_alphanumeric() || before == '_';
        before = character;
        if !character.is_ascii_digit() {
            continue;
        }
        let (value, decimals, end) = number(text, at);
        skip = end;
        let rest = &text[end..];
        let Some(value) = value.filter(|_| !in_name) else { continue };
        let word: String =
            rest.trim_start_matches(' ').chars().take_while(|c| c.is_alphabetic()).collect();
        let touching: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
        // 1st, 0x1f.
        if ["st", "nd", "rd", "th"].contains(&touching.as_str())
            || (&text[at..end] == "0" && touching.starts_with('x'))
        {
            continue;
        }
        let scales = if rest.trim_start_matches(' ').starts_with('%') {
            PERCENT
        } else {
            UNITS.iter().find(|(unit, _)| *unit == word).map_or(&[1.0][..], |(_, scales)| scales)
        };
        let ahead = text[..at].trim_end();
        found.push(Said {
            shown: text[at..end].to_owned(),
            value,
            rounding: 0.5 * 10_f64.powi(-(decimals as i32)),
            scales,
            line: ["line", "lines", "Line"].iter().any(|word| ahead.ends_with(word)),
        });
    }
    found
}

/// The number that begins with the digit at `at`: its value (none of what has several points, as an
/// address or a version), its digits behind the point, and where it ends.
fn number(text: &str, at: usize) -> (Option<f64>, u32, usize) {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let (mut digits, mut points, mut decimals, mut end) = (String::new(), 0, 0, at);
    loop {
        match bytes.get(end) {
            Some(byte) if byte.is_ascii_digit() => {
                digits.push(char::from(*byte));
                decimals += u32::from(points > 0);
            }
            Some(b'.') if digit(end + 1) => {
                digits.push('.');
                points += 1;
            }
            // 1,234: three digits and no more.
            Some(b',')
                if points == 0 && (1..=3).all(|more| digit(end + more)) && !digit(end + 4) => {}
            _ => break,
        }
        end += 1;
    }
    let value = if points > 1 { None } else { digits.parse().ok() };
    (value, decimals, end)
}

#[cfg(test)]
mod tests;
