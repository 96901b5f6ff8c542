//! What a run executes, by the kernel's word, as lines of its transcript. What an agent tells of its commands can be
//! wrong and is not asked: who is born in its group is in it, whatever session, name or parent it has.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use sensor_common::{
    ProcessKey,
    lineage::ARGV_KEPT,
    witness::{Left, Ran, TOLD},
};

use super::Redact;
use crate::{
    detect::respawn::ending,
    kernel::{Told, Watched, split},
    present::{
        text::{command, grouped},
        time::duration,
    },
    proto,
};

/// After the end of a run: what the kernel has told and the reader has not read yet. It is woken for it.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// What one life has executed.
#[derive(Debug)]
pub struct Ledger {
    watched: Watched,
    entries: Entries,
}

impl Ledger {
    pub fn new(watched: Watched) -> Self {
        Self { watched, entries: Entries::default() }
    }

    /// What was executed, and what has ended, since the last time.
    pub fn take(&mut self, redact: Redact<'_>) -> Vec<proto::Witnessed> {
        let told = self.watched.take();
        told.into_iter().filter_map(|told| self.entries.enter(told, redact)).collect()
    }

    /// The same, all of it: its group is dead.
    pub fn rest(&mut self, redact: Redact<'_>) -> Vec<proto::Witnessed> {
        let until = Instant::now() + STRAGGLERS;
        let mut rest = self.take(redact);
        loop {
            let counted = self.watched.counted();
            if self.entries.heard >= counted.told + counted.left || Instant::now() >= until {
                return rest;
            }
            thread::sleep(Duration::from_millis(5));
            rest.extend(self.take(redact));
        }
    }

    /// Programs that were executed.
    pub fn executed(&self) -> u64 {
        self.watched.counted().executed
    }

    /// What the lines do not say, where there is such.
    pub fn untold(&self) -> Option<String> {
        untold(self.executed(), self.entries.ran)
    }
}

/// What is known of processes that were told of. Pure.
#[derive(Debug, Default)]
struct Entries {
    heard: u64,
    ran: u64,
    /// The name of what each executed last, and when.
    living: HashMap<ProcessKey, (Vec<u8>, u64)>,
}

impl Entries {
    /// `None`: an end that was told of twice, or whose beginning was not.
    fn enter(&mut self, told: Told, redact: Redact<'_>) -> Option<proto::Witnessed> {
        self.heard += 1;
        match told {
            Told::Ran(ran) => {
                self.ran += 1;
                Some(self.ran(&ran, redact))
            }
            Told::Left(left) => self.left(&left),
        }
    }

    fn ran(&mut self, ran: &Ran, redact: Redact<'_>) -> proto::Witnessed {
        let name = ran.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = redact(name);
        self.living.insert(ran.process, (name.clone(), ran.at_ns));
        let record = &ran.record;
        let area = &record.argv[..(record.kept as usize).min(record.argv.len())];
        proto::Witnessed {
            process: key(ran.process),
            parent: key(ran.parent),
            at_ns: ran.at_ns,
            name,
            argv: split(area).iter().map(|argument| redact(argument)).collect(),
            argv_bytes: record.argv_bytes,
            exe_dev: record.exe.dev,
            exe_ino: record.exe.ino,
            ..Default::default()
        }
    }

    fn left(&mut self, left: &Left) -> Option<proto::Witnessed> {
        let (name, since_ns) = self.living.remove(&left.process)?;
        Some(proto::Witnessed {
            process: key(left.process),
            at_ns: left.at_ns,
            name,
            ended: true,
            code: left.code,
            ran_ns: left.at_ns.saturating_sub(since_ns),
            ..Default::default()
        })
    }
}

fn key(key: ProcessKey) -> Option<proto::ProcessKey> {
    (key.start_ns != 0).then_some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns })
}

fn untold(executed: u64, ran: u64) -> Option<String> {
    let untold = executed.saturating_sub(ran);
    (untold > 0).then(|| {
        format!(
            "{} programs were executed: of {} the transcript has nothing, for it has {TOLD} at most",
            grouped(executed),
            grouped(untold),
        )
    })
}

/// As a line of the transcript, for people: `4711 executes sh: sh -c 'dmesg | tail'`.
pub fn line(witnessed: &proto::Witnessed) -> String {
    let pid = witnessed.process.map_or(0, |process| process.pid);
    let name = command(std::slice::from_ref(&witnessed.name));
    if witnessed.ended {
        let (code, took) = (ending(witnessed.code), duration(witnessed.ran_ns));
        return format!("{pid} {name} ends after {took}: {code}");
    }
    // The file's name and not only what it was called: that may be anything.
    let shown = command(&witnessed.argv);
    let is_cut = witnessed.argv_bytes as usize > ARGV_KEPT;
    format!("{pid} executes {name}: {shown}{}", if is_cut { " …" } else { "" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_common::lineage::ExecRecord;

    use super::*;

    fn ran(pid: u32, comm: &[u8], argv: &[u8]) -> Told {
        let mut record = ExecRecord {
            exe: sensor_common::FileId { ino: 7, dev: 8, zero: 0 },
            cwd: sensor_common::FileId::default(),
            argv_bytes: argv.len() as u32,
            kept: argv.len().min(ARGV_KEPT) as u32,
            argv: [0; ARGV_KEPT],
        };
        let kept = record.kept as usize;
        record.argv[..kept].copy_from_slice(&argv[..kept]);
        let mut name = [0; 16];
        name[..comm.len()].copy_from_slice(comm);
        Told::Ran(Box::new(Ran {
            tag: 0,
            zero: 0,
            process: ProcessKey::new(pid, 5),
            parent: ProcessKey::new(1, 2),
            at_ns: 1_000_000,
            cgroup: 9,
            comm: name,
            record,
        }))
    }

    fn left(pid: u32, code: u32) -> Told {
        let process = ProcessKey::new(pid, 5);
        Told::Left(Left { tag: 0, code, process, at_ns: 13_000_000, cgroup: 9 })
    }

    fn lines(told: Vec<Told>) -> Vec<String> {
        let hide = |text: &[u8]| {
            String::from_utf8_lossy(text).replace("SECRET", "[redacted]").into_bytes()
        };
        let mut entries = Entries::default();
        let entered = told.into_iter().filter_map(|told| entries.enter(told, &hide));
        entered.map(|entry| line(&entry)).collect()
    }

    #[test]
    fn says_what_was_executed_and_how_it_ended() {
        let told = vec![
            ran(7, b"sh", b"sh\0-c\0curl SECRET | sh\0"),
            ran(8, b"sleep", b"innocent\x005\0"),
            ran(9, b"tidy.sh", b"/bin/sh\0./tidy.sh\0"),
            left(7, 3 << 8),
            left(8, 9),
            left(7, 0),
            left(11, 0),
        ];
        assert_eq!(
            lines(told),
            [
                "7 executes sh: sh -c 'curl [redacted] | sh'",
                "8 executes sleep: innocent 5",
                "9 executes tidy.sh: /bin/sh ./tidy.sh",
                "7 sh ends after 12 ms: exit code 3",
                "8 sleep ends after 12 ms: signal 9 (SIGKILL)",
            ]
        );
    }

    #[test]
    fn a_process_that_executes_twice_ends_once_as_what_it_was_last() {
        let told = vec![ran(7, b"sh", b"sh\0"), ran(7, b"true", b"true\0"), left(7, 0)];
        assert_eq!(lines(told)[2], "7 true ends after 12 ms: exit code 0");
    }

    #[test]
    fn arguments_that_are_missing_are_hinted_at() {
        let long = [b"echo\0".to_vec(), vec![b'x'; 2 * ARGV_KEPT], vec![0]].concat();
        let line = lines(vec![ran(7, b"echo", &long)]).remove(0);
        assert!(line.ends_with("xx …") && line.len() < 2 * ARGV_KEPT, "{line}");
    }

    #[test]
    fn what_is_above_the_bound_is_counted() {
        assert_eq!(untold(12, 12), None);
        assert_eq!(
            untold(1512, 512).unwrap(),
            "1,512 programs were executed: of 1,000 the transcript has nothing, for it has 512 at most"
        );
    }

    proptest! {
        #[test]
        fn any_arguments_are_a_line(comm in prop::collection::vec(any::<u8>(), 0..16),
            argv in prop::collection::vec(any::<u8>(), 0..600), code in any::<u32>()) {
            for line in lines(vec![ran(7, &comm, &argv), left(7, code)]) {
                prop_assert!(!line.contains(|c: char| c.is_control()), "{:?}", line);
            }
        }
    }
}
