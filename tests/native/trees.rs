//! `sensor top`: who has the processes and who makes them; and the same in the minutes before an incident.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, Watch, needs,
    run::until,
    watch::number,
    workloads::{script, storm},
};

use crate::support::{CATCH, EFFECT, comes, contained, evidence, id, killed, plant};

/// The list of what is in the cage.
fn list(sensor: &Sensor, cage: &Cage, order: &str) -> Value {
    let path = cage.path();
    sensor.json(&["top", "--json", "--once", "--sort", order, "--cgroup", &path]).unwrap()
}

fn trees(list: &Value) -> &[Value] {
    list["trees"].as_array().unwrap()
}

/// Fields are those of docs/schema; their types are for the tests of the command line.
fn is_as_documented(list: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../../docs/schema/trees.json")).unwrap();
    let names = |object: &Value| -> BTreeSet<String> {
        object.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(list), names(&schema["properties"]));
    let tree = &schema["properties"]["trees"]["items"]["properties"];
    for one in trees(list) {
        assert_eq!(names(one), names(tree));
    }
}

#[test]
fn a_tree_is_listed_with_what_it_has_and_does() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    assert!(trees(&list(&sensor, &cage, "processes")).is_empty());
    // A shell with one that sleeps, and a second one that starts ten commands a second.
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let mut seen = Value::Null;
    comes("that it is listed, and forks", EFFECT, || {
        seen = list(&sensor, &cage, "processes");
        let known =
            |tree: &Value| tree["forks"].as_u64().unwrap() >= 10 && !tree["threads"].is_null();
        trees(&seen).first().is_some_and(known)
    });
    is_as_documented(&seen);
    assert_eq!((trees(&seen).len(), &seen["omitted"]), (1, &0.into()));
    let tree = &trees(&seen)[0];
    assert_eq!((&tree["root"]["pid"], &tree["alive"]), (&running.pid().into(), &true.into()));
    // The last of the four is away for a moment between two commands.
    let processes = tree["processes"].as_u64().unwrap();
    assert!((3..=4).contains(&processes), "{tree}");
    assert_eq!(seen["processes"], processes);
    assert!(tree["forks_per_second"].as_f64().unwrap() > 0.0, "{tree}");
    assert!(tree["threads"].as_u64().unwrap() >= 3 && tree["anon_bytes"].as_u64().unwrap() > 0);
    assert_eq!((&tree["uid"], &tree["cgroup"]), (&0.into(), &cage.path().into()));
    let path = work.argv[0].to_str().unwrap();
    assert!(tree["argv"].as_array().unwrap().contains(&path.into()), "{tree}");

    // Who waits is not who forks.
    comes("that the one that forks is told from its parent", EFFECT, || {
        let forks = list(&sensor, &cage, "forks");
        let first = &trees(&forks)[0];
        first["root"]["pid"] != running.pid() && first["processes"].as_u64().unwrap() <= 2
    });
    let page = sensor.output(&["top", "--cgroup", &cage.path()]).unwrap();
    assert!(page.contains("COMMAND") && page.contains(path), "{page}");
    let refused = sensor.call(&["top", "--once", "--cgroup", "/none/of/this"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

#[test]
fn a_watch_follows_trees() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut watch =
        Watch::start(sensor.command(&["top", "--json", "--cgroup", &cage.path()])).unwrap();
    let has = |pid: u32| move |list: &Value| trees(list).iter().any(|it| it["root"]["pid"] == pid);
    watch.find(EFFECT, |list| list["processes"] == 0).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let pid = running.pid();
    watch.find(EFFECT, has(pid)).unwrap();
    watch.find(EFFECT, |list| trees(list).iter().any(|it| it["growth"] == 0)).unwrap();
    cage.clear().unwrap();
    drop(running);
    watch.find(EFFECT, |list| list["processes"] == 0).unwrap();
    let times: Vec<u64> =
        watch.seen().iter().map(|it| number(&it.record["boot_ns"]).unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    watch.seen().iter().for_each(|list| is_as_documented(&list.record));
}

#[test]
fn a_tree_bears_its_incident() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    comes("that the tree is known to be contained", EFFECT, || {
        let list = list(&sensor, &cage, "processes");
        trees(&list)
            .iter()
            .any(|tree| tree["incident"] == incident["id"] && tree["contained"] == true)
    });
    killed(&sensor, &cage, &incident);
}

#[test]
fn an_incident_has_the_trees_of_the_seconds_before_it() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    // As many as a shell makes: more than anything else on this machine.
    let work = storm::bursts(1_000_000).unwrap();
    let running = work.start(&cage).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let told = sensor.json(&["trigger", "--why", "look", "--json"]).unwrap();
    let opened = number(&told["opened_ns"]).unwrap();
    let mut samples = Vec::new();
    let there = until(CATCH, || {
        let all = evidence(&sensor, &told);
        let vitals = all.iter().find(|item| item["id"] == "v1");
        samples = vitals
            .map(|it| it["vitals"]["samples"].as_array().unwrap().clone())
            .unwrap_or_default();
        vitals.is_some()
    });
    assert!(there, "no flight record");
    let before = samples.iter().filter(|it| number(&it["boot_ns"]).unwrap() <= opened);
    let forked: Vec<u64> = before
        .flat_map(|sample| sample["trees"].as_array().unwrap())
        .filter(|tree| tree["pid"] == running.pid())
        .map(|tree| tree["forks"].as_u64().unwrap())
        .collect();
    assert!(forked.len() >= 2 && forked.iter().any(|forks| *forks >= 10), "{samples:#?}");
    let page = sensor.output(&["evidence", id(&told)]).unwrap();
    let pid = running.pid().to_string();
    assert!(page.lines().any(|line| line.split_whitespace().any(|word| word == pid)), "{page}");
}
