use super::*;
use crate::lineage::trees::Counted;

const MIB: u64 = 1 << 20;
const NODE: u64 = 71;
const PYTHON: u64 = 72;

/// All that a test says about a process.
#[derive(Clone, Copy, Default)]
struct Process {
    tgid: u32,
    parent: u32,
    dead: bool,
    executed_ns: u64,
    /// 0: it only forked.
    program: u64,
    private: u64,
    at_fork: u64,
    shared: u64,
    zombies: u32,
    uid: u32,
}

fn key(tgid: u32) -> ProcessKey {
    if tgid == 0 { ProcessKey::new(0, 0) } else { ProcessKey::new(tgid, u64::from(tgid) * 1_000) }
}

fn tally(processes: &[Process], worth: &Worth) -> Tally {
    let counted = |it: &Process| Counted {
        slot: it.tgid,
        key: key(it.tgid),
        parent_slot: it.parent,
        parent: key(it.parent),
        alive: !it.dead,
        program: it.program,
        executed_ns: it.executed_ns,
        signature: it.program + 1,
        cgroup: 1,
        ..Counted::default()
    };
    let counted: Vec<Counted> = processes.iter().map(counted).collect();
    Census::new(counted.iter().copied(), 0, None).tally(
        |slot, _| {
            let it = processes.iter().find(|it| it.tgid == slot)?;
            Some(Holds {
                private: it.private * MIB,
                shared: it.shared * MIB,
                at_fork: it.at_fork * MIB,
                forked: it.program == 0,
                threads: 2,
                uid: it.uid,
                session: 9,
                zombies: it.zombies,
            })
        },
        worth,
    )
}

const ALL: Worth = Worth { bytes: 0, many: 0, trees: 1_000, groups: 10 };

fn mib(tally: &Tally, tgid: u32) -> (u64, u64) {
    let tree = tally.trees.iter().find(|tree| tree.root.tgid == tgid).unwrap();
    (tree.bytes / MIB, tree.root_bytes / MIB)
}

fn process(tgid: u32, parent: u32, program: u64, private: u64) -> Process {
    Process { tgid, parent, program, private, ..Process::default() }
}

#[test]
fn a_fork_counts_with_what_it_has_more() {
    let mut all = vec![process(10, 1, PYTHON, 200)];
    // Idle ones, one that has grown by 30, and one that has less than at its fork.
    all.extend((11..21).map(|tgid| Process { at_fork: 200, ..process(tgid, 10, 0, 200) }));
    all.push(Process { at_fork: 200, ..process(21, 10, 0, 230) });
    all.push(Process { at_fork: 200, ..process(22, 10, 0, 50) });
    // One that executed a program is on its own.
    all.push(process(23, 10, NODE, 40));
    let tally = tally(&all, &ALL);
    assert_eq!(mib(&tally, 10), (270, 200));
    assert_eq!(mib(&tally, 21), (30, 30));
    assert_eq!(mib(&tally, 23), (40, 40));
    assert_eq!(tally.processes, 14);
    let tree = tally.trees[0];
    assert_eq!((tree.root, tree.live, tree.threads), (key(10), 14, 28));
    assert_eq!((tree.alike, tree.alike_program), (12, PYTHON), "what only forked runs the same");
    assert_eq!((tree.program, tree.signature), (PYTHON, PYTHON + 1));
}

#[test]
fn what_a_dead_forker_left_counts_once() {
    // It loaded 200 MiB, made three workers and ended; one worker made another one.
    let all = [
        process(1, 0, 5, 8),
        Process { dead: true, ..process(10, 1, PYTHON, 0) },
        Process { at_fork: 200, ..process(11, 10, 0, 210) },
        Process { at_fork: 200, ..process(12, 10, 0, 200) },
        Process { at_fork: 200, ..process(13, 10, 0, 200) },
        Process { at_fork: 200, ..process(14, 12, 0, 205) },
    ];
    let tally = tally(&all, &ALL);
    assert_eq!(mib(&tally, 10), (215, 0));
    assert_eq!(mib(&tally, 11), (210, 210), "the eldest stands for all");
    assert_eq!(mib(&tally, 12), (5, 0));
    assert!(tally.trees.iter().all(|tree| tree.root.tgid != 1), "the host is no tree");
}

#[test]
fn what_a_forker_left_that_executed_something_since_counts_once() {
    // A master of 200 MiB with two workers reloads: it executes itself, and forks another two.
    let reloaded_ns = key(20).start_ns;
    let all = [
        Process { executed_ns: reloaded_ns, ..process(10, 1, PYTHON, 50) },
        Process { at_fork: 200, ..process(11, 10, 0, 210) },
        Process { at_fork: 200, ..process(12, 10, 0, 200) },
        Process { at_fork: 50, ..process(21, 10, 0, 55) },
        Process { at_fork: 50, ..process(22, 10, 0, 50) },
    ];
    let told = tally(&all, &ALL);
    assert_eq!(mib(&told, 10), (50 + 210 + 5, 50));
    assert_eq!((mib(&told, 11), mib(&told, 12)), ((210, 210), (0, 0)));
    // So does one below a dead one that was forked before.
    let all = [
        Process { executed_ns: reloaded_ns, ..process(10, 1, PYTHON, 50) },
        Process { dead: true, ..process(11, 10, 0, 0) },
        Process { at_fork: 200, ..process(30, 11, 0, 201) },
    ];
    assert_eq!(mib(&tally(&all, &ALL), 10), (251, 50));
}

#[test]
fn what_a_dead_one_between_only_had_from_above_counts_above() {
    // A daemon's double fork without exec, while the first one lives.
    let all = [
        process(10, 1, PYTHON, 200),
        Process { dead: true, ..process(11, 10, 0, 0) },
        Process { at_fork: 200, ..process(12, 11, 0, 201) },
    ];
    let tally = tally(&all, &ALL);
    assert_eq!(mib(&tally, 10), (201, 200));
    let tree = tally.trees[0];
    assert_eq!(
        (tree.alike, tree.alike_program),
        (1, PYTHON),
        "whose parent ended is below the next"
    );
}

#[test]
fn shared_memory_counts_once_among_those_who_only_forked() {
    let shares =
        |tgid, parent, program, shared| Process { shared, ..process(tgid, parent, program, 1) };
    // A server with 80 MiB of which each worker has touched a part, and a client of its own.
    let all = [
        shares(10, 1, PYTHON, 20),
        shares(11, 10, 0, 80),
        shares(12, 10, 0, 60),
        shares(13, 11, 0, 70),
        shares(14, 12, NODE, 30),
    ];
    let tally = tally(&all, &ALL);
    assert_eq!(mib(&tally, 10), (80 + 30 + 5, 81));
    assert_eq!(mib(&tally, 12), (60 + 30 + 2, 1));
    assert_eq!(mib(&tally, 14), (31, 31));
    let groups: Vec<_> = tally.groups.iter().map(|it| (it.by, it.what, it.bytes / MIB)).collect();
    assert!(groups.contains(&(GroupBy::Executable, PYTHON, 84)), "{groups:?}");
    assert!(groups.contains(&(GroupBy::Executable, NODE, 31)));
    assert!(groups.contains(&(GroupBy::User, 0, 115)));
}

#[test]
fn who_is_told_of() {
    let worth = Worth { bytes: 64 * MIB, many: 8, trees: 4, groups: 1 };
    let mut all = vec![
        process(1, 0, 5, 500),
        process(10, 1, 5, 1),
        process(11, 10, PYTHON, 64),
        process(12, 10, NODE, 63),
        process(20, 1, 6, 1),
        Process { zombies: 9, ..process(21, 20, 7, 1) },
        Process { zombies: 8, ..process(22, 20, 7, 1) },
        process(30, 1, 8, 0),
    ];
    all.extend((31..40).map(|tgid| process(tgid, 30, NODE, 0)));
    let tally = tally(&all, &worth);
    let told: Vec<u32> = tally.trees.iter().map(|tree| tree.root.tgid).collect();
    // 10 holds 128, 11 holds 64, 20 is above 21, 30 has ten processes; the limit is four.
    assert_eq!(told, [10, 11, 20, 21]);
    assert_eq!(tally.omitted, 1);
    let groups: Vec<_> = tally.groups.iter().map(|it| (it.by, it.what, it.bytes / MIB)).collect();
    // Each kind's largest, init and all.
    assert_eq!(
        groups,
        [
            (GroupBy::Executable, 5, 501),
            (GroupBy::Session, 9, 631),
            (GroupBy::User, 0, 631),
            (GroupBy::Cgroup, 1, 631)
        ]
    );
    assert_eq!((tally.groups[0].processes, tally.groups[0].eldest), (2, key(1)));
}
