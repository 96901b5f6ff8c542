//! The git work tree that a culprit runs in: where HEAD is, since when, and which files differ from what
//! git last saw. git itself is not run: a repository can make it run programs (hooks, fsmonitor, filters).
//!
//! All files are opened with the culprit's user's rights and only within its project, as those that rules
//! look at; what is in them is read by `sensor parse`.

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
use sensor_proto::internal::v1::{
    GitWanted, IndexEntry, IndexWanted, MoveWanted, PackedWanted, RefWanted, git_wanted::Of,
    parse_job::What,
};

use super::{
    Parser, Redactor,
    beside::Beside,
    files::{FileState, Projects, reader},
    parse::{ParseError, git_head},
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
/// For reading what is in them: as much as the process may compute.
const PARSED: Duration = Duration::from_secs(5);

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
    Read(Option<Vec<u8>>),
    Compared(Compared),
}

/// A work tree as it was found: open, read, and not looked into.
struct Found {
    directory: PathBuf,
    head: Vec<u8>,
    packed: Option<Vec<u8>>,
    /// The end of HEAD's log.
    log: Option<Vec<u8>>,
    amid: Option<&'static str>,
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
) -> Result<Option<(proto::GitState, u32)>, ParseError> {
    let answer = |root: &OwnedFd, look: Look| look(root);
    let user: Result<Beside<Look, Answer>, reader::Error> =
        reader::as_user(proc, &[key], "git", answer);
    let Ok(mut user) = user else { return Ok(None) };
    let cwd = PathBuf::from(OsStr::from_bytes(cwd));
    let within = projects.clone();
    let look: Look = Box::new(move |root| Answer::Found(find(root, &within, &cwd)));
    let Some(Answer::Found(Some(mut found))) = user.ask(look, PATIENCE) else { return Ok(None) };
    let mut state = proto::GitState {
        top: found.directory.as_os_str().as_encoded_bytes().to_vec(),
        amid: found.amid.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let index = found.index.take();
    let indexed = index.is_some();
    let mut parse = parser.dialogue(index.into_iter().collect(), PARSED)?;
    let mut look_into = |content: &[u8], of: Of| {
        let answer = parse.ask_of(content, What::Git(GitWanted { of: Some(of) }))?;
        git_head::checked(answer).ok_or(ParseError::Nonsense)
    };
    let head = look_into(&found.head, Of::Ref(RefWanted {}))?;
    state.head = head.commit;
    if !head.branch.is_empty() {
        let name = head.branch;
        let own = std::str::from_utf8(&name).ok().filter(|name| plain(name)).and_then(|name| {
            let (directory, name) = (found.directory.clone(), name.to_owned());
            let within = projects.clone();
            let look: Look = Box::new(move |root| {
                Answer::Read(read(root, &within, &directory, &name, HEAD_LIMIT))
            });
            match user.ask(look, PATIENCE) {
                Some(Answer::Read(content)) => content,
                _ => None,
            }
        });
        if let Some(own) = own {
            state.head = look_into(&own, Of::Ref(RefWanted {}))?.commit;
        }
        if let Some(packed) = found.packed.filter(|_| state.head.is_empty()) {
            let wanted = PackedWanted { name: name.clone() };
            state.head = look_into(&packed, Of::Packed(wanted))?.commit;
        }
        state.branch = name.strip_prefix(b"refs/heads/").unwrap_or(&name).to_vec();
    }
    if let Some(log) = &found.log {
        let moved = look_into(log, Of::Move(MoveWanted {}))?;
        state.moved_at = moved.at.map(|seconds| Timestamp { seconds, nanos: 0 });
        state.moved_by = moved.what;
    }
    if indexed {
        let answer = parse.ask(What::Index(IndexWanted { sha256: state.head.len() == 64 }))?;
        state.files = u32::try_from(answer.files).unwrap_or(u32::MAX);
        let top = found.top;
        let look: Look = Box::new(move |_| Answer::Compared(compare(&top, answer.entries)));
        if let Some(Answer::Compared(compared)) = user.ask(look, PATIENCE) {
            state.modified = compared.modified;
            state.modified_count = compared.count;
            state.looked_at = compared.looked_at;
        }
    }
    let mut redactions = 0;
    let mut clean = |text: &mut Vec<u8>| {
        let (cleaned, more) = redactor.text(text);
        redactions += more;
        *text = cleaned;
    };
    clean(&mut state.top);
    clean(&mut state.branch);
    clean(&mut state.moved_by);
    state.modified.iter_mut().for_each(clean);
    Ok(Some((state, redactions)))
}

/// A file in the `.git` of a directory; `None`: outside of its project.
fn open(
    root: &OwnedFd,
    projects: &Projects,
    directory: &Path,
    name: &str,
) -> Option<Result<(OwnedFd, u64), FileState>> {
    let (top, rest) = projects.place(&directory.join(".git").join(name)).ok()?;
    Some(reader::open(root, &top, &rest))
}

fn read(
    root: &OwnedFd,
    projects: &Projects,
    directory: &Path,
    name: &str,
    limit: usize,
) -> Option<Vec<u8>> {
    let (file, _) = open(root, projects, directory, name)?.ok()?;
    read_up_to(&file, limit).ok()
}

fn find(root: &OwnedFd, projects: &Projects, cwd: &Path) -> Option<Found> {
    for directory in cwd.ancestors().take(LEVELS) {
        let open = |name: &str| open(root, projects, directory, name);
        let read = |name: &str, limit| read(root, projects, directory, name, limit);
        let Some(head) = read("HEAD", HEAD_LIMIT) else { continue };
        let log = open("logs/HEAD").and_then(Result::ok);
        let amid = AMID.iter().find(|(name, _)| {
            // A directory is there as well.
            open(name).is_some_and(|found| match found {
                Ok(_) => true,
                Err(why) => why == FileState::Refused("a directory".to_owned()),
            })
        });
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        return Some(Found {
            directory: directory.to_owned(),
            head,
            packed: read("packed-refs", REFS_LIMIT),
            log: log.and_then(|(log, size)| end(log, size).ok()),
            amid: amid.map(|(_, what)| *what),
            top: fs::openat2(root, directory, flags, Mode::empty(), inside).ok()?,
            index: open("index").and_then(Result::ok).map(|(file, _)| file),
        });
    }
    None
}

/// Only names below refs, and nothing that leads elsewhere.
fn plain(name: &str) -> bool {
    name.starts_with("refs/") && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn end(file: OwnedFd, size: u64) -> std::io::Result<Vec<u8>> {
    fs::seek(&file, fs::SeekFrom::Start(size.saturating_sub(LOG_TAIL)))?;
    let mut text = Vec::new();
    std::fs::File::from(file).take(LOG_TAIL).read_to_end(&mut text)?;
    Ok(text)
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
                .unwrap()
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
        let found = of(&Proc::default(), &Parser::here(), (key, &cwd), projects, &redactor);
        assert!(found.unwrap().is_none());
    }

    #[test]
    fn names_of_branches_lead_nowhere_else() {
        assert!(plain("refs/heads/a/b") && !plain("refs/../../x") && !plain("config"));
        assert!(!plain("refs//x") && !plain("/refs/x") && !plain(""));
    }
}
