//! Measures of a finding, in words. Their names are keys, in JSON and for programs; people read these.

use std::borrow::Cow;

use super::{text, time};

/// What a measure is called. One of another version than ours at least has no underscores.
pub fn name(key: &str) -> Cow<'_, str> {
    words(key).map_or_else(|| Cow::from(key.replace('_', " ")), Cow::from)
}

/// By the names that detectors give them.
const WORDS: [(&str, &str); 56] = [
    // Growth of memory.
    ("grown", "grown by"),
    ("over", "within"),
    ("holds", "holds now"),
    ("slope", "pace"),
    ("full_in_at_least", "used up at the soonest in"),
    ("full_in_at_most", "used up at the latest in"),
    ("left", "what is left"),
    ("limit", "limit of the cgroup"),
    ("share_of_growth", "part of all growth"),
    ("own_share", "of it the process itself"),
    ("rises_less_falls", "rises, less falls"),
    ("rose_in", "rose in"),
    ("fastest_to_mean", "fastest pace, by the mean"),
    ("tmpfs_grown", "tmpfs has grown by"),
    ("processes_grown", "processes have grown by"),
    ("swap_used", "swap in use"),
    // Processes that become more.
    ("processes", "processes"),
    ("more_processes", "more than before"),
    ("more_workers", "of them alike"),
    ("born", "started"),
    ("record_highs", "more than ever before in"),
    ("zombies", "ended and not waited for"),
    ("more_zombies", "of them new"),
    ("growth", "grown by"),
    ("within", "within"),
    ("fork_chain", "forks without a program"),
    ("completed", "ended again"),
    ("watched", "watched for"),
    // A command that runs itself, or again and again.
    ("repetitions", "repetitions"),
    ("three_generations", "three generations in"),
    ("runs", "runs"),
    ("windows", "windows"),
    ("failed", "failed"),
    ("life", "a failed run lasts"),
    ("exit_code", "exit code"),
    ("signal", "signal"),
    ("by_signal", "ended by a signal"),
    ("core_dumps", "dumped core"),
    // OOM kills.
    ("victims", "killed"),
    ("held", "which held"),
    ("used", "used of the limit"),
    ("kills", "kills so far"),
    ("every", "one every"),
    // Pressure.
    ("level", "level"),
    ("available", "memory available"),
    ("exhausted_in", "none left in"),
    ("some_waits", "some task waits"),
    ("some_waits_avg10", "some task waits, over 10 s"),
    ("all_wait", "all tasks wait"),
    ("all_wait_avg10", "all tasks wait, over 10 s"),
    ("direct_reclaims", "reclaimed by who asks"),
    ("direct_reclaim", "time in that"),
    ("page_cache_read_again", "page cache read again"),
    // Thresholds of an operator.
    ("memory", "memory in use"),
    ("disk", "disk in use"),
    ("cpu", "CPUs in use"),
];

fn words(key: &str) -> Option<&'static str> {
    WORDS.iter().find(|(of, _)| *of == key).map(|(_, words)| *words)
}

/// A number with its unit: bytes and times in the unit that fits, one of a thing in the singular.
pub fn value(value: f64, unit: &str) -> String {
    match unit {
        "" => text::number(value),
        "bytes" | "bytes/s" | "s" => threshold(value, unit),
        _ => format!("{} {}", text::number(value), counted(value, &text::safe(unit))),
    }
}

/// The same of what stands beside such a number, whose unit it has.
pub fn threshold(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => text::bytes(value as u64),
        "bytes/s" => format!("{} a second", text::bytes(value as u64)),
        "s" if value >= 100.0 => time::seconds(value),
        "s" => format!("{} s", text::number(value)),
        _ => text::number(value),
    }
}

/// A unit as it stands behind a number.
fn counted(value: f64, unit: &str) -> &str {
    // What is exactly one was counted.
    if (value - 1.0).abs() > f64::EPSILON {
        return unit;
    }
    match unit {
        "processes" => "process",
        "ancestors" => "ancestor",
        "runs" => "run",
        "kills" => "kill",
        "forks" => "fork",
        "pairs" => "pair",
        "samples" => "sample",
        "buckets" => "bucket",
        "times" => "time",
        "windows in a row" => "window",
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// What the source of a detector calls its measures: what stands after these, in quotes.
    const MADE_BY: [&str; 4] = ["measure(\"", "rising(\"", "falling(\"", "name: \""];

    fn names(file: &Path, found: &mut BTreeSet<String>) {
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tests")) {
            return;
        }
        if file.is_dir() {
            let mut inside = fs::read_dir(file).unwrap();
            return inside.by_ref().for_each(|one| names(&one.unwrap().path(), found));
        }
        let source = fs::read_to_string(file).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        // As if nothing were broken into lines.
        let words: Vec<&str> = code.split_whitespace().collect();
        let mut words = words.join(" ").replace("( \"", "(\"");
        if file.ends_with("memory/measures.rs") {
            words = words.replace(": &str = \"", ": &str = measure(\"");
        }
        for made in MADE_BY {
            let made = words.split(made).skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(made.map(ToOwned::to_owned));
        }
    }

    #[test]
    fn each_measure_of_a_detector_has_words() {
        let mut found = BTreeSet::new();
        names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/detect"), &mut found);
        // Those have their name in a variable where they are made.
        let more = ["by_signal", "core_dumps", "level", "memory", "disk", "cpu"];
        found.extend(more.map(ToOwned::to_owned));
        let told: BTreeSet<String> = WORDS.iter().map(|(key, _)| (*key).to_owned()).collect();
        assert_eq!(told, found);
        assert!(WORDS.iter().all(|(_, words)| !words.contains('_')));
        assert_eq!(name("of_a_later_version"), "of a later version");
    }

    #[test]
    fn numbers_have_their_unit() {
        for (number, unit, wanted) in [
            (1.0, "processes", "1 process"),
            (2.0, "processes", "2 processes"),
            (1.0, "windows in a row", "1 window"),
            (1.0, "of 3", "1 of 3"),
            (1.5, "times", "1.5 times"),
            (11.0, "", "11"),
            (1.13, "s", "1.13 s"),
            (5400.0, "s", "90 min"),
            (1_048_576.0, "bytes", "1.0 MiB"),
            (1_048_576.0, "bytes/s", "1.0 MiB a second"),
            (3.0, "\x1b[", "3 \\x1b["),
        ] {
            assert_eq!(value(number, unit), wanted);
        }
        assert_eq!(
            (threshold(12.0, "processes"), threshold(10.0, "s")),
            ("12".into(), "10 s".into())
        );
    }
}
