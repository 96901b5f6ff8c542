//! Builds the kernel side (`sensor-ebpf`) for the BPF target and leaves the object in `OUT_DIR`,
//! from where the library embeds it.

use std::{
    env::{self, JoinPathsError},
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "../xtask/src/ebpf_toolchain.rs"]
mod ebpf_toolchain;

fn main() -> Result<()> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .parent()
        .context("the sensor crate lies in no workspace")?
        .to_owned();
    // `build_ebpf` watches the eBPF crate's own folder.
    for input in ["sensor-common", "Cargo.lock", "Cargo.toml", "xtask/src/ebpf_toolchain.rs"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={}", ebpf_toolchain::OVERRIDE);

    let toolchain = ebpf_toolchain::find().map_err(|why| {
        anyhow!("no compiler here can build the kernel side: run `cargo xtask setup` ({why})")
    })?;
    let path = search_path(&workspace, &toolchain.name)?;
    ensure!(
        env::split_paths(&path).any(|dir| dir.join("bpf-linker").is_file()),
        "the kernel side needs bpf-linker, which is neither in target/tools/bin nor in PATH: \
         run `cargo xtask setup`"
    );

    // SAFETY: nothing has started a thread in this process yet.
    unsafe {
        env::set_var("PATH", path);
        // The inner cargo's progress would come out as warnings, and again at each later build.
        env::set_var("CARGO_TERM_QUIET", "true");
        if toolchain.bootstrap {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let root_dir = workspace.join("sensor-ebpf");
    let root_dir = root_dir.to_str().context("the path of the workspace is not UTF-8")?;
    build_ebpf(
        [Package { name: "sensor-ebpf", root_dir, ..Package::default() }],
        Toolchain::Custom(&toolchain.name),
    )?;
    Ok(())
}

/// `PATH` with the tools that set-up built in front. A compiler outside rustup comes before others:
/// where there is no rustup, `build_ebpf` takes `cargo` and `rustc` from the path.
fn search_path(workspace: &Path, toolchain: &str) -> Result<OsString, JoinPathsError> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let outside = toolchain.starts_with('/').then(|| Path::new(toolchain).join("bin"));
    env::join_paths(
        std::iter::once(workspace.join("target/tools/bin"))
            .chain(outside)
            .chain(env::split_paths(&inherited)),
    )
}
