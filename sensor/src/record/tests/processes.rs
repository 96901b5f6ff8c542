//! Writers and readers beside each other: one that is killed, another user's, a log that is replaced below them.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{super::*, *};

pub const NOBODY: u32 = 65_534;
/// How often a writer is killed.
const KILLS: &str = "SENSOR_TEST_KILLS";
pub const CRASH_DIRECTORY: &str = "SENSOR_TEST_CRASH_DIRECTORY";

/// Starts this test binary again with one of its helpers.
pub fn helper(name: &str, directory: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", &format!("record::tests::{name}"), "--ignored", "--nocapture"])
        .env(CRASH_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

pub fn is_root() -> bool {
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
    let rounds = env::var(KILLS).map_or(4, |count| count.parse().unwrap());
    let mut used = 0;
    for round in 0..rounds {
        let mut child =
            Killed(helper("processes::crashing_writer", directory.path()).spawn().unwrap());
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
            if acknowledged.len() == 40 + round % 10 * 7 {
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

pub struct Killed(pub Child);

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
        let output =
            helper("processes::foreign_reader", directory).uid(NOBODY).gid(gid).output().unwrap();
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

/// Who may only read cannot tell an index that the writer is changing from one that needs mending.
#[test]
fn a_reader_waits_until_the_index_is_whole() {
    if !is_root() {
        println!("SKIP a_reader_waits_until_the_index_is_whole: needs root to become another user");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let directory = base.path().join("state");
    let options = LogOptions { max_bytes: ROOMY, reader_gid: Some(NOBODY) };
    let (log, _) = Log::open(&directory, &host(), options).unwrap();
    log.append_durable(Draft::bulk(numbered(1))).wait().unwrap();

    let read = |gid| {
        helper("processes::foreign_reader", &directory).uid(NOBODY).gid(gid).output().unwrap()
    };
    // The index begins with two copies of its header; they differ while it is changed. One descriptor
    // until the end: closing any of them would drop the writer's locks.
    let mut index = fs::File::options();
    let index = index.read(true).write(true).open(directory.join("log.db-shm")).unwrap();
    let mut first = [0; 4];
    // The writer has no more to do: it would make the header whole.
    std::thread::sleep(Duration::from_millis(300));
    index.read_exact_at(&mut first, 8).unwrap();
    index.write_all_at(&first.map(|byte| !byte), 8).unwrap();
    let text = std::thread::scope(|scope| {
        let reads = scope.spawn(|| read(NOBODY));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!reads.is_finished(), "it does not wait");
        index.write_all_at(&first, 8).unwrap();
        String::from_utf8(reads.join().unwrap().stdout).unwrap()
    });
    assert!(text.contains("\nread 1"), "{text}");
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

#[test]
#[ignore = "a measurement, in a release build: records a second"]
fn throughput() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let (begin, count) = (Instant::now(), 500_000);
    for n in 1..=count {
        log.append(Draft::bulk(numbered(n)));
        // What the queue holds is bounded: whoever is faster than the disk loses bulk.
        if n % 20_000 == 0 {
            log.append_durable(Draft::bulk(numbered(n))).wait().unwrap();
        }
    }
    log.append_durable(Draft::bulk(numbered(0))).wait().unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    let kept = Reader::open(directory.path()).unwrap().last_seq().unwrap();
    println!("{:.0} records a second, {kept} of {count} kept", kept as f64 / seconds);
}
