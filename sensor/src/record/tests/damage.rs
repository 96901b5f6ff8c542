//! Damaged files: what can be read of them is kept, what cannot is said, and the log goes on.

use std::{
    env,
    io::{BufRead as _, BufReader},
};

use rusqlite::Connection;

use super::{
    super::*,
    processes::{CRASH_DIRECTORY, Killed, helper},
    *,
};

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
    assert!(second.unsettled.iter().map(|incident| incident.id.as_str()).eq(["abc"]));
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
    assert!(second.unsettled.iter().map(|incident| incident.id.as_str()).eq(["abc"]));
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
        let mut child = Killed(helper("damage::salvager", other.path()).spawn().unwrap());
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
