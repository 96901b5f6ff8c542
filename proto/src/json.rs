//! How the schema becomes JSON: enums as lower-case words, `_ns` and `seq` as strings, bytes as
//! text in which everything that is not printable UTF-8 is `\xNN`, times as RFC 3339.

use std::fmt::Write as _;

use prost_types::Timestamp;
use serde::{Serialize, Serializer};

use crate::v1;

/// A record as `sensor watch --json` prints it: the record, with the word for its body as `kind`.
#[derive(Serialize)]
pub struct RecordLine<'a> {
    kind: &'static str,
    #[serde(flatten)]
    record: &'a v1::Record,
}

impl<'a> From<&'a v1::Record> for RecordLine<'a> {
    fn from(record: &'a v1::Record) -> Self {
        Self { kind: record.kind(), record }
    }
}

/// Words of an enum: lower case, without the type's prefix.
macro_rules! words {
    ($($name:ident, $type:ty, $prefix:literal;)*) => {$(
        #[doc = concat!("The word for a `", stringify!($type), "` as in JSON and configuration.")]
        pub mod $name {
            use super::*;

            pub fn word(value: i32) -> String {
                <$type>::try_from(value).map_or_else(
                    |_| value.to_string(),
                    |known| known.as_str_name().trim_start_matches($prefix).to_ascii_lowercase(),
                )
            }

            /// The value that a word stands for.
            pub fn parse(word: &str) -> Option<$type> {
                let name = format!("{}{}", $prefix, word.to_ascii_uppercase());
                <$type>::from_str_name(&name).filter(|known| *known as i32 != 0)
            }
        }

        pub(crate) fn $name<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&$name::word(*value))
        }
    )*};
}

words! {
    kind, v1::Kind, "KIND_";
    severity, v1::Severity, "SEVERITY_";
    state, v1::State, "STATE_";
    group_by, v1::GroupBy, "GROUP_BY_";
    oom_scope, v1::OomScope, "OOM_SCOPE_";
    action_kind, v1::ActionKind, "ACTION_KIND_";
    investigation_state, v1::InvestigationState, "INVESTIGATION_STATE_";
    outcome, v1::Outcome, "OUTCOME_";
    stage, v1::Stage, "STAGE_";
    verdict, v1::Verdict, "VERDICT_";
    file_state, v1::file_fact::State, "STATE_";
    frame_kind, v1::frame::Kind, "KIND_";
    priority, v1::Priority, "PRIORITY_";
    verb, v1::Verb, "VERB_";
}

/// A 64-bit number as a string.
pub fn string<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(crate) fn text<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&escape(value))
}

/// Arguments and the like, escaped.
pub fn texts<S: Serializer>(value: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(value.iter().map(|item| escape(item)))
}

/// A moment as RFC 3339.
pub fn time<S: Serializer>(value: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// Bytes as text that no terminal can misread: printable characters stand for themselves, a
/// backslash is doubled, all else is `\xNN` per byte (newline, escape, invalid UTF-8, bidi marks).
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                text.push_str("\\\\");
            } else if is_plain(character) {
                text.push(character);
            } else {
                let mut buffer = [0; 4];
                escape_bytes(&mut text, character.encode_utf8(&mut buffer).as_bytes());
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    text
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// Not a control character, and nothing that hides, reorders its neighbours or stands for something
/// invisible: bidirectional marks, separators, and what Unicode lets a display leave out
/// (`Default_Ignorable_Code_Point`), which smuggles text past the eyes of a reader, not past a model.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_act_on() {
        assert_eq!(escape(b"plain \xc3\xa9"), "plain é");
        assert_eq!(escape(b"\x1b[31m\n\\\xff"), "\\x1b[31m\\x0a\\\\\\xff");
        assert_eq!(escape("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
        assert_eq!(
            escape("\u{61c}\u{ad}\u{e0041}".as_bytes()),
            "\\xd8\\x9c\\xc2\\xad\\xf3\\xa0\\x81\\x81"
        );
    }

    #[test]
    fn words_go_both_ways() {
        assert_eq!(kind::word(v1::Kind::ForkStorm as i32), "fork_storm");
        assert_eq!(kind::parse("fork_storm"), Some(v1::Kind::ForkStorm));
        assert_eq!(kind::parse("unspecified"), None);
        assert_eq!(kind::word(99), "99");
    }

    #[test]
    fn a_record_is_one_flat_object() {
        let record = v1::Record {
            log_id: "l".into(),
            seq: 7,
            at: Some(Timestamp { seconds: 0, nanos: 0 }),
            body: Some(v1::record::Body::Lost(v1::Lost { reason: "map_full".into(), count: 3 })),
            ..Default::default()
        };
        let line = serde_json::to_value(RecordLine::from(&record)).unwrap();
        assert_eq!(line["kind"], "lost");
        assert_eq!(line["seq"], "7");
        assert_eq!(line["at"], "1970-01-01T00:00:00Z");
        assert_eq!(line["lost"]["count"], 3);
    }
}
