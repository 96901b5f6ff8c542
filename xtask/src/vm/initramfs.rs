//! Writes an initramfs: a cpio archive in the `newc` format, as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes it. No staging folder, no
//! root, no cpio needed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

enum Content {
    Directory,
    Bytes(Vec<u8>),
    /// Read only when written: binaries are large.
    Copy(PathBuf),
    Link(PathBuf),
}

struct Entry {
    mode: u32,
    content: Content,
}

/// The files of a guest, by absolute path. Parents come before children by their order.
#[derive(Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    pub fn directory(&mut self, path: impl AsRef<Path>, permissions: u32) -> Result<()> {
        self.add(path.as_ref(), DIRECTORY | permissions, Content::Directory)
    }

    pub fn bytes(&mut self, path: impl AsRef<Path>, mode: u32, bytes: &[u8]) -> Result<()> {
        self.add(path.as_ref(), REGULAR | mode, Content::Bytes(bytes.to_vec()))
    }

    /// A copy of the host's file `from`, links followed.
    pub fn copy(
        &mut self,
        path: impl AsRef<Path>,
        mode: u32,
        from: impl Into<PathBuf>,
    ) -> Result<()> {
        self.add(path.as_ref(), REGULAR | mode, Content::Copy(from.into()))
    }

    pub fn link(&mut self, path: impl AsRef<Path>, to: impl Into<PathBuf>) -> Result<()> {
        self.add(path.as_ref(), LINK | 0o777, Content::Link(to.into()))
    }

    pub fn contains(&self, path: impl AsRef<Path>) -> bool {
        self.entries.contains_key(path.as_ref())
    }

    /// The path with the links of this tree among its parents resolved: `/lib/x` is `/usr/lib/x`.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let mut resolved = PathBuf::from("/");
        for component in path.components().filter(|it| matches!(it, Component::Normal(_))) {
            resolved.push(component);
            if let Some(Entry { content: Content::Link(to), .. }) = self.entries.get(&resolved)
                && resolved != path
            {
                resolved.pop();
                resolved.push(to);
            }
        }
        resolved
    }

    fn add(&mut self, path: &Path, mode: u32, content: Content) -> Result<()> {
        if !path.is_absolute() || path.components().any(|it| it == Component::ParentDir) {
            bail!("{} is no absolute path", path.display());
        }
        let path = self.resolve(path);
        for parent in path.ancestors().skip(1).filter(|it| *it != Path::new("/")) {
            let made = self.entries.entry(parent.to_owned());
            let made =
                made.or_insert(Entry { mode: DIRECTORY | 0o755, content: Content::Directory });
            if !matches!(made.content, Content::Directory) {
                bail!("{} lies below {}, which is no folder", path.display(), parent.display());
            }
        }
        self.entries.insert(path, Entry { mode, content });
        Ok(())
    }

    /// Writes the archive; returns its size in bytes.
    pub fn write(&self, to: &mut impl Write) -> Result<u64> {
        let mut archive = Archive { to, inode: 0, written: 0 };
        for (path, entry) in &self.entries {
            // The archive's names are relative to the guest's root.
            let name = path.strip_prefix("/").unwrap_or(path);
            let name = name.to_str().with_context(|| format!("{} is not UTF-8", name.display()))?;
            match &entry.content {
                Content::Directory => archive.entry(name, entry.mode, 0, &mut io::empty())?,
                Content::Bytes(bytes) => {
                    archive.entry(name, entry.mode, bytes.len() as u64, &mut bytes.as_slice())?;
                }
                Content::Link(to) => {
                    let to = to.as_os_str().as_encoded_bytes();
                    archive.entry(name, entry.mode, to.len() as u64, &mut { to })?;
                }
                Content::Copy(from) => {
                    let mut file = File::open(from)
                        .with_context(|| format!("cannot read {}", from.display()))?;
                    let size = file.metadata()?.len();
                    archive
                        .entry(name, entry.mode, size, &mut file)
                        .with_context(|| format!("cannot archive {}", from.display()))?;
                }
            }
        }
        archive.entry("TRAILER!!!", 0, 0, &mut io::empty())?;
        Ok(archive.written)
    }
}

struct Archive<'a, W> {
    to: &'a mut W,
    inode: u32,
    written: u64,
}

impl<W: Write> Archive<'_, W> {
    fn entry(&mut self, name: &str, mode: u32, size: u64, from: &mut dyn io::Read) -> Result<()> {
        self.inode += 1;
        let size32 = u32::try_from(size).context("a file of 4 GiB or more")?;
        let links = if mode & DIRECTORY != 0 && mode & REGULAR != REGULAR { 2 } else { 1 };
        // magic, ino, mode, uid, gid, nlink, mtime, size, dev (major, minor), rdev (major, minor),
        // length of the name with its NUL, checksum (not in this format).
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size32:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(b"\0")?;
        self.pad()?;
        let copied = io::copy(from, self.to)?;
        if copied != size {
            bail!("{name} changed while it was read");
        }
        self.written += copied;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Names and contents end at multiples of four.
    fn pad(&mut self) -> Result<()> {
        let over = (self.written % 4) as usize;
        if over != 0 {
            self.put(&[0; 4][over..])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written = tree.write(&mut bytes).unwrap();
        assert_eq!(written, bytes.len() as u64);
        assert_eq!(bytes.len() % 4, 0);
        bytes
    }

    /// Reads an archive back: (name, mode, links, content).
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let field = |at: usize| {
                let text = std::str::from_utf8(&bytes[6 + at * 8..14 + at * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, links, size, named) = (field(1), field(4), field(6), field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + named - 1]).unwrap().to_owned();
            let start = (110 + named).next_multiple_of(4);
            let end = start + size as usize;
            if name == "TRAILER!!!" {
                return found;
            }
            found.push((name, mode, links, bytes[start..end].to_vec()));
            bytes = &bytes[end.next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_was_added_is_in_the_archive_parents_first() {
        let mut tree = Tree::default();
        tree.bytes("/usr/bin/tool", 0o755, b"hello").unwrap();
        tree.link("/bin", "usr/bin").unwrap();
        tree.directory("/tmp", 0o1777).unwrap();
        assert_eq!(
            read(&archive(&tree)),
            [
                ("bin".into(), 0o120_777, 1, b"usr/bin".to_vec()),
                ("tmp".into(), 0o041_777, 2, vec![]),
                ("usr".into(), 0o040_755, 2, vec![]),
                ("usr/bin".into(), 0o040_755, 2, vec![]),
                ("usr/bin/tool".into(), 0o100_755, 1, b"hello".to_vec()),
            ]
        );
    }

    #[test]
    fn what_lies_behind_a_link_is_put_where_it_leads() {
        let mut tree = Tree::default();
        tree.link("/lib", "usr/lib").unwrap();
        tree.bytes("/lib/x86/libc.so", 0o644, b"").unwrap();
        assert!(tree.contains("/usr/lib/x86/libc.so") && !tree.contains("/lib/x86/libc.so"));
        tree.bytes("/etc/file", 0o644, b"").unwrap();
        assert!(tree.bytes("/etc/file/below", 0o644, b"").is_err());
        assert!(tree.bytes("relative", 0o644, b"").is_err());
        assert!(tree.bytes("/a/../b", 0o644, b"").is_err());
    }
}
