//! Births and exits that no program was run for. On a real kernel: it needs root, and skips elsewhere.

use rustix::process::{Signal, kill_process};

use super::{Gear, Lineage, LoadOptions, Programs, idle::Idle, load::load};
use crate::{config::Config, core};

fn loaded() -> Option<(Programs, Lineage)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP kernel::missed: needs root");
        return None;
    }
    let options = LoadOptions { brake: Gear::Signals, ..core::load_options(&Config::default()) };
    let (programs, lineage, _ring) = load(&options).unwrap();
    Some((programs, lineage))
}

#[test]
fn whose_exit_was_missed_is_taken_out() {
    let Some((mut programs, lineage)) = loaded() else { return };
    let [reaped, zombie, living] = [(); 3].map(|()| Idle::start().unwrap());
    let keys = [&reaped, &zombie, &living].map(|one| one.key(&lineage));
    programs.detach("sched_process_exit");
    drop(reaped);
    kill_process(zombie.pid(), Signal::KILL).unwrap();
    zombie.ends();
    let alive = || keys.map(|key| lineage.is_alive(key));
    assert_eq!(alive(), [true; 3], "the exits were seen all the same");
    programs.visitor().unwrap().complete(&lineage).unwrap();
    assert_eq!(alive(), [false, false, true]);
}

#[test]
fn whose_birth_was_missed_is_entered() {
    let Some((mut programs, lineage)) = loaded() else { return };
    let visitor = programs.visitor().unwrap();
    visitor.complete(&lineage).unwrap();
    let us = std::process::id();
    programs.detach("sched_process_fork");
    let missed = Idle::start().unwrap();
    assert!(lineage.living(missed.tgid()).is_none(), "the birth was seen all the same");
    visitor.complete(&lineage).unwrap();
    let entered = lineage.living(missed.tgid()).unwrap();
    assert_eq!(entered.parent.map(|parent| parent.tgid), Some(us));
    assert!(entered.alive);
}
