//! The end of the kernel log.

use std::{collections::VecDeque, time::Duration};

use rustix::{
    fs::{self, Mode, OFlags},
    io::{self, Errno},
    time::{ClockId, clock_gettime},
};

/// Lines kept: an OOM report with its task list has about 100.
const LINES: usize = 200;
pub(crate) const BYTES: usize = 64 << 10;

/// The largest record that a reader can meet (`PRINTK_MESSAGE_MAX` and its dictionary).
const RECORD: usize = 8192;

/// To read a ring of 1 MiB takes 10 ms. CPU time: on a host in a storm the clock on the wall says nothing.
const PATIENCE: Duration = Duration::from_millis(50);

/// Lines bear a clock that nobody disciplines; NTP slews the one that they are compared with by 500 ppm at most
/// (`MAX_FREQ` of adjtimex(2)): a part of the uptime.
const DRIFT: u32 = 2_000;

/// The last lines, none older than `window`, and whether lines within it were left out.
pub(super) fn tail(window: Duration) -> Option<(Vec<u8>, bool)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = fs::open("/dev/kmsg", flags, Mode::empty()).ok()?;
    let now = time_of(ClockId::Monotonic);
    let since = now.saturating_sub(window.saturating_add(now / DRIFT));
    let mut tail = Tail::default();
    let mut record = [0; RECORD];
    let began = time_of(ClockId::ThreadCPUTime);
    while time_of(ClockId::ThreadCPUTime).saturating_sub(began) < PATIENCE {
        match io::read(&log, &mut record) {
            Ok(0) | Err(Errno::AGAIN) => return Some(tail.finish(false)),
            Ok(count) => {
                if let Some((at, line)) = parse(&record[..count])
                    && at >= since
                {
                    tail.push(at, line);
                }
            }
            // Overwritten before it could be read: the next one is there.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(tail.finish(true))
}

/// The clock of the kernel log stands still in suspend, as `Monotonic` does.
fn time_of(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

#[derive(Default)]
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: bool,
}

impl Tail {
    pub(crate) fn push(&mut self, at: Duration, text: &[u8]) {
        let mut line = format!("[{:5}.{:06}] ", at.as_secs(), at.subsec_micros()).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES || self.bytes > BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
            self.dropped = true;
        }
    }

    pub(crate) fn finish(self, cut: bool) -> (Vec<u8>, bool) {
        (Vec::from(self.lines).concat(), self.dropped || cut)
    }
}

/// `priority,sequence,microseconds,flags[,…];text`, then lines of its dictionary, each after a blank.
pub(crate) fn parse(record: &[u8]) -> Option<(Duration, &[u8])> {
    let split = record.iter().position(|byte| *byte == b';')?;
    let head = std::str::from_utf8(&record[..split]).ok()?;
    let micros = head.split(',').nth(2)?.parse().ok()?;
    let text = record[split + 1..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Some((Duration::from_micros(micros), text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_without_its_dictionary() {
        let record = b"6,339,5140900,-;NET: a;b\n SUBSYSTEM=net\n DEVICE=x\n";
        assert_eq!(parse(record), Some((Duration::from_micros(5_140_900), &b"NET: a;b"[..])));
        assert_eq!(parse(b"6,339;x"), None);
    }

    #[test]
    fn the_last_lines_stay() {
        let mut tail = Tail::default();
        for number in 0..LINES + 3 {
            tail.push(Duration::from_millis(1500), number.to_string().as_bytes());
        }
        let (text, truncated) = tail.finish(false);
        assert!(truncated);
        assert!(text.starts_with(b"[    1.500000] 3\n"));
        assert!(text.ends_with(b"] 202\n"));

        let mut tail = Tail::default();
        for _ in 0..10 {
            tail.push(Duration::ZERO, &[b'x'; 8000]);
        }
        let (text, truncated) = tail.finish(false);
        assert!(truncated && text.len() <= BYTES && text.len() > BYTES - 8200);
    }

    #[test]
    fn the_real_log_ends() {
        let began = std::time::Instant::now();
        match tail(Duration::MAX) {
            None => println!("skipped: /dev/kmsg cannot be read here"),
            Some((text, _)) => assert!(text.len() <= BYTES),
        }
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn any_record(record in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&record);
        }
    }
}
