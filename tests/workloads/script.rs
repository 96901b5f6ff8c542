//! Shell scripts with parameters: some run away, some only look so.

use std::{ffi::OsString, iter, path::PathBuf};

use anyhow::Result;

use super::Workload;
use crate::names;

/// Calls itself once, for ever: deeper by about so many processes a second.
pub fn line(per_second: u32) -> Result<Workload> {
    line_of(per_second, &names::word(), &[])
}

/// The same with these arguments, passed on unchanged.
pub fn line_with(per_second: u32, arguments: &[OsString]) -> Result<Workload> {
    line_of(per_second, &names::word(), arguments)
}

/// The same from a script of this name.
pub fn line_named(per_second: u32, name: &str) -> Result<Workload> {
    line_of(per_second, name, &[])
}

fn line_of(per_second: u32, name: &str, arguments: &[OsString]) -> Result<Workload> {
    let work = Workload::new()?;
    let pause = 1.0 / f64::from(per_second.max(1));
    let script = work
        .write_program(name, &format!("#!/bin/sh\nsleep {pause:.3}\n\"$0\" \"$@\"\nexit $?\n"))?;
    let path = script.to_string_lossy().into_owned();
    let argv = iter::once(script.into_os_string()).chain(arguments.iter().cloned());
    Ok(work.runs(argv).named([path]))
}

/// A wrapper that runs itself again a few times with the same arguments, as one that retries does.
pub fn wrapper(again: u32) -> Result<Workload> {
    again_and(again, "sleep 1")
}

/// The same without anything to do at the end.
pub fn brief(again: u32) -> Result<Workload> {
    again_and(again, ":")
}

fn again_and(again: u32, end: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let left = names::word().to_uppercase();
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\nif [ \"${left}\" -gt 0 ]; then\n    {left}=$(({left} - 1)) \"$0\" \"$@\"\n    exit $?\nfi\n{end}\n"
        ),
    )?;
    let work = work.with(&left, again.to_string());
    Ok(work.runs([script.into_os_string(), names::word().into()]))
}

/// A shell function that calls itself twice through a pipe, without any exec: a fork bomb. The$
/// script itself stays when the bomb has met its limit.
pub fn function_bomb() -> Result<Workload> {
    let work = Workload::new()?;
    let name = names::word();
    let script = work.write_program(
        &names::word(),
        &format!("#!/bin/bash\n{name}() {{ {name} | {name} & }}\n{name}\nsleep 3600\n"),
    )?;
    Ok(work.runs([script]))
}

/// An interactive shell, to be typed into through its standard input.
pub fn shell() -> Result<Workload> {
    Ok(Workload::new()?.runs(["bash", "-i"]))
}

/// The endless line, whose first process starts another command in the background and gives it a
/// second before it begins.
pub fn line_after(per_second: u32, first: &[OsString]) -> Result<Workload> {
    let mut work = line(per_second)?;
    let words: Vec<String> = first.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let path = work.names.first().cloned().unwrap_or_default();
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let starter = work.write_program(
        &names::word(),
        &format!("#!/bin/sh\n{} &\nsleep 3\nexec {path}\n", quoted.join(" ")),
    )?;
    work.argv = vec![starter.into_os_string()];
    Ok(work)
}

/// A small tree, and the file that one of it makes longer ten times a second.
pub fn ticker() -> Result<(Workload, PathBuf)> {
    let work = Workload::new()?;
    let file = work.path().join(names::word());
    let script = work.write_program(
        &names::word(),
        "#!/bin/sh\nsleep 3600 &\n(while :; do printf x >>\"$1\"; sleep 0.1; done) &\nwait\n",
    )?;
    let work = work.runs([script.into_os_string(), file.clone().into()]);
    Ok((work, file))
}
