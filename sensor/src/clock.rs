//! The two clocks of a record: boot time for order and durations, wall time for people.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in ns: the clock of the kernel side, of process start times and of all deadlines.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The wall clock now.
pub fn wall() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: now.subsec_nanos() as i32,
    }
}

/// The wall time of a moment on the boot clock of this boot.
pub fn wall_of(boot: u64) -> Timestamp {
    let (now_wall, now_boot) = (wall(), boot_ns());
    let total = i128::from(now_wall.seconds) * 1_000_000_000 + i128::from(now_wall.nanos)
        - (i128::from(now_boot) - i128::from(boot));
    Timestamp {
        seconds: total.div_euclid(1_000_000_000) as i64,
        nanos: total.rem_euclid(1_000_000_000) as i32,
    }
}
