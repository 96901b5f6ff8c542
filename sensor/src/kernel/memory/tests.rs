//! What is measured, on a real kernel: it needs root, and skips elsewhere.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use super::*;
use crate::{
    clock,
    config::Config,
    core,
    kernel::{Gear, LoadOptions, Programs, baseline, load::load},
    lineage::trees::{
        Census,
        memory::{Holding, Worth},
    },
};

const MIB: u64 = 1 << 20;

fn loaded() -> Option<(Programs, Lineage)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP kernel::memory: needs root");
        return None;
    }
    let options = LoadOptions { brake: Gear::Signals, ..core::load_options(&Config::default()) };
    let (programs, lineage, _ring) = load(&options).unwrap();
    baseline::run(&programs.visitor().unwrap(), &lineage).unwrap();
    Some((programs, lineage))
}

/// A Python program that does a step for each line it gets, and answers each.
struct Script {
    child: Child,
    steps: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl Script {
    fn start(text: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let steps = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, steps, answers }
    }

    fn answer(&mut self) {
        assert_eq!(self.answers.by_ref().lines().next().unwrap().unwrap(), "done");
    }

    fn step(&mut self) {
        self.steps.write_all(b"\n").unwrap();
        self.answer();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tree(memory: &Memory, lineage: &Lineage, pid: u32) -> Holding {
    let look = memory.look(lineage).unwrap();
    let census = Census::new(lineage.counted(), clock::boot_ns(), None);
    let worth = Worth { bytes: 0, many: 0, trees: usize::MAX, groups: 0 };
    let tally = census.tally(|slot, key| look.of(slot, key), &worth);
    tally.trees.into_iter().find(|tree| tree.root.tgid == pid).unwrap()
}

/// Its children die with their pipe.
const FORKS: &str = "
import mmap, os, sys
held = mmap.mmap(-1, 200 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(held), 4096): held[at] = 1
here, there = os.pipe()
go, gone = os.pipe()
def child():
    os.close(there)
    os.close(gone)
    if not os.read(go, 1): os._exit(0)
    more = mmap.mmap(-1, 20 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(more), 4096): more[at] = 1
    os.write(1, b'done\\n')
    os.read(here, 1)
    os._exit(0)
for _ in range(10):
    if os.fork() == 0: child()
print('done', flush=True)
sys.stdin.readline()
os.write(gone, b'1')
sys.stdin.readline()
";

#[test]
fn ten_forked_children_of_200_mib_hold_nothing_of_their_own() {
    let Some((programs, lineage)) = loaded() else { return };
    let memory = programs.memory();
    assert_eq!(memory.refused(), None);
    let mut script = Script::start(FORKS);
    script.answer();
    let pid = script.child.id();
    let idle = tree(&memory, &lineage, pid);
    assert_eq!((idle.live, idle.threads), (11, 11));
    // 219 MiB by PSS; the resident sizes add up to 2,311.
    assert!((200 * MIB..235 * MIB).contains(&idle.bytes), "{} MiB", idle.bytes / MIB);
    assert!((200 * MIB..225 * MIB).contains(&idle.root_bytes), "{} MiB", idle.root_bytes / MIB);
    // What one of them takes after its fork is its own.
    script.step();
    let grown = tree(&memory, &lineage, pid);
    let more = grown.bytes - idle.bytes;
    assert!((19 * MIB..24 * MIB).contains(&more), "{} MiB", more / MIB);
    assert_eq!(grown.alike, 10);
    assert_eq!(grown.alike_program, grown.program);
}

#[test]
fn proc_sees_the_same() {
    let Some((programs, lineage)) = loaded() else { return };
    let kernel = programs.memory();
    let proc = Memory::new(Err("for the test".into()));
    let own = std::process::id();
    let mut script = Script::start(FORKS);
    script.answer();
    let [seen, read] = [&*kernel, &proc].map(|memory| tree(memory, &lineage, script.child.id()));
    let far = seen.bytes.abs_diff(read.bytes);
    assert!(far < 8 * MIB, "{} and {} MiB", seen.bytes / MIB, read.bytes / MIB);
    assert_eq!((seen.uid, seen.session, seen.threads), (read.uid, read.session, read.threads));
    assert_eq!(tree(&proc, &lineage, own).root.tgid, own);
}

#[test]
fn whose_birth_was_not_seen_counts_once_as_well() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP kernel::memory: needs root");
        return;
    }
    let mut script = Script::start(FORKS);
    script.answer();
    let (programs, lineage) = loaded().unwrap();
    let idle = tree(&programs.memory(), &lineage, script.child.id());
    assert_eq!(idle.live, 11);
    assert!((200 * MIB..235 * MIB).contains(&idle.bytes), "{} MiB", idle.bytes / MIB);
}

/// A thread that is not the first ends that one by its exec, and takes its place.
const THREAD_EXECUTES: &str = "
import os, sys, threading
after = '''
import mmap, sys
held = mmap.mmap(-1, 60 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(held), 4096): held[at] = 1
print('done', flush=True)
sys.stdin.readline()
'''
print('done', flush=True)
sys.stdin.readline()
threading.Thread(target=lambda: os.execv(sys.executable, ['python3', '-c', after])).start()
";

/// And one whose first thread ends goes on with the others.
const FIRST_ENDS: &str = "
import ctypes, mmap, os, sys, threading
def rest():
    print('done', flush=True)
    sys.stdin.readline()
    while 'Z' not in open('/proc/self/stat').read().rsplit(')', 1)[1]: pass
    held = mmap.mmap(-1, 60 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(held), 4096): held[at] = 1
    print('done', flush=True)
    sys.stdin.readline()
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall(60, 0)
";

#[test]
fn a_process_is_seen_whichever_thread_is_its_first() {
    let Some((programs, lineage)) = loaded() else { return };
    let memory = programs.memory();
    for text in [THREAD_EXECUTES, FIRST_ENDS] {
        let mut script = Script::start(text);
        script.answer();
        script.step();
        // More than one way to look.
        for _ in 0..=WALK_EVERY {
            let held = tree(&memory, &lineage, script.child.id());
            assert!((60 * MIB..80 * MIB).contains(&held.bytes), "{} MiB", held.bytes / MIB);
        }
    }
}

/// A child that stands for a while on its parent's memory, and then has its own.
const CHILD_EXECUTES: &str = "
import mmap, os, sys
held = mmap.mmap(-1, 40 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(held), 4096): held[at] = 1
here, there = os.pipe()
go, gone = os.pipe()
after = f'''
import mmap, os
held = mmap.mmap(-1, 60 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(held), 4096): held[at] = 1
print('done', flush=True)
os.read({here}, 1)
'''
if os.fork() == 0:
    os.close(gone)
    os.set_inheritable(here, True)
    if os.read(go, 1): os.execv(sys.executable, ['python3', '-c', after])
    os._exit(0)
print('done', flush=True)
sys.stdin.readline()
os.write(gone, b'1')
sys.stdin.readline()
";

#[test]
fn who_rested_is_looked_at_anew_when_it_executes_something() {
    let Some((programs, lineage)) = loaded() else { return };
    let memory = programs.memory();
    let mut script = Script::start(CHILD_EXECUTES);
    script.answer();
    let pid = script.child.id();
    let holds = || {
        let held = tree(&memory, &lineage, pid);
        (held.live, held.bytes / MIB)
    };
    for _ in 0..=WALK_EVERY {
        let (live, mib) = holds();
        assert!(live == 2 && (40..60).contains(&mib), "{live} processes, {mib} MiB");
    }
    script.step();
    let (live, mib) = holds();
    assert!(live == 2 && (100..130).contains(&mib), "{live} processes, {mib} MiB");
}

#[test]
fn children_that_nobody_waits_for_are_counted() {
    const ZOMBIES: &str = "
import os, sys
for _ in range(12):
    if os.fork() == 0: os._exit(0)
print('done', flush=True)
sys.stdin.readline()
for _ in range(12): os.wait()
print('done', flush=True)
sys.stdin.readline()
";
    let Some((programs, lineage)) = loaded() else { return };
    let memory = programs.memory();
    let mut script = Script::start(ZOMBIES);
    script.answer();
    let pid = script.child.id();
    // They are dead a moment after the fork that made them.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while tree(&memory, &lineage, pid).zombies != 12 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    script.step();
    // Who was waited for is seen by the next walk at the latest.
    let seen: Vec<u32> = (0..WALK_EVERY).map(|_| tree(&memory, &lineage, pid).zombies).collect();
    assert_eq!(seen.last(), Some(&0), "{seen:?}");
}

#[test]
fn shared_memory_counts_once_for_those_who_only_forked() {
    const SHARED: &str = "
import mmap, os, sys
held = mmap.mmap(-1, 80 << 20)
def touch():
    for at in range(0, len(held), 4096): held[at] = 1
touch()
go, gone = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        touch()
        os.write(gone, b'1')
        sys.stdin.read()
        os._exit(0)
for _ in range(6): os.read(go, 1)
print('done', flush=True)
sys.stdin.readline()
";
    let Some((programs, lineage)) = loaded() else { return };
    let mut script = Script::start(SHARED);
    script.answer();
    let tree = tree(&programs.memory(), &lineage, script.child.id());
    assert_eq!(tree.live, 7);
    assert!((80 * MIB..110 * MIB).contains(&tree.bytes), "{} MiB", tree.bytes / MIB);
}
