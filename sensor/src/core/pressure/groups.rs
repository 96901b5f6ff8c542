//! Which cgroups are watched: those that have the smallest part of their limits left.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    cgroup::{self, Hierarchies},
    vitals::{
        parse,
        pressure::{GROUPS, Group},
    },
};

/// cgroups that one such look goes through: 10 µs each, 50 where there is a limit.
const LOOKED_AT: usize = 1024;

/// Nothing is left, in thousandths: whoever has no limit and is watched all the same comes first.
const NOTHING: u64 = 0;

/// The fullest below the mount point, or of a scope. In a scope the scope's own as well, with a limit or without:
/// what waits in it is counted there.
pub fn fullest(hierarchies: &Hierarchies, scope: &[PathBuf]) -> Vec<Group> {
    let group = |dir: &Path| {
        let name = hierarchies.path(dir)?;
        Some(Group { name: name.to_str()?.to_owned(), dir: dir.to_owned() })
    };
    let roots: Vec<PathBuf> = if scope.is_empty() {
        hierarchies.unified().map(Path::to_path_buf).into_iter().collect()
    } else {
        scope.iter().filter_map(|path| hierarchies.dir(path)).collect()
    };
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut seen = 0;
    for root in &roots {
        let below = cgroup::below(root, LOOKED_AT - seen.min(LOOKED_AT));
        seen += below.len();
        for dir in below {
            match left(&dir) {
                Some(left) => found.push((left, dir)),
                None if !scope.is_empty() && roots.contains(&dir) => found.push((NOTHING, dir)),
                None => {}
            }
        }
    }
    found.sort_unstable();
    found.truncate(GROUPS);
    found.iter().filter_map(|(_, dir)| group(dir)).collect()
}

/// What is left of a group's limit when its page cache counts as free, as whoever watches it sees it, in
/// thousandths; none without a limit.
fn left(dir: &Path) -> Option<u64> {
    let read = |name: &str| -> io::Result<Vec<u8>> { fs::read(dir.join(name)) };
    let number = |name: &str| parse::single(&read(name).ok()?);
    let limit = parse::limit(number("memory.max"), number("memory.high"))?;
    let held = parse::held(number("memory.current")?, &read("memory.stat").unwrap_or_default());
    Some(limit.saturating_sub(held).saturating_mul(1000) / limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups below a mount point, each with what its files hold.
    fn host(groups: &[(&str, &[(&str, &str)])]) -> (tempfile::TempDir, Hierarchies) {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("tree");
        for (name, files) in groups {
            let dir = mount.join(name);
            fs::create_dir_all(&dir).unwrap();
            for (file, text) in *files {
                fs::write(dir.join(file), text).unwrap();
            }
        }
        let line = format!("41 31 0:38 / {} rw - cgroup2 none rw\n", mount.display());
        let hierarchies = Hierarchies::parse(line.as_bytes(), Path::new("/nowhere"));
        (root, hierarchies)
    }

    fn names(groups: &[Group]) -> Vec<&str> {
        groups.iter().map(|group| group.name.as_str()).collect()
    }

    const CACHED: &[(&str, &str)] = &[
        ("memory.max", "1000\n"),
        ("memory.high", "max\n"),
        ("memory.current", "1000\n"),
        ("memory.stat", "anon 100\ninactive_file 300\nactive_file 600\n"),
    ];
    const FULL: &[(&str, &str)] = &[
        ("memory.max", "1000\n"),
        ("memory.high", "max\n"),
        ("memory.current", "950\n"),
        ("memory.stat", "anon 900\ninactive_file 25\nactive_file 25\n"),
    ];
    const HIGH: &[(&str, &str)] = &[
        ("memory.max", "max\n"),
        ("memory.high", "1000\n"),
        ("memory.current", "1000\n"),
        ("memory.stat", "anon 1000\ninactive_file 0\nactive_file 0\n"),
    ];
    const FREE: &[(&str, &str)] =
        &[("memory.max", "max\n"), ("memory.high", "max\n"), ("memory.current", "5000\n")];

    #[test]
    fn page_cache_crowds_nobody_out() {
        let cached: Vec<String> = (0..GROUPS).map(|at| format!("cached-{at}")).collect();
        let mut groups: Vec<(&str, &[(&str, &str)])> =
            cached.iter().map(|name| (name.as_str(), CACHED)).collect();
        groups.extend([("zz-full", FULL), ("zz-high", HIGH), ("free", FREE)]);
        let (_root, hierarchies) = host(&groups);
        let found = fullest(&hierarchies, &[]);
        assert_eq!(found.len(), GROUPS);
        assert_eq!(&names(&found)[..3], ["/zz-high", "/zz-full", "/cached-0"]);
    }

    #[test]
    fn the_scopes_own_is_watched_without_a_limit() {
        let groups = [("free", FREE), ("free/full", FULL), ("free/other", FREE), ("high", HIGH)];
        let (_root, hierarchies) = host(&groups);
        let found = fullest(&hierarchies, &["/free".into()]);
        assert_eq!(names(&found), ["/free", "/free/full"]);
        assert_eq!(names(&fullest(&hierarchies, &[])), ["/high", "/free/full"]);
    }
}
