//! Bounded readers of /proc/PID for text that anyone may have chosen.
//!
//! A process is opened by its key: the start time decides, so that facts of a reused pid are never
//! taken. All reads then go through one descriptor of its directory, which stays with that process
//! and fails once it is gone. Nothing here takes a process' memory lock except [`Opened::argv`],
//! which can wait behind a page fault; whoever has the exec record does not need it.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Dir, Mode, OFlags, StatxFlags},
    io::Errno,
};

use crate::lineage::{FileId, ProcessKey};

/// Kernel ticks of /proc/PID/stat: `USER_HZ` is 100 on every architecture that has BPF.
const TICK_NS: u64 = 10_000_000;

/// A few hundred bytes in practice.
const STAT_LIMIT: usize = 4096;
/// 1.5 KiB in practice; a process may be in 65,536 groups, of which this shows some.
const STATUS_LIMIT: usize = 64 << 10;
/// One line for each v1 hierarchy and one for v2; paths end at 4 KiB.
const CGROUP_LIMIT: usize = 64 << 10;
/// Some hundred mounts in practice.
const MOUNTS_LIMIT: usize = 256 << 10;

/// A mounted /proc, or a tree of files that looks like it.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Self::at("/proc")
    }
}

/// A process whose identity has been checked.
#[derive(Debug)]
pub struct Opened {
    dir: OwnedFd,
    pub stat: Stat,
}

/// Of /proc/PID/stat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// May hold anything, parentheses and newlines included.
    pub comm: Vec<u8>,
    pub state: char,
    pub ppid: u32,
    pub session: u32,
    pub threads: u32,
    /// On the boot clock, in ticks of 10 ms.
    pub start_ticks: u64,
    /// Time on a CPU, of all threads, in ticks of 10 ms.
    pub cpu_ticks: u64,
}

impl Stat {
    /// The same in milliseconds.
    pub fn cpu_ms(&self) -> u64 {
        self.cpu_ticks.saturating_mul(TICK_NS / 1_000_000)
    }
}

/// Of /proc/PID/status; what a kernel thread or a zombie lacks is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Real ids: whoever started it, whatever set-user-ID programs made of it.
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Bytes.
    pub rss: u64,
    pub anon: u64,
    pub shmem: u64,
    pub swap: u64,
}

/// Of `/proc/PID/smaps_rollup`, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollup {
    pub rss: u64,
    /// What is shared is divided among those who share it.
    pub pss: u64,
    pub swap: u64,
}

/// Where `cwd` or `exe` points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As the kernel prints it; of a removed file with ` (deleted)` at the end.
    pub path: Vec<u8>,
    /// No name leads there any more.
    pub deleted: bool,
    ino: u64,
    dev: u32,
    mount: u64,
}

/// What a descriptor of a process leads to.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// As the kernel prints it.
    pub target: Vec<u8>,
    pub file_type: fs::FileType,
    /// Names that lead there; `None`: not known.
    pub links: Option<u32>,
    /// Room that it takes.
    pub bytes: u64,
    pub dev: u32,
    pub ino: u64,
}

impl Default for Descriptor {
    fn default() -> Self {
        let file_type = fs::FileType::Unknown;
        Self { target: Vec::new(), file_type, links: None, bytes: 0, dev: 0, ino: 0 }
    }
}

impl Proc {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `None` when the process is gone, or its pid belongs to another one by now.
    pub fn open(&self, key: ProcessKey) -> Option<Opened> {
        let path = self.root.join(key.tgid.to_string());
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let dir = fs::open(path, flags, Mode::empty()).ok()?;
        let stat = parse_stat(&read(&dir, "stat", STAT_LIMIT)?)?;
        (stat.start_ticks == key.start_ns / TICK_NS).then_some(Opened { dir, stat })
    }
}

impl Opened {
    pub fn status(&self) -> Status {
        read(&self.dir, "status", STATUS_LIMIT).map(|text| parse_status(&text)).unwrap_or_default()
    }

    /// What it holds exactly: the kernel walks all of its pages, and waits for who changes them.
    pub fn rollup(&self) -> Option<Rollup> {
        read(&self.dir, "smaps_rollup", STAT_LIMIT).map(|text| parse_rollup(&text))
    }

    /// Arguments as they are now, at most `limit` bytes, and whether there are more.
    pub fn argv(&self, limit: usize) -> (Vec<Vec<u8>>, bool) {
        let mut text = read(&self.dir, "cmdline", limit + 1).unwrap_or_default();
        let more = text.len() > limit;
        text.truncate(limit);
        (split_argv(&text), more)
    }

    pub fn cwd(&self) -> Option<Target> {
        self.target("cwd")
    }

    pub fn exe(&self) -> Option<Target> {
        self.target("exe")
    }

    /// cgroup v2 path; empty where there is none.
    pub fn cgroup(&self) -> String {
        let text = read(&self.dir, "cgroup", CGROUP_LIMIT).unwrap_or_default();
        let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
        line.map(|path| String::from_utf8_lossy(path).into_owned()).unwrap_or_default()
    }

    /// Which namespace of a kind it is in, as the kernel prints it.
    pub fn namespace(&self, kind: &str) -> Option<Vec<u8>> {
        self.link(&format!("ns/{kind}"))
    }

    /// How many descriptors are open, and where the first few point.
    pub fn files(&self, first: usize) -> (u32, Vec<Vec<u8>>) {
        let Some((dir, entries, counted)) = self.open_fds() else { return (0, Vec::new()) };
        // A process can have a million.
        let bound = if counted.is_some() { first } else { 65_536 };
        let mut targets = Vec::new();
        let mut seen = 0;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            seen += 1;
            if targets.len() < first
                && let Ok(target) = fs::readlinkat(&dir, name, Vec::new())
            {
                targets.push(target.into_bytes());
            }
            if seen as usize >= bound {
                break;
            }
        }
        (counted.unwrap_or(seen), targets)
    }

    /// A descriptor each, the first ones, and how many there are.
    pub fn descriptors(&self, first: usize) -> (u32, Vec<Descriptor>) {
        let Some((dir, entries, counted)) = self.open_fds() else { return (0, Vec::new()) };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            if found.len() >= first {
                break;
            }
            let Ok(target) = fs::readlinkat(&dir, name, Vec::new()) else { continue };
            // Without asking a file server.
            let held = fs::statx(
                &dir,
                name,
                AtFlags::STATX_DONT_SYNC,
                StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK | StatxFlags::BLOCKS,
            );
            let mut descriptor =
                Descriptor { target: target.into_bytes(), ..Descriptor::default() };
            descriptor.target.truncate(4096);
            if let Ok(held) = held {
                descriptor.file_type = fs::FileType::from_raw_mode(held.stx_mode.into());
                descriptor.links = Some(held.stx_nlink);
                descriptor.bytes = held.stx_blocks.saturating_mul(512);
                descriptor.ino = held.stx_ino;
                descriptor.dev = kernel_dev(held.stx_dev_major, held.stx_dev_minor);
            }
            found.push(descriptor);
        }
        (counted.unwrap_or(0).max(found.len() as u32), found)
    }

    /// Descriptors that it may have open.
    pub fn most_files(&self) -> Option<u64> {
        let limits = super::setting::limits(&self.file("limits")?);
        limits.into_iter().find(|limit| limit.name == "nofile")?.soft
    }

    /// A small file of its directory.
    pub(super) fn file(&self, name: &str) -> Option<Vec<u8>> {
        read(&self.dir, name, STATUS_LIMIT)
    }

    /// A file of which a few KiB would not do.
    pub(super) fn large_file(&self, name: &str, limit: usize) -> Option<Vec<u8>> {
        read(&self.dir, name, limit)
    }

    /// Ids of its threads, the first ones.
    pub(super) fn threads(&self, first: usize) -> Vec<u32> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(dir) = fs::openat(&self.dir, "task", flags, Mode::empty()) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::read_from(&dir) else { return Vec::new() };
        let number = |entry: fs::DirEntry| entry.file_name().to_str().ok()?.parse().ok();
        entries.flatten().filter_map(number).take(first).collect()
    }

    /// Where a link of its directory points.
    pub(super) fn link(&self, name: &str) -> Option<Vec<u8>> {
        Some(fs::readlinkat(&self.dir, name, Vec::new()).ok()?.into_bytes())
    }

    /// The directory of its descriptors, and how many there are where the kernel says so.
    fn open_fds(&self) -> Option<(OwnedFd, Dir, Option<u32>)> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = fs::openat(&self.dir, "fd", flags, Mode::empty()).ok()?;
        // Since 6.2 the directory's size is the number of its entries; before, it is 0.
        let counted = fs::fstat(&dir).ok().filter(|stat| stat.st_size > 0 && is_real(&dir));
        let entries = Dir::read_from(&dir).ok()?;
        Some((dir, entries, counted.map(|stat| stat.st_size as u32)))
    }

    /// Its root directory, as a place to open paths from.
    pub fn root(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        fs::openat(&self.dir, "root", flags, Mode::empty())
    }

    /// Whether `target` is the file that the kernel side saw.
    pub fn is(&self, target: &Target, file: FileId) -> bool {
        target.ino == file.ino
            && (target.dev == file.dev || self.mount_dev(target.mount) == Some(file.dev))
    }

    fn target(&self, name: &str) -> Option<Target> {
        let mut path = fs::readlinkat(&self.dir, name, Vec::new()).ok()?.into_bytes();
        // Of the inode that is held, wherever its name leads by now; without asking a file server.
        let held = fs::statx(
            &self.dir,
            name,
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::INO | StatxFlags::NLINK | StatxFlags::MNT_ID,
        )
        .ok();
        let deleted = held.as_ref().is_some_and(|held| held.stx_nlink == 0);
        // 4095 bytes are the most that the kernel prints; more can only come from a made-up tree.
        path.truncate(4096);
        Some(Target {
            path,
            deleted,
            ino: held.as_ref().map_or(0, |held| held.stx_ino),
            dev: held.as_ref().map_or(0, |held| kernel_dev(held.stx_dev_major, held.stx_dev_minor)),
            mount: held.as_ref().map_or(0, |held| held.stx_mnt_id),
        })
    }

    /// `super_block.s_dev` of a mount. stat's device differs from it on btrfs and overlayfs.
    fn mount_dev(&self, mount: u64) -> Option<u32> {
        mount_dev(&read(&self.dir, "mountinfo", MOUNTS_LIMIT)?, mount)
    }
}

/// Not a made-up tree.
fn is_real(dir: &OwnedFd) -> bool {
    fs::fstatfs(dir).is_ok_and(|stat| stat.f_type == fs::PROC_SUPER_MAGIC)
}

fn kernel_dev(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}

/// At most `limit` bytes of a file; `None` when it cannot be read.
fn read(dir: &OwnedFd, name: &str, limit: usize) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = fs::openat(dir, name, flags, Mode::empty()).ok()?;
    read_up_to(&file, limit).ok()
}

/// At most `limit` bytes of a file that the kernel makes or that only root writes.
pub(super) fn read_file(path: impl AsRef<Path>, limit: usize) -> Option<Vec<u8>> {
    let file = fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    read_up_to(&file, limit).ok()
}

/// Reads until the end or the limit.
pub(super) fn read_up_to(file: &OwnedFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    while text.len() < limit {
        let room = chunk.len().min(limit - text.len());
        match rustix::io::read(file, &mut chunk[..room]) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// `pid (comm) state ppid …`: comm ends at the last parenthesis, for it may hold any of them.
pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    // Fields 6, 14, 15, 20 and 22 of proc(5); ppid is field 4.
    let session = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(7)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let cpu_ticks = user.saturating_add(system);
    let threads = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat { comm, state, ppid, session, threads, start_ticks, cpu_ticks })
}

pub(crate) fn parse_status(text: &[u8]) -> Status {
    let mut status = Status::default();
    for line in text.split(|byte| *byte == b'\n') {
        // `Name:` is escaped by the kernel, so that no line of it can look like another.
        let Some((name, value)) =
            std::str::from_utf8(line).ok().and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let mut numbers = value.split_ascii_whitespace().map_while(|word| word.parse::<u64>().ok());
        let mut bytes = || numbers.next().unwrap_or_default().saturating_mul(1024);
        match name {
            "Uid" => status.uid = numbers.next().unwrap_or_default() as u32,
            "Gid" => status.gid = numbers.next().unwrap_or_default() as u32,
            "Groups" => status.groups = numbers.map(|group| group as u32).collect(),
            "VmRSS" => status.rss = bytes(),
            "RssAnon" => status.anon = bytes(),
            "RssShmem" => status.shmem = bytes(),
            "VmSwap" => status.swap = bytes(),
            _ => {}
        }
    }
    status
}

pub(crate) fn parse_rollup(text: &[u8]) -> Rollup {
    let mut rollup = Rollup::default();
    for line in String::from_utf8_lossy(text).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let kib = value.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let place = match name {
            "Rss" => &mut rollup.rss,
            "Pss" => &mut rollup.pss,
            "Swap" => &mut rollup.swap,
            _ => continue,
        };
        *place = kib.unwrap_or_default().saturating_mul(1024);
    }
    rollup
}

/// Arguments end with a NUL each; a program that rewrote its title left one long one with a tail of NULs.
pub(crate) fn split_argv(text: &[u8]) -> Vec<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    text[..end].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// Major and minor of the line of /proc/PID/mountinfo that begins with this id.
pub(crate) fn mount_dev(mountinfo: &[u8], mount: u64) -> Option<u32> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split(' ');
        if fields.next()?.parse::<u64>().ok()? != mount {
            return None;
        }
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some(kernel_dev(major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests;
