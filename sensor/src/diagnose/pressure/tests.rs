use proptest::prelude::*;

use super::*;
use crate::proto::GroupMemory;

const MIB: u64 = 1 << 20;
const S: u64 = 1_000_000_000;

fn root(pid: u32) -> proto::ProcessKey {
    proto::ProcessKey { pid, start_ns: u64::from(pid) }
}

fn tree(pid: u32, parent: u32, mib: u64) -> TreeMemory {
    TreeMemory {
        root: Some(root(pid)),
        parent: Some(root(parent)),
        alive: true,
        comm: format!("p{pid}"),
        bytes: mib * MIB,
        ..TreeMemory::default()
    }
}

fn sample(at_s: u64, available: u64, trees: &[TreeMemory]) -> MemorySample {
    MemorySample {
        at_ns: at_s * S,
        host: Some(HostMemory {
            total_bytes: Some(4096 * MIB),
            available_bytes: Some(available * MIB),
            anon_bytes: Some(trees.first().map_or(0, |tree| tree.bytes)),
            shmem_bytes: Some(0),
            unreclaimable_bytes: Some(0),
            ..HostMemory::default()
        }),
        trees: trees.to_vec(),
        ..MemorySample::default()
    }
}

fn shortage(before: MemorySample, now: MemorySample) -> Shortage {
    Shortage {
        pressure: Pressure {
            total_bytes: Some(4096 * MIB),
            available_bytes: Some(200 * MIB),
            falling_bytes_per_second: Some(10 * MIB),
            falling_ns: 60 * S,
            window_ns: 2 * S,
            some_percent: Some(34.0),
            full_percent: Some(12.0),
            ..Pressure::default()
        },
        before: Some(before),
        now: Some(now),
        waited_ns: 90 * S,
        ..Shortage::default()
    }
}

fn said(shortage: &Shortage) -> proto::Diagnosis {
    let redactor = Redactor::new([1; 16]);
    diagnose(&Case { shortage, cited: &["e1".into()], redactor: &redactor })
}

#[test]
fn who_waits_and_who_takes() {
    let before = sample(0, 1400, &[tree(10, 1, 300), tree(20, 10, 200), tree(30, 10, 80)]);
    let now = sample(180, 200, &[tree(10, 1, 1500), tree(20, 10, 1400), tree(30, 10, 80)]);
    let mut shortage = shortage(before, now);
    let argv = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    shortage.commands = vec![(ProcessKey::new(20, 20), argv("node build.js --token=hunter2"))];
    shortage.waiting = vec![Waiting {
        process: ProcessKey::new(7, 7),
        argv: argv("nginx"),
        stalled_ns: 3_200_000_000,
    }];
    shortage.growths = vec![(20, "abc".into())];
    let said = said(&shortage);
    assert!(
        said.cause.starts_with(
            "Memory is short on the host: 200 MiB of 4.0 GiB left, none in 20 s at this pace. Some \
             task waited for memory 34 % of the last 2 s, all of them 12 %. `node build.js --token=[redacted:"
        ),
        "{}",
        said.cause
    );
    let rest = "(20) (+1.2 GiB in 3 min) takes it. Incident abc is about that. `nginx` (7, 3.2 s in the \
                last 90 s) waits for memory; who waits need not be who takes it.";
    assert!(said.cause.ends_with(rest), "{}", said.cause);
    assert!(said.remedy.starts_with("End `node build.js"), "{}", said.remedy);
    assert_eq!((said.by.as_str(), said.evidence.len()), ("pressure", 1));
    assert!(said.confidence > 0.8);
}

#[test]
fn two_beside_each_other_are_both_told() {
    let before = sample(0, 2000, &[tree(10, 1, 100), tree(20, 10, 50), tree(30, 10, 50)]);
    let now = sample(60, 400, &[tree(10, 1, 1700), tree(20, 10, 850), tree(30, 10, 850)]);
    let cause = said(&shortage(before, now)).cause;
    // Neither has nine tenths: what is above them has both.
    assert!(cause.contains("`p10` (10) (+1.6 GiB in 60 s) takes it."), "{cause}");
    let before = sample(0, 2000, &[tree(20, 1, 50), tree(30, 1, 50)]);
    let now = sample(60, 400, &[tree(20, 1, 850), tree(30, 1, 750)]);
    let cause = said(&shortage(before, now)).cause;
    assert!(
        cause.contains("`p20` (20) (+800 MiB in 60 s) and `p30` (30) (+700 MiB in 60 s) take it."),
        "{cause}"
    );
}

#[test]
fn many_alike_are_told_as_such() {
    let of = |mib: u64| GroupMemory {
        by: GroupBy::Executable.into(),
        what: "/usr/bin/claude".into(),
        processes: 40,
        bytes: mib * MIB,
        eldest: Some(root(9)),
        ..GroupMemory::default()
    };
    let mut before = sample(0, 2000, &[]);
    before.groups = vec![of(100)];
    let mut now = sample(60, 400, &[]);
    now.groups = vec![of(1500)];
    now.host.as_mut().unwrap().anon_bytes = Some(1500 * MIB);
    let said = said(&shortage(before, now));
    assert!(
        said.cause
            .contains("40 × `claude` hold 1.5 GiB together, 1.4 GiB more than 60 s ago; none"),
        "{}",
        said.cause
    );
    assert!(said.remedy.starts_with("Let fewer of the 40 × `claude`"), "{}", said.remedy);
}

#[test]
fn what_no_process_holds_is_said_plainly() {
    let with = |shared: u64, kernel: u64| {
        let before = sample(0, 2000, &[tree(10, 1, 100)]);
        let mut now = sample(60, 400, &[tree(10, 1, 101)]);
        let host = now.host.as_mut().unwrap();
        (host.shmem_bytes, host.unreclaimable_bytes) = (Some(shared * MIB), Some(kernel * MIB));
        said(&shortage(before, now))
    };
    let said = with(1500, 0);
    assert!(said.cause.contains("Shared memory and tmpfs took 1.5 GiB in 60 s"), "{}", said.cause);
    assert!(said.remedy.contains("df -t tmpfs"), "{}", said.remedy);
    assert!(with(0, 1500).cause.contains("The kernel itself took 1.5 GiB"));
    assert!(with(10, 10).cause.contains("1.6 GiB are gone since 60 s that no process holds"));
}

/// A cgroup of 1 GiB in which 40 MiB are left.
fn boxed(before: MemorySample, now: MemorySample) -> Shortage {
    let mut shortage = shortage(before, now);
    shortage.pressure = Pressure {
        cgroup: "/box".into(),
        total_bytes: Some(1024 * MIB),
        available_bytes: Some(40 * MIB),
        ..Pressure::default()
    };
    shortage
}

/// A tree in a cgroup with this id, whose limit is 1 GiB of which so much is used.
fn limited(pid: u32, cgroup: u64, mib: u64, used: u64) -> TreeMemory {
    let (limit_bytes, limit_used_bytes) = (Some(1024 * MIB), Some(used * MIB));
    TreeMemory { cgroup, limit_bytes, limit_used_bytes, ..tree(pid, 1, mib) }
}

#[test]
fn who_grows_outside_of_a_cgroup_does_not_take_from_it() {
    let outside = |mib: u64| TreeMemory { cgroup: 5, ..tree(99, 1, mib) };
    let alike = |mib: u64| GroupMemory {
        by: GroupBy::Executable.into(),
        what: "/usr/bin/make".into(),
        processes: 40,
        bytes: mib * MIB,
        eldest: Some(root(99)),
        ..GroupMemory::default()
    };
    let mut before = sample(0, 3000, &[outside(100), limited(20, 7, 200, 400)]);
    let mut now = sample(180, 600, &[outside(3100), limited(20, 7, 700, 984)]);
    (before.groups, now.groups) = (vec![alike(100)], vec![alike(3100)]);
    let inside = HashSet::from([6, 7]);
    let mut shortage = boxed(within(before, &inside), within(now, &inside));
    shortage.growths = vec![(99, "of make".into())];
    let told = said(&shortage);
    assert_eq!(
        told.cause,
        "Memory is short on /box: 40.0 MiB of 1.0 GiB left. `p20` (20) (+500 MiB in 3 min) takes it."
    );
    assert!(
        told.remedy.starts_with("End `p20` (20) or give it a limit of its own below this"),
        "{}",
        told.remedy
    );
    // 500 of the 584 MiB that are gone in it; of the 2400 of the host that would be little.
    assert!(told.confidence > 0.8, "{}", told.confidence);
    assert_eq!(shortage.growing(), [ProcessKey::new(20, 20)]);
}

#[test]
fn a_cgroup_of_which_little_is_known() {
    let empty = || boxed(sample(0, 3000, &[]), sample(180, 600, &[]));
    let nobody = said(&empty());
    let unknown = "Who takes it is not known: no tree in it was seen to grow much.";
    assert!(nobody.cause.ends_with(unknown), "{}", nobody.cause);
    assert!(
        nobody.remedy.contains("`sensor top --sort memory --cgroup /box`"),
        "{}",
        nobody.remedy
    );
    // What was used before is not known: all of it may have come since, and 100 MiB do not explain that.
    let shortage = boxed(sample(0, 3000, &[]), sample(180, 600, &[limited(20, 7, 100, 984)]));
    let little = said(&shortage);
    assert!(little.cause.contains("`p20` (20) (+100 MiB in 3 min) takes it."), "{}", little.cause);
    assert!(little.confidence < 0.7, "{}", little.confidence);
}

#[test]
fn page_cache_that_is_read_again_and_again() {
    let mut before = sample(0, 2000, &[]);
    let mut now = sample(60, 2000, &[]);
    before.host.as_mut().unwrap().cached_bytes = Some(900 * MIB);
    now.host.as_mut().unwrap().cached_bytes = Some(100 * MIB);
    let thrashing = |mut shortage: Shortage, percent: f32| {
        shortage.pressure.refaulted_percent = Some(percent);
        shortage.pressure.full_percent = Some(40.0);
        said(&shortage)
    };
    let host = thrashing(shortage(before.clone(), now.clone()), 140.0);
    assert!(
        host.cause.contains(
            "140 % of the page cache was read again within 10 s: what is in use does not fit, and what was \
             thrown out a moment before is fetched once more. 100 MiB of page cache are left, 800 MiB less \
             than 60 s ago."
        ),
        "{}",
        host.cause
    );
    assert_eq!(
        host.remedy,
        "More memory for the host, or fewer that read so much at once, ends the reading."
    );
    let calm = thrashing(shortage(before.clone(), now.clone()), 90.0);
    assert!(!calm.cause.contains("page cache"), "{}", calm.cause);
    // The page cache of the host is not a cgroup's.
    let boxed = thrashing(boxed(before, now), 140.0);
    assert!(!boxed.cause.contains("of page cache are left"), "{}", boxed.cause);
    assert!(boxed.remedy.starts_with("A higher limit for /box, or fewer"), "{}", boxed.remedy);
}

#[test]
fn without_samples_that_is_said() {
    let boxed = Shortage {
        pressure: Pressure { cgroup: "/a\x1b".into(), ..Pressure::default() },
        ..Shortage::default()
    };
    let said = said(&boxed);
    assert_eq!(
        said.cause,
        "Processes wait for memory in /a\\x1b. Who takes it is not known: there is nothing yet to \
         compare with."
    );
    assert!(said.remedy.contains("sensor top"));
}

prop_compose! {
    fn any_tree()(pid in 0_u32..6, parent in 0_u32..6, bytes in any::<u64>()) -> TreeMemory {
        TreeMemory { bytes, ..tree(pid, parent, 0) }
    }
}

proptest! {
    // Circles, trees that are their own parents, and numbers of any size.
    #[test]
    fn any_samples_are_explained(
        before in prop::collection::vec(any_tree(), 0..8),
        now in prop::collection::vec(any_tree(), 0..8),
        left in 0_u64..5000,
    ) {
        let shortage = shortage(sample(0, 2000, &before), sample(9, left, &now));
        let said = said(&shortage);
        prop_assert!(!said.cause.is_empty() && !said.remedy.is_empty());
    }
}
