//! `cargo xtask bench --counted`: what can be measured in a guest whose clock counts instructions. What a host's
//! neighbours, caches and paging do to a time is not in it, and the same code has the same numbers everywhere. How
//! long an instruction takes is not in it either: a nanosecond stands for it, three cycles of a processor of today.

use std::{env, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use tests::workloads::crowd;

use super::{Args, compile, overhead::SPAWN, sample::WALK};
use crate::{
    place,
    setup::{self, Need},
    step,
    vm::{Init, Plan},
};

/// The kernel where none is named. Before 6.4 a map is said to take what it would take when it is full.
pub const KERNEL: &str = "7.2";

/// Where a guest has it.
pub const SENSOR: &str = "/usr/bin/sensor";

/// What the guest's init prints before its rows, and behind them.
const BEGIN: &str = "== bench\n";
const EXIT: &str = "\n== exit ";

/// A nanosecond for an instruction, as a power of two.
const SHIFT: u8 = 0;

/// Where there is little, the sensor looks at memory more often.
const MEMORY_MIB: u32 = 4096;

/// The loops of `overhead` take most of it.
const LIMIT: Duration = Duration::from_hours(1);

pub fn run(kernel: &str, sensor: &Path, args: &Args) -> Result<()> {
    setup::ensure(&[Need::Vm])?;
    let programs = [SPAWN, WALK, (crowd::NAME, crowd::SOURCE)];
    let mut others = vec![env::current_exe().context("what runs here has no path")?];
    for program in programs {
        others.push(compile(program)?);
    }
    let mut words = vec!["--inside".to_owned()];
    words.extend(args.json.then(|| "--json".to_owned()));
    words.extend(args.only.iter().map(|only| format!("--only={only}")));
    let plan = Plan {
        kernel,
        sensor,
        tests: None,
        others,
        processors: 1,
        shift: SHIFT,
        memory_mib: MEMORY_MIB,
        init: Init::Own,
    };
    let mut machine = plan.machine(&format!("sensor.bench={}", words.join(",")))?;
    let console = place::target().join("vm/bench.log");
    machine.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    let said = step::must(&format!("bench in {kernel}"), &mut machine, LIMIT)?.stdout;
    let rows = said.split_once(BEGIN).and_then(|(_, rest)| rest.rsplit_once(EXIT));
    match rows {
        Some((rows, exit)) if exit.trim() == "0" => {
            if !args.json {
                println!("in a guest of {kernel}, 1 ns for an instruction:");
            }
            println!("{}", rows.trim_end());
            Ok(())
        }
        _ => bail!("the guest did not reach its end; see {}:\n{said}", console.display()),
    }
}
