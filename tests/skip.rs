//! Skips that are seen: a test that cannot run here prints why, and the line is kept for the
//! summary in the file that `SENSOR_SKIP_FILE` names.

use std::{env, fs::OpenOptions, io::Write as _, path::Path};

/// Prints `SKIP test: reason` and keeps it for the summary.
pub fn note(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    // Past the test harness's capture, which only redirects the print macros.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = env::var_os("SENSOR_SKIP_FILE") {
        let kept = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = kept {
            panic!("cannot keep the skip in {}: {error}", Path::new(&file).display());
        }
    }
}

/// Why a test that needs these programs, and root, cannot run here; none: it can.
pub fn reason(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    programs
        .iter()
        .find(|program| find(program).is_none())
        .map(|program| format!("needs {program}, which is not installed"))
}

/// The program's path, as a shell would find it.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Returns from the test, with a note, where it cannot run: `needs!("npm", "git")`.
#[macro_export]
macro_rules! needs {
    ($($program:literal),*) => {
        if let Some(reason) = $crate::skip::reason(&[$($program),*]) {
            $crate::skip::note($crate::test_name!(), &reason);
            return;
        }
    };
}

/// Returns from the test, with a note, where it would take minutes and nobody asked for it by name: in
/// a guest of a complete run. `cargo xtask vm KERNEL --filter TEXT` asks.
#[macro_export]
macro_rules! takes_its_time {
    () => {
        if std::env::var_os("SENSOR_VM").is_some() && std::env::var_os("SENSOR_ASKED").is_none() {
            $crate::skip::note($crate::test_name!(), "takes minutes in an emulated machine");
            return;
        }
    };
}

/// The running test's name, as the test harness names its thread.
#[macro_export]
macro_rules! test_name {
    () => {
        std::thread::current().name().unwrap_or(module_path!())
    };
}
