//! Honest programs that fork all the time and print what they did: their output is the same whether
//! somebody stops them in between or not. So many steps that they take some seconds.

use std::{ffi::OsString, fmt::Write as _, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::Workload;
use crate::{names, run::run};

/// Go 1.19 has its library compiled, newer ones compile it first: a minute on a busy machine.
const GO_LIMIT: Duration = Duration::from_mins(5);

/// A program, and whether its lines come in a certain order.
pub struct Forking {
    pub work: Workload,
    pub ordered: bool,
    /// The arguments of who forks, where it is not the whole program that is to stand.
    pub culprit: Option<Vec<String>>,
}

/// Two pipelines and a command substitution for each step.
const SHELL: &str = "i=0\nwhile [ $i -lt STEPS ]; do\n    i=$((i + 1))\n    \
                     x=$(echo $i | cat)\n    (echo step $x | cat) || echo failed $i\ndone\n";

pub fn shell(argv: &[&str], steps: u32) -> Result<Forking> {
    program(argv, &SHELL.replace("STEPS", &steps.to_string()), true)
}

/// A shell as the first process of a pid namespace, as in a container.
pub fn container(steps: u32) -> Result<Forking> {
    shell(&["unshare", "--pid", "--fork", "--mount-proc", "sh"], steps)
}

/// Three jobs at once; the targets of each step wait for those of the one before.
pub fn make(steps: u32) -> Result<Forking> {
    let work = Workload::new()?;
    let mut rules = String::new();
    let mut last = String::new();
    for step in 0..steps {
        for job in ["a", "b", "c"] {
            // Writing to a String cannot fail.
            let _ = write!(rules, "{job}{step}:{last}\n\t@echo $@ | cat\n");
        }
        last = format!(" a{step} b{step} c{step}");
    }
    work.write("Makefile", &format!("all:{last}\n{rules}"))?;
    Ok(Forking { work: work.runs(["make", "--silent", "-j3"]), ordered: false, culprit: None })
}

pub fn python_subprocess(steps: u32) -> Result<Forking> {
    let body = format!(
        "import subprocess\n\
         for i in range({steps}):\n    \
             print(subprocess.run(['echo', str(i)], capture_output=True, check=True).stdout)\n"
    );
    program(&["python3"], &body, true)
}

/// Workers that are replaced after each task. Prints when all is done: a worker that is forked while
/// another thread prints inherits a locked or half full buffer.
pub fn python_multiprocessing(steps: u32) -> Result<Forking> {
    let body = format!(
        "import multiprocessing\n\
         def square(i):\n    return i * i\n\
         if __name__ == '__main__':\n    \
             with multiprocessing.Pool(4, maxtasksperchild=1) as pool:\n        \
                 results = pool.map(square, range({steps}), chunksize=1)\n    \
             print(*results, sep='\\n')\n"
    );
    program(&["python3"], &body, true)
}

/// Synchronous and asynchronous children in turn.
pub fn node(steps: u32) -> Result<Forking> {
    let body = format!(
        "const {{ execFileSync, execFile }} = require('child_process');\n\
         const {{ promisify }} = require('util');\n\
         (async () => {{\n  for (let i = 0; i < {steps}; i++) {{\n    \
         process.stdout.write(execFileSync('echo', [String(i)]));\n    \
         const both = await Promise.all(['a', 'b'].map((x) => promisify(execFile)('echo', [x + i])));\n    \
         both.forEach(({{ stdout }}) => process.stdout.write(stdout));\n  }}\n}})();\n"
    );
    program(&["node"], &body, true)
}

/// Compiles a Go program whose threads fork. Its directory lasts as long as what comes back.
pub fn compiled_go() -> Result<Workload> {
    let work = Workload::new()?;
    let source = work.write("forker.go", include_str!("forker.go"))?;
    let program = work.path().join("forker");
    let mut compiler = Command::new("go");
    compiler.args(["build", "-o"]).arg(&program).arg(source);
    compiler.env("GOCACHE", work.path().join("cache"));
    run(&mut compiler, GO_LIMIT)?.success().context("cannot compile forker.go")?;
    Ok(work.runs([program]))
}

/// Four goroutines, each on a thread of its own, with children of their own.
pub fn go(compiled: &Workload, steps: u32) -> Result<Forking> {
    let argv = compiled.argv.iter().cloned().chain([steps.to_string().into()]);
    Ok(Forking { work: Workload::new()?.runs(argv), ordered: false, culprit: None })
}

/// This very program, told to run one of its own functions; its harness prints around that.
pub fn rust(function: &str, variable: &str, steps: u32) -> Result<Forking> {
    let work = Workload::new()?.with(variable, steps.to_string());
    let argv = [std::env::current_exe()?.into_os_string()]
        .into_iter()
        .chain(["--exact", function, "--nocapture"].map(OsString::from));
    Ok(Forking { work: work.runs(argv), ordered: false, culprit: None })
}

/// The shell's loop under a tracer that sees every system call of all of it.
pub fn traced(steps: u32) -> Result<Forking> {
    shell(&["strace", "-f", "-qqq", "-e", "trace=none", "-e", "signal=none", "sh"], steps)
}

/// The same as a job of an interactive shell on a terminal, whose user types `fg` whenever it stands
/// there as stopped. What it prints tells how the job went: `fg` fails where the job has just ended.
pub fn job(steps: u32) -> Result<Forking> {
    let work = Workload::new()?;
    let body = SHELL.replace("STEPS", &steps.to_string());
    let script = work.write(&names::word(), &body)?.to_string_lossy().into_owned();
    let user = format!(
        "sh {script}; while [ -n \"$(jobs -sp)\" ]; do sleep 0.1; fg >/dev/null 2>&1; done 2>/dev/null; true"
    );
    let terminal = format!("bash --norc --noprofile -ic '{user}'");
    let work = work.runs(["script", "-qefc", &terminal, "/dev/null"]);
    Ok(Forking { work, ordered: true, culprit: Some(vec!["sh".to_owned(), script]) })
}

/// The loop without end, under `timeout`.
pub fn timeout(seconds: u64) -> Result<Forking> {
    let work = Workload::new()?;
    let script = work.write(&names::word(), "while :; do\n    (:) || echo failed\ndone\n")?;
    let argv = ["timeout".into(), seconds.to_string().into(), "sh".into(), script.into_os_string()];
    Ok(Forking { work: work.runs(argv), ordered: true, culprit: None })
}

/// A file of this content, run by `argv`.
fn program(argv: &[&str], body: &str, ordered: bool) -> Result<Forking> {
    let work = Workload::new()?;
    let file = work.write(&names::word(), body)?;
    let argv = argv.iter().map(OsString::from).chain([file.into_os_string()]);
    let argv: Vec<OsString> = argv.collect();
    Ok(Forking { work: work.runs(argv), ordered, culprit: None })
}
