//! What the sensor is tried on: runaways that it has to stop, honest work that it has to leave
//! alone, crowds that it has to bear. Each is made in a fresh directory with fresh names: the
//! labelled ones by their definitions, those that tests need with parameters by builders.

pub mod crowd;
pub mod forking;
mod labelled;
pub mod managed;
pub mod memory;
pub mod named;
pub mod oom;
pub mod planted;
pub mod respawn;
pub mod script;
pub mod stacks;
pub mod storm;

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    cage::Cage,
    daemon::open_to_all,
    run::{run, wait, write_program},
};

const COMPILED_WITHIN: Duration = Duration::from_mins(1);

/// A command and the directory that was made for it.
#[derive(Debug)]
pub struct Workload {
    /// Everything of it is below; gone with the workload.
    pub directory: TempDir,
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub environment: Vec<(OsString, OsString)>,
    /// Texts that an explanation of it cannot do without.
    pub names: Vec<String>,
    /// Commands of one turn, if it is a recursion and they are always the same number.
    pub steps: Option<usize>,
    /// Words that the culprit's arguments end with; empty: it is the process that is started.
    pub culprit: Vec<String>,
}

impl Workload {
    /// In a new directory that is its home too. The environment is this and the path alone.
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("work-").tempdir()?;
        open_to_all(directory.path())?;
        let environment = vec![
            ("PATH".into(), env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into())),
            ("HOME".into(), directory.path().into()),
            ("LANG".into(), "C.UTF-8".into()),
        ];
        let cwd = directory.path().to_path_buf();
        Ok(Self {
            directory,
            argv: Vec::new(),
            cwd,
            environment,
            names: Vec::new(),
            steps: None,
            culprit: Vec::new(),
        })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn runs<I: IntoIterator<Item: Into<OsString>>>(mut self, argv: I) -> Self {
        self.argv = argv.into_iter().map(Into::into).collect();
        self
    }

    fn named<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }

    fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Where a file of this name belongs, its directories made.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let path = self.path().join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(path)
    }

    fn write(&self, path: &str, content: &str) -> Result<PathBuf> {
        let path = self.place(path)?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn write_program(&self, path: &str, content: &str) -> Result<PathBuf> {
        let path = self.place(path)?;
        write_program(&path, content)?;
        Ok(path)
    }

    /// A program of this C source at a path of its own.
    fn compile(&self, path: &str, source: &str, options: &[&str]) -> Result<PathBuf> {
        let program = self.place(path)?;
        let source = self.write("program.c", source)?;
        let mut compiler = Command::new("cc");
        compiler.args(options).arg("-o").arg(&program).arg(source);
        let compiled = run(&mut compiler, COMPILED_WITHIN)?.success();
        compiled.with_context(|| format!("cannot compile {}", program.display()))?;
        Ok(program)
    }

    /// The command, in the cage, with its output kept in `output.log` below its directory.
    pub fn command(&self, cage: &Cage) -> Result<Command> {
        let (program, arguments) = self.argv.split_first().context("a workload without command")?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = cage.command(program)?;
        command
            .args(arguments)
            .current_dir(&self.cwd)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    pub fn start(&self, cage: &Cage) -> Result<Running> {
        let child = self.command(cage)?.spawn().with_context(|| format!("{:?}", self.argv))?;
        Ok(Running { child })
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        let output = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }

    /// The end of it, for an error.
    pub fn last_words(&self) -> String {
        const LINES: usize = 20;
        let output = self.output();
        let lines: Vec<&str> = output.trim_end().lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.path().join("output.log")
    }
}

/// A started workload; killed, itself only, when dropped: the cage has the rest.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; none: it has not.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, limit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
