//! What goes wrong: killed writers, damaged files, full disks, and readers of another user.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{super::*, *};

const NOBODY: u32 = 65_534;
const CRASH_DIRECTORY: &str = "SENSOR_TEST_CRASH_DIRECTORY";

/// Starts this test binary again with one of its helpers.
fn helper(name: &str, directory: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", &format!("record::tests::failures::{name}"), "--ignored", "--nocapture"])
        .env(CRASH_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
#[ignore = "helper that other tests start as a process of its own"]
fn crashing_writer() {
    let Some(directory) = env::var_os(CRASH_DIRECTORY) else { return };
    let (log, opened) = open(Path::new(&directory));
    println!("\nlast {}", opened.last_seq);
    for n in 0.. {
        log.append(Draft::bulk(numbered(n)));
        if n % 50 == 0 {
            let seq = log.append_durable(Draft::of("i", numbered(n))).wait().unwrap();
            println!("acknowledged {seq} {n}");
        }
        // Readers are told of bulk, too.
        println!("told {}", *log.tail().borrow());
    }
}

#[test]
fn a_killed_writer_has_kept_what_it_acknowledged_and_uses_no_number_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut used = 0;
    for round in 0..4 {
        let mut child = Killed(helper("crashing_writer", directory.path()).spawn().unwrap());
        let (mut acknowledged, mut told) = (Vec::new(), 0);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        for line in &mut lines {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[0] {
                "acknowledged" => acknowledged.push((number(1), number(2))),
                "told" => told = number(1),
                _ => {}
            }
            if acknowledged.len() == 40 + round * 7 {
                break;
            }
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let (log, opened) = open(directory.path());
        assert!(opened.unclean);
        assert!(opened.last_seq >= told, "what readers were told is there");
        assert!(acknowledged[0].0 > used, "no number is used again");
        used = opened.last_seq;
        let reader = Reader::open(directory.path()).unwrap();
        let records = all(&reader);
        for (seq, n) in acknowledged {
            let found = records.binary_search_by_key(&seq, |record| record.seq).unwrap();
            assert_eq!(number(&records[found]), Some(n));
        }
        assert!(records.is_sorted_by(|a, b| a.seq < b.seq));
        drop(log);
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "helper that other tests start as a process of its own"]
fn foreign_reader() {
    let Some(directory) = env::var_os(CRASH_DIRECTORY) else { return };
    assert!(!is_root());
    match Reader::open(Path::new(&directory)) {
        Ok(reader) => println!("\nread {}", all(&reader).len()),
        Err(error) => println!("\nrefused {error}"),
    }
}

#[test]
fn another_user_reads_by_group_while_the_log_is_written() {
    if !is_root() {
        println!("SKIP another_user_reads_by_group: needs root to become another user");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |directory: &Path, gid: u32| {
        let output = helper("foreign_reader", directory).uid(NOBODY).gid(gid).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find(|line| line.starts_with("re")).unwrap_or(&text).to_owned()
    };
    let directory = base.path().join("state");
    let options = LogOptions { max_bytes: ROOMY, reader_gid: Some(NOBODY) };
    let (log, _) = Log::open(&directory, &host(), options.clone()).unwrap();
    for n in 1..=3_000 {
        log.append(Draft::bulk(numbered(n)));
    }
    log.append_durable(Draft::bulk(numbered(0))).wait().unwrap();
    assert_eq!(run(&directory, NOBODY), "read 3001");
    assert!(run(&directory, 54_321).starts_with("refused"), "another group may not");
    for name in ["log.db", "log.db-wal", "log.db-shm"] {
        let mode = fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{name}");
    }
    // With a reader of another user holding the file, the next writer goes on as well.
    drop(log);
    let (log, _) = Log::open(&directory, &host(), options).unwrap();
    log.append_durable(Draft::bulk(numbered(0))).wait().unwrap();
    assert_eq!(run(&directory, NOBODY), "read 3002");
}

#[test]
fn a_corrupt_log_is_set_aside_and_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut log_ids = Vec::new();
    for n in 1..=5 {
        fs::write(directory.path().join(FILE), vec![b'x'; 10_000]).unwrap();
        let (log, opened) = open(directory.path());
        let aside = directory.path().join(format!("{FILE}.corrupt-{n}"));
        assert_eq!(opened.set_aside.as_deref(), Some(aside.as_path()));
        assert!(opened.unclean);
        log.close("test").unwrap();
        let reader = Reader::open(directory.path()).unwrap();
        let kinds: Vec<_> = all(&reader).iter().map(proto::Record::kind).collect();
        assert_eq!(kinds, ["degraded", "stopped"]);
        log_ids.push(opened.log_id);
    }
    let kept = (1..=5)
        .filter(|n| directory.path().join(format!("{FILE}.corrupt-{n}")).exists())
        .collect::<Vec<_>>();
    assert_eq!(kept, [3, 4, 5], "the newest few are kept");
    log_ids.sort();
    log_ids.dedup();
    assert_eq!(log_ids.len(), 5, "each log has an id of its own");
}

#[test]
fn damage_inside_is_found_after_an_unclean_end() {
    let directory = tempfile::tempdir().unwrap();
    let (log, first) = open(directory.path());
    for n in 1..=5_000 {
        log.append(Draft::bulk(numbered(n)));
    }
    log.close("test").unwrap();
    drop(log);
    // As if the machine had gone down: some pages are torn, and the end was not marked.
    let path = directory.path().join(FILE);
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE meta SET value = '0' WHERE key = 'clean'", [])
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 8_192);
    bytes[from..to].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (log, second) = open(directory.path());
    assert!(second.set_aside.is_some());
    assert_ne!(second.log_id, first.log_id);
    assert_eq!(log.append_durable(Draft::bulk(numbered(1))).wait().unwrap(), 2);
}

#[test]
fn a_reader_notices_that_the_log_was_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    log.append_durable(Draft::bulk(numbered(1))).wait().unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.last_seq().unwrap(), 1);
    log.close("test").unwrap();
    drop(log);
    fs::rename(directory.path().join(FILE), directory.path().join("moved")).unwrap();
    assert!(matches!(reader.last_seq(), Err(ReadError::Absent(_))));
    let (_log, _) = open(directory.path());
    assert!(matches!(reader.last_seq(), Err(ReadError::Replaced(_))));
}

/// A file system of one's own that can be filled without harm.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=750"), "none"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_keeps_records_in_memory_and_writes_them_when_there_is_room() {
    let Some(disk) = Tmpfs::new(4 << 20) else {
        println!("SKIP a_full_disk: needs root to mount a file system");
        return;
    };
    let directory = disk.0.path();
    let (log, _) = open(directory);
    log.append_durable(Draft::of("i", numbered(1))).wait().unwrap();
    let ballast = directory.join("ballast");
    let filled = fs::write(&ballast, vec![0; 4 << 20]);
    assert!(filled.is_err(), "the disk is full");

    // What is free inside of the log's own pages is used up first.
    let mut n = 1;
    let refused = loop {
        n += 1;
        if let Err(refused) = log.append_durable(Draft::of("i", numbered(n))).wait() {
            break refused;
        }
    };
    assert!(matches!(refused, NotDurable::Waiting(_)), "{refused}");
    let mut health = log.health();
    assert!(!health.borrow_and_update().ok);
    let start = Instant::now();
    n += 1;
    let answer = log.append_durable(Draft::of("i", numbered(n))).wait();
    assert!(matches!(answer, Err(NotDurable::Waiting(_))));
    assert!(start.elapsed() < Duration::from_millis(500), "nobody hangs on a full disk");
    for _ in 0..500 {
        n += 1;
        log.append(Draft::of("i", numbered(n)));
    }
    fs::remove_file(&ballast).unwrap();
    wait_for("recovery", || log.health().borrow().ok);
    log.append_durable(Draft::of("", line(b"after"))).wait().unwrap();
    let records = all(&Reader::open(directory).unwrap());
    assert!(records.iter().filter_map(number).eq(1..=n), "nothing lost, nothing twice, in order");
    let said: Vec<bool> = records
        .iter()
        .filter_map(|record| match &record.body {
            Some(Body::Degraded(degraded)) if degraded.part == "record" => Some(degraded.recovered),
            _ => None,
        })
        .collect();
    assert_eq!(said, [false, true]);
}

#[test]
fn a_log_that_cannot_be_opened_yet_starts_in_memory() {
    let Some(disk) = Tmpfs::new(1 << 20) else {
        println!("SKIP a_log_that_cannot_be_opened_yet: needs root to mount a file system");
        return;
    };
    let directory = disk.0.path();
    let ballast = directory.join("ballast");
    let _ = fs::write(&ballast, vec![0; 1 << 20]);
    let (log, opened) = open(directory);
    assert!(opened.failing.is_some());
    assert!(!log.health().borrow().ok);
    log.append(Draft::of("i", numbered(1)));
    fs::remove_file(&ballast).unwrap();
    wait_for("recovery", || log.health().borrow().ok);
    log.append_durable(Draft::of("i", numbered(2))).wait().unwrap();
    let reader = Reader::open(directory).unwrap();
    assert_eq!(reader.log_id(), log.log_id());
    assert!(all(&reader).iter().filter_map(number).eq(1..=2));
}
