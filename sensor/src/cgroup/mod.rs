//! Control groups: where they are mounted, who is in them, and how to stop or end all of them at once.
//!
//! A group is named by its cgroup v2 path, as in `/proc/PID/cgroup`. Freezing and killing need v2;
//! limits come from v2 where its controllers are enabled, else from v1.

pub(crate) mod directory;
mod group;

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

pub use directory::{
    below_within as below, freeze, frozen, ids, kill, members, populated, remove, thaw,
};
pub use group::{CPU_WEIGHT, Group, Holds, Limits, kept};

/// What cannot be done with a group, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "no cgroup v2 hierarchy is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with systemd"
    )]
    NoUnified,
    #[error("{path} holds this process itself: it is not touched", path = .path.display())]
    Ourselves { path: PathBuf },
    #[error("{path} did not become {what} within {waited:?}", path = .path.display())]
    TooSlow { what: &'static str, path: PathBuf, waited: Duration },
}

impl CgroupError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

/// One mounted hierarchy. What is mounted may be a part of it only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Path within the hierarchy that the mount point shows.
    root: PathBuf,
    /// Mount point.
    at: PathBuf,
}

impl Mount {
    fn dir(&self, path: &Path) -> Option<PathBuf> {
        // `/..` in front marks a group outside of our cgroup namespace.
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        path.strip_prefix(&self.root).ok().map(|rest| join(&self.at, rest))
    }
}

/// Without the slash that `Path::join` puts behind a directory for an empty rest.
fn join(dir: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { dir.to_owned() } else { dir.join(rest) }
}

/// The hierarchies of this host.
#[derive(Clone, Debug)]
pub struct Hierarchies {
    proc: PathBuf,
    unified: Option<Mount>,
    /// v1 controllers, each with its mount.
    v1: Vec<(OsString, Mount)>,
}

impl Hierarchies {
    /// What is mounted now, from `/proc/self/mountinfo`.
    pub fn discover() -> Result<Self, CgroupError> {
        Self::at(Path::new("/proc"))
    }

    /// The same from a proc file system, real or not, that stands elsewhere.
    pub fn at(proc: &Path) -> Result<Self, CgroupError> {
        let file = proc.join("self/mountinfo");
        let mountinfo = fs::read(&file).map_err(CgroupError::io("read", &file))?;
        Ok(Self::parse(&mountinfo, proc))
    }

    pub(crate) fn parse(mountinfo: &[u8], proc: &Path) -> Self {
        let mut found = Self { proc: proc.to_owned(), unified: None, v1: Vec::new() };
        for line in mountinfo.split(|byte| *byte == b'\n') {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            // Optional fields stand before a lone dash: proc_pid_mountinfo(5).
            let Some(dash) = fields.iter().position(|field| *field == b"-") else { continue };
            let (&[_, _, _, root, at, ..], &[kind, _, options, ..]) =
                (fields.as_slice(), fields.get(dash + 1..).unwrap_or_default())
            else {
                continue;
            };
            let mount = Mount { root: unescape(root), at: unescape(at) };
            // With another root a path would lead out of the mount point.
            if !mount.root.is_absolute() || !mount.at.is_absolute() {
                continue;
            }
            match kind {
                // The first mount is the one that the host's own tools use.
                b"cgroup2" if found.unified.is_none() => found.unified = Some(mount),
                b"cgroup" => found.v1.extend(
                    options
                        .split(|byte| *byte == b',')
                        .filter(|option| matches!(*option, b"memory" | b"pids" | b"cpu"))
                        .map(|name| (OsString::from_vec(name.to_vec()), mount.clone())),
                ),
                _ => {}
            }
        }
        found
    }

    /// Mount point of the v2 hierarchy.
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_ref().map(|mount| mount.at.as_path())
    }

    /// v2 path of a process. An error of kind `NotFound`: no such process.
    pub fn path_of(&self, pid: u32) -> io::Result<PathBuf> {
        self.path_in(pid, None)
    }

    /// Directory of a v2 path; `None` when it is out of what is mounted.
    pub fn dir(&self, path: &Path) -> Option<PathBuf> {
        self.unified.as_ref()?.dir(path)
    }

    /// v2 path of a directory below the mount point.
    pub fn path(&self, dir: &Path) -> Option<PathBuf> {
        let mount = self.unified.as_ref()?;
        dir.strip_prefix(&mount.at).ok().map(|rest| join(&mount.root, rest))
    }

    /// Directories of the groups in which `controller` (`pids`, `memory`, `cpu`) may limit a process and its
    /// children: its own first, then those above, in v1 and in v2. An error of kind `NotFound`: no
    /// such process.
    pub fn groups_of(&self, pid: u32, controller: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let v1 = self.v1(controller).map(|mount| (Some(controller), mount));
        for (controller, mount) in v1.into_iter().chain(self.unified.iter().map(|it| (None, it))) {
            let path = self.path_in(pid, controller)?;
            let Some(dir) = mount.dir(&path) else { continue };
            found.extend(
                dir.ancestors().take_while(|dir| dir.starts_with(&mount.at)).map(Path::to_owned),
            );
        }
        Ok(found)
    }

    /// Path of the group with this id: in the hierarchy of a v1 controller, or in v2 without one and where v1
    /// has it not. `None`: it is gone, or out of what is mounted.
    pub fn path_of_id(&self, controller: Option<&str>, id: u64) -> Option<PathBuf> {
        let v1 = controller.and_then(|controller| self.v1(controller));
        let mount = v1.or(self.unified.as_ref())?;
        let dir = directory::by_id(&mount.at, id).ok()?;
        dir.strip_prefix(&mount.at).ok().map(|rest| join(&mount.root, rest))
    }

    /// Where our own groups go, as a v2 path: below the unit that systemd delegated to us, once this
    /// process has moved to its `core` (a group that gives controllers to its children may have no
    /// processes of its own); elsewhere `/sensor`, which is made if need be.
    pub fn home(&self) -> Result<PathBuf, CgroupError> {
        let own_file = self.proc.join("self/cgroup");
        let own = self.path_of(std::process::id()).map_err(CgroupError::io("read", &own_file))?;
        for unit in own.ancestors().take(2) {
            let Some(dir) = self.dir(unit) else { continue };
            if !delegated(&dir) {
                continue;
            }
            if unit == own {
                let core = dir.join("core");
                make(&core)?;
                write(&core.join("cgroup.procs"), std::process::id())?;
            }
            return Ok(unit.to_owned());
        }
        let home = Path::new("/sensor");
        let dir = self.dir(home).ok_or(CgroupError::NoUnified)?;
        make(&dir)?;
        Ok(home.to_owned())
    }

    fn v1(&self, controller: &str) -> Option<&Mount> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, mount)| mount)
    }

    /// Our own directory in the hierarchy of a v1 controller.
    fn v1_home(&self, controller: &str) -> Option<PathBuf> {
        let path = self.path_in(std::process::id(), Some(controller)).ok()?;
        self.v1(controller)?.dir(&path)
    }

    fn path_in(&self, pid: u32, controller: Option<&str>) -> io::Result<PathBuf> {
        let text = fs::read(self.proc.join(pid.to_string()).join("cgroup")).map_err(|error| {
            // A process that is just going away answers ESRCH.
            if error.raw_os_error() == Some(libc::ESRCH) {
                io::ErrorKind::NotFound.into()
            } else {
                error
            }
        })?;
        membership(&text, controller)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no such hierarchy"))
    }
}

/// The path that `/proc/PID/cgroup` gives for a v1 controller, or for v2. A name may hold anything
/// but a newline, colons included.
pub(crate) fn membership(text: &[u8], controller: Option<&str>) -> Option<PathBuf> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let right = match controller {
            None => id == b"0" && names.is_empty(),
            Some(name) => names.split(|byte| *byte == b',').any(|one| one == name.as_bytes()),
        };
        right.then(|| PathBuf::from(OsString::from_vec(path.to_vec())))
    })
}

/// The kernel's id of a group: the inode number of its directory (kernfs ids are 64 bits wide and
/// are the inode number where `ino_t` is as wide).
pub fn id(dir: &Path) -> io::Result<u64> {
    Ok(fs::metadata(dir)?.ino())
}

/// The lowest group that all paths are in or below; `None` without any path.
pub fn common<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Option<PathBuf> {
    paths.into_iter().fold(None, |common: Option<PathBuf>, path| match common {
        None => Some(path.to_owned()),
        Some(common) => common.ancestors().find(|one| path.starts_with(one)).map(Path::to_owned),
    })
}

/// systemd marks what it delegates: <https://systemd.io/CGROUP_DELEGATION>.
fn delegated(dir: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0_u8; 2];
        rustix::fs::getxattr(dir, *name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::io("create", dir)(error))
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, value: impl ToString) -> Result<(), CgroupError> {
    // Never created: a file that is not there is a controller that is not there.
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| io::Write::write_all(&mut open, value.to_string().as_bytes()))
        .map_err(CgroupError::io("write", file))
}

/// `\ooo` as the kernel escapes blanks in mountinfo.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            digits.iter().try_fold(0_u8, |value, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                value.checked_mul(8)?.checked_add(digit)
            })
        });
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIXED: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 /box /sys/fs/cgroup/memory rw,relatime shared:9 master:2 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw
short line - cgroup2
";

    #[test]
    fn finds_the_mounts() {
        let found = Hierarchies::parse(MIXED, Path::new("/proc"));
        assert_eq!(found.unified(), Some(Path::new("/sys/fs/cgroup/uni fied")));
        assert_eq!(found.dir(Path::new("/a/b")), Some("/sys/fs/cgroup/uni fied/a/b".into()));
        assert_eq!(found.dir(Path::new("/")), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(found.dir(Path::new("/../a")), None, "outside of the namespace");
        assert_eq!(found.path(Path::new("/sys/fs/cgroup/uni fied/a")), Some("/a".into()));
        assert_eq!(found.path(Path::new("/sys/fs/cgroup")), None);
        let memory = found.v1("memory").unwrap();
        assert_eq!(memory.dir(Path::new("/box/a")), Some("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(memory.dir(Path::new("/other")), None, "not in the mounted part");
        assert!(found.v1("pids").is_some() && found.v1("cpu").is_none());
    }

    #[test]
    fn a_mount_without_a_root_is_none() {
        let found = Hierarchies::parse(b"41 31 0:38  /c rw - cgroup2 none rw\n", Path::new("/p"));
        assert_eq!(found.dir(Path::new("/etc")), None, "out of the mount point");
    }

    #[test]
    fn reads_a_membership() {
        let text = b"9:name=systemd:/\n8:pids:/p\n4:cpu,cpuacct:/c:d\n0::/user.slice/a b\n";
        assert_eq!(membership(text, None), Some("/user.slice/a b".into()));
        assert_eq!(membership(text, Some("pids")), Some("/p".into()));
        assert_eq!(membership(text, Some("cpuacct")), Some("/c:d".into()));
        assert_eq!(membership(text, Some("memory")), None);
        assert_eq!(membership(b"8:pids:/p\n", None), None);
    }

    #[test]
    fn a_fake_host_answers_like_a_real_one() {
        let root = tempfile::tempdir().unwrap();
        let (proc, tree) = (root.path().join("proc"), root.path().join("tree"));
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::create_dir_all(proc.join("17")).unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        let line = format!("41 31 0:38 / {} rw - cgroup2 none rw\n", tree.display());
        fs::write(proc.join("self/mountinfo"), line).unwrap();
        fs::write(proc.join("17/cgroup"), "0::/a/b\n").unwrap();
        fs::write(tree.join("a/cgroup.procs"), "17\n").unwrap();
        fs::write(tree.join("a/b/cgroup.procs"), "18\n19\n").unwrap();

        let host = Hierarchies::at(&proc).unwrap();
        assert_eq!(host.path_of(17).unwrap(), Path::new("/a/b"));
        assert_eq!(host.path_of(18).unwrap_err().kind(), io::ErrorKind::NotFound);
        let dir = host.dir(Path::new("/a")).unwrap();
        assert_eq!(members(&dir, 3).unwrap(), Some(vec![17, 18, 19]));
        assert_eq!(members(&dir, 2).unwrap(), None, "more than asked for");
        assert_eq!(id(&dir).unwrap(), fs::metadata(tree.join("a")).unwrap().ino());
        assert_eq!(
            host.groups_of(17, "pids").unwrap(),
            [tree.join("a/b"), tree.join("a"), tree.clone()],
            "up to the mount"
        );
    }

    #[test]
    fn the_common_group_is_the_lowest_above_all() {
        let of = |paths: &[&str]| common(paths.iter().map(Path::new));
        assert_eq!(of(&["/a/b/c", "/a/b", "/a/b/d"]), Some("/a/b".into()));
        assert_eq!(of(&["/a/bc", "/a/b"]), Some("/a".into()));
        assert_eq!(of(&["/a", "/b"]), Some("/".into()));
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Hierarchies::parse(&text, Path::new("/proc"));
            let _ = membership(&text, None);
            let _ = membership(&text, Some("pids"));
        }

        #[test]
        fn unescape_undoes_the_kernel(name in "[a-z \t\\\\]{0,20}") {
            let escaped: String = name.chars().map(|letter| match letter {
                ' ' | '\t' | '\\' => format!("\\{:03o}", letter as u32),
                plain => plain.to_string(),
            }).collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), PathBuf::from(name));
        }
    }
}
