//! Processes from before the sensor: attach → baseline → go on. The kernel side enters them and
//! links them; what they run is read from /proc, once.

use std::{fs, io};

use rustix::fs::{AtFlags, StatxFlags};
use sensor_common::{
    FileId, ProcessKey,
    lineage::{ADOPTED, ARGV_SIGNED, DEAD, EXECUTED, Known},
    signature,
};

use super::{lineage::Lineage, load::LoadError, visit::Visitor};

/// Longest /proc/PID/cmdline that is read for its length; what is longer has no signature.
const ARGV_READ: u64 = 1 << 20;

/// Enters every process that runs now. Answers how many the table knows afterwards.
pub fn run(visitor: &Visitor, lineage: &Lineage) -> Result<u32, LoadError> {
    // First visit: everybody gets a node, with its exact start time.
    visitor.visit().map_err(LoadError::Baseline)?;
    lineage
        .all_entered()
        .map_err(|source| LoadError::Map { name: "ENTERED", source: Box::new(source) })?;
    let unknown: Vec<ProcessKey> = lineage
        .table()
        .nodes()
        .filter(|(_, node)| node.flags & (ADOPTED | EXECUTED | DEAD) == ADOPTED)
        .map(|(_, node)| node.key)
        .collect();
    lineage.tell(unknown.into_iter().filter_map(|key| Some((key.tgid, look_up(key)?))));
    // Second visit: parents are all there, and so is what everybody runs.
    visitor.visit().map_err(LoadError::Baseline)?;
    lineage.forget();
    Ok(lineage.living_count())
}

/// What a process runs, by /proc. A process that rewrote its title looks like what it wrote.
fn look_up(key: ProcessKey) -> Option<Known> {
    let process = format!("/proc/{}", key.tgid);
    let exe = signature::exe(file_id(&format!("{process}/exe")).ok()?);
    let cwd = file_id(&format!("{process}/cwd")).ok()?;
    let mut argv = Vec::new();
    io::Read::read_to_end(
        &mut io::Read::take(fs::File::open(format!("{process}/cmdline")).ok()?, ARGV_READ),
        &mut argv,
    )
    .ok()?;
    let argv_bytes = argv.len() as u32;
    argv.truncate(ARGV_SIGNED);
    let loose = signature::loose(exe, signature::argv_of_bytes(&argv, argv_bytes));
    // The kernel side takes it over only for the process that started then: a pid that was reused
    // meanwhile costs nothing.
    Some(Known {
        start_ns: key.start_ns,
        strict: signature::strict(loose, cwd),
        loose,
        exe,
        argv_bytes,
        zero: 0,
    })
}

/// (device, inode) of a path, in the kernel's own encoding of devices. Without asking a file server, which may
/// not answer.
pub(super) fn file_id(path: &str) -> io::Result<FileId> {
    let held = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    let dev = held.stx_dev_major << 20 | held.stx_dev_minor;
    Ok(FileId { ino: held.stx_ino, dev, zero: 0 })
}
