//! A small build.

use std::fmt::Write as _;

use anyhow::Result;

use super::Workload;
use crate::names;

/// A crate of a few modules without dependencies, built by the installed cargo.
pub fn small() -> Result<Workload> {
    let mut work = Workload::new()?;
    let (name, modules) = (names::word(), [names::word(), names::word(), names::word()]);
    work.write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n"
        ),
    )?;
    let mut main = String::new();
    for module in &modules {
        work.write(
            &format!("src/{module}.rs"),
            "pub fn sum(of: &[u64]) -> u64 {\n    of.iter().sum()\n}\n",
        )?;
        main.insert_str(0, &format!("mod {module};\n"));
    }
    let mut calls = String::new();
    for module in &modules {
        writeln!(calls, "    println!(\"{{}}\", {module}::sum(&[1, 2]));")?;
    }
    work.write("src/main.rs", &format!("{main}\nfn main() {{\n{calls}}}\n"))?;
    work.write("build.rs", "fn main() {\n    println!(\"cargo:rerun-if-changed=build.rs\");\n}\n")?;
    // cargo and rustup find their own home; settings that our own build was given are not passed on.
    work.environment = std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            !name.starts_with("CARGO") || name == "CARGO_HOME"
        })
        .collect();
    let target = work.path().join("target");
    work = work.with("CARGO_TARGET_DIR", target);
    Ok(work.runs(["cargo", "build", "--offline", "--quiet"]))
}
