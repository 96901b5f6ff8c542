//! `api`: one request to a model with the evidence window in it.
//!
//! - `ladder`: it takes over where an agent loses its room

mod ladder;

use std::fs;

use serde_json::{Value, json};
use tests::{
    Cage, Limits, Sensor,
    model::{Model, Step, USAGE},
    needs,
    workloads::script,
};

use crate::support::{CATCH, id};

/// What a test's key file holds.
const KEY: &str = "key-of-a-test-0123456789";

/// An investigation by `api` with a model that follows the script; how it ended, and what the model was asked.
fn asked(script: Vec<Step>, more: &str) -> (Value, Model) {
    asked_of("api", script, more)
}

/// The same where another one is wanted.
fn asked_of(wanted: &str, script: Vec<Step>, more: &str) -> (Value, Model) {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key");
    fs::write(&key, format!("{KEY}\n")).unwrap();
    let mut readable = fs::metadata(&key).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut readable, 0o600);
    fs::set_permissions(&key, readable).unwrap();
    let model = Model::start(KEY, script).unwrap();
    let config = format!(
        "[investigate]\nagent = {wanted:?}\nwhen = \"always\"\n{more}\n[investigate.api]\nmodel = \"a-model\"\n\
         endpoint = {:?}\nkey_file = {key:?}\n\
         [[investigate.prices]]\nmodel = \"a-model\"\ninput_usd = 3.0\noutput_usd = 15.0\ncached_usd = 0.3\n",
        model.url()
    );
    let run = investigated(&config);
    assert!(!run.to_string().contains(KEY));
    (run, model)
}

/// The same where `api` is not configured.
fn without_a_model(wanted: &str, more: &str) -> Value {
    investigated(&format!("[investigate]\nagent = {wanted:?}\nwhen = \"always\"\n{more}"))
}

/// The investigation of an incident that somebody opens, at its end.
fn investigated(config: &str) -> Value {
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, config).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let pid = running.pid().to_string();
    let incident =
        sensor.json(&["trigger", "--pid", &pid, "--why", "a test asks", "--json"]).unwrap();
    let over = |one: &Value| {
        let run = &one["investigations"][0];
        one["id"] == id(&incident) && !run.is_null() && run["state"] != "running"
    };
    let shown = sensor.wait_for(CATCH, over).unwrap();
    assert!(!sensor.log_tail().contains(KEY));
    shown["investigations"][0].clone()
}

#[test]
fn a_model_is_asked_once_and_what_it_hands_in_is_checked_and_counted() {
    needs!();
    let claim = json!({"text": "somebody asked for it", "evidence": ["incident"]});
    let findings = json!({"verdict": "extends", "confidence": 0.6, "cause": claim});
    let (run, model) = asked(vec![Step::Call("submit_findings", findings)], "");
    assert_eq!(run["agent"], "api", "{run:#}");
    assert_eq!((&run["state"], &run["outcome"]), (&"done".into(), &"complete".into()), "{run:#}");
    assert_eq!(run["report"]["cause"]["text"], "somebody asked for it", "{run:#}");

    let asked = model.asked();
    let [once] = &asked[..] else { panic!("{asked:#?}") };
    assert!(once.right_key);
    assert_eq!(once.tools, ["submit_findings"]);
    let cost = &run["cost"];
    let tokens = USAGE.input + USAGE.cached + USAGE.output;
    assert_eq!(cost["tokens"], tokens, "{cost:#}");
    assert_eq!((&cost["turns"], &cost["tool_calls"]), (&1.into(), &1.into()), "{cost:#}");
    let micro = USAGE.input * 3 + USAGE.output * 15 + USAGE.cached * 3 / 10;
    let usd = cost["usd"].as_f64().unwrap();
    assert!((usd * 1e6 - micro as f64).abs() < 0.5, "{usd} is not {micro} millionths");
}

#[test]
fn for_the_place_the_model_is_asked_once_more_and_the_cause_stands_whatever_it_says() {
    needs!();
    let claim = json!({"text": "somebody asked for it", "evidence": ["incident"]});
    let findings = json!({"verdict": "extends", "confidence": 0.6, "cause": claim});
    let place = json!({"path": "/no/where", "line": 3, "evidence": ["incident"]});
    let located = json!({"verdict": "extends", "confidence": 0.6, "fix_location": place});
    let script =
        vec![Step::Call("submit_findings", findings), Step::Call("submit_findings", located)];
    let (run, model) = asked(script, "stop_after = \"locate\"");
    assert_eq!((&run["state"], &run["outcome"]), (&"done".into(), &"complete".into()), "{run:#}");
    assert_eq!(run["report"]["cause"]["text"], "somebody asked for it", "{run:#}");
    assert_eq!(run["report"]["fix_location"], Value::Null, "{run:#}");
    let dropped = "fix_location: what it cites does not name this path";
    assert_eq!(run["report"]["dropped_why"], json!([dropped]), "{run:#}");
    let second = &run["stages"][1];
    assert_eq!(
        (&second["stage"], &second["state"], &second["outcome"]),
        (&"locate".into(), &"done".into(), &"incomplete".into()),
        "{run:#}"
    );
    assert_eq!(second["error"], "it ended without a place", "{run:#}");
    assert_eq!((model.asked().len(), &run["cost"]["turns"]), (2, &2.into()), "{run:#}");
}

#[test]
fn where_there_is_no_room_for_an_agent_the_model_is_asked_once_and_without_that_the_playbook_runs()
{
    needs!();
    let claim = json!({"text": "somebody asked for it", "evidence": ["incident"]});
    let findings = json!({"verdict": "extends", "confidence": 0.6, "cause": claim});
    // More memory than any host has that this runs on; the agent's program is there, and its model.
    let model = Model::start(KEY, vec![Step::Hang]).unwrap();
    let agent = format!(
        "[investigate.run]\nmemory_min_bytes = {0}\nmemory_max_bytes = {0}\n\
         [investigate.claude]\nprogram = \"/bin/true\"\nendpoint = {1:?}\n",
        1_u64 << 40,
        model.url()
    );
    let (run, asked) = asked_of("claude", vec![Step::Call("submit_findings", findings)], &agent);
    assert_eq!((&run["agent"], &run["outcome"]), (&"api".into(), &"complete".into()), "{run:#}");
    let why = run["why"].as_str().unwrap();
    assert!(why.contains("api instead, for claude: it needs 1048576 MiB of memory"), "{why}");
    assert_eq!(asked.asked().len(), 1);

    let gone = "[investigate.claude]\nprogram = \"/nonexistent/claude\"\n";
    let run = without_a_model("claude", gone);
    assert_eq!((&run["agent"], &run["state"]), (&"builtin".into(), &"done".into()), "{run:#}");
    let why = run["why"].as_str().unwrap();
    assert!(
        why.contains("builtin instead, for claude: there is no program /nonexistent/claude"),
        "{why}"
    );
    assert!(!run["findings"].as_str().unwrap().is_empty(), "{run:#}");
}

#[test]
fn what_goes_wrong_is_said() {
    needs!();
    let short =
        "[investigate.run]\ndeadline_s = 60\nfirst_event_s = 30\nsilence_s = 2\nlinger_s = 2\n";
    let cases = [
        (Step::Status(401), "", "failed", "401"),
        (Step::Status(500), "", "failed", "500"),
        (Step::Garbage, "", "failed", "broke off"),
        (Step::Text("I do not know".into()), "", "failed", "handed in nothing"),
        (Step::Hang, short, "timed_out", "silent"),
        // Bytes are no events.
        (Step::Trickle("I do not know".into()), short, "timed_out", "silent"),
    ];
    for (step, more, state, why) in cases {
        let what = format!("{step:?}");
        let (run, _) = asked(vec![step], more);
        assert_eq!(
            (&run["state"], &run["outcome"]),
            (&state.into(), &"incomplete".into()),
            "{what}: {run:#}"
        );
        assert!(run["error"].as_str().unwrap().contains(why), "{what}: {run:#}");
    }
}
