//! `cargo xtask vm`: the end-to-end tests inside QEMU, on other kernels. The guest is an initramfs
//! with the very programs that run natively; it needs no disk, no network and no root.

mod bombs;
mod cut;
mod guest;
mod initramfs;
mod kernel;
mod lead;
mod machine;
mod page;
mod systemd;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub use self::machine::{Init, Plan};
use crate::{
    place,
    setup::{self, Need},
    step,
    test::{
        self, Built,
        results::{self, Case, Outcome, Suite},
        skips::{Place, SkipList},
    },
};

/// The kernels that `cargo xtask test` runs.
pub const DEFAULT: [&str; 1] = ["6.1"];

/// Tests that run in a guest only where they are asked for, by parts of their names: the subject of most is not
/// the kernel, and they run natively; others take minutes for what a shorter one shows as well, or for a table.
const LEFT_OUT: [&str; 59] = [
    "acting::a_dry_run",
    "acting::nothing_outside",
    "agents::",
    "api::",
    "bad_disk::",
    "black_box::",
    "confined::",
    "costs::",
    "crowds::",
    "gathering::",
    "group::",
    "hostile::",
    "investigation::",
    "judge::",
    "kept::",
    "killed::",
    "lead::",
    "left_alone::",
    "oom::an_oom_loop",
    "oom::oom_kills_in_a_row",
    "pause::a_",
    "pause::ash",
    "pause::bash",
    "pause::dash",
    "pause::go",
    "pause::make",
    "pause::node",
    "pause::python",
    "pause::rust",
    "pause::threads",
    "pressure::a_threshold",
    "privileges::a_log_below",
    "recursion::git_hook",
    "recursion::launcher",
    "recursion::make",
    "recursion::script_twice",
    "remote::",
    "respawn::a_",
    "respawn::left_alone",
    "respawn::respawn_loop_of_a_script",
    "respawn::respawn_loop_replays",
    "respawn::respawn_loop_with",
    "resume::",
    "rogue::",
    "room::",
    "shell::",
    "sources::",
    "stages::",
    "storm::left_alone",
    "storm::storm_perl",
    "storm::storm_shell",
    "storm::storm_star",
    "trees::a_watch",
    "trees::an_incident_has",
    "units::",
    "watching::",
    "webhooks::",
    "witness::what_an",
    "workloads::",
];

/// A guest under emulation is several times slower than its host. It boots in 4 s.
const LIMIT: Duration = Duration::from_mins(40);

/// What is read from it is cache that the kernel can take back; all other files of a guest are memory.
const DISK_BYTES: u64 = 256 << 20;

/// What the guest's init prints around the tests' own words, on the second serial line.
const SKIPS: &str = "== skips";
const BOMBS: &str = "== bombs";
const DOCTOR: &str = "== doctor";
const EXIT: &str = "== exit ";

#[derive(clap::Args)]
pub struct Args {
    /// Kernels to boot: 5.10, 6.1, 6.12, 7.2
    #[arg(value_name = "KERNEL", default_values = DEFAULT)]
    kernels: Vec<String>,
    /// Run only tests whose names contain this, or one of these: `TEXT,TEXT`
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Run them so often, one after the other, in the same guest
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "filter", value_parser = clap::value_parser!(u8).range(1..))]
    times: u8,
    /// Write docs/kernels.md: what each of these kernels can do, and what becomes of bombs there and on
    /// this machine. Runs the bombs only
    #[arg(long, conflicts_with_all = ["shell", "filter"])]
    page: bool,
    /// No tests: a shell in the guest on this terminal (leave with `poweroff -f`)
    #[arg(long)]
    shell: bool,
    /// No tests: cut the power of a guest of each kernel so often while it writes, and see that nothing announced is
    /// gone
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["shell", "page", "filter"])]
    cut: Option<u32>,
    /// With --cut: a leak until the kernel's OOM killer acts, of the machine at 50, 200 and 5 MB/s and of a cgroup in
    /// turns, and the cut at the moment when its incident is announced. See that the kill is known afterwards, with
    /// all that was said of it
    #[arg(long, requires = "cut")]
    oom: bool,
    /// Only leaks that the kernel ends: how long before that the sensor told of them, and earlyoom would have acted;
    /// writes the table in docs/measurements.md
    #[arg(long, conflicts_with_all = ["shell", "page", "filter", "cut"])]
    lead: bool,
    /// systemd is the guest's init: only what concerns that, or what --filter names
    #[arg(long, conflicts_with_all = ["shell", "page", "cut", "lead"])]
    systemd: bool,
    /// Processors of a guest. One: its clock counts instructions, so that a busy host makes it no slower. More: real
    /// time, and they run in turns
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    processors: u8,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Vm])?;
    if args.shell {
        return shell(&args.kernels[0], args.processors);
    }
    if let Some(times) = args.cut {
        let run = if args.oom { cut::run_oom } else { cut::run };
        for kernel in &args.kernels {
            run(kernel, times).with_context(|| format!("on {kernel}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.lead {
        return lead::run(&args.kernels, args.processors);
    }
    let skips = SkipList::load(&place::workspace().join("tests/skips.toml"))?;
    let built = Built::all()?;
    let which = match &args.filter {
        Some(filter) => Which::Only(filter.split(',').collect(), args.times),
        None if args.systemd => Which::Only(systemd::TESTS.to_vec(), 1),
        None if args.page => Which::Only(vec![bombs::TESTS], 1),
        None => Which::AllOfTheKernel,
    };
    let init = if args.systemd { Init::Systemd } else { Init::Own };
    let (mut suites, mut seen) = (Vec::new(), Vec::new());
    if args.page {
        let (suite, found) = bombs::here(&built, &skips)?;
        suites.push(suite);
        seen.push(found);
    }
    for kernel in &args.kernels {
        suites.push(match guest(kernel, &built, &which, args.processors, init, &skips) {
            Ok((suite, found)) => {
                seen.push(found);
                suite
            }
            Err(error) => test::broken(&format!("vm {kernel}"), &error),
        });
    }
    if args.page {
        let file = place::workspace().join("docs/kernels.md");
        fs::write(&file, page::markdown(&seen))
            .with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("wrote {}", file.display());
    }
    Ok(test::report(&suites))
}

/// Which tests run.
enum Which<'a> {
    /// Those whose subject the kernel is.
    AllOfTheKernel,
    /// Those whose names contain one of these, so often: somebody asks, and takes the time.
    Only(Vec<&'a str>, u8),
}

/// Boots `kernel`, runs the end-to-end tests in it, judges what they say.
pub fn suite(kernel: &str, built: &Built, skips: &SkipList) -> Result<Suite> {
    guest(kernel, built, &Which::AllOfTheKernel, 1, Init::Own, skips).map(|(suite, _)| suite)
}

/// The same, and what was found out about the kernel.
fn guest(
    kernel: &str,
    built: &Built,
    which: &Which<'_>,
    processors: u8,
    init: Init,
    skips: &SkipList,
) -> Result<(Suite, page::Seen)> {
    let name = match init {
        Init::Own => format!("vm {kernel}"),
        Init::Systemd => format!("vm {kernel}, systemd"),
    };
    let console = console(kernel);
    let which = match which {
        Which::AllOfTheKernel => format!("sensor.skip={}", LEFT_OUT.join(",")),
        Which::Only(names, times) => {
            let names = names.join(",");
            if names.contains(|c: char| c.is_whitespace() || c.is_control()) {
                bail!("{names:?}: a test's name has no spaces");
            }
            format!("sensor.filter={names} sensor.times={times}")
        }
    };
    let more = format!("sensor.vm={kernel} {which}");
    let mut machine = Plan { processors, init, ..Plan::of(kernel, built) }.machine(&more)?;
    attach(&mut machine, &blank("disk.img", DISK_BYTES)?);
    machine.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    let output = step::run(&name, &mut machine, LIMIT)?;
    fs::write(console.with_extension("tests.log"), &output.stdout)?;

    let said = Said::parse(&output.stdout);
    let mut cases = test::judged(said.tests, said.skips, &Place::Vm(kernel.to_owned()), skips);
    if output.timed_out {
        cases.push(Case::failed(format!("(stopped after {})", step::seconds(LIMIT))));
    } else if said.exit.is_none() {
        cases.push(Case::failed("(the guest did not reach its end)"));
    }
    let doctor = said.doctor.map(|json| page::capabilities(json).unwrap_or_default());
    if let Some(capabilities) = &doctor {
        cases.push(examined(kernel, capabilities));
    }
    let suite = Suite { name, cases, took: output.took };
    if suite.counts().failed > 0 {
        let log = fs::read(&console).unwrap_or_default();
        let said = results::failures(said.tests).unwrap_or(said.tests);
        println!("{}: the tests said:\n{said}\n{}\n", suite.name, output.stderr);
        println!("the end of the console, the whole is in {}:\n{}", console.display(), tail(&log));
    }
    let seen = page::Seen {
        place: kernel.to_owned(),
        capabilities: doctor.unwrap_or_default(),
        bombs: bombs::parse(said.bombs),
    };
    Ok((suite, seen))
}

/// Whether the sensor can do all on a kernel that it can do there: where the kernel refuses a program, others stand in
/// for it, and most tests would pass all the same.
fn examined(kernel: &str, capabilities: &[page::Capability]) -> Case {
    let lacking = page::lacking(kernel, capabilities);
    let found = !capabilities.is_empty() && lacking.is_empty();
    for line in lacking {
        println!("vm {kernel}: {line}");
    }
    let outcome = if found { Outcome::Passed } else { Outcome::Failed };
    Case { name: "(the doctor lacks nothing)".to_owned(), outcome }
}

/// A disk without anything on it, which takes no room until it is written to.
fn blank(name: &str, bytes: u64) -> Result<PathBuf> {
    let path = place::target().join("vm").join(name);
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.set_len(bytes)?;
    Ok(path)
}

/// As /dev/nvme0n1.
fn attach(machine: &mut Command, disk: &Path) {
    machine.arg("-drive").arg(format!("if=none,id=disk,format=raw,file={}", disk.display()));
    machine.args(["-device", "nvme,drive=disk,serial=1"]);
}

/// Where the guest's first serial line goes.
fn console(kernel: &str) -> PathBuf {
    place::target().join(format!("vm/{kernel}.log"))
}

fn shell(kernel: &str, processors: u8) -> Result<ExitCode> {
    let more = format!("sensor.vm={kernel} sensor.shell");
    let mut machine = Plan { processors, ..Plan::of(kernel, &Built::all()?) }.machine(&more)?;
    let status = machine.args(["-serial", "mon:stdio"]).status().context("cannot start QEMU")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came over the second serial line.
struct Said<'a> {
    tests: &'a str,
    skips: &'a str,
    bombs: &'a str,
    doctor: Option<&'a str>,
    exit: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn parse(output: &'a str) -> Self {
        let (rest, exit) = match output.rsplit_once(EXIT) {
            Some((rest, exit)) => (rest, Some(exit.trim())),
            None => (output, None),
        };
        let (rest, doctor) = match rest.rsplit_once(DOCTOR) {
            Some((rest, doctor)) => (rest, Some(doctor)),
            None => (rest, None),
        };
        let (rest, bombs) = rest.rsplit_once(BOMBS).unwrap_or((rest, ""));
        let (tests, skips) = rest.rsplit_once(SKIPS).unwrap_or((rest, ""));
        Self { tests, skips, bombs, doctor, exit }
    }
}

/// The last lines of a console, without what would move the reader's cursor.
fn tail(log: &[u8]) -> String {
    const LINES: usize = 60;
    let text = String::from_utf8_lossy(log);
    let lines: Vec<String> =
        text.lines().map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_skips_and_exit_are_told_apart() {
        let said = Said::parse(
            "test a ... ok\n== skips\nSKIP a: no node\n== bombs\n{}\n== doctor\n[]\n== exit 0\n",
        );
        assert_eq!(said.tests, "test a ... ok\n");
        assert_eq!(said.skips.trim(), "SKIP a: no node");
        assert_eq!(said.bombs.trim(), "{}");
        assert_eq!(said.doctor.map(str::trim), Some("[]"));
        assert_eq!(said.exit, Some("0"));
    }

    #[test]
    fn a_guest_that_stops_midway_has_no_exit() {
        let said = Said::parse("test a ... ok\ntest b ... ");
        assert_eq!((said.tests, said.skips, said.exit), ("test a ... ok\ntest b ... ", "", None));
    }

    #[test]
    fn a_consoles_tail_cannot_move_the_cursor() {
        assert_eq!(tail(b"one\r\n\x1b[2Jtwo\xff"), "one\n[2Jtwo\u{fffd}");
    }
}
