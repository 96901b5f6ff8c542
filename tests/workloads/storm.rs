//! Storms: trees that fork without end and without repeating any command below itself; and honest
//! work that starts as many processes, but knows where to stop.

use anyhow::Result;

use super::Workload;
use crate::names;

/// A shell function that calls itself twice through a pipe, without any exec. The script itself
/// stays when the bomb has met its limit.
pub fn function_bomb() -> Result<Workload> {
    let name = names::word();
    script(
        "#!/bin/bash",
        &format!("{name}() {{\n    {name} | {name} &\n}}\n{name}\nsleep 3600\n"),
        &[&name],
    )
}

/// Every process forks for ever.
pub fn python_forks() -> Result<Workload> {
    interpreted("python3", "import os\nwhile True:\n    os.fork()\n")
}

pub fn perl_forks() -> Result<Workload> {
    interpreted("perl", "fork while 1;\n")
}

/// One shell that starts the same command for ever and waits for none.
pub fn star() -> Result<Workload> {
    script("#!/bin/sh", "while :; do\n    sleep 9999 &\ndone\n", &["sleep 9999"])
}

/// The same, and each command is another one.
pub fn distinct_star() -> Result<Workload> {
    script("#!/bin/sh", "i=0\nwhile :; do\n    i=$((i + 1))\n    sleep 9$i &\ndone\n", &["sleep"])
}

/// The same, each in a session of its own: no terminal, no process group holds them together.
pub fn orphans() -> Result<Workload> {
    script("#!/bin/sh", "while :; do\n    setsid sleep 9999 &\ndone\n", &["sleep 9999"])
}

/// Subshells that end at once, as fast as a shell can: about 1,200 a second.
pub fn bursts(count: u32) -> Result<Workload> {
    let body = format!("i=0\nwhile [ $i -lt {count} ]; do\n    (:)\n    i=$((i + 1))\ndone\n");
    script("#!/bin/sh", &body, &[])
}

/// So many commands, so many of them at once.
pub fn parallel(count: u32, at_once: u32, seconds: &str) -> Result<Workload> {
    let body = format!("yes {seconds} | head -n {count} | xargs -n 1 -P {at_once} sleep\n");
    script("#!/bin/sh", &body, &[])
}

/// A server that listens, starts its workers at once or so many a second, and ends some seconds
/// after the last.
pub fn server(workers: u32, per_second: Option<u32>, seconds: u32) -> Result<Workload> {
    let pause = per_second.map_or(0.0, |pace| 1.0 / f64::from(pace));
    interpreted(
        "python3",
        &format!(
            "import os, signal, socket, time\n\
             server = socket.socket()\n\
             server.bind(('127.0.0.1', 0))\n\
             server.listen()\n\
             workers = []\n\
             for _ in range({workers}):\n    \
                 child = os.fork()\n    \
                 if child == 0:\n        \
                     time.sleep(600)\n        \
                     os._exit(0)\n    \
                 workers.append(child)\n    \
                 time.sleep({pause})\n\
             time.sleep({seconds})\n\
             for worker in workers:\n    \
                 os.kill(worker, signal.SIGKILL)\n\
             for worker in workers:\n    \
                 os.waitpid(worker, 0)\n"
        ),
    )
}

/// A program of its own, which an explanation has to name.
fn script(interpreter: &str, body: &str, names: &[&str]) -> Result<Workload> {
    let work = Workload::new()?;
    let file = work.write_program(&names::word(), &format!("{interpreter}\n{body}"))?;
    let path = file.to_string_lossy().into_owned();
    let names: Vec<String> = names.iter().map(ToString::to_string).chain([path]).collect();
    Ok(work.runs([file]).named(names))
}

/// The same for an interpreter that is looked for.
fn interpreted(interpreter: &str, body: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let file = work.write(&names::word(), body)?;
    let path = file.to_string_lossy().into_owned();
    Ok(work.runs([interpreter.into(), file.into_os_string()]).named([path]))
}
