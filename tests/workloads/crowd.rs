//! Many processes that do nothing.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Running, Workload};
use crate::{
    cage::{Cage, Limits},
    run::until,
    target,
};

/// A forked child of a small static program costs the kernel about 70 KB.
const BYTES_EACH: u64 = 128 << 10;

/// 20,000 forks take 3–6 s here.
const READY_LIMIT: Duration = Duration::from_mins(2);

/// The program's name, and its source.
pub const NAME: &str = "crowd";
pub const SOURCE: &str = include_str!("crowd.c");

/// So many processes that wait for ever.
pub fn of(count: u32) -> Result<Workload> {
    let work = Workload::new()?;
    let program = match target::ready_made(NAME) {
        Some(program) => program,
        None => work.compile(NAME, SOURCE, &["-O2", "-static"])?,
    };
    Ok(work.runs([program.into_os_string(), count.to_string().into()]))
}

/// Limits of a cage that holds such a crowd and some room for others.
pub fn limits(count: u32) -> Limits {
    Limits {
        tasks: Some(count + 1000),
        memory_bytes: Some(u64::from(count) * BYTES_EACH + (2 << 30)),
    }
}

/// Starts a crowd and waits until all are there.
pub fn start(work: &Workload, cage: &Cage) -> Result<Running> {
    let running = work.start(cage)?;
    if !until(READY_LIMIT, || work.output().contains("ready")) {
        bail!("the crowd is not ready: {} processes, {:?}", cage.count(), work.output());
    }
    let wanted = work.argv.last().map(|count| count.to_string_lossy().into_owned());
    let said = work.output();
    match said.trim().strip_prefix("ready ") {
        Some(made) if Some(made) == wanted.as_deref() => Ok(running),
        _ => bail!("the crowd is smaller than it should be: {said:?}"),
    }
}
