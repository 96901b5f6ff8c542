//! Which machine, kernel and commit a result belongs to.

use std::{fs, process::Command, time::SystemTime};

use serde::Serialize;

use crate::place;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub commit: String,
    /// Something differs from the commit.
    pub modified: bool,
    /// Seconds since 1970.
    pub at_unix: u64,
    /// Load before it began: beside others, nothing here is exact.
    pub load: f64,
}

impl Machine {
    pub fn read() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: model.unwrap_or("unknown processor").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: tests::process::field("/proc/meminfo", "MemTotal").unwrap_or(0) << 10,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .into(),
            commit: git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default(),
            modified: git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty()),
            at_unix: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        }
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).current_dir(place::workspace()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
