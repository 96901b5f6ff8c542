//! Honest work that starts as many processes as a storm does, and knows where to stop. How many, and
//! how fast, is for a test to say; the storms themselves are labelled workloads.

use anyhow::Result;

use super::Workload;
use crate::names;

/// Subshells that end at once, as fast as a shell can: about 1,200 a second.
pub fn bursts(count: u32) -> Result<Workload> {
    let body = format!("i=0\nwhile [ $i -lt {count} ]; do\n    (:)\n    i=$((i + 1))\ndone\n");
    shell(&body)
}

/// So many commands, so many of them at once.
pub fn parallel(count: u32, at_once: u32, seconds: &str) -> Result<Workload> {
    let body = format!("yes {seconds} | head -n {count} | xargs -n 1 -P {at_once} sleep\n");
    shell(&body)
}

/// Two function bombs beside each other, one after the other, of a script that has run for longer than what
/// is taken for a newcomer. Each begins when what the script forks next runs its own program: what only forked could
/// be another half.
pub fn halves() -> Result<Workload> {
    let work = Workload::new()?;
    let name = names::word();
    let body = format!(
        "{name}() {{\n    {name} | {name} &\n}}\nsleep 11\n(sleep 0.5; {name}; wait) &\nsleep 3\n(sleep 0.5; {name}; wait) &\nsleep 600\n"
    );
    let script = work.write(&names::word(), &body)?;
    Ok(work.runs(["bash".into(), script.into_os_string()]))
}

/// A server that listens, starts its workers at once or so many a second, and ends some seconds
/// after the last.
pub fn server(workers: u32, per_second: Option<u32>, seconds: u32) -> Result<Workload> {
    let pause = per_second.map_or(0.0, |pace| 1.0 / f64::from(pace));
    python(&format!(
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
    ))
}

fn shell(body: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let file = work.write_program(&names::word(), &format!("#!/bin/sh\n{body}"))?;
    Ok(work.runs([file]))
}

fn python(body: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let file = work.write(&names::word(), body)?;
    Ok(work.runs(["python3".into(), file.into_os_string()]))
}
