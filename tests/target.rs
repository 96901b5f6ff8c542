//! Where things were built, and where what is costly to make is kept between runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// The workspace's `target` directory: above the running binary, or the system's temporary
/// directory where the binary was copied elsewhere.
pub fn directory() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|exe| {
            exe.ancestors()
                .find(|path| path.file_name().is_some_and(|name| name == "target"))
                .map(Path::to_path_buf)
        })
        .unwrap_or_else(env::temp_dir)
}

/// A directory that is kept between runs, made when missing.
pub fn kept(name: &str) -> Result<PathBuf> {
    let path = directory().join("workloads").join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// A program of a C source that somebody has compiled for a machine without a compiler: in `SENSOR_PROGRAMS`.
pub fn ready_made(name: &str) -> Option<PathBuf> {
    let program = PathBuf::from(env::var_os("SENSOR_PROGRAMS")?).join(name);
    program.is_file().then_some(program)
}

/// The `sensor` binary under test: `SENSOR_BIN`, or the newest of this workspace's builds.
pub fn sensor() -> Result<PathBuf> {
    if let Some(named) = env::var_os("SENSOR_BIN") {
        let path = PathBuf::from(named);
        if !path.is_file() {
            bail!("SENSOR_BIN is {}, which is no file", path.display());
        }
        return Ok(path);
    }
    ["release", "debug"]
        .iter()
        .map(|profile| directory().join(profile).join("sensor"))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("no sensor binary: build it (`cargo build -p sensor`) or name one in SENSOR_BIN")
}
