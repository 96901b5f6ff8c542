//! OOM kills: told of with victim, trigger and limit; several victims at once are one, several in a row a loop;
//! and exit 137 that is none is told apart, with whoever sent the signal.

use std::{
    collections::BTreeSet, fs, os::unix::process::ExitStatusExt as _, thread, time::Duration,
};

use serde_json::Value;
use tests::{Cage, Limits, Sensor, needs, skip, test_name, workloads::oom};

use crate::support::{CATCH, catches_a_planted_recursion, evidence, id};

const MIB: u64 = 1 << 20;

/// Room for a shell and little else.
const LIMIT: u64 = 96 * MIB;

const SIGKILL: i32 = 9;

fn cage() -> Cage {
    Cage::new(Limits { tasks: Some(50), memory_bytes: Some(LIMIT) }).unwrap()
}

/// An incident about OOM kills that is explained.
fn found(sensor: &Sensor, kind: &str) -> Value {
    sensor.wait_for(CATCH, |one| one["kind"] == kind && !one["diagnosis"].is_null()).unwrap()
}

/// Incidents about OOM kills. That memory is short may have been told of before, as one of its own: where the
/// kernel measures the pressure of a group.
fn about_oom(sensor: &Sensor) -> usize {
    let incidents = sensor.incidents().unwrap();
    incidents.iter().filter(|one| one["kind"] == "oom_kill" || one["kind"] == "oom_loop").count()
}

/// What it names is right, and what it cites is there.
fn explained(sensor: &Sensor, incident: &Value) {
    let oom = &incident["oom"];
    assert_eq!((&oom["scope"], oom["limit_bytes"].as_u64()), (&"cgroup".into(), Some(LIMIT)));
    assert!(oom["peak_bytes"].as_u64() > Some(LIMIT - 4 * MIB), "{oom:#}");
    let known = evidence(sensor, incident);
    for one in incident["diagnosis"]["evidence"].as_array().unwrap() {
        assert!(known.iter().any(|it| it["evidence"]["id"] == *one || it["id"] == *one), "{one}");
    }
    let text = sensor.output(&["show", id(incident)]).unwrap();
    eprintln!("{text}");
    assert!(text.contains("96.0 MiB") && !text.contains('\x1b'), "{text}");
}

#[test]
fn an_oom_kill_is_told_of_with_victim_trigger_and_limit() {
    needs!();
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::fills().unwrap();
    let mut running = work.start(&cage).unwrap();
    assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
    let incident = found(&sensor, "oom_kill");
    explained(&sensor, &incident);
    assert_eq!(incident["severity"], "warning");
    let victims = incident["oom"]["victims"].as_array().unwrap();
    assert_eq!(victims.len(), 1, "{incident:#}");
    let victim = &victims[0];
    assert_eq!(victim["victim"]["process"]["pid"], running.pid());
    assert_eq!(victim["trigger"]["process"]["pid"], running.pid());
    assert_eq!(victim["victim"]["cgroup"], cage.path());
    assert!(victim["anon_bytes"].as_u64() > Some(LIMIT / 2), "{victim:#}");
    // Nobody else was there: it is the one.
    assert_eq!(incident["culprit"]["pid"], running.pid());
    assert!(incident["diagnosis"]["cause"].as_str().unwrap().contains(&work.names[0]));
    assert_eq!(about_oom(&sensor), 1);
    catches_a_planted_recursion(&sensor, &cage);
}

#[test]
fn a_kill_that_is_no_oom_has_a_sender() {
    needs!();
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::killed().unwrap();
    let mut running = work.start(&cage).unwrap();
    assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
    let mut watch = sensor.watch(0).unwrap();
    let is_it = |record: &Value| {
        record["observation"]["killed"]["process"]["process"]["pid"] == running.pid()
    };
    let told = watch.find(CATCH, is_it).unwrap();
    let killed = &told.record["observation"]["killed"];
    let sender = &killed["sender"];
    // The kernel keeps 15 bytes of a name.
    let name: String = work.names[0].chars().take(15).collect();
    assert_eq!((&sender["comm"], &sender["uid"]), (&name.into(), &0.into()), "{killed:#}");
    assert_eq!(killed["by_kernel"], false);
    assert_eq!(about_oom(&sensor), 0, "an OOM kill was claimed");
}

/// Told of by the kernel's side, but not yet by the daemon, when that is told to end.
#[test]
fn what_was_seen_last_is_recorded() {
    const VICTIMS: usize = 20;
    needs!();
    let cage = cage();
    let mut sensor = Sensor::start(&cage, "").unwrap();
    let start = || cage.command("sleep").unwrap().arg("1000").spawn().unwrap();
    let mut victims: Vec<_> = (0..VICTIMS).map(|_| start()).collect();
    for victim in &mut victims {
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    sensor.stop().unwrap();
    sensor.restart().unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let mut left: BTreeSet<u64> = victims.iter().map(|victim| victim.id().into()).collect();
    while !left.is_empty() {
        let told = watch.find(CATCH, |record| record["observation"]["killed"].is_object());
        let killed = &told.unwrap().record["observation"]["killed"];
        killed["process"]["process"]["pid"].as_u64().map(|pid| left.remove(&pid));
    }
}

#[test]
fn who_shares_a_victims_memory_ends_by_the_same_kill() {
    needs!("cc");
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::fills_shared().unwrap();
    let mut running = work.start(&cage).unwrap();
    assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
    let incident = found(&sensor, "oom_kill");
    let victims = incident["oom"]["victims"].as_array().unwrap();
    assert_eq!(victims.len(), 1, "{incident:#}");
    let victim = &victims[0]["victim"]["process"]["pid"];
    let mut watch = sensor.watch(0).unwrap();
    let told = watch.find(CATCH, |record| record["observation"]["killed"].is_object()).unwrap();
    let killed = &told.record["observation"]["killed"];
    assert_eq!(&killed["victim"]["process"]["pid"], victim, "{killed:#}");
    assert_ne!(&killed["process"]["process"]["pid"], victim, "{killed:#}");
    assert_eq!(told.record["incident"], incident["id"]);
    assert_eq!(about_oom(&sensor), 1);
}

/// Since 6.16 a victim on another CPU may be past its end before it is marked: mostly so where others look on as well,
/// each of whom takes its time before the mark.
#[test]
fn a_victim_that_ends_before_its_mark_is_one() {
    const TIMES: u64 = 5;
    needs!("cc");
    let cage = cage();
    let _others = [Sensor::start(&cage, "").unwrap(), Sensor::start(&cage, "").unwrap()];
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let work = oom::fills_shared_with_a_busy_one().unwrap();
    let mut victims = Vec::new();
    for _ in 0..TIMES {
        let mut running = work.start(&cage).unwrap();
        assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
        let told = watch.find(CATCH, |record| record["observation"]["oom_kill"].is_object());
        let kill = &told.unwrap().record["observation"]["oom_kill"];
        assert_eq!(kill["dying"], false, "{kill:#}");
        victims.push(kill["victim"].clone());
        // The end of who had the same memory is told of,
        let told = watch.find(CATCH, |record| record["observation"]["killed"].is_object());
        let killed = &told.unwrap().record["observation"]["killed"];
        assert_eq!(killed["victim"]["process"], kill["victim"]["process"], "{killed:#}");
    }
    // and the victim's own never.
    for told in watch.seen() {
        let killed = &told.record["observation"]["killed"];
        let is_its = |victim: &Value| victim["process"] == killed["process"]["process"];
        assert!(!victims.iter().any(is_its), "{killed:#}");
    }
    // Where many others end meanwhile the kernel side may have forgotten one by then, not all of them.
    assert!(victims.iter().any(|victim| victim["parent"].is_object()), "{victims:#?}");
    let incident = sensor
        .wait_for(CATCH, |one| one["oom"]["kills"] == TIMES && !one["diagnosis"].is_null())
        .unwrap();
    explained(&sensor, &incident);
    assert_eq!(about_oom(&sensor), 1);
}

#[test]
fn who_ends_with_a_victims_namespace_shared_nothing() {
    needs!("unshare");
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::fills_with_its_namespace().unwrap();
    let _running = work.start(&cage).unwrap();
    let incident = found(&sensor, "oom_kill");
    assert_eq!(incident["oom"]["victims"].as_array().unwrap().len(), 1, "{incident:#}");
    let mut watch = sensor.watch(0).unwrap();
    // Some versions of unshare end themselves by the signal that ended their child.
    let is_child = |record: &Value| record["observation"]["killed"]["process"]["comm"] == "sleep";
    let told = watch.find(CATCH, is_child).unwrap();
    let killed = &told.record["observation"]["killed"];
    assert_eq!(
        (&killed["by_kernel"], &killed["victim"]),
        (&true.into(), &Value::Null),
        "{killed:#}"
    );
}

#[test]
fn oom_kills_in_a_row_are_one_loop() {
    needs!();
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::restarts(5).unwrap();
    let _running = work.start(&cage).unwrap();
    let incident = sensor
        .wait_for(CATCH * 2, |one| {
            one["kind"] == "oom_loop" && one["oom"]["kills"] == 5 && !one["diagnosis"].is_null()
        })
        .unwrap();
    explained(&sensor, &incident);
    assert_eq!(
        (&incident["severity"], &incident["oom"]["killed"]),
        (&"critical".into(), &5.into())
    );
    let period = incident["oom"]["period_ns"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(period >= 1_200_000_000, "the script waits so long between two: {period}");
    assert_eq!(about_oom(&sensor), 1);
    cage.clear().unwrap();
}

#[test]
fn an_oom_loop_goes_on_when_the_daemon_was_restarted() {
    needs!();
    let cage = cage();
    let mut sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::fills().unwrap();
    let mut running = work.start(&cage).unwrap();
    assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
    let first = found(&sensor, "oom_kill");
    let before = ids(&sensor, &first);
    sensor.kill_core().unwrap();
    sensor.restart().unwrap();
    let mut running = work.start(&cage).unwrap();
    assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
    let incident = found(&sensor, "oom_loop");
    assert_eq!((&incident["id"], &incident["oom"]["kills"]), (&first["id"], &2.into()));
    assert_eq!(about_oom(&sensor), 1);
    // What the second run of the daemon gathers does not go by the ids of what the first one had.
    let more = |one: &Value| id(one) == id(&first) && ids(&sensor, one).len() > before.len();
    let after = ids(&sensor, &sensor.wait_for(CATCH, more).unwrap());
    let different: BTreeSet<&String> = after.iter().collect();
    assert_eq!(different.len(), after.len(), "{after:?}");
    assert!(before.iter().all(|id| different.contains(id)), "{before:?} {after:?}");
    cage.clear().unwrap();
}

/// Ids of all evidence of an incident.
fn ids(sensor: &Sensor, incident: &Value) -> Vec<String> {
    let evidence = sensor.json(&["evidence", id(incident), "--json"]).unwrap();
    let ids = evidence.as_array().unwrap().iter();
    ids.map(|piece| piece["id"].as_str().unwrap().to_owned()).collect()
}

/// Whether the kernel ends all of a cage together, as `memory.oom.group` has it.
fn ends_together(cage: &Cage) -> bool {
    fs::write(cage.directory().join("memory.oom.group"), "1").is_ok()
}

const NO_GROUPS: &str = "needs the memory controller of cgroup v2";

/// The kernel kills all of a group, and tells of each.
#[test]
fn an_oom_kill_of_a_whole_group_is_one() {
    needs!();
    let cage = cage();
    if !ends_together(&cage) {
        return skip::note(test_name!(), NO_GROUPS);
    }
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::fills_with_children().unwrap();
    let mut running = work.start(&cage).unwrap();
    assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
    let incident = sensor
        .wait_for(CATCH, |one| {
            let victims = one["oom"]["victims"].as_array();
            victims.is_some_and(|victims| victims.len() == 3) && !one["diagnosis"].is_null()
        })
        .unwrap();
    explained(&sensor, &incident);
    assert_eq!((&incident["oom"]["kills"], &incident["oom"]["killed"]), (&1.into(), &3.into()));
    assert_eq!(incident["culprit"]["pid"], running.pid());
    assert!(cage.empties_within(Duration::from_secs(10)));
    assert_eq!(about_oom(&sensor), 1);
}

/// A service of three processes that is started again each time.
#[test]
fn a_whole_group_that_is_killed_again_and_again_is_one_loop() {
    const TIMES: u32 = 5;
    needs!();
    let cage = cage();
    if !ends_together(&cage) {
        return skip::note(test_name!(), NO_GROUPS);
    }
    let sensor = Sensor::start(&cage, "").unwrap();
    let work = oom::fills_with_children().unwrap();
    for _ in 0..TIMES {
        let mut running = work.start(&cage).unwrap();
        assert_eq!(running.wait(CATCH).unwrap().signal(), Some(SIGKILL));
        assert!(cage.empties_within(Duration::from_secs(10)));
        // As a supervisor does.
        thread::sleep(Duration::from_millis(1500));
    }
    let all = |one: &Value| one["oom"]["killed"] == 3 * TIMES && !one["diagnosis"].is_null();
    let incident = sensor.wait_for(CATCH, all).unwrap();
    explained(&sensor, &incident);
    assert_eq!((&incident["kind"], &incident["oom"]["kills"]), (&"oom_loop".into(), &TIMES.into()));
    assert_eq!(about_oom(&sensor), 1);
}
