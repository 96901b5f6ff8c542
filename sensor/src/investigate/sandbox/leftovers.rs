//! What a core that was killed has left: its agents, their homes, and what they had written.

use std::{fs, io::Read as _, path::Path};

use super::{LARGEST_FILE, PATIENCE, parse};
use crate::{
    cgroup::{Group, Hierarchies},
    investigate::lines::{Line, Lines},
    respond::process::Stat,
};

/// Lines that a killed core has not read; it reads every 50 ms.
const UNREAD_LINES: usize = 256;

/// Ends what a core that was killed has left: groups below `home` whose core is gone, with their
/// processes. How many there were. Their scratch directories stay: see [`tidy`].
pub fn clear_leftovers(hierarchies: &Hierarchies, home: &Path) -> u32 {
    let mut cleared = 0;
    let entries = hierarchies.dir(home).and_then(|dir| fs::read_dir(dir).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((core, _)) = parse(&name) else { continue };
        if Stat::read(core.tgid).is_ok_and(|stat| stat.is(core) && stat.lives()) {
            continue;
        }
        if let Ok(group) = Group::open(hierarchies, home, &name) {
            match group.end(PATIENCE) {
                Ok(()) => cleared += 1,
                Err(error) => tracing::error!(%error, "an old investigation stays behind"),
            }
        }
    }
    cleared
}

/// Lines of what a run has written to its standard output, from line `skip` on: those that nobody had read
/// when its core was killed. What is too much for a transcript is left out.
pub fn unread(scratch: &Path, id: &str, skip: usize) -> Vec<Line> {
    let Ok(file) = fs::File::open(scratch.join(format!("{id}.out"))) else { return Vec::new() };
    let (mut lines, mut found, mut seen) = (Lines::default(), Vec::new(), 0);
    let mut take = |line| {
        seen += 1;
        if seen > skip && found.len() < UNREAD_LINES {
            found.push(line);
        }
    };
    let mut file = file.take(LARGEST_FILE);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        lines.push(&buffer[..length], &mut take);
    }
    // Half a line was cut off with it: it is what there is.
    if let Some(line) = lines.rest() {
        take(line);
    }
    found
}

/// Takes away what runs of an earlier core have left in the directory of scratch directories, but for
/// those that are taken up again. For the core that has this directory for its own.
pub fn tidy(scratch: &Path, kept: &[String]) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_suffix(".out").unwrap_or(&name);
        if kept.iter().any(|kept| kept == id) {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let gone = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = gone {
            tracing::error!(%error, path = %path.display(), "an old scratch directory stays behind");
        }
    }
}
