//! A recursion with neighbours that nobody may touch: processes of a protected program above it, below
//! it and beside it, and others that just stand beside it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Workload;
use crate::{names, run::copy_program};

/// What stands where.
#[derive(Debug, Default)]
pub struct Places {
    /// A protected process runs it all.
    pub above: bool,
    /// Scripts between that and the recursion.
    pub between: usize,
    /// Protected processes with the recursion's parent.
    pub beside: usize,
    /// Levels of the recursion, from 1 on, whose process has a protected child.
    pub below: Vec<u32>,
    /// Processes beside it that nobody protects.
    pub bystanders: usize,
}

/// The workload, and what is needed to find its parts again.
#[derive(Debug)]
pub struct Planted {
    pub work: Workload,
    /// The protected program: a copy of the shell.
    pub guard: PathBuf,
    /// The script that calls itself.
    pub recursion: PathBuf,
    /// Each protected process but the one above makes one of these longer ten times a second.
    pub ticks: Vec<PathBuf>,
    /// The argument by which a bystander is known.
    pub bystander: String,
}

/// Before the next level, s: a dozen takes half a second.
const PAUSE: &str = "0.03";

pub fn recursion(places: &Places) -> Result<Planted> {
    let work = Workload::new()?;
    let guard = work.path().join(names::word());
    copy_program(Path::new("/bin/sh"), &guard)?;
    let ticker =
        work.write(&names::word(), "while :; do\n    echo >>\"$1\"\n    sleep 0.1\ndone\n")?;
    let mut ticks = Vec::new();
    let mut tick = || {
        let file = work.path().join(names::word());
        let line = format!("{} {} {} &", guard.display(), ticker.display(), file.display());
        ticks.push(file);
        line
    };
    let cases: Vec<String> =
        places.below.iter().map(|level| format!("{level}) {} ;;\n", tick())).collect();
    let level = names::word().to_uppercase();
    let recursion = work.write_program(
        &names::word(),
        &format!(
            "#!/bin/sh\n{level}=$(({level} + 1))\nexport {level}\ncase ${level} in\n{}esac\n\
             sleep {PAUSE}\n\"$0\" \"$@\"\nexit $?\n",
            cases.concat()
        ),
    )?;
    let bystander = format!("3{}", 600 + std::process::id() % 100);
    let neighbours: String = (0..places.beside).map(|_| tick() + "\n").collect();
    let bystanders = format!("sleep {bystander} &\n").repeat(places.bystanders);
    let start = |program: &Path| format!("#!/bin/sh\n{}\nexit $?\n", program.display());
    let mut top = work.write_program(
        &names::word(),
        &format!("#!/bin/sh\n{neighbours}{bystanders}{}\nexit $?\n", recursion.display()),
    )?;
    for _ in 0..places.between {
        top = work.write_program(&names::word(), &start(&top))?;
    }
    let argv = if places.above { vec![guard.clone(), top] } else { vec![top] };
    Ok(Planted { work: work.runs(argv), guard, recursion, ticks, bystander })
}
