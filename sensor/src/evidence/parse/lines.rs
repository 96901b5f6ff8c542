//! Lines of logs within a window: text files, and the journal as `journalctl -o json` prints it. Lines
//! that differ in numbers only are told once, with a count.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
};

use sensor_proto::internal::v1::{FoundLine, LinesWanted, ParseAnswer};

use super::moment;

/// What is read of a log's end, bytes.
const TAIL: u64 = 4 << 20;
/// Longest line that is told, bytes.
const LINE: usize = 1024;
/// Different lines that are kept.
const LINES: usize = 200;
/// Different lines that are counted before the oldest are given up.
const KNOWN: usize = 4096;

pub(super) fn find(file: &File, wanted: &LinesWanted) -> Result<ParseAnswer, String> {
    if wanted.journal {
        // A pipe: what comes, up to the bound.
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text).map_err(|error| error.to_string())?;
        let cut = text.len() as u64 == TAIL;
        return Ok(select(entries(&text), wanted, cut));
    }
    let (text, cut) = tail(file, TAIL)?;
    Ok(select(plain(&text, wanted), wanted, cut))
}

/// The end of a regular file from the beginning of a line on, and whether there is more before it.
pub(super) fn tail(file: &File, most: u64) -> Result<(Vec<u8>, bool), String> {
    let mut file = file;
    let read = || -> std::io::Result<(Vec<u8>, bool)> {
        let size = file.metadata()?.len();
        let from = size.saturating_sub(most);
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.take(most).read_to_end(&mut text)?;
        if from > 0 {
            let first = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
            text.drain(..first);
        }
        Ok((text, from > 0))
    };
    let mut read = read;
    read().map_err(|error| error.to_string())
}

/// One line of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Seconds since 1970.
    pub at: Option<i64>,
    pub writer: Vec<u8>,
    pub severity: Option<u32>,
    pub text: Vec<u8>,
}

/// Lines of a text. One without a time is of the time of the line before it.
pub(crate) fn plain(text: &[u8], wanted: &LinesWanted) -> Vec<Line> {
    let here = moment::Here { offset_s: wanted.offset_s, now: wanted.now };
    let mut last = None;
    let line = |line: &[u8]| {
        let (at, rest) = moment::of(line, here).map_or((last, line), |(at, rest)| (Some(at), rest));
        last = at;
        let text = rest[..rest.len().min(LINE)].to_vec();
        Line { at, text, severity: severity(rest), writer: Vec::new() }
    };
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .map(line)
        .collect()
}

/// By the word that most loggers write in front.
fn severity(line: &[u8]) -> Option<u32> {
    let head = String::from_utf8_lossy(&line[..line.len().min(64)]).to_ascii_uppercase();
    let word = |words: &[&str]| {
        head.split(|c: char| !c.is_ascii_alphabetic()).any(|part| words.contains(&part))
    };
    [
        (2, &["FATAL", "PANIC", "CRITICAL", "CRIT", "EMERG", "ALERT"][..]),
        (3, &["ERROR", "ERR", "SEVERE"]),
        (4, &["WARN", "WARNING"]),
        (6, &["INFO"]),
        (7, &["DEBUG", "TRACE"]),
    ]
    .into_iter()
    .find_map(|(severity, words)| word(words).then_some(severity))
}

/// Entries of the journal, one JSON object a line.
pub(crate) fn entries(text: &[u8]) -> Vec<Line> {
    text.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

fn entry(line: &[u8]) -> Option<Line> {
    let entry: serde_json::Value = serde_json::from_slice(line).ok()?;
    // What is no UTF-8 is an array of its bytes.
    let field = |name: &str| match entry.get(name)? {
        serde_json::Value::String(text) => Some(text.clone().into_bytes()),
        serde_json::Value::Array(bytes) => {
            bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect()
        }
        _ => None,
    };
    let number = |name: &str| String::from_utf8(field(name)?).ok()?.parse::<i64>().ok();
    let mut text = field("MESSAGE")?;
    text.truncate(LINE);
    let mut writer = ["_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER", "_COMM"]
        .into_iter()
        .find_map(field)
        .unwrap_or_default();
    writer.truncate(256);
    Some(Line {
        at: number("__REALTIME_TIMESTAMP").map(|micros| micros.div_euclid(1_000_000)),
        writer,
        severity: number("PRIORITY").and_then(|it| u32::try_from(it).ok()).filter(|it| *it <= 7),
        text,
    })
}

/// What is alike is one; what is too much goes, the least severe and oldest first.
pub(crate) fn select(lines: Vec<Line>, wanted: &LinesWanted, cut: bool) -> ParseAnswer {
    // Writer, severity and text without numbers.
    type Kind = (Vec<u8>, Option<u32>, Vec<u8>);
    let mut known: HashMap<Kind, usize> = HashMap::new();
    let mut found: Vec<FoundLine> = Vec::new();
    let (mut omitted, mut repeated) = (0_u64, 0_u64);
    let inside = |line: &Line| line.at.is_none_or(|at| at >= wanted.since && at <= wanted.now + 60);
    for line in lines.into_iter().filter(inside) {
        let id = (line.writer.clone(), line.severity, alike(&line.text));
        match known.get(&id) {
            Some(at) => {
                let first = &mut found[*at];
                first.repeats += 1;
                first.until = line.at.or(first.until);
                repeated += 1;
            }
            None if found.len() >= KNOWN => omitted += 1,
            None => {
                known.insert(id, found.len());
                found.push(FoundLine {
                    at: line.at,
                    until: line.at,
                    repeats: 1,
                    writer: line.writer,
                    severity: line.severity,
                    text: line.text,
                });
            }
        }
    }
    if found.len() > LINES {
        let mut order: Vec<usize> = (0..found.len()).collect();
        // Unknown is as good as a notice.
        order.sort_by_key(|at| (found[*at].severity.unwrap_or(5), std::cmp::Reverse(*at)));
        for at in order.split_off(LINES) {
            let gone = std::mem::take(&mut found[at]);
            repeated -= u64::from(gone.repeats - 1);
            omitted += u64::from(gone.repeats);
        }
        found.retain(|line| line.repeats > 0);
    }
    ParseAnswer { lines: found, omitted, repeated, cut, ..Default::default() }
}

/// Without its numbers: runs of digits, and hexadecimal ones of eight and more, are one character.
fn alike(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(byte) = rest.first() {
        let word = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let number = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = if word >= 8 { word } else { number };
        if number > 0 {
            out.push(b'#');
            rest = &rest[number..];
        } else {
            out.push(*byte);
            rest = &rest[1..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_795_819_505;

    fn wanted(journal: bool) -> LinesWanted {
        LinesWanted { since: NOW - 600, now: NOW, offset_s: 0, journal }
    }

    #[test]
    fn what_is_alike_is_counted() {
        let text = b"2026-11-27 22:00:00 too old\n2026-11-27 22:40:00 ERROR job 1 failed\n  at line 7\n\
                     2026-11-27 22:41:00 ERROR job 22 failed\n2026-11-27 22:42:00 started deadbeef01\n";
        let found = select(plain(text, &wanted(false)), &wanted(false), false);
        let told: Vec<(u32, Option<u32>, String)> = found
            .lines
            .iter()
            .map(|it| (it.repeats, it.severity, String::from_utf8(it.text.clone()).unwrap()))
            .collect();
        let expected = [
            (2, Some(3), "ERROR job 1 failed".to_owned()),
            (1, None, "  at line 7".to_owned()),
            (1, None, "started deadbeef01".to_owned()),
        ];
        assert_eq!((told, found.repeated, found.omitted), (expected.to_vec(), 1, 0));
        assert_eq!(found.lines[0].until.unwrap() - found.lines[0].at.unwrap(), 60);
    }

    #[test]
    fn a_recorded_journal() {
        let text = br#"{"__REALTIME_TIMESTAMP":"1795819400123456","PRIORITY":"3","_SYSTEMD_UNIT":"app.service","MESSAGE":"cannot open 7"}
{"__REALTIME_TIMESTAMP":"1795819401000000","PRIORITY":"3","_SYSTEMD_UNIT":"app.service","MESSAGE":"cannot open 8"}
{"__REALTIME_TIMESTAMP":"1795819402000000","PRIORITY":"6","SYSLOG_IDENTIFIER":"cron","MESSAGE":[106,111,98,255]}
{"__REALTIME_TIMESTAMP":"1795000000000000","MESSAGE":"long ago"}
not JSON
"#;
        let found = select(entries(text), &wanted(true), false);
        assert_eq!((found.lines.len(), found.repeated), (2, 1));
        let [failed, job] = &found.lines[..] else { panic!("two lines") };
        assert_eq!((failed.writer.as_slice(), failed.repeats), (&b"app.service"[..], 2));
        assert_eq!((failed.at, failed.until), (Some(1_795_819_400), Some(1_795_819_401)));
        assert_eq!((job.writer.as_slice(), job.text.as_slice()), (&b"cron"[..], &b"job\xff"[..]));
    }

    #[test]
    fn the_severe_and_the_latest_stay() {
        let mut lines: Vec<Line> = (0..500)
            .map(|at| Line {
                at: Some(NOW),
                text: vec![b'a' + at as u8 % 20, b'x' + (at / 20) as u8],
                ..Line::default()
            })
            .collect();
        lines[0].severity = Some(3);
        let found = select(lines.clone(), &wanted(false), true);
        assert_eq!((found.lines.len() as u64 + found.omitted, found.lines.len()), (500, LINES));
        assert!(found.cut && found.lines[0].severity == Some(3));
        assert_eq!(found.lines.last().unwrap().text, lines[499].text);
    }

    #[test]
    fn a_long_file_is_read_from_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &b"0123456\n".repeat(1000)).unwrap();
        assert_eq!(tail(&file, 20).unwrap(), (b"0123456\n0123456\n".to_vec(), true));
        assert_eq!(tail(&file, 1 << 20).unwrap().0.len(), 8000);
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..600), now: i64) {
            let wanted = LinesWanted { now: now / 2, since: 0, ..wanted(false) };
            let all = plain(&text, &wanted).len() as u64;
            let found = select(plain(&text, &wanted), &wanted, false);
            let told: u64 = found.lines.iter().map(|line| u64::from(line.repeats)).sum();
            prop_assert!(told + found.omitted <= all);
            let _ = select(entries(&text), &wanted, true);
        }
    }
}
