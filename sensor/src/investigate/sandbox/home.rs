//! A program's home, as it finds it. Root works on paths in it, and processes of the program's user may be about that
//! are not ours: until it is given away, nobody else can change anything in it.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
};

use rustix::process::{Gid, Uid};

/// A directory that only we can do anything in: a new one, or one that an earlier life has left, taken back. Who stands
/// in it, or has it open, is asked again at each name. Its parent has to be such a one, or a link could take its place.
pub fn seal(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists
                && fs::symlink_metadata(path)?.is_dir() => {}
        made => made?,
    }
    if rustix::process::geteuid().is_root() {
        lchown(path, Some(0), Some(0))?;
    }
    // Only now: its last owner could have changed it again. An access list is masked by it as well.
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Gives a file or a directory to the program. Nobody works on paths below it any more.
pub fn give(path: &Path, identity: Option<(Uid, Gid)>) -> io::Result<()> {
    let (uid, gid) = identity.map_or((None, None), |(uid, gid)| (Some(uid), Some(gid)));
    lchown(path, uid.map(Uid::as_raw), gid.map(Gid::as_raw))
}

/// Writes the files that it finds in its home, which is sealed, and gives them away.
pub fn furnish(
    home: &Path,
    files: &[(PathBuf, Vec<u8>)],
    identity: Option<(Uid, Gid)>,
) -> Result<(), (PathBuf, io::Error)> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for (name, content) in files {
        let path = home.join(name);
        let mut put = || {
            let mut above: Vec<&Path> = name.ancestors().skip(1).collect();
            above.retain(|above| !above.as_os_str().is_empty());
            for above in above.into_iter().rev().map(|above| home.join(above)) {
                if !directories.contains(&above) {
                    seal(&above)?;
                    directories.push(above);
                }
            }
            let _ = fs::remove_file(&path);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).open(&path)?.write_all(content)?;
            give(&path, identity)
        };
        put().map_err(|source| (path.clone(), source))?;
    }
    // What is below first: whoever has a directory may put another one in the place of what is in it.
    for directory in directories.into_iter().rev() {
        give(&directory, identity).map_err(|source| (directory, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    /// Owner and mode.
    fn state(path: &Path) -> (u32, u32) {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.mode() & 0o7777)
    }

    #[test]
    fn what_an_earlier_life_has_left_is_taken_back_before_anything_is_done_in_it() {
        let base = tempfile::tempdir().unwrap();
        let us = rustix::process::geteuid();
        let them = us.is_root().then(|| (Uid::from_raw(65_534), Gid::from_raw(65_534)));
        let theirs = them.map_or(us.as_raw(), |(uid, _)| uid.as_raw());
        let home = base.path().join("home");
        let files = [
            (PathBuf::from("a/b/settings"), b"1".to_vec()),
            (PathBuf::from("a/other"), b"2".to_vec()),
            (PathBuf::from("top"), b"3".to_vec()),
        ];
        for _ in 0..2 {
            seal(&home).unwrap();
            assert_eq!(state(&home), (us.as_raw(), 0o700));
            furnish(&home, &files, them).unwrap();
            for directory in ["a", "a/b"] {
                assert_eq!(state(&home.join(directory)), (theirs, 0o700));
            }
            for (name, content) in &files {
                assert_eq!(state(&home.join(name)), (theirs, 0o600));
                assert_eq!(fs::read(home.join(name)).unwrap(), *content);
            }
            give(&home, them).unwrap();
            assert_eq!(state(&home).0, theirs);
            // Nothing that they do to it helps them in their next life.
            fs::set_permissions(&home, Permissions::from_mode(0o777)).unwrap();
            fs::set_permissions(home.join("a"), Permissions::from_mode(0o777)).unwrap();
        }
    }

    #[test]
    fn no_link_takes_the_place_of_a_directory() {
        let base = tempfile::tempdir().unwrap();
        let (home, other) = (base.path().join("home"), base.path().join("other"));
        fs::create_dir(&other).unwrap();
        symlink(&other, &home).unwrap();
        assert_eq!(seal(&home).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&home).unwrap();
        seal(&home).unwrap();
        symlink(&other, home.join("a")).unwrap();
        let (at, error) = furnish(&home, &[("a/settings".into(), Vec::new())], None).unwrap_err();
        assert_eq!((at, error.kind()), (home.join("a/settings"), io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
        // A file that is one is replaced, and not written through.
        symlink(other.join("file"), home.join("top")).unwrap();
        furnish(&home, &[("top".into(), b"1".to_vec())], None).unwrap();
        assert!(fs::symlink_metadata(home.join("top")).unwrap().is_file());
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    }
}
