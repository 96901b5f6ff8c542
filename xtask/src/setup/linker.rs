//! `bpf-linker`, built for this workspace alone against the LLVM of the compiler that builds the
//! kernel side: an older LLVM cannot read a newer one's bitcode.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::packages::{self, Requirement};
use crate::{cargo, ebpf_toolchain::Toolchain, place, step};

const VERSION: &str = "0.13.0";
/// The LLVM versions that this version of the linker can be built against.
const SUPPORTED: std::ops::RangeInclusive<u32> = 21..=23;
/// It takes 40 s on two idle cores.
const BUILD: Duration = Duration::from_mins(20);

/// Makes sure of a linker that reads the bitcode of `toolchain`; says which.
pub fn ensure(toolchain: &Toolchain) -> Result<String> {
    let ours = place::tools().join("bin/bpf-linker");
    let wanted = toolchain.llvm_major;
    for linker in [Some(ours.clone()), place::command("bpf-linker")].into_iter().flatten() {
        if let Some(what) = usable(&linker, wanted) {
            return Ok(what);
        }
    }
    if place::command("apt-get").is_some() && SUPPORTED.contains(&wanted) {
        build(wanted)?;
    } else if let Some(binstall) = place::command("cargo-binstall") {
        prebuilt(&binstall)?;
    } else {
        bail!("{}", by_hand(wanted));
    }
    usable(&ours, wanted).with_context(|| by_hand(wanted))
}

fn build(llvm: u32) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let why = "bpf-linker is built against it";
    let needed = [
        Requirement::file(format!("{prefix}/bin/llvm-config"), format!("llvm-{llvm}-dev"), why),
        Requirement::file(format!("{prefix}/lib/libPolly.a"), format!("libpolly-{llvm}-dev"), why),
        Requirement::file("/usr/include/zstd.h", "libzstd-dev", why),
        Requirement::command("c++", "g++", "LLVM is C++: its runtime must be there to link"),
    ];
    let missing: Vec<Requirement> =
        needed.into_iter().filter(|requirement| !requirement.is_there()).collect();
    if let Err(error) = packages::install(&missing) {
        if packages::is_available(&format!("llvm-{llvm}-dev")) {
            return Err(error);
        }
        bail!("this system has no llvm-{llvm}-dev ({}): {}", "apt.llvm.org has it", by_hand(llvm));
    }
    let mut command = cargo::command("install");
    command.args(["bpf-linker", "--version", VERSION, "--locked", "--no-default-features"]);
    command.args(["--features", &format!("llvm-{llvm}"), "--force", "--root"]);
    command.arg(place::tools()).env("LLVM_PREFIX", &prefix);
    step::must(&format!("build bpf-linker {VERSION} with LLVM {llvm}"), &mut command, BUILD)
        .map(drop)
}

fn prebuilt(binstall: &Path) -> Result<()> {
    let mut command = Command::new(binstall);
    command.args(["--no-confirm", "--version", VERSION, "--root"]);
    command.arg(place::tools()).arg("bpf-linker");
    step::must(&format!("download bpf-linker {VERSION}"), &mut command, BUILD).map(drop)
}

fn by_hand(llvm: u32) -> String {
    format!(
        "bpf-linker {VERSION} for LLVM {llvm} is needed in {} or PATH: install cargo-binstall and \
         run this again, or take the file from https://github.com/aya-rs/bpf-linker/releases",
        place::tools().join("bin").display()
    )
}

/// Says what the linker is, if it runs and reads the bitcode of LLVM `wanted`.
fn usable(linker: &Path, wanted: u32) -> Option<String> {
    let output = Command::new(linker).arg("--version").output().ok()?;
    if !output.status.success() {
        return None;
    }
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let libraries = Command::new("ldd").arg(linker).output().ok()?;
    match linked_llvm(&String::from_utf8_lossy(&libraries.stdout)) {
        Some(llvm) if llvm < wanted => None,
        Some(llvm) => Some(format!("{version}, LLVM {llvm}")),
        // Prebuilt ones carry a recent LLVM within them.
        None => Some(version),
    }
}

/// The major version of the LLVM among the libraries that `ldd` lists: `libLLVM.so.22.1 => …`.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let (_, version) = libraries.split_once("libLLVM.so.")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_what_it_loads() {
        let dynamic =
            "\tlinux-vdso.so.1 (0x7f)\n\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x7f)\n";
        assert_eq!(linked_llvm(dynamic), Some(22));
        assert_eq!(linked_llvm("\tstatically linked\n"), None);
        assert_eq!(linked_llvm("libLLVM.so.x"), None);
    }
}
