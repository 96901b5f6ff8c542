//! Whose memory it is, and whose grows.

use std::{fs, time::Duration};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, needs,
    process::field,
    run::until,
    takes_its_time,
    workloads::memory::{forks, leak, leak_by_a_copy},
};

use crate::support::{CATCH, comes, id, stands_still};

const MIB: u64 = 1 << 20;

/// A group may have so much.
const LIMIT: u64 = 640 * MIB;

/// From what is there to a sample that tells of it: they come every 5 s.
const SAMPLE: Duration = Duration::from_secs(20);

fn cage() -> Cage {
    Cage::new(Limits { tasks: Some(100), memory_bytes: Some(LIMIT) }).unwrap()
}

/// The largest tree of the cage by memory.
fn largest(sensor: &Sensor, cage: &Cage) -> Value {
    let path = cage.path();
    let list = sensor.json(&["top", "--json", "--once", "--sort", "memory", "--cgroup", &path]);
    list.unwrap()["trees"][0].clone()
}

/// What /proc says that a process has of its own, bytes.
fn held(pid: u32) -> u64 {
    let file = format!("/proc/{pid}/status");
    let kib = |name| field(&file, name).unwrap_or(0);
    (kib("RssAnon") + kib("VmSwap")) << 10
}

#[test]
fn a_leak_is_found_before_its_limit_and_measured() {
    needs!();
    takes_its_time!();
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    // 25 MiB a second at most. A burst is believed when it has taken two thirds of what there is, in three
    // samples in a row, a second each: from there on it takes five seconds more.
    let work = leak(10, 54, "0.4").unwrap();
    let running = work.start(&cage).unwrap();
    let pid = running.pid();
    let incident = sensor
        .wait_for(CATCH, |one| one["kind"] == "memory_growth" && !one["diagnosis"].is_null())
        .unwrap();
    assert_eq!(incident["culprit"]["pid"], pid, "{incident:#}");
    assert_eq!(incident["state"], "open", "nothing is stopped");
    // A dozen steps of the same size: that is no piece of work that is done at once.
    let diagnosis = &incident["diagnosis"];
    assert_eq!(diagnosis["by"], "process_leak", "{diagnosis:#}");
    assert!(diagnosis["cause"].as_str().unwrap().contains("evenly: in "), "{diagnosis:#}");

    comes("that it has taken all that it wants", CATCH, || work.output().contains("all"));
    let mut seen = Value::Null;
    let told = until(SAMPLE, || {
        seen = largest(&sensor, &cage);
        let (bytes, really) = (seen["bytes"].as_u64().unwrap_or(0), held(pid));
        // Its sleeping child has some pages.
        bytes.abs_diff(really) * 100 <= really * 3
    });
    assert!(told, "{} bytes, and {seen:#}", held(pid));
    assert_eq!(seen["root"]["pid"], pid);
    assert!(held(pid) > 450 * MIB, "{} bytes", held(pid));
    assert_eq!(seen["incident"], id(&incident));

    // It is followed in samples, which are recorded.
    let mut watch = sensor.watch(0).unwrap();
    watch
        .find(SAMPLE, |record| {
            let trees = record["observation"]["memory"]["trees"].as_array();
            trees.is_some_and(|trees| {
                trees.iter().any(|tree| {
                    tree["root"]["pid"] == pid && tree["limit_bytes"].as_u64() == Some(LIMIT)
                })
            })
        })
        .unwrap();
    cage.clear().unwrap();
    drop(running);
    sensor
        .wait_for(CATCH, |one| one["id"] == incident["id"] && one["state"] == "resolved")
        .unwrap();
}

/// Whoever says so has what grows stopped, and gets it back as it was.
#[test]
fn a_leak_is_contained_where_policy_says_so() {
    needs!();
    takes_its_time!();
    let cage = cage();
    let sensor = Sensor::start(&cage, "[respond.rules]\nM1 = \"auto\"\n").unwrap();
    let work = leak(10, 54, "0.4").unwrap();
    let running = work.start(&cage).unwrap();
    let incident = sensor
        .wait_for(CATCH, |one| {
            one["kind"] == "memory_growth"
                && one["state"] == "contained"
                && !one["diagnosis"].is_null()
        })
        .unwrap();
    assert_eq!(incident["culprit"]["pid"], running.pid(), "{incident:#}");
    let actions = incident["actions"].as_array().unwrap();
    assert!(actions.iter().any(|one| one["kind"] == "freeze" && one["ok"] == true), "{actions:#?}");
    assert!(actions.iter().all(|one| one["by"] == "policy"), "{actions:#?}");
    stands_still(&cage);
    let before = held(running.pid());
    assert!(before > 0 && !work.output().contains("all"), "{before} bytes");
    sensor.output(&["thaw", id(&incident)]).unwrap();
    comes("that it goes on where it stood", CATCH, || work.output().contains("all"));
    assert!(held(running.pid()) > before);
    // A person let it run: the same growth does not stop it again.
    assert_eq!(sensor.show(id(&incident)).unwrap()["state"], "open");
}

#[test]
fn a_protected_leak_is_told_of_and_never_stopped() {
    needs!();
    takes_its_time!();
    let cage = cage();
    let (work, shell) = leak_by_a_copy(10, 54, "0.4").unwrap();
    let more = format!(
        "[respond.rules]\nM1 = \"auto\"\n[respond.protect]\nexecutables = [{:?}]\n",
        shell.display().to_string()
    );
    let sensor = Sensor::start(&cage, &more).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = sensor
        .wait_for(CATCH, |one| {
            one["kind"] == "memory_growth"
                && one["actions"].as_array().is_some_and(|actions| !actions.is_empty())
        })
        .unwrap();
    assert_eq!(incident["culprit"]["pid"], running.pid(), "{incident:#}");
    comes("that it has taken all that it wants", CATCH, || work.output().contains("all"));
    let incident = sensor.show(id(&incident)).unwrap();
    assert_eq!(incident["state"], "open", "{incident:#}");
    let actions = incident["actions"].as_array().unwrap();
    assert!(actions.iter().all(|one| one["kind"] == "refuse"), "{actions:#?}");
    assert!(actions[0]["result"].as_str().unwrap().contains("protected"), "{actions:#?}");
}

/// Whether this kernel is older than that.
fn is_before(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) < (major, minor)
}

#[test]
fn what_a_fork_shares_counts_once() {
    needs!();
    let cage = cage();
    let sensor = Sensor::start(&cage, "").unwrap();
    let status = sensor.status().unwrap();
    let by = if is_before(5, 17) { "iterator" } else { "table" };
    assert_eq!(status["memory_sampling"]["by"], by, "{status:#}");
    let work = forks(100, 10).unwrap();
    let running = work.start(&cage).unwrap();
    comes("that all are forked", CATCH, || work.output().contains("all"));
    // Trees are counted once a second.
    let mut seen = Value::Null;
    comes("that all of them are counted", CATCH, || {
        seen = largest(&sensor, &cage);
        seen["processes"] == 11
    });
    let really = held(running.pid());
    assert!(really >= 100 * MIB, "{really} bytes");
    assert_eq!(seen["root"]["pid"], running.pid());
    // A child of a shell writes to some of its pages.
    let bytes = seen["bytes"].as_u64().unwrap();
    assert!((really - MIB..really + 12 * MIB).contains(&bytes), "{bytes} of {really} bytes");
}
