use std::{
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use super::*;
use crate::{needs, proto::frame::Kind, respond::process::key_of, skip, test_name};

/// A program that ends with the test.
struct Program(Child);

impl Program {
    /// Starts it and waits until it says that it is where it should be.
    fn start(command: &mut Command) -> Self {
        let mut program = Self(command.stdout(Stdio::piped()).spawn().unwrap());
        program.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        program
    }

    fn key(&self) -> ProcessKey {
        key_of(self.0.id()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn looked_at(program: &Program) -> proto::Stacks {
    let redactor = Redactor::new([1; 16]);
    of(&Proc::default(), &Parser::here(), &[program.key()], &redactor).unwrap().0
}

/// Looks again while the machine is too busy to let it run.
fn names(program: &Program, wanted: &str, kind: Kind) -> bool {
    (0..20).any(|_| {
        let stacks = looked_at(program);
        let processes = stacks.processes.iter().flat_map(|it| &it.stacks);
        let found = processes
            .flat_map(|it| &it.frames)
            .any(|frame| frame.kind() == kind && frame.function.contains(wanted));
        if !found {
            println!("{stacks:#?}");
        }
        found
    })
}

fn compiled(directory: &std::path::Path, source: &str) -> PathBuf {
    let (file, program) = (directory.join("program.c"), directory.join("program"));
    std::fs::write(&file, source).unwrap();
    let made = Command::new("cc").args(["-O0", "-o"]).args([&program, &file]).status().unwrap();
    assert!(made.success());
    program
}

/// Returns from the test where nobody may sample; any other error is one.
macro_rules! needs_perf_events {
    () => {
        if let Some(reason) = sample::forbidden() {
            return skip::note(test_name!(), &reason);
        }
    };
}

const SPINNING: &str = r#"
#include <unistd.h>
volatile unsigned long turns;
__attribute__((noinline)) void spin_for_ever(void) { for (;;) turns++; }
__attribute__((noinline)) void serve_request(void) { spin_for_ever(); turns++; }
int main(void) { write(1, "x", 1); serve_request(); return 0; }
"#;

const WAITING: &str = r#"
#include <unistd.h>
volatile unsigned long turns;
__attribute__((noinline)) void wait_for_data(void) { for (;;) { pause(); turns++; } }
__attribute__((noinline)) void handle_client(void) { wait_for_data(); turns++; }
__attribute__((noinline)) void serve(void) { handle_client(); turns++; }
int main(void) { write(1, "x", 1); serve(); return 0; }
"#;

#[test]
fn a_program_that_spins_says_where() {
    needs!("cc");
    needs_perf_events!();
    let directory = tempfile::tempdir().unwrap();
    let path = compiled(directory.path(), SPINNING);
    let program = Program::start(&mut Command::new(path));
    assert!(names(&program, "spin_for_ever", Kind::Native));
    assert!(names(&program, "serve_request", Kind::Native));
}

#[test]
fn a_program_that_waits_says_what_for() {
    needs!("cc");
    if !std::path::Path::new("/proc/self/syscall").exists() {
        return skip::note(test_name!(), "no /proc/PID/syscall in this kernel");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = compiled(directory.path(), WAITING);
    let program = Program::start(&mut Command::new(path));
    for function in ["wait_for_data", "handle_client", "serve"] {
        assert!(names(&program, function, Kind::Native), "{function}");
    }
    // Stopped by a signal it stands at the same place.
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Proc::default().open(program.key()).unwrap().stat.state != 'T' {
        assert!(Instant::now() < deadline, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    let stacks = looked_at(&program);
    assert_eq!((stacks.sampled_ms, stacks.notes.len()), (0, 1), "{:?}", stacks.notes);
    assert!(names(&program, "wait_for_data", Kind::Native));
}

#[test]
fn a_python_program_says_where_it_is() {
    needs!();
    let source = "import sys, time\nkept = []\nclass Store:\n    def hoard(self):\n        while True:\n            \
                  kept.append(bytearray(64)); del kept[:]; time.sleep(0.001)\n\
                  def work():\n    Store().hoard()\nsys.stdout.write('x'); sys.stdout.flush()\nwork()\n";
    let mut tried = 0;
    for release in ["python3", "python3.9", "python3.10", "python3.11", "python3.12", "python3.13"]
    {
        // The interpreter itself, not a script that starts it.
        let said = Command::new(release)
            .args(["-c", "import sys; print(sys.executable, sys.version_info[1])"])
            .output();
        let Ok(said) = said else { continue };
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let Some((exe, minor)) = said.trim().rsplit_once(' ') else { continue };
        if !python::known(minor.parse().unwrap()) {
            continue;
        }
        let program = Program::start(Command::new(exe).args(["-c", source]));
        tried += 1;
        for function in ["hoard", "work", "<module>"] {
            assert!(names(&program, function, Kind::Interpreted), "{release}: {function}");
        }
    }
    if tried == 0 {
        skip::note(test_name!(), "no python from 3.9 to 3.13 is installed");
    }
}

#[test]
fn threads_of_an_interpreter_in_a_container_have_our_numbers() {
    needs!("unshare", "python3");
    let mut ask = Command::new("python3");
    let said = ask.args(["-c", "import sys; print(sys.version_info[1])"]).output().unwrap();
    let minor: u32 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    if !(11..=13).contains(&minor) {
        return skip::note(test_name!(), "no python from 3.11 to 3.13, which tell their threads");
    }
    let source = "import sys, time\nsys.stdout.write('x'); sys.stdout.flush(); time.sleep(600)\n";
    let program = Program::start(
        Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "python3", "-c"])
            .arg(source),
    );
    let shell = program.0.id();
    let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    let pid: u32 = children.trim().parse().unwrap();
    let redactor = Redactor::new([1; 16]);
    let key = key_of(pid).unwrap();
    let (stacks, _) = of(&Proc::default(), &Parser::here(), &[key], &redactor).unwrap();
    let all = stacks.processes.iter().flat_map(|it| &it.stacks);
    let interpreted: Vec<u32> = all
        .filter(|stack| stack.frames.iter().any(|frame| frame.kind() == Kind::Interpreted))
        .map(|stack| stack.tid)
        .collect();
    assert_eq!(interpreted, [pid], "{stacks:#?}");
}

#[test]
fn a_node_program_with_a_perf_map_names_its_functions() {
    needs!("node");
    needs_perf_events!();
    let source = "const kept = []; function hoardBuffers() { for (let i = 0; i < 1e5; i++) \
                  { kept.push({i}); if (kept.length > 1e6) kept.length = 0; } }\n\
                  require('fs').writeSync(1, 'x'); for (;;) hoardBuffers();";
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("node");
    command.args(["--perf-basic-prof", "-e", source]).current_dir(directory.path());
    let program = Program::start(&mut command);
    let map = format!("/tmp/perf-{}.map", program.0.id());
    assert!(names(&program, "hoardBuffers", Kind::Jit));
    let _ = std::fs::remove_file(map);
}

#[test]
fn a_node_program_without_one_says_what_is_missing() {
    needs!("node");
    needs_perf_events!();
    let source = "require('fs').writeSync(1, 'x'); let n = 0; for (;;) n++;";
    let program = Program::start(Command::new("node").args(["-e", source]));
    let said = (0..20).any(|_| {
        let stacks = looked_at(&program);
        let mut notes = stacks.processes.iter().flat_map(|it| &it.notes);
        notes.any(|note| note.contains("there is no perf map"))
    });
    assert!(said);
}

#[test]
fn who_died_is_left_out() {
    let redactor = Redactor::new([1; 16]);
    let gone = [ProcessKey::new(4_194_301, 1)];
    let (stacks, _) = of(&Proc::default(), &Parser::here(), &gone, &redactor).unwrap();
    assert_eq!((stacks.processes.len(), stacks.omitted), (0, 1));
}
