//! Investigations: the built-in one, and a program of the user's own.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use serde_json::{Value, json};
use tests::{
    Cage, Limits, Sensor, daemon::open_to_all, names, needs, run::write_program, takes_its_time,
    workloads::script,
};

use crate::support::{
    CATCH, NOBODY, asked, call, comes, contained, evidence, hello, id, killed, plant,
};

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
    write_program(
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
    write_program(&program, script).unwrap();
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

#[test]
fn an_agent_asks_over_the_socket_of_its_run_and_nobody_else_does() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let findings = json!({
        "verdict": "confirms",
        "confidence": 0.75,
        "cause": {"text": "it starts itself", "evidence": ["e1"]},
        "mechanism": {"text": "it made 987654321 processes", "evidence": ["e1"]},
        "remedy": {"text": "stop it", "evidence": []},
    });
    let said =
        hello() + &call(2, "incident_get", &json!({})) + &call(3, "submit_findings", &findings);
    fs::write(place.path().join("said"), said).unwrap();
    let program = place.path().join(names::word());
    // It stays until it was tried to come in from outside.
    let script = format!(
        "#!/bin/sh\n\
         cat >/dev/null\n\
         echo own: $(\"$SENSOR_PROGRAM\" show \"$SENSOR_INCIDENT\" | head -1)\n\
         echo other: $(\"$SENSOR_PROGRAM\" status 2>&1; \"$SENSOR_PROGRAM\" incidents 2>&1)\n\
         echo act: $(\"$SENSOR_PROGRAM\" kill \"$SENSOR_INCIDENT\" --yes 2>&1)\n\
         {{ cat {place}/said; while [ ! -e {place}/heard ]; do sleep 0.1; done; }} |\n\
         \"$SENSOR_PROGRAM\" mcp | grep -o '\"dropped\":[0-9]*'\n\
         while [ ! -e {place}/tried ]; do sleep 0.1; done\n",
        place = place.path().display(),
    );
    write_program(&program, script).unwrap();
    let more = format!(
        "[investigate]\nagent = \"command\"\n\n[investigate.command]\nprogram = [{program:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &more).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    let incident = id(&incident);
    let reported = |one: &Value| one["investigations"][0]["report"].is_object();
    let shown = sensor.wait_for(CATCH, reported).unwrap();
    let report = &shown["investigations"][0]["report"];
    assert_eq!(report["verdict"], "confirms");
    assert_eq!(report["cause"]["text"], "it starts itself");
    assert_eq!(report["dropped"], 2, "a number that is not there, and no evidence: {report:#}");
    assert_eq!((&report["mechanism"], &report["remedy"]), (&Value::Null, &Value::Null));

    let socket =
        sensor.socket().with_file_name("scratch").join(format!("{incident}-1/sensor.sock"));
    assert!(socket.exists(), "{}", socket.display());
    let outside = |uid: u32| {
        let mut command = Command::new(sensor.binary());
        command.args(["show", incident, "--json"]).env("SENSOR_SOCKET", &socket);
        command.uid(uid).gid(uid).output().unwrap()
    };
    for uid in [NOBODY, 0, 1] {
        let refused = outside(uid);
        assert_eq!(refused.status.code(), Some(1), "uid {uid}");
        assert!(refused.stdout.is_empty(), "uid {uid}");
    }
    fs::write(place.path().join("heard"), "").unwrap();
    fs::write(place.path().join("tried"), "").unwrap();
    let is_end = |record: &Value| {
        record["kind"] == "investigation" && record["investigation"]["state"] != "running"
    };
    let end = watch.find(CATCH, is_end).unwrap().record["investigation"].clone();
    assert_eq!(end["state"], "done", "{end:#}");
    assert_eq!(end["report"], *report, "what it submitted stays");
    let lines: Vec<String> = watch
        .kill()
        .into_iter()
        .filter_map(|arrival| arrival.record["transcript"]["text"].as_str().map(str::to_owned))
        .collect();
    let line = |begin: &str| {
        let found = lines.iter().find(|line| line.starts_with(begin));
        found.unwrap_or_else(|| panic!("no line {begin}: {lines:#?}"))
    };
    assert!(line("own: ").contains(incident), "{lines:#?}");
    assert_eq!(line("other: ").matches("sees its own incident alone").count(), 2, "{lines:#?}");
    assert!(line("act: ").contains("sees its own incident alone"), "{lines:#?}");
    line("\"dropped\":2");
    comes("the end of its socket", CATCH, || !socket.exists());

    // A person does the same by hand.
    let cwd = shown["culprit"]["cwd"].as_str().unwrap();
    let file = fs::read_dir(cwd).unwrap().flatten().find(|entry| entry.path().is_file()).unwrap();
    let name = file.file_name().into_string().unwrap();
    let read =
        |path: &str| asked(&sensor, incident, "read_source", &[json!({"path": path})]).remove(0);
    let answer = read(&name);
    let facts = &answer["structuredContent"]["facts"];
    assert_eq!(
        (&facts["state"], &facts["evidence"]),
        (&json!("present"), &json!("s1")),
        "{answer:#}"
    );
    assert_eq!(facts["size_bytes"], file.metadata().unwrap().len());
    let outside = read("/etc/passwd");
    assert_eq!(outside["structuredContent"]["facts"]["state"], "refused", "{outside:#}");
    let kept = evidence(&sensor, &shown);
    assert!(kept.iter().any(|piece| piece["id"] == "s1" && piece["name"] == "file"));
    let submitted = json!({
        "verdict": "refutes",
        "confidence": 0.5,
        "cause": {"text": "a test says so", "evidence": ["s1"]},
        "refutation": {"text": "it says so in its file", "evidence": ["s1"]},
    });
    let answer = asked(&sensor, incident, "submit_findings", &[submitted]).remove(0);
    assert_eq!(answer["structuredContent"]["facts"]["verdict"], "refutes", "{answer:#}");
    let shown = sensor.show(incident).unwrap();
    assert_eq!(shown["diagnosis"]["cause"], "a test says so");
    assert_eq!(
        (&shown["diagnosis"]["by"], &shown["diagnosis"]["evidence"]),
        (&json!("mcp"), &json!(["s1"]))
    );
    let told = sensor.output(&["show", incident]).unwrap();
    assert!(told.contains("refutes the built-in diagnosis"), "{told}");
    killed(&sensor, &cage, &shown);
}
