//! The fuzzer's build: the crate `tests/fuzz`, instrumented.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Target, home};
use crate::{cargo, place};

/// What libFuzzer needs to see where a run went and what it compared, as cargo-fuzz passes it; all of it is
/// stable. `--target` keeps the flags from build scripts, and the sensor's sets its own for the kernel side.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
    // The linker must not drop the counters' tables.
    "-Clink-dead-code",
];

/// The program that has all targets.
pub struct Fuzzer {
    pub path: PathBuf,
}

pub fn build() -> Result<Fuzzer> {
    let manifest = place::workspace().join("tests/fuzz/Cargo.toml");
    let mut command = cargo::command("build");
    command
        .arg("--manifest-path")
        .arg(manifest)
        .args(["--release", "--target", "host-tuple", "--target-dir"])
        .arg(home().join("build"))
        // Where flags hold spaces, cargo wants them apart by this character.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    let built = cargo::executables_of(command)?;
    let fuzzer = built.into_iter().find(|it| it.target == "fuzz");
    Ok(Fuzzer { path: fuzzer.context("cargo built the fuzzer but names no executable")?.path })
}

impl Fuzzer {
    pub fn targets(&self) -> Result<Vec<Target>> {
        let said = self.ask(&[])?;
        said.lines().map(|line| parse(line).with_context(|| format!("{line:?}"))).collect()
    }

    /// Writes the inputs that `target` begins with into its corpus.
    pub fn write_seeds(&self, target: &str, corpus: &Path) -> Result<()> {
        let names = [("FUZZ_TARGET", target.as_ref()), ("FUZZ_SEEDS", corpus.as_os_str())];
        self.ask(&names).map(drop)
    }

    fn ask(&self, environment: &[(&str, &OsStr)]) -> Result<String> {
        let output = Command::new(&self.path)
            .env_remove("FUZZ_TARGET")
            .env_remove("FUZZ_SEEDS")
            .envs(environment.iter().copied())
            .output()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// `name`, `max_len` and `about`, with tabs between them.
fn parse(line: &str) -> Option<Target> {
    let mut fields = line.split('\t').map(str::to_owned);
    let (name, max_len) = (fields.next()?, fields.next()?.parse().ok()?);
    Some(Target { name, max_len, about: fields.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let btf = Target { name: "btf".into(), max_len: 4096, about: "its types".into() };
        assert_eq!(parse("btf\t4096\tits types"), Some(btf));
        assert_eq!(parse("btf"), None);
    }
}
