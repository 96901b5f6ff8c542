//! Reads command lines: which program is meant, whatever interpreter or path stands before it.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use super::Link;

/// Last part of a path.
pub(super) fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// What an interpreter was given to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script<'a> {
    /// As written on the command line.
    pub path: &'a [u8],
    pub arguments: &'a [Vec<u8>],
}

/// Kinds of interpreters, by what their options mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interpreter {
    Shell,
    Python,
    Node,
    Other,
}

fn interpreter(program: &[u8]) -> Option<Interpreter> {
    let versioned = |name: &str| {
        let rest = program.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'))
    };
    // A login shell's name begins with a dash.
    match program.strip_prefix(b"-").unwrap_or(program) {
        b"sh" | b"bash" | b"dash" | b"ash" | b"zsh" | b"ksh" | b"mksh" => Some(Interpreter::Shell),
        b"node" | b"nodejs" => Some(Interpreter::Node),
        _ if versioned("python") || versioned("pypy") => Some(Interpreter::Python),
        _ if ["perl", "ruby", "php", "lua"].iter().any(|name| versioned(name)) => {
            Some(Interpreter::Other)
        }
        _ => None,
    }
}

/// The script of `sh x`, `/bin/bash -e ./x a b`, `python3 x.py`, `node x.js`; none for `sh -c …`.
pub(super) fn script(argv: &[Vec<u8>]) -> Option<Script<'_>> {
    let kind = interpreter(basename(argv.first()?))?;
    let mut at = 1;
    loop {
        let argument = argv.get(at)?;
        if argument == b"--" {
            at += 1;
            break;
        }
        if !argument.starts_with(b"-") || argument == b"-" {
            break;
        }
        at += match (kind, argument.as_slice()) {
            // Text instead of a file.
            (Interpreter::Node, b"-e" | b"--eval" | b"-p" | b"--print")
            | (Interpreter::Python | Interpreter::Other, b"-c" | b"-m" | b"-e" | b"-E" | b"-r") => {
                return None;
            }
            (Interpreter::Shell, option)
                if !option.starts_with(b"--") && option.contains(&b'c') =>
            {
                return None;
            }
            (Interpreter::Node, b"-r" | b"--require" | b"--import" | b"--loader" | b"-C")
            | (Interpreter::Python, b"-W" | b"-X")
            | (Interpreter::Shell, b"-o" | b"+o" | b"-O" | b"--rcfile" | b"--init-file") => 2,
            _ => 1,
        };
    }
    let path = argv.get(at).filter(|path| !path.is_empty() && *path != b"-")?;
    Some(Script { path, arguments: &argv[at + 1..] })
}

/// The text of `sh -c TEXT`.
pub(super) fn shell_text(argv: &[Vec<u8>]) -> Option<&[u8]> {
    if interpreter(basename(argv.first()?)) != Some(Interpreter::Shell) {
        return None;
    }
    let options = argv.iter().skip(1).take_while(|argument| argument.starts_with(b"-"));
    let count = options.clone().count();
    let c = |option: &Vec<u8>| !option.starts_with(b"--") && option.contains(&b'c');
    options.clone().any(c).then(|| argv.get(count + 1)).flatten().map(Vec::as_slice)
}

/// The program that is meant and its arguments: `npm` and `run x` of `node /usr/bin/npm run x`.
/// Endings of script files do not belong to the name.
pub(super) fn tool(argv: &[Vec<u8>]) -> Option<(&[u8], &[Vec<u8>])> {
    let (path, arguments) = match script(argv) {
        Some(script) => (script.path, script.arguments),
        None => (argv.first()?.as_slice(), &argv[1..]),
    };
    let name = basename(path);
    let name = [&b".js"[..], b".cjs", b".mjs"]
        .iter()
        .find_map(|end| name.strip_suffix(*end))
        .unwrap_or(name);
    Some((name, arguments))
}

/// A path as seen from a directory, without `.` and `..`; `None` when the directory is not known.
/// A link on the way to a `..` would lead elsewhere: rare in sources, and then no file is found.
pub(super) fn resolve(cwd: &[u8], path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    if !path.is_absolute() && !cwd.starts_with(b"/") {
        return None;
    }
    let whole = Path::new(OsStr::from_bytes(cwd)).join(path);
    let mut plain = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    Some(plain)
}

/// Words by which the line that started this command can be known: the program, then its arguments.
pub(super) fn words(link: &Link) -> Vec<&[u8]> {
    if let Some(text) = shell_text(&link.argv) {
        return text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    }
    let Some((_, arguments)) = tool(&link.argv) else {
        return Vec::new();
    };
    let program = match script(&link.argv) {
        Some(script) => basename(script.path),
        None => basename(&link.argv[0]),
    };
    std::iter::once(program).chain(arguments.iter().map(Vec::as_slice)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(line: &str) -> Vec<Vec<u8>> {
        line.split('|').map(|argument| argument.as_bytes().to_vec()).collect()
    }

    #[test]
    fn scripts_behind_interpreters() {
        for (line, path) in [
            ("sh|a.sh", Some("a.sh")),
            ("/bin/bash|-eu|-o|pipefail|./a|x", Some("./a")),
            ("-bash|--|-a", Some("-a")),
            ("sh|-ec|echo", None),
            ("python3.11|-u|-W|ignore|a.py", Some("a.py")),
            ("python3|-m|x", None),
            ("node|--require|x|/usr/bin/npm|test", Some("/usr/bin/npm")),
            ("node|-e|1", None),
            ("perl|a.pl", Some("a.pl")),
            ("make|all", None),
            ("sh|-", None),
            ("sh", None),
        ] {
            let argv = list(line);
            assert_eq!(script(&argv).map(|script| script.path), path.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn tools_behind_paths() {
        let tool = |line| {
            let argv = list(line);
            let (name, arguments) = tool(&argv).unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), arguments.len())
        };
        assert_eq!(
            tool("node|/usr/lib/node_modules/npm/bin/npm-cli.js|run|a"),
            ("npm-cli".into(), 2)
        );
        assert_eq!(tool("/usr/bin/make|-C|x"), ("make".into(), 2));
        assert_eq!(tool("node"), ("node".into(), 0));
    }

    #[test]
    fn text_of_a_shell() {
        assert_eq!(shell_text(&list("/bin/sh|-c|cd x && y")), Some(&b"cd x && y"[..]));
        assert_eq!(shell_text(&list("bash|-e|-c|y|z")), Some(&b"y"[..]));
        assert_eq!(shell_text(&list("sh|-c")), None);
        assert_eq!(shell_text(&list("sh|x|-c|y")), None);
    }

    #[test]
    fn paths_from_a_directory() {
        let resolve = |cwd: &str, path: &str| {
            resolve(cwd.as_bytes(), path.as_bytes()).map(|path| path.display().to_string())
        };
        assert_eq!(resolve("/a/b", "./c/../d"), Some("/a/b/d".into()));
        assert_eq!(resolve("/a/b", "../../../x"), Some("/x".into()));
        assert_eq!(resolve("", "/x"), Some("/x".into()));
        assert_eq!(resolve("", "x"), None);
    }

    proptest! {
        #[test]
        fn any_command_line(argv in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..6)) {
            let _ = (script(&argv), shell_text(&argv), tool(&argv));
            let link = Link { argv, ..Link::default() };
            let _ = words(&link);
        }
    }
}
