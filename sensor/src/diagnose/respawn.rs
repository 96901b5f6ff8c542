//! Respawn loops: who restarts what, how often, how long it lives, how it ends, and what that means.

use std::fmt::Write as _;

use sensor_common::respawn::{CORE_DUMPED, signal, status};

use super::{Claim, Files, Link, call, command, site::Site, words::Words};
use crate::{
    detect::respawn::ending,
    evidence::{Redactor, gather::Restarted},
    proto,
};

/// What an explanation may look at.
pub struct Case<'a> {
    pub finding: &'a crate::detect::Finding,
    /// What the culprit runs.
    pub program: &'a Link,
    /// What it restarts, as it last ran.
    pub command: &'a Link,
    pub restarted: &'a Restarted,
    /// Evidence ids of the chain and of the ends, for citation.
    pub cited: &'a [String],
    pub files: &'a mut dyn Files,
    pub redactor: &'a Redactor,
}

/// What happens, what the way it ends means, and which line restarts it.
pub fn diagnose(case: &mut Case<'_>) -> proto::Diagnosis {
    let words = Words { redactor: case.redactor };
    let who = match case.program.argv.as_slice() {
        [] => "A process of which no command is known".to_owned(),
        argv => words.command(argv),
    };
    let what = match case.command.argv.as_slice() {
        [] => "a command without a name".to_owned(),
        argv => words.command(argv),
    };
    let window = &case.restarted.window;
    let place = match case.command.cwd.as_slice() {
        [] => String::new(),
        cwd => format!(" in {}", words.path(&path(cwd))),
    };
    let seconds = u64::from(window.row) * case.restarted.span_ns / 1_000_000_000;
    let mut cause = format!(
        "{who} restarts {what}{place}, which fails at once: {}.{} It has gone on like that for {seconds} s.",
        pace(case.restarted),
        case.restarted.killer.as_ref().map_or_else(
            || meaning(window.code),
            |killer| format!(" It is killed: by {killer}, and not for want of memory."),
        ),
    );
    if window.dumped > 0 {
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            cause,
            " {} of these runs left a core dump, each of which takes room on the disk.",
            window.dumped
        );
    }
    let site = Site::of(case.program, case.files, call(case.command, &[]));
    let text = command::shell_text(&case.program.argv);
    let mut waits = text.is_some_and(is_wait);
    if let Some(site) = &site {
        let file = words.path(&site.file);
        let _ = write!(cause, " Line {} of {file} is {}.", site.number, words.line(&site.text));
        waits = is_wait(&site.text);
    } else if let Some(text) = text {
        let _ = write!(cause, " Its text is {}.", words.line(text));
    }
    if waits {
        cause += " That waits until the command succeeds, and may be meant so.";
    } else if signal(window.code) == 0 {
        cause += " A script that waits until something answers looks the same: then nothing is wrong but \
                  the wait.";
    }

    // Whatever is restarted ends by itself.
    let end = case.finding.culprit.map_or(String::new(), |culprit| {
        format!("To end the loop now, end process {}, which restarts it.", culprit.tgid)
    });
    let restarts = match &site {
        Some(site) => format!("{} ({who})", site.place(&words)),
        None => who,
    };
    let remedy = format!(
        "Run {what}{place} by hand to see what it says, and mend that; let {restarts} wait longer between \
         two tries and give up after some. {end}"
    );
    let confidence = if site.is_some() { 0.8 } else { 0.7 };
    let evidence = site.into_iter().map(|site| site.evidence).collect();
    let claim = Claim { by: "respawn", cause, remedy, confidence, evidence };
    let first = case.cited.first().map_or("", String::as_str);
    let mut diagnosis = super::told(claim, first);
    for more in case.cited.iter().skip(1).filter(|id| !id.is_empty()) {
        diagnosis.evidence.push(more.clone());
    }
    diagnosis
}

fn path(bytes: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// `60 runs a minute, all of which fail after 12 ms on average, each with exit code 127`
fn pace(restarted: &Restarted) -> String {
    let Restarted { window, span_ns, .. } = restarted;
    let minute = f64::from(window.runs) * 60e9 / (*span_ns).max(1) as f64;
    let share = f64::from(window.failed) * 100.0 / f64::from(window.runs.max(1));
    let failing =
        if window.failed >= window.runs { "all".to_owned() } else { format!("{share:.0} %") };
    let life = match window.ran_ns as f64 / 1e6 / f64::from(window.failed.max(1)) {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    };
    let last = ending(window.code);
    // The first of a window may follow another code.
    let ends = if window.otherwise <= 1 {
        format!("each with {last}")
    } else {
        format!("the last with {last}, {} otherwise than the one before", window.otherwise)
    };
    format!("{minute:.0} runs a minute, {failing} of which fail after {life} on average, {ends}")
}

/// What a code says about the cause, as a sentence with a space before it.
fn meaning(code: u32) -> String {
    let said = match (signal(code), status(code)) {
        (4 | 7 | 8 | 11, _) => {
            "The program crashes: a fault of its own, a library that does not fit, or a damaged file"
        }
        (6, _) => "The program gives itself up (abort): what it printed before says why",
        (9, _) => {
            "Somebody kills it: the kernel where memory runs out, which its log would say, or a \
             supervisor whose patience has ended"
        }
        (1 | 2 | 15, _) => {
            "Somebody asks it to end as soon as it has begun, as a supervisor or a script does"
        }
        (31, _) => "It makes a system call that a filter forbids (seccomp)",
        (13, _) => "It writes to a pipe that nobody reads",
        (other, _) if other != 0 => "Signals end programs that do not expect them",
        (_, 127) => {
            "A shell says 127 where it does not find the command: its name, or PATH, is wrong"
        }
        (_, 126) => {
            "A shell says 126 where a file is there and cannot be executed: its permissions, its `#!` line, \
             or its architecture"
        }
        (_, 2) => "Many programs say 2 where their arguments or configuration are wrong",
        (_, 1) => "1 says no more than that it failed: what it prints says why",
        (_, 0) => "The last one ended well",
        _ => "What this code means, its own documentation says",
    };
    let dumped = if code & CORE_DUMPED != 0 { ", and the core dump shows where" } else { "" };
    format!(" {said}{dumped}.")
}

/// `until nc -z host 5432; do …`, `while ! test -e x`.
fn is_wait(line: &[u8]) -> bool {
    let mut words = line.split(|byte| byte.is_ascii_whitespace() || *byte == b';');
    let mut before: &[u8] = b"";
    words.any(|word| {
        let waits = word == b"until" || (before == b"while" && word == b"!");
        before = word;
        waits
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_common::respawn::Window;

    use super::{
        super::tests::{One, argv},
        *,
    };
    use crate::detect::Finding;

    fn link(line: &str) -> Link {
        Link { argv: argv(line), cwd: b"/w".to_vec(), ..Link::default() }
    }

    /// 57 of 60 runs in a minute that failed like this after 12 ms each, twice.
    fn window(code: u32) -> Window {
        let failed = 57;
        Window {
            ran_ns: u64::from(failed) * 12_000_000,
            runs: 60,
            failed,
            code,
            row: 2,
            ..Window::default()
        }
    }

    fn said_of(program: &Link, window: Window, file: Option<&'static str>) -> proto::Diagnosis {
        let finding = Finding {
            kind: proto::Kind::CrashLoop,
            rule: "R6",
            culprit: Some(crate::lineage::ProcessKey::new(7, 1)),
            group: None,
            leaf: None,
            contain: false,
            confidence: 0.7,
            at_ns: 0,
            measures: Vec::new(),
        };
        let restarted = Restarted { window, span_ns: 60_000_000_000, ..Restarted::default() };
        diagnose(&mut Case {
            finding: &finding,
            program,
            command: &link("./server --port 80"),
            restarted: &restarted,
            cited: &["e2".into(), "e3".into()],
            files: &mut One(file),
            redactor: &Redactor::new([1; 16]),
        })
    }

    fn said(code: u32, file: Option<&'static str>) -> proto::Diagnosis {
        said_of(&link("sh run"), window(code), file)
    }

    #[test]
    fn a_script_that_restarts_a_server() {
        let said = said(1 << 8, Some("while :; do\n  ./server --port 80\n  sleep 1\ndone\n"));
        assert_eq!(
            said.cause,
            "`sh run` restarts `./server --port 80` in /w, which fails at once: 60 runs a minute, 95 % of \
             which fail after 12 ms on average, each with exit code 1. 1 says no more than that it \
             failed: what it prints says why. It has gone on like that for 120 s. Line 2 of /w/run is \
             `./server --port 80`. A script that waits until something answers looks the same: then \
             nothing is wrong but the wait."
        );
        assert!(said.remedy.contains("let line 2 of /w/run (`sh run`) wait"), "{}", said.remedy);
        assert!(said.remedy.ends_with("end process 7, which restarts it."), "{}", said.remedy);
        assert_eq!(said.evidence, ["e2", "f1", "e3"]);
        assert!((said.confidence - 0.8).abs() < 1e-9);
    }

    #[test]
    fn what_waits_is_told_as_such() {
        let script = "until ./server --port 80; do sleep 1; done\n";
        let said = said(1 << 8, Some(script));
        assert!(said.cause.ends_with("may be meant so."), "{}", said.cause);
        let shell = Link {
            argv: vec![
                b"sh".to_vec(),
                b"-c".to_vec(),
                b"while ! ./server --port 80; do :; done".to_vec(),
            ],
            ..link("")
        };
        let said = said_of(&shell, window(1 << 8), None);
        assert!(said.cause.contains("Its text is `while ! ./server"), "{}", said.cause);
        assert!(said.cause.ends_with("may be meant so."), "{}", said.cause);
        assert!(!is_wait(b"while :; do") && !is_wait(b"untilx") && !is_wait(b"while x; ! y"));
    }

    #[test]
    fn crashes_are_told_with_their_dumps() {
        let window = Window { by_signal: 57, dumped: 57, ..window(11 + CORE_DUMPED) };
        let said = said_of(&link("supervise"), window, None);
        assert!(said.cause.contains("each with signal 11 (SIGSEGV). The program crashes"));
        assert!(said.cause.contains("57 of these runs left a core dump"), "{}", said.cause);
        assert!(!said.cause.contains("looks the same"), "{}", said.cause);
        assert!(said.remedy.contains("let `supervise` wait"), "{}", said.remedy);
    }

    #[test]
    fn codes_have_a_meaning() {
        for (code, part) in [
            (127 << 8, "does not find the command"),
            (126 << 8, "cannot be executed"),
            (2 << 8, "arguments or configuration"),
            (77 << 8, "its own documentation"),
            (9, "the kernel where memory runs out"),
            (137 << 8, "the kernel where memory runs out"),
            (139 << 8, "The program crashes"),
            (6, "abort"),
            (15, "Somebody asks it to end"),
            (64, "Signals end programs"),
        ] {
            let cause = said(code, None).cause;
            assert!(cause.contains(part), "{code}: {cause}");
        }
        let many = Window { otherwise: 30, ..window(1 << 8) };
        let cause = said_of(&link("sh run"), many, None).cause;
        assert!(cause.contains("the last with exit code 1, 30 otherwise than the one before"));
    }

    proptest! {
        #[test]
        fn any_code_and_line(code in any::<u32>(), line in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (meaning(code), ending(code), is_wait(&line));
        }
    }
}
