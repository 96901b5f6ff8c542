//! Births and exits that no program was run for. On a real kernel: it needs root, and skips elsewhere.

use rustix::process::{Signal, kill_process};

use super::{Gear, Lineage, LoadOptions, Programs, baseline, idle::Idle, load::load};
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

/// A table that is too small for this host: who does not fit is counted once, however often somebody looks
/// for it.
#[test]
fn who_does_not_fit_is_counted_once() {
    const LOOKS: u64 = 10;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP kernel::missed: needs root");
        return;
    }
    let defaults = core::load_options(&Config::default());
    let options = LoadOptions { brake: Gear::Signals, max_processes: 8, ..defaults };
    let (programs, lineage, _ring) = load(&options).unwrap();
    let crowd = [(); 16].map(|()| Idle::start().unwrap());
    let visitor = programs.visitor().unwrap();
    let lost =
        || programs.losses().into_iter().find(|(reason, _)| *reason == "table_full").unwrap().1;
    baseline::run(&visitor, &lineage).unwrap();
    let before = lost();
    assert!(before >= crowd.len() as u64, "{before} did not fit");
    for _ in 0..LOOKS {
        visitor.complete(&lineage).unwrap();
    }
    // Others of this host are born meanwhile, and may not fit either.
    let counted = lost() - before;
    assert!(counted < LOOKS * crowd.len() as u64 / 2, "{counted} counted in {LOOKS} looks");
}
