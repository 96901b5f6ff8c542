//! Builds with cargo, and what they produced.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::place;

/// An executable that cargo built.
#[derive(Debug, Clone)]
pub struct Executable {
    /// The crate's folder: tests run in it, as under `cargo test`.
    pub crate_dir: PathBuf,
    /// The name of the target: a crate, a binary or an integration test.
    pub target: String,
    /// `lib`, `bin`, `test`, …
    pub kind: String,
    /// Built with the test harness.
    pub test: bool,
    pub path: PathBuf,
}

/// cargo of the toolchain that runs us, in the workspace.
pub fn command(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(place::workspace());
    // What cargo has said to us about our own crate. Crates whose build scripts look at such names (ring)
    // would be built anew each time that somebody calls cargo without us.
    let is_ours =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_ours)) {
        command.env_remove(name);
    }
    command
}

/// Runs a build (`build …`, `test --no-run …`) and returns the executables. cargo shows its own
/// progress and errors.
pub fn build(subcommand: &str, args: &[&str]) -> Result<Vec<Executable>> {
    let mut command = command(subcommand);
    command.args(args);
    executables_of(command)
}

/// The same for a command with more than arguments.
pub fn executables_of(mut build: Command) -> Result<Vec<Executable>> {
    let output = build
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        let words: Vec<_> = build.get_args().map(|word| word.to_string_lossy()).collect();
        bail!("cargo {} failed", words.join(" "));
    }
    executables(&String::from_utf8_lossy(&output.stdout))
}

/// Builds the `sensor` executable and tells where it is.
pub fn sensor(release: bool) -> Result<PathBuf> {
    let mut args = vec!["-p", "sensor", "--bin", "sensor"];
    args.extend(release.then_some("--release"));
    let built = build("build", &args)?;
    let sensor = built.into_iter().find(|it| it.target == "sensor" && it.kind == "bin");
    Ok(sensor.context("cargo built the sensor but names no executable")?.path)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn executables(messages: &str) -> Result<Vec<Executable>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).context("cargo sent a message that cannot be read")?;
        if message.reason != "compiler-artifact" {
            continue;
        }
        if let Message {
            manifest_path: Some(manifest),
            target: Some(target),
            profile: Some(profile),
            executable: Some(path),
            ..
        } = message
        {
            found.push(Executable {
                crate_dir: manifest.parent().unwrap_or(&manifest).to_owned(),
                kind: target.kind.into_iter().next().unwrap_or_default(),
                target: target.name,
                test: profile.test,
                path,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_are_taken_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a","kind":["lib"]},"profile":{"test":false},"executable":null}"#,
            "\n",
            "not json, printed by a build script\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/t/Cargo.toml","target":{"name":"native","kind":["test"]},"profile":{"test":true},"executable":"/w/target/native-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        let found = executables(messages).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].target.as_str(), found[0].kind.as_str()), ("native", "test"));
        assert_eq!(found[0].crate_dir, PathBuf::from("/w/t"));
        assert!(found[0].test);
    }
}
