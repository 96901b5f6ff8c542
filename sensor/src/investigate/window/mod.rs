//! The evidence window: all that is known about an incident in one document that fits into a model's
//! attention, most telling first, with what was left out counted.
//!
//! It is what a `command` gets beside the raw evidence, and what `sensor show --markdown` prints. Facts
//! stand in sections, free text in blocks behind them, as [`crate::render`] has it. [`pieces`] says what is
//! told, and how telling it is; here it is fitted.

mod pieces;
mod tokens;

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::{Value, json};

pub use self::tokens::estimate;
use crate::{
    evidence::{Redactor, redact},
    present::text::count,
    proto,
    render::{Excerpt, Facts, Marker, Reference, Rendering},
};

/// What a window may take unless somebody says otherwise, tokens. Models take ten times that; what is
/// longer is read less well, and paid for in every turn of an agent.
pub const DEFAULT_TOKENS: usize = 12_000;

/// Less, and hardly more than the headline fits between rules and titles.
pub const LEAST_TOKENS: usize = 2_000;

/// Kept back for titles, the block's lines and the list of what was left out.
const FRAME: usize = 600;

/// Parts of the window, in the order in which they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Incident,
    Finding,
    Diagnosis,
    Chain,
    Files,
    Actions,
    Processes,
    Evidence,
    Recorder,
    Investigations,
}

impl Section {
    const fn title(self) -> &'static str {
        match self {
            Self::Incident => "Incident",
            Self::Finding => "What was measured",
            Self::Diagnosis => "The built-in diagnosis",
            Self::Chain => "From the culprit down",
            Self::Files => "Files of the project",
            Self::Actions => "What was done",
            Self::Processes => "The culprit's processes",
            Self::Evidence => "Other evidence",
            Self::Recorder => "The minutes before",
            Self::Investigations => "Earlier investigations",
        }
    }
}

/// One line of facts, and the texts that it refers to.
#[derive(Debug)]
struct Item {
    section: Section,
    /// The less, the more telling.
    rank: u32,
    facts: Facts,
    /// Bytes that one of its texts may show.
    cap: usize,
    /// The end of a text tells more than its beginning: logs.
    from_end: bool,
}

/// An incident and its evidence, fitted.
#[derive(Clone, Debug)]
pub struct Window {
    incident: String,
    marker: Marker,
    rules: String,
    sections: Vec<(Section, Vec<Facts>)>,
    excerpts: Vec<Excerpt>,
    blocks: Vec<String>,
    /// Items of each section that did not fit.
    left_out: BTreeMap<Section, usize>,
    /// Texts of which a part is shown, and bytes of them that are not.
    cut: usize,
    cut_bytes: usize,
    /// Secrets by the rule that replaced them, in what is shown.
    replaced: BTreeMap<String, u32>,
    pub budget: usize,
}

impl Window {
    /// Fits what is known into `budget` tokens (at least [`LEAST_TOKENS`]).
    pub fn fit(
        incident: &proto::Incident,
        evidence: &[proto::Evidence],
        redactor: &Redactor,
        marker: Marker,
        budget: usize,
    ) -> Self {
        let budget = budget.max(LEAST_TOKENS);
        let mut rendering = Rendering::new(marker.clone(), redactor.clone());
        let mut items = pieces::of(incident, evidence, &mut rendering);
        // Stable: of equally telling ones the first stays first.
        items.sort_by_key(|item| item.rank);
        let rules = rendering.rules();
        let mut room = budget.saturating_sub(FRAME + estimate(&rules));
        let mut shown: BTreeMap<u32, Excerpt> = BTreeMap::new();
        let mut chosen: BTreeMap<Section, Vec<Facts>> = BTreeMap::new();
        let mut left_out: BTreeMap<Section, usize> = BTreeMap::new();
        for item in items {
            let line = item.facts.line();
            // Its dash and its end.
            let cost = estimate(&line) + 2;
            let texts = texts_of(&item, &rendering, &shown, room.saturating_sub(cost));
            let Some((texts, more)) = texts.filter(|(_, more)| cost + more <= room) else {
                *left_out.entry(item.section).or_default() += 1;
                continue;
            };
            room -= cost + more;
            shown.extend(texts.into_iter().map(|text| (text.reference.number(), text)));
            chosen.entry(item.section).or_default().push(item.facts);
        }
        let excerpts: Vec<Excerpt> = shown.into_values().collect();
        let mut replaced: BTreeMap<String, u32> = BTreeMap::new();
        for excerpt in &excerpts {
            for (rule, count) in redact::replaced(excerpt.text.as_bytes()) {
                *replaced.entry(rule).or_default() += count;
            }
        }
        let hidden = |excerpt: &Excerpt| {
            excerpt.reference.bytes().saturating_sub(excerpt.upto - excerpt.from.min(excerpt.upto))
        };
        let cut: Vec<usize> = excerpts.iter().map(hidden).filter(|bytes| *bytes > 0).collect();
        Self {
            incident: pieces::id(&incident.id).as_str().to_owned(),
            rules,
            sections: chosen.into_iter().collect(),
            blocks: excerpts.iter().map(|one| rendering.block(std::slice::from_ref(one))).collect(),
            left_out,
            cut: cut.len(),
            cut_bytes: cut.iter().sum(),
            replaced,
            budget,
            excerpts,
            marker,
        }
    }

    /// As one document for a reader, in Markdown: what stands in a block cannot end it.
    pub fn markdown(&self) -> String {
        let mut page = format!("# Incident {}\n\n{}\n", self.incident, self.rules);
        for (section, lines) in &self.sections {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(page, "\n## {}\n", section.title());
            for facts in lines {
                let _ = writeln!(page, "- {}", facts.line());
            }
        }
        if !self.excerpts.is_empty() {
            page.push_str("\n## Texts\n\n```text\n");
            page.push_str(&crate::render::block(&self.marker, &self.excerpts));
            page.push_str("```\n");
        }
        let _ = writeln!(page, "\n## Left out\n\n{}", self.omissions());
        page
    }

    /// What is not in it, in a sentence each.
    fn omissions(&self) -> String {
        let mut said: Vec<String> = self
            .left_out
            .iter()
            .map(|(section, left)| {
                let more = count(*left as u64, "more line", "more lines");
                format!("- {}: {more}", section.title())
            })
            .collect();
        if self.cut > 0 {
            said.push(format!(
                "- {} cut: {} not shown",
                count(self.cut as u64, "text is", "texts are"),
                count(self.cut_bytes as u64, "byte of them is", "bytes of them are"),
            ));
        }
        if !self.replaced.is_empty() {
            // More rules than that in one window have not been seen.
            let rules = self.replaced.iter().take(12);
            let rules: Vec<String> =
                rules.map(|(rule, count)| format!("{count} by {rule}")).collect();
            said.push(format!("- secrets that were replaced: {}", rules.join(", ")));
        }
        if said.is_empty() { "- nothing".to_owned() } else { said.join("\n") }
    }

    /// Of the Markdown document; never more than the budget.
    pub fn tokens(&self) -> usize {
        estimate(&self.markdown())
    }

    /// The same for a program: facts as values, each text in a block of its own (docs/schema/window.json).
    pub fn json(&self) -> Value {
        let sections: Vec<Value> = self
            .sections
            .iter()
            .map(|(section, lines)| {
                let facts: Vec<Value> = lines.iter().map(Facts::json).collect();
                json!({"title": section.title(), "facts": facts})
            })
            .collect();
        let texts: Vec<Value> = self
            .excerpts
            .iter()
            .zip(&self.blocks)
            .map(|(excerpt, block)| {
                let reference: Reference = excerpt.reference;
                json!({
                    "ref": reference.name(),
                    "kind": reference.kind().word(),
                    "bytes": reference.bytes(),
                    "from": excerpt.from,
                    "upto": excerpt.upto,
                    "block": block,
                })
            })
            .collect();
        let left_out: Vec<Value> = self
            .left_out
            .iter()
            .map(|(section, count)| json!({"section": section.title(), "lines": count}))
            .collect();
        json!({
            "incident": self.incident,
            "marker": self.marker.to_string(),
            "rules": self.rules,
            "budget_tokens": self.budget,
            "tokens": self.tokens(),
            "sections": sections,
            "texts": texts,
            "left_out": left_out,
            "texts_cut": self.cut,
            "bytes_cut": self.cut_bytes,
            "redactions": self.replaced,
        })
    }
}

/// As a `command` gets it: the JSON, with the Markdown document beside it.
impl Serialize for Window {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = self.json();
        value["markdown"] = Value::from(self.markdown());
        value.serialize(serializer)
    }
}

/// The texts of an item that are not shown yet, and what they cost; `None`: they do not fit even in part.
fn texts_of(
    item: &Item,
    rendering: &Rendering,
    shown: &BTreeMap<u32, Excerpt>,
    room: usize,
) -> Option<(Vec<Excerpt>, usize)> {
    /// Less of a text says nothing.
    const SHORTEST: usize = 256;
    let mut cap = item.cap;
    loop {
        let mut texts: Vec<Excerpt> = Vec::new();
        for reference in item.facts.references() {
            let is_new = !shown.contains_key(&reference.number())
                && !texts.iter().any(|text| text.reference == reference);
            if is_new && reference.bytes() > 0 {
                texts.push(excerpt(rendering, reference, cap, item.from_end));
            }
        }
        let lines = |text: &Excerpt| {
            let mut lines = String::new();
            text.lines(&mut lines);
            estimate(&lines)
        };
        let cost = texts.iter().map(lines).sum();
        if cost <= room {
            return Some((texts, cost));
        }
        cap /= 2;
        if cap < SHORTEST {
            return None;
        }
    }
}

/// The part of a text that tells most.
fn excerpt(rendering: &Rendering, reference: Reference, cap: usize, from_end: bool) -> Excerpt {
    let from = if from_end { reference.bytes().saturating_sub(cap) } else { 0 };
    rendering.text(reference, from, cap)
}

#[cfg(test)]
mod tests;
