//! Records over HTTP, to receivers that are slow, down, broken or hostile: each arrives, in order, once by
//! its id.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, names, needs, process,
    receiver::{Mood, Receiver, Request},
    run::until,
    takes_its_time, target,
    watch::number,
};

use crate::support::{CATCH, EFFECT, comes, contained, id, killed, plant};

/// How long the receiver is away, s: ten minutes are asked for by name.
const OUTAGE: &str = "SENSOR_TEST_OUTAGE_S";

/// A try of these tests, and the longest pause: both 1 s.
const QUICK: &str = "timeout_s = 1\nmax_pause_s = 1\n";

/// Until it is tried again after an outage, and all of a test's records have come.
const BACK: Duration = Duration::from_secs(20);

fn webhook(name: &str, url: &str, more: &str) -> String {
    format!("[[webhooks]]\nname = \"{name}\"\nurl = \"{url}\"\n{QUICK}{more}\n")
}

/// Something happens: an incident by hand, of which there are several records.
fn trigger(sensor: &Sensor) {
    sensor.json(&["trigger", "--why", &names::word(), "--json"]).unwrap();
}

/// Numbers of all records that are in the log.
fn recorded(sensor: &Sensor) -> Vec<u64> {
    let last = number(&sensor.status().unwrap()["last_seq"]).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    watch.find(EFFECT, |record| number(&record["seq"]).unwrap() >= last).unwrap();
    watch.seen().iter().map(|arrival| number(&arrival.record["seq"]).unwrap()).collect()
}

/// Numbers of the records that were taken, each once; they came in order.
fn arrived(taken: &[Request]) -> Vec<u64> {
    let mut numbers: Vec<u64> = taken.iter().filter_map(Request::seq).collect();
    // The same again is only ever the one that was just tried.
    numbers.dedup();
    assert!(numbers.is_sorted_by(|one, other| one < other), "{numbers:?}");
    numbers
}

/// Everything that is recorded by now arrives, in order, each by its own id.
fn all_arrives(sensor: &Sensor, receiver: &Receiver) -> Vec<Request> {
    let expected = recorded(sensor);
    let last = expected.last().copied();
    let there = || receiver.taken().last().and_then(Request::seq) >= last;
    assert!(until(BACK, there), "{:?}", sensor.part("webhooks"));
    let taken = receiver.taken();
    let mut numbers = arrived(&taken);
    numbers.retain(|seq| Some(*seq) <= last);
    assert_eq!(numbers, expected);
    let ids: BTreeSet<&str> = taken.iter().map(|one| one.header("webhook-id")).collect();
    assert_eq!(ids.len(), arrived(&taken).len());
    taken
}

/// What the log says of webhooks, in its order: who gets nothing (false), and again (true).
fn outages(taken: &[Request]) -> Vec<bool> {
    let mut seen = BTreeSet::new();
    let fresh = taken.iter().filter(|one| seen.insert(one.header("webhook-id").to_owned()));
    let records = fresh.map(Request::json).filter(|it| it["degraded"]["part"] == "webhooks");
    records.map(|it| it["degraded"]["recovered"].as_bool().unwrap()).collect()
}

fn deliverer(sensor: &Sensor) -> Option<u32> {
    sensor.processes_of("deliver").first().copied()
}

fn kill_deliverer(sensor: &Sensor) {
    let before = deliverer(sensor).unwrap();
    kill(Pid::from_raw(before.try_into().unwrap()), Signal::SIGKILL).unwrap();
    comes("another deliverer", EFFECT, || deliverer(sensor).is_some_and(|pid| pid != before));
}

#[test]
fn a_receiver_that_was_away_gets_everything_in_order_and_once() {
    needs!();
    takes_its_time!();
    let outage = env::var(OUTAGE).map_or(9, |seconds| seconds.parse().unwrap());
    let cage = Cage::new(Limits::default()).unwrap();
    let mut receiver = Receiver::start().unwrap();
    let sensor =
        Sensor::start(&cage, &webhook("board", &receiver.url("/in"), "from = \"now\"")).unwrap();
    trigger(&sensor);
    all_arrives(&sensor, &receiver);
    assert_eq!(sensor.part("webhooks").unwrap()["ok"], true);

    // A third of the time each: no answer in time, an answer that is none, nobody there.
    let third = Duration::from_secs(outage) / 3;
    let happens = || {
        let end = Instant::now() + third;
        while Instant::now() < end {
            trigger(&sensor);
            thread::sleep((third / 20).max(Duration::from_millis(300)));
        }
    };
    receiver.is_now(Mood::Slow(Duration::from_secs(3)));
    happens();
    receiver.is_now(Mood::Says(500));
    happens();
    comes("that it is told", EFFECT, || {
        let part = sensor.part("webhooks").unwrap();
        let detail = part["detail"].as_str().unwrap();
        part["ok"] == false && detail.contains("500") && detail.contains("records wait")
    });
    receiver.goes_down();
    happens();
    receiver.is_now(Mood::Kind);
    receiver.comes_back().unwrap();

    let all = all_arrives(&sensor, &receiver);
    comes("that all is well", BACK, || {
        let part = sensor.part("webhooks").unwrap();
        part["ok"] == true && part["detail"] == ""
    });
    let all = if outages(&all).len() < 2 { all_arrives(&sensor, &receiver) } else { all };
    assert_eq!(outages(&all), [false, true], "an outage and its end are told once each");
    println!("{} records through an outage of {outage} s", arrived(&all).len());
}

#[test]
fn whoever_is_killed_it_goes_on_where_it_was() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let receiver = Receiver::start().unwrap();
    let more = webhook("board", &receiver.url("/in"), "from = \"oldest\"");
    let mut sensor = Sensor::start(&cage, &more).unwrap();
    receiver.is_now(Mood::Slow(Duration::from_millis(100)));
    for _ in 0..3 {
        (0..3).for_each(|_| trigger(&sensor));
        kill_deliverer(&sensor);
    }
    (0..3).for_each(|_| trigger(&sensor));
    sensor.kill_core().unwrap();
    sensor.restart().unwrap();
    trigger(&sensor);
    receiver.is_now(Mood::Kind);
    all_arrives(&sensor, &receiver);

    // What is there when nobody delivers comes later; what has come does not come again.
    sensor.stop().unwrap();
    let before = receiver.taken().len();
    sensor.restart().unwrap();
    let all = all_arrives(&sensor, &receiver);
    assert!(all.iter().any(|one| one.header("ce-type") == "dev.sensor.record.stopped"));
    let again = all.iter().skip(before).filter_map(Request::seq).min();
    assert!(again >= all[before - 1].seq(), "{again:?}");
    assert_eq!(outages(&all), [] as [bool; 0]);
}

#[test]
fn requests_are_events_signed_with_each_key() {
    needs!();
    takes_its_time!();
    let home = tempfile::tempdir().unwrap();
    let (old, new) = ([7_u8; 24], [8_u8; 24]);
    let secret = home.path().join(names::word());
    // Base64 of 3 bytes is 4 letters, and so on.
    let lines = ["BwcH", "CAgI"].map(|three| format!("whsec_{}\n", three.repeat(8)));
    fs::write(&secret, lines.concat()).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let receiver = Receiver::start().unwrap();
    let more = webhook("board", &receiver.url("/in?of=me"), &format!("secret_file = {secret:?}"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Sensor::start(&cage, &more).unwrap_err().to_string();
    assert!(refused.contains("everybody may read") && refused.contains("chmod 0600"), "{refused}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

    let sensor = Sensor::start(&cage, &more).unwrap();
    trigger(&sensor);
    let taken = all_arrives(&sensor, &receiver);
    let mut watch = sensor.watch(0).unwrap();
    for request in &taken {
        assert!(request.is_signed_with(&old) && request.is_signed_with(&new));
        assert!(!request.is_signed_with(&[9; 24]));
        assert_eq!((request.path.as_str(), request.header("ce-specversion")), ("/in?of=me", "1.0"));
        assert_eq!(request.header("ce-id"), request.header("webhook-id"));
        let record = watch.find(EFFECT, |_| true).unwrap().record;
        assert_eq!(request.json(), record, "the same as a watch prints");
        let kind = record["kind"].as_str().unwrap();
        assert_eq!(request.header("ce-type"), format!("dev.sensor.record.{kind}"));
        assert_eq!(request.header("ce-subject"), record["incident"].as_str().unwrap());
        assert_eq!(request.header("ce-time"), record["at"].as_str().unwrap());
    }
}

#[test]
fn a_hostile_receiver_costs_time_and_nothing_else() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let (receiver, elsewhere) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    let sensor = Sensor::start(&cage, &webhook("board", &receiver.url("/in"), "")).unwrap();
    all_arrives(&sensor, &receiver);
    let pid = deliverer(&sensor).unwrap();
    for mood in [
        Mood::Redirects(elsewhere.url("/")),
        Mood::Drips,
        Mood::Babbles,
        Mood::HangsUp,
        Mood::Endless,
    ] {
        let before = receiver.requests();
        receiver.is_now(mood.clone());
        trigger(&sensor);
        comes(&format!("two tries of one that {mood:?}"), BACK, || {
            receiver.requests() > before + 1
        });
        assert!(sensor.status().is_ok());
    }
    receiver.is_now(Mood::Kind);
    all_arrives(&sensor, &receiver);
    assert_eq!(elsewhere.requests(), 0, "nobody is sent elsewhere");
    assert_eq!(deliverer(&sensor), Some(pid), "it lives through all of that");
    let resident = process::field(format!("/proc/{pid}/status"), "VmRSS").unwrap();
    assert!(resident < 64 << 10, "{resident} KiB");
}

#[test]
fn what_is_refused_for_good_is_left_out_and_told() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let receiver = Receiver::start().unwrap();
    let sensor =
        Sensor::start(&cage, &webhook("board", &receiver.url("/in"), "give_up_s = 2")).unwrap();
    all_arrives(&sensor, &receiver);
    receiver.is_now(Mood::Dislikes("transition", 422));
    trigger(&sensor);
    let lost = |receiver: &Receiver| {
        let mut taken = receiver.taken().into_iter().map(|one| one.json());
        taken.find(|record| record["lost"]["reason"] == "webhook_refused")
    };
    comes("that one is left out", BACK, || lost(&receiver).is_some());
    assert_eq!(lost(&receiver).unwrap()["lost"]["count"], 1);
    let degraded: Vec<Value> = receiver
        .taken()
        .iter()
        .map(Request::json)
        .filter(|it| it["degraded"]["part"] == "webhooks")
        .collect();
    let why = degraded[0]["degraded"]["why"].as_str().unwrap();
    assert!(why.starts_with("board gets nothing: it answers 422"), "{why}");
    assert!(!receiver.taken().iter().any(|one| {
        one.header("ce-type").ends_with("transition")
            && one.json()["transition"]["to"] == "resolved"
    }));

    // Who is not allowed is not left out: that is mended, and then all come.
    receiver.is_now(Mood::Says(401));
    // What is on its way was taken in the mood before.
    thread::sleep(Duration::from_millis(500));
    let before = receiver.taken().len();
    trigger(&sensor);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(receiver.taken().len(), before);
    receiver.is_now(Mood::Kind);
    comes("what was held up", BACK, || {
        let taken = receiver.taken();
        taken[before..].iter().any(|one| one.header("ce-type").ends_with("transition"))
    });
}

#[test]
fn the_lines_of_an_investigation_are_an_agent_s_messages() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let receiver = Receiver::start().unwrap();
    let host = names::word();
    let more = format!(
        "format = \"agent-messages\"\n[webhooks.heartbeat]\nurl = \"{}\"\nevery_s = 1\n\
         name = \"{host}\"",
        receiver.url("/alive")
    );
    let sensor = Sensor::start(&cage, &webhook("old-server", &receiver.url("/in"), &more)).unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    let messages = || {
        let taken = receiver.taken().into_iter().filter(|one| one.path == "/in");
        taken.map(|one| one.json()).collect::<Vec<_>>()
    };
    comes("its result", CATCH, || messages().iter().any(|it| it["type"] == "result"));
    let messages = messages();
    let (first, last) = (messages.first().unwrap(), messages.last().unwrap());
    assert_eq!((&first["type"], &first["message"]["role"]), (&"system".into(), &"system".into()));
    let told = first["message"]["content"].as_str().unwrap();
    assert!(told.starts_with(&format!("Incident {}", id(&incident))), "{told}");
    assert_eq!((&last["type"], &last["subtype"]), (&"result".into(), &"success".into()));
    assert_ne!(last["result"], "");
    let session = format!("{}-1", id(&incident));
    assert!(messages.iter().all(|it| it["session_id"] == session.as_str()), "{messages:#?}");
    let said: Vec<&Value> = messages.iter().filter(|it| it["type"] == "assistant").collect();
    assert!(said.len() >= 2, "{messages:#?}");
    let text = said[0]["message"]["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("1/"), "{text}");
    let uuids: BTreeSet<&str> = messages.iter().map(|it| it["uuid"].as_str().unwrap()).collect();
    assert_eq!(uuids.len(), messages.len());

    let beats = || {
        let taken = receiver.taken().into_iter().filter(|one| one.path == "/alive");
        taken.map(|one| one.json()).collect::<Vec<_>>()
    };
    comes("three heartbeats", EFFECT, || beats().len() >= 3);
    let beats = beats();
    assert!(beats.iter().all(|it| it["processName"] == host.as_str()), "{beats:?}");
    let uptimes: Vec<f64> = beats.iter().map(|it| it["uptime"].as_f64().unwrap()).collect();
    assert!(uptimes.is_sorted() && uptimes[0] >= 0.0, "{uptimes:?}");
    assert!(beats[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    let core = Pid::from_raw(sensor.pid() as i32);
    kill(core, Signal::SIGSTOP).unwrap();
    let silent = || {
        let before = receiver.requests();
        thread::sleep(Duration::from_secs(3));
        receiver.requests() == before
    };
    let stopped = until(BACK, silent);
    kill(core, Signal::SIGCONT).unwrap();
    assert!(stopped, "a daemon that stands still gives no sign of life");
    let before = receiver.requests();
    comes("the next heartbeat", EFFECT, || receiver.requests() > before);
    killed(&sensor, &cage, &incident);
}

fn certificates(dir: &Path) {
    let mut command = Command::new(target::sensor().unwrap());
    command.arg("certs").arg(dir).args(["--server", "localhost"]);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_receiver_shows_whose_certificate_it_has() {
    needs!();
    takes_its_time!();
    let home = tempfile::tempdir().unwrap();
    let (ours, others) = (home.path().join("ours"), home.path().join("others"));
    certificates(&ours);
    certificates(&others);
    let cage = Cage::new(Limits::default()).unwrap();
    let receiver = Receiver::start_tls(&ours).unwrap();
    let with = |name: &str, ca: &Path| {
        webhook(name, &receiver.url(&format!("/{name}")), &format!("ca = {ca:?}"))
    };
    let more = [
        with("known", &ours.join("ca.pem")),
        with("unknown", &others.join("ca.pem")),
        // By the authorities of this host.
        webhook("strange", &receiver.url("/strange"), ""),
    ];
    let sensor = Sensor::start(&cage, &more.concat()).unwrap();
    trigger(&sensor);
    all_arrives(&sensor, &receiver);
    comes("why the others get nothing", EFFECT, || {
        let part = sensor.part("webhooks").unwrap();
        let detail = part["detail"].as_str().unwrap();
        println!("{detail}");
        let refused = |name| detail.contains(&format!("{name}: invalid peer certificate"));
        refused("unknown") && refused("strange")
    });
    assert!(receiver.taken().iter().all(|one| one.path == "/known"));
}

#[test]
fn nobody_delivers_where_there_is_nobody_to_deliver_to() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    assert_eq!(deliverer(&sensor), None);
    assert!(sensor.part("webhooks").is_err());
    assert!(!sensor.state_directory().join("webhooks").exists());
}

#[test]
fn who_delivers_is_nobody() {
    needs!();
    takes_its_time!();
    let cage = Cage::new(Limits::default()).unwrap();
    let receiver = Receiver::start().unwrap();
    let sensor = Sensor::start(&cage, &webhook("board", &receiver.url("/"), "")).unwrap();
    all_arrives(&sensor, &receiver);
    let status =
        fs::read_to_string(format!("/proc/{}/status", deliverer(&sensor).unwrap())).unwrap();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert_ne!(line("Uid:"), "0");
    assert_eq!((line("CapEff:").as_str(), line("NoNewPrivs:").as_str()), ("0000000000000000", "1"));
}
