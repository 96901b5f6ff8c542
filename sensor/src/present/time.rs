//! Times for people, and times that people write.

use jiff::{SignedDuration, civil, tz::TimeZone};
use prost_types::Timestamp;

const SECOND: u64 = 1_000_000_000;

/// Date and time of day in a zone: `2026-11-21 03:12:09`; `?` for what no calendar has.
pub fn moment(time: Option<Timestamp>, zone: &TimeZone) -> String {
    formatted(time, zone, "%Y-%m-%d %H:%M:%S")
}

/// Time of day.
pub fn of_second(time: Option<Timestamp>, zone: &TimeZone) -> String {
    formatted(time, zone, "%H:%M:%S")
}

/// Time of day with milliseconds.
pub fn of_day(time: Option<Timestamp>, zone: &TimeZone) -> String {
    formatted(time, zone, "%H:%M:%S%.3f")
}

fn formatted(time: Option<Timestamp>, zone: &TimeZone, format: &str) -> String {
    time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok()).map_or_else(
        || "?".to_owned(),
        |time| time.to_zoned(zone.clone()).strftime(format).to_string(),
    )
}

/// A duration in the one unit that fits: `850 ms`, `2.1 s`, `12 min`, `3 h`, `4 d`.
pub fn duration(ns: u64) -> String {
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    // 99.9 s says more than 1 min.
    const LONG: u64 = 100 * SECOND;
    match ns {
        0..SECOND => format!("{} ms", ns / 1_000_000),
        SECOND..LONG => format!("{:.1} s", ns as f64 / SECOND as f64),
        LONG..HOUR => format!("{} min", ns / MINUTE),
        HOUR..DAY => format!("{} h", ns / HOUR),
        _ => format!("{} d", ns / DAY),
    }
}

/// The same of seconds, in words: what is counted in minutes and in hours is longer than elsewhere, because a
/// forecast of `1 h to 1 h` says less than `70 min to 95 min`.
pub fn seconds(s: f64) -> String {
    match s as u64 {
        100..7_200 => format!("{:.0} min", s / 60.0),
        7_200..172_800 => format!("{:.0} h", s / 3600.0),
        _ => duration((s * 1e9) as u64),
    }
}

/// How long ago: `just now`, `4 min ago`; `in 6 min` where a clock was set back.
pub fn ago(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(time) = time else { return "?".to_owned() };
    let seconds = now.seconds.saturating_sub(time.seconds);
    let whole = duration(seconds.unsigned_abs().saturating_mul(SECOND));
    match seconds {
        -1..=1 => "just now".to_owned(),
        2.. => format!("{} ago", whole.replace(".0", "")),
        _ => format!("in {}", whole.replace(".0", "")),
    }
}

/// From one moment of the boot clock to another: `+0.002 s`, `-1.500 s`, `+12 min`.
pub fn offset(from_ns: u64, to_ns: u64) -> String {
    let (sign, distance) =
        if to_ns < from_ns { ('-', from_ns - to_ns) } else { ('+', to_ns - from_ns) };
    if distance < 100 * SECOND {
        format!("{sign}{:.3} s", distance as f64 / SECOND as f64)
    } else {
        format!("{sign}{}", duration(distance))
    }
}

/// What `--since` takes: a distance back from now (`2h`, `30 min`), a date (midnight of the zone),
/// a date and time of the zone, or RFC 3339.
pub fn since(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let problem = || {
        format!(
            "{text:?} is no time; write 2h, 2026-11-21, \"2026-11-21 14:30\" or 2026-11-21T14:30:00Z"
        )
    };
    let time = if let Ok(time) = text.parse::<jiff::Timestamp>() {
        time
    } else if let Ok(time) = text.parse::<civil::DateTime>() {
        time.to_zoned(zone.clone()).map_err(|_| problem())?.timestamp()
    } else {
        let back = humantime::parse_duration(text).map_err(|_| problem())?;
        let back = SignedDuration::try_from(back).map_err(|_| problem())?;
        let now = jiff::Timestamp::new(now.seconds, now.nanos).map_err(|_| problem())?;
        now.checked_sub(back).map_err(|_| problem())?
    };
    Ok(Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 1_795_000_000, nanos: 0 };

    const fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 5_000_000 }
    }

    #[test]
    fn moments_are_local() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(moment(Some(at(0)), &zone), "1970-01-01 02:00:00");
        assert_eq!(of_day(Some(at(0)), &TimeZone::UTC), "00:00:00.005");
        assert_eq!(moment(Some(at(i64::MAX)), &zone), "?");
        assert_eq!(moment(None, &zone), "?");
    }

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(duration(2_500_000), "2 ms");
        assert_eq!(duration(2_100_000_000), "2.1 s");
        assert_eq!(duration(240 * SECOND), "4 min");
        assert_eq!(duration(7_200 * SECOND), "2 h");
        assert_eq!(duration(u64::MAX), "213503 d");
        assert_eq!(ago(Some(at(NOW.seconds - 240)), NOW), "4 min ago");
        assert_eq!(ago(Some(at(NOW.seconds - 30)), NOW), "30 s ago");
        assert_eq!(ago(Some(at(NOW.seconds + 600)), NOW), "in 10 min");
        assert_eq!(ago(Some(at(i64::MIN)), NOW), "213503 d ago");
        assert_eq!(offset(5 * SECOND, 5 * SECOND + 2_000_000), "+0.002 s");
        assert_eq!(offset(5 * SECOND, 3 * SECOND), "-2.000 s");
        assert_eq!(offset(0, 660 * SECOND), "+11 min");
    }

    #[test]
    fn since_takes_distances_dates_and_times() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let seconds = |text: &str| since(text, NOW, &zone).map(|time| time.seconds);
        assert_eq!(seconds("2h"), Ok(NOW.seconds - 7_200));
        assert_eq!(seconds("1970-01-02"), Ok(86_400 - 3_600));
        assert_eq!(seconds("1970-01-02 01:00"), Ok(86_400));
        assert_eq!(seconds("1970-01-02T00:00:00Z"), Ok(86_400));
        let error = seconds("yesterday").unwrap_err();
        assert!(error.starts_with("\"yesterday\" is no time; write 2h"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(text in ".{0,40}") {
            let _ = since(&text, NOW, &TimeZone::UTC);
        }

        #[test]
        fn any_time_can_be_shown(seconds: i64, nanos: i32, ns: u64, other: u64) {
            let time = Some(Timestamp { seconds, nanos });
            prop_assert!(!moment(time, &TimeZone::UTC).is_empty());
            prop_assert!(!ago(time, NOW).is_empty());
            prop_assert!(!offset(ns, other).is_empty());
        }
    }
}
