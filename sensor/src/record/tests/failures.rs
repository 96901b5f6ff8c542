//! What goes wrong: killed writers, damaged files, full disks, and readers of another user.

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

use rusqlite::Connection;

use super::{super::*, *};

const NOBODY: u32 = 65_534;
/// How often a writer is killed.
const KILLS: &str = "SENSOR_TEST_KILLS";
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
    let rounds = env::var(KILLS).map_or(4, |count| count.parse().unwrap());
    let mut used = 0;
    for round in 0..rounds {
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

    let read = |gid| helper("foreign_reader", &directory).uid(NOBODY).gid(gid).output().unwrap();
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
    log_ids.dedup();
    assert_eq!(log_ids.len(), 1, "who it is, is known beside the log");
    fs::remove_file(directory.path().join("log.numbers")).unwrap();
    fs::write(directory.path().join(FILE), vec![b'x'; 10_000]).unwrap();
    let (_log, opened) = open(directory.path());
    assert_ne!(opened.log_id, log_ids[0], "what nobody knows cannot go on");
}

#[test]
fn damage_that_is_told_twice_costs_no_record_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    log.0.queue.damaged("met by the writer".into());
    let receipt = log.append_durable(Draft::bulk(line(b"late"))).wait();
    assert!(matches!(receipt, Err(NotDurable::Waiting(_))), "{receipt:?}");
    // Of the same damage, by the look through the file, while the next attempt is waited for.
    log.0.queue.damaged("seen by the check".into());
    let _ = log.close("test");
    drop(log);
    let kinds = |record: &proto::Record| record.kind();
    let records = all(&Reader::open(directory.path()).unwrap());
    assert!(records.iter().map(kinds).any(|kind| kind == "transcript"), "{records:?}");
}

/// A closed log of 5,000 records, marked as if the machine had gone down.
fn unclean_log(directory: &Path) -> (Opened, Vec<u8>) {
    let (log, opened) = open(directory);
    log.append(transition("abc", proto::State::Open, 1));
    for n in 2..=4_999 {
        log.append(Draft::bulk(numbered(n)));
    }
    log.set_paused(true);
    log.close("test").unwrap();
    drop(log);
    let path = directory.join(FILE);
    let database = Connection::open(&path).unwrap();
    database.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
    drop(database);
    (opened, fs::read(&path).unwrap())
}

/// The records that a test wrote, each with the content that its number had.
fn genuine(reader: &Reader) -> u64 {
    let records = all(reader);
    assert!(records.is_sorted_by(|a, b| a.seq < b.seq));
    let of_test = records.iter().filter(|record| number(record).is_some());
    of_test.inspect(|record| assert_eq!(number(record), Some(record.seq))).count() as u64
}

/// <https://sqlite.org/fileformat2.html#the_database_header>
#[test]
fn every_byte_of_the_header_may_be_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    log.append(Draft::bulk(numbered(2)));
    log.close("test").unwrap();
    drop(log);
    let whole = fs::read(directory.path().join(FILE)).unwrap();
    let mut unwritten = Vec::new();
    for at in 0..100 {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] = 0x77;
        fs::write(directory.path().join(FILE), bytes).unwrap();
        let options = LogOptions { max_bytes: ROOMY, reader_gid: None };
        match Log::open(directory.path(), &host(), options) {
            Ok((log, opened)) => {
                let seq = log.append_durable(Draft::bulk(line(b"new"))).wait();
                // Versions of the format, beyond which it could only be read: noticed at once.
                assert!(seq.is_ok() || !(18..20).contains(&at), "byte {at}: {seq:?}");
                // Damage that is found under way has the record wait for the new log.
                if opened.failing.is_some() || matches!(seq, Err(NotDurable::Dropped)) {
                    unwritten.push((at, opened.failing));
                }
            }
            // The version of the tables, big endian.
            Err(error) => {
                assert!(matches!(error, LogError::Newer { .. }) && (60..64).contains(&at));
            }
        }
    }
    assert_eq!(unwritten, []);
}

#[test]
fn what_is_readable_of_a_damaged_log_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (first, mut bytes) = unclean_log(directory.path());
    let path = directory.path().join(FILE);
    let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 8_192);
    bytes[from..to].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (log, second) = open(directory.path());
    assert!(second.set_aside.is_some() && second.unclean && second.paused);
    assert_eq!(second.log_id, first.log_id, "who has seen a record before knows it again");
    assert!(second.unresolved.iter().map(|incident| incident.id.as_str()).eq(["abc"]));
    assert_eq!(second.last_seq, 5_000);
    let seq = log.append_durable(Draft::bulk(line(b"new"))).wait().unwrap();
    assert!(seq > 5_000, "no number is used again");
    log.close("test").unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let (kept, records) = (genuine(&reader), all(&reader));
    assert!((4_700..4_998).contains(&kept), "two or three pages of some 60 records: {kept}");
    let lost = reasons(&records, "log_damage");
    assert_eq!(lost, 4_998 - kept, "and how many were on them is said");
    let said = records.iter().find(|record| record.kind() == "degraded").unwrap();
    let said = format!("{:?}", said.body);
    assert!(said.contains("records and 1 incidents were read out of it"), "{said}");
    assert_eq!(read_all(&reader, 1, &Filter::default()).1, lost, "readers are told of them");
}

#[test]
fn a_log_without_its_first_page_is_read_out() {
    let directory = tempfile::tempdir().unwrap();
    let (first, mut bytes) = unclean_log(directory.path());
    bytes[..4_096].fill(0x5a);
    fs::write(directory.path().join(FILE), bytes).unwrap();
    let (log, second) = open(directory.path());
    assert!(second.set_aside.is_some());
    assert_eq!(second.log_id, first.log_id, "it is known beside the log");
    assert!(second.unresolved.iter().map(|incident| incident.id.as_str()).eq(["abc"]));
    drop(log);
    assert_eq!(genuine(&Reader::open(directory.path()).unwrap()), 4_998);
    let left = fs::read_dir(directory.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("mended") || name.contains("new")), "{left:?}");
}

#[test]
fn a_log_whose_tables_are_called_otherwise_is_read_out() {
    let origin = tempfile::tempdir().unwrap();
    let (first, whole) = unclean_log(origin.path());
    let numbers = fs::read(origin.path().join("log.numbers")).unwrap();
    let name = b"priority INTEGER NOT NULL";
    let at = whole.windows(name.len()).position(|bytes| bytes == name).unwrap();
    assert!(at < 4_096, "the tables are defined on the first page");
    // A letter, and a byte that is none.
    for byte in [b'q', 0xff] {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] = byte;
        fs::write(directory.path().join(FILE), bytes).unwrap();
        fs::write(directory.path().join("log.numbers"), &numbers).unwrap();
        let (log, second) = open(directory.path());
        assert!(second.set_aside.is_some(), "{byte}");
        assert_eq!(second.log_id, first.log_id);
        drop(log);
        assert_eq!(genuine(&Reader::open(directory.path()).unwrap()), 4_998, "{byte}");
    }
}

#[test]
fn a_host_that_is_no_text_costs_its_run_alone() {
    let directory = tempfile::tempdir().unwrap();
    let _ = unclean_log(directory.path());
    let database = Connection::open(directory.path().join(FILE)).unwrap();
    database.execute("UPDATE runs SET host = CAST(x'ff' AS TEXT)", []).unwrap();
    drop(database);
    let (log, _) = open(directory.path());
    log.append_durable(Draft::bulk(line(b"new"))).wait().unwrap();
    log.close("test").unwrap();
    assert_eq!(genuine(&Reader::open(directory.path()).unwrap()), 4_998);
}

#[test]
#[ignore = "helper that other tests start as a process of its own"]
fn salvager() {
    let Some(directory) = env::var_os(CRASH_DIRECTORY) else { return };
    println!("\nbegins");
    let (_log, opened) = open(Path::new(&directory));
    println!("\ndone {:?}", opened.set_aside);
}

#[test]
fn a_salvage_that_is_interrupted_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut bytes) = unclean_log(directory.path());
    let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 8_192);
    bytes[from..to].fill(0x5a);
    let mut interrupted = 0;
    for patience in (0..60).step_by(3) {
        let other = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(directory.path()).unwrap().flatten() {
            fs::copy(entry.path(), other.path().join(entry.file_name())).unwrap();
        }
        fs::write(other.path().join(FILE), &bytes).unwrap();
        let mut child = Killed(helper("salvager", other.path()).spawn().unwrap());
        let mut lines =
            BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "begins"));
        std::thread::sleep(Duration::from_millis(patience));
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        interrupted += u32::from(lines.all(|line| !line.starts_with("done")));
        let (log, opened) = open(other.path());
        // Who had come to its end may have written its own two records, of the damage and of what is lost.
        assert!(
            (5_000..=5_002).contains(&opened.last_seq),
            "{} after {patience} ms",
            opened.last_seq
        );
        drop(log);
        let reader = Reader::open(other.path()).unwrap();
        assert!((4_700..4_998).contains(&genuine(&reader)), "after {patience} ms");
    }
    println!("{interrupted} of 20 were interrupted");
    assert!(interrupted > 2);
}

#[test]
fn damage_is_found_after_a_clean_end_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let (log, first) = open(directory.path());
    for n in 1..=5_000 {
        log.append(Draft::bulk(numbered(n)));
    }
    log.close("test").unwrap();
    drop(log);
    let path = directory.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 4_096);
    bytes[from..to].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (log, second) = open(directory.path());
    assert!(second.set_aside.is_none() && !second.unclean, "nobody waits for the look");
    let aside = directory.path().join(format!("{FILE}.corrupt-1"));
    wait_for("the damage is found", || aside.exists() && log.health().borrow().ok);
    let seq = log.append_durable(Draft::bulk(line(b"new"))).wait().unwrap();
    assert!(seq > 5_000, "no number is used again");
    assert_eq!(log.log_id(), first.log_id);
    let reader = Reader::open(directory.path()).unwrap();
    let kept = genuine(&reader);
    assert!((4_800..5_000).contains(&kept), "{kept}");
    assert_eq!(reasons(&all(&reader), "log_damage"), 5_000 - kept);
}

#[test]
fn whatever_becomes_of_the_file_the_log_goes_on() {
    let base = tempfile::tempdir().unwrap();
    let origin = base.path().join("origin");
    let (first, whole) = unclean_log(&origin);
    let numbers = fs::read(origin.join("log.numbers")).unwrap();
    let mut salvaged = 0;
    for seed in 0..40 {
        let mut dice = disk::Dice(seed);
        let directory = base.path().join(seed.to_string());
        fs::create_dir(&directory).unwrap();
        let mut bytes = whole.clone();
        match dice.below(4) {
            0 => bytes.truncate(dice.below(whole.len() as u64) as usize),
            1 => bytes.drain(..dice.below(whole.len() as u64) as usize).for_each(drop),
            _ => {
                // From a single byte to several on each page.
                for _ in 0..1 << dice.below(11) {
                    let at = dice.below(whole.len() as u64) as usize;
                    bytes[at] = bytes[at].wrapping_add(1 + dice.below(255) as u8);
                }
            }
        }
        fs::write(directory.join(FILE), bytes).unwrap();
        if dice.one_in(2) {
            fs::write(directory.join("log.numbers"), &numbers).unwrap();
        }
        let (log, opened) = open(&directory);
        let seq = log.append_durable(Draft::bulk(line(b"new"))).wait().unwrap();
        if opened.log_id == first.log_id {
            assert!(seq > 5_000, "seed {seed}: number {seq} is used again");
        }
        log.close("test").unwrap();
        let reader = Reader::open(&directory).unwrap();
        let kept = all(&reader).iter().filter(|record| number(record) == Some(record.seq)).count();
        salvaged += kept;
    }
    assert!(salvaged > 40 * 1_000, "{salvaged} of {}", 40 * 4_998);
}

#[test]
fn a_log_without_its_end_uses_no_number_again() {
    let base = tempfile::tempdir().unwrap();
    let (before, after) = (base.path().join("before"), base.path().join("after"));
    fs::create_dir(&after).unwrap();
    let (log, first) = open(&before);
    for n in 1..=100 {
        log.append(Draft::bulk(numbered(n)));
    }
    let last = log.append_durable(Draft::bulk(numbered(101))).wait().unwrap();
    // As it lies there, without what is written ahead.
    for name in [FILE, "log.numbers"] {
        fs::copy(before.join(name), after.join(name)).unwrap();
    }
    let (log, second) = open(&after);
    assert_eq!((second.log_id, second.unclean), (first.log_id, true));
    let seq = log.append_durable(Draft::bulk(line(b"new"))).wait().unwrap();
    assert!(seq > last, "{seq} was used before");
    let records = all(&Reader::open(&after).unwrap());
    let said = records.iter().any(|record| {
        matches!(&record.body, Some(Body::Degraded(it)) if it.why.contains("newest records are gone"))
    });
    assert!(said, "{records:?}");
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

#[test]
fn a_disk_that_is_read_only_keeps_records_in_memory() {
    let Some(disk) = Tmpfs::new(8 << 20) else {
        println!("SKIP a_disk_that_is_read_only: needs root to mount a file system");
        return;
    };
    let directory = disk.0.path();
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(directory);
        assert!(mount.status().unwrap().success(), "remount,{how}");
    };
    let (log, _) = open(directory);
    log.append(Draft::of("i", numbered(1)));
    log.close("test").unwrap();
    drop(log);
    remount("ro");
    let (log, _) = open(directory);
    let answer = log.append_durable(Draft::of("i", numbered(2))).wait();
    assert!(matches!(answer, Err(NotDurable::Waiting(_))), "{answer:?}");
    assert!(!log.health().borrow().ok);
    let second = Log::open(directory, &host(), LogOptions { max_bytes: ROOMY, reader_gid: None });
    assert!(matches!(second, Err(LogError::Busy(_))), "one writer here, too");
    remount("rw");
    wait_for("recovery", || log.health().borrow().ok);
    log.append_durable(Draft::of("i", numbered(3))).wait().unwrap();
    let records = all(&Reader::open(directory).unwrap());
    assert!(records.iter().filter_map(number).eq(1..=3), "nothing lost, nothing twice");
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
