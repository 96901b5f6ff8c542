//! The guardian as a real process: this test program, started again with one test to run.

use std::{io::Write as _, sync::mpsc, time::Instant};

use super::*;
use crate::{
    clock,
    lineage::ProcessKey,
    respond::{
        process::signal_all,
        testing::{Cage, SOON, state, wait},
    },
};

/// Environment of a helper: what it is given as arguments.
const ARGUMENTS: &str = "SENSOR_TEST_ARGUMENTS";

/// Environment of a guardian: its runtime directory.
const RUNTIME: &str = "SENSOR_TEST_RUNTIME";

/// A command that runs one of the helpers below as a process of its own. What is appended to it
/// reaches the helper by the environment, since the test harness has arguments of its own.
fn helper(name: &str) -> Vec<OsString> {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "{ARGUMENTS}=\"$*\" exec \"$0\" --ignored --exact --nocapture --test-threads=1 \
         respond::guardian::tests::{name}"
    );
    vec!["sh".into(), "-c".into(), script.into(), program.into()]
}

fn launch(runtime_dir: &Path) -> Launch {
    let mut command: Vec<OsString> = vec!["env".into()];
    let mut runtime: OsString = format!("{RUNTIME}=").into();
    runtime.push(runtime_dir);
    command.push(runtime);
    command.extend(helper("as_guardian"));
    Launch { command, keep: Vec::new(), socket: socket(runtime_dir) }
}

#[test]
#[ignore = "started by the other tests, as their guardian"]
fn as_guardian() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        guardian: GuardianArgs,
    }
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let words = ["guardian"].into_iter().chain(arguments.split(' '));
    let line: Line = clap::Parser::try_parse_from(words).unwrap();
    // Marks stand in a file: number, pid, start.
    let file = Path::new(&std::env::var_os(RUNTIME).unwrap()).join("marks");
    let marked = move |mark: u32| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let rows = text.lines().filter_map(|row| {
            let numbers: Vec<u64> = row.split(' ').map(|word| word.parse().unwrap()).collect();
            (numbers[0] == u64::from(mark)).then(|| ProcessKey::new(numbers[1] as u32, numbers[2]))
        });
        rows.collect()
    };
    // Past the harness, which would print.
    std::process::exit(i32::from(run(&line.guardian, marked).is_err()));
}

/// Arms its guardian for a process and then waits to be killed.
#[test]
#[ignore = "started by the other tests, as a core that dies"]
fn as_core() {
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let words: Vec<&str> = arguments.split(' ').collect();
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    let key = ProcessKey::new(number(1) as u32, number(2));
    let now = clock::boot_ns();
    let (sender, _events) = mpsc::channel();
    let guardian = Guardian::start(launch(Path::new(words[0])), sender).unwrap();
    let order = arm("a", 1, &[key], now + number(3) * MS, now + number(4) * MS);
    assert!(guardian.arm(order));
    println!("armed {}", guardian.pid());
    std::io::stdout().flush().unwrap();
    thread::sleep(Duration::from_mins(10));
}

const MS: u64 = 1_000_000;

fn arm(incident: &str, mark: u32, keys: &[ProcessKey], thaw_ns: u64, release_ns: u64) -> Arm {
    let held = crate::respond::Held {
        incident: incident.to_owned(),
        mark,
        roots: keys.to_vec(),
        cgroup: None,
        processes: keys.to_vec(),
    };
    held.arm(thaw_ns, release_ns)
}

/// A stopped process of the cage.
fn stopped(cage: &mut Cage) -> ProcessKey {
    let key = cage.run(None, "sleep 300");
    assert_eq!(signal_all([key], rustix::process::Signal::STOP, |_| true), 1);
    wait(|| state(key.tgid) == Some('T'), "it has stopped");
    key
}

/// Starts a core that arms its guardian and is killed at once; the guardian's pid.
fn core_that_dies(dir: &Path, key: ProcessKey, thaw_ms: u64, release_ms: u64) -> u32 {
    let command = helper("as_core");
    let mut core = Command::new(&command[0])
        .args(&command[1..])
        .arg(dir)
        .args([key.tgid.to_string(), key.start_ns.to_string()])
        .args([thaw_ms.to_string(), release_ms.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(core.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(output).map_while(Result::ok);
    // The harness prints before, on the same line.
    let line = lines.find(|line| line.contains("armed ")).unwrap();
    let (_, pid) = line.rsplit_once(' ').unwrap();
    core.kill().unwrap();
    core.wait().unwrap();
    pid.parse().unwrap()
}

fn gone(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

#[test]
fn thaws_in_time_and_reports() {
    let Some(mut cage) = Cage::new("guardian::thaws") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (listed, inherited, other) = (stopped(&mut cage), stopped(&mut cage), stopped(&mut cage));
    let frozen = cage.inner("frozen");
    Cage::enter(&frozen, other.tgid);
    let row = |mark: u32, key: ProcessKey| format!("{mark} {} {}\n", key.tgid, key.start_ns);
    std::fs::write(dir.path().join("marks"), row(1, inherited) + &row(2, other)).unwrap();

    let (sender, events) = mpsc::channel();
    let guardian = Guardian::start(launch(dir.path()), sender).unwrap();
    let now = clock::boot_ns();
    let mut order = arm("a", 1, &[listed], now + 300 * MS, now + 600 * MS);
    order.cgroup = frozen.display().to_string();
    crate::cgroup::freeze(&frozen, SOON).unwrap();
    assert!(guardian.arm(order));
    assert!(guardian.arm(arm("b", 2, &[other], now + 200 * MS, now + 200 * MS)));
    assert!(guardian.disarm("b"));

    let report = events.recv_timeout(SOON).unwrap();
    let thawed = Report { incident: "a".to_owned(), processes: 2, released: false };
    assert_eq!(report, Event::Report(thawed.clone()));
    assert!(clock::boot_ns() >= now + 300 * MS, "not before its time");
    assert!(!crate::cgroup::frozen(&frozen));
    wait(|| state(listed.tgid) == Some('S') && state(inherited.tgid) == Some('S'), "they run");
    assert_eq!(state(other.tgid), Some('T'), "disarmed");

    // What the brake has stopped since runs again once it has expired.
    signal_all([listed], rustix::process::Signal::STOP, |_| true);
    let report = events.recv_timeout(SOON).unwrap();
    assert_eq!(report, Event::Report(Report { released: true, ..thawed }));
    assert!(clock::boot_ns() >= now + 600 * MS);
    wait(|| state(listed.tgid) == Some('S'), "it runs");

    let pid = guardian.pid();
    drop(guardian);
    assert!(gone(pid), "with nothing armed it leaves with core");
}

#[test]
fn outlives_a_killed_core_and_then_leaves() {
    let Some(mut cage) = Cage::new("guardian::outlives") else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = stopped(&mut cage);
    let begin = Instant::now();
    let guardian = core_that_dies(dir.path(), key, 1500, 2000);
    assert!(!gone(guardian));
    // Neither a terminal nor a service manager can make it leave.
    let itself = crate::respond::process::key_of(guardian).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        assert_eq!(signal_all([itself], signal, |_| true), 1);
    }
    wait(|| state(key.tgid) == Some('S'), "thawed");
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    wait(|| gone(guardian), "the guardian leaves when nothing is left to guard");
    assert!(begin.elapsed() >= Duration::from_secs(2), "but not before the brake expires");
}

#[test]
fn a_new_core_takes_over_and_the_old_guardian_leaves() {
    let Some(mut cage) = Cage::new("guardian::succession") else { return };
    let dir = tempfile::tempdir().unwrap();
    assert!(Predecessor::find(dir.path()).unwrap().is_none(), "nobody was here before");
    let (key, child) = (stopped(&mut cage), stopped(&mut cage));
    let marks = format!("1 {} {}\n", child.tgid, child.start_ns);
    std::fs::write(dir.path().join("marks"), marks).unwrap();
    let old = core_that_dies(dir.path(), key, 60_000, 60_000);

    let predecessor = Predecessor::find(dir.path()).unwrap().unwrap();
    let [order] = predecessor.armed() else { panic!("one containment") };
    let listed: Vec<u32> = order.processes.iter().map(|key| key.pid).collect();
    assert_eq!((order.incident.as_str(), order.mark), ("a", 1));
    assert_eq!(listed, [key.tgid, child.tgid], "with what has inherited the mark");

    let (sender, events) = mpsc::channel();
    let guardian = Guardian::start(launch(dir.path()), sender).unwrap();
    let now = clock::boot_ns();
    let mut order = order.clone();
    (order.thaw_ns, order.release_ns) = (now + 400 * MS, now + 400 * MS);
    assert!(guardian.arm(order));
    assert!(!gone(old), "it guards until it is told to leave");
    predecessor.dismiss().unwrap();
    wait(|| gone(old), "the old one leaves");
    assert_eq!(state(key.tgid), Some('T'), "and has not thawed");

    // While a core lives, its guardian hands nothing over.
    let taken = Predecessor::find(dir.path());
    assert!(matches!(taken, Err(GuardianError::Taken { .. })), "{taken:?}");
    wait(|| state(key.tgid) == Some('S') && state(child.tgid) == Some('S'), "the new one thaws");
    let reports: Vec<Event> = events.try_iter().collect();
    assert!(reports.iter().all(|event| matches!(event, Event::Report(_))), "{reports:?}");
}

#[test]
fn a_guardian_that_dies_is_replaced_and_told_everything() {
    let Some(mut cage) = Cage::new("guardian::replaced") else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = stopped(&mut cage);
    let (sender, events) = mpsc::channel();
    let guardian = Guardian::start(launch(dir.path()), sender).unwrap();
    let first = guardian.pid();
    let now = clock::boot_ns();
    assert!(guardian.arm(arm("a", 1, &[key], now + 1000 * MS, now + 1000 * MS)));
    let itself = crate::respond::process::key_of(first).unwrap();
    assert_eq!(signal_all([itself], rustix::process::Signal::KILL, |_| true), 1);

    let Event::Died { why } = events.recv_timeout(SOON).unwrap() else { panic!("it has died") };
    assert!(why.contains("signal: 9"), "{why}");
    let Event::Restarted { pid } = events.recv_timeout(SOON).unwrap() else { panic!("restarted") };
    assert_eq!(pid, guardian.pid());
    assert_ne!(pid, first);
    assert!(guardian.ping());
    assert!(matches!(
        events.recv_timeout(SOON).unwrap(),
        Event::Report(Report { processes: 1, .. })
    ));
    wait(|| state(key.tgid) == Some('S'), "thawed by the second one");
}

#[test]
fn holds_what_it_is_given_until_it_leaves() {
    let Some(mut cage) = Cage::new("guardian::holds") else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = stopped(&mut cage);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (sender, _events) = mpsc::channel();
    let launch = Launch { keep: vec![theirs.into()], ..launch(dir.path()) };
    let guardian = Guardian::start(launch, sender).unwrap();
    let now = clock::boot_ns();
    assert!(guardian.arm(arm("a", 1, &[key], now + 500 * MS, now + 500 * MS)));
    // Core's own end closes with its handle; the guardian still has its copy.
    drop(guardian);
    ours.set_nonblocking(true).unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    ours.set_nonblocking(false).unwrap();
    ours.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "closed when it left");
    assert!(clock::boot_ns() >= now + 500 * MS);
}
