//! What a core that was killed has left: its agents, their homes, and what they had written.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{LARGEST_FILE, PATIENCE, parse, unit};
use crate::{
    cgroup::{Group, Hierarchies},
    investigate::lines::{Line, Lines},
    respond::process::Stat,
};

/// Lines that a killed core has not read; it reads every 50 ms.
const UNREAD_LINES: usize = 256;

/// Ends what a core that was killed has left: groups below `home`, and units, whose core is gone, with their
/// processes. How many there were. Their scratch directories stay: see [`tidy`].
pub fn clear_leftovers(hierarchies: &Hierarchies, home: &Path) -> u32 {
    let slice = Path::new(unit::SLICE);
    let groups = left_below(hierarchies, home, |name| Some(name));
    let groups =
        groups.into_iter().filter_map(|(name, _)| Group::open(hierarchies, home, &name).ok());
    let units = left_below(hierarchies, slice, unit::inside);
    let units = units.into_iter().map(|(_, dir)| Group::adopt(&dir));
    let mut cleared = 0;
    for group in groups.chain(units) {
        match group.end(PATIENCE) {
            Ok(()) => cleared += 1,
            Err(error) => tracing::error!(%error, "an old investigation stays behind"),
        }
    }
    cleared
}

/// Groups below a v2 path that are investigations' of a core that is gone; `inside` finds the name that we gave one
/// in its own.
fn left_below(
    hierarchies: &Hierarchies,
    above: &Path,
    inside: impl Fn(&str) -> Option<&str>,
) -> Vec<(String, PathBuf)> {
    let entries = hierarchies.dir(above).and_then(|dir| fs::read_dir(dir).ok());
    let entries = entries.into_iter().flatten().flatten();
    let named = entries.map(|it| (it.file_name().to_string_lossy().into_owned(), it.path()));
    named
        .filter(|(name, _)| {
            let core = inside(name).and_then(parse).map(|(core, _)| core);
            core.is_some_and(|core| {
                !Stat::read(core.tgid).is_ok_and(|stat| stat.is(core) && stat.lives())
            })
        })
        .collect()
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
