//! What is kept for an agent when others take all memory: what it has read of a disk stays, a neighbour's goes. In a
//! guest only, with 1 GiB, no swap and a disk.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Stdio},
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

    let filler = Filler::until_gone(neighbour.directory());
    let (has, lost) = (cached(agent), cached(neighbour.directory()));
    say(&format!("of {READS} bytes that each had read, the agent has {has}, its neighbour {lost}"));
    assert!(has >= READS && lost <= LOST, "{has} {lost}");
    drop(filler);

    // All of that by the group above it: without it the same is not kept.
    fs::write(agent.with_file_name("memory.min"), "0").unwrap();
    let _filler = Filler::until_gone(agent);
    say(&format!("without its slice's memory.min the agent has {}", cached(agent)));
}

/// Has taken memory until a group had lost what it had read; all of it is free again in the end.
struct Filler {
    process: Child,
    cage: Cage,
}

impl Filler {
    fn until_gone(group: &Path) -> Self {
        let cage = Cage::new(Limits::NONE).unwrap();
        let mut process = cage.command("python3").unwrap();
        process.args(["-c", FILL]).arg(group.join("memory.stat")).arg(LOST.to_string());
        let mut process = process.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "full\n", "it was ended before");
        Self { process, cage }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = self.cage.clear();
        let _ = self.process.wait();
    }
}

/// On the console, past the harness's capture.
fn say(what: &str) {
    let _ = io::stderr().write_all(format!("{what}\n").as_bytes());
}
