//! What libFuzzer says of a run: <https://llvm.org/docs/LibFuzzer.html#output>.

use std::path::PathBuf;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub runs: u64,
    /// Edges that the corpus reached before the run, and with it.
    pub before: u64,
    pub coverage: u64,
    pub features: u64,
    /// Where the input lies that ended the run.
    pub artifact: Option<PathBuf>,
    /// Why it ended, in a line; what it said last where it does not say.
    pub summary: String,
}

impl Stats {
    /// `#8 INITED cov: 100 ft: 120 …`, later `#99 DONE cov: 130 ft: 200 …`, with other lines between them.
    pub fn read(said: &str) -> Self {
        let mut stats = Self::default();
        let mut panic = None;
        for line in said.lines() {
            if line.starts_with('#')
                && let Some(coverage) = after(line, "cov: ")
            {
                stats.runs = number(&line[1..]).unwrap_or(stats.runs);
                stats.features = after(line, "ft: ").unwrap_or(stats.features);
                stats.coverage = coverage;
                if line.contains("INITED") {
                    stats.before = coverage;
                }
            } else if let Some(runs) = after(line, "stat::number_of_executed_units: ") {
                stats.runs = runs;
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                stats.artifact = Some(path.trim().into());
            } else if line.contains(" panicked at ") {
                panic.get_or_insert(line);
            }
        }
        let why = said.lines().find(|line| line.starts_with("SUMMARY: "));
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        let summary = panic.or(why).or(last).unwrap_or_default().trim().to_owned();
        Self { summary, ..stats }
    }
}

/// The number behind the first `name`.
fn after(line: &str, name: &str) -> Option<u64> {
    number(line.split_once(name)?.1)
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_went_well() {
        let said = "INFO: Seed: 7\n#2\tINITED cov: 100 ft: 120 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                    #64\tNEW    cov: 110 ft: 140 corp: 2/9b lim: 4 exec/s: 0 rss: 41Mb L: 8/8\n\
                    #500\tDONE   cov: 130 ft: 200 corp: 9/99b lim: 4 exec/s: 250 rss: 42Mb\n\
                    Done 500 runs in 2 second(s)\nstat::number_of_executed_units: 500\n";
        let stats = Stats::read(said);
        assert_eq!(
            (stats.runs, stats.before, stats.coverage, stats.features),
            (500, 100, 130, 200)
        );
        assert_eq!(stats.artifact, None);
    }

    #[test]
    fn a_crash_is_told_by_its_panic() {
        let said = "#2\tINITED cov: 1 ft: 1\nthread '<unnamed>' (7) panicked at src/x.rs:1:2:\nwhy\n\
                    SUMMARY: libFuzzer: deadly signal\n\
                    artifact_prefix='c/'; Test unit written to c/crash-07\n";
        let stats = Stats::read(said);
        assert_eq!(stats.artifact, Some("c/crash-07".into()));
        assert_eq!(stats.summary, "thread '<unnamed>' (7) panicked at src/x.rs:1:2:");
        let timeout = "SUMMARY: libFuzzer: timeout\n";
        assert_eq!(Stats::read(timeout).summary, "SUMMARY: libFuzzer: timeout");
        assert_eq!(Stats::read("").summary, "");
    }
}
