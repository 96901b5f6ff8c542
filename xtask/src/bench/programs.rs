//! What the kernel counts about the daemon's own programs: time and runs.

use std::{collections::BTreeMap, fs};

use ::tests::Sensor;
use anyhow::{Context as _, Result};

/// Switches the kernel's accounting on while it lives. It costs 70 ns a run itself, which is part
/// of what it shows.
#[derive(Debug)]
pub struct Accounting {
    before: String,
}

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Accounting {
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, self.before.trim());
    }
}

/// Sum over programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub ns: u64,
    pub runs: u64,
    /// Runs that the kernel refused because the program ran already on that CPU.
    pub missed: u64,
}

impl Spent {
    pub fn since(self, earlier: Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(earlier.ns),
            runs: self.runs.saturating_sub(earlier.runs),
            missed: self.missed.saturating_sub(earlier.missed),
        }
    }
}

/// What all programs of this daemon have spent, from the descriptors that its core holds.
pub fn spent(sensor: &Sensor) -> Result<Spent> {
    let directory = format!("/proc/{}/fdinfo", sensor.pid());
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some((id, spent)) = program(&text) {
            programs.insert(id, spent);
        }
    }
    if programs.is_empty() {
        anyhow::bail!("the core holds no program: {directory} has no prog_id with run_time_ns");
    }
    Ok(programs.values().fold(Spent::default(), |sum, one| Spent {
        ns: sum.ns + one.ns,
        runs: sum.runs + one.runs,
        missed: sum.missed + one.missed,
    }))
}

/// Of a descriptor's text; none when it is no program. (`kernel/bpf/syscall.c:bpf_prog_show_fdinfo`)
fn program(text: &str) -> Option<(u64, Spent)> {
    let field = |name: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
    };
    let spent = Spent {
        ns: field("run_time_ns")?,
        runs: field("run_cnt")?,
        missed: field("recursion_misses").unwrap_or(0),
    };
    Some((field("prog_id")?, spent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_descriptor_is_read_and_no_other() {
        let text = "pos:\t0\nflags:\t02000002\nprog_type:\t17\nprog_jited:\t1\nprog_id:\t42\n\
                    run_time_ns:\t900\nrun_cnt:\t3\nrecursion_misses:\t1\n";
        assert_eq!(program(text), Some((42, Spent { ns: 900, runs: 3, missed: 1 })));
        assert_eq!(program("pos:\t0\nlink_type:\traw_tracepoint\nprog_id:\t42\n"), None);
        assert_eq!(program("pos:\t0\nmap_type:\t1\n"), None);
    }
}
