//! Two stages: the cause, and then the place in the sources. What was found stands whatever becomes of the second.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    model::{Model, Step},
    names, needs,
    run::write_program,
    workloads::{Running, Workload, script},
};

use crate::support::{CATCH, call, comes, contained, hello, id, opened, plant};

/// Speaks as Claude Code does: hands in a cause, and, asked for the place, does what `place` has it do.
const AGENT: &str = r#"#!/bin/sh
prompt=$(cat)
tell() { printf '%s\n' "$1"; }
say() { tell '{"type":"assistant","message":{"id":"'$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')'","content":[{"type":"text","text":"'"$1"'"}],"usage":{"input_tokens":10}}}'; }
well() { tell '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"fine","total_cost_usd":0.001}'; }
rm -f asked answered
mkfifo asked answered
"$SENSOR_PROGRAM" mcp <asked >answered &
exec 3>asked 4<answered
ask() { cat PLACE/"$1" >&3; read -r answer <&4; }
ask hello
tell '{"type":"system","subtype":"init","session_id":"session-1","tools":[],"mcp_servers":[]}'
case $prompt in
*'The cause is found'*)
    case "$*" in *'--resume session-1'*) say resumed;; *) say anew;; esac
    case $prompt in *'cause: WORD'*) say briefed;; esac
    . PLACE/place;;
*)
    say cause
    ask cause;;
esac
exec 3>&-
well
"#;

/// Looks at the file and hands in its second line, and a cause that nobody asked for.
const FINDS: &str = "ask source; ask located\n";

/// A daemon whose agent is the script, and an incident of a culprit with a project.
struct Scene {
    sensor: Sensor,
    incident: String,
    word: String,
    file: PathBuf,
    place: TempDir,
    /// Nobody asks it; without one that can be reached no agent is sent.
    _model: Model,
    _running: (Workload, Running),
    _cage: Cage,
}

/// What is known of a run at its end, and what it has said.
struct Went {
    run: Value,
    said: Vec<String>,
}

impl Scene {
    fn new(run: &str) -> Self {
        Self::about(run, |sensor, cage| {
            let (work, _) = script::ticker().unwrap();
            let running = work.start(cage).unwrap();
            (opened(sensor, running.pid()), (work, running))
        })
    }

    fn about(run: &str, begin: impl Fn(&Sensor, &Cage) -> (Value, (Workload, Running))) -> Self {
        let place = tempfile::tempdir().unwrap();
        open_to_all(place.path()).unwrap();
        let word = names::word();
        let program = place.path().join(names::word());
        let agent = AGENT.replace("PLACE", place.path().to_str().unwrap()).replace("WORD", &word);
        write_program(&program, agent).unwrap();
        let model = Model::start("", vec![Step::Hang]).unwrap();
        let config = format!(
            "[investigate]\nagent = \"none\"\nstop_after = \"locate\"\n\n\
             [investigate.run]\nmemory_min_bytes = 0\n{run}\n\n\
             [investigate.claude]\nprogram = {program:?}\nendpoint = \"{url}\"\n",
            url = model.url(),
        );
        let cage = Cage::new(Limits::default()).unwrap();
        let sensor = Sensor::start(&cage, &config).unwrap();
        let (incident, running) = begin(&sensor, &cage);
        let file = Path::new(incident["culprit"]["cwd"].as_str().unwrap()).join("project.conf");
        fs::write(&file, "one\ntwo\nthree\n").unwrap();
        let claim = |text: &str| json!({"text": text, "evidence": ["incident"]});
        let located = json!({
            "verdict": "extends", "confidence": 0.9, "cause": claim("something else"),
            "fix_location": {"path": file, "line": 2, "evidence": ["s1"]},
        });
        let cause = json!({"verdict": "extends", "confidence": 0.6, "cause": claim(&word)});
        for (name, text) in [
            ("hello", hello()),
            ("cause", call(2, "submit_findings", &cause)),
            ("source", call(2, "read_source", &json!({"path": "project.conf"}))),
            ("located", call(3, "submit_findings", &located)),
        ] {
            fs::write(place.path().join(name), text).unwrap();
        }
        let incident = id(&incident).to_owned();
        Self { sensor, incident, word, file, place, _model: model, _running: running, _cage: cage }
    }

    fn asked_for_the_place(&self, does: &str) {
        fs::write(self.place.path().join("place"), does).unwrap();
        self.sensor.output(&["investigate", &self.incident, "--agent", "claude"]).unwrap();
    }

    fn ended(&self) -> Went {
        let mut run = Value::Null;
        comes("the end of the run", CATCH, || {
            let shown = self.sensor.show(&self.incident).unwrap();
            let mut runs = shown["investigations"].as_array().unwrap().clone();
            run = runs.pop().unwrap();
            !run["ended_at"].is_null()
        });
        let mut watch = self.sensor.watch(0).unwrap();
        let over = |record: &Value| {
            record["investigation"]["id"] == run["id"]
                && !record["investigation"]["ended_at"].is_null()
        };
        watch.find(CATCH, over).unwrap();
        let texts = watch.kill().into_iter().filter_map(|arrival| {
            let event = serde_json::from_str(arrival.record["transcript"]["text"].as_str()?);
            let event: Value = event.ok()?;
            Some(event["message"]["content"][0]["text"].as_str()?.to_owned())
        });
        Went { said: texts.collect(), run }
    }

    /// The cause stands, and this became of the place.
    fn cause_stands(&self, went: &Went, place: (&str, &str)) {
        let run = &went.run;
        assert_eq!(
            (&run["state"], &run["outcome"]),
            (&json!("done"), &json!("complete")),
            "{run:#}"
        );
        assert_eq!(run["report"]["cause"]["text"], self.word.as_str(), "{run:#}");
        let stages = run["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 2, "{run:#}");
        let of = |number: usize| {
            let part = |key: &str| stages[number][key].as_str().unwrap();
            (part("stage"), part("state"), part("outcome"))
        };
        assert_eq!(of(0), ("diagnose", "done", "complete"), "{run:#}");
        assert_eq!(of(1), ("locate", place.0, place.1), "{run:#}");
    }
}

#[test]
fn the_place_is_a_stage_of_its_own() {
    needs!();
    let scene = Scene::new("");
    scene.asked_for_the_place(FINDS);
    let went = scene.ended();
    scene.cause_stands(&went, ("done", "complete"));
    let run = &went.run;
    let place = &run["report"]["fix_location"];
    assert_eq!((&place["path"], &place["line"]), (&json!(scene.file), &json!(2)), "{run:#}");
    // In the same conversation, with what was found before it.
    assert_eq!(went.said, ["cause", "resumed", "briefed"]);
    assert_eq!((&run["lives"], &run["cost"]["turns"]), (&json!(1), &json!(3)), "{run:#}");
    assert!(run["programs"].as_u64().unwrap() > 4, "{run:#}");
    let shown = scene.sensor.output(&["show", &scene.incident]).unwrap();
    assert!(shown.contains("stage locate: complete"), "{shown}");
    let scratch = scene.sensor.socket().with_file_name("scratch");
    let empty = || fs::read_dir(&scratch).is_ok_and(|mut all| all.next().is_none());
    comes("an empty scratch directory", CATCH, empty);
}

#[test]
fn the_cause_stands_where_the_place_is_not_found() {
    needs!();
    let scene = Scene::new("turns = 3");
    // It falls over.
    scene.asked_for_the_place("exit 7\n");
    let went = scene.ended();
    scene.cause_stands(&went, ("failed", "incomplete"));
    let error = went.run["stages"][1]["error"].as_str().unwrap();
    assert!(error.contains("exit code 7"), "{error}");
    assert!(went.run["report"]["fix_location"].is_null());
    let shown = scene.sensor.output(&["show", &scene.incident]).unwrap();
    assert!(shown.contains("stage locate: failed: ") && shown.contains(&scene.word), "{shown}");
    // It goes on and on: the bound of turns is of both stages.
    scene.asked_for_the_place("say a; say b; say c; sleep 1000\n");
    let went = scene.ended();
    scene.cause_stands(&went, ("failed", "incomplete"));
    let error = went.run["stages"][1]["error"].as_str().unwrap();
    assert!(error.contains("answered 4 of 3 times"), "{error}");
}

#[test]
fn a_stage_for_which_nothing_is_left_is_not_begun() {
    needs!();
    let scene = Scene::new("turns = 1");
    scene.asked_for_the_place(FINDS);
    let went = scene.ended();
    scene.cause_stands(&went, ("suppressed", "suppressed"));
    let error = went.run["stages"][1]["error"].as_str().unwrap();
    assert_eq!(error, "its model has answered 1 of 1 times");
    assert_eq!(went.said, ["cause"]);
    let shown = scene.sensor.output(&["show", &scene.incident]).unwrap();
    assert!(shown.contains("stage locate: not begun: its model"), "{shown}");
}

#[test]
fn a_place_that_the_built_in_diagnosis_names_is_not_looked_for() {
    needs!();
    let scene = Scene::about("", |sensor, cage| {
        let (work, running) = plant(cage);
        (contained(sensor, running.pid()), (work, running))
    });
    scene.asked_for_the_place(FINDS);
    let went = scene.ended();
    scene.cause_stands(&went, ("suppressed", "suppressed"));
    let error = went.run["stages"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("not needed: the built-in diagnosis names a line of /"), "{error}");
}

#[test]
fn a_program_of_the_operators_is_told_which_stage_it_is() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let program = place.path().join(names::word());
    // What it knows of its first stage is in the incident that it is given.
    let script = r#"#!/bin/sh
input=$(cat)
case $input in
*'"stage":"locate"}')
    case $input in *'"findings":"the cause"'*) echo '{"findings":"the place"}';; esac;;
*'"stage":"diagnose"}') echo '{"findings":"the cause"}';;
esac
"#;
    write_program(&program, script).unwrap();
    let config = format!(
        "[investigate]\nagent = \"command\"\nstop_after = \"locate\"\n\
         [investigate.command]\nprogram = [{program:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let incident = id(&opened(&sensor, running.pid())).to_owned();
    let mut run = Value::Null;
    comes("the end of the run", CATCH, || {
        run = sensor.show(&incident).unwrap()["investigations"][0].clone();
        !run["ended_at"].is_null()
    });
    let ended = ["state", "outcome", "findings"].map(|key| run[key].as_str().unwrap());
    assert_eq!(ended, ["done", "complete", "the cause"], "{run:#}");
    let second =
        ["stage", "outcome", "findings"].map(|key| run["stages"][1][key].as_str().unwrap());
    assert_eq!(second, ["locate", "complete", "the place"], "{run:#}");
    let scratch = sensor.socket().with_file_name("scratch");
    let empty = || fs::read_dir(&scratch).is_ok_and(|mut all| all.next().is_none());
    comes("an empty scratch directory", CATCH, empty);
}

#[test]
fn a_core_that_is_killed_in_the_second_stage_goes_on_in_it() {
    needs!();
    let mut scene = Scene::new("");
    let second = scene.place.path().join("second");
    let waits = format!(
        "if [ ! -e {second} ]; then say waits; sleep 86396; fi\n{FINDS}",
        second = second.display()
    );
    scene.asked_for_the_place(&waits);
    let mut watch = scene.sensor.watch(0).unwrap();
    let waits = |record: &Value| {
        record["transcript"]["text"].as_str().is_some_and(|text| text.contains("waits"))
    };
    watch.find(CATCH, waits).unwrap();
    let shown = scene.sensor.show(&scene.incident).unwrap();
    let run = &shown["investigations"][0];
    assert_eq!(run["stages"][1]["state"], "running", "{run:#}");
    assert_eq!(
        (&run["state"], &run["stages"][0]["outcome"]),
        (&json!("running"), &json!("complete"))
    );
    fs::write(second, "").unwrap();
    scene.sensor.kill_core().unwrap();
    scene.sensor.restart().unwrap();
    let went = scene.ended();
    scene.cause_stands(&went, ("done", "complete"));
    let run = &went.run;
    assert_eq!(run["lives"], 2, "{run:#}");
    assert_eq!(run["report"]["fix_location"]["line"], 2, "{run:#}");
    let said: Vec<&str> = went.said.iter().map(String::as_str).collect();
    assert_eq!(said, ["cause", "resumed", "briefed", "waits", "resumed", "briefed"]);
}
