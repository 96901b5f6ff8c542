//! Drivers with real programs, well-behaved and not.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use super::*;
use crate::{cgroup, cgroup::Hierarchies, config::Stage, proto::evidence::Content};

/// Where the programs of one test run.
struct Place {
    dir: tempfile::TempDir,
    hierarchies: Hierarchies,
    home: PathBuf,
}

impl Place {
    /// `None`, with the reason printed, where this cannot be.
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP investigate::{test}: needs root");
            return None;
        }
        let hierarchies = Hierarchies::discover().unwrap();
        if hierarchies.unified().is_none() {
            eprintln!("SKIP investigate::{test}: no cgroup v2 is mounted");
            return None;
        }
        let home = PathBuf::from(format!("/sensor-test-{test}-{}", std::process::id()));
        fs::create_dir(hierarchies.dir(&home).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // The user of the programs passes through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { dir, hierarchies, home })
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch")
    }

    fn command(&self, argv: &[&str]) -> Command {
        let argv = argv.iter().map(ToString::to_string).collect();
        let mut command =
            Command::new(argv, self.hierarchies.clone(), self.home.clone(), self.scratch());
        command.deadline = Duration::from_secs(20);
        command
    }

    fn script(&self, script: &str) -> Command {
        self.command(&["sh", "-c", script])
    }

    /// Nothing is left: neither process nor group nor file.
    fn assert_clean(&self) {
        let dir = self.hierarchies.dir(&self.home).unwrap();
        assert_eq!(cgroup::members(&dir, 100).unwrap(), Some(vec![]));
        let groups = fs::read_dir(&dir).unwrap().flatten();
        assert_eq!(groups.filter(|entry| entry.path().is_dir()).count(), 0);
        if self.scratch().exists() {
            assert_eq!(fs::read_dir(self.scratch()).unwrap().count(), 0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = cgroup::remove(&self.hierarchies.dir(&self.home).unwrap(), Duration::from_secs(5));
    }
}

struct Outcome {
    lines: Vec<(&'static str, String)>,
    end: End,
}

impl Outcome {
    fn of(&self, stream: &str) -> Vec<&str> {
        let lines = self.lines.iter().filter(|(from, _)| *from == stream);
        lines.map(|(_, text)| text.as_str()).collect()
    }
}

fn hide(text: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(text).replace("hunter2", "[redacted]").into_bytes()
}

fn dossier() -> Dossier {
    let diagnosis = proto::Diagnosis {
        cause: "`tool a` starts itself.".into(),
        confidence: 0.9,
        evidence: vec!["e2".into()],
        by: "recursion".into(),
        remedy: "Remove line 3 of Toolfile.".into(),
        cycle: None,
    };
    let process = |comm: &str, depth| proto::Process {
        comm: comm.into(),
        state: "T".into(),
        depth,
        anon_bytes: 1 << 20,
        ..Default::default()
    };
    let evidence = |id: &str, name: &str, content| Evidence {
        id: id.into(),
        name: name.into(),
        content: Some(content),
        ..Default::default()
    };
    Dossier {
        incident: proto::Incident {
            id: "abcdefghij".into(),
            state: proto::State::Contained as i32,
            summary: "tool a starts itself".into(),
            diagnosis: Some(diagnosis),
            ..Default::default()
        },
        window: None,
        stage: Stage::Diagnose,
        evidence: vec![
            evidence(
                "e1",
                "tree",
                Content::Tree(proto::ProcessTree {
                    processes: vec![process("tool", 0), process("tool", 1), process("s\x1bh", 2)],
                    omitted: 1,
                }),
            ),
            evidence(
                "e2",
                "file",
                Content::File(proto::FileFact {
                    path: b"/w/Toolfile".to_vec(),
                    state: proto::file_fact::State::Present as i32,
                    size: 99,
                    ..Default::default()
                }),
            ),
            evidence("e3", "pressure", Content::Text(b"some avg10=71.50 avg60=1.00".to_vec())),
            evidence(
                "e4",
                "meminfo",
                Content::Text(b"MemTotal: 2048 kB\nMemAvailable: 1024 kB".to_vec()),
            ),
            evidence("e5", "kernel_log", Content::Text(b"x: segfault at 0\n".to_vec())),
        ],
    }
}

use crate::proto::Evidence;

fn run(driver: &Driver, dossier: &Dossier, stop: &Stop) -> Outcome {
    run_redacted(driver, dossier, &hide, stop)
}

fn run_redacted(driver: &Driver, dossier: &Dossier, redact: Redact<'_>, stop: &Stop) -> Outcome {
    let (mut lines, mut end) = (Vec::new(), None);
    driver.run("ab-1", dossier, None, redact, stop, &mut |event| {
        assert!(end.is_none(), "nothing comes after the end");
        match event {
            Event::Line { stream, text } => {
                lines.push((stream, String::from_utf8_lossy(&text).into_owned()));
            }
            Event::End(last) => end = Some(last),
            other => panic!("{other:?}"),
        }
    });
    Outcome { lines, end: end.unwrap() }
}

fn run_command(command: Command) -> Outcome {
    run(&Driver::Command(command), &dossier(), &Stop::new().unwrap())
}

#[test]
fn the_playbook_goes_through_all_evidence() {
    let outcome = run(&Driver::Builtin, &dossier(), &Stop::new().unwrap());
    let lines = outcome.of("playbook");
    let begins = [
        "1/7 looked at the culprit's tree (e1): 4 processes (2 × tool, 1 × s\\x1bh), 2 levels deep, 3 MiB of their own memory, 3 of 3 stopped. It means: the tree stands still",
        "2/7 looked at /w/Toolfile (e2): a file of 99 bytes. It means: it is part of the cause",
        "3/7 looked at the host's pressure (e3): work waited for a resource in up to 71.5 %",
        "4/7 looked at the host's memory (e4): 1 of 2 MiB are available",
        "5/7 looked at the kernel's log (e5): 1 line, a program crashed",
        "6/7 looked at the diagnosis of recursion (it cites e2): `tool a` starts itself. It means: 90 % sure. Next: Remove line 3 of Toolfile.",
        "7/7 looked at what was done about it: nothing yet",
    ];
    assert_eq!(lines.len(), begins.len());
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line}");
    }
    assert_eq!(outcome.end.state, InvestigationState::Done);
    assert_eq!(
        outcome.end.findings,
        "tool a starts itself. Cause: `tool a` starts itself. Remedy: Remove line 3 of Toolfile."
    );
}

#[test]
fn the_playbook_says_a_cause_once_and_as_it_was_escaped() {
    let mut told = dossier();
    let incident = &mut told.incident;
    incident.summary = r"`tool a\x0ab` starts itself".into();
    incident.diagnosis.as_mut().unwrap().cause = r"`tool a\x0ab` starts itself. It goes on.".into();
    let end = run(&Driver::Builtin, &told, &Stop::new().unwrap()).end;
    assert_eq!(
        end.findings,
        r"`tool a\x0ab` starts itself. It goes on. Remedy: Remove line 3 of Toolfile."
    );
}

#[test]
fn the_playbook_claims_nothing_of_what_it_does_not_know() {
    let step = |log: &str| {
        let log = Content::Text(log.as_bytes().to_vec());
        let log =
            proto::Evidence { name: "kernel_log".into(), content: Some(log), ..Default::default() };
        let dossier = Dossier { evidence: vec![log], ..dossier() };
        let outcome = run(&Driver::Builtin, &dossier, &Stop::new().unwrap());
        outcome.of("playbook")[0].to_owned()
    };
    let disk =
        step("EXT4-fs error (device loop0)\nEXT4-fs (loop0): Remounting filesystem read-only\n");
    assert!(disk.contains("2 lines, a file system can no longer be written"), "{disk}");
    let other = step("flux capacitor: out of range\n");
    assert!(other.contains("what else it says is for a person"), "{other}");
}

/// 7 met the limit of /a, and was killed.
fn killed_at_a_limit() -> Dossier {
    let key = proto::ProcessKey { pid: 7, start_ns: 1 };
    let victim = proto::Actor { process: Some(key), ..Default::default() };
    let mut oom = proto::Oom {
        cgroup: "/a".into(),
        limit_bytes: Some(100 << 20),
        kills: 1,
        victims: vec![proto::OomKill { victim: Some(victim), ..Default::default() }],
        ..Default::default()
    };
    oom.set_scope(proto::OomScope::Cgroup);
    let mut told = dossier();
    told.evidence.retain(|piece| piece.name == "meminfo");
    told.incident.culprit = Some(proto::Culprit { pid: 7, start_ns: 1, ..Default::default() });
    told.incident.oom = Some(oom);
    told.incident.set_kind(proto::Kind::OomKill);
    told.incident.set_state(proto::State::Open);
    told
}

#[test]
fn the_playbook_speaks_of_the_limit_that_was_met() {
    let lines = |dossier: &Dossier| {
        let outcome = run(&Driver::Builtin, dossier, &Stop::new().unwrap());
        let lines = outcome.of("playbook");
        (lines[0].to_owned(), lines[lines.len() - 1].to_owned())
    };
    let mut told = killed_at_a_limit();
    let (memory, done) = lines(&told);
    let wanted = "It means: the host has memory: what is short is the limit of /a, 100 MiB. Next: look at who is in \
                  that group";
    assert!(memory.contains(wanted), "{memory}");
    assert!(done.contains("whoever it was has ended") && !done.contains("freeze"), "{done}");
    // Whoever was spared can be stopped.
    told.incident.culprit.as_mut().unwrap().pid = 8;
    assert!(lines(&told).1.contains("`sensor freeze abcdefghij`"));
    // By what growth comes to.
    told.incident.oom = None;
    let limit = crate::detect::memory::measures::measure("limit", 209_715_200.0, None, "bytes");
    told.incident.finding = Some(proto::Finding { measures: vec![limit], ..Default::default() });
    let (memory, _) = lines(&told);
    assert!(memory.contains("the limit of the culprit's group, 200 MiB"), "{memory}");
    told.incident.finding = None;
    let (memory, _) = lines(&told);
    assert!(memory.contains("the host has some memory left now"), "{memory}");
}

#[test]
fn the_playbook_needs_no_evidence() {
    let empty = Dossier {
        incident: proto::Incident::default(),
        evidence: Vec::new(),
        window: None,
        stage: Stage::Diagnose,
    };
    let outcome = run(&Driver::Builtin, &empty, &Stop::new().unwrap());
    assert_eq!((outcome.lines.len(), outcome.end.state), (2, InvestigationState::Done));
}

#[test]
fn the_playbook_takes_any_numbers() {
    let huge = proto::Process { anon_bytes: u64::MAX, ..Default::default() };
    let tree = proto::ProcessTree { processes: vec![huge.clone(), huge], omitted: u32::MAX };
    let piece = proto::Evidence { content: Some(Content::Tree(tree)), ..Default::default() };
    let dossier = Dossier {
        incident: proto::Incident::default(),
        evidence: vec![piece],
        window: None,
        stage: Stage::Diagnose,
    };
    let outcome = run(&Driver::Builtin, &dossier, &Stop::new().unwrap());
    assert!(outcome.of("playbook")[0].contains("17592186044415 MiB"), "u64::MAX bytes");
}

#[test]
fn a_program_gets_the_dossier_and_its_lines_are_told() {
    let Some(place) = Place::new("lines") else { return };
    let outcome = run_command(place.script(
        r#"cat > input; echo "password hunter2"; echo oops >&2
           grep -o '"id":"abcdefghij"' input; grep -c '"name":"kernel_log"' input
           echo '{"findings":"hunter2 is the cause"}'; echo bye"#,
    ));
    let lines = outcome.of("stdout");
    assert_eq!(
        lines,
        [
            "password [redacted]",
            "\"id\":\"abcdefghij\"",
            "1",
            "{\"findings\":\"[redacted] is the cause\"}",
            "bye"
        ]
    );
    assert_eq!(outcome.of("stderr"), ["oops"]);
    assert_eq!(outcome.of("sensor").len(), 1);
    let End { state, findings, error, wall_ns, .. } = outcome.end;
    assert_eq!((state, error.as_str()), (InvestigationState::Done, ""));
    assert_eq!(findings, "[redacted] is the cause");
    assert!(wall_ns > 0);
    place.assert_clean();
}

#[test]
fn a_program_is_confined() {
    let Some(place) = Place::new("confined") else { return };
    let pages = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("THP_enabled:"));
        line.unwrap_or_default().replace('\t', " ")
    };
    // As the daemon has it, for itself alone.
    let before = pages();
    crate::core::survival::take_small_pages().unwrap();
    assert_eq!(pages(), "THP_enabled: 0");
    let outcome = run_command(place.script(
        r#"id -un; id -G; pwd; env | cut -d= -f1 | sort | tr '\n' ' '; echo
           grep -E '^(NoNewPrivs|CapEff|CapPrm|THP_enabled):' /proc/self/status | tr '\n\t' '  '; echo
           cat /proc/self/oom_score_adj; ls /proc/self/fd | tr '\n' ' '; echo
           ulimit -c; cat /proc/self/cgroup | grep ^0; touch mine && stat -c %a .
           ps -o sid= -p $$ | tr -d ' ' | sed "s/^$$\$/own session/""#,
    ));
    let lines = outcome.of("stdout");
    let scratch = place.scratch().join("ab-1").display().to_string();
    assert_eq!(lines[0], "nobody");
    assert_eq!(lines[1].split(' ').count(), 1, "no supplementary groups: {}", lines[1]);
    assert_eq!(lines[2], scratch);
    // PWD, OLDPWD, SHLVL and _ are the shell's own.
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names: Vec<&str> = lines[3].split_whitespace().filter(|name| !own.contains(name)).collect();
    assert_eq!(names, ["HOME", "LANG", "PATH", "SENSOR_INCIDENT", "SENSOR_PROGRAM", "TMPDIR"]);
    assert!(lines[4].contains("CapPrm: 0000000000000000"), "{}", lines[4]);
    assert!(lines[4].contains(&before), "{}", lines[4]);
    assert!(lines[4].contains("CapEff: 0000000000000000") && lines[4].contains("NoNewPrivs: 1"));
    assert_eq!(lines[5], "0");
    // Standard streams, and the directory that ls reads.
    assert_eq!(lines[6].trim(), "0 1 2 3");
    assert_eq!(lines[7], "0");
    assert!(lines[8].starts_with(&format!("0::{}/investigation-", place.home.display())));
    assert_eq!(&lines[9..], ["700", "own session"]);
    place.assert_clean();
}

#[test]
fn a_home_that_cannot_be_reached_is_said() {
    let Some(place) = Place::new("home") else { return };
    let open = run_command(place.script("test -r $HOME && echo reached"));
    assert_eq!(open.of("stdout"), ["reached"]);
    assert!(!open.of("sensor")[0].contains("may not pass"));
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let closed =
        run_command(place.script("test -r $HOME || echo closed; touch ./mine && echo own"));
    assert_eq!(closed.of("stdout"), ["closed", "own"]);
    let wanted = format!("behind {}, where it may not pass", place.dir.path().display());
    assert!(closed.of("sensor")[0].contains(&wanted), "{:?}", closed.lines);
    place.assert_clean();
}

#[test]
fn programs_that_fail_say_how() {
    let Some(place) = Place::new("fail") else { return };
    let cases = [
        (place.script("echo tried; exit 3"), "exit code 3"),
        (place.script("kill -SEGV $$"), "signal 11"),
        (
            place.command(&["/nonexistent/program"]),
            "cannot start /nonexistent/program: No such file",
        ),
        (place.command(&[]), "the command is empty"),
    ];
    for (command, wanted) in cases {
        let outcome = run_command(command);
        assert_eq!(outcome.end.state, InvestigationState::Failed);
        assert!(outcome.end.error.contains(wanted), "{}", outcome.end.error);
        place.assert_clean();
    }
    assert_eq!(run_command(place.script("echo tried; exit 3")).end.findings, "tried");
    for (user, wanted) in [("root", "does not run as root"), ("no such user", "no user")] {
        let mut command = place.script("true");
        command.sandbox.user = Whom::Named(user.into());
        let end = run_command(command).end;
        assert!(end.error.contains(wanted), "{}", end.error);
    }
    place.assert_clean();
}

#[test]
fn a_program_that_hangs_is_ended_with_all_it_started() {
    let Some(place) = Place::new("hang") else { return };
    // Deaf to TERM, one child in a session of its own, one orphaned twice over.
    let mut command = place.script(
        "trap '' TERM; setsid sleep 300 & (setsid sh -c 'sleep 301 & sleep 302' &) ; echo stuck >&2; echo up; sleep 303; sleep 304",
    );
    command.deadline = Duration::from_millis(300);
    let outcome = run_command(command);
    assert_eq!(outcome.end.state, InvestigationState::TimedOut);
    let error = &outcome.end.error;
    assert!(error.contains("within 300ms"), "{error}");
    assert!(error.ends_with(" s of CPU time, and wrote last: stuck"), "{error}");
    assert_eq!(outcome.of("stdout"), ["up"]);
    // 300 ms, then 2 s between TERM and KILL.
    let wall = Duration::from_nanos(outcome.end.wall_ns);
    assert!(wall >= Duration::from_millis(2300) && wall < Duration::from_secs(10), "{wall:?}");
    place.assert_clean();
}

#[test]
fn a_long_log_ends_nobody_and_is_not_kept_whole() {
    let Some(place) = Place::new("log") else { return };
    let outcome = run_command(place.script("seq 2500 >&2; echo found"));
    assert_eq!(outcome.end.state, InvestigationState::Done, "{}", outcome.end.error);
    assert_eq!(outcome.end.findings, "found");
    let kept = outcome.of("stderr");
    assert_eq!((kept.len(), kept[1999]), (2000, "2000"));
    assert_eq!(
        *outcome.of("sensor").last().unwrap(),
        "no more than 2000 lines of its stderr are kept"
    );
    place.assert_clean();
}

#[test]
fn a_program_that_heeds_the_deadline_has_its_last_word() {
    let Some(place) = Place::new("heed") else { return };
    let mut command = place
        .script("trap 'echo \"{\\\"findings\\\":\\\"half\\\"}\"; exit 0' TERM; sleep 300 & wait");
    command.deadline = Duration::from_millis(300);
    let outcome = run_command(command);
    assert_eq!(outcome.end.state, InvestigationState::TimedOut);
    assert_eq!(outcome.end.findings, "half");
    assert!(Duration::from_nanos(outcome.end.wall_ns) < Duration::from_secs(2));
    place.assert_clean();
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let Some(place) = Place::new("behind") else { return };
    // The child keeps the pipes open; the run does not wait for it.
    let outcome = run_command(place.script("setsid sleep 300 & echo done"));
    assert_eq!(outcome.end.state, InvestigationState::Done);
    assert!(Duration::from_nanos(outcome.end.wall_ns) < Duration::from_secs(5));
    place.assert_clean();
}

#[test]
fn a_flood_is_cut_off() {
    let Some(place) = Place::new("flood") else { return };
    for (script, most) in [("yes; true", 10_001), ("head -c 99999999 /dev/zero; sleep 300", 1)] {
        let mut command = place.script(script);
        command.output_bytes = 1 << 20;
        let outcome = run_command(command);
        assert_eq!(outcome.end.state, InvestigationState::Failed);
        assert!(outcome.end.error.contains("wrote more than"), "{}", outcome.end.error);
        let lines = outcome.of("stdout");
        assert!(lines.len() <= most, "{}", lines.len());
        assert!(lines.iter().all(|line| line.len() <= lines::SHOWN + 40));
        place.assert_clean();
    }
}

#[test]
fn what_was_written_last_is_read_by_a_slow_reader_too() {
    let Some(place) = Place::new("slow") else { return };
    // It has ended long before its lines are taken from the pipe.
    let command = place.script("seq 9000; echo the end");
    let redact = |text: &[u8]| {
        std::thread::sleep(Duration::from_micros(400));
        text.to_vec()
    };
    let driver = Driver::Command(command);
    let outcome = run_redacted(&driver, &dossier(), &redact, &Stop::new().unwrap());
    assert_eq!(outcome.end.state, InvestigationState::Done);
    let lines = outcome.of("stdout");
    assert_eq!((lines.len(), lines.last()), (9001, Some(&"the end")));
    place.assert_clean();
}

#[test]
fn too_much_is_too_much_of_one_that_has_ended() {
    let Some(place) = Place::new("ended") else { return };
    let mut command = place.script("head -c 60000 /dev/zero");
    command.output_bytes = 1 << 10;
    let outcome = run_command(command);
    assert_eq!(outcome.end.state, InvestigationState::Failed);
    assert!(outcome.end.error.contains("wrote more than"), "{}", outcome.end.error);
    place.assert_clean();
}

#[test]
fn binary_garbage_is_just_bytes() {
    let Some(place) = Place::new("garbage") else { return };
    let outcome =
        run_command(place.script("head -c 200000 /dev/urandom; printf '\\n{\"findings\"'"));
    assert_eq!(outcome.end.state, InvestigationState::Done);
    assert!(outcome.lines.len() > 100, "{}", outcome.lines.len());
    place.assert_clean();
}

#[test]
fn a_large_dossier_reaches_a_slow_reader_and_may_be_ignored() {
    let Some(place) = Place::new("dossier") else { return };
    let mut large = dossier();
    large
        .evidence
        .push(Evidence { content: Some(Content::Text(vec![b'x'; 3 << 20])), ..Default::default() });
    let stop = Stop::new().unwrap();
    let slow = place.script("sleep 0.3; wc -c | tr -d ' '");
    let outcome = run(&Driver::Command(slow), &large, &stop);
    let whole = serde_json::to_vec(&large).unwrap().len();
    assert_eq!(outcome.of("stdout"), [whole.to_string()]);
    let deaf = place.script("exec <&-; echo deaf; sleep 0.2");
    let outcome = run(&Driver::Command(deaf), &large, &stop);
    assert_eq!((outcome.of("stdout"), outcome.end.state), (vec!["deaf"], InvestigationState::Done));
    place.assert_clean();
}

#[test]
fn a_fork_bomb_stays_in_its_cage() {
    let Some(place) = Place::new("bomb") else { return };
    let mut command = place.script("f() { f & f & wait; }; f 2>/dev/null; sleep 300");
    command.sandbox.pids = 30;
    command.deadline = Duration::from_secs(1);
    let outcome = run_command(command);
    assert_ne!(outcome.end.state, InvestigationState::Done);
    if outcome.of("sensor")[0].contains("30 tasks (by cgroup)") {
        assert!(outcome.end.error.contains("limit of tasks"), "{}", outcome.end.error);
    }
    place.assert_clean();
}

#[test]
fn a_memory_hog_meets_its_limit() {
    let Some(place) = Place::new("hog") else { return };
    let mut command = place.script("a=x; while :; do a=$a$a; done");
    command.sandbox.memory_bytes = 64 << 20;
    let outcome = run_command(command);
    assert_eq!(outcome.end.state, InvestigationState::Failed, "{:?}", outcome.end);
    if outcome.of("sensor")[0].contains("memory (by cgroup)") {
        assert!(outcome.end.error.contains("memory limit"), "{}", outcome.end.error);
    }
    place.assert_clean();
}

#[test]
fn a_run_can_be_stopped() {
    let Some(place) = Place::new("stop") else { return };
    let stop = Stop::new().unwrap();
    let driver = Driver::Command(place.script("echo up; sleep 300"));
    let from_outside = stop.clone();
    let mut end = None;
    driver.run("ab-1", &dossier(), None, &hide, &stop, &mut |event| match event {
        Event::Line { stream: "stdout", .. } => from_outside.now(),
        Event::End(last) => end = Some(last),
        _ => {}
    });
    assert_eq!(end.unwrap().state, InvestigationState::Interrupted);
    place.assert_clean();
}

#[test]
fn without_a_cgroup_the_session_is_killed_and_rlimits_hold() {
    let Some(place) = Place::new("nogroup") else { return };
    let mut command = place.command(&[
        "bash",
        "-c",
        "sh -c 'sleep 300 & sleep 301' & echo $$; ulimit -u; ulimit -d",
    ]);
    // A home that does not exist.
    command.sandbox.home = place.home.join("missing");
    let outcome = run_command(command);
    assert!(outcome.of("sensor")[0].contains("no cgroup of its own"), "{:?}", outcome.lines);
    let lines = outcome.of("stdout");
    assert_eq!(lines[1..], ["128", "1048576"]);
    let session: i32 = lines[0].parse().unwrap();
    let of_session = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let pid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        pid.is_some_and(|pid| {
            let its = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid as i32)));
            its.is_ok_and(|its| its.as_raw() == session)
                && crate::respond::process::Stat::read(pid).is_ok_and(|stat| stat.lives())
        })
    });
    assert_eq!(of_session.count(), 0);
    assert_eq!(outcome.end.state, InvestigationState::Done);
    place.assert_clean();
}

#[test]
fn what_a_killed_core_left_is_cleared() {
    let Some(place) = Place::new("leftover") else { return };
    let dir = place.hierarchies.dir(&place.home).unwrap();
    let own = crate::respond::process::key_of(std::process::id()).unwrap();
    let kept = dir.join(format!("investigation-{}-{}-kept", own.tgid, own.start_ns));
    // The same pid with another start is another core.
    let left = dir.join(format!("investigation-{}-{}-left", own.tgid, own.start_ns + 90_000_000));
    let other = dir.join("somebody");
    for group in [&kept, &left, &other] {
        fs::create_dir(group).unwrap();
    }
    let mut child = std::process::Command::new("sleep").arg("300").spawn().unwrap();
    fs::write(left.join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(clear_leftovers(&place.hierarchies, &place.home), 1);
    assert!(!child.wait().unwrap().success());
    assert!(!left.exists() && kept.exists() && other.exists());
}

#[test]
fn homes_are_kept_for_those_that_go_on() {
    let scratch = tempfile::tempdir().unwrap();
    for id in ["ab-1", "ab-12", "gone-1"] {
        fs::create_dir(scratch.path().join(id)).unwrap();
        fs::write(scratch.path().join(format!("{id}.out")), "one\ntwo\nthr").unwrap();
    }
    tidy(scratch.path(), &["ab-1".to_owned()]);
    let mut left: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["ab-1", "ab-1.out"]);
    // What had not been read, also where it was cut off in a line.
    let unread: Vec<_> =
        unread(scratch.path(), "ab-1", 1).into_iter().map(|line| line.bytes).collect();
    assert_eq!(unread, [b"two".to_vec(), b"thr".to_vec()]);
    assert!(super::unread(scratch.path(), "gone-1", 0).is_empty());
}

#[test]
fn the_desk_admits_one_and_never_about_ourselves() {
    let mut desk =
        Desk::new(Path::new("/sensor"), Limits::of(&crate::config::Investigate::default()));
    let request = |id: &str| Request {
        id: id.into(),
        incident: id.into(),
        severity: proto::Severity::Warning,
        fingerprint: id.into(),
        ours: false,
        by: By::Itself,
        estimate: None,
    };
    let ours = desk.ask(Path::new("/sensor/investigation-1-2-x"), request("a-1"));
    assert_eq!(ours, Admission::Denied(Denied::Ourselves));
    assert!(matches!(desk.ask(Path::new("/user.slice"), request("b-1")), Admission::Go(_)));
    let waits = desk.ask(Path::new(""), request("c-1"));
    assert_eq!(waits, Admission::Queue { position: 1, gave_way: None });
    let next = desk.ended("b-1", &proto::Cost::default());
    assert_eq!(next.go.unwrap().0.id, "c-1");
}
