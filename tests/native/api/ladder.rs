//! The ladder in the middle of a run: who has no room any more makes way for who needs less, and the incident
//! is looked into all the same.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Child, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    model::{Model, Step},
    names, needs, process,
    run::write_program,
    workloads::{Running, Workload, script},
};

use crate::support::{CATCH, comes, id, opened};

const MIB: u64 = 1 << 20;

/// What stands for the host: room for a daemon, an agent that has begun, and who takes their room away.
const HOST: u64 = 1024 * MIB;

/// What an agent needs to begin. It goes on with three quarters of it.
const NEEDS: u64 = 600 * MIB;

/// What others take then, in parts of so many MiB: far less than the agent needs is left, and far more than a request.
const PARTS: u64 = 17;
const PART_MIB: u64 = 32;

/// Tasks of a host: for a daemon, what it holds and has to see left then, and who takes all others.
const TASKS: u32 = 1000;

/// An agent that says a word and thinks, and a model for one request.
struct Place {
    _dir: TempDir,
    word: String,
    program: PathBuf,
    model: Model,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path()).unwrap();
        let (program, word) = (dir.path().join(names::word()), names::word());
        // Speaks as Claude Code does.
        let script = format!(
            r#"#!/bin/sh
cat >/dev/null
echo '{{"type":"system","subtype":"init","session_id":"s","tools":[],"mcp_servers":[]}}'
echo '{{"type":"assistant","message":{{"id":"1","content":[{{"type":"text","text":"{word} '$$'"}}],"usage":{{"input_tokens":1}}}}}}'
exec sleep 86399
"#
        );
        write_program(&program, script).unwrap();
        let claim = json!({"text": "somebody asked for it", "evidence": ["incident"]});
        let findings = json!({"verdict": "extends", "confidence": 0.6, "cause": claim});
        let model = Model::start("", vec![Step::Call("submit_findings", findings)]).unwrap();
        Self { _dir: dir, word, program, model }
    }

    /// `needs`: bytes of the agent.
    fn config(&self, more: &str, needs: u64) -> String {
        format!(
            "[investigate]\nagent = \"claude\"\nwhen = \"always\"\n{more}\n\
             [investigate.run]\nmemory_min_bytes = {needs}\nmemory_max_bytes = {NEEDS}\n\
             [investigate.claude]\nprogram = {program:?}\nendpoint = {url:?}\n\
             [investigate.api]\nmodel = \"a-model\"\nendpoint = {url:?}\n",
            program = self.program,
            url = self.model.url(),
        )
    }

    /// A program of the operator's instead, that says the same word.
    fn command(&self) -> String {
        let word = &self.word;
        format!(
            "[investigate]\nagent = \"command\"\nwhen = \"always\"\n\
             [investigate.command]\n\
             program = [\"/bin/sh\", \"-c\", \"echo {word} $$; exec sleep 86399\"]\n\
             memory_min_bytes = {NEEDS}\nmemory_max_bytes = {NEEDS}\n"
        )
    }

    /// The word and the pid behind it, where a line has them.
    fn spoken(&self, line: &str) -> Option<String> {
        let from = &line[line.find(&self.word)?..];
        let is_inside = |c: char| c.is_alphanumeric() || c == ' ';
        from.split(|c| !is_inside(c)).next().map(str::to_owned)
    }
}

/// A small host with an agent that is about to find something when it loses its room.
struct Scene {
    sensor: Sensor,
    incident: String,
    /// What the agent has said, with its pid behind it.
    said: String,
    place: Place,
    _running: (Workload, Running),
    _cage: Cage,
}

impl Scene {
    fn new(config: impl Fn(&Place) -> String) -> Self {
        let place = Place::new();
        let config = config(&place);
        let cage = Cage::new(Limits::default()).unwrap();
        let host = Limits { tasks: None, memory_bytes: Some(HOST) };
        let sensor = Sensor::start_within(host, &cage, &config).unwrap();
        let mut watch = sensor.watch(0).unwrap();
        let (work, _) = script::ticker().unwrap();
        let running = work.start(&cage).unwrap();
        let incident = id(&opened(&sensor, running.pid())).to_owned();
        // What is executed is in the transcript as well, and its arguments have the word.
        let spoken = |record: &Value| {
            let line = &record["transcript"];
            let is_said = line["stream"] != "kernel";
            line["text"].as_str().filter(|_| is_said).and_then(|text| place.spoken(text))
        };
        let line = watch.find(CATCH, |record| spoken(record).is_some()).unwrap();
        let said = spoken(&line.record).unwrap();
        let running = (work, running);
        Self { sensor, incident, said, place, _running: running, _cage: cage }
    }

    /// Takes most of the memory that is there, and keeps it.
    fn is_filled(&self) -> Filler {
        let script = format!(
            "part=$(head -c {bytes} /dev/zero | tr '\\0' x)\n\
             for step in $(seq {PARTS}); do eval \"held_$step=\\$part\"; done\n\
             while :; do sleep 1; done\n",
            bytes = PART_MIB * MIB,
        );
        let mut command = self.sensor.group().command("sh").unwrap();
        Filler(command.args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap())
    }

    /// All its investigations, once there are so many and all are over.
    fn runs(&self, count: usize) -> Vec<Value> {
        let mut runs = Vec::new();
        comes(&format!("the end of {count} investigations"), CATCH, || {
            runs = self.sensor.show(&self.incident).unwrap()["investigations"]
                .as_array()
                .unwrap()
                .clone();
            let over = |run: &Value| run["state"] != "running" && run["state"] != "queued";
            runs.len() == count && runs.iter().all(over)
        });
        runs
    }

    /// Wherever the log might end, a daemon that reads it finds the one that runs, or the next one.
    fn is_never_left_with_neither(&self) {
        let mut watch = self.sensor.watch(0).unwrap();
        let is_end = |record: &Value| {
            let runs = record["transition"]["incident"]["investigations"].as_array();
            runs.is_some_and(|runs| runs.len() == 2 && !runs[1]["ended_at"].is_null())
        };
        watch.find(CATCH, is_end).unwrap();
        for arrival in watch.kill() {
            let incident = &arrival.record["transition"]["incident"];
            if let Some([alone]) = incident["investigations"].as_array().map(Vec::as_slice) {
                assert_eq!(alone["ended_at"], Value::Null, "{incident:#}");
            }
        }
    }

    /// The agent has made way, and nothing that it found is lost.
    fn made_way(&self, run: &Value) {
        let said = &self.said;
        assert_eq!(run["outcome"], "incomplete", "{run:#}");
        let error = run["error"].as_str().unwrap();
        let why = "there is no room for it any more: it needs 450 MiB of memory to go on, has ";
        assert!(error.starts_with(why), "{run:#}");
        assert_eq!(run["findings"].as_str().unwrap().trim(), said, "{run:#}");
        let pid = said.split(' ').next_back().unwrap().parse().unwrap();
        let gone = || process::state(pid).is_none_or(|state| state == 'Z');
        comes("the end of the agent", CATCH, gone);
    }
}

struct Filler(Child);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_that_loses_its_room_makes_way_for_one_request() {
    needs!();
    let scene = Scene::new(|place| place.config("", NEEDS));
    let _filler = scene.is_filled();
    let runs = scene.runs(2);
    scene.made_way(&runs[0]);
    scene.is_never_left_with_neither();
    let next = &runs[1];
    assert_eq!((&next["agent"], &next["outcome"]), (&"api".into(), &"complete".into()), "{next:#}");
    let why = next["why"].as_str().unwrap();
    assert!(
        why.starts_with("api instead, for claude: there is no room for it any more: "),
        "{why}"
    );
    assert_eq!(next["report"]["cause"]["text"], "somebody asked for it", "{next:#}");
    assert_eq!(scene.place.model.asked().len(), 1);
}

#[test]
fn where_the_next_one_may_not_begin_the_playbook_does() {
    needs!();
    let day = "day = { runs = 1, critical_percent = 0 }";
    let scene = Scene::new(|place| place.config(day, NEEDS));
    let _filler = scene.is_filled();
    let runs = scene.runs(3);
    scene.made_way(&runs[0]);
    assert_eq!((&runs[1]["agent"], &runs[1]["outcome"]), (&"api".into(), &"suppressed".into()));
    let last = &runs[2];
    assert_eq!((&last["agent"], &last["state"]), (&"builtin".into(), &"done".into()), "{last:#}");
    assert!(!last["findings"].as_str().unwrap().is_empty(), "{last:#}");
    let why = last["why"].as_str().unwrap();
    assert!(why.starts_with("builtin instead, for claude: there is no room"), "{why}");
    assert!(why.contains("; api: 1 of 1 runs of the last 24 hours are used"), "{why}");
    assert!(scene.place.model.asked().is_empty());
}

#[test]
fn a_program_of_the_operators_makes_way_as_well_and_does_not_begin_where_no_room_is() {
    needs!();
    let scene = Scene::new(Place::command);
    let _filler = scene.is_filled();
    let runs = scene.runs(2);
    assert_eq!(runs[0]["agent"], "command", "{runs:#?}");
    scene.made_way(&runs[0]);
    let because = |run: &Value, why: &str| {
        assert_eq!((&run["agent"], &run["state"]), (&"builtin".into(), &"done".into()), "{run:#}");
        assert!(!run["findings"].as_str().unwrap().is_empty(), "{run:#}");
        let instead = format!("builtin instead, for command: {why}");
        assert!(run["why"].as_str().unwrap().contains(&instead), "{run:#}");
    };
    because(&runs[1], "there is no room for it any more: ");

    // A person asks, while all is as it is.
    let ask = ["investigate", &scene.incident, "--agent", "command"];
    scene.sensor.output(&ask).unwrap();
    because(&scene.runs(3)[2], "it needs 600 MiB of memory, and ");
}

#[test]
fn where_all_tasks_are_taken_an_agent_begins_with_those_that_were_held_for_it() {
    needs!("python3");
    let host = Limits { tasks: Some(TASKS), memory_bytes: None };
    let cage = Cage::new(Limits::default()).unwrap();
    let place = Place::new();
    let sensor = Sensor::start_within(host, &cage, &place.config("", 0)).unwrap();
    let fill = "import os, signal\n\
                try:\n\
                \x20while os.fork(): pass\n\
                except OSError: os.write(1, b'full')\n\
                signal.pause()\n";
    let mut command = sensor.group().command("python3").unwrap();
    command.args(["-c", fill]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut filler = Filler(command.spawn().unwrap());
    let mut said = [0; 4];
    filler.0.stdout.take().unwrap().read_exact(&mut said).unwrap();

    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let incident = id(&opened(&sensor, running.pid())).to_owned();
    let mut run = Value::Null;
    comes("an agent", CATCH, || {
        run = sensor.show(&incident).unwrap()["investigations"][0].clone();
        !run.is_null()
    });
    assert_eq!(run["agent"], "claude", "{run:#}");
    let said = |record: &Value| {
        record["transcript"]["text"].as_str().is_some_and(|text| text.contains(&place.word))
    };
    sensor.watch(0).unwrap().find(CATCH, said).unwrap();
}
