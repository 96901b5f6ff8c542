//! What the largest processes of a suspect hold, with what they share divided among those who share it. The
//! kernel walks all of a process's pages for it, 2.5 ms for 200 MiB: so of suspects only, and not while
//! memory is exhausted.

use std::{
    fmt::Write as _,
    fs,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::proc::{Proc, Rollup};
use crate::{
    lineage::ProcessKey,
    proto::{self, HostMemory, evidence::Content},
    vitals::parse,
};

/// Processes that are looked at: the largest have nearly all.
const LARGEST: usize = 8;

/// For all of them. The walk waits for a process that changes its own memory, for as long as that takes.
const PATIENCE: Duration = Duration::from_millis(500);

/// With less than this part of the host's memory available nobody looks, percent.
const EXHAUSTED: u64 = 5;

/// One at a time: whoever is kept waiting costs a thread, and no more than one.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// So little is left that looking makes it worse.
pub fn is_exhausted(host: &HostMemory) -> bool {
    match (host.available_bytes, host.total_bytes) {
        (Some(available), Some(total)) => available.saturating_mul(100) < total * EXHAUSTED,
        _ => false,
    }
}

/// Of the largest processes of a tree; `None` where nothing could be looked at.
pub fn gather(proc: &Proc, tree: &proto::ProcessTree) -> Option<proto::Evidence> {
    let meminfo = fs::read(proc.root().join("meminfo")).ok()?;
    if is_exhausted(&parse::host(&meminfo)) || LOOKING.swap(true, Ordering::AcqRel) {
        return None;
    }
    let mut largest: Vec<&proto::Process> = tree.processes.iter().collect();
    largest.sort_by_key(|process| std::cmp::Reverse(process.anon_bytes));
    largest.truncate(LARGEST);
    let keys: Vec<(ProcessKey, String)> =
        largest.iter().map(|it| (ProcessKey::new(it.pid, it.start_ns), it.comm.clone())).collect();
    let asked = keys.len();
    let rows = look(proc.clone(), keys);
    if rows.is_empty() {
        return None;
    }
    let mut text = String::from("PID\tPSS_BYTES\tRSS_BYTES\tSWAP_BYTES\tNAME\n");
    for (pid, comm, rollup) in &rows {
        let Rollup { pss, rss, swap } = rollup;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{pid}\t{pss}\t{rss}\t{swap}\t{comm}");
    }
    Some(proto::Evidence {
        name: "proportional_memory".to_owned(),
        source: "/proc/PID/smaps_rollup".to_owned(),
        truncated: rows.len() < asked || tree.processes.len() > LARGEST,
        content: Some(Content::Text(text.into_bytes())),
        ..Default::default()
    })
}

/// On a thread of its own, which a process can keep waiting for ever.
fn look(proc: Proc, keys: Vec<(ProcessKey, String)>) -> Vec<(u32, String, Rollup)> {
    let (sender, seen) = mpsc::channel();
    let reader = move || {
        for (key, comm) in keys {
            let rollup = proc.open(key).and_then(|opened| opened.rollup());
            if let Some(rollup) = rollup
                && sender.send((key.tgid, comm, rollup)).is_err()
            {
                break;
            }
        }
        LOOKING.store(false, Ordering::Release);
    };
    if thread::Builder::new().name("proportional".into()).spawn(reader).is_err() {
        LOOKING.store(false, Ordering::Release);
        return Vec::new();
    }
    let end = Instant::now() + PATIENCE;
    let mut rows = Vec::new();
    while let Ok(row) = seen.recv_timeout(end.saturating_duration_since(Instant::now())) {
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_its_part() {
        let stat = fs::read("/proc/self/stat").unwrap();
        let stat = super::super::proc::parse_stat(&stat).unwrap();
        let own = proto::Process {
            pid: std::process::id(),
            start_ns: stat.start_ticks * 10_000_000,
            comm: "own".into(),
            ..Default::default()
        };
        let gone = proto::Process { pid: u32::MAX, start_ns: 1, ..own.clone() };
        let tree = proto::ProcessTree { processes: vec![gone, own], omitted: 0 };
        let evidence = gather(&Proc::default(), &tree).unwrap();
        assert!(evidence.truncated, "one of them is gone");
        let Some(Content::Text(text)) = evidence.content else { panic!() };
        let text = String::from_utf8(text).unwrap();
        let [head, row] = text.lines().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(head.split('\t').count(), 5);
        let fields: Vec<&str> = row.split('\t').collect();
        assert_eq!((fields[0], fields[4]), (std::process::id().to_string().as_str(), "own"));
        let [pss, rss] = [1, 2].map(|at: usize| fields[at].parse::<u64>().unwrap());
        assert!(pss > 1 << 20 && pss <= rss, "{row}");
        // The next one has its turn.
        let free = (0..1_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            !LOOKING.load(Ordering::Acquire)
        });
        assert!(free);
    }

    #[test]
    fn nobody_looks_while_memory_is_exhausted() {
        let directory = tempfile::tempdir().unwrap();
        let meminfo = |available: u32| {
            let text = format!("MemTotal: 1000 kB\nMemAvailable: {available} kB\n");
            fs::write(directory.path().join("meminfo"), text).unwrap();
            is_exhausted(&parse::host(&fs::read(directory.path().join("meminfo")).unwrap()))
        };
        assert_eq!([49, 50].map(meminfo), [true, false]);
        meminfo(49);
        assert_eq!(gather(&Proc::at(directory.path()), &proto::ProcessTree::default()), None);
    }
}
