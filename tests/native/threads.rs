//! Processes of several threads, which end in any order.

use std::{env, process::Command, ptr, thread, time::Duration};

use nix::{
    libc,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use tests::{Cage, Limits, Sensor, needs, skip, test_name, watch::number, workloads::forking};

const STEPS: &str = "SENSOR_TEST_STEPS";

/// How many processes end so.
const ENDS: u32 = 20;

#[test]
fn a_first_thread_that_ends_last_is_no_loss() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = forking::rust("threads::first_threads_that_end", STEPS, ENDS).unwrap().work;
    let status = work.command(&cage).unwrap().status().unwrap();
    assert!(status.success(), "{}", work.last_words());
    // One more process: what came before it has been counted.
    assert!(Command::new("true").status().unwrap().success());
    let losses = sensor.status().unwrap()["losses"].take();
    let unknown = losses.as_array().unwrap().iter().find(|it| it["reason"] == "unknown_exit");
    assert_eq!(unknown.map_or(0, |it| number(&it["count"]).unwrap()), 0, "{losses:#}");
}

/// What [`a_first_thread_that_ends_last_is_no_loss`] runs: in each process the first thread begins to end, and while it
/// does, wakes the second one, which overtakes it.
#[test]
fn first_threads_that_end() {
    let Some(ends) = env::var(STEPS).ok().and_then(|text| text.parse::<u32>().ok()) else {
        skip::note(test_name!(), "no test but a process that other tests start");
        return;
    };
    for _ in 0..ends {
        // SAFETY: the child only makes a thread, and both end by system calls.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
            ForkResult::Child => end_first(),
        }
    }
}

fn end_first() -> ! {
    // SAFETY: has no preconditions.
    let first = unsafe { libc::pthread_self() } as usize;
    let overtakes = move || {
        let urgent = libc::sched_param { sched_priority: 1 };
        // SAFETY: of this thread, which then waits for the other one and ends.
        unsafe {
            libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const urgent);
            libc::pthread_join(first as libc::pthread_t, ptr::null_mut());
            libc::syscall(libc::SYS_exit, 0);
        }
    };
    let second = thread::spawn(overtakes);
    // It waits by then.
    thread::sleep(Duration::from_millis(20));
    std::mem::forget(second);
    // SAFETY: ends this thread, nothing of which is used any more.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the thread has ended")
}
