//! What was changed on the host lately: packages, units, deploys that the configuration knows by a file.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use prost_types::Timestamp;
use sensor_proto::{
    internal::v1::{PackagesWanted, parse_job::What},
    json::escape,
};

use super::{Parser, Redactor, parse::clock_offset, plainly, proc::read_up_to};
use crate::proto;

/// How far back: what fails today was often changed yesterday.
const WINDOW: Duration = Duration::from_hours(24);

/// Logs of package managers.
const PACKAGES: [&str; 4] =
    ["/var/log/dpkg.log", "/var/log/dnf.rpm.log", "/var/log/zypp/history", "/var/log/pacman.log"];

/// Where whoever administers a host puts units and jobs. Not where packages put theirs: their log says so.
const UNITS: [&str; 7] = [
    "/etc/systemd/system",
    "/etc/systemd/user",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/var/spool/cron/crontabs",
];

/// Entries of such a directory and of its drop-ins together.
const ENTRIES: usize = 2000;

/// Changes that are told.
const CHANGES: usize = 100;

/// For all logs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files that a configuration may name.
pub const MARKERS: usize = 16;

/// Of the first line of such a file, bytes.
const MARKER_LIMIT: usize = 256;

/// All but the git state. And secrets that were replaced.
pub(super) fn of(
    parser: &Parser,
    markers: &[PathBuf],
    redactor: &Redactor,
) -> (proto::Changes, u32) {
    let (now, _) = clock_offset();
    let since = now - WINDOW.as_secs() as i64;
    let mut changes = proto::Changes { window_s: WINDOW.as_secs(), ..Default::default() };
    packages(parser, since, &mut changes);
    for directory in UNITS {
        units(Path::new(directory), since, &mut changes.changes);
    }
    for marker in markers {
        deployed(marker, &mut changes);
    }
    // Latest first.
    let at = |change: &proto::Change| change.at.map_or(0, |at| at.seconds);
    changes.changes.sort_by_key(|change| std::cmp::Reverse(at(change)));
    let more = changes.changes.len().saturating_sub(CHANGES);
    changes.omitted = changes.omitted.saturating_add(more as u32);
    changes.changes.truncate(CHANGES);
    let mut redactions = 0;
    for change in &mut changes.changes {
        let (what, more) = redactor.text(&change.what);
        change.what = what;
        redactions += more;
    }
    (changes, redactions)
}

fn packages(parser: &Parser, since: i64, changes: &mut proto::Changes) {
    let (now, offset_s) = clock_offset();
    let logs = PACKAGES.iter().filter_map(|path| plainly::open(Path::new(path)).ok());
    let wanted = || What::Packages(PackagesWanted { since, now, offset_s });
    let asked: Vec<_> = logs.map(|log| (log, wanted())).collect();
    if asked.is_empty() {
        return;
    }
    match parser.ask(asked, PATIENCE) {
        Err(error) => changes.notes.push(format!("logs of packages could not be read: {error}")),
        Ok(answers) => {
            for answer in answers {
                changes.omitted = changes.omitted.saturating_add(answer.omitted as u32);
                changes.changes.extend(answer.packages.into_iter().map(|it| proto::Change {
                    kind: "package".to_owned(),
                    at: Some(Timestamp { seconds: it.at, nanos: 0 }),
                    what: it.what,
                    how: escape(it.how.as_bytes()),
                }));
            }
        }
    }
}

/// Files of a directory and of the directories right below it.
fn units(directory: &Path, since: i64, changes: &mut Vec<proto::Change>) {
    let mut left = ENTRIES;
    let mut directories = vec![(directory.to_owned(), true)];
    while let Some((directory, deeper)) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if left == 0 {
                return;
            }
            left -= 1;
            let path = entry.path();
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                if deeper {
                    directories.push((path, false));
                }
                continue;
            }
            // Of a link it is the enabling or disabling of what it points at.
            let at = found.mtime().max(found.ctime());
            if at >= since {
                changes.push(proto::Change {
                    kind: "unit".to_owned(),
                    at: Some(Timestamp { seconds: at, nanos: 0 }),
                    what: path.into_os_string().into_encoded_bytes(),
                    how: if found.is_symlink() { "linked" } else { "modified" }.to_owned(),
                });
            }
        }
    }
}

/// Always told, however long ago.
fn deployed(marker: &Path, changes: &mut proto::Changes) {
    let name = marker.as_os_str().as_encoded_bytes();
    let read = plainly::open(marker).map_err(|why| why.to_string()).and_then(|file| {
        let stat = rustix::fs::fstat(&file).map_err(|error| error.to_string())?;
        let text = read_up_to(&file, MARKER_LIMIT).map_err(|error| error.to_string())?;
        Ok((stat.st_mtime, text))
    });
    match read {
        Err(why) => changes.notes.push(format!("{}: {why}", escape(name))),
        Ok((at, text)) => {
            let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
            changes.changes.push(proto::Change {
                kind: "deploy".to_owned(),
                at: Some(Timestamp { seconds: at, nanos: 0 }),
                what: [name, b" ", line].concat().trim_ascii_end().to_vec(),
                how: "deployed".to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_and_units_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("REVISION"), "r42 API_KEY=hunter2hunter2\nmore\n").unwrap();
        let redactor = Redactor::new([1; 16]);
        let markers = [at("REVISION"), at("none")];
        let (changes, redactions) = of(&Parser::here(), &markers, &redactor);
        let deploy = changes.changes.iter().find(|it| it.kind == "deploy").unwrap();
        let what = String::from_utf8_lossy(&deploy.what).into_owned();
        assert!(what.contains("/REVISION r42 ") && !what.contains("hunter2"), "{what}");
        assert!(redactions >= 1 && !what.contains("more"));
        assert!(changes.notes.iter().any(|note| note.ends_with("/none: there is none")));

        fs::create_dir_all(at("units/a.service.d/deep")).unwrap();
        for name in ["units/a.service", "units/a.service.d/x.conf", "units/a.service.d/deep/no"] {
            fs::write(at(name), "").unwrap();
        }
        let mut found = Vec::new();
        units(&at("units"), 0, &mut found);
        assert_eq!(found.len(), 2, "{found:?}");
        units(&at("units"), i64::MAX, &mut found);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
