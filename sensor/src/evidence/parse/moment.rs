//! When a line of a log was written, by the forms that logs use.

use jiff::{
    civil::{Date, DateTime, Time},
    tz::Offset,
};

/// How this host's clocks and calendars are, for lines that do not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here {
    /// East of Greenwich, s.
    pub offset_s: i32,
    /// Now, s since 1970.
    pub now: i64,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Longest beginning of a line in which a time is looked for, bytes.
const HEAD: usize = 96;

/// Seconds since 1970, and the rest of the line behind the time.
pub(crate) fn of(line: &[u8], here: Here) -> Option<(i64, &[u8])> {
    let head = &line[..line.len().min(HEAD)];
    let skip = head.iter().take_while(|byte| matches!(byte, b'[' | b'(' | b' ' | b'"')).count();
    let text = ascii(&head[skip..]);
    let (at, length) = iso(text, here)
        .or_else(|| syslog(text, here))
        .or_else(|| epoch(text))
        .map(|(at, length)| (at, skip + length))
        .or_else(|| apache(ascii(head)))?;
    let rest = &line[length..];
    let end = rest
        .iter()
        .take_while(|byte| matches!(byte, b']' | b')' | b' ' | b':' | b'"' | b'\t'))
        .count();
    Some((at, &rest[end..]))
}

/// The beginning that is plain ASCII.
fn ascii(bytes: &[u8]) -> &str {
    let end = bytes.iter().take_while(|byte| byte.is_ascii()).count();
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

fn digits(text: &str, at: usize, count: usize) -> Option<i16> {
    let part = text.get(at..at + count)?;
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
}

fn seconds(date: (i16, i16, i16), time: (i16, i16, i16), offset_s: i32) -> Option<i64> {
    let date = Date::new(date.0, i8::try_from(date.1).ok()?, i8::try_from(date.2).ok()?).ok()?;
    let part = |number| i8::try_from(number).ok();
    // A leap second is told as the one before it.
    let time = Time::new(part(time.0)?, part(time.1)?, part(time.2.min(59))?, 0).ok()?;
    let at = DateTime::from_parts(date, time);
    Some(Offset::from_seconds(offset_s).ok()?.to_timestamp(at).ok()?.as_second())
}

fn clock(text: &str, at: usize) -> Option<(i16, i16, i16)> {
    let colons = text.get(at + 2..=at + 2)? == ":" && text.get(at + 5..=at + 5)? == ":";
    colons.then_some(())?;
    Some((digits(text, at, 2)?, digits(text, at + 3, 2)?, digits(text, at + 6, 2)?))
}

/// `+01:00`, `-0500`, `Z`: seconds and length.
fn zone(text: &str) -> Option<(i32, usize)> {
    if text.starts_with('Z') {
        return Some((0, 1));
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let colon = usize::from(text.get(3..4) == Some(":"));
    let (hours, minutes) = (digits(text, 1, 2)?, digits(text, 3 + colon, 2)?);
    Some((sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60), 5 + colon))
}

/// `2026-11-27T22:45:05.123Z`, `2026-11-27 22:45:05,123`, `2026/11/27 22:45:05`
fn iso(text: &str, here: Here) -> Option<(i64, usize)> {
    let separator = text.get(4..5)?;
    if !matches!(separator, "-" | "/") || text.get(7..8)? != separator {
        return None;
    }
    let date = (digits(text, 0, 4)?, digits(text, 5, 2)?, digits(text, 8, 2)?);
    matches!(text.get(10..11)?, "T" | " " | "_").then_some(())?;
    let time = clock(text, 11)?;
    let mut end = 19;
    if matches!(text.get(end..=end), Some("." | ",")) {
        end += 1 + text[end + 1..].bytes().take_while(u8::is_ascii_digit).count();
    }
    let blank = usize::from(text.get(end..=end) == Some(" "));
    let (offset, length) = match zone(&text[end..]) {
        Some(zone) => zone,
        None => text
            .get(end + blank..)
            .and_then(zone)
            .map_or((here.offset_s, 0), |(offset, length)| (offset, length + blank)),
    };
    Some((seconds(date, time, offset)?, end + length))
}

/// `Nov 27 22:45:05`: of this year, or of the last where that would be in the future.
fn syslog(text: &str, here: Here) -> Option<(i64, usize)> {
    let month = MONTHS.iter().position(|name| text.starts_with(name))? as i16 + 1;
    let day = match text.get(3..6)?.strip_prefix(' ')?.as_bytes() {
        [b' ', digit @ b'1'..=b'9'] => i16::from(digit - b'0'),
        _ => digits(text, 4, 2)?,
    };
    let time = clock(text, 7)?;
    let now = jiff::Timestamp::from_second(here.now).ok()?;
    let year = Offset::UTC.to_datetime(now).year();
    let of = |year| seconds((year, month, day), time, here.offset_s);
    // A day ahead is a clock that was set, more is another year.
    let at = of(year).filter(|at| *at <= here.now + 86_400).or_else(|| of(year - 1))?;
    Some((at, 15))
}

/// `1795000000.123`
fn epoch(text: &str) -> Option<(i64, usize)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let at: i64 = text[..length].parse().ok().filter(|_| matches!(length, 10 | 13))?;
    let fraction = text[length..]
        .strip_prefix('.')
        .map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
    Some((if length == 13 { at / 1000 } else { at }, length + fraction))
}

/// `… [27/Nov/2026:22:45:05 +0000]`, behind a client's address.
fn apache(text: &str) -> Option<(i64, usize)> {
    let at = text.find('[')? + 1;
    let rest = text.get(at..)?;
    let month = MONTHS.iter().position(|name| rest.get(3..6) == Some(name))? as i16 + 1;
    (rest.get(2..3)? == "/" && rest.get(6..7)? == "/" && rest.get(11..12)? == ":").then_some(())?;
    let date = (digits(rest, 7, 4)?, month, digits(rest, 0, 2)?);
    let time = clock(rest, 12)?;
    let (offset, length) = zone(rest.get(21..)?)?;
    Some((seconds(date, time, offset)?, at + 21 + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-27 22:45:05 UTC
    const AT: i64 = 1_795_819_505;
    const HERE: Here = Here { offset_s: 3600, now: AT + 600 };

    #[test]
    fn every_form_is_the_same_moment() {
        for line in [
            "2026-11-27T22:45:05Z x: y",
            "2026-11-27T22:45:05.123456+00:00 x: y",
            "2026-11-27 23:45:05,123 x: y",
            "[2026-11-27 17:45:05.1 -0500] x: y",
            "2026/11/27 23:45:05 x: y",
            "Nov 27 23:45:05 x: y",
            "1795819505.25 x: y",
            "1795819505000 x: y",
        ] {
            assert_eq!(of(line.as_bytes(), HERE), Some((AT, &b"x: y"[..])), "{line}");
        }
        let line = b"10.0.0.1 - - [27/Nov/2026:22:45:05 +0000] \"GET / HTTP/1.1\" 200";
        assert_eq!(of(line, HERE).unwrap().0, AT);
        let line = b"Dec  3 00:00:00 old";
        assert!(of(line, HERE).unwrap().0 < AT, "of the year before");
        for line in ["x: y", "", "2026-13-27T22:45:05Z", "12 apples", "\u{2028}2026-11-27"] {
            assert_eq!(of(line.as_bytes(), HERE), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line(line in prop::collection::vec(any::<u8>(), 0..150), offset_s: i32, now: i64) {
            if let Some((_, rest)) = of(&line, Here { offset_s, now }) {
                prop_assert!(line.ends_with(rest));
            }
        }

        #[test]
        fn lines_that_look_right(line in "[\\[ ]?[0-9A-Z]{1,4}[-/ ][0-9]{1,2}[-/ ][0-9]{2}[T ][0-9:., +Z-]{0,20}") {
            let _ = of(line.as_bytes(), HERE);
        }
    }
}
