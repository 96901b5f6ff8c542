//! `cargo xtask vm KERNEL… --lead`: leaks that nothing bounds but the machine, in guests of 1 GiB without swap,
//! until the kernel's OOM killer acts. How long before that the sensor had opened an incident, and earlyoom,
//! which runs beside it and only says what it would do, had wanted to act.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Init, Which, console, guest, kernel};
use crate::{
    marked,
    measure::machine::Machine,
    place, step,
    test::{self, Built, results::Suite, skips::SkipList},
};

/// The tests that measure, and how their lines on the console begin.
const TESTS: &str = "lead::";
const LINE: &str = "LEAD ";

/// Where the table goes, and who writes it there.
const PAGE: &str = "docs/measurements.md";
const BY: &str = "cargo xtask vm 5.10 6.1 6.12 7.2 --lead";

const LIMIT: Duration = Duration::from_mins(5);

/// One leak, times before the kill, s.
#[derive(Debug, Deserialize)]
struct Lead {
    mb: u32,
    ran_s: f64,
    pressure_s: Option<f64>,
    growth_s: Option<f64>,
    earlyoom_s: Option<f64>,
}

pub fn run(kernels: &[String], processors: u8) -> Result<ExitCode> {
    fetch_peer()?;
    let skips = SkipList::load(&place::workspace().join("tests/skips.toml"))?;
    let built = Built::all()?;
    let mut found: BTreeMap<(u32, usize), Lead> = BTreeMap::new();
    let mut suites: Vec<Suite> = Vec::new();
    for (order, name) in kernels.iter().enumerate() {
        let which = Which::Only(vec![TESTS], 1);
        match guest(name, &built, &which, processors, Init::Own, &skips) {
            Ok((suite, _)) => suites.push(suite),
            Err(error) => suites.push(test::broken(&format!("vm {name}"), &error)),
        }
        let log = fs::read(console(name)).unwrap_or_default();
        for lead in parse(&String::from_utf8_lossy(&log)) {
            found.insert((lead.mb, order), lead);
        }
    }
    if found.is_empty() {
        // The table stays as it was.
        return Ok(test::report(&suites));
    }
    let machine = Machine::read();
    let Machine { processor, commit, load, .. } = &machine;
    let day = day()?;
    let mut table = format!(
        "Commit {commit} on {day}, in emulated guests (QEMU without KVM) on {processor}, load {load}. Times \
         before the kill, s.\n\n"
    );
    table.push_str(&rows(kernels, &found));
    println!("{table}");
    marked::write(PAGE, BY, &table)?;
    Ok(test::report(&suites))
}

fn day() -> Result<String> {
    let said = Command::new("date").args(["-u", "+%F"]).output().context("cannot start date")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// What the tests said on the console, whatever the kernel wrote between.
fn parse(console: &str) -> Vec<Lead> {
    let lines = console.lines().filter_map(|line| line.trim().strip_prefix(LINE));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn rows(kernels: &[String], found: &BTreeMap<(u32, usize), Lead>) -> String {
    let mut table = String::from(
        "| leak | kernel | until the kill | memory_pressure | memory_growth | earlyoom would act |\n\
         |---|---|---|---|---|---|\n",
    );
    let seconds = |lead: Option<f64>| lead.map_or("–".to_owned(), |lead| format!("{lead:.1}"));
    for ((mb, order), lead) in found {
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| {mb} MB/s | {} | {:.0} | {} | {} | {} |",
            kernels[*order],
            lead.ran_s,
            seconds(lead.pressure_s),
            seconds(lead.growth_s),
            seconds(lead.earlyoom_s)
        );
    }
    table
}

/// earlyoom, where it was fetched.
pub fn peer() -> PathBuf {
    place::target().join("vm/earlyoom/earlyoom")
}

/// Gets it from this machine's own Debian, without installing it.
fn fetch_peer() -> Result<()> {
    let peer = peer();
    if peer.exists() {
        return Ok(());
    }
    let dir = peer.parent().unwrap_or(Path::new("/"));
    let unpacked = dir.join("unpacked");
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "download", "earlyoom"]).current_dir(&unpacked);
    step::must("earlyoom", &mut download, LIMIT)?;
    let is_package = |file: &Path| file.extension().is_some_and(|it| it == "deb");
    let package = kernel::find(&unpacked, &is_package).context("apt-get downloaded no earlyoom")?;
    let mut unpack = Command::new("dpkg");
    step::must("unpack earlyoom", unpack.arg("-x").arg(&package).arg(&unpacked), LIMIT)?;
    let is_program = |file: &Path| file.ends_with("bin/earlyoom");
    let program = kernel::find(&unpacked, &is_program).context("the package has no earlyoom")?;
    fs::rename(&program, &peer).with_context(|| format!("cannot make {}", peer.display()))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "[ 12.3] Out of memory\r\n\r\nLEAD {\"mb\":50,\"ran_s\":14.04,\"pressure_s\":6.25,\
                        \"growth_s\":null,\"earlyoom_s\":1.0}\r\n[ 13.0] LEAD {\"mb\n";

    #[test]
    fn lines_of_the_console_become_rows() {
        let leads = parse(SAID);
        assert_eq!(leads.len(), 1);
        let found: BTreeMap<(u32, usize), Lead> =
            leads.into_iter().map(|lead| ((lead.mb, 0), lead)).collect();
        let table = rows(&["6.1".to_owned()], &found);
        assert!(table.ends_with("| 50 MB/s | 6.1 | 14 | 6.2 | – | 1.0 |\n"), "{table}");
    }
}
