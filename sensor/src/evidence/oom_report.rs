//! The kernel's own report of an OOM kill, out of its log: what was asked for, what was short, whose limit,
//! who was a candidate, who was killed.
//!
//! Formats: `dump_header`, `dump_tasks` and `__oom_kill_process` of the kernel's `mm/oom_kill.c`, and
//! `mem_cgroup_print_oom_meminfo` of `mm/memcontrol.c`, from 5.10 on. Names in it are chosen by anybody; numbers are
//! not.

use crate::proto::OomScope;

/// Candidates that are kept, the largest ones.
const CANDIDATES: usize = 16;

/// Victims of a report that are kept.
const VICTIMS: usize = 64;

/// Reports of one log that are kept, the newest ones.
const REPORTS: usize = 8;

/// What is kept of a path or a mask.
const WORD: usize = 512;

/// One kill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name of the one who asked.
    pub trigger: String,
    /// What it asked for, as the kernel names it: `GFP_KERNEL`; empty: not told.
    pub gfp: String,
    /// It asked for 2 to the power of this, pages.
    pub order: i32,
    pub scope: OomScope,
    /// Whose limit was met, as a path in the memory controller's hierarchy.
    pub cgroup: String,
    /// The limit and what was used of it, bytes.
    pub limit: Option<u64>,
    pub used: Option<u64>,
    /// The first victim's.
    pub pid: u32,
    pub victims: Vec<Victim>,
    pub candidates: Vec<Candidate>,
    /// Candidates in all.
    pub listed: u32,
    /// The group was killed as a whole.
    pub whole_group: bool,
}

/// Who was killed, and what it held, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Victim {
    pub pid: u32,
    pub comm: String,
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
}

/// Who could have been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    pub pid: u32,
    pub comm: String,
    /// Anonymous, file and shared memory, pages; older kernels do not tell them apart.
    pub rss_pages: u64,
    pub swap_entries: u64,
    pub oom_score_adj: i32,
}

/// The reports in lines of the kernel's log (`[ seconds.micros] text`), oldest first. One whose beginning is
/// missing has what is left of it.
pub fn reports(log: &[u8]) -> Vec<Report> {
    let mut reader = Reader::default();
    for line in log.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let text = line.split_once("] ").map_or("", |(_, text)| text);
        reader.line(text.trim_end());
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    found: Vec<Report>,
    /// The report that is being read.
    open: Option<Report>,
    /// Names of the list's columns; none: no list is being read.
    columns: Vec<String>,
}

impl Reader {
    fn line(&mut self, text: &str) {
        if let Some((trigger, rest)) = text.split_once(" invoked oom-killer: ") {
            self.close();
            self.open = Some(Report {
                trigger: word(trigger),
                gfp: between(rest, "(", ")").map(word).unwrap_or_default(),
                order: after(rest, "order=").and_then(number).unwrap_or_default(),
                ..Report::default()
            });
        } else if let Some(rest) = text.strip_prefix("memory: usage ") {
            let report = self.report();
            report.used = kib(rest);
            report.limit = after(rest, "limit ").and_then(kib);
        } else if text.starts_with("[  pid  ]") || text.starts_with("[ pid ]") {
            let names = text.split_once(']').map_or("", |(_, names)| names);
            self.columns = names.split_whitespace().map(str::to_owned).collect();
        } else if let Some(rest) = text.strip_prefix("oom-kill:constraint=") {
            self.columns.clear();
            self.constraint(rest);
        } else if let Some((of, rest)) = text.split_once(": Killed process ")
            && matches!(of, "Out of memory" | "Memory cgroup out of memory")
        {
            self.victim(of, rest);
        } else if text.ends_with("are going to be killed due to memory.oom.group set") {
            self.report().whole_group = true;
        } else if !self.columns.is_empty() {
            self.candidate(text);
        }
    }

    fn report(&mut self) -> &mut Report {
        self.open.get_or_insert_default()
    }

    /// `CONSTRAINT_MEMCG,nodemask=…,oom_memcg=/a,task_memcg=/a/b,task=x,pid=1,uid=0`
    fn constraint(&mut self, text: &str) {
        let report = self.report();
        report.scope = match text.split(',').next() {
            Some("CONSTRAINT_NONE") => OomScope::Host,
            Some("CONSTRAINT_MEMCG") => OomScope::Cgroup,
            Some("CONSTRAINT_CPUSET" | "CONSTRAINT_MEMORY_POLICY") => OomScope::Nodes,
            _ => OomScope::Unspecified,
        };
        // A group's name may hold anything, the field behind it included: the first is the kernel's.
        report.cgroup = between(text, ",oom_memcg=", ",task_memcg=").map(word).unwrap_or_default();
        // And so may a task's: the last is the kernel's.
        let pid = text.rsplit_once(",uid=").and_then(|(text, _)| text.rsplit_once(",pid="));
        report.pid = pid.and_then(|(_, pid)| number(pid)).unwrap_or_default();
    }

    /// `1234 (x) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0`
    fn victim(&mut self, of: &str, text: &str) {
        let scope = if of == "Out of memory" { OomScope::Host } else { OomScope::Cgroup };
        let report = self.report();
        if report.scope == OomScope::Unspecified {
            report.scope = scope;
        }
        let (Some(pid), Some((name, numbers))) = (number(text), text.rsplit_once(") total-vm:"))
        else {
            return;
        };
        let kib = |name: &str| after(numbers, name).and_then(kib).unwrap_or_default();
        if report.victims.len() < VICTIMS {
            report.victims.push(Victim {
                pid,
                comm: name.split_once('(').map(|(_, name)| word(name)).unwrap_or_default(),
                anon: kib("anon-rss:"),
                file: kib("file-rss:"),
                shmem: kib("shmem-rss:"),
            });
        }
    }

    /// `[   1234]     0  1234    15000    12800 … name`, in the order of the columns.
    fn candidate(&mut self, text: &str) {
        let Some((pid, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) else {
            return self.columns.clear();
        };
        let Ok(pid) = pid.trim().parse() else { return self.columns.clear() };
        let mut candidate = Candidate { pid, ..Candidate::default() };
        let mut rest = rest.trim_start();
        for column in &self.columns {
            if column == "name" {
                candidate.comm = word(rest);
                break;
            }
            let (value, others) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            match column.as_str() {
                "rss" => candidate.rss_pages = value.parse().unwrap_or_default(),
                "swapents" => candidate.swap_entries = value.parse().unwrap_or_default(),
                "oom_score_adj" => candidate.oom_score_adj = value.parse().unwrap_or_default(),
                _ => {}
            }
            rest = others.trim_start();
        }
        let report = self.report();
        report.listed = report.listed.saturating_add(1);
        let size = |one: &Candidate| one.rss_pages.saturating_add(one.swap_entries);
        let at = report.candidates.partition_point(|one| size(one) >= size(&candidate));
        report.candidates.insert(at, candidate);
        report.candidates.truncate(CANDIDATES);
    }

    fn close(&mut self) {
        self.columns.clear();
        let told = |report: &Report| !report.victims.is_empty() || report.pid != 0;
        if let Some(report) = self.open.take().filter(told) {
            if self.found.len() >= REPORTS {
                self.found.remove(0);
            }
            self.found.push(report);
        }
    }

    fn finish(mut self) -> Vec<Report> {
        self.close();
        self.found
    }
}

impl Report {
    /// Whether it tells of the death of one of these.
    pub fn is_of(&self, pids: &[u32]) -> bool {
        pids.contains(&self.pid) || self.victims.iter().any(|victim| pids.contains(&victim.pid))
    }
}

/// What is kept of a text that somebody else chose.
fn word(text: &str) -> String {
    let kept = text.char_indices().nth(WORD).map_or(text, |(end, _)| &text[..end]);
    sensor_proto::json::escape(kept.as_bytes())
}

fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(name).map(|(_, rest)| rest)
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    after(text, begin)?.split_once(end).map(|(inner, _)| inner)
}

/// The number at the beginning.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text.find(|one: char| !one.is_ascii_digit() && one != '-').unwrap_or(text.len());
    text[..end].parse().ok()
}

/// `51200kB` as bytes.
fn kib(text: &str) -> Option<u64> {
    let digits = text.split_once("kB").map(|(digits, _)| digits)?;
    digits.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// As 6.1 writes it, of a group that is killed as a whole.
#[cfg(any(test, fuzzing))]
pub(crate) const SAMPLE: &str = "\
[   12.000001] python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
[   12.000002] CPU: 1 PID: 301 Comm: python3 Not tainted 6.1.0-49-cloud-amd64 #1
[   12.000003] Call Trace:
[   12.000004]  <TASK>
[   12.000005] memory: usage 102400kB, limit 102400kB, failcnt 65
[   12.000006] swap: usage 0kB, limit 9007199254740988kB, failcnt 0
[   12.000007] Memory cgroup stats for /a,task_memcg=/b:
[   12.000008] anon 104488960
[   12.000009] Tasks state (memory values in pages):
[   12.000010] [  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name
[   12.000011] [    301]     0   301    27810    17000   118784        3             0 python3
[   12.000012] [    302]  1000   302     3000      900    61440        0           -17 a b
[   12.000013] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=x,pid=9,uid=8,pid=301,uid=0
[   12.000014] Memory cgroup out of memory: Killed process 301 (python3) total-vm:111240kB, anon-rss:68000kB, file-rss:5000kB, shmem-rss:4kB, UID:0 pgtables:116kB oom_score_adj:0
[   12.000015] Tasks in /a are going to be killed due to memory.oom.group set
[   12.000016] Memory cgroup out of memory: Killed process 302 (a b) total-vm:12000kB, anon-rss:2000kB, file-rss:1600kB, shmem-rss:0kB, UID:1000 pgtables:60kB oom_score_adj:-17
";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_kill() {
        let found = reports(SAMPLE.as_bytes());
        assert_eq!(found.len(), 1);
        let report = &found[0];
        assert_eq!((report.trigger.as_str(), report.gfp.as_str()), ("python3", "GFP_KERNEL"));
        assert_eq!((report.order, report.scope, report.whole_group), (0, OomScope::Cgroup, true));
        assert_eq!((report.cgroup.as_str(), report.pid), ("/a", 301));
        assert_eq!((report.limit, report.used), (Some(104_857_600), Some(104_857_600)));
        let victims: Vec<(u32, &str, u64)> =
            report.victims.iter().map(|one| (one.pid, one.comm.as_str(), one.anon)).collect();
        assert_eq!(victims, [(301, "python3", 68_000 << 10), (302, "a b", 2000 << 10)]);
        let candidates: Vec<(u32, &str, u64, u64, i32)> = report
            .candidates
            .iter()
            .map(|one| {
                (one.pid, one.comm.as_str(), one.rss_pages, one.swap_entries, one.oom_score_adj)
            })
            .collect();
        assert_eq!(candidates, [(301, "python3", 17_000, 3, 0), (302, "a b", 900, 0, -17)]);
        assert!(report.is_of(&[302]) && !report.is_of(&[8, 9]));
    }

    #[test]
    fn of_the_host_and_without_a_beginning() {
        let log = "[    1.5] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,\
                   global_oom,task_memcg=/,task=x,pid=7,uid=0\n\
                   [    1.6] Out of memory: Killed process 7 (x) total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:4kB\n\
                   [    2.0] y invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=-1, oom_score_adj=0\n\
                   [    2.1] Out of memory: Killed process 8 (y) total-vm:1kB, anon-rss:2kB\n\
                   [    2.2] z invoked oom-killer: nothing came of it\n";
        let found = reports(log.as_bytes());
        let told: Vec<(u32, OomScope, i32)> =
            found.iter().map(|one| (one.victims[0].pid, one.scope, one.order)).collect();
        assert_eq!(told, [(7, OomScope::Host, 0), (8, OomScope::Host, -1)]);
        assert_eq!(found[0].victims[0].shmem, 4096);
    }

    proptest! {
        #[test]
        fn any_log(log in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = reports(&log);
        }

        /// Damage at one place costs at most what stands there.
        #[test]
        fn a_damaged_log(at in 0..SAMPLE.len(), byte in any::<u8>()) {
            let mut log = SAMPLE.as_bytes().to_vec();
            log[at] = byte;
            let found = reports(&log);
            prop_assert!(found.len() <= 2);
            for report in found {
                prop_assert!(report.candidates.len() <= 2 && report.victims.len() <= 2);
            }
        }
    }
}
