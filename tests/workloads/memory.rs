//! Shells that hold memory: in variables, for that needs no other program.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Workload;
use crate::{names, run::copy_program};

/// Takes so many MiB in each of so many steps, with this pause between them (s), and keeps all of it. Prints
/// `all` at the end.
pub fn leak(mib: u32, steps: u32, pause: &str) -> Result<Workload> {
    let work = Workload::new()?;
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\n\
             chunk=$(head -c {bytes} /dev/zero | tr '\\0' x)\n\
             step=0\n\
             while [ $step -lt {steps} ]; do\n\
             \x20   eval \"held_$step=\\$chunk\"\n\
             \x20   step=$((step + 1))\n\
             \x20   sleep {pause}\n\
             done\n\
             echo all\n\
             while :; do sleep 1; done\n",
            bytes = u64::from(mib) << 20,
        ),
    )?;
    Ok(work.runs([script]))
}

/// The same, run by a copy of the shell, with the path of that.
pub fn leak_by_a_copy(mib: u32, steps: u32, pause: &str) -> Result<(Workload, PathBuf)> {
    let mut work = leak(mib, steps, pause)?;
    let shell = work.path().join(names::word());
    copy_program(Path::new("/bin/sh"), &shell)?;
    work.argv.insert(0, shell.clone().into());
    Ok((work, shell))
}

/// Takes so many MiB and then forks so many children, which execute nothing and wait. Prints `all` then.
pub fn forks(mib: u32, children: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let script = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\n\
             held=$(head -c {bytes} /dev/zero | tr '\\0' x)\n\
             mkfifo gate\n\
             child=0\n\
             while [ $child -lt {children} ]; do\n\
             \x20   (read -r line <gate) &\n\
             \x20   child=$((child + 1))\n\
             done\n\
             echo all\n\
             read -r line <gate\n",
            bytes = u64::from(mib) << 20,
        ),
    )?;
    Ok(work.runs([script]))
}
