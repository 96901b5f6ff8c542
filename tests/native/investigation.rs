//! Investigations: the built-in one, and a program of the user's own.

use std::os::unix::fs::PermissionsExt as _;

use tests::{
    Cage, Limits, Sensor, daemon::open_to_all, names, needs, takes_its_time, workloads::script,
};

use crate::support::{CATCH, contained, id, killed, plant};

/// Runs an incident with this agent; gives the incident at its end and the lines of the transcript.
fn investigated(more: &str, agent: &str) -> (serde_json::Value, Vec<String>) {
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, more).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    watch
        .find(CATCH, |record| {
            record["kind"] == "investigation"
                && record["investigation"]["agent"] == agent
                && record["investigation"]["state"] != "running"
        })
        .unwrap();
    let lines = watch
        .kill()
        .into_iter()
        .filter(|arrival| {
            arrival.record["kind"] == "transcript" && arrival.record["incident"] == id(&incident)
        })
        .map(|arrival| arrival.record["transcript"]["text"].as_str().unwrap().to_owned())
        .collect();
    let incident = sensor.show(id(&incident)).unwrap();
    killed(&sensor, &cage, &incident);
    (incident, lines)
}

#[test]
fn the_playbook_runs_by_itself() {
    needs!();
    let (incident, lines) = investigated("", "builtin");
    let run = &incident["investigations"][0];
    assert_eq!(run["state"], "done", "{run:#}");
    assert_ne!(run["findings"].as_str().unwrap(), "");
    assert!(!lines.is_empty(), "a transcript without lines");
}

#[test]
fn a_program_of_ones_own_is_fed_and_heard() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let (greeting, finding) = (names::word(), names::word());
    let program = place.path().join(names::word());
    std::fs::write(
        &program,
        format!(
            "#!/bin/sh\n\
             bytes=$(wc -c)\n\
             echo {greeting} $bytes \"$SENSOR_INCIDENT\" uid=$(id -u)\n\
             echo trouble >&2\n\
             echo '{{\"findings\": \"{finding}\"}}'\n"
        ),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let more = format!(
        "[investigate]\nagent = \"command\"\n\n[investigate.command]\nprogram = [{program:?}]\n"
    );
    let (incident, lines) = investigated(&more, "command");
    let runs = incident["investigations"].as_array().unwrap();
    let run = runs.iter().find(|run| run["agent"] == "command").unwrap();
    assert_eq!(run["state"], "done", "{run:#}");
    assert!(run["findings"].as_str().unwrap().contains(&finding), "{run:#}");

    let line = lines.iter().find(|line| line.starts_with(&greeting)).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    // It got the evidence, knows which incident it looks at, and is not root.
    assert!(words[1].parse::<u64>().unwrap() > 500, "{line}");
    assert_eq!(words[2], id(&incident));
    assert_ne!(words[3], "uid=0");
    assert!(lines.iter().any(|line| line == "trouble"), "standard error is kept: {lines:?}");
}

#[test]
fn a_program_that_hangs_is_ended() {
    needs!();
    takes_its_time!();
    let more = "[investigate]\nagent = \"command\"\n\n\
                [investigate.command]\nprogram = [\"/bin/sleep\", \"1000\"]\ndeadline_s = 2\n";
    let (incident, _) = investigated(more, "command");
    let runs = incident["investigations"].as_array().unwrap();
    let run = runs.iter().find(|run| run["agent"] == "command").unwrap();
    assert_eq!(run["state"], "timed_out", "{run:#}");
    assert_ne!(run["error"].as_str().unwrap(), "");
}

#[test]
fn a_person_asks_for_one_more() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let (program, finding) = (place.path().join(names::word()), names::word());
    let script = format!("#!/bin/sh\ncat >/dev/null\necho '{{\"findings\": \"{finding}\"}}'\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let more = format!(
        "[investigate]\nagent = \"none\"\n[investigate.command]\nprogram = [{program:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &more).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let pid = running.pid().to_string();
    let incident =
        sensor.json(&["trigger", "--pid", &pid, "--why", "a test asks", "--json"]).unwrap();
    let refused = sensor.call(&["investigate", id(&incident)]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "nobody does so by itself");
    let why = refused.stderr;
    assert!(why.contains("set investigate.agent"), "{why}");

    for agent in ["builtin", "command"] {
        let said = sensor.output(&["investigate", id(&incident), "--agent", agent]).unwrap();
        assert!(said.contains(&format!("by {agent} has begun")), "{said}");
    }
    let shown = sensor
        .wait_for(CATCH, |one| {
            let runs = one["investigations"].as_array().unwrap();
            runs.len() == 2 && runs.iter().all(|run| run["state"] == "done")
        })
        .unwrap();
    let runs = shown["investigations"].as_array().unwrap();
    let [first, second] = &runs[..] else { unreachable!() };
    assert_ne!(first["id"], second["id"]);
    assert!(
        runs.iter().any(|run| run["findings"].as_str().unwrap().contains(&finding)),
        "{runs:#?}"
    );
}
