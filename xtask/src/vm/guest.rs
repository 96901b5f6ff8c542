//! What a guest consists of: an init, the sensor, the test programs, and of the host's userland
//! what the workloads need, with the shared libraries of all these.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    initramfs::Tree,
    machine::{Init, Plan},
    systemd,
};
use crate::place;

/// Copied from the host. npm's 100 MB stay out: workloads that need it skip in a guest.
const USERLAND: [&str; 5] = ["bash", "dash", "git", "make", "perl"];
/// Debian's own: whatever else comes first in somebody's PATH may be a script around it.
const PYTHON: &str = "/usr/bin/python3";
/// Where a guest has the workloads, as its init says to the tests.
const WORKLOADS: &str = "/usr/share/sensor-tests/workloads";
/// Everything else of the userland: one static file with a link for each of its commands.
const BUSYBOX: &str = "/bin/busybox";

/// Writes the guest's initramfs to `file`.
pub fn write(file: &Path, plan: &Plan<'_>) -> Result<()> {
    let mut tree = tree(plan.sensor)?;
    if plan.init == Init::Systemd {
        systemd::add(&mut tree)?;
    }
    let tests = plan.tests.map(|tests| ("/usr/lib/sensor-tests", tests));
    let others = plan.others.iter().map(|other| ("/usr/bin", other.as_path()));
    for (directory, one) in tests.into_iter().chain(others) {
        let name = one.file_name().context("a program without a name")?;
        program(&mut tree, Path::new(directory).join(name), &stripped(one)?)?;
    }
    let mut out = BufWriter::new(
        File::create(file).with_context(|| format!("cannot write {}", file.display()))?,
    );
    tree.write(&mut out)?;
    out.into_inner().context("cannot write the initramfs")?.sync_data()?;
    Ok(())
}

fn tree(sensor: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    for (link, to) in
        [("/bin", "usr/bin"), ("/sbin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
    {
        tree.link(link, to)?;
    }
    tree.link("/usr/sbin", "bin")?;
    for dir in ["/dev", "/proc", "/sys", "/run", "/root", "/etc", "/var/lib"] {
        tree.directory(dir, 0o755)?;
    }
    tree.directory("/tmp", 0o1777)?;
    tree.link("/var/run", "/run")?;
    tree.bytes(
        "/etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    tree.bytes("/etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    tree.bytes("/etc/hosts", 0o644, b"127.0.0.1 localhost guest\n")?;

    tree.copy("/init", 0o755, place::workspace().join("tests/vm/init"))?;
    program(&mut tree, "/usr/bin/sensor", &stripped(sensor)?)?;
    for name in USERLAND {
        let path = place::command(name)
            .with_context(|| format!("{name} is needed in the guest but not installed here"))?;
        program(&mut tree, Path::new("/usr/bin").join(name), &path)?;
    }
    python(&mut tree)?;
    tree.link("/usr/bin/sh", "dash")?;
    busybox(&mut tree)?;
    // Not where they are here: that may be below a folder that a guest has for itself, as /tmp.
    files(&mut tree, &place::workspace().join("tests/workloads"), Path::new(WORKLOADS))?;
    Ok(tree)
}

/// A program and the libraries that it loads.
pub fn program(tree: &mut Tree, path: impl AsRef<Path>, from: &Path) -> Result<()> {
    tree.copy(path, 0o755, from)?;
    for library in libraries(from)? {
        if !tree.contains(tree.resolve(&library)) {
            tree.copy(&library, 0o755, &library)?;
        }
    }
    Ok(())
}

/// A copy without debug information: it is ten times the code. Made anew only if `program` is newer.
fn stripped(program: &Path) -> Result<PathBuf> {
    let dir = place::target().join("vm/stripped");
    // Builds of different profiles have the same name.
    let dir = dir.join(program.parent().and_then(Path::file_name).unwrap_or_default());
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let copy = dir.join(program.file_name().context("a program without a name")?);
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if modified(&copy).is_some_and(|at| Some(at) > modified(program)) {
        return Ok(copy);
    }
    let output = Command::new("strip")
        .arg("-o")
        .args([&copy, program])
        .output()
        .context("cannot start strip")?;
    if !output.status.success() {
        bail!("strip {}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(copy)
}

/// The libraries that a program loads, the loader included. None for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.ends_with("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(parse_libraries(&text))
}

/// Lines are `NAME => PATH (ADDRESS)` and, for the loader, `PATH (ADDRESS)`.
fn parse_libraries(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| {
            let path = line.split_once("=> ").map_or(line, |(_, path)| path);
            path.split_whitespace().next()
        })
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Python with the part of its library that a script loads which starts programs.
fn python(tree: &mut Tree) -> Result<()> {
    const LOADED: &str = "import sys, subprocess\n\
        for m in list(sys.modules.values()):\n\
        \x20   if getattr(m, '__file__', None): print(m.__file__)";
    program(tree, PYTHON, Path::new(PYTHON))?;
    let output = Command::new(PYTHON)
        .args(["-I", "-c", LOADED])
        .output()
        .with_context(|| format!("cannot start {PYTHON}, which is needed in the guest"))?;
    for module in String::from_utf8_lossy(&output.stdout).lines() {
        tree.copy(module, 0o644, module)?;
    }
    Ok(())
}

/// busybox, and a link for each of its commands that is not there as itself.
fn busybox(tree: &mut Tree) -> Result<()> {
    tree.copy("/usr/bin/busybox", 0o755, BUSYBOX)?;
    let output = Command::new(BUSYBOX).arg("--list").output().context("cannot start busybox")?;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        let path = Path::new("/usr/bin").join(name);
        if !tree.contains(&path) {
            tree.link(&path, "busybox")?;
        }
    }
    Ok(())
}

/// The files below the host's folder `dir`, below `to`.
fn files(tree: &mut Tree, dir: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            files(tree, &entry.path(), &to)?;
        } else if kind.is_file() {
            // Scripts keep their x bit.
            use std::os::unix::fs::PermissionsExt as _;
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            tree.copy(to, mode, entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_the_kernels_own_is_not() {
        let ldd = "\tlinux-vdso.so.1 (0x00007fab3966b000)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fab3021e000)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007fab3966d000)\n";
        assert_eq!(
            parse_libraries(ldd),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(parse_libraries("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
