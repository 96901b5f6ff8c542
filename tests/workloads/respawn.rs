//! Respawn loops: a script that starts the same failing command again and again; and honest work whose
//! commands fail, or are as many, but never the same one.

use std::path::PathBuf;

use anyhow::Result;

use super::Workload;
use crate::names;

/// A script that restarts a command as long as a file is there, and then stays. The command has an
/// argument of its own and ends with `end`, a line of shell. An explanation has to name the script, the
/// command and its argument.
pub fn restarts(end: &str) -> Result<(Workload, PathBuf)> {
    let work = Workload::new()?;
    let (go, argument) = (work.write(&names::word(), "")?, names::word());
    let command = work.write_program(&names::word(), &format!("#!/bin/sh\n{end}\n"))?;
    let (file, command) = (go.display(), command.display());
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\nwhile [ -e {file} ]; do\n    {command} {argument}\n    sleep 0.05\ndone\nsleep 3600\n"
        ),
    )?;
    let path = script.to_string_lossy().into_owned();
    let names = [path, command.to_string(), argument];
    Ok((work.runs([script]).named(names), go))
}

/// A script that restarts a command without end, and the name of another one that ends each run of it with
/// `kill -9`, once it has said that it runs.
pub fn killed() -> Result<(Workload, String)> {
    let work = Workload::new()?;
    // Nobody ever writes to the pipe: the command waits without a child of its own.
    let command = work.write_program(
        &names::word(),
        "#!/bin/sh\necho $$ >runs.new\nmv runs.new runs\nread -r line <pipe\n",
    )?;
    // Each pid is taken once: a later process of that number is none of its business.
    let killer = work.write_program(
        &names::word(),
        "#!/bin/sh\nwhile :; do\n    mv runs taken 2>/dev/null && read -r pid <taken && kill -9 \"$pid\"\n    sleep 0.05\ndone\n",
    )?;
    let name = killer.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\nmkfifo pipe\n{} &\nwhile :; do\n    {}\ndone\n",
            killer.display(),
            command.display()
        ),
    )?;
    let (path, command) = (script.display().to_string(), command.display().to_string());
    Ok((work.runs([script]).named([path, command]), name))
}

/// A script that waits until a command succeeds, which takes it so many seconds.
pub fn waits(seconds: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let come = work.path().join(names::word());
    let ask =
        work.write_program(&names::word(), &format!("#!/bin/sh\ntest -e {}\n", come.display()))?;
    let (come, ask) = (come.display(), ask.display());
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\n(sleep {seconds}; : >{come}) &\nuntil {ask}; do sleep 0.05; done\nwait\n"
        ),
    )?;
    Ok(work.runs([script]))
}

/// So many jobs of make, eight at once, all of which fail after 0.3 s, each another command.
pub fn failing_jobs(count: u32) -> Result<Workload> {
    let fail = names::word();
    let targets: Vec<String> = (0..count).map(|job| format!("job{job}")).collect();
    let rules = format!(
        "all: {targets}\n{targets}:\n\t@./{fail} $@\n.PHONY: all {targets}\n",
        targets = targets.join(" ")
    );
    let work = Workload::new()?;
    failing(&work, &fail, "sleep 0.3\nexit 1")?;
    work.write("Makefile", &rules)?;
    let script = work.write_program(&names::word(), "#!/bin/sh\nmake -k -j 8\ntest $? -eq 2\n")?;
    Ok(work.runs([script]))
}

/// xargs, which runs a failing command with so many different arguments.
pub fn failing_arguments(count: u32) -> Result<Workload> {
    let fail = names::word();
    let work = Workload::new()?;
    failing(&work, &fail, "sleep 0.01\nexit 1")?;
    let script = work.write_program(
        &names::word(),
        &format!("#!/bin/sh\nseq {count} | xargs -n 1 ./{fail}\ntest $? -eq 123\n"),
    )?;
    Ok(work.runs([script]))
}

/// The same command so many times, as fast as a shell can, and it ends well.
pub fn successes(count: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let command = work.write_program(&names::word(), "#!/bin/sh\nexit 0\n")?;
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\ni=0\nwhile [ $i -lt {count} ]; do\n    {}\n    i=$((i + 1))\ndone\n",
            command.display()
        ),
    )?;
    Ok(work.runs([script]))
}

fn failing(work: &Workload, name: &str, end: &str) -> Result<PathBuf> {
    work.write_program(name, &format!("#!/bin/sh\n{end}\n"))
}
