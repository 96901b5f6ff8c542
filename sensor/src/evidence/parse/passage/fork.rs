//! The line of a script in which it forks itself.

use super::lines::{Line, contains_word, lines};

/// A call of fork, or of a shell function within its own body.
pub(super) fn itself(content: &[u8]) -> Option<Line<'_>> {
    if let Some(line) = lines(content).find(|line| contains_word(line.text, b"fork")) {
        return Some(line);
    }
    let mut open: Option<&[u8]> = None;
    for line in lines(content) {
        let (mut calls, mut name) = (line.text, open);
        if let Some((defined, body)) = function(line.text) {
            (name, calls) = (Some(defined), body);
        }
        if let Some(name) = name
            && contains_word(calls, name)
        {
            return Some(line);
        }
        // Its body goes on with the next line, up to a brace that stands alone.
        open = name.filter(|_| !line.text.trim_ascii().starts_with(b"}"));
    }
    None
}

/// Name and rest of the line of `name() {` and `function name {`.
fn function(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii();
    if let Some(at) = text.windows(2).position(|pair| pair == b"()") {
        let name = text[..at].trim_ascii();
        let name = name.strip_prefix(b"function ").unwrap_or(name).trim_ascii();
        let plain = !name.is_empty() && !name.iter().any(u8::is_ascii_whitespace);
        return plain.then_some((name, &text[at + 2..]));
    }
    let rest = text.strip_prefix(b"function ")?.trim_ascii();
    let end = rest.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'{')?;
    Some((&rest[..end], &rest[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_fork() {
        let line = |text: &'static str| itself(text.as_bytes()).map(|line| line.number);
        assert_eq!(line(":(){ :|:& };:\n"), Some(1));
        assert_eq!(line("a() { b; }\nfunction c {\n  c &\n}\n"), Some(3));
        assert_eq!(line("import os\nwhile True:\n    os.fork()\n"), Some(3));
        assert_eq!(line("a() {\n  b\n}\na\n"), None, "called from outside");
    }

    proptest! {
        #[test]
        fn any_file(content in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = itself(&content);
        }
    }
}
