//! `cargo xtask setup`, implied by the other commands: what building, running and testing needs
//! and this machine lacks. It looks at the things themselves, keeps no state, and so is quick when
//! nothing is missing.

mod agents;
pub mod buf;
mod compiler;
mod linker;
mod packages;

use anyhow::{Result, bail};

use self::packages::Requirement;
use crate::step;

/// What the things are needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Building the sensor, its kernel side included.
    Build,
    /// Checks and native tests.
    Test,
    /// Tests with the agents' real programs.
    Agents,
    /// Virtual machines.
    Vm,
    /// libFuzzer; only where something is to be fuzzed.
    Fuzz,
}

/// Everything that building and testing needs.
pub const ALL: &[Need] = &[Need::Build, Need::Test, Need::Agents, Need::Vm];

/// Installs what is missing for `needs`, one line a step.
pub fn ensure(needs: &[Need]) -> Result<()> {
    packages::ensure(needs)?;
    if needs.contains(&Need::Test) {
        compiler::ensure_components()?;
        buf::ensure()?;
    }
    if needs.contains(&Need::Agents)
        && let Err(error) = agents::ensure()
    {
        // Whoever has no way to npm's registry has all other tests.
        eprintln!("the agents' programs are not installed, and their tests skipped: {error:#}");
    }
    if needs.contains(&Need::Build) {
        let toolchain = compiler::ensure()?;
        let linker = linker::ensure(&toolchain)?;
        eprintln!("set-up complete: the kernel side is built with {}, {linker}", toolchain.version);
    }
    Ok(())
}

/// Installs those of Debian's packages that are missing, for this reason.
pub fn packages<'a>(names: impl Iterator<Item = &'a String>, why: &'static str) -> Result<()> {
    let missing: Vec<Requirement> = names
        // Debian's policy (12.5) puts every package's copyright there.
        .map(|name| Requirement::file(format!("/usr/share/doc/{name}/copyright"), name, why))
        .filter(|requirement| !requirement.is_there())
        .collect();
    packages::install(&missing)
}

/// The end of an error: what `output` said last.
fn failure(what: &str, output: &step::Output) -> Result<()> {
    let why = if output.timed_out {
        format!("no end after {}", step::seconds(output.took))
    } else {
        output.tail()
    };
    bail!("{what}: {why}")
}
