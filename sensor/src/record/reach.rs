//! Whether somebody who is not root gets to a directory.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::set_thread_groups;

/// The first directory above this one that this user and group may not pass; `None`: none of those that exist. Only
/// root can find out.
pub fn barrier(directory: &Path, (uid, gid): (u32, u32)) -> io::Result<Option<PathBuf>> {
    let exists = directory.ancestors().find(|directory| directory.exists());
    // What links stand for has to be passed.
    let real = exists.map(Path::canonicalize).transpose()?.unwrap_or_default();
    let itself = usize::from(exists == Some(directory));
    let look = move || {
        // This thread's alone, as is what it may see.
        set_thread_groups(&[])?;
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        let way: Vec<_> = real.ancestors().skip(itself).collect();
        Ok(way.into_iter().rev().find(|step| is_refused(step)).map(Path::to_owned))
    };
    let looks = thread::Builder::new().name("reach".into()).spawn(look)?;
    looks.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked has failed")))
}

fn is_refused(directory: &Path) -> bool {
    let inside = directory.join(".").symlink_metadata();
    inside.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const NOBODY: (u32, u32) = (65_534, 65_534);

    #[test]
    fn a_directory_that_others_may_not_pass_is_named() {
        if !rustix::process::geteuid().is_root() {
            println!(
                "SKIP a_directory_that_others_may_not_pass: needs root to look as another user"
            );
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let at = |path: &str| base.path().canonicalize().unwrap().join(path);
        let mode = |path: &str, mode| {
            fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir_all(at("a/b/state")).unwrap();
        mode("", 0o711);
        assert_eq!(barrier(&at("a/b/state"), NOBODY).unwrap(), None);
        mode("a/b/state", 0o700);
        assert_eq!(barrier(&at("a/b/state"), NOBODY).unwrap(), None, "that is the log's own");

        mode("a/b", 0o750);
        for directory in ["a/b/state", "a/b/not/there"] {
            assert_eq!(barrier(&at(directory), NOBODY).unwrap(), Some(at("a/b")), "{directory}");
        }
        std::os::unix::fs::symlink(at("a/b"), at("link")).unwrap();
        assert_eq!(barrier(&at("link/state"), NOBODY).unwrap(), Some(at("a/b")));
        std::os::unix::fs::symlink(at("a/b/state"), at("straight")).unwrap();
        assert_eq!(barrier(&at("straight"), NOBODY).unwrap(), Some(at("a/b")));
        nix::unistd::chown(&at("a/b"), None, Some(Gid::from_raw(NOBODY.1))).unwrap();
        assert_eq!(barrier(&at("a/b/state"), NOBODY).unwrap(), None, "its group may");

        mode("", 0o700);
        assert_eq!(barrier(&at("a/b/state"), NOBODY).unwrap(), base.path().canonicalize().ok());
        // Who looked is root as before.
        fs::read_dir(base.path()).unwrap();
    }
}
