//! Shell scripts: three that run away, three that only look so.

use anyhow::Result;

use super::Workload;
use crate::names;

/// Calls itself twice: doubles until something stops it.
pub fn twice() -> Result<Workload> {
    let work = Workload::new()?;
    let script = work.write_program(&names::word(), "#!/bin/sh\n\"$0\" &\n\"$0\" &\nwait\n")?;
    let path = script.to_string_lossy().into_owned();
    Ok(work.runs([script]).named([path]))
}

/// Calls itself with one argument more, ten times a second.
pub fn launcher() -> Result<Workload> {
    let work = Workload::new()?;
    let argument = format!("--{}={}", names::word(), names::word());
    let script = work.write_program(
        &names::word(),
        &format!("#!/bin/sh\nsleep 0.05\n\"$0\" \"$@\" {argument}\nexit $?\n"),
    )?;
    let path = script.to_string_lossy().into_owned();
    Ok(work.runs([script]).named([path, argument]))
}

/// Calls itself once, with an endless end: deeper by about so many processes a second.
pub fn line(per_second: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let pause = 1.0 / f64::from(per_second.max(1));
    let script = work.write_program(
        &names::word(),
        &format!("#!/bin/sh\nsleep {pause:.3}\n\"$0\"\nexit $?\n"),
    )?;
    let path = script.to_string_lossy().into_owned();
    Ok(work.runs([script]).named([path]))
}

/// A wrapper that runs itself again a few times with the same arguments, as one that retries does.
pub fn wrapper(again: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let left = names::word().to_uppercase();
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\nif [ \"${left}\" -gt 0 ]; then\n    {left}=$(({left} - 1)) \"$0\" \"$@\"\n    exit $?\nfi\nsleep 1\n"
        ),
    )?;
    let work = work.with(&left, again.to_string());
    Ok(work.runs([script.into_os_string(), names::word().into()]))
}

/// Short commands, one after the other, as fast as a shell can.
pub fn short_commands(count: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\ni=0\nwhile [ $i -lt {count} ]; do\n    /bin/true\n    i=$((i + 1))\ndone\n"
        ),
    )?;
    Ok(work.runs([script]))
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
