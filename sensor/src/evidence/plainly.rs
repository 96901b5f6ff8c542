//! Files that the configuration or this program names, on paths that others may have a hand in.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{self, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Why such a file is not read; half a sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("there is none")]
    Absent,
    #[error("a symbolic link is on the way: name the file where it is")]
    Link,
    #[error("it is no regular file")]
    Kind,
    #[error("it cannot be opened ({0})")]
    Other(Errno),
}

/// A regular file, for reading. No symbolic link is followed: whoever owns a directory on the way could
/// point it at a file that only root may read.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Refused> {
    let at = |flags: OFlags| {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        fs::openat2(fs::CWD, path, flags, Mode::empty(), resolve).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => Refused::Absent,
            Errno::LOOP => Refused::Link,
            error => Refused::Other(error),
        })
    };
    let regular = |file: OwnedFd| {
        let stat = fs::fstat(&file).map_err(Refused::Other)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile { Ok(file) } else { Err(Refused::Kind) }
    };
    // Opening a device or a FIFO does something to it: look before.
    regular(at(OFlags::PATH)?)?;
    regular(at(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_file_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink(".", at("here")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&at("file")).is_ok());
        let refused = |name: &str| open(&at(name)).err();
        assert_eq!(refused("link"), Some(Refused::Link));
        assert_eq!(refused("here/file"), Some(Refused::Link));
        assert_eq!(refused("fifo"), Some(Refused::Kind));
        assert_eq!(refused("none"), Some(Refused::Absent));
        assert_eq!(open(Path::new("/dev/zero")).err(), Some(Refused::Kind));
    }
}
