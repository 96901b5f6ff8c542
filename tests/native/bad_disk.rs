//! The disk of the log is full, fails, or somebody damages what is on it: trees are contained all the same,
//! what happens to them is told, and written down as soon as that can be done.

use std::{fs, io, os::unix::fs::FileExt as _, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tests::{Cage, Limits, Sensor, needs, watch::number, workloads::script};

use crate::support::{EFFECT, comes, contained, id, killed, stands_still};

/// For some hundred records.
const READ: Duration = Duration::from_secs(5);

/// A file system of one's own that can be filled and broken without harm.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(mebibytes: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=755"), "none"]);
        assert!(mount.arg(directory.path()).status().unwrap().success());
        Self(directory)
    }

    /// One with a journal, on a file, that turns read-only at the first error, as Debian's do.
    fn with_journal(image: &Path) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
        assert!(
            Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image).status().unwrap().success()
        );
        disk.mount(image);
        disk
    }

    fn mount(&self, image: &Path) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]).arg(image).arg(self.path());
        assert!(mount.status().unwrap().success());
    }

    /// The kernel meets an error in it.
    fn fails(&self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let path = self.path().to_str().unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path)).unwrap();
        let device = Path::new(line.split(' ').next().unwrap()).file_name().unwrap();
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        fs::write(trigger, "by a test").unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all that is left.
    fn fill(&self) {
        let mut file = fs::File::create(self.path().join("ballast")).unwrap();
        let error = io::copy(&mut io::repeat(7), &mut file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Until nothing is mounted there any more.
        while Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status()
            .is_ok_and(|it| it.success())
        {}
    }
}

/// All of them, once they can be read.
fn records(sensor: &Sensor) -> Vec<Value> {
    let mut all = Vec::new();
    comes("that the log can be read", EFFECT, || {
        let last = number(&sensor.status().unwrap()["last_seq"]).unwrap();
        let mut watch = sensor.watch(0).unwrap();
        let is_last = |record: &Value| number(&record["seq"]).is_ok_and(|seq| seq >= last);
        let read = watch.find(READ, is_last).is_ok();
        all = watch.kill().into_iter().map(|arrival| arrival.record).collect();
        read
    });
    all
}

#[test]
fn a_full_disk_hinders_nobody() {
    needs!("mount");
    let disk = Disk::new(32);
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start_on(disk.path(), &cage, "").unwrap();
    assert_eq!(sensor.part("record").unwrap()["ok"], true);
    disk.fill();

    let work = script::line(20).unwrap();
    let running = work.start(&cage).unwrap();
    // From the log, as all that clients see: its edges are on the disk that is full.
    let incident = contained(&sensor, running.pid());
    stands_still(&cage);
    let part = sensor.part("record").unwrap();
    assert_eq!(part["ok"], false, "{part}");
    assert!(part["detail"].as_str().unwrap().contains("nearly full"), "{part}");
    killed(&sensor, &cage, &incident);

    disk.make_room();
    comes("that it is written again", EFFECT, || sensor.part("record").unwrap()["ok"] == true);
    let all = records(&sensor);
    let said: Vec<bool> = all
        .iter()
        .filter(|one| one["degraded"]["part"] == "record")
        .map(|one| one["degraded"]["recovered"] == true)
        .collect();
    assert_eq!(said, [false, true], "it says so when it comes and when it goes");
    let lost: Vec<&Value> = all.iter().filter(|one| one["kind"] == "lost").collect();
    assert!(lost.is_empty(), "{lost:?}");
    // What had to wait is there now: the alarms are bulk.
    let alarms = |one: &&Value| !one["observation"]["alarm"].is_null();
    assert!(all.iter().any(|one| alarms(&one)), "{all:#?}");
    let of_it = all.iter().filter(|one| one["incident"] == incident["id"]).count();
    assert!(of_it > 5, "{of_it} records of incident {}", id(&incident));
}

/// Contained and told of, whatever the log is able to take; and ended.
fn a_runaway_is_contained(sensor: &Sensor, cage: &Cage) -> Value {
    let work = script::line(20).unwrap();
    let running = work.start(cage).unwrap();
    let incident = contained(sensor, running.pid());
    stands_still(cage);
    let said = sensor.call(&["kill", id(&incident), "--yes"]).unwrap();
    let waits = said.stderr.contains("it was done, but not recorded yet");
    assert!(said.status.success() || waits, "{said:?}");
    comes("its end", EFFECT, || cage.pids().is_empty());
    incident
}

#[test]
fn a_disk_that_fails_hinders_nobody() {
    needs!("mount", "mkfs.ext4");
    let elsewhere = tempfile::tempdir().unwrap();
    let image = elsewhere.path().join("image");
    let disk = Disk::with_journal(&image);
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start_on(disk.path(), &cage, "").unwrap();
    let before = a_runaway_is_contained(&sensor, &cage);
    disk.fails();
    let meanwhile = a_runaway_is_contained(&sensor, &cage);
    let part = sensor.part("record").unwrap();
    assert_eq!(part["ok"], false, "{part}");
    // As soon as its journal has failed, the kernel lets nobody write to it.
    let why = part["detail"].as_str().unwrap();
    let says = ["cannot write the log", "Read-only file system"].iter().any(|it| why.contains(it));
    assert!(says, "{part}");

    // Another disk takes its place, with what could be copied.
    let copy = elsewhere.path().join("copy");
    fs::copy(&image, &copy).unwrap();
    Command::new("fsck.ext4").args(["-fy"]).arg(&copy).output().unwrap();
    disk.mount(&copy);
    comes("that it is written again", EFFECT, || sensor.part("record").unwrap()["ok"] == true);
    let after = a_runaway_is_contained(&sensor, &cage);
    let all = records(&sensor);
    for incident in [before, meanwhile, after] {
        let of_it = all.iter().filter(|one| one["incident"] == incident["id"]).count();
        assert!(of_it > 5, "{of_it} records of incident {}", id(&incident));
    }
}

#[test]
fn damage_under_way_hinders_nobody() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let log = sensor.status().unwrap()["log_id"].clone();
    let path = |name: &str| sensor.state_directory().join(name);
    let damages: [(&str, &dyn Fn()); 4] = [
        ("bytes flipped", &|| {
            let file = fs::File::options().write(true).open(path("log.db")).unwrap();
            let length = file.metadata().unwrap().len();
            for at in (0..length).step_by(512) {
                file.write_all_at(&[0x5a; 64], at).unwrap();
            }
        }),
        ("cut off", &|| {
            let file = fs::File::options().write(true).open(path("log.db")).unwrap();
            file.set_len(5_000).unwrap();
        }),
        ("without its write-ahead log", &|| fs::remove_file(path("log.db-wal")).unwrap()),
        ("gone", &|| {
            for name in ["log.db", "log.db-wal", "log.db-shm"] {
                fs::remove_file(path(name)).unwrap();
            }
        }),
    ];
    for (what, damage) in damages {
        eprintln!("{what}");
        let before = a_runaway_is_contained(&sensor, &cage);
        damage();
        let after = a_runaway_is_contained(&sensor, &cage);
        comes("that it is in order again", EFFECT, || {
            let there = ["log.db", "log.db-wal"].iter().all(|name| path(name).exists());
            there && sensor.part("record").unwrap()["ok"] == true
        });
        assert_eq!(sensor.status().unwrap()["log_id"], log, "{what}");
        let all = records(&sensor);
        for incident in [before, after] {
            let of_it = all.iter().filter(|one| one["incident"] == incident["id"]).count();
            assert!(of_it > 5, "{what}: {of_it} records of incident {}", id(&incident));
        }
    }
}
