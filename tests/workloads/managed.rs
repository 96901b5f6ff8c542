//! A manager that nobody may stop, and what it starts: workers, each of which starts processes, and
//! beside them neighbours that do not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Workload;
use crate::{names, run::copy_program};

/// The workload, and what is needed to find its parts again.
#[derive(Debug)]
pub struct Managed {
    pub work: Workload,
    /// The manager's program: a copy of the shell.
    pub guard: PathBuf,
    /// The script of each worker.
    pub worker: PathBuf,
    /// The argument of what workers start.
    pub nap: String,
    /// The argument by which a bystander is known.
    pub bystander: String,
    /// The manager, a protected neighbour and one that runs the workers' shell make these longer ten
    /// times a second.
    pub ticks: Vec<PathBuf>,
    /// Once this file is there, the manager starts as many workers more as its text says.
    pub more: PathBuf,
}

/// Between two rounds of a worker, s.
pub const PAUSE: &str = "0.5";

/// What each worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// Starts eight processes every half second, without end.
    Endless,
    /// Starts eight processes and waits for them.
    Bounded,
    /// A server that starts six processes a second.
    Listening,
}

/// Starts so many workers.
pub fn manager(workers: u32, kind: Worker) -> Result<Managed> {
    let work = Workload::new()?;
    let guard = work.path().join(names::word());
    copy_program(Path::new("/bin/sh"), &guard)?;
    let ticker = work.write_program(
        &names::word(),
        "#!/bin/sh\nwhile :; do\n    echo >>\"$1\"\n    sleep 0.1\ndone\n",
    )?;
    let nap = format!("7{}", 600 + std::process::id() % 100);
    let eight = format!("    sleep {nap} &\n").repeat(8);
    let body = match kind {
        Worker::Endless => format!("#!/bin/sh\nwhile :; do\n{eight}    sleep {PAUSE}\ndone\n"),
        Worker::Bounded => format!("#!/bin/sh\n{eight}wait\n"),
        Worker::Listening => format!(
            "#!/usr/bin/env python3\nimport socket, subprocess, time\nserver = socket.socket()\n\
             server.bind(('127.0.0.1', 0))\nserver.listen()\n\
             while True:\n    subprocess.Popen(['sleep', '{nap}'])\n    time.sleep(0.15)\n"
        ),
    };
    let worker = work.write_program(&names::word(), &body)?;
    let ticks: Vec<PathBuf> = (0..3).map(|_| work.path().join(names::word())).collect();
    let [own, protected, plain] = [0, 1, 2].map(|at| ticks[at].display().to_string());
    let more = work.path().join(names::word());
    let bystander = format!("3{}", 600 + std::process::id() % 100);
    let start = |count: &str| {
        format!(
            "i=0\nwhile [ $i -lt {count} ]; do\n    {} &\n    i=$((i + 1))\ndone\n",
            worker.display()
        )
    };
    let manager = work.write(
        &names::word(),
        &format!(
            "{guard} {ticker} {protected} &\n{ticker} {plain} &\nsleep {bystander} &\nsleep {bystander} &\n\
             {first}while :; do\n    echo >>{own}\n    sleep 0.1\n    if [ -s {more} ]; then\n        \
             count=$(cat {more})\n        rm {more}\n{later}    fi\ndone\n",
            guard = guard.display(),
            ticker = ticker.display(),
            more = more.display(),
            first = start(&workers.to_string()),
            later = start("$count"),
        ),
    )?;
    let argv = [guard.clone(), manager];
    Ok(Managed { work: work.runs(argv), guard, worker, nap, bystander, ticks, more })
}

impl Managed {
    /// Has the manager start so many workers more.
    pub fn start_more(&self, workers: u32) -> Result<()> {
        let text: &Path = &self.more.with_extension("new");
        fs::write(text, workers.to_string())?;
        Ok(fs::rename(text, &self.more)?)
    }
}
