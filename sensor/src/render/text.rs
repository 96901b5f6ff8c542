//! Free text made visible: every byte of it is either a character that anybody can see, or `\xNN`.

use sensor_proto::json::escape;

/// Arguments that a command line shows; the rest is counted.
const SHOWN_ARGUMENTS: usize = 64;

/// Bytes of one argument that are looked at: wider than any terminal.
const SHOWN_BYTES: usize = 4096;

/// A command line as one would type it, escaped.
pub fn command(argv: &[Vec<u8>]) -> String {
    let mut words: Vec<String> =
        argv.iter().take(SHOWN_ARGUMENTS).map(|argument| word(argument)).collect();
    if argv.len() > SHOWN_ARGUMENTS {
        words.push(format!("… ({} more)", argv.len() - SHOWN_ARGUMENTS));
    }
    words.join(" ")
}

fn word(argument: &[u8]) -> String {
    let shown = &argument[..argument.len().min(SHOWN_BYTES)];
    let cut = if shown.len() < argument.len() { "…" } else { "" };
    let text = escape(shown);
    let bare =
        |character: char| character.is_alphanumeric() || "_-+=:,./@%\\[]^~!".contains(character);
    if !text.is_empty() && text.chars().all(bare) {
        format!("{text}{cut}")
    } else {
        format!("'{}'{cut}", text.replace('\'', "'\\''"))
    }
}

/// Arguments, each ended by a NUL, as one would type them; at most `cap` bytes, and how many of the
/// text's are behind them (all, or none that could be named).
pub(super) fn argv(text: &[u8], cap: usize) -> (String, usize) {
    let Some(text) = text.strip_suffix(b"\0") else { return (String::new(), text.len()) };
    let argv: Vec<Vec<u8>> = text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let mut line = command(&argv);
    if line.len() > cap {
        let end = (0..=cap).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(end);
        line.push('…');
    }
    (line, text.len() + 1)
}

/// The text from byte `from` on, line by line, in at most `cap` bytes, or one character; and the first
/// byte that is not in it. Of a text that is escaped already the backslashes stay as they are.
pub(super) fn part(text: &[u8], from: usize, cap: usize, is_escaped: bool) -> (String, usize) {
    let mut shown = String::new();
    let mut at = from;
    for chunk in text[from..].utf8_chunks() {
        let characters = chunk.valid().char_indices().map(|(index, character)| {
            let end = index + character.len_utf8();
            &chunk.valid().as_bytes()[index..end]
        });
        for piece in characters.chain(chunk.invalid().chunks(1)) {
            // A line's end and the tabs of the kernel's tables are layout; behind a bar they harm nobody.
            let visible = match piece {
                b"\n" => "\n".to_owned(),
                b"\t" => "    ".to_owned(),
                b"\\" if is_escaped => "\\".to_owned(),
                _ => escape(piece),
            };
            if !shown.is_empty() && shown.len() + visible.len() > cap {
                return (shown, at);
            }
            shown.push_str(&visible);
            at += piece.len();
        }
    }
    // The end of the last line ends the text, too, and begins no other.
    if shown.ends_with('\n') && shown.len() > 1 {
        shown.pop();
    }
    (shown, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_command_line_reads_as_typed() {
        assert_eq!(command(&args(&["npm", "run", "a:b"])), "npm run a:b");
        assert_eq!(command(&args(&["sh", "-c", "cd a && npm test"])), "sh -c 'cd a && npm test'");
        assert_eq!(command(&args(&["x", "", "it's"])), "x '' 'it'\\''s'");
        assert_eq!(command(&[b"\x1b[2J".to_vec()]), "\\x1b[2J");
    }

    #[test]
    fn a_long_command_line_is_cut() {
        assert!(command(&vec![b"a".to_vec(); 100]).ends_with("a … (36 more)"));
        assert_eq!(command(&[vec![b'a'; 131_072]]).len(), SHOWN_BYTES + "…".len());
    }
}
