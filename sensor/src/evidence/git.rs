//! The git work tree that a culprit runs in: where HEAD is, since when, and which files differ from what
//! git last saw. git itself is not run: a repository can make it run programs (hooks, fsmonitor, filters).
//!
//! All files are opened with the culprit's user's rights and only within its project, as those that rules
//! look at; the index is read by `sensor parse`.

use std::{
    ffi::OsStr,
    io::Read as _,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prost_types::Timestamp;
use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use sensor_proto::internal::v1::{IndexEntry, IndexWanted, parse_job::What};

use super::{
    Parser, Redactor,
    beside::Beside,
    files::{Projects, reader},
    proc::{Proc, read_up_to},
};
use crate::{lineage::ProcessKey, proto};

/// Directories up from the working directory.
const LEVELS: usize = 16;
/// Of HEAD and of a branch.
const HEAD_LIMIT: usize = 4096;
/// Of packed-refs, and of the end of HEAD's log.
const REFS_LIMIT: usize = 1 << 20;
const LOG_TAIL: u64 = 8 << 10;
/// Files that are compared: 5 µs each.
const COMPARED: Duration = Duration::from_millis(300);
/// Names of changed files that are told.
const NAMED: usize = 20;
/// For files on a server that may not answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Files in `.git` that say that somebody is in the middle of something.
const AMID: [(&str, &str); 6] = [
    ("MERGE_HEAD", "merge"),
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
];

type Look = Box<dyn FnOnce(&OwnedFd) -> Answer + Send>;

enum Answer {
    Found(Option<Found>),
    Compared(Compared),
}

struct Found {
    state: proto::GitState,
    /// The work tree.
    top: OwnedFd,
    index: Option<OwnedFd>,
}

#[derive(Default)]
struct Compared {
    modified: Vec<Vec<u8>>,
    count: u32,
    looked_at: u32,
}

/// `None`: there is none, or none that its user may read. And secrets that were replaced.
pub(super) fn of(
    proc: &Proc,
    parser: &Parser,
    (key, cwd): (ProcessKey, &[u8]),
    projects: Projects,
    redactor: &Redactor,
) -> Option<(proto::GitState, u32)> {
    let answer = |root: &OwnedFd, look: Look| look(root);
    let mut user: Beside<Look, Answer> = reader::as_user(proc, &[key], "git", answer).ok()?;
    let cwd = PathBuf::from(OsStr::from_bytes(cwd));
    let look: Look = Box::new(move |root| Answer::Found(find(root, &projects, &cwd)));
    let Some(Answer::Found(Some(found))) = user.ask(look, PATIENCE) else { return None };
    let Found { mut state, top, index } = found;
    if let Some(index) = index {
        let wanted = IndexWanted { sha256: state.head.len() == 64 };
        let answers = parser.ask(vec![(index, What::Index(wanted))], PATIENCE);
        if let Some(answer) = answers.ok().and_then(|answers| answers.into_iter().next()) {
            state.files = u32::try_from(answer.files).unwrap_or(u32::MAX);
            let look: Look = Box::new(move |_| Answer::Compared(compare(&top, answer.entries)));
            if let Some(Answer::Compared(compared)) = user.ask(look, PATIENCE) {
                state.modified = compared.modified;
                state.modified_count = compared.count;
                state.looked_at = compared.looked_at;
            }
        }
    }
    let mut redactions = 0;
    let mut clean = |text: &mut Vec<u8>| {
        let (cleaned, more) = redactor.text(text);
        redactions += more;
        *text = cleaned;
    };
    clean(&mut state.branch);
    clean(&mut state.moved_by);
    state.modified.iter_mut().for_each(clean);
    Some((state, redactions))
}

fn find(root: &OwnedFd, projects: &Projects, cwd: &Path) -> Option<Found> {
    for directory in cwd.ancestors().take(LEVELS) {
        let git = directory.join(".git");
        let open = |name: &str| {
            let (top, rest) = projects.place(&git.join(name)).ok()?;
            Some(reader::open(root, &top, &rest))
        };
        let read = |name: &str, limit| read_up_to(&open(name)?.ok()?.0, limit).ok();
        let Some(head) = read("HEAD", HEAD_LIMIT) else { continue };
        let mut state = proto::GitState {
            top: directory.as_os_str().as_encoded_bytes().to_vec(),
            ..Default::default()
        };
        match branch(&head) {
            Some(name) => {
                let path = std::str::from_utf8(name).ok().filter(|name| plain(name));
                let own = path.and_then(|path| read(path, HEAD_LIMIT));
                let packed = || packed(&read("packed-refs", REFS_LIMIT)?, name);
                state.head = own.and_then(|text| hash(&text)).or_else(packed).unwrap_or_default();
                let short = name.strip_prefix(b"refs/heads/").unwrap_or(name);
                state.branch = short.to_vec();
            }
            None => state.head = hash(&head).unwrap_or_default(),
        }
        if let Some(Ok((log, size))) = open("logs/HEAD") {
            let text = end(log, size).unwrap_or_default();
            if let Some((at, what)) = moved(&text) {
                state.moved_at = Some(Timestamp { seconds: at, nanos: 0 });
                state.moved_by = what;
            }
        }
        let amid = AMID.iter().find(|(name, _)| {
            // A directory is there as well.
            open(name).is_some_and(|found| match found {
                Ok(_) => true,
                Err(why) => why == crate::diagnose::FileState::Refused("a directory".to_owned()),
            })
        });
        state.amid = amid.map(|(_, what)| (*what).to_owned()).unwrap_or_default();
        let index = open("index").and_then(Result::ok).map(|(file, _)| file);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let top = fs::openat2(root, directory, flags, Mode::empty(), inside).ok()?;
        return Some(Found { state, top, index });
    }
    None
}

/// Only names below refs, and nothing that leads elsewhere.
fn plain(name: &str) -> bool {
    name.starts_with("refs/") && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// `ref: refs/heads/main`
fn branch(head: &[u8]) -> Option<&[u8]> {
    Some(head.strip_prefix(b"ref:")?.trim_ascii())
}

/// A commit's, and nothing else.
fn hash(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex && matches!(text.len(), 40 | 64)).then(|| text.to_ascii_lowercase())
}

/// `hash refs/heads/main`
fn packed(text: &[u8], name: &[u8]) -> Option<String> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let (commit, rest) = line.split_at_checked(line.iter().position(|byte| *byte == b' ')?)?;
        (rest.trim_ascii() == name).then(|| hash(commit)).flatten()
    })
}

fn end(file: OwnedFd, size: u64) -> std::io::Result<Vec<u8>> {
    fs::seek(&file, fs::SeekFrom::Start(size.saturating_sub(LOG_TAIL)))?;
    let mut text = Vec::new();
    std::fs::File::from(file).take(LOG_TAIL).read_to_end(&mut text)?;
    Ok(text)
}

/// Of the last line of HEAD's log: `old new Name <email> seconds zone\tcommit: message`.
pub(crate) fn moved(text: &[u8]) -> Option<(i64, Vec<u8>)> {
    let line = text.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty())?;
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let head = String::from_utf8_lossy(&line[..tab]);
    let at = head.rsplit(' ').nth(1)?.parse().ok()?;
    // The first words say what was done; a message is the committer's.
    let what = &line[tab + 1..];
    Some((at, what[..what.len().min(256)].to_vec()))
}

/// As `git status` begins: size and time of the last change.
fn compare(top: &OwnedFd, entries: Vec<IndexEntry>) -> Compared {
    let until = Instant::now() + COMPARED;
    let mut compared = Compared::default();
    for entry in entries {
        if Instant::now() > until {
            break;
        }
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = OsStr::from_bytes(&entry.path);
        let stat = match fs::openat2(top, path, flags, Mode::empty(), beneath) {
            Ok(file) => fs::fstat(&file).ok(),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            // It says nothing about the file that its user may not look at it.
            Err(_) => continue,
        };
        compared.looked_at += 1;
        let same = stat.is_some_and(|stat| {
            stat.st_size as u32 == entry.size
                && stat.st_mtime as u32 == entry.seconds
                && (entry.nanos == 0 || stat.st_mtime_nsec as u32 == entry.nanos)
        });
        if !same {
            compared.count += 1;
            if compared.modified.len() < NAMED {
                compared.modified.push(entry.path);
            }
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::respond::process::key_of;

    #[test]
    fn a_work_tree_as_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let app = directory.path().join("app");
        std::fs::create_dir_all(app.join("src")).unwrap();
        let git = |arguments: &[&str]| {
            let said = Command::new("git")
                .current_dir(&app)
                .args([
                    "-c",
                    "user.name=a",
                    "-c",
                    "user.email=a@b",
                    "-c",
                    "init.defaultBranch=trunk",
                ])
                .args(arguments)
                .output();
            said.ok().filter(|said| said.status.success()).map(|said| said.stdout)
        };
        if git(&["init", "-q", "."]).is_none() {
            return println!("SKIP a_work_tree_as_it_stands: no git");
        }
        for name in ["a.js", "src/b.js", "c.js"] {
            std::fs::write(app.join(name), "one").unwrap();
        }
        assert!(git(&["add", "."]).is_some() && git(&["commit", "-qm", "begin"]).is_some());
        let head = String::from_utf8(git(&["rev-parse", "HEAD"]).unwrap()).unwrap();
        // A hook and an fsmonitor that would tell that git was run.
        let ran = app.join("ran");
        let monitor = app.join(".git/monitor");
        std::fs::write(&monitor, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
        assert!(git(&["config", "core.fsmonitor", monitor.to_str().unwrap()]).is_some());
        std::fs::write(app.join("src/b.js"), "other").unwrap();
        std::fs::remove_file(app.join("c.js")).unwrap();
        std::fs::write(app.join(".git/MERGE_HEAD"), "x").unwrap();

        let cwd = app.join("src").into_os_string().into_encoded_bytes();
        let projects = Projects::new([cwd.as_slice()], &std::collections::BTreeSet::new());
        let key = key_of(std::process::id()).unwrap();
        let redactor = Redactor::new([1; 16]);
        let (state, _) =
            of(&Proc::default(), &Parser::here(), (key, &cwd), projects.clone(), &redactor)
                .unwrap();
        assert_eq!((state.head.as_str(), state.branch.as_slice()), (head.trim(), &b"trunk"[..]));
        assert_eq!(state.top, app.as_os_str().as_encoded_bytes());
        assert_eq!(state.modified, [b"c.js".to_vec(), b"src/b.js".to_vec()]);
        assert_eq!((state.modified_count, state.files, state.looked_at), (2, 3, 3));
        assert_eq!(state.amid, "merge");
        assert!(state.moved_by.starts_with(b"commit (initial): begin"), "{state:?}");
        assert!((state.moved_at.unwrap().seconds - crate::clock::wall().seconds).abs() < 600);
        assert!(!ran.exists());

        // A link out of the project is none.
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::rename(app.join(".git"), elsewhere.path().join("git")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("git"), app.join(".git")).unwrap();
        assert!(of(&Proc::default(), &Parser::here(), (key, &cwd), projects, &redactor).is_none());
    }

    #[test]
    fn packed_branches_and_odd_names() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let text = format!("# pack-refs\n{commit} refs/heads/main\n^{commit}\n");
        assert_eq!(packed(text.as_bytes(), b"refs/heads/main").as_deref(), Some(commit));
        assert_eq!(packed(text.as_bytes(), b"refs/heads/mai"), None);
        assert!(plain("refs/heads/a/b") && !plain("refs/../../x") && !plain("config"));
        assert_eq!(hash(b"root:x:0:0"), None);
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (moved(&text), hash(&text), branch(&text), packed(&text, b"refs/heads/x"));
        }
    }
}
