//! How fast secrets are found, for `cargo xtask bench`: one line of JSON with the samples of each row.
//! `cargo bench -p sensor --bench redaction -- ROUNDS`

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use sensor::evidence::Redactor;

/// What ordinary work prints, one secret in a thousand lines.
const ORDINARY: &str = include_str!("../src/evidence/redact/corpus/ordinary.txt");

/// Bytes of one text: a large file, as evidence has it.
const TEXT: usize = 64 << 10;

/// Bytes of a round.
const ROUND: usize = 32 << 20;

fn main() {
    // cargo itself says `--bench`.
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(3);
    let mut text = String::new();
    for (number, line) in ORDINARY.lines().cycle().enumerate() {
        if text.len() >= TEXT {
            break;
        }
        text.push_str(line);
        text.push_str(if number % 1000 == 500 { " --password hunter2hunter2\n" } else { "\n" });
    }
    let lines: Vec<Vec<Vec<u8>>> = text
        .lines()
        .map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect())
        .collect();
    let redactor = Redactor::with_random_key();
    assert!(redactor.text(text.as_bytes()).1 > 0, "nothing to find");
    let most = peak();
    let mut rows: [(&str, Vec<f64>); 3] = ["text", "argv", "memory"].map(|name| (name, Vec::new()));
    for _ in 0..rounds {
        rows[0].1.push(rate(text.len(), || _ = redactor.text(text.as_bytes())));
        rows[1].1.push(rate(text.len(), || {
            for line in &lines {
                redactor.argv(line);
            }
        }));
        rows[2].1.push((peak() - most) / 1024.0);
    }
    for (name, samples) in rows {
        println!("{}", serde_json::json!({ "name": name, "samples": samples }));
    }
}

/// MB a second of one core: time of this thread, so that others do not count.
fn rate(bytes: usize, mut once: impl FnMut()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let times = ROUND / bytes;
    let begin = now();
    for _ in 0..times {
        once();
    }
    (times * bytes) as f64 / 1e6 / (now() - begin)
}

/// Most memory that was ever resident, KiB (`VmHWM`).
fn peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
