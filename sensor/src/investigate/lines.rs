//! A program's output becomes lines: bounded in length, whatever the bytes are. Pure.

/// Bytes of a line that are shown.
pub const SHOWN: usize = 16 * 1024;

/// Bytes of a line that are kept until it ends: a result on one line may be long, and a secret
/// that crosses the end of what is shown must be seen whole to be replaced.
const KEPT: usize = 1 << 20;

/// A line as it was written, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub bytes: Vec<u8>,
    /// Bytes behind them that were dropped.
    pub dropped: usize,
}

/// Cuts one stream into lines.
#[derive(Debug, Default)]
pub struct Lines {
    kept: Vec<u8>,
    dropped: usize,
}

impl Lines {
    /// Takes what was read, and gives each line that it completes.
    pub fn push(&mut self, mut bytes: &[u8], mut complete: impl FnMut(Line)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            complete(self.take());
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// What stands behind the last line end, if anything.
    pub fn rest(&mut self) -> Option<Line> {
        (!self.kept.is_empty()).then(|| self.take())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.dropped += bytes.len() - room;
    }

    fn take(&mut self) -> Line {
        let mut bytes = std::mem::take(&mut self.kept);
        let dropped = std::mem::take(&mut self.dropped);
        if dropped == 0 && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Line { bytes, dropped }
    }
}

impl Line {
    /// What is shown of it; `redact` sees all that was kept.
    pub fn shown(&self, redact: super::Redact<'_>) -> Vec<u8> {
        let mut text = redact(&self.bytes);
        let more = text.len().saturating_sub(SHOWN) + self.dropped;
        text.truncate(SHOWN);
        if more > 0 {
            text.extend_from_slice(format!(" [{more} more bytes]").as_bytes());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Line> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| found.push(line));
        }
        found.extend(lines.rest());
        found
    }

    fn texts(lines: &[Line]) -> Vec<&[u8]> {
        lines.iter().map(|line| line.bytes.as_slice()).collect()
    }

    #[test]
    fn lines_across_pieces() {
        let lines = cut(&[b"a", b"b\nc\r\n\n\xff", b"\x00", b"d"]);
        assert_eq!(texts(&lines), [b"ab".as_slice(), b"c", b"", b"\xff\x00d"]);
        assert_eq!(cut(&[b"a\n"]).len(), 1, "nothing behind the last line end");
    }

    #[test]
    fn long_lines_are_cut_after_redaction() {
        let mut long = vec![b'x'; SHOWN - 2];
        long.extend_from_slice(b"SECRET");
        long.resize(KEPT + 10, b'y');
        long.push(b'\n');
        let lines = cut(&[&long, b"next"]);
        assert_eq!((lines[0].bytes.len(), lines[0].dropped), (KEPT, 10));
        assert_eq!(lines[1].bytes, b"next");
        let hide = |text: &[u8]| {
            String::from_utf8(text.to_vec()).unwrap().replace("SECRET", "******").into_bytes()
        };
        let shown = lines[0].shown(&hide);
        let wanted = format!("x** [{} more bytes]", KEPT - SHOWN + 10);
        assert!(shown.ends_with(wanted.as_bytes()), "half a secret is not shown");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..300_usize) {
            let at = at.min(bytes.len());
            prop_assert_eq!(cut(&[&bytes]), cut(&[&bytes[..at], &bytes[at..]]));
        }
    }
}
