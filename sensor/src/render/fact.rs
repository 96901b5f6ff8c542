//! Facts: what the sensor has measured or decided. None of their types holds a text that somebody
//! else could have chosen.

use std::borrow::Cow;

use prost_types::Timestamp;
use serde_json::{Map, Value};

use super::Reference;

/// A word of ours: an enum's, a rule's, a piece of evidence's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(Cow<'static, str>);

/// No word of ours is longer (an incident's id with a number behind it has 13 characters).
const LONGEST: usize = 40;

impl Word {
    pub const fn ours(word: &'static str) -> Self {
        Self(Cow::Borrowed(word))
    }

    /// One that comes out of a record: letters, digits and `_-./:%`, without blanks, so that it can
    /// hold no sentence. What is none becomes `(no word)`.
    pub fn checked(word: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:%".contains(&byte);
        if (1..=LONGEST).contains(&word.len()) && word.bytes().all(plain) {
            Self(Cow::Owned(word.to_owned()))
        } else {
            Self::ours("(no word)")
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Count(u64),
    Bytes(u64),
    /// A length of time, ns.
    Lasting(u64),
    Number(f64),
    /// A number in a unit of ours.
    Measure(f64, Word),
    Is(bool),
    Word(Word),
    At(Timestamp),
    /// A free text, by reference.
    Text(Reference),
    Many(Vec<Fact>),
}

impl Fact {
    /// A word out of a record, checked.
    pub fn word(word: &str) -> Self {
        Self::Word(Word::checked(word))
    }

    fn show(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Bytes(bytes) => format!("{bytes} bytes"),
            Self::Lasting(ns) => format!("{} s", decimal(*ns as f64 / 1e9)),
            Self::Number(number) => decimal(*number),
            Self::Measure(number, unit) => format!("{} {}", decimal(*number), unit.as_str()),
            Self::Is(is) => if *is { "yes" } else { "no" }.to_owned(),
            Self::Word(word) => word.as_str().to_owned(),
            Self::At(time) => time.to_string(),
            Self::Text(reference) => reference.to_string(),
            Self::Many(facts) => facts.iter().map(Self::show).collect::<Vec<_>>().join(" "),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Count(number) | Self::Bytes(number) => Value::from(*number),
            // As everywhere in our JSON, ns are a string.
            Self::Lasting(ns) => Value::from(ns.to_string()),
            Self::Number(number) => Value::from(*number),
            Self::Measure(number, unit) => {
                serde_json::json!({"value": number, "unit": unit.as_str()})
            }
            Self::Is(is) => Value::from(*is),
            Self::Word(word) => Value::from(word.as_str()),
            Self::At(time) => Value::from(time.to_string()),
            Self::Text(reference) => serde_json::json!(reference),
            Self::Many(facts) => facts.iter().map(Self::json).collect(),
        }
    }
}

/// Three digits behind the point at most, and no zeros at the end; short, however large it is.
fn decimal(number: f64) -> String {
    if number.abs() >= 1e15 || !number.is_finite() {
        return format!("{number:e}");
    }
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Named facts, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(Vec<(Word, Fact)>);

impl Facts {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, fact: Fact) -> Self {
        self.add(name, fact);
        self
    }

    pub fn add(&mut self, name: &'static str, fact: Fact) {
        self.0.push((Word::ours(name), fact));
    }

    /// Under a name that a record gives it.
    pub fn add_named(&mut self, name: Word, fact: Fact) {
        self.0.push((name, fact));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `name value; name value`.
    pub fn line(&self) -> String {
        let pairs = self.0.iter().map(|(name, fact)| format!("{} {}", name.as_str(), fact.show()));
        pairs.collect::<Vec<_>>().join("; ")
    }

    /// The same as an object; of equal names the last one counts.
    pub fn json(&self) -> Value {
        let pairs = self.0.iter().map(|(name, fact)| (name.as_str().to_owned(), fact.json()));
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    /// All texts that they refer to, in order.
    pub fn references(&self) -> Vec<Reference> {
        fn walk(fact: &Fact, found: &mut Vec<Reference>) {
            match fact {
                Fact::Text(reference) => found.push(*reference),
                Fact::Many(facts) => facts.iter().for_each(|fact| walk(fact, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        self.0.iter().for_each(|(_, fact)| walk(fact, &mut found));
        found
    }
}
