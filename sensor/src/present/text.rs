//! Text for a terminal: what comes from outside is escaped, what is long is cut or wrapped.

use sensor_proto::json::escape;
use unicode_width::UnicodeWidthChar as _;

pub use crate::render::command;

/// Text that the daemon put together: nothing in it reaches the terminal as a command, newlines
/// included. Backslashes stay as they are, because what it quotes is escaped already.
pub fn safe(text: &str) -> String {
    text.split('\\').map(|part| escape(part.as_bytes())).collect::<Vec<_>>().join("\\")
}

/// Columns that a text takes. Characters without a width of their own count as none.
pub fn width(text: &str) -> usize {
    text.chars().map(|character| character.width().unwrap_or(0)).sum()
}

/// The text, or its beginning and `…`, in at most `columns`.
pub fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let mut cut = String::new();
    let mut used = 0;
    for character in text.chars() {
        let wide = character.width().unwrap_or(0);
        if used + wide > room {
            break;
        }
        used += wide;
        cut.push(character);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// Lines of at most `columns` (at least 20), broken at spaces, or within a word that is longer.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(20);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let wide = width(word);
        if used > 0 && used + 1 + wide > columns {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        for character in word.chars() {
            let wide = character.width().unwrap_or(0);
            if used + wide > columns {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(character);
            used += wide;
        }
    }
    lines.push(line);
    lines
}

/// A size in the unit that leaves at most four digits.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A number without a tail of zeros; two digits behind the point at most.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A large number in groups of three digits: `1,012,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Money, from millionths of a US dollar: `$2.00`, `$0.0113`.
pub fn dollars(micro: u64) -> String {
    // Hundredths of a cent are enough for anybody, and what is less than one is not nothing.
    let parts = micro.div_ceil(100);
    let (cents, rest) = (parts / 100, parts % 100);
    let tail = if rest == 0 { String::new() } else { format!("{rest:02}") };
    format!("${}.{:02}{tail}", grouped(cents / 100), cents % 100)
}

/// `1 process`, `2 processes`.
pub fn count(number: impl Into<u64>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_stay_readable() {
        assert_eq!(safe("`a\\x1b` \x1b[31m\n"), "`a\\x1b` \\x1b[31m\\x0a");
    }

    #[test]
    fn large_numbers_have_groups() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_012_000, "1,012,000")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn money_is_in_dollars_and_cents_and_what_is_less_than_one() {
        for (micro, text) in [
            (0, "$0.00"),
            (1, "$0.0001"),
            (11_250, "$0.0113"),
            (10_000, "$0.01"),
            (19_999, "$0.02"),
            (2_000_000, "$2.00"),
            (2_001_300, "$2.0013"),
            (1_234_500_000, "$1,234.50"),
        ] {
            assert_eq!(dollars(micro), text);
        }
        assert_eq!(dollars(u64::MAX), "$18,446,744,073,709.5517");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(width("日本"), 4);
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn paragraphs_break_at_spaces() {
        assert_eq!(wrap("one two three four five six", 20), ["one two three four", "five six"]);
        assert_eq!(wrap(&"x".repeat(45), 20), ["x".repeat(20), "x".repeat(20), "x".repeat(5)]);
        assert_eq!(wrap("", 20), [""]);
    }

    #[test]
    fn sizes_and_numbers_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(854 << 20), "854 MiB");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(number(3.0), "3");
        assert_eq!(number(0.875), "0.88");
        assert_eq!(number(1.0e9), "1000000000");
        assert_eq!(count(1_u32, "process", "processes"), "1 process");
    }

    proptest! {
        #[test]
        fn no_control_character_gets_through(
            argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..80),
            text in "\\PC*|.{0,60}",
            columns in 0_usize..120,
        ) {
            let shown = [safe(&text), command(&argv), fit(&safe(&text), columns), wrap(&command(&argv), columns).join("|")];
            for line in shown {
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }

        #[test]
        fn nothing_is_wider_than_asked(text in ".{0,200}", columns in 20_usize..100) {
            prop_assert!(width(&fit(&text, columns)) <= columns);
            for line in wrap(&text, columns) {
                prop_assert!(width(&line) <= columns);
            }
        }

        #[test]
        fn wrapping_loses_nothing(text in "[a-z日 ]{0,200}", columns in 20_usize..60) {
            let dense = |text: &str| text.replace(' ', "");
            prop_assert_eq!(dense(&wrap(&text, columns).concat()), dense(&text));
        }
    }
}
