//! The disk of the log is full: trees are contained all the same, what happens to them is written down,
//! and all the rest is there once there is room again.

use std::{fs, io, path::Path, process::Command};

use serde_json::Value;
use tests::{Cage, Limits, Sensor, needs, watch::number, workloads::script};

use crate::support::{EFFECT, comes, contained, id, killed, stands_still};

/// A file system of one's own that can be filled without harm.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(mebibytes: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=755"), "none"]);
        assert!(mount.arg(directory.path()).status().unwrap().success());
        Self(directory)
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
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn records(sensor: &Sensor) -> Vec<Value> {
    let last = number(&sensor.status().unwrap()["last_seq"]).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    watch.find(EFFECT, |record| number(&record["seq"]).is_ok_and(|seq| seq >= last)).unwrap();
    watch.kill().into_iter().map(|arrival| arrival.record).collect()
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
