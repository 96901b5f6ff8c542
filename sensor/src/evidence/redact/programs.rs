//! Options whose value is a secret for some programs only: `-p` of mysql, `-u` of curl.

/// What such an option carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// A secret, all of it.
    Whole,
    /// A name, a colon or per cent sign, and a secret.
    Pair,
}

pub(super) struct Program {
    /// By which it is called, or what its names begin with.
    name: &'static str,
    is_prefix: bool,
    /// Options whose value is the next argument.
    next: &'static [(&'static str, Carries)],
    /// Options with the value attached.
    attached: &'static [(&'static str, Carries)],
    /// Verbs whose second argument behind them is the secret.
    verbs: &'static [&'static str],
}

use Carries::{Pair, Whole};

const fn program(
    name: &'static str,
    next: &'static [(&'static str, Carries)],
    attached: &'static [(&'static str, Carries)],
) -> Program {
    Program { name, is_prefix: false, next, attached, verbs: &[] }
}

const fn family(
    name: &'static str,
    next: &'static [(&'static str, Carries)],
    attached: &'static [(&'static str, Carries)],
) -> Program {
    Program { name, is_prefix: true, next, attached, verbs: &[] }
}

/// Stands for programs whose `login` takes a password by `-p`, where `run` takes a port.
const LOGIN: &str = " login";

/// From the manuals of these programs.
pub(super) const PROGRAMS: &[Program] = &[
    family("mysql", &[], &[("-p", Whole)]),
    family("mariadb", &[], &[("-p", Whole)]),
    program("sshpass", &[("-p", Whole)], &[("-p", Whole)]),
    program(
        "curl",
        &[("-u", Pair), ("--user", Pair), ("-U", Pair), ("--proxy-user", Pair)],
        &[("-u", Pair), ("-U", Pair), ("--user=", Pair), ("--proxy-user=", Pair)],
    ),
    program("http", &[("-a", Pair), ("--auth", Pair)], &[("-a", Pair), ("--auth=", Pair)]),
    program("https", &[("-a", Pair), ("--auth", Pair)], &[("-a", Pair), ("--auth=", Pair)]),
    program("redis-cli", &[("-a", Whole)], &[]),
    program("openssl", &[("-k", Whole)], &[("pass:", Whole)]),
    program("mongo", &[("-p", Whole)], &[("-p", Whole)]),
    program("mongosh", &[("-p", Whole)], &[("-p", Whole)]),
    family("mongodump", &[("-p", Whole)], &[]),
    program("zip", &[("-P", Whole)], &[]),
    program("unzip", &[("-P", Whole)], &[]),
    program("7z", &[], &[("-p", Whole)]),
    program("7za", &[], &[("-p", Whole)]),
    program("7zz", &[], &[("-p", Whole)]),
    program("unrar", &[], &[("-p", Whole)]),
    program("rar", &[], &[("-p", Whole), ("-hp", Whole)]),
    family("ldap", &[("-w", Whole)], &[]),
    program("smbclient", &[("-U", Pair), ("--user", Pair)], &[("-U", Pair), ("--user=", Pair)]),
    program("sqlcmd", &[("-P", Whole)], &[("-P", Whole)]),
    program("bcp", &[("-P", Whole)], &[("-P", Whole)]),
    family("mosquitto_", &[("-P", Whole)], &[]),
    program("xfreerdp", &[], &[("/p:", Whole)]),
    program("snmpget", &[("-A", Whole), ("-X", Whole)], &[]),
    program("snmpwalk", &[("-A", Whole), ("-X", Whole)], &[]),
    program("ipmitool", &[("-P", Whole)], &[]),
    program(LOGIN, &[("-p", Whole)], &[]),
    Program {
        name: "rabbitmqctl",
        is_prefix: false,
        next: &[],
        attached: &[],
        verbs: &["add_user", "change_password"],
    },
];

/// Words by which these programs are found in a text.
pub(super) fn keywords() -> impl Iterator<Item = (usize, &'static str)> {
    PROGRAMS
        .iter()
        .enumerate()
        .map(|(at, program)| (at, program.name))
        .filter(|(_, name)| *name != LOGIN)
}

fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// The program of a command line, by whose rules its options are understood.
pub(super) fn of(first: &[u8], argv: &[Vec<u8>]) -> Option<&'static Program> {
    let name = basename(first);
    let logs_in = || argv.iter().skip(1).take(3).any(|argument| argument == b"login");
    let name = match name {
        b"docker" | b"podman" | b"nerdctl" | b"helm" | b"skopeo" if logs_in() => LOGIN.as_bytes(),
        _ => name,
    };
    PROGRAMS.iter().find(|program| program.is_called(name))
}

/// Whether the argument behind `option` is a command line of its own.
pub(super) fn takes_script(first: &[u8], option: &[u8]) -> bool {
    const SHELLS: [&[u8]; 8] = [b"sh", b"bash", b"dash", b"ash", b"zsh", b"ksh", b"busybox", b"su"];
    SHELLS.contains(&basename(first)) && option.starts_with(b"-") && option.ends_with(b"c")
}

impl Program {
    fn is_called(&self, name: &[u8]) -> bool {
        if self.is_prefix {
            name.starts_with(self.name.as_bytes())
        } else {
            name == self.name.as_bytes()
        }
    }

    /// What the argument behind `argument` is, for this program.
    pub(super) fn announced(&self, argument: &[u8]) -> Option<Carries> {
        let found = self.next.iter().find(|(option, _)| argument == option.as_bytes());
        found.map(|(_, carries)| *carries)
    }

    /// What the argument itself carries, and where that begins.
    pub(super) fn attached(&self, argument: &[u8]) -> Option<(usize, Carries)> {
        let found = self.attached.iter().find(|(option, _)| {
            argument.len() > option.len() && argument.starts_with(option.as_bytes())
        });
        found.map(|(option, carries)| (option.len(), *carries))
    }

    /// Whether `argument` is a verb with a name and a secret behind it.
    pub(super) fn is_verb(&self, argument: &[u8]) -> bool {
        self.verbs.iter().any(|verb| argument == verb.as_bytes())
    }
}

/// Bytes of a command that are looked at behind a program's name in a text: a long line of a terminal.
const COMMAND: usize = 1024;

/// Bytes of a word that may be a program's name.
const NAME: usize = 32;

/// Secrets of the command that begins with a program's name at `start` in a text.
pub(super) fn in_text(
    program: &Program,
    text: &[u8],
    start: usize,
    found: &mut Vec<std::ops::Range<usize>>,
) {
    if start > 0
        && !(text[start - 1].is_ascii_whitespace() || b"/'\"`(;|&=$".contains(&text[start - 1]))
    {
        return;
    }
    let end = text.len().min(start + COMMAND);
    let mut at = start;
    let mut due = None;
    let mut wait = 0;
    let mut is_first = true;
    while at < end {
        let Some(word) = word(text, at, end) else { return };
        at = word.end;
        let argument = &text[word.clone()];
        // Called again: that is looked at in its turn, and a text of nothing else only once.
        if program.is_called(&argument[..argument.len().min(NAME)]) != is_first {
            return;
        }
        if std::mem::take(&mut is_first) {
            continue;
        }
        let carried = match due.take() {
            Some(carries) if !argument.starts_with(b"-") => Some((0, carries)),
            _ if wait == 1 => Some((0, Whole)),
            _ => program.attached(argument),
        };
        wait = if program.is_verb(argument) { 2 } else { usize::saturating_sub(wait, 1) };
        match carried {
            Some((from, carries)) => {
                let quote = argument.get(from).filter(|byte| b"'\"".contains(byte)).copied();
                let from = word.start + from + usize::from(quote.is_some());
                // A quote ends the value where it was opened.
                let length = match quote {
                    Some(quote) => {
                        text[from..end].iter().position(|byte| *byte == quote).unwrap_or(end - from)
                    }
                    None => word.end.saturating_sub(from),
                };
                let range = from..from + length;
                at = at.max(range.end);
                if let Some(part) = secret_part(&text[range.clone()], carries) {
                    found.push(range.start + part..range.end);
                }
            }
            None => due = program.announced(argument),
        }
    }
}

/// Where the secret begins in what an option carries.
pub(super) fn secret_part(value: &[u8], carries: Carries) -> Option<usize> {
    match carries {
        Whole => Some(0),
        Pair => super::after_sign(value),
    }
}

/// The next word from `at` on, if the command does not end before it. Quotes are part of it; one with
/// blanks in it is cut there.
fn word(text: &[u8], at: usize, end: usize) -> Option<std::ops::Range<usize>> {
    let mut start = at;
    while start < end && matches!(text[start], b' ' | b'\t' | b'\\') {
        // A backslash at the end of a line goes on with the next one.
        start += 1 + usize::from(text[start] == b'\\' && text.get(start + 1) == Some(&b'\n'));
    }
    let start = start.min(end);
    let length = text[start..end]
        .iter()
        .take_while(|byte| !byte.is_ascii_whitespace() && !b";|&".contains(byte))
        .count();
    (length > 0).then_some(start..start + length)
}
