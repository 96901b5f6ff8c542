//! Other kernels: Debian's cloud kernels, from the mirror that this machine uses, kept in
//! `target/vm/kernels`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{place, step};

/// The meta package that names the suite's current cloud kernel.
const META: &str = "linux-image-cloud-amd64";
/// Signs every suite of the archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// A package list is 10 MB, a kernel 25 MB.
const LIMIT: Duration = Duration::from_mins(10);

/// A kernel that tests can ask for, and Debian's suite that has it.
struct Series {
    name: &'static str,
    suite: &'static str,
    /// Its default list of security modules lacks `bpf`.
    names_lsm: bool,
}

const SERIES: [Series; 4] = [
    Series { name: "5.10", suite: "bullseye", names_lsm: true },
    Series { name: "6.1", suite: "bookworm", names_lsm: true },
    Series { name: "6.12", suite: "trixie", names_lsm: false },
    // A moving suite: what it has today is taken, and its version recorded.
    Series { name: "7.2", suite: "sid", names_lsm: false },
];

/// A kernel on this machine.
pub struct Kernel {
    pub image: PathBuf,
    /// As Debian versions it, such as `6.1.176-1`.
    pub version: String,
    /// What it needs on its command line.
    pub command_line: &'static str,
}

/// The kernel of the series `name`, downloaded if it is not here yet.
pub fn get(name: &str) -> Result<Kernel> {
    let Some(series) = SERIES.iter().find(|series| series.name == name) else {
        let names: Vec<&str> = SERIES.iter().map(|series| series.name).collect();
        bail!("no kernel {name} is known here: choose from {}", names.join(", "));
    };
    let dir = place::target().join("vm/kernels").join(name);
    let (image, version) = (dir.join("vmlinuz"), dir.join("version"));
    if !image.exists() || !version.exists() {
        download(series, &dir)?;
    }
    let version = fs::read_to_string(&version)
        .with_context(|| format!("cannot read {}", version.display()))?
        .trim()
        .to_owned();
    if !version.starts_with(&format!("{name}.")) {
        eprintln!("kernel {name}: Debian {} has {version} today: using that", series.suite);
    }
    let command_line =
        if series.names_lsm { "lsm=landlock,lockdown,yama,integrity,apparmor,bpf" } else { "" };
    Ok(Kernel { image, version, command_line })
}

fn download(series: &Series, dir: &Path) -> Result<()> {
    let apt = Apt::new(series)?;
    step::must(
        &format!("package list of Debian {}", series.suite),
        apt.command("apt-get").args(["-q", "update"]),
        LIMIT,
    )?;
    let meta = apt.query("apt-cache", &["show", META])?;
    let Some((package, version)) = parse_meta(&meta) else {
        bail!("{META} of Debian {} names no kernel", series.suite);
    };
    // Newer suites have the image itself in a package of its own.
    let binary = package.replacen("linux-image-", "linux-binary-", 1);
    let names = apt.query("apt-cache", &["pkgnames", &binary])?;
    let package = if names.lines().any(|name| name == binary) { binary } else { package };

    // A download that was cut short must not look like a kernel.
    let unpacked = dir.join("unpacked");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)
            .with_context(|| format!("cannot remove {}", unpacked.display()))?;
    }
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    step::must(
        &format!("kernel {} ({package} {version})", series.name),
        apt.command("apt-get").args(["-q", "download", &package]).current_dir(&unpacked),
        LIMIT,
    )?;
    let deb = find(&unpacked, &|file| file.extension().is_some_and(|it| it == "deb"))
        .with_context(|| format!("apt-get downloaded no package {package}"))?;
    step::must(
        &format!("unpack {package}"),
        Command::new("dpkg").arg("-x").arg(&deb).arg(&unpacked),
        LIMIT,
    )?;
    let image = find(&unpacked, &|file| {
        file.file_stem().is_some_and(|it| it.as_encoded_bytes().starts_with(b"vmlinuz"))
    })
    .with_context(|| format!("{package} has no vmlinuz"))?;
    fs::rename(&image, dir.join("vmlinuz"))?;
    fs::write(dir.join("version"), format!("{version}\n"))?;
    fs::remove_dir_all(&unpacked)?;
    // 25 MB a suite, and of no use once the kernel is here.
    fs::remove_dir_all(&apt.dir)?;
    Ok(())
}

/// apt with package lists and a status of its own, so that the machine's apt never hears of the
/// other suites.
struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(series: &Series) -> Result<Self> {
        let dir = place::target().join("vm/apt").join(series.suite);
        for sub in ["lists/partial", "cache/archives/partial"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot make {}", sub.display()))?;
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install the package debian-archive-keyring");
        }
        let mirror = mirror()?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {} main\n", series.suite);
        fs::write(dir.join("sources.list"), source)?;
        fs::write(dir.join("status"), "")?;
        let at = dir.display();
        let options = [
            format!("Dir::Etc::SourceList={at}/sources.list"),
            "Dir::Etc::SourceParts=-".into(),
            "Dir::Etc::Preferences=-".into(),
            "Dir::Etc::PreferencesParts=-".into(),
            format!("Dir::State={at}"),
            format!("Dir::State::status={at}/status"),
            format!("Dir::Cache={at}/cache"),
            // The folders are ours, not those of apt's own user.
            "APT::Sandbox::User=".into(),
            "APT::Architecture=amd64".into(),
            // An old suite's signature may have run out since its last update.
            "Acquire::Check-Valid-Until=false".into(),
        ];
        Ok(Self { options: options.to_vec(), dir })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    fn query(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(args)
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The Debian archive's mirror among this machine's own apt sources.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"])
        .output()
        .context("kernels come as Debian packages, but there is no apt-get")?;
    parse_mirror(&String::from_utf8_lossy(&output.stdout)).context(
        "this machine's apt sources name no Debian mirror, or its package lists were never \
         fetched: run `apt-get update`",
    )
}

/// The first line of the archive itself, whose label is `Debian`, not of its security updates.
fn parse_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| line.strip_prefix("Debian ")).map(str::to_owned)
}

/// From the first stanza of the meta package: the kernel that it depends on, and the version.
fn parse_meta(show: &str) -> Option<(String, String)> {
    let stanza = || show.lines().take_while(|line| !line.is_empty());
    let version = stanza().find_map(|line| line.strip_prefix("Version: "))?;
    let depends = stanza().find_map(|line| line.strip_prefix("Depends: "))?;
    let package = depends
        .split(',')
        .filter_map(|it| it.split_whitespace().next())
        .find(|it| it.starts_with("linux-image-"))?;
    Some((package.to_owned(), version.trim().to_owned()))
}

/// The first file below `dir` that fits.
pub(super) fn find(dir: &Path, fits: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && fits(&entry.path()) {
                return Some(entry.path());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_archives_not_that_of_security_updates() {
        let targets = "Debian-Security http://security.example/debian-security/\n\
                       nodistro https://node.example/\n\
                       Debian http://mirror.example/debian/\n";
        assert_eq!(parse_mirror(targets).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(parse_mirror("Ubuntu http://mirror.example/ubuntu/\n"), None);
    }

    #[test]
    fn the_meta_package_names_the_kernel() {
        let show = "Package: linux-image-cloud-amd64\nVersion: 7.2.13-1\n\
             Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n\
             \nPackage: linux-image-cloud-amd64\nVersion: 1\nDepends: linux-image-1 (= 1)\n";
        assert_eq!(
            parse_meta(show),
            Some(("linux-image-7.2.13+deb14-cloud-amd64".into(), "7.2.13-1".into()))
        );
        assert_eq!(parse_meta("Version: 1\nDepends: libc6\n"), None);
    }
}
