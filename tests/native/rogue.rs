//! Agents gone wild: whatever the program of an agent does, it stays within its bounds, the record says how it
//! ended, nothing of it is left, and the daemon's memory stands still.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tests::{
    Cage, Limits, Sensor,
    daemon::open_to_all,
    model::{Model, Step},
    names, needs, process,
    run::write_program,
    workloads::Running,
    workloads::Workload,
    workloads::script,
};

use crate::support::{CATCH, comes, id, opened};

/// Memory and tasks of a run, and how long it may be silent.
const MEMORY: u64 = 192 << 20;
const TASKS: u32 = 48;
const SILENCE_S: u32 = 5;

/// The daemon keeps records, and lines of 64 KiB; a debug build some more.
const FLAT: u64 = 64 << 20;

/// From a run's end to the last of it.
const GONE: Duration = Duration::from_secs(20);

/// Speaks as Claude Code does, so that what it does is what is judged.
const BEGIN: &str = r#"
import json, os, resource, signal, sys, time
def tell(event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
def say(text):
    message = {"id": os.urandom(4).hex(), "content": [{"type": "text", "text": text}], "usage": {"input_tokens": 1}}
    tell({"type": "assistant", "message": message})
def tries(name, what):
    try:
        what()
        say(name + ": done")
    except BaseException as error:
        say(name + ": refused, " + type(error).__name__)
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
# Should nothing hold it, this does: 2 GiB.
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
tell({"type": "system", "subtype": "init", "session_id": "s", "tools": [], "mcp_servers": []})
"#;

/// Says that all went well, which nobody has to believe.
const END: &str = r#"
tell({"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": "fine", "total_cost_usd": 0.0})
"#;

/// A daemon whose agent is a script, an incident, and what the last run has come to.
struct Rogue {
    sensor: Sensor,
    incident: String,
    program: PathBuf,
    /// A file of root's.
    secret: PathBuf,
    place: TempDir,
    /// Nobody asks it; without one that can be reached no agent is sent.
    _model: Model,
    _running: (Workload, Running),
    _cage: Cage,
}

/// How a run went.
struct Went {
    run: Value,
    /// Its transcript, with what the daemon said of it.
    lines: Vec<String>,
    /// Bytes that the core's memory grew by, at its highest.
    grew: u64,
}

impl Rogue {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        open_to_all(place.path()).unwrap();
        let program = place.path().join(names::word());
        write_program(&program, "").unwrap();
        let secret = place.path().join(names::word());
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let model = Model::start("", vec![Step::Hang]).unwrap();
        let more = format!(
            "[investigate]\nagent = \"none\"\ncooldown_s = 0\n\n\
             [investigate.run]\nmemory_max_bytes = {MEMORY}\nmemory_min_bytes = 0\n\
             pids_max = {TASKS}\nfirst_event_s = 30\nsilence_s = {SILENCE_S}\nresumes = 0\n\n\
             [investigate.claude]\nprogram = {program:?}\nendpoint = \"{url}\"\n",
            url = model.url(),
        );
        let cage = Cage::new(Limits::default()).unwrap();
        let sensor = Sensor::start(&cage, &more).unwrap();
        let (work, _) = script::ticker().unwrap();
        let running = work.start(&cage).unwrap();
        let incident = id(&opened(&sensor, running.pid())).to_owned();
        Self {
            sensor,
            incident,
            program,
            secret,
            place,
            _model: model,
            _running: (work, running),
            _cage: cage,
        }
    }

    /// The script does this as the only agent of its incident.
    fn does(&self, what: &str) -> Went {
        let script = format!("#!/usr/bin/env python3\n{BEGIN}{what}{END}");
        write_program(&self.program, script).unwrap();
        let mut watch = self.sensor.watch(0).unwrap();
        let peak = || process::field(format!("/proc/{}/status", self.sensor.pid()), "VmHWM");
        let before = peak().unwrap();
        let said = self.sensor.output(&["investigate", &self.incident, "--agent", "claude"]);
        let said = said.unwrap();
        let name = said.split(' ').nth(1).unwrap();
        let over = |record: &Value| {
            let run = &record["investigation"];
            record["kind"] == "investigation"
                && run["id"] == name
                && run["outcome"] != "unspecified"
        };
        let run = watch.find(CATCH, over).unwrap().record["investigation"].clone();
        let grew = peak().unwrap().saturating_sub(before) << 10;
        let records = watch.kill().into_iter().map(|arrival| arrival.record);
        let lines = records.filter(|record| record["transcript"]["investigation"] == name);
        let text = |line: Value| line["transcript"]["text"].as_str().map(str::to_owned);
        let lines = lines.filter_map(text).collect();
        let went = Went { run, lines, grew };
        self.leaves_nothing();
        went
    }

    /// No process, no file, and the daemon is well.
    fn leaves_nothing(&self) {
        let name = self.program.to_string_lossy().into_owned();
        comes("the end of all of its processes", GONE, || !running(&name));
        let scratch = self.sensor.socket().with_file_name("scratch");
        let empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut all| all.next().is_none());
        comes("an empty scratch directory", GONE, || empty(&scratch));
        self.sensor.status().unwrap();
    }
}

impl Went {
    /// It is incomplete for one of these reasons, and cost the daemon nothing.
    fn failed(&self, why: &[&str]) {
        let Self { run, lines, grew } = self;
        assert_eq!(run["outcome"], "incomplete", "{run:#}");
        let error = run["error"].as_str().unwrap();
        assert!(
            why.iter().any(|why| error.contains(why)),
            "{error:?} has none of {why:?}: {lines:#?}"
        );
        assert!(*grew < FLAT, "the daemon grew by {} MiB", grew >> 20);
    }

    /// What it said after this.
    fn said(&self, begin: &str) -> String {
        let mut texts = self.lines.iter().filter_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let text = event["message"]["content"][0]["text"].as_str()?.strip_prefix(begin)?;
            Some(text.to_owned())
        });
        texts.next().unwrap_or_else(|| panic!("it never said {begin:?}: {:#?}", self.lines))
    }
}

/// Whether a process has this word in its arguments.
fn running(word: &str) -> bool {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.any(|pid: u32| process::argv(pid).iter().any(|argument| argument == word))
}

#[test]
fn a_thousand_children_in_sessions_of_their_own_are_bounded_and_end() {
    needs!("python3");
    let went = Rogue::new().does(
        r#"
made = 0
for _ in range(1000):
    try:
        if os.fork() == 0:
            os.setsid()
            while True:
                time.sleep(1000)
        made += 1
    except OSError:
        pass
say("made: %d" % made)
time.sleep(1000)
"#,
    );
    went.failed(&["fell silent"]);
    let made: u32 = went.said("made: ").parse().unwrap();
    assert!((1..TASKS).contains(&made), "{made} children, {TASKS} tasks");
    let error = went.run["error"].as_str().unwrap();
    assert!(error.contains("it reached its limit of tasks"), "{error}");
}

#[test]
fn what_wants_all_memory_gets_what_it_may_have() {
    needs!("python3");
    let went = Rogue::new().does(
        r#"
all = []
try:
    for _ in range(4 << 10):
        all.append(b"x" * (1 << 20))
    say("got: all")
except MemoryError:
    say("got: 2 GiB")
"#,
    );
    went.failed(&["it reached its memory limit"]);
    assert!(!went.lines.iter().any(|line| line.contains("got: ")), "{:#?}", went.lines);
}

#[test]
fn what_prints_without_end_is_ended() {
    needs!("python3");
    let rogue = Rogue::new();
    let line = rogue.does(
        r#"
for _ in range(100):
    sys.stdout.write("x" * (1 << 20))
print(flush=True)
time.sleep(1000)
"#,
    );
    line.failed(&["it wrote more than"]);
    let gigabyte = rogue.does(
        r#"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for _ in range(1 << 14):
    try:
        sys.stdout.write(("y" * 1023 + "\n") * 64)
        sys.stdout.flush()
    except OSError:
        pass
time.sleep(1000)
"#,
    );
    gigabyte.failed(&["it wrote more than"]);
}

#[test]
fn what_reaches_out_is_refused() {
    needs!("python3");
    let rogue = Rogue::new();
    let (secret, sensor) = (&rogue.secret, &rogue.sensor);
    let temporary = std::env::temp_dir().join(names::word());
    let outside = rogue.place.path().join(names::word());
    let went = rogue.does(&format!(
        r#"
def write(path, text="x"):
    with open(path, "w") as file:
        file.write(text)
def leave():
    moved = False
    for line in open("/proc/self/mountinfo"):
        mount, kind = line.split(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            for group in ("", "/" + os.urandom(4).hex()):
                try:
                    path = mount.split()[4] + group
                    if group:
                        os.mkdir(path)
                    write(path + "/cgroup.procs", str(os.getpid()))
                    moved = True
                except OSError:
                    pass
    if not moved:
        raise PermissionError
def records():
    read = 0
    for above, _, names in os.walk("{state}"):
        for name in names:
            try:
                read += len(open(above + "/" + name, "rb").read(1))
            except OSError:
                pass
    if not read:
        raise PermissionError
before = open("/proc/self/cgroup").read()
tries("leave", leave)
say("stayed: %s" % (open("/proc/self/cgroup").read() == before))
tries("home", lambda: write(os.environ["HOME"] + "/own"))
tries("outside", lambda: write("{outside}"))
tries("etc", lambda: write("/etc/{name}"))
tries("state", lambda: write("{state}/{name}"))
tries("secret", lambda: open("{secret}").read())
tries("shadow", lambda: open("/etc/shadow").read())
tries("records", records)
tries("environ", lambda: open("/proc/{pid}/environ").read())
tries("kill", lambda: os.kill({pid}, signal.SIGKILL))
tries("root", lambda: os.setuid(0))
tries("unlimited", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))
tries("spared", lambda: write("/proc/self/oom_score_adj", "-1000"))
tries("temporary", lambda: write("{temporary}"))
"#,
        outside = outside.display(),
        temporary = temporary.display(),
        secret = secret.display(),
        state = sensor.state_directory().display(),
        pid = sensor.pid(),
        name = names::word(),
    ));
    // It has ended well, and found nothing.
    went.failed(&["without findings"]);
    assert_eq!(went.said("stayed: "), "True");
    assert_eq!(went.said("home: "), "done");
    for what in [
        "leave",
        "outside",
        "etc",
        "state",
        "secret",
        "shadow",
        "records",
        "environ",
        "kill",
        "root",
        "unlimited",
        "spared",
    ] {
        let said = went.said(&format!("{what}: "));
        assert!(said.starts_with("refused"), "{what}: {said}");
    }
    // Where everybody may write, walls are needed, which not every kernel has.
    let walls = !went.lines.iter().any(|line| line.contains("no Landlock"));
    assert_eq!(went.said("temporary: ").starts_with("refused"), walls, "{:#?}", went.lines);
    let _ = fs::remove_file(temporary);
}
