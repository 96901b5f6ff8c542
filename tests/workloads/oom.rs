//! Programs that take more memory than they may, and one that is killed by somebody.

use std::iter;

use anyhow::Result;

use super::Workload;
use crate::names;

/// What a shell needs to fill any limit: a text that doubles.
const FILL: &str = "x=0123456789abcdef\nwhile :; do x=\"$x$x\"; done\n";

/// A script that fills its limit at once.
pub fn fills() -> Result<Workload> {
    fills_named(&names::word())
}

/// The same from a script of this name.
pub fn fills_named(name: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let script = work.write_program(name, &format!("#!/bin/sh\n{FILL}"))?;
    let name = script.to_string_lossy().into_owned();
    Ok(work.runs([script]).named([name]))
}

/// A script with two idle children that fills its limit, as a group that dies as a whole.
pub fn fills_with_children() -> Result<Workload> {
    let work = Workload::new()?;
    let script = format!("#!/bin/sh\nsleep 3600 &\nsleep 3600 &\nsleep 1\n{FILL}");
    let script = work.write_program(&names::word(), &script)?;
    Ok(work.runs([script]))
}

/// A program that fills its limit, with a process of its own, and no thread, that has the same memory and sleeps.
pub fn fills_shared() -> Result<Workload> {
    shared(&[])
}

/// The same where that process never sleeps: it ends the moment it is killed.
pub fn fills_shared_with_a_busy_one() -> Result<Workload> {
    shared(&["busy"])
}

fn shared(words: &[&str]) -> Result<Workload> {
    let work = Workload::new()?;
    let program = work.compile(&names::word(), include_str!("shared.c"), &["-O1"])?;
    let words = words.iter().map(Into::into);
    Ok(work.runs(iter::once(program.into_os_string()).chain(words)))
}

/// A script that fills its limit as the first process of a pid namespace, which ends with it, an idle child included.
pub fn fills_with_its_namespace() -> Result<Workload> {
    let work = Workload::new()?;
    let script = format!("#!/bin/sh\nsleep 3600 &\nsleep 1\n{FILL}");
    let script = work.write_program(&names::word(), &script)?;
    Ok(work.runs(["unshare".into(), "--pid".into(), "--fork".into(), script.into_os_string()]))
}

/// A script that starts another one again and again, so many times, each of which fills its limit.
pub fn restarts(times: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let fill = work.write_program(&names::word(), &format!("#!/bin/sh\n{FILL}"))?;
    let fill = fill.display();
    let script = format!(
        "#!/bin/sh\ni=0\nwhile [ $i -lt {times} ]; do\n    {fill}\n    sleep 1.2\n    i=$((i + 1))\ndone\nsleep 3600\n"
    );
    let script = work.write_program(&names::word(), &script)?;
    Ok(work.runs([script]))
}

/// An idle script, and the name of another one that kills it with SIGKILL after a second.
pub fn killed() -> Result<Workload> {
    let work = Workload::new()?;
    let killer = work.write_program(&names::word(), "#!/bin/sh\nsleep 1\nkill -9 $1\n")?;
    let name = killer.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let script = format!("#!/bin/sh\n{} $$ &\nwhile :; do sleep 3600; done\n", killer.display());
    let script = work.write_program(&names::word(), &script)?;
    Ok(work.runs([script]).named([name]))
}
