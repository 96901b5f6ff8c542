//! Calls of the program, each bounded in time.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// No verb takes a second; the machine may be busy.
const LIMIT: Duration = Duration::from_mins(1);

pub struct Sensor(Command);

/// What a call said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// What it printed; it must have ended well.
    pub fn done(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self.stdout
    }
}

/// A call under way; ends with this value.
pub struct Running(Child);

impl Sensor {
    pub fn new(args: &[&str], socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sensor"));
        command.args(args).env("SENSOR_SOCKET", socket).env_remove("NO_COLOR");
        Self(command)
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn run(self) -> Said {
        self.start().end_within(LIMIT)
    }

    pub fn start(mut self) -> Running {
        self.0.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(self.0.spawn().unwrap())
    }

    /// Runs it on a terminal of its own, on which `typed` is typed.
    pub fn on_terminal(self, typed: &str) -> Said {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        let line: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
        assert!(line.iter().all(|word| !word.contains([' ', '\'', '"'])), "{line:?}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
        script.env("TERM", "xterm");
        for (name, value) in self.0.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.stderr(Stdio::piped()).spawn().unwrap();
        let mut keyboard = child.stdin.take().unwrap();
        keyboard.write_all(typed.as_bytes()).unwrap();
        let said = Running(child).end_within(LIMIT);
        drop(keyboard);
        said
    }
}

impl Running {
    pub fn stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().unwrap()
    }

    pub fn end_within(mut self, limit: Duration) -> Said {
        let child = &mut self.0;
        let stdout = reader(child.stdout.take());
        let stderr = reader(child.stderr.take());
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
                panic!("it did not end within {limit:?}: {stdout:?} {stderr:?}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        Said {
            code: status.code().unwrap(),
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn reader(pipe: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        if let Some(pipe) = pipe {
            pipe.take(1 << 24).read_to_string(&mut text).unwrap();
        }
        text
    })
}
