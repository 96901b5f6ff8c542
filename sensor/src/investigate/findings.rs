//! What a program found, from what it wrote: the last line that is a JSON object with `findings`,
//! else the end of its output. Pure.

use serde_json::Value;

use super::{Redact, lines::Line};

/// Bytes of findings that are kept.
const LARGEST: usize = 16 * 1024;

/// Bytes of the last output that stand in for findings.
const TAIL: usize = 8 * 1024;

#[derive(Debug, Default)]
pub struct Findings {
    object: Option<String>,
    tail: Vec<u8>,
}

impl Findings {
    /// Takes one line of standard output; `shown` is what the transcript has of it.
    pub fn see(&mut self, line: &Line, shown: &[u8]) {
        if let Some(found) = of(&line.bytes) {
            self.object = Some(found);
        }
        self.tail.extend_from_slice(shown);
        self.tail.push(b'\n');
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    pub fn conclude(self, redact: Redact<'_>) -> String {
        if let Some(text) = self.object {
            let text = redact(text.as_bytes());
            return String::from_utf8_lossy(&text[..text.len().min(LARGEST)]).trim().to_owned();
        }
        let start = self.tail.len().saturating_sub(TAIL);
        String::from_utf8_lossy(&self.tail[start..]).trim().to_owned()
    }
}

fn of(line: &[u8]) -> Option<String> {
    // Spares parsing what cannot be an object.
    line.trim_ascii().starts_with(b"{").then_some(())?;
    let Value::Object(mut object) = serde_json::from_slice(line).ok()? else { return None };
    match object.remove("findings")? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conclude(output: &[&[u8]]) -> String {
        let hide =
            |text: &[u8]| String::from_utf8_lossy(text).replace("SECRET", "******").into_bytes();
        let mut findings = Findings::default();
        for bytes in output {
            let line = Line { bytes: bytes.to_vec(), dropped: 0 };
            let shown = line.shown(&hide);
            findings.see(&line, &shown);
        }
        findings.conclude(&hide)
    }

    #[test]
    fn the_last_object_with_findings_counts() {
        let output: [&[u8]; 5] = [
            br#"{"findings":"first"}"#,
            br#" {"findings":"it runs SECRET itself","more":1} "#,
            br#"{"findings":null}"#,
            br#"{"other":2}"#,
            b"{ not json",
        ];
        assert_eq!(conclude(&output), "it runs ****** itself");
        assert_eq!(conclude(&[br#"{"findings":["a",{"b":1}]}"#]), r#"["a",{"b":1}]"#);
    }

    #[test]
    fn else_the_end_of_the_output() {
        assert_eq!(conclude(&[b"one", b"two SECRET \xff"]), "one\ntwo ****** \u{fffd}");
        let line = [b'x'; 1000];
        let many: Vec<&[u8]> = (0..100).map(|_| line.as_slice()).collect();
        let found = conclude(&many);
        assert!(found.len() <= TAIL && found.len() > TAIL - 1001);
        assert_eq!(conclude(&[]), "");
    }

    #[test]
    fn deep_or_huge_objects_are_harmless() {
        let deep = [b"{\"findings\":".to_vec(), vec![b'['; 50_000]].concat();
        assert!(conclude(&[&deep]).len() <= TAIL);
        let huge = format!("{{\"findings\":\"{}\"}}", "é".repeat(20_000));
        assert!(conclude(&[huge.as_bytes()]).len() <= LARGEST + 3);
    }
}
