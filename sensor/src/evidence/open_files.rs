//! What the processes of a tree hold open: how many of which kind, who listens where, which deleted
//! files still take room, in which directories most is open.
//!
//! Follows no path: each descriptor is asked what it is, without asking a file server
//! (`STATX_DONT_SYNC`). A tree can hold millions of descriptors, so that the number of them is bounded,
//! and the time.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Redactor,
    proc::{Descriptor, Proc, read_file},
};
use crate::{lineage::ProcessKey, proto};

/// Processes that are looked at, the culprit first.
const PROCESSES: usize = 256;
/// Descriptors of one process, and of all: 3 µs each.
const OF_ONE: usize = 4096;
const DESCRIPTORS: usize = 16_384;
/// For all of it.
const PATIENCE: Duration = Duration::from_millis(300);

/// Rows of each list.
const KINDS: usize = 24;
const LISTENERS: usize = 32;
const PLACES: usize = 16;
const DELETED: usize = 16;

/// Of one table of sockets, bytes, at 150 bytes a row; the kernel takes 10 ms for it.
const TABLE_LIMIT: usize = 1 << 20;
/// Network namespaces whose tables are read.
const SPACES: usize = 4;

/// Descriptors of the living among `processes`, which come in the order of their interest.
pub(super) fn of(
    proc: &Proc,
    processes: &[ProcessKey],
    redactor: &Redactor,
) -> (proto::OpenFiles, u32) {
    let began = Instant::now();
    let mut sum = Sum::default();
    for key in processes {
        let full = sum.seen >= DESCRIPTORS || sum.processes >= PROCESSES as u32;
        if full || began.elapsed() > PATIENCE {
            sum.omitted += 1;
            continue;
        }
        // Who died meanwhile holds nothing.
        let Some(opened) = proc.open(*key) else { continue };
        let (all, descriptors) = opened.descriptors(OF_ONE.min(DESCRIPTORS - sum.seen));
        sum.processes += 1;
        sum.seen += descriptors.len();
        sum.unseen += all.saturating_sub(descriptors.len() as u32);
        let mut sockets = HashSet::new();
        for descriptor in descriptors {
            sum.descriptor(*key, descriptor, &mut sockets);
        }
        if !sockets.is_empty()
            && let Some(space) = opened.link("ns/net")
        {
            sum.sockets(proc, *key, space, &sockets);
        }
    }
    sum.finish(redactor)
}

#[derive(Default)]
struct Sum {
    processes: u32,
    omitted: u32,
    seen: usize,
    unseen: u32,
    kinds: HashMap<String, u32>,
    directories: HashMap<Vec<u8>, u32>,
    deleted: HashMap<(u32, u64), proto::DeletedFile>,
    tables: HashMap<Vec<u8>, HashMap<u64, Socket>>,
    listeners: Vec<proto::Listener>,
    told: HashSet<u64>,
    peers: HashMap<Vec<u8>, u32>,
}

impl Sum {
    fn descriptor(&mut self, key: ProcessKey, descriptor: Descriptor, sockets: &mut HashSet<u64>) {
        let kind = kind(&descriptor);
        if let Some(inode) = socket(&descriptor.target) {
            sockets.insert(inode);
        }
        if matches!(kind, "file" | "deleted file") {
            if descriptor.links == Some(0) && descriptor.bytes > 0 {
                self.deleted.entry((descriptor.dev, descriptor.ino)).or_insert_with(|| {
                    proto::DeletedFile {
                        process: Some(process(key)),
                        path: descriptor.target.clone(),
                        bytes: descriptor.bytes,
                    }
                });
            }
            let end = descriptor.target.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            *self.directories.entry(descriptor.target[..end.max(1)].to_vec()).or_default() += 1;
        }
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
    }

    fn sockets(&mut self, proc: &Proc, key: ProcessKey, space: Vec<u8>, held: &HashSet<u64>) {
        if !self.tables.contains_key(&space) {
            if self.tables.len() >= SPACES {
                return;
            }
            let net = proc.root().join(key.tgid.to_string()).join("net");
            self.tables.insert(space.clone(), tables(&net));
        }
        let Some(table) = self.tables.get(&space) else { return };
        for (inode, socket) in held.iter().filter_map(|inode| Some((*inode, table.get(inode)?))) {
            if !socket.listens {
                if !socket.peer.is_empty() {
                    *self.peers.entry(socket.peer.clone()).or_default() += 1;
                }
            } else if self.listeners.len() < LISTENERS && self.told.insert(inode) {
                // Of workers that share one the first is told.
                self.listeners.push(proto::Listener {
                    process: Some(process(key)),
                    protocol: socket.protocol.to_owned(),
                    address: socket.address.clone(),
                });
            }
        }
    }

    fn finish(self, redactor: &Redactor) -> (proto::OpenFiles, u32) {
        let mut redactions = 0;
        let mut clean = |text: Vec<u8>| {
            let (text, more) = redactor.text(&text);
            redactions += more;
            text
        };
        let mut kinds: Vec<proto::HeldKind> =
            self.kinds.into_iter().map(|(kind, count)| proto::HeldKind { kind, count }).collect();
        kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.kind.cmp(&b.kind)));
        kinds.truncate(KINDS);
        let mut deleted: Vec<proto::DeletedFile> = self.deleted.into_values().collect();
        deleted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        deleted.truncate(DELETED);
        for file in &mut deleted {
            file.path = clean(std::mem::take(&mut file.path));
        }
        let mut listeners = self.listeners;
        for listener in &mut listeners {
            listener.address = clean(std::mem::take(&mut listener.address));
        }
        let mut most = |places: HashMap<Vec<u8>, u32>| {
            let mut places: Vec<(Vec<u8>, u32)> = places.into_iter().collect();
            places.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            places.truncate(PLACES);
            let place = |(name, count)| proto::HeldPlace { name: clean(name), count };
            places.into_iter().map(place).collect::<Vec<_>>()
        };
        let (peers, directories) = (most(self.peers), most(self.directories));
        let files = proto::OpenFiles {
            kinds,
            listeners,
            peers,
            directories,
            deleted,
            processes: self.processes,
            omitted: self.omitted,
            descriptors: self.seen as u32,
            descriptors_omitted: self.unseen,
        };
        (files, redactions)
    }
}

fn process(key: ProcessKey) -> proto::ProcessKey {
    proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns }
}

fn socket(target: &[u8]) -> Option<u64> {
    let number = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// By what the kernel calls it. Names of anonymous inodes are those of kernel code.
fn kind(descriptor: &Descriptor) -> &str {
    let target = descriptor.target.as_slice();
    if let Some(name) = target.strip_prefix(b"anon_inode:") {
        let name = std::str::from_utf8(name).unwrap_or("anonymous");
        return name.trim_start_matches('[').trim_end_matches(']');
    }
    if target.starts_with(b"/memfd:") {
        return "memfd";
    }
    if !target.starts_with(b"/") {
        // socket:[7], pipe:[8], net:[9]
        let end = target.iter().position(|byte| *byte == b':').unwrap_or(0);
        return std::str::from_utf8(&target[..end])
            .ok()
            .filter(|it| !it.is_empty())
            .unwrap_or("other");
    }
    match descriptor.file_type {
        rustix::fs::FileType::RegularFile if descriptor.links == Some(0) => "deleted file",
        rustix::fs::FileType::RegularFile => "file",
        rustix::fs::FileType::Directory => "directory",
        rustix::fs::FileType::CharacterDevice | rustix::fs::FileType::BlockDevice => "device",
        rustix::fs::FileType::Fifo => "fifo",
        _ => "other",
    }
}

/// One row of /proc/net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub protocol: &'static str,
    pub listens: bool,
    pub address: Vec<u8>,
    /// Empty: connected to nobody.
    pub peer: Vec<u8>,
}

/// All sockets of a network namespace by their inode.
fn tables(net: &Path) -> HashMap<u64, Socket> {
    let mut found = HashMap::new();
    for protocol in ["tcp", "tcp6", "udp", "udp6", "unix"] {
        let path: PathBuf = net.join(protocol);
        let Some(text) = read_file(path, TABLE_LIMIT) else { continue };
        for line in text.split(|byte| *byte == b'\n').skip(1) {
            let row = if protocol == "unix" { unix(line) } else { internet(protocol, line) };
            found.extend(row);
        }
    }
    found
}

/// `sl local remote state queues timer retransmits uid timeout inode …`
pub(crate) fn internet(protocol: &'static str, line: &[u8]) -> Option<(u64, Socket)> {
    let line = std::str::from_utf8(line).ok()?;
    let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let [_, local, remote, state, _, _, _, _, _, inode] = fields[..] else { return None };
    let (local, remote) = (address(local)?, address(remote)?);
    // A UDP socket that is bound and not connected takes what comes: TCP_LISTEN and TCP_CLOSE.
    let listens = if protocol.starts_with("tcp") { state == "0A" } else { state == "07" };
    let peer = if remote.port() == 0 { Vec::new() } else { remote.to_string().into_bytes() };
    let address = local.to_string().into_bytes();
    Some((inode.parse().ok()?, Socket { protocol, listens, address, peer }))
}

/// Words of an address are printed as numbers of this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `Num RefCount Protocol Flags Type St Inode Path`; the path may hold blanks.
pub(crate) fn unix(line: &[u8]) -> Option<(u64, Socket)> {
    let mut fields = line.splitn(8, |byte| *byte == b' ').filter(|field| !field.is_empty());
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (_, _, _) = (text()?, text()?, text()?);
    let (flags, _, _) = (text()?, text()?, text()?);
    // The inode is padded to five columns.
    let rest = fields.next()?;
    let rest: Vec<u8> =
        fields.next().map_or_else(|| rest.to_vec(), |path| [rest, b" ", path].concat());
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    let inode = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let address = rest.get(end + 1..).unwrap_or_default().to_vec();
    let listens = flags == "00010000";
    Some((inode, Socket { protocol: "unix", listens, address, peer: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
        os::unix::net::UnixListener,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::respond::process::key_of;

    #[test]
    fn what_this_process_holds() {
        let directory = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let path = directory.path().join("a socket");
        let unix = UnixListener::bind(&path).unwrap();
        let files: Vec<std::fs::File> = (0..20)
            .map(|at| std::fs::File::create(directory.path().join(at.to_string())).unwrap())
            .collect();
        let mut gone = std::fs::File::create(directory.path().join("gone")).unwrap();
        gone.write_all(&vec![7; 1 << 20]).unwrap();
        gone.sync_all().unwrap();
        std::fs::remove_file(directory.path().join("gone")).unwrap();

        let own = key_of(std::process::id()).unwrap();
        let dead = ProcessKey::new(own.tgid, 1);
        let (held, _) = of(&Proc::default(), &[dead, own], &Redactor::new([1; 16]));
        assert_eq!((held.processes, held.omitted), (1, 0));
        let address = tcp.local_addr().unwrap().to_string().into_bytes();
        let listens = |protocol: &str, address: &[u8]| {
            held.listeners.iter().any(|it| it.protocol == protocol && it.address == address)
        };
        assert!(listens("tcp", &address), "{:?}", held.listeners);
        assert!(listens("unix", path.as_os_str().as_encoded_bytes()), "{:?}", held.listeners);
        assert!(held.peers.iter().any(|peer| peer.name == address));
        let here = directory.path().as_os_str().as_encoded_bytes();
        let there = held.directories.iter().find(|it| it.name == here).unwrap();
        assert_eq!(there.count, 21);
        let gone_too =
            held.deleted.iter().find(|it| it.path.ends_with(b"/gone (deleted)")).unwrap();
        assert!(gone_too.bytes >= 1 << 20);
        let count = |kind: &str| held.kinds.iter().find(|it| it.kind == kind).map(|it| it.count);
        assert!(count("file") >= Some(20) && count("socket") >= Some(3), "{:?}", held.kinds);
        drop((client, unix, files, gone));
    }

    #[test]
    fn rows_of_the_kernel() {
        let line = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 4711 1";
        let (inode, socket) = internet("tcp", line).unwrap();
        assert_eq!((inode, socket.listens, socket.peer.len()), (4711, true, 0));
        assert_eq!(socket.address, b"127.0.0.1:8080");
        let line = b"   1: 00000000000000000000000001000000:0016 00000000000000000000000001000000:D431 01 0:0 0:0 0 0 0 12";
        let (_, socket) = internet("tcp6", line).unwrap();
        assert_eq!((socket.address, socket.peer), (b"[::1]:22".to_vec(), b"[::1]:54321".to_vec()));
        let line = b"00000000f0: 00000002 00000000 00010000 0001 01    77 /run/a b";
        let (inode, socket) = unix(line).unwrap();
        assert_eq!((inode, socket.listens, socket.address), (77, true, b"/run/a b".to_vec()));
        let (inode, socket) = unix(b"f0: 00000003 00000000 00000000 0001 03 123456").unwrap();
        assert_eq!((inode, socket.listens, socket.address.len()), (123_456, false, 0));
    }

    proptest! {
        #[test]
        fn any_row(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (internet("udp6", &line), unix(&line));
        }

        #[test]
        fn any_row_of_words(line in "([0-9A-F:]{0,40} {1,3}){0,12}") {
            let _ = (internet("tcp", line.as_bytes()), unix(line.as_bytes()));
        }

        #[test]
        fn any_target(target in prop::collection::vec(any::<u8>(), 0..40)) {
            let descriptor = Descriptor { target, ..Descriptor::default() };
            let _ = (kind(&descriptor), socket(&descriptor.target));
        }
    }
}
