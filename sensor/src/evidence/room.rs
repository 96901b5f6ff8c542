//! What is left of a host and of a group: tasks and memory.

use std::{fs, path::Path};

use super::proc::{Proc, read_file};
use crate::{
    cgroup::Hierarchies,
    lineage::ProcessKey,
    respond::surge::{Memory, Tasks},
};

/// Processes whose memory stands for that of all: 10 µs each.
const SAMPLED: usize = 32;

/// Files of one number.
const NUMBER_LIMIT: usize = 64;

/// The limit of tasks that a process and its children would meet first: of the host, or of a group
/// that it is in. `None` where nothing could be read.
pub fn tasks(proc: &Path, hierarchies: &Hierarchies, pid: u32) -> Option<Tasks> {
    let host = host_tasks(proc);
    // A process that is just gone has no groups; the host's limit still holds.
    let groups = hierarchies.pids_groups(pid).unwrap_or_default();
    let of_group = |dir: &std::path::PathBuf| {
        let most = number(&dir.join("pids.max"))?;
        let left = most.saturating_sub(number(&dir.join("pids.current"))?);
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        Some(Tasks {
            limit: format!("pids.max of {}", sensor_proto::json::escape(name.as_bytes())),
            most,
            left,
        })
    };
    groups.iter().filter_map(of_group).chain(host).min_by_key(|tasks| tasks.left)
}

fn host_tasks(proc: &Path) -> Vec<Tasks> {
    // "0.10 0.20 0.30 2/345 6789": running and all tasks.
    let Some(all) = read_file(proc.join("loadavg"), 256).and_then(|text| {
        let text = String::from_utf8(text).ok()?;
        text.split_whitespace().nth(3)?.split('/').nth(1)?.parse::<u64>().ok()
    }) else {
        return Vec::new();
    };
    ["pid_max", "threads-max"]
        .into_iter()
        .filter_map(|name| {
            let most = number(&proc.join("sys/kernel").join(name))?;
            Some(Tasks { limit: name.to_owned(), most, left: most.saturating_sub(all) })
        })
        .collect()
}

/// `max` is no number.
fn number(file: &Path) -> Option<u64> {
    let text = read_file(file, NUMBER_LIMIT)?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// Memory that is left, and what these processes have.
pub fn memory(proc: &Proc, processes: &[ProcessKey]) -> Option<Memory> {
    let text = fs::read_to_string(proc.root().join("meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let step = (processes.len() / SAMPLED).max(1);
    let seen: Vec<u64> = processes
        .iter()
        .step_by(step)
        .filter_map(|key| proc.open(*key))
        .map(|opened| opened.status().anon)
        .collect();
    let average = seen.iter().sum::<u64>() / (seen.len() as u64).max(1);
    Some(Memory { available: kib * 1024, taken: average * processes.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_met_first() {
        let root = tempfile::tempdir().unwrap();
        let (proc, tree) = (root.path().join("proc"), root.path().join("pids"));
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::create_dir_all(proc.join("sys/kernel")).unwrap();
        fs::create_dir_all(proc.join("17")).unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        let put = |path: std::path::PathBuf, text: &str| fs::write(path, text).unwrap();
        put(
            proc.join("self/mountinfo"),
            &format!("39 31 0:36 / {} rw - cgroup cgroup rw,pids\n", tree.display()),
        );
        put(proc.join("17/cgroup"), "8:pids:/a/b\n");
        put(proc.join("loadavg"), "0.10 0.20 0.30 2/345 6789\n");
        put(proc.join("sys/kernel/pid_max"), "32768\n");
        put(proc.join("sys/kernel/threads-max"), "1000\n");
        let host = Hierarchies::at(&proc).unwrap();
        let all = |limit: &str, most, left| Some(Tasks { limit: limit.into(), most, left });
        assert_eq!(tasks(&proc, &host, 17), all("threads-max", 1000, 655));
        put(tree.join("a/b/pids.max"), "max\n");
        put(tree.join("a/b/pids.current"), "300\n");
        put(tree.join("a/pids.max"), "400\n");
        put(tree.join("a/pids.current"), "310\n");
        assert_eq!(tasks(&proc, &host, 17), all("pids.max of a", 400, 90));
        assert_eq!(tasks(&proc, &host, 18), all("threads-max", 1000, 655), "it is gone");
        fs::remove_file(proc.join("loadavg")).unwrap();
        assert_eq!(tasks(&proc, &host, 18), None);
    }
}
