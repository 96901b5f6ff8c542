//! Which compiler builds the eBPF crate. Shared by `cargo xtask setup` and the sensor's build
//! script, so that both decide alike.
//!
//! The BPF target has no prebuilt `core`: the compiler must come with its matching sources and
//! allow `-Z build-std`. Two kinds do, tried in this order:
//! 1. a nightly with `rust-src`, pinned, because unstable intrinsics and LLVM change between them;
//! 2. a distribution's compiler with its sources (Debian: `rustc-web cargo-web rust-web-src`),
//!    used as it lies in `/usr`, with `RUSTC_BOOTSTRAP=1`.

use std::{env, path::Path, process::Command};

/// The nightly that is installed if none fits. Its LLVM is 22, as in Debian's `llvm-22-dev`.
pub const NIGHTLY: &str = "nightly-2026-05-20";
/// The same compiler may be installed as plain `nightly`: it is known by its commit.
const NIGHTLY_COMMIT: &str = "e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a";
/// The sysroot of a distribution's compiler.
pub const DISTRIBUTION: &str = "/usr";
/// The oldest distribution compiler that builds the workspace: (major, minor), its `rust-version`.
const OLDEST: (u32, u32) = (1, 95);
/// Overrides the choice: a rustup toolchain's name, or a sysroot such as `/usr`.
pub const OVERRIDE: &str = "SENSOR_EBPF_TOOLCHAIN";

/// A compiler that can build the eBPF crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// What `rustup run` takes: a name, or an absolute sysroot.
    pub name: String,
    /// `RUSTC_BOOTSTRAP=1` is needed: this compiler does not call itself a nightly.
    pub bootstrap: bool,
    /// `bpf-linker` must read this LLVM's bitcode.
    pub llvm_major: u32,
    /// `rustc 1.97.0-nightly (…)`.
    pub version: String,
}

/// The compiler to use; if there is none, why each candidate is not one.
pub fn find() -> Result<Toolchain, String> {
    if let Some(name) = env::var_os(OVERRIDE).filter(|name| !name.is_empty()) {
        let name = name.to_string_lossy();
        return examine(&name, None).map_err(|why| format!("{OVERRIDE}={name}: {why}"));
    }
    let mut reasons = Vec::new();
    for (name, commit) in [(NIGHTLY, None), ("nightly", Some(NIGHTLY_COMMIT)), (DISTRIBUTION, None)]
    {
        match examine(name, commit) {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => reasons.push(format!("{name}: {why}")),
        }
    }
    Err(reasons.join("; "))
}

/// Whether the compiler `name` can build the eBPF crate; with `commit`, only that very compiler.
pub fn examine(name: &str, commit: Option<&str>) -> Result<Toolchain, String> {
    let version = rustc(name, &["-vV"])?;
    let field = |key: &str| {
        version.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default()
    };
    if commit.is_some_and(|commit| commit != field("commit-hash:")) {
        return Err(format!("is not {NIGHTLY}"));
    }
    let release = field("release:");
    if older_than_needed(release) {
        return Err(format!("is {release}, older than {}.{}", OLDEST.0, OLDEST.1));
    }
    let Some(llvm_major) = field("LLVM version:").split('.').next().and_then(|n| n.parse().ok())
    else {
        return Err("does not tell its LLVM version".into());
    };
    let sysroot = rustc(name, &["--print", "sysroot"])?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !sources.exists() {
        return Err(format!("has no source of `core` (no {})", sources.display()));
    }
    Ok(Toolchain {
        name: name.to_owned(),
        bootstrap: !release.contains("nightly"),
        llvm_major,
        version: version.lines().next().unwrap_or_default().to_owned(),
    })
}

/// A release is `1.97.0-nightly` or `1.96.0`; one that cannot be read counts as too old.
fn older_than_needed(release: &str) -> bool {
    let mut numbers = release.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST
}

/// What `rustc` of that toolchain prints.
fn rustc(name: &str, args: &[&str]) -> Result<String, String> {
    let mut command = if name.starts_with('/') {
        Command::new(format!("{name}/bin/rustc"))
    } else {
        let mut rustup = Command::new("rustup");
        rustup.args(["run", name, "rustc"]);
        rustup
    };
    // Looking must not download: rustup may install what it is asked to run.
    command.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTC").args(args);
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        _ => Err("is not installed".into()),
    }
}
