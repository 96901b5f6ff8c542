//! Disks that are full, read-only or not there yet: records wait in memory and are written when there is room.

use std::process::Command;

use super::{super::*, *};

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
