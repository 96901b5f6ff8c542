//! Pids that are taken again while an action is on its way to who had them before. On a real kernel: it
//! needs root, and skips elsewhere.

use std::fs;

use rustix::process::Signal;

use super::{Gear, LoadOptions, idle::Idle, load::load};
use crate::{config::Config, core, respond::process::signal_all};

/// Decides which pid comes next in this pid namespace.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

const TRIES: u32 = 10_000;

#[test]
fn nobody_else_is_hit_in_ten_thousand_tries() {
    if !rustix::process::geteuid().is_root() || fs::metadata(LAST_PID).is_err() {
        eprintln!("SKIP kernel::recycled: needs root and {LAST_PID}");
        return;
    }
    let options = LoadOptions { brake: Gear::Signals, ..core::load_options(&Config::default()) };
    // Held, or nothing is seen any more.
    let (_programs, lineage, _ring) = &load(&options).unwrap();
    let mut same_tick = 0;
    let mut tried = 0;
    while tried < TRIES {
        let target = Idle::start().unwrap();
        let key = target.key(lineage);
        let pid = target.tgid();
        drop(target);
        fs::write(LAST_PID, (pid - 1).to_string()).unwrap();
        let other = Idle::start().unwrap();
        // Somebody else on this host was quicker.
        if other.tgid() != pid {
            continue;
        }
        tried += 1;
        same_tick += signal_all([key], Signal::CONT, |_| true);
        assert_eq!(signal_all([key], Signal::KILL, |key| lineage.is_alive(key)), 0);
        assert!(other.lives(), "{key:?} was meant, {:?} was hit", other.key(lineage));
        assert_eq!(signal_all([other.key(lineage)], Signal::CONT, |key| lineage.is_alive(key)), 1);
    }
    assert!(same_tick > 0, "no pid was taken again within a tick: nothing was tried");
}
