//! What is left of a host and of a group: tasks and memory.

use std::{fs, path::Path, time::Duration};

use super::proc::{Proc, read_file};
use crate::{
    cgroup::Hierarchies,
    lineage::ProcessKey,
    proto::HostMemory,
    respond::surge::{Memory, Tasks},
    vitals::parse,
};

/// Processes whose memory stands for that of all: 10 µs each.
const SAMPLED: usize = 32;

/// Files of one number.
const NUMBER_LIMIT: usize = 64;

/// memory.stat has some 60 lines.
const STAT_LIMIT: usize = 16 << 10;

/// How much memory a group may have and has: the files of v2, and those of v1.
const MEMORY_FILES: [[&str; 2]; 2] =
    [["memory.max", "memory.current"], ["memory.limit_in_bytes", "memory.usage_in_bytes"]];

/// v1 says that there is no limit by the largest number of whole pages: beyond this, bytes. What is held there need not
/// be read.
const LIMITLESS: u64 = i64::MAX.cast_unsigned() - (1 << 20);

/// Memory that must be available before anybody looks at processes: what one gathering takes at most, and as
/// much again for the others. On a small host a sixteenth of all.
const FLOOR: u64 = 128 << 20;
const FLOOR_PART: u64 = 16;

/// Whether so little of the host's memory is left that looking at processes makes it worse: what /proc
/// answers takes pages, which the kernel has to take from somebody else first. The one threshold for it,
/// whoever looks. Where nobody knows, there is enough.
pub fn is_exhausted(host: &HostMemory) -> bool {
    match (host.available_bytes, host.total_bytes) {
        (Some(available), Some(all)) => available < FLOOR.min(all / FLOOR_PART),
        _ => false,
    }
}

/// The limit of tasks that a process and its children would meet first: of the host, or of a group
/// that it is in. `None` where nothing could be read.
pub fn tasks(proc: &Path, hierarchies: &Hierarchies, pid: u32) -> Option<Tasks> {
    let host = host_tasks(proc);
    // A process that is just gone has no groups; the host's limit still holds.
    let groups = hierarchies.groups_of(pid, "pids").unwrap_or_default();
    let of_group = |dir: &std::path::PathBuf| {
        let most = number(&dir.join("pids.max"))?;
        let left = most.saturating_sub(number(&dir.join("pids.current"))?);
        Some(Tasks { limit: named("pids.max", dir), most, left })
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

/// A limit of a group in words. Its name is its owner's choice.
fn named(file: &str, dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{file} of {}", sensor_proto::json::escape(name.as_bytes()))
}

/// Memory that is left to these processes, of the host's or of what a group that the first of them
/// is in may have, and what they have.
pub fn memory(proc: &Proc, hierarchies: &Hierarchies, processes: &[ProcessKey]) -> Option<Memory> {
    let groups = processes.first().and_then(|key| hierarchies.groups_of(key.tgid, "memory").ok());
    let of_groups = groups.iter().flatten().filter_map(|dir| group_memory(dir));
    let (available, limit) = of_groups.chain(host_memory(proc.root())).min()?;
    let step = (processes.len() / SAMPLED).max(1);
    let seen: Vec<u64> = processes
        .iter()
        .step_by(step)
        .filter_map(|key| proc.open(*key))
        .map(|opened| opened.status().anon)
        .collect();
    let average = seen.iter().sum::<u64>() / (seen.len() as u64).max(1);
    Some(Memory { limit, available, taken: average * processes.len() as u64 })
}

/// Bytes, and whose they are.
fn host_memory(proc: &Path) -> Option<(u64, String)> {
    let text = fs::read_to_string(proc.join("meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1024, "the host's memory".to_owned()))
}

/// The same of a group; `None` where it has no limit.
fn group_memory(dir: &Path) -> Option<(u64, String)> {
    group(dir).map(|room| (room.left(), named(room.limit, dir)))
}

/// What a group may have of memory, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The file that says so.
    pub limit: &'static str,
    pub most: u64,
    /// Without what is cached and goes when somebody needs it.
    pub used: u64,
}

impl Room {
    pub fn left(&self) -> u64 {
        self.most.saturating_sub(self.used)
    }
}

/// A group's own limit of memory; `None` where it has none.
pub fn group(dir: &Path) -> Option<Room> {
    MEMORY_FILES.iter().find_map(|[limit, usage]| {
        let most = number(&dir.join(limit)).filter(|most| *most < LIMITLESS)?;
        let used = number(&dir.join(usage))?;
        let stat = read_file(dir.join("memory.stat"), STAT_LIMIT).unwrap_or_default();
        Some(Room { limit, most, used: parse::held(used, &stat) })
    })
}

/// CPU time of all that has run in a group, the ended included; `None` of one of v1.
pub fn cpu_time(dir: &Path) -> Option<Duration> {
    let stat = read_file(dir.join("cpu.stat"), STAT_LIMIT)?;
    parse::cpu_usec(&stat).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_of_cgroup_v2() {
        let group = tempfile::tempdir().unwrap();
        assert_eq!(cpu_time(group.path()), None);
        let put = |text: &str| fs::write(group.path().join("cpu.stat"), text).unwrap();
        put("nr_periods 0\nnr_throttled 0\nthrottled_time 0\n");
        assert_eq!(cpu_time(group.path()), None);
        put("usage_usec 4200000\nuser_usec 4000000\nsystem_usec 200000\n");
        assert_eq!(cpu_time(group.path()), Some(Duration::from_millis(4200)));
    }

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

    #[test]
    fn out_of_memory_is_a_matter_of_what_there_is() {
        let is = |all: u64, available: u64| {
            let text = format!(
                "MemTotal: {} kB\nMemFree: 1 kB\nMemAvailable: {} kB\n",
                all << 10,
                available << 10
            );
            is_exhausted(&crate::vitals::parse::host(text.as_bytes()))
        };
        assert!(is(24 << 10, 127) && !is(24 << 10, 128));
        assert!(is(512, 31) && !is(512, 32));
        assert!(!is_exhausted(&crate::vitals::parse::host(b"odd")), "nobody knows");
    }

    /// A tree of files: paths and contents.
    fn lay(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    /// Two processes of 1 MiB each in the group /a/b; a host with 8 GiB left.
    fn crowd(root: &Path, mount: &str, membership: &str) -> Option<(u64, String)> {
        let proc = root.join("proc");
        lay(
            &proc,
            &[
                ("self/mountinfo", &format!("39 31 0:36 / {}/mem rw - {mount}\n", root.display())),
                ("meminfo", "MemFree: 5 kB\nMemAvailable:    8388608 kB\n"),
                ("17/cgroup", membership),
            ],
        );
        let hierarchies = Hierarchies::at(&proc).unwrap();
        let found = memory(&Proc::at(&proc), &hierarchies, &[ProcessKey::new(17, 0)])?;
        Some((found.available, found.limit))
    }

    #[test]
    fn the_memory_that_is_gone_first() {
        const HOST: u64 = 8 << 30;
        let root = tempfile::tempdir().unwrap();
        let seen = || crowd(root.path(), "cgroup2 none rw", "0::/a/b\n").unwrap();
        assert_eq!(seen(), (HOST, "the host's memory".into()));
        lay(
            root.path(),
            &[
                ("mem/a/b/memory.max", "max\n"),
                ("mem/a/b/memory.current", "1048576\n"),
                ("mem/a/memory.max", "2147483648\n"),
                ("mem/a/memory.current", "1610612736\n"),
            ],
        );
        assert_eq!(seen(), (512 << 20, "memory.max of a".into()));
        // A third of it can be had back, whichever list it is on.
        let stat = "anon 1\ninactive_file 268435456\nactive_file 268435456\n";
        lay(root.path(), &[("mem/a/memory.stat", stat)]);
        assert_eq!(seen(), (1 << 30, "memory.max of a".into()));
        lay(root.path(), &[("mem/a/memory.max", "17179869184\n")]);
        assert_eq!(seen(), (HOST, "the host's memory".into()), "more than the host has");
    }

    #[test]
    fn the_memory_of_v1_groups_counts_as_well() {
        let root = tempfile::tempdir().unwrap();
        let seen = || crowd(root.path(), "cgroup cgroup rw,memory", "8:memory:/a/b\n").unwrap();
        lay(
            root.path(),
            &[
                ("mem/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
                ("mem/a/b/memory.usage_in_bytes", "314572800\n"),
                ("mem/a/memory.limit_in_bytes", "1073741824\n"),
                ("mem/a/memory.usage_in_bytes", "629145600\n"),
                (
                    "mem/a/memory.stat",
                    "inactive_file 0\nactive_file 0\ntotal_inactive_file 104857600\n\
                     total_active_file 52428800\n",
                ),
            ],
        );
        assert_eq!(seen(), (574 << 20, "memory.limit_in_bytes of a".into()));
    }
}
