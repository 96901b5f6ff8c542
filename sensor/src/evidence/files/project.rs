//! Which paths belong to the culprit's projects.
//!
//! A project is the highest directory above a working directory of the chain that is not shared by
//! all: never `/`, `/etc`, `/root`, `/tmp`, the top of a home, … A recursion that runs right there
//! has no project, and none of its files are read.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Directories up from a working directory: npm itself has no bound, projects are rarely ten deep.
const LEVELS: usize = 16;

/// As the kernel has it (`PATH_MAX`).
const PATH_LIMIT: usize = 4096;

/// Directories that hold many things of many owners.
const SHARED: [&str; 28] = [
    "/",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/run/user",
    "/sbin",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/usr/src",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/tmp",
];

/// File systems that are no place for sources and whose files do things when read.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The projects of one incident.
#[derive(Clone, Debug, Default)]
pub struct Projects {
    tops: BTreeSet<PathBuf>,
}

impl Projects {
    /// From the chain's working directories. `homes`: home directories besides `/root` and `/home/*`.
    pub fn new<'a>(cwds: impl IntoIterator<Item = &'a [u8]>, homes: &BTreeSet<PathBuf>) -> Self {
        let tops = cwds.into_iter().filter_map(|cwd| top(Path::new(OsStr::from_bytes(cwd)), homes));
        Self { tops: tops.collect() }
    }

    /// Splits a path into a project's directory and what lies beneath it, or says why it may not be read.
    pub(in crate::evidence) fn place(
        &self,
        path: &Path,
    ) -> Result<(PathBuf, PathBuf), &'static str> {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        let length = path.as_os_str().len();
        if !path.is_absolute() || length > PATH_LIMIT || !path.components().all(plain) {
            return Err("not a plain absolute path");
        }
        // The innermost: what is opened first keeps the rest closest.
        let inside = |top: &&PathBuf| path.starts_with(top) && path != top.as_path();
        let top = self.tops.iter().filter(inside).max_by_key(|top| top.as_os_str().len());
        let top = top.ok_or("outside of the projects that it runs in")?;
        let rest = path.strip_prefix(top).map_err(|_| "outside of the projects that it runs in")?;
        Ok((top.clone(), rest.to_owned()))
    }
}

/// Names of files and directories that hold secrets and no source, whatever their owner may read.
const SECRETS: [&str; 15] = [
    ".aws",
    ".azure",
    ".docker",
    ".gnupg",
    ".kube",
    ".ssh",
    ".git-credentials",
    ".htpasswd",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    "id_rsa",
    "id_ecdsa",
    "id_ed25519",
];

/// The same by how they end.
const SECRET_ENDS: [&str; 5] = [".key", ".pem", ".p12", ".pfx", ".kdbx"];

/// The culprit's working directory and what lies beneath it, of a path that somebody asks for: absolute,
/// or relative to that directory. Or why it may not be read.
pub(super) fn source(
    cwd: &Path,
    path: &Path,
    homes: &BTreeSet<PathBuf>,
) -> Result<(PathBuf, PathBuf), &'static str> {
    // Configuration of the host is no project, however deep in it somebody runs.
    if top(cwd, homes).is_none() || cwd.starts_with("/etc") {
        return Err("the culprit runs where many things of many owners are, and not in a project");
    }
    let only = Projects { tops: BTreeSet::from([cwd.to_owned()]) };
    let (top, rest) = only.place(&cwd.join(path)).map_err(|why| {
        if why.starts_with("outside") { "outside of the culprit's working directory" } else { why }
    })?;
    if rest.components().any(|part| holds_secrets(part.as_os_str())) {
        return Err("a file of this name holds secrets");
    }
    Ok((top, rest))
}

/// Values of environment variables are never collected, nor what is kept to be them.
fn holds_secrets(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    SECRETS.contains(&name.as_str())
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
        || name == ".env"
        || name.starts_with(".env.")
        || name == ".envrc"
}

/// Home directories of this host's accounts, from the text of /etc/passwd.
pub fn homes(passwd: &[u8]) -> BTreeSet<PathBuf> {
    let lines = passwd.split(|byte| *byte == b'\n');
    let home = |line: &[u8]| {
        Some(PathBuf::from(OsStr::from_bytes(line.split(|byte| *byte == b':').nth(5)?)))
    };
    lines.filter_map(home).filter(|home| home.is_absolute()).collect()
}

fn top(cwd: &Path, homes: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    if !cwd.is_absolute() || KERNELS.iter().any(|kernel| cwd.starts_with(kernel)) {
        return None;
    }
    let shared = |path: &Path| {
        SHARED.iter().any(|shared| path == Path::new(shared))
            || path.parent() == Some(Path::new("/home"))
            || homes.contains(path)
    };
    cwd.ancestors().take(LEVELS + 1).take_while(|path| !shared(path)).last().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tops(cwds: &[&str]) -> Vec<String> {
        let homes = homes(b"root:x:0:0:root:/root:/bin/sh\nci:x:7:7::/data/ci:/bin/sh\nodd\n");
        let projects = Projects::new(cwds.iter().map(|cwd| cwd.as_bytes()), &homes);
        projects.tops.iter().map(|top| top.display().to_string()).collect()
    }

    #[test]
    fn a_project_ends_below_what_is_shared() {
        assert_eq!(tops(&["/home/u/app/web/src"]), ["/home/u/app"]);
        assert_eq!(tops(&["/root/app", "/root/app/x"]), ["/root/app"]);
        assert_eq!(tops(&["/app"]), ["/app"]);
        assert_eq!(tops(&["/data/ci/job/1"]), ["/data/ci/job"]);
        assert_eq!(tops(&["/tmp/x/y", "/srv/z"]), ["/srv/z", "/tmp/x"]);
        let deep = format!("/app{}", "/d".repeat(30));
        assert_eq!(tops(&[&deep]), [format!("/app{}", "/d".repeat(14))]);
    }

    #[test]
    fn there_is_none_where_everybody_is() {
        for cwd in [
            "/",
            "/etc",
            "/root",
            "/home",
            "/home/u",
            "/data/ci",
            "/tmp",
            "/proc/7/cwd",
            "/sys",
            "/dev/shm/x",
            "x",
            "",
        ] {
            assert!(tops(&[cwd]).is_empty(), "{cwd}");
        }
    }

    #[test]
    fn sources_are_below_the_working_directory() {
        let homes = homes(b"ci:x:7:7::/data/ci:/bin/sh\n");
        let source = |cwd: &str, path: &str| {
            source(Path::new(cwd), Path::new(path), &homes)
                .map(|(top, rest)| format!("{} {}", top.display(), rest.display()))
        };
        assert_eq!(source("/srv/app/web", "a.js"), Ok("/srv/app/web a.js".into()));
        assert_eq!(source("/srv/app/web", "/srv/app/web/x/a.js"), Ok("/srv/app/web x/a.js".into()));
        for path in ["/srv/app/a.js", "../a.js", "x/../../a.js", "/etc/passwd", "/srv/app/web", ""]
        {
            assert!(source("/srv/app/web", path).is_err(), "{path}");
        }
        for cwd in [
            "/",
            "/etc",
            "/etc/nginx",
            "/root",
            "/home/u",
            "/data/ci",
            "/tmp",
            "/usr/lib",
            "/proc/7",
            "/sys/fs",
            "/dev/shm/x",
            "relative",
            "",
        ] {
            assert!(source(cwd, "a.js").is_err(), "{cwd}");
        }
        for path in [
            ".env",
            ".env.local",
            "x/.ENV",
            ".ssh/config",
            "certs/server.KEY",
            "x/id_rsa",
            ".aws/credentials",
        ] {
            assert_eq!(
                source("/root/app", path),
                Err("a file of this name holds secrets"),
                "{path}"
            );
        }
        assert!(source("/root/app", ".git/hooks/pre-commit").is_ok());
        assert!(source("/root/app", "environment.js").is_ok());
    }

    #[test]
    fn paths_stay_inside() {
        let projects = Projects::new([&b"/srv/app/web"[..], b"/srv/app2"], &BTreeSet::new());
        let place = |path: &str| {
            projects
                .place(Path::new(path))
                .map(|(top, rest)| (top.display().to_string(), rest.display().to_string()))
        };
        assert_eq!(place("/srv/app/package.json"), Ok(("/srv/app".into(), "package.json".into())));
        for path in [
            "/srv/package.json",
            "/etc/shadow",
            "/srv/app/../x",
            "srv/app/x",
            "/srv/app",
            "/srv/app3/x",
        ] {
            assert!(place(path).is_err(), "{path}");
        }
        assert!(place(&format!("/srv/app/{}", "x".repeat(5000))).is_err());
    }
}
