//! An answer within its bounds: facts, items, and the texts that they mention, so many of each that a
//! model's context is not flooded.

use std::collections::HashSet;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value};

use crate::render::{Excerpt, Fact, Facts, Kind, Reference, Rendering};

/// Bytes of one answer beyond which nothing is begun: some 5,000 tokens. Clients cut off or complain
/// at 10,000 to 25,000 tokens.
const FULL: usize = 16_000;

/// Bytes of a text that stands beside others; all of it comes with `text`.
const SHORT: usize = 240;

pub(super) struct Page<'a> {
    rendering: &'a mut Rendering,
    pub facts: Facts,
    items: Vec<Value>,
    excerpts: Vec<Excerpt>,
    shown: HashSet<u32>,
    size: usize,
    /// A sentence of ours.
    pub note: Option<&'static str>,
    next: Option<String>,
}

impl<'a> Page<'a> {
    pub fn new(rendering: &'a mut Rendering) -> Self {
        Self {
            rendering,
            facts: Facts::new(),
            items: Vec::new(),
            excerpts: Vec::new(),
            shown: HashSet::new(),
            size: 0,
            note: None,
            next: None,
        }
    }

    /// A free text by reference; its beginning stands in the answer.
    pub fn text(&mut self, kind: Kind, text: &[u8]) -> Fact {
        let reference = self.rendering.refer(kind, text);
        self.excerpt(reference, 0, SHORT);
        Fact::Text(reference)
    }

    pub fn argv(&mut self, argv: &[Vec<u8>]) -> Fact {
        let reference = self.rendering.argv(argv);
        self.excerpt(reference, 0, SHORT);
        Fact::Text(reference)
    }

    /// A text of which the answer shows as much as fits, from byte `from` on; what is left comes next.
    pub fn long(&mut self, kind: Kind, text: &[u8], from: usize) -> Fact {
        let reference = self.rendering.refer(kind, text);
        self.go_on(reference, from);
        Fact::Text(reference)
    }

    pub fn go_on(&mut self, reference: Reference, from: usize) {
        let room = FULL.saturating_sub(self.size).max(SHORT);
        self.next = self.excerpt(reference, from, room).map(|next| next.to_string());
    }

    /// A part of a text of which the page has nothing yet. Where it goes on.
    fn excerpt(&mut self, reference: Reference, from: usize, cap: usize) -> Option<usize> {
        if !self.shown.insert(reference.number()) {
            return None;
        }
        let excerpt = self.rendering.text(reference, from, cap);
        let next = excerpt.next();
        // Its name, and a bar before each line.
        self.size += excerpt.text.len() + 2 * excerpt.text.matches('\n').count() + 60;
        self.excerpts.push(excerpt);
        next
    }

    pub fn find(&self, wanted: crate::render::Wanted) -> Option<Reference> {
        self.rendering.find(wanted)
    }

    pub fn push(&mut self, item: &Facts) {
        let item = item.json();
        self.size += item.to_string().len();
        self.items.push(item);
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.facts.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.size >= FULL
    }

    /// Shows items from the cursor on, as many as fit.
    pub fn list<T>(
        &mut self,
        cursor: usize,
        items: impl IntoIterator<Item = T>,
        mut show: impl FnMut(&mut Self, T) -> Facts,
    ) {
        for (index, item) in items.into_iter().enumerate().skip(cursor) {
            if self.is_full() {
                self.goes_on_at(index.to_string());
                return;
            }
            let facts = show(self, item);
            self.push(&facts);
        }
    }

    pub fn goes_on_at(&mut self, cursor: String) {
        self.next = Some(cursor);
    }

    /// Facts and items as structured content and as JSON; texts once more as they are, for readers to
    /// whom line ends in JSON say little.
    pub fn finish(self) -> CallToolResult {
        let mut object = Map::new();
        object.insert("facts".into(), self.facts.json());
        object.insert("items".into(), self.items.into());
        if let Some(note) = self.note {
            object.insert("note".into(), note.into());
        }
        if let Some(next) = self.next {
            object.insert("next_cursor".into(), next.into());
        }
        let mut content = vec![ContentBlock::text(Value::Object(object.clone()).to_string())];
        if !self.excerpts.is_empty() {
            let block = self.rendering.block(&self.excerpts);
            object.insert("texts".into(), block.clone().into());
            content.push(ContentBlock::text(block));
        }
        let mut result = CallToolResult::success(content);
        result.structured_content = Some(Value::Object(object));
        result
    }
}
