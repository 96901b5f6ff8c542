//! What is kept for an agent when others take all memory: what it has read of a disk stays, a neighbour's goes. In a
//! guest only, with 1 GiB, no swap and a disk.

use std::{
    fs::{self, File, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
};

use tests::{Cage, Limits, Sensor, needs, process::field, skip, test_name, workloads::script};

use crate::support::{CATCH, comes, emulated, opened, runs};

const MIB: u64 = 1 << 20;

/// What is kept for it, and what each of the two reads.
const KEPT: u64 = 96 * MIB;
const READS: u64 = 80 * MIB;

/// A neighbour that has no more than this has lost what it had read.
const LOST: u64 = READS / 8;

const DISK: &str = "/dev/nvme0n1";

/// Takes memory until a group's cache is gone, says so, and keeps it.
const FILL: &str = "import sys, time\n\
                    def cached():\n\
                    \x20   lines = open(sys.argv[1]).read().split('\\n')\n\
                    \x20   return next(int(line.split()[1]) for line in lines if line.startswith('file '))\n\
                    held = []\n\
                    while cached() > int(sys.argv[2]):\n\
                    \x20   held.append(b'x' * (4 << 20))\n\
                    print('full', flush=True)\n\
                    while True: time.sleep(1)\n";

/// Bytes of files that a group has in memory.
fn cached(group: &Path) -> u64 {
    field(group.join("memory.stat"), "file").unwrap()
}

#[test]
fn kernels_what_is_kept_for_an_agent_nobody_takes() {
    needs!("python3");
    if !emulated() {
        skip::note(test_name!(), "needs a machine that it may fill: a guest");
        return;
    }
    // Whoever the agent is may read it.
    fs::set_permissions(DISK, Permissions::from_mode(0o644)).unwrap();
    // What was read of a disk is dropped when the last who had it open closes it.
    let _open = File::open(DISK).unwrap();
    let read = format!("head -c {READS} {DISK} >/dev/null; echo read; exec sleep 86399");
    let config = format!(
        "[investigate]\nagent = \"command\"\nwhen = \"always\"\n\
         [investigate.command]\n\
         program = [\"/bin/sh\", \"-c\", {read:?}]\n\
         memory_min_bytes = {KEPT}\nmemory_max_bytes = {}\n",
        2 * KEPT
    );
    let sensor = Sensor::of_the_host(&config).unwrap();
    let cage = Cage::new(Limits::NONE).unwrap();
    let (work, _) = script::ticker().unwrap();
    let running = work.start(&cage).unwrap();
    opened(&sensor, running.pid());
    comes("a run that has read", CATCH, || {
        runs().first().is_some_and(|group| cached(group) >= READS)
    });
    let [agent] = &runs()[..] else { panic!("one run") };
    // Later than the agent, from another part of the disk: by age alone it would be the last to go.
    let neighbour = Cage::new(Limits::NONE).unwrap();
    let mut reader = neighbour.command("dd").unwrap();
    reader.args([&format!("if={DISK}"), "of=/dev/null", "bs=1M", "skip=128"]);
    reader.arg(format!("count={}", READS / MIB)).stderr(Stdio::null());
    assert!(reader.status().unwrap().success());
    assert!(cached(neighbour.directory()) >= READS, "{}", cached(neighbour.directory()));

    let filled = Cage::new(Limits::NONE).unwrap();
    let mut filler = filled.command("python3").unwrap();
    filler.args(["-c", FILL]).arg(neighbour.directory().join("memory.stat"));
    filler.arg(LOST.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut filler = filler.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(filler.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let (has, lost) = (cached(agent), cached(neighbour.directory()));
    eprintln!("of {READS} bytes that each had read, the agent has {has}, its neighbour {lost}");
    assert_eq!(said, "full\n");
    assert!(has >= READS && lost <= LOST, "{has} {lost}");
    filled.clear().unwrap();
    filler.wait().unwrap();
}
