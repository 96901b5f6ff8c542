//! The agents' real programs, end to end, against a model of our own: they see the incident through our
//! MCP server, submit what they found, and cost what the script says; and whatever the model does, the run
//! comes to an end that says why.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::{
    Cage, Limits, Sensor, agent,
    agents::{Agent, good},
    model::{Step, USAGE},
    needs, process,
    watch::number,
    workloads::{Running, Workload, script},
};

use crate::support::{CATCH, comes, contained, id, killed, opened, plant};

/// Tools by which a program would see or change more than our server shows.
const SHELLS: [&str; 8] = [
    "Bash",
    "bash",
    "exec_command",
    "shell",
    "shell_command",
    "run_shell_command",
    "write",
    "write_file",
];

/// The slowest of them starts in 5 s and says nothing before its model has answered; beside other tests on a
/// slow machine it was silent for a minute.
const FIRST_EVENT_S: u32 = 150;

/// From an order to the end of a run that says nothing.
const PATIENCE: Duration = Duration::from_secs(FIRST_EVENT_S as u64 + CATCH.as_secs());

/// Long enough for each program's next event on a machine that is busy, short enough to wait for.
const SILENCE_S: u32 = 25;

/// Millionths of a dollar for an answer of a model that costs 2 dollars a million, 10 for what it writes,
/// and 0.2 for what it had in its cache.
const ANSWER: u64 = 2 * USAGE.input + 10 * USAGE.output + USAGE.cached / 5;

/// Of a run's table.
fn patient() -> String {
    format!("first_event_s = {FIRST_EVENT_S}\n")
}

/// A run came to a good end; else why not, before all else that is known of it.
fn ended_well(run: &Value) {
    let end = (&run["state"], &run["outcome"]);
    assert_eq!(end, (&json!("done"), &json!("complete")), "{} {run:#}", run["error"]);
}

/// The first run of an agent that has ended, or the next after so many.
fn ended(sensor: &Sensor, incident: &str, agent: &str, before: usize) -> Value {
    let of = |one: &Value| {
        let runs = one["investigations"].as_array().cloned().unwrap_or_default();
        runs.into_iter().filter(|run| run["agent"] == agent).nth(before)
    };
    let over = |one: &Value| {
        one["id"] == incident
            && of(one).is_some_and(|run| run["state"] != "running" && run["state"] != "queued")
    };
    of(&sensor.wait_for(PATIENCE, over).unwrap()).unwrap()
}

/// Nothing of a run stays on the disk.
fn leaves_nothing(sensor: &Sensor) {
    let scratch = sensor.socket().with_file_name("scratch");
    let empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut all| all.next().is_none());
    comes("an empty scratch directory", Duration::from_secs(10), || empty(&scratch));
}

/// By itself, of an incident as it comes: two looks and a last word, each at this price, in millionths of a
/// dollar.
fn finds_the_cause(name: &'static str, program: PathBuf, price: u64) {
    let agent = Agent::new(name, &program, good()).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &agent.config(agent.name, &patient())).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (_work, running) = plant(&cage);
    let incident = contained(&sensor, running.pid());
    let run = ended(&sensor, id(&incident), agent.name, 0);
    ended_well(&run);
    assert_eq!(run["report"]["verdict"], "confirms", "{run:#}");
    assert_eq!(run["report"]["cause"]["text"], "it starts itself", "{run:#}");
    let cost = &run["cost"];
    let count = |key: &str| number(&cost[key]).unwrap_or_default();
    assert_eq!(
        (count("input_tokens"), count("cached_tokens"), count("output_tokens")),
        (3 * USAGE.input, 3 * USAGE.cached, 3 * USAGE.output),
        "{run:#}"
    );
    assert_eq!(count("tokens"), 3 * (USAGE.input + USAGE.cached + USAGE.output), "{run:#}");
    assert_eq!((count("turns"), count("tool_calls")), (3, 2), "{run:#}");
    let micro_usd = (cost["usd"].as_f64().unwrap() * 1e6).round() as u64;
    assert_eq!(micro_usd, 3 * price, "{run:#}");

    let over = |record: &Value| {
        record["kind"] == "investigation" && record["investigation"]["state"] == "done"
    };
    watch.find(CATCH, over).unwrap();
    let records = watch.kill();
    assert!(records.iter().all(|one| !one.record.to_string().contains(&agent.key)), "the key");
    leaves_nothing(&sensor);
    let asked = agent.model.asked();
    assert_eq!(asked.len(), 3, "{asked:#?}");
    for one in &asked {
        assert!(one.right_key, "{one:#?}");
        assert!(one.tools.iter().any(|tool| tool.ends_with("submit_findings")), "{one:#?}");
        let shell = one.tools.iter().find(|tool| SHELLS.contains(&tool.as_str()));
        assert_eq!(shell, None, "what our server shows is all that it sees");
    }
    let saw = &asked[1].results[0];
    assert!(saw.contains("recursion"), "{saw}");
    killed(&sensor, &cage, &sensor.show(id(&incident)).unwrap());
}

#[test]
fn claude_finds_the_cause() {
    needs!();
    // It counts by its own list.
    finds_the_cause("claude", agent!("claude"), 3780);
}

#[test]
fn codex_finds_the_cause() {
    needs!();
    finds_the_cause("codex", agent!("codex"), ANSWER);
}

#[test]
fn gemini_finds_the_cause() {
    needs!();
    finds_the_cause("gemini", agent!("gemini"), ANSWER);
}

#[test]
fn opencode_finds_the_cause() {
    needs!();
    finds_the_cause("opencode", agent!("opencode"), ANSWER);
}

/// The cause, and then, in the same conversation, the place: three answers each.
fn goes_on_to_the_place(name: &'static str, program: PathBuf) {
    let (work, _) = script::ticker().unwrap();
    let file = work.directory.path().join("project.conf");
    fs::write(&file, "one\ntwo\n").unwrap();
    let mut steps = good();
    let located = json!({
        "verdict": "confirms",
        "confidence": 0.75,
        "fix_location": {"path": file, "line": 2, "evidence": ["s1"]},
    });
    steps.extend([
        Step::Call("read_source", json!({"path": "project.conf"})),
        Step::Call("submit_findings", located),
        Step::Text("There.".to_owned()),
    ]);
    let agent = Agent::new(name, &program, steps).unwrap();
    let config = agent.config(name, &patient()).replacen('\n', "\nstop_after = \"locate\"\n", 1);
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = id(&opened(&sensor, running.pid())).to_owned();
    let run = ended(&sensor, &incident, name, 0);
    ended_well(&run);
    let stages = [0, 1].map(|stage| run["stages"][stage]["outcome"].as_str().unwrap_or_default());
    assert_eq!(stages, ["complete", "complete"], "{run:#}");
    assert_eq!(run["report"]["cause"]["text"], "it starts itself", "{run:#}");
    assert_eq!(run["report"]["fix_location"]["line"], 2, "{run:#}");
    let count = |key: &str| number(&run["cost"][key]).unwrap_or_default();
    assert_eq!((count("turns"), count("tool_calls"), run["lives"].as_u64()), (6, 4, Some(1)));
    // What was told of the conversation twice is counted once.
    let tokens = 6 * (USAGE.input + USAGE.cached + USAGE.output);
    assert_eq!(count("tokens"), tokens, "{run:#}");
    let asked = agent.model.asked();
    assert_eq!(asked.len(), 6, "{asked:#?}");
    // What it saw in its first stage it knows in its second.
    assert!(asked[3].results.iter().any(|result| result.contains("culprit_pid")), "{asked:#?}");
    leaves_nothing(&sensor);
}

#[test]
fn claude_goes_on_to_the_place() {
    needs!();
    goes_on_to_the_place("claude", agent!("claude"));
}

#[test]
fn codex_goes_on_to_the_place() {
    needs!();
    goes_on_to_the_place("codex", agent!("codex"));
}

#[test]
fn gemini_goes_on_to_the_place() {
    needs!();
    goes_on_to_the_place("gemini", agent!("gemini"));
}

#[test]
fn opencode_goes_on_to_the_place() {
    needs!();
    goes_on_to_the_place("opencode", agent!("opencode"));
}

/// Who is killed in the middle of a run.
#[derive(Clone, Copy, Debug)]
enum Killed {
    Agent,
    Core,
}

/// While the model thinks, after the first look; the second life goes on where the first was.
fn picks_up_where_it_left_off(name: &'static str, program: PathBuf, who: Killed) {
    let mut script = good();
    script.insert(1, Step::Hang);
    let agent = Agent::new(name, &program, script).unwrap();
    let cage = Cage::new(Limits::default()).unwrap();
    let mut sensor = Sensor::start(&cage, &agent.config(name, &patient())).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let incident = id(&opened(&sensor, running.pid())).to_owned();
    comes("a model that thinks", CATCH, || agent.model.asked().len() == 2);
    // It writes down what it has seen when it comes to it.
    let scratch = sensor.socket().with_file_name("scratch");
    let homes = || fs::read_dir(&scratch).unwrap().flatten().filter(|one| one.path().is_dir());
    comes("its own memory", CATCH, || homes().any(|home| remembers(&home.path())));
    match who {
        Killed::Agent => {
            let home = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let leads = |pid: &u32| {
                process::parent(*pid) == Some(sensor.pid()) && home(pid).starts_with(&scratch)
            };
            let pids = fs::read_dir("/proc").unwrap().flatten();
            let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            let leader: u32 = pids.find(leads).unwrap();
            kill(Pid::from_raw(leader as i32), Signal::SIGKILL).unwrap();
        }
        Killed::Core => {
            sensor.kill_core().unwrap();
            sensor.restart().unwrap();
        }
    }
    let run = ended(&sensor, &incident, name, 0);
    ended_well(&run);
    assert_eq!(run["lives"], 2, "{run:#}");
    assert_eq!(run["report"]["cause"]["text"], "it starts itself", "{run:#}");
    let asked = agent.model.asked();
    assert_eq!(asked.len(), 4, "{asked:#?}");
    // What it saw in its first life it knows in its second.
    let [looked, again] = [1, 2].map(|turn| asked[turn].results.first().unwrap());
    assert!(looked.contains("culprit_pid") && again.contains("culprit_pid"), "{again}");
    leaves_nothing(&sensor);
}

/// What each calls the answer of a tool where it writes down its conversation.
const ANSWERS: [&str; 3] = ["\"tool_result\"", "function_call_output", "functionResponse"];

/// Whether a file below has the answer of a tool.
fn remembers(directory: &Path) -> bool {
    fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => remembers(&entry.path()),
        Ok(kind) if kind.is_file() => fs::read(entry.path()).is_ok_and(|all| {
            let all = String::from_utf8_lossy(&all);
            ANSWERS.iter().any(|answer| all.contains(answer))
        }),
        _ => false,
    })
}

#[test]
fn claude_that_is_killed_picks_up_where_it_left_off() {
    needs!();
    picks_up_where_it_left_off("claude", agent!("claude"), Killed::Agent);
}

#[test]
fn codex_that_is_killed_picks_up_where_it_left_off() {
    needs!();
    picks_up_where_it_left_off("codex", agent!("codex"), Killed::Agent);
}

#[test]
fn gemini_that_is_killed_picks_up_where_it_left_off() {
    needs!();
    picks_up_where_it_left_off("gemini", agent!("gemini"), Killed::Agent);
}

#[test]
fn claude_picks_up_where_it_left_off_when_the_core_is_killed() {
    needs!();
    picks_up_where_it_left_off("claude", agent!("claude"), Killed::Core);
}

/// A daemon whose agents are sent by hand, one after the other, into one incident.
struct Bench {
    sensor: Sensor,
    incident: String,
    agent: Agent,
    runs: usize,
    _running: (Workload, Running),
    _cage: Cage,
}

impl Bench {
    fn new(name: &'static str, program: PathBuf) -> Self {
        let agent = Agent::new(name, &program, vec![Step::Hang]).unwrap();
        let run = format!("{}silence_s = {SILENCE_S}\nturns = 4\nresumes = 0\n", patient());
        let cage = Cage::new(Limits::default()).unwrap();
        let sensor = Sensor::start(&cage, &agent.config("none", &run)).unwrap();
        let (work, _) = script::ticker().unwrap();
        let running = work.start(&cage).unwrap();
        let incident = id(&opened(&sensor, running.pid())).to_owned();
        Self { sensor, incident, agent, runs: 0, _running: (work, running), _cage: cage }
    }

    /// Why a run with this model is incomplete.
    fn fails(&mut self, script: Vec<Step>) -> String {
        self.agent.model.begins(script);
        let ask = ["investigate", &self.incident, "--agent", self.agent.name];
        self.sensor.output(&ask).unwrap();
        let run = ended(&self.sensor, &self.incident, self.agent.name, self.runs);
        self.runs += 1;
        assert_eq!(run["outcome"], "incomplete", "{run:#}");
        let asked = self.agent.model.asked().len();
        assert!(asked > 0, "the model was never asked: {} {run:#}", run["error"]);
        leaves_nothing(&self.sensor);
        run["error"].as_str().unwrap().to_owned()
    }
}

fn says(error: &str, words: &[&str]) {
    assert!(words.iter().any(|word| error.contains(word)), "{error:?} has none of {words:?}");
}

/// A program that tries again in silence is ended for that.
const SILENT: &str = "fell silent";

fn ends_whatever_the_model_does(name: &'static str, program: PathBuf) {
    let mut bench = Bench::new(name, program);
    says(&bench.fails(vec![Step::Status(401)]), &["401", "uthenticat"]);
    says(&bench.fails(vec![Step::Status(500)]), &["500", "high demand", SILENT, "said nothing"]);
    assert_ne!(bench.fails(vec![Step::Garbage]), "");
    says(&bench.fails(vec![Step::Hang]), &[SILENT, "said nothing"]);
    // Bytes are no events.
    let trickle = Step::Trickle("I do not know".to_owned());
    says(&bench.fails(vec![trickle]), &[SILENT, "said nothing"]);
    let error = bench.fails(vec![Step::Call("incident_get", json!({}))]);
    says(&error, &["turns", "times"]);
    let asked = bench.agent.model.asked().len();
    assert!((4..=6).contains(&asked), "ended after 4 turns, {asked} answers were asked for");
}

#[test]
fn claude_ends_whatever_the_model_does() {
    needs!();
    ends_whatever_the_model_does("claude", agent!("claude"));
}

#[test]
fn codex_ends_whatever_the_model_does() {
    needs!();
    ends_whatever_the_model_does("codex", agent!("codex"));
}

#[test]
fn gemini_ends_whatever_the_model_does() {
    needs!();
    ends_whatever_the_model_does("gemini", agent!("gemini"));
}

#[test]
fn opencode_ends_whatever_the_model_does() {
    needs!();
    let mut bench = Bench::new("opencode", agent!("opencode"));
    says(&bench.fails(vec![Step::Status(401)]), &["401", "uthenticat"]);
    // To it a model that answers 500 or trickles is one that hangs.
    says(&bench.fails(vec![Step::Hang]), &[SILENT, "said nothing"]);
    // And one that says nothing that it understands is one to be asked again.
    for script in [Step::Garbage, Step::Call("incident_get", json!({}))] {
        says(&bench.fails(vec![script]), &["turns", "times"]);
    }
}
