//! Who of a tree listens: a server, which may start hundreds of workers on purpose.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::proc::read_file;
use crate::lineage::ProcessKey;

/// Of one table of sockets, bytes. TCP lists those that listen first, at 150 bytes each.
const TABLE_LIMIT: usize = 4 << 20;

/// A storm of thousands takes 20 µs a process; more time would be the storm's.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why nobody can say whether somebody listens; one sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    #[error("{} cannot be read: {why}", .path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{} has too many sockets", .0.display())]
    TooMany(PathBuf),
    #[error("its processes are too many to look at each one's sockets")]
    TooSlow,
}

/// The first of these processes that has a socket on which it listens, TCP or Unix. Those that are
/// gone meanwhile have none.
pub fn listener(proc: &Path, processes: &[ProcessKey]) -> Result<Option<ProcessKey>, Unseen> {
    let began = Instant::now();
    // The kernel takes 10 ms for the tables of a namespace, so they are read only where somebody has
    // any socket at all.
    let mut tables: HashMap<PathBuf, HashSet<u64>> = HashMap::new();
    for key in processes {
        if began.elapsed() > PATIENCE {
            return Err(Unseen::TooSlow);
        }
        let process = proc.join(key.tgid.to_string());
        let sockets = sockets(&process.join("fd"))?;
        if sockets.is_empty() {
            continue;
        }
        let Some(space) = existing(fs::read_link(process.join("ns/net")), &process)? else {
            continue;
        };
        let listening = match tables.entry(space) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(listening(&process.join("net"))?),
        };
        if !listening.is_disjoint(&sockets) {
            return Ok(Some(*key));
        }
    }
    Ok(None)
}

/// Inodes of the sockets of a network namespace that listen.
pub(crate) fn listening(net: &Path) -> Result<HashSet<u64>, Unseen> {
    let mut found = HashSet::new();
    // Where the address family is absent so is its file.
    for (name, flag, state, inode) in
        [("tcp", 3, "0A", 9), ("tcp6", 3, "0A", 9), ("unix", 3, "00010000", 6)]
    {
        let path = net.join(name);
        if !path.exists() {
            continue;
        }
        let text = read_file(&path, TABLE_LIMIT + 1)
            .ok_or_else(|| Unseen::Unreadable { path: path.clone(), why: "it is gone".into() })?;
        let mut last = "";
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().take(10).collect();
            last = fields.get(flag).copied().unwrap_or_default();
            if last == state {
                found.extend(fields.get(inode).and_then(|inode| inode.parse::<u64>().ok()));
            }
        }
        // What is cut off of TCP's after the last that listens are connections.
        if text.len() > TABLE_LIMIT && (name == "unix" || last == state) {
            return Err(Unseen::TooMany(path));
        }
    }
    Ok(found)
}

/// Inodes of the sockets that a process holds.
fn sockets(fds: &Path) -> Result<HashSet<u64>, Unseen> {
    let Some(entries) = existing(fs::read_dir(fds), fds)? else { return Ok(HashSet::new()) };
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(entries.flatten().filter_map(inode).collect())
}

/// `None`: the process is gone, or a zombie.
fn existing<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>, Unseen> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(Unseen::Unreadable { path: path.to_owned(), why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixListener,
    };

    use super::*;
    use crate::respond::process::key_of;

    fn sleeper() -> (std::process::Child, ProcessKey) {
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let key = key_of(child.id()).unwrap();
        (child, key)
    }

    #[test]
    fn a_listening_socket_is_found_and_a_connected_one_is_none() {
        let (mut child, other) = sleeper();
        let proc = Path::new("/proc");
        assert_eq!(listener(proc, &[other]), Ok(None));
        let own = key_of(std::process::id()).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        assert_eq!(listener(proc, &[other, own]), Ok(Some(own)));
        drop((tcp, connected));
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join("socket")).unwrap();
        assert_eq!(listener(proc, &[own]), Ok(Some(own)));
        drop(unix);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(listener(proc, &[other]), Ok(None), "it is gone");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("7");
        fs::create_dir_all(process.join("fd")).unwrap();
        fs::create_dir_all(process.join("ns")).unwrap();
        std::os::unix::fs::symlink("socket:[77]", process.join("fd/3")).unwrap();
        // No link, so nothing can be read from it.
        fs::write(process.join("ns/net"), "").unwrap();
        let unseen = listener(root.path(), &[ProcessKey::new(7, 1)]).unwrap_err();
        assert!(unseen.to_string().contains("cannot be read"), "{unseen}");
    }
}
