//! The command line as a program: real processes of the `sensor` binary against a daemon that
//! answers with canned data over a real socket. What they print fits `docs/schema`, what comes from
//! outside does not reach a terminal, and the exit codes are what they should be.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod canned;
mod fake;
mod hostile;
mod mcp;
mod program;
mod schema;
mod trace;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    time::Duration,
};

use sensor_proto::v1::{self, Verb, record::Body};
use serde_json::Value;

use self::{fake::Fake, program::Said};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn every_document_fits_its_schema() {
    let fake = Fake::start();
    let id = canned::ID;
    for (schema, args) in [
        ("incidents", vec!["incidents", "--json"]),
        ("incident", vec!["show", id, "--json"]),
        ("window", vec!["show", id, "--markdown", "--json"]),
        ("incident", vec!["trigger", "--pid", "7", "--why", "slow", "--json"]),
        ("status", vec!["status", "--json"]),
        ("trees", vec!["top", "--json", "--once"]),
        ("capabilities", vec!["doctor", "--json"]),
    ] {
        let said = fake.sensor(&args).run().done();
        schema::check(schema, &json(&said));
    }
    // The real ones, of this host: more than a handful, whatever they are.
    let capabilities = json(&fake.sensor(&["doctor", "--json"]).run().done());
    assert!(capabilities.as_array().unwrap().len() > 5, "{capabilities}");
    let evidence = json(&fake.sensor(&["evidence", id, "--json"]).run().done());
    let items = evidence.as_array().unwrap();
    assert_eq!(items.len(), 12);
    for item in items {
        schema::check("evidence", item);
    }
}

#[test]
fn every_kind_of_record_fits_its_schema() {
    let fake = Fake::start();
    let records = canned::records();
    let mut watch = fake.sensor(&["watch", "--json", "--from", "0"]).start();
    let lines = BufReader::new(watch.stdout()).lines().take(records.len());
    let mut kinds = Vec::new();
    for (line, record) in lines.zip(&records) {
        let line = json(&line.unwrap());
        schema::check("record", &line);
        assert_eq!(line["seq"], record.seq.to_string());
        kinds.push(line["kind"].as_str().unwrap().to_owned());
    }
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), 11, "one of each kind: {kinds:?}");

    let mut follow = fake.sensor(&["evidence", canned::ID, "--json", "--follow"]).start();
    for line in BufReader::new(follow.stdout()).lines().take(7) {
        schema::check("evidence", &json(&line.unwrap()));
    }
}

#[test]
fn every_word_of_the_schema_is_in_the_documents() {
    use sensor_proto::json as words;

    let incident = || canned::incident();
    let with = |change: &dyn Fn(&mut v1::Incident)| {
        let mut incident = incident();
        change(&mut incident);
        schema::check("incident", &serde_json::to_value(incident).unwrap());
    };
    for value in known(words::kind::word) {
        with(&|incident| incident.kind = value);
    }
    for value in known(words::severity::word) {
        with(&|incident| incident.severity = value);
    }
    for value in known(words::state::word) {
        with(&|incident| incident.state = value);
    }
    for value in known(words::group_by::word) {
        with(&|incident| incident.group.get_or_insert_default().by = value);
    }
    with(&|incident| incident.group = None);
    for value in known(words::action_kind::word) {
        with(&|incident| incident.actions[0].kind = value);
    }
    for value in known(words::investigation_state::word) {
        with(&|incident| incident.investigations[0].state = value);
    }
    for value in known(words::verdict::word) {
        with(&|incident| incident.investigations[0].report.get_or_insert_default().verdict = value);
    }
    for value in known(words::file_state::word) {
        let mut item = canned::file();
        if let Some(v1::evidence::Content::File(file)) = &mut item.content {
            file.state = value;
        }
        schema::check("evidence", &serde_json::to_value(item).unwrap());
    }
}

/// The values that an enum knows, beside "unspecified".
fn known(word: fn(i32) -> String) -> impl Iterator<Item = i32> {
    let values: Vec<i32> = (1..100).take_while(|value| word(*value) != value.to_string()).collect();
    assert!(!values.is_empty());
    values.into_iter()
}

#[test]
fn a_document_that_differs_is_found() {
    let mut document = serde_json::to_value(canned::incident()).unwrap();
    document["culprit"]["novel"] = Value::Bool(true);
    assert!(!schema::fits("incident", &document));
    let mut document = serde_json::to_value(canned::incident()).unwrap();
    document["tree"].as_object_mut().unwrap().remove("depth");
    assert!(!schema::fits("incident", &document));
    let mut document = serde_json::to_value(canned::incident()).unwrap();
    document["opened_ns"] = 5.into();
    assert!(!schema::fits("incident", &document));
}

#[test]
fn nothing_from_outside_reaches_the_terminal() {
    let fake = Fake::start();
    let id = canned::ID;
    let mut pages = vec![];
    for args in [
        vec!["incidents"],
        vec!["show", id],
        vec!["show", id, "--markdown"],
        vec!["evidence", id],
        vec!["status"],
        vec!["top"],
        vec!["trigger", "--why", "x"],
        vec!["kill", id, "--yes"],
    ] {
        pages.push(fake.sensor(&args).run().done());
    }
    let mut watch = fake.sensor(&["watch", "--from", "0", "--all"]).start();
    let lines = BufReader::new(watch.stdout()).lines().take(canned::records().len());
    pages.extend(lines.map(Result::unwrap));
    for page in pages {
        assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{page:?}");
        assert!(!page.contains('\u{202e}'), "{page:?}");
    }
}

#[test]
fn a_piece_of_evidence_is_put_together_from_its_parts() {
    let fake = Fake::start();
    let all = json(&fake.sensor(&["evidence", canned::ID, "--json"]).run().done());
    for piece in all.as_array().unwrap() {
        let id = piece["id"].as_str().unwrap();
        let one = json(&fake.sensor(&["evidence", canned::ID, id, "--json"]).run().done());
        assert_eq!(&one, piece);
        let shown = fake.sensor(&["evidence", canned::ID, id]).run().done();
        assert!(shown.starts_with(id), "{shown}");
    }
    let raw = |id| fake.sensor(&["evidence", canned::ID, id, "--raw"]);
    assert_eq!(raw("e6").run().done(), canned::PLAIN);
    let tree = raw("e1").run();
    assert_eq!((tree.code, tree.stderr.contains("no text and no file")), (1, true), "{tree:?}");
    let terminal = raw("e3").on_terminal("");
    assert_eq!(terminal.code, 1, "{terminal:?}");
    assert!(terminal.stdout.contains("write them to a file"), "{terminal:?}");
    let none = raw("e99").run();
    assert_eq!(none.code, 1, "{none:?}");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let fake = Fake::start();
    let coloured = |no_colour: &str| {
        let said = fake.sensor(&["incidents"]).env("NO_COLOR", no_colour).on_terminal("");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stdout.contains("recursion"), "{said:?}");
        said.stdout.contains("\x1b[")
    };
    assert!(coloured(""));
    assert!(!coloured("1"));
    assert!(!fake.sensor(&["incidents"]).run().done().contains('\x1b'));
}

#[test]
fn filters_are_passed_on() {
    let fake = Fake::start();
    fake.sensor(&[
        "incidents",
        "--kind",
        "recursion",
        "--state",
        "open",
        "--since",
        "1970-01-02T00:00:00Z",
    ])
    .run()
    .done();
    let asked = fake.listed().pop().unwrap();
    assert_eq!(asked.kind(), v1::Kind::Recursion);
    assert_eq!(asked.state(), v1::State::Open);
    assert_eq!(asked.since.unwrap().seconds, 86_400);
}

#[test]
fn a_watch_asks_for_what_it_is_told_to() {
    let fake = Fake::ending();
    let said = fake
        .sensor(&[
            "watch",
            "--kind",
            "action",
            "--kind",
            "lost",
            "--incident",
            "4k2m",
            "--severity",
            "warning",
        ])
        .run();
    assert_eq!((said.code, said.stdout.lines().count()), (1, 2), "{said:?}");
    let asked = fake.streamed().pop().unwrap();
    assert_eq!(asked.kinds, ["action", "lost"]);
    assert_eq!((asked.incident.as_str(), asked.severity()), (canned::ID, v1::Severity::Warning));
    assert!(asked.follow && asked.from_end);
}

#[test]
fn what_comes_by_the_second_is_not_in_a_text_unasked() {
    let fake = Fake::ending();
    let lines = |more: &[&str]| {
        let said = fake.sensor(&[&["watch", "--from", "0"], more].concat()).run();
        said.stdout.lines().count()
    };
    let records = canned::records().len();
    // A sample of memory and a look at pressure.
    assert_eq!(lines(&[]), records - 2);
    assert_eq!((lines(&["--all"]), lines(&["--json"])), (records, records));
}

#[test]
fn what_is_dangerous_asks_first() {
    let fake = Fake::start();
    // Off a terminal there is nobody to ask.
    for verb in ["kill", "freeze"] {
        let said = fake.sensor(&[verb, canned::ID]).run();
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains("--yes"), "{said:?}");
    }
    let said = fake.sensor(&["kill", canned::ID]).on_terminal("n\n");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.contains("of user 1000 and all of their trees, 43 processes? [y/N]"),
        "{said:?}"
    );
    assert!(fake.acted().is_empty());

    assert_eq!(fake.sensor(&["kill", canned::ID]).on_terminal("y\n").code, 0);
    fake.sensor(&["freeze", "4k2m", "--yes", "--why", "drill"]).run().done();
    fake.sensor(&["thaw", "4k2m"]).run().done();
    fake.sensor(&["resolve", "4k2m"]).run().done();
    let acted: Vec<_> = fake.acted().iter().map(|act| (act.verb(), act.id.clone())).collect();
    let expected = [Verb::Kill, Verb::Freeze, Verb::Thaw, Verb::Resolve];
    assert_eq!(acted, expected.map(|verb| (verb, canned::ID.to_owned())));
    assert_eq!(fake.acted()[1].why, "drill");
}

#[test]
fn nothing_is_asked_of_an_incident_that_is_over() {
    let fake = Fake::start();
    for arguments in [&["kill", "over", "--yes"][..], &["thaw", "over"], &["investigate", "over"]] {
        let said = fake.sensor(arguments).run();
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(&format!("nothing to {}", arguments[0])), "{said:?}");
    }
    assert!(fake.acted().is_empty());
}

#[test]
fn trees_come_again_and_again() {
    let fake = Fake::start();
    let mut top = fake.sensor(&["top", "--json", "--sort", "forks", "--limit", "7"]).start();
    for (n, line) in (1..).zip(BufReader::new(top.stdout()).lines().take(3)) {
        let list = json(&line.unwrap());
        schema::check("trees", &list);
        assert_eq!(list["processes"], n);
    }
    drop(top);
    let page = fake.sensor(&["top", "--cgroup", "/a"]).run().done();
    assert!(
        page.lines().any(|line| line.starts_with("   4121         43      -3       12")),
        "{page}"
    );
    let asked: Vec<_> =
        fake.trees().into_iter().map(|it| (it.order(), it.limit, it.cgroup)).collect();
    let processes = (v1::TreeOrder::Processes, 20, "/a".to_owned());
    assert_eq!(asked, [(v1::TreeOrder::Forks, 7, String::new()), processes]);
}

#[test]
fn the_terminal_is_left_as_it_was() {
    let fake = Fake::start();
    let said = fake.sensor(&["top"]).on_terminal("xq");
    assert_eq!(said.code, 0, "{said:?}");
    let (enter, leave) = ("\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l");
    let begins = said.stdout.find(enter).unwrap();
    let page = said.stdout[begins..].strip_suffix(leave).unwrap();
    // Nothing of what is listed but what draws the page.
    assert!(!page.contains("\x1b]") && !page.contains('\u{202e}'), "{said:?}");

    // Also where the daemon goes away.
    let fake = Fake::ending();
    let said = fake.sensor(&["top"]).on_terminal("");
    assert_eq!(said.code, 1, "{said:?}");
    let (page, error) = said.stdout.split_once(leave).unwrap();
    assert!(page.contains("contained: npm"), "{said:?}");
    assert!(error.contains("sensor: the sensor answers no more"), "{said:?}");

    // A terminal that knows no escape sequences gets none.
    let said = fake.sensor(&["top"]).env("TERM", "dumb").on_terminal("");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(!said.stdout.contains('\x1b'), "{said:?}");
    assert_eq!(said.stdout.matches("COMMAND").count(), 2, "each list is a page: {said:?}");
}

#[test]
fn a_daemon_that_stops_is_told_of() {
    let fake = Fake::start();
    let mut top = fake.sensor(&["top", "--json"]).start();
    let mut lines = BufReader::new(top.stdout()).lines();
    lines.next().unwrap().unwrap();
    drop(fake);
    lines.for_each(|line| drop(line.unwrap()));
    let said = top.end_within(Duration::from_secs(20));
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.starts_with("sensor: the sensor answers no more: was it stopped?"),
        "{said:?}"
    );
}

#[test]
fn pause_and_resume_switch() {
    let fake = Fake::start();
    assert!(fake.sensor(&["pause"]).run().done().contains("is off"));
    assert!(fake.sensor(&["resume"]).run().done().contains("is on"));
}

#[test]
fn failures_are_one_line_and_1() {
    let fake = Fake::start();
    let line = |said: Said, part: &str| {
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
        assert!(said.stderr.starts_with("sensor: ") && said.stderr.contains(part), "{said:?}");
    };
    line(fake.sensor(&["show", "zzz"]).run(), "no incident");
    line(fake.sensor(&["trigger", "--why", "refuse me"]).run(), "join group");
    line(fake.sensor(&["kill", "fails", "--yes"]).run(), "kill: nobody was left");

    let nobody = tempfile::tempdir().unwrap();
    let socket = nobody.path().join("none.sock");
    line(program::Sensor::new(&["status"], &socket).run(), "`sensor run`");
    fs::write(&socket, "").unwrap();
    line(program::Sensor::new(&["status"], &socket).run(), "not running");

    let bad = nobody.path().join("bad.toml");
    fs::write(&bad, "[kernel]\nring_bytes = 3\n").unwrap();
    let bad = bad.to_str().unwrap();
    for args in [
        ["config", "check", bad],
        ["config", "show", bad],
        ["doctor", "--config", bad],
        ["run", "--config", bad],
    ] {
        line(fake.sensor(&args).run(), &format!("{bad}:2: kernel.ring_bytes: 3 is not within"));
    }
}

#[test]
fn wrong_usage_is_2() {
    let fake = Fake::start();
    for args in [
        vec!["dance"],
        vec!["show"],
        vec!["show", "abc", "--records"],
        vec!["watch", "--kind", "party"],
        vec!["watch", "--severity", "high"],
        vec!["incidents", "--kind", "party"],
        vec!["incidents", "--since", "tuesday"],
        vec!["trigger"],
        vec!["trigger", "--why", "x", "--pid", "0"],
        vec!["top", "--interval", "0"],
        vec!["top", "--limit", "101"],
        vec!["top", "--sort", "beauty"],
        vec![],
    ] {
        let said = fake.sensor(&args).run();
        assert_eq!(said.code, 2, "{args:?} {said:?}");
        assert!(!said.stderr.is_empty());
    }
}

#[test]
fn the_default_configuration_is_good() {
    let fake = Fake::start();
    let text = fake.sensor(&["config", "default"]).run().done();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &text).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(fake.sensor(&["config", "check", path]).run().done(), format!("{path} is good\n"));
    let shown = fake.sensor(&["config", "show", path]).run().done();
    fs::write(file.path(), &shown).unwrap();
    assert_eq!(fake.sensor(&["config", "show", path]).run().done(), shown);
}

#[test]
fn a_watch_goes_on_where_another_ended() {
    let fake = Fake::start();
    let all: Vec<u64> = canned::records().iter().map(|record| record.seq).collect();
    let read = |from: u64, count: usize| -> Vec<u64> {
        let mut watch = fake.sensor(&["watch", "--json", "--from", &from.to_string()]).start();
        let lines = BufReader::new(watch.stdout()).lines().take(count);
        lines.map(|line| json(&line.unwrap())["seq"].as_str().unwrap().parse().unwrap()).collect()
    };
    let first = read(0, 4);
    let second = read(first[3] + 1, all.len() - 4);
    assert_eq!([first, second].concat(), all);
}

#[test]
fn a_stream_that_ends_says_where_to_go_on() {
    let fake = Fake::ending();
    let said = fake.sensor(&["watch", "--json", "--from", "0"]).run();
    let next = canned::records().last().unwrap().seq + 1;
    assert_eq!(said.code, 1);
    assert_eq!(said.stdout.lines().count(), canned::records().len());
    assert!(said.stderr.ends_with(&format!("go on with --from {next}\n")), "{said:?}");
}

#[test]
fn a_stream_whose_daemon_is_gone_says_so() {
    let fake = Fake::start();
    let mut watch = fake.sensor(&["watch", "--json", "--from", "0"]).start();
    let records = canned::records();
    assert_eq!(BufReader::new(watch.stdout()).lines().take(records.len()).count(), records.len());
    drop(fake);
    let said = watch.end_within(Duration::from_secs(20));
    let next = records.last().unwrap().seq + 1;
    assert_eq!(
        (said.code, said.stderr),
        (
            1,
            format!(
                "sensor: the stream of records ended before record {next}: the sensor answers no more (was it stopped?); \
                 go on with --from {next}\n"
            )
        )
    );
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let fake = Fake::endless();
    let mut watch = fake.sensor(&["watch", "--json", "--from", "0"]).start();
    let mut stdout = watch.stdout();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let said = watch.end_within(Duration::from_secs(20));
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

#[test]
fn the_canned_records_hold_one_of_each_body() {
    let count = |wanted: fn(&Body) -> bool| {
        canned::records().iter().filter(|record| record.body.as_ref().is_some_and(wanted)).count()
    };
    assert_eq!(count(|body| matches!(body, Body::Evidence(_))), 12);
    // An exec, a sample of memory, an alarm of each way in which they are told, kills, pressure and usage.
    assert_eq!(count(|body| matches!(body, Body::Observation(_))), 8);
}

#[test]
fn the_documentation_quotes_the_default_configuration() {
    let document = include_str!("../../../docs/configuration.md");
    let quoted = document.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(quoted, Fake::start().sensor(&["config", "default"]).run().done());
}

#[test]
fn an_incident_is_exported_and_shown_elsewhere() {
    let fake = Fake::start();
    let id = canned::ID;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.incident");
    let file = file.to_str().unwrap();
    let said = fake.sensor(&["export", "4k2m", file]).run().done();
    let records = canned::records().into_iter().filter(|record| record.incident == id).count();
    assert!(said.starts_with(&format!("{file}: incident {id}, {records} records, ")), "{said}");
    // Once is enough.
    let again = fake.sensor(&["export", id, file]).run();
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("overwrites nothing: name another file"), "{again:?}");

    // Without a daemon, the same as from it.
    let nobody = directory.path().join("none.sock");
    let sensor = |args: &[&str]| program::Sensor::new(args, &nobody);
    let direct = fake.sensor(&["show", id, "--json"]).run().done();
    assert_eq!(sensor(&["show", "--file", file, "--json"]).run().done(), direct);
    let direct = fake.sensor(&["evidence", id, "--json"]).run().done();
    assert_eq!(json(&sensor(&["evidence", "--file", file, "--json"]).run().done()), json(&direct));
    let direct = fake.sensor(&["evidence", id]).run().done();
    assert_eq!(sensor(&["evidence", "--file", file]).run().done(), direct);
    let lines = sensor(&["show", "--file", file, "--records", "--json"]).run().done();
    assert_eq!(lines.lines().count(), records);
    lines.lines().for_each(|line| schema::check("record", &json(line)));
    let window = sensor(&["show", "--file", file, "--markdown", "--json"]).run().done();
    schema::check("window", &json(&window));
    for args in [vec!["show", "--file", file], vec!["show", "--file", file, "--records"]] {
        let page = sensor(&args).run().done();
        assert!(page.lines().count() > 1);
        assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{page:?}");
    }

    // Half of it is shown, and where that ends is an error.
    let whole = fs::read(file).unwrap();
    for (args, kept) in [
        (vec!["show", "--file", file, "--json"], whole.len() - 9),
        (vec!["show", "--file", file], whole.len() / 2),
        (vec!["show", "--file", file, "--records"], whole.len() - 1),
        (vec!["evidence", "--file", file, "--json"], whole.len() - 9),
    ] {
        fs::write(file, &whole[..kept]).unwrap();
        let cut = sensor(&args).run();
        assert_eq!((cut.code, cut.stderr.lines().count()), (1, 1), "{cut:?}");
        assert!(cut.stderr.contains("is cut off be") && cut.stderr.contains("record"), "{cut:?}");
        assert!(!cut.stdout.is_empty(), "{cut:?}");
        if args.contains(&"--json") {
            json(&cut.stdout);
        }
    }
    let mut damaged = whole.clone();
    damaged[whole.len() - 2] ^= 1;
    fs::write(file, damaged).unwrap();
    let said = sensor(&["show", "--file", file, "--json"]).run();
    assert_eq!(said.code, 1, "its checksum is wrong");
    assert!(said.stderr.contains(&format!("is damaged behind record {records}: ")), "{said:?}");
    schema::check("incident", &json(&said.stdout));
    fs::write(file, &whole[16..]).unwrap();
    let foreign = sensor(&["evidence", "--file", file]).run();
    assert_eq!((foreign.code, foreign.stdout.as_str()), (1, ""));
    assert!(foreign.stderr.contains("is no export ("), "{foreign:?}");
    for args in
        [vec!["show", id, "--file", file], vec!["show", id, "--records"], vec!["export", id]]
    {
        assert_eq!(sensor(&args).run().code, 2, "{args:?}");
    }
}
