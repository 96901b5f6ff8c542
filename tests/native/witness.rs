//! What an agent's program runs is in its transcript by the kernel's word, however it hides.

use serde_json::Value;
use tests::{
    Cage, Limits, Sensor, daemon::open_to_all, names, needs, run::write_program, workloads::script,
};

use crate::support::{CATCH, id, opened};

/// Programs of a run that are recorded one by one.
const TOLD: usize = 512;

/// A run of a program of the operator's, once it is over, and the records of what it has executed.
struct Ran {
    run: Value,
    /// All lines of its transcript.
    lines: Vec<Value>,
    /// Its records, as text.
    log: String,
}

fn runs(program: &str) -> Ran {
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let path = place.path().join(names::word());
    write_program(&path, program).unwrap();
    let config = format!(
        "[investigate]\nagent = \"command\"\n[investigate.command]\nprogram = [{path:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &config).unwrap();
    let mut watch = sensor.watch(0).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    let incident = id(&opened(&sensor, running.pid())).to_owned();
    let over = |record: &Value| {
        record["kind"] == "investigation" && record["investigation"]["state"] != "running"
    };
    let run = watch.find(CATCH, over).unwrap().record["investigation"].clone();
    let records: Vec<Value> = watch.kill().into_iter().map(|arrival| arrival.record).collect();
    let log = records.iter().map(Value::to_string).collect();
    let of_run = |record: &Value| record["transcript"]["investigation"] == run["id"];
    let lines: Vec<Value> =
        records.iter().filter(|it| of_run(it)).map(|it| it["transcript"].clone()).collect();
    let shown = sensor.output(&["show", &incident]).unwrap();
    eprintln!("{shown}");
    for line in lines.iter().take(40) {
        eprintln!("{}: {}", line["stream"], line["text"]);
    }
    let executed = format!("executed {} program", run["programs"]);
    assert!(shown.contains(&executed), "{shown}");
    Ran { run, lines, log }
}

impl Ran {
    fn witnessed(&self) -> Vec<&Value> {
        let all: Vec<&Value> =
            self.lines.iter().filter(|line| line["stream"] == "kernel").collect();
        assert!(all.iter().all(|line| line["witnessed"].is_object()), "{all:#?}");
        all
    }

    /// The line of the only program that was executed with this among its arguments, and that of its end.
    fn of(&self, argument: &str) -> (&Value, &Value) {
        let witnessed = self.witnessed();
        let has = |line: &&&Value| {
            let argv = line["witnessed"]["argv"].as_array().unwrap();
            argv.iter().any(|it| it.as_str().unwrap().contains(argument))
        };
        let executed: Vec<_> = witnessed.iter().filter(has).collect();
        assert_eq!(executed.len(), 1, "{argument}: {:#?}", self.lines);
        let (executed, process) = (*executed[0], &executed[0]["witnessed"]["process"]);
        let ends = |line: &&&Value| {
            line["witnessed"]["ended"] == true && line["witnessed"]["process"] == *process
        };
        let ended: Vec<_> = witnessed.iter().filter(ends).collect();
        assert_eq!(ended.len(), 1, "{argument}: {:#?}", self.lines);
        (executed, *ended[0])
    }
}

#[test]
fn kernels_what_an_agent_runs_is_recorded_however_it_hides() {
    needs!("bash");
    let [plain, hidden, renamed, secret] = std::array::from_fn(|_| names::word());
    // Its main program stays until the hidden one is there.
    let ran = runs(&format!(
        "#!/bin/sh\n\
         cat >/dev/null\n\
         sh -c ': {plain}; exit 3'\n\
         sh -c ': {renamed}-asked' --password={secret}\n\
         bash -c 'exec -a innocent bash -c \": {renamed}; exit 5\"'\n\
         setsid sh -c 'setsid sh -c \": {hidden}; touch there; sleep 86397; :\" </dev/null >/dev/null 2>&1 &'\n\
         while [ ! -e there ]; do sleep 0.1; done\n\
         echo '{{\"findings\":\"x\"}}'\n"
    ));
    let (executed, ended) = ran.of(&plain);
    let text = executed["text"].as_str().unwrap();
    assert!(text.contains(" executes sh: sh -c ': ") && text.contains(&plain), "{text}");
    assert_eq!(ended["witnessed"]["code"], 3 << 8, "{ended:#}");
    assert!(ended["text"].as_str().unwrap().ends_with(": exit code 3"), "{ended:#}");
    // Whatever it calls itself.
    let all = ran.witnessed();
    let innocent = all.iter().find(|line| line["witnessed"]["argv"][0] == "innocent");
    let innocent = innocent.unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!(innocent["witnessed"]["name"], "bash", "{innocent:#}");
    assert!(innocent["text"].as_str().unwrap().contains(" executes bash: innocent -c "));
    let pid = &innocent["witnessed"]["process"];
    let end = all
        .iter()
        .find(|it| it["witnessed"]["ended"] == true && it["witnessed"]["process"] == *pid);
    assert_eq!(end.unwrap()["witnessed"]["code"], 5 << 8);
    // Neither a session of its own nor another parent helps, and it is dead.
    let hiding = format!(": {hidden}; touch there");
    let whole = |line: &&&Value| {
        line["witnessed"]["argv"][2].as_str().is_some_and(|it| it.starts_with(&hiding))
    };
    let found = all.iter().rfind(whole).unwrap_or_else(|| panic!("{all:#?}"));
    let pid = &found["witnessed"]["process"];
    let end = all
        .iter()
        .find(|it| it["witnessed"]["ended"] == true && it["witnessed"]["process"] == *pid);
    assert_eq!(end.unwrap()["witnessed"]["code"], 9, "{end:#?}");
    // Secrets do not come in by this way either.
    assert!(!ran.log.contains(&secret), "{:#?}", ran.of(&format!("{renamed}-asked")));
    let executions = all.iter().filter(|line| line["witnessed"]["ended"] == false).count();
    assert_eq!(ran.run["programs"], executions, "{:#}", ran.run);
    assert_eq!(ran.run["outcome"], "complete", "{:#}", ran.run);
}

#[test]
fn what_an_agent_runs_without_end_is_counted_and_said_once() {
    needs!();
    let ran = runs(&format!(
        "#!/bin/sh\n\
         cat >/dev/null\n\
         true=$(command -v env)\n\
         i=0\n\
         while [ $i -lt {more} ]; do $true true; i=$((i+1)); done\n\
         echo '{{\"findings\":\"x\"}}'\n",
        more = TOLD + 88,
    ));
    // The second of each pair is what the first becomes.
    let programs = ran.run["programs"].as_u64().unwrap() as usize;
    assert!(programs >= 2 * (TOLD + 88), "{:#}", ran.run);
    let all = ran.witnessed();
    let executions = all.iter().filter(|line| line["witnessed"]["ended"] == false).count();
    assert!(executions <= TOLD && executions > TOLD / 2, "{executions}");
    assert!(all.len() <= 2 * TOLD, "{}", all.len());
    let said: Vec<&str> = ran
        .lines
        .iter()
        .filter(|line| line["stream"] == "sensor")
        .filter_map(|line| line["text"].as_str())
        .filter(|text| text.contains("programs were executed"))
        .collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    let grouped = |number: usize| format!("{},{:03}", number / 1000, number % 1000);
    assert!(
        said[0].starts_with(&format!("{} programs were executed: ", grouped(programs))),
        "{said:?}"
    );
    assert_eq!(ran.run["outcome"], "complete", "{:#}", ran.run);
}
