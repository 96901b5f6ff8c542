//! The line of a source file that started a command.

/// Words of a command that are looked for. More say nothing more.
const WORDS: usize = 24;

/// A line of a file, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub number: usize,
    pub text: &'a [u8],
}

/// Lines that are not comments.
pub(super) fn lines(content: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let line = |(at, text)| Line { number: at + 1, text };
    content.split(|byte| *byte == b'\n').enumerate().map(line).filter(|line| {
        let text = line.text.trim_ascii();
        !text.is_empty() && !text.starts_with(b"#") && !text.starts_with(b"//")
    })
}

/// How much of a command stands in a line; 0: its program does not. `aliases` stand for the program.
pub(super) fn likeness(text: &[u8], words: &[Vec<u8>], aliases: &[impl AsRef<[u8]>]) -> usize {
    let Some((program, arguments)) = words.split_first() else {
        return 0;
    };
    let named =
        contains_word(text, program) || aliases.iter().any(|alias| contains(text, alias.as_ref()));
    if !named {
        return 0;
    }
    1 + arguments.iter().take(WORDS).filter(|word| contains_word(text, word)).count()
}

/// The line that is most like the command; of equals the first.
pub(super) fn calling<'a>(
    content: &'a [u8],
    words: &[Vec<u8>],
    aliases: &[impl AsRef<[u8]>],
) -> Option<Line<'a>> {
    let mut best: Option<(usize, Line)> = None;
    for line in lines(content) {
        let score = likeness(line.text, words, aliases);
        if score > best.map_or(0, |(most, _)| most) {
            best = Some((score, line));
        }
    }
    best.map(|(_, line)| line)
}

/// Whether `word` stands in `text` with no letter, digit or underscore next to it.
pub(crate) fn contains_word(text: &[u8], word: &[u8]) -> bool {
    let joins =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    !word.is_empty()
        && text.windows(word.len()).enumerate().any(|(at, part)| {
            let before = at.checked_sub(1).and_then(|at| text.get(at));
            part == word && !joins(before) && !joins(text.get(at + word.len()))
        })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    const NONE: [&[u8]; 0] = [];

    #[test]
    fn the_line_that_is_most_like_it() {
        let content = b"#!/bin/sh\n# ./two.sh\nntwo.shy\n./two.sh a\n./two.sh b c\n./two.sh b c\n";
        let number = |line: &str| calling(content, &words(line), &NONE).map(|line| line.number);
        assert_eq!(number("two.sh b c"), Some(5));
        assert_eq!(number("two.sh"), Some(4));
        assert_eq!(number("three.sh"), None);
        assert_eq!(number("./two.sh a"), Some(4));
    }

    #[test]
    fn an_alias_stands_for_the_program() {
        let found = calling(b"x\nexec \"$0\" again\n", &words("s.sh again"), &[b"$0"]).unwrap();
        assert_eq!((found.number, found.text), (2, &b"exec \"$0\" again"[..]));
    }
}
