//! A leak that nothing bounds but the machine, until the kernel's OOM killer acts: how long before that the
//! sensor had told of it, and earlyoom would have acted. In a guest only, with 1 GiB and no swap.
//! `cargo xtask vm KERNEL… --lead` makes a table of it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    Cage, Limits, Sensor, needs, process::boot_ns, run::until, skip, takes_its_time, test_name,
    watch::number,
};

use crate::support::{CATCH, comes, emulated, id};

/// Takes so many MB a second, evenly, and writes to all of it.
const LEAK: &str = r#"
import sys, time
pace = int(sys.argv[1]) * 1000000
held, taken, start = [], 0, time.monotonic()
while True:
    while taken < (time.monotonic() - start) * pace:
        held.append(b"x" * 1000000)
        taken += 1000000
    time.sleep(0.02)
"#;

/// 1 GiB at 5 MB/s, on a machine that is several times slower than others.
const KILLED_WITHIN: Duration = Duration::from_mins(15);

/// From the kill to a calm machine: signs hold for half a minute.
const CALM_WITHIN: Duration = Duration::from_mins(3);

#[test]
fn kernels_a_leak_of_50_mb_a_second() {
    leak(test_name!(), 50);
}

#[test]
fn a_leak_of_5_mb_a_second() {
    takes_its_time!();
    leak(test_name!(), 5);
}

#[test]
fn a_leak_of_200_mb_a_second() {
    takes_its_time!();
    leak(test_name!(), 200);
}

fn leak(test: &str, mb: u32) {
    needs!("python3");
    if !emulated() {
        skip::note(test, "needs a machine that it may fill: a guest");
        return;
    }
    let sensor = Sensor::of_the_host("").unwrap();
    let earlyoom = Earlyoom::start();
    let cage = Cage::new(Limits::NONE).unwrap();
    let began_ns = boot_ns();
    let mut leaking = cage
        .command("python3")
        .unwrap()
        .args(["-c", LEAK, &mb.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut ended = None;
    comes("the kernel ends the leak", KILLED_WITHIN, || {
        ended = leaking.try_wait().unwrap();
        ended.is_some()
    });
    let killed_ns = boot_ns();
    assert_eq!(ended.unwrap().signal(), Some(9), "nobody but the OOM killer was to end it");

    let incidents = sensor.incidents().unwrap();
    let lead_s = |at_ns: u64| (killed_ns as f64 - at_ns as f64) / 1e9;
    let first = |kind: &str| {
        let of_kind = incidents.iter().filter(|one| one["kind"] == kind);
        of_kind.map(|one| number(&one["opened_ns"]).unwrap()).min().map(lead_s)
    };
    let measured = json!({
        "mb": mb,
        "ran_s": lead_s(began_ns),
        "pressure_s": first("memory_pressure"),
        "growth_s": first("memory_growth"),
        "earlyoom_s": earlyoom.as_ref().and_then(Earlyoom::acted_ns).map(lead_s),
    });
    // To the console, past the harness's capture. The kernel may just be writing there.
    let _ = write!(std::io::stderr(), "\nLEAD {measured}\n");

    let pressure = incidents.iter().find(|one| one["kind"] == "memory_pressure");
    let pressure = pressure.unwrap_or_else(|| panic!("no memory_pressure in {incidents:#?}"));
    assert!(first("memory_pressure").unwrap() > 0.0, "opened after the kill: {pressure:#}");
    assert_eq!(pressure["culprit"], Value::Null, "who stalls or grows is no culprit of it");
    assert!(pressure["summary"].as_str().unwrap().contains("of"), "{pressure:#}");
    is_told_of(&sensor, leaking.id());
    // There is room again, and that is seen.
    sensor
        .wait_for(CALM_WITHIN, |one| one["id"] == id(pressure) && one["state"] == "resolved")
        .unwrap();
}

/// The kill is one incident: who was killed, who asked for memory, who had grown most before.
fn is_told_of(sensor: &Sensor, victim: u32) {
    let incident = sensor
        .wait_for(CATCH, |one| one["kind"] == "oom_kill" && !one["diagnosis"].is_null())
        .unwrap();
    let oom = &incident["oom"];
    let victims = oom["victims"].as_array().unwrap();
    assert_eq!(victims.len(), 1, "{incident:#}");
    assert_eq!(victims[0]["victim"]["process"]["pid"], victim, "{incident:#}");
    assert!(victims[0]["trigger"]["process"]["pid"].is_u64(), "{incident:#}");
    assert_eq!(oom["scope"], "host", "{incident:#}");
    // Whoever is above it has grown as much.
    let holders = oom["holders"].as_array().unwrap();
    let ranked = holders.iter().take(2).find(|one| one["root"]["pid"] == victim);
    let grown = ranked.and_then(|one| one["grown_bytes"].as_u64());
    assert!(grown > Some(500_000_000), "{incident:#}");
    assert_eq!(incident["culprit"]["pid"], victim, "{incident:#}");
}

/// earlyoom as Debian has it, which only says what it would do.
struct Earlyoom {
    child: Child,
    acted_ns: Arc<Mutex<Option<u64>>>,
}

impl Earlyoom {
    /// `None`: it is not in this guest.
    fn start() -> Option<Self> {
        let program = skip::find("earlyoom")?;
        let child = Command::new(program)
            .args(["--dryrun", "-r", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = Self { child, acted_ns: Arc::default() };
        let said = started.child.stderr.take().unwrap();
        let acted = Arc::clone(&started.acted_ns);
        thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if line.contains("low memory!") {
                    acted.lock().unwrap().get_or_insert_with(boot_ns);
                }
            }
        });
        Some(started)
    }

    /// When it would have sent its first signal.
    fn acted_ns(&self) -> Option<u64> {
        *self.acted_ns.lock().unwrap()
    }
}

impl Drop for Earlyoom {
    fn drop(&mut self) {
        let _ = self.child.kill();
        until(Duration::from_secs(10), || !matches!(self.child.try_wait(), Ok(None)));
    }
}
