//! A bomb that nothing bounds but the machine: the machine goes on answering, and knows afterwards what it
//! was. In a guest only, with 1 GiB: for its own neighbours nobody else would want to try.

use std::{
    fs,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tests::{
    Cage, Limits, Sensor, Workload, needs, run::until, skip, test_name, workloads::script,
};

use crate::support::{CATCH, EFFECT, emulated, evidence, killed, length, stands_still};

const TIMER: Duration = Duration::from_millis(10);

/// Nobody who types would notice.
const LATE: Duration = Duration::from_millis(200);

/// Without the sensor it goes on for so long, or until there are so many: the machine has to outlive this
/// test.
const UNWATCHED: Duration = Duration::from_secs(10);
const MOST: usize = 2000;

/// An ordinary thread that wants its turn a hundred times a second.
struct Timer {
    over: Arc<AtomicBool>,
    latest_us: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Timer {
    fn start() -> Self {
        let (over, latest_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, latest) = (Arc::clone(&over), Arc::clone(&latest_us));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let due = Instant::now() + TIMER;
                thread::sleep(TIMER);
                let late = Instant::now().saturating_duration_since(due);
                latest.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        Self { over, latest_us, thread: Some(thread) }
    }

    /// How late it ever was.
    fn latest(mut self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        Duration::from_micros(self.latest_us.load(Ordering::Relaxed))
    }
}

/// To the console, past the harness's capture: a number is of use also where the test passes. The kernel may
/// just be writing there.
fn said(line: &str) {
    let _ = write!(std::io::stderr(), "\nSURVIVAL {line}\n");
}

#[test]
fn kernels_a_bomb_that_nothing_bounds() {
    needs!("bash");
    if !emulated() {
        skip::note(test_name!(), "needs a machine that it may fill: a guest");
        return;
    }
    let elsewhere = Cage::new(Limits::NONE).unwrap();
    let (neighbour, file) = script::ticker().unwrap();
    let _neighbour = neighbour.start(&elsewhere).unwrap();
    assert!(until(EFFECT, || length(&file) > 0));

    let work = Workload::labelled("shell-bomb").unwrap();
    let cage = Cage::new(Limits::NONE).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let (timer, census) = (Timer::start(), cage.census());
    let running = work.start(&cage).unwrap();
    let incident = sensor
        .wait_for(CATCH, |one| one["state"] == "contained" && !one["diagnosis"].is_null())
        .unwrap();
    let (late, most) = (timer.latest(), census.peak());
    said(&format!("with the sensor: a timer {late:?} late at most, {most} processes at most"));
    assert_eq!(incident["culprit"]["pid"], running.pid(), "{incident:#}");
    stands_still(&cage);
    // The rest of the machine is as it was.
    let before = length(&file);
    assert!(until(EFFECT, || length(&file) > before), "its neighbour does not go on");
    // The story is complete.
    let known = evidence(&sensor, &incident);
    for one in incident["diagnosis"]["evidence"].as_array().unwrap() {
        assert!(known.iter().any(|it| it["evidence"]["id"] == *one || it["id"] == *one), "{one}");
    }
    killed(&sensor, &cage, &incident);
    drop((sensor, running));

    let (timer, census) = (Timer::start(), cage.census());
    let _running = work.start(&cage).unwrap();
    until(UNWATCHED, || cage.count() > MOST);
    let alive = cage.count();
    // Without cgroup.kill a bomb makes new ones faster than it is killed, unless it stands.
    fs::write(cage.directory().join("cgroup.freeze"), "1").unwrap();
    let unwatched = timer.latest();
    let peak = census.peak();
    said(&format!("without it: a timer {unwatched:?} late at most, {peak} processes at most"));
    assert!(alive > most, "{alive} processes: this bomb would have ended by itself");
    cage.clear().unwrap();
    // In a complete run other guests' and hosts' work is in the number as well.
    let limit = if std::env::var_os("SENSOR_ASKED").is_some() { LATE } else { LATE * 5 };
    assert!(late <= limit, "a timer was {late:?} late");
}
