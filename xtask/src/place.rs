//! Where things lie, and who asks.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The top of the workspace.
pub fn workspace() -> &'static Path {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir)
}

/// What set-up and the tests keep between runs; removed by `cargo clean`.
pub fn target() -> PathBuf {
    workspace().join("target")
}

/// Tools that set-up builds for this workspace alone.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The executable `name` in `PATH` or where root's tools lie: a user's `PATH` often lacks `sbin`.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
