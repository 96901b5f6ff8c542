//! The process that reads foreign files dies or hangs: there is an explanation without what they say, it is
//! told that it lacks that, and the next one has it again.

use std::{
    fs,
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        fanotify::{
            EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags,
            MaskFlags, Response,
        },
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;
use tests::{Cage, Limits, Sensor, Watch, needs};

use crate::support::{CATCH, EFFECT, comes, contained, evidence, id, killed, plant};

/// How often the doorkeeper looks whether it is still wanted, ms.
const LOOK: u16 = 100;

/// What happens to whatever the core starts.
#[derive(Clone, Copy)]
enum Fate {
    Lives,
    Gets(Signal),
}

/// Stands where a program is executed: whatever the core starts gets a signal before its first instruction.
struct Doorkeeper {
    /// `None`: it goes home.
    fate: Arc<Mutex<Option<Fate>>>,
    thread: Option<JoinHandle<()>>,
}

impl Doorkeeper {
    fn of(sensor: &Sensor) -> Self {
        let (flags, class) = (EventFFlags::O_CLOEXEC, InitFlags::FAN_CLASS_CONTENT);
        let door = Fanotify::init(class | InitFlags::FAN_CLOEXEC, flags).unwrap();
        let program = Some(sensor.binary());
        door.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_EXEC_PERM, AT_FDCWD, program)
            .unwrap();
        let fate = Arc::new(Mutex::new(Some(Fate::Lives)));
        let (core, known) = (sensor.pid(), Arc::clone(&fate));
        let thread = thread::spawn(move || {
            let now = || *known.lock().unwrap();
            while let Some(fate) = now() {
                let mut polled = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
                if poll(&mut polled, PollTimeout::from(LOOK)).unwrap() > 0 {
                    for event in door.read_events().unwrap() {
                        pass(&door, &event, core, fate);
                    }
                }
            }
        });
        Self { fate, thread: Some(thread) }
    }

    fn will(&self, fate: Fate) {
        *self.fate.lock().unwrap() = Some(fate);
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        *self.fate.lock().unwrap() = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The test's own calls pass as well.
fn pass(door: &Fanotify, event: &FanotifyEvent, core: u32, fate: Fate) {
    if let Fate::Gets(signal) = fate
        && parent(event.pid()) == Some(core)
    {
        kill(Pid::from_raw(event.pid()), signal).unwrap();
    }
    let answer = FanotifyResponse::new(event.fd().unwrap(), Response::FAN_ALLOW);
    match door.write_response(answer) {
        // Killed while it waited for this.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => panic!("{error}"),
    }
}

fn parent(pid: i32) -> Option<u32> {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// A recursion in a script, and how it is explained.
fn explained(sensor: &Sensor, cage: &Cage) -> (Value, String) {
    let (work, running) = plant(cage);
    let incident = contained(sensor, running.pid());
    // The script is evidence, read or not.
    let path = work.names[0].as_str();
    let is_script = |piece: &Value| piece["name"] == "file" && piece["file"]["path"] == path;
    comes("the script as evidence", EFFECT, || evidence(sensor, &incident).iter().any(is_script));
    killed(sensor, cage, &incident);
    (incident, format!("of {path} is"))
}

/// The first word about who reads files for this incident; one that is looked at twice has two.
fn told(watch: &mut Watch, incident: &Value) -> Value {
    let about = |record: &Value| {
        record["degraded"]["part"] == "parse" && record["incident"] == id(incident)
    };
    watch.find(CATCH, about).unwrap().record["degraded"].clone()
}

#[test]
fn whoever_reads_files_may_die_or_hang() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let door = Doorkeeper::of(&sensor);
    for (signal, why) in [
        (Signal::SIGKILL, "`sensor parse` failed on what it was given to read"),
        (Signal::SIGSTOP, "`sensor parse` did not answer in time"),
    ] {
        door.will(Fate::Gets(signal));
        let (incident, _) = explained(&sensor, &cage);
        let diagnosis = &incident["diagnosis"];
        assert_eq!(diagnosis["by"], "cycle", "{diagnosis:#}");
        let cause = diagnosis["cause"].as_str().unwrap();
        assert!(cause.contains("runs itself"), "{cause}");
        let lacks = format!("What its files say is not known: {why}.");
        assert!(cause.ends_with(&lacks), "{cause}");
        let degraded = told(&mut watch, &incident);
        assert_eq!(degraded["recovered"], false, "{degraded:#}");
        assert!(degraded["why"].as_str().unwrap().ends_with(why), "{degraded:#}");
    }
    door.will(Fate::Lives);
    let (incident, line) = explained(&sensor, &cage);
    let diagnosis = &incident["diagnosis"];
    assert_eq!(diagnosis["by"], "script", "{diagnosis:#}");
    assert!(diagnosis["cause"].as_str().unwrap().contains(&line), "{line:?} {diagnosis:#}");
    assert_eq!(told(&mut watch, &incident)["recovered"], true);
    watch.kill();
    comes("that none of them stays", CATCH, || sensor.processes_of("parse").is_empty());
}
