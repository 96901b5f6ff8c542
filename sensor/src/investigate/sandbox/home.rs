//! A program's home, as it finds it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, lchown},
    path::{Path, PathBuf},
};

use rustix::process::{Gid, Uid};

/// Writes the files that it finds in its home.
pub fn furnish(
    scratch: &Path,
    files: &[(PathBuf, Vec<u8>)],
    identity: Option<(Uid, Gid)>,
) -> Result<(), (PathBuf, io::Error)> {
    let (uid, gid) = identity.map_or((None, None), |(uid, gid)| (Some(uid), Some(gid)));
    let own = |path: &Path| lchown(path, uid.map(Uid::as_raw), gid.map(Gid::as_raw));
    for (name, content) in files {
        let path = scratch.join(name);
        let put = || {
            for above in name.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
                let above = scratch.join(above);
                // It is another's home if this is not its first life: no link of its own is followed.
                if !fs::symlink_metadata(&above).is_ok_and(|meta| meta.is_dir()) {
                    fs::DirBuilder::new().mode(0o700).create(&above)?;
                    own(&above)?;
                }
            }
            let _ = fs::remove_file(&path);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?
                .write_all(content)?;
            own(&path)
        };
        put().map_err(|source| (path.clone(), source))?;
    }
    Ok(())
}
