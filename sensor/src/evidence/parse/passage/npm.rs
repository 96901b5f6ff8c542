//! The script of a package.json that ran.

use sensor_proto::internal::v1::{Passage, ScriptWanted};

use super::lines::contains_word;
use crate::diagnose::npm::TOOLS;

/// Which script ran, its text, and whether the shell's text proves it.
pub(super) fn script(content: &[u8], wanted: &ScriptWanted) -> Option<Passage> {
    // npm takes a byte order mark.
    let text = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let manifest: serde_json::Value = serde_json::from_slice(text).ok()?;
    let scripts = manifest.get("scripts")?.as_object()?;
    let text = |event: &String| scripts.get(event).and_then(serde_json::Value::as_str);
    let pairs = || wanted.events.iter().filter_map(|event| Some((event, text(event)?)));
    // Arguments of the call are put behind it.
    let is_it = |text: &str| {
        wanted.shell.as_ref().is_some_and(|shell| {
            let rest = shell.strip_prefix(text.as_bytes());
            !text.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b" "))
        })
    };
    let calls = |text: &str| TOOLS.iter().any(|tool| contains_word(text.as_bytes(), tool));
    let seen = pairs().find(|(_, text)| is_it(text));
    let guess =
        || {
            pairs().find(|(event, text)| {
                if wanted.named.is_empty() { calls(text) } else { **event == wanted.named }
            })
        };
    let (event, text) = seen.or_else(guess)?;
    Some(Passage {
        line: line_of(content, event) as u64,
        text: text.into(),
        under: event.clone().into_bytes(),
        sure: seen.is_some(),
    })
}

/// Line of the manifest with the key `event`, from 1; 0 when its key is written in another way.
fn line_of(content: &[u8], event: &str) -> usize {
    let key = format!("\"{event}\"");
    let has = |line: &[u8]| {
        let at = line.windows(key.len()).position(|part| part == key.as_bytes());
        at.is_some_and(|at| line[at + key.len()..].trim_ascii_start().starts_with(b":"))
    };
    content.split(|byte| *byte == b'\n').position(has).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_script_that_ran_is_known_by_its_text() {
        let content = br#"{"scripts": {"prea": "x", "a": "y", "posta": "y -z", "prepare": "npm link", "install": 3}}"#;
        let ran = |events: &[&str], named: &str, shell: Option<&str>| {
            let wanted = ScriptWanted {
                events: events.iter().map(|event| (*event).to_owned()).collect(),
                named: named.to_owned(),
                shell: shell.map(Into::into),
            };
            let found = script(content, &wanted)?;
            Some((String::from_utf8(found.under).unwrap(), found.sure))
        };
        let run = |shell| ran(&["prea", "a", "posta"], "a", shell);
        assert_eq!(run(Some("x")), Some(("prea".to_owned(), true)));
        assert_eq!(run(Some("y --more")), Some(("a".to_owned(), true)));
        assert_eq!(run(Some("yy")), Some(("a".to_owned(), false)));
        assert_eq!(run(None), Some(("a".to_owned(), false)));
        assert_eq!(ran(&["install", "prepare"], "", None), Some(("prepare".to_owned(), false)));
        assert_eq!(ran(&["preb", "b", "postb"], "b", None), None);
    }

    #[test]
    fn the_line_of_a_script() {
        let content = b"{\n  \"a\": 1,\n  \"x\": \"\\\"b\\\"\",\n  \"b\" : \"c\"\n}";
        assert_eq!(
            (line_of(content, "a"), line_of(content, "b"), line_of(content, "c")),
            (2, 4, 0)
        );
    }

    proptest! {
        #[test]
        fn any_manifest(content in prop::collection::vec(any::<u8>(), 0..200), event in "\\PC{0,10}") {
            let _ = line_of(&content, &event);
            let _ = script(&content, &ScriptWanted { events: vec![event], ..Default::default() });
        }
    }
}
