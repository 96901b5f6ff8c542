//! Input that was made to break or to mislead.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
};

use serde_json::json;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    names, needs,
    run::write_program,
    workloads::{named, oom, script},
};

use crate::support::{CATCH, asked, contained, id, killed};

/// The longest single argument that the kernel takes: 128 KiB with the byte that ends it.
const LONGEST: usize = (128 << 10) - 1;

/// All that a daemon says about an incident, to people and to programs.
fn everything(sensor: &Sensor, id: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = [
        &["show", id][..],
        &["show", id, "--json"],
        &["show", id, "--markdown"],
        &["show", id, "--markdown", "--json"],
        &["evidence", id],
        &["evidence", id, "--json"],
        &["incidents"],
        &["incidents", "--json"],
    ]
    .iter()
    .map(|arguments| (arguments.join(" "), sensor.output(arguments).unwrap()))
    .collect();
    let mut watch = sensor.watch(0).unwrap();
    let resolved = |record: &serde_json::Value| record["transition"]["to"] == "resolved";
    watch.find(CATCH, resolved).unwrap();
    let records: Vec<String> =
        watch.kill().into_iter().map(|arrival| arrival.record.to_string()).collect();
    all.push(("watch --json".into(), records.join("\n")));
    all
}

/// The bytes of everything that the daemon keeps.
fn on_disk(sensor: &Sensor) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(sensor.state_directory()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            bytes.extend(fs::read(entry.path()).unwrap());
        }
    }
    assert!(!bytes.is_empty(), "the daemon keeps nothing");
    bytes
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn arguments_that_lie_and_leak() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    // A GitHub token has 36 letters and digits behind its prefix.
    let token = format!("{}{}{}Aa1Bb2", names::word(), names::word(), names::word());
    let secrets = [names::word(), names::word(), names::word(), token];
    let arguments: Vec<OsString> = vec![
        "--password".into(),
        secrets[0].clone().into(),
        format!("--api-token={}", secrets[1]).into(),
        format!("https://someone:{}@example.com/", secrets[2]).into(),
        format!("ghp_{}", secrets[3]).into(),
        // Clears a terminal, sets its title, and writes over what stands there.
        "\x1b[2J\x1b]0;title\x07\rnothing to see".into(),
        "two\nlines\tand {\"json\": true}".into(),
        OsStr::from_bytes(b"\xff\xfe\x80 not UTF-8 \xc3\x28").into(),
        // Reads from right to left.
        "\u{202e}txt.exe\u{2069}".into(),
        OsString::new(),
        OsString::from_vec(vec![b'x'; LONGEST]),
    ];
    let work = script::line_with(20, &arguments).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    killed(&sensor, &cage, &incident);

    for (call, text) in everything(&sensor, id(&incident)) {
        let odd = text.chars().find(|one| one.is_control() && *one != '\n');
        assert_eq!(odd, None, "a control character in `{call}`");
        assert!(!text.contains('\u{202e}'), "a change of direction in `{call}`");
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} leaked through `{call}`");
        }
    }
    let kept = on_disk(&sensor);
    for secret in &secrets {
        assert!(!contains(&kept, secret.as_bytes()), "{secret} is on the disk");
        assert!(!sensor.log_tail().contains(secret.as_str()), "{secret} is in the daemon's log");
    }
    // The search itself works: what is no secret is there.
    let path = work.names[0].as_bytes();
    assert!(contains(&kept, path), "the script's path is not on the disk");
}

#[test]
fn secrets_in_a_file_a_log_and_what_an_agent_says() {
    needs!();
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let secrets: [String; 4] = std::array::from_fn(|_| format!("{}7Q", names::word()));
    // Says all that it was given, and what it knows besides.
    let agent = place.path().join(names::word());
    let say = format!(
        "#!/bin/sh\ntr '{{}},' '\\n\\n\\n'\necho 'tool --password {secret}'\necho '{{\"findings\": \"token={secret}\"}}'\n",
        secret = secrets[0]
    );
    write_program(&agent, say).unwrap();
    let more = format!(
        "[investigate]\nagent = \"command\"\n\n[investigate.command]\nprogram = [{agent:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &more).unwrap();
    // Some machines let nobody write there; the other places are looked at all the same.
    let line = format!("<5>a test's line: api_key={}\n", secrets[1]);
    let _ = fs::write("/dev/kmsg", line);
    let password = format!("--db-password={}", secrets[2]);
    let work = script::line_with(20, &[password.into()]).unwrap();
    // Its own script, in which it is read why it calls itself.
    let script = Path::new(&work.names[0]);
    let own = fs::read_to_string(script).unwrap();
    write_program(script, format!("{own}# postgres://app:{}@db/app\n", secrets[3])).unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    let mut watch = sensor.watch(0).unwrap();
    watch.find(CATCH, |record| record["investigation"]["state"] == "done").unwrap();
    watch.kill();
    killed(&sensor, &cage, &incident);

    let everything = everything(&sensor, id(&incident));
    for (call, text) in &everything {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} leaked through `{call}`");
        }
    }
    let kept = on_disk(&sensor);
    for secret in &secrets {
        assert!(!contains(&kept, secret.as_bytes()), "{secret} is on the disk");
    }
    // The search itself works: what stands beside the secrets is there, in window and transcript.
    let of = |wanted: &str| {
        let found = everything.iter().find(|(call, _)| call.ends_with(wanted));
        found.map(|(_, text)| text.as_str()).unwrap()
    };
    for call in ["--markdown", "watch --json"] {
        assert!(of(call).contains("postgres://app:[redacted:url-password:"), "{}", of(call));
        assert!(of(call).contains("--db-password=[redacted:option:"), "{}", of(call));
    }
    let told = of("watch --json");
    assert!(told.contains("tool --password [redacted:option:"), "{told}");
}

#[test]
fn secrets_in_the_names_of_things() {
    needs!("cc");
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path()).unwrap();
    let agent = place.path().join(names::word());
    let breaks = "#!/bin/sh\ntr '{},' '\\n\\n\\n'\necho '{\"findings\": \"none\"}'\n";
    write_program(&agent, breaks).unwrap();
    let more = format!(
        "[investigate]\nagent = \"command\"\n\n[investigate.command]\nprogram = [{agent:?}]\n"
    );
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, &more).unwrap();
    let [cwd, program, programs, group]: [String; 4] =
        std::array::from_fn(|_| format!("7{}", &names::word()[1..]));
    // Of a task's name the kernel keeps 15 bytes.
    let task = format!("pwd={program}");
    let directory = cage.directory().join(format!("token={group}"));
    fs::create_dir(&directory).unwrap();
    let work = named::among(&format!("password={cwd}"), &task, &format!("api_key={programs}"));
    let work = work.unwrap().in_group(&directory);
    fs::write(work.cwd.join("notes"), "what it is for").unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    let mut watch = sensor.watch(0).unwrap();
    watch.find(CATCH, |record| record["investigation"]["state"] == "done").unwrap();
    watch.kill();
    let tools = [
        "incident_get",
        "timeline",
        "process_tree",
        "process_detail",
        "stacks",
        "cgroup",
        "top_growth",
        "read_source",
    ];
    let mut told: Vec<(String, String)> = Vec::new();
    for tool in tools {
        let arguments = match tool {
            "process_detail" => json!({"pid": running.pid()}),
            "read_source" => json!({"path": "notes"}),
            _ => json!({}),
        };
        let answer = asked(&sensor, id(&incident), tool, &[arguments]).remove(0);
        assert_ne!(answer["isError"], true, "{tool}: {answer:#}");
        told.push((tool.to_owned(), answer.to_string()));
    }
    // It is read where it is, whatever that is called in the record.
    let (_, read) = told.last().unwrap();
    assert!(read.contains("what it is for"), "{read}");
    for call in [&["top", "--once"][..], &["top", "--json", "--once"], &["status", "--json"]] {
        told.push((call.join(" "), sensor.output(call).unwrap()));
    }
    killed(&sensor, &cage, &incident);
    told.extend(everything(&sensor, id(&incident)));

    let secrets = [&cwd, &program, &programs, &group];
    let kept = on_disk(&sensor);
    for secret in secrets {
        for (call, text) in &told {
            assert!(!text.contains(secret.as_str()), "{secret} leaked through `{call}`: {text}");
        }
        assert!(!contains(&kept, secret.as_bytes()), "{secret} is on the disk");
        assert!(!sensor.log_tail().contains(secret.as_str()), "{secret} is in the daemon's log");
    }
    // The search itself works: what stands beside the secrets is there.
    for beside in ["password=", "pwd=", "api_key=", "token="] {
        let mark = format!("{beside}[redacted:");
        assert!(contains(&kept, mark.as_bytes()), "no {mark} on the disk");
        assert!(told.iter().any(|(_, text)| text.contains(&mark)), "no {mark} is shown");
    }
}

#[test]
fn secrets_in_the_names_of_what_the_kernel_kills() {
    needs!();
    let limits = Limits { tasks: Some(50), memory_bytes: Some(96 << 20) };
    let cage = Cage::new(limits).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let [cwd, program, group]: [String; 3] =
        std::array::from_fn(|_| format!("7{}", &names::word()[1..]));
    let directory = cage.directory().join(format!("token={group}"));
    fs::create_dir(&directory).unwrap();
    let mut work = oom::fills_named(&format!("pwd={program}")).unwrap().in_group(&directory);
    work.cwd = work.directory.path().join(format!("password={cwd}"));
    fs::create_dir(&work.cwd).unwrap();
    let mut running = work.start(&cage).unwrap();
    running.wait(CATCH).unwrap();
    let explained =
        |one: &serde_json::Value| one["kind"] == "oom_kill" && !one["diagnosis"].is_null();
    let incident = sensor.wait_for(CATCH, explained).unwrap();
    sensor.output(&["resolve", id(&incident), "--yes"]).unwrap();
    let victim = &incident["oom"]["victims"][0]["victim"];
    assert_eq!(victim["process"]["pid"], running.pid(), "{incident:#}");
    let cgroup = victim["cgroup"].as_str().unwrap();
    assert!(cgroup.starts_with(&format!("{}/token=[redacted:", cage.path())), "{cgroup}");
    assert!(victim["comm"].as_str().unwrap().starts_with("pwd=[redacted:"), "{victim:#}");

    let told = everything(&sensor, id(&incident));
    let kept = on_disk(&sensor);
    for secret in [&cwd, &program, &group] {
        for (call, text) in &told {
            assert!(!text.contains(secret.as_str()), "{secret} leaked through `{call}`: {text}");
        }
        assert!(!contains(&kept, secret.as_bytes()), "{secret} is on the disk");
        assert!(!sensor.log_tail().contains(secret.as_str()), "{secret} is in the daemon's log");
    }
}

#[test]
fn a_working_directory_that_is_gone() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    let mut work = script::line(20).unwrap();
    work.cwd = work.directory.path().join(names::word());
    fs::create_dir(&work.cwd).unwrap();
    let running = work.start(&cage).unwrap();
    fs::remove_dir(&work.cwd).unwrap();
    let incident = contained(&sensor, running.pid());
    killed(&sensor, &cage, &incident);
}

#[test]
fn names_that_look_like_something_else() {
    needs!();
    let cage = Cage::new(Limits::default()).unwrap();
    let sensor = Sensor::start(&cage, "").unwrap();
    // In /proc/PID/stat the name stands in brackets, and fields follow.
    let work = script::line_named(20, ") R 1 1\n(").unwrap();
    let running = work.start(&cage).unwrap();
    let incident = contained(&sensor, running.pid());
    killed(&sensor, &cage, &incident);
}
