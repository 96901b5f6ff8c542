//! What a build of a real source costs with the sensor on against off: the C library of zstd, which is among our
//! dependencies, by `make -j2` without optimising, so that most of the time goes into starting compilers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use ::tests::{Cage, Limits, Sensor, run::run, skip};
use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Effort, overhead,
    programs::{Accounting, spent},
    row::Row,
    stats::{bootstrap, median},
};
use crate::place;

const JOBS: u32 = 2;

const BUDGET_PERCENT: f64 = 1.0;

/// Some 3 s of an idle machine.
const LIMIT: Duration = Duration::from_mins(5);

/// Builds in which the programs' own time is counted.
const COUNTED: usize = 5;

const CRATE: &str = "zstd-sys";

/// What in it is compiled.
const PARTS: [&str; 4] = ["common", "compress", "decompress", "dictBuilder"];

pub fn measure(sensor: &Path, effort: Effort, print: &mut dyn FnMut(Row)) -> Result<()> {
    if let Some(reason) = skip::reason(&["cc", "make"]) {
        eprintln!("xtask: no rows for a build: {reason}");
        return Ok(());
    }
    let source = Source::lay_out()?;
    let name = format!("make -j{JOBS} of {} C files", source.files);
    let names = [(format!("{name}, sensor on against off"), BUDGET_PERCENT)];
    let cage = Cage::new(Limits::tasks(100))?;
    overhead::compare(sensor, &cage, effort, &names, &|| Ok([source.build()?]), print)?;

    let daemon = Sensor::start_binary(sensor, &cage, "")?;
    let _accounting = Accounting::on()?;
    let mut shares = Vec::new();
    for _ in 0..COUNTED {
        let before = spent(&daemon)?;
        let ns = source.build()? * f64::from(JOBS);
        shares.push(100.0 * spent(&daemon)?.since(before).ns as f64 / ns);
    }
    let name = format!("{name}: time inside the programs, of {JOBS} CPUs");
    print(Row::new(&name, bootstrap(&shares, median), "%", Some(BUDGET_PERCENT)));
    Ok(())
}

/// A source with its makefile in a directory of its own.
struct Source {
    directory: TempDir,
    files: usize,
}

impl Source {
    fn lay_out() -> Result<Self> {
        let library = crate_directory()?.join("zstd/lib");
        let mut sources = Vec::new();
        for part in PARTS {
            let part = library.join(part);
            let entries =
                fs::read_dir(&part).with_context(|| format!("cannot read {}", part.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|it| it == "c") {
                    sources.push(path);
                }
            }
        }
        sources.sort();
        let directory = TempDir::new()?;
        fs::write(directory.path().join("Makefile"), makefile(&sources))?;
        Ok(Self { directory, files: sources.len() })
    }

    /// ns to build all of it.
    fn build(&self) -> Result<f64> {
        let mut make = Command::new("make");
        make.arg("--silent").arg("--always-make").arg(format!("-j{JOBS}"));
        make.current_dir(self.directory.path());
        let begin = Instant::now();
        run(&mut make, LIMIT)?.success()?;
        Ok(begin.elapsed().as_nanos() as f64)
    }
}

/// A rule for each file.
fn makefile(sources: &[PathBuf]) -> String {
    let object = |at: usize| format!("{at}.o");
    let all: Vec<String> = (0..sources.len()).map(object).collect();
    let rules = sources.iter().enumerate().map(|(at, source)| {
        format!("{}: {}\n\t$(CC) -O0 -c -o $@ $<\n", object(at), source.display())
    });
    format!("all: {}\n{}", all.join(" "), rules.collect::<String>())
}

/// Where cargo has unpacked the crate.
fn crate_directory() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--format-version", "1", "--locked"]).current_dir(place::workspace());
    let said = run(&mut cargo, LIMIT)?.success()?;
    let metadata: Value = serde_json::from_str(&said).context("cargo metadata said no JSON")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages
        .iter()
        .find(|package| package["name"] == CRATE)
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(Path::to_path_buf)
        .with_context(|| format!("cargo metadata has no {CRATE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_makefile_has_a_rule_for_each_file() {
        let made = makefile(&["/a/x.c".into(), "/b/x.c".into()]);
        let expected = "all: 0.o 1.o\n0.o: /a/x.c\n\t$(CC) -O0 -c -o $@ $<\n1.o: /b/x.c\n\t$(CC) -O0 -c -o $@ $<\n";
        assert_eq!(made, expected);
    }
}
