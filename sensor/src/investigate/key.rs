//! API keys: files that hold one, and that nobody else can read.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// What is shorter is a slip of the finger; the longest keys that are handed out are tokens of some 2,000.
const LEAST: usize = 8;
const MOST: usize = 4096;

/// What a model's vendor knows us by. Debug does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// For the environment of the program that needs it, and for nothing that is recorded.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Why a file gives no key. Says nothing of what is in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the key file {} is a symbolic link: name what it points to", .0.display())]
    Link(PathBuf),
    #[error("the key file {} is no regular file", .0.display())]
    Irregular(PathBuf),
    #[error("the key file {} belongs to uid {uid}: `chown {ours}` it, who else owns it can change it", .path.display())]
    Owner { path: PathBuf, uid: u32, ours: u32 },
    #[error("the key file {} is open to others (mode {mode:04o}): `chmod 0600` it", .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "the key file {} holds no key: it must be one line of {LEAST} to {MOST} printable characters without a space", .0.display()
    )]
    NoKey(PathBuf),
}

/// The key in a file: a regular one, root's (or this process's user's), closed to everybody else, of one line.
pub fn read_key(path: &Path) -> Result<Key, KeyError> {
    let unreadable = |source: io::Error| {
        if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return KeyError::Link(path.into());
        }
        KeyError::Unreadable { path: path.into(), source }
    };
    // Without NONBLOCK a FIFO would be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(unreadable)?;
    closed(path, &file)?;
    let mut bytes = Vec::new();
    // The end of the line, and one more than there may be.
    let most = MOST as u64 + 2;
    file.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let legal = (LEAST..=MOST).contains(&line.len()) && line.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(line) {
        Ok(key) if legal => Ok(Key(key.to_owned())),
        _ => Err(KeyError::NoKey(path.into())),
    }
}

/// Looks at what was opened, not at its path: that could be another file by now.
fn closed(path: &Path, file: &File) -> Result<(), KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.into(), source };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyError::Irregular(path.into()));
    }
    let (uid, ours) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if uid != 0 && uid != ours {
        return Err(KeyError::Owner { path: path.into(), uid, ours });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.into(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(directory: &Path, text: &[u8], mode: u32) -> PathBuf {
        let path = directory.join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn one_line_that_only_its_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        for (text, mode) in [
            (&b"sk-example-1234\n"[..], 0o600),
            (b"sk-example-1234", 0o400),
            (b"sk-example-1234\n", 0o700),
        ] {
            let path = file(directory.path(), text, mode);
            let key = read_key(&path).unwrap();
            assert_eq!(key.expose(), "sk-example-1234");
            assert_eq!(format!("{key:?} {:?}", Some(&key)), "Key(…) Some(Key(…))");
        }
        let longest = vec![b'k'; MOST];
        let path = file(directory.path(), &longest, 0o600);
        assert_eq!(read_key(&path).unwrap().expose().len(), MOST);
    }

    #[test]
    fn what_holds_no_key_is_refused_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let long = vec![b'k'; MOST + 1];
        for text in [
            &b""[..],
            b"\n",
            b"short-1",
            b"sk-example-1234\n\n",
            b"sk-example\nsk-example\n",
            b"sk-example 1234\n",
            b"sk-example-1234\r\n",
            b"\xef\xbb\xbfsk-example-1234\n",
            b"sk-example-\xff\xff\xff\xff\n",
            &long,
        ] {
            let path = file(directory.path(), text, 0o600);
            let said = read_key(&path).unwrap_err().to_string();
            assert!(said.ends_with("holds no key: it must be one line of 8 to 4096 printable characters without a space"), "{said}");
            assert!(!said.contains("sk-"), "{said}");
        }
    }

    #[test]
    fn what_others_may_touch_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let path = file(directory.path(), b"sk-example-1234\n", mode);
            let said = read_key(&path).unwrap_err().to_string();
            assert_eq!(
                said,
                format!(
                    "the key file {} is open to others (mode {mode:04o}): `chmod 0600` it",
                    path.display()
                ),
            );
        }
    }

    #[test]
    fn only_a_regular_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), b"sk-example-1234\n", 0o600);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_key(&link), Err(KeyError::Link(_))));
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(read_key(&fifo), Err(KeyError::Irregular(_))), "it is not waited for");
        assert!(matches!(read_key(directory.path()), Err(KeyError::Irregular(_))));
        let absent = read_key(&directory.path().join("absent")).unwrap_err().to_string();
        assert!(absent.contains("absent: No such file"), "{absent}");
    }
}
