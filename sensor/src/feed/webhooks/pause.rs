//! How long to wait before the next try.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, fmt::rfc2822};

/// Doubled with each try.
const FIRST: Duration = Duration::from_millis(500);

/// What a receiver may ask for: one that is back earlier is not kept waiting for long.
const ASKED_MAX: Duration = Duration::from_mins(10);

/// Before the next one after so many failed tries in a row. The second half of it is up to `random`, so
/// that those who lost a receiver together do not come back together.
pub fn after(tries: u32, max: Duration, random: u64) -> Duration {
    let full = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(max);
    full / 2 + full.mul_f64((random >> 32) as f64 / f64::from(u32::MAX) / 2.0)
}

/// What a `Retry-After` asks for: seconds, or a date. None: nothing that makes sense.
pub fn asked(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    let asked = if header.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(header.parse().ok()?)
    } else {
        let until: Timestamp = rfc2822::parse(header).ok()?.timestamp();
        SystemTime::from(until).duration_since(now).unwrap_or_default()
    };
    Some(asked.min(ASKED_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: Duration = Duration::from_mins(1);

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let longest = |tries| after(tries, MAX, u64::MAX).as_millis();
        assert_eq!([1, 2, 3, 7, 8, 9].map(longest), [500, 1_000, 2_000, 32_000, 60_000, 60_000]);
        let shortest = |tries| after(tries, MAX, 0).as_millis();
        assert_eq!([1, 2, 9].map(shortest), [250, 500, 30_000]);
    }

    #[test]
    fn a_receiver_asks_in_seconds_or_for_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |header| asked(header, now).map(|pause| pause.as_secs());
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked(" 0 "), Some(0));
        assert_eq!(asked("86400"), Some(600));
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        for nonsense in ["", "soon", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_a_bounded_pause_or_none(header in "(\\PC{0,40}|[0-9]{1,25})") {
            let pause = asked(&header, SystemTime::now());
            prop_assert!(pause.is_none_or(|pause| pause <= ASKED_MAX));
        }

        #[test]
        fn any_pause_is_within_its_bounds(tries in any::<u32>(), random in any::<u64>()) {
            let pause = after(tries, MAX, random);
            prop_assert!(pause <= MAX && pause >= FIRST / 2);
        }
    }
}
