//! How things from outside are quoted: without secrets, without anything a terminal would act on, short.

use std::path::Path;

use sensor_proto::json::escape;

use super::command;
use crate::evidence::Redactor;

/// Characters of a quoted command or line: two rows of a terminal.
const QUOTE: usize = 160;

/// Characters of a path, of which the end tells most.
const PATH: usize = 200;

pub(super) struct Words<'a> {
    pub redactor: &'a Redactor,
}

impl Words<'_> {
    /// A command as one would type it, in backticks: `npm run x` for `node /usr/bin/npm run x`.
    pub fn command(&self, argv: &[Vec<u8>]) -> String {
        let (argv, _) = self.redactor.argv(argv);
        let shown: Vec<&[u8]> = match command::script(&argv).zip(command::tool(&argv)) {
            Some((_, (name, arguments))) if super::npm::is_tool(name) => {
                let name = super::npm::plain_name(name);
                std::iter::once(name).chain(arguments.iter().map(Vec::as_slice)).collect()
            }
            _ => argv.iter().map(Vec::as_slice).collect(),
        };
        let words: Vec<String> = shown.into_iter().map(word).collect();
        format!("`{}`", start(&words.join(" "), QUOTE))
    }

    /// A line or text out of a file, in backticks.
    pub fn line(&self, text: &[u8]) -> String {
        let (text, _) = self.redactor.text(text.trim_ascii());
        format!("`{}`", start(&escape(&text), QUOTE))
    }

    /// A path, as it is.
    pub fn path(&self, path: &Path) -> String {
        let (path, _) = self.redactor.text(path.as_os_str().as_encoded_bytes());
        let path = escape(&path);
        let count = path.chars().count();
        if count <= PATH {
            return path;
        }
        let end: String = path.chars().skip(count - PATH).collect();
        format!("…{end}")
    }
}

/// One argument, quoted where a shell would need it.
fn word(argument: &[u8]) -> String {
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+=./,:@%[]".contains(byte) || *byte >= 0x80;
    let text = escape(argument);
    if !argument.is_empty() && argument.iter().all(plain) { text } else { format!("'{text}'") }
}

fn start(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_harmless() {
        let redactor = Redactor::new([1; 16]);
        let words = Words { redactor: &redactor };
        let command = |line: &str| {
            let argv: Vec<Vec<u8>> = line.split('|').map(|part| part.as_bytes().to_vec()).collect();
            words.command(&argv)
        };
        assert_eq!(command("node|/usr/bin/npm|run|a"), "`npm run a`");
        assert_eq!(command("sh|-c|cd x && y||z"), "`sh -c 'cd x && y' '' z`");
        assert_eq!(command("x|\x1b[31m\n"), "`x '\\x1b[31m\\x0a'`");
        assert!(command("x|--token=hunter2").starts_with("`x --token=[redacted:"));
        assert_eq!(command(&"é".repeat(500)).chars().count(), QUOTE + 3);
        assert_eq!(words.line(b"  a\tb \n"), "`a\\x09b`");
        assert_eq!(
            words.path(Path::new(&format!("/{}/end", "x".repeat(500)))).chars().count(),
            PATH + 1
        );
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
