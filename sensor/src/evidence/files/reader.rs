//! The thread that opens files with another user's rights.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{self, Gid, Uid};
use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::FileState;
use crate::{
    evidence::{
        beside::Beside,
        proc::{Proc, Status, read_up_to},
    },
    lineage::ProcessKey,
};

/// Groups that are taken over. Fewer groups never mean more rights where it matters here.
const GROUPS: usize = 1024;

/// Attempts when a directory is being renamed at the same moment (openat2(2), EAGAIN).
const ATTEMPTS: usize = 3;

/// Why no file of a culprit can be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::evidence) enum Error {
    #[error("none of its processes is alive, so there is no root directory to read from")]
    Gone,
    #[error("its root directory cannot be opened ({0}): run the sensor as root")]
    Root(Errno),
    #[error("this sensor may not act as uid {0}: run it as root")]
    Credentials(u32),
    #[error("no thread for it ({0}): the host is out of tasks or memory")]
    Thread(std::io::Error),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Thread(error)
    }
}

/// A file beneath a directory.
pub(super) struct Request {
    top: PathBuf,
    rest: PathBuf,
    limit: usize,
}

/// What stands there, and its whole size in bytes.
type Reply = (FileState, u64);

/// A thread with the file rights of one user. It ends when this is dropped.
pub(in crate::evidence) struct Reader(Beside<Request, Reply>);

impl Reader {
    /// With the root directory and the real user and groups of the first living process.
    pub(in crate::evidence) fn start(proc: &Proc, processes: &[ProcessKey]) -> Result<Self, Error> {
        let look = |root: &OwnedFd, request: Request| look(root, &request);
        as_user(proc, processes, "source-files", look).map(Self)
    }

    /// At most `limit` bytes of a file. `None` when the answer took too long; the reader must not be asked
    /// again.
    pub(super) fn read(
        &mut self,
        (top, rest): (PathBuf, PathBuf),
        limit: usize,
        wait: Duration,
    ) -> Option<Reply> {
        self.0.ask(Request { top, rest, limit }, wait)
    }
}

/// A thread that answers from the root directory of the first living process, with the rights of its
/// real user and groups.
pub(in crate::evidence) fn as_user<Q: Send + 'static, A: Send + 'static>(
    proc: &Proc,
    processes: &[ProcessKey],
    name: &str,
    mut answer: impl FnMut(&OwnedFd, Q) -> A + Send + 'static,
) -> Result<Beside<Q, A>, Error> {
    let process = processes.iter().find_map(|key| proc.open(*key)).ok_or(Error::Gone)?;
    let root = process.root().map_err(Error::Root)?;
    let status = process.status();
    Beside::start(name, move || become_user(&status), move |question| answer(&root, question))
}

/// Takes the file rights of a user, for this thread alone: glibc's setgroups would change all of them.
/// Leaving uid 0 also drops the capabilities that override file modes (capabilities(7)).
fn become_user(status: &Status) -> Result<(), Error> {
    let refused = Error::Credentials(status.uid);
    if !Uid::effective().is_root() {
        return if Uid::effective().as_raw() == status.uid { Ok(()) } else { Err(refused) };
    }
    let groups: Vec<rustix::fs::Gid> =
        status.groups.iter().take(GROUPS).map(|group| rustix::fs::Gid::from_raw(*group)).collect();
    if rustix::thread::set_thread_groups(&groups).is_err() {
        return Err(refused);
    }
    let (uid, gid) = (Uid::from_raw(status.uid), Gid::from_raw(status.gid));
    unistd::setfsgid(gid);
    unistd::setfsuid(uid);
    // They report no error; each returns what was set before.
    let set = unistd::setfsgid(gid) == gid && unistd::setfsuid(uid) == uid;
    if set { Ok(()) } else { Err(refused) }
}

fn look(root: &OwnedFd, request: &Request) -> Reply {
    match open(root, &request.top, &request.rest) {
        Ok((file, size)) => match read_up_to(&file, request.limit) {
            Ok(content) => (FileState::Present(content), size),
            Err(error) => (FileState::Refused(format!("it cannot be read: {error}")), 0),
        },
        Err(state) => (state, 0),
    }
}

/// A regular file beneath `top`, open for reading, and its size.
pub(in crate::evidence) fn open(
    root: &OwnedFd,
    top: &Path,
    rest: &Path,
) -> Result<(OwnedFd, u64), FileState> {
    // As the culprit sees it: its absolute links start at its own root. No /proc/PID/… on the way.
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let top = openat2(root, top, OFlags::PATH | OFlags::DIRECTORY, inside)?;
    // From here on links may not lead out.
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // Opening a device or a FIFO does something to it: look before.
    let place = openat2(&top, rest, OFlags::PATH, beneath)?;
    check(&place)?;
    // Does not wait for whoever holds a lease on it.
    let file = openat2(&top, rest, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, beneath)?;
    let size = check(&file)?;
    Ok((file, size))
}

fn openat2(
    at: &OwnedFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, FileState> {
    let refused = |why: &str| FileState::Refused(why.to_owned());
    for _ in 0..ATTEMPTS {
        return match fs::openat2(at, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(file) => Ok(file),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(Errno::NOENT | Errno::NOTDIR) => Err(FileState::Absent),
            Err(Errno::XDEV | Errno::LOOP) => Err(refused("a link that leads out of the project")),
            Err(Errno::ACCESS | Errno::PERM) => Err(refused("its user may not read it")),
            Err(error) => Err(refused(&format!("it cannot be opened: {error}"))),
        };
    }
    Err(refused("it is being moved or is held by somebody"))
}

/// The size of a regular file on a file system that only stores.
fn check(file: &OwnedFd) -> Result<u64, FileState> {
    let refused = |why: &str| Err(FileState::Refused(why.to_owned()));
    let Ok(stat) = fs::fstat(file) else {
        return refused("it cannot be examined");
    };
    match fs::FileType::from_raw_mode(stat.st_mode) {
        fs::FileType::RegularFile => {}
        fs::FileType::Directory => return refused("a directory"),
        _ => return refused("not a regular file"),
    }
    if fs::fstatfs(file).is_ok_and(|fs| fs.f_type == fs::PROC_SUPER_MAGIC) {
        return refused("a file of the kernel");
    }
    Ok(stat.st_size.unsigned_abs())
}
