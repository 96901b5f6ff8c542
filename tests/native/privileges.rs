//! What the daemon itself could do to a host, if somebody else got hold of it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use tests::{Cage, Limits, Sensor, needs};

/// By number (linux/capability.h): `NET_ADMIN`, `NET_RAW`, `SYS_MODULE`, `SYS_RAWIO`, `SYS_CHROOT`,
/// `SYS_BOOT`, `SYS_TIME`, `MKNOD`, `SETFCAP`, `MAC_ADMIN`.
const GIVEN_UP: [u32; 10] = [12, 13, 16, 17, 18, 22, 25, 27, 31, 33];

/// Kept: `KILL`, `BPF`.
const KEPT: [u32; 2] = [5, 39];

#[test]
fn what_the_daemon_does_not_need_it_cannot_do() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let processes = sensor.processes();
    assert!(processes.len() >= 3, "core, guardian and serve: {processes:?}");
    for pid in processes {
        for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
            let set = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                u64::from_str_radix(line.trim(), 16).unwrap()
            };
            for name in ["CapPrm:", "CapEff:", "CapInh:", "CapBnd:", "CapAmb:"] {
                let left = GIVEN_UP.iter().find(|one| set(name) & 1 << **one != 0);
                assert_eq!(left, None, "{name} {:x} of {pid}\n{status}", set(name));
            }
            let core = pid == sensor.pid();
            assert!(!core || KEPT.iter().all(|one| set("CapEff:") & 1 << one != 0), "{status}");
        }
    }
}

/// The feed is not root, and who cannot pass to the log serves nothing of it.
#[test]
fn a_log_below_a_directory_that_the_feed_may_not_pass_is_refused() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let closed = tempfile::tempdir().unwrap();
    let mode = |mode| fs::set_permissions(closed.path(), Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    let state = closed.path().join("made/state");
    let error = Sensor::start_on(&state, &cage, "").unwrap_err().to_string();
    let barrier = closed.path().display().to_string();
    assert!(error.contains("chmod o+x") && error.contains(&barrier), "{error}");

    mode(0o711);
    let sensor = Sensor::start_on(&state, &cage, "").unwrap();
    let incidents = sensor.call(&["incidents"]).unwrap();
    assert!(incidents.status.success(), "what is made on the way can be passed: {incidents:?}");
}
